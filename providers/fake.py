"""A provider that exists only in memory, and bills: for tests, ours and yours.

It records calls, takes the next error, loses answers after the effect, hides instances from lists, fills orders in part, and ends
instances at their deadline by its own clock. `bill` is its invoice.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coalition import ledger
from coalition.config import PoolSettings
from providers.base import (
    Deadline,
    Fate,
    Instance,
    Launched,
    Life,
    Notice,
    Offering,
    ProviderError,
    Reason,
    Rejected,
    Request,
    TooLate,
    Unknown,
)


@dataclass
class Machine:
    """What the provider knows of an instance."""

    instance: Instance
    offering: Offering
    price_micro: int
    started_at: float
    until: float
    hidden: int = 0
    console: str = ""
    rates: list[tuple[float, int]] = field(default_factory=list)  # what an hour costs, from when on


@dataclass
class Faults:
    """What goes wrong, by verb, one entry a call."""

    errors: dict[str, list[ProviderError]] = field(default_factory=lambda: defaultdict(list))
    lost_answers: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    partial: list[int] = field(default_factory=list)  # how many of the next orders are filled
    hidden_lists: int = 0  # how many lists do not show the next instances yet
    bare_lists: int = 0  # how many of the next lists say no more than they must
    stubborn: int = 0  # how many calls to terminate fail


class FakeProvider:
    """`offers` are what every pool may buy; without them, one machine of the pool's own price."""

    name = "fake"
    renewable = True
    settle_s = 0.5
    concurrent = False  # so that a test sees one order of calls; it may be set

    def __init__(
        self,
        farm: str = "coalition",
        clock: Callable[[], float] = time.time,
        offers: Sequence[Offering] = (),
        deadline: Deadline = Deadline.PROVIDER,
        overhead_micro: int = 0,
    ) -> None:
        self.farm, self.clock, self.offers, self.deadline = farm, clock, tuple(offers), deadline
        self.overhead_micro = overhead_micro
        self.calls: list[tuple[str, Any]] = []
        self.faults = Faults()
        self.machines: dict[str, Machine] = {}
        self.orders: dict[str, list[str]] = {}
        self.pending_notices: list[Notice] = []
        self.before: Callable[[str], None] = lambda verb: None  # called before and after each effect: crash points of tests
        self._lock = threading.Lock()

    # ------------------------------------------------------------ the Protocol

    def check(self, pool: PoolSettings) -> Sequence[str]:
        self._record("check", pool.name)
        return []

    def offerings(self, pool: PoolSettings) -> Sequence[Offering]:
        self._record("offerings", pool.name)
        own = Offering("machine", "machine", slots=pool.slots or 1, price_micro=pool.price_micro, currency=pool.currency)
        return self.offers or (own,)

    def launch(self, request: Request) -> Launched:
        if self.clock() > request.launch_by:
            raise TooLate("launch_by is past")
        self._record("launch", request)
        with self._lock:
            self._refuse_low_bid(request)
            count = min(request.count, self.faults.partial.pop(0)) if self.faults.partial else request.count
            if request.token not in self.orders:
                self.orders[request.token] = [self._start(request, k) for k in range(count)]
            ids = self.orders[request.token]
        self._answer("launch")
        short = "" if len(ids) == request.count else f"{len(ids)} of {request.count} were to be had"
        return Launched(tuple(self._seen(self.machines[id]) for id in ids), short)

    def list(self) -> Sequence[Instance]:
        self._record("list", None)
        with self._lock:
            shown = []
            for machine in self.machines.values():
                if machine.hidden > 0:
                    machine.hidden -= 1
                else:
                    shown.append(self._seen(machine))
            bare, self.faults.bare_lists = self.faults.bare_lists > 0, max(0, self.faults.bare_lists - 1)
        self._answer("list")
        return [replace(one, pool="", launched_at=None) for one in shown] if bare else shown

    def terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        self._record("terminate", tuple(ids))
        if self.faults.stubborn > 0:
            self.faults.stubborn -= 1
            return dict.fromkeys(ids, Fate.FAILED)
        fates = {}
        for id in ids:
            machine = self.machines.get(id)
            if machine is None or self._seen(machine).life is Life.GONE:
                fates[id] = Fate.GONE
            else:
                self._end(machine, self.clock(), "it was terminated")
                fates[id] = Fate.GOING
        self._answer("terminate")
        return fates

    def renew(self, ids: Sequence[str], until: float) -> Mapping[str, float]:
        self._record("renew", (tuple(ids), until))
        deadlines = {}
        for id in ids:
            machine = self.machines.get(id)
            if machine is not None and self._seen(machine).life is not Life.GONE:
                machine.until = until if self.renewable else machine.until
                deadlines[id] = machine.until
        self._answer("renew")
        return deadlines

    def notices(self) -> Sequence[Notice]:
        self._record("notices", None)
        notices, self.pending_notices = self.pending_notices, []
        return notices

    def console(self, id: str) -> str:
        self._record("console", id)
        return self.machines[id].console if id in self.machines else ""

    # ------------------------------------------------------------ for tests

    def lose(self, id: str, reason: str = "reclaimed") -> None:
        """Takes an instance away without a word."""
        self._end(self.machines[id], self.clock(), reason)

    def plant(self, farm: str, token: str, k: int = 0) -> str:
        """An instance that nobody here asked for; its id."""
        offering = Offering("machine", "machine")
        request = Request(token, farm, "", "fake", "", offering, 1, (), "", "", 0, self.clock(), self.clock() + 1e6)
        return self._start(request, k)

    def reprice(self, name: str, price_micro: int) -> None:
        """Another price for an offer from now on, those that run included; spot ones that bid less are taken away.

        Its ceiling, what is reserved, stays where it is unless the price is higher.
        """
        now = self.clock()
        self.offers = tuple(
            replace(
                one,
                rate_micro=price_micro,
                price_micro=max(one.price_micro, price_micro),
                price_as_of=now,
                changes=(*one.changes[-99:], (now, price_micro)),
            )
            if one.name == name
            else one
            for one in self.offers
        )
        for machine in self.machines.values():
            if machine.offering.name == name and self._seen(machine).life is not Life.GONE:
                if machine.offering.market == "spot" and 0 < machine.offering.bid_micro < price_micro:
                    self._end(machine, now, "outbid")
                else:
                    machine.rates.append((now, price_micro + self.overhead_micro))

    def bill(self, start: float = 0.0, end: float | None = None, *, tokens: Sequence[str] | None = None) -> int:
        """The invoice for [start, end): what every instance cost, in the provider's own steps, overhead included."""
        now, total = self.clock(), 0
        for machine in self.machines.values():
            if tokens is not None and machine.instance.token not in tokens:
                continue
            seen = self._seen(machine)
            stop = seen.ended_at if seen.ended_at is not None else now
            terms = machine.offering.minimum_s, machine.offering.granularity_s
            stop = ledger.billed_end(machine.started_at, stop, *terms)
            total += ledger.bill(machine.rates, max(start, machine.started_at), min(stop, end or stop))
        return total

    def live(self) -> Sequence[Instance]:
        """What runs, whatever lists show."""
        seen = [self._seen(machine) for machine in self.machines.values()]
        return [instance for instance in seen if instance.life is not Life.GONE]

    # ------------------------------------------------------------ inside

    def _record(self, verb: str, what: Any) -> None:
        self.calls.append((verb, what))
        self.before(verb)
        if self.faults.errors[verb]:
            raise self.faults.errors[verb].pop(0)

    def _answer(self, verb: str) -> None:
        self.before(f"{verb} answered")
        if self.faults.lost_answers[verb] > 0:
            self.faults.lost_answers[verb] -= 1
            raise Unknown(f"the answer to {verb} was lost")

    def _refuse_low_bid(self, request: Request) -> None:
        """What costs more by now than the request may pay is not to be had."""
        offer = request.offering
        price = next((one.rate_micro for one in self.offers if one.name == offer.name), 0)
        if request.token not in self.orders and offer.market == "spot" and 0 < offer.bid_micro < price:
            raise Rejected(Reason.CAPACITY, f"{offer.name} costs more than the most that was to be paid")

    def _start(self, request: Request, k: int) -> str:
        id = f"f-{len(self.machines) + 1}"
        now = self.clock()
        instance = Instance(id, request.token, k, request.farm, request.pool, Life.RUNNING, now)
        now_sold = next((one for one in self.offers if one.name == request.offering.name), request.offering)
        price = (now_sold.rate_micro or request.offering.rate_micro or request.offering.price_micro) + self.overhead_micro
        hidden = self.faults.hidden_lists
        self.machines[id] = Machine(instance, request.offering, price, now, request.until, hidden, rates=[(now, price)])
        return id

    def _seen(self, machine: Machine) -> Instance:
        """The instance now; one whose deadline has passed ended at it."""
        if machine.instance.life is not Life.GONE and self.deadline is Deadline.PROVIDER and self.clock() >= machine.until:
            self._end(machine, machine.until, "its paid time was over")
        return machine.instance

    def _end(self, machine: Machine, at: float, reason: str) -> None:
        if machine.instance.life is not Life.GONE:
            machine.instance = replace(machine.instance, life=Life.GONE, ended_at=at, reason=reason)
