"""Where logs lie: a folder of this machine. A Shelf keeps bytes and knows nothing of cuts, marks and compression (logs.py does).

The other kind of shelf is in bucket.py. An attempt has an open log, to which is added, or a closed one, which is one whole file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from coalition.errors import Unavailable

FOLDER_OF = 10_000  # attempts per folder
OPEN, CLOSED = ".log", ".log.gz"


class Stale(Exception):
    """Another process has added to the log meanwhile: look at it again."""


@dataclass(frozen=True)
class Entry:
    """A log on a shelf: when it was last added to, in seconds since 1970, and how long it is there."""

    attempt: int
    changed_at: float
    size: int
    closed: bool


@dataclass(frozen=True)
class Closed:
    """A closed log: its length as it lies there, and what is another for every file that ever lay there."""

    size: int
    version: str


class OpenLog(Protocol):
    """An open log that nobody else changes meanwhile, as far as the shelf can see to that."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None:
        """Adds `data` at `offset`, which is at most `size`; what was beyond is gone.

        Unavailable: not all of it is there. Stale: none of it is, as there is more in the log than `size` said.
        """

    def overwrite(self, offset: int, data: bytes) -> None:
        """Puts `data` over what is there, for which no room is needed. Unavailable where that cannot be."""


class Shelf(Protocol):
    """Each call raises Unavailable while the place cannot be reached or has no room."""

    def hold(self, attempt: int) -> AbstractContextManager[OpenLog]:
        """The open log, made when something is written to it."""

    def size(self, attempt: int) -> int | None:
        """Of the open log; None when there is none."""

    def read(self, attempt: int, offset: int, count: int) -> bytes:
        """Of the open log; nothing when there is none."""

    def drop(self, attempt: int) -> None:
        """The open log is gone."""

    def closed(self, attempt: int) -> Closed | None: ...

    def read_closed(self, attempt: int, offset: int, count: int) -> bytes: ...

    def drop_closed(self, attempt: int) -> None: ...

    def scratch(self) -> AbstractContextManager[BinaryIO]:
        """A file to make a closed log in; `place` takes it, else it is gone at the end."""

    def place(self, attempt: int, file: BinaryIO, changed_at: float) -> None:
        """The scratch file is this attempt's closed log, whole from one moment to the next."""

    def entries(self) -> Iterator[Entry]:
        """All logs, in no order; those that come or go meanwhile may be among them or not."""


@contextmanager
def in_reach(what: str) -> Iterator[None]:
    """What a file system refuses is Unavailable: whoever asked may come again."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{what}: {error.strerror or error}") from error


class Folder:
    """Files below one folder, ATTEMPT.log and ATTEMPT.log.gz. All processes of one machine may use it at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: set[int] = set()

    @contextmanager
    def hold(self, attempt: int) -> Iterator[OpenLog]:
        with in_reach("the log cannot be written"):
            handle = self._locked(attempt)
        try:
            yield _File(handle)
        finally:
            os.close(handle)  # gives the lock back

    def _locked(self, attempt: int) -> int:
        """The open file, which no other thread or process has; made when it is not there."""
        path = self._path(attempt, OPEN)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                return handle
            os.close(handle)  # it was closed while we waited for it

    def _path(self, attempt: int, ending: str) -> Path:
        number = attempt // FOLDER_OF
        folder = self.folder / f"{number:06d}"
        if number not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(number)
        return folder / f"{attempt}{ending}"

    def size(self, attempt: int) -> int | None:
        facts = self._facts(attempt, OPEN)
        return facts.st_size if facts else None

    def closed(self, attempt: int) -> Closed | None:
        facts = self._facts(attempt, CLOSED)
        return Closed(facts.st_size, f"{facts.st_ino}.{facts.st_ctime_ns}") if facts else None

    def _facts(self, attempt: int, ending: str) -> os.stat_result | None:
        with in_reach("the log cannot be read"):
            try:
                return os.stat(self._path(attempt, ending))
            except FileNotFoundError:
                return None

    def read(self, attempt: int, offset: int, count: int) -> bytes:
        return self._read(attempt, OPEN, offset, count)

    def read_closed(self, attempt: int, offset: int, count: int) -> bytes:
        return self._read(attempt, CLOSED, offset, count)

    def _read(self, attempt: int, ending: str, offset: int, count: int) -> bytes:
        with (
            in_reach("the log cannot be read"),
            contextlib.suppress(FileNotFoundError),
            open(self._path(attempt, ending), "rb", buffering=0) as file,
        ):
            return os.pread(file.fileno(), count, offset)
        return b""

    def drop(self, attempt: int) -> None:
        with in_reach("the log cannot be deleted"):
            self._path(attempt, OPEN).unlink(missing_ok=True)

    def drop_closed(self, attempt: int) -> None:
        with in_reach("the log cannot be deleted"):
            self._path(attempt, CLOSED).unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[BinaryIO]:
        with in_reach("the log cannot be compressed"):
            file = tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False)  # noqa: SIM115
        try:
            yield file  # type: ignore[misc]  # typeshed has a class of its own for it
        finally:
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def place(self, attempt: int, file: BinaryIO, changed_at: float) -> None:
        with in_reach("the log cannot be compressed"):
            file.flush()
            os.fchmod(file.fileno(), 0o640)
            os.utime(file.fileno(), (changed_at, changed_at))
            os.fsync(file.fileno())  # before the open log goes
            os.replace(file.name, self._path(attempt, CLOSED))

    def entries(self) -> Iterator[Entry]:
        with contextlib.suppress(FileNotFoundError):
            for folder in [entry.path for entry in os.scandir(self.folder) if entry.name.isdigit()]:
                yield from self._entries(folder)

    def _entries(self, folder: str) -> Iterator[Entry]:
        with os.scandir(folder) as files:
            for file in files:
                number, _, ending = file.name.partition(".")
                if number.isdigit() and f".{ending}" in (OPEN, CLOSED):
                    with contextlib.suppress(FileNotFoundError):
                        facts = file.stat()
                        yield Entry(int(number), facts.st_mtime, facts.st_size, f".{ending}" == CLOSED)


class _File:
    """An open log as a file."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @property
    def size(self) -> int:
        return os.fstat(self._handle).st_size

    def read(self, offset: int, count: int) -> bytes:
        with in_reach("the log cannot be read"):
            return os.pread(self._handle, count, offset)

    def write(self, offset: int, data: bytes) -> None:
        with in_reach("the log cannot be written"):
            if offset < self.size:
                os.ftruncate(self._handle, offset)
            self.overwrite(offset, data)

    def overwrite(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        with in_reach("the log cannot be written"):
            while view:
                done = os.pwrite(self._handle, view, offset)
                view, offset = view[done:], offset + done
