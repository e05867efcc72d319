"""The tree of jobs: what is handed down to a job, what is counted upwards, and what is ready to be dispatched."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from sqlalchemy import Connection, bindparam, delete, func, insert, literal, select, update
from sqlalchemy.sql import ColumnElement

from coalition import matching
from coalition.config import Settings
from coalition.errors import BadInput, NotFound
from coalition.matching import Requirement
from coalition.schema import archive, attempt, group_count, group_inherited, job, klass, ready, spec
from coalition.states import ENDED_JOBS, JOB, JobState, after
from coalition.store.base import Base, Hot, HotIn, chunks
from coalition.store.sets import SET_JSON, Sets, group_limit

MAX_DEPTH = 500
FARM = 0  # the counters of all there is stand where those of a group with this id would
COUNTED = ("total", "waiting", "pending", "working", "finished", "error", "run_ms", "cost_micro")
SPENT = ("run_ms", "cost_micro")  # what was spent stays with the groups above when a job is deleted
PLACE_OF = {name: place for place, name in enumerate(COUNTED)}
COLUMN_OF = {state: state.value.lower() for state in JobState}

DELETE_READY = Hot(
    delete(ready).where(ready.c.class_id == bindparam("b_class"), ready.c.job_id == bindparam("b_job")), "b_class", "b_job"
)
UNREADY = HotIn(lambda ids: delete(ready).where(ready.c.class_id == bindparam("b_class"), ready.c.job_id.in_(ids)), "b_class")
MAKE_READY = HotIn(
    lambda ids: insert(ready).from_select(
        ["class_id", "job_id", "avoid"], select(job.c.class_id, job.c.id, job.c.avoid).where(job.c.id.in_(ids))
    )
)
SET_LEAVES = HotIn(
    lambda ids: update(job).where(job.c.id.in_(ids)).values(state=bindparam("b_state"), class_id=bindparam("b_class")),
    *("b_state", "b_class"),
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
COUNTS_OF = HotIn(
    lambda ids: (
        select(group_count.c.group_id, job.c.state, *(group_count.c[name] for name in ("total", *COLUMN_OF.values())))
        .join(job, job.c.id == group_count.c.group_id)
        .where(group_count.c.group_id.in_(ids))
    )
)
IDS = HotIn(lambda ids: select(job.c.id, job.c.is_group).where(job.c.id.in_(ids)))
COUNTERS_OF = HotIn(
    lambda ids: select(group_count.c.group_id, *(group_count.c[name] for name in COUNTED)).where(group_count.c.group_id.in_(ids))
)
SPENT_BY = HotIn(
    lambda ids: (
        select(attempt.c.job_id, func.sum(attempt.c.run_ms), func.sum(attempt.c.cost_micro))
        .where(attempt.c.job_id.in_(ids))
        .group_by(attempt.c.job_id)
    )
)


# When the first job below a group began, and the last one ended.
def _times_by(column: ColumnElement[int]) -> HotIn:
    began = func.min(func.coalesce(job.c.started_at, group_count.c.started_at))
    ended = func.max(func.coalesce(job.c.ended_at, group_count.c.ended_at))
    query = select(job.c.parent, began, ended).outerjoin(group_count, group_count.c.group_id == job.c.id).group_by(job.c.parent)
    return HotIn(lambda ids: query.where(column.in_(ids)))


TIMES_BY_ID, TIMES_BY_PARENT = _times_by(job.c.id), _times_by(job.c.parent)
TIMES_OF = HotIn(
    lambda ids: select(group_count.c.group_id, group_count.c.started_at, group_count.c.ended_at).where(
        group_count.c.group_id.in_(ids)
    )
)
LAST_END = Hot(
    update(group_count).where(group_count.c.group_id == bindparam("b_id")).values(ended_at=bindparam("b_at")), "b_at", "b_id"
)
SET_TIMES = Hot(
    update(group_count)
    .where(group_count.c.group_id == bindparam("b_id"))
    .values(started_at=bindparam("b_started"), ended_at=bindparam("b_ended")),
    *("b_started", "b_ended", "b_id"),
)
SET_STATE = Hot(update(job).where(job.c.id == bindparam("b_id")).values(state=bindparam("b_state")), "b_state", "b_id")
PARENT_OF = Hot(select(job.c.parent).where(job.c.id == bindparam("b_id")), "b_id")
HAND_DOWN = Hot(
    update(group_inherited)
    .where(group_inherited.c.group_id == bindparam("b_id"))
    .values({name: bindparam(f"b_{name}") for name in ("prio_path", "set_id", "paused", "holds")}),
    *("b_prio_path", "b_set_id", "b_paused", "b_holds", "b_id"),
)


class Node(NamedTuple):
    """A job with what its place in the tree decides. `ready` is not None if it has a ready row."""

    id: int
    parent: int
    is_group: bool
    prio: int
    own_set: int
    class_id: int
    state: str
    paused: bool
    holds: int
    not_before: float
    max_running: int
    ready: int | None
    user: str  # empty where nothing depends on it


NODE_COLUMNS = [job.c[name] for name in Node._fields[:11]]


def _nodes_by(column: ColumnElement[int], with_user: bool) -> HotIn:
    there = (ready.c.class_id == job.c.class_id) & (ready.c.job_id == job.c.id)
    columns = (*NODE_COLUMNS, ready.c.job_id.label("ready"), spec.c.user if with_user else literal("").label("user"))
    tables = job.outerjoin(ready, there).join(spec, spec.c.job_id == job.c.id) if with_user else job.outerjoin(ready, there)
    return HotIn(lambda ids: select(*columns).select_from(tables).where(column.in_(ids)))


NODES = {with_user: _nodes_by(job.c.id, with_user) for with_user in (False, True)}
CHILDREN = {with_user: _nodes_by(job.c.parent, with_user) for with_user in (False, True)}


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
    flips: dict[int, tuple[bool, bool]] = field(default_factory=dict)  # job or group -> is it FINISHED now, has it ended
    retime: set[int] = field(default_factory=set)  # groups that lost the job which began first, or ended last
    tokens: dict[tuple[str, int], int] = field(default_factory=dict)  # (limit, worker) -> given back
    reclassed: dict[int, list[int]] = field(default_factory=dict)  # class -> running jobs that stand in it now

    def count(self, ancestors: Iterable[int], **deltas: int) -> None:
        for group in (FARM, *ancestors):
            row = self.counts.setdefault(group, [0] * len(COUNTED))
            for name, delta in deltas.items():
                row[PLACE_OF[name]] += delta

    def moved(self, ancestors: Iterable[int], old: str, new: str, jobs: int = 1) -> None:
        if old != new:
            self.count(ancestors, **{COLUMN_OF[JobState(old)]: -jobs, COLUMN_OF[JobState(new)]: jobs})


class Counted(NamedTuple):
    """A group's state as it is written, and its counters, in the order of COUNTS_OF."""

    id: int
    state: str
    total: int
    waiting: int
    pending: int
    working: int
    finished: int
    error: int


