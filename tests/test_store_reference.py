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
from coalition.model import Dependency, JobChanges, JobSpec, MoreFrames
from coalition.store import Store
from coalition.store.dispatch import Beat
from coalition.store.views import JobQuery
from tests.builders import LEASE_S, Clock, Hand, a_group, a_job, a_range, settings
from tests.invariants import check_invariants
from tests.reference import OVER, Machine, Node, Reference, Wait

COUNTS = {"waiting": "WAITING", "pending": "PENDING", "working": "WORKING", "finished": "FINISHED", "error": "ERROR"}
TAGS: list[tuple[str, ...]] = [(), (), ("a",), ("a", "b"), ("c",)]
LINES: list[tuple[tuple[str, ...], ...]] = [(("a", "b"), ("a",)), (("c",), ("a",))]
PRIORITIES = [0, 126, 127, 127, 255]
LIMITS: list[dict[str, int]] = [{}, {}, {"nuke": 1}, {"maya": 1}, {"nuke": 2, "maya": 1}]


class Twins(RuleBasedStateMachine):
    """Every rule does the same to the store and to the reference; the invariants compare them."""

    numbers = strategies.integers(0, 60)
    few = strategies.lists(numbers, min_size=1, max_size=3)
    tags = strategies.sampled_from(TAGS)
    limits = strategies.sampled_from(LIMITS)
    shift = strategies.integers(-1, 1)
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
        self.set_limit("nuke", 2)
        self.set_limit("maya", 1)
        self.twin.now = self.clock.now
        self.ended: set[int] = set()  # attempts that were reported, or stopped by hand: nothing that comes of them counts
        self.store.sweep()

    def teardown(self) -> None:
        check_invariants(self.store)
        self.store.close()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------ choosing

    def pick(self, numbers: Sequence[int], fits: Callable[[Node], bool] = lambda node: True) -> list[int]:
        """Some of the jobs there are, each once."""
        there = [node.id for node in self.twin.nodes.values() if fits(node)]
        return sorted({there[number % len(there)] for number in numbers}) if there else []

    def group(self, number: int) -> int:
        return ([0, *self.pick([number], lambda node: node.group)])[-1 if number % 3 else 0]

    def waits(self, numbers: Sequence[int], *, of_range: bool = False, shift: int = 0) -> list[Dependency]:
        """Dependencies of every kind, as the numbers say."""
        found = [Dependency(on, "done" if on % 2 else "finished") for on in self.pick(numbers)]
        for on in self.pick(numbers, lambda node: node.chunk > 0) if of_range and sum(numbers) % 2 else ():
            found.append(Dependency(on, "done" if on % 3 else "finished", True, 1 + on % 2, shift))
        return found

    # ------------------------------------------------------------ submissions

    @rule(parent=numbers, priority=priority, tags=tags, on=few, retries=strategies.integers(0, 2), limits=limits)
    def submit_one(
        self, parent: int, priority: int, tags: tuple[str, ...], on: list[int], retries: int, limits: dict[str, int]
    ) -> None:
        fields = {"priority": priority, "affinity": tags, "retries": retries, "paused": on[0] % 5 == 0, "limits": limits}
        self.submit(a_job(parent=self.group(parent), depends_on=self.waits(on[1:]), depends_any=on[0] % 2 == 1, **fields))

    @rule(parent=numbers, priority=priority, tags=tags, on=few, limits=limits, most=strategies.integers(0, 2))
    def submit_tree(
        self, parent: int, priority: int, tags: tuple[str, ...], on: list[int], limits: dict[str, int], most: int
    ) -> None:
        inner = a_group("inner", a_job(priority=255), a_job(affinity=tags, limits=limits), max_running=most)
        rules = {"depends_on": self.waits(on[1:]), "limits": limits, "decrease_priority_after": on[0] % 3}
        self.submit(a_group("outer", a_job(retries=1), inner, parent=self.group(parent), priority=priority, **rules))

    @rule(
        parent=numbers, priority=priority, count=strategies.integers(1, 5), chunk=strategies.integers(1, 3), on=few, shift=shift
    )
    def submit_frames(self, parent: int, priority: int, count: int, chunk: int, on: list[int], shift: int) -> None:
        waits = self.waits(on, of_range=True, shift=shift)
        rules = {"chunk": chunk, "decrease_priority_after": on[0] % 3, "depends_any": on[0] % 2 == 0, "max_running": on[0] % 4}
        self.submit(a_range(f"1-{count}", parent=self.group(parent), priority=priority, depends_on=waits, retries=1, **rules))

    @rule(number=numbers, first=strategies.integers(1, 8), more=strategies.integers(0, 3))
    def append(self, number: int, first: int, more: int) -> None:
        """Frames that are there already are refused."""
        ranges = self.pick([number], lambda node: node.chunk > 0)
        if not ranges:
            return
        group, wanted, frames = self.twin.nodes[ranges[0]], range(first, first + more + 1), MoreFrames(f"{first}-{first + more}")
        there = {frame for child in self.twin.children(group.id) for frame in child.span or ()}
        if there & set(wanted):
            assert not self.accepted(lambda: self.store.append(group.id, frames))
        else:
            self.twin.append(group, self.store.append(group.id, frames).first, pieces(wanted, group.chunk))

    @rule(name=strategies.sampled_from(["nuke", "maya"]), maximum=strategies.integers(0, 3))
    def set_limit(self, name: str, maximum: int) -> None:
        self.store.set_limit(name, maximum, per_host=name == "maya")
        self.twin.limits[name] = (maximum, name == "maya")

    def submit(self, spec: JobSpec) -> None:
        """To both; what the store refuses (a cycle) changes neither."""
        try:
            first = self.store.submit([spec]).ids[0]
        except BadInput:
            return
        self.adopt(spec, first, spec.parent)

    def adopt(self, spec: JobSpec, number: int, parent: int) -> int:
        """Numbers follow the tree from the top, a group before what is in it; the next free number."""
        is_group = bool(spec.group or spec.frames)
        tags, limits = frozenset(spec.affinity), dict(spec.limits)
        node = Node(number, parent, is_group, spec.priority, tags, spec.paused, spec.retries, waited(spec.depends_on))
        node.any, node.limits, node.max_running = spec.depends_any, limits, spec.max_running
        node.sink_after = spec.decrease_priority_after
        self.twin.nodes[number] = node
        following = number + 1
        for child in spec.children:
            following = self.adopt(child, following, number)
        if spec.frames:
            node.chunk = spec.chunk
            made = pieces(range(1, int(spec.frames.partition("-")[2]) + 1), spec.chunk)
            self.twin.append(node, following, made)
            following += len(made)
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
        if leaf is None or leaf.attempt != lease.attempt or leaf.attempt in self.ended or leaf.state in OVER:
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

    @rule(numbers=few, action=strategies.sampled_from(["pause", "start", "reset", "reset errors", "skip", "delete"]))
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
                self.twin.give_priority(self.twin.nodes[job_id], priority)
                self.twin.nodes[job_id].tags = frozenset(tags)

    @rule(numbers=few, parent=numbers)
    def move(self, numbers: list[int], parent: int) -> None:
        ids, parent = self.pick(numbers), self.group(parent)
        if ids and self.accepted(lambda: self.store.edit(ids, JobChanges(parent=parent))):
            for job_id in self.twin.outermost(ids):
                self.twin.nodes[job_id].parent = parent

    @rule(number=numbers, on=strategies.lists(numbers, max_size=2), needs_any=strategies.booleans(), shift=shift)
    def depend(self, number: int, on: list[int], needs_any: bool, shift: int) -> None:
        chosen = self.pick([number])
        if not chosen:
            return
        node = self.twin.nodes[chosen[0]]
        waits = self.waits(on, of_range=node.chunk > 0, shift=shift)
        if self.accepted(lambda: self.store.edit([node.id], JobChanges(depends_on=waits, depends_any=needs_any))):
            node.waits, node.any = waited(waits), needs_any

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
            node = self.twin.nodes[job.id]
            assert (job.errors, job.priority, job.skipped) == (node.errors, node.prio, node.skipped), job
            assert job.sunk_from == node.sunk_from, job


def waited(asked: Sequence[object]) -> list[Wait]:
    """Dependencies as the reference has them."""
    return [
        Wait(int(one.on), one.until == "done", one.frames, one.step, one.shift) for one in asked if isinstance(one, Dependency)
    ]


def pieces(frames: range, chunk: int) -> list[range]:
    return [frames[at : at + chunk] for at in range(0, len(frames), chunk)]


def test_the_store_and_the_reference_agree(new_database: Path) -> None:
    Twins.template = new_database
    run_state_machine_as_test(
        Twins,
        settings=rules(
            max_examples=25,
            stateful_step_count=40,
            phases=[Phase.generate],
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
