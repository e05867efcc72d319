"""Pages of the list of jobs, as quick among a million jobs as among ten.

A page is found in two steps: ids in the order of an index, in pieces, of which those that fit the other filters are kept; then
the rows to show. A filter that fits next to nothing is not followed to the end: after a while the page is what was found so far,
and its cursor goes on from there.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice
from typing import Any, cast

from sqlalchemy import Connection, and_, case, func, literal, not_, or_, select, true, union_all
from sqlalchemy.sql import ColumnElement

from coalition.errors import BadInput
from coalition.filters import Term
from coalition.schema import attempt, group_count, job, spec
from coalition.states import ENDED_JOBS, JobState
from coalition.store.base import chunks
from coalition.store.tree import FARM

COMPUTED = ("started", "ended", "progress")  # of groups from their counters, of jobs from their attempts: no index has them
SORTS = ("id", "priority", "title", *COMPUTED)
SORTED = 5_000  # jobs that are sorted by what is computed
PATIENCE_S = 0.01
COUNTED = 10_000  # what is counted of the jobs that fit; beyond it is "more than"
LATELY = 100_000  # jobs that ended since a moment and are put in order; of more the list goes its usual way
PIECE = 300
Cursor = tuple[Any, int]
STATES = ("total", "waiting", "pending", "working", "finished", "error")


@dataclass(frozen=True)
class JobQuery:
    """Which jobs to list. `after` is the cursor: the sort value and id of the last row seen."""

    parent: int | None = None
    states: tuple[str, ...] = ()
    user: str | None = None
    title: str | None = None
    paused: bool | None = None
    sort: str = "id"
    descending: bool = False
    limit: int = 100
    after: Cursor | None = None
    ids: tuple[int, ...] | None = None
    terms: tuple[Term, ...] = ()
    viewer: str | None = None  # who sees own jobs only
    above: tuple[int, ...] = ()  # right below `parent`: others' groups that have jobs of the viewer's in them

    @property
    def is_plain(self) -> bool:
        """Whether it asks for all that is right below a group, and so for the groups on the way to own jobs."""
        filters = (self.states, self.user is not None, self.title, self.paused is not None, self.ids is not None, self.terms)
        return self.parent is not None and not any(filters)

    def with_fast_terms(self) -> JobQuery:
        """The same, with the terms that an index knows as plain filters."""
        plain = {term.field: term for term in self.terms if term.operator == ":" and not term.negated}
        states, user = plain.get("state"), plain.get("user")
        taken: dict[str, Any] = {}
        if states and not self.states:
            taken["states"] = states.values
        if user and self.user is None and len(user.values) == 1:
            taken["user"] = user.values[0]
        used = [states if "states" in taken else None, user if "user" in taken else None]
        return replace(self, **taken, terms=tuple(term for term in self.terms if term not in used))


@dataclass(frozen=True)
class Driver:
    """What an index gives in order: the sort column and the id, of the rows that fit `where`, one branch after another merged."""

    key: ColumnElement[Any]
    id: ColumnElement[int]
    branches: tuple[tuple[ColumnElement[bool], ...], ...]
    rest: tuple[ColumnElement[bool], ...]  # other filters, on job and spec
    descending: bool
    ended: ColumnElement[bool] | None = None  # which jobs by their end, where only jobs that ended fit; `rest` says it, too

    def lately(self, db: Connection) -> list[int] | None:
        """All that fit `ended`, in order of their ids; None if it asks for no such, or they are very many."""
        if self.ended is None:
            return None
        found = db.execute(select(job.c.id).where(self.ended).limit(LATELY + 1)).scalars().all()
        return sorted(found, reverse=self.descending) if len(found) <= LATELY else None

    def piece(self, db: Connection, after: Cursor | None, limit: int) -> list[Cursor]:
        """The next (sort value, id) after a cursor."""
        found = (self._of_branch(db, where, after, limit) for where in self.branches)
        return list(islice(merge(*found, reverse=self.descending), limit))

    def leap(self, db: Connection, after: Cursor | None, offset: int) -> tuple[Cursor | None, int]:
        """The cursor so many rows after another, and how many there were: fewer at the end. BadInput where no index tells it."""
        if self.rest and self.ended is None:
            raise BadInput(fields={"offset": "needs a list whose `total` is told; this one has a filter that no index knows"})
        left = offset
        ranges = [self._ranges(where, after) for where in self.branches]
        for together in zip(*ranges, strict=True):  # of several branches each has one
            last, passed = self._last(db, together, left)
            after, left = last or after, left - passed
            if not left:
                break
        return after, offset - left

    def _last(self, db: Connection, ranges: Sequence[Sequence[ColumnElement[bool]]], most: int) -> tuple[Cursor | None, int]:
        """The last of so many rows of some ranges, taken together in order, and how many there are."""
        columns = (self.key.label("value"), self.id.label("id"))
        where = () if self.ended is None else (self.ended, *self.rest)
        some = [select(*columns).select_from(self.id.table).where(*one, *where) for one in ranges]
        if len(some) > 1:
            some = [select(one.order_by(*self._order(*columns)).limit(most).subquery()) for one in some]
        rows = union_all(*some).subquery()
        passed = int(db.execute(select(func.count()).select_from(select(rows.c.id).limit(most).subquery())).scalar_one())
        if not passed:
            return None, 0
        query = select(rows.c.value, rows.c.id).order_by(*self._order(rows.c.value, rows.c.id)).offset(passed - 1).limit(1)
        value, job_id = db.execute(query).one()
        return (value, int(job_id)), passed

    def _order(self, key: ColumnElement[Any], job_id: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        columns = [job_id] if self.key is self.id else [key, job_id]
        return [column.desc() if self.descending else column for column in columns]

    def _of_branch(self, db: Connection, branch: Sequence[ColumnElement[bool]], after: Cursor | None, limit: int) -> list[Cursor]:
        found: list[Cursor] = []
        for where in self._ranges(branch, after):
            if len(found) < limit:
                found += self._rows(db, where, limit - len(found))
        return found

    def _ranges(self, where: Sequence[ColumnElement[bool]], after: Cursor | None) -> list[Sequence[ColumnElement[bool]]]:
        """What follows a cursor, in order: ranges of the index, which every database reads as such; a comparison of pairs not."""
        if after is None:
            return [where]
        value, last = after
        later = self.id < last if self.descending else self.id > last
        if self.key is self.id:
            return [[*where, later]]
        beyond = self.key < value if self.descending else self.key > value
        return [[*where, self.key == value, later], [*where, beyond]]

    def _rows(self, db: Connection, where: Sequence[ColumnElement[bool]], limit: int) -> list[Cursor]:
        query = select(self.key, self.id).where(*where).order_by(*self._order(self.key, self.id)).limit(limit)
        return [(value, int(job_id)) for value, job_id in db.execute(query)]

    def fitting(self, db: Connection, ids: Sequence[int]) -> set[int]:
        """Those of the ids that fit the other filters."""
        if not self.rest:
            return set(ids)
        found: set[int] = set()
        for chunk in chunks(ids):
            query = select(job.c.id).join(spec, spec.c.job_id == job.c.id).where(job.c.id.in_(chunk), *self.rest)
            found.update(db.execute(query).scalars())
        return found

    def count(self, db: Connection) -> tuple[int, bool] | None:
        """How many fit, and whether there are more than were counted; None if that is not quickly told."""
        if self.rest and self.ended is None:
            return None
        total = 0
        for where in self.branches if self.ended is None else ((self.ended, *self.rest),):
            some = select(literal(1)).select_from(self.id.table).where(*where).limit(COUNTED + 1).subquery()
            total += int(db.execute(select(func.count()).select_from(some)).scalar_one())
        return min(total, COUNTED), total > COUNTED


_OF_GROUP = select(group_count.c.started_at).where(group_count.c.group_id == job.c.id).scalar_subquery()
_GROUP_END = select(group_count.c.ended_at).where(group_count.c.group_id == job.c.id).scalar_subquery()
_LAST_RUN = func.coalesce(attempt.c.started_at, attempt.c.leased_at)
_OF_ATTEMPT = select(_LAST_RUN).where(attempt.c.id == job.c.attempt_id).scalar_subquery()
_ENDED = job.c.state.in_([str(state) for state in ENDED_JOBS])

# As plain columns they would lead the database to an index, and through a million rows.
COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "state": func.coalesce(job.c.state, ""),
    "user": func.coalesce(spec.c.user, ""),
    "paused": job.c.paused,
    "group": job.c.is_group,
    "parent": func.coalesce(job.c.parent, 0),
    "id": func.coalesce(job.c.id, 0),
    "priority": func.coalesce(job.c.prio, 0),
    "errors": job.c.errors,
    "retries": job.c.retries,
    "frame": job.c.first_frame,
    "created": func.coalesce(spec.c.created_at, 0.0),
    "started": case((job.c.is_group, _OF_GROUP), (job.c.started_at.is_not(None), _OF_ATTEMPT)),
    "ended": case((_ENDED, case((job.c.is_group, _GROUP_END), else_=job.c.ended_at))),
}
COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    ":": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def condition(term: Term) -> ColumnElement[bool]:
    """What a term of a filter asks of a row."""
    fits = or_(*(_fits(term, value) for value in term.values))
    return not_(fits) if term.negated else fits


def _fits(term: Term, value: Any) -> ColumnElement[bool]:
    if term.field == "title":
        return func.lower(spec.c.title).contains(value.lower(), autoescape=True)
    if term.field == "frame" and term.operator == ":":  # no frame at all lies between 1 and 0
        return and_(func.coalesce(job.c.first_frame, 1) <= value, func.coalesce(job.c.last_frame, 0) >= value)
    column = COLUMNS[term.field]
    return and_(column.is_not(None), cast(ColumnElement[bool], COMPARE[term.operator](column, value)))


def driver(query: JobQuery) -> Driver:
    """The index that gives the order, and what is left to be looked at row by row."""
    query = query.with_fast_terms()
    found = _driver(query) if query.viewer is None else _own_driver(query, query.viewer)
    return replace(found, rest=(*found.rest, *map(condition, query.terms)), ended=_ended(query))


def _ended(query: JobQuery) -> ColumnElement[bool] | None:
    """The end that a list over all jobs asks for: such as ended>-1h, with group:no, as the end of a group is kept elsewhere."""
    narrower = (query.parent, query.ids, query.user, query.title, query.paused, query.viewer)
    jobs_only = any(term.field == "group" and term.values == (term.negated,) for term in query.terms)
    since = [term for term in query.terms if term.field == "ended" and term.operator in (">", ">=") and not term.negated]
    others = {term.field for term in query.terms} - {"group", "ended"}
    if query.sort != "id" or not since or not jobs_only or others or any(one is not None for one in narrower):
        return None
    return and_(*(COMPARE[term.operator](job.c.ended_at, term.values[0]) for term in since))


def _own_driver(query: JobQuery, viewer: str) -> Driver:
    """As _driver; of own jobs, and the groups above them, only."""
    if query.is_plain and query.sort == "id":
        mine = (spec.c.user == viewer, spec.c.parent == query.parent)
        others = (spec.c.job_id.in_(query.above), func.coalesce(spec.c.user, "") != viewer)
        return Driver(spec.c.job_id, spec.c.job_id, (mine, others) if query.above else (mine,), (), query.descending)
    found = _driver(replace(query, user=viewer) if query.user is None and not query.above else query)
    seen = func.coalesce(spec.c.user, "") == viewer
    return replace(found, rest=(*found.rest, or_(seen, spec.c.job_id.in_(query.above)) if query.above else seen))


def _driver(query: JobQuery) -> Driver:
    of_job: list[ColumnElement[bool]] = []
    if query.parent is not None:
        of_job.append(job.c.parent == query.parent)
    if query.ids is not None:
        of_job.append(job.c.id.in_(query.ids))
    states = [job.c.state == state for state in query.states]
    title = [func.lower(spec.c.title).contains(query.title.lower(), autoescape=True)] if query.title else []
    paused = [] if query.paused is None else [job.c.paused.is_(query.paused)]
    user = [] if query.user is None else [spec.c.user == query.user]
    # Of rows at hand these are looked at; as plain columns they would lead the database to an index, and through a million rows.
    some_state = [func.coalesce(job.c.state, "").in_(query.states)] if states else []
    of_user = [] if query.user is None else [func.coalesce(spec.c.user, "") == query.user]
    of_spec = [spec.c.parent == query.parent] if query.parent is not None else []
    down = query.descending
    if query.sort == "title":
        return Driver(spec.c.title, spec.c.job_id, (tuple(of_spec),), (*some_state, *title, *paused, *of_user), down)
    if query.sort == "priority":
        return Driver(job.c.prio, job.c.id, (tuple(of_job),), (*some_state, *title, *paused, *of_user), down)
    if user and not states and query.ids is None:
        return Driver(spec.c.job_id, spec.c.job_id, ((*user, *of_spec),), (*title, *paused), down)
    if states and query.parent is not None:
        branches = tuple((state, *of_job) for state in states)
        return Driver(job.c.id, job.c.id, branches, (*title, *paused, *of_user), down)
    return Driver(job.c.id, job.c.id, (tuple(of_job),), (*some_state, *title, *paused, *of_user), down)


def every(db: Connection, terms: tuple[Term, ...], viewer: str | None = None) -> list[int]:
    """The ids of all jobs that fit every term, lowest first, however many they are."""
    source = driver(JobQuery(terms=terms, viewer=viewer))
    branches = or_(*(and_(true(), *where) for where in source.branches))
    query = select(job.c.id).join(spec, spec.c.job_id == job.c.id).where(branches, *source.rest)
    return sorted(db.execute(query).scalars())


def page(db: Connection, query: JobQuery) -> tuple[list[int], Cursor | None]:
    """The ids of a page in order, and the cursor of the next one (None at the end). BadInput where it cannot be sorted so."""
    source, after = _source(query), query.after
    wanted = query.limit + 1
    kept = _by_hand(db, source, query, wanted)
    if kept is not None:
        return [job_id for _, job_id in kept[: query.limit]], kept[query.limit - 1] if len(kept) == wanted else None
    until = time.monotonic() + PATIENCE_S
    kept = []
    while True:
        size = wanted - len(kept) if not source.rest else max(PIECE, wanted)
        piece = source.piece(db, after, size)
        fitting = source.fitting(db, [job_id for _, job_id in piece])
        kept += [one for one in piece if one[1] in fitting]
        if len(kept) >= wanted:
            return [job_id for _, job_id in kept[: query.limit]], kept[query.limit - 1]
        if len(piece) < size:
            return [job_id for _, job_id in kept], None
        after = piece[-1]
        if time.monotonic() > until:
            return [job_id for _, job_id in kept], after


def leap(db: Connection, query: JobQuery, offset: int) -> tuple[Cursor | None, int]:
    """The cursor that leaves out so many rows after the query's own, and how many there were: fewer at the end."""
    source = _source(query)
    passed = _by_hand(db, source, query, offset)
    if passed is None:
        return source.leap(db, query.after, offset)
    return passed[-1] if passed else query.after, len(passed)


