"""What was spent, by day, pool, type, instance, user, group, tag, job or attempt: booked lines, and those of what still runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from coalition import ledger
from coalition.errors import NotFound
from coalition.schema import archive, attempt, instance, job, spec, worker
from coalition.schema import ledger as table
from coalition.states import AttemptState, JobState, WorkerState
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
OPEN = [str(state) for state in (JobState.WAITING, JobState.PENDING, JobState.WORKING)]
UP = [str(state) for state in (WorkerState.WAITING, WorkerState.WORKING)]
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

    @reads
    def forecast(self, db: Connection, job_id: int | None = None) -> dict[str, Any]:
        """When a group, a job, or (None) all that is open will be done and what it will have cost, by what its likes took.

        Likes are the jobs of one group. Times hold at the number of jobs that run now, else at that of the farm's slots.
        """
        chosen = None if job_id is None else self._groups_of(db, job_id)
        open_jobs = [job.c.is_group.is_(False), job.c.state.in_(OPEN)]
        open_jobs += [] if chosen is None else [chosen]
        counts: dict[int, dict[str, int]] = {}
        sums = select(job.c.parent, job.c.state, func.count().label("n")).where(*open_jobs).group_by(job.c.parent, job.c.state)
        for row in db.execute(sums):
            counts.setdefault(row.parent, {})[row.state] = row.n
        likes = self._likes(db, {parent: sum(states.values()) for parent, states in counts.items()})
        left = ledger.forecast(likes)
        running = sum(states.get(JobState.WORKING, 0) for states in counts.values())
        at_once = running or int(
            db.execute(select(func.coalesce(func.sum(worker.c.slots), 0)).where(worker.c.state.in_(UP))).scalar_one()
        )
        now, known = self.clock(), left.jobs > left.unknown and at_once > 0
        ends = [now + seconds / min(at_once, left.jobs) if known else None for seconds in left.seconds]
        low, middle, high = left.cost_micro
        money = {"cost_low_micro": low, "cost_micro": middle, "cost_high_micro": high}
        times = dict(zip(("ends_early", "ends_at", "ends_late"), ends, strict=True))
        currency = next((pool.currency for pool in self.settings.pools), "USD")
        return {"jobs": left.jobs, "unknown": left.unknown, "running": running, "at_once": at_once, **times, **money} | {
            "work_s": left.seconds[1],
            "currency": currency,
        }

    def _groups_of(self, db: Connection, job_id: int) -> Any:
        """What chooses the leaves below a group, or a leaf."""
        row = db.execute(select(job.c.is_group).where(job.c.id == job_id)).first()
        if row is None:
            raise NotFound(f"there is no job {job_id}", fields={"job": f"no job {job_id}"})
        if not row.is_group:
            return job.c.id == job_id
        groups, _ = self._walk(db, [job_id])
        return job.c.parent.in_([group.id for group in groups])

    def _likes(self, db: Connection, left: dict[int, int]) -> list[ledger.Likes]:
        """What the finished jobs of these groups took."""
        ages: dict[int, list[float]] = {}
        begun = select(job.c.parent, attempt.c.leased_at).join(job, job.c.id == attempt.c.job_id)
        for row in db.execute(begun.where(attempt.c.open_worker.is_not(None))):
            ages.setdefault(row.parent, []).append(max(0.0, self.clock() - row.leased_at))
        found = {parent: ledger.Likes(count, 0, ages=tuple(ages.get(parent, ())[:count])) for parent, count in left.items()}
        run_s = attempt.c.run_ms * 0.001
        columns = (func.count().label("n"), func.sum(run_s).label("total"), func.sum(run_s * run_s).label("squares"))
        query = select(job.c.parent, *columns, func.sum(attempt.c.cost_micro).label("cost")).select_from(
            attempt.join(job, job.c.id == attempt.c.job_id)
        )
        for chunk in chunks(sorted(left)):
            done = query.where(attempt.c.state == str(AttemptState.FINISHED), job.c.parent.in_(chunk), job.c.parent != 0)
            for row in db.execute(done.group_by(job.c.parent)):
                sums = (float(row.total), float(row.squares), int(row.cost))
                found[row.parent] = ledger.Likes(left[row.parent], row.n, *sums, ages=found[row.parent].ages)
        return list(found.values())

    def _booked(self, db: Connection, group_by: str, query: CostQuery) -> Iterator[_Part]:
        column = COLUMNS[group_by]
        sums = (func.sum(table.c.seconds), func.sum(table.c.amount_micro))
        wanted = [table.c.at >= query.since]
        wanted += [table.c.at < query.until] if query.until is not None else []
        wanted += [COLUMNS[name] == value for name, value in _given(query)]
        if query.tag:  # LIKE takes no notice of capitals on some databases, REPLACE does on all
            wanted.append(func.replace(table.c.tags, json.dumps(query.tag), "") != table.c.tags)
        grouped = (
            select(column, table.c.kind, table.c.currency, *sums).where(*wanted).group_by(column, table.c.kind, table.c.currency)
        )
        for key, kind, currency, seconds, amount in db.execute(grouped):
            yield _Part(key, kind, currency, float(seconds), int(amount))

    def _running(self, db: Connection, group_by: str, query: CostQuery) -> Iterator[_Part]:
        """The same of what is paid for now."""
        now = self.clock()
        live = select(instance).where(instance.c.state.in_(PAID), instance.c.launched_at.is_not(None))
        rows = db.execute(live.where(instance.c.pool == query.pool) if query.pool else live).all()
        ends = {row.id: max(now, row.launched_at) for row in rows}
        known = bills.prices(db, rows, min((row.launched_at for row in rows), default=now))
        rates = {row.id: bills.rates_of(known, row, row.launched_at, ends[row.id]) for row in rows}
        for line in bills.lines(db, [bills.Stay(row, row.launched_at, ends[row.id], rates[row.id]) for row in rows], now):
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
