"""Everything a decision may depend on, as one frozen value: demand, fleet, instances, offers, money, and the time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from coalition.config import AutoscalerSettings, BudgetSettings, PoolSettings
from coalition.matching import Capacity, Requirement
from providers.base import LAUNCH_WINDOW_S, Deadline, Offering

if TYPE_CHECKING:
    from coalition.store import Store
    from coalition.store.cloud import Machine

ENDING_S = 90.0  # a slot that is free by then is as good as a new machine, which has to boot


@dataclass(frozen=True)
class Demand:
    """Waiting jobs of one requirement and priority path (hex, as matching.order_key sorts it)."""

    requirement: Requirement
    prio_path: str
    waiting: int
    estimate_s: float | None


@dataclass(frozen=True)
class Worker:
    """`young` of its `running` attempts have run for less than the slot target: their slots may soon be free.

    `ending` is how many of the others may be expected to end within ENDING_S, by what their likes took.
    """

    id: int
    name: str
    state: str
    active: bool
    slots: int
    running: int
    young: int
    capacity: Capacity
    idle_since: float | None
    seen_at: float
    instance_id: int | None
    ending: float = 0.0


def chance_to_end(estimate_s: float | None, age_s: float) -> float:
    """How likely a job that runs for `age_s` ends within ENDING_S.

    The older it is beyond its estimate, the longer it is taken to go on, so that nobody waits for one that hangs.
    """
    return 0.0 if estimate_s is None else 1.0 - math.exp(-ENDING_S / max(estimate_s, age_s, 1.0))


@dataclass(frozen=True)
class Instance:
    """An instance that is paid for; `capacity` is what its worker has or will have."""

    id: int
    pool: str
    offering: str
    provider_id: str
    state: str
    slots: int
    price_micro: int
    capacity: Capacity
    sponsors: tuple[str, ...]
    worker_id: int | None
    committed_until: float
    funded_until: float
    created_at: float
    launched_at: float | None
    wish: str
    wished_by: str
    reason: str
    launch_by: float
    minimum_s: float
    granularity_s: float


@dataclass(frozen=True)
class Block:
    """What must not be asked for. An empty offering means the whole pool."""

    offering: str
    reason: str


@dataclass(frozen=True)
class Pool:
    """A pool with what it may buy. An offer's price is its ceiling, overhead included; 0: not known.

    `boot_failures` counts its newest boots that failed in a row; `problem` says why there are no offers.
    """

    settings: PoolSettings
    offers: tuple[Offering, ...] = ()
    deadline: Deadline = Deadline.PROVIDER
    blocks: tuple[Block, ...] = ()
    boot_failures: int = 0
    boot_reason: str = ""
    problem: str = ""
    renewable: bool = True  # whether its provider can move a deadline

    @cached_property
    def ranked(self) -> tuple[tuple[Offering, Capacity], ...]:
        """The offers, the cheapest slots first, what has no price last, with what their workers will have; no payer is set.

        Equal capacities are one object.
        """
        lines = (self.settings.affinity,) if self.settings.affinity else ()
        shapes: dict[tuple[int, int, int], Capacity] = {}
        found = []
        for offer in sorted(self.offers, key=lambda offer: offer.per_slot_micro):
            shape = (offer.cpus, offer.memory_bytes, offer.gpus)
            found.append((offer, shapes.setdefault(shape, Capacity(lines, *shape, ""))))
        return tuple(found)

    def funding_s(self, rules: AutoscalerSettings) -> float:
        """How far ahead an instance is paid: long enough that a tick comes in time to pay on."""
        return max(self.settings.funding_s, 4 * rules.interval_s)


@dataclass(frozen=True)
class Budget:
    """A budget with the windows that may matter now: (start, end, committed money)."""

    settings: BudgetSettings
    windows: tuple[tuple[float, float, int], ...] = ()


@dataclass(frozen=True)
class Wish:
    """Instances that somebody asked for by hand; an empty offering means the pool's best."""

    id: int
    pool: str
    offering: str
    count: int
    who: str


