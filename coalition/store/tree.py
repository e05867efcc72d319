"""The tree of jobs: what is handed down to a job, what is counted upwards, and where it stands in the order of dispatch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from coalition import matching
from coalition.config import Settings
from coalition.errors import BadInput, NotFound
from coalition.matching import Requirement
from coalition.model import JobSpec
from coalition.schema import attempt, group_count, group_inherited, job, klass, ready, reqset
from coalition.states import JOB, JobState, after
from coalition.store.base import Base, Hot, HotIn, chunks

MAX_DEPTH = 500
FARM = 0  # the counters of all there is stand where those of a group with this id would
COUNTED = ("total", "waiting", "pending", "working", "finished", "error", "run_ms", "cost_micro")
SPENT = ("run_ms", "cost_micro")  # what was spent stays with the groups above when a job is deleted
PLACE_OF = {name: place for place, name in enumerate(COUNTED)}
COLUMN_OF = {state: state.value.lower() for state in JobState}

READY_COLUMNS = ("class_id", "job_id", "avoid")
INSERT_READY = Hot(insert(ready).values({c: bindparam(c) for c in READY_COLUMNS}), *READY_COLUMNS)
DELETE_READY = Hot(
    delete(ready).where(ready.c.class_id == bindparam("b_class"), ready.c.job_id == bindparam("b_job")), "b_class", "b_job"
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
GROUP_STATES = HotIn(
    lambda ids: (
        select(group_count.c.group_id, job.c.state, *(group_count.c[name] for name in ("total", *COLUMN_OF.values())))
        .join(job, job.c.id == group_count.c.group_id)
        .where(group_count.c.group_id.in_(ids))
    )
)
SET_STATE = Hot(update(job).where(job.c.id == bindparam("b_id")).values(state=bindparam("b_state")), "b_state", "b_id")
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
    tokens: dict[tuple[str, int], int] = field(default_factory=dict)  # (limit, worker) -> given back

    def count(self, ancestors: Iterable[int], **deltas: int) -> None:
        for group in (FARM, *ancestors):
            row = self.counts.setdefault(group, [0] * len(COUNTED))
            for name, delta in deltas.items():
                row[PLACE_OF[name]] += delta

    def moved(self, ancestors: Iterable[int], old: str, new: str) -> None:
        if old != new:
            self.count(ancestors, **{COLUMN_OF[JobState(old)]: -1, COLUMN_OF[JobState(new)]: 1})


class _GroupRow(NamedTuple):
    """A group's state as it is written, and its counters, in the order of GROUP_STATES."""

    id: int
    state: str
    total: int
    waiting: int
    pending: int
    working: int
    finished: int
    error: int


class Tree(Base):
    """What follows from a job's place in the tree."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        super().__init__(settings, clock)
        # Requirement sets never change once they are committed, so what was read may be kept for good.
        self._requirements: dict[int, Requirement] = {}

    # ------------------------------------------------------------ walking

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

    def _nodes(self, db: Connection, column: Any, ids: Sequence[int]) -> list[Any]:
        columns = (job.c.id, job.c.parent, job.c.is_group, job.c.prio, job.c.own_set, job.c.class_id, job.c.state, job.c.paused)
        rows: list[Any] = []
        for chunk in chunks(ids):
            rows += db.execute(select(*columns, job.c.holds, job.c.not_before, job.c.avoid).where(column.in_(chunk))).all()
        return rows

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

    def _subtree_counts(self, db: Connection, row: Any, changes: Changes) -> dict[str, int]:
        """What a job and all below it add to the counters of the groups above, with this transaction's changes."""
        if not row.is_group:
            spent = select(func.coalesce(func.sum(attempt.c.run_ms), 0), func.coalesce(func.sum(attempt.c.cost_micro), 0))
            run_ms, cost_micro = db.execute(spent.where(attempt.c.job_id == row.id)).one()
            return {"total": 1, COLUMN_OF[JobState(row.state)]: 1, "run_ms": int(run_ms), "cost_micro": int(cost_micro)}
        held = db.execute(select(group_count).where(group_count.c.group_id == row.id)).one()
        pending = changes.counts.get(row.id, [0] * len(COUNTED))
        return {name: getattr(held, name) + pending[index] for index, name in enumerate(COUNTED)}

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

    # ------------------------------------------------------------ counting up, handing down

    def _apply_counts(self, db: Connection, changes: Changes) -> None:
        deltas = {group: row for group, row in changes.counts.items() if any(row)}
        changes.counts = {}
        order = sorted(deltas)
        self._many(db, ADD_COUNTS, [(*deltas[group], group) for group in order])
        self._write_group_states(db, order)
        total, finished = COUNTED.index("total"), COUNTED.index("finished")
        touched = [group for group in order if deltas[group][total] or deltas[group][finished]]
        for group, all_now, finished_now in FINISHED_OF_GROUPS.all(db, touched):
            is_now = all_now > 0 and all_now == finished_now
            before = all_now - deltas[group][total], finished_now - deltas[group][finished]
            was = before[0] > 0 and before[0] == before[1]
            if is_now != was:
                changes.flips[group] = is_now

    def _write_group_states(self, db: Connection, groups: Sequence[int]) -> None:
        """Groups are found by state like leaves: what the counters say now is written beside them where it is another."""
        rows = [_GroupRow(*row) for row in GROUP_STATES.all(db, groups)]
        self._many(db, SET_STATE, [(str(group_state(row)), row.id) for row in rows if group_state(row) != row.state])

    def _refresh(self, db: Connection, roots: Sequence[int], changes: Changes) -> None:
        """Makes everything derived right below these jobs: inherited values, classes, PENDING or WAITING, ready rows."""
        now = self.clock()
        sets = Sets(self, db)
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

    def _inherit(self, db: Connection, level: Sequence[Any], above: dict[int, Above], sets: Sets) -> None:
        """Fills `above` for the parents of this level, and writes what its groups hand down."""
        missing = sorted({row.parent for row in level} - set(above))
        for chunk in chunks(missing):
            for found in db.execute(select(group_inherited).where(group_inherited.c.group_id.in_(chunk))):
                above[found.group_id] = Above(found.prio_path, found.set_id, found.paused, found.holds)
        written = []
        for row in level:
            if row.is_group:
                up = above[row.parent]
                path = path_below(up, row.prio, "changes.parent")
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
        sets: Sets,
        changes: Changes,
        now: float,
    ) -> None:
        """Gives leaves their class and state, and their ready rows."""
        moved, gone, readies = [], [], []
        for row in leaves:
            up = above[row.parent]
            path = path_below(up, row.prio, "changes.parent")
            class_id = sets.class_of(sets.under(row.own_set, up.set_id), path)
            state = _blocked_or_not(row.state, up.holds + row.holds)
            if state != row.state or class_id != row.class_id:
                moved.append((state, class_id, row.id))
                changes.moved(chains[row.parent], row.state, state)
            if row.state in (JobState.WAITING, JobState.PENDING):
                gone.append((row.class_id, row.id))
            if state == JobState.WAITING and not (up.paused or row.paused) and row.not_before <= now:
                readies.append((class_id, row.id, row.avoid))
                changes.fed.add(class_id)
        self._many(db, SET_LEAF, moved)
        self._many(db, DELETE_READY, gone)
        self._many(db, INSERT_READY, readies)
        changes.fed_jobs += len(readies)


class Sets:
    """Requirement sets and classes of one transaction, each looked up once."""

    def __init__(self, store: Tree, db: Connection) -> None:
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


def path_below(up: Above, priority: int, place: str) -> str:
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
