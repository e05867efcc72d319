"""A thread beside the requests that does the same every now and then; what is done once in a farm is done by whoever leads."""

from __future__ import annotations

import logging
import secrets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from sqlalchemy.exc import SQLAlchemyError

from coalition.errors import CoalitionError

if TYPE_CHECKING:
    from coalition.store import Store

EXPECTED = (CoalitionError, SQLAlchemyError, OSError)  # a database or a disk that is away, which passes


class Rounds:
    """What fails in a round is told, and the next round comes."""

    role: ClassVar[str]
    interval_s: ClassVar[float]
    log: ClassVar[logging.Logger]

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stopping = threading.Event()
        self._holder = secrets.token_hex(8)
        self._thread = threading.Thread(target=self._run, name=f"coalition-{self.role}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(timeout=10)

    def tidy(self) -> object:
        """One round."""
        raise NotImplementedError

    def leads(self) -> bool:
        """Whether this process is the one of the farm that does it; another takes it up when this one is silent."""
        return self.store.claim_leader(self.role, self._holder, 3 * self.interval_s) is not None

    def _run(self) -> None:
        while not self.stopping.wait(self.interval_s):
            try:
                self.tidy()
            except EXPECTED as error:
                self.log.warning("put off for %.0f s: %s", self.interval_s, error)
            except Exception:  # a fault of ours: with its trace, and without the end of all later rounds
                self.log.exception("a round of %s failed", self.role)
        with suppress(*EXPECTED):  # when the database is away, the role runs out by itself
            self.store.release_leader(self.role, self._holder)
