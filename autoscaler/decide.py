"""decide(snapshot) -> Plan: what to start, pay on, drain and end, and what not, each with its reason in words. Pure and total.

Slots wanted = the sum over waiting jobs of min(1, estimate / slot_target), an unknown estimate counting 1, times the slots that
one of them takes up where it runs (several if it asks for much of the machine), rounded up to whole instances. Slots at hand come
off: free ones, those that boot, and those whose jobs will soon end, for short jobs by `slot_target`. The rest is bought, of
each requirement's offers the pool's preferred market first, there the smallest size within 10 % of the cheapest place for a job,
as far as pool and budgets allow.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from autoscaler.budget import Part, Purse, Short, when
from autoscaler.snapshot import Demand, Instance, Pool, Snapshot, Worker
from coalition import ledger, matching
from coalition.matching import Capacity, Requirement, sponsors
from coalition.states import InstanceState, WorkerState
from coalition.words import counted, verb
from providers.base import LAUNCH_WINDOW_S, Deadline, Offering

NEAR_CHEAPEST = 1.10
LAST_PART = 0.1  # of an instance's time, if that cannot be extended: no new jobs then
ENDING_TICKS, ENDING_S = 3, 60.0  # an idle instance drains, is looked at again and ends within so many decisions, and some time
NAMED = 3  # requirements that the reason of a launch names
NOTES = 2  # reasons that a pool gives
PATIENT = 0.5  # of a slot: who wants less is content with one that is free by `slot_target`, in ten minutes at most
EPSILON = 1e-9
BOOTING = (InstanceState.INTENDED, InstanceState.STARTING)
SERVING = (WorkerState.STARTING, WorkerState.WAITING, WorkerState.WORKING)


@dataclass(frozen=True)
class Launch:
    """Start `count` equal instances, funded up to `funded_until`, asked for before `launch_by`."""

    pool: str
    offering: Offering
    count: int
    payer: str
    sponsors: tuple[str, ...]
    launch_by: float
    funded_until: float
    reason: str


@dataclass(frozen=True)
class Renew:
    id: int
    until: float


@dataclass(frozen=True)
class Keep:
    """Ends a drain: the instance is needed again."""

    id: int
    pool: str
    reason: str


@dataclass(frozen=True)
class Drain:
    id: int
    pool: str
    reason: str


@dataclass(frozen=True)
class Terminate:
    """`idle`: only if its worker holds nothing, which is to be checked again. `failed_boot`: its console tells why."""

    id: int
    pool: str
    reason: str
    idle: bool = False
    failed_boot: bool = False


@dataclass(frozen=True)
class Hold:
    """Why nothing is started in a pool; in no pool, if its name is empty."""

    pool: str
    reason: str


@dataclass(frozen=True)
class BlockPool:
    """Nothing more is to be started there until somebody allows it."""

    pool: str
    reason: str


@dataclass
class Plan:
    launches: list[Launch] = field(default_factory=list)
    renewals: list[Renew] = field(default_factory=list)
    keeps: list[Keep] = field(default_factory=list)
    drains: list[Drain] = field(default_factory=list)
    terminations: list[Terminate] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    blocks: list[BlockPool] = field(default_factory=list)
    wishes: list[int] = field(default_factory=list)  # the numbers of those that were heard


@dataclass
class _Bin:
    """Slots of one kind that are free now or soon."""

    capacity: Capacity
    slots: int  # of each machine
    free: float = 0.0
    soon: float = 0.0  # of those that are busy: how many may be counted on
    later: float = 0.0  # and how many more by jobs that are patient

    @property
    def has_some(self) -> bool:
        return self.free + self.later > EPSILON

    def give(self, demand: Demand, need: float, patient: bool) -> float:
        """Takes slots for up to `need` jobs; for how many it had some."""
        takes = _takes(demand.requirement, self.capacity, self.slots)
        later = min(need, self.later / takes) if patient else 0.0
        free = min(need - later, self.free / takes)
        self.later -= later * takes
        self.free -= free * takes
        return later + free


class _Bins:
    """Slots by what they can run."""

    def __init__(self) -> None:
        self.by_value: dict[tuple[Capacity, int, str], _Bin] = {}
        self._by_id: dict[tuple[int, int, str], _Bin] = {}  # most capacities are one object, and hashing that is dear

    def of(self, capacity: Capacity, slots: int, name: str = "") -> _Bin:
        key = (id(capacity), slots, name)
        if key not in self._by_id:
            self._by_id[key] = self.by_value.setdefault((capacity, slots, name), _Bin(capacity, slots))
        return self._by_id[key]


@dataclass
class _Group:
    """What is to be started of one offer for one payer, and counted by the same soft budgets."""

    pool: Pool
    offer: Offering
    payer: str
    soft: str
    capacity: Capacity
    parts: list[Part]
    count: int = 0
    spare: float = 0.0
    jobs: int = 0
    needs: set[str] = field(default_factory=set)  # what the jobs ask for, in words
    asked: list[str] = field(default_factory=list)  # by hand


class _Place(NamedTuple):
    """An offer that could run a job, the place of its market in `purchase`, and the price of the slots that one job takes up.

    `rank`: its place among all offers, for those of equal price.
    """

    pool: Pool
    offer: Offering
    market: int
    per_job: float
    rank: int


@dataclass
class _Shape:
    """Machines that are alike, and who offers them, in their order."""

    capacity: Capacity
    slots: int
    places: list[_Place] = field(default_factory=list)


class _Places:
    """All offers that could run a job, the preferred markets and there the cheapest place first, and the pools that have them.

    Few of them are ever looked at: the rest are not even sorted.
    """

    def __init__(self, shapes: Sequence[tuple[_Shape, float]]) -> None:
        self.pools = list({place.pool.settings.name: place.pool for shape, _ in shapes for place in shape.places}.values())
        self._known: list[_Place] = []
        self._rest = heapq.merge(*(_for_jobs(shape.places, part) for shape, part in shapes), key=_order)

    def __iter__(self) -> Iterator[_Place]:
        yield from self._known
        while (place := next(self._rest, None)) is not None:
            self._known.append(place)
            yield place


def decide(snapshot: Snapshot) -> Plan:
    """The plan for this moment. Equal snapshots give equal plans."""
    return _Decision(snapshot).plan


def _rate(price_micro: int, currency: str) -> str:
    return f"{ledger.money(price_micro, currency)}/h"


class _Decision:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snap, self.plan, self.purse = snapshot, Plan(), Purse(snapshot.budgets)
        self.pools = {pool.settings.name: pool for pool in snapshot.pools}
        self.workers = {worker.id: worker for worker in snapshot.workers}
        self.notes: dict[str, list[str]] = {}
        self.leaving: set[int] = set()  # instances that are no supply any more
        self.kept: set[int] = set()  # instances whose drain this plan ends
        self.demands = sorted(
            snapshot.demands, key=lambda d: (matching.order_key(d.prio_path), d.requirement.to_json(), d.estimate_s or 0.0)
        )
        self.groups: dict[tuple[str, str, str, str], _Group] = {}
        self._too_dear: dict[tuple[str, str], int] = {}  # (pool, payer) -> the lowest price that its budgets cannot pay
        self._started: Counter[str] = Counter()  # in this plan, by pool
        self._started_slots: Counter[str] = Counter()
        self._waits_for_boots: set[str] = set()  # pools of which no more start in this plan, as their last boot failed
        self._paid = Counter(one.pool for one in snapshot.instances)
        self._fundings: dict[str, float] = {}  # by pool
        self._places: dict[Requirement, _Places] = {}
        self._places_by_fit: dict[tuple[float | None, ...], _Places] = {}
        self._waits_for: dict[Capacity, Demand | None] = {}
        self._named = any(demand.requirement.named for demand in self.demands)
        self._newest_good: dict[str, int] = {}  # pool -> the newest instance whose worker enrolled
        for one in snapshot.instances:
            if one.worker_id is not None:
                self._newest_good[one.pool] = max(one.id, self._newest_good.get(one.pool, 0))
        self._end_what_failed()
        self._end_what_is_drained()
        self._drain_what_is_idle()
        self._renew()
        self.bins = self._supply()
        self._serve_demand()
        self._keep_minimum()
        self._grant_wishes()
        self._write_launches()
        self._write_holds()

    # ------------------------------------------------------------ what must end

    def _end_what_failed(self) -> None:
        for one in self.snap.instances:
            pool = self.pools.get(one.pool)
            if one.state in (InstanceState.TERMINATING, InstanceState.INTENDED):
                continue
            if one.wish == "terminate" or (one.wish == "drain" and one.state == InstanceState.STARTING):
                self._terminate(one, f"asked for by {one.wished_by or 'hand'}")
            elif one.provider_id and self.snap.now >= one.funded_until:
                self._terminate(one, "its paid time is over")
            elif one.state == InstanceState.STARTING:
                self._check_boot(one, pool)
            elif one.worker_id is None or one.worker_id not in self.workers:
                self._terminate(one, "its worker is no more")
            elif silence := self._silence(self.workers[one.worker_id], pool):
                self._terminate(one, f"its worker has been silent for {silence:.0f} s")
            elif one.state == InstanceState.RUNNING and one.wish == "drain":
                self._drain(one, f"asked for by {one.wished_by or 'hand'}")
            elif one.state == InstanceState.RUNNING and (pool is None or not pool.settings.enabled):
                self._drain(one, f"pool {one.pool} is switched off" if pool else f"pool {one.pool} is no longer in cloud.ini")

    def _check_boot(self, one: Instance, pool: Pool | None) -> None:
        limit = pool.settings.boot_timeout_s if pool else 0.0
        since = max(one.launched_at or one.created_at, self.snap.leading_since)
        if self.snap.now - since > limit:
            words = f"it has not enrolled within {limit:.0f} s" if pool else f"pool {one.pool} is no longer in cloud.ini"
            self._terminate(one, words, failed_boot=pool is not None)

    def _silence(self, worker: Worker, pool: Pool | None) -> float:
        """For how long a worker has been silent, if that is too long; else 0."""
        if worker.state != WorkerState.TIMEOUT:
            return 0.0
        silence = self.snap.now - max(worker.seen_at, self.snap.leading_since)
        limit = pool.settings.boot_timeout_s if pool else 0.0
        return silence if silence > limit else 0.0

    def _terminate(self, one: Instance, reason: str, *, idle: bool = False, failed_boot: bool = False) -> None:
        self.leaving.add(one.id)
        self.plan.terminations.append(Terminate(one.id, one.pool, reason, idle, failed_boot))

    def _drain(self, one: Instance, reason: str) -> None:
        self.leaving.add(one.id)
        self.plan.drains.append(Drain(one.id, one.pool, reason))

    def _end_what_is_drained(self) -> None:
        for one in self.snap.instances:
            if one.state != InstanceState.DRAINING or one.id in self.leaving or self._wanted_back(one):
                continue
            worker = self.workers.get(one.worker_id or 0)
            if worker is None or worker.running == 0:
                self._terminate(one, f"drained, nothing runs there ({one.reason})", idle=True)

    def _wanted_back(self, one: Instance) -> bool:
        """Ends the drain of an instance that waiting jobs fit, unless it was drained for good."""
        pool = self.pools.get(one.pool)
        worker = self.workers.get(one.worker_id or 0)
        if worker is not None and not worker.active:
            return False
        if one.wish or pool is None or not pool.settings.enabled or self._ends_soon(one, pool):
            return False
        demand = self._demand_for(one.capacity)
        if demand is not None:
            self.kept.add(one.id)
            self.plan.keeps.append(Keep(one.id, one.pool, f"{_jobs(demand.waiting)} for {_name(demand.requirement)} again"))
        return demand is not None

    def _ends_soon(self, one: Instance, pool: Pool | None) -> bool:
        """Whether it is time to pay on; or, where nobody can, to take no more jobs."""
        left_s = one.funded_until - self.snap.now
        if pool is not None and not pool.renewable:
            return left_s < (one.funded_until - one.created_at) * LAST_PART
        return left_s < self._funding_s(pool) / 2

    def _funding_s(self, pool: Pool | None) -> float:
        name = pool.settings.name if pool else ""
        if name not in self._fundings:
            self._fundings[name] = pool.funding_s(self.snap.rules) if pool else 4 * self.snap.rules.interval_s
        return self._fundings[name]

    def _demand_for(self, capacity: Capacity) -> Demand | None:
        """The first demand that such a worker could serve."""
        key = capacity if self._named or not capacity.name else replace(capacity, name="")
        if key not in self._waits_for:
            fits = (d for d in self.demands if d.waiting and matching.line(d.requirement, capacity) is not None)
            self._waits_for[key] = next(fits, None)
        return self._waits_for[key]

    def _drain_what_is_idle(self) -> None:
        """Beyond `min`, what has been idle for so long and nobody waits for; the dearest and longest idle first."""
        idle = []
        for one in self.snap.instances:
            worker, pool = self.workers.get(one.worker_id or 0), self.pools.get(one.pool)
            if worker is None or worker.running or worker.idle_since is None or pool is None:
                continue
            if one.state != InstanceState.RUNNING or one.id in self.leaving:
                continue
            idle_s = self.snap.now - worker.idle_since
            useful = worker.active and self._demand_for(worker.capacity) is not None
            if idle_s >= pool.settings.idle_s and not useful and not self._is_paid_on(one):
                idle.append((-one.price_micro / max(1, one.slots), -idle_s, one.id, one, pool))
        kept = {name: sum(1 for one in self._live(name)) for name in self.pools} if idle else {}
        for _, minus_idle_s, _, one, pool in sorted(idle, key=lambda entry: entry[:3]):
            if kept[one.pool] > pool.settings.min:
                kept[one.pool] -= 1
                limit = pool.settings.idle_s
                self._drain(one, f"idle for {-minus_idle_s:.0f} s (idle = {limit:.0f} s), and no waiting job fits it")

    def _is_paid_on(self, one: Instance) -> bool:
        """Whether its time is billed in larger steps, and the step that is paid goes on: it may be of use until then."""
        since = one.launched_at or one.created_at
        end = ledger.billed_end(since, self.snap.now, one.minimum_s, one.granularity_s)
        return end - self.snap.now > ENDING_S + ENDING_TICKS * self.snap.rules.interval_s

    def _live(self, pool: str) -> Iterator[Instance]:
        """What counts towards a pool's `min`."""
        ending = (InstanceState.DRAINING, InstanceState.TERMINATING)
        return (one for one in self.snap.instances if one.pool == pool and one.id not in self.leaving and one.state not in ending)

    # ------------------------------------------------------------ paying on

    def _renew(self) -> None:
        """Half a funding before the end more is paid; what cannot be paid on is drained, so that it ends in time."""
        ended = {one.id for one in self.plan.terminations}
        soon = [one for one in self.snap.instances if one.provider_id and self._ends_soon(one, self.pools.get(one.pool))]
        for one in sorted(soon, key=self._usefulness):
            pool = self.pools.get(one.pool)
            worker = self.workers.get(one.worker_id or 0)
            idle_drain = one.state == InstanceState.DRAINING and (worker is None or not worker.running)
            if one.state == InstanceState.TERMINATING or one.id in ended or (idle_drain and one.id not in self.kept):
                continue
            funding_s, left_s = self._funding_s(pool), max(0.0, one.funded_until - self.snap.now)
            if pool is not None and not pool.renewable:
                self._drain_at_last(one, f"its time was fixed when it was started, and ends in {left_s:.0f} s")
                continue
            until = max(self.snap.now + funding_s, one.committed_until)
            parts = self.purse.extension(one, until, self.snap.rules.slack_s)
            fits, short = self.purse.room(parts, 1)
            if fits:
                self.purse.take(parts)
                self.plan.renewals.append(Renew(one.id, until))
            else:
                self._drain_at_last(one, f"{short} to pay for {funding_s:.0f} s more; what is paid ends in {left_s:.0f} s")

    def _drain_at_last(self, one: Instance, reason: str) -> None:
        if one.state == InstanceState.RUNNING and one.id not in self.leaving:
            self._drain(one, reason)

    def _usefulness(self, one: Instance) -> tuple[int, int]:
        worker = self.workers.get(one.worker_id or 0)
        return (-(worker.running if worker else 0), one.id)

    # ------------------------------------------------------------ supply

    def _supply(self) -> list[_Bin]:
        """Slots that live, boot, or are kept, merged by what they can run."""
        instances = {one.id: one for one in self.snap.instances}
        bins = _Bins()
        for worker in self.snap.workers:
            one = instances.get(worker.instance_id or 0)
            kept = one is not None and one.id in self.kept
            if one is not None and (one.id in self.leaving or (one.state != InstanceState.RUNNING and not kept)):
                continue
            if worker.active and (worker.state in SERVING or kept):
                here = bins.of(worker.capacity, worker.slots, worker.name if self._named else "")
                here.free += max(0, worker.slots - worker.running)
                here.soon += worker.ending
                here.later += max(0.0, worker.ending_by_target - worker.ending)
        for one in self.snap.instances:
            if one.state in BOOTING and one.id not in self.leaving:
                bins.of(one.capacity, one.slots).free += one.slots
        for here in bins.by_value.values():
            here.free += math.floor(here.soon + EPSILON)  # nobody waits for a part of a slot
        return list(bins.by_value.values())

    # ------------------------------------------------------------ demand

    def _serve_demand(self) -> None:
        for demand in self.demands:
            target = self.snap.rules.slot_target_s
            length_s = demand.estimate_s if demand.slot_s is None else demand.slot_s
            weight = 1.0 if length_s is None else min(1.0, max(length_s, 0.0) / target)
            need = demand.waiting * weight
            for here in self.bins:
                if need > EPSILON and here.has_some and matching.line(demand.requirement, here.capacity) is not None:
                    need -= here.give(demand, need, weight < PATIENT)
            if need > EPSILON:
                self._buy(demand, need)

    def _buy(self, demand: Demand, need: float) -> None:
        need = self._use_spare(demand, need)
        if need <= EPSILON:
            return
        places = self._offers(demand.requirement)
        pools = places.pools
        if not pools and not self._somebody_can(demand.requirement):
            self._say_impossible(demand)
        for pool, offer in _by_preference(places) if any(map(self._room_in, pools)) else ():
            if need <= EPSILON:
                return
            if self._may_fit(pool, offer, demand.requirement.payer):
                need = self._buy_of(pool, offer, demand, need)
        for pool in pools if need > EPSILON else ():
            if self._room_in(pool) == 0 and pool.settings.enabled:
                self._note(pool.settings.name, f"{_wait(demand)}; {_full(pool)}")

    def _may_fit(self, pool: Pool, offer: Offering, payer: str) -> bool:
        """Whether pool and budgets are not known already to have no room for it."""
        name, most = pool.settings.name, pool.settings.max_start_slots
        full = name in self._waits_for_boots or (most and self._started[name] and self._started_slots[name] >= most)
        return not full and self._room_in(pool) > 0 and offer.price_micro < self._too_dear.get((name, payer), math.inf)

    def _use_spare(self, demand: Demand, need: float) -> float:
        """What earlier demands leave free of the instances in this plan."""
        for group in self.groups.values():
            is_spare = need > EPSILON and group.spare > EPSILON
            if is_spare and matching.line(demand.requirement, group.capacity) is not None:
                takes = _takes(demand.requirement, group.capacity, group.offer.slots)
                given = min(need, group.spare / takes)
                group.spare -= given * takes
                need -= given
                group.jobs += demand.waiting
                group.needs.add(_name(demand.requirement))
        return need

    def _buy_of(self, pool: Pool, offer: Offering, demand: Demand, need: float) -> float:
        """Plans instances of one offer; for how many jobs slots are still needed."""
        payer, soft = demand.requirement.payer, demand.requirement.soft
        if (short := self._too_long(pool, offer, demand)) is not None:
            length = f"of about {demand.estimate_s or 0.0:.0f} s each"
            self._note(pool.settings.name, f"{_wait(demand)}, {length}; {short} for one of them on a {offer.name}")
            return need
        takes = _takes(demand.requirement, _capacity(pool, offer, payer), offer.slots)
        wanted = math.ceil(need * takes / offer.slots - EPSILON)
        count, group = self._afford(pool, offer, payer, wanted, _wait(demand), soft)
        if count == 0 or group is None:
            return need
        got = count * offer.slots
        group.jobs += demand.waiting
        group.needs.add(_name(demand.requirement))
        group.spare += max(0.0, got - need * takes)
        return max(0.0, need - got / takes)

    def _too_long(self, pool: Pool, offer: Offering, demand: Demand) -> Short | None:
        """The budget that could not pay for such a job to its end, as far as its length is known."""
        length_s, rules = demand.estimate_s, self.snap.rules
        if length_s is None or length_s <= pool.funding_s(rules) or offer.price_micro <= 0:
            return None
        now = self.snap.now
        terms = (now + LAUNCH_WINDOW_S, rules.slack_s, offer.minimum_s, offer.granularity_s)
        names = self._sponsors(pool, offer, demand.requirement.payer)
        return self.purse.lacking(self.purse.cost(names, offer.price_micro, now, ledger.committed_end(now + length_s, *terms)))

    def _afford(
        self, pool: Pool, offer: Offering, payer: str, wanted: int, why: str, soft: str = ""
    ) -> tuple[int, _Group | None]:
        """Adds as many instances to the plan as pool and budgets allow; notes what is in the way of more."""
        name = pool.settings.name
        if obstacle := self._obstacle(pool, offer, payer):
            self._note(name, f"{why}; {obstacle}")
            return 0, None
        room = min(wanted, self._room_in(pool))
        count = min(room, self._starts_left(pool, offer, room, why))
        key = (name, offer.name, payer, soft)
        group = self.groups.get(key) or self._new_group(pool, offer, payer, soft)
        fits, short = self.purse.room(group.parts, count)
        if short is not None:
            if not short.budget.applies_to.startswith("offering:"):  # another offer may be paid by others
                self._too_dear[name, payer] = offer.price_micro
            self._note(name, self._short(short, pool, offer, why))
        elif room < wanted:
            self._note(name, f"{why}; {_full(pool)}")
        if fits > 0:
            self.purse.take(group.parts, fits)
            group.count += fits
            self._paid[name] += fits
            self._started[name] += fits
            self._started_slots[name] += fits * offer.slots
            self.groups[key] = group
        return fits, group

    def _new_group(self, pool: Pool, offer: Offering, payer: str, soft: str) -> _Group:
        now, rules = self.snap.now, self.snap.rules
        names = self._sponsors(pool, offer, payer)
        terms = (now + LAUNCH_WINDOW_S, rules.slack_s, offer.minimum_s, offer.granularity_s)
        end = ledger.committed_end(now + pool.funding_s(rules), *terms)
        parts = self.purse.cost(names, offer.price_micro, now, end)
        return _Group(pool, offer, payer, soft, _capacity(pool, offer, payer), parts)

    def _sponsors(self, pool: Pool, offer: Offering, payer: str, soft: str = "") -> tuple[str, ...]:
        budgets = [budget.settings for budget in self.snap.budgets]
        return sponsors(pool.settings.name, payer, budgets, (offer.name, offer.type), soft)

    def _short(self, short: Short, pool: Pool, offer: Offering, why: str) -> str:
        return f"{why}; {short} for the first {pool.funding_s(self.snap.rules):.0f} s of a {offer.name}"

    def _room_in(self, pool: Pool) -> int:
        return max(0, pool.settings.max - self._paid[pool.settings.name])

    def _starts_left(self, pool: Pool, offer: Offering, wanted: int, why: str) -> int:
        """How many of these may start in this tick: as many slots as the pool says, few while boots fail, one at least."""
        name, most = pool.settings.name, pool.settings.max_start_slots
        count, first = wanted, not self._started[name]
        if most:
            count = min(count, max((most - self._started_slots[name]) // offer.slots, int(first)))
        if count < wanted:
            self._note(name, f"{why}; pool {name} starts {most:,} slots at a time at most")
        if pool.boot_failures:
            share = self.snap.rules.max_start_share
            booting = sum(one.pool == name and one.state in BOOTING for one in self.snap.instances)
            careful = max(1, math.floor((wanted + booting) * share)) - booting - self._started[name]
            if careful < count:
                count = max(0, careful)
                self._waits_for_boots.update([name] if not count else [])
                self._note(name, f"{why}; only {share:.0%} of them start at once, for the last boot failed: {pool.boot_reason}")
        return count

    def _obstacle(self, pool: Pool, offer: Offering, payer: str) -> str:
        """Why this offer cannot be bought at all now, in words; empty if it can."""
        settings = pool.settings
        if not settings.enabled:
            return f"pool {settings.name} is switched off"
        if failed := self._failed_boots(pool):
            return failed
        block = next((b for b in pool.blocks if b.offering in ("", offer.name)), None)
        if block is not None:
            return f"{offer.name if block.offering else f'pool {settings.name}'} is blocked: {block.reason}"
        names = self._sponsors(pool, offer, payer)
        hard = self.purse.hard(names)
        missing = sorted(set(filter(None, payer.split("|"))) - set(names))
        if missing:
            return f"budget {missing[0]} should pay and is no longer in cloud.ini"
        if hard and offer.price_micro <= 0:
            why = f" ({offer.price_source})" if offer.price_source else ""
            return f"the price of {offer.name} is not known{why}, and budget {hard[0].name} is hard"
        other = next((b for b in hard if b.currency != offer.currency), None)
        if other is not None:
            return f"{offer.name} costs {offer.currency}, and budget {other.name} is in {other.currency}"
        if hard and pool.deadline is Deadline.GUEST and not settings.accept_guest_deadline:
            return f"only the instance itself would end its time, and budget {hard[0].name} is hard (accept_guest_deadline)"
        return ""

    def _failed_boots(self, pool: Pool) -> str:
        """That too many boots in a row failed, in words; those that this plan gives up are counted too."""
        newest_good = self._newest_good.get(pool.settings.name, 0)
        ends = [end for end in self.plan.terminations if end.failed_boot and end.pool == pool.settings.name]
        given_up = [end.reason for end in ends if end.id > newest_good]
        failures = pool.boot_failures + len(given_up)
        if failures < self.snap.rules.boot_failures:
            return ""
        return f"{failures} boots in a row failed, the last one because {[pool.boot_reason, *given_up][-1]}"

    # ------------------------------------------------------------ offers

    @cached_property
    def _shapes(self) -> list[_Shape]:
        """All offers as places for a job that takes a slot, by the kind of machine."""
        found: dict[tuple[int, int], _Shape] = {}  # most offers of a kind have one capacity, and hashing that is dear
        for rank, (pool, offer, capacity) in enumerate(_ranked(self.snap.pools)):
            shape = found.setdefault((id(capacity), offer.slots), _Shape(capacity, offer.slots))
            shape.places.append(_place(pool, offer, rank))
        for shape in found.values():
            shape.places.sort(key=_order)
        return list(found.values())

    def _offers(self, requirement: Requirement) -> _Places:
        """What could run it."""
        if requirement not in self._places:
            fit = self._parts(replace(requirement, payer=""))  # a new machine works for whoever pays
            if fit not in self._places_by_fit:
                fits = [(shape, part) for shape, part in zip(self._shapes, fit, strict=True) if part is not None]
                self._places_by_fit[fit] = _Places(fits)
            self._places[requirement] = self._places_by_fit[fit]
        return self._places[requirement]

    def _parts(self, requirement: Requirement) -> tuple[float | None, ...]:
        """For each shape, how many slots one job takes up there; None if it cannot run there. Tags are looked at once a pool."""
        light = replace(requirement, cpus=0, memory_bytes=0, gpus=0)
        tags: dict[int, bool] = {}
        parts: list[float | None] = []
        for shape in self._shapes:
            there = shape.capacity
            if requirement.cpus > there.cpus or requirement.memory_bytes > there.memory_bytes or requirement.gpus > there.gpus:
                parts.append(None)
                continue
            if id(there.lines) not in tags:
                tags[id(there.lines)] = matching.line(light, there) is not None
            parts.append(_takes(requirement, there, shape.slots) if tags[id(there.lines)] else None)
        return tuple(parts)

    def _whole(self, pool: Pool) -> list[_Place]:
        """All offers of a pool, for nobody's jobs."""
        return sorted((place for shape in self._shapes for place in shape.places if place.pool is pool), key=_order)

    def _somebody_can(self, requirement: Requirement) -> bool:
        """Whether a worker or booting instance can run it, though it is busy now."""
        booting = (one.capacity for one in self.snap.instances if one.state in BOOTING)
        live = (worker.capacity for worker in self.snap.workers if worker.active)
        return any(matching.line(requirement, capacity) is not None for capacity in (*booting, *live))

    def _say_impossible(self, demand: Demand) -> None:
        why = []
        for pool in self.snap.pools:
            if pool.problem:
                why.append(f"pool {pool.settings.name}: {pool.problem}")
            for offer in pool.offers[:1]:
                lack = matching.mismatch(demand.requirement, _capacity(pool, offer, demand.requirement.payer))
                why.append(f"pool {pool.settings.name} {lack}")
        words = "; ".join(why) if why else "there is no pool"
        self._note("", f"{_jobs(demand.waiting)} for {_name(demand.requirement)}, and no pool can run them: {words}")

    # ------------------------------------------------------------ min, words

    def _keep_minimum(self) -> None:
        for pool in self.snap.pools:
            name = pool.settings.name
            if not pool.settings.min:
                continue
            have = sum(1 for _ in self._live(name)) + sum(g.count for g in self.groups.values() if g.pool is pool)
            for _, offer in _by_preference(self._whole(pool)):
                lack = pool.settings.min - have
                if lack > 0:
                    have += self._afford(pool, offer, "", lack, f"pool {name} keeps {pool.settings.min}, {have} are there")[0]

    def _grant_wishes(self) -> None:
        """What was asked for by hand, within the same limits; what cannot be had is said, and not asked for again."""
        for wish in self.snap.wishes:
            problem = self.pools[wish.pool].problem if wish.pool in self.pools else ""
            if problem:  # it waits: paused scaling is resumed, offers come back
                self._note(wish.pool, f"{wish.count} asked for by {wish.who or 'hand'} wait: {problem}")
                continue
            left, words = wish.count, f"{wish.count} asked for by {wish.who or 'hand'}"
            mine = self._whole(self.pools[wish.pool]) if wish.pool in self.pools else []
            fits = [place for place in mine if wish.offering in ("", place.offer.name, place.offer.type)]
            for pool, offer in _by_preference(fits):
                if left > 0:
                    started, group = self._afford(pool, offer, "", left, words)
                    left -= started
                    if started and group is not None:
                        group.asked.append(words)
            if not fits:
                what = f"no offer is named {wish.offering}" if mine else "it has no offers"
                self._note(wish.pool, f"{words}; {what}")
            self.plan.wishes.append(wish.id)

    def _write_launches(self) -> None:
        now = self.snap.now
        free = math.floor(sum(here.free for here in self.bins))
        left = f"{counted(free, 'slot')} {verb(free, 'is', 'are')} left over"
        for group in self.groups.values():
            offer, settings = group.offer, group.pool.settings
            each = f"{_rate(offer.price_micro, offer.currency)} each" if offer.price_micro else "at no price"
            zone = [offer.zone] if offer.zone and offer.zone not in offer.name else []
            what = ", ".join([*zone, counted(offer.slots, "slot"), each])
            why = f"{_jobs(group.jobs)} for {_some(group.needs)}, {left}" if group.jobs else f"min = {settings.min}"
            why = ", ".join([*([why] if group.jobs or not group.asked else []), *group.asked])
            names = self._sponsors(group.pool, offer, group.payer, group.soft)
            reason = f"{group.count} x {offer.name} ({what}): {why}{self._left(names)}"
            until = now + group.pool.funding_s(self.snap.rules)
            launch = (settings.name, offer, group.count, group.payer, names, now + LAUNCH_WINDOW_S, until, reason)
            self.plan.launches.append(Launch(*launch))

    def _left(self, names: Sequence[str]) -> str:
        """What the tightest hard budget has left in its current window, before this plan."""
        tightest: tuple[int, str] | None = None
        for budget in self.snap.budgets:
            settings = budget.settings
            if settings.hard and settings.name in names and budget.windows:
                left = max(0, settings.amount_micro - budget.windows[0][2])
                money = [ledger.money(micro, settings.currency) for micro in (left, settings.amount_micro)]
                words = f"; budget {settings.name} has {money[0]} of {money[1]} left{when(settings)}"
                tightest = min(tightest or (left, words), (left, words))
        return tightest[1] if tightest else ""

    def _note(self, pool: str, words: str) -> None:
        notes = self.notes.setdefault(pool, [])
        if len(notes) < NOTES and words not in notes:
            notes.append(words)

    def _write_holds(self) -> None:
        """Each pool says why it starts no more: what was in the way, else that nothing is needed."""
        for pool in self.snap.pools:
            name = pool.settings.name
            failed = self._failed_boots(pool)
            if failed and not any(block.offering == "" for block in pool.blocks):
                self.plan.blocks.append(BlockPool(name, failed))
            started = any(group.pool is pool for group in self.groups.values())
            if name in self.notes or not started:
                self.plan.holds.append(Hold(name, "; ".join(self.notes.get(name, [])) or self._nothing_needed(pool)))
        self.plan.holds += [Hold("", words) for words in self.notes.get("", ())[:1]]

    def _nothing_needed(self, pool: Pool) -> str:
        if pool.problem:
            return pool.problem
        if not pool.settings.enabled:
            return f"pool {pool.settings.name} is switched off"
        waiting = sum(demand.waiting for demand in self.demands)
        if not waiting:
            return "no job waits"
        fits = [d for d in self.demands if any(one is pool for one in self._offers(d.requirement).pools)]
        if not fits:
            return f"{_jobs(waiting)}, none of them for this pool"
        return f"{_jobs(sum(d.waiting for d in fits))}, and the slots at hand or booting are enough for them"


def _capacity(pool: Pool, offer: Offering, payer: str) -> Capacity:
    lines = (pool.settings.affinity,) if pool.settings.affinity else ()
    return Capacity(lines, offer.cpus, offer.memory_bytes, offer.gpus, payer)


def _ranked(pools: Sequence[Pool]) -> list[tuple[Pool, Offering, Capacity]]:
    """All offers, the cheapest slots first and at equal prices as the provider lists them, with what their workers will have."""
    every = [(pool, offer, capacity) for pool in pools for offer, capacity in pool.ranked]
    if len(pools) > 1:
        every.sort(key=lambda entry: (entry[1].per_slot_micro, entry[0].settings.name))
    return every


def _wait(demand: Demand) -> str:
    return f"{_jobs(demand.waiting)} for {_name(demand.requirement)}"


def _full(pool: Pool) -> str:
    most = pool.settings.max
    return f"pool {pool.settings.name} is at its maximum of {most} instance{'s' * (most != 1)}"


def _by_preference(places: Iterable[_Place]) -> Iterator[tuple[Pool, Offering]]:
    """Of the first market's within 10 % of the cheapest place for a job the smallest first, then the same of the rest."""
    near: list[_Place] = []
    for place in places:
        if near and (place.market, place.per_job) > (near[0].market, near[0].per_job * NEAR_CHEAPEST):
            yield from _smallest_first(near)
            near = []
        near.append(place)
    yield from _smallest_first(near)


def _smallest_first(places: Sequence[_Place]) -> Iterator[tuple[Pool, Offering]]:
    return ((place.pool, place.offer) for place in sorted(places, key=lambda place: place.offer.slots))


def _place(pool: Pool, offer: Offering, rank: int) -> _Place:
    """For a job that takes one slot."""
    purchase = pool.settings.purchase
    known = offer.market in purchase and offer.price_micro > 0  # what has no price comes last, whatever market it is of
    market = purchase.index(offer.market) if known else len(purchase)
    return _Place(pool, offer, market, offer.per_slot_micro, rank)


def _for_jobs(places: Sequence[_Place], part: float) -> Iterator[_Place]:
    """The same for jobs that take so many slots."""
    return (_Place(place.pool, place.offer, place.market, place.per_job * part, place.rank) for place in places)


def _order(place: _Place) -> tuple[int, float, int]:
    return place[2:]


def _takes(requirement: Requirement, capacity: Capacity, slots: int) -> float:
    """How many slots of such a machine one job takes up: of 16 slots 8, if two of these jobs fill its memory."""
    return slots / max(1, matching.fitting(requirement, capacity, slots)) if requirement.heavy else 1.0


def _some(needs: Iterable[str]) -> str:
    first, *rest = sorted(needs)
    named = [first, *rest[: NAMED - 1]]
    return " and ".join(["; ".join(named), *([f"{len(rest) + 1 - NAMED} more"] if len(rest) >= NAMED else [])])


def _jobs(count: int) -> str:
    return f"{count} job waits" if count == 1 else f"{count} jobs wait"


def _name(requirement: Requirement) -> str:
    words = [*requirement.tags]
    words += [f"{requirement.cpus} cpus"] * bool(requirement.cpus) + [f"{requirement.gpus} gpus"] * bool(requirement.gpus)
    words += [f"{requirement.memory_bytes / 2**30:.1f} GiB"] * bool(requirement.memory_bytes)
    return ",".join(words) or "any worker"
