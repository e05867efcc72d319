"""Everything a decision may depend on, as one frozen value: demand, fleet, instances, offers, money, and the time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from coalition.config import AutoscalerSettings, BudgetSettings, PoolSettings
from coalition.estimates import PATIENCE_S, History, soon_free
from coalition.matching import Capacity, Requirement
from providers.base import LAUNCH_WINDOW_S, Deadline, Offering

if TYPE_CHECKING:
    from coalition.store import Store
    from coalition.store.cloud import Machine
    from coalition.store.dispatch import Demand as Waits


@dataclass(frozen=True)
class Demand:
    """Waiting jobs of one requirement and priority path (hex, as matching.order_key sorts it).

    `slot_s`: for how long one of them keeps a slot busy, a guess where nothing is known; None: as long as it is estimated to run.
    """

    requirement: Requirement
    prio_path: str
    waiting: int
    estimate_s: float | None
    slot_s: float | None = None


@dataclass(frozen=True)
class Worker:
    """`ending`: how many of its busy slots may be counted on, as `estimates.soon_free` says of each of its jobs.

    `ending_by_target`: the same of the next `slot_target`, ten minutes at most, for jobs that may wait so long.
    """

    id: int
    name: str
    state: str
    active: bool
    slots: int
    running: int
    capacity: Capacity
    idle_since: float | None
    seen_at: float
    instance_id: int | None
    ending: float = 0.0
    ending_by_target: float = 0.0


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
        changes = () if settings.price_micro else tuple((at, micro + overhead) for at, micro in offer.changes)
        values = {"price_micro": ceiling, "bid_micro": bid, "rate_micro": rate, "changes": changes, "currency": currency}
        found.append(replace(offer, **values))  # type: ignore[arg-type]
    return tuple(found)


def take(store: Store, pools: Sequence[Pool], now: float, leading_since: float) -> Snapshot:
    """What the store has now, with these pools."""
    rules = store.settings.autoscaler
    horizon = max((pool.funding_s(rules) for pool in pools), default=0.0) + rules.slack_s + 2 * LAUNCH_WINDOW_S
    machines = store.machines()
    waits = [*store.backlog(), *(store.stranded() if any(machine.taken_at is not None for machine in machines) else ())]
    latest = max((machine.funded_until for machine in machines), default=now) + rules.slack_s
    steps = [offer.minimum_s + offer.granularity_s for pool in pools for offer in pool.offers]
    windows = store.budget_windows(now, max(now + horizon, latest) + max([1.0, *steps]))
    demands, soon, by_target = _demands_and_endings(store, waits, pools, now)
    names = ("id", "name", "state", "active", "slots", "running", "capacity", "idle_since", "seen_at", "instance_id")
    return Snapshot(
        now=now,
        rules=rules,
        pools=tuple(pools),
        demands=tuple(demands),
        workers=tuple(
            Worker(**{name: getattr(row, name) for name in names}, ending=soon[row.id], ending_by_target=by_target[row.id])
            for row in store.fleet()
        ),
        instances=tuple(_instances(machines)),
        budgets=tuple(Budget(budget, tuple(windows[budget.name])) for budget in store.in_force().budgets),
        leading_since=leading_since,
        wishes=tuple(Wish(**vars(wish)) for wish in store.launch_wishes()),
    )


def _demands_and_endings(
    store: Store, waits: Sequence[Waits], pools: Sequence[Pool], now: float
) -> tuple[list[Demand], Mapping[int, float], Mapping[int, float]]:
    """What waits, with its estimate, and of each worker how many of its busy slots may be counted on, soon and by the target."""
    finished, running = store.run_times()
    history = History()
    for group, title, seconds in finished:
        history.add(group, title, seconds, ended=True)
    for run in running:
        history.add(run.group, run.title, max(0.0, now - run.leased_at), ended=False)
    demands = []
    # What is longer than the target wants no more slots than a job of its length: so the mean wants as many as they all do.
    longest_s = store.settings.autoscaler.slot_target_s
    for one in waits:
        guess_s = _guess_s(one.requirement, pools)
        times = [(count, history.estimate_s(group, title, guess_s) or longest_s) for group, title, count in one.likes]
        mean_s = sum(count * min(longest_s, time_s) for count, time_s in times) / sum(count for count, _ in times)
        demands.append(Demand(one.requirement, one.prio_path, one.waiting, _known_s(one, history), mean_s))
    soon: defaultdict[int, float] = defaultdict(float)
    by_target: defaultdict[int, float] = defaultdict(float)
    for run in running:
        estimate_s, age_s = history.estimate_s(run.group, run.title, None), now - run.leased_at
        soon[run.worker_id] += soon_free(estimate_s, age_s)
        by_target[run.worker_id] += soon_free(estimate_s, age_s, min(longest_s, PATIENCE_S))
    return demands, soon, by_target


def _known_s(waits: Waits, history: History) -> float | None:
    """How long these jobs run, by what was seen of all their likes; None if there is one of which nothing is known."""
    known = [(count, history.estimate_s(group, title, None)) for group, title, count in waits.likes]
    sums = [count * time_s for count, time_s in known if time_s is not None]
    return sum(sums) / sum(count for count, _ in known) if len(sums) == len(known) else None


def _guess_s(requirement: Requirement, pools: Sequence[Pool]) -> float | None:
    """What the first pool that has its tags expects of jobs whose likes never ran."""
    tags = set(requirement.tags)
    return next((pool.settings.job_estimate_s for pool in pools if tags <= set(pool.settings.affinity)), None)


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
