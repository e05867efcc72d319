"""What must hold in the store after every transaction, recomputed by brute force from the raw tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, Table, select

from coalition import matching, schema
from coalition.config import SchedulerSettings
from coalition.matching import Requirement
from coalition.store import Store
from coalition.store.tree import FARM

OPEN = ("LEASED", "RUNNING")
STATES = ("waiting", "pending", "working", "finished", "error")


def check_invariants(store: Store) -> None:
    """Fails with the first thing that is not as it must be."""
    with store.read() as db:
        world = World(db, store.settings.scheduler)
    now = store.clock()
    world.check_tree()
    world.check_dependencies()
    world.check_counters()
    world.check_times()
    world.check_inherited()
    for leaf in world.leaves:
        world.check_place(leaf, now)
        world.check_attempts(leaf)
    world.check_left_overs()
    world.check_limits()
    world.check_own_limits()
    world.check_rooms()


@dataclass(frozen=True)
class Handed:
    """What is inherited down to a job, its own part included."""

    path: str
    requirement: Requirement
    paused: bool
    holds: int


def _rows(db: Connection, table: Table) -> list[Any]:
    return list(db.execute(select(table)).all())


def with_token(requirement: Requirement, name: str) -> Requirement:
    return replace(requirement, limits=tuple(sorted({name: 1, **dict(requirement.limits)}.items())))


class World:
    def __init__(self, db: Connection, rules: SchedulerSettings) -> None:
        self.rules = rules
        self.jobs = {row.id: row for row in _rows(db, schema.job)}
        self.specs = {row.job_id: row for row in _rows(db, schema.spec)}
        self.edges = _rows(db, schema.dependency)
        self.edges_of: dict[int, list[Any]] = {}
        for edge in self.edges:
            self.edges_of.setdefault(edge.job_id, []).append(edge)
        self.rules_between = _rows(db, schema.frame_rule)
        self.inherited = {row.group_id: row for row in _rows(db, schema.group_inherited)}
        self.counts = {row.group_id: row for row in _rows(db, schema.group_count)}
        self.sets = {row.id: Requirement.from_json(row.json) for row in _rows(db, schema.reqset)}
        self.classes = {row.id: row for row in _rows(db, schema.klass)}
        self.ready = {(row.class_id, row.job_id) for row in _rows(db, schema.ready)}
        self.attempts = _rows(db, schema.attempt)
        self.limits = {row.name: row for row in _rows(db, schema.farm_limit)}
        self.uses = _rows(db, schema.limit_use)
        self.reservations = _rows(db, schema.reservation)
        self.facts = {row.id: json.loads(row.facts) for row in _rows(db, schema.worker)}
        self.leaves = [row for row in self.jobs.values() if not row.is_group]
        self.children: dict[int, list[int]] = {}
        for row in self.jobs.values():
            self.children.setdefault(row.parent, []).append(row.id)
        self.attempts_of: dict[int, list[Any]] = {}
        for attempt in self.attempts:
            self.attempts_of.setdefault(attempt.job_id, []).append(attempt)
        self.archived: dict[int, list[Any]] = {}
        for row in _rows(db, schema.archive):
            self.archived.setdefault(row.parent, []).append(row)
        self.kept = {row.job_id for rows in self.archived.values() for row in rows}
        self._handed: dict[int, Handed] = {0: Handed("", Requirement(), False, 0)}

    def below(self, job_id: int) -> Iterable[Any]:
        """The leaves of a tree, the archived ones too."""
        if job_id in self.jobs and not self.jobs[job_id].is_group:
            yield self.jobs[job_id]
        for child in self.children.get(job_id, ()):
            yield from self.below(child)
        for row in self.archived.get(job_id, ()) if job_id else ():
            yield from self.below(row.job_id) if row.is_group else [SimpleNamespace(id=row.job_id, state="FINISHED")]

    def handed(self, job_id: int) -> Handed:
        if job_id not in self._handed:
            row = self.jobs[job_id]
            up = self.handed(row.parent)
            requirement = self.sets[row.own_set].under(up.requirement)
            if row.max_running:
                requirement = with_token(requirement, f"group#{row.id}")
            mine = Handed(f"{up.path}{row.prio:02x}", requirement, up.paused or bool(row.paused), up.holds + row.holds)
            self._handed[job_id] = mine
        return self._handed[job_id]

    def state(self, job_id: int) -> str:
        if not self.jobs[job_id].is_group:
            return str(self.jobs[job_id].state)
        states = [leaf.state for leaf in self.below(job_id)]
        if not states:
            return "WAITING"
        if "ERROR" in states:
            return "ERROR"
        return next(state for state in ("WORKING", "WAITING", "PENDING", "FINISHED") if state in states)

    # ------------------------------------------------------------ the checks

    def check_tree(self) -> None:
        assert self.specs.keys() == self.jobs.keys(), "spec rows are not those of the jobs"
        assert all(row.parent == self.specs[row.id].parent for row in self.jobs.values()), "a spec row has another parent"
        reached: set[int] = set()
        level = self.children.get(0, [])
        while level:
            reached.update(level)
            level = [child for job_id in level for child in self.children.get(job_id, ())]
        assert reached == self.jobs.keys(), f"not reached from the root: {self.jobs.keys() - reached}"
        parents = {row.parent for row in self.jobs.values()} - {0}
        assert all(self.jobs[parent].is_group for parent in parents), "a leaf has children"

    def check_dependencies(self) -> None:
        """Rows are met as their targets say, those by rule are the ones that follow, and holds are a recount."""
        for edge in self.edges:
            assert edge.job_id in self.jobs, f"dependency {edge} of a job that is not there"
            assert edge.on_id in self.jobs.keys() | self.kept, f"dependency {edge} on a job that is not there"
            over = edge.on_id in self.kept or self.is_over(edge.on_id, edge.done)
            assert edge.met == over, f"{edge}, but its target is {over}"
        ruled = {(edge.job_id, edge.on_id): edge.done for edge in self.edges if edge.by_rule}
        assert ruled == self.follows(), "rows by rule are not those that follow from the rules"
        holds = {row.id: self.holds(row) for row in self.jobs.values()}
        assert {row.id: row.holds for row in self.jobs.values()} == holds, "holds are not the unmet dependencies"

    def is_over(self, job_id: int, done: bool) -> bool:
        states = {leaf.state for leaf in self.below(job_id)}
        return bool(states) and states <= ({"FINISHED", "ERROR"} if done else {"FINISHED"})

    def follows(self) -> dict[tuple[int, int], bool]:
        edges: dict[tuple[int, int], bool] = {}
        for rule in self.rules_between:
            assert {rule.job_id, rule.on_id} <= self.jobs.keys(), f"rule {rule} of or on a range that is not there"
            for ours in map(self.jobs.__getitem__, self.children.get(rule.job_id, ())):
                wanted = {frame * rule.step + rule.shift for frame in self.frames(ours)}
                for theirs in map(self.jobs.__getitem__, self.children.get(rule.on_id, ())):
                    if wanted & self.frames(theirs):
                        edges[ours.id, theirs.id] = edges.get((ours.id, theirs.id), True) and bool(rule.done)
        return edges

    @staticmethod
    def frames(row: Any) -> set[int]:
        return set() if row.first_frame is None else set(range(row.first_frame, row.last_frame + 1, row.frame_step or 1))

    def holds(self, row: Any) -> int:
        mine = self.edges_of.get(row.id, ())
        own = [edge.met for edge in mine if not edge.by_rule]
        return sum(not edge.met for edge in mine if edge.by_rule) + (
            int(bool(own) and not any(own)) if row.needs_any else own.count(False)
        )

    def check_counters(self) -> None:
        groups = {row.id for row in self.jobs.values() if row.is_group}
        assert self.counts.keys() - {FARM} == groups
        shown = {group: self.jobs[group].state for group in groups}
        assert shown == {group: self.state(group) for group in groups}, "a group's state is not what its leaves say"
        for group in self.counts:
            leaves = list(self.below(group))
            recount = {name: sum(leaf.state == name.upper() for leaf in leaves) for name in STATES}
            counted = {name: getattr(self.counts[group], name) for name in STATES}
            assert counted == recount, f"group {group}"
            assert self.counts[group].total == len(leaves), f"group {group}"
            for name in ("run_ms", "cost_micro"):  # what deleted jobs spent stays counted
                spent = sum(getattr(a, name) for leaf in leaves for a in self.attempts_of.get(leaf.id, ()))
                assert getattr(self.counts[group], name) >= spent, f"{name} of group {group}"

    def check_times(self) -> None:
        """A group began with the first job below it since its reset, and ended with the last one that has ended."""
        for leaf in self.leaves:
            assert (leaf.ended_at is not None) == (leaf.state in ("FINISHED", "ERROR")), f"job {leaf.id} ended: {leaf}"
            assert leaf.started_at is not None or leaf.state != "WORKING", f"job {leaf.id} runs and has not begun"
        for group in self.counts.keys() - {FARM}:
            leaves = list(self.below(group))
            if any(isinstance(leaf, SimpleNamespace) for leaf in leaves):
                continue  # a part of it is in the archive, with its times
            began = min((leaf.started_at for leaf in leaves if leaf.started_at is not None), default=None)
            ended = max((leaf.ended_at for leaf in leaves if leaf.ended_at is not None), default=None)
            assert (self.counts[group].started_at, self.counts[group].ended_at) == (began, ended), f"times of group {group}"

    def check_inherited(self) -> None:
        groups = {row.id for row in self.jobs.values() if row.is_group}
        assert self.inherited.keys() == groups
        for group in groups:
            row = self.inherited[group]
            found = Handed(row.prio_path, self.sets[row.set_id], row.paused, row.holds)
            assert found == self.handed(group), f"group {group}"

    def check_place(self, leaf: Any, now: float) -> None:
        """PENDING or WAITING by the holds, and a ready row in the right class exactly when it may start."""
        mine = self.handed(leaf.id)
        if leaf.state in ("WAITING", "PENDING"):
            assert leaf.state == ("PENDING" if mine.holds else "WAITING"), f"job {leaf.id} has {mine.holds} holds"
        klass = self.classes[leaf.class_id]
        requirement = mine.requirement
        if self.rules.max_running_per_user and self.specs[leaf.id].user:
            requirement = with_token(requirement, f"user#{self.specs[leaf.id].user}")
        expected = (requirement, matching.strip_path(mine.path), self.fair_key(leaf))
        assert (self.sets[klass.set_id], klass.prio_path, klass.fair_key) == expected, f"job {leaf.id} stands in a wrong class"
        is_ready = (leaf.class_id, leaf.id) in self.ready
        may_start = leaf.state == "WAITING" and not mine.paused and leaf.not_before <= now
        waits_for_sweep = may_start and leaf.not_before > 0
        assert is_ready == may_start or waits_for_sweep, f"job {leaf.id}: ready {is_ready}, may start {may_start}: {leaf}"
        assert not is_ready or klass.nonempty, f"class {klass.id} has jobs and is marked empty"

    def fair_key(self, leaf: Any) -> str:
        """Whose share of the farm a job is: a user's, or its tree's; loose jobs share one."""
        if self.rules.fair == "user":
            return str(self.specs[leaf.id].user)
        root = leaf.parent
        while root and self.jobs[root].parent:
            root = self.jobs[root].parent
        return str(root) if self.rules.fair == "group" and root else ""

    def check_own_limits(self) -> None:
        own = {name: limit.maximum for name, limit in self.limits.items() if name.startswith("group#")}
        assert own == {f"group#{row.id}": row.max_running for row in self.jobs.values() if row.max_running}

    def check_attempts(self, leaf: Any) -> None:
        """A job is WORKING exactly while its newest attempt is open; a FINISHED one has one that counts."""
        attempts = self.attempts_of.get(leaf.id, [])
        still_open = [attempt.id for attempt in attempts if attempt.state in OPEN]
        assert still_open == ([leaf.attempt_id] if leaf.state == "WORKING" else []), f"job {leaf.id}: {leaf}"
        assert leaf.attempt_id == max((attempt.id for attempt in attempts), default=0)
        assert not leaf.skipped or leaf.state == "FINISHED", f"job {leaf.id} is skipped and {leaf.state}"
        if leaf.state in ("FINISHED", "ERROR") and not leaf.skipped:
            assert [a.state for a in attempts if a.id == leaf.attempt_id] == [leaf.state], f"job {leaf.id}: {attempts}"
        assert leaf.errors <= leaf.retries + 1 or leaf.state != "WAITING", f"job {leaf.id} was tried too often"

    def check_limits(self) -> None:
        """What is counted as used is a recount of the open attempts, and within what is allowed at a lease."""
        held: dict[tuple[str, int], int] = {}
        for attempt in self.attempts:
            for name, count in self.sets[attempt.set_id].limits if attempt.open_worker and attempt.set_id else ():
                for holder in (0, attempt.open_worker):
                    held[name, holder] = held.get((name, holder), 0) + count
        for use in self.uses:
            assert use.used == held.get((use.name, use.worker_id), 0), f"{use} is no recount"
        counted = {(use.name, use.worker_id) for use in self.uses}
        for name, holder in held:
            limit = self.limits.get(name)
            if limit is not None and bool(holder) == bool(limit.per_host):
                assert (name, holder) in counted, f"nobody counts limit {name} of {holder}"

    def check_rooms(self) -> None:
        """No worker runs more than its machine has, nothing runs beside an exclusive job, and no running job is waited for."""
        there: dict[int, list[Requirement]] = {}
        for attempt in self.attempts:
            if attempt.open_worker:
                there.setdefault(attempt.open_worker, []).append(self.sets.get(attempt.set_id, Requirement()))
        for worker_id, needs in there.items():
            facts = self.facts[worker_id]
            for name in ("cpus", "memory_bytes", "gpus"):
                taken = sum(getattr(need, name) for need in needs)
                assert taken <= facts[name], f"worker {worker_id} runs jobs for {taken} {name} of {facts[name]}"
            assert len(needs) == 1 or not any(need.exclusive for need in needs), f"worker {worker_id}: {needs}"
        working = {leaf.id for leaf in self.leaves if leaf.state == "WORKING"}
        assert working.isdisjoint(row.job_id for row in self.reservations), "room is kept for a job that runs"

    def check_left_overs(self) -> None:
        assert {job_id for _, job_id in self.ready} <= {leaf.id for leaf in self.leaves}, "ready rows of jobs that are not there"
        assert len({job_id for _, job_id in self.ready}) == len(self.ready), "a job is ready twice"
        for attempt in self.attempts:
            holder = attempt.worker_id if attempt.state in OPEN else None
            assert attempt.open_worker == holder, f"{attempt} is held by {attempt.open_worker}"
