"""A job that writes far more than the server keeps of a log."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.logs import MB, PIECE, disk, pattern, server_memory, write
from tests.e2e.farm import RealFarm
from tests.fakes.server import HandWorker
from tests.polling import poll_until

KEPT, SENT = 8, 64  # pieces of 1 MB
MARK = b"\n* the log is cut here, at byte 8,388,608: [server] log_max is 8,388,608 bytes\n"


def test_a_log_of_eight_times_what_is_kept_fills_neither_memory_nor_disk_and_says_where_it_was_cut(
    make_farm: Callable[..., RealFarm],
) -> None:
    farm = make_farm(server="threads = 16\nlog_max = 8M", worker="sync = 0.5\nlease = 60s", autoscaler="enabled = no")
    server = farm.serve()
    worker = HandWorker(farm.address)
    job = farm.client.submit(title="talkative", command="x")
    (lease,) = poll_until(worker.take)
    worker.write(lease["attempt"], b"")  # what the first call needs is in memory before it is measured
    written = write(worker, lease["attempt"], SENT, lambda: server_memory(server.pid))
    assert written.sizes == [min(number, KEPT) * PIECE for number in range(1, SENT + 1)]
    assert written.grew_bytes < 24 * MB, "less than a half of what was sent"
    assert disk(farm.folder / "data" / "logs") <= KEPT * PIECE + 8_192
    assert disk(farm.folder / "data") < 2 * KEPT * PIECE

    tail = farm.client.log(job, offset=-len(MARK))
    assert (tail.data, tail.cut, tail.size) == (MARK, KEPT * PIECE, KEPT * PIECE + len(MARK))
    middle = farm.client.log(job, offset=3 * PIECE + 5, limit=1_000)
    assert (middle.data, middle.cut) == (pattern(3)[5:1_005], KEPT * PIECE)
    worker.end(lease["attempt"])
    assert farm.client.job(job).state == "FINISHED"
    assert b"".join(farm.client.follow(job)) == b"".join(map(pattern, range(KEPT))) + MARK
