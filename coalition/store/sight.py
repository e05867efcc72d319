"""What those are told of jobs who see their own ones only. A `viewer` is such a user; None sees all, and costs nothing.

Such a user sees own jobs, wherever they are, and of the groups above them the title and what is of own jobs in them: the counts,
state, times and cost of a group are the sums of own jobs below it, whoever else has jobs there. Everything else is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, or_, select

from coalition.model import Counts, Job
from coalition.schema import archive, attempt, job, spec
from coalition.states import ENDED_JOBS
from coalition.store.base import chunks
from coalition.store.lists import JobQuery
from coalition.store.tree import group_state

FEW = 4_096  # jobs that are named one by one to the database


@dataclass
class Sums:
    """What own leaves below a group come to."""

    total: int = 0
    waiting: int = 0
    pending: int = 0
    working: int = 0
    finished: int = 0
    error: int = 0
    errors: int = 0
    run_ms: int = 0
    cost_micro: int = 0
    started_at: float | None = None
    ended_at: float | None = None

    def add(self, other: Sums) -> None:
        for name in ("total", "waiting", "pending", "working", "finished", "error", "errors", "run_ms", "cost_micro"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.started_at = min((at for at in (self.started_at, other.started_at) if at is not None), default=None)
        self.ended_at = max((at for at in (self.ended_at, other.ended_at) if at is not None), default=None)

    @property
    def counts(self) -> Counts:
        return Counts(self.total, self.waiting, self.pending, self.working, self.finished, self.error)


def is_own(column: ColumnElement[Any], viewer: str) -> ColumnElement[bool]:
    """Whether the job that a column names is the viewer's, archived or not."""
    mine, kept = spec.alias("mine"), archive.alias("kept")
    there = exists().where(mine.c.job_id == column, mine.c.user == viewer)
    return or_(there, exists().where(kept.c.job_id == column, kept.c.user == viewer))


def own(db: Connection, ids: Sequence[int], viewer: str) -> set[int]:
    """Those of the ids that are the viewer's jobs, archived or not."""
    found: set[int] = set()
    for chunk in chunks(ids):
        found.update(db.execute(select(spec.c.job_id).where(spec.c.job_id.in_(chunk), spec.c.user == viewer)).scalars())
        kept = select(archive.c.job_id).where(archive.c.job_id.in_(chunk), archive.c.user == viewer)
        found.update(db.execute(kept).scalars())
    return found


def few(db: Connection, viewer: str) -> list[int] | None:
    """All of the viewer's jobs, archived or not; None if they are many."""
    found: list[int] = []
    for table in (spec, archive):
        query = select(table.c.job_id).where(table.c.user == viewer).order_by(table.c.job_id)
        found += db.execute(query.limit(FEW + 1 - len(found))).scalars()
        if len(found) > FEW:
            return None
    return found


def groups_above(db: Connection, viewer: str) -> dict[int, int]:
    """group -> parent of all groups that have own jobs somewhere below them."""
    above: dict[int, int] = {}
    level = set(db.execute(select(spec.c.parent).where(spec.c.user == viewer, spec.c.parent != 0).distinct()).scalars())
    while level:
        for chunk in chunks(sorted(level)):
            above.update((row.id, row.parent) for row in db.execute(select(job.c.id, job.c.parent).where(job.c.id.in_(chunk))))
        level = {parent for one in level if (parent := above.get(one, 0)) and parent not in above}
    return above


def with_groups(db: Connection, query: JobQuery) -> JobQuery:
    """The query with the groups that it lists because own jobs are in them."""
    if query.viewer is None or not query.is_plain:
        return query
    above = groups_above(db, query.viewer)
    return replace(query, above=tuple(sorted(one for one, parent in above.items() if parent == query.parent)))


def sums(db: Connection, viewer: str, above: Mapping[int, int]) -> dict[int, Sums]:
    """What own leaves come to, in each group above them; in 0, all of them."""
    right_below = _sums_right_below(db, viewer)
    told: dict[int, Sums] = {}
    for group, part in right_below.items():
        while True:
            told.setdefault(group, Sums()).add(part)
            if not group:
                break
            group = above.get(group, 0)
    return told


def _sums_right_below(db: Connection, viewer: str) -> dict[int, Sums]:
    found: dict[int, Sums] = {}
    states = select(
        job.c.parent,
        job.c.state,
        func.count().label("n"),
        func.sum(job.c.errors).label("errors"),
        func.min(job.c.started_at).label("started_at"),
        func.max(job.c.ended_at).label("ended_at"),
    ).join(spec, spec.c.job_id == job.c.id)
    leaves = states.where(spec.c.user == viewer, job.c.is_group.is_(False)).group_by(job.c.parent, job.c.state)
    for row in db.execute(leaves):
        part = Sums(total=row.n, errors=int(row.errors), started_at=row.started_at, ended_at=row.ended_at)
        setattr(part, row.state.lower(), row.n)
        found.setdefault(row.parent, Sums()).add(part)
    spent = select(spec.c.parent, func.sum(attempt.c.cost_micro).label("cost"), func.sum(attempt.c.run_ms).label("run"))
    spent = spent.join(attempt, attempt.c.job_id == spec.c.job_id).where(spec.c.user == viewer).group_by(spec.c.parent)
    for row in db.execute(spent):
        found.setdefault(row.parent, Sums()).add(Sums(run_ms=int(row.run), cost_micro=int(row.cost)))
    return found


def counts(db: Connection, viewer: str, parent: int | None) -> dict[str, int]:
    """All own leaves below a group, or of the farm, by state."""
    told = sums(db, viewer, groups_above(db, viewer)).get(parent or 0, Sums()).counts
    return vars(told).copy()


def as_seen(db: Connection, jobs: Iterable[Job], viewer: str) -> list[Job]:
    """The jobs as the viewer sees them, to whom each of them is visible."""
    shown = list(jobs)
    if not any(one.group for one in shown):
        return shown
    told = sums(db, viewer, groups_above(db, viewer))
    return [_group_as_seen(one, told.get(one.id, Sums()), viewer) if one.group else one for one in shown]


def _group_as_seen(one: Job, told: Sums, viewer: str) -> Job:
    state = group_state(told)
    summed = replace(
        one,
        counts=told.counts,
        state=state,
        progress=told.finished / told.total if told.total else 0.0,
        errors=told.errors,
        run_s=told.run_ms / 1_000,
        cost_micro=told.cost_micro,
        started_at=told.started_at,
        ended_at=told.ended_at if state in ENDED_JOBS else None,
        reason="paused" if one.paused else "",
    )
    if one.user == viewer:
        return summed
    return replace(
        summed,
        command=None,
        dir="",
        environment={},
        url="",
        affinity=(),
        limits={},
        workers=(),
        not_workers=(),
        depends_on=(),
        dependencies=(),
        progress_pattern=None,
        note="",
        allowed_actions=(),
    )
