"""Dispatch: take results, give leases, renew, expire. `exchange` serves many workers' syncs in one transaction.

The attempt row is the event of its own transitions (leased, started, ended, by whom, with the reason): nothing else is
written for them, so that a finished job costs one update of job and attempt, one delete from ready, and its share of a
group's counters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, insert, select, update

from coalition import matching
from coalition.config import Settings
from coalition.matching import Capacity, Requirement
from coalition.model import Lease, Refused, Result, Running
from coalition.schema import attempt, group_count, instance, job, klass, ready, spec, worker
from coalition.states import ATTEMPT, ENDED_JOBS, JOB, OPEN_ATTEMPTS, WORKER, AttemptState, JobState, WorkerState, after, allows
from coalition.store.base import ALL_COUNTERS, Hot, HotIn, chunks, reads, writes
from coalition.store.jobs import Jobs
from coalition.store.tree import DELETE_READY, Changes

HOUR_MS = 3_600_000
LINES_KEPT = 200_000
COUNTED_ALREADY = (AttemptState.FINISHED, AttemptState.ERROR)
TAKEN_FROM = (AttemptState.LEASED, AttemptState.RUNNING, AttemptState.LOST)
BACKOFF_S = 60.0
TAKING = (WorkerState.STARTING, WorkerState.WAITING, WorkerState.WORKING, WorkerState.TIMEOUT)  # TIMEOUT: it just called
TIMED = (WorkerState.STARTING, WorkerState.WAITING, WorkerState.WORKING)

RESULT_COLUMNS = ("id", "job_id", "worker_id", "state", "leased_at", "started_at")
JOB_COLUMNS = ("state", "parent", "class_id", "errors", "retries", "attempt_id", "paused", "holds")
RESULT_ROWS = HotIn(
    lambda ids: (
        select(*[attempt.c[name] for name in RESULT_COLUMNS], *[job.c[name].label(f"job_{name}") for name in JOB_COLUMNS])
        .outerjoin(job, job.c.id == attempt.c.job_id)
        .where(attempt.c.id.in_(ids))
    )
)
END_ATTEMPT = Hot(
    update(attempt)
    .where(attempt.c.id == bindparam("b_id"))
    .values(
        open_worker=None,
        state=bindparam("b_state"),
        started_at=bindparam("b_started"),
        ended_at=bindparam("b_ended"),
        run_ms=bindparam("b_run"),
        progress=bindparam("b_progress"),
        exit_code=bindparam("b_exit"),
        signal=bindparam("b_signal"),
        reason=bindparam("b_reason"),
        cost_micro=bindparam("b_cost"),
    ),
    *("b_state", "b_started", "b_ended", "b_run", "b_progress", "b_exit", "b_signal", "b_reason", "b_cost", "b_id"),
)
END_JOB = Hot(
    update(job)
    .where(job.c.id == bindparam("b_id"))
    .values(state=bindparam("b_state"), errors=bindparam("b_errors"), not_before=bindparam("b_not_before")),
    *("b_state", "b_errors", "b_not_before", "b_id"),
)
LEASE_JOB = Hot(
    update(job).where(job.c.id == bindparam("b_id")).values(state=str(JobState.WORKING), attempt_id=bindparam("b_attempt")),
    *("b_attempt", "b_id"),
)
ATTEMPT_COLUMNS = ("id", "job_id", "worker_id", "open_worker", "epoch", "state", "deadline", "leased_at")
INSERT_ATTEMPT = Hot(insert(attempt).values({c: bindparam(c) for c in ATTEMPT_COLUMNS}), *ATTEMPT_COLUMNS)
NONEMPTY = Hot(select(klass.c.id, klass.c.set_id, klass.c.prio_path, klass.c.generation).where(klass.c.nonempty))
READY_OF = Hot(
    select(ready.c.job_id)
    .where(ready.c.class_id == bindparam("b_class"), ready.c.job_id > bindparam("b_after"))
    .order_by(ready.c.job_id)
    .limit(bindparam("b_limit")),
    *("b_class", "b_after", "b_limit"),
)
EMPTY_CLASS = Hot(
    update(klass).where(klass.c.id == bindparam("b_id"), klass.c.generation == bindparam("b_gen")).values(nonempty=False),
    *("b_id", "b_gen"),
)
LEASE_SPECS = HotIn(
    lambda ids: (
        select(
            spec.c.job_id,
            spec.c.title,
            spec.c.command,
            spec.c.dir,
            spec.c.environment,
            spec.c.user,
            spec.c.timeout_s,
            spec.c.progress_pattern,
            job.c.parent,
        )
        .join(job, job.c.id == spec.c.job_id)
        .where(spec.c.job_id.in_(ids))
    )
)
OPEN_OF = HotIn(lambda ids: select(attempt.c.open_worker, attempt.c.id, attempt.c.job_id).where(attempt.c.open_worker.in_(ids)))
STATES_OF = HotIn(lambda ids: select(worker.c.id, worker.c.epoch, worker.c.state).where(worker.c.id.in_(ids), worker.c.active))
RENEW = Hot(
    update(attempt)
    .where(attempt.c.id == bindparam("b_id"), attempt.c.open_worker == bindparam("b_worker"))
    .values(deadline=bindparam("b_deadline"), progress=bindparam("b_progress")),
    *("b_deadline", "b_progress", "b_id", "b_worker"),
)
MARK_STARTED = Hot(
    update(attempt)
    .where(
        attempt.c.id == bindparam("b_id"),
        attempt.c.open_worker == bindparam("b_worker"),
        attempt.c.state == bindparam("b_leased"),
    )
    .values(state=str(AttemptState.RUNNING), started_at=bindparam("b_at")),
    *("b_at", "b_id", "b_worker", "b_leased"),
)
FIRST_START = Hot(
    update(group_count)
    .where(group_count.c.group_id == bindparam("b_id"), group_count.c.started_at.is_(None))
    .values(started_at=bindparam("b_at")),
    *("b_at", "b_id"),
)
LAST_END = Hot(
    update(group_count).where(group_count.c.group_id == bindparam("b_id")).values(ended_at=bindparam("b_at")), "b_at", "b_id"
)
BEAT = Hot(
    update(worker)
    .where(worker.c.id == bindparam("b_id"))
    .values(
        seen_at=bindparam("b_seen"),
        load=bindparam("b_load"),
        memory_free_bytes=bindparam("b_memory"),
        idle_since=bindparam("b_idle"),
        finished=worker.c.finished + bindparam("b_finished"),
        errors=worker.c.errors + bindparam("b_errors"),
        used_at=bindparam("b_used"),
    ),
    *("b_seen", "b_load", "b_memory", "b_idle", "b_finished", "b_errors", "b_used", "b_id"),
)


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


@dataclass
class Outcome:
    leases: list[Lease] = field(default_factory=list)
    stop: list[int] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    open: dict[int, int] = field(default_factory=dict)  # attempt -> job, all that the worker should hold now
    finished: int = 0
    errors: int = 0
    fed: bool = False  # jobs became ready in the same transaction, for whoever waits


@dataclass(frozen=True)
class Beat:
    """A worker's heartbeat as it is flushed: when it was seen, and the attempts it holds with their progress."""

    worker_id: int
    seen_at: float
    load: float
    memory_free_bytes: int
    idle_since: float | None
    finished: int
    errors: int
    holds: tuple[tuple[int, float], ...]
    used_at: float | None = None  # when somebody last used its machine; None: cannot be told


