"""Archives and forgets what is older than `[keep]` allows: one process does it, in small pieces, so that nobody waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from coalition.server.rounds import Rounds

if TYPE_CHECKING:
    from coalition.config import Settings
    from coalition.store import Store

PIECE = 500  # rows of one transaction
ARCHIVED = 200  # jobs of one transaction: a tenth of a second at most
KEYS_S = 86_400.0  # the Idempotency-Key of a submission is known at least so long
ENDED_S = 60.0  # log-ins that are over
TOLD_S = 86_400.0  # what was sent; it says when somebody was last written to
HISTORY_S = 92 * 86_400.0  # minutes of the farm: a quarter of a year, some megabytes
PAUSE_S = 0.01  # between them, for those who wait for their turn


class Housekeeper(Rounds):
    """Puts away what is old."""

    role, interval_s, log = "housekeeper", 60.0, logging.getLogger("coalition.housekeeping")

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__(store)
        self.settings = settings

    def tidy(self) -> int:
        """Puts away all that is too old, if this process is the one to do it; how many events were forgotten."""
        if not self.leads():
            return 0
        self.note_minute()
        self.archive()
        self._forget(KEYS_S, self.store.forget_submissions)
        self._forget(ENDED_S, self.store.forget_sessions)
        self._forget(TOLD_S, self.store.forget_notices)
        self._forget(HISTORY_S, self.store.forget_minutes)
        return self._forget(self.settings.keep.events_s, self.store.forget_events)

    def note_minute(self) -> None:
        """Keeps how the farm does now, for its charts."""
        jobs, money = self.store.farm_jobs(), self.store.farm_money()
        slots = self.store.farm_workers()["slots"]
        counts = {name: jobs[name] for name in ("waiting", "pending", "working", "error")}
        machines = {"instances": sum(money["instances"].values()), "burn_micro": money["burn_micro_per_hour"]}
        self.store.note_minute({**counts, "slots": slots["total"], "busy": slots["busy"], **machines})

    def archive(self) -> int:
        """Moves trees that were finished long ago into the archive; how many jobs."""
        keep_s, moved, last = self.settings.keep.finished_s, 0, 0
        while keep_s and not self.stopping.is_set():
            tops = self.store.finished_trees(self.store.clock() - keep_s, last, PIECE)
            for top in tops:
                moved += self._archive_tree(top)
            if len(tops) < PIECE:
                break
            last = tops[-1]
        return moved

    def _archive_tree(self, top: int) -> int:
        moved = 0
        while not self.stopping.wait(PAUSE_S) and self.leads():
            some = self.store.archive_some(top, ARCHIVED)
            moved += some
            if not some:
                break
        return moved

    def _forget(self, keep_s: float, forget: Callable[[float, int], int]) -> int:
        """Forgets what is older, piece by piece; how much it was."""
        forgotten = 0
        while keep_s and not self.stopping.is_set():
            some = forget(self.store.clock() - keep_s, PIECE)
            forgotten += some
            if some < PIECE:
                break
        return forgotten