def _source(query: JobQuery) -> Driver:
    if query.sort not in COMPUTED:
        return driver(query)
    if query.viewer is not None:  # of a group these are everybody's
        raise BadInput(fields={"sort": f"by {query.sort} needs the right to view all jobs"})
    return driver(replace(query, sort="id", descending=False, after=None))


def _by_hand(db: Connection, source: Driver, query: JobQuery, wanted: int) -> list[Cursor] | None:
    """So many after the query's cursor, of lists that no index has in order; None for others."""
    lately = source.lately(db)
    if query.sort in COMPUTED:
        return list(islice(_computed(db, source, lately, query), wanted))
    return None if lately is None else _fitting_of(db, source, lately, query, wanted)


def _fitting_of(db: Connection, source: Driver, found: Sequence[int], query: JobQuery, wanted: int) -> list[Cursor]:
    """So many that fit among ids that are in order."""
    last = None if query.after is None else query.after[1]
    later = [one for one in found if last is None or (one < last if query.descending else one > last)]
    shown: list[Cursor] = []
    for some in chunks(later):
        fitting = source.fitting(db, some)
        shown += [(one, one) for one in some if one in fitting]
        if len(shown) >= wanted:
            break
    return shown[:wanted]


def _computed(db: Connection, source: Driver, lately: list[int] | None, query: JobQuery) -> Iterator[Cursor]:
    """Sorts all that fit, where they are few enough; what has no such value comes where 0 would."""
    found = [job_id for _, job_id in source.piece(db, None, SORTED + 1)] if lately is None else lately
    if len(found) > SORTED:
        words = f"by {query.sort} sorts up to {SORTED:,} jobs, and here are more; ask for a `parent`, or a `state`, with fewer"
        raise BadInput(fields={"sort": words})
    after, ids = query.after, sorted(source.fitting(db, found))
    for pair in sorted(_values(db, query.sort, ids), reverse=query.descending):
        if after is None or (pair < after if query.descending else pair > after):
            yield pair


