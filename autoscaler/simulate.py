"""What the autoscaler would do with a trace of jobs and a table of prices: the same decide(), money by the same rule.

The clock is virtual. Machines boot, run jobs, are taken away and end, at their deadline at the latest; requests may be refused.
Everything random comes from one seed. A decision is made each `interval` at which one could differ from the last: when something
happened, or the time of something has come.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autoscaler.books import Books, Commitment
from autoscaler.decide import Drain, Launch, Renew, Terminate, decide
from autoscaler.snapshot import Block, Demand, Instance, Pool, Snapshot, Worker, pool_of
from autoscaler.trace import Job
from coalition import ledger
from coalition.config import AutoscalerSettings, BudgetSettings, PoolSettings, Settings
from coalition.estimates import PATIENCE_S, Seen, soon_free
from coalition.matching import Capacity, Requirement
from coalition.states import InstanceState, WorkerState
from providers.base import CAPACITY_BLOCK_S, LAUNCH_WINDOW_S, Deadline, Offering

BOOTED, DONE, TAKEN, EXPIRED = range(4)
HISTORY = 1_000  # the newest runs tell how long jobs run, as in the store
STALE_S = 300.0  # how old what is known of a worker may be, if nothing happened there
GIVE_UP_S = 40 * 86_400.0  # nothing started for so long after the last job came: what waits never will


@dataclass(frozen=True)
class Weather:
    """What the cloud is like: boot time, how often a spot machine is taken away, what share of requests is refused."""

    boot_s: float = 120.0
    interruptions_per_h: float = 0.0
    refusals: float = 0.0
    seed: int = 0


@dataclass(eq=False)
class _Run:
    job: Job
    machine: _Machine
    since: float


@dataclass(eq=False)
class _Machine:
    id: int
    pool: str
    offer: Offering
    capacity: Capacity
    account: Commitment
    state: InstanceState
    free: int
    runs: set[_Run] = field(default_factory=set)
    idle_since: float | None = None
    enrolled_at: float | None = None
    ready_at: int = -1  # its place among those with a free slot; -1: it has none
    busy: list[tuple[float, float]] = field(default_factory=list)
    reason: str = ""
    shown: Instance | None = None
    worker: Worker | None = None
    worker_at: float = 0.0


@dataclass(frozen=True)
class Sample:
    """The farm at one moment, for the plot."""

    at: float
    waiting: int
    busy: int
    slots: int
    spent_micro: int


@dataclass(frozen=True)
class Report:
    """What a simulation found. Money in micro-units; `overshoot_micro` is the most that a hard budget was ever exceeded by."""

    jobs: int
    finished: int
    work_s: float
    cost_micro: int
    bound_micro: float
    waits_s: Sequence[float]
    launches: int
    interruptions: int
    refusals: int
    overshoot_micro: int
    paid_slot_s: float
    run_slot_s: float
    busy_instance_s: float
    decisions: int
    samples: Sequence[Sample]

    @property
    def cost_over_bound(self) -> float:
        return self.cost_micro / self.bound_micro if self.bound_micro else 0.0

    def wait_s(self, share: float) -> float:
        """The wait, from submit to first start, that this share of the jobs that started did not exceed."""
        return self.waits_s[min(len(self.waits_s) - 1, math.ceil(len(self.waits_s) * share) - 1)] if self.waits_s else 0.0

    def to_dict(self) -> dict[str, float]:
        """The figures, money in whole units of the currency."""
        return {
            "jobs": self.jobs,
            "finished": self.finished,
            "work_s": round(self.work_s, 3),
            "cost": round(self.cost_micro / ledger.US, 6),
            "lower_bound": round(self.bound_micro / ledger.US, 6),
            "cost_over_bound": round(self.cost_over_bound, 4),
            "wait_p50_s": round(self.wait_s(0.5), 1),
            "wait_p95_s": round(self.wait_s(0.95), 1),
            "launches": self.launches,
            "launches_per_busy_instance_hour": round(self.launches * 3_600 / self.busy_instance_s, 4) if self.launches else 0.0,
            "interruptions": self.interruptions,
            "refusals": self.refusals,
            "utilisation": round(self.run_slot_s / self.paid_slot_s, 4) if self.paid_slot_s else 0.0,
            "overshoot": self.overshoot_micro / ledger.US,
            "decisions": self.decisions,
        }


def default_pool() -> PoolSettings:
    """Machines of these families in every zone, one slot for each cpu, without a limit but of slots that start at a time."""
    families = ("c5", "c5a", "c6i", "m5", "m5a")
    limits = {"max": 1_000_000, "max_start_slots": 1_000, "idle_s": 30.0, "job_estimate_s": 60.0}
    return PoolSettings("spot", 0, provider="fake", types=families, purchase=("spot",), **limits)  # type: ignore[arg-type]


def default_settings(budgets: Sequence[BudgetSettings] = ()) -> Settings:
    """That pool of a farm to which money counts more than haste: its slots are to find work for 25 minutes."""
    return Settings(pools=(default_pool(),), budgets=tuple(budgets), autoscaler=AutoscalerSettings(slot_target_s=1_500.0))


def simulate(jobs: Sequence[Job], settings: Settings, offers: Sequence[Offering], weather: Weather = Weather()) -> Report:
    """Runs a trace to its end, or until what still waits can never start. Equal arguments give equal reports."""
    return _Simulation(jobs, settings, offers, weather).run()


def offers_of(pool: PoolSettings, offers: Sequence[Offering]) -> list[Offering]:
    """What a pool may buy of these: its types or whole families, zones and markets, with its slots."""
    types, zones = set(pool.types), set(pool.zones)
    fits = [
        offer
        for offer in offers
        if (not types or offer.type in types or offer.type.partition(".")[0] in types)
        and (not zones or offer.zone in zones)
        and offer.market in pool.purchase
    ]
    return [replace(offer, slots=pool.slots or offer.slots) for offer in fits]


class _Simulation:
    def __init__(self, jobs: Sequence[Job], settings: Settings, offers: Sequence[Offering], weather: Weather) -> None:
        self.jobs, self.settings, self.rules, self.weather = jobs, settings, settings.autoscaler, weather
        self.random = random.Random(weather.seed)  # noqa: S311 a simulation is to be repeated
        self.pools = [pool_of(pool, offers_of(pool, offers), Deadline.PROVIDER) for pool in settings.pools]
        self.kept = {pool.settings.name: pool.settings for pool in self.pools}
        self.books = Books(settings.budgets, self.rules.slack_s)
        self.now = jobs[0].submit
        self.arrived = 0
        self.events: list[tuple[float, int, int, _Machine, _Run | None]] = []
        self.waiting: dict[tuple[str, int], deque[Job]] = defaultdict(deque)
        self.waits: dict[int, float] = {}  # by id() of the job: its first start
        self.machines: dict[int, _Machine] = {}
        self.ready: list[_Machine] = []  # with a free slot, in no order
        self.blocks: dict[tuple[str, str], float] = {}
        self.newest: deque[tuple[str, float]] = deque()  # what finished lately: kind, seconds
        self.ended: dict[str, Seen] = defaultdict(Seen)
        self.under_way: dict[str, tuple[int, float]] = {}  # kind -> how many run, the sum of their begins
        self.guess_s = max((pool.job_estimate_s for pool in settings.pools), default=0.0)
        self.capacities: dict[Capacity, Capacity] = {}
        self.ids = 0
        self.due, self.stirred = self.now, True  # when a decision could differ from the last one
        self.decided_at = self.now
        self.count: Counter[str] = Counter()
        self.spent = self.rate_micro = self.slots = 0  # of what has ended; an hour of what runs; its slots
        self.begun_micro = 0.0  # the sum of price x start of what runs
        self.paid_slot_s = self.run_slot_s = self.busy_instance_s = self.work_s = 0.0
        self.samples: list[Sample] = []

    # ------------------------------------------------------------ time

    def run(self) -> Report:
        """Event by event, and decisions between them."""
        earliest, active_at = self.now, self.jobs[-1].submit
        while self.arrived < len(self.jobs) or self.machines or any(self.waiting.values()):
            arrival = self.jobs[self.arrived].submit if self.arrived < len(self.jobs) else math.inf
            event = self.events[0][0] if self.events else math.inf
            tick = max(earliest, self._on_grid(self.due))
            if min(tick, arrival, event) == math.inf or (tick < math.inf and tick - active_at > GIVE_UP_S):
                break
            if tick < min(arrival, event):
                self.now = tick
                earliest = tick + self.rules.interval_s
                if not self.stirred and (due := self._next_due()) > tick:
                    self.due = due
                    continue
                active_at = max(active_at, tick) if self._decide() else active_at
            elif arrival <= event:
                self._arrive(arrival)
            else:
                self._happen()
        return self._report()

    def _on_grid(self, at: float) -> float:
        start, step = self.jobs[0].submit, self.rules.interval_s
        return start + math.ceil((at - start) / step) * step if at < math.inf else at

    def _arrive(self, at: float) -> None:
        self.now = at
        while self.arrived < len(self.jobs) and self.jobs[self.arrived].submit <= at:
            job = self.jobs[self.arrived]
            self.waiting[job.kind, job.slots].append(job)
            self.arrived += 1
        self._dispatch()
        if self._waiting():
            self._stir()

    def _stir(self) -> None:
        """Something happened that a decision would answer."""
        self.stirred, self.due = True, min(self.due, self.now)

    def _happen(self) -> None:
        self.now, _, what, machine, run = heapq.heappop(self.events)
        if machine.id not in self.machines:
            return
        if what == BOOTED:
            self._enrol(machine)
        elif what == TAKEN:
            self.count["interruptions"] += 1
            self._end(machine)
            self._stir()
        elif what == EXPIRED:
            if machine.account.until <= self.now:  # nobody paid on
                self._end(machine)
                self._stir()
        elif run in machine.runs:
            self._finish(machine, run)

    def _at(self, at: float, what: int, machine: _Machine, run: _Run | None = None) -> None:
        self.count["events"] += 1
        heapq.heappush(self.events, (at, self.count["events"], what, machine, run))

    # ------------------------------------------------------------ jobs

    def _dispatch(self) -> None:
        """Jobs in order of their submission to free slots, of busy machines first: so does the server wake them."""
        while self.ready:
            heads = [queue for (_, slots), queue in self.waiting.items() if queue and any(m.free >= slots for m in self.ready)]
            if not heads:
                return
            queue = min(heads, key=lambda q: q[0].submit)
            fits = [m for m in self.ready if m.free >= queue[0].slots] if queue[0].slots > 1 else self.ready
            self._start(queue.popleft(), min(fits, key=lambda machine: (not machine.runs, machine.id)))

    def _start(self, job: Job, machine: _Machine) -> None:
        self.waits.setdefault(id(job), self.now)
        run = _Run(job, machine, self.now)
        machine.runs.add(run)
        self._count_run(run, 1)
        machine.idle_since, machine.worker = None, None
        self._set_free(machine, machine.free - job.slots)
        self._at(self.now + job.run_s, DONE, machine, run)

    def _finish(self, machine: _Machine, run: _Run) -> None:
        self.count["finished"] += 1
        self.work_s += run.job.run_s * run.job.slots
        self._remember(run.job.kind, run.job.run_s)
        self._leave(machine, run)
        self._dispatch()
        if machine.state is InstanceState.DRAINING:
            self._stir()

    def _remember(self, kind: str, seconds: float) -> None:
        self.newest.append((kind, seconds))
        old = [self.newest.popleft()] if len(self.newest) > HISTORY else []
        for like, sign, ran in [(kind, 1, seconds), *((kind, -1, ran) for kind, ran in old)]:
            seen = self.ended[like]
            seen.ended += sign
            seen.ended_s += sign * ran

    def _count_run(self, run: _Run, sign: int) -> None:
        count, begins = self.under_way.get(run.job.kind, (0, 0.0))
        self.under_way[run.job.kind] = (count + sign, begins + sign * run.since)

    def _estimate(self, kind: str, guess_s: float | None) -> float | None:
        """What the server would expect: jobs of a kind are likes."""
        count, begins = self.under_way.get(kind, (0, 0.0))
        seen = self.ended[kind]
        return Seen(seen.ended, seen.ended_s, count, count * self.now - begins).estimate_s(guess_s)

    def _leave(self, machine: _Machine, run: _Run) -> None:
        machine.runs.discard(run)
        self._count_run(run, -1)
        machine.busy.append((run.since, self.now))
        machine.worker = None
        self._set_free(machine, machine.free + run.job.slots)
        if not machine.runs:
            machine.idle_since = self.now
            self.due = min(self.due, self.now + self.kept[machine.pool].idle_s)

    def _set_free(self, machine: _Machine, free: int) -> None:
        """Keeps the list of machines that take jobs: they run and have a free slot."""
        machine.free = free
        takes = free > 0 and machine.state is InstanceState.RUNNING
        if takes and machine.ready_at < 0:
            machine.ready_at = len(self.ready)
            self.ready.append(machine)
        elif not takes and machine.ready_at >= 0:
            last = self.ready.pop()
            if last is not machine:
                self.ready[machine.ready_at], last.ready_at = last, machine.ready_at
            machine.ready_at = -1

    # ------------------------------------------------------------ machines

    def _enrol(self, machine: _Machine) -> None:
        machine.enrolled_at = machine.idle_since = self.now
        self._move(machine, InstanceState.RUNNING)
        self.due = min(self.due, self.now + self.kept[machine.pool].idle_s)
        self._dispatch()
        if self._waiting():
            self._stir()

    def _move(self, machine: _Machine, state: InstanceState) -> None:
        machine.state, machine.shown, machine.worker = state, None, None
        self._set_free(machine, machine.free)

    def _count(self, machine: _Machine, sign: int) -> None:
        price = sign * machine.account.price_micro
        self.rate_micro += price
        self.begun_micro += price * machine.account.created_at
        self.slots += sign * machine.offer.slots

    def _end(self, machine: _Machine) -> None:
        """It is gone: its jobs wait again, its bill is booked."""
        for run in sorted(machine.runs, key=lambda run: run.job.submit, reverse=True):
            self.waiting[run.job.kind, run.job.slots].appendleft(run.job)
            self._count_run(run, -1)
            machine.busy.append((run.since, self.now))
        machine.runs.clear()
        del self.machines[machine.id]
        self._count(machine, -1)
        self._move(machine, InstanceState.GONE)
        account = machine.account
        self.spent += self.books.settle(account, account.created_at, self.now)
        stop = ledger.billed_end(account.created_at, self.now, account.minimum_s, account.granularity_s)
        rates, spans = [(account.created_at, account.price_micro)], [ledger.Span(*busy) for busy in machine.busy]
        entries = ledger.book(rates, machine.offer.slots, account.created_at, machine.enrolled_at, stop, spans)
        run_s = sum(entry.seconds for entry in entries if entry.kind == "run") * machine.offer.slots
        self.paid_slot_s += (stop - account.created_at) * machine.offer.slots
        self.run_slot_s += run_s
        self.busy_instance_s += _union(machine.busy)

    # ------------------------------------------------------------ decisions

    def _decide(self) -> bool:
        """One decision, carried out. Whether it started anything or anything lives."""
        snapshot = self._snapshot()
        plan = decide(snapshot)
        self.count["decisions"] += 1
        self.stirred, self.decided_at = False, self.now
        for end in plan.terminations:
            self._terminate(end)
        for drain in plan.drains:
            self._drain(drain)
        for keep in plan.keeps:
            self._move(self.machines[keep.id], InstanceState.RUNNING)
        for renewal in plan.renewals:
            self._renew(renewal)
        for launch in plan.launches:
            self._launch(launch)
        self._dispatch()
        self.due = self._next_due()
        if plan.drains or plan.keeps or (plan.launches and self.blocks):
            self._stir()
        free = sum(m.free for m in self.machines.values())
        spent = self.spent + round((self.rate_micro * self.now - self.begun_micro) / 3_600)
        self.samples.append(Sample(self.now, self._waiting(), self.slots - free, self.slots, spent))
        return bool(plan.launches or self.machines)

    def _waiting(self) -> int:
        return sum(map(len, self.waiting.values()))

    def _next_due(self) -> float:
        """When the next decision could differ if nothing happens before: what is idle ends, what is paid for is paid on."""
        due = min(self.blocks.values(), default=math.inf)
        if self._waiting():
            due = min(due, self.decided_at + 60.0 if self.machines else self.books.next_window(self.decided_at))
        early = {name: self._funding_s(name) / 4 for name in self.kept}
        for machine in self.machines.values():
            due = min(due, machine.account.until - early[machine.pool])
            if machine.idle_since is not None and machine.state is InstanceState.RUNNING:
                due = min(due, machine.idle_since + self.kept[machine.pool].idle_s)
        return due

    def _funding_s(self, pool: str) -> float:
        return max(self.kept[pool].funding_s, 4 * self.rules.interval_s)

    def _snapshot(self) -> Snapshot:
        self.blocks = {key: until for key, until in self.blocks.items() if until > self.now}
        horizon = max((self._funding_s(pool.settings.name) for pool in self.pools), default=0.0) * 2
        workers = [self._worker(m) for m in self.machines.values() if m.enrolled_at is not None]
        return Snapshot(
            now=self.now,
            rules=self.rules,
            pools=tuple(self._pool(pool) for pool in self.pools),
            demands=tuple(self._demand(kind, slots, queue) for (kind, slots), queue in self.waiting.items() if queue),
            workers=tuple(workers),
            instances=tuple(m.shown or self._instance(m) for m in self.machines.values()),
            budgets=self.books.snapshot(self.now, self.now + horizon + self.rules.slack_s + 7_200),
            leading_since=self.jobs[0].submit,
        )

    def _pool(self, pool: Pool) -> Pool:
        blocks = [Block(offer, "no capacity") for (name, offer) in self.blocks if name == pool.settings.name]
        return replace(pool, blocks=tuple(blocks)) if blocks or pool.blocks else pool

    def _demand(self, kind: str, slots: int, queue: deque[Job]) -> Demand:
        return Demand(Requirement(cpus=slots if slots > 1 else 0), "7f", len(queue), self._estimate(kind, self.guess_s))

    def _worker(self, machine: _Machine) -> Worker:
        if machine.worker is not None and self.now - machine.worker_at < STALE_S:
            return machine.worker
        machine.worker_at = self.now
        runs = [(run.job.slots, self._estimate(run.job.kind, None), self.now - run.since) for run in machine.runs]
        running, target_s = machine.offer.slots - machine.free, min(self.rules.slot_target_s, PATIENCE_S)
        state = WorkerState.WORKING if running else WorkerState.WAITING
        machine.worker = Worker(
            id=machine.id,
            name=f"w{machine.id}",
            state=state if machine.state is InstanceState.RUNNING else WorkerState.DRAINING,
            active=True,
            slots=machine.offer.slots,
            running=running,
            capacity=machine.capacity,
            idle_since=machine.idle_since,
            seen_at=self.now,
            instance_id=machine.id,
            ending=sum(slots * soon_free(estimate_s, age_s) for slots, estimate_s, age_s in runs),
            ending_by_target=sum(slots * soon_free(estimate_s, age_s, target_s) for slots, estimate_s, age_s in runs),
        )
        return machine.worker

    def _instance(self, machine: _Machine) -> Instance:
        account = machine.account
        machine.shown = Instance(
            id=machine.id,
            pool=machine.pool,
            offering=machine.offer.name,
            provider_id=f"s-{machine.id}",
            state=machine.state,
            slots=machine.offer.slots,
            price_micro=account.price_micro,
            capacity=machine.capacity,
            sponsors=account.sponsors,
            worker_id=None if machine.enrolled_at is None else machine.id,
            committed_until=account.until,
            funded_until=account.until,
            created_at=account.created_at,
            launched_at=account.created_at,
            wish="",
            wished_by="",
            reason=machine.reason,
            launch_by=account.launch_by,
            minimum_s=account.minimum_s,
            granularity_s=account.granularity_s,
        )
        return machine.shown

    # ------------------------------------------------------------ what a plan asks for

    def _launch(self, launch: Launch) -> None:
        if self.weather.refusals and self.random.random() < self.weather.refusals:
            self.count["refusals"] += 1
            self.blocks[launch.pool, launch.offering.name] = self.now + CAPACITY_BLOCK_S
            return
        for _ in range(launch.count):
            offer = launch.offering
            terms = (self.now, self.now + LAUNCH_WINDOW_S, offer.minimum_s, offer.granularity_s)
            account = Commitment(offer.price_micro, launch.sponsors, *terms)
            if not self.books.fund(account, launch.funded_until):
                return
            self._boot(launch, account)

    def _boot(self, launch: Launch, account: Commitment) -> None:
        self.ids += 1
        self.count["launches"] += 1
        affinity = self.kept[launch.pool].affinity
        offer = launch.offering
        capacity = Capacity((affinity,) if affinity else (), offer.cpus, offer.memory_bytes, offer.gpus, launch.payer)
        capacity = self.capacities.setdefault(capacity, capacity)
        machine = _Machine(self.ids, launch.pool, offer, capacity, account, InstanceState.STARTING, offer.slots)
        self.machines[machine.id] = machine
        self._count(machine, 1)
        self._at(self.now + self.weather.boot_s, BOOTED, machine)
        self._at(account.until, EXPIRED, machine)
        if self.weather.interruptions_per_h and launch.offering.market == "spot":
            lives_s = self.random.expovariate(self.weather.interruptions_per_h / 3_600)
            self._at(self.now + lives_s, TAKEN, machine)

    def _renew(self, renewal: Renew) -> None:
        machine = self.machines.get(renewal.id)
        if machine is not None and self.books.fund(machine.account, renewal.until):
            machine.shown = None
            self._at(machine.account.until, EXPIRED, machine)

    def _drain(self, drain: Drain) -> None:
        machine = self.machines[drain.id]
        machine.reason = drain.reason
        self._move(machine, InstanceState.DRAINING)

    def _terminate(self, end: Terminate) -> None:
        machine = self.machines[end.id]
        if not (end.idle and machine.runs):
            self._end(machine)

    # ------------------------------------------------------------ the end

    def _report(self) -> Report:
        waits = sorted(self.waits[id(job)] - job.submit for job in self.jobs if id(job) in self.waits)
        return Report(
            jobs=len(self.jobs),
            finished=self.count["finished"],
            work_s=self.work_s,
            cost_micro=self.spent,
            bound_micro=self.work_s / 3_600 * self._cheapest(),
            waits_s=waits,
            launches=self.count["launches"],
            interruptions=self.count["interruptions"],
            refusals=self.count["refusals"],
            overshoot_micro=self.books.overshoot,
            paid_slot_s=self.paid_slot_s,
            run_slot_s=self.run_slot_s,
            busy_instance_s=self.busy_instance_s,
            decisions=self.count["decisions"],
            samples=self.samples,
        )

    def _cheapest(self) -> float:
        """The least that a slot costs an hour."""
        return min((o.price_micro / o.slots for pool in self.pools for o in pool.offers if o.price_micro), default=0.0)


def _union(spans: Sequence[tuple[float, float]]) -> float:
    """For how long at least one of them was under way."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
