"""Why a job is not running: every reason that holds now, most telling first, in words and numbers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, literal, select

from coalition import matching
from coalition.matching import Requirement
from coalition.model import Counts, Job
from coalition.schema import decision, dependency, job, klass, ready, reservation, worker
from coalition.states import JobState, WorkerState
from coalition.store.base import reads
from coalition.store.limits import Tokens
from coalition.store.views import Views
from coalition.store.workers import WorkerRow

COUNTED = 10_000  # jobs before another are counted up to here
NAMED = 3  # workers that are named


class Explain(Views):
    """The part of the store that says why."""

    # ------------------------------------------------------------ why

    def explain(self, job_id: int) -> list[dict[str, str]]:
        """Why a job is not running (or what it does), as {code, text}, most telling first."""
        shown = self.job(job_id)
        if shown.state == JobState.WORKING:
            if shown.counts:
                return [_because("running", f"{shown.counts.working} of {shown.counts.total} jobs are running")]
            where = f" on {shown.worker}" if shown.worker else ""
            return [_because("running", f"is running{where} for {shown.run_s:.0f} s")]
        if shown.state in (JobState.FINISHED, JobState.ERROR):
            return [_because(shown.state.lower(), shown.reason or f"is {shown.state}")]
        return self._why_waiting(job_id, shown)

    @reads
    def _why_waiting(self, db: Connection, job_id: int, shown: Job) -> list[dict[str, str]]:
        reasons = self._why_held(db, job_id)
        row = db.execute(select(job.c.class_id, job.c.not_before, job.c.is_group).where(job.c.id == job_id)).one()
        if row.is_group:
            counts = shown.counts or Counts()
            if not counts.total:
                return [*reasons, _because("empty", "is an empty group: submit jobs into it, or delete it")]
            reasons.append(_because("group", f"has {counts.waiting} jobs waiting and {counts.pending} held by dependencies"))
            return reasons + self._why_first(db, job_id, blocked=len(reasons) > 1)
        delay = row.not_before - self.clock()
        if delay > 0:
            reasons.append(_because("backoff", f"is tried again in {delay:.0f} s, after {shown.errors} errors"))
        return reasons + self._why_unmatched(db, job_id, row.class_id, blocked=bool(reasons))

    def _why_held(self, db: Connection, job_id: int) -> list[dict[str, str]]:
        """Pauses and dependencies, of the job and of the groups above it."""
        reasons = []
        chain = [job_id, *self._ancestors(db, self._parent_of(db, job_id))]
        for one in chain:
            words = "" if one == job_id else f"group #{one} "
            if db.execute(select(job.c.paused).where(job.c.id == one)).scalar():
                reasons.append(_because("paused", f"{words}is paused"))
            unmet = list(
                db.execute(select(dependency.c.on_id).where(dependency.c.job_id == one, dependency.c.met.is_(False))).scalars()
            )
            if unmet:
                total = db.execute(select(func.count()).select_from(dependency).where(dependency.c.job_id == one)).scalar_one()
                states = self._states(db, unmet[:5])
                names = ", ".join(f"#{on} {states.get(on, '')}" for on in unmet[:5]) + (", ..." if len(unmet) > 5 else "")
                reasons.append(_because("dependencies", f"{words}waits for {len(unmet)} of {total} dependencies: {names}"))
        return reasons

    def _parent_of(self, db: Connection, job_id: int) -> int:
        return int(db.execute(select(job.c.parent).where(job.c.id == job_id)).scalar_one())

    def _why_first(self, db: Connection, group: int, blocked: bool) -> list[dict[str, str]]:
        """What holds the first of a group's waiting jobs: the others wait behind it, or for the same."""
        query = select(job.c.id, job.c.class_id).where(job.c.state == str(JobState.WAITING), job.c.parent == group)
        row = None if blocked else db.execute(query.where(job.c.is_group.is_(False)).order_by(job.c.id).limit(1)).first()
        if row is None:
            return []
        found = self._why_unmatched(db, row.id, row.class_id, blocked=False)
        return [_because(one["code"], f"the first of them, #{row.id}: {one['text']}") for one in found]

    def _why_unmatched(self, db: Connection, job_id: int, class_id: int, blocked: bool) -> list[dict[str, str]]:
        set_id = db.execute(select(klass.c.set_id).where(klass.c.id == class_id)).scalar_one()
        requirement = self._requirement(db, set_id)
        up = [row for row in self._fleet(db) if row.active and row.state not in (WorkerState.TIMEOUT, WorkerState.TERMINATED)]
        fitting = [row for row in up if matching.line(requirement, row.capacity) is not None]
        refusals = {row.id: self._refusal(row) for row in fitting}
        takers = [row for row in fitting if refusals[row.id] is None]
        reasons = self._why_limited(db, requirement)
        if not takers:
            told = [f"{row.name} {refusals[row.id]}" for row in fitting]
            return [*reasons, _why_no_worker(requirement, up, told), *self._why_no_pool(db, requirement)]
        reasons += self._why_chosen(db, job_id)
        if all(row.running >= row.slots for row in takers):
            reasons.append(_because("busy", f"all {len(takers)} workers that match are busy"))
        if blocked:
            return reasons
        before, more = self._jobs_before(db, job_id, class_id)
        words = f"more than {before:,}" if more else f"{before:,}"
        return [*reasons, _because("queue", f"{words} jobs before it on the {len(takers)} workers that match")]

    def _why_limited(self, db: Connection, requirement: Requirement) -> list[dict[str, str]]:
        """The limits whose tokens are not there now."""
        tokens = Tokens.of(self, db, [requirement])
        reasons = []
        for name, count in requirement.limits:
            alone = Requirement(limits=((name, count),))
            if tokens.times(alone) > 0:
                continue
            if name not in tokens.kinds:
                reasons.append(_because("limit", f"limit {name} is not defined, so that nobody gets its tokens"))
                continue
            maximum, used = tokens.kinds[name][0], sum(n for (limit, _), n in tokens.used.items() if limit == name)
            kind, _, which = name.rpartition("#")
            of = {"user": f"user {which} runs as many jobs as allowed", "group": f"group #{which} runs as many jobs as allowed"}
            reasons.append(_because("limit", f"{of.get(kind, f'limit {name} is exhausted')}: {used} of {maximum} used"))
        return reasons

    def _why_chosen(self, db: Connection, job_id: int) -> list[dict[str, str]]:
        """Where a certain worker matters: one that keeps its room for the job, or one that it failed on."""
        names = select(worker.c.name)
        kept = db.execute(names.join(reservation, reservation.c.worker_id == worker.c.id).where(reservation.c.job_id == job_id))
        reasons = [_because("reserved", f"worker {name} keeps its room for it as others end") for name in kept.scalars()]
        avoided = db.execute(names.join(job, job.c.avoid == worker.c.id).where(job.c.id == job_id)).scalar()
        return (
            [*reasons, _because("avoids", f"it failed on {avoided} last, which gets it only if no other can")]
            if avoided
            else reasons
        )

    def _why_no_pool(self, db: Connection, requirement: Requirement) -> list[dict[str, str]]:
        """What the autoscaler last said of the pools whose machines would have all the tags."""
        reasons = []
        blocked = {one.pool: one.reason for one in self._blocks(db) if not one.offering}
        for pool in self.settings.pools:
            if not pool.enabled or not set(requirement.tags) <= set(pool.affinity):
                continue
            newest = select(decision.c.reason).where(decision.c.pool == pool.name).order_by(decision.c.id.desc()).limit(1)
            said = f"blocked, {blocked[pool.name]}" if pool.name in blocked else db.execute(newest).scalar()
            reasons.append(_because("pool", f"pool {pool.name} could start one: {said or 'nothing is decided yet'}"))
        return reasons

    def _refusal(self, row: WorkerRow) -> str | None:
        """Why a worker takes no jobs now; None if it does, as far as its room allows."""
        now = self.clock()
        if row.state == WorkerState.SICK:
            return "is set aside after errors"
        if row.state == WorkerState.DRAINING:
            return "is draining"
        user_idle_s = None if row.used_at is None else max(0.0, now - row.used_at)
        return row.available.refusal(now, row.load, user_idle_s, row.running)

    def _jobs_before(self, db: Connection, job_id: int, class_id: int) -> tuple[int, bool]:
        """Ready jobs dealt before this one (of a higher path, or an equal one and a lower id), and whether there are more."""
        mine = db.execute(select(klass.c.prio_path).where(klass.c.id == class_id)).scalar_one()
        key = matching.order_key(mine)
        before = 0
        for row in db.execute(select(klass.c.id, klass.c.prio_path).where(klass.c.nonempty)).all():
            other = matching.order_key(row.prio_path)
            if other <= key and before <= COUNTED:
                some = select(literal(1)).select_from(ready).where(ready.c.class_id == row.id)
                if other == key:
                    some = some.where(ready.c.job_id < job_id)
                some = some.limit(COUNTED + 1 - before)
                before += int(db.execute(select(func.count()).select_from(some.subquery())).scalar_one())
        return min(before, COUNTED), before > COUNTED


def _why_no_worker(requirement: Requirement, up: Sequence[WorkerRow], told: Sequence[str]) -> dict[str, str]:
    """What is the matter where no worker takes the job now. `told`: why not, of each that matches."""
    if not up:
        return _because("no_workers", "no worker is up; start one with `coalition worker`, or give a pool in cloud.ini")
    if told:
        return _because("no_worker_now", f"none of the {len(told)} workers that match takes jobs now: {_few(told)}")
    nearest = min(up, key=lambda row: len(matching.mismatch(requirement, row.capacity) or ""))
    lack = matching.mismatch(requirement, nearest.capacity)
    return _because("no_match", f"none of the {len(up)} workers fits: for example {nearest.name} {lack}")


def _few(texts: Sequence[str]) -> str:
    return "; ".join(texts[:NAMED]) + ("; ..." if len(texts) > NAMED else "")


def _because(code: str, text: str) -> dict[str, str]:
    return {"code": code, "text": text}
