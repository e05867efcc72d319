"""Why the jobs of a group wait: their reasons, counted.

The work is bounded whatever the size of the group: its counters are exact, and of the jobs below it the first thousand are looked
at, by class. A class is what the scheduler knows of a job (requirements, place in the order), so one answer is for all of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from coalition.model import Counts, Job
from coalition.schema import attempt, group_count, job, klass
from coalition.states import JobState
from coalition.store import lists
from coalition.store.base import HotIn, chunks, reads
from coalition.store.explain import Explain, Reason, because
from coalition.store.moment import Moment
from coalition.words import counted, verb

LOOKED = 1_000  # jobs below a group that are looked at
LEVELS = 50
CLASSES = 8  # the largest of them, whose reasons are told


class Below(NamedTuple):
    """A job or group below the one in question."""

    id: int
    is_group: bool
    class_id: int
    paused: bool
    holds: int
    not_before: float
    waiting: int | None
    pending: int | None


def _below(state: JobState) -> HotIn:
    columns = (*(job.c[name] for name in Below._fields[:6]), group_count.c.waiting, group_count.c.pending)
    return HotIn(
        lambda ids: (
            select(*columns)
            .outerjoin(group_count, group_count.c.group_id == job.c.id)
            .where(job.c.state == str(state), job.c.parent.in_(ids))
            .limit(bindparam("b_limit"))
        ),
        "b_limit",
    )


BELOW = {state: _below(state) for state in (JobState.WAITING, JobState.PENDING, JobState.WORKING, JobState.ERROR)}


@dataclass
class Found:
    """What was seen below a group."""

    seen: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)  # (code, text) -> jobs
    classes: dict[int, list[Below]] = field(default_factory=dict)
    pending: list[Below] = field(default_factory=list)
    delayed: list[Below] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)


class ExplainGroups(Explain):
    """The part of the store that says why the jobs of a group wait."""

    @reads
    def _why_group(self, db: Connection, shown: Job, viewer: str | None) -> list[Reason]:
        counts = shown.counts or Counts()
        if not counts.total:
            return [because("empty", "is an empty group: submit jobs into it, or delete it")]
        told = [_tally(shown.state, counts), *self._why_sunk(db, shown.id)]
        held = self._why_held(db, shown.id) if counts.waiting + counts.pending else []
        if held:  # all that is below waits for that
            return [*held, *told] if shown.state in (JobState.WAITING, JobState.PENDING) else [*told, *held]
        if viewer is not None and lists.counts(db, shown.id)["total"] != counts.total:  # others have jobs in it
            return told
        found = self._look_below(db, shown.id)
        self._add_errors(db, found)
        if found.pending:
            first = found.pending[0].id
            text = f"waiting for other jobs; #{first} {self._why_pending(db, first)}"
            found.reasons["dependencies", text] += len(found.pending)
        if found.delayed:
            soonest = min(row.not_before for row in found.delayed) - self.clock()
            words = f"tried again after an error, the first in {soonest:.0f} s"
            found.reasons["backoff", words] += len(found.delayed)
        self._add_classes(Moment(self, db), found)
        told += [because(code, f"{counted(jobs, 'job')}: {text}") for (code, text), jobs in found.reasons.most_common()]
        if found.seen >= LOOKED:
            told.append(because("sample", f"counted among {counted(found.seen, 'job')} of those that are not finished"))
        return told

    # ------------------------------------------------------------ looking

    def _look_below(self, db: Connection, group: int) -> Found:
        """What holds the jobs below a group that wait, level by level, as far as LOOKED and LEVELS go."""
        found = Found()
        level = [group]
        for _ in range(LEVELS):
            groups: list[int] = []
            for state in BELOW:
                for chunk in chunks(level):
                    rows = BELOW[state].all(db, chunk, max(0, LOOKED - found.seen))
                    found.seen += len(rows)
                    groups += self._sort_in(db, sorted(map(Below._make, rows)), state, found)  # by id: databases have no order
            level = groups
            if not level or found.seen >= LOOKED:
                break
        return found

    def _sort_in(self, db: Connection, rows: Any, state: JobState, found: Found) -> list[int]:
        """Puts each job where it is counted; the groups to look into."""
        groups = []
        for row in rows:
            inside = (row.waiting or 0) + (row.pending or 0)
            if row.is_group and row.paused and inside:
                found.reasons["paused", f"group #{row.id} is paused"] += inside
            elif row.is_group and row.holds and inside:
                found.reasons["dependencies", f"group #{row.id} {self._why_pending(db, row.id)}"] += inside
            elif row.is_group:
                groups.append(row.id)
            elif state == JobState.ERROR:
                found.errors.append(row.id)
            elif state != JobState.WORKING:
                self._sort_leaf(row, found)
        return groups

    def _sort_leaf(self, row: Below, found: Found) -> None:
        if row.paused:
            found.reasons["paused", "paused"] += 1
        elif row.holds:
            found.pending.append(row)
        elif row.not_before > self.clock():
            found.delayed.append(row)
        else:
            found.classes.setdefault(row.class_id, []).append(row)

    # ------------------------------------------------------------ counting

    def _add_errors(self, db: Connection, found: Found) -> None:
        """Those in ERROR, by what their newest attempts said."""
        for chunk in chunks(found.errors):
            query = select(attempt.c.reason, attempt.c.exit_code).join(job, job.c.attempt_id == attempt.c.id)
            for row in db.execute(query.where(job.c.id.in_(chunk)).order_by(job.c.id)):
                words = row.reason or (f"exit code {row.exit_code}" if row.exit_code is not None else "no reason was told")
                found.reasons["error", f"in error, {words}"] += 1

    def _add_classes(self, moment: Moment, found: Found) -> None:
        """Why nothing of a class is leased, for the largest of them."""
        largest = sorted(found.classes, key=lambda class_id: (-len(found.classes[class_id]), class_id))
        for class_id in largest[:CLASSES]:
            rows = found.classes[class_id]
            reason = self._why_class(moment, class_id, min(row.id for row in rows))
            found.reasons[reason["code"], reason["text"]] += len(rows)
        if others := largest[CLASSES:]:
            words = f"of {counted(len(others), 'further kind')}; explain one of them to know why"
            found.reasons["others", words] += sum(len(found.classes[class_id]) for class_id in others)

    def _why_class(self, moment: Moment, class_id: int, first: int) -> Reason:
        set_id = moment.db.execute(select(klass.c.set_id).where(klass.c.id == class_id)).scalar_one()
        if reasons := self._why_unmatched(moment, set_id):
            return because(reasons[0]["code"], "; ".join(one["text"] for one in reasons))
        takers = self._who_may(moment, set_id)
        reasons = self._why_full(moment, set_id, takers, first) or self._why_later(moment, class_id, first, takers)
        if reasons:
            return because(reasons[0]["code"], reasons[0]["text"])
        return because("soon", f"leased when {verb(len(takers), 'the worker that matches calls', 'a worker that matches calls')}")


def _tally(state: str, counts: Counts) -> Reason:
    """What the jobs of a group do, by number."""
    waiting = ("waits", "wait")
    parts = (
        (counts.error, "is in error", "are in error"),
        (counts.working, "is running", "are running"),
        (counts.waiting, *waiting),
        (counts.pending, "is held by dependencies", "are held by dependencies"),
        (counts.finished, "is finished", "are finished"),
    )
    words = ", ".join(f"{number:,} {verb(number, one, several)}" for number, one, several in parts if number)
    codes = {"WORKING": "running", "ERROR": "error", "FINISHED": "finished"}
    return because(codes.get(state, "group"), f"of {counted(counts.total, 'job')}: {words}")
