"""Logs of attempts: appended at offsets, read in ranges, whatever the bytes; in a folder and in a bucket alike."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coalition import bucket
from coalition.bucket import Bucket
from coalition.config import LogStoreSettings
from coalition.errors import ConfigError, LogGap, Unavailable
from coalition.logs import MAX_READ, SMALL, Logs, Piece
from coalition.shelves import Folder
from tests.fakes.s3 import new_bucket, object_store

Process = get_context("spawn").Process  # fork would copy this process's threads
Open = Callable[..., Logs]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, object_store() as url:
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        yield url


@pytest.fixture(params=["folder", "bucket"])
def open_logs(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Makes Logs on one and the same place, as each server process does."""
    if request.param == "folder":
        return lambda limit=1_000: Logs(Folder(tmp_path / "logs"), limit)
    place = new_bucket(request.getfixturevalue("endpoint"))
    return lambda limit=1_000: Logs(Bucket(place), limit)


@pytest.fixture
def logs(open_logs: Open) -> Logs:
    return open_logs()


def text_of(logs: Logs, attempt: int) -> bytes:
    """The whole log, read in pieces as a client does."""
    text, size = b"", logs.size(attempt)
    while len(text) < size:
        text += logs.read(attempt, len(text)).data
    return text


def test_pieces_make_one_log(logs: Logs) -> None:
    assert logs.append(7, 0, b"one\n") == 4
    assert logs.append(7, 4, b"two\n") == 8
    assert logs.read(7) == Piece(b"one\ntwo\n", 0, 8)


def test_a_repeated_or_overlapping_piece_adds_only_what_is_new(logs: Logs) -> None:
    logs.append(7, 0, b"abcdef")
    assert logs.append(7, 0, b"abc") == 6
    assert logs.append(7, 4, b"efgh") == 8
    assert logs.read(7).data == b"abcdefgh"


def test_a_gap_is_refused_with_the_place_to_send_from(logs: Logs) -> None:
    logs.append(7, 0, b"abc")
    with pytest.raises(LogGap) as refused:
        logs.append(7, 5, b"x")
    assert (refused.value.offset, logs.size(7)) == (3, 3)


def test_bytes_stay_as_they_are(logs: Logs) -> None:
    every_byte = bytes(range(256))
    logs.append(1, 0, every_byte)
    assert logs.read(1).data == every_byte


def test_a_log_that_grows_too_large_keeps_its_beginning_and_says_where_it_was_cut(logs: Logs) -> None:
    sent = [logs.append(7, 400 * number, b"x" * 400) for number in range(3)]
    assert sent == [400, 800, 1_000]  # less than was sent: the worker sends no more
    assert logs.append(7, 1_200, b"x" * 400) == 1_000
    piece = logs.read(7)
    assert piece.data == b"x" * 1_000 + b"\n* the log is cut here, at byte 1,000: [server] log_max is 1,000 bytes\n"
    assert (piece.cut, logs.read(7, -10, 2).cut) == (1_000, 1_000)


def test_a_job_that_writes_such_a_line_itself_cuts_nothing(logs: Logs) -> None:
    line = b"\n* the log is cut here, at byte 1,000: by me\n"
    assert logs.append(7, 0, line) == len(line)
    assert logs.append(7, len(line), b"more") == len(line) + 4
    assert logs.read(7).cut is None


def test_a_range_is_read_from_either_end(logs: Logs) -> None:
    logs.append(7, 0, b"0123456789")
    assert logs.read(7, 3, 4) == Piece(b"3456", 3, 10)
    assert logs.read(7, -4) == Piece(b"6789", 6, 10)
    assert logs.read(7, -99, 2) == Piece(b"01", 0, 10)
    assert logs.read(7, 99) == Piece(b"", 10, 10)


def test_a_log_that_was_never_written_is_empty(logs: Logs) -> None:
    assert (logs.read(5), logs.size(5)) == (Piece(b"", 0, 0), 0)


def test_a_writer_that_does_not_count_adds_to_the_end(logs: Logs) -> None:
    assert [logs.add(7, b"one\n"), logs.add(7, b"two\n")] == [4, 8]
    assert logs.read(7).data == b"one\ntwo\n"


def test_one_answer_is_never_larger_than_the_limit(open_logs: Open) -> None:
    logs = open_logs(MAX_READ * 3)
    logs.append(1, 0, b"x" * (MAX_READ + 10))
    assert len(logs.read(1, limit=MAX_READ * 2).data) == MAX_READ


