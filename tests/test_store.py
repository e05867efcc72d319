"""The store's contract on SQLite (the `store` of conftest.py), what only SQLite has, and random walks over everything."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, strategies
from hypothesis import settings as rules
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from coalition.config import ServerSettings
from coalition.errors import BadInput, ConfigError, Unavailable
from coalition.model import JobChanges
from coalition.store import Store
from coalition.store.views import JobQuery
from tests.builders import Clock, Hand, WatchedStore, a_group, a_job, settings
from tests.contract_store import *  # noqa: F403

# ---------------------------------------------------------------- SQLite itself


def test_what_was_acknowledged_is_there_after_a_new_start(store: WatchedStore, tmp_path: Path, clock: Clock) -> None:
    ids = store.submit([a_job()]).ids
    again = Store(settings(tmp_path), clock)
    assert again.job(ids[0]).state == "WAITING"
    again.close()


def test_the_database_is_durable_and_keeps_foreign_keys(store: WatchedStore) -> None:
    with store.engine.connect() as db:
        found = [db.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == ["wal", 2, 1]


def test_a_call_in_the_midst_of_anothers_transaction_waits_for_its_turn(store: WatchedStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "coalition.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    made: list[int] = []
    thread = threading.Thread(target=lambda: made.extend(store.submit([a_job()]).ids))
    thread.start()
    thread.join(0.2)
    assert made == []
    other.execute("COMMIT")
    other.close()
    thread.join(10)
    assert len(made) == 1


@pytest.mark.parametrize("method", ["submit", "counters", "exchange", "sweep"])
def test_a_database_that_is_away_is_said_to_be_away(store: WatchedStore, tmp_path: Path, method: str) -> None:
    hand = Hand(store)
    store.engine.dispose()
    for name in ("coalition.db", "coalition.db-wal", "coalition.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "coalition.db").mkdir()
    given = {"submit": ([a_job()],), "exchange": ([hand.call(want=1)],)}
    with pytest.raises(Unavailable):
        getattr(store, method)(*given.get(method, ()))


def test_a_full_disk_is_said_and_leaves_the_store_as_it_was(store: WatchedStore) -> None:
    hand = Hand(store)
    (job_id,) = store.submit([a_job()]).ids
    (lease,) = hand.take(1)
    store.engine.dispose()
    plain = Store(store.settings, store.clock)
    with plain.engine.connect() as db:
        pages = db.exec_driver_sql("PRAGMA page_count").scalar()
        db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable):
        plain.submit([a_job(command="x" * 60_000)] * 200)
    plain.close()
    hand.finish(lease)
    assert store.job(job_id).state == "FINISHED"


def test_an_unknown_kind_of_database_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="oracle is not supported"):
        Store(settings(tmp_path).__class__(server=ServerSettings(data_dir=str(tmp_path), database="oracle://x/y")))


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
