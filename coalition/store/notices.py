"""What people are told, from its happening to its sending: news become notices in one transaction, and one server sends a notice.

Jobs that somebody wants to hear of have a row in `watch`, with what was told of them; compared with the jobs now and then, it
shows the news. Nothing is done for this where jobs are dispatched. Alerts of the farm are read from the events, beyond the last
one that was looked at. A notice is claimed for some time by who sends it; if that one ends before it says what became of it,
another sends it, with the same id: what was not known to be sent is sent again rather than lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, insert, or_, select, update

from coalition import wishes
from coalition.model import JobSpec
from coalition.schema import attempt, counter, event, group_count, job, notice, spec, watch, worker
from coalition.states import JobState
from coalition.store.base import Base, chunks, reads, writes
from coalition.words import counted

SEEN = "told_events"  # the counter with the id of the last event that was looked at
LAG = 1_000  # events that may pass before that is written though none of them is news
PIECE = 500  # notices of one round
NAMED = 5  # jobs in error that are named in a notice
GATHER_S = 10.0  # what else happens in this time goes into the same mail
FARM_KINDS = {"budget.alert": "budget", "budget.overrun": "budget", "worker.sicken": "sick", "instance.console": "boot"}
BLOCKS = ("(boot)", "(auth)", "(invalid)")  # reasons of a pool's block that need a human
LINKS = {"budget": "/?view=money", "sick": "/?view=workers", "boot": "/?view=cloud"}


@dataclass(frozen=True)
class Notice:
    """One thing to tell to one target: a mail's address, or a webhook's name. `path` leads to it on the page."""

    id: int
    at: float
    target: str
    kind: str
    job_id: int | None
    title: str
    text: str
    path: str
    tries: int


class News(NamedTuple):
    """Something to be told, before it is known to whom."""

    kind: str
    title: str
    text: str
    path: str
    job_id: int | None
    addresses: Sequence[str] = ()


_ERRORS = case((job.c.is_group, func.coalesce(group_count.c.error, 0)), (job.c.state == str(JobState.ERROR), 1), else_=0)
_FINISHED = case((job.c.is_group, func.coalesce(group_count.c.finished, 0)), else_=0)
_TOTAL = case((job.c.is_group, func.coalesce(group_count.c.total, 0)), else_=1)
_OVER = and_(job.c.state == str(JobState.FINISHED), _TOTAL > 0)


def _watched() -> Any:
    """Each watched job with what is to be compared."""
    columns = (job.c.id, job.c.is_group, spec.c.title, spec.c.user, _ERRORS.label("errors"), _FINISHED.label("done"))
    return (
        select(watch, *columns, _TOTAL.label("total"), case((_OVER, 1), else_=0).label("over"))
        .join(job, job.c.id == watch.c.job_id)
        .join(spec, spec.c.job_id == job.c.id)
        .outerjoin(group_count, group_count.c.group_id == job.c.id)
    )


def _moved() -> ColumnElement[bool]:
    """Whether there is something new of a watched job."""
    first = and_(watch.c.first > 0, watch.c.told_first.is_(False), watch.c.first <= _FINISHED)
    return or_(and_(_OVER, watch.c.told_end.is_(False)), and_(~_OVER, watch.c.told_end), watch.c.told_errors != _ERRORS, first)


class Notices(Base):
    """The part of the store that knows what is to be told."""

    # ------------------------------------------------------------ who wants to be told

    def watch_row(self, job_id: int, one: JobSpec, parent: int) -> dict[str, Any] | None:
        """The row of a new job that somebody wants to hear of; None for the others."""
        if not one.notify and (parent or not self._tells_of_trees):
            return None
        first = wishes.wish(self._words(one.notify)).first
        return {"job_id": job_id, "notify": json.dumps(list(one.notify)), "first": first}

    @property
    def _tells_of_trees(self) -> bool:
        """Whether somebody is told of every tree of the farm."""
        mail = self.settings.mail
        hooked = {kind for hook in self.settings.webhooks for kind in hook.events}
        return bool(mail.host and (mail.jobs or mail.first)) or bool({*mail.events, *hooked} & {*wishes.OF_JOBS})

    def _words(self, given: Sequence[str]) -> Sequence[str]:
        """What a job's `notify` asks for; without one, what the farm says of trees."""
        mail = self.settings.mail
        return given or [*mail.jobs, *([f"first:{mail.first}"] if mail.first else [])]

    def _watch(self, db: Connection, ids: Sequence[int], words: Sequence[str]) -> None:
        """From now on these are told of jobs; what they are already is not news."""
        for chunk in chunks(sorted(ids)):
            db.execute(delete(watch).where(watch.c.job_id.in_(chunk)))
            found = db.execute(select(job.c.id, job.c.parent).where(job.c.id.in_(chunk)).order_by(job.c.id))
            rows = [self.watch_row(one.id, JobSpec(notify=words), one.parent) for one in found]
            if kept := [row for row in rows if row]:
                db.execute(insert(watch), kept)
            for row in db.execute(_watched().where(watch.c.job_id.in_(chunk))).all():
                self._tell_no_more(db, row)

    def _tell_no_more(self, db: Connection, row: Any) -> None:
        """What a watched job is now was told."""
        told = {"told_end": bool(row.over), "told_errors": row.errors, "told_first": bool(row.first and row.done >= row.first)}
        db.execute(update(watch).where(watch.c.job_id == row.job_id).values(told))

    # ------------------------------------------------------------ news

    @reads
    def has_news(self, db: Connection) -> bool:
        """Whether there is something to `collect`."""
        if db.execute(_watched().where(_moved()).limit(1)).first():
            return True
        seen = db.execute(select(counter.c.value).where(counter.c.name == SEEN)).scalar()
        newest = db.execute(select(func.max(event.c.id))).scalar() or 0
        return seen is None or newest - seen > LAG or bool(self._happened(db, seen))

    @writes
    def collect(self, db: Connection) -> int:
        """Makes notices of all that is new; how many. Whoever does it, each is made once."""
        newest = db.execute(select(func.max(event.c.id))).scalar() or 0
        seen = db.execute(select(counter.c.value).where(counter.c.name == SEEN)).scalar()
        news = [] if seen is None else self._happened(db, seen)
        self._bump(db, SEEN, newest - (seen or 0))
        rows = db.execute(_watched().where(_moved()).order_by(watch.c.job_id)).all()
        for row in rows:
            news += self._news_of(db, row)
            self._tell_no_more(db, row)
        made = [values for one in news for values in self._addressed(one)]
        if made:
            db.execute(insert(notice), made)
        return len(made)

    def _happened(self, db: Connection, seen: int) -> list[News]:
        """What the events tell that is for somebody."""
        kinds = (*FARM_KINDS, "pool.block")
        query = select(event, worker.c.name).outerjoin(worker, worker.c.id == event.c.worker_id)
        rows = db.execute(query.where(event.c.id > seen, event.c.kind.in_(kinds)).order_by(event.c.id))
        return [_alert(row) for row in rows if row.kind != "pool.block" or any(why in row.text for why in BLOCKS)]

    def _news_of(self, db: Connection, row: Any) -> Iterator[News]:
        """What is new of a watched job, for those who asked."""
        asked = wishes.wish(self._words(json.loads(row.notify)))
        domains = self.settings.mail.domains
        told = [wishes.address_of(row.user, domains), *(one for one in asked.addresses if wishes.may_be_told(one, domains))]
        to = list(dict.fromkeys(filter(None, told)))
        name = f"{'group' if row.is_group else 'job'} {row.job_id} {row.title}".strip()
        path = f"/?view=jobs&job={row.job_id}"

        def news(kind: str, title: str, text: str) -> News:
            return News(kind, title, text, path, row.job_id, to if kind in asked.kinds else ())

        if row.errors > row.told_errors:
            words = f"{counted(row.errors, 'job')} of {row.total:,} in error" if row.is_group else "in error"
            yield news("error", f"{name}: {words}", self._errors_below(db, row))
        if row.first and not row.told_first and row.done >= row.first and not row.over:
            yield news("first", f"{name}: the first {row.first:,} are finished", f"{row.done:,} of {row.total:,} are finished.")
        if row.over and not row.told_end:
            yield news("finished", f"{name}: finished", f"All {row.total:,} are finished." if row.is_group else "It is finished.")

    def _errors_below(self, db: Connection, row: Any) -> str:
        """Some of the jobs in error, with their reasons."""
        found: list[str] = []
        level = [row.job_id]
        here = job.c.id.in_(level)
        while level and len(found) < NAMED:
            columns = (job.c.id, job.c.is_group, job.c.state, spec.c.title, attempt.c.reason)
            query = select(*columns).join(spec, spec.c.job_id == job.c.id).outerjoin(attempt, attempt.c.id == job.c.attempt_id)
            query = query.outerjoin(group_count, group_count.c.group_id == job.c.id).where(here, _ERRORS > 0)
            rows = db.execute(query.order_by(job.c.id).limit(PIECE)).all()
            found += [f"job {one.id} {one.title}: {(one.reason or 'no reason given')[:300]}" for one in rows if not one.is_group]
            level = [one.id for one in rows if one.is_group]
            here = job.c.parent.in_(level)
        return "\n".join(found[:NAMED])

    def _addressed(self, news: News) -> Iterator[dict[str, Any]]:
        """The news for each who is to hear of them."""
        mail, now = self.settings.mail, self.clock()
        told = [*news.addresses, *(mail.to if news.kind in mail.events else ())] if mail.host else []
        where = [("mail", one) for one in dict.fromkeys(told)]
        where += [("webhook", hook.name) for hook in self.settings.webhooks if news.kind in hook.events]
        for channel, target in where:
            due_at = now + (GATHER_S if channel == "mail" else 0.0)
            values = {"at": now, "channel": channel, "target": target, "kind": news.kind, "job_id": news.job_id}
            yield {**values, "title": news.title[:255], "text": news.text, "path": news.path, "due_at": due_at}

    # ------------------------------------------------------------ sending

    @reads
    def has_due(self, db: Connection, channel: str, every_s: float) -> bool:
        """Whether there is something to `claim`."""
        return db.execute(self._due(channel, every_s).limit(1)).first() is not None

    @writes
    def claim(self, db: Connection, channel: str, every_s: float, holder: str, hold_s: float) -> list[Notice]:
        """Notices that are due, for this holder alone during `hold_s`. A target gets something at most once in `every_s`.

        When they are many, some of each target: nobody's crowd the others' out.
        """
        due = self._due(channel, every_s).subquery()
        place = func.row_number().over(partition_by=due.c.target, order_by=due.c.id).label("place")
        some = select(due.c.id, place).order_by(place, due.c.id).limit(PIECE).subquery()
        rows = db.execute(select(notice).join(some, some.c.id == notice.c.id).order_by(notice.c.id)).all()
        held = {"claimed_by": holder, "claimed_until": self.clock() + hold_s, "tries": notice.c.tries + 1}
        db.execute(update(notice).where(notice.c.id.in_([row.id for row in rows])).values(held))
        names = [name for name in Notice.__dataclass_fields__ if name != "tries"]
        return [Notice(**{name: getattr(row, name) for name in names}, tries=row.tries + 1) for row in rows]

    def _due(self, channel: str, every_s: float) -> Any:
        now = self.clock()
        query = select(notice).where(notice.c.channel == channel, notice.c.sent_at.is_(None), notice.c.due_at <= now)
        query = query.where(notice.c.claimed_until <= now)
        if every_s:
            lately = notice.alias("lately")
            told = select(lately.c.target).where(lately.c.channel == channel, lately.c.sent_at > now - every_s)
            query = query.where(notice.c.target.not_in(told))
        return query

    @writes
    def sent(self, db: Connection, ids: Sequence[int], holder: str) -> int:
        """They have arrived; how many of them this holder still had."""
        values = {"sent_at": self.clock(), "claimed_until": 0.0, "why": ""}
        return int(db.execute(update(notice).where(*_held(ids, holder)).values(values)).rowcount)

    @writes
    def put_off(self, db: Connection, ids: Sequence[int], holder: str, why: str, due_at: float) -> None:
        """They could not be sent; they are due again then."""
        values = {"due_at": due_at, "claimed_until": 0.0, "why": why[:500]}
        db.execute(update(notice).where(*_held(ids, holder)).values(values))

    @writes
    def put_off_behind(self, db: Connection, channel: str, target: str, due_at: float) -> None:
        """What waits for this target behind others that could not be sent is not due before them."""
        waits = (notice.c.channel == channel, notice.c.target == target, notice.c.sent_at.is_(None))
        free = (notice.c.claimed_until <= self.clock(), notice.c.due_at < due_at)
        db.execute(update(notice).where(*waits, *free).values(due_at=due_at))

    @writes
    def give_up(self, db: Connection, ids: Sequence[int], holder: str, why: str) -> None:
        """They are refused for good: nobody will hear of them, and an event says so."""
        rows = db.execute(select(notice.c.target, notice.c.title).where(*_held(ids, holder)).order_by(notice.c.id)).all()
        db.execute(delete(notice).where(*_held(ids, holder)))
        for row in rows:
            self._event(db, "notice.lost", "server", f"{row.target} was not told ({row.title}): {why[:500]}")

    @reads
    def unsent(self, db: Connection, limit: int = 1_000) -> list[dict[str, Any]]:
        """What waits to be sent, the oldest first, with what kept it."""
        columns = ("id", "at", "channel", "target", "kind", "title", "due_at", "tries", "why")
        query = select(*(notice.c[name] for name in columns)).where(notice.c.sent_at.is_(None))
        return [dict(row) for row in db.execute(query.order_by(notice.c.id).limit(limit)).mappings()]

    @reads
    def unsent_counts(self, db: Connection) -> Mapping[str, int]:
        """How much waits, by channel."""
        query = select(notice.c.channel, func.count().label("n")).where(notice.c.sent_at.is_(None))
        return {"mail": 0, "webhook": 0, **{row.channel: row.n for row in db.execute(query.group_by(notice.c.channel))}}

    @writes
    def forget_notices(self, db: Connection, before: float, limit: int) -> int:
        """Deletes up to `limit` that were sent before a time; how many."""
        old = select(notice.c.id).where(notice.c.sent_at < before).order_by(notice.c.id).limit(limit)
        ids = db.execute(old).scalars().all()
        db.execute(delete(notice).where(notice.c.id.in_(ids)))
        return len(ids)


def _held(ids: Sequence[int], holder: str) -> tuple[ColumnElement[bool], ...]:
    return notice.c.id.in_(ids), notice.c.claimed_by == holder, notice.c.sent_at.is_(None)


def _alert(row: Any) -> News:
    """What an event of the farm tells."""
    kind = FARM_KINDS.get(row.kind, "boot")
    first_line = row.text.strip().partition("\n")[0]
    title = {
        "worker.sicken": f"worker {row.name or row.worker_id} is set aside as sick",
        "instance.console": f"instance {row.instance_id} failed to boot",
    }.get(row.kind, first_line)
    path = f"/?view=workers&worker={row.worker_id}" if row.kind == "worker.sicken" else LINKS[kind]
    return News(kind, title, row.text[-2_000:], path, None)
