"""A farm with a store, a provider in memory, an autoscaler, workers that are played, and a clock that only moves when told."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import event

from autoscaler.loop import Autoscaler
from coalition.config import AutoscalerSettings, BudgetSettings, PoolSettings, ServerSettings, Settings
from coalition.model import Enrol, Facts, JobSpec, Result, Running
from coalition.schema import metadata
from coalition.store import Store
from coalition.store.dispatch import Beat, Call
from providers.base import Life, Offering, Request
from providers.fake import FakeProvider

START = 1_700_000_000.0
DOLLAR = 1_000_000
LINUX = Offering("machine", "machine", slots=2, cpus=8, memory_bytes=16 << 30, price_micro=DOLLAR)


class Clock:
    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def pool(**changes: object) -> PoolSettings:
    values: dict[str, object] = {"provider": "fake", "max": 10, "affinity": ("linux",), "idle_s": 60.0, "funding_s": 600.0}
    return PoolSettings(**{"name": "p", "line": 1, **values, **changes})  # type: ignore[arg-type]


def budget(name: str = "studio", amount: float = 100.0, **changes: object) -> BudgetSettings:
    values: dict[str, object] = {"amount_micro": round(amount * DOLLAR), "window": "day"}
    return BudgetSettings(name, 1, **{**values, **changes})  # type: ignore[arg-type]


def settings(
    folder: Path,
    pools: Sequence[PoolSettings] = (),
    budgets: Sequence[BudgetSettings] = (),
    *,
    database: str = "",
    **rules: float,
) -> Settings:
    return Settings(
        server=ServerSettings(data_dir=str(folder), database=database),
        autoscaler=replace(AutoscalerSettings(), **rules),  # type: ignore[arg-type]
        pools=tuple(pools) or (pool(),),
        budgets=tuple(budgets),
    )


def make_store(wanted: Settings, clock: Clock, kind: type[Store] = Store) -> Store:
    """A store with all tables. It does not wait for the disk, which only the end of the machine could tell from the usual."""
    store = kind(wanted, clock)
    if store.sqlite:
        event.listen(store.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    metadata.create_all(store.engine)
    return store


class World:
    """One farm. Workers are played: `enrol`, `work` and `finish` do what an agent would."""

    def __init__(
        self,
        folder: Path,
        wanted: Settings | None = None,
        offers: Sequence[Offering] = (LINUX,),
        store: type[Store] = Store,
    ) -> None:
        self.clock = Clock()
        self.settings = wanted or settings(folder)
        self.store = make_store(self.settings, self.clock, store)
        self.fake = FakeProvider(self.settings.server.farm, self.clock, offers)
        self.scaler = self.new_scaler()
        self.workers: dict[str, int] = {}  # provider id -> worker id
        self.sessions: dict[str, str] = {}

    def new_scaler(self) -> Autoscaler:
        scaler = Autoscaler(self.settings, self.store, {"fake": self.fake})
        scaler.lease_s = 1e9  # renewed twice a second where time passes by itself
        return scaler

    def reconfigure(self, **changes: object) -> None:
        """Another cloud.ini, and a restart."""
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self.store.settings = self.settings
        self.scaler.stop()
        self.scaler = self.new_scaler()

    def submit(self, count: int = 1, **fields: object) -> list[int]:
        values = {"title": "job", "command": "true", "affinity": ("linux",), **fields}
        return list(self.store.submit([JobSpec(**values) for _ in range(count)]).ids)  # type: ignore[arg-type]

    def tick(self, count: int = 1, seconds: float = 0.0) -> None:
        for _ in range(count):
            self.scaler.tick()
            self.clock.wait(seconds)

    def requests(self) -> list[Request]:
        return [what for verb, what in self.fake.calls if verb == "launch"]

    def boot(self) -> None:
        """Every instance that runs and has no worker yet enrols one."""
        tokens = {request.token: request for request in self.requests()}
        for instance in self.fake.live():
            if instance.id not in self.workers and instance.token in tokens:
                self.enrol(instance.id, tokens[instance.token])

    def enrol(self, provider_id: str, request: Request) -> int:
        session = self.sessions.setdefault(provider_id, secrets.token_hex(8))
        offer = request.offering
        call = Enrol(
            name=f"w-{provider_id}",
            session=session,
            slots=offer.slots,
            affinity=(request.affinity,),
            facts=Facts(cpus=offer.cpus, memory_bytes=offer.memory_bytes),
            token=request.enrol_token,
            identity=provider_id,
        )
        self.workers[provider_id] = self.store.enrol(call).worker_id
        return self.workers[provider_id]

    def _call(self, provider_id: str, want: int, results: Sequence[Result], started: Sequence[Running]) -> Call:
        row, _ = self.store.worker_row(self.workers[provider_id]) or (None, "")
        assert row is not None
        held = frozenset(self.store.open_attempts(row.id))
        return Call(row.id, row.epoch, row.capacity, results, started, want, held)

    def work(self, provider_id: str, want: int = 1) -> list[int]:
        """A worker takes jobs and starts them; the attempts."""
        (outcome,) = self.store.exchange([self._call(provider_id, want, (), ())])
        attempts = [lease.attempt for lease in outcome.leases]
        self.store.exchange([self._call(provider_id, 0, (), [Running(attempt, True) for attempt in attempts])])
        self.beat(provider_id)
        return attempts

    def finish(self, provider_id: str, run_s: float = 1.0, slot_price_micro: int = 0) -> None:
        """A worker ends all that it runs, well; its jobs cost what an hour of a slot does."""
        held = self.store.open_attempts(self.workers[provider_id])
        results = [Result(attempt, "FINISHED", run_s=run_s, exit_code=0) for attempt in held]
        self.store.exchange([replace(self._call(provider_id, 0, results, ()), slot_price_micro=slot_price_micro)])
        self.beat(provider_id)

    def beat(self, provider_id: str) -> None:
        worker_id = self.workers[provider_id]
        holds = tuple((attempt, 0.0) for attempt in self.store.open_attempts(worker_id))
        idle_since = None if holds else self.clock()
        row, _ = self.store.worker_row(worker_id) or (None, "")
        if row is not None and not holds and row.idle_since is not None:
            idle_since = row.idle_since
        self.store.flush_beats([Beat(worker_id, self.clock(), 0.0, 0, idle_since, 0, 0, holds)])

    # ------------------------------------------------------------ what tests ask

    def states(self) -> list[str]:
        return [row["state"] for row in self.store.instances(ended=True)][::-1]

    def reasons(self, action: str) -> list[str]:
        return [row["reason"] for row in self.store.decisions() if row["action"] == action]

    def committed(self, name: str = "studio") -> int:
        return int(next(row["committed_micro"] for row in self.store.budgets() if row["name"] == name))

    def live(self) -> int:
        return sum(instance.life is not Life.GONE for instance in self.fake.live())
