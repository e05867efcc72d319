"""Instances, intents and money: what is reserved before a machine starts, what moves it, and what it cost in the end.

Rule M (DESIGN.md) is kept here: `reserve` and `fund` raise committed money under the guard `committed + x <= cap`, in one
transaction with the rows that spend it; only `settle` and a refusal lower it. Whoever writes for the autoscaler gives the
number of its lease (`fence`); a leader that was replaced gets Fenced and has changed nothing.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from coalition import ledger
from coalition.config import BudgetSettings
from coalition.errors import Conflict, Fenced, NotFound, OverBudget
from coalition.schema import attempt, block, budget_window, commitment, decision, event, instance, intent, leader, token, worker
from coalition.states import INSTANCE, PAID_INSTANCES, WORKER, InstanceState, after, allows
from coalition.store import bills, overrides
from coalition.store.base import chunks, reads, writes
from coalition.store.workers import Workers, hash_secret

ROLE = "autoscaler"
RECONCILE = "reconcile"  # the counter that is not 0 while launches wait after a restored backup
FORGOTTEN = 1_000_000  # more than any farm numbers between two backups
DRAIN_SETTLE_S = 1.0  # by then every server process has read that the worker takes no more
PAID = [str(state) for state in PAID_INSTANCES]
COMING = (InstanceState.INTENDED, InstanceState.STARTING, InstanceState.RUNNING)
BOOT_DECIDED = [str(InstanceState.TERMINATING), str(InstanceState.GONE)]  # what has not enrolled by then did not come up
STAYING = [*map(str, COMING), str(InstanceState.DRAINING)]  # nobody has asked for their end yet


@dataclass(frozen=True)
class Order:
    """What an intent reserves: `count` equal instances, paid up to `funded_until`, asked for before `launch_by`."""

    token: str
    pool: str
    provider: str
    offering: str
    slots: int
    count: int
    price_micro: int
    currency: str
    sponsors: tuple[str, ...]
    payer: str
    request: str
    reason: str
    launch_by: float
    funded_until: float
    boot_timeout_s: float
    minimum_s: float = 0.0
    granularity_s: float = 1.0
    rate_micro: int = 0  # what an hour costs now; 0: `price_micro`


@dataclass(frozen=True)
class OpenIntent:
    """An intent whose outcome is not stored yet."""

    id: int
    token: str
    pool: str
    request: str
    count: int
    launch_by: float


@dataclass(frozen=True)
class Machine:
    """An instance that is paid for, with what its intent froze."""

    id: int
    intent_id: int
    token: str
    k: int
    pool: str
    offering: str
    provider: str
    provider_id: str
    state: str
    slots: int
    price_micro: int
    currency: str
    payer: str
    sponsors: tuple[str, ...]
    worker_id: int | None
    committed_until: float
    funded_until: float
    created_at: float
    launched_at: float | None
    enrolled_at: float | None
    drained_at: float | None
    taken_at: float | None
    wish: str
    wished_by: str
    reason: str
    launch_by: float
    minimum_s: float
    granularity_s: float
    request: str


@dataclass(frozen=True)
class Found:
    """An instance that a provider has for an intent. `k` is None where the provider does not number them."""

    k: int | None
    provider_id: str
    launched_at: float | None = None


@dataclass(frozen=True)
class Decided:
    """A line of the list of decisions. An empty pool means the farm."""

    pool: str
    action: str
    count: int
    reason: str


@dataclass(frozen=True)
class Blocked:
    pool: str
    offering: str
    kind: str
    at: float
    until: float | None
    image: str
    reason: str


@dataclass(frozen=True)
class Boots:
    """How many of a pool's newest instances ended without enrolling, one after the other, and why the last one did."""

    failures: int
    reason: str


@dataclass
class _Commits:
    """Changes of committed money, by window."""

    deltas: dict[int, int] = field(default_factory=dict)
    windows: dict[int, Any] = field(default_factory=dict)

    def add(self, window: Any, delta: int) -> None:
        self.windows[window.id] = window
        self.deltas[window.id] = self.deltas.get(window.id, 0) + delta


