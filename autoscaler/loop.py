"""The autoscaler's life: who leads, when to tick, what wakes it. Only wiring; decide.py decides and apply.py acts.

One server of a farm leads, by a lease row that it renews; each lease has a higher number, which every write carries. A tick is
due every `interval`, when the counter `backlog` moves (a job came, in any process), and soon again while instances come or go.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from apscheduler.schedulers.background import BackgroundScheduler

from autoscaler.apply import Applier, key_of
from autoscaler.counted import Counted
from autoscaler.crew import Crew, Task
from autoscaler.decide import Plan, decide
from autoscaler.reaper import reap
from autoscaler.snapshot import Block, Pool, Snapshot, pool_of, priced, take
from coalition import metrics
from coalition.config import PoolSettings, Settings
from coalition.errors import CoalitionError, ConfigError, Conflict, Fenced
from coalition.states import InstanceState
from coalition.store.cloud import RECONCILE, ROLE, Machine
from coalition.store.prices import PRICES
from providers import make
from providers.base import Instance, Notice, Offering, Provider, ProviderError
from providers.prices import Book, said

if TYPE_CHECKING:
    from coalition.store import Store

log = logging.getLogger("autoscaler")

Changes = tuple[tuple[float, int], ...]  # (from when on, what an hour costs), the newest last

POLL_S = 0.5
LEASE_S = 10.0
RENEW_S = 3.0
WATCH_DRAIN_S = 60.0
KEEP_PRICES_S = 600.0


def make_providers(settings: Settings) -> dict[str, Provider]:
    """The providers of all pools, by account and region; ConfigError for one that this version does not have."""
    found: dict[str, Provider] = {}
    for pool in settings.pools:
        key = key_of(pool.provider, pool.region)
        if key not in found:
            found[key] = Counted(key, make(pool.provider, pool.region, settings))
    return found


class Offers(NamedTuple):
    """What a pool's provider offers; `problem` says why it could not tell."""

    found: Sequence[Offering]
    problem: str = ""


