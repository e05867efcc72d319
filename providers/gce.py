"""Instances of Google Compute Engine, by google-cloud-compute. One project in one region; credentials are the SDK's default ones.

An intent is one call of instances.insert or bulkInsert, whose request_id is made of the intent's token, and whose names are made
of farm, token and number: Google starts nothing twice for it. Whose it is stands in an instance's labels, set by the same call.
Google ends an instance by itself at its deadline (maxRunDuration, DELETE), which cannot be moved while it runs: all of its time
is funded at launch. What ended is deleted, and known from the zone's operations. The SDK retries nothing: the autoscaler decides.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import google.auth
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import Conflict, NotFound
from google.auth.transport.requests import AuthorizedSession
from google.cloud import compute_v1

from coalition.config import PoolSettings
from providers import bootstrap, gce_order
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
from providers.gce_catalog import BILLING, DAY_S, TIMEOUT_S, Catalog, Rates, Type
from providers.gce_errors import refusal_of, translated
from providers.gce_order import FARM, POOL, TOKEN, UNTIL, label, read_label
from providers.names import Names
from providers.pacing import Backoff, Bucket

log = logging.getLogger("providers.gce")

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ID = re.compile(r"^(?P<zone>[a-z]+-[a-z0-9]+-[a-z])/(?P<name>[a-z][-a-z0-9]{0,62})\Z")
LIVES = {"PROVISIONING": Life.PENDING, "STAGING": Life.PENDING, "RUNNING": Life.RUNNING}  # else STOPPING: its disk is paid for
PREEMPTED = "compute.instances.preempted"
ENDS = {  # operations after which an instance is no more, and what they say of it
    "delete": "it was deleted",
    PREEMPTED: "Google took the spot machine back",
    "compute.instances.deferredDelete": "its paid time was over",
    "compute.instances.hostError": "its host failed",
}
WARNING_S = 30.0  # Google says so before it takes a spot machine
MINIMUM_S = 60.0  # what Google bills at least
OPERATION_S = 120.0  # how long the end of a launch is waited for
PAUSE_S = 0.2  # between two looks at an operation
ENDING_THREADS = 8
KEEP_S = 3_600.0  # what ended is listed for so long
PAGE = 500
CONSOLE_BYTES = 16_384
LAUNCHES_PER_S, LAUNCH_BURST = 2.0, 10  # a tenth of what Google allows a project by default
PRICE_SOURCE = "gce"
QUOTAS = {"on-demand": "CPUS", "spot": "PREEMPTIBLE_CPUS"}


class GceProvider:
    """`endpoint` and `billing` are the addresses of other services that speak as Google's do; `folder` is for prices."""

    name = "gce"
    deadline = Deadline.PROVIDER
    renewable = False
    settle_s = 5.0
    concurrent = True

    def __init__(
        self,
        region: str,
        farm: str,
        project: str = "",
        *,
        clock: Callable[[], float] = time.time,
        endpoint: str | None = None,
        billing: str = BILLING,
        credentials: Any = None,
        folder: Path | None = None,
    ) -> None:
        self.region, self.farm, self.clock, self.endpoint = region, farm, clock, endpoint
        self.names = Names(farm)
        self.bucket = Bucket(LAUNCHES_PER_S, LAUNCH_BURST)
        self.backoff = Backoff()
        self._project, self._credentials = project, credentials
        self._lock, self._local = threading.Lock(), threading.local()
        self._threads = ThreadPoolExecutor(ENDING_THREADS, "gce")
        self._noticed: dict[str, float] = {}
        self._told_incomplete = False
        self.catalog = Catalog(region, self.project, self.client, self._session, clock, billing=billing, folder=folder)

    # ------------------------------------------------------------ clients

    def _authorized(self) -> tuple[Any, str]:
        """(credentials, project), found when they are first needed."""
        with self._lock, translated("credentials"):
            if self._credentials is None:
                self._credentials, found = google.auth.default(scopes=[SCOPE])
                self._project = self._project or found or ""
            if not self._project:
                raise Rejected(Reason.AUTH, "gce: the credentials name no project; set `project` in the pool")
            return self._credentials, self._project

    def project(self) -> str:
        return self._authorized()[1]

    def client(self, kind: type[Any]) -> Any:
        """The SDK's client of this thread."""
        clients = self._local.__dict__.setdefault("clients", {})
        if kind not in clients:
            options = ClientOptions(api_endpoint=self.endpoint) if self.endpoint else None
            with translated(kind.__name__):
                clients[kind] = kind(credentials=self._authorized()[0], client_options=options)
        return clients[kind]

    def _session(self) -> AuthorizedSession:
        if not hasattr(self._local, "session"):
            self._local.session = AuthorizedSession(self._authorized()[0])
        return self._local.session

    def _call(self, kind: type[Any], verb: str, /, **request: Any) -> Any:
        """One call, which the SDK does not repeat."""
        ask = getattr(self.client(kind), verb)
        with translated(verb.removesuffix("_unary")):
            return ask(request={"project": self.project(), **request}, retry=None, timeout=TIMEOUT_S)

    # ------------------------------------------------------------ what can be bought

    def offerings(self, pool: PoolSettings) -> Sequence[Offering]:
        """The ceiling of a spot machine is the on-demand price: Google takes no maximum, and may raise spot prices."""
        image, rates = self.catalog.image(pool.image), self._rates(pool.currency)
        zones = pool.zones or self.catalog.zones()
        types = {zone: self.catalog.types(zone, pool.types) for zone in zones}
        found = []
        for market in pool.purchase:
            for name in pool.types:
                for zone in zones:
                    if name in types[zone]:
                        found.append(self._offer(pool, types[zone][name], zone, market, image, rates))
        return found

    def _rates(self, currency: str) -> Rates:
        """Without a price an offer is still one; why there is none is logged."""
        try:
            return self.catalog.rates(currency)
        except ProviderError as error:
            log.warning("prices of %s are not known: %s", self.region, error)
            return Rates({}, currency, 0.0)

    def _offer(self, pool: PoolSettings, type: Type, zone: str, market: str, image: str, rates: Rates) -> Offering:
        gpus = type.gpus or gce_order.accelerator_of(pool.accelerator)
        price = rates.price_micro(type, "on-demand", gpus)
        return Offering(
            name=f"{type.name}/{zone}/{market}",
            type=type.name,
            zone=zone,
            market=market,
            slots=pool.slots or type.cpus,
            cpus=type.cpus,
            memory_bytes=type.memory_bytes,
            gpus=gpus[1] if gpus else 0,
            price_micro=price,
            currency=rates.currency,
            minimum_s=MINIMUM_S,
            price_source=PRICE_SOURCE if price else "",
            price_as_of=rates.as_of if price else 0.0,
            image=image,
        )

    # ------------------------------------------------------------ launch

    def launch(self, request: Request) -> Launched:
        kind = compute_v1.InstancesClient
        verb, order = gce_order.order(self.names, request, bootstrap.script(request))
        self.client(kind)
        self.bucket.take()
        if self.clock() > request.launch_by:
            raise TooLate(f"{request.token} was to be sent before; nothing was started now")
        try:
            operation = self._call(kind, verb, **order, request_id=_request_id(request.token))
        except Rejected as error:
            if isinstance(error.__cause__, Conflict):  # of an earlier call, though Google forgot its request_id
                return self._outcome(request, None)
            if error.kind is Reason.THROTTLE:
                error.retry_after_s = self.backoff.refused()
            raise
        self.backoff.worked()
        return self._outcome(request, operation)

    def _outcome(self, request: Request, operation: Any) -> Launched:
        """What a request that Google took came to. It was taken: what cannot be found out now is not a refusal."""
        try:
            if operation is not None:
                operation = self._finished(operation, request.offering.zone)
            seen = {one.id: one for one in self._of_token(request)}
        except ProviderError as error:
            raise Unknown(f"{request.token} was sent: {error}") from error
        refusal = refusal_of(operation) if operation is not None else None
        created = _created(operation, request.count, refusal)
        ids = [f"{request.offering.zone}/{self.names.of(request.token, k)}" for k in range(request.count)]
        if created == request.count:  # whatever a list that lags behind shows
            seen = {id: seen.get(id) or self._new(request, id) for id in ids}
        found = tuple(seen[id] for id in ids if id in seen)
        if len(found) < (request.count if operation is None else created):  # it was sent before, and a list may lag
            raise Unknown(f"{request.token}: {created} were started, {len(found)} are listed")
        if refusal is not None and not found:
            if refusal.kind is Reason.THROTTLE:
                refusal.retry_after_s = self.backoff.refused()
            raise refusal
        why = f": {refusal}" if refusal else ""
        return Launched(found, "" if len(found) == request.count else f"{len(found)} of {request.count} were to be had{why}")

    def _finished(self, operation: Any, zone: str) -> Any:
        """The operation when it is done. Its zone's own client asks, as the SDK's `result()` would ask another address."""
        until = time.monotonic() + OPERATION_S
        while operation.status != compute_v1.Operation.Status.DONE:
            if time.monotonic() > until:
                raise Unknown(f"operation {operation.name} has not ended within {OPERATION_S:.0f} s")
            operation = self._call(compute_v1.ZoneOperationsClient, "wait", zone=zone, operation=operation.name)
            if operation.status != compute_v1.Operation.Status.DONE:
                time.sleep(PAUSE_S)
        return operation

    def _of_token(self, request: Request) -> Sequence[Instance]:
        zone, token = request.offering.zone, request.token
        words = f'labels.{TOKEN} = "{token}"'
        with translated("instances.list"):
            found = list(self._call(compute_v1.InstancesClient, "list", zone=zone, filter=words))
        living = [self._instance(zone, one) for one in found]
        ended = [one for one in self._ended({one.id for one in living}) if one.token == token]
        return [*living, *ended]

    def _new(self, request: Request, id: str) -> Instance:
        token, k = self.names.read(id.partition("/")[2]) or (request.token, None)
        return Instance(id, token, k, self.farm, request.pool, Life.PENDING, self.clock())

    # ------------------------------------------------------------ list

    def list(self) -> Sequence[Instance]:
        living = [self._instance(zone, one) for zone, one in self._living()]
        return [*living, *self._ended({one.id for one in living})]

    def _living(self) -> Sequence[tuple[str, Any]]:
        """(zone, instance) of all that this farm has in this region, complete."""
        words = f'labels.{FARM} = "{label(self.farm)}"'
        found = []
        for zone, scoped in self._scopes(compute_v1.InstancesClient, words):
            found += [(zone, one) for one in scoped.instances]
        return found

    def _scopes(self, kind: type[Any], words: str, **more: Any) -> Iterator[tuple[str, Any]]:
        """An aggregated list's zones of this region. Unknown if a zone could not be asked: complete or nothing."""
        pager = self._call(kind, "aggregated_list", filter=words, max_results=PAGE, **more)
        with translated("aggregated_list"):
            for page in pager.pages:
                missing = list(page.unreachables)
                if missing:
                    raise Unknown(f"gce aggregated_list: {', '.join(missing)} could not be reached")
                for scope, scoped in page.items.items():
                    zone = scope.rpartition("/")[2]
                    if not zone.startswith(f"{self.region}-"):
                        continue
                    if scoped.warning and scoped.warning.code not in ("", "NO_RESULTS_ON_PAGE"):
                        raise Unknown(f"gce aggregated_list: {zone}: {scoped.warning.code}: {scoped.warning.message}")
                    yield zone, scoped

    def _instance(self, zone: str, answer: Any) -> Instance:
        """What a listing says of an instance; fields that are missing are not known, and nothing worse."""
        labels = dict(answer.labels)
        if not (labels and answer.status and answer.creation_timestamp) and not self._told_incomplete:
            self._told_incomplete = True
            log.warning("%s is listed without its labels, state or time; this is told once", answer.name)
        token, k = self.names.read(answer.name) or (labels.get(TOKEN, ""), None)
        return Instance(
            id=f"{zone}/{answer.name}",
            token=token,
            k=k,
            farm=read_label(labels.get(FARM, "")),
            pool=read_label(labels.get(POOL, "")),
            life=LIVES.get(answer.status, Life.STOPPING) if answer.status else Life.PENDING,
            launched_at=_at(answer.creation_timestamp),
            reason=answer.status_message,
        )

    def _operations(self) -> Iterator[tuple[str, Any]]:
        """(id, operation) on instances of this farm, the newest first, as far back as what ended is listed."""
        since = self.clock() - KEEP_S
        words = f'insertTime > "{_text(since - DAY_S)}"'  # a day more: whose time zone texts are compared in is not said
        for zone, scoped in self._scopes(compute_v1.GlobalOperationsClient, words, order_by="creationTimestamp desc"):
            for one in scoped.operations:
                name = one.target_link.rpartition("/")[2]
                if (_at(one.insert_time) or 0.0) >= since and self.names.read(name):
                    yield f"{zone}/{name}", one

    def _ended(self, living: set[str]) -> Sequence[Instance]:
        """What was deleted lately, by whomever. One that is still listed is none of it."""
        found: dict[str, Instance] = {}
        for id, one in self._operations():
            done = one.status == compute_v1.Operation.Status.DONE and refusal_of(one) is None
            if id in living or not done or one.operation_type not in ENDS:
                continue
            reason, at = ENDS[one.operation_type], _at(one.end_time)
            if id not in found:
                token, k = self.names.read(id.partition("/")[2]) or ("", None)
                found[id] = Instance(id, token, k, self.farm, "", Life.GONE, None, at, reason)
            elif one.operation_type != "delete":  # what took it is the reason, a deletion that follows is the end
                found[id] = replace(found[id], reason=reason)
        return list(found.values())

    # ------------------------------------------------------------ end, renew

    def terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        """Google ends one with each call; several calls are made at a time."""
        results = list(self._threads.map(self._try_to_terminate, ids)) if len(ids) > 1 else [*map(self._try_to_terminate, ids)]
        errors = [result for result in results if isinstance(result, ProviderError)]
        if errors and len(errors) == len(ids):
            raise errors[-1]
        return {id: Fate.FAILED if isinstance(fate, ProviderError) else fate for id, fate in zip(ids, results, strict=True)}

    def _try_to_terminate(self, id: str) -> Fate | ProviderError:
        try:
            return self._terminate(id)
        except ProviderError as error:
            return error

    def _terminate(self, id: str) -> Fate:
        match = ID.match(id)
        if match is None:
            return Fate.GONE
        try:
            self._call(compute_v1.InstancesClient, "delete_unary", zone=match["zone"], instance=match["name"])
        except Rejected as error:
            if isinstance(error.__cause__, NotFound):
                return Fate.GONE
            raise
        return Fate.GOING

    def renew(self, ids: Sequence[str], until: float) -> Mapping[str, float]:
        """Google moves no deadline of a machine that runs: what is in force is what the launch said."""
        living = {f"{zone}/{one.name}": one for zone, one in self._living() if one.status in LIVES}
        return {id: _deadline(living[id]) for id in ids if id in living}

    # ------------------------------------------------------------ notices, console

    def notices(self) -> Sequence[Notice]:
        """Preemptions that began lately; each is told once by this object."""
        now = self.clock()
        self._noticed = {name: at for name, at in self._noticed.items() if at > now - KEEP_S}
        found = []
        for id, one in self._operations():
            began = _at(one.insert_time)
            if one.operation_type == PREEMPTED and began is not None and one.name not in self._noticed:
                self._noticed[one.name] = began
                found.append(Notice(id, began + WARNING_S, ENDS[PREEMPTED]))
        return found

    def console(self, id: str) -> str:
        match = ID.match(id)
        if match is None:
            return ""
        try:
            where = {"zone": match["zone"], "instance": match["name"]}
            answer = self._call(compute_v1.InstancesClient, "get_serial_port_output", **where)
        except Rejected as error:
            if isinstance(error.__cause__, NotFound):
                return ""
            raise
        return str(answer.contents)[-CONSOLE_BYTES:]

    # ------------------------------------------------------------ check

    def check(self, pool: PoolSettings) -> Sequence[str]:
        """Credentials first: without them the rest says the same again."""
        self.catalog.region_facts()
        problems: list[str] = []
        for look in (self._check_offers, self._check_time, self._check_quota):
            try:
                problems += look(pool)
            except ProviderError as error:
                problems.append(str(error))
        return problems

    def _check_offers(self, pool: PoolSettings) -> Sequence[str]:
        known = self.catalog.zones()
        problems = [f"zone {zone} is not in {self.region}" for zone in pool.zones if zone not in known]
        offers = self.offerings(replace(pool, zones=tuple(zone for zone in pool.zones or known if zone in known)))
        bought = {offer.type for offer in offers}
        problems += [f"no zone of it has type {name}" for name in pool.types if name not in bought]
        if not pool.price_micro:
            problems += [f"the price of {offer.name} is not known" for offer in offers if not offer.price_micro]
        return problems

    def _check_time(self, pool: PoolSettings) -> Sequence[str]:
        low, high = gce_order.FUNDING_S
        if low <= pool.funding_s <= high:
            return []
        words = f"`funding` is {pool.funding_s:.0f} s, and it is all the time that a machine has"
        return [f"{words}: {low:.0f} to {high:.0f} s are possible"]

    def _check_quota(self, pool: PoolSettings) -> Sequence[str]:
        """Running vCPUs that Google allows in the region."""
        limits = {quota.metric: quota.limit for quota in self.catalog.region_facts().quotas}
        cpus = max((offer.cpus for offer in self.offerings(pool)), default=0) * pool.max
        problems = []
        for market in pool.purchase:
            allowed = limits.get(QUOTAS[market]) or limits.get("CPUS")  # Google counts spot machines there, if they have no quota
            if allowed is not None and cpus > allowed:
                problems.append(f"`max` needs {cpus} vCPUs, and the region's quota of {market} ones is {allowed:.0f}")
        return problems


def _request_id(token: str) -> str:
    """The same for the same token, in the form that Google wants."""
    return str(uuid.UUID(bytes=hashlib.sha256(token.encode()).digest()[:16], version=4))


def _created(operation: Any, count: int, refusal: Rejected | None) -> int:
    """How many machines an operation says that it started."""
    if operation is None:
        return 0
    places = operation.instances_bulk_insert_operation_metadata.per_location_status
    if places:
        return sum(place.created_vm_count - place.deleted_vm_count for place in places.values())
    return 0 if refusal else count


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _at(text: str) -> float | None:
    """RFC 3339 -> seconds since 1970."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def _deadline(answer: Any) -> float:
    """When Google ends a machine, as it says itself, else as the launch asked for."""
    said = _at(answer.resource_status.scheduling.termination_timestamp)
    return float(dict(answer.labels).get(UNTIL, "0")) if said is None else said
