"""Is the database whole: what is kept as sums and marks, against a recount from the rows they stand for."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select

from coalition.schema import archive, attempt, budget_window, commitment, group_count, group_inherited, job, ready
from coalition.states import JobState
from coalition.store.tree import FARM, group_state

STATES = ("waiting", "pending", "working", "finished", "error")
Counts = dict[int, dict[str, int]]


def problems(db: Connection) -> Iterator[str]:
    """What is not as it must be, one sentence each; nothing if all is well."""
    if db.dialect.name == "sqlite":
        yield from (f"SQLite: {words}" for words in db.exec_driver_sql("PRAGMA integrity_check").scalars() if words != "ok")
    yield from _tree(db)
    yield from _attempts(db)
    yield from _queues(db)
    yield from _money(db)


def _tree(db: Connection) -> Iterator[str]:
    """Every job hangs below the farm's root, and the counters and states of groups are those of the jobs below them."""
    groups = {row.id: row for row in db.execute(select(job.c.id, job.c.parent, job.c.state).where(job.c.is_group))}
    counts: Counts = {group: dict.fromkeys(STATES, 0) for group in (FARM, *groups)}
    for group, jobs in _archived(db, groups.keys()).items():
        counts[group]["finished"] += jobs
    leaves = select(job.c.parent, job.c.state, func.count().label("n")).where(job.c.is_group.is_(False))
    for row in db.execute(leaves.group_by(job.c.parent, job.c.state)):
        if row.parent in counts:
            counts[row.parent][row.state.lower()] += row.n
        else:
            yield f"{row.n:,} jobs are in group #{row.parent}, which is not there"
    order = _deepest_first({group: row.parent for group, row in groups.items()})
    if len(order) < len(groups):
        yield f"{len(groups) - len(order):,} groups hang below no root"
    for group in order:
        for state in STATES:
            counts[groups[group].parent][state] += counts[group][state]
    kept = {row.group_id: row for row in db.execute(select(group_count))}
    for group in order:
        yield from _group(f"group #{group}", counts[group], kept.get(group), groups[group].state)
    if groups or FARM in kept:
        yield from _group("the farm", counts[FARM], kept.get(FARM), None)


def _archived(db: Connection, groups: Container[int]) -> dict[int, int]:
    """group -> how many archived jobs it still counts: those from which the way up leads to it through archived groups."""
    above = {row.job_id: row.parent for row in db.execute(select(archive.c.job_id, archive.c.parent).where(archive.c.is_group))}
    found: dict[int, int] = {}
    query = select(archive.c.parent, func.count().label("n")).where(archive.c.is_group.is_(False)).group_by(archive.c.parent)
    for row in db.execute(query):
        group = row.parent
        while group not in groups and group in above:
            group = above[group]
        if group in groups:
            found[group] = found.get(group, 0) + row.n
    return found


def _deepest_first(parents: dict[int, int]) -> list[int]:
    """Groups so that each comes before the one above it; without those that hang below no root."""
    children: dict[int, list[int]] = {}
    for group, parent in parents.items():
        children.setdefault(parent, []).append(group)
    order, level = [], children.get(FARM, [])
    while level:
        order += level
        level = [child for group in level for child in children.get(group, ())]
    return order[::-1]


def _group(name: str, counted: dict[str, int], row: Any, state: str | None) -> Iterator[str]:
    if row is None:
        yield f"{name} has no counters"
        return
    for column, right in {**counted, "total": sum(counted.values())}.items():
        kept = getattr(row, column)
        if kept != right:
            yield f"{name} counts {kept:,} jobs as {column}; there are {right:,}"
    if state not in (None, group_state(row)):
        yield f"{name} is shown as {state}; its counters say {group_state(row)}"


def _attempts(db: Connection) -> Iterator[str]:
    """A job is WORKING exactly while its newest attempt is open."""
    working = and_(job.c.is_group.is_(False), job.c.state == str(JobState.WORKING))
    held = select(job.c.id).outerjoin(attempt, attempt.c.id == job.c.attempt_id)
    for job_id in db.execute(held.where(working, attempt.c.open_worker.is_(None))).scalars():
        yield f"job #{job_id} is WORKING, but no worker holds it"
    holds = select(attempt.c.id, attempt.c.job_id).outerjoin(job, job.c.id == attempt.c.job_id)
    astray = or_(job.c.id.is_(None), job.c.state != str(JobState.WORKING), job.c.attempt_id != attempt.c.id)
    for row in db.execute(holds.where(attempt.c.open_worker.is_not(None), astray)):
        yield f"attempt {row.id} is open, but job #{row.job_id} does not run in it"


def _queues(db: Connection) -> Iterator[str]:
    """A job stands in its queue exactly when it may be leased."""
    queued = select(ready.c.job_id).outerjoin(job, job.c.id == ready.c.job_id)
    wrong = or_(job.c.id.is_(None), job.c.state != str(JobState.WAITING), job.c.class_id != ready.c.class_id)
    for job_id in db.execute(queued.where(wrong)).scalars():
        yield f"job #{job_id} is in a queue, where it does not belong"
    above = group_inherited
    waits = and_(job.c.is_group.is_(False), job.c.state == str(JobState.WAITING), job.c.not_before == 0, job.c.paused.is_(False))
    missed = select(func.count()).select_from(job.outerjoin(above, above.c.group_id == job.c.parent))
    missed = missed.outerjoin(ready, and_(ready.c.class_id == job.c.class_id, ready.c.job_id == job.c.id))
    free = or_(above.c.group_id.is_(None), above.c.paused.is_(False))
    if count := db.execute(missed.where(waits, free, ready.c.job_id.is_(None))).scalar_one():
        yield f"{count:,} jobs could start and are in no queue"


def _money(db: Connection) -> Iterator[str]:
    """What a budget has committed is what its instances are committed for."""
    sums = select(commitment.c.window_id, func.sum(commitment.c.amount_micro).label("total")).group_by(commitment.c.window_id)
    parts = sums.subquery()
    columns = (budget_window.c.budget, budget_window.c.committed_micro, func.coalesce(parts.c.total, 0).label("total"))
    rows = select(*columns).outerjoin(parts, parts.c.window_id == budget_window.c.id)
    for row in db.execute(rows.where(budget_window.c.committed_micro != func.coalesce(parts.c.total, 0))):
        yield f"budget {row.budget} counts {row.committed_micro:,} micro-units as committed; its instances have {row.total:,}"