class Autoscaler:
    """start() and stop() run it beside a server; tick() is one round, for whoever brings their own time."""

    lease_s = LEASE_S

    def __init__(self, settings: Settings, store: Store, providers: Mapping[str, Provider] | None = None) -> None:
        self.settings, self.store = settings, store
        self.providers = make_providers(settings) if providers is None else dict(providers)
        self.holder = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._fence: int | None = None
        self._leading_since = 0.0
        self._renewed_at = float("-inf")
        self._sightings: dict[tuple[str, str], float] = {}
        self._alive: dict[int, float] = {}  # when instances were seen to run last
        self._handled = -1  # the backlog counter that the last tick knew
        self._ticking = threading.Lock()
        self._crew = Crew()
        self._scheduler: BackgroundScheduler | None = None
        self._book: Book | None = None
        self._book_version = -1
        self._kept_prices: dict[str, float] = {}  # pool -> when
        self._rates: dict[tuple[str, str], Changes] = {}  # (pool, offering) -> what is known to be kept
        self._priced_at: dict[str, float] = {}  # pool -> when its prices were known

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Ticks in threads of its own until stop()."""
        log.info("autoscaler %s starts with %d pools", self.holder, len(self.settings.pools))
        for pool in self.settings.pools:
            self._tell_problems(pool)
        logging.getLogger("apscheduler").setLevel(logging.WARNING)  # else it tells of every run, twice a second
        scheduler = BackgroundScheduler(timezone=timezone.utc, job_defaults={"coalesce": True, "misfire_grace_time": None})
        interval = self.settings.autoscaler.interval_s
        # Two at a time, of which one waits: a wake-up during a tick is a tick right after it.
        scheduler.add_job(self._tick_safely, "interval", id="tick", seconds=interval, next_run_time=_soon(0), max_instances=2)
        scheduler.add_job(self._poll, "interval", id="poll", seconds=POLL_S)
        self._scheduler = scheduler
        scheduler.start()

    def _tell_problems(self, pool: PoolSettings) -> None:
        try:
            problems = self.providers[key_of(pool.provider, pool.region)].check(pool)
        except ProviderError as error:
            problems = [f"it cannot be checked: {error}"]
        for problem in problems:
            log.warning("pool %s: %s", pool.name, problem)

    def stop(self) -> None:
        """Ends after the current tick, and lets another server lead at once. Instances go on; they are found again."""
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=True)
            self._scheduler = None
        self._crew.close()
        if self._fence is not None:
            self._fence = None
            try:
                self.store.release_leader(ROLE, self.holder)
            except CoalitionError as error:
                log.warning("the lease is not given back: %s", error)

    def _poll(self) -> None:
        """Twice a second: keep the lease, and see whether somebody brought work."""
        try:
            if self._lead() and not self._ticking.locked() and self.store.counters().get("backlog", 0) != self._handled:
                self._wake(0)
        except CoalitionError as error:
            log.warning("cannot see the backlog: %s", error)

    def _wake(self, seconds: float) -> None:
        if self._scheduler is not None:
            self._scheduler.modify_job("tick", next_run_time=_soon(seconds))

    def _tick_safely(self) -> None:
        """A tick whose failure is logged: the next one starts from what is stored."""
        try:
            if self.tick():
                self._wake(min([p.settle_s for p in self.providers.values()] + [self.settings.autoscaler.interval_s]))
        except Fenced as error:
            log.warning("this tick ended early: %s", error)
            self._fence = None
        except Conflict as error:
            log.info("this tick ended early, somebody else was faster: %s", error)
        except CoalitionError as error:
            log.warning("this tick failed: %s", error)

    # ------------------------------------------------------------ leading

    def _lead(self) -> bool:
        """Whether this process leads now; takes the lease if it is free, renews it when it is due."""
        now = self.store.clock()
        if self._fence is not None and 0 <= now - self._renewed_at < RENEW_S:
            return True
        if self._fence is None and (led := self.store.leader_of(ROLE)) is not None and led[0] != self.holder:
            return False  # a look costs no write, and most looks end here
        fence = self.store.claim_leader(ROLE, self.holder, self.lease_s)
        if fence is not None:
            if fence != self._fence:
                log.info("this server leads the autoscaler now, under number %d", fence)
                self._leading_since, self._sightings, self._alive, self._handled, self._rates = now, {}, {}, -1, {}
                self._find_old_providers()
            self._renewed_at = now
        self._fence = fence
        return fence is not None

    def _find_old_providers(self) -> None:
        """Instances outlive their pool's section of cloud.ini, and so must their provider."""
        for key in {machine.provider for machine in self.store.machines()} - self.providers.keys():
            name, _, region = key.partition("/")
            try:
                self.providers[key] = Counted(key, make(name, region, self.settings))
            except ConfigError as error:
                log.error("instances of %s cannot be looked after: %s", key, error)

    # ------------------------------------------------------------ a tick

    def tick(self) -> bool:
        """Lists, reaps, sends open intents again, decides, acts. Whether something is under way that wants a look soon."""
        with self._ticking:
            if not self._lead() or self._fence is None:
                return False
            begun = time.monotonic()
            self._handled = self.store.counters().get("backlog", 0)
            applier = Applier(self.settings, self.store, self.providers, self._fence, self.store.clock, self._crew)
            offers = {settings.name: self._offers(settings) for settings in self.settings.pools}
            self._note_rates(offers, self._fence)  # before what is gone is booked
            applier.sure_until = self._sure_until(offers)
            problem = self._unreconciled(self._reap(applier))
            self._heed(applier)
            applier.resume()
            snapshot = take(self.store, self._pools(offers, problem), self.store.clock(), self._leading_since)
            applier.carry_out(_decided(snapshot))
            metrics.took(metrics.TICK_SECONDS, time.monotonic() - begun)
            return any(_is_moving(machine, self.store.clock()) for machine in self.store.machines())

    def _note_rates(self, offers: Mapping[str, Offers], fence: int) -> None:
        """Keeps what an hour of what we have costs, where that has moved."""
        live, rates = self.store.live_offers(), {}
        for settings in self.settings.pools:
            for offer in priced(settings, (o for o in offers[settings.name].found if (settings.name, o.name) in live)):
                if offer.rate_micro:
                    since = offer.changes[-1][0] if offer.changes else 0.0 if settings.price_micro else offer.price_as_of
                    rates[settings.name, offer.name] = *offer.changes[:-1], (since, offer.rate_micro)
        moved = {key: now for key, now in rates.items() if _prices(self._rates.get(key, ())) != _prices(now)}
        if moved:
            self.store.note_rates(moved, fence)
        self._rates = rates

    def _sure_until(self, offers: Mapping[str, Offers]) -> dict[str, float]:
        """Until when prices were known, of pools that have none now: what is gone may have cost its ceiling since."""
        now = self.store.clock()
        self._priced_at.update((name, now) for name, had in offers.items() if not had.problem)
        gone = {machine.pool for machine in self.store.machines()} - offers.keys()
        unknown = [*gone, *(name for name, had in offers.items() if had.problem)]
        return {name: self._priced_at.get(name, 0.0) for name in unknown}

    def _unreconciled(self, listed: Set[str]) -> str:
        """After a restored backup: why it is not known yet what the providers run, and so nothing may start. Else empty.

        It is known when all of them could be listed, nothing is left that has no record, and no list can lag behind any more.
        """
        if not self.store.counters().get(RECONCILE) or self._fence is None:
            return ""
        said = "a backup was restored"
        if missing := sorted(self.providers.keys() - listed):
            return f"{said}, and {', '.join(missing)} cannot list the instances: nothing starts before"
        if self._sightings:
            return f"{said}: nothing starts before {len(self._sightings)} instances that have no record are ended"
        age_s, settle_s = self.store.clock() - self._leading_since, self.settings.autoscaler.stray_age_s
        if age_s < settle_s:
            return f"{said}: nothing starts for {settle_s - age_s:.0f} s, as lists may lag"
        self.store.reconciled(self._fence)
        return ""

    def _reap(self, applier: Applier) -> Set[str]:
        """Compares the providers' lists with what is stored. Which providers could be listed."""
        lists: dict[str, list[Instance]] = {}

        def keep(key: str, listed: Sequence[Instance] | ProviderError) -> None:
            if isinstance(listed, ProviderError):  # a list that failed says nothing: nothing is ended, nothing declared lost
                log.warning("%s cannot list its instances: %s", key, listed)
            else:
                lists[key] = list(listed)

        self._ask_all("list", keep)
        rules = self.settings.autoscaler
        findings = reap(
            self.store.machines(),
            lists,
            self._sightings,
            self.settings.server.farm,
            self.store.clock(),
            slack_s=rules.slack_s,
            stray_age_s=rules.stray_age_s,
            alive=self._alive,
        )
        self._sightings, self._alive = findings.sightings, findings.alive
        applier.reap(findings)
        return lists.keys()

    def _heed(self, applier: Applier) -> None:
        """Acts on what providers, or the machines themselves, announce that will be taken away."""

        def heed(key: str, notices: Sequence[Notice] | ProviderError) -> None:
            if isinstance(notices, ProviderError):
                log.warning("%s cannot tell what it will take away: %s", key, notices)
            else:
                applier.heed(key, notices)

        self._ask_all("notices", heed)
        applier.part()

    def _ask_all(self, verb: str, then: Callable[[str, Any], None]) -> None:
        """Asks all providers, those in a network at the same time; hands on what each says, also if that is an error."""
        tasks = [
            Task(key, partial(_answer, getattr(provider, verb)), provider.concurrent) for key, provider in self.providers.items()
        ]
        self._crew.run(tasks, then)

    def _pools(self, offers: Mapping[str, Offers], problem: str) -> list[Pool]:
        """The pools with their offers; none of those while there is a problem."""
        blocks: dict[str, list[Block]] = {}
        for block in self.store.blocks():
            blocks.setdefault(block.pool, []).append(Block(block.offering, block.reason))
        boots, current, found = self.store.boots(), self.store.in_force(), []
        if current.paused is not None:
            problem = f"scaling is paused by {current.paused.who or 'hand'}: nothing new is started"
        for settings in current.pools:
            had, boot = offers[settings.name], boots[settings.name]
            provider, words = self.providers[key_of(settings.provider, settings.region)], problem or had.problem
            terms = (blocks.get(settings.name, []), (boot.failures, boot.reason), words)
            some = () if words else had.found
            found.append(pool_of(settings, some, provider.deadline, *terms, renewable=provider.renewable))
        return found

    def _offers(self, settings: PoolSettings) -> Offers:
        provider = self.providers[key_of(settings.provider, settings.region)]
        try:
            return Offers(self._priced(settings, provider.offerings(settings)))
        except ProviderError as error:
            return Offers((), f"its offers cannot be had: {error}")

    def _priced(self, settings: PoolSettings, offers: Sequence[Offering]) -> Sequence[Offering]:
        """The offers with the prices that hold; what the provider says of them is kept now and then."""
        now, version = self.store.clock(), self.store.counters().get(PRICES, 0)
        if self._book is None or self._book_version != version:
            self._book = Book(self.store.prices(), self.settings.autoscaler.price_max_age_s)
            self._book_version = version
        if now - self._kept_prices.get(settings.name, 0.0) >= KEEP_PRICES_S:
            self._kept_prices[settings.name] = now
            self.store.put_prices(said(settings.provider, settings.region, offers))
        return [self._book.priced(settings.provider, settings.region, offer, now) for offer in offers]


def _prices(changes: Changes) -> tuple[object, ...]:
    """What tells one state of prices from another: when the newest was said again does not."""
    return *changes[:-1], *(price for _, price in changes[-1:])


def _decided(snapshot: Snapshot) -> Plan:
    begun = time.perf_counter()
    plan = decide(snapshot)
    metrics.took(metrics.DECIDE_SECONDS, time.perf_counter() - begun)
    return plan


def _answer(ask: Callable[[], Sequence[Any]]) -> Sequence[Any] | ProviderError:
    try:
        return ask()
    except ProviderError as error:
        return error


def _is_moving(machine: Machine, now: float) -> bool:
    """Whether the next step of an instance is ours, and near."""
    if machine.state == InstanceState.DRAINING:
        return machine.drained_at is not None and now - machine.drained_at < WATCH_DRAIN_S
    return machine.state in (InstanceState.INTENDED, InstanceState.TERMINATING)


def _soon(seconds: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)
