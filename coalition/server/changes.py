"""What changed since: a number for each topic, raised when something of it was committed, here or in another process.

A call waits with a cursor, which holds all the numbers, and is answered when one is higher. Waiting runs no SQL: what is
committed here is noted in memory, and what others commit is seen in the counters that the dispatcher's watcher reads anyway. The
commits of a quarter of a second are told together, however many they are.

A waiting call holds a thread, and so few may: the others are answered at once, and told when to ask again.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request
from sqlalchemy.exc import SQLAlchemyError

from coalition.errors import BadInput, CoalitionError
from coalition.server import web

if TYPE_CHECKING:
    from coalition.config import Settings
    from coalition.store import Store

log = logging.getLogger("coalition.changes")
blueprint = Blueprint("changes", __name__)

TOPICS = ("jobs", "workers", "limits", "instances", "money", "decisions", "events")
# What a method of the store changes that people see; of methods that are not here, anything.
BESIDE = (
    *("claim_leader", "release_leader", "mark_changed", "note_minute"),
    *("forget_events", "forget_submissions", "forget_sessions", "forget_notices", "forget_minutes"),
)
QUIET = frozenset({*BESIDE, "count_try", "forgive_try", "uncount_try", "confirm_credential"})
RUNNING = frozenset({"jobs", "workers", "limits", "events"})
OF_METHOD: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("flush_beats", "exchange", "exchange_those", "sweep"), RUNNING),
    **dict.fromkeys(("edit", "pause", "start", "reset", "skip", "delete", "act"), RUNNING),
    **dict.fromkeys(("submit", "append", "archive_some", "set_limit", "delete_limit"), frozenset({"jobs", "limits", "events"})),
    **dict.fromkeys(("begin_session", "end_session", "note_log", "note_person", "forget_person"), frozenset({"events"})),
    "record_decisions": frozenset({"decisions"}),
}
GATHER_S = 0.25
MAX_WAIT_S = 30
LOOK_S = 0.5  # at the size of a log that somebody waits for
POLL_S = 1.0  # when those ask again who could not wait, at least
CALLS_PER_S = 50  # of those who must ask again: each gets a moment of its own, so that they never come all at once
CURSOR = re.compile(rf"[0-9a-z]{{1,16}}(\.[0-9]{{1,18}}){{{len(TOPICS)}}}\Z")
Numbers = dict[str, int]


class Changes:
    """One per process. Thread-safe."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.store = store
        self.shared = not store.sqlite  # by several processes; their numbers are in the database
        self.epoch = "db" if self.shared else secrets.token_hex(4)  # of numbers that end with this process
        self._numbers: Numbers = dict.fromkeys(TOPICS, 0)
        self._moved = threading.Condition()
        self._turn = 0  # how often they moved
        self._noted: set[str] = set()
        self._noting = threading.Lock()
        self._pending = threading.Event()
        self._stopping = threading.Event()
        self._next_call = 0.0  # the first moment that nobody has yet who must ask again
        self._may_wait = threading.BoundedSemaphore(max(1, settings.server.threads // 4))
        self._thread = threading.Thread(target=self._run, name="coalition-changes", daemon=True)
        store.committed = self.note

    # ------------------------------------------------------------ life

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Whoever waits is answered."""
        self._stopping.set()
        self._pending.set()
        with self._moved:
            self._moved.notify_all()
        self._thread.join(timeout=10)

    # ------------------------------------------------------------ what happens

    def note(self, method: str) -> None:
        """A method of the store has committed."""
        if method in QUIET:
            return
        with self._noting:
            self._noted |= OF_METHOD.get(method, frozenset(TOPICS))
        self._pending.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._pending.wait()
            self._stopping.wait(GATHER_S)
            self._pending.clear()
            try:
                self.tell()
            except (CoalitionError, SQLAlchemyError) as error:
                log.warning("what changed is told later: %s", error)

    def tell(self) -> None:
        """Raises the numbers of what was noted, for all processes of the farm."""
        with self._noting:
            noted, self._noted = self._noted, set()
        if not noted:
            return
        if self.shared:
            try:
                self.seen(self.store.mark_changed(sorted(noted)))
            except (CoalitionError, SQLAlchemyError):
                with self._noting:
                    self._noted |= noted
                raise
        else:
            self.seen({_counter(topic): self._numbers[topic] + 1 for topic in noted})

    def seen(self, counters: Mapping[str, int]) -> None:
        """Takes in the numbers of the database, and wakes who waits for one of them."""
        with self._moved:
            higher = {topic: number for topic in TOPICS if (number := counters.get(_counter(topic), 0)) > self._numbers[topic]}
            if higher:
                self._numbers = {**self._numbers, **higher}
                self._turn += 1
                self._moved.notify_all()

    # ------------------------------------------------------------ who waits

    @property
    def cursor(self) -> str:
        """The moment up to which all is known."""
        return _written(self.epoch, self._numbers)

    def since(self, cursor: str, wait_s: float) -> tuple[str, list[str], float]:
        """(the cursor of now, the topics that changed since the one given, seconds after which to ask again).

        Waits up to `wait_s` for a change, if there is none yet and not too many wait; who has waited may ask again at once.
        """
        epoch, *numbers = cursor.split(".")
        if epoch != self.epoch:
            return self.cursor, list(TOPICS), self._pause_s()
        known = dict(zip(TOPICS, map(int, numbers), strict=True))
        may_wait = wait_s > 0 and not self._stopping.is_set() and not self._since(known)
        has_waited = may_wait and self.wait(lambda: bool(self._since(known)), wait_s)
        now = {topic: max(known[topic], number) for topic, number in self._numbers.items()}
        return _written(self.epoch, now), self._since(known), 0.0 if has_waited else self._pause_s()

    def _pause_s(self) -> float:
        """How long who did not wait pauses: until the next moment that nobody has, which is later, the more ask."""
        now = time.monotonic()
        with self._noting:
            self._next_call = min(max(self._next_call + 1 / CALLS_PER_S, now + POLL_S), now + MAX_WAIT_S)
            return round(self._next_call - now, 3)

    def _since(self, known: Mapping[str, int]) -> list[str]:
        return [topic for topic in TOPICS if self._numbers[topic] > known[topic]]

    def wait(self, is_there: Callable[[], bool], wait_s: float, look_s: float = MAX_WAIT_S) -> bool:
        """Waits until something is there, looking when anything changed and each `look_s`; False if too many wait already."""
        until = time.monotonic() + wait_s
        if wait_s <= 0 or is_there():
            return True
        if not self._may_wait.acquire(blocking=False):
            return False
        try:
            turn = self._turn
            while not (self._stopping.is_set() or is_there()) and (left := until - time.monotonic()) > 0:
                with self._moved:
                    self._moved.wait_for(lambda: self._turn != turn or self._stopping.is_set(), min(left, look_s))  # noqa: B023
                turn = self._turn
        finally:
            self._may_wait.release()
        return True


def _counter(topic: str) -> str:
    return f"changed.{topic}"


def _written(epoch: str, numbers: Numbers) -> str:
    return ".".join([epoch, *(str(numbers[topic]) for topic in TOPICS)])


# ---------------------------------------------------------------- the route


@blueprint.get("/changes")
def index() -> Response:
    """What changed since a cursor; without one, everything, with the cursor of now."""
    web.refuse_unknown("since", "wait")
    hub, cursor = web.farm().changes, request.args.get("since", "")
    wait_s = web.number("wait", 15, 0, MAX_WAIT_S)
    if not cursor:
        return web.reply({"cursor": hub.cursor, "changed": list(TOPICS), "poll_s": 0.0})
    if not CURSOR.match(cursor):
        raise BadInput(fields={"since": f"{cursor[:40]!r} is not a cursor; give that of the answer before"})
    cursor, changed, poll_s = hub.since(cursor, wait_s)
    return web.reply({"cursor": cursor, "changed": changed, "poll_s": poll_s})
