"""Builders with defaults, a clock that is moved by hand, and the two ends of a farm: a store that checks itself, and a worker."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import Connection, event

from coalition.config import AuthSettings, BudgetSettings, ServerSettings, Settings, WorkerSettings
from coalition.model import Enrol, Facts, JobSpec, Lease, Result, Running
from coalition.store import Store
from coalition.store.results import Call, Outcome
from tests.audit import Audit
from tests.invariants import check_invariants

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
    """A store that recomputes every invariant from the raw tables after each transaction, and audits its events.

    What SQLite answers without ORDER BY comes backwards: who relies on an order that was not asked for fails here, not once in a
    hundred runs on another database.
    """

    remember_s = 0.0  # the words of lists are those of now

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA reverse_unordered_selects=ON"))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as db:
            before = Audit(db)
            yield db
            before.check(db)
        check_invariants(self)


def settings(
    folder: Path, *, mode: str = "none", budgets: Sequence[BudgetSettings] = (), database: str = "", **worker: Any
) -> Settings:
    """Settings of a farm whose data is in `folder`."""
    return Settings(
        server=ServerSettings(data_dir=str(folder), discovery=False, database=database),
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


class Caller:
    """Calls the API in this process: (status, body) of each call."""

    def __init__(self, app: Flask, token: str = "") -> None:
        self.app, self.token = app, token

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        response = self.raw(method, path, body, **options)
        return response.status_code, response.get_json(silent=True, force=True)

    def raw(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers.update(options.pop("headers", {}))
        if "data" not in options:
            options["json"] = {} if body is None and method != "GET" else body
        path = path if path.startswith(("/api", "/healthz", "/readyz", "/metrics")) else f"/api/v1{path}"
        return self.app.test_client().open(path, method=method, headers=headers, **options)

    def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The body of a call that must succeed."""
        status, answer = self(method, path, body, **options)
        assert status in (200, 201), answer
        return answer

    def submit(self, *specs: dict[str, Any]) -> list[int]:
        jobs = [{"title": "job", **spec} for spec in specs]
        ids: list[int] = self.ok("POST", "/jobs", {"jobs": jobs})["ids"]
        return ids


class Agent:
    """A worker that speaks HTTP: enrols, syncs with growing seq, holds what it gets."""

    def __init__(self, app: Flask, name: str = "w1", token: str = "", **fields: Any) -> None:
        self.enrolment = {"name": name, "session": secrets.token_hex(16), "slots": 2, "token": token, **fields}
        self.call = Caller(app)
        self.welcome = self.call.ok("POST", "/workers/enrol", self.enrolment)
        self.id, self.epoch = self.welcome["worker"], self.welcome["epoch"]
        self.call.token = self.welcome["credential"]
        self.seq = 0
        self.held: dict[int, dict[str, Any]] = {}

    def sync(self, *finished: dict[str, Any], free: int | None = None, **fields: Any) -> dict[str, Any]:
        """One sync that must succeed; finished attempts are held no longer."""
        status, reply = self.try_sync(*finished, free=free, **fields)
        assert status == 200, reply
        self.held.update((lease["attempt"], lease) for lease in reply["leases"])
        for attempt in reply["stop"]:
            self.held.pop(attempt, None)
        return dict(reply)

    def try_sync(self, *finished: dict[str, Any], free: int | None = None, **fields: Any) -> tuple[int, Any]:
        self.seq += 1
        for result in finished:
            self.held.pop(result["attempt"], None)
        running = [{"attempt": attempt, "started": True} for attempt in self.held]
        free = max(0, self.enrolment["slots"] - len(running)) if free is None else free
        body = {"epoch": self.epoch, "seq": self.seq, "free": free, "running": running, "finished": finished, **fields}
        return self.call("POST", f"/workers/{self.id}/sync", body)

    def take(self, **fields: Any) -> list[dict[str, Any]]:
        leases: list[dict[str, Any]] = self.sync(**fields)["leases"]
        return leases


def done(lease: dict[str, Any], state: str = "FINISHED", **fields: Any) -> dict[str, Any]:
    """The report of an attempt's end."""
    return {"attempt": lease["attempt"], "state": state, "run_s": 1.0, **fields}
