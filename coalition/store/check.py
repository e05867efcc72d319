"""Is the database whole: what is kept as sums and marks, against a recount from the rows they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from typing import Any

from sqlalchemy import Connection, and_, case, func, not_, or_, select

from coalition.matching import Requirement
from coalition.schema import (
    archive,
    attempt,
    budget_window,
    commitment,
    dependency,
    fair_use,
    farm_limit,
    group_count,
    group_inherited,
    job,
    limit_use,
    ready,
    reqset,
)
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
    yield from _dependencies(db)
    yield from _holds(db)
    yield from _limits(db)
    yield from _shares(db)
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


def _dependencies(db: Connection) -> Iterator[str]:
    """A dependency is met exactly while its target is over."""
    leaf = or_(job.c.state == str(JobState.FINISHED), and_(dependency.c.done, job.c.state == str(JobState.ERROR)))
    ended = group_count.c.finished + case((dependency.c.done, group_count.c.error), else_=0)
    over = or_(and_(job.c.is_group.is_(False), leaf), and_(job.c.is_group, group_count.c.total > 0, ended == group_count.c.total))
    there = dependency.join(job, job.c.id == dependency.c.on_id).outerjoin(group_count, group_count.c.group_id == job.c.id)
    wrong = or_(and_(dependency.c.met, not_(over)), and_(dependency.c.met.is_(False), over))
    for row in db.execute(select(dependency.c.job_id, dependency.c.on_id, dependency.c.met).select_from(there).where(wrong)):
        words = "met, which is not so" if row.met else "not met, which it is"
        yield f"job #{row.job_id} has its dependency on #{row.on_id} marked as {words}"


def _holds(db: Connection) -> Iterator[str]:
    """A job's holds are its dependencies that are not met, and a group hands down its own and those above it."""
    unmet = func.sum(case((dependency.c.met, 0), else_=1)).label("unmet")
    columns = (dependency.c.job_id, dependency.c.by_rule, job.c.needs_any, func.count().label("n"), unmet)
    edges = select(*columns).join(job, job.c.id == dependency.c.job_id)
    counted: Counter[int] = Counter()
    for row in db.execute(edges.group_by(dependency.c.job_id, dependency.c.by_rule, job.c.needs_any)):
        one_is_enough = row.needs_any and not row.by_rule
        counted[row.job_id] += int(row.unmet == row.n) if one_is_enough else int(row.unmet)
    kept = {row.id: row.holds for row in db.execute(select(job.c.id, job.c.holds).where(job.c.holds != 0))}
    for job_id in sorted(kept.keys() | +counted):
        if kept.get(job_id, 0) != counted[job_id]:
            yield f"job #{job_id} counts {kept.get(job_id, 0)} dependencies as not met; there are {counted[job_id]}"
    handed = {row.group_id: row.holds for row in db.execute(select(group_inherited.c.group_id, group_inherited.c.holds))}
    for row in db.execute(select(job.c.id, job.c.parent, job.c.holds).where(job.c.is_group)):
        right = row.holds + handed.get(row.parent, 0)
        if handed.get(row.id) != right:
            yield f"group #{row.id} hands down {handed.get(row.id)} holds; there are {right}"


def _limits(db: Connection) -> Iterator[str]:
    """What is counted as used of a limit is what open attempts hold of it, of the farm or of each machine."""
    still_open = select(attempt.c.open_worker, reqset.c.json, func.count().label("n")).join(
        reqset, reqset.c.id == attempt.c.set_id
    )
    held: Counter[tuple[str, int]] = Counter()
    for row in db.execute(still_open.where(attempt.c.open_worker.is_not(None)).group_by(attempt.c.open_worker, reqset.c.json)):
        for name, each in Requirement.from_json(row.json).limits:
            held[name, FARM] += each * row.n
            held[name, row.open_worker] += each * row.n
    used = {(row.name, row.worker_id): row.used for row in db.execute(select(limit_use))}
    per_host = {row.name: bool(row.per_host) for row in db.execute(select(farm_limit.c.name, farm_limit.c.per_host))}
    expected = {key for key in held if key[0] in per_host and per_host[key[0]] == (key[1] != FARM)}
    for name, holder in sorted(used.keys() | expected):
        if used.get((name, holder), 0) != held[name, holder]:
            where = f" on worker {holder}" if holder != FARM else ""
            yield f"limit {name} counts {used.get((name, holder), 0)} as used{where}; {held[name, holder]} are"


def _shares(db: Connection) -> Iterator[str]:
    """What somebody used of the farm halves with time, and is never less than what the newest jobs took, as of their end."""
    newest = select(attempt.c.fair_key, func.sum(attempt.c.run_ms).label("ms"), func.count().label("n"))
    newest = newest.join(fair_use, and_(fair_use.c.fair_key == attempt.c.fair_key, fair_use.c.at == attempt.c.ended_at))
    took = {row.fair_key: (float(row.ms) - row.n) / 1_000 for row in db.execute(newest.group_by(attempt.c.fair_key))}
    for row in db.execute(select(fair_use.c.fair_key, fair_use.c.used_s).order_by(fair_use.c.fair_key)):
        least = max(0.0, took.get(row.fair_key, 0.0))
        if row.used_s < least:
            yield f"the share of {row.fair_key} counts {row.used_s:.3f} s as used; its newest jobs took {least:.3f} s"


def _money(db: Connection) -> Iterator[str]:
    """What a budget has committed is what its instances are committed for."""
    sums = select(commitment.c.window_id, func.sum(commitment.c.amount_micro).label("total")).group_by(commitment.c.window_id)
    parts = sums.subquery()
    columns = (budget_window.c.budget, budget_window.c.committed_micro, func.coalesce(parts.c.total, 0).label("total"))
    rows = select(*columns).outerjoin(parts, parts.c.window_id == budget_window.c.id)
    for row in db.execute(rows.where(budget_window.c.committed_micro != func.coalesce(parts.c.total, 0))):
        yield f"budget {row.budget} counts {row.committed_micro:,} micro-units as committed; its instances have {row.total:,}"
