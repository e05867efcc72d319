"""Forgets what is older than `[keep]` allows: one process does it, in small pieces, so that nobody waits for it."""

from __future__ import annotations

import logging
import secrets
import threading
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
                log.warning("old events are not forgotten: %s", error)

    def tidy(self) -> int:
        """Forgets all that is too old, if this process is the one to do it; how many events."""
        keep_s = self.settings.keep.events_s
        if not keep_s or self.store.claim_leader(ROLE, self._holder, 3 * INTERVAL_S) is None:
            return 0
        forgotten = 0
        while not self._stopping.is_set():
            some = self.store.forget_events(self.store.clock() - keep_s, PIECE)
            forgotten += some
            if some < PIECE:
                break
        return forgotten
