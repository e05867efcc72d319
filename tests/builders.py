"""Builders with defaults, a clock that is moved by hand, and the two ends of a farm: a store that checks itself, and a worker."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invariants import check_invariants
from sqlalchemy import Connection

from coalition.config import AuthSettings, BudgetSettings, ServerSettings, Settings, WorkerSettings
from coalition.model import Enrol, Facts, JobSpec, Lease, Result, Running
from coalition.store import Store
from coalition.store.dispatch import Call, Outcome

LEASE_S = 60.0


class Clock:
    """Seconds since 1970 that pass only by hand."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class WatchedStore(Store):
    """A store that recomputes every invariant from the raw tables after each of its transactions."""

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as db:
            yield db
        check_invariants(self)


def settings(folder: Path, *, mode: str = "none", budgets: Sequence[BudgetSettings] = (), **worker: Any) -> Settings:
    """Settings of a farm whose data is in `folder`."""
    return Settings(
        server=ServerSettings(data_dir=str(folder), discovery=False),
        auth=AuthSettings(mode=mode),
        worker=WorkerSettings(**{"lease_s": LEASE_S, **worker}),
        budgets=tuple(budgets),
    )


def a_job(title: str = "job", **fields: Any) -> JobSpec:
    return JobSpec(**{"title": title, "command": "true", **fields})


def a_group(title: str = "group", *children: JobSpec, **fields: Any) -> JobSpec:
    return JobSpec(**{"title": title, "group": True, "children": children, **fields})


def a_range(frames: str = "1-3", title: str = "shot", **fields: Any) -> JobSpec:
    return JobSpec(**{"title": title, "command": "render {frame}", "frames": frames, **fields})


def an_enrol(name: str = "w1", *lines: tuple[str, ...], **fields: Any) -> Enrol:
    given = {"name": name, "session": secrets.token_hex(16), "slots": 4, "affinity": lines, **fields}
    return Enrol(**{"facts": Facts(cpus=8, memory_bytes=2**34, gpus=1, host=name), **given})


def a_budget(name: str, applies_to: str, **fields: Any) -> BudgetSettings:
    return BudgetSettings(**{"name": name, "line": 1, "amount_micro": 1_000_000, "applies_to": applies_to, **fields})


class Hand:
    """A worker without a server: it asks the store for leases and reports what became of them."""

    def __init__(self, store: Store, name: str = "w1", *lines: tuple[str, ...], price: int = 0, **fields: Any) -> None:
        self.store, self.price = store, price
        self.admission = store.enrol(an_enrol(name, *lines, **fields), open_door=True)
        found = store.worker_row(self.admission.worker_id)
        assert found
        self.row = found[0]
        self.held: dict[int, Lease] = {}

    @property
    def id(self) -> int:
        return self.admission.worker_id

    def call(self, *results: Result, want: int = 0, started: Sequence[int] = ()) -> Call:
        running = [Running(attempt, True) for attempt in started]
        held = frozenset(self.held)
        return Call(self.id, self.row.epoch, self.row.capacity, results, running, want, held, self.price)

    def exchange(self, *results: Result, want: int = 0, started: Sequence[int] = ()) -> Outcome:
        """One sync: reports and asks. What ended or is to stop is held no longer."""
        outcome = self.store.exchange([self.call(*results, want=want, started=started)])[0]
        for attempt in (*(result.attempt for result in results), *outcome.stop):
            self.held.pop(attempt, None)
        self.held.update((lease.attempt, lease) for lease in outcome.leases)
        return outcome

    def take(self, want: int = 1) -> list[Lease]:
        return self.exchange(want=want).leases

    def take_one(self) -> Lease:
        (lease,) = self.take(1)
        return lease

    def titles(self, want: int = 100) -> list[str]:
        """The titles of what it gets, in order."""
        return [lease.title for lease in self.take(want)]

    def finish(self, *leases: Lease | int, run_s: float = 1.0) -> Outcome:
        return self.exchange(*(a_result(lease, run_s=run_s) for lease in leases))

    def fail(self, *leases: Lease | int, reason: str = "exit code 1") -> Outcome:
        return self.exchange(*(a_result(lease, "ERROR", exit_code=1, reason=reason) for lease in leases))

    def stop(self, *leases: Lease | int) -> Outcome:
        return self.exchange(*(a_result(lease, "STOPPED") for lease in leases))

    def finish_all(self) -> int:
        """Runs whatever it gets until there is nothing more; how many jobs."""
        count = 0
        while leases := self.take(100):
            count += len(leases)
            self.finish(*leases)
        return count


def a_result(lease: Lease | int, state: str = "FINISHED", **fields: Any) -> Result:
    attempt = lease if isinstance(lease, int) else lease.attempt
    return Result(attempt, state, **{"run_s": 1.0, **fields})
