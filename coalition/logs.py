"""Attempt logs: append at an offset, read a range, compress after the end. Bytes go in and out as they are.

A log is kept from its beginning up to `limit` bytes. Where it is cut, it says so in a line of its own, and every answer about it
tells the place. While there is no room for more (a full disk, a bucket that is away), the end of the log says that it stops
there; the caller is told Unavailable, and when it sends the same bytes later they take the place of that line. So a worker, which
keeps what it could not send, loses nothing.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

from coalition import metrics, zipped
from coalition.errors import LogGap, Unavailable
from coalition.shelves import Closed, OpenLog, Shelf, Stale

MAX_READ = 1 << 20
SMALL = 4_096  # what fits a block of a disk gains nothing from being compressed
MARK = re.compile(rb"\n\* the log (is cut|stops) here, at byte ([0-9,]{1,20}): [^\n]*\n\Z")
MAX_MARK = 200
REMEMBERED = 100_000  # attempts that were added to and may have to be compressed
INDEXES = 256
LOOKS = 3


@dataclass(frozen=True)
class Piece:
    """A range of a log: `data` begins at byte `offset` of `size`. `cut` is the byte where it was cut, None for a whole log."""

    data: bytes
    offset: int
    size: int
    cut: int | None = None


class _Moved(Exception):
    """The log was closed, or opened again, between two looks; or it is damaged."""


@dataclass(frozen=True)
class _End:
    """The end of a log: `at` is where the next byte of the job's output belongs."""

    at: int
    cut: bool = False