class Cloud(Workers):
    """The part of the store that the autoscaler lives on."""

    # ------------------------------------------------------------ who leads

    @writes
    def claim_leader(self, db: Connection, role: str, holder: str, ttl_s: float) -> int | None:
        """The fencing number of whoever holds the role now, if that is `holder`: taken when it is free, else renewed."""
        now = self.clock()
        db.execute(self._insert_new(leader).values(role=role, holder="", fence=0, deadline=0.0))
        mine = and_(leader.c.role == role, leader.c.holder == holder, leader.c.deadline >= now)
        if db.execute(update(leader).where(mine).values(deadline=now + ttl_s)).rowcount == 0:
            free = update(leader).where(leader.c.role == role, leader.c.deadline < now)
            taken = free.values(holder=holder, fence=leader.c.fence + 1, deadline=now + ttl_s)
            if db.execute(taken).rowcount == 0:
                return None
        return int(db.execute(select(leader.c.fence).where(leader.c.role == role)).scalar_one())

    @writes
    def forget_events(self, db: Connection, before: float, limit: int) -> int:
        """Deletes up to `limit` events that are older; how many. What somebody did is kept for `[keep] audit` at least."""
        audit_s = self.settings.keep.audit_s
        kept_from = min(before, self.clock() - audit_s) if audit_s else -1.0
        is_old = and_(event.c.at < before, or_(event.c.address == "", event.c.at < kept_from))
        old = db.execute(select(event.c.id).where(is_old).order_by(event.c.at).limit(limit)).scalars().all()
        for chunk in chunks(old):
            db.execute(delete(event).where(event.c.id.in_(chunk)))
        return len(old)

    @writes
    def note_log(self, db: Connection, kind: str, attempt_id: int, words: str) -> None:
        """Writes what became of an attempt's log, with its job and worker where they are there still."""
        row = db.execute(select(attempt.c.job_id, attempt.c.worker_id).where(attempt.c.id == attempt_id)).first()
        job_id, worker_id = (row.job_id, row.worker_id) if row else (None, None)
        self._event(db, kind, "server", f"the log of attempt {attempt_id} {words}", job_id=job_id, worker_id=worker_id)

    @writes
    def release_leader(self, db: Connection, role: str, holder: str) -> None:
        """Lets another process take the role at once."""
        db.execute(update(leader).where(leader.c.role == role, leader.c.holder == holder).values(deadline=0.0))

    @reads
    def leader_of(self, db: Connection, role: str) -> tuple[str, int] | None:
        """Who holds a role now, and its fencing number; None if nobody does."""
        row = db.execute(select(leader).where(leader.c.role == role, leader.c.deadline >= self.clock())).first()
        return (row.holder, int(row.fence)) if row else None

    @reads
    def check_leader(self, db: Connection, fence: int) -> None:
        """Fenced, if somebody else leads by now: to be asked right before a provider is called."""
        self._check_fence(db, fence)

    def _check_fence(self, db: Connection, fence: int) -> None:
        """Fenced, unless `fence` is the newest; a later leader waits until this transaction is over."""
        row = db.execute(select(leader.c.fence, leader.c.holder).where(leader.c.role == ROLE)).first()
        if row is None or row.fence != fence:
            raise Fenced(f"fencing number {fence} is old; {row.holder if row else 'nobody'} leads now")

    @writes
    def begin_anew(self, db: Connection, words: str) -> None:
        """After a backup was given back: what was numbered since is not known, and neither is what was launched.

        Numbers go on far beyond those, so that no late result or log counts for another job. Launches wait for `reconciled`.
        """
        for name in ("attempt", "job", "worker"):
            self._bump(db, name, FORGOTTEN)
        self._bump(db, RECONCILE)
        self._event(db, "farm.restore", "server", words)

    @writes
    def reconciled(self, db: Connection, fence: int) -> None:
        """What the providers run is what is stored: launches need not wait any longer."""
        self._check_fence(db, fence)
        self._bump(db, RECONCILE, -self._bump(db, RECONCILE, 0))
        self._event(db, "farm.reconcile", ROLE, "every provider's list was compared with the restored records")

    # ------------------------------------------------------------ intents

    @writes
    def reserve(self, db: Connection, order: Order, fence: int) -> int:
        """Writes an intent, its instances, their commitments and their enrolment token, or nothing.

        OverBudget names the budget whose cap is in the way. The number of the intent.
        """
        self._check_fence(db, fence)
        now = self.clock()
        until = self._committed_end(order, order.funded_until)
        known = self._budgets(db)
        parts = [
            (window, amount)
            for window in self._windows(db, known, order.sponsors, now, until)
            for amount in ledger.commit(order.price_micro, now, until, [(window.starts_at, window.ends_at)])
        ]
        commits = _Commits()
        for window, amount in parts:
            commits.add(window, amount * order.count)
        self._commit(db, known, commits)
        intent_id = self._write_intent(db, order, fence, now)
        bills.note_rates(db, order.pool, order.offering, [(0.0, order.rate_micro or order.price_micro)], now)
        for k in range(order.count):
            instance_id = self._write_instance(db, order, intent_id, k, now)
            for window, amount in parts:
                db.execute(insert(commitment).values(instance_id=instance_id, window_id=window.id, amount_micro=amount))
        self._event(db, "instance.intend", ROLE, f"{order.count} x {order.offering} of pool {order.pool}: {order.reason}")
        return intent_id

    def _write_intent(self, db: Connection, order: Order, fence: int, now: float) -> int:
        names = ("token", "pool", "request", "count", "launch_by", "payer", "minimum_s", "granularity_s", "reason")
        values = {name: getattr(order, name) for name in names}
        values |= {"state": "OPEN", "fence": fence, "sponsors": json.dumps(order.sponsors), "created_at": now}
        intent_id = _new_id(db.execute(insert(intent).values(values)))
        token_id, _, secret = self.enrol_token(order.token).partition(".")
        expires = order.launch_by + order.boot_timeout_s
        grant = {"id": token_id, "kind": "enrol", "hash": hash_secret(secret), "uses_left": order.count, "intent_id": intent_id}
        db.execute(insert(token).values(**grant, expires_at=expires, created_at=now))
        return intent_id

    def _write_instance(self, db: Connection, order: Order, intent_id: int, k: int, now: float) -> int:
        names = ("pool", "offering", "provider", "slots", "price_micro", "currency", "payer", "funded_until")
        values = {name: getattr(order, name) for name in names}
        values |= {"intent_id": intent_id, "k": k, "state": str(InstanceState.INTENDED), "created_at": now}
        return _new_id(db.execute(insert(instance).values({**values, "committed_until": order.funded_until})))

    def enrol_token(self, intent_token: str) -> str:
        """The enrolment token of an intent, "id.secret", made anew each time from the farm's key: it is stored nowhere."""
        secret = hmac.digest(self._farm_key(), intent_token.encode(), "sha256")
        return f"{intent_token[:16]}.{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"

    def _farm_key(self) -> bytes:
        path = self.settings.data_dir / "farm.key"
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".farm.key.{secrets.token_hex(8)}")
        if not path.exists():
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was faster: its key is the farm's
                os.link(new, path)
            new.unlink()
        return bytes.fromhex(path.read_text(encoding="ascii"))

    @reads
    def open_intents(self, db: Connection) -> list[OpenIntent]:
        """Intents whose outcome is not known: after a crash, or when an answer was lost."""
        columns = (intent.c.id, intent.c.token, intent.c.pool, intent.c.request, intent.c.count, intent.c.launch_by)
        rows = db.execute(select(*columns).where(intent.c.state == "OPEN").order_by(intent.c.id))
        return [OpenIntent(*row) for row in rows]

    @writes
    def launched(self, db: Connection, intent_id: int, found: Sequence[Found], fence: int, *, shortfall: str | None) -> None:
        """Stores which instances a provider has for an intent.

        `shortfall` None: others may still turn up; their money stays. Else the answer is complete, and says why they are fewer.
        """
        self._check_fence(db, fence)
        rows = self._machines(db, instance.c.intent_id == intent_id)
        free = [row for row in rows if not row.provider_id and row.state == InstanceState.INTENDED]
        by_id = {row.provider_id: row for row in rows if row.provider_id}
        # Those whose number fits go first. A guest that enrolled early may sit in another's row, which then takes its own.
        for one in sorted(found, key=lambda one: all(one.k != r.k for r in free)):
            row = by_id.get(one.provider_id) or next((r for r in free if one.k in (None, r.k)), None) or next(iter(free), None)
            if row is None:
                continue  # more than were asked for: the reaper ends strays
            if row in free:
                free.remove(row)
            values = {"provider_id": one.provider_id, "launched_at": row.launched_at or one.launched_at or self.clock()}
            if row.state == InstanceState.INTENDED:
                self._move_instance(db, row, "launched", ROLE, f"{row.offering} is {one.provider_id}", values)
            elif row.launched_at is None:
                db.execute(update(instance).where(instance.c.id == row.id).values(values))
        if shortfall is not None:
            for row in free:
                why = shortfall or "the provider started fewer"
                self._move_instance(db, row, "refused", ROLE, why, {"ended_at": self.clock()})
                self._release(db, row)
        self._close_intent(db, intent_id, "DONE")

    @writes
    def refused(self, db: Connection, intent_id: int, reason: str, fence: int) -> None:
        """The provider started nothing for an intent: its instances are FAILED and their money is free again."""
        self._check_fence(db, fence)
        for row in self._machines(db, instance.c.intent_id == intent_id):
            if row.state == InstanceState.INTENDED and not row.provider_id:
                self._move_instance(db, row, "refused", ROLE, reason, {"ended_at": self.clock()})
                self._release(db, row)
        db.execute(update(token).where(token.c.intent_id == intent_id).values(uses_left=0))
        self._close_intent(db, intent_id, "REFUSED")

    def _close_intent(self, db: Connection, intent_id: int, state: str) -> None:
        """The intent is no longer open once none of its instances may still turn up."""
        waits = select(instance.c.id).where(instance.c.intent_id == intent_id, instance.c.provider_id == "")
        if db.execute(waits.where(instance.c.state.in_(PAID))).first() is None:
            db.execute(update(intent).where(intent.c.id == intent_id, intent.c.state == "OPEN").values(state=state))

    # ------------------------------------------------------------ committed money

    def _committed_end(self, row: Order | Machine, funded_until: float) -> float:
        slack_s = self.settings.autoscaler.slack_s
        return ledger.committed_end(funded_until, row.launch_by, slack_s, row.minimum_s, row.granularity_s)

    def _budgets(self, db: Connection) -> dict[str, BudgetSettings]:
        """The budgets in force, by name."""
        return {budget.name: budget for budget in overrides.in_force(db, self.settings).budgets}

    def _windows(
        self, db: Connection, known: Mapping[str, BudgetSettings], sponsors: Iterable[str], start: float, end: float
    ) -> list[Any]:
        """The rows of the windows that [start, end) touches of these budgets; a budget that is no more has none."""
        return [
            self._window(db, known[name], *bounds)
            for name in sorted(set(sponsors) & known.keys())
            for bounds in ledger.windows(known[name].window, known[name].timezone, start, end)
        ]

    def _window(self, db: Connection, budget: BudgetSettings, starts_at: float, ends_at: float) -> Any:
        same = and_(
            budget_window.c.budget == budget.name, budget_window.c.starts_at == starts_at, budget_window.c.ends_at == ends_at
        )
        row = db.execute(select(budget_window).where(same)).first()
        if row is None:
            values = {"budget": budget.name, "starts_at": starts_at, "ends_at": ends_at, "currency": budget.currency}
            db.execute(self._insert_new(budget_window).values(**values, cap_micro=budget.amount_micro))
        elif row.cap_micro != budget.amount_micro:
            db.execute(update(budget_window).where(same).values(cap_micro=budget.amount_micro))
            changed = db.execute(select(budget_window).where(same)).one()
            self._alert(db, budget, changed, anew=True)
        else:
            return row
        return db.execute(select(budget_window).where(same)).first()

    def _commit(self, db: Connection, known: Mapping[str, BudgetSettings], commits: _Commits, *, guard: bool = True) -> None:
        """Adds to committed money, windows ascending; OverBudget (and so nothing at all) where a hard cap is in the way."""
        for window_id in sorted(commits.deltas):
            delta, window = commits.deltas[window_id], commits.windows[window_id]
            budget = known.get(window.budget)
            change = update(budget_window).where(budget_window.c.id == window_id)
            if guard and delta > 0 and budget is not None and budget.hard:
                change = change.where(budget_window.c.committed_micro + delta <= budget_window.c.cap_micro)
            done = db.execute(change.values(committed_micro=budget_window.c.committed_micro + delta))
            row = db.execute(select(budget_window).where(budget_window.c.id == window_id)).one()
            if done.rowcount == 0:
                raise _over_budget(row, delta)
            if delta > 0 and budget is not None:
                self._alert(db, budget, row)

    def _alert(self, db: Connection, budget: BudgetSettings, row: Any, *, anew: bool = False) -> None:
        """Tells once for each share of the cap that spend and reservations reach; `anew`: the cap is another one."""
        share = row.committed_micro / row.cap_micro if row.cap_micro else 1.0
        reached = max((mark for mark in budget.alert if mark <= share), default=0.0)
        if reached > row.alerted or anew:
            db.execute(update(budget_window).where(budget_window.c.id == row.id).values(alerted=reached))
        if reached > row.alerted:
            committed = ledger.money(row.committed_micro, row.currency)
            cap = ledger.money(row.cap_micro, row.currency)
            words = f"budget {budget.name} has reached {reached:.0%}: {committed} of {cap} are spent or reserved"
            self._event(db, "budget.alert", ROLE, words)

    def _release(self, db: Connection, row: Machine) -> None:
        """Gives back all that an instance reserved: it never ran."""
        self._set_commitments(db, row.id, {})

    def _set_commitments(self, db: Connection, instance_id: int, amounts: Mapping[int, int]) -> int:
        """Sets what an instance counts in each of its windows (others: 0), whatever the caps; how much it added anywhere."""
        commits = _Commits()
        query = select(budget_window, commitment.c.amount_micro).join(commitment, commitment.c.window_id == budget_window.c.id)
        old = {row.id: row for row in db.execute(query.where(commitment.c.instance_id == instance_id))}
        new = sorted(amounts.keys() - old.keys())
        for window in db.execute(select(budget_window).where(budget_window.c.id.in_(new))) if new else ():
            commits.add(window, amounts[window.id])
            db.execute(insert(commitment).values(instance_id=instance_id, window_id=window.id, amount_micro=0))
        for window_id, window in old.items():
            commits.add(window, amounts.get(window_id, 0) - window.amount_micro)
        self._commit(db, self._budgets(db), commits, guard=False)
        for window_id in commits.deltas:
            here = and_(commitment.c.instance_id == instance_id, commitment.c.window_id == window_id)
            db.execute(update(commitment).where(here).values(amount_micro=amounts.get(window_id, 0)))
        return sum(delta for delta in commits.deltas.values() if delta > 0)

    @writes
    def fund(self, db: Connection, ids: Sequence[int], until: float, fence: int) -> None:
        """Reserves the money for these instances up to `until`, for all of them or for none (OverBudget).

        Nothing else changes: the deadline moves when the provider has moved it (`funded`).
        """
        self._check_fence(db, fence)
        commits, known = _Commits(), self._budgets(db)
        amounts: dict[tuple[int, int], int] = {}
        for row in self._machines(db, and_(instance.c.id.in_(ids), instance.c.state.in_(PAID))):
            if until <= row.committed_until:
                continue
            old_end, end = self._committed_end(row, row.committed_until), self._committed_end(row, until)
            query = select(commitment.c.window_id, commitment.c.amount_micro).where(commitment.c.instance_id == row.id)
            held = {one.window_id: int(one.amount_micro) for one in db.execute(query)}
            for window in self._windows(db, known, row.sponsors, max(row.created_at, old_end - 1), end):
                (amount,) = ledger.commit(row.price_micro, row.created_at, end, [(window.starts_at, window.ends_at)])
                commits.add(window, amount - held.get(window.id, 0))
                amounts[row.id, window.id] = amount
            db.execute(update(instance).where(instance.c.id == row.id).values(committed_until=until))
        self._commit(db, known, commits)
        for (instance_id, window_id), amount in amounts.items():
            here = and_(commitment.c.instance_id == instance_id, commitment.c.window_id == window_id)
            if db.execute(update(commitment).where(here).values(amount_micro=amount)).rowcount == 0:
                db.execute(insert(commitment).values(instance_id=instance_id, window_id=window_id, amount_micro=amount))

    @writes
    def funded(self, db: Connection, deadlines: Mapping[int, float], fence: int) -> None:
        """Stores the deadlines that providers have in force now, never beyond the money, for the guests to be told."""
        self._check_fence(db, fence)
        for row in self._machines(db, instance.c.id.in_(list(deadlines))):
            until = min(deadlines[row.id], row.committed_until)
            db.execute(update(instance).where(instance.c.id == row.id).values(funded_until=until))
        self._bump(db, "fleet")

    # ------------------------------------------------------------ an instance's life

    def _machines(self, db: Connection, condition: Any) -> list[Machine]:
        names = [name for name in Machine.__dataclass_fields__ if name in instance.c]
        frozen = [intent.c[name] for name in ("token", "sponsors", "launch_by", "minimum_s", "granularity_s", "request")]
        query = select(*[instance.c[name] for name in names], *frozen).join(intent, intent.c.id == instance.c.intent_id)
        rows = db.execute(query.where(condition).order_by(instance.c.id)).mappings()
        return [Machine(**{**row, "sponsors": tuple(json.loads(row["sponsors"]))}) for row in rows]

    @reads
    def machines(self, db: Connection) -> list[Machine]:
        """Every instance that is paid for."""
        return self._machines(db, instance.c.state.in_(PAID))

    def _move_instance(
        self, db: Connection, row: Machine, event: str, who: str, reason: str, values: Mapping[str, Any] | None = None
    ) -> None:
        """One transition of an instance, with its event. Conflict if somebody else moved it meanwhile."""
        state = after(INSTANCE, row.state, event)
        here = and_(instance.c.id == row.id, instance.c.state == row.state)
        done = db.execute(update(instance).where(here).values(**{"reason": reason[:1_000], **(values or {})}, state=state))
        if done.rowcount == 0:
            raise Conflict(f"instance {row.id} is no longer {row.state}")
        self._event(db, f"instance.{event}", who, reason, worker_id=row.worker_id, instance_id=row.id)

    @writes
    def drain_instances(self, db: Connection, ids: Sequence[int], reason: str, fence: int) -> list[int]:
        """The instances' workers finish what they run and take no more. Which ones are draining now."""
        self._check_fence(db, fence)
        now = self.clock()
        rows = [row for row in self._machines(db, instance.c.id.in_(ids)) if allows(INSTANCE, row.state, "drain")]
        for row in rows:
            self._move_instance(db, row, "drain", ROLE, reason, {"drained_at": now})
            self._move_worker(db, row, "drain", reason)
        self._bump(db, "fleet")
        return [row.id for row in rows]

    @writes
    def keep_instances(self, db: Connection, ids: Sequence[int], reason: str, fence: int) -> list[int]:
        """Ends the drain of instances that are needed again. Which ones run again."""
        self._check_fence(db, fence)
        rows = [row for row in self._machines(db, instance.c.id.in_(ids)) if allows(INSTANCE, row.state, "keep")]
        for row in rows:
            self._move_instance(db, row, "keep", ROLE, reason, {"drained_at": None})
            self._move_worker(db, row, "resume", reason)
        self._bump(db, "fleet")
        return [row.id for row in rows]

    def _move_worker(self, db: Connection, row: Machine, event: str, reason: str) -> None:
        state = db.execute(select(worker.c.state).where(worker.c.id == row.worker_id)).scalar()
        if state is not None and allows(WORKER, state, event):
            db.execute(update(worker).where(worker.c.id == row.worker_id).values(state=after(WORKER, state, event)))
            self._event(db, f"worker.{event}", ROLE, reason, worker_id=row.worker_id, instance_id=row.id)

    @writes
    def end_instances(self, db: Connection, ids: Sequence[int], reason: str, fence: int, *, idle_only: bool = False) -> list[int]:
        """Marks instances as TERMINATING; the provider is called next. Which ones are to be terminated.

        `idle_only`: leaves out those whose drain is younger than DRAIN_SETTLE_S or whose worker holds an attempt, as seen here.
        """
        self._check_fence(db, fence)
        rows = [row for row in self._machines(db, instance.c.id.in_(ids)) if allows(INSTANCE, row.state, "terminate")]
        rows = [row for row in rows if row.provider_id]  # nobody could be asked to end the others
        if idle_only:
            held = select(attempt.c.open_worker).where(attempt.c.open_worker.in_([row.worker_id for row in rows]))
            busy = set(db.execute(held).scalars())
            late = self.clock() - DRAIN_SETTLE_S
            rows = [r for r in rows if r.worker_id not in busy and r.drained_at is not None and r.drained_at <= late]
        for row in rows:
            self._move_instance(db, row, "terminate", ROLE, reason)
        self._bump(db, "fleet")
        return [row.id for row in rows]

    @writes
    def settle(
        self,
        db: Connection,
        instance_id: int,
        ended_at: float,
        reason: str,
        fence: int,
        sure_until: Mapping[str, float] = MappingProxyType({}),
    ) -> int:
        """An instance is gone: its worker's jobs go back, its bill is booked, the money beyond the bill is free. The bill.

        `ended_at` is when it was seen gone, or the provider's own word. `sure_until`: pools whose prices nobody knows since then,
        when only the ceiling is sure. Again is harmless.
        """
        self._check_fence(db, fence)
        rows = self._machines(db, instance.c.id == instance_id)
        if not rows or rows[0].state not in PAID:
            return 0
        row = rows[0]
        if row.worker_id is not None:
            self._lose_worker(db, row.worker_id, f"its instance is gone: {reason}", self.clock())
        start = row.created_at if row.launched_at is None else max(row.created_at, row.launched_at)
        end = ledger.billed_end(start, max(start, ended_at), row.minimum_s, row.granularity_s)
        if ended_at <= (reserved_end := self._committed_end(row, row.committed_until)):
            end = min(end, reserved_end)  # where its start is not known, it was later than `start`
        known = bills.prices(db, [row], start)
        ran_until = max(start, min(end, ended_at))  # what is billed after it goes on at the last price
        rates = bills.rates_of(known, row, start, ran_until, sure_until.get(row.pool))
        if len(rates) > 1 and rates[-1][0] == ran_until and rates[-1][1] < rates[-2][1]:
            rates.pop()  # it fell in the moment in which the machine ended: nobody can say which came first
        spent = ledger.bill(rates, start, end)
        if over := self._set_commitments(db, row.id, self._bill_by_window(db, row, rates, start, end)):
            words = f"it cost {ledger.money(over, row.currency)} more than was reserved: it ended {reason}"
            self._event(db, "budget.overrun", ROLE, words, instance_id=row.id)
        bills.write(db, bills.lines(db, [bills.Stay(row, start, end, rates)], end))
        values: dict[str, Any] = {"ended_at": ended_at, "spent_micro": spent}
        if row.state == InstanceState.TERMINATING:
            values["reason"] = row.reason  # why we ended it says more than that it ended
        self._move_instance(db, row, "gone", ROLE, reason, values)
        self._close_intent(db, row.intent_id, "LOST")
        return spent

    def _bill_by_window(self, db: Connection, row: Machine, rates: ledger.Rates, start: float, end: float) -> dict[int, int]:
        """What the bill of [start, end) is in each window, and so that a budget's windows add up to the bill."""
        query = select(budget_window).join(commitment, commitment.c.window_id == budget_window.c.id)
        known = {window.id: window for window in db.execute(query.where(commitment.c.instance_id == row.id))}
        reserved_end = self._committed_end(row, row.committed_until)
        if end > reserved_end:
            known |= {window.id: window for window in self._windows(db, self._budgets(db), row.sponsors, reserved_end, end)}
        parts = {}
        for window in known.values():
            a, b = max(start, min(end, window.starts_at)), max(start, min(end, window.ends_at))
            parts[window.id] = ledger.bill(rates, start, b) - ledger.bill(rates, start, a)
        return parts

    @reads
    def live_offers(self, db: Connection) -> set[tuple[str, str]]:
        """(pool, offering) of what is paid for."""
        rows = db.execute(select(instance.c.pool, instance.c.offering).where(instance.c.state.in_(PAID)).distinct())
        return {(row.pool, row.offering) for row in rows}

    @writes
    def note_rates(self, db: Connection, rates: Mapping[tuple[str, str], Sequence[tuple[float, int]]], fence: int) -> None:
        """What an hour of (pool, offering) cost lately, from when on (0: nobody says), the newest last: that holds now."""
        self._check_fence(db, fence)
        for (pool, offering), changes in sorted(rates.items()):
            bills.note_rates(db, pool, offering, changes, self.clock())

    def _bind_instance(self, db: Connection, intent_id: int, identity: str, worker_id: int, now: float) -> Any:
        """The instance of an intent that `identity` is; it runs now. None if no such instance is expected."""
        if not identity:
            return None
        rows = self._machines(db, instance.c.intent_id == intent_id)
        row = next((r for r in rows if r.provider_id == identity), None)
        row = row or next((r for r in rows if not r.provider_id and r.state == InstanceState.INTENDED), None)
        if row is None or row.state not in PAID or row.state == InstanceState.TERMINATING:
            return None
        values = {"provider_id": identity, "worker_id": worker_id, "enrolled_at": row.enrolled_at or now}
        values["launched_at"] = row.launched_at or row.created_at  # at the latest known to be before its start
        if allows(INSTANCE, row.state, "enrolled"):
            self._move_instance(db, row, "enrolled", identity, f"worker {worker_id} enrolled", values)
            self._close_intent(db, intent_id, "DONE")
        else:  # its agent started anew under another name
            if row.worker_id not in (None, worker_id):
                self._lose_worker(db, row.worker_id, "another agent enrolled on its machine", now)
            db.execute(update(instance).where(instance.c.id == row.id).values(values))
        return row

    @writes
    def mark_instances(self, db: Connection, ids: Sequence[int], wish: str, who: str = "", why: str = "by hand") -> int:
        """Asks for instances to be drained or terminated; the next tick does it. How many will be. NotFound for a wrong id."""
        rows: list[Machine] = []
        for chunk in chunks(list(ids)):
            rows += self._machines(db, instance.c.id.in_(chunk))
        if missing := sorted(set(ids) - {row.id for row in rows}):
            raise NotFound(f"there is no instance {missing[0]}", fields={"ids": f"no instance {missing[0]}"})
        marked = [row for row in rows if wish in instance_actions(row.state)]
        for row in marked:
            db.execute(update(instance).where(instance.c.id == row.id).values(wish=wish, wished_by=who))
            self._event(db, f"instance.ask_{wish}", who, why, instance_id=row.id, worker_id=row.worker_id)
        self._bump(db, "backlog")
        return len(marked)

    @writes
    def announce(self, db: Connection, instance_id: int, at: float, who: str, reason: str) -> bool:
        """Its cloud takes an instance away at `at`: kept for its worker and for the next tick. Whether it is news."""
        here = and_(instance.c.id == instance_id, instance.c.taken_at.is_(None), instance.c.state.in_(STAYING))
        if db.execute(update(instance).where(here).values(taken_at=at, reason=reason[:1_000])).rowcount == 0:
            return False
        worker_id = db.execute(select(instance.c.worker_id).where(instance.c.id == instance_id)).scalar()
        self._event(db, "instance.notice", who, reason, instance_id=instance_id, worker_id=worker_id)
        self._bump(db, "fleet")
        self._bump(db, "backlog")
        return True

    @writes
    def heed(self, db: Connection, fence: int) -> list[Machine]:
        """Wishes a drain of what was announced to be taken away and has no wish yet: the next plan does it. Which ones."""
        self._check_fence(db, fence)
        told = and_(instance.c.taken_at.is_not(None), instance.c.state.in_(STAYING), instance.c.wish == "")
        rows = self._machines(db, told)
        for row in rows:
            who = f"{row.provider}, which takes it back"
            db.execute(update(instance).where(instance.c.id == row.id).values(wish="drain", wished_by=who))
            self._event(db, "instance.ask_drain", who, row.reason, instance_id=row.id, worker_id=row.worker_id)
        return rows

    @writes
    def keep_console(self, db: Connection, instance_id: int, text: str, fence: int) -> None:
        """Keeps the end of what an instance wrote, for whoever wonders why it failed."""
        self._check_fence(db, fence)
        self._event(db, "instance.console", ROLE, text[-4_096:], instance_id=instance_id)

    # ------------------------------------------------------------ blocks, decisions

    @writes
    def block_offering(self, db: Connection, blocked: Blocked, fence: int) -> None:
        """Keeps a pool, or one offering of it, from being asked for."""
        self._check_fence(db, fence)
        here = and_(block.c.pool == blocked.pool, block.c.offering == blocked.offering)
        old = db.execute(select(block.c.kind, block.c.until).where(here)).first()
        if old is not None and old.kind == "boot" != blocked.kind and (old.until is None or old.until > blocked.at):
            return  # what no boot can mend lasts longer than a refusal
        db.execute(delete(block).where(here))
        db.execute(insert(block).values(vars(blocked)))
        if old is None or old.kind != blocked.kind or (old.until is not None and old.until < blocked.at):
            what = f"{blocked.pool}/{blocked.offering}" if blocked.offering else f"pool {blocked.pool}"
            self._event(db, "pool.block", ROLE, f"{what} is blocked ({blocked.kind}): {blocked.reason}")

    @writes
    def unblock_pools(self, db: Connection, pools: Sequence[str], who: str = "") -> int:
        """Ends all blocks of pools, failed boots included. How many pools were blocked."""
        now, known = self.clock(), {pool.name for pool in self.settings.pools}
        if missing := sorted(set(pools) - known):
            raise NotFound(f"there is no pool {missing[0]}", fields={"names": f"no pool {missing[0]}"})
        live = and_(block.c.pool.in_(list(pools)), or_(block.c.until.is_(None), block.c.until > now))
        names = sorted(set(db.execute(select(block.c.pool).where(live)).scalars()))
        # The rows stay: boots are counted from `at` on.
        db.execute(update(block).where(live).values(until=now, at=now))
        for name in names:
            self._event(db, "pool.unblock", who, f"pool {name} may start instances again")
        self._bump(db, "backlog")
        return len(names)

    @reads
    def blocks(self, db: Connection) -> list[Blocked]:
        """The blocks in force."""
        return self._blocks(db)

    def _blocks(self, db: Connection) -> list[Blocked]:
        names = Blocked.__dataclass_fields__
        live = or_(block.c.until.is_(None), block.c.until > self.clock())
        rows = db.execute(select(*[block.c[name] for name in names]).where(live).order_by(block.c.pool, block.c.offering))
        images = {pool.name: pool.image for pool in self.settings.pools}
        anyhow = [
            row for row in rows if (row.until is not None and row.kind != "boot") or row.image == images.get(row.pool, row.image)
        ]
        return [Blocked(*row) for row in anyhow]

    @reads
    def boots(self, db: Connection) -> dict[str, Boots]:
        """For each pool, how many of its newest boots failed in a row since it was last allowed to go on."""
        limit, result = self.settings.autoscaler.boot_failures, {}
        since = {row.pool: row.at for row in db.execute(select(block.c.pool, block.c.at).where(block.c.offering == ""))}
        columns = (instance.c.enrolled_at, instance.c.reason)
        decided = or_(instance.c.enrolled_at.is_not(None), instance.c.state.in_(BOOT_DECIDED))
        for pool in self.settings.pools:
            here = and_(instance.c.pool == pool.name, instance.c.launched_at.is_not(None), instance.c.wish == "", decided)
            newest = select(*columns).where(here, instance.c.created_at > since.get(pool.name, 0.0))
            rows = db.execute(newest.order_by(instance.c.id.desc()).limit(limit)).all()
            failures = next((i for i, row in enumerate(rows) if row.enrolled_at is not None), len(rows))
            result[pool.name] = Boots(failures, rows[0].reason if failures else "")
        return result

    @writes
    def record_decisions(self, db: Connection, decisions: Sequence[Decided], fence: int) -> None:
        """Stores what was decided; the same reason to wait again, whatever its numbers, only moves `last_at`."""
        self._check_fence(db, fence)
        now = self.clock()
        for one in decisions:
            newest = select(decision).where(decision.c.pool == one.pool).order_by(decision.c.id.desc()).limit(1)
            old = db.execute(newest).first()
            if old is not None and one.action == old.action == "hold" and _wordy(one.reason) == _wordy(old.reason):
                again = {"last_at": now, "reason": one.reason, "count": one.count}
                db.execute(update(decision).where(decision.c.id == old.id).values(again))
            else:
                db.execute(insert(decision).values(at=now, last_at=now, **vars(one)))

    # ------------------------------------------------------------ what people and snapshots look at

    @reads
    def budget_windows(self, db: Connection, start: float, end: float) -> dict[str, list[tuple[float, float, int]]]:
        """For each budget the windows that [start, end) touches, as (start, end, committed money)."""
        rows = db.execute(select(budget_window).where(budget_window.c.ends_at > start, budget_window.c.starts_at < end))
        committed = {(row.budget, row.starts_at, row.ends_at): int(row.committed_micro) for row in rows}
        return {
            budget.name: [
                (*bounds, committed.get((budget.name, *bounds), 0))
                for bounds in ledger.windows(budget.window, budget.timezone, start, end)
            ]
            for budget in self._budgets(db).values()
        }

    def _budget(self, db: Connection, budget: BudgetSettings, now: float) -> dict[str, Any]:
        starts_at, ends_at = ledger.window_at(budget.window, budget.timezone, now)
        here = and_(budget_window.c.budget == budget.name, budget_window.c.starts_at == starts_at)
        row = db.execute(select(budget_window).where(here, budget_window.c.ends_at == ends_at)).first()
        committed = int(row.committed_micro) if row else 0
        unspent, burn = self._live(db, row.id, max(starts_at, 0), now) if row else (0, 0)
        spent = committed - unspent
        to_come = None if budget.window == "total" else spent + int(burn * max(0.0, ends_at - now) / 3_600)
        return {
            "name": budget.name,
            "applies_to": budget.applies_to,
            "window": budget.window,
            "starts_at": starts_at,
            "ends_at": ends_at,
            "hard": budget.hard,
            "currency": budget.currency,
            "cap_micro": budget.amount_micro,
            "committed_micro": committed,
            "spent_micro": spent,
            "reserved_micro": unspent,
            "left_micro": max(0, budget.amount_micro - committed),
            # at the end of the window, if the machines that run go on until then; a hard cap ends them before
            "forecast_micro": to_come if to_come is None or not budget.hard else max(spent, min(to_come, budget.amount_micro)),
        }

    def _live(self, db: Connection, window_id: int, starts_at: float, now: float) -> tuple[int, int]:
        """How much of what live instances reserved in a window is not used up yet, and what an hour of them costs."""
        columns = (commitment.c.amount_micro, instance.c.price_micro, instance.c.created_at, instance.c.launched_at)
        query = select(*columns).join(instance, instance.c.id == commitment.c.instance_id)
        unspent, burn = 0, 0
        for row in db.execute(query.where(commitment.c.window_id == window_id, instance.c.state.in_(PAID))):
            used = 0 if row.launched_at is None else ledger.cost(row.price_micro, max(row.launched_at, starts_at), now)
            unspent += row.amount_micro - min(row.amount_micro, used)
            burn += 0 if row.launched_at is None else row.price_micro
        return unspent, burn

    @reads
    def instances(
        self,
        db: Connection,
        states: Sequence[str] = (),
        pool: str | None = None,
        *,
        ended: bool = False,
        limit: int = 1_000,
        before: int | None = None,
    ) -> list[dict[str, Any]]:
        """Instances, newest first: those of `states`, else all that are paid for, with `ended` also those that were.

        `before`: the id of the last one seen.
        """
        columns = (instance, worker.c.name.label("worker_name"), intent.c.reason.label("why"))
        query = select(*columns).outerjoin(worker, worker.c.id == instance.c.worker_id)
        query = query.outerjoin(intent, intent.c.id == instance.c.intent_id)
        if states or not ended:
            query = query.where(instance.c.state.in_(list(states) or PAID))
        if pool is not None:
            query = query.where(instance.c.pool == pool)
        if before is not None:
            query = query.where(instance.c.id < before)
        return [_shown(row, self.clock()) for row in db.execute(query.order_by(instance.c.id.desc()).limit(limit))]

    @reads
    def decisions(
        self, db: Connection, limit: int = 100, pool: str | None = None, before: int | None = None
    ) -> list[dict[str, Any]]:
        """What the autoscaler decided and why, newest first: by id, for a decision that holds is told again and again.

        `before`: the id of the last one seen.
        """
        query = select(decision).order_by(decision.c.id.desc()).limit(limit)
        query = query if pool is None else query.where(decision.c.pool == pool)
        query = query if before is None else query.where(decision.c.id < before)
        return [dict(row) for row in db.execute(query).mappings()]

    @reads
    def farm_money(self, db: Connection) -> dict[str, Any]:
        """The money part of the farm's summary: instances by state, what an hour costs now, budgets, who scales."""
        counts = {
            row.state: row.n
            for row in db.execute(
                select(instance.c.state, func.count().label("n")).where(instance.c.state.in_(PAID)).group_by(instance.c.state)
            )
        }
        burning = select(func.coalesce(func.sum(instance.c.price_micro), 0)).where(instance.c.state.in_(PAID))
        currency = next((pool.currency for pool in self.settings.pools), "USD")
        row = db.execute(select(leader).where(leader.c.role == ROLE, leader.c.deadline >= self.clock())).first()
        current = overrides.in_force(db, self.settings)
        paused = current.paused
        return {
            "instances": counts,
            "burn_micro_per_hour": int(db.execute(burning.where(instance.c.launched_at.is_not(None))).scalar_one()),
            "currency": currency,
            "budgets": [self._budget(db, budget, self.clock()) for budget in current.budgets],
            "scaling": {
                "enabled": self.settings.autoscaler.enabled,
                "paused": paused is not None,
                "paused_by": paused.who if paused else "",
                "paused_at": paused.at if paused else None,
                "leader": row.holder if row else None,
                "allowed_actions": ["resume" if paused else "pause"],
            },
        }


