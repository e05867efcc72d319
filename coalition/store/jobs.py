"""Jobs: submit, edit, move, pause, start, reset, delete, and what follows from each in the tree.

Invariants, true after every transaction:
- a leaf's `holds` is the number of its dependencies that are not met, PENDING means holds > 0 on it or above it;
- a leaf has a ready row in its class exactly when it is WAITING, not paused (it or above) and its `not_before` has passed;
- a group's counters equal a recount of the leaves below it;
- a dependency is met exactly while its target is FINISHED. Deleting the target frees whoever waited, with an event.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select, update

from coalition import frames, matching
from coalition.config import Settings
from coalition.errors import BadInput, NotFound, TooLarge
from coalition.matching import Requirement
from coalition.model import MAX_CHILDREN, MAX_TITLE, Dependency, JobChanges, JobSpec
from coalition.schema import attempt, dependency, group_count, group_inherited, job, klass, ready, reqset, spec
from coalition.states import ENDED_JOBS, JOB, OPEN_ATTEMPTS, AttemptState, JobState, after
from coalition.store.base import Base, Hot, HotIn, chunks, writes

MAX_DEPTH = 500
MAX_NODES = 2 * MAX_CHILDREN  # jobs and groups of one call
COUNTED = ("total", "waiting", "pending", "working", "finished", "error", "run_ms", "cost_micro")
SPENT = ("run_ms", "cost_micro")  # what was spent stays with the groups above when a job is deleted
COLUMN_OF = {state: state.value.lower() for state in JobState}

INSERT_JOB = Hot(
    insert(job).values(
        {
            c: bindparam(c)
            for c in ("id", "parent", "is_group", "prio", "own_set", "class_id", "state", "paused", "holds", "retries")
        }
    ),
    *("id", "parent", "is_group", "prio", "own_set", "class_id", "state", "paused", "holds", "retries"),
)
SPEC_COLUMNS = ("job_id", "title", "command", "dir", "environment", "user", "timeout_s", "url", "progress_pattern", "created_at")
INSERT_SPEC = Hot(insert(spec).values({c: bindparam(c) for c in SPEC_COLUMNS}), *SPEC_COLUMNS)
INSERT_READY = Hot(insert(ready).values(class_id=bindparam("class_id"), job_id=bindparam("job_id")), "class_id", "job_id")
DELETE_READY = Hot(
    delete(ready).where(ready.c.class_id == bindparam("b_class"), ready.c.job_id == bindparam("b_job")), "b_class", "b_job"
)
INSERT_DEPENDENCY = Hot(
    insert(dependency).values(job_id=bindparam("job_id"), on_id=bindparam("on_id"), met=bindparam("met")),
    "job_id",
    "on_id",
    "met",
)
SET_LEAF = Hot(
    update(job).where(job.c.id == bindparam("b_id")).values(state=bindparam("b_state"), class_id=bindparam("b_class")),
    *("b_state", "b_class", "b_id"),
)
ADD_COUNTS = Hot(
    update(group_count)
    .where(group_count.c.group_id == bindparam("b_id"))
    .values({name: group_count.c[name] + bindparam(f"b_{name}") for name in COUNTED}),
    *(f"b_{name}" for name in COUNTED),
    "b_id",
)
FEED_CLASS = Hot(
    update(klass).where(klass.c.id == bindparam("b_id")).values(nonempty=True, generation=klass.c.generation + 1), "b_id"
)
FINISHED_OF_GROUPS = HotIn(
    lambda ids: select(group_count.c.group_id, group_count.c.total, group_count.c.finished).where(group_count.c.group_id.in_(ids))
)
WAITERS = HotIn(lambda ids: select(dependency.c.job_id, dependency.c.on_id, dependency.c.met).where(dependency.c.on_id.in_(ids)))
PARENT_OF = Hot(select(job.c.parent).where(job.c.id == bindparam("b_id")), "b_id")


@dataclass(frozen=True)
class Above:
    """What a leaf or group inherits."""

    path: str = ""
    set_id: int = 0
    paused: bool = False
    holds: int = 0


@dataclass
class Changes:
    """What a transaction has done so far and must still carry upwards: counts, classes fed, targets that flipped."""

    counts: dict[int, list[int]] = field(default_factory=dict)
    fed: set[int] = field(default_factory=set)
    flips: dict[int, bool] = field(default_factory=dict)  # job or group -> is it FINISHED now
    fed_jobs: int = 0

    def count(self, ancestors: Iterable[int], **deltas: int) -> None:
        for group in ancestors:
            row = self.counts.setdefault(group, [0] * len(COUNTED))
            for name, delta in deltas.items():
                row[COUNTED.index(name)] += delta

    def moved(self, ancestors: Iterable[int], old: str, new: str) -> None:
        if old != new:
            self.count(ancestors, **{COLUMN_OF[JobState(old)]: -1, COLUMN_OF[JobState(new)]: 1})


@dataclass
class Node:
    """A job of a submission on its way into the tables."""

    spec: JobSpec
    parent: int  # index of the parent node, or -1
    path: str  # where it stands in the call, for messages
    is_group: bool
    frame: tuple[int, int, int] | None = None
    id: int = 0


@dataclass(frozen=True)
class Submitted:
    ids: tuple[int, ...]
    count: int
    refs: Mapping[str, int]


class Jobs(Base):
    """The part of the store that is about jobs."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        super().__init__(settings, clock)
        # Requirement sets never change once they are committed, so what was read may be kept for good.
        self._requirements: dict[int, Requirement] = {}

    # ------------------------------------------------------------ submit

    @writes
    def submit(self, db: Connection, specs: Sequence[JobSpec], who: str = "") -> Submitted:
        """Adds jobs, groups and frame ranges, all or none. BadInput names the field that is wrong."""
        nodes = _flatten(specs)
        first = self._allocate(db, "job", len(nodes)) if nodes else 0
        for offset, node in enumerate(nodes):
            node.id = first + offset
        refs = _refs(nodes)
        edges = self._edges(db, nodes, refs)
        changes = Changes()
        self._insert(db, nodes, edges, changes)
        if edges:
            self._refuse_cycle(db, sorted({job_id for job_id, _ in edges}))
        self._settle(db, changes)
        tops = tuple(node.id for node in nodes if node.parent < 0)
        words = f"{len(nodes):,} jobs submitted" if len(nodes) > 1 else "submitted"
        self._event(db, "job.submit", who, words, job_id=tops[0] if tops else None)
        self._bump(db, "backlog")
        return Submitted(tops, len(nodes), refs)

    def _edges(self, db: Connection, nodes: list[Node], refs: Mapping[str, int]) -> dict[tuple[int, int], bool]:
        """(job, target) -> met, of all dependencies in the call."""
        edges: dict[tuple[int, int], bool] = {}
        problems: dict[str, str] = {}
        new = {node.id for node in nodes}
        for node in nodes:
            if node.frame is not None:
                continue  # a frame waits through its group
            for index, target in enumerate(node.spec.depends_on):
                target = target.on if isinstance(target, Dependency) else target
                on = refs.get(target, 0) if isinstance(target, str) else target
                place = f"{node.path}.depends_on[{index}]"
                if not on:
                    problems[place] = f"no job in this call has ref {target!r}"
                elif on == node.id:
                    problems[place] = "a job cannot depend on itself"
                edges[node.id, on] = False
        old = sorted({on for _, on in edges if on not in new and on})
        states = self._states(db, old)
        for node in nodes:
            for index, target in enumerate(node.spec.depends_on if node.frame is None else ()):
                target = target.on if isinstance(target, Dependency) else target
                if isinstance(target, int) and target not in new and target not in states:
                    problems[f"{node.path}.depends_on[{index}]"] = f"there is no job {target}"
        if problems:
            raise BadInput(fields=problems)
        return {(one, on): states.get(on) == JobState.FINISHED for one, on in edges}

    def _insert(self, db: Connection, nodes: list[Node], edges: Mapping[tuple[int, int], bool], changes: Changes) -> None:
        now = self.clock()
        holds: dict[int, int] = {}
        for (one, _), met in edges.items():
            holds[one] = holds.get(one, 0) + (not met)
        sets = _Sets(self, db)
        above: dict[int, Above] = {}
        jobs, specs, readies, groups = [], [], [], []
        chains: dict[int, tuple[int, ...]] = {}
        by_id = {node.id: node for node in nodes}
        for node in nodes:
            parent_id = nodes[node.parent].id if node.parent >= 0 else node.spec.parent
            if parent_id not in above:
                above[parent_id] = self._above(db, parent_id, f"{node.path}.parent")
            up = above[parent_id]
            own, effective = sets.of(node.spec, up.set_id, node.is_group)
            held = holds.get(node.id, 0)
            path = _path(up, node.spec.priority, node.path)
            paused = up.paused or node.spec.paused
            state = JobState.PENDING if held + up.holds else JobState.WAITING
            class_id = 0
            if node.is_group:
                above[node.id] = Above(path, effective, paused, held + up.holds)
                groups.append(
                    {"group_id": node.id, "prio_path": path, "set_id": effective, "paused": paused, "holds": held + up.holds}
                )
            else:
                class_id = sets.class_of(effective, path)
                if parent_id not in chains:
                    chains[parent_id] = self._chain(db, parent_id, by_id, nodes)
                if state == JobState.WAITING and not paused:
                    readies.append((class_id, node.id))
                    changes.fed.add(class_id)
                changes.count(chains[parent_id], total=1, **{COLUMN_OF[state]: 1})
            retries = node.spec.retries
            jobs.append(
                (
                    node.id,
                    parent_id,
                    node.is_group,
                    node.spec.priority,
                    own,
                    class_id,
                    str(state),
                    node.spec.paused,
                    held,
                    retries,
                )
            )
            specs.append(_spec_row(node, now))
        INSERT_JOB.many(db, jobs)
        INSERT_SPEC.many(db, specs)
        self._many(db, INSERT_READY, readies)
        changes.fed_jobs += len(readies)
        self._many(db, INSERT_DEPENDENCY, [(one, on, met) for (one, on), met in edges.items()])
        if groups:
            db.execute(insert(group_inherited), groups)
            db.execute(insert(group_count), [{"group_id": group["group_id"]} for group in groups])

    def _chain(self, db: Connection, parent: int, new: Mapping[int, Node], nodes: list[Node]) -> tuple[int, ...]:
        """The groups above, nearest first, also through groups of this very call."""
        chain = []
        while parent in new:
            chain.append(parent)
            node = new[parent]
            parent = nodes[node.parent].id if node.parent >= 0 else node.spec.parent
        return (*chain, *self._ancestors(db, parent))

    def _above(self, db: Connection, group: int, place: str) -> Above:
        if group == 0:
            return Above()
        found = db.execute(select(group_inherited).where(group_inherited.c.group_id == group)).first()
        if found is None:
            there = db.execute(select(job.c.id).where(job.c.id == group)).first()
            raise BadInput(fields={place: f"job {group} is not a group" if there else f"there is no group {group}"})
        return Above(found.prio_path, found.set_id, found.paused, found.holds)

    def _ancestors(self, db: Connection, parent: int) -> tuple[int, ...]:
        """The group itself and all above it, nearest first."""
        chain: list[int] = []
        while parent:
            chain.append(parent)
            rows = PARENT_OF.all(db, parent)
            parent = rows[0][0] if rows else 0
        return tuple(chain)

    # ------------------------------------------------------------ requirement sets and classes

    def _reqset(self, db: Connection, requirement: Requirement) -> int:
        digest = requirement.hash
        found = db.execute(select(reqset.c.id).where(reqset.c.hash == digest)).scalar()
        if found is None:
            db.execute(self._insert_new(reqset).values(hash=digest, json=requirement.to_json()))
            found = db.execute(select(reqset.c.id).where(reqset.c.hash == digest)).scalar_one()
        return int(found)

    def _requirement(self, db: Connection, set_id: int) -> Requirement:
        """The requirement of a set; sets never change, so what was committed once is remembered."""
        if set_id not in self._requirements:
            text = db.execute(select(reqset.c.json).where(reqset.c.id == set_id)).scalar_one()
            self._requirements[set_id] = Requirement.from_json(text)
        return self._requirements[set_id]

    def _class(self, db: Connection, set_id: int, path: str) -> int:
        path = matching.strip_path(path)
        digest = hashlib.sha256(f"{set_id}/{path}".encode()).hexdigest()
        found = db.execute(select(klass.c.id).where(klass.c.hash == digest)).scalar()
        if found is None:
            db.execute(self._insert_new(klass).values(set_id=set_id, prio_path=path, hash=digest, nonempty=False))
            found = db.execute(select(klass.c.id).where(klass.c.hash == digest)).scalar_one()
        return int(found)

    # ------------------------------------------------------------ what follows from a change

    def _settle(self, db: Connection, changes: Changes) -> None:
        """Carries a transaction's changes upwards and across dependencies until nothing follows any more."""
        while changes.counts or changes.flips:
            self._apply_counts(db, changes)
            flips, changes.flips = changes.flips, {}
            self._flip(db, flips, changes)
        for class_id in sorted(changes.fed):
            FEED_CLASS.many(db, [(class_id,)])
        if changes.fed:
            self._bump(db, "ready")  # whoever knows that nothing is ready looks again

    def _apply_counts(self, db: Connection, changes: Changes) -> None:
        deltas = {group: row for group, row in changes.counts.items() if any(row)}
        changes.counts = {}
        order = sorted(deltas)
        self._many(db, ADD_COUNTS, [(*deltas[group], group) for group in order])
        total, finished = COUNTED.index("total"), COUNTED.index("finished")
        touched = [group for group in order if deltas[group][total] or deltas[group][finished]]
        for group, all_now, finished_now in FINISHED_OF_GROUPS.all(db, touched):
            is_now = all_now > 0 and all_now == finished_now
            before = all_now - deltas[group][total], finished_now - deltas[group][finished]
            was = before[0] > 0 and before[0] == before[1]
            if is_now != was:
                changes.flips[group] = is_now

    def _flip(self, db: Connection, flips: Mapping[int, bool], changes: Changes) -> None:
        """Targets became FINISHED, or are no more: whoever depends on them gains or loses a hold."""
        if not flips:
            return
        affected: dict[int, int] = {}
        rows = []
        for job_id, on_id, met in set(WAITERS.all(db, sorted(flips))):
            if bool(met) != flips[on_id]:
                rows.append({"b_job": job_id, "b_on": on_id, "met": flips[on_id]})
                affected[job_id] = affected.get(job_id, 0) + (-1 if flips[on_id] else 1)
        if rows:
            match = and_(dependency.c.job_id == bindparam("b_job"), dependency.c.on_id == bindparam("b_on"))
            db.execute(update(dependency).where(match), rows)
            self._hold(db, affected, changes)

    def _hold(self, db: Connection, affected: Mapping[int, int], changes: Changes) -> None:
        rows = [{"b_id": job_id, "b_by": by} for job_id, by in affected.items()]
        db.execute(update(job).where(job.c.id == bindparam("b_id")).values(holds=job.c.holds + bindparam("b_by")), rows)
        self._refresh(db, sorted(affected), changes)

    def _refresh(self, db: Connection, roots: Sequence[int], changes: Changes) -> None:
        """Makes everything derived right below these jobs: inherited values, classes, PENDING or WAITING, ready rows."""
        now = self.clock()
        sets = _Sets(self, db)
        above: dict[int, Above] = {0: Above()}
        chains: dict[int, tuple[int, ...]] = {}
        level = self._nodes(db, job.c.id, roots)
        while level:
            self._inherit(db, level, above, sets)
            leaves = [row for row in level if not row.is_group]
            for row in leaves:
                if row.parent not in chains:
                    chains[row.parent] = self._ancestors(db, row.parent)
            self._place(db, leaves, above, chains, sets, changes, now)
            level = self._nodes(db, job.c.parent, [row.id for row in level if row.is_group])

    def _nodes(self, db: Connection, column: Any, ids: Sequence[int]) -> list[Any]:
        columns = (job.c.id, job.c.parent, job.c.is_group, job.c.prio, job.c.own_set, job.c.class_id, job.c.state, job.c.paused)
        rows: list[Any] = []
        for chunk in chunks(ids):
            rows += db.execute(select(*columns, job.c.holds, job.c.not_before).where(column.in_(chunk))).all()
        return rows

    def _inherit(self, db: Connection, level: Sequence[Any], above: dict[int, Above], sets: _Sets) -> None:
        """Fills `above` for the parents of this level, and writes what its groups hand down."""
        missing = sorted({row.parent for row in level} - set(above))
        for chunk in chunks(missing):
            for found in db.execute(select(group_inherited).where(group_inherited.c.group_id.in_(chunk))):
                above[found.group_id] = Above(found.prio_path, found.set_id, found.paused, found.holds)
        written = []
        for row in level:
            if row.is_group:
                up = above[row.parent]
                path = _path(up, row.prio, "changes.parent")
                mine = Above(path, sets.under(row.own_set, up.set_id), up.paused or row.paused, up.holds + row.holds)
                above[row.id] = mine
                written.append(
                    {"b_id": row.id, "prio_path": path, "set_id": mine.set_id, "paused": mine.paused, "holds": mine.holds}
                )
        if written:
            db.execute(update(group_inherited).where(group_inherited.c.group_id == bindparam("b_id")), written)

    def _place(
        self,
        db: Connection,
        leaves: Sequence[Any],
        above: Mapping[int, Above],
        chains: Mapping[int, tuple[int, ...]],
        sets: _Sets,
        changes: Changes,
        now: float,
    ) -> None:
        """Gives leaves their class and state, and their ready rows."""
        moved, gone, readies = [], [], []
        for row in leaves:
            up = above[row.parent]
            path = _path(up, row.prio, "changes.parent")
            class_id = sets.class_of(sets.under(row.own_set, up.set_id), path)
            state = _blocked_or_not(row.state, up.holds + row.holds)
            if state != row.state or class_id != row.class_id:
                moved.append((state, class_id, row.id))
                changes.moved(chains[row.parent], row.state, state)
            if row.state in (JobState.WAITING, JobState.PENDING):
                gone.append((row.class_id, row.id))
            if state == JobState.WAITING and not (up.paused or row.paused) and row.not_before <= now:
                readies.append((class_id, row.id))
                changes.fed.add(class_id)
        self._many(db, SET_LEAF, moved)
        self._many(db, DELETE_READY, gone)
        self._many(db, INSERT_READY, readies)
        changes.fed_jobs += len(readies)

    # ------------------------------------------------------------ actions on selections

    @writes
    def pause(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Holds jobs and all below them; what runs is stopped and put back. The number of selected jobs."""
        ids = self._existing(db, ids)
        changes = Changes()
        leaves = self._below(db, ids)
        self._stop_attempts(db, [row for row in leaves if row.state == JobState.WORKING], f"paused by {who or 'a user'}", changes)
        db.execute(update(job).where(job.c.id == bindparam("b_id")).values(paused=True), [{"b_id": i} for i in ids])
        return self._done(db, ids, changes, "job.pause", who, "paused")

    @writes
    def start(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Takes the pause off the selected jobs."""
        ids = self._existing(db, ids)
        db.execute(update(job).where(job.c.id == bindparam("b_id")).values(paused=False), [{"b_id": i} for i in ids])
        return self._done(db, ids, Changes(), "job.start", who, "started")

    @writes
    def reset(self, db: Connection, ids: Sequence[int], errors_only: bool = False, who: str = "") -> int:
        """Makes ended and running jobs below the selection WAITING again; with `errors_only` those in ERROR."""
        ids = self._existing(db, ids)
        changes = Changes()
        wanted = (JobState.ERROR,) if errors_only else (*ENDED_JOBS, JobState.WORKING)
        leaves = [row for row in self._below(db, ids) if row.state in wanted]
        self._stop_attempts(db, [row for row in leaves if row.state == JobState.WORKING], f"reset by {who or 'a user'}", changes)
        rows = []
        chains: dict[int, tuple[int, ...]] = {}
        for row in leaves:
            if row.state != JobState.WORKING:
                if row.parent not in chains:
                    chains[row.parent] = self._ancestors(db, row.parent)
                changes.moved(chains[row.parent], row.state, after(JOB, row.state, "reset"))
                if row.state == JobState.FINISHED:
                    changes.flips[row.id] = False
            rows.append({"b_id": row.id})
        if rows:
            fresh = {"state": str(JobState.WAITING), "errors": 0, "not_before": 0.0}
            db.execute(update(job).where(job.c.id == bindparam("b_id")).values(fresh), rows)
        return self._done(db, ids, changes, "job.reset", who, f"reset, {len(rows):,} jobs run again")

    @writes
    def delete(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Removes jobs and all below them; what runs is stopped, whoever waited for them is freed."""
        ids = self._existing(db, ids)
        changes = Changes()
        tops = self._outermost(db, ids)
        leaves = self._below(db, tops)
        self._stop_attempts(
            db, [row for row in leaves if row.state == JobState.WORKING], f"deleted by {who or 'a user'}", changes
        )
        for row in self._nodes(db, job.c.id, tops):
            values = self._subtree_counts(db, row, changes)
            changes.count(
                self._ancestors(db, row.parent), **{name: -value for name, value in values.items() if name not in SPENT}
            )
        groups = self._groups_below(db, tops)
        self._many(db, DELETE_READY, [(row.class_id, row.id) for row in leaves])
        for chunk in chunks([*groups, *(row.id for row in leaves)]):
            for table, column in ((job, job.c.id), (spec, spec.c.job_id), (dependency, dependency.c.job_id)):
                db.execute(delete(table).where(column.in_(chunk)))
        for chunk in chunks(groups):
            db.execute(delete(group_inherited).where(group_inherited.c.group_id.in_(chunk)))
            db.execute(delete(group_count).where(group_count.c.group_id.in_(chunk)))
        gone = set(groups)
        changes.counts = {group: row for group, row in changes.counts.items() if group not in gone}
        # Only now: a group that is freed must not count the jobs again that were deleted from it.
        self._free_waiters(db, [*groups, *(row.id for row in leaves)], changes, who)
        self._settle(db, changes)
        self._tell(db, ids, "job.delete", who, f"deleted with {len(leaves):,} jobs")
        return len(ids)

    @writes
    def edit(self, db: Connection, ids: Sequence[int], changed: JobChanges, who: str = "") -> int:
        """Changes fields of jobs; `parent` moves them. All or none."""
        ids = self._existing(db, ids)
        changes = Changes()
        given = {name: value for name, value in vars(changed).items() if value is not None}
        if changed.command is not None:
            self._must_be_leaves(db, ids)
        if changed.command == "":
            raise BadInput(fields={"changes.command": "is empty; a job needs a command"})
        self._edit_spec(db, ids, given)
        if given.keys() & {"priority", "retries"}:
            names = {"priority": "prio", "retries": "retries"}
            values = {names[name]: given[name] for name in names if name in given}
            db.execute(update(job).where(job.c.id == bindparam("b_id")).values(values), [{"b_id": i} for i in ids])
        if given.keys() & {"affinity", "cpus", "memory_bytes", "gpus", "user", "title"}:
            self._edit_requirements(db, ids, given)
        if "parent" in given:
            self._move(db, ids, given["parent"], changes)
        if "depends_on" in given:
            self._depend(db, ids, given["depends_on"])
        if given.keys() & {"parent", "depends_on"}:
            self._refuse_cycle(db, ids)
        return self._done(db, ids, changes, "job.edit", who, "changed " + ", ".join(sorted(given)))

    def _done(self, db: Connection, ids: Sequence[int], changes: Changes, kind: str, who: str, words: str) -> int:
        self._refresh(db, ids, changes)
        self._settle(db, changes)
        self._tell(db, ids, kind, who, words)
        self._bump(db, "backlog")
        return len(ids)

    def _tell(self, db: Connection, ids: Sequence[int], kind: str, who: str, words: str) -> None:
        """One event row for each of a few, one for all of many."""
        if len(ids) > 100:
            self._event(db, kind, who, f"{words}: {len(ids):,} jobs, #{min(ids)} to #{max(ids)}")
            return
        for job_id in ids:
            self._event(db, kind, who, words, job_id=job_id)

    def _existing(self, db: Connection, ids: Sequence[int]) -> list[int]:
        """The ids, each once; NotFound names those that no job has."""
        there: set[int] = set()
        for chunk in chunks(list(ids)):
            there.update(db.execute(select(job.c.id).where(job.c.id.in_(chunk))).scalars())
        missing = sorted(set(ids) - there)
        if missing:
            names = ", ".join(str(job_id) for job_id in missing[:10])
            raise NotFound(f"there is no job {names}" + (" ..." if len(missing) > 10 else ""), fields={"ids": f"no job {names}"})
        return sorted(there)

    def _must_be_leaves(self, db: Connection, ids: Sequence[int]) -> None:
        for chunk in chunks(list(ids)):
            group = db.execute(select(job.c.id).where(job.c.id.in_(chunk), job.c.is_group)).scalar()
            if group:
                raise BadInput(fields={"changes.command": f"job {group} is a group; a group has no command"})

    def _below(self, db: Connection, ids: Sequence[int]) -> list[Any]:
        """The leaves among these jobs and below them, each once."""
        leaves: dict[int, Any] = {}
        level = self._nodes(db, job.c.id, list(ids))
        while level:
            leaves.update((row.id, row) for row in level if not row.is_group)
            level = self._nodes(db, job.c.parent, [row.id for row in level if row.is_group])
        return list(leaves.values())

    def _groups_below(self, db: Connection, ids: Sequence[int]) -> list[int]:
        groups: list[int] = []
        level: list[int] = self._of_kind(db, job.c.id, ids)
        while level:
            groups += level
            level = self._of_kind(db, job.c.parent, level)
        return groups

    def _of_kind(self, db: Connection, column: Any, ids: Sequence[int]) -> list[int]:
        found: list[int] = []
        for chunk in chunks(list(ids)):
            found += db.execute(select(job.c.id).where(column.in_(chunk), job.c.is_group)).scalars()
        return found

    def _outermost(self, db: Connection, ids: Sequence[int]) -> list[int]:
        """Without the jobs that lie below others of the list."""
        chosen = set(ids)
        parents: dict[int, int] = {}
        for chunk in chunks(list(chosen)):
            parents.update((row.id, row.parent) for row in db.execute(select(job.c.id, job.c.parent).where(job.c.id.in_(chunk))))
        covered: dict[int, bool] = {0: False}
        for parent in set(parents.values()) - {0}:
            covered[parent] = not chosen.isdisjoint(self._ancestors(db, parent))
        return sorted(one for one, parent in parents.items() if not covered[parent])

    # ------------------------------------------------------------ parts of the actions

    def _stop_attempts(self, db: Connection, leaves: Sequence[Any], reason: str, changes: Changes) -> None:
        """Ends the open attempts of running jobs and makes the jobs WAITING; the workers hear of it at their next sync."""
        now = self.clock()
        chains: dict[int, tuple[int, ...]] = {}
        for row in leaves:
            if row.parent not in chains:
                chains[row.parent] = self._ancestors(db, row.parent)
            changes.moved(chains[row.parent], row.state, after(JOB, row.state, "requeue"))
        open_states = [str(state) for state in OPEN_ATTEMPTS]
        for chunk in chunks([row.id for row in leaves]):
            stopped = {"state": str(AttemptState.STOPPED), "ended_at": now, "open_worker": None, "reason": reason}
            db.execute(update(attempt).where(attempt.c.job_id.in_(chunk), attempt.c.state.in_(open_states)).values(stopped))
            db.execute(update(job).where(job.c.id.in_(chunk)).values(state=str(JobState.WAITING)))
        if leaves:
            self._bump(db, "fleet")  # whoever keeps in memory what workers hold reads it again

    def _subtree_counts(self, db: Connection, row: Any, changes: Changes) -> dict[str, int]:
        """What a job and all below it add to the counters of the groups above, with this transaction's changes."""
        if not row.is_group:
            spent = select(func.coalesce(func.sum(attempt.c.run_ms), 0), func.coalesce(func.sum(attempt.c.cost_micro), 0))
            run_ms, cost_micro = db.execute(spent.where(attempt.c.job_id == row.id)).one()
            return {"total": 1, COLUMN_OF[JobState(row.state)]: 1, "run_ms": int(run_ms), "cost_micro": int(cost_micro)}
        held = db.execute(select(group_count).where(group_count.c.group_id == row.id)).one()
        pending = changes.counts.get(row.id, [0] * len(COUNTED))
        return {name: getattr(held, name) + pending[index] for index, name in enumerate(COUNTED)}

    def _free_waiters(self, db: Connection, ids: Sequence[int], changes: Changes, who: str) -> None:
        """The stated rule: a dependency on a deleted job is dropped, and whoever waited for it goes on."""
        affected: dict[int, int] = {}
        for job_id, on_id, met in set(WAITERS.all(db, list(ids))) if ids else ():
            if not met:
                affected[job_id] = affected.get(job_id, 0) - 1
            self._event(db, "job.freed", who, f"dependency on #{on_id} dropped: it was deleted", job_id=job_id)
        for chunk in chunks(list(ids)):
            db.execute(delete(dependency).where(dependency.c.on_id.in_(chunk)))
        if affected:
            self._hold(db, affected, changes)

    def _edit_spec(self, db: Connection, ids: Sequence[int], given: Mapping[str, Any]) -> None:
        columns = ("title", "command", "dir", "environment", "user", "timeout_s", "url", "progress_pattern")
        values = {name: given[name] for name in columns if name in given}
        if "environment" in values:
            values["environment"] = json.dumps(dict(values["environment"]))
        if values:
            db.execute(update(spec).where(spec.c.job_id == bindparam("b_id")).values(values), [{"b_id": i} for i in ids])

    def _edit_requirements(self, db: Connection, ids: Sequence[int], given: Mapping[str, Any]) -> None:
        rows = []
        for chunk in chunks(list(ids)):
            query = select(job.c.id, job.c.own_set, job.c.is_group, spec.c.user, spec.c.title)
            for row in db.execute(query.where(spec.c.job_id == job.c.id, job.c.id.in_(chunk))):
                old = self._requirement(db, row.own_set)
                tags = tuple(sorted(set(given.get("affinity", old.tags))))
                new = Requirement(
                    tags,
                    given.get("cpus", old.cpus),
                    given.get("memory_bytes", old.memory_bytes),
                    given.get("gpus", old.gpus),
                    self._payer(row, tags),
                )
                rows.append({"b_id": row.id, "own_set": self._reqset(db, new)})
        db.execute(update(job).where(job.c.id == bindparam("b_id")), rows)

    def _payer(self, row: Any, tags: Sequence[str]) -> str:
        """A group pays by its title, a leaf by its user, both by their tags."""
        user, titles = ("", [row.title]) if row.is_group else (row.user, [])
        return matching.payer(self.settings.budgets, user, titles, tags)

    def _move(self, db: Connection, ids: Sequence[int], parent: int, changes: Changes) -> None:
        self._above(db, parent, "changes.parent")
        inside = set(self._ancestors(db, parent)) & set(ids)
        if inside:
            raise BadInput(fields={"changes.parent": f"{parent} lies in job {min(inside)}, which would be moved into itself"})
        new_chain = self._ancestors(db, parent)
        for row in self._nodes(db, job.c.id, self._outermost(db, ids)):
            values = self._subtree_counts(db, row, changes)
            changes.count(self._ancestors(db, row.parent), **{name: -value for name, value in values.items()})
            changes.count(new_chain, **values)
            db.execute(update(job).where(job.c.id == row.id).values(parent=parent))

    def _depend(self, db: Connection, ids: Sequence[int], targets: Sequence[int]) -> None:
        states = self._states(db, sorted(set(targets)))
        missing = [target for target in targets if target not in states]
        if missing:
            raise BadInput(fields={"changes.depends_on": f"there is no job {missing[0]}"})
        if set(ids) & set(targets):
            raise BadInput(fields={"changes.depends_on": "a job cannot depend on itself"})
        rows = [(one, on, states[on] == JobState.FINISHED) for one in ids for on in sorted(set(targets))]
        for chunk in chunks(list(ids)):
            db.execute(delete(dependency).where(dependency.c.job_id.in_(chunk)))
        self._many(db, INSERT_DEPENDENCY, rows)
        holds = sum(state != JobState.FINISHED for state in states.values())
        db.execute(update(job).where(job.c.id == bindparam("b_id")).values(holds=holds), [{"b_id": i} for i in ids])

    def _states(self, db: Connection, ids: Sequence[int]) -> dict[int, str]:
        """The states of jobs and groups that exist."""
        states: dict[int, str] = {}
        for chunk in chunks(list(ids)):
            query = select(job.c.id, job.c.is_group, job.c.state, group_count).outerjoin(
                group_count, group_count.c.group_id == job.c.id
            )
            for row in db.execute(query.where(job.c.id.in_(chunk))):
                states[row.id] = group_state(row) if row.is_group else row.state
        return states

    # ------------------------------------------------------------ cycles

    def _refuse_cycle(self, db: Connection, ids: Sequence[int]) -> None:
        """BadInput with the path, if the end of one of these jobs would have to wait for itself.

        A job has a start and an end. An end waits for its own start and, in a group, for the ends of the children; a start
        waits for the parent's start and for the ends of what the job depends on.
        """
        graph = self._waits_for(db, ids)
        done: set[tuple[str, int]] = set()
        for job_id in ids:
            path = _find_cycle(graph, ("end", job_id), done)
            if path:
                words = " -> ".join(f"#{one}" for one in path)
                raise BadInput(f"the dependencies would form a cycle: {words}", fields={"depends_on": f"cycle: {words}"})

    def _waits_for(self, db: Connection, ids: Sequence[int]) -> dict[tuple[str, int], list[tuple[str, int]]]:
        graph: dict[tuple[str, int], list[tuple[str, int]]] = {}
        frontier: set[tuple[str, int]] = {("end", job_id) for job_id in ids}
        while frontier:
            for one in frontier:
                graph[one] = [("start", one[1])] if one[0] == "end" else []
            starts = sorted(job_id for kind, job_id in frontier if kind == "start")
            ends = sorted(job_id for kind, job_id in frontier if kind == "end")
            for chunk in chunks(starts):
                for row in db.execute(select(dependency.c.job_id, dependency.c.on_id).where(dependency.c.job_id.in_(chunk))):
                    graph["start", row.job_id].append(("end", row.on_id))
                for row in db.execute(select(job.c.id, job.c.parent).where(job.c.id.in_(chunk), job.c.parent != 0)):
                    graph["start", row.id].append(("start", row.parent))
            for chunk in chunks(ends):
                for row in db.execute(select(job.c.id, job.c.parent).where(job.c.parent.in_(chunk))):
                    graph["end", row.parent].append(("end", row.id))
            frontier = {two for one in frontier for two in graph[one]} - graph.keys()
        return graph


class _Sets:
    """Requirement sets and classes of one transaction, each looked up once."""

    def __init__(self, store: Jobs, db: Connection) -> None:
        self.store, self.db = store, db
        self._own: dict[tuple[Any, ...], tuple[Requirement, int]] = {}
        self._under: dict[tuple[int, int], int] = {}
        self._classes: dict[tuple[int, str], int] = {}
        self._effective: dict[int, Requirement] = {}

    def of(self, spec: JobSpec, above: int, is_group: bool) -> tuple[int, int]:
        """(own set, set with the ancestors')."""
        user = "" if is_group else spec.user
        key = (spec.affinity, spec.cpus, spec.memory_bytes, spec.gpus, user, spec.title if is_group else None)
        if key not in self._own:
            titles = [spec.title] if is_group else []
            payer = matching.payer(self.store.settings.budgets, user, titles, spec.affinity)
            own = Requirement(tuple(sorted(set(spec.affinity))), spec.cpus, spec.memory_bytes, spec.gpus, payer)
            self._own[key] = own, self.store._reqset(self.db, own)
        own_id = self._own[key][1]
        return own_id, self.under(own_id, above)

    def under(self, own: int, above: int) -> int:
        if not above:
            return own
        if (own, above) not in self._under:
            both = self._requirement(own).under(self._requirement(above))
            self._under[own, above] = self.store._reqset(self.db, both)
        return self._under[own, above]

    def _requirement(self, set_id: int) -> Requirement:
        if set_id not in self._effective:
            text = self.db.execute(select(reqset.c.json).where(reqset.c.id == set_id)).scalar_one()
            self._effective[set_id] = Requirement.from_json(text)
        return self._effective[set_id]

    def class_of(self, set_id: int, path: str) -> int:
        if (set_id, path) not in self._classes:
            self._classes[set_id, path] = self.store._class(self.db, set_id, path)
        return self._classes[set_id, path]


def group_state(row: Any) -> str:
    """A group's state from its counters: ERROR if any is in error, FINISHED if all are, else what its leaves do."""
    if not row.total:
        return JobState.WAITING
    if row.error:
        return JobState.ERROR
    if row.finished == row.total:
        return JobState.FINISHED
    if row.working:
        return JobState.WORKING
    return JobState.WAITING if row.waiting else JobState.PENDING


def _path(up: Above, priority: int, place: str) -> str:
    """The priority path below a group; BadInput where the tree would grow too deep, whose column has an end."""
    path = matching.extend_path(up.path, priority)
    if len(path) > 2 * MAX_DEPTH:
        raise BadInput(fields={place: f"is more than {MAX_DEPTH} levels deep"})
    return path


def _blocked_or_not(state: str, holds: int) -> str:
    if state == JobState.WAITING and holds:
        return after(JOB, state, "block")
    if state == JobState.PENDING and not holds:
        return after(JOB, state, "unblock")
    return state


def _flatten(specs: Sequence[JobSpec]) -> list[Node]:
    """All nodes of a submission, parents before children, frame ranges expanded. BadInput for what cannot be."""
    nodes: list[Node] = []
    stack = [(spec, -1, f"jobs[{index}]", 1) for index, spec in reversed(list(enumerate(specs)))]
    while stack:
        one, parent, path, depth = stack.pop()
        is_group = bool(one.group or one.children or one.frames)
        _check_node(one, parent, path, depth, is_group)
        _check_size(len(nodes) + 1, path)
        nodes.append(Node(one, parent, path, is_group))
        here = len(nodes) - 1
        if one.frames:
            try:
                numbers = frames.parse(one.frames)
            except BadInput as error:
                raise BadInput(fields={f"{path}.frames": error.fields["frames"]}) from None
            span = (min(numbers), max(numbers))
            leaf = JobSpec(
                **{**vars(one), "frames": None, "ref": None, "paused": False, "depends_on": (), "affinity": (), "priority": 127}
            )
            _check_size(len(nodes) + len(numbers), path)
            nodes += [Node(leaf, here, path, False, (number, *span)) for number in numbers]
        stack += [(child, here, f"{path}.children[{i}]", depth + 1) for i, child in reversed(list(enumerate(one.children)))]
    return nodes


def _check_node(one: JobSpec, parent: int, path: str, depth: int, is_group: bool) -> None:
    problems = {}
    if is_group and one.command and not one.frames:
        problems[f"{path}.command"] = "a group has no command; give it to its children, or give `frames`"
    if one.frames and one.children:
        problems[f"{path}.frames"] = "give either `frames` or `children`"
    if (not is_group or one.frames) and not one.command:
        problems[f"{path}.command"] = "is missing; a job needs a command (or is a group)"
    if parent >= 0 and one.parent:
        problems[f"{path}.parent"] = "a child's parent is the group it stands in"
    if depth > MAX_DEPTH:
        problems[path] = f"is more than {MAX_DEPTH} levels deep"
    if problems:
        raise BadInput(fields=problems)


def _check_size(count: int, path: str) -> None:
    if count > MAX_NODES:
        raise TooLarge(fields={path: f"is beyond {MAX_NODES:,} jobs; submit the rest in further calls"})


def _refs(nodes: Sequence[Node]) -> dict[str, int]:
    refs: dict[str, int] = {}
    for node in nodes:
        ref = node.spec.ref
        if ref is not None and node.frame is None:
            if ref in refs:
                raise BadInput(fields={f"{node.path}.ref": f"{ref!r} is used twice"})
            refs[ref] = node.id
    return refs


def _spec_row(node: Node, now: float) -> tuple[Any, ...]:
    one = node.spec
    title, command, url = one.title, one.command, one.url
    if node.frame is not None:
        title, command, url = (frames.fill(text or "", *node.frame) for text in (title, command, url))
        if title == one.title:
            title = f"{title} {node.frame[0]}".strip()
        title = title[:MAX_TITLE]
    elif node.is_group:
        command = None
    environment = json.dumps(dict(one.environment)) if one.environment else "{}"
    return (node.id, title, command, one.dir, environment, one.user, one.timeout_s, url, one.progress_pattern, now)


def _find_cycle(
    graph: Mapping[tuple[str, int], Sequence[tuple[str, int]]], origin: tuple[str, int], done: set[tuple[str, int]]
) -> list[int] | None:
    """The jobs on a cycle that can be reached from `origin`, first and last the same; None if there is none."""
    path: list[tuple[str, int]] = []
    on_path: set[tuple[str, int]] = set()
    stack = [(origin, iter(graph[origin]))] if origin not in done else []
    while stack:
        node, following = stack[-1]
        if node not in on_path:
            path.append(node)
            on_path.add(node)
        step = next((two for two in following if two not in done), None)
        if step is None:
            stack.pop()
            on_path.discard(path.pop())
            done.add(node)
        elif step in on_path:
            jobs = [job_id for _, job_id in [*path[path.index(step) :], step]]
            return [one for index, one in enumerate(jobs) if index == 0 or one != jobs[index - 1]]
        else:
            stack.append((step, iter(graph[step])))
    return None