@dataclass(frozen=True)
class Snapshot:
    """`leading_since`: nobody watched before it, so silence before it says nothing."""

    now: float
    rules: AutoscalerSettings
    pools: tuple[Pool, ...] = ()
    demands: tuple[Demand, ...] = ()
    workers: tuple[Worker, ...] = ()
    instances: tuple[Instance, ...] = ()
    budgets: tuple[Budget, ...] = ()
    leading_since: float = 0.0
    wishes: tuple[Wish, ...] = ()


def pool_of(
    settings: PoolSettings,
    offers: Sequence[Offering],
    deadline: Deadline,
    blocks: Sequence[Block] = (),
    boots: tuple[int, str] = (0, ""),
    problem: str = "",
    *,
    renewable: bool = True,
) -> Pool:
    """A pool with the ceiling prices of its offers."""
    return Pool(settings, priced(settings, offers), deadline, tuple(blocks), *boots, problem, renewable)


def priced(settings: PoolSettings, offers: Iterable[Offering]) -> tuple[Offering, ...]:
    """Offers with their ceilings, and what an hour costs now: the pool's own price goes first, an unknown one stays unknown."""
    found = []
    for offer in offers:
        price, overhead = settings.price_micro or offer.price_micro, settings.overhead_per_hour_micro
        ceiling = price + overhead if price else 0
        rate = (offer.rate_micro if offer.rate_micro and not settings.price_micro else price) + overhead if price else 0
        currency = settings.currency if settings.price_micro else offer.currency
        bid = price if offer.market == "spot" else 0
        found.append(replace(offer, price_micro=ceiling, bid_micro=bid, rate_micro=rate, currency=currency))
    return tuple(found)


def take(store: Store, pools: Sequence[Pool], now: float, leading_since: float) -> Snapshot:
    """What the store has now, with these pools."""
    rules = store.settings.autoscaler
    horizon = max((pool.funding_s(rules) for pool in pools), default=0.0) + rules.slack_s + 2 * LAUNCH_WINDOW_S
    machines = store.machines()
    demands = [*store.backlog(), *(store.stranded() if any(machine.taken_at is not None for machine in machines) else ())]
    latest = max((machine.funded_until for machine in machines), default=now) + rules.slack_s
    steps = [offer.minimum_s + offer.granularity_s for pool in pools for offer in pool.offers]
    windows = store.budget_windows(now, max(now + horizon, latest) + max([1.0, *steps]))
    young = store.young_attempts(now - rules.slot_target_s)
    ending: dict[int, float] = {}
    for worker_id, since, estimate_s in store.running_estimates(now - rules.slot_target_s):
        ending[worker_id] = ending.get(worker_id, 0.0) + chance_to_end(estimate_s, now - since)
    names = ("id", "name", "state", "active", "slots", "running", "capacity", "idle_since", "seen_at", "instance_id")
    return Snapshot(
        now=now,
        rules=rules,
        pools=tuple(pools),
        demands=tuple(Demand(d.requirement, d.prio_path, d.waiting, d.estimate_s) for d in demands),
        workers=tuple(
            Worker(**{name: getattr(row, name) for name in names}, young=young.get(row.id, 0), ending=ending.get(row.id, 0.0))
            for row in store.fleet()
        ),
        instances=tuple(_instances(machines)),
        budgets=tuple(Budget(budget, tuple(windows[budget.name])) for budget in store.in_force().budgets),
        leading_since=leading_since,
        wishes=tuple(Wish(**vars(wish)) for wish in store.launch_wishes()),
    )


def _instances(machines: Sequence[Machine]) -> list[Instance]:
    capacities: dict[int, Capacity] = {}
    names = [name for name in Instance.__dataclass_fields__ if name != "capacity"]
    shown = []
    for machine in machines:
        if machine.intent_id not in capacities:
            capacities[machine.intent_id] = _capacity(json.loads(machine.request), machine.payer)
        values: Mapping[str, object] = {name: getattr(machine, name) for name in names}
        shown.append(Instance(**values, capacity=capacities[machine.intent_id]))  # type: ignore[arg-type]
    return shown


def _capacity(request: Mapping[str, object], payer: str) -> Capacity:
    offering, affinity = request["offering"], request["affinity"]
    assert isinstance(offering, dict)
    assert isinstance(affinity, list)
    lines = (tuple(affinity),) if affinity else ()
    return Capacity(lines, offering["cpus"], offering["memory_bytes"], offering["gpus"], payer)
