"""Dispatch: take results, give leases, renew, expire. `exchange` serves many workers' syncs in one transaction."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Double, bindparam, case, func, insert, select, update
from sqlalchemy.sql import ColumnElement

from coalition import hours, matching
from coalition.config import Settings
from coalition.matching import Capacity, Requirement
from coalition.model import Lease
from coalition.schema import attempt, group_count, instance, job, klass, ready, spec, worker
from coalition.states import ATTEMPT, JOB, OPEN_ATTEMPTS, WORKER, AttemptState, JobState, WorkerState, after, allows
from coalition.store.base import ALL_COUNTERS, Hot, HotIn, chunks, reads, writes
from coalition.store.limits import FARM, Tokens
from coalition.store.picker import NONEMPTY, RESERVED, UNRESERVE, Pick, Picker
from coalition.store.results import CALLERS, HEALTHY, Call, Caller, Outcome, Results, refusal_of
from coalition.store.tree import DELETE_READY, Changes
from coalition.words import rough

if TYPE_CHECKING:
    from coalition.store.workers import WorkerRow

LINES_KEPT = 200_000
HISTORY = 1_000  # attempts: the newest tell how long jobs run
TAKING = (WorkerState.STARTING, WorkerState.WAITING, WorkerState.WORKING, WorkerState.TIMEOUT)  # TIMEOUT: it just called
TIMED = (WorkerState.STARTING, WorkerState.WAITING, WorkerState.WORKING)

LEASE_JOB = Hot(
    update(job)
    .where(job.c.id == bindparam("b_id"))
    .values(
        state=str(JobState.WORKING),
        attempt_id=bindparam("b_attempt"),
        started_at=func.coalesce(job.c.started_at, bindparam("b_at", type_=Double)),
    ),
    *("b_attempt", "b_at", "b_id"),
)
ATTEMPT_COLUMNS = (
    *("id", "job_id", "worker_id", "open_worker", "epoch", "state", "deadline", "leased_at", "set_id", "fair_key"),
)
INSERT_ATTEMPT = Hot(insert(attempt).values({c: bindparam(c) for c in ATTEMPT_COLUMNS}), *ATTEMPT_COLUMNS)
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
            spec.c.rules,
            job.c.parent,
        )
        .join(job, job.c.id == spec.c.job_id)
        .where(spec.c.job_id.in_(ids))
    )
)
OPEN_OF = HotIn(
    lambda ids: select(attempt.c.open_worker, attempt.c.id, attempt.c.job_id, attempt.c.set_id).where(
        attempt.c.open_worker.in_(ids)
    )
)


def _later(column: ColumnElement[float], name: str) -> ColumnElement[float]:
    """The later of a time in the row and one that is given: what another process has written meanwhile is not set back."""
    given: Any = bindparam(name, type_=column.type)
    return case((column < given, given), else_=column)


RENEW = Hot(
    update(attempt)
    .where(attempt.c.id == bindparam("b_id"), attempt.c.open_worker == bindparam("b_worker"))
    .values(deadline=_later(attempt.c.deadline, "b_deadline"), progress=bindparam("b_progress")),
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
BEAT = Hot(
    update(worker)
    .where(worker.c.id == bindparam("b_id"))
    .values(
        seen_at=_later(worker.c.seen_at, "b_seen"),
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
    """Waiting jobs of one requirement and priority path; `likes`: their groups, each with its first title and its count."""

    requirement: Requirement
    prio_path: str
    waiting: int
    likes: tuple[tuple[int, str, int], ...] = ()


@dataclass(frozen=True)
class Running:
    """An open attempt: who runs it, since when, and what its likes are known by."""

    worker_id: int
    leased_at: float
    group: int
    title: str


class Dispatch(Results):
    """The part of the store that workers talk to."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        super().__init__(settings, clock)
        self._lines: dict[tuple[int, Capacity, str], int | None] = {}
        self._takers_at: tuple[float, ...] = ()
        self._takers: Sequence[WorkerRow] = ()

    def line_of(self, db: Connection, set_id: int, capacity: Capacity) -> int | None:
        """The worker's best tag line for a requirement set, remembered."""
        requirement = self._requirement(db, set_id)
        key = (set_id, capacity, capacity.name if requirement.named else "")
        if key not in self._lines:
            if len(self._lines) > LINES_KEPT:
                self._lines.clear()
            self._lines[key] = matching.line(requirement, capacity)
        return self._lines[key]

    def others_take(self, db: Connection, set_id: int, worker_id: int) -> bool:
        """Whether another live worker takes jobs that need this set; the fleet is looked at once a second."""
        at = (float(self._bump(db, "fleet", 0)), self.clock() // 1)
        if at != self._takers_at:
            self._takers_at, self._takers = at, self._who_takes(db)
        return any(row.id != worker_id and self.line_of(db, set_id, row.capacity) is not None for row in self._takers)

    def _who_takes(self, db: Connection) -> Sequence[WorkerRow]:
        """The live workers that take jobs now."""
        raise NotImplementedError  # coalition/store/workers.py

    @writes
    def exchange(self, db: Connection, calls: Sequence[Call]) -> list[Outcome]:
        """Takes all the results, then gives leases, in one transaction; one outcome per call, in order."""
        return self._exchange(db, calls)

    @writes
    def exchange_those(self, db: Connection, gather: Callable[[], Sequence[Call]]) -> list[Outcome]:
        """As `exchange`, of the calls that are there when it is this transaction's turn; asked again when it is run again."""
        return self._exchange(db, gather())

    def _exchange(self, db: Connection, calls: Sequence[Call]) -> list[Outcome]:
        now = self.clock()
        outcomes = [Outcome() for _ in calls]
        changes = Changes()
        callers = {row[0]: Caller(*row) for row in CALLERS.all(db, sorted({call.worker_id for call in calls}))}
        self._take_results(db, calls, outcomes, callers, changes, now)
        freed = self._return_tokens(db, changes)
        leased = str(AttemptState.LEASED)
        started = [(now, running.attempt, call.worker_id, leased) for call in calls for running in call.started]
        self._many(db, MARK_STARTED, started)
        self._settle(db, changes)
        held, sets = self._open_by_worker(db, calls)
        self._add_room_of_lost(db, calls, held, sets)
        picker = self._give_leases(db, calls, callers, held, sets, outcomes, now)
        self._show_open(db, calls, held, outcomes)
        left_over = bool(freed) and (picker is None or picker.wanted_of(freed))
        if left_over:
            self._bump(db, "ready")
        for outcome in outcomes:
            outcome.fed = bool(changes.fed) or left_over
        return outcomes

    # ------------------------------------------------------------ leases

    def _give_leases(
        self,
        db: Connection,
        calls: Sequence[Call],
        callers: Mapping[int, Caller],
        held: Mapping[int, Mapping[int, int]],
        sets: Mapping[int, Sequence[int]],
        outcomes: Sequence[Outcome],
        now: float,
    ) -> Picker | None:
        # Checked again here, where the leases are written: a drain that was committed first must win.
        wanted = [
            want if _may_take(callers.get(call.worker_id), call.epoch, now) else (0, 0)
            for call, want in zip(calls, _wanted(calls, held), strict=True)
        ]
        total = sum(want for want, _ in wanted)
        if not total:
            return None
        picker = Picker(self, db, total, now)
        picks: list[tuple[int, Pick]] = []  # call index, job
        for index, (call, (want, ahead)) in enumerate(zip(calls, wanted, strict=True)):
            if want:
                there = sets[call.worker_id]
                dealt = picker.take(call.worker_id, call.capacity, want, ahead, there, outcomes[index])
                picks += [(index, pick) for pick in dealt]
        if picks:
            self._lease(db, calls, outcomes, picks, now)
        picker.close()
        return picker

    def _lease(
        self,
        db: Connection,
        calls: Sequence[Call],
        outcomes: Sequence[Outcome],
        picks: Sequence[tuple[int, Pick]],
        now: float,
    ) -> None:
        first = self._allocate(db, "attempt", len(picks))
        deadline = now + self.settings.worker.lease_s
        leased = str(AttemptState.LEASED)
        numbered = [(first + offset, *pick) for offset, pick in enumerate(picks)]
        self._many(db, DELETE_READY, [(pick.class_id, pick.job_id) for _, _, pick in numbered])
        self._many(db, LEASE_JOB, [(lease, now, pick.job_id) for lease, _, pick in numbered])
        rows = []
        for lease, index, pick in numbered:
            call = calls[index]
            holder = (call.worker_id, call.worker_id, call.epoch)
            rows.append((lease, pick.job_id, *holder, leased, deadline, now, pick.set_id, pick.fair_key))
        self._many(db, INSERT_ATTEMPT, rows)
        specs = {row[0]: row for row in LEASE_SPECS.all(db, [pick.job_id for _, _, pick in numbered])}
        changes = Changes()
        for lease, index, pick in numbered:
            outcomes[index].leases.append(_lease_of(lease, specs[pick.job_id]))
        for parent, count in Counter(specs[pick.job_id][-1] for _, _, pick in numbered).items():
            changes.count(self._ancestors(db, parent), waiting=-count, working=count)
        self._many(db, FIRST_START, [(now, group) for group in sorted(changes.counts)])
        self._apply_counts(db, changes)

    def _open_by_worker(self, db: Connection, calls: Sequence[Call]) -> tuple[dict[int, dict[int, int]], dict[int, list[int]]]:
        """worker -> attempt -> job of what each of the callers should hold, and worker -> requirement sets of these."""
        held: dict[int, dict[int, int]] = {call.worker_id: {} for call in calls}
        sets: dict[int, list[int]] = {call.worker_id: [] for call in calls}
        for worker_id, attempt_id, job_id, set_id in OPEN_OF.all(db, sorted(held)):
            held[worker_id][attempt_id] = job_id
            sets[worker_id].append(set_id)
        return held, sets

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
            outcome.stop = sorted(strangers - self._may_go_on(db, strangers, call.worker_id).keys())
            new = {lease.attempt for lease in outcome.leases}
            again = {lease: job_id for lease, job_id in outcome.open.items() if lease not in call.held and lease not in new}
            if again:
                specs = {row[0]: row for row in LEASE_SPECS.all(db, sorted(set(again.values())))}
                outcome.leases += [_lease_of(lease, specs[job_id]) for lease, job_id in sorted(again.items())]

    def _may_go_on(self, db: Connection, attempts: Set[int], worker_id: int) -> dict[int, int]:
        """Those that were LOST while the worker was cut off, and that nobody has replaced: their late result will count.

        With the requirement set of each.
        """
        if not attempts:
            return {}
        rows = self._result_rows(db, sorted(attempts))
        return {row.id: row.set_id for row in rows if row.state == AttemptState.LOST and refusal_of(row, worker_id, "") is None}

    def _add_room_of_lost(
        self, db: Connection, calls: Sequence[Call], held: Mapping[int, Mapping[int, int]], sets: Mapping[int, list[int]]
    ) -> None:
        """What a worker runs on though its lease was lost takes room there, too."""
        for call in calls:
            strangers = call.held - held[call.worker_id].keys() - {result.attempt for result in call.results}
            sets[call.worker_id].extend(self._may_go_on(db, strangers, call.worker_id).values())

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
            heard = db.execute(select(worker.c.id, worker.c.state).where(worker.c.id.in_(chunk), worker.c.state.in_(quiet))).all()
            for row in heard:
                values = {"state": after(WORKER, row.state, "idle")}
                db.execute(update(worker).where(worker.c.id == row.id).values(values))
                self._event(db, "worker.heard", "server", f"called, {row.state} before", worker_id=row.id)

    @writes
    def sweep(self, db: Connection) -> int:
        """Expires leases of silent workers, wakes jobs whose backoff is over, forgives workers. How many leases expired.

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
        self._forgive(db, now)
        self._drop_stale_reservations(db)
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
        for row in self._result_rows(db, list(ids)):
            lost = {"state": after(ATTEMPT, row.state, "lose"), "ended_at": now, "open_worker": None, "reason": reason}
            db.execute(update(attempt).where(attempt.c.id == row.id).values(lost))
            self._give_back(db, row.set_id, row.worker_id, changes)
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

    def _forgive(self, db: Connection, now: float) -> None:
        """Tries workers again that were set aside long enough."""
        sick = (worker.c.state == str(WorkerState.SICK), worker.c.sick_until <= now)
        for row in db.execute(select(worker.c.id, worker.c.state).where(*sick)).all():
            values = {"state": after(WORKER, row.state, "forgive"), **HEALTHY}
            db.execute(update(worker).where(worker.c.id == row.id).values(values))
            self._event(
                db, "worker.forgive", "sweeper", f"set aside for {rough(self.settings.scheduler.sick_for_s)}", worker_id=row.id
            )
            self._bump(db, "fleet")
            self._bump(db, "backlog")

    def _drop_stale_reservations(self, db: Connection) -> None:
        """Of jobs that are not ready any more, and of workers that take none."""
        rows = RESERVED.all(db)
        takers = {row.id for row in self._who_takes(db)} if rows else set()
        stale = [(worker_id,) for worker_id, _, is_ready in rows if is_ready is None or worker_id not in takers]
        self._many(db, UNRESERVE, sorted(stale))

    def _time_out_workers(self, db: Connection, now: float) -> None:
        alive = [str(state) for state in TIMED]
        silent = worker.c.seen_at < now - self.settings.worker.lease_s
        for row in db.execute(select(worker.c.id, worker.c.state).where(worker.c.state.in_(alive), silent)).all():
            values = {"state": after(WORKER, row.state, "silence")}
            db.execute(update(worker).where(worker.c.id == row.id).values(values))
            words = f"not heard of for {rough(self.settings.worker.lease_s)}"
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

    @writes
    def mark_changed(self, db: Connection, topics: Sequence[str]) -> dict[str, int]:
        """Raises the numbers by which other processes see what changed; those numbers."""
        return {f"changed.{topic}": self._bump(db, f"changed.{topic}") for topic in topics}

    @reads
    def waiting_classes(self, db: Connection, limit: int) -> list[tuple[Requirement, int]]:
        """Requirements with jobs that could start now, and how many, counted up to `limit`: whom to wake."""
        found = []
        classes = NONEMPTY.all(db)
        tokens = Tokens.of(self, db, [self._requirement(db, row[1]) for row in classes])
        for class_id, set_id, *_ in classes:
            need = self._requirement(db, set_id)
            count = min(len(READY_PEEK.all(db, class_id, limit)), tokens.times(need))
            if count:
                found.append((need, count))
        return found

    @reads
    def backlog(self, db: Connection) -> list[Demand]:
        """Jobs that could start now, by requirement and priority. Those that only wait for a limit are no demand: more workers
        would not help them."""
        counts = (
            select(ready.c.class_id, job.c.parent, func.count().label("n"), func.min(job.c.id).label("first"))
            .join(job, job.c.id == ready.c.job_id)
            .group_by(ready.c.class_id, job.c.parent)
            .subquery()
        )
        columns = (klass.c.set_id, klass.c.prio_path, counts.c.class_id, counts.c.parent, counts.c.n, spec.c.title)
        query = select(*columns).join(klass, klass.c.id == counts.c.class_id).join(spec, spec.c.job_id == counts.c.first)
        classes: dict[tuple[str, int, int], list[tuple[int, str, int]]] = {}
        for row in db.execute(query.order_by(counts.c.first)):
            classes.setdefault((row.prio_path, row.class_id, row.set_id), []).append((row.parent, row.title, row.n))
        needs = {set_id: self._requirement(db, set_id) for _, _, set_id in classes}
        tokens = Tokens.of(self, db, list(needs.values()))
        found = []
        for (path, _, set_id), likes in sorted(classes.items(), key=lambda entry: matching.order_key(entry[0][0])):
            need = needs[set_id]
            if waiting := min(sum(n for _, _, n in likes), tokens.times(need)):
                tokens.take(need, FARM, waiting)
                found.append(Demand(need, path, waiting, tuple(likes)))
        return found

    @reads
    def queue(self, db: Connection) -> list[tuple[Requirement, int]]:
        """How many jobs could start now as far as workers go, by requirement; what they wait for by limits is not looked at."""
        counts = select(ready.c.class_id, func.count().label("n")).group_by(ready.c.class_id).subquery()
        sums = select(klass.c.set_id, func.sum(counts.c.n).label("n")).join(counts, counts.c.class_id == klass.c.id)
        rows = db.execute(sums.group_by(klass.c.set_id).order_by(klass.c.set_id))
        return [(self._requirement(db, row.set_id), int(row.n)) for row in rows]

    @reads
    def stranded(self, db: Connection) -> list[Demand]:
        """As `backlog`, the jobs that run on instances which their cloud takes away: they will have to run elsewhere.

        The limits that they hold go with them.
        """
        query = (
            select(klass.c.set_id, klass.c.prio_path, job.c.parent, func.min(job.c.id).label("first"), func.count().label("n"))
            .select_from(attempt)
            .join(worker, worker.c.id == attempt.c.open_worker)
            .join(instance, instance.c.id == worker.c.instance_id)
            .join(job, job.c.id == attempt.c.job_id)
            .join(klass, klass.c.id == job.c.class_id)
            .where(instance.c.taken_at.is_not(None))
            .group_by(klass.c.set_id, klass.c.prio_path, job.c.parent)
            .subquery()
        )
        rows = db.execute(select(query, spec.c.title).join(spec, spec.c.job_id == query.c.first).order_by(query.c.first)).all()
        return [Demand(self._requirement(db, r.set_id), r.prio_path, r.n, ((r.parent, r.title, r.n),)) for r in rows]

    @reads
    def run_times(self, db: Connection) -> tuple[list[tuple[int, str, float]], list[Running]]:
        """What finished lately, as (group, title, seconds), and what runs."""
        alike = attempt.join(job, job.c.id == attempt.c.job_id).join(spec, spec.c.job_id == attempt.c.job_id)
        newest = select(attempt.c.id).where(attempt.c.state == str(AttemptState.FINISHED), attempt.c.ended_at.is_not(None))
        newest = newest.order_by(attempt.c.ended_at.desc(), attempt.c.id.desc()).limit(HISTORY)
        ids = list(db.execute(newest).scalars())
        finished = select(job.c.parent, spec.c.title, attempt.c.run_ms).select_from(alike)
        open_ones = select(attempt.c.open_worker, attempt.c.leased_at, job.c.parent, spec.c.title).select_from(alike)
        running = db.execute(open_ones.where(attempt.c.open_worker.is_not(None)))
        ended = [row for chunk in chunks(ids) for row in db.execute(finished.where(attempt.c.id.in_(chunk)))]
        return [(row.parent, row.title, row.run_ms / 1_000) for row in ended], [Running(*row) for row in running]

    @reads
    def open_attempts(self, db: Connection, worker_id: int) -> dict[int, int]:
        """attempt -> job of what a worker should hold."""
        return {lease: job_id for _, lease, job_id, _ in OPEN_OF.all(db, [worker_id])}

    @reads
    def instance_of(self, db: Connection, worker_id: int) -> Any:
        """The cloud instance a worker runs on: state, funded_until, taken_at, price_micro (per hour), slots, payer; or None."""
        columns = (
            instance.c.id,
            instance.c.state,
            instance.c.funded_until,
            instance.c.taken_at,
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


def _may_take(caller: Caller | None, epoch: int, now: float) -> bool:
    """Whether a worker takes jobs, as the database has it."""
    if caller is None or not caller.active or caller.epoch != epoch or caller.state not in TAKING:
        return False
    return not caller.hours or hours.parse(caller.hours, caller.timezone).is_open(now)


def _wanted(calls: Sequence[Call], held: Mapping[int, Mapping[int, int]]) -> list[tuple[int, int]]:
    """How many new leases each call gets, and how many of them ahead of a free slot.

    What is given again, or to another call of the same worker, counts too, and takes the free slots first.
    """
    owed: dict[int, int] = {}
    wanted = []
    for call in calls:
        again = len(held[call.worker_id].keys() - call.held) + owed.get(call.worker_id, 0)
        want = max(0, call.want - again)
        wanted.append((want, want - max(0, call.want - call.ahead - again)))
        owed[call.worker_id] = owed.get(call.worker_id, 0) + want
    return wanted


def _lease_of(lease: int, row: Sequence[Any]) -> Lease:
    job_id, title, command, directory, environment, user, timeout_s, pattern, rules, _ = row
    variables: Mapping[str, str] = json.loads(environment) if environment != "{}" else {}
    plain = (lease, job_id, title, command, directory, variables, user, timeout_s, pattern)
    return Lease(*plain, **json.loads(rules)) if rules else Lease(*plain)
