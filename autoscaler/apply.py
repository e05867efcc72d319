"""Carries a plan out: intent row, provider call, outcome row, in this order, so that a crash between any two loses nothing.

After a crash an intent is open: it is sent again with its token until `launch_by`, then looked for in the provider's list.
Money is committed before the provider is asked for more time, and the guest is told last. Fenced means: another server leads,
stop at once.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from autoscaler.crew import Crew, Task
from autoscaler.decide import Launch, Plan, Renew, Terminate
from autoscaler.reaper import Findings, latest_end
from coalition.config import PoolSettings, Settings, options_of
from coalition.errors import Conflict, Fenced, OverBudget
from coalition.store.cloud import Blocked, Decided, Found, Machine, Order
from providers.base import (
    CAPACITY_BLOCK_S,
    Fate,
    Launched,
    Notice,
    Offering,
    Provider,
    ProviderError,
    Reason,
    Rejected,
    Request,
    Scope,
    TooLate,
)

if TYPE_CHECKING:
    from coalition.store import Store

log = logging.getLogger("autoscaler")

# For how long a refusal is believed; None: until a human, or another image, changes something.
BLOCK_S: Mapping[Reason, float | None] = {
    Reason.CAPACITY: CAPACITY_BLOCK_S,
    Reason.QUOTA: 600.0,
    Reason.THROTTLE: 30.0,
    Reason.AUTH: 300.0,
    Reason.INVALID: None,
}


def key_of(provider: str, region: str) -> str:
    """What names an account in a region: one list, one Provider."""
    return f"{provider}/{region}" if region else provider


class Sending(NamedTuple):
    """An intent on its way. `first`: nobody has sent it before."""

    intent_id: int
    request: Request
    first: bool


class Applier:
    """One tick's hands. `fence` is the number of the lease under which everything is written, by one thread."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        providers: Mapping[str, Provider],
        fence: int,
        clock: Callable[[], float],
        crew: Crew | None = None,
    ) -> None:
        self.settings, self.store, self.providers, self.fence, self.clock = settings, store, providers, fence, clock
        self.crew = crew or Crew()
        self.pools = {pool.name: pool for pool in settings.pools}
        self.decided: list[Decided] = []
        self.sure_until: Mapping[str, float] = {}  # pools whose prices are not known now, and until when they were
        self.alive: Mapping[int, float] = {}  # when instances were seen to run last

    # ------------------------------------------------------------ what the reaper found

    def reap(self, findings: Findings) -> None:
        """Books what is gone, adopts what was found, ends strays, and asks again for what lingers."""
        self.alive = findings.alive
        for intent_id, found in findings.adopted.items():
            self.store.launched(intent_id, [Found(one.k, one.id, one.launched_at) for one in found], self.fence, shortfall=None)
        for gone in findings.gone:
            self.store.settle(gone.id, gone.ended_at, gone.reason, self.fence, self.sure_until)
        for key, strays in findings.strays.items():
            self._call_terminate(key, [stray.id for stray in strays])
            for stray in strays:
                words = f"{stray.id} carries this farm's tag and has no record; it was ended"
                self.decided.append(Decided(stray.pool, "terminate", 1, words))
        for key, ids in findings.lingering.items():
            self._call_terminate(key, ids)

    def heed(self, key: str, notices: Sequence[Notice]) -> None:
        """Keeps what a provider will take away, as its worker keeps what it hears itself. Strangers are not ours to care for."""
        if not notices:
            return
        self.store.check_leader(self.fence)
        known = {(one.provider, one.provider_id): one for one in self.store.machines()}
        for notice in notices:
            machine = known.get((key, notice.id))
            if machine is not None and machine.taken_at is None:
                self.store.announce(machine.id, notice.at, key, notice.reason)

    def part(self) -> None:
        """What will be taken away gets no more jobs, and another like it is not asked for too soon."""
        if all(one.taken_at is None or one.wish for one in self.store.machines()):
            return
        for machine in self.store.heed(self.fence):
            left_s = max(0.0, (machine.taken_at or 0.0) - self.clock())
            words = f"instance {machine.id}: {machine.reason}; it ends in {left_s:.0f} s"
            self.decided.append(Decided(machine.pool, "notice", 1, words))
            if machine.pool in self.pools:
                until = self.clock() + (BLOCK_S[Reason.CAPACITY] or 0.0)
                self._block(machine.pool, machine.offering, str(Reason.CAPACITY), until, f"one was taken back: {machine.reason}")

    # ------------------------------------------------------------ a plan

    def carry_out(self, plan: Plan) -> None:
        """All of a plan: ends first, then what must be paid on, then what is new; each decision is recorded."""
        machines = {machine.id: machine for machine in self.store.machines()}
        self._terminate(plan.terminations, machines)
        for drain in plan.drains:
            if self.store.drain_instances([drain.id], drain.reason, self.fence):
                self.decided.append(Decided(drain.pool, "drain", 1, f"instance {drain.id}: {drain.reason}"))
        for keep in plan.keeps:
            if self.store.keep_instances([keep.id], keep.reason, self.fence):
                self.decided.append(Decided(keep.pool, "keep", 1, f"instance {keep.id}: {keep.reason}"))
        self._renew(plan.renewals, machines)
        lasts_s = self.settings.autoscaler.boot_block_s
        for block in plan.blocks:
            self._block(block.pool, "", "boot", self.clock() + lasts_s if lasts_s else None, block.reason)
        if plan.wishes:
            self.store.forget_wishes(plan.wishes, self.fence)
        # All intents are written and paid for before the first of them is sent.
        self.send([sending for launch in plan.launches if (sending := self._reserve(launch))])
        self.decided += [Decided(hold.pool, "hold", 0, hold.reason) for hold in plan.holds]
        self.store.record_decisions(self.decided, self.fence)

    # ------------------------------------------------------------ launch

    def _reserve(self, launch: Launch) -> Sending | None:
        """The intent's row with its money; None where there is not enough of that."""
        pool = self.pools[launch.pool]
        request = self._request(pool, launch)
        order = Order(
            token=request.token,
            pool=pool.name,
            provider=key_of(pool.provider, pool.region),
            offering=launch.offering.name,
            slots=launch.offering.slots,
            count=launch.count,
            price_micro=launch.offering.price_micro,
            currency=launch.offering.currency,
            sponsors=launch.sponsors,
            payer=launch.payer,
            request=json.dumps(asdict(request)),
            reason=launch.reason,
            launch_by=launch.launch_by,
            funded_until=launch.funded_until,
            boot_timeout_s=pool.boot_timeout_s,
            minimum_s=launch.offering.minimum_s,
            granularity_s=launch.offering.granularity_s,
            rate_micro=launch.offering.rate_micro,
        )
        try:
            intent_id = self.store.reserve(order, self.fence)
        except OverBudget as error:
            self.decided.append(Decided(pool.name, "hold", 0, error.detail))
            return None
        self.decided.append(Decided(pool.name, "launch", launch.count, launch.reason))
        return Sending(intent_id, request, first=True)

    def _request(self, pool: PoolSettings, launch: Launch) -> Request:
        server = self.settings.server
        by_broadcast = pool.provider == "local" and server.discovery
        return Request(
            token=secrets.token_hex(16),
            farm=server.farm,
            pool=pool.name,
            provider=pool.provider,
            region=pool.region,
            offering=replace(launch.offering, changes=()),
            count=launch.count,
            affinity=pool.affinity,
            image=pool.image,
            server_url="" if by_broadcast else self.settings.url,
            discovery_port=server.discovery_port or self.settings.port,
            launch_by=launch.launch_by,
            until=launch.funded_until,
            options=options_of(pool),
        )

    def resume(self) -> None:
        """Sends open intents again, with their tokens and as they were frozen."""
        self.send([Sending(intent.id, request_of(intent.request), first=False) for intent in self.store.open_intents()])

    def send(self, sendings: Sequence[Sending]) -> None:
        """Asks the providers for the instances of intents, one call for each, and stores each outcome as it comes."""
        providers = [self.providers.get(key_of(one.request.provider, one.request.region)) for one in sendings]
        tasks = [
            Task(one, partial(self._ask, one.request, provider), provider is not None and provider.concurrent)
            for one, provider in zip(sendings, providers, strict=True)
        ]
        self.crew.run(tasks, self._keep_outcome)

    def _ask(self, request: Request, provider: Provider | None) -> Launched | ProviderError:
        """What the provider says. Called by any thread, so it stores nothing; Fenced if another server leads by now.

        A provider may wait for its rate before it sends, at most until `launch_by`.
        """
        if provider is None or self.clock() > request.launch_by:
            return TooLate("its time to be sent was over")
        self.store.check_leader(self.fence)
        if self.store.in_force().paused is not None:
            return TooLate("scaling is paused")
        try:
            return provider.launch(replace(request, enrol_token=self.store.enrol_token(request.token)))
        except ProviderError as error:
            return error

    def _keep_outcome(self, sent: Sending, answer: Launched | ProviderError) -> None:
        intent_id, request, first = sent
        if isinstance(answer, Launched):
            found = [Found(one.k, one.id, one.launched_at) for one in answer.instances]
            self.store.launched(intent_id, found, self.fence, shortfall=answer.shortfall)
        elif isinstance(answer, Rejected):
            if first:
                self.store.refused(intent_id, f"{answer.kind}: {answer}", self.fence)
            else:  # it started none, but the call before, whose answer was lost, may have: their money stays
                log.warning("intent %d: refused when it was sent again, its money stays: %s", intent_id, answer)
            self._block_rejected(request, answer)
        elif not isinstance(answer, TooLate):
            log.warning("intent %d: the outcome is not known, its money stays: %s", intent_id, answer)
        elif first:
            log.warning("intent %d: %s", intent_id, answer)
            self.store.refused(intent_id, str(answer), self.fence)

    def _block_rejected(self, request: Request, error: Rejected) -> None:
        """Keeps what was refused from being asked for again too soon, as far as the refusal reaches."""
        lasts_s = BLOCK_S[error.kind] if error.retry_after_s is None else error.retry_after_s
        until = None if lasts_s is None else self.clock() + lasts_s
        for pool in self.settings.pools:
            same_region = pool.provider == request.provider and pool.region == request.region
            if error.scope is Scope.OFFERING and pool.name == request.pool:
                self._block(pool.name, request.offering.name, str(error.kind), until, str(error))
            elif (error.scope is Scope.REGION and same_region) or (
                error.scope is Scope.PROVIDER and pool.provider == request.provider
            ):
                self._block(pool.name, "", str(error.kind), until, str(error))

    def _block(self, pool: str, offering: str, kind: str, until: float | None, reason: str) -> None:
        image = self.pools[pool].image
        self.store.block_offering(Blocked(pool, offering, kind, self.clock(), until, image, reason), self.fence)

    # ------------------------------------------------------------ pay on

    def _renew(self, renewals: Sequence[Renew], machines: Mapping[int, Machine]) -> None:
        """Money first, then the provider, then what the guest is told."""
        batches: dict[tuple[str, float], list[int]] = {}
        for renewal in renewals:
            if renewal.id in machines:
                batches.setdefault((machines[renewal.id].provider, renewal.until), []).append(renewal.id)
        for (key, until), ids in batches.items():
            funded = self._fund(ids, until)
            provider = self.providers.get(key)
            if not funded or provider is None:
                continue
            by_provider_id = {machines[id].provider_id: id for id in funded}
            try:
                deadlines = provider.renew(list(by_provider_id), until)
            except ProviderError as error:
                log.warning("%s: deadlines stay as they were: %s", key, error)
                continue
            self.store.funded({by_provider_id[id]: at for id, at in deadlines.items()}, self.fence)

    def _fund(self, ids: list[int], until: float) -> list[int]:
        """Which of them are paid until then: all in one transaction, else each by itself."""
        try:
            self.store.fund(ids, until, self.fence)
        except OverBudget as error:
            if len(ids) == 1:
                log.warning("instance %d is not paid on: %s", ids[0], error)
                return []
            return [id for one in ids for id in self._fund([one], until)]
        return ids

    # ------------------------------------------------------------ end

    def _terminate(self, terminations: Iterable[Terminate], machines: Mapping[int, Machine]) -> None:
        ending: dict[str, list[Machine]] = {}
        for one in terminations:
            machine = machines.get(one.id)
            if machine is None or not self._mark_ending(one):
                continue
            self.decided.append(Decided(one.pool, "terminate", 1, f"instance {one.id}: {one.reason}"))
            ending.setdefault(machine.provider, []).append(machine)
            if one.failed_boot:
                self._keep_console(machine)
        tasks = [
            Task(key, partial(self._call_terminate, key, [machine.provider_id for machine in some]), self._is_concurrent(key))
            for key, some in ending.items()
        ]
        self.crew.run(tasks, lambda key, fates: self._settle_gone(ending[key], fates))

    def _is_concurrent(self, key: str) -> bool:
        return key in self.providers and self.providers[key].concurrent

    def _settle_gone(self, machines: Sequence[Machine], fates: Mapping[str, Fate]) -> None:
        for machine in machines:
            # A young one that is not found may only not be known there yet: a list tells, later.
            age_s = self.store.clock() - (machine.launched_at or machine.created_at)
            rules = self.settings.autoscaler
            if fates.get(machine.provider_id) is Fate.GONE and age_s >= rules.stray_age_s:
                ended_at = latest_end(machine, self.clock(), rules.slack_s, self.alive.get(machine.id, 0.0))
                self.store.settle(machine.id, ended_at, "it was terminated", self.fence, self.sure_until)

    def _mark_ending(self, one: Terminate) -> bool:
        """Whether it is to be terminated: an idle one is looked at again in the same transaction."""
        try:
            return bool(self.store.end_instances([one.id], one.reason, self.fence, idle_only=one.idle))
        except Fenced:
            raise
        except Conflict as error:  # it moved meanwhile: the next tick looks again
            log.info("instance %d is not terminated: %s", one.id, error)
            return False

    def _call_terminate(self, key: str, ids: list[str]) -> Mapping[str, Fate]:
        provider = self.providers.get(key)
        if provider is None or not ids:
            return {}
        try:
            return provider.terminate(ids)
        except ProviderError as error:  # they stay TERMINATING, are still paid for, and are asked for again
            log.warning("%s: %s are not terminated yet: %s", key, ", ".join(ids), error)
            return {}

    def _keep_console(self, machine: Machine) -> None:
        provider = self.providers.get(machine.provider)
        if provider is None:
            return
        try:
            text = provider.console(machine.provider_id)
        except ProviderError as error:
            text = f"its console could not be read: {error}"
        self.store.keep_console(machine.id, text or "its console is empty", self.fence)


def request_of(text: str) -> Request:
    """The request that an intent froze."""
    data = json.loads(text)
    return Request(**{**data, "offering": Offering(**{**data["offering"], "changes": ()}), "affinity": tuple(data["affinity"])})
