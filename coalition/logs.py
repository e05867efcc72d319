"""Attempt logs: append at an offset, read a range. Bytes go in and out as they are."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from coalition.errors import LogGap

FOLDER_OF = 10_000  # attempts per folder
MAX_READ = 1 << 20


@dataclass(frozen=True)
class Piece:
    """A range of a log: `data` begins at byte `offset` of `size`."""

    data: bytes
    offset: int
    size: int


class LocalLogs:
    """Logs as files below one folder. A repeated append is harmless, a gap is refused, what exceeds `limit` is cut and marked."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._made: set[int] = set()

    def append(self, attempt: int, offset: int, data: bytes) -> int:
        """Writes `data` at byte `offset`; where the log ends now, as the writer counts. LogGap if it would leave a hole."""
        handle = os.open(self._path(attempt), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # one at a time, of all threads and processes; closing gives it back
            return self._append(handle, offset, data)
        finally:
            os.close(handle)

    def _append(self, handle: int, offset: int, data: bytes) -> int:
        size = os.fstat(handle).st_size
        if size >= self.limit:
            return offset + len(data)
        if offset > size:
            raise LogGap(size)
        fresh = data[size - offset :]
        if not fresh:
            return max(size, offset + len(data))
        room = self.limit - size
        if len(fresh) > room:
            fresh = fresh[:room] + f"\n* the log is cut here, at log_max = {self.limit:,} bytes\n".encode()
        _write(handle, fresh)
        return offset + len(data)

    def _path(self, attempt: int) -> Path:
        number = attempt // FOLDER_OF
        folder = self.folder / f"{number:06d}"
        if number not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(number)
        return folder / f"{attempt}.log"

    def size(self, attempt: int) -> int:
        """Bytes in the log; 0 if nothing was written."""
        try:
            return os.stat(self._path(attempt)).st_size
        except FileNotFoundError:
            return 0

    def read(self, attempt: int, offset: int = 0, limit: int = MAX_READ) -> Piece:
        """Up to `limit` bytes from `offset`; a negative offset counts from the end."""
        size = self.size(attempt)
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        if start == size:
            return Piece(b"", start, size)
        with open(self._path(attempt), "rb") as file:
            file.seek(start)
            return Piece(file.read(min(limit, MAX_READ)), start, size)


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