def _values(db: Connection, sort: str, ids: Sequence[int]) -> Iterator[Cursor]:
    """The sort value and id of each job, in thousandths: of seconds since 1970, or of what is done."""
    done = case(
        (job.c.is_group, 1.0 * group_count.c.finished / func.nullif(group_count.c.total, 0)),
        (job.c.state == str(JobState.FINISHED), 1.0),
        (job.c.state == str(JobState.WORKING), attempt.c.progress),
    )
    value = {
        "started": func.coalesce(group_count.c.started_at, _LAST_RUN),
        "ended": case((_ENDED, func.coalesce(group_count.c.ended_at, attempt.c.ended_at))),
        "progress": done,
    }[sort]
    query = select(job.c.id, value.label("value")).outerjoin(group_count, group_count.c.group_id == job.c.id)
    query = query.outerjoin(attempt, attempt.c.id == job.c.attempt_id)
    for chunk in chunks(ids):
        for row in db.execute(query.where(job.c.id.in_(chunk))):
            yield round(float(row.value or 0) * 1_000), row.id


def counts(db: Connection, parent: int | None) -> dict[str, int]:
    """All leaves below a group, or of the farm, by state."""
    query = select(*(group_count.c[name] for name in STATES)).where(group_count.c.group_id == (parent or FARM))
    row = db.execute(query).first()
    return {name: int(getattr(row, name)) if row else 0 for name in STATES}