class Logs:
    """Logs on a shelf. A repeated append is harmless, a gap is refused, what exceeds `limit` is cut and marked.

    Any number of threads, and of processes with a shelf on the same place, may use it at a time.
    """

    def __init__(self, shelf: Shelf, limit: int) -> None:
        self.shelf = shelf
        self.limit = limit
        self._added: dict[int, float] = {}  # when this process last added to a log, on the monotonic clock
        self._owed: dict[int, bytes] = {}  # lines for which there was no room yet
        self._told: set[tuple[str, int]] = set()
        self._guard = threading.Lock()
        self._index_of = lru_cache(INDEXES)(self._read_index)

    # ------------------------------------------------------------ writing

    def append(self, attempt: int, offset: int, data: bytes) -> int:
        """Writes `data` at byte `offset`; where the job's output ends in the log now.

        Less than was sent: the log was cut there, and no more of it is kept. LogGap if it would leave a hole; Unavailable when
        there is no room now: the log says so, and what was not kept can be sent again.
        """
        return self._attempt(attempt, lambda log: self._append(attempt, log, offset, data))

    def add(self, attempt: int, data: bytes) -> int:
        """The same at the end of the log, for a writer that does not count."""
        return self._attempt(attempt, lambda log: self._append(attempt, log, _end_of(log).at, data))

    def _attempt(self, attempt: int, change: Callable[[OpenLog], int]) -> int:
        while True:
            with contextlib.suppress(Stale), _whole(attempt), self.shelf.hold(attempt) as log:
                return change(log)

    def _append(self, attempt: int, log: OpenLog, offset: int, data: bytes) -> int:
        if log.size == 0 and (closed := self.shelf.closed(attempt)):
            known = self._index_of(attempt, closed).size
            if offset + len(data) <= known:
                self.shelf.drop(attempt)
                return known
            self._reopen(attempt, log, closed)
        end = _end_of(log)
        if end.cut:
            return end.at
        if offset > end.at:
            raise LogGap(end.at)
        return self._write(attempt, log, end.at, data[end.at - offset :])

    def _write(self, attempt: int, log: OpenLog, at: int, fresh: bytes) -> int:
        """Adds what is new. `at` is before the log's end where that is a mark."""
        if not fresh:
            return at
        room = max(0, self.limit - at)
        kept = fresh[:room]
        mark = _mark("is cut", at + room, f"[server] log_max is {self.limit:,} bytes") if len(fresh) > room else b""
        try:
            log.write(at, kept + mark)
        except Unavailable as error:
            self._stop(log, error)
            raise
        metrics.add(metrics.LOG_BYTES, by=len(kept))
        if at + len(kept) > SMALL:
            self._remember(attempt)
        return at + len(kept)

    def _stop(self, log: OpenLog, error: Unavailable) -> None:
        """Marks that there was no room, over the last bytes that had some: they are sent again with the others."""
        words = f"{_reason(error)}; the rest follows when there is room"
        with contextlib.suppress(Unavailable):
            size = log.size
            place = max(0, size - len(_mark("stops", size, words)))
            if size:
                log.overwrite(place, _mark("stops", place, words, upto=size))

    def lost(self, attempt: int, error: Unavailable) -> None:
        """What was to be added to the log will not come again: a line says so, as soon as there is room for it."""
        with self._guard:
            if len(self._owed) < REMEMBERED:
                self._owed[attempt] = f"\n* the end of the log is lost: {_reason(error)}\n".encode()

    def first(self, kind: str, attempt: int) -> bool:
        """Whether this kind of trouble is new for that log, so that it is told once."""
        with self._guard:
            new = (kind, attempt) not in self._told
            if len(self._told) >= REMEMBERED:
                self._told.clear()
            self._told.add((kind, attempt))
            return new

    def settle(self) -> int:
        """Writes the lines about what was lost, as long as there is room; how many."""
        written = 0
        for attempt, line in list(self._owed.items()):
            with contextlib.suppress(Unavailable):
                self.add(attempt, line)
                self._owed.pop(attempt, None)
                written += 1
        return written

    def _remember(self, attempt: int) -> None:
        with self._guard:
            self._added.pop(attempt, None)
            if len(self._added) < REMEMBERED:
                self._added[attempt] = time.monotonic()

    # ------------------------------------------------------------ reading

    def size(self, attempt: int) -> int:
        """Bytes in the log; 0 if nothing was written."""
        return self.read(attempt, 0, 0).size

    def read(self, attempt: int, offset: int = 0, limit: int = MAX_READ) -> Piece:
        """Up to `limit` bytes from `offset`; a negative offset counts from the end."""
        limit = min(limit, MAX_READ)
        for _ in range(LOOKS):
            with contextlib.suppress(_Moved):
                if size := self.shelf.size(attempt):
                    return self._read_open(attempt, size, offset, limit)
                if closed := self.shelf.closed(attempt):
                    return self._read_closed(attempt, closed, offset, limit)
                break
        else:
            raise _not_whole(attempt)
        line = self._owed.get(attempt, b"")
        start = _start(offset, len(line))
        return Piece(line[start : start + limit], start, len(line))

    def _read_open(self, attempt: int, size: int, offset: int, limit: int) -> Piece:
        start = _start(offset, size)
        data = self._all(self.shelf.read, attempt, start, min(limit, size - start))
        tail = min(size, MAX_MARK) if size >= self.limit else 0
        end = _ending(size, self._all(self.shelf.read, attempt, size - tail, tail))
        return Piece(data, start, size, end.at if end.cut else None)

    def _read_closed(self, attempt: int, closed: Closed, offset: int, limit: int) -> Piece:
        index = self._index_of(attempt, closed)
        start = _start(offset, index.size)
        try:
            data = zipped.read_range(partial(self._all, self.shelf.read_closed, attempt), index, start, limit)
        except zlib.error as error:  # another lies there by now, or it is damaged
            raise _Moved from error
        return Piece(data, start, index.size, index.cut)

    def _all(self, read: Callable[[int, int, int], bytes], attempt: int, offset: int, count: int) -> bytes:
        data = read(attempt, offset, count) if count else b""
        if len(data) < count:
            raise _Moved
        return data

    def _read_index(self, attempt: int, closed: Closed) -> zipped.Index:
        try:
            return zipped.index_of(partial(self._all, self.shelf.read_closed, attempt), closed.size)
        except ValueError as error:
            raise Unavailable(f"the log of attempt {attempt} cannot be read: {error}") from error

    # ------------------------------------------------------------ after the end

    def quiet(self, for_s: float) -> list[int]:
        """The attempts whose logs this process added to, but not lately."""
        before = time.monotonic() - for_s
        with self._guard:
            return [attempt for attempt, at in self._added.items() if at <= before]

    def close(self, attempt: int, changed_at: float) -> bool:
        """Compresses a log that has ended; False when there is none that is worth it. What comes later opens it again."""
        with self._guard:
            self._added.pop(attempt, None)
        with _whole(attempt), self.shelf.hold(attempt) as log:
            size, end = log.size, _end_of(log)
            closed = self.shelf.closed(attempt)
            if size <= SMALL:
                if not size:
                    self.shelf.drop(attempt)  # holding it made it
                return False
            if not closed or self._index_of(attempt, closed).size < size:  # else the server died when it was opened again
                with self.shelf.scratch() as file:
                    zipped.compress(log.read, size, end.at if end.cut else None, file)
                    self.shelf.place(attempt, file, changed_at)
            if (self.shelf.size(attempt) or 0) == size:  # in a bucket another process may have added to it meanwhile
                self.shelf.drop(attempt)
        return True

    def _reopen(self, attempt: int, log: OpenLog, closed: Closed) -> None:
        try:
            for start in range(0, self._index_of(attempt, closed).size, MAX_READ):
                log.write(start, self._read_closed(attempt, closed, start, MAX_READ).data)
        except (Unavailable, _Moved):
            self.shelf.drop(attempt)  # the closed one is as it was
            raise
        self.shelf.drop_closed(attempt)

    def forget(self, attempt: int) -> None:
        """The log is gone."""
        self.shelf.drop(attempt)
        self.shelf.drop_closed(attempt)
        self._owed.pop(attempt, None)

    def older(self, than: float) -> Iterator[tuple[int, float, bool]]:
        """The logs to which nothing was added since `than`: attempt, when it was, and whether it may be compressed."""
        for entry in self.shelf.entries():
            if entry.changed_at < than:
                yield entry.attempt, entry.changed_at, not entry.closed and entry.size > SMALL


