"""What becomes of attempts that ended: of their jobs (retries, delays, licences), of their workers (sickness), of shares.

The attempt row is the event of its own transitions (leased, started, ended, by whom, with the reason): nothing else is
written for them, so that a finished job costs one update of job and attempt, one delete from ready, and its share of a
group's counters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from coalition import matching
from coalition.matching import Capacity
from coalition.model import Lease, Refused, Result, Running
from coalition.schema import attempt, fair_use, job, worker
from coalition.states import ATTEMPT, ENDED_JOBS, JOB, OPEN_ATTEMPTS, WORKER, AttemptState, JobState, after, allows
from coalition.store.base import Hot, HotIn
from coalition.store.jobs import Jobs
from coalition.store.tree import DELETE_READY, Changes, over

HOUR_MS = 3_600_000
VERBS = {"FINISHED": "finish", "ERROR": "fail", "STOPPED": "stop"}
COUNTED_ALREADY = (AttemptState.FINISHED, AttemptState.ERROR)
TAKEN_FROM = (AttemptState.LEASED, AttemptState.RUNNING, AttemptState.LOST)
HEALTHY = {"streak": 0, "streak_of": 0, "sick_until": None, "why": ""}  # what forgiveness writes

RESULT_COLUMNS = ("id", "job_id", "worker_id", "state", "leased_at", "started_at", "set_id", "fair_key")
JOB_COLUMNS = ("state", "parent", "class_id", "errors", "retries", "attempt_id", "paused", "holds")
RESULT_ROWS = HotIn(
    lambda ids: (
        select(*[attempt.c[name] for name in RESULT_COLUMNS], *[job.c[name].label(f"job_{name}") for name in JOB_COLUMNS])
        .outerjoin(job, job.c.id == attempt.c.job_id)
        .where(attempt.c.id.in_(ids))
    )
)
ENDING = (
    *("started_at", "ended_at", "run_ms", "progress", "exit_code", "signal", "reason", "cost_micro"),
    *("no_licence", "memory_bytes"),
)
END_ATTEMPT = Hot(
    update(attempt)
    .where(attempt.c.id == bindparam("b_id"))
    .values({"open_worker": None, "state": bindparam("b_state"), **{name: bindparam(f"b_{name}") for name in ENDING}}),
    *("b_state", *(f"b_{name}" for name in ENDING), "b_id"),
)
END_JOB = Hot(
    update(job)
    .where(job.c.id == bindparam("b_id"))
    .values(
        state=bindparam("b_state"),
        errors=bindparam("b_errors"),
        not_before=bindparam("b_not_before"),
        avoid=bindparam("b_avoid"),
        ended_at=bindparam("b_ended"),
    ),
    *("b_state", "b_errors", "b_not_before", "b_avoid", "b_ended", "b_id"),
)
ADD_ERRORS = Hot(update(job).where(job.c.id == bindparam("b_id")).values(errors=job.c.errors + bindparam("b_by")), "b_by", "b_id")
SINKING = HotIn(
    lambda ids: (
        select(job.c.id, job.c.prio, job.c.errors)
        .where(job.c.id.in_(ids), job.c.sink_after > 0, job.c.errors >= job.c.sink_after, job.c.sunk_from.is_(None))
        .order_by(job.c.id)
    )
)
SINK = Hot(update(job).where(job.c.id == bindparam("b_id")).values(sunk_from=job.c.prio), "b_id")
LOWEST = Hot(update(job).where(job.c.id == bindparam("b_id")).values(prio=0), "b_id")
CALLER_COLUMNS = ("id", "name", "epoch", "state", "active", "streak", "streak_of", "hours", "timezone")
CALLERS = HotIn(lambda ids: select(*[worker.c[name] for name in CALLER_COLUMNS]).where(worker.c.id.in_(ids)))


@dataclass(frozen=True)
class Call:
    """What one worker's sync asks of the store."""

    worker_id: int
    epoch: int
    capacity: Capacity
    results: Sequence[Result]
    started: Sequence[Running]
    want: int
    held: frozenset[int]  # attempts that the worker lists; others that it should hold are given again
    slot_price_micro: int = 0  # per hour
    ahead: int = 0  # how many of `want` wait on the worker for a slot


