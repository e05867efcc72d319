"""What an instance costs, piece by piece: prices as they moved, whose attempts ran when, and whose jobs those are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select

from coalition import ledger
from coalition.matching import Requirement
from coalition.schema import archive, attempt, job, klass, rate, reqset, spec, worker
from coalition.schema import ledger as ledger_table
from coalition.states import AttemptState
from coalition.store.base import chunks

WASTE = (AttemptState.ERROR, AttemptState.LOST, AttemptState.STOPPED)


@dataclass(frozen=True)
class Owner:
    """Whose an attempt's cost is."""

    job_id: int | None = None
    group_id: int | None = None  # the top of its tree
    user: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of the ledger."""

    day: str
    at: float
    kind: str
    instance_id: int
    pool: str
    offering: str
    attempt_id: int | None
    owner: Owner
    seconds: float
    amount_micro: int
    currency: str

    def values(self) -> dict[str, Any]:
        """As a row of the table."""
        names = ("day", "at", "kind", "instance_id", "pool", "offering", "attempt_id", "seconds", "amount_micro", "currency")
        tags = json.dumps(self.owner.tags) if self.owner.job_id is not None else None
        who = {"job_id": self.owner.job_id, "group_id": self.owner.group_id, "user": self.owner.user, "tags": tags}
        return {**{name: getattr(self, name) for name in names}, **who}


def note_rate(db: Connection, pool: str, offering: str, price_micro: int, as_of: float, now: float) -> None:
    """From `as_of` (else, where that is not known or cannot be, now) on an hour costs this."""
    here = and_(rate.c.pool == pool, rate.c.offering == offering)
    last = db.execute(select(rate.c.at, rate.c.price_micro).where(here).order_by(rate.c.at.desc()).limit(1)).first()
    if last is not None and last.price_micro == price_micro:
        return
    at = as_of if last is not None and last.at < as_of <= now else now
    if last is None or at > last.at:
        db.execute(insert(rate).values(pool=pool, offering=offering, at=at, price_micro=price_micro))


def rates_of(db: Connection, row: Any, start: float, end: float) -> list[tuple[float, int]]:
    """What an hour of an instance costs from `start` to `end`, as the price moved; its ceiling where nothing is known."""
    here = and_(rate.c.pool == row.pool, rate.c.offering == row.offering)
    newest = select(rate.c.price_micro).where(here, rate.c.at <= start).order_by(rate.c.at.desc()).limit(1)
    first = db.execute(newest).scalar()
    later = select(rate.c.at, rate.c.price_micro).where(here, rate.c.at > start, rate.c.at < end).order_by(rate.c.at)
    return [(start, row.price_micro if first is None else first), *((at, price) for at, price in db.execute(later))]


def lines(db: Connection, row: Any, start: float, end: float, now: float) -> list[Line]:
    """The bill of an instance's time, booked. What still runs counts as run up to `now`."""
    of_it = select(worker.c.id).where(or_(worker.c.instance_id == row.id, worker.c.id == row.worker_id))
    columns = (attempt.c.id, attempt.c.job_id, attempt.c.state, attempt.c.started_at, attempt.c.ended_at)
    query = select(*columns).where(attempt.c.worker_id.in_(of_it), attempt.c.started_at.is_not(None)).order_by(attempt.c.id)
    runs = {run.id: run for run in db.execute(query)}
    spans = [
        ledger.Span(run.started_at, now if run.ended_at is None else run.ended_at, run.id, run.state in WASTE)
        for run in runs.values()
    ]
    entries = ledger.book(rates_of(db, row, start, end), row.slots, start, row.enrolled_at, end, spans)
    owners = _owners(db, sorted({runs[entry.attempt].job_id for entry in entries if entry.attempt}))
    same: dict[str, Any] = {"instance_id": row.id, "pool": row.pool, "offering": row.offering, "currency": row.currency}
    booked = []
    for entry in entries:
        owner = owners[runs[entry.attempt].job_id] if entry.attempt else Owner()
        parts: dict[str, Any] = {"at": entry.at, "kind": entry.kind, "seconds": entry.seconds, "amount_micro": entry.amount_micro}
        booked.append(Line(day=ledger.day_of(entry.at), attempt_id=entry.attempt or None, owner=owner, **parts, **same))
    return booked


def write(db: Connection, booked: Sequence[Line]) -> None:
    """Stores lines."""
    for chunk in chunks(booked):
        db.execute(insert(ledger_table), [line.values() for line in chunk])


def _owners(db: Connection, ids: Sequence[int]) -> dict[int, Owner]:
    """Whose these jobs are; of a deleted one only its number is known."""
    found = {one: Owner(one) for one in ids}
    tops: dict[int, int] = {0: 0}
    tags: dict[int, tuple[str, ...]] = {}
    columns = (job.c.id, job.c.parent, spec.c.user, klass.c.set_id)
    query = select(*columns).join(spec, spec.c.job_id == job.c.id).join(klass, klass.c.id == job.c.class_id)
    for chunk in chunks(ids):
        for row in db.execute(query.where(job.c.id.in_(chunk))):
            if row.set_id not in tags:
                text = db.execute(select(reqset.c.json).where(reqset.c.id == row.set_id)).scalar_one()
                tags[row.set_id] = Requirement.from_json(text).tags
            found[row.id] = Owner(row.id, _top(db, row.parent, tops) or row.id, row.user, tags[row.set_id])
        for row in db.execute(select(archive).where(archive.c.job_id.in_(chunk))):
            own: Mapping[str, Any] = json.loads(row.json)
            top = _top(db, row.parent, tops) or row.job_id
            found[row.job_id] = Owner(row.job_id, top, row.user, tuple(own.get("affinity", ())))
    return found


def _top(db: Connection, group: int, tops: dict[int, int]) -> int:
    """The group at the top of a group's tree, archived or not; 0 for none."""
    if group not in tops:
        parent = db.execute(select(job.c.parent).where(job.c.id == group)).scalar()
        if parent is None:
            parent = db.execute(select(archive.c.parent).where(archive.c.job_id == group)).scalar()
        tops[group] = group if not parent else _top(db, parent, tops)
    return tops[group]
