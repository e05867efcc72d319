"""What people look at: lists, one job in full, the reasons why it waits, events."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, or_, select

from coalition.errors import NotFound
from coalition.model import UNTIL, Attempt, Counts, Dependency, Job, Worker
from coalition.schema import (
    archive,
    attempt,
    dependency,
    event,
    frame_rule,
    group_count,
    group_inherited,
    job,
    spec,
    watch,
    worker,
)
from coalition.states import JobState, WorkerState
from coalition.store import lists, sight
from coalition.store.base import HotIn, chunks, reads
from coalition.store.costs import Costs
from coalition.store.lists import Cursor, JobQuery
from coalition.store.tree import group_state
from coalition.store.workers import availability
from coalition.words import rough

CHILD_IDS = HotIn(lambda ids: select(job.c.id).where(job.c.parent.in_(ids)))
ARCHIVED_CHILD_IDS = HotIn(lambda ids: select(archive.c.job_id).where(archive.c.parent.in_(ids)))


class Views(Costs):
    """The part of the store that only reads."""

    @reads
    def jobs(self, db: Connection, query: JobQuery) -> tuple[list[Job], Cursor | None]:
        """A page of jobs, and the cursor of the next one (None at the end). A page may be short where few jobs fit."""
        query = sight.with_groups(db, query)
        ids, cursor = lists.page(db, query)
        found = {row.id: row for row in db.execute(job_rows().where(job.c.id.in_(ids)))} if ids else {}
        return self._shown(db, [found[job_id] for job_id in ids], query.viewer), cursor

    @reads
    def jobs_after(self, db: Connection, query: JobQuery, offset: int) -> tuple[Cursor | None, int]:
        """The cursor with which the query leaves out so many jobs more, and how many these are: fewer at the end of the list."""
        return lists.leap(db, sight.with_groups(db, query), offset)

    @reads
    def count_jobs(self, db: Connection, query: JobQuery) -> dict[str, Any]:
        """{"counts": all leaves below the query's parent by state, "total": how many fit, "more": and there are more than that}.

        `total` is None where that is not quickly told.
        """
        total, more = lists.driver(sight.with_groups(db, query)).count(db) or (None, False)
        counts = lists.counts(db, query.parent) if query.viewer is None else sight.counts(db, query.viewer, query.parent)
        return {"counts": counts, "total": total, "more": more}

    @reads
    def job(self, db: Connection, job_id: int, viewer: str | None = None) -> Job:
        """One job; NotFound if there is none that the viewer sees."""
        row = db.execute(job_rows().where(job.c.id == job_id)).first()
        if row is None:
            kept = db.execute(select(archive.c.user).where(archive.c.job_id == job_id)).first()
            told = kept is not None and viewer in (None, kept.user)
            raise NotFound(f"job {job_id} is archived; ask for /archive/{job_id}" if told else f"there is no job {job_id}")
        if viewer not in (None, row.user) and job_id not in sight.groups_above(db, str(viewer)):
            raise NotFound(f"there is no job {job_id}")
        return self._shown(db, [row], viewer)[0]

    def _must_be_own(self, db: Connection, job_id: int, viewer: str | None) -> None:
        """NotFound for a job of somebody else, whose inside the viewer does not see."""
        if viewer is not None and not sight.own(db, [job_id], viewer):
            raise NotFound(f"there is no job {job_id}")

    @reads
    def must_be_own(self, db: Connection, job_id: int, viewer: str | None) -> None:
        """NotFound for a job of somebody else, for who sees own jobs only."""
        self._must_be_own(db, job_id, viewer)

    @reads
    def owners(self, db: Connection, ids: Sequence[int], *, below: bool = True) -> set[str]:
        """The users of these jobs, and of all below them: what an action on the selection reaches."""
        found: set[str] = set()
        level = list(ids)
        while level:
            groups: list[int] = []
            for chunk in chunks(level):
                found.update(db.execute(select(spec.c.user).where(spec.c.job_id.in_(chunk)).distinct()).scalars())
                if below:
                    groups += db.execute(select(job.c.id).where(job.c.id.in_(chunk), job.c.is_group)).scalars()
            level = []
            for chunk in chunks(groups):
                level += db.execute(select(job.c.id).where(job.c.parent.in_(chunk))).scalars()
        return found

    def _shown(self, db: Connection, rows: Sequence[Any], viewer: str | None = None) -> list[Job]:
        edges = self._named(db, [row.id for row in rows])
        costs = self._costs(db, [row.id for row in rows if not row.is_group])
        why = self._why_rows(db, rows)
        shown = [self._show(db, row, edges.get(row.id, ()), costs.get(row.id, 0), why.get(row.id, "")) for row in rows]
        return shown if viewer is None else sight.as_seen(db, shown, viewer)

    def _why_rows(self, db: Connection, rows: Sequence[Any]) -> Mapping[int, str]:
        raise NotImplementedError  # coalition/store/reasons.py

    def _why_workers(self, db: Connection, idle: Sequence[Worker]) -> Mapping[int, str]:
        raise NotImplementedError  # coalition/store/reasons.py

    def _named(self, db: Connection, ids: Sequence[int]) -> dict[int, list[Dependency]]:
        """What each of these jobs waits for by its own words; what follows from rules for frames is left to `explain`."""
        edges: dict[int, list[Dependency]] = {}
        for chunk in chunks(ids):
            whole = select(dependency).where(dependency.c.job_id.in_(chunk), dependency.c.by_rule.is_(False))
            for row in db.execute(whole.order_by(dependency.c.job_id, dependency.c.on_id)):
                edges.setdefault(row.job_id, []).append(Dependency(row.on_id, UNTIL[row.done]))
            ruled = select(frame_rule).where(frame_rule.c.job_id.in_(chunk))
            for row in db.execute(ruled.order_by(*frame_rule.primary_key.columns)):
                asked = Dependency(row.on_id, UNTIL[row.done], True, row.step, row.shift)
                edges.setdefault(row.job_id, []).append(asked)
        return edges

    def _costs(self, db: Connection, ids: Sequence[int]) -> dict[int, int]:
        """What all the attempts of each of these leaves cost, the failed ones too, as their groups count it."""
        costs: dict[int, int] = {}
        for chunk in chunks(ids):
            sums = select(attempt.c.job_id, func.sum(attempt.c.cost_micro).label("cost")).where(attempt.c.job_id.in_(chunk))
            costs.update((row.job_id, int(row.cost)) for row in db.execute(sums.group_by(attempt.c.job_id)))
        return costs

    def _show(self, db: Connection, row: Any, edges: Sequence[Dependency], cost_micro: int, why: str = "") -> Job:
        own = self._requirement(db, row.own_set)
        rules = json.loads(row.rules) if row.rules else {}
        state = group_state(row) if row.is_group else row.state
        counts = Counts(row.total, row.waiting, row.pending, row.working, row.finished, row.error) if row.is_group else None
        paused_above = bool(row.above_paused)
        return Job(
            id=row.id,
            parent=row.parent,
            title=row.title,
            group=row.is_group,
            state=state,
            paused=row.paused,
            priority=row.prio,
            affinity=own.tags,
            user=row.user,
            command=row.command,
            dir=row.dir,
            environment=json.loads(row.environment),
            url=row.url,
            timeout_s=row.timeout_s,
            retries=row.retries,
            errors=row.errors,
            cpus=own.cpus,
            memory_bytes=own.memory_bytes,
            gpus=own.gpus,
            progress_pattern=row.progress_pattern,
            progress=_progress(row, state),
            created_at=row.created_at,
            started_at=row.group_started_at if row.is_group else _started(row),
            ended_at=(row.group_ended_at if state in ("FINISHED", "ERROR") else None) if row.is_group else _ended(row),
            run_s=self._run_s(row),
            cost_micro=row.group_cost_micro if row.is_group else cost_micro,
            depends_on=tuple(dict.fromkeys(int(edge.on) for edge in edges)),
            attempt=row.attempt_id,
            worker=row.worker_name or "",
            counts=counts,
            reason=_short_reason(row, state, paused_above) or why,
            allowed_actions=_job_actions(row, state),
            dependencies=tuple(edges),
            depends_any=row.needs_any,
            gpu_memory_bytes=own.gpu_memory_bytes,
            exclusive=own.exclusive,
            workers=own.workers,
            not_workers=own.not_workers,
            limits=dict(own.limits),
            max_running=row.max_running,
            decrease_priority_after=row.sink_after,
            sunk_from=row.sunk_from,
            first_frame=row.first_frame,
            last_frame=row.last_frame,
            chunk=row.chunk,
            skipped=row.skipped,
            note=row.note,
            notify=tuple(json.loads(row.notify)) if row.notify else (),
            used_memory_bytes=0 if row.is_group else row.used_memory_bytes or 0,
            **rules,
        )

    def _run_s(self, row: Any) -> float:
        if row.is_group:
            return float(row.group_run_ms) / 1_000
        if row.state == JobState.WORKING and row.run_started_at:
            return max(0.0, self.clock() - float(row.run_started_at))
        return float(row.run_ms or 0) / 1_000

    # ------------------------------------------------------------ attempts, events

    @reads
    def attempts(self, db: Connection, job_id: int, limit: int = 100) -> list[Attempt]:
        """A job's attempts, newest first."""
        return [_attempt(row) for row in db.execute(_attempt_select().where(attempt.c.job_id == job_id).limit(limit))]

    @reads
    def runs(
        self,
        db: Connection,
        job_id: int | None,
        worker_name: str | None,
        since: float,
        limit: int,
        before: int | None = None,
        viewer: str | None = None,
    ) -> list[Attempt]:
        """The last attempts, newest first, that began at `since` or later: of all jobs and workers, or of one.

        `before`: the id of the last one seen.
        """
        wanted: list[ColumnElement[bool]] = [attempt.c.leased_at >= since]
        wanted += [] if viewer is None else [sight.is_own(attempt.c.job_id, viewer)]
        wanted += [attempt.c.job_id == job_id] if job_id is not None else []
        wanted += [attempt.c.id < before] if before is not None else []
        if worker_name is not None:
            wanted.append(attempt.c.worker_id.in_(select(worker.c.id).where(worker.c.name == worker_name)))
        return [_attempt(row) for row in db.execute(_attempt_select().where(*wanted).limit(limit))]

    @reads
    def users(self, db: Connection, viewer: str | None = None) -> list[str]:
        """Whose jobs there are."""
        return (
            [viewer] if viewer is not None else list(db.execute(select(spec.c.user).distinct().order_by(spec.c.user)).scalars())
        )

    @reads
    def priorities(self, db: Connection, viewer: str | None = None) -> list[int]:
        """The priorities that jobs have themselves."""
        query = select(job.c.prio).distinct().order_by(job.c.prio)
        if viewer is not None:
            query = query.join(spec, spec.c.job_id == job.c.id).where(spec.c.user == viewer)
        return list(db.execute(query).scalars())

    @reads
    def attempt(self, db: Connection, attempt_id: int, viewer: str | None = None) -> Attempt:
        """One attempt; NotFound if there is none that the viewer sees."""
        row = db.execute(_attempt_select().where(attempt.c.id == attempt_id)).first()
        if row is None or (viewer is not None and not sight.own(db, [row.job_id], viewer)):
            raise NotFound(f"there is no attempt {attempt_id}")
        return _attempt(row)

    @reads
    def attempt_holder(self, db: Connection, attempt_id: int) -> tuple[int, str] | None:
        """(worker id, state) of an attempt; None if there is none."""
        row = db.execute(select(attempt.c.worker_id, attempt.c.state).where(attempt.c.id == attempt_id)).first()
        return (row.worker_id, row.state) if row else None

    @reads
    def events(
        self,
        db: Connection,
        filters: Mapping[str, int | str],
        since: float,
        limit: int,
        *,
        until: float | None = None,
        before: int | None = None,
        below: bool = False,
        viewer: str | None = None,
    ) -> list[dict[str, Any]]:
        """Events, newest first; `filters` may hold ids of job, worker and instance, `user` (who did it) and `kind`.

        Those from `since` on, up to before `until`; `before` is the id of the last one seen, to go on from there. `below`: of
        the job and of all that is below it, archived jobs too. A viewer sees what is of own jobs, and what she did herself.
        """
        columns: dict[str, Any] = {
            "job": event.c.job_id,
            "worker": event.c.worker_id,
            "instance": event.c.instance_id,
            "user": event.c.who,
            "kind": event.c.kind,
        }
        jobs = self._tree_of(db, int(filters["job"])) if below and "job" in filters else ()
        filters = {name: value for name, value in filters.items() if name != "job" or not jobs}
        statement = select(event).where(*(columns[name] == value for name, value in filters.items()))
        bounds: list[ColumnElement[bool]] = [event.c.at >= since] if since else []
        bounds += [event.c.at < until] if until is not None else []
        bounds += [event.c.id < before] if before is not None else []
        newest = statement.where(*bounds).order_by(event.c.id.desc()).limit(limit)
        pieces = [newest.where(event.c.job_id.in_(chunk)) for chunk in chunks(jobs)] if jobs else [newest]
        if viewer is not None:
            few = None if jobs or "job" in filters else sight.few(db, viewer)
            pieces = [piece.where(whose) for piece in pieces for whose in _events_of(viewer, few)]
        by_id = {row.id: row for piece in pieces for row in db.execute(piece)}
        rows = sorted(by_id.values(), key=lambda row: -row.id)
        return [
            {
                "id": row.id,
                "at": row.at,
                "kind": row.kind,
                "who": row.who,
                "job": row.job_id,
                "worker": row.worker_id,
                "instance": row.instance_id,
                "text": row.text,
            }
            for row in rows[:limit]
        ]

    @reads
    def audit(
        self,
        db: Connection,
        filters: Mapping[str, str],
        since: float,
        limit: int,
        *,
        until: float | None = None,
        before: int | None = None,
    ) -> list[dict[str, Any]]:
        """What people, and the programs that they gave tokens, did: newest first, each with from where and, of edits, the change.

        `filters` may hold `user`, `address` and `kind`, the latter also as its first word.
        """
        query = select(event).where(event.c.address != "", event.c.at >= since)
        for name, column in (("user", event.c.who), ("address", event.c.address)):
            query = query.where(column == filters[name]) if name in filters else query
        if kind := filters.get("kind"):
            begins = kind if "." in kind else f"{kind}."
            query = query.where(func.substr(event.c.kind, 1, len(begins)) == begins)
        query = query if until is None else query.where(event.c.at < until)
        query = query if before is None else query.where(event.c.id < before)
        return [_audited(row) for row in db.execute(query.order_by(event.c.id.desc()).limit(limit))]

    def _tree_of(self, db: Connection, top: int) -> list[int]:
        """A job and all below it, archived ones too."""
        found, level = [top], [top]
        while level:
            level = [one for children in (CHILD_IDS, ARCHIVED_CHILD_IDS) for (one,) in children.all(db, level)]
            found += level
        return found

    @reads
    def timeline(
        self, db: Connection, job_id: int, limit: int, until: float | None = None, viewer: str | None = None
    ) -> list[dict[str, Any]]:
        """What happened to a job, newest first: its events, and the lease, start and end of each of its attempts.

        Each is {at, kind, who, text, attempt, worker}; `attempt` is 0 of an event. Those before `until`, if it is given.
        """
        self._must_be_own(db, job_id, viewer)
        end = [] if until is None else [event.c.at < until]
        query = select(event).where(event.c.job_id == job_id, *end).order_by(event.c.id.desc()).limit(limit)
        told = [
            {"at": row.at, "kind": row.kind, "who": row.who, "text": row.text, "attempt": 0, "worker": ""}
            for row in db.execute(query)
        ]
        newest = _attempt_select().where(attempt.c.job_id == job_id).limit(limit)
        told += [entry for row in db.execute(newest) for entry in _steps(row) if until is None or entry["at"] < until]
        return sorted(told, key=lambda entry: (-entry["at"], -ORDER.get(entry["kind"], 0)))[:limit]

    # ------------------------------------------------------------ workers, farm

    @reads
    def workers(self, db: Connection, viewer: str | None = None, states: Collection[str] = ()) -> list[Worker]:
        """All workers, or those in `states`; those of machines that are gone for a while yet, as `[keep] workers` says."""
        held: dict[int, list[int]] = {}
        for row in db.execute(select(attempt.c.open_worker, attempt.c.job_id).where(attempt.c.open_worker.is_not(None))):
            held.setdefault(row.open_worker, []).append(row.job_id)
        now = self.clock()
        there = or_(worker.c.state != str(WorkerState.TERMINATED), worker.c.seen_at > now - self.settings.keep.workers_s)
        query = select(worker).where(there).order_by(worker.c.name)
        rows = [row for row in db.execute(query) if not states or _worker_state(row.state, len(held.get(row.id, []))) in states]
        found = [_worker(row, sorted(held.get(row.id, [])), now) for row in rows]
        if viewer is not None:
            return self._with_own_jobs(db, found, viewer)
        why = self._why_workers(db, [one for one in found if one.state == WorkerState.WAITING and not (one.jobs or one.reason)])
        return [replace(one, reason=why[one.id]) if one.id in why else one for one in found]

    @reads
    def worker(self, db: Connection, worker_id: int, viewer: str | None = None) -> Worker:
        """One worker as the list shows it; NotFound if there is none."""
        row = db.execute(select(worker).where(worker.c.id == worker_id)).first()
        if row is None:
            raise NotFound(f"there is no worker {worker_id}")
        shown = self._worker_shown(db, row)
        if viewer is not None:
            return self._with_own_jobs(db, [shown], viewer)[0]
        if shown.state != WorkerState.WAITING or shown.jobs or shown.reason:
            return shown
        return replace(shown, reason=self._why_workers(db, [shown])[shown.id])

    def _with_own_jobs(self, db: Connection, found: Sequence[Worker], viewer: str) -> list[Worker]:
        """Of what they run only the viewer's jobs; why one is idle is of everybody's."""
        mine = sight.own(db, sorted({job_id for one in found for job_id in one.jobs}), viewer)
        shown = [replace(one, jobs=tuple(job_id for job_id in one.jobs if job_id in mine)) for one in found]
        return [replace(one, reason="is set aside after errors") if one.state == WorkerState.SICK else one for one in shown]

    def _worker_shown(self, db: Connection, row: Any) -> Worker:
        """One worker, from its row."""
        held = db.execute(select(attempt.c.job_id).where(attempt.c.open_worker == row.id)).scalars()
        return _worker(row, sorted(held), self.clock())

    @reads
    def farm_jobs(self, db: Connection, viewer: str | None = None) -> dict[str, int]:
        """Leaves by state over the whole farm."""
        found = lists.counts(db, None) if viewer is None else sight.counts(db, viewer, None)
        return {name: count for name, count in found.items() if name != "total"}

    @reads
    def farm_workers(self, db: Connection) -> dict[str, Any]:
        """{"workers": {STATE: n}, "slots": {"total", "busy"}} of the workers that are there."""
        held = select(attempt.c.open_worker, func.count().label("n")).where(attempt.c.open_worker.is_not(None))
        busy = {row.open_worker: row.n for row in db.execute(held.group_by(attempt.c.open_worker))}
        states: dict[str, int] = {}
        slots, taken = 0, 0
        gone = [str(WorkerState.TERMINATED)]
        for row in db.execute(select(worker.c.id, worker.c.state, worker.c.slots).where(worker.c.state.not_in(gone))):
            state = _worker_state(row.state, busy.get(row.id, 0))
            states[state] = states.get(state, 0) + 1
            slots += row.slots if state in ("WAITING", "WORKING") else 0
            taken += min(busy.get(row.id, 0), row.slots)  # what is leased ahead waits on the worker and takes no slot
        return {"workers": states, "slots": {"total": slots, "busy": taken}}


def job_rows() -> Any:
    above = group_inherited.alias("above")
    counted = [group_count.c[name] for name in ("total", "waiting", "pending", "working", "finished", "error")]
    return (
        select(
            job,
            spec,
            *counted,
            group_count.c.run_ms.label("group_run_ms"),
            group_count.c.cost_micro.label("group_cost_micro"),
            group_count.c.started_at.label("group_started_at"),
            group_count.c.ended_at.label("group_ended_at"),
            attempt.c.leased_at,
            attempt.c.started_at.label("run_started_at"),
            attempt.c.run_ms,
            attempt.c.progress,
            attempt.c.reason,
            attempt.c.exit_code,
            attempt.c.no_licence,
            attempt.c.memory_bytes.label("used_memory_bytes"),
            worker.c.name.label("worker_name"),
            above.c.paused.label("above_paused"),
            above.c.holds.label("above_holds"),
            watch.c.notify,
        )
        .join(spec, spec.c.job_id == job.c.id)
        .outerjoin(group_count, group_count.c.group_id == job.c.id)
        .outerjoin(attempt, attempt.c.id == job.c.attempt_id)
        .outerjoin(worker, worker.c.id == attempt.c.worker_id)
        .outerjoin(above, above.c.group_id == job.c.parent)
        .outerjoin(watch, watch.c.job_id == job.c.id)
    )


def _events_of(viewer: str, jobs: Sequence[int] | None) -> list[ColumnElement[bool]]:
    """What a viewer is told of events, in pieces that an index finds each; None: the jobs are too many for that."""
    if jobs is None:
        return [or_(event.c.who == viewer, sight.is_own(event.c.job_id, viewer))]
    return [event.c.who == viewer, *(event.c.job_id.in_(chunk) for chunk in chunks(jobs))]


def _audited(row: Any) -> dict[str, Any]:
    changed = json.loads(row.changes) if row.changes else {}
    about = {"job": row.job_id, "worker": row.worker_id, "instance": row.instance_id}
    return {
        **{"id": row.id, "at": row.at, "kind": row.kind, "who": row.who, "address": row.address, **about, "text": row.text},
        "before": {name: pair[0] for name, pair in changed.items()},
        "after": {name: pair[1] for name, pair in changed.items()},
    }


def _attempt_select() -> Any:
    return (
        select(attempt, worker.c.name.label("worker_name"), spec.c.title)
        .outerjoin(worker, worker.c.id == attempt.c.worker_id)
        .outerjoin(spec, spec.c.job_id == attempt.c.job_id)
        .order_by(attempt.c.id.desc())
    )


ENDS = {"FINISHED": "finish", "ERROR": "fail", "STOPPED": "stop", "LOST": "lose"}
ORDER = {f"attempt.{step}": place for place, step in enumerate(("lease", "start", *ENDS.values()), 1)}  # of equal time


def _steps(row: Any) -> list[dict[str, Any]]:
    """The transitions of an attempt, whose row is the event of each."""
    worker_name = row.worker_name or f"worker {row.worker_id}"
    common = {"who": worker_name, "attempt": row.id, "worker": worker_name}
    steps = [("lease", row.leased_at, f"leased to {worker_name}"), ("start", row.started_at, "started")]
    if row.state in ENDS:
        code = f"exit code {row.exit_code}" if row.exit_code is not None else ""
        steps.append((ENDS[row.state], row.ended_at, row.reason or code or row.state.lower()))
    return [{"at": at, "kind": f"attempt.{step}", **common, "text": text} for step, at, text in steps if at is not None]


def _attempt(row: Any) -> Attempt:
    return Attempt(
        id=row.id,
        job=row.job_id,
        job_title=row.title or "",
        worker=row.worker_name or "",
        state=row.state,
        leased_at=row.leased_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        run_s=row.run_ms / 1_000,
        progress=row.progress,
        exit_code=row.exit_code,
        signal=row.signal,
        reason=row.reason or "",
        cost_micro=row.cost_micro,
        memory_bytes=row.memory_bytes,
    )


def _progress(row: Any, state: str) -> float:
    if row.is_group:
        return float(row.finished / row.total) if row.total else 0.0
    if state == JobState.FINISHED:
        return 1.0
    return float(row.progress or 0.0) if state == JobState.WORKING else 0.0


def _started(row: Any) -> float | None:
    """When the newest attempt began, if there was one since the last reset."""
    return (row.run_started_at or row.leased_at) if row.started_at is not None else None


def _ended(row: Any) -> float | None:
    return row.ended_at if row.state in (JobState.FINISHED, JobState.ERROR) else None


def _short_reason(row: Any, state: str, paused_above: bool) -> str:
    """One line for a list, of what the job itself says; `explain` has the whole of it."""
    if row.is_group and state not in (JobState.WAITING, JobState.PENDING):
        return "paused" if row.paused else ""
    if state == JobState.ERROR:
        return row.reason or (f"exit code {row.exit_code}" if row.exit_code is not None else "")
    if state in (JobState.WORKING, JobState.FINISHED):
        return "skipped" if row.skipped else ""
    if row.paused or paused_above:
        return "paused" if row.paused else "its group is paused"
    if state == JobState.PENDING:
        return _held(row)
    return ""


def _held(row: Any) -> str:
    """Of what is PENDING: whose dependencies hold it."""
    if row.holds:
        return f"waits for {row.holds} dependencies"
    return "its group waits for dependencies" if row.above_holds or not row.is_group else ""


def _job_actions(row: Any, state: str) -> tuple[str, ...]:
    actions = ["start" if row.paused else "pause"] if row.is_group or state not in ("FINISHED", "ERROR") else []
    if state in ("FINISHED", "ERROR", "WORKING") or (row.is_group and (row.finished or row.error)):
        actions.append("reset")
    if state != "FINISHED" and (not row.is_group or row.total):
        actions.append("skip")
    return (*actions, "edit", "delete")


def _worker_state(state: str, running: int) -> str:
    """WAITING and WORKING are what the open attempts say; the rest is what the table says."""
    if state in (WorkerState.STARTING, WorkerState.WAITING, WorkerState.WORKING):
        return str(WorkerState.WORKING) if running else ("WAITING" if state == WorkerState.WORKING else state)
    return state


def _worker(row: Any, jobs: Sequence[int], now: float) -> Worker:
    state = _worker_state(row.state, len(jobs))
    drain = "resume" if state in (WorkerState.DRAINING, WorkerState.SICK) else "drain"
    return Worker(
        id=row.id,
        name=row.name,
        state=state,
        active=row.active,
        slots=row.slots,
        running=len(jobs),
        affinity=tuple(tuple(line) for line in json.loads(row.affinity)),
        facts=json.loads(row.facts),
        version=row.version,
        load=row.load,
        memory_free_bytes=row.memory_free_bytes,
        finished=row.finished,
        errors=row.errors,
        enrolled_at=row.enrolled_at,
        seen_at=row.seen_at,
        idle_since=row.idle_since,
        instance=row.instance_id,
        jobs=tuple(jobs),
        hours=row.hours,
        timezone=row.timezone,
        hours_end=row.hours_end,
        idle_user_s=row.idle_user_s,
        idle_load=row.idle_load,
        used_at=row.used_at,
        sick_until=row.sick_until,
        note=row.note,
        reason=_why_idle(row, state, len(jobs), now),
        allowed_actions=("delete",) if state == WorkerState.TERMINATED else ("edit", drain, "delete"),
    )


def _why_idle(row: Any, state: str, running: int, now: float) -> str:
    """Why a worker takes no job, whatever there is to do; empty if it does."""
    if not row.active:
        return "is switched off"
    if state == WorkerState.SICK:
        until = f"; tried again in {rough(row.sick_until - now)}" if row.sick_until is not None else ""
        return f"is set aside: {row.why or 'errors'}{until}"
    quiet = {
        "STARTING": "has enrolled and not called yet",
        "DRAINING": "finishes what it runs and takes no more",
        "TERMINATED": "is gone, with its machine",
        "TIMEOUT": f"has not been heard of for {rough(now - row.seen_at)}",
    }
    user_idle_s = None if row.used_at is None else max(0.0, now - row.used_at)
    return quiet.get(state) or availability(row).refusal(now, row.load, user_idle_s, running) or ""
