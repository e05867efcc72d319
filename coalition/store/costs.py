"""What was spent, by day, pool, type, instance, user, group, tag, job or attempt: booked lines, and those of what still runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from coalition.schema import archive, instance, spec
from coalition.schema import ledger as table
from coalition.store import bills
from coalition.store.base import chunks, reads
from coalition.store.budgets import Budgets
from coalition.store.cloud import PAID

COLUMNS = {
    "day": table.c.day,
    "pool": table.c.pool,
    "type": table.c.offering,
    "instance": table.c.instance_id,
    "user": table.c.user,
    "group": table.c.group_id,
    "tag": table.c.tags,
    "job": table.c.job_id,
    "attempt": table.c.attempt_id,
}
KINDS = ("run", "waste", "idle", "boot")
OF_JOBS = ("user", "group", "tag", "job", "attempt")  # boot and idle time is nobody's, and has an empty key there


@dataclass(frozen=True)
class CostQuery:
    """Which lines: from `since` on and before `until` (seconds since 1970); None and empty mean all."""

    since: float = 0.0
    until: float | None = None
    pool: str = ""
    user: str = ""
    tag: str = ""
    job: int | None = None
    group: int | None = None  # at the top of a tree


@dataclass(frozen=True)
class _Part:
    key: Any  # as the column has it
    kind: str
    currency: str
    seconds: float
    amount_micro: int


class Costs(Budgets):
    """The part of the store that tells what was spent."""

    @reads
    def costs(self, db: Connection, group_by: str = "day", query: CostQuery = CostQuery()) -> list[dict[str, Any]]:
        """A line for each key (and currency): seconds, and money by what it was for. Without a tag in `query`, all lines add up
        to what was spent; by tag, a job with two tags counts in both."""
        parts = [*self._booked(db, group_by, query), *self._running(db, group_by, query)]
        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for part in parts:
            for key in _keys(group_by, part.key):
                zeros = {f"{kind}_micro": 0 for kind in KINDS}
                new = {"key": key, "name": "", "currency": part.currency, "seconds": 0.0, "amount_micro": 0, **zeros}
                line = lines.setdefault((key, part.currency), new)
                line["seconds"] += part.seconds
                line["amount_micro"] += part.amount_micro
                line[f"{part.kind}_micro"] += part.amount_micro
        found = [lines[key] for key in sorted(lines)]
        if group_by in ("job", "group"):
            self._name(db, found)
        return found

    def _booked(self, db: Connection, group_by: str, query: CostQuery) -> Iterator[_Part]:
        column = COLUMNS[group_by]
        sums = (func.sum(table.c.seconds), func.sum(table.c.amount_micro))
        wanted = [table.c.at >= query.since]
        wanted += [table.c.at < query.until] if query.until is not None else []
        wanted += [COLUMNS[name] == value for name, value in _given(query)]
        wanted += [table.c.tags.contains(json.dumps(query.tag), autoescape=True)] if query.tag else []
        grouped = (
            select(column, table.c.kind, table.c.currency, *sums).where(*wanted).group_by(column, table.c.kind, table.c.currency)
        )
        for key, kind, currency, seconds, amount in db.execute(grouped):
            yield _Part(key, kind, currency, float(seconds), int(amount))

    def _running(self, db: Connection, group_by: str, query: CostQuery) -> Iterator[_Part]:
        """The same of what is paid for now."""
        now = self.clock()
        live = select(instance).where(instance.c.state.in_(PAID), instance.c.launched_at.is_not(None))
        for row in db.execute(live.where(instance.c.pool == query.pool) if query.pool else live).all():
            for line in bills.lines(db, row, row.launched_at, max(now, row.launched_at), now):
                values = line.values()
                after = query.since <= line.at < (now + 1 if query.until is None else query.until)
                fits = after and all(values[COLUMNS[name].name] == value for name, value in _given(query))
                if fits and (not query.tag or query.tag in line.owner.tags):
                    yield _Part(values[COLUMNS[group_by].name], line.kind, line.currency, line.seconds, line.amount_micro)

    def _name(self, db: Connection, lines: Sequence[dict[str, Any]]) -> None:
        """Puts the jobs' titles beside their numbers."""
        ids = [int(line["key"]) for line in lines if line["key"]]
        titles: dict[int, str] = {}
        for chunk in chunks(ids):
            for kept in (spec, archive):
                titles.update(
                    (one, title) for one, title in db.execute(select(kept.c.job_id, kept.c.title).where(kept.c.job_id.in_(chunk)))
                )
        for line in lines:
            line["name"] = titles.get(int(line["key"]), "") if line["key"] else ""

    def ledger_report(self, since: float = 0.0, group_by: str = "day") -> list[dict[str, Any]]:
        """The short form of `costs`: work that did not count is work."""
        lines = self.costs(group_by, CostQuery(since))
        for line in lines:
            line["run_micro"] += line.pop("waste_micro")
            line.pop("name")
        return lines


def _given(query: CostQuery) -> Iterable[tuple[str, Any]]:
    return [(name, getattr(query, name)) for name in ("pool", "user", "job", "group") if getattr(query, name)]


def _keys(group_by: str, key: Any) -> list[str]:
    """The keys that a line counts under."""
    if group_by == "tag":
        return list(json.loads(key)) or [""] if key else [""]
    if group_by == "type":
        return [str(key).partition("/")[0]]
    return ["" if key is None else str(key)]
