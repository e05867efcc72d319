"""The store's contract on each kind of database, and random walks over everything."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, strategies
from hypothesis import settings as rules
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from coalition.config import ServerSettings
from coalition.errors import BadInput
from coalition.model import JobChanges
from coalition.store import Store
from coalition.store.lists import JobQuery
from tests.builders import Clock, Hand, WatchedStore, a_group, a_job, settings
from tests.contract_rules import *  # noqa: F403
from tests.contract_store import *  # noqa: F403
from tests.databases import KINDS, Databases, missing


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---------------------------------------------------------------- random walks


class Farm(RuleBasedStateMachine):
    """Anything, in any order: the store checks all its invariants after each step."""

    numbers = strategies.integers(0, 50)
    few = strategies.lists(numbers, min_size=1, max_size=3)
    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="coalition-walk-"))
        shutil.copy(self.template, self.folder / "coalition.db")
        self.clock = Clock()
        self.store = WatchedStore(settings(self.folder), self.clock)
        self.hands = [Hand(self.store, "w1", ("a",), price=1_000), Hand(self.store, "w2", slots=1)]
        self.store.sweep()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def ids(self, numbers: list[int]) -> list[int]:
        """Some of the jobs there are."""
        there = [job.id for job in self.store.jobs(JobQuery(limit=1_000))[0]]
        return [there[number % len(there)] for number in numbers] if there else []

    def groups(self) -> list[int]:
        return [0, *(job.id for job in self.store.jobs(JobQuery(limit=1_000))[0] if job.group)]

    @rule(parent=numbers, on=few, priority=strategies.sampled_from([0, 127, 255]), paused=strategies.booleans())
    def submit(self, parent: int, on: list[int], priority: int, paused: bool) -> None:
        groups = self.groups()
        parent = groups[parent % len(groups)]
        tree = a_group(
            "g", a_job(retries=1), a_job(affinity=("a",), depends_on=self.ids(on[1:])), priority=priority, paused=paused
        )
        self.try_to(lambda: self.store.submit([a_job(parent=parent, depends_on=self.ids(on)), replace(tree, parent=parent)]))

    @rule(which=numbers, want=strategies.integers(0, 3))
    def lease(self, which: int, want: int) -> None:
        self.hands[which % 2].take(want)

    @rule(which=numbers, how=strategies.sampled_from(["finish", "fail", "stop"]))
    def report(self, which: int, how: str) -> None:
        hand = self.hands[which % 2]
        attempts = list(hand.held) or [1 + which % 20]
        getattr(hand, how)(attempts[which % len(attempts)])

    @rule(seconds=strategies.sampled_from([0.5, 3.0, 25.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.store.sweep()

    @rule(numbers=few, action=strategies.sampled_from(["pause", "start", "reset", "delete", "reset_errors"]))
    def act(self, numbers: list[int], action: str) -> None:
        if ids := self.ids(numbers):
            if action == "reset_errors":
                self.store.reset(ids, errors_only=True)
            else:
                getattr(self.store, action)(ids)

    @rule(numbers=few, priority=strategies.integers(0, 255), tags=strategies.sampled_from([(), ("a",), ("b",)]))
    def edit(self, numbers: list[int], priority: int, tags: tuple[str, ...]) -> None:
        if ids := self.ids(numbers):
            self.store.edit(ids, JobChanges(priority=priority, affinity=tags))

    @rule(numbers=few, parent=numbers)
    def move(self, numbers: list[int], parent: int) -> None:
        groups = self.groups()
        if ids := self.ids(numbers):
            self.try_to(lambda: self.store.edit(ids, JobChanges(parent=groups[parent % len(groups)])))

    @rule(numbers=few, on=strategies.lists(numbers, max_size=2))
    def depend(self, numbers: list[int], on: list[int]) -> None:
        if ids := self.ids(numbers):
            self.try_to(lambda: self.store.edit(ids, JobChanges(depends_on=self.ids(on))))

    @rule(which=numbers)
    def restart(self, which: int) -> None:
        old = self.hands[which % 2]
        lines = old.row.capacity.lines
        self.hands[which % 2] = Hand(self.store, old.admission.name, *lines, credential=old.admission.credential, price=1_000)

    def try_to(self, change: object) -> None:
        """What is refused has changed nothing."""
        before = self.store.jobs(JobQuery(limit=1_000))[0]
        try:
            change()  # type: ignore[operator]
        except BadInput:
            assert self.store.jobs(JobQuery(limit=1_000))[0] == before


def test_random_walks_keep_every_invariant(new_database: Path) -> None:
    Farm.template = new_database
    run_state_machine_as_test(
        Farm,
        settings=rules(
            max_examples=25, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize(("durability", "expected"), [("power", "on"), ("process", "off")])
def test_postgresql_waits_for_its_disk_as_the_farm_asks(
    databases: Databases, tmp_path: Path, durability: str, expected: str
) -> None:
    if why := missing("postgresql"):
        pytest.skip(f"PostgreSQL is not installed: {why}")
    with databases.taken("postgresql") as url:
        server = ServerSettings(data_dir=str(tmp_path), database=url, durability=durability)
        store = Store(replace(settings(tmp_path), server=server))
        with store.read() as db:
            assert db.exec_driver_sql("SHOW synchronous_commit").scalar() == expected
        store.close()
