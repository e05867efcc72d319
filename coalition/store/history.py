"""The farm over time: a row a minute of what there was to do, what did it and what an hour cost; charts read averages of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from coalition.schema import history
from coalition.store.base import Base, reads, writes

COLUMNS = ("waiting", "pending", "working", "error", "slots", "busy", "instances", "burn_micro")
STEPS_MIN = (1, 2, 5, 15, 30, 60, 180, 360, 1_440)
MOST = 400  # points of an answer


class History(Base):
    """The part of the store that remembers how the farm did."""

    @writes
    def note_minute(self, db: Connection, values: Mapping[str, int]) -> None:
        """Keeps how the farm does in this minute; what was noted in it before is replaced. `values` are those of COLUMNS."""
        minute = int(self.clock() // 60)
        db.execute(delete(history).where(history.c.minute == minute))
        db.execute(insert(history).values(minute=minute, **{name: values[name] for name in COLUMNS}))

    @writes
    def forget_minutes(self, db: Connection, before: float, limit: int) -> int:
        """Deletes up to `limit` that are older; how many."""
        old = select(history.c.minute).where(history.c.minute < int(before // 60)).order_by(history.c.minute).limit(limit)
        minutes = db.execute(old).scalars().all()
        db.execute(delete(history).where(history.c.minute.in_(minutes)))
        return len(minutes)

    @reads
    def history(self, db: Connection, since: float, until: float) -> dict[str, Any]:
        """{"step_s", "points"}: averages over steps that are as short as fits MOST points, oldest first; a step in which nothing
        was noted has no point. Times are in seconds since 1970, and a point's `at` is the beginning of its step."""
        first, last = int(since // 60), int(until // 60)
        step = next((one for one in STEPS_MIN if (last - first) / one < MOST), STEPS_MIN[-1])
        means = [func.avg(history.c[name]).label(name) for name in COLUMNS]
        bucket = (history.c.minute - history.c.minute % step).label("bucket")
        rows = db.execute(
            select(bucket, *means).where(history.c.minute.between(first, last)).group_by("bucket").order_by("bucket")
        ).all()
        points = [{"at": float(row.bucket) * 60, **{name: _plain(name, getattr(row, name)) for name in COLUMNS}} for row in rows]
        return {"step_s": step * 60, "points": points[-MOST:]}


def _plain(name: str, value: Any) -> float | int:
    """Averages come as floats or decimals; amounts are whole."""
    return round(value) if name.endswith("_micro") else round(float(value), 2)
