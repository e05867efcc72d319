"""What people change of pools and budgets while the server runs, and what that does: rows that go before cloud.ini, audited."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, and_, func, select

from coalition import ledger
from coalition.config import BudgetSettings, write, wrong_budget
from coalition.config import knobs as knobs_of
from coalition.errors import BadInput, Conflict, NotFound, nearest
from coalition.schema import budget_window, commitment, decision, instance, job, worker
from coalition.store import overrides
from coalition.store.base import chunks, inside, reads, rehearse, writes
from coalition.store.cloud import PAID, Cloud
from coalition.store.overrides import MADE, SCALING, InForce
from coalition.store.prices import Prices
from coalition.store.tree import Changes

PAYERS = "payers"  # the counter that tells for which budgets the jobs' payers were reckoned
OF_JOBS = ("user", "group", "affinity")
SOFT = "\tsoft"  # what no name of a budget or of its jobs ends with
CHANGEABLE = ("amount_micro", "hard", "alert", "kill")  # of a budget that is there; another window or target is another budget


@dataclass(frozen=True)
class BudgetChange:
    """A budget before and after a change (None: it was not there, it is no more), and what that does."""

    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    effect: Mapping[str, Any]
    dry_run: bool = False


MOST_WORDS = 4_000  # of an event about a whole file


class Budgets(Prices):
    """The part of the store that changes what cloud.ini says."""

    @reads
    def in_force(self, db: Connection) -> InForce:
        """Pools, budgets and the pause of scaling, as they hold now."""
        return overrides.in_force(db, self.settings)

    @writes
    def configured(self, db: Connection, changes: Mapping[str, tuple[str, str]]) -> None:
        """cloud.ini was read again while the server ran: its settings that changed, with what they were and are."""
        words = "; ".join(f"{name} {before or 'none'} -> {after or 'none'}" for name, (before, after) in changes.items())
        self._event(db, "server.configure", "server", f"cloud.ini was read again: {words}"[:MOST_WORDS])
        self._bump(db, "backlog")

    # ------------------------------------------------------------ pause, resume, drain

    @writes
    def pause_scaling(self, db: Connection, who: str = "") -> int:
        """Nothing new is started from the next tick on; what runs is looked after. 0 if it was paused already."""
        if overrides.in_force(db, self.settings).paused is not None:
            return 0
        overrides.write(db, SCALING, {"paused": True}, who, self.clock())
        words = "no machines are started until somebody resumes scaling"
        self._event(db, "scaling.pause", who, words, changes={"paused": (False, True)})
        self._bump(db, "backlog")
        return 1

    @writes
    def resume_scaling(self, db: Connection, who: str = "") -> int:
        """Machines may be started again. 0 if they might all the time."""
        if overrides.in_force(db, self.settings).paused is None:
            return 0
        overrides.write(db, SCALING, {}, who, self.clock())
        self._event(db, "scaling.resume", who, "machines may be started again", changes={"paused": (True, False)})
        self._bump(db, "backlog")
        return 1

    @writes
    def drain_pools(self, db: Connection, names: Sequence[str], who: str = "") -> int:
        """Switches pools off, and ends their machines as their jobs end. How many machines that are."""
        self._refuse_strange_pools(names)
        old = {pool.name: pool for pool in overrides.in_force(db, self.settings).pools}
        for name in sorted(set(names)):
            overrides.write(db, f"pool {name}", {"enabled": False}, who, self.clock())
            words = f"pool {name} starts no machines, and those it has end when their jobs are done"
            self._event(db, "pool.drain", who, words, changes=_differences(old[name], replace(old[name], enabled=False)))
        live = and_(instance.c.pool.in_(list(names)), instance.c.state.in_(PAID))
        ids = list(db.execute(select(instance.c.id).where(live).order_by(instance.c.id)).scalars())
        self._bump(db, "backlog")
        return int(inside(Cloud.mark_instances)(self, db, ids, "drain", who, "its pool is drained"))

    @writes
    def resume_pools(self, db: Connection, names: Sequence[str], who: str = "") -> int:
        """Lets pools start machines again that were drained by hand, or blocked. How many were."""
        self._refuse_strange_pools(names)
        found = overrides.in_force(db, self.settings).overrides
        drained = {name for name in names if f"pool {name}" in found}
        for name in sorted(drained):
            overrides.write(db, f"pool {name}", {}, who, self.clock())
            changes = {field: (was, None) for field, was in found[f"pool {name}"].fields.items()}  # None: as cloud.ini says
            self._event(db, "pool.resume", who, f"pool {name} may start machines again", changes=changes)
        blocked = {one.pool for one in self._blocks(db)}
        inside(Cloud.unblock_pools)(self, db, names, who)
        return len(drained | (blocked & set(names)))

    def _refuse_strange_pools(self, names: Sequence[str]) -> None:
        known = [pool.name for pool in self.settings.pools]
        if missing := sorted(set(names) - set(known)):
            words = f"no pool {missing[0]}; {nearest(missing[0], known)}"
            raise NotFound(f"there is no pool {missing[0]}", fields={"names": words})

    @reads
    def pools(self, db: Connection) -> list[dict[str, Any]]:
        """The pools with how many instances each has, and why it may not start more."""
        counts: dict[str, dict[str, int]] = {}
        query = select(instance.c.pool, instance.c.state, func.count().label("n")).where(instance.c.state.in_(PAID))
        for row in db.execute(query.group_by(instance.c.pool, instance.c.state)):
            counts.setdefault(row.pool, {})[row.state] = row.n
        blocks = self._blocks(db)
        blocked = {entry.pool: entry for entry in blocks if not entry.offering}
        current = overrides.in_force(db, self.settings)
        names = ("name", "provider", "enabled", "min", "max", "region", "affinity", "currency")
        shown = []
        for pool in current.pools:
            drained, block = current.overrides.get(f"pool {pool.name}"), blocked.get(pool.name)
            one: dict[str, Any] = {name: getattr(pool, name) for name in names}
            one |= {"instances": counts.get(pool.name, {}), "blocked": block.reason if block else None}
            one |= {"blocked_until": block.until if block else None, "drained_by": drained.who if drained else None}
            offers = [entry for entry in blocks if entry.pool == pool.name and entry.offering]
            one["blocks"] = [{name: getattr(entry, name) for name in ("offering", "kind", "reason", "until")} for entry in offers]
            one["allowed_actions"] = (["resume"] if drained or block or offers else []) + ([] if drained else ["drain"])
            shown.append(one)
        return shown

    # ------------------------------------------------------------ budgets

    @reads
    def budgets(self, db: Connection) -> list[dict[str, Any]]:
        """Each budget's current window: cap, committed, spent so far, reserved, left; and where its values come from."""
        current = overrides.in_force(db, self.settings)
        return [self._shown_budget(db, budget, current) for budget in current.budgets]

    @reads
    def budget(self, db: Connection, name: str) -> dict[str, Any]:
        """One of them; NotFound if there is none."""
        current = overrides.in_force(db, self.settings)
        return self._shown_budget(db, _named(current, name), current)

    def _shown_budget(self, db: Connection, budget: BudgetSettings, current: InForce) -> dict[str, Any]:
        override = current.overrides.get(f"budget {budget.name}")
        in_file = next((one for one in self.settings.budgets if one.name == budget.name), None)
        changed = {} if override is None or in_file is None else _differences(in_file, budget)
        return {
            **self._budget(db, budget, self.clock()),
            "timezone": budget.timezone,
            "alert": list(budget.alert),
            "kill": budget.kill,
            "source": "run time" if in_file is None else "cloud.ini",
            "in_file": {name: before for name, (before, _) in changed.items()},  # what cloud.ini says where another value holds
            "changed_by": override.who if override else "",
            "changed_at": override.at if override else None,
            "allowed_actions": ["edit", *(["delete"] if override else [])],
        }

    def create_budget(self, budget: BudgetSettings, who: str = "", *, dry_run: bool = False) -> BudgetChange:
        """A budget beside those of cloud.ini. BadInput, or Conflict where the name is taken."""
        return self._change_budget("budget.create", budget.name, budget, who, dry_run)

    def edit_budget(self, name: str, changes: Mapping[str, Any], who: str = "", *, dry_run: bool = False) -> BudgetChange:
        """Other values (of CHANGEABLE) for a budget from the next tick on, whatever cloud.ini says."""
        return self._change_budget("budget.edit", name, changes, who, dry_run)

    def delete_budget(self, name: str, who: str = "", *, dry_run: bool = False) -> BudgetChange:
        """Removes a budget that was made at run time; what cloud.ini says holds again for one of its own."""
        return self._change_budget("budget.delete", name, None, who, dry_run)

    def _change_budget(
        self, kind: str, name: str, wanted: BudgetSettings | Mapping[str, Any] | None, who: str, dry_run: bool
    ) -> BudgetChange:
        def play(store: Budgets, db: Connection) -> BudgetChange:
            changed = inside(Budgets._changed_budget)(store, db, kind, name, wanted, who, rehearsed=True)
            return replace(changed, dry_run=True)

        return rehearse(self, play) if dry_run else self._changed_budget(kind, name, wanted, who)

    @writes
    def _changed_budget(
        self,
        db: Connection,
        kind: str,
        name: str,
        wanted: BudgetSettings | Mapping[str, Any] | None,
        who: str,
        rehearsed: bool = False,
    ) -> BudgetChange:
        old = overrides.in_force(db, self.settings)
        before = next((one for one in old.budgets if one.name == name), None)
        shown_before = self._shown_budget(db, before, old) if before else None
        if isinstance(wanted, BudgetSettings):
            self._make_budget(db, wanted, old, who)
        elif wanted is not None:
            self._override_budget(db, _named(old, name), wanted, old, who)
        else:
            self._drop_override(db, _named(old, name), old, who)
        new = overrides.in_force(db, self.settings)
        after = next((one for one in new.budgets if one.name == name), None)
        if after is not None:
            self._window(db, after, *ledger.window_at(after.window, after.timezone, self.clock()))  # tells what is reached now
        words = _told(before, after)
        changes = _differences(before, after) if before and after else None
        self._event(db, kind, who, f"budget {name}: {words}", changes=changes)
        if not rehearsed:  # the effect does not tell of it, and it takes its time
            self._reckon_payers(db, new)
        self._bump(db, "backlog")
        effect = self._effect(db, before, after, shown_before)
        return BudgetChange(shown_before, self._shown_budget(db, after, new) if after else None, effect)

    def _make_budget(self, db: Connection, budget: BudgetSettings, old: InForce, who: str) -> None:
        if any(one.name == budget.name for one in old.budgets):
            raise Conflict(f"there is a budget {budget.name} already; change that one", fields={"name": "is taken"})
        if (wrong := wrong_budget(budget, self.settings.pools)) is not None:
            raise BadInput(fields=dict([wrong]))
        other = select(budget_window.c.currency).where(budget_window.c.budget == budget.name)
        if (used := db.execute(other.where(budget_window.c.currency != budget.currency).limit(1)).scalar()) is not None:
            raise Conflict(f"there was a budget {budget.name} in {used}, whose money is kept; choose another name")
        fields = {one.name: getattr(budget, one.name) for one in dataclasses.fields(budget) if one.name not in ("name", "line")}
        overrides.write(db, f"budget {budget.name}", {MADE: True, **fields}, who, self.clock())

    def _override_budget(self, db: Connection, budget: BudgetSettings, wanted: Mapping[str, Any], old: InForce, who: str) -> None:
        section = f"budget {budget.name}"
        in_file = next((one for one in self.settings.budgets if one.name == budget.name), None)
        fields = {**(old.overrides[section].fields if section in old.overrides else {}), **wanted}
        if in_file is not None:  # what is as the file says is no override
            fields = {name: value for name, value in fields.items() if name in CHANGEABLE and value != getattr(in_file, name)}
        overrides.write(db, section, fields, who, self.clock())

    def _drop_override(self, db: Connection, budget: BudgetSettings, old: InForce, who: str) -> None:
        if f"budget {budget.name}" not in old.overrides:
            raise Conflict(f"budget {budget.name} stands in cloud.ini; take it out there, or give it another amount")
        overrides.write(db, f"budget {budget.name}", {}, who, self.clock())

    # ------------------------------------------------------------ what a change does

    def _effect(
        self, db: Connection, before: BudgetSettings | None, after: BudgetSettings | None, shown: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """What may start, what is no longer paid on, and what cannot start: from the next tick on."""
        committed = self._budget(db, after, self.clock())["committed_micro"] if after else 0
        left = after.amount_micro - committed if after and after.hard else None
        left_before = before.amount_micro - (shown or {}).get("committed_micro", 0) if before and before.hard else None
        grew = left_before is not None and (left is None or left > left_before)
        one = after or before
        assert one is not None
        return {
            "left_micro": left,  # None: no limit
            "left_before_micro": left_before,
            "starts": self._starts(db, one, left) if grew else [],
            "stops": self._stops(db, one) if left is not None and left < 0 else [],
            "forbids": self._forbids(db, one, left) if left is not None else "",
        }

    def _stops(self, db: Connection, budget: BudgetSettings) -> list[dict[str, Any]]:
        """The machines that it pays for: they finish what they can within what is paid already."""
        columns = (instance.c.id, instance.c.pool, instance.c.offering, instance.c.funded_until, worker.c.name)
        query = select(*columns).join(commitment, commitment.c.instance_id == instance.c.id)
        query = query.join(budget_window, budget_window.c.id == commitment.c.window_id)
        query = query.outerjoin(worker, worker.c.id == instance.c.worker_id).distinct().order_by(instance.c.id)
        rows = db.execute(query.where(budget_window.c.budget == budget.name, instance.c.state.in_(PAID)))
        return [
            {"instance": row.id, "pool": row.pool, "offering": row.offering, "worker": row.name or "", "until": row.funded_until}
            for row in rows
        ]

    def _starts(self, db: Connection, budget: BudgetSettings, left: int | None) -> list[dict[str, Any]]:
        """The pools that this budget kept from starting more, by their last decision, and how many it would pay for now."""
        found = []
        for pool in overrides.in_force(db, self.settings).pools:
            newest = select(decision.c.action, decision.c.reason).where(decision.c.pool == pool.name)
            said = db.execute(newest.order_by(decision.c.id.desc()).limit(1)).first()
            if said is not None and said.action == "hold" and f"budget {budget.name} has " in said.reason:
                each = self._launch_cost(db, pool.name, pool.price_micro + pool.overhead_per_hour_micro, pool.funding_s)
                most = None if left is None or not each else max(0, left // each)
                found.append({"pool": pool.name, "at_most": most, "waits": said.reason})
        return found

    def _launch_cost(self, db: Connection, pool: str, price_micro: int, funding_s: float) -> int:
        """What a launch reserves, by the pool's own price or that of its newest machine; 0 if nobody knows."""
        newest = select(instance.c.price_micro).where(instance.c.pool == pool).order_by(instance.c.id.desc()).limit(1)
        price = price_micro or db.execute(newest).scalar() or 0
        return ledger.cost(price, 0.0, funding_s + self.settings.autoscaler.slack_s)

    def _forbids(self, db: Connection, budget: BudgetSettings, left: int) -> str:
        if left < 0:
            over = ledger.money(-left, budget.currency)
            return f"{over} more are spent or reserved than the cap: nothing starts or is paid on until it has room"
        pools = overrides.in_force(db, self.settings).pools
        for_a_pool = budget.applies_to.startswith("pool:")
        mine = [pool for pool in pools if not for_a_pool or budget.applies_to == f"pool:{pool.name}"]
        costs = [self._launch_cost(db, p.name, p.price_micro + p.overhead_per_hour_micro, p.funding_s) for p in mine]
        known = [cost for cost in costs if cost]
        if known and left < min(known):
            rest, need = (ledger.money(amount, budget.currency) for amount in (left, min(known)))
            return f"{rest} left do not pay for another machine, which needs {need}"
        return ""

    # ------------------------------------------------------------ who pays for which job

    @writes
    def adopt_budgets(self, db: Connection) -> bool:
        """Gives every job the hard and soft budgets that are in force for it; whether they are others than before.

        To be called when a server starts: cloud.ini may name other users, groups or tags.
        """
        return self._reckon_payers(db, overrides.in_force(db, self.settings))

    def _reckon_payers(self, db: Connection, current: InForce) -> bool:
        of_jobs = [budget for budget in current.budgets if budget.applies_to.split(":")[0] in OF_JOBS]
        paying = sorted(f"{one.name}={one.applies_to}{'' if one.hard else SOFT}" for one in of_jobs)
        wanted = zlib.crc32("\n".join(paying).encode())
        adopted = self._bump(db, PAYERS, 0)
        if adopted == wanted:
            return False
        changes = Changes()
        for chunk in chunks(list(db.execute(select(job.c.id).order_by(job.c.id)).scalars())):
            self._edit_requirements(db, chunk, {})
        for chunk in chunks(list(db.execute(select(job.c.id).where(job.c.parent == 0).order_by(job.c.id)).scalars())):
            self._refresh(db, chunk, changes)
        self._settle(db, changes)
        self._bump(db, PAYERS, wanted - adopted)
        return True


def _named(current: InForce, name: str) -> BudgetSettings:
    names = [budget.name for budget in current.budgets]
    if name not in names:
        raise NotFound(f"there is no budget {name[:64]!r}; {nearest(name[:64], names)}")
    return current.budgets[names.index(name)]


def _differences(before: overrides.T, after: overrides.T) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, with both values."""
    names = [one.name for one in dataclasses.fields(before) if one.name != "line"]
    return {n: (getattr(before, n), getattr(after, n)) for n in names if getattr(before, n) != getattr(after, n)}


def _told(before: BudgetSettings | None, after: BudgetSettings | None) -> str:
    """A change in words, both values of each field, as cloud.ini would have them."""
    fields = {field.name: (key, field.metadata["read"]) for key, field in knobs_of(BudgetSettings).items()}
    if before is None or after is None:
        one = after or before
        values = [f"{key} {write(getattr(one, name), read)}" for name, (key, read) in fields.items()]
        return f"{'is no more' if after is None else 'new'} ({', '.join(values)})"
    changed = _differences(before, after).items()
    words = [f"{fields[n][0]} {write(a, fields[n][1])} -> {write(b, fields[n][1])}" for n, (a, b) in changed if n in fields]
    return ", ".join(words) or "as it was"