@dataclass
class Outcome:
    leases: list[Lease] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    open: dict[int, int] = field(default_factory=dict)  # attempt -> job, all that the worker should hold now
    finished: int = 0
    errors: int = 0
    fed: bool = False  # jobs became ready in the same transaction, for whoever waits
    kept_back: bool = False  # a job fits the worker, and waits for another one: nobody tells when that changes


@dataclass
class Caller:
    """A worker as the database has it while its call is served."""

    id: int
    name: str
    epoch: int
    state: str
    active: bool
    streak: int
    streak_of: int
    hours: str
    timezone: str
    last: str = ""  # words for the last error


@dataclass(frozen=True)
class ResultRow:
    """An attempt with what matters of its job; job columns are None when the job was deleted."""

    id: int
    job_id: int
    worker_id: int
    state: str
    leased_at: float
    started_at: float | None
    set_id: int
    fair_key: str
    job_state: str
    job_parent: int
    job_class_id: int
    job_errors: int
    job_retries: int
    job_attempt_id: int | None
    job_paused: bool
    job_holds: int


@dataclass(frozen=True)
class Fate:
    """What a job becomes after an attempt's end. `words`: why it is not run again though it has retries left."""

    state: str
    errors: int
    not_before: float = 0.0
    avoid: int = 0
    words: str = ""


@dataclass
class Taken:
    """Rows to write for the results of one exchange."""

    seen: set[int] = field(default_factory=set)
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    jobs: list[tuple[Any, ...]] = field(default_factory=list)
    not_ready: list[tuple[int, int]] = field(default_factory=list)
    requeued: list[int] = field(default_factory=list)
    erring: Counter[int] = field(default_factory=Counter)  # parent -> errors below it
    ended: set[int] = field(default_factory=set)  # groups in which a job ended for good
    deltas: dict[int, dict[str, int]] = field(default_factory=dict)  # parent -> what its counters, and those above, gain
    health: dict[int, Caller] = field(default_factory=dict)  # workers whose streak changed
    used: dict[str, float] = field(default_factory=dict)  # fair key -> slot-seconds

    def tally(self, parent: int, old: str, new: str, run_ms: int, cost_micro: int) -> None:
        """Counts a job's change of state, and what its attempt took."""
        mine = self.deltas.setdefault(parent, {})
        for name, delta in ((old.lower(), -1), (new.lower(), 1), ("run_ms", run_ms), ("cost_micro", cost_micro)):
            mine[name] = mine.get(name, 0) + delta