Times = tuple[float | None, float | None]  # when the first began, when the last ended


def _merged(rows: Iterable[Sequence[Any]]) -> dict[int, Times]:
    """By group: the earliest start and the latest end of rows (group, start, end)."""
    times: dict[int, Times] = {}
    for group, *row in rows:
        pairs = [times.get(group, (None, None)), row]
        started, ended = ([pair[at] for pair in pairs if pair[at] is not None] for at in (0, 1))
        times[group] = (min(started, default=None), max(ended, default=None))
    return times


class Chains:
    """The groups above jobs, each looked up once."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self._known: dict[int, tuple[int, ...]] = {0: ()}

    def __getitem__(self, parent: int) -> tuple[int, ...]:
        """The group itself and all above it, nearest first."""
        below = []
        while parent not in self._known:
            below.append(parent)
            rows = PARENT_OF.all(self.db, parent)
            parent = rows[0][0] if rows else 0
        chain = self._known[parent]
        for group in reversed(below):
            chain = self._known[group] = (group, *chain)
        return chain

    def add(self, group: int, parent: int) -> None:
        """A group that the tables do not have yet."""
        self._known[group] = (group, *self[parent])

    def root(self, parent: int) -> int:
        """The top group of a tree; 0 for a job in none."""
        return self[parent][-1] if parent else 0


class Tree(Base):
    """What follows from a job's place in the tree."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        super().__init__(settings, clock)
        # Requirement sets never change once they are committed, so what was read may be kept for good.
        self._requirements: dict[int, Requirement] = {}

    def twin(self) -> Self:
        other = super().twin()
        other._requirements = {}
        return other

    @property
    def _by_user(self) -> bool:
        """Whether a leaf's class depends on its user."""
        return self.settings.scheduler.fair == "user" or self.settings.scheduler.max_running_per_user > 0

    def _requirement(self, db: Connection, set_id: int) -> Requirement:
        """The requirement of a set; sets never change, so what was committed once is remembered."""
        if set_id not in self._requirements:
            self._requirements[set_id] = Requirement.from_json(SET_JSON.all(db, set_id)[0][0])
        return self._requirements[set_id]

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
        return Chains(db)[parent]

    def _nodes(self, db: Connection, ids: Sequence[int]) -> list[Node]:
        return list(map(Node._make, NODES[self._by_user].all(db, ids)))

    def _children(self, db: Connection, parents: Sequence[int]) -> list[Node]:
        return list(map(Node._make, CHILDREN[self._by_user].all(db, parents)))

    def _walk(self, db: Connection, ids: Sequence[int]) -> tuple[list[Node], list[Node]]:
        """(groups, leaves) among these jobs and below them, each once."""
        groups: dict[int, Node] = {}
        leaves: dict[int, Node] = {}
        level = self._nodes(db, ids)
        while level:
            new = [row for row in level if row.is_group and row.id not in groups]
            groups.update((row.id, row) for row in new)
            leaves.update((row.id, row) for row in level if not row.is_group)
            level = self._children(db, [row.id for row in new])
        return list(groups.values()), list(leaves.values())

    def _below(self, db: Connection, ids: Sequence[int]) -> list[Node]:
        """The leaves among these jobs and below them, each once."""
        return self._walk(db, ids)[1]

    def _existing(self, db: Connection, ids: Sequence[int]) -> list[int]:
        """The ids, each once; NotFound names those that no job has."""
        there = {row[0] for row in IDS.all(db, list(ids))}
        missing = sorted(set(ids) - there)
        if missing:
            names = ", ".join(str(job_id) for job_id in missing[:10])
            raise NotFound(f"there is no job {names}" + (" ..." if len(missing) > 10 else ""), fields={"ids": f"no job {names}"})
        return sorted(there)

    def _outermost(self, db: Connection, ids: Sequence[int]) -> list[Node]:
        """Without the jobs that lie below others of the list."""
        chosen, chains = set(ids), Chains(db)
        return [row for row in self._nodes(db, sorted(chosen)) if chosen.isdisjoint(chains[row.parent])]

    def _states(self, db: Connection, ids: Sequence[int]) -> dict[int, str]:
        """The states of jobs and groups that exist; what is archived is FINISHED."""
        found = {row.id: group_state(row) if row.is_group else row.state for row in self._with_counts(db, ids)}
        return found | dict.fromkeys(self._archived(db, ids), JobState.FINISHED)

    def _over(self, db: Connection, ids: Sequence[int]) -> dict[int, tuple[bool, bool]]:
        """Of jobs and groups that exist: are they FINISHED, have they ended. What is archived is both."""
        found = {
            row.id: group_over(row.total, row.finished, row.error) if row.is_group else over(row.state)
            for row in self._with_counts(db, ids)
        }
        return found | dict.fromkeys(self._archived(db, ids), (True, True))

    def _archived(self, db: Connection, ids: Sequence[int]) -> list[int]:
        """Those that have left for the archive."""
        found: list[int] = []
        for chunk in chunks(list(ids)):
            found += db.execute(select(archive.c.job_id).where(archive.c.job_id.in_(chunk))).scalars()
        return found

    def _with_counts(self, db: Connection, ids: Sequence[int]) -> Iterator[Any]:
        query = select(job.c.id, job.c.is_group, job.c.state, group_count)
        query = query.outerjoin(group_count, group_count.c.group_id == job.c.id)
        for chunk in chunks(list(ids)):
            yield from db.execute(query.where(job.c.id.in_(chunk)))

    # ------------------------------------------------------------ counting up

    def _counted(self, db: Connection, rows: Sequence[Node], changes: Changes) -> dict[int, Counter[str]]:
        """By parent: what these jobs and all below them add to the counters above them, with this transaction's changes."""
        sums: dict[int, Counter[str]] = {row.parent: Counter() for row in rows}
        parents = {row.id: row.parent for row in rows}
        for row in rows:
            if not row.is_group:
                sums[row.parent].update(("total", COLUMN_OF[JobState(row.state)]))
        for job_id, run_ms, cost_micro in SPENT_BY.all(db, [row.id for row in rows if not row.is_group]):
            sums[parents[job_id]].update(run_ms=int(run_ms), cost_micro=int(cost_micro))
        for group_id, *held in COUNTERS_OF.all(db, [row.id for row in rows if row.is_group]):
            sums[parents[group_id]].update(dict(zip(COUNTED, held, strict=True)))
            sums[parents[group_id]].update(dict(zip(COUNTED, changes.counts.get(group_id, ()), strict=False)))
        return sums

    def _apply_counts(self, db: Connection, changes: Changes) -> None:
        deltas = {group: row for group, row in changes.counts.items() if any(row)}
        changes.counts = {}
        order = sorted(deltas)
        self._many(db, ADD_COUNTS, [(*deltas[group], group) for group in order])
        states = []
        for row in map(Counted._make, COUNTS_OF.all(db, order)):
            # Groups are found by state like leaves: what the counters say is written beside them where it is another.
            if group_state(row) != row.state:
                states.append((str(group_state(row)), row.id))
            mine = deltas[row.id]
            before = [getattr(row, name) - mine[PLACE_OF[name]] for name in ("total", "finished", "error")]
            if (is_now := group_over(row.total, row.finished, row.error)) != group_over(*before):
                changes.flips[row.id] = is_now
        self._many(db, SET_STATE, states)

    # ------------------------------------------------------------ times

    def _mark_ended(self, db: Connection, parents: Iterable[int], now: float) -> None:
        """Jobs in these groups have ended now."""
        chains = Chains(db)
        self._many(db, LAST_END, [(now, group) for group in sorted({group for parent in parents for group in chains[parent]})])

    def _leave(self, db: Connection, ids: Sequence[int], changes: Changes) -> Times:
        """Jobs that are about to go, or to be as new: the groups above those that set their times are to be timed again.

        Gives back when the first of them began and the last ended.
        """
        by_parent = _merged(TIMES_BY_ID.all(db, ids))
        kept = {row[0]: (row[1], row[2]) for row in TIMES_OF.all(db, sorted(by_parent))}
        for parent, (started, ended) in by_parent.items():
            first, last = kept.get(parent, (None, None))
            if (started is not None and started == first) or (ended is not None and ended == last):
                changes.retime.add(parent)
        return _merged((0, *times) for times in by_parent.values()).get(0, (None, None))

    def _arrive(self, db: Connection, chain: Sequence[int], times: Times) -> None:
        """Jobs that began and ended at these times stand below these groups now."""
        rows = _merged([*TIMES_OF.all(db, chain), *((group, *times) for group in chain)])
        self._many(db, SET_TIMES, [(*rows[group], group) for group in sorted(chain)])

    def _retime(self, db: Connection, changes: Changes) -> None:
        """Looks again when the jobs below groups began and ended, upwards as far as that changes anything."""
        level, changes.retime = sorted(changes.retime), set()
        while level:
            now = _merged(TIMES_BY_PARENT.all(db, level))
            kept = {row[0]: (row[1], row[2]) for row in TIMES_OF.all(db, level)}
            changed = {group: times for group in kept if (times := now.get(group, (None, None))) != kept[group]}
            self._many(db, SET_TIMES, [(*times, group) for group, times in sorted(changed.items())])
            level = sorted({node.parent for node in self._nodes(db, sorted(changed))} - {0})

    # ------------------------------------------------------------ handing down

    def _refresh(self, db: Connection, roots: Sequence[int], changes: Changes) -> None:
        """Makes everything derived right below these jobs: inherited values, classes, PENDING or WAITING, ready rows."""
        sets, chains = Sets(self, db), Chains(db)
        above: dict[int, Above] = {0: Above()}
        level = self._nodes(db, roots)
        while level:
            groups = [row for row in level if row.is_group]
            self._read_above(db, {row.parent for row in level} - above.keys(), above)
            self._inherit(db, groups, above, sets)
            self._place(db, [row for row in level if not row.is_group], above, chains, sets, changes)
            level = self._children(db, [row.id for row in groups])

    def _read_above(self, db: Connection, groups: set[int], above: dict[int, Above]) -> None:
        for chunk in chunks(sorted(groups)):
            for found in db.execute(select(group_inherited).where(group_inherited.c.group_id.in_(chunk))):
                above[found.group_id] = Above(found.prio_path, found.set_id, found.paused, found.holds)

    def _inherit(self, db: Connection, groups: Sequence[Node], above: dict[int, Above], sets: Sets) -> None:
        """Writes what groups hand down, and adds it to `above`."""
        written = []
        for row in groups:
            up = above[row.parent]
            token = group_limit(row.id) if row.max_running else ""
            mine = Above(
                path_below(up, row.prio, "changes.parent"),
                sets.handed(row.own_set, up.set_id, token),
                bool(up.paused or row.paused),
                up.holds + row.holds,
            )
            above[row.id] = mine
            written.append((mine.path, mine.set_id, mine.paused, mine.holds, row.id))
        self._many(db, HAND_DOWN, written)

    def _place(
        self,
        db: Connection,
        leaves: Sequence[Node],
        above: Mapping[int, Above],
        chains: Chains,
        sets: Sets,
        changes: Changes,
    ) -> None:
        """Gives leaves their class and state, and their ready rows."""
        now = self.clock()
        classes: dict[tuple[int, int, int, str], int] = {}
        flow: Counter[tuple[int, str, str]] = Counter()
        work = _Work()
        for row in leaves:
            up = above[row.parent]
            key = (row.parent, row.own_set, row.prio, row.user)
            if key not in classes:
                path = path_below(up, row.prio, "changes.parent")
                classes[key] = sets.leaf_class(row.own_set, up.set_id, path, row.user, chains.root(row.parent))
            state = _blocked_or_not(row.state, up.holds + row.holds)
            flow[row.parent, row.state, state] += 1
            starts = state == JobState.WAITING and not (up.paused or row.paused) and row.not_before <= now
            work.add(row, state, classes[key], starts)
        for (parent, old, new), jobs in flow.items():
            changes.moved(chains[parent], old, new, jobs)
        work.write(db, changes)