def _new_id(result: Any) -> int:
    return int(result.inserted_primary_key[0])


def instance_actions(state: str) -> list[str]:
    """What may be asked for by hand of an instance in this state."""
    drainable = (InstanceState.INTENDED, InstanceState.STARTING, InstanceState.RUNNING)
    actions = ["drain"] if state in drainable else []
    return [*actions, "terminate"] if allows(INSTANCE, state, "terminate") else actions


def _over_budget(row: Any, delta: int) -> OverBudget:
    left = max(0, row.cap_micro - row.committed_micro)
    cap, rest, need = (ledger.money(amount, row.currency) for amount in (row.cap_micro, left, delta))
    return OverBudget(f"budget {row.budget} has {rest} left of {cap}, and {need} would be needed", budget=row.budget)


def _wordy(reason: str) -> str:
    return "".join(character for character in reason if not character.isdigit())


def _shown(row: Any, now: float) -> dict[str, Any]:
    names = ("id", "pool", "offering", "provider_id", "state", "slots", "price_micro", "currency", "payer", "created_at")
    times = ("launched_at", "enrolled_at", "ended_at", "funded_until")
    live = row.state in PAID
    accrued = ledger.cost(row.price_micro, row.launched_at, now) if live and row.launched_at else row.spent_micro
    return {
        **{name: getattr(row, name) for name in (*names, *times)},
        "worker": row.worker_id,
        "worker_name": row.worker_name or "",
        "spent_micro": accrued,
        "failed_boot": bool(row.launched_at and not row.enrolled_at and row.state in BOOT_DECIDED and not row.wish),
        "reason": row.why if row.state in COMING else row.reason,  # why it was started, then why it ends
        "allowed_actions": instance_actions(row.state),
    }