def test_a_log_is_followed_by_one_process_while_another_adds_to_it(open_logs: Open) -> None:
    writer, reader = open_logs(), open_logs()
    assert reader.read(7) == Piece(b"", 0, 0)
    for number in range(5):
        writer.append(7, 3 * number, b"%02d\n" % number)
        assert reader.read(7, 3 * number) == Piece(b"%02d\n" % number, 3 * number, 3 * number + 3)


def test_a_process_that_comes_late_notices_what_another_has_added(open_logs: Open) -> None:
    first, second = open_logs(), open_logs()
    assert (first.append(7, 0, b"aaaa"), second.append(7, 4, b"bb")) == (4, 6)
    assert first.append(7, 4, b"bbcc") == 8  # to its knowledge the log ended at 4
    assert first.append(7, 8, b"dd") == 10
    assert text_of(second, 7) == b"aaaabbccdd"


def test_a_log_is_closed_whole_by_a_process_that_did_not_write_its_end(open_logs: Open) -> None:
    first, second = open_logs(1 << 20), open_logs(1 << 20)
    text = a_text(100_000)
    first.append(7, 0, text[:50_000])
    second.append(7, 50_000, text[50_000:])
    assert first.close(7, 1.0)
    assert text_of(open_logs(1 << 20), 7) == text


def test_a_log_that_another_process_has_closed_is_opened_again_whole(open_logs: Open) -> None:
    first, second = open_logs(1 << 20), open_logs(1 << 20)
    text = a_text(150_000)
    first.append(7, 0, text[:50_000])
    second.append(7, 50_000, text[50_000:100_000])
    assert second.close(7, 1.0)
    assert first.append(7, 50_000, text[50_000:]) == 150_000  # to its knowledge the log ended there
    assert text_of(second, 7) == text
    assert first.close(7, 1.0)
    assert text_of(second, 7) == text


# ---------------------------------------------------------------- compressed