class _Work:
    """What is to be written of leaves, by what it becomes."""

    def __init__(self) -> None:
        self.become: dict[tuple[str, int], list[int]] = {}
        self.gone: dict[int, list[int]] = {}
        self.fresh: dict[int, list[int]] = {}

    def add(self, row: Node, state: str, class_id: int, starts: bool) -> None:
        if state != row.state or class_id != row.class_id:
            self.become.setdefault((state, class_id), []).append(row.id)
        if row.ready is not None and (not starts or class_id != row.class_id):
            self.gone.setdefault(row.class_id, []).append(row.id)
        if starts and (row.ready is None or class_id != row.class_id):
            self.fresh.setdefault(class_id, []).append(row.id)

    def write(self, db: Connection, changes: Changes) -> None:
        for class_id, ids in self.gone.items():
            UNREADY.run(db, ids, class_id)
        for (state, class_id), ids in self.become.items():
            SET_LEAVES.run(db, ids, state, class_id)
            if state == JobState.WORKING:
                changes.reclassed.setdefault(class_id, []).extend(ids)
        for ids in self.fresh.values():
            MAKE_READY.run(db, ids)
        changes.fed.update(self.fresh)


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


def over(state: str) -> tuple[bool, bool]:
    """Of a leaf: is it FINISHED, has it ended."""
    return state == JobState.FINISHED, state in ENDED_JOBS


def group_over(total: int, finished: int, error: int) -> tuple[bool, bool]:
    """Of a group: are all below it FINISHED, have all ended. An empty one has not."""
    return 0 < total == finished, 0 < total == finished + error


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
