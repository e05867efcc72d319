"""Why a job is not running: every reason that holds now, most telling first, in words and numbers.

Groups and workers: explain_groups.py, explain_workers.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, case, func, select

from coalition import ledger, matching
from coalition.config import BudgetSettings, PoolSettings
from coalition.matching import Requirement
from coalition.model import Job
from coalition.schema import attempt, decision, dependency, instance, job, klass, worker
from coalition.states import JobState, WorkerState
from coalition.store import overrides
from coalition.store.base import reads
from coalition.store.cloud import PAID
from coalition.store.limits import Tokens
from coalition.store.moment import COUNTED, Moment, Station
from coalition.store.views import Views
from coalition.words import counted, rough, verb

NAMED = 3  # workers that are named
NAMED_TARGETS = 5  # of dependencies
HOUR_S = 3_600
OF_OTHERS = ("fair",)  # reasons that name other users
Reason = dict[str, str]


class Explain(Views):
    """The part of the store that says why a job waits."""

    def explain(self, job_id: int, viewer: str | None = None) -> list[Reason]:
        """Why a job is not running (or what it does), as {code, text}, most telling first. A viewer hears of no other user."""
        self.must_be_own(job_id, viewer)
        reasons = self._explain(self.job(job_id, viewer), viewer)
        return reasons if viewer is None else [one for one in reasons if one["code"] not in OF_OTHERS]

    def _explain(self, shown: Job, viewer: str | None) -> list[Reason]:
        if shown.group:
            return self._why_group(shown, viewer)
        if shown.state == JobState.WORKING:
            where = f" on {shown.worker}" if shown.worker else ""
            return [because("running", f"is running{where} for {rough(shown.run_s)}")]
        if shown.state in (JobState.FINISHED, JobState.ERROR):
            return [because(shown.state.lower(), shown.reason or f"is {shown.state}")]
        return self._why_waiting(shown)

    def _why_group(self, shown: Job, viewer: str | None) -> list[Reason]:
        raise NotImplementedError  # coalition/store/explain_groups.py

    @reads
    def _why_waiting(self, db: Connection, shown: Job) -> list[Reason]:
        reasons = self._why_held(db, shown.id)
        row = db.execute(select(job.c.class_id, job.c.not_before, job.c.attempt_id).where(job.c.id == shown.id)).one()
        reasons += self._why_delayed(db, row.not_before, row.attempt_id, shown.errors)
        moment = Moment(self, db)
        set_id = db.execute(select(klass.c.set_id).where(klass.c.id == row.class_id)).scalar_one()
        blocked = bool(reasons)
        reasons += self._why_unmatched(moment, set_id)
        takers = self._who_may(moment, set_id)
        if takers:
            reasons += self._why_chosen(db, shown.id)
            reasons += self._why_full(moment, set_id, takers, shown.id)
            if not blocked:
                reasons += self._why_later(moment, row.class_id, shown.id, takers)
        return reasons + self._why_sunk(db, shown.id)

    # ------------------------------------------------------------ held

    def _why_held(self, db: Connection, job_id: int) -> list[Reason]:
        """Pauses and dependencies, of the job and of the groups above it."""
        reasons = []
        for one in (job_id, *self._ancestors(db, self._parent_of(db, job_id))):
            words = "" if one == job_id else f"group #{one} "
            if db.execute(select(job.c.paused).where(job.c.id == one)).scalar():
                reasons.append(because("paused", f"{words}is paused"))
            if told := self._why_pending(db, one):
                reasons.append(because("dependencies", words + told))
        return reasons

    def _why_sunk(self, db: Connection, job_id: int) -> list[Reason]:
        """The groups from a job upwards that sank."""
        chain = (job_id, *self._ancestors(db, self._parent_of(db, job_id)))
        rows = db.execute(
            select(job.c.id, job.c.sunk_from, job.c.errors).where(job.c.id.in_(chain), job.c.sunk_from.is_not(None))
        )
        words = "sank from priority {} to 0 after {}; reset it, or give it a priority, to lift it"
        return [
            because(
                "sunk",
                ("" if row.id == job_id else f"group #{row.id} ") + words.format(row.sunk_from, counted(row.errors, "error")),
            )
            for row in rows
        ]

    def _parent_of(self, db: Connection, job_id: int) -> int:
        return int(db.execute(select(job.c.parent).where(job.c.id == job_id)).scalar_one())

    def _why_pending(self, db: Connection, job_id: int) -> str:
        """The dependencies that hold a job: those it names itself, then what follows frame by frame; nothing if none does."""
        total: Counter[bool] = Counter()
        unmet: Counter[bool] = Counter()
        sums = select(dependency.c.by_rule, dependency.c.met, func.count().label("n")).where(dependency.c.job_id == job_id)
        for row in db.execute(sums.group_by(dependency.c.by_rule, dependency.c.met)):
            total[row.by_rule] += row.n
            unmet[row.by_rule] += 0 if row.met else row.n
        needs_any = db.execute(select(job.c.needs_any).where(job.c.id == job_id)).scalar()
        told = []
        if unmet[False] and not (needs_any and unmet[False] < total[False]):
            of = f"any of {total[False]}" if needs_any else f"{unmet[False]} of {total[False]}"
            told.append(f"waits for {of} dependencies: {self._unmet(db, job_id, False, unmet[False])}")
        if unmet[True]:
            of = f"{unmet[True]} of {total[True]} jobs: " if total[True] > 1 else ""
            told.append(f"waits for {of}{self._unmet(db, job_id, True, unmet[True])}")
        return "; ".join(told)

    def _unmet(self, db: Connection, job_id: int, by_rule: bool, count: int) -> str:
        """The targets that a job waits for, those that failed first."""
        failed_first = case((job.c.state == str(JobState.ERROR), 0), else_=1)
        rows = db.execute(
            select(job.c.id, job.c.parent, job.c.state, job.c.first_frame, job.c.last_frame, dependency.c.done)
            .join(job, job.c.id == dependency.c.on_id)
            .where(dependency.c.job_id == job_id, dependency.c.by_rule == by_rule, dependency.c.met.is_(False))
            .order_by(failed_first, dependency.c.on_id)
            .limit(NAMED_TARGETS)
        )
        return ", ".join(_target(row, by_rule) for row in rows) + (", ..." if count > NAMED_TARGETS else "")

    def _why_delayed(self, db: Connection, not_before: float, attempt_id: int, errors: int) -> list[Reason]:
        delay = not_before - self.clock()
        if delay <= 0:
            return []
        if db.execute(select(attempt.c.no_licence).where(attempt.c.id == attempt_id)).scalar():
            return [because("licence", f"found no licence; is tried again in {rough(delay)}")]
        return [because("backoff", f"is tried again in {rough(delay)}, after {counted(errors, 'error')}")]

    # ------------------------------------------------------------ nobody takes it

    def _who_may(self, moment: Moment, set_id: int) -> list[Station]:
        """The workers that match and take jobs now, as far as their room allows."""
        return [one for one in moment.fitting(set_id) if moment.refusal(one) is None]

    def _why_unmatched(self, moment: Moment, set_id: int) -> list[Reason]:
        """What no worker can mend: limits without tokens left; and why none takes such a job now, and no pool starts one."""
        need, fitting = moment.need(set_id), moment.fitting(set_id)
        reasons = self._why_limited(moment.db, need)
        told = [(one, moment.refusal(one)) for one in fitting]
        if any(refusal is None for _, refusal in told):
            return reasons
        if told:
            reasons.append(_why_none_now([f"{one.name} {refusal}" for one, refusal in told]))
        elif moment.up:
            reasons.append(_why_no_match(need, moment))
        else:
            reasons.append(self._why_no_worker(moment.db))
        return reasons + self._why_no_pool(moment.db, need)

    def _why_limited(self, db: Connection, need: Requirement) -> list[Reason]:
        """The limits whose tokens are not there now."""
        tokens = Tokens.of(self, db, [need])
        reasons = []
        for name, count in need.limits:
            if tokens.times(Requirement(limits=((name, count),))) > 0:
                continue
            if name not in tokens.kinds:
                reasons.append(because("limit", f"limit {name} is not defined, so that nobody gets its tokens"))
                continue
            maximum, used = tokens.kinds[name][0], sum(n for (limit, _), n in tokens.used.items() if limit == name)
            kind, _, which = name.rpartition("#")
            of = {"user": f"user {which} runs as many jobs as allowed", "group": f"group #{which} runs as many jobs as allowed"}
            words = f"limit {name} is exhausted" + (f", {count} are needed" if count > 1 else "")
            reasons.append(because("limit", f"{of.get(kind, words)}: {used} of {maximum} used"))
        return reasons

    def _why_no_worker(self, db: Connection) -> Reason:
        """Nobody is up: what those are that there are."""
        columns = (worker.c.active, worker.c.state)
        query = select(*columns, func.count().label("n")).where(worker.c.state != str(WorkerState.TERMINATED)).group_by(*columns)
        rows = db.execute(query).all()
        off = sum(row.n for row in rows if not row.active)
        silent = sum(row.n for row in rows if row.active)
        parts = [f"{number} {verb(number, 'is', 'are')} {words}" for number, words in ((silent, "silent"), (off, "switched off"))]
        known = ", ".join(part for part in parts if not part.startswith("0"))
        if known:
            return because("no_workers", f"no worker is up: {known}")
        return because("no_workers", "no worker is up; start one with `coalition worker`, or give a pool in cloud.ini")

    # ------------------------------------------------------------ pools

    def _why_no_pool(self, db: Connection, need: Requirement) -> list[Reason]:
        """What keeps the pools whose machines would have all the tags from starting one."""
        pools = overrides.in_force(db, self.settings).pools
        fit = [pool for pool in pools if not need.workers and set(need.tags) <= set(pool.affinity)]
        return [because("pool", f"pool {pool.name} could start one: {self._pool_says(db, pool, need)}") for pool in fit]

    def _pool_says(self, db: Connection, pool: PoolSettings, need: Requirement) -> str:
        blocked = next((one.reason for one in self._blocks(db) if one.pool == pool.name and not one.offering), None)
        paid = db.execute(
            select(func.count()).select_from(instance).where(instance.c.pool == pool.name, instance.c.state.in_(PAID))
        ).scalar_one()
        if not pool.enabled:
            return "it is switched off"
        if blocked is not None:
            return f"blocked, {blocked}"
        if paid >= pool.max:
            return f"not now, all of its {counted(paid, 'instance')} are there (max)" if paid else "not with its max, which is 0"
        return self._money_says(db, pool, need)

    def _money_says(self, db: Connection, pool: PoolSettings, need: Requirement) -> str:
        """The hard budget that has too little left, else what the autoscaler decided last."""
        budgets = self._budgets(db).values()
        names = matching.sponsors(pool.name, need.payer, budgets)
        hard = [budget for budget in budgets if budget.hard and budget.name in names]
        wanted = max(1, ledger.cost(pool.price_micro + pool.overhead_per_hour_micro, 0.0, pool.funding_s))
        for budget in hard:
            left = int(self._budget(db, budget, self.clock())["left_micro"])
            if left < wanted:
                return f"blocked, budget {budget.name} has {_money_left(budget, left)}"
        newest = select(decision.c.reason).where(decision.c.pool == pool.name).order_by(decision.c.id.desc()).limit(1)
        said = db.execute(newest).scalar()
        if said and any(f"budget {budget.name} has " in said for budget in hard):
            return f"blocked, {said}"
        return said or "nothing is decided yet"

    # ------------------------------------------------------------ others are before it

    def _why_chosen(self, db: Connection, job_id: int) -> list[Reason]:
        """Where a certain worker matters: one that it failed on."""
        names = select(worker.c.name).join(job, job.c.avoid == worker.c.id)
        avoided = db.execute(names.where(job.c.id == job_id)).scalar()
        return [because("avoids", f"it failed on {avoided} last, which gets it only if no other can")] if avoided else []

    def _why_full(self, moment: Moment, set_id: int, takers: Sequence[Station], job_id: int) -> list[Reason]:
        """Who has no slot or no room for it now, where that is everybody; and who keeps room for it."""
        need = moment.need(set_id)
        keeper = next((one.name for one in takers if moment.kept.get(one.id) == job_id), None)
        kept = [because("reserved", f"worker {keeper} keeps its room for it as others end")] if keeper else []
        free = [one for one in takers if moment.running(one.id) < one.slots]
        matching_now = f"{counted(len(takers), 'worker')} that {verb(len(takers), 'matches', 'match')}"
        if not free:
            words = f"the {matching_now} is busy" if len(takers) == 1 else f"all {matching_now} are busy"
            return [*kept, because("busy", words)]
        lacks = [(one, self._lack(moment, one, need, job_id)) for one in free]
        if any(lack is None for _, lack in lacks):
            return kept
        full = len(takers) - len(free)
        busy = f"; {full} {verb(full, 'is', 'are')} busy" if full else ""
        told = few([f"{one.name} {lack}" for one, lack in lacks])
        whose = f"the {matching_now} has no room now" if len(takers) == 1 else f"none of the {matching_now} has room now"
        return [*kept, because("room", f"{whose}: {told}{busy}")]

    def _lack(self, moment: Moment, one: Station, need: Requirement, job_id: int) -> str | None:
        lack = moment.lack(one.id, one.capacity, need)
        other = moment.kept.get(one.id, job_id)
        return lack or (f"keeps its room for job #{other}" if other != job_id else None)

    def _why_later(self, moment: Moment, class_id: int, job_id: int, takers: Sequence[Station]) -> list[Reason]:
        """How many jobs are dealt before it, and where its user or group stands by fair share."""
        first, equal = moment.ahead(class_id, takers)
        mine = next((kind for kind in equal if kind.id == class_id), None)
        if mine is None:  # it has just become ready, or is leased at this moment
            return []
        fair = self.settings.scheduler.fair
        peers = [kind.id for kind in equal if fair == "no" or kind.fair_key == mine.fair_key]
        before = moment.ready([kind.id for kind in first]) + moment.ready(peers, job_id)
        words = f"more than {counted(COUNTED, 'job')}" if before > COUNTED else counted(before, "job")
        where = f"the {counted(len(takers), 'worker')} that {verb(len(takers), 'matches', 'match')}"
        queue = because("queue", f"{words} before it on {where}")
        keys = {kind.fair_key for kind in equal}
        return [queue, _why_share(moment.shares(keys), mine.fair_key, keys, fair)] if fair != "no" and len(keys) > 1 else [queue]


def _why_share(use: dict[str, float], mine: str, keys: set[str], fair: str) -> Reason:
    """Where a sharer stands among those whose jobs are of equal rank: who has used least goes first."""
    order = sorted(keys, key=lambda key: (use.get(key, 0.0), key))
    place = order.index(mine) + 1
    names = {key: f"{fair} {key}" if fair == "user" else f"group #{key}" for key in keys} | {"": "what is in no group"}
    hours = {key: f"{use.get(key, 0.0) / HOUR_S:.1f} slot-hours" for key in (mine, order[0])}
    words = f"by fair share {names[mine]} is {place} of {len(keys)} at this priority, with {hours[mine]} used lately"
    return because("fair", words + (f"; first is {names[order[0]]} with {hours[order[0]]}" if place > 1 else ""))


def _why_none_now(told: Sequence[str]) -> Reason:
    """Workers match, and none takes jobs. `told`: why not, of each."""
    if len(told) == 1:
        return because("no_worker_now", f"the 1 worker that matches takes no jobs now: {told[0]}")
    return because("no_worker_now", f"none of the {len(told):,} workers that match takes jobs now: {few(told)}")


def _why_no_match(need: Requirement, moment: Moment) -> Reason:
    """What all workers lack, else what the nearest one does."""
    had = {tag for capacity in moment.machines for tags in capacity.lines for tag in tags}
    if missing := [repr(tag) for tag in need.tags if tag not in had]:
        return because("no_match", f"no active worker has {' or '.join(missing)}")
    lacks = {capacity: matching.mismatch(need, capacity) or "" for capacity in moment.machines}
    nearest = min(lacks, key=lambda capacity: len(lacks[capacity]))
    example = f"{moment.machines[nearest][0].name} {lacks[nearest]}"
    number = len(moment.up)
    if number == 1:
        return because("no_match", f"the 1 active worker does not fit: {example}")
    return because("no_match", f"none of the {number:,} active workers fits: for example {example}")


def _money_left(budget: BudgetSettings, left_micro: int) -> str:
    left, cap = (ledger.money(amount, budget.currency) for amount in (left_micro, budget.amount_micro))
    return f"{left} of {cap} left" + ("" if budget.window == "total" else f" this {budget.window}")


def _target(row: Any, by_rule: bool) -> str:
    state = f"{row.state}, until it has ended" if row.done else row.state
    if not by_rule:
        return f"#{row.id} {state}"
    frames = f"frame {row.first_frame}" if row.first_frame == row.last_frame else f"frames {row.first_frame}-{row.last_frame}"
    return f"{frames} of #{row.parent} (#{row.id} {state})"


def few(texts: Sequence[str]) -> str:
    """The first of many texts."""
    return "; ".join(texts[:NAMED]) + ("; ..." if len(texts) > NAMED else "")


def because(code: str, text: str) -> Reason:
    return {"code": code, "text": text}
