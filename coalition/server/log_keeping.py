"""The logs of attempts at the server: where they are kept, what is told when they cannot be, and what is done with them later."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from coalition.errors import CoalitionError, LogGap, Unavailable
from coalition.logs import Logs
from coalition.server.rounds import Rounds
from coalition.shelves import Folder, Shelf
from coalition.states import AttemptState

if TYPE_CHECKING:
    from coalition.config import Settings
    from coalition.server.web import Farm
    from coalition.store import Store

log = logging.getLogger("coalition.logs")

SCAN_S = 3_600.0  # between two looks at all logs there are
RUNNING = (AttemptState.LEASED, AttemptState.RUNNING)


def open_logs(settings: Settings) -> Logs:
    """The logs where `[log_store]` says they are."""
    return Logs(_shelf(settings), settings.server.log_max_bytes)


def _shelf(settings: Settings) -> Shelf:
    if settings.log_store.kind == "folder":
        return Folder(settings.data_dir / "logs")
    from coalition.bucket import Bucket

    return Bucket(settings.log_store)


def check(settings: Settings) -> None:
    """ConfigError when the logs' place can never be used; what may pass is a line in our own log."""
    if settings.log_store.kind == "s3":
        from coalition.bucket import Bucket

        try:
            Bucket(settings.log_store).check()
        except Unavailable as error:
            log.warning("%s; logs wait at the workers", error)


# ---------------------------------------------------------------- what comes from workers


def append(farm: Farm, attempt: int, offset: int, data: bytes) -> int:
    """Keeps a piece of a log. Unavailable when there is no room: the worker sends it again later."""
    try:
        return farm.logs.append(attempt, offset, data)
    except Unavailable as error:
        _tell(farm, "log.stop", attempt, f"stops at the server: {error}; the worker sends the rest later")
        raise


def keep(farm: Farm, attempt: int, offset: int, data: bytes) -> None:
    """Keeps what came with the report of an attempt's end, which counts whatever becomes of its log."""
    _or_lost(farm, attempt, len(data), lambda: farm.logs.append(attempt, offset, data))


def add(farm: Farm, attempt: int, data: bytes) -> None:
    """Keeps what a worker says that does not count what it has sent."""
    _or_lost(farm, attempt, len(data), lambda: farm.logs.add(attempt, data))


def _or_lost(farm: Farm, attempt: int, size: int, put: Callable[[], int]) -> None:
    try:
        put()
    except LogGap as gap:
        log.warning("attempt %d: its last %d bytes of log do not fit: %s", attempt, size, gap)
    except Unavailable as error:
        farm.logs.lost(attempt, error)
        _tell(farm, "log.lost", attempt, f"has lost up to {size:,} bytes: {error}")


def _tell(farm: Farm, kind: str, attempt: int, words: str) -> None:
    """One event of each kind for an attempt; a database that is on the same full disk may refuse it."""
    if not farm.logs.first(kind, attempt):
        return
    log.error("attempt %d: its log %s", attempt, words)
    try:
        farm.store.note_log(kind, attempt, words)
    except CoalitionError as error:
        log.error("attempt %d: no event of that can be written: %s", attempt, error)


# ---------------------------------------------------------------- later


class LogKeeper(Rounds):
    """Compresses logs after the end of their attempts, and deletes old ones.

    Each process looks after the logs that it added to. One of them looks at all from time to time: at those that a process
    left behind, and at those too old.
    """

    role, interval_s, log = "logs", 30.0, log

    def __init__(self, settings: Settings, store: Store, logs: Logs) -> None:
        super().__init__(store)
        self.settings, self.logs = settings, logs
        self._scanned = -SCAN_S

    def tidy(self) -> None:
        """One round."""
        self.logs.settle()
        self.compress()
        if time.monotonic() - self._scanned >= SCAN_S and self.leads():
            self._scanned = time.monotonic()
            self.scan()

    def compress(self) -> int:
        """Compresses what this process added to, once it has ended and is quiet; how many logs."""
        quiet = self.logs.quiet(self.settings.log_store.compress_after_s)
        return sum(self._close(attempt, self.store.clock()) for attempt in quiet if not self.stopping.is_set())

    def _close(self, attempt: int, changed_at: float) -> bool:
        return not self._runs(attempt) and self.logs.close(attempt, changed_at)

    def _runs(self, attempt: int) -> bool:
        holder = self.store.attempt_holder(attempt)
        return holder is not None and holder[1] in RUNNING

    def scan(self) -> tuple[int, int]:
        """Looks at all logs: how many were compressed, and how many deleted as too old."""
        now, keep_s = self.store.clock(), self.settings.keep.logs_s
        compressed = deleted = 0
        for attempt, changed_at, unpacked in self.logs.older(now - self.settings.log_store.compress_after_s):
            if self.stopping.is_set():
                break
            if keep_s and changed_at < now - keep_s and not self._runs(attempt):
                self.logs.forget(attempt)
                deleted += 1
            elif unpacked:
                compressed += self._close(attempt, changed_at)
        return compressed, deleted
