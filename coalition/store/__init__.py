"""The store: every query and every transaction. One method is one transaction, and one sentence of the domain.

base.py      engine, transactions, retries        dispatch.py  results, leases, heartbeats, loss
jobs.py      submit, edit, pause, reset, delete   workers.py   enrolment, tokens, fleet
cloud.py     instances, intents, money            views.py     what people look at: lists, reasons, events
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection

from coalition.config import Settings
from coalition.matching import Capacity, Requirement, line
from coalition.store.views import Views


class Store(Views):
    """All of it. Thread-safe: any thread may call any method."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        super().__init__(settings, clock)
        # Requirement sets never change once they are committed, so what was read may be kept for good.
        self._requirements: dict[int, Requirement] = {}
        self._lines: dict[tuple[int, Capacity], int | None] = {}

    def line_of(self, db: Connection, set_id: int, capacity: Capacity) -> int | None:
        """The worker's best tag line for a requirement set, remembered."""
        key = (set_id, capacity)
        if key not in self._lines:
            if len(self._lines) > 200_000:
                self._lines.clear()
            self._lines[key] = line(self._requirement(db, set_id), capacity)
        return self._lines[key]