# ---------------------------------------------------------------- marks


def _not_whole(attempt: int) -> Unavailable:
    return Unavailable(f"the log of attempt {attempt} cannot be read whole")


@contextlib.contextmanager
def _whole(attempt: int) -> Iterator[None]:
    """Who holds a log sees nobody move it: then it is damaged, or a bucket's other user was quicker."""
    try:
        yield
    except _Moved as error:
        raise _not_whole(attempt) from error


def _mark(what: str, at: int, why: str, upto: int = 0) -> bytes:
    """The line that marks byte `at`, filled so that it ends at byte `upto`."""
    text = f"\n* the log {what} here, at byte {at:,}: {why}"
    return text.ljust(upto - at - 1).encode() + b"\n"


def _reason(error: Unavailable) -> str:
    """On one line, in ASCII, so that its length is known."""
    return " ".join(error.detail.encode("ascii", "replace").decode().split())[:80]


def _end_of(log: OpenLog) -> _End:
    size = log.size
    tail = min(size, MAX_MARK)
    return _ending(size, log.read(size - tail, tail) if tail else b"")


def _ending(size: int, tail: bytes) -> _End:
    """The end of a log of this size with this tail. A mark counts only where it says that it is."""
    mark = MARK.search(tail)
    place = size - len(mark[0]) if mark else size
    if mark and int(mark[2].replace(b",", b"")) == place:
        return _End(place, cut=mark[1] == b"is cut")
    return _End(size)


def _start(offset: int, size: int) -> int:
    return max(0, size + offset) if offset < 0 else min(offset, size)