@dataclass(frozen=True)
class Demand:
    """Waiting jobs of one requirement and priority path."""

    requirement: Requirement
    prio_path: str
    waiting: int
    estimate_s: float | None


class Dispatch(Jobs):
    """The part of the store that workers talk to."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        super().__init__(settings, clock)
        self._lines: dict[tuple[int, Capacity, str], int | None] = {}

    def line_of(self, db: Connection, set_id: int, capacity: Capacity) -> int | None:
        """The worker's best tag line for a requirement set, remembered."""
        requirement = self._requirement(db, set_id)
        key = (set_id, capacity, capacity.name if requirement.named else "")
        if key not in self._lines:
            if len(self._lines) > LINES_KEPT:
                self._lines.clear()
            self._lines[key] = matching.line(requirement, capacity)
        return self._lines[key]

    @writes
    def exchange(self, db: Connection, calls: Sequence[Call]) -> list[Outcome]:
        """Takes all the results, then gives leases, in one transaction; one outcome per call, in order."""
        now = self.clock()
        outcomes = [Outcome() for _ in calls]
        changes = Changes()
        self._take_results(db, calls, outcomes, changes, now)
        leased = str(AttemptState.LEASED)
        started = [(now, running.attempt, call.worker_id, leased) for call in calls for running in call.started]
        self._many(db, MARK_STARTED, started)
        self._settle(db, changes)
        held = self._open_by_worker(db, calls)
        self._give_leases(db, calls, _wanted(calls, held), outcomes, now)
        self._show_open(db, calls, held, outcomes)
        for outcome in outcomes:
            outcome.fed = bool(changes.fed)
        return outcomes

    # ------------------------------------------------------------ results

    def _take_results(
        self, db: Connection, calls: Sequence[Call], outcomes: Sequence[Outcome], changes: Changes, now: float
    ) -> None:
        ids = [result.attempt for call in calls for result in call.results]
        if not ids:
            return
        rows = {row[0]: _ResultRow(*row) for row in RESULT_ROWS.all(db, ids)}
        taken = _Taken()
        for call, outcome in zip(calls, outcomes, strict=True):
            for result in call.results:
                row = rows.get(result.attempt)
                refusal = _refusal(row, call.worker_id, result.state)
                if refusal:
                    outcome.refused.append(Refused(result.attempt, refusal))
                elif row is not None and row.id not in taken.seen and row.state in TAKEN_FROM:
                    taken.seen.add(row.id)
                    self._take(db, call, outcome, result, row, taken, changes, now)
        self._many(db, END_ATTEMPT, taken.attempts)
        self._many(db, END_JOB, taken.jobs)
        self._many(db, DELETE_READY, taken.not_ready)
        if taken.requeued:
            self._refresh(db, taken.requeued, changes)
        self._many(db, LAST_END, [(now, group) for group in sorted(taken.groups)])

    def _take(
        self,
        db: Connection,
        call: Call,
        outcome: Outcome,
        result: Result,
        row: _ResultRow,
        taken: _Taken,
        changes: Changes,
        now: float,
    ) -> None:
        run_ms = round(result.run_s * 1_000)
        cost = -(-run_ms * call.slot_price_micro // HOUR_MS)
        chain = self._chain_of(db, row.job_parent, taken.chains)
        verb = {"FINISHED": "finish", "ERROR": "fail", "STOPPED": "stop"}[result.state]
        began = now - result.run_s  # the worker knows best; the sync that told of the start came up to a second after it
        started = began if row.started_at is None else min(row.started_at, began)
        progress = 1.0 if verb == "finish" else 0.0
        ending = (after(ATTEMPT, row.state, verb), started, now, run_ms, progress, result.exit_code, result.signal)
        taken.attempts.append((*ending, result.reason, cost, row.id))
        outcome.finished += verb == "finish"
        outcome.errors += verb == "fail"
        state, errors, not_before = _next_job_state(row, verb, now)
        if state == JobState.WAITING:
            taken.requeued.append(row.job_id)
        if row.job_state in (JobState.WAITING, JobState.PENDING):
            taken.not_ready.append((row.job_class_id, row.job_id))
        taken.jobs.append((state, errors, not_before, row.job_id))
        changes.moved(chain, row.job_state, state)
        changes.count(chain, run_ms=run_ms, cost_micro=cost)
        taken.groups.update(chain)
        if state == JobState.FINISHED:
            changes.flips[row.job_id] = True

    def _chain_of(self, db: Connection, parent: int, chains: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
        if parent not in chains:
            chains[parent] = self._ancestors(db, parent)
        return chains[parent]

    # ------------------------------------------------------------ leases

    def _give_leases(
        self, db: Connection, calls: Sequence[Call], wanted: Sequence[int], outcomes: Sequence[Outcome], now: float
    ) -> None:
        # Checked again here, where the leases are written: a drain that was committed first must win.
        states = STATES_OF.all(db, sorted({call.worker_id for call, want in zip(calls, wanted, strict=True) if want}))
        may = {(worker_id, epoch) for worker_id, epoch, state in states if state in TAKING}
        wanted = [want if (call.worker_id, call.epoch) in may else 0 for call, want in zip(calls, wanted, strict=True)]
        total = sum(wanted)
        if not total:
            return
        picker = _Picker(self, db, total)
        picks: list[tuple[int, int, int]] = []  # call index, class, job
        for index, (call, want) in enumerate(zip(calls, wanted, strict=True)):
            if want:
                picks += [(index, class_id, job_id) for class_id, job_id in picker.take(call.capacity, want)]
        if picks:
            self._lease(db, calls, outcomes, picks, now)
        picker.close()

    def _lease(
        self,
        db: Connection,
        calls: Sequence[Call],
        outcomes: Sequence[Outcome],
        picks: Sequence[tuple[int, int, int]],
        now: float,
    ) -> None:
        first = self._allocate(db, "attempt", len(picks))
        deadline = now + self.settings.worker.lease_s
        leased = str(AttemptState.LEASED)
        numbered = [(first + offset, *pick) for offset, pick in enumerate(picks)]
        self._many(db, DELETE_READY, [(class_id, job_id) for _, _, class_id, job_id in numbered])
        self._many(db, LEASE_JOB, [(lease, job_id) for lease, _, _, job_id in numbered])
        rows = []
        for lease, index, _, job_id in numbered:
            call = calls[index]
            rows.append((lease, job_id, call.worker_id, call.worker_id, call.epoch, leased, deadline, now))
        self._many(db, INSERT_ATTEMPT, rows)
        specs = {row[0]: row for row in LEASE_SPECS.all(db, [job_id for _, _, _, job_id in numbered])}
        changes, chains = Changes(), {}  # type: tuple[Changes, dict[int, tuple[int, ...]]]
        for lease, index, _, job_id in numbered:
            outcomes[index].leases.append(_lease_of(lease, specs[job_id]))
            changes.moved(self._chain_of(db, specs[job_id][-1], chains), JobState.WAITING, JobState.WORKING)
        self._many(db, FIRST_START, [(now, group) for group in sorted(changes.counts)])
        self._apply_counts(db, changes)

    def _open_by_worker(self, db: Connection, calls: Sequence[Call]) -> dict[int, dict[int, int]]:
        """worker -> attempt -> job of what each of the callers should hold."""
        held: dict[int, dict[int, int]] = {call.worker_id: {} for call in calls}
        for worker_id, attempt_id, job_id in OPEN_OF.all(db, sorted(held)):
            held[worker_id][attempt_id] = job_id
        return held

    def _show_open(
        self, db: Connection, calls: Sequence[Call], held: Mapping[int, dict[int, int]], outcomes: Sequence[Outcome]
    ) -> None:
        """What each worker should hold: leases it does not list are given again, attempts it should not have are stopped."""
        for call, outcome in zip(calls, outcomes, strict=True):
            held[call.worker_id].update((lease.attempt, lease.job) for lease in outcome.leases)
        for call, outcome in zip(calls, outcomes, strict=True):
            outcome.open = dict(held[call.worker_id])
            ended = {result.attempt for result in call.results}
            strangers = call.held - outcome.open.keys() - ended
            outcome.stop = sorted(strangers - self._may_go_on(db, strangers, call.worker_id))
            new = {lease.attempt for lease in outcome.leases}
            again = {lease: job_id for lease, job_id in outcome.open.items() if lease not in call.held and lease not in new}
            if again:
                specs = {row[0]: row for row in LEASE_SPECS.all(db, sorted(set(again.values())))}
                outcome.leases += [_lease_of(lease, specs[job_id]) for lease, job_id in sorted(again.items())]

    def _may_go_on(self, db: Connection, attempts: Set[int], worker_id: int) -> set[int]:
        """Those that were LOST while the worker was cut off, and that nobody has replaced: their late result will count."""
        if not attempts:
            return set()
        rows = map(_ResultRow._make_row, RESULT_ROWS.all(db, sorted(attempts)))
        return {row.id for row in rows if row.state == AttemptState.LOST and _refusal(row, worker_id, "") is None}

    # ------------------------------------------------------------ heartbeats, loss

    @writes
    def flush_beats(self, db: Connection, beats: Sequence[Beat]) -> None:
        """Writes what workers said of themselves since the last flush, and renews the leases they hold."""
        deadline = {beat.worker_id: beat.seen_at + self.settings.worker.lease_s for beat in beats}
        rows = [
            (b.seen_at, b.load, b.memory_free_bytes, b.idle_since, b.finished, b.errors, b.used_at, b.worker_id) for b in beats
        ]
        self._many(db, BEAT, rows)
        held = [(deadline[b.worker_id], progress, lease, b.worker_id) for b in beats for lease, progress in b.holds]
        self._many(db, RENEW, held)
        quiet = [str(WorkerState.STARTING), str(WorkerState.TIMEOUT)]
        for chunk in chunks([beat.worker_id for beat in beats]):
            heard = update(worker).where(worker.c.id.in_(chunk), worker.c.state.in_(quiet))
            db.execute(heard.values(state=str(WorkerState.WAITING)))

    @writes
    def sweep(self, db: Connection) -> int:
        """Expires leases of silent workers, wakes jobs whose backoff is over, mends `nonempty`. How many leases expired.

        A gap of over half a lease since the last sweep means that the server itself was away: every deadline moves by it.
        """
        now = self.clock()
        if self._shift_after_outage(db, now):
            return 0
        open_states = [str(state) for state in OPEN_ATTEMPTS]
        expired = db.execute(
            select(attempt.c.id, attempt.c.worker_id).where(
                attempt.c.open_worker.is_not(None), attempt.c.deadline < now, attempt.c.state.in_(open_states)
            )
        ).all()
        changes = Changes()
        self._lose(db, [row.id for row in expired], "the worker fell silent", now, changes)
        for worker_id in sorted({row.worker_id for row in expired}):
            self._event(db, "worker.silent", "sweeper", "its leases expired", worker_id=worker_id)
        self._wake_delayed(db, now, changes)
        self._settle(db, changes)
        self._time_out_workers(db, now)
        has_ready = select(ready.c.job_id).where(ready.c.class_id == klass.c.id).exists()
        db.execute(
            update(klass).where(klass.c.nonempty.is_(False), has_ready).values(nonempty=True, generation=klass.c.generation + 1)
        )
        if expired:
            self._bump(db, "fleet")
        return len(expired)

    def _shift_after_outage(self, db: Connection, now: float) -> bool:
        last = self._swap_counter(db, "swept_ms", round(now * 1_000)) / 1_000
        gap = now - last
        if not last or gap <= self.settings.worker.lease_s / 2:
            return False
        # Whoever called since the outage needs no shift: nothing goes beyond what a call at this moment would give.
        whole = now + self.settings.worker.lease_s
        shifted = case((attempt.c.deadline + gap > whole, whole), else_=attempt.c.deadline + gap)
        db.execute(update(attempt).where(attempt.c.open_worker.is_not(None)).values(deadline=shifted))
        alive = [str(state) for state in TIMED]
        seen = case((worker.c.seen_at + gap > now, now), else_=worker.c.seen_at + gap)
        db.execute(update(worker).where(worker.c.state.in_(alive)).values(seen_at=seen))
        self._event(db, "server.outage", "sweeper", f"nobody swept for {gap:.0f} s: all leases run so much longer")
        return True

    def _lose(self, db: Connection, ids: Sequence[int], reason: str, now: float, changes: Changes) -> None:
        """Ends attempts as LOST and puts their jobs back, without spending a retry."""
        requeued = []
        for row in map(_ResultRow._make_row, RESULT_ROWS.all(db, list(ids))):
            lost = {"state": after(ATTEMPT, row.state, "lose"), "ended_at": now, "open_worker": None, "reason": reason}
            db.execute(update(attempt).where(attempt.c.id == row.id).values(lost))
            if row.job_state == JobState.WORKING and row.job_attempt_id == row.id:
                state = after(JOB, row.job_state, "requeue")
                db.execute(update(job).where(job.c.id == row.job_id).values(state=state))
                changes.moved(self._ancestors(db, row.job_parent), row.job_state, state)
                requeued.append(row.job_id)
        self._refresh(db, requeued, changes)
        if requeued:
            self._bump(db, "backlog")

    def _lose_worker(self, db: Connection, worker_id: int, reason: str, now: float) -> None:
        """Everything a worker held is put back at once, and the worker is TERMINATED: its machine is gone."""
        row = db.execute(select(worker.c.state).where(worker.c.id == worker_id)).first()
        changes = Changes()
        self._lose(db, self._open_of(db, worker_id), reason, now, changes)
        self._settle(db, changes)
        if row and allows(WORKER, row.state, "terminate"):
            values = {"state": after(WORKER, row.state, "terminate")}
            db.execute(update(worker).where(worker.c.id == worker_id).values(values))
            self._event(db, "worker.terminate", "server", reason, worker_id=worker_id)
        self._bump(db, "fleet")

    def _open_of(self, db: Connection, worker_id: int) -> list[int]:
        return list(db.execute(select(attempt.c.id).where(attempt.c.open_worker == worker_id)).scalars())

    def _wake_delayed(self, db: Connection, now: float, changes: Changes) -> None:
        due = select(job.c.id).where(job.c.not_before > 0, job.c.not_before <= now, job.c.state == str(JobState.WAITING))
        ids = list(db.execute(due.limit(10_000)).scalars())
        for chunk in chunks(ids):
            db.execute(update(job).where(job.c.id.in_(chunk)).values(not_before=0))
        self._refresh(db, ids, changes)

    def _time_out_workers(self, db: Connection, now: float) -> None:
        alive = [str(state) for state in TIMED]
        silent = worker.c.seen_at < now - self.settings.worker.lease_s
        for row in db.execute(select(worker.c.id, worker.c.state).where(worker.c.state.in_(alive), silent)).all():
            values = {"state": after(WORKER, row.state, "silence")}
            db.execute(update(worker).where(worker.c.id == row.id).values(values))
            words = f"not heard of for {self.settings.worker.lease_s:.0f} s"
            self._event(db, "worker.timeout", "sweeper", words, worker_id=row.id)

    def _swap_counter(self, db: Connection, name: str, value: int) -> int:
        """Sets a shared number and returns what it was."""
        old = self._bump(db, name, 0)
        self._bump(db, name, value - old)
        return old

    # ------------------------------------------------------------ what others look at

    @reads
    def counters(self, db: Connection) -> dict[str, int]:
        """The shared numbers, to see what changed elsewhere."""
        return dict(ALL_COUNTERS.all(db))

    @reads
    def waiting_classes(self, db: Connection, limit: int) -> list[tuple[Requirement, int]]:
        """Requirements with jobs ready now, and how many, counted up to `limit`: whom to wake."""
        found = []
        for class_id, set_id, _, _ in NONEMPTY.all(db):
            count = len(READY_PEEK.all(db, class_id, limit))
            if count:
                found.append((self._requirement(db, set_id), count))
        return found

    @reads
    def backlog(self, db: Connection) -> list[Demand]:
        """Jobs that could start now, by requirement and priority, with an estimate of run time from what finished lately."""
        counts = select(ready.c.class_id, func.count().label("n")).group_by(ready.c.class_id).subquery()
        rows = db.execute(
            select(klass.c.set_id, klass.c.prio_path, counts.c.n).join(counts, counts.c.class_id == klass.c.id)
        ).all()
        estimates = self._estimates(db)
        return [Demand(self._requirement(db, row.set_id), row.prio_path, row.n, estimates.get(row.set_id)) for row in rows]

    def _estimates(self, db: Connection) -> dict[int, float]:
        newest = db.execute(select(func.max(attempt.c.id))).scalar() or 0
        finished = attempt.c.state == str(AttemptState.FINISHED)
        query = (
            select(klass.c.set_id, func.avg(attempt.c.run_ms).label("ms"))
            .select_from(attempt)
            .join(job, job.c.id == attempt.c.job_id)
            .join(klass, klass.c.id == job.c.class_id)
            .where(attempt.c.id > newest - 1_000, finished)
            .group_by(klass.c.set_id)
        )
        return {row.set_id: float(row.ms) / 1_000 for row in db.execute(query)}

    @reads
    def open_attempts(self, db: Connection, worker_id: int) -> dict[int, int]:
        """attempt -> job of what a worker should hold."""
        return {lease: job_id for _, lease, job_id in OPEN_OF.all(db, [worker_id])}

    @reads
    def instance_of(self, db: Connection, worker_id: int) -> Any:
        """The cloud instance a worker runs on: state, funded_until, price_micro (per hour), slots, payer; None if it has none."""
        columns = (
            instance.c.id,
            instance.c.state,
            instance.c.funded_until,
            instance.c.price_micro,
            instance.c.slots,
            instance.c.payer,
        )
        return db.execute(
            select(*columns).join(worker, worker.c.instance_id == instance.c.id).where(worker.c.id == worker_id)
        ).first()


READY_PEEK = Hot(
    select(ready.c.job_id).where(ready.c.class_id == bindparam("b_class")).limit(bindparam("b_limit")), "b_class", "b_limit"
)


@dataclass(frozen=True)
class _ResultRow:
    """An attempt with what matters of its job; job columns are None when the job was deleted."""

    id: int
    job_id: int
    worker_id: int
    state: str
    leased_at: float
    started_at: float | None
    job_state: str
    job_parent: int
    job_class_id: int
    job_errors: int
    job_retries: int
    job_attempt_id: int | None
    job_paused: bool
    job_holds: int

    @classmethod
    def _make_row(cls, row: Iterable[Any]) -> _ResultRow:
        return cls(*row)


@dataclass
class _Taken:
    """Rows to write for the results of one exchange."""

    seen: set[int] = field(default_factory=set)
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    jobs: list[tuple[Any, ...]] = field(default_factory=list)
    not_ready: list[tuple[int, int]] = field(default_factory=list)
    requeued: list[int] = field(default_factory=list)
    groups: set[int] = field(default_factory=set)
    chains: dict[int, tuple[int, ...]] = field(default_factory=dict)


class _Picker:
    """Deals ready jobs to the workers of one exchange: best tag line first, then priority path, then the lowest id."""

    def __init__(self, store: Dispatch, db: Connection, wanted: int) -> None:
        self.store, self.db, self.left = store, db, wanted
        self.classes = NONEMPTY.all(db)
        self.heads: dict[int, list[int]] = {}  # class -> ids fetched and not yet dealt, lowest last
        self.last: dict[int, int] = {}
        self.dry: set[int] = set()
        self._orders: dict[Capacity, list[list[int]]] = {}

    def take(self, capacity: Capacity, count: int) -> list[tuple[int, int]]:
        """Up to `count` (class, job) for this worker; a job is dealt once."""
        dealt: list[tuple[int, int]] = []
        for peers in self._order(capacity):
            while len(dealt) < count:
                best = min((c for c in peers if self._fill(c)), key=lambda c: self.heads[c][-1], default=None)
                if best is None:
                    break
                dealt.append((best, self.heads[best].pop()))
            if len(dealt) >= count:
                break
        self.left -= count
        return dealt

    def _order(self, capacity: Capacity) -> list[list[int]]:
        """Classes that fit, in groups of equal rank, best first."""
        if capacity not in self._orders:
            ranked = []
            for class_id, set_id, path, _ in self.classes:
                line = self.store.line_of(self.db, set_id, capacity)
                if line is not None:
                    ranked.append(((line, matching.order_key(path)), class_id))
            ranked.sort()
            self._orders[capacity] = [
                [class_id for _, class_id in peers] for _, peers in groupby(ranked, key=lambda pair: pair[0])
            ]
        return self._orders[capacity]

    def _fill(self, class_id: int) -> bool:
        """Whether a job of the class is at hand; fetches what the whole exchange may want of it."""
        if self.heads.get(class_id):
            return True
        if class_id in self.dry:
            return False
        limit = max(self.left, 1)
        ids = [row[0] for row in READY_OF.all(self.db, class_id, self.last.get(class_id, 0), limit)]
        self.last[class_id] = ids[-1] if ids else 0
        if len(ids) < limit:
            self.dry.add(class_id)
        self.heads[class_id] = ids[::-1]
        return bool(ids)

    def close(self) -> None:
        """Takes the flag off classes that have nothing left, unless somebody added to them meanwhile."""
        generations = {row[0]: row[3] for row in self.classes}
        empty = [(class_id, generations[class_id]) for class_id in self.dry if not self.heads.get(class_id)]
        self.store._many(self.db, EMPTY_CLASS, sorted(empty))


def _wanted(calls: Sequence[Call], held: Mapping[int, Mapping[int, int]]) -> list[int]:
    """How many new leases each call gets: what is given again, or to another call of the same worker, counts too."""
    owed: dict[int, int] = {}
    wanted = []
    for call in calls:
        again = len(held[call.worker_id].keys() - call.held) + owed.get(call.worker_id, 0)
        wanted.append(max(0, call.want - again))
        owed[call.worker_id] = owed.get(call.worker_id, 0) + wanted[-1]
    return wanted


def _lease_of(lease: int, row: Sequence[Any]) -> Lease:
    job_id, title, command, directory, environment, user, timeout_s, pattern, _ = row
    variables: Mapping[str, str] = json.loads(environment) if environment != "{}" else {}
    return Lease(lease, job_id, title, command, directory, variables, user, timeout_s, pattern)


def _refusal(row: _ResultRow | None, worker_id: int, said: str) -> str | None:
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


def _next_job_state(row: _ResultRow, verb: str, now: float) -> tuple[str, int, float]:
    """(state, errors, not_before) of a job after an attempt's end."""
    if verb == "finish":
        return after(JOB, row.job_state, "finish"), row.job_errors, 0.0
    if verb == "stop":
        waits = row.job_state != JobState.WORKING
        return (row.job_state if waits else after(JOB, row.job_state, "requeue")), row.job_errors, 0.0
    errors = row.job_errors + 1
    if errors <= row.job_retries:
        state = row.job_state if row.job_state != JobState.WORKING else after(JOB, row.job_state, "requeue")
        return state, errors, now + min(2.0 ** (errors - 1), BACKOFF_S)
    return after(JOB, row.job_state, "fail"), errors, 0.0
