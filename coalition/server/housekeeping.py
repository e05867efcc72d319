"""Archives and forgets what is older than `[keep]` allows: one process does it, in small pieces, so that nobody waits for it."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from coalition.errors import CoalitionError

if TYPE_CHECKING:
    from coalition.config import Settings
    from coalition.store import Store

log = logging.getLogger("coalition.housekeeping")

ROLE = "housekeeper"
INTERVAL_S = 60.0
PIECE = 500  # rows of one transaction
ARCHIVED = 200  # jobs of one transaction: a tenth of a second at most
KEYS_S = 86_400.0  # the Idempotency-Key of a submission is known at least so long
ENDED_S = 60.0  # log-ins that are over
PAUSE_S = 0.01  # between them, for those who wait for their turn


class Housekeeper:
    """A thread beside the requests. The process that holds the role works; another takes it up when that one is silent."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self._holder = secrets.token_hex(8)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="coalition-housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                self.tidy()
            except (CoalitionError, SQLAlchemyError) as error:
                log.warning("what is old is not put away: %s", error)

    def tidy(self) -> int:
        """Puts away all that is too old, if this process is the one to do it; how many events were forgotten."""
        if not self._leads():
            return 0
        self.archive()
        self._forget(KEYS_S, self.store.forget_submissions)
        self._forget(ENDED_S, self.store.forget_sessions)
        return self._forget(self.settings.keep.events_s, self.store.forget_events)

    def _leads(self) -> bool:
        return self.store.claim_leader(ROLE, self._holder, 3 * INTERVAL_S) is not None

    def archive(self) -> int:
        """Moves trees that were finished long ago into the archive; how many jobs."""
        keep_s, moved, last = self.settings.keep.finished_s, 0, 0
        while keep_s and not self._stopping.is_set():
            tops = self.store.finished_trees(self.store.clock() - keep_s, last, PIECE)
            for top in tops:
                moved += self._archive_tree(top)
            if len(tops) < PIECE:
                break
            last = tops[-1]
        return moved

    def _archive_tree(self, top: int) -> int:
        moved = 0
        while not self._stopping.wait(PAUSE_S) and self._leads():
            some = self.store.archive_some(top, ARCHIVED)
            moved += some
            if not some:
                break
        return moved

    def _forget(self, keep_s: float, forget: Callable[[float, int], int]) -> int:
        """Forgets what is older, piece by piece; how much it was."""
        forgotten = 0
        while keep_s and not self._stopping.is_set():
            some = forget(self.store.clock() - keep_s, PIECE)
            forgotten += some
            if some < PIECE:
                break
        return forgotten
