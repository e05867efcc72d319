"""What an instance costs, piece by piece: prices as they moved, whose attempts ran when, and whose jobs those are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from coalition import ledger
from coalition.matching import Requirement
from coalition.schema import archive, attempt, job, klass, rate, reqset, spec, worker
from coalition.schema import ledger as ledger_table
from coalition.states import AttemptState
from coalition.store.base import chunks

WASTE = (AttemptState.ERROR, AttemptState.LOST, AttemptState.STOPPED)
Prices = dict[tuple[str, str], list[tuple[float, int]]]  # by pool and offering: from when on, an hour's price


class Stay(NamedTuple):
    """An instance and the time of it that is to be booked, at the prices of the time."""

    row: Any
    start: float
    end: float
    rates: ledger.Rates


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


def note_rates(db: Connection, pool: str, offering: str, changes: Sequence[tuple[float, int]], now: float) -> None:
    """What an hour costs: the changes lately, oldest first, and so the price that holds last. A time of 0: nobody dated it.

    What was known before stays as it was; but the newest price counts also where it was true already when another was noted.
    """
    here = and_(rate.c.pool == pool, rate.c.offering == offering)
    last = db.execute(select(rate.c.at, rate.c.price_micro).where(here).order_by(rate.c.at.desc()).limit(1)).first()
    noted_at, price = (float("-inf"), -1) if last is None else (last.at, last.price_micro)
    for dated, micro in changes if last is not None else [(now, changes[-1][1])]:
        at = min(dated or now, now)
        if noted_at < at and micro != price:
            db.execute(insert(rate).values(pool=pool, offering=offering, at=at, price_micro=micro))
            noted_at, price = at, micro
    if changes[-1][1] != price:
        db.execute(update(rate).where(here, rate.c.at == noted_at).values(price_micro=changes[-1][1]))


def prices(db: Connection, rows: Iterable[Any], since: float) -> Prices:
    """What an hour of these instances cost from `since` on, as it is noted."""
    keys = {(row.pool, row.offering) for row in rows}
    found: Prices = {}
    for chunk in chunks(sorted({offering for _, offering in keys})):
        here = and_(rate.c.pool.in_(sorted({pool for pool, _ in keys})), rate.c.offering.in_(chunk))
        first = select(rate.c.pool, rate.c.offering, func.max(rate.c.at).label("at")).where(here, rate.c.at <= since)
        newest = first.group_by(rate.c.pool, rate.c.offering).subquery()
        same = and_(newest.c.pool == rate.c.pool, newest.c.offering == rate.c.offering)
        query = select(rate).outerjoin(newest, same).where(here, or_(rate.c.at > since, rate.c.at == newest.c.at))
        for row in db.execute(query.order_by(rate.c.at)):
            found.setdefault((row.pool, row.offering), []).append((row.at, row.price_micro))
    return found


def rates_of(known: Prices, row: Any, start: float, end: float, sure_until: float | None = None) -> list[tuple[float, int]]:
    """What an hour of an instance costs from `start` to `end`, as the price moved, and never more than its ceiling.

    Its ceiling also where nothing is known: before the first price, and from `sure_until` on.
    """
    noted = known.get((row.pool, row.offering), [])
    first = [price for at, price in noted if at <= start]
    rates = [(start, first[-1] if first else row.price_micro), *((at, price) for at, price in noted if start < at <= end)]
    if sure_until is not None and sure_until < end:
        rates = [entry for entry in rates if entry[0] < sure_until] + [(max(start, sure_until), row.price_micro)]
    return [(at, min(price, row.price_micro) if row.price_micro else price) for at, price in rates]


def lines(db: Connection, stays: Sequence[Stay], now: float) -> list[Line]:
    """The bills of these times, booked. What still runs counts as run up to `now`."""
    runs = _runs(db, [stay.row for stay in stays])
    entries = []
    for stay in stays:
        spans = [
            ledger.Span(run.started_at, now if run.ended_at is None else run.ended_at, run.id, run.state in WASTE)
            for run in runs[stay.row.id].values()
        ]
        booked = ledger.book(stay.rates, stay.row.slots, stay.start, stay.row.enrolled_at, stay.end, spans)
        entries += [(stay.row, entry) for entry in booked]
    owners = _owners(db, sorted({runs[row.id][entry.attempt].job_id for row, entry in entries if entry.attempt}))
    return [_line(row, entry, owners[runs[row.id][entry.attempt].job_id] if entry.attempt else Owner()) for row, entry in entries]


def _line(row: Any, entry: ledger.Entry, owner: Owner) -> Line:
    same: dict[str, Any] = {"instance_id": row.id, "pool": row.pool, "offering": row.offering, "currency": row.currency}
    parts: dict[str, Any] = {name: getattr(entry, name) for name in ("at", "kind", "seconds", "amount_micro")}
    return Line(day=ledger.day_of(entry.at), attempt_id=entry.attempt or None, owner=owner, **parts, **same)


def _runs(db: Connection, rows: Sequence[Any]) -> dict[int, dict[int, Any]]:
    """instance -> attempt -> what ran there, by any worker that it ever had."""
    instance_of = {row.worker_id: row.id for row in rows if row.worker_id is not None}
    for chunk in chunks([row.id for row in rows]):
        there = select(worker.c.id, worker.c.instance_id).where(worker.c.instance_id.in_(chunk))
        instance_of.update((one.id, one.instance_id) for one in db.execute(there))
    found: dict[int, dict[int, Any]] = {row.id: {} for row in rows}
    columns = (attempt.c.id, attempt.c.worker_id, attempt.c.job_id, attempt.c.state, attempt.c.started_at, attempt.c.ended_at)
    for chunk in chunks(sorted(instance_of)):
        query = select(*columns).where(attempt.c.worker_id.in_(chunk), attempt.c.started_at.is_not(None)).order_by(attempt.c.id)
        for run in db.execute(query):
            found[instance_of[run.worker_id]][run.id] = run
    return found


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
