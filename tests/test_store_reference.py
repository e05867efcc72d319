"""The store beside the reference farm: any operations in any order, and both agree in states, counters, order and limits."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, strategies
from hypothesis import settings as rules
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from coalition.errors import BadInput
from coalition.model import JobChanges, JobSpec
from coalition.store import Store
from coalition.store.dispatch import Beat
from coalition.store.views import JobQuery
from tests.builders import LEASE_S, Clock, Hand, a_group, a_job, a_range, settings
from tests.reference import Machine, Node, Reference

COUNTS = {"waiting": "WAITING", "pending": "PENDING", "working": "WORKING", "finished": "FINISHED", "error": "ERROR"}
TAGS: list[tuple[str, ...]] = [(), (), ("a",), ("a", "b"), ("c",)]
LINES: list[tuple[tuple[str, ...], ...]] = [(("a", "b"), ("a",)), (("c",), ("a",))]
PRIORITIES = [0, 126, 127, 127, 255]


class Twins(RuleBasedStateMachine):
    """Every rule does the same to the store and to the reference; the invariants compare them."""

    numbers = strategies.integers(0, 60)
    few = strategies.lists(numbers, min_size=1, max_size=3)
    tags = strategies.sampled_from(TAGS)
    priority = strategies.sampled_from(PRIORITIES)
    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="coalition-twins-"))
        shutil.copy(self.template, self.folder / "coalition.db")
        self.clock = Clock()
        self.store = Store(settings(self.folder), self.clock)
        self.hands = [Hand(self.store, f"w{number}", *lines, slots=8) for number, lines in enumerate(LINES)]
        machines = [Machine(hand.id, tuple(map(frozenset, lines))) for hand, lines in zip(self.hands, LINES, strict=True)]
        self.twin = Reference({}, machines, 1.0)
        self.twin.now = self.clock.now
        self.ended: set[int] = set()  # attempts that were reported, or stopped by hand: nothing that comes of them counts
        self.store.sweep()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------ choosing

    def pick(self, numbers: Sequence[int], fits: Callable[[Node], bool] = lambda node: True) -> list[int]:
        """Some of the jobs there are, each once."""
        there = [node.id for node in self.twin.nodes.values() if fits(node)]
        return sorted({there[number % len(there)] for number in numbers}) if there else []

    def group(self, number: int) -> int:
        return ([0, *self.pick([number], lambda node: node.group)])[-1 if number % 3 else 0]

    # ------------------------------------------------------------ submissions

    @rule(parent=numbers, priority=priority, tags=tags, on=few, retries=strategies.integers(0, 2), paused=strategies.booleans())
    def submit_one(self, parent: int, priority: int, tags: tuple[str, ...], on: list[int], retries: int, paused: bool) -> None:
        targets = self.pick(on[1:])
        fields = {"priority": priority, "affinity": tags, "retries": retries, "paused": paused}
        self.submit(a_job(parent=self.group(parent), depends_on=targets, **fields))

    @rule(parent=numbers, priority=priority, tags=tags, on=few)
    def submit_tree(self, parent: int, priority: int, tags: tuple[str, ...], on: list[int]) -> None:
        inner = a_group("inner", a_job(priority=255), a_job(affinity=tags))
        tree = a_group("outer", a_job(retries=1), inner, parent=self.group(parent), priority=priority)
        self.submit(JobSpec(**{**vars(tree), "depends_on": self.pick(on[1:])}))

    @rule(parent=numbers, priority=priority, count=strategies.integers(1, 4), on=few)
    def submit_frames(self, parent: int, priority: int, count: int, on: list[int]) -> None:
        fields = {"parent": self.group(parent), "priority": priority, "depends_on": self.pick(on[1:])}
        self.submit(a_range(f"1-{count}", **fields))

    def submit(self, spec: JobSpec) -> None:
        """To both; what the store refuses (a cycle) changes neither."""
        try:
            first = self.store.submit([spec]).ids[0]
        except BadInput:
            return
        self.adopt(spec, first, spec.parent)

    def adopt(self, spec: JobSpec, number: int, parent: int) -> int:
        """Numbers follow the tree from the top, a group before what is in it; the next free number."""
        waits = [on for on in spec.depends_on if isinstance(on, int)]
        is_group = bool(spec.group or spec.frames)
        tags, limits = frozenset(spec.affinity), dict(spec.limits)
        group = Node(number, parent, is_group, spec.priority, tags, spec.paused, spec.retries, waits, limits)
        self.twin.nodes[number] = group
        following = number + 1
        for child in spec.children:
            following = self.adopt(child, following, number)
        for _ in range(int((spec.frames or "1-0").partition("-")[2])):
            leaf = Node(following, number, False, 127, frozenset(), False, spec.retries)
            self.twin.nodes[following] = leaf
            following += 1
        return following

    # ------------------------------------------------------------ workers

    @rule(which=strategies.integers(0, 1), want=strategies.integers(1, 4))
    def lease(self, which: int, want: int) -> None:
        hand, machine = self.hands[which], self.twin.machines[which]
        leases = hand.take(want)
        assert [lease.job for lease in leases] == self.twin.lease(machine, want), "not the same jobs, or another order"
        for lease in leases:
            self.twin.nodes[lease.job].attempt = lease.attempt

    @rule(which=strategies.integers(0, 1), number=numbers, how=strategies.sampled_from(["finish", "finish", "fail", "stop"]))
    def report(self, which: int, number: int, how: str) -> None:
        hand = self.hands[which]
        if not hand.held:
            return
        lease = list(hand.held.values())[number % len(hand.held)]
        getattr(hand, how)(lease)
        leaf = self.twin.nodes.get(lease.job)
        counts = leaf is not None and leaf.attempt == lease.attempt and leaf.attempt not in self.ended
        if leaf is None or not counts:
            return
        self.ended.add(lease.attempt)
        if how == "finish":
            self.twin.finish(leaf)
        elif how == "fail":
            self.twin.fail(leaf, hand.id)
        else:
            self.twin.put_back(leaf)

    @rule(seconds=strategies.sampled_from([0.5, 3.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.twin.now = self.clock.now
        self.store.flush_beats([Beat(hand.id, self.clock.now, 0.0, 0, None, 0, 0, ()) for hand in self.hands])
        self.store.sweep()
        for leaf in self.twin.nodes.values():
            if leaf.state == "WORKING" and leaf.leased_at + LEASE_S < self.clock.now:
                self.twin.put_back(leaf)  # lost: a late result still counts

    # ------------------------------------------------------------ by hand

    @rule(numbers=few, action=strategies.sampled_from(["pause", "start", "reset", "reset errors", "delete"]))
    def act(self, numbers: list[int], action: str) -> None:
        ids = self.pick(numbers)
        if not ids:
            return
        if action != "start":
            self.forget(ids, errors_only=action == "reset errors")
        if action.startswith("reset"):
            self.store.reset(ids, errors_only=action == "reset errors")
            self.twin.reset(ids, errors_only=action == "reset errors")
        else:
            getattr(self.store, action)(ids)
            getattr(self.twin, action)(ids)

    def forget(self, ids: Sequence[int], errors_only: bool) -> None:
        """What runs below is stopped: its result no longer counts."""
        if not errors_only:
            self.ended.update(leaf.attempt for leaf in self.twin.leaves_of(ids) if leaf.state == "WORKING")

    @rule(numbers=few, priority=priority, tags=tags)
    def edit(self, numbers: list[int], priority: int, tags: tuple[str, ...]) -> None:
        if ids := self.pick(numbers):
            self.store.edit(ids, JobChanges(priority=priority, affinity=tags))
            for job_id in ids:
                self.twin.nodes[job_id].prio, self.twin.nodes[job_id].tags = priority, frozenset(tags)

    @rule(numbers=few, parent=numbers)
    def move(self, numbers: list[int], parent: int) -> None:
        ids, parent = self.pick(numbers), self.group(parent)
        if ids and self.accepted(lambda: self.store.edit(ids, JobChanges(parent=parent))):
            for job_id in self.twin.outermost(ids):
                self.twin.nodes[job_id].parent = parent

    @rule(numbers=few, on=strategies.lists(numbers, max_size=2))
    def depend(self, numbers: list[int], on: list[int]) -> None:
        ids, targets = self.pick(numbers), self.pick(on)
        if ids and self.accepted(lambda: self.store.edit(ids, JobChanges(depends_on=targets))):
            for job_id in ids:
                self.twin.nodes[job_id].waits = targets

    @staticmethod
    def accepted(change: Callable[[], object]) -> bool:
        try:
            change()
        except BadInput:
            return False
        return True

    # ------------------------------------------------------------ what must agree

    @invariant()
    def same(self) -> None:
        jobs = self.store.jobs(JobQuery(limit=1_000))[0]
        assert {job.id for job in jobs} == self.twin.nodes.keys()
        for job in jobs:
            assert job.state == self.twin.state(job.id), job
            if job.counts is not None:
                states = [self.twin.state(leaf.id) for leaf in self.twin.leaves(job.id)]
                assert {name: getattr(job.counts, name) for name in COUNTS} == {n: states.count(s) for n, s in COUNTS.items()}
            else:
                assert job.errors == self.twin.nodes[job.id].errors, job


def test_the_store_and_the_reference_agree(new_database: Path) -> None:
    Twins.template = new_database
    run_state_machine_as_test(
        Twins,
        settings=rules(
            max_examples=40,
            stateful_step_count=40,
            phases=[Phase.generate],
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
