"""One log that is larger than the server keeps, written and read over HTTP; what the server's memory and disk hold meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from coalition.client import Client
from tests.fakes.server import HandWorker

PIECE = 1 << 20
MB = 1 << 20


@dataclass(frozen=True)
class Written:
    """`sizes` are what the server had after each piece; `grew_bytes` is by how much its memory had grown at most."""

    sizes: list[int]
    seconds: float
    grew_bytes: int


def pattern(number: int) -> bytes:
    """The piece of that number: nothing that compresses or repeats."""
    return random.Random(number).randbytes(PIECE)


def write(worker: HandWorker, attempt: int, pieces: int, memory: Callable[[], int]) -> Written:
    """Sends so many pieces of a log, whatever the server says: a worker would stop where it was cut."""
    before = highest = memory()
    begun = time.perf_counter()
    sizes = []
    for number in range(pieces):
        sizes.append(worker.write(attempt, pattern(number), number * PIECE))
        if number % 4 == 0:
            highest = max(highest, memory())
    return Written(sizes, time.perf_counter() - begun, max(highest, memory()) - before)


def write_lines(worker: HandWorker, attempt: int, pieces: int) -> None:
    """A log of so many pieces of a megabyte, which are lines."""
    lines = b"".join(b"%08d  rendering, and all that a renderer says of it\n" % number for number in range(PIECE // 58))
    for number in range(pieces):
        worker.write(attempt, lines, number * len(lines))


def disk(folder: Path) -> int:
    """The bytes that files in a folder take."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def server_memory(pid: int) -> int:
    """The memory of a process and of all that it started."""
    root = psutil.Process(pid)
    return sum(one.memory_info().rss for one in [root, *root.children(recursive=True)])


def read_ms(client: Client, job: int, size: int, count: int = 100) -> Iterator[tuple[str, float]]:
    """The 95th percentile of reads of 256 KB anywhere in a log, and of its last 4 KB."""
    places = random.Random(1)
    ranges = [places.randrange(size) for _ in range(count)]
    for what, offsets, limit in (("256 KB anywhere in it", ranges, 1 << 18), ("its last 4 KB", [-4_096] * count, 4_096)):
        times = []
        for offset in offsets:
            begun = time.perf_counter()
            client.log(job, offset=offset, limit=limit)
            times.append((time.perf_counter() - begun) * 1e3)
        yield what, sorted(times)[int(count * 0.95)]