class Results(Jobs):
    """The part of the store that takes results."""

    def _take_results(
        self,
        db: Connection,
        calls: Sequence[Call],
        outcomes: Sequence[Outcome],
        callers: Mapping[int, Caller],
        changes: Changes,
        now: float,
    ) -> None:
        ids = [result.attempt for call in calls for result in call.results]
        if not ids:
            return
        rows = {row.id: row for row in self._result_rows(db, ids)}
        taken = Taken()
        for call, outcome in zip(calls, outcomes, strict=True):
            for result in map(_without_nul, call.results):
                row = rows.get(result.attempt)
                refusal = refusal_of(row, call.worker_id, result.state)
                if refusal:
                    outcome.refused.append(Refused(result.attempt, refusal))
                elif row is not None and row.id not in taken.seen and row.state in TAKEN_FROM:
                    taken.seen.add(row.id)
                    self._take(db, call, outcome, result, row, taken, changes, now)
                    self._note_health(row, result, callers[call.worker_id], taken)
        for parent, deltas in taken.deltas.items():
            changes.count(self._ancestors(db, parent), **deltas)
        self._many(db, END_ATTEMPT, taken.attempts)
        self._many(db, END_JOB, taken.jobs)
        self._many(db, DELETE_READY, taken.not_ready)
        if taken.requeued:
            self._refresh(db, taken.requeued, changes)
        if taken.erring:
            self._sink(db, taken.erring, changes)
        self._mark_ended(db, taken.ended, now)
        self._write_health(db, taken.health.values(), now)
        self._book_use(db, taken.used, now)

    def _result_rows(self, db: Connection, ids: Sequence[int]) -> Iterable[ResultRow]:
        return (ResultRow(*row) for row in RESULT_ROWS.all(db, ids))

    def _take(
        self,
        db: Connection,
        call: Call,
        outcome: Outcome,
        result: Result,
        row: ResultRow,
        taken: Taken,
        changes: Changes,
        now: float,
    ) -> None:
        verb = VERBS[result.state]
        run_ms = round(result.run_s * 1_000)
        cost = -(-run_ms * call.slot_price_micro // HOUR_MS)
        fate = self._fate(db, row, result, now)
        began = now - result.run_s  # the worker knows best; the sync that told of the start came up to a second after it
        started = began if row.started_at is None else min(row.started_at, began)
        progress = 1.0 if verb == "finish" else 0.0
        reason = "; ".join(filter(None, (result.reason, fate.words)))
        no_licence = verb == "fail" and result.no_licence
        ending = (started, now, run_ms, progress, result.exit_code, result.signal, reason, cost, no_licence, result.memory_bytes)
        taken.attempts.append((after(ATTEMPT, row.state, verb), *ending, row.id))
        outcome.finished += verb == "finish"
        outcome.errors += verb == "fail" and not no_licence
        if fate.state == JobState.WAITING:
            taken.requeued.append(row.job_id)
        if row.job_state in (JobState.WAITING, JobState.PENDING):
            taken.not_ready.append((row.job_class_id, row.job_id))
        over_at = now if fate.state in ENDED_JOBS else None
        taken.jobs.append((fate.state, fate.errors, fate.not_before, fate.avoid, over_at, row.job_id))
        if verb == "fail" and not no_licence and row.job_parent:
            taken.erring[row.job_parent] += 1
        taken.tally(row.job_parent, row.job_state, fate.state, run_ms, cost)
        if row.state in OPEN_ATTEMPTS:
            self._give_back(db, row.set_id, row.worker_id, changes)
        if row.fair_key:
            taken.used[row.fair_key] = taken.used.get(row.fair_key, 0.0) + result.run_s
        if fate.state in ENDED_JOBS:
            changes.flips[row.job_id] = over(fate.state)
            taken.ended.add(row.job_parent)

    # ------------------------------------------------------------ retries

    def _fate(self, db: Connection, row: ResultRow, result: Result, now: float) -> Fate:
        """What becomes of the job: a retry waits longer each time, and goes to another worker first."""
        rules, verb = self.settings.scheduler, VERBS[result.state]
        if verb == "finish":
            return Fate(after(JOB, row.job_state, verb), row.job_errors)
        if verb == "stop":
            return Fate(_back(row.job_state), row.job_errors)
        if result.no_licence:
            return Fate(_back(row.job_state), row.job_errors, now + rules.licence_delay_s)
        errors = row.job_errors + 1
        words = self._failed_on_many(db, row, errors) if errors <= row.job_retries else ""
        if words or errors > row.job_retries:
            return Fate(after(JOB, row.job_state, verb), errors, words=words)
        delay = min(rules.retry_delay_s * 2.0 ** min(errors - 1, 60), rules.retry_delay_max_s)
        return Fate(_back(row.job_state), errors, now + delay if delay else 0.0, row.worker_id)

    def _failed_on_many(self, db: Connection, row: ResultRow, errors: int) -> str:
        """That the job has erred on too many different workers since it was reset, in words: then the fault is its own."""
        limit = self.settings.scheduler.stop_after_workers
        if not limit or errors < limit:
            return ""
        erred = (attempt.c.state == str(AttemptState.ERROR), attempt.c.no_licence.is_(False))
        earlier = select(attempt.c.worker_id).where(attempt.c.job_id == row.job_id, *erred).order_by(attempt.c.id.desc())
        workers = {row.worker_id, *db.execute(earlier.limit(errors - 1)).scalars()}
        if len(workers) < limit:
            return ""
        names = db.execute(select(worker.c.name).where(worker.c.id.in_(workers)).order_by(worker.c.name)).scalars()
        return f"it failed on {len(workers)} workers ({', '.join(names)}) and is not run again"

    def _sink(self, db: Connection, erring: Mapping[int, int], changes: Changes) -> None:
        """Counts errors for the groups above; one that had as many as it may comes after all its siblings from now on."""
        errors: Counter[int] = Counter()
        for parent, count in erring.items():
            errors.update(dict.fromkeys(self._ancestors(db, parent), count))
        ADD_ERRORS.many(db, [(count, group) for group, count in sorted(errors.items())])
        due = SINKING.all(db, sorted(errors))
        for group, priority, count in due:
            SINK.many(db, [(group,)])
            LOWEST.many(db, [(group,)])
            words = (
                f"sank from priority {priority} to 0 after {count} errors of its jobs; a reset, or a priority by hand, lifts it"
            )
            self._event(db, "job.sink", "server", words, job_id=group)
        if due:
            self._refresh(db, [group for group, *_ in due], changes)
            self._bump(db, "backlog")

    # ------------------------------------------------------------ sick workers

    def _note_health(self, row: ResultRow, result: Result, caller: Caller, taken: Taken) -> None:
        """A worker's errors in a row, of which the jobs of one group count once: a bad shot does not make a bad worker."""
        verb = VERBS[result.state]
        if verb == "finish" and caller.streak:
            caller.streak = caller.streak_of = 0
            taken.health[caller.id] = caller
        elif verb == "fail" and not result.no_licence:
            family = row.job_parent or row.job_id
            caller.last = f"job {row.job_id}: {result.reason or 'ERROR'}"
            if family != caller.streak_of:
                caller.streak, caller.streak_of = caller.streak + 1, family
                taken.health[caller.id] = caller

    def _write_health(self, db: Connection, changed: Iterable[Caller], now: float) -> None:
        rules = self.settings.scheduler
        for caller in sorted(changed, key=lambda one: one.id):
            values: dict[str, Any] = {"streak": caller.streak, "streak_of": caller.streak_of}
            if rules.sick_after and caller.streak >= rules.sick_after and allows(WORKER, caller.state, "sicken"):
                caller.state = after(WORKER, caller.state, "sicken")
                why = f"{caller.streak} errors in a row of different jobs, the last one of {caller.last}"[:500]
                values |= {"state": caller.state, "sick_until": now + rules.sick_for_s, "why": why}
                self._event(db, "worker.sicken", "server", why, worker_id=caller.id)
                self._bump(db, "fleet")
                self._bump(db, "backlog")  # the autoscaler has a worker less
            db.execute(update(worker).where(worker.c.id == caller.id).values(values))

    # ------------------------------------------------------------ shares

    def _book_use(self, db: Connection, used: Mapping[str, float], now: float) -> None:
        """Adds slot-seconds to what each sharer has used lately."""
        if not used:
            return
        half_life_s = self.settings.scheduler.fair_half_life_s
        old = {row.fair_key: row for row in db.execute(select(fair_use).where(fair_use.c.fair_key.in_(sorted(used))))}
        for key in sorted(used):
            if key not in old:
                db.execute(insert(fair_use).values(fair_key=key, used_s=used[key], at=now))
                continue
            total = used[key] + matching.decayed(old[key].used_s, now - old[key].at, half_life_s)
            db.execute(update(fair_use).where(fair_use.c.fair_key == key).values(used_s=total, at=now))


def _back(state: str) -> str:
    """A job that is put back; one that waits already, because its lease was lost, stays what it is."""
    return after(JOB, state, "requeue") if state == JobState.WORKING else state


def refusal_of(row: ResultRow | None, worker_id: int, said: str) -> str | None:
    """Why a result does not count; None if it does, or if it was taken before."""
    if row is None or row.worker_id != worker_id:
        return "no such attempt of this worker"
    if row.state in COUNTED_ALREADY or said == row.state:
        return None
    if row.job_attempt_id is None:
        return "the job was deleted"
    if row.state == AttemptState.STOPPED:
        return "the attempt was stopped"
    if row.job_attempt_id != row.id:
        return f"the job was leased again, as attempt {row.job_attempt_id}"
    return f"the job is {row.job_state}" if row.job_state in ENDED_JOBS else None


def _without_nul(result: Result) -> Result:
    """What a job's own words hold and not every database takes must not hold the other results back."""
    if "\0" not in result.reason:
        return result
    return replace(result, reason=result.reason.replace("\0", "\N{REPLACEMENT CHARACTER}"))