def a_text(size: int, seed: int = 1) -> bytes:
    """Lines that compress, and bytes that do not."""
    numbers = random.Random(seed)
    noise = numbers.randbytes(size // 4)
    lines = b"".join(b"\x1b[32mframe %d\x1b[0m %s\n" % (n, noise[n : n + 20].hex().encode()) for n in range(size // 45))
    return (noise + lines)[:size]


def filled(logs: Logs, attempt: int, text: bytes) -> None:
    for start in range(0, len(text), 200_000):
        logs.append(attempt, start, text[start : start + 200_000])


def test_a_compressed_log_is_read_by_range_as_before(open_logs: Open) -> None:
    logs, text = open_logs(10_000_000), a_text(900_000)
    filled(logs, 7, text)
    assert logs.close(7, 1_000.0)
    other = open_logs()
    assert other.size(7) == len(text)
    assert other.read(7, -1_000).data == text[-1_000:]
    for start, count in [(0, 1), (262_143, 2), (262_144, 262_144), (1, 800_000), (899_999, 50)]:
        assert other.read(7, start, count) == Piece(text[start : start + count], start, len(text))
    (entry,) = other.shelf.entries()
    assert (entry.attempt, entry.closed) == (7, True)
    assert entry.size < 0.8 * len(text)


def test_any_gzip_reads_a_compressed_log(tmp_path: Path) -> None:
    logs, text = Logs(Folder(tmp_path), 10_000_000), a_text(600_000)
    filled(logs, 12_345, text)
    logs.close(12_345, 1_000.0)
    path = tmp_path / "000001" / "12345.log.gz"
    assert gzip.decompress(path.read_bytes()) == text
    assert subprocess.run(["gzip", "-cd", path], capture_output=True, check=True).stdout == text
    assert path.stat().st_mtime == 1_000
    assert [name.name for name in tmp_path.rglob("*.*")] == ["12345.log.gz"]


def test_what_comes_after_a_log_was_compressed_is_added_and_a_repeat_does_nothing(open_logs: Open) -> None:
    logs, text = open_logs(10_000_000), a_text(300_000)
    filled(logs, 7, text)
    logs.close(7, 1_000.0)
    late = open_logs(10_000_000)
    assert late.append(7, 100, text[100:200]) == len(text)
    assert [entry.closed for entry in late.shelf.entries()] == [True]
    with pytest.raises(LogGap) as refused:
        late.append(7, len(text) + 1, b"x")
    assert refused.value.offset == len(text)
    assert late.append(7, len(text), b"late") == len(text) + 4
    assert text_of(logs, 7) == text + b"late"
    assert late.close(7, 1_000.0)
    assert text_of(logs, 7) == text + b"late"


def test_a_log_that_was_cut_stays_cut_when_it_is_compressed(open_logs: Open) -> None:
    logs = open_logs(5_000)
    logs.append(7, 0, b"x" * 6_000)
    logs.close(7, 1_000.0)
    assert (open_logs(5_000).read(7).cut, open_logs(9_000).append(7, 6_000, b"more")) == (5_000, 5_000)


def test_small_logs_are_left_as_they_are(logs: Logs) -> None:
    logs.append(7, 0, b"x" * 100)
    assert not logs.close(7, 1_000.0)
    assert not logs.close(8, 1_000.0)  # there is none
    assert [(entry.attempt, entry.closed) for entry in logs.shelf.entries()] == [(7, False)]


def test_a_log_that_is_forgotten_is_gone_open_or_compressed(open_logs: Open) -> None:
    logs = open_logs(100_000)
    for attempt in (7, 8):
        filled(logs, attempt, a_text(2 * SMALL))
    logs.close(7, 1_000.0)
    for attempt in (7, 8):
        logs.forget(attempt)
        assert logs.read(attempt) == Piece(b"", 0, 0)
    assert list(logs.shelf.entries()) == []


def test_a_log_larger_than_what_is_kept_needs_little_memory_and_disk(tmp_path: Path) -> None:
    logs, piece = Logs(Folder(tmp_path), 50 << 20), bytes(MAX_READ)
    tracemalloc.start()
    for start in range(0, 64 << 20, MAX_READ):
        logs.append(7, start, piece)
    used = os.stat(tmp_path / "000000" / "7.log").st_size
    assert logs.close(7, 1_000.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < (50 << 20) + 200
    assert peak < 25 << 20  # of all threads of this process
    assert logs.read(7, 30 << 20, 5) == Piece(bytes(5), 30 << 20, used, 50 << 20)


# ---------------------------------------------------------------- no room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_on_a_full_disk_the_log_says_that_it_stops_and_is_whole_when_there_is_room_again(small_disk: Path) -> None:
    logs, text = Logs(Folder(small_disk), 1_000_000), a_text(100_000)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(20_000))
    with pytest.raises(Unavailable, match="No space left"):
        filled(logs, 7, text)
    seen = text_of(logs, 7)
    mark = seen.rindex(b"\n* the log stops here, at byte ")
    assert (seen[:mark], b"No space left" in seen[mark:]) == (text[:mark], True)
    with pytest.raises(LogGap) as refused:  # the worker goes on where it thinks it is, and is told where to
        logs.append(7, 80_000, text[80_000:])
    assert refused.value.offset == mark
    ballast.unlink()
    small = text[: mark + 500]
    assert logs.append(7, mark, small[mark:]) == len(small)
    assert text_of(logs, 7) == small


def test_what_will_not_come_again_is_said_to_be_lost_as_soon_as_there_is_room(small_disk: Path) -> None:
    logs = Logs(Folder(small_disk), 1_000_000)
    (small_disk / "000000").mkdir()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(60_000))
    with pytest.raises(Unavailable) as refused:
        logs.append(7, 0, b"x" * 10_000)
    kept = logs.size(7)
    logs.lost(8, refused.value)
    line = b"\n* the end of the log is lost: the log cannot be written: No space left on device\n"
    assert logs.read(8).data == line
    assert logs.size(7) == kept
    ballast.unlink()
    assert logs.settle() == 1
    assert (logs.settle(), Logs(Folder(small_disk), 1_000).read(8).data) == (0, line)


def test_a_bucket_that_is_away_is_unavailable_and_one_that_is_not_there_cannot_be_used(endpoint: str) -> None:
    place = new_bucket(endpoint)
    with pytest.raises(ConfigError, match=r"\[log_store\] bucket: not-there"):
        Bucket(LogStoreSettings(kind="s3", bucket="not-there", endpoint=endpoint, region="us-east-1")).check()
    Bucket(place).check()
    away = Logs(
        Bucket(LogStoreSettings(kind="s3", bucket=place.bucket, endpoint="http://127.0.0.1:1", region="us-east-1")), 1_000
    )
    for call in (lambda: away.append(7, 0, b"x"), lambda: away.read(7), away.shelf.check):  # type: ignore[attr-defined]
        with pytest.raises(Unavailable):
            call()


def test_many_parts_of_a_log_are_joined_and_whoever_reads_meanwhile_sees_all(endpoint: str) -> None:
    place = new_bucket(endpoint)
    writer, reader = Logs(Bucket(place), 1_000_000), Logs(Bucket(place), 1_000_000)
    text = a_text(10 * (bucket.JOIN_PARTS + 10))
    for start in range(0, len(text), 10):
        writer.append(7, start, text[start : start + 10])
        if start % 200 == 0:
            assert text_of(reader, 7) == text[: start + 10]
    parts = Bucket(place).parts(7)
    assert len(parts) < bucket.JOIN_PARTS
    assert text_of(reader, 7) == text


def test_the_log_of_a_short_job_is_put_there_without_a_list(endpoint: str) -> None:
    asked: list[str] = []
    shelf = Bucket(new_bucket(endpoint))
    shelf._s3.meta.events.register("before-call.s3", lambda model, **_: asked.append(model.name))
    logs = Logs(shelf, 1_000)
    assert logs.append(7, 0, b"all that it said\n") == 17
    assert asked == ["HeadObject", "HeadObject", "PutObject"]
    asked.clear()
    assert logs.append(7, 17, b"and more\n") == 26
    assert asked == ["ListObjectsV2", "PutObject"]


def test_after_a_part_was_lost_its_place_is_where_to_send_from(endpoint: str) -> None:
    place = new_bucket(endpoint)
    logs = Logs(Bucket(place), 1_000)
    for start in (0, 4, 8):
        logs.append(7, start, b"abcd")
    shelf = Bucket(place)
    shelf._delete([shelf._part_key(7, 4)])
    other = Logs(shelf, 1_000)
    with pytest.raises(LogGap) as refused:
        other.append(7, 12, b"abcd")
    assert refused.value.offset == 4
    assert other.append(7, 4, b"abcdabcdabcd") == 16
    assert text_of(other, 7) == b"abcd" * 4


# ---------------------------------------------------------------- several writers


def append_all(folder: Path, pieces: list[tuple[int, bytes]]) -> None:
    logs = Logs(Folder(folder), 100_000)
    for number, (offset, data) in enumerate(pieces):
        logs.append(3, offset, data)
        if number % 100 == 99:
            logs.close(3, 1_000.0)


def test_repeats_from_several_processes_at_once_leave_one_log_though_it_is_compressed_meanwhile(tmp_path: Path) -> None:
    pieces = [(number * 30, bytes([65 + number % 26]) * 30) for number in range(500)]
    processes = [Process(target=append_all, args=(tmp_path, pieces)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert text_of(Logs(Folder(tmp_path), 100_000), 3) == b"".join(data for _, data in pieces)


def test_a_log_that_another_process_closed_again_is_read_anew_though_it_is_as_long_compressed(tmp_path: Path) -> None:
    ours, theirs = Logs(Folder(tmp_path), 100_000), Logs(Folder(tmp_path), 100_000)
    ours.append(3, 0, b"A" * 5_000)
    ours.close(3, 1_000.0)
    before = ours.shelf.closed(3)
    assert ours.size(3) == 5_000
    theirs.append(3, 5_000, b"A")
    theirs.close(3, 1_000.0)
    after = ours.shelf.closed(3)
    assert before
    assert after
    assert before.size == after.size
    assert ours.size(3) == 5_001
    assert ours.append(3, 5_001, b"A") == 5_002
    assert text_of(ours, 3) == b"A" * 5_002


def test_a_closed_log_that_is_damaged_is_told_and_not_lost(tmp_path: Path) -> None:
    logs = Logs(Folder(tmp_path), 100_000)
    logs.append(3, 0, b"A" * 5_000)
    logs.close(3, 1_000.0)
    (closed,) = tmp_path.rglob("3.log.gz")
    with closed.open("r+b") as file:
        file.seek(12)
        file.write(b"\xff\xff\xff")
    damaged = closed.read_bytes()
    with pytest.raises(Unavailable):
        logs.read(3)
    with pytest.raises(Unavailable):
        logs.append(3, 5_000, b"more")
    assert closed.read_bytes() == damaged


def test_a_closed_log_that_ends_too_soon_is_told_to_who_adds_to_it_or_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = Logs(Folder(tmp_path), 100_000)
    logs.append(3, 0, b"A" * 5_000)
    logs.close(3, 1_000.0)
    monkeypatch.setattr(logs.shelf, "read_closed", lambda *_: b"")
    with pytest.raises(Unavailable):
        logs.append(3, 5_000, b"more")
    (tmp_path / "000000" / "3.log").write_bytes(b"A" * 6_000)  # as after a server that died when it was opened again
    with pytest.raises(Unavailable):
        logs.close(3, 1_000.0)
    assert logs.shelf.closed(3)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=200), cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=20))
def test_whatever_is_sent_twice_or_late_the_log_is_a_start_of_the_text(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cuts: list[tuple[int, int]]
) -> None:
    logs = Logs(Folder(tmp_path_factory.mktemp("logs")), 1_000)
    for offset, length in cuts:
        offset = min(offset, logs.size(1))
        logs.append(1, offset, text[offset : offset + length])
    assert text.startswith(logs.read(1).data)
