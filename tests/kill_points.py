"""A process that ticks the autoscaler once, on a database file and a cloud in another process, and kills itself at a point."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from autoscaler.loop import Autoscaler
from coalition.config import Settings
from coalition.store import Store
from providers.base import Deadline

VERBS = ("check", "offerings", "launch", "list", "terminate", "renew", "notices", "console")
# name -> (verb of the provider or method of the store, what is reached)
POINTS: Mapping[str, tuple[str, str]] = {
    "the intent is written, not committed": ("reserve", "before its commit"),
    "the intent is committed, nothing is sent": ("reserve", "done"),
    "the launch is sent, its answer not heard": ("launch", "effect"),
    "the launch is answered, not stored": ("launched", "before its commit"),
    "the launch is stored": ("launched", "done"),
    "more time is paid, the provider not asked": ("fund", "done"),
    "the provider gives more time, its answer not heard": ("renew", "effect"),
    "the end is stored, the provider not asked": ("end_instances", "done"),
    "the provider ends it, its answer not heard": ("terminate", "effect"),
    "it is gone, its bill is not committed": ("settle", "before its commit"),
    "its bill is booked": ("settle", "done"),
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FarCloud:
    """The provider of another process: each call is one message there and one back."""

    name, deadline, settle_s, concurrent, renewable = "fake", Deadline.PROVIDER, 0.5, False, True

    def __init__(self, line: Connection, answered: Callable[[str], None]) -> None:
        self.line, self.answered = line, answered

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb not in VERBS:
            raise AttributeError(verb)

        def call(*args: Any) -> Any:
            self.line.send((verb, args))
            answer = self.line.recv()
            self.answered(verb)
            return answer

        return call


class DoomedStore(Store):
    """Dies in one of its transactions, at its end."""

    dies_in = ""

    def _event(self, *args: Any, **values: Any) -> None:
        super()._event(*args, **values)
        if self.dies_in:  # each of these methods writes its event at last, or nearly so
            kill()


def tick_and_die(line: Connection, wanted: Settings, now: float, point: str) -> None:
    """One tick at that time."""
    where, reached = POINTS[point]
    store = DoomedStore(wanted, lambda: now)
    if reached == "done":
        store.committed = lambda method: kill() if method == where else None
    elif reached == "before its commit":
        inner = getattr(store, where)

        def doomed(*args: Any, **values: Any) -> Any:
            store.dies_in = where
            return inner(*args, **values)

        setattr(store, where, doomed)
    cloud = FarCloud(line, lambda verb: kill() if (verb, "effect") == (where, reached) else None)
    scaler = Autoscaler(wanted, store, {"fake": cloud})  # type: ignore[dict-item]
    scaler.lease_s = 1e9
    scaler.tick()
    line.send(("the end", ()))


def serve(line: Connection, cloud: Any) -> Sequence[str]:
    """Answers a process until it dies or says the end; what it called."""
    heard: list[str] = []
    while True:
        try:
            verb, args = line.recv()
        except EOFError:
            return heard
        heard.append(verb)
        if verb == "the end":
            return heard
        line.send(getattr(cloud, verb)(*args))
