"""Machines of any cloud that libcloud has a driver for. One account, as a section [libcloud NAME] of cloud.ini says.

Such clouds have no token that makes a request safe to repeat. So a machine's name, which is its id here, is made of farm, token
and number; the machine is told it, and enrols with it. What is there by that name is looked for before it is created, and after
a call whose outcome is not known nothing is created again before lists had time to show it (`lag`). What ended is listed nowhere:
this object remembers what it saw. Only the machine itself ends its time (deadline = guest): a hard budget wants
`accept_guest_deadline`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from libcloud.compute.base import Node, NodeLocation, NodeSize
from libcloud.compute.types import NodeState

from coalition.config import PoolSettings
from coalition.values import MICRO
from providers import bootstrap
from providers.base import (
    LAUNCH_WINDOW_S,
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
from providers.libcloud_deploy import Deployer
from providers.libcloud_driver import KEYS, USER_DATA, ZONES, Driver, find
from providers.names import Names
from providers.pacing import Backoff, Bucket

log = logging.getLogger("providers.libcloud")
T = TypeVar("T")

FARM, POOL, TOKEN = "coalition-farm", "coalition-pool", "coalition-token"
LIVES = {
    NodeState.RUNNING: Life.RUNNING,
    NodeState.TERMINATED: Life.GONE,
    NodeState.PENDING: Life.PENDING,
    NodeState.STARTING: Life.PENDING,
    NodeState.REBOOTING: Life.RUNNING,
    NodeState.UNKNOWN: Life.PENDING,
    NodeState.RECONFIGURING: Life.RUNNING,
    NodeState.MIGRATING: Life.RUNNING,
    NodeState.NORMAL: Life.RUNNING,
    NodeState.UPDATING: Life.RUNNING,
}  # else STOPPING: what is stopped or in error is mostly paid for
LIVE_PRICES = ("digitalocean",)  # drivers whose sizes carry, for every region, the price that the cloud tells, in USD per hour
NO_USER_DATA = "gives machines no user data: set `deploy_key`, or they would not know the server"
MISSES = 2  # lists in a row that do not show a machine which they showed: it is gone
KEEP_S = 3_600.0
CATALOG_S = 300.0
CONSOLE_BYTES = 16_384
CREATES_PER_S, CREATE_BURST = 2.0, 20


@dataclass
class Seen:
    """What is remembered of a machine. `listed`: a list has shown it."""

    instance: Instance
    node: Node
    listed: bool = False
    ending: bool = False
    misses: int = 0
    missing_since: float = 0.0


@dataclass(frozen=True)
class Order:
    """What became of a token; it is not sent again."""

    ids: tuple[str, ...]
    shortfall: str
    at: float


class LibcloudProvider:
    """`lag_s` is how long lists may take to show a new machine."""

    name = "libcloud"
    deadline = Deadline.GUEST
    renewable = True
    settle_s = 5.0
    concurrent = False  # a launch looks for its machines first, and nobody else may make any meanwhile

    def __init__(
        self, driver: str, arguments: Mapping[str, Any], farm: str, lag_s: float = 15.0, clock: Callable[[], float] = time.time
    ) -> None:
        self.driver, self.farm, self.lag_s, self.clock = Driver(driver, arguments), farm, lag_s, clock
        self.names = Names(farm)
        self.bucket = Bucket(CREATES_PER_S, CREATE_BURST)
        self.backoff = Backoff()
        self.deployer = Deployer()
        self._made_at = self._listed_at = clock()
        self._asked: dict[str, float] = {}  # name -> when it was asked for, while that is not answered
        self._seen: dict[str, Seen] = {}
        self._orders: dict[str, Order] = {}
        self._kept: dict[str, tuple[float, Any]] = {}
        self._lock = threading.RLock()
        self._launching = threading.Lock()

    # ------------------------------------------------------------ what can be bought

    def _catalog(self, verb: str) -> Any:
        """An answer that is good for a while."""
        kept = self._kept.get(verb)
        if kept is None or not 0 <= self.clock() - kept[0] < CATALOG_S:
            kept = self.clock(), list(self.driver.call(verb))
            self._kept[verb] = kept
        return kept[1]

    def offerings(self, pool: PoolSettings) -> Sequence[Offering]:
        image = find(self._catalog("list_images"), pool.image, "image")
        sizes = [find(self._catalog("list_sizes"), name, "size") for name in pool.types]
        zones = pool.zones or ("",)
        return [self._offer(pool, size, zone, str(image.id)) for size in sizes for zone in zones]

    def _offer(self, pool: PoolSettings, size: NodeSize, zone: str, image: str) -> Offering:
        cpus = _cpus(size)
        listed = round(float(size.price or 0) * MICRO) if self.driver.name in LIVE_PRICES else 0
        price = pool.price_micro or listed
        return Offering(
            name="/".join(filter(None, (size.name, zone))),
            type=str(size.id),
            zone=zone,
            slots=pool.slots or cpus,
            cpus=cpus,
            memory_bytes=int(size.ram or 0) << 20,
            price_micro=price,
            currency=pool.currency if pool.price_micro else "USD",
            minimum_s=3_600.0,
            granularity_s=3_600.0,
            price_source=self.driver.name if price and not pool.price_micro else "",
            price_as_of=self.clock() if price and not pool.price_micro else 0.0,
            image=image,
        )

    # ------------------------------------------------------------ launch

    def launch(self, request: Request) -> Launched:
        if self.clock() > request.launch_by:
            raise TooLate(f"{request.token} was to be sent before; nothing was started now")
        with self._launching:  # what is looked for and not found must not be made by somebody else meanwhile
            if request.token not in self._orders:
                self._orders[request.token] = self._fill(request)
            self.backoff.worked()
            order = self._orders[request.token]
            with self._lock:
                return Launched(tuple(self._seen[id].instance for id in order.ids), order.shortfall)

    def _fill(self, request: Request) -> Order:
        there = {one.k: one for one in self.list() if one.token == request.token}
        missing = [k for k in range(request.count) if k not in there]
        self._let_lists_catch_up(request, missing)
        short = ""
        for k in missing:
            try:
                self.bucket.take()
                if self.clock() > request.launch_by:
                    raise TooLate(f"{request.token} was to be sent before")
                there[k] = self._create(request, k)
            except (Rejected, TooLate) as error:
                if not there:
                    raise
                short = f"{len(there)} of {request.count} were to be had: {error}"
                break
        return Order(tuple(one.id for one in there.values()), short, self.clock())

    def _let_lists_catch_up(self, request: Request, missing: Sequence[int]) -> None:
        """Unknown while a machine that is missing may have been made, and is not listed yet."""
        asked = [self._asked[name] for k in missing if (name := self.names.of(request.token, k)) in self._asked]
        if missing and not asked and request.launch_by - LAUNCH_WINDOW_S < self._made_at:
            asked = [self._made_at]  # whoever was here before may have asked for it
        wait_s = max(asked, default=self.clock() - self.lag_s) + self.lag_s - self.clock()
        if wait_s > 0:
            raise Unknown(f"{request.token} may have been started; lists show it within {wait_s:.0f} s, or it is asked for again")

    def _create(self, request: Request, k: int) -> Instance:
        name = self.names.of(request.token, k)
        by_ssh = not self.driver.first_of(USER_DATA)
        if by_ssh and not request.options.get("deploy_key"):
            raise Rejected(Reason.INVALID, f"driver {self.driver.name} {NO_USER_DATA}")
        order = self._order(request, name)
        self._asked[name] = self.clock()
        try:
            node = self.driver.call("create_node", **order)
        except Rejected as error:
            made = self._made_though_refused(request, k, error)
            del self._asked[name]
            if made is not None:
                return made
            if error.kind is Reason.THROTTLE and error.retry_after_s is None:
                error.retry_after_s = self.backoff.refused()
            raise
        del self._asked[name]
        self._refuse_useless(node, name)
        with self._lock:
            instance = replace(self._instance(node), pool=request.pool, launched_at=self.clock())
            self._seen[instance.id] = Seen(instance, node)
        if by_ssh:
            self._deploy(request, name)
        return instance

    def _made_though_refused(self, request: Request, k: int, refusal: Rejected) -> Instance | None:
        """The machine, where the driver made it and was refused a look at it. Unknown if nobody can tell."""
        try:
            return next((one for one in self.list() if (one.token, one.k) == (request.token, k)), None)
        except ProviderError as error:
            raise Unknown(f"{refusal}; and no list could be had: {error}") from error

    def _deploy(self, request: Request, name: str) -> None:
        def addresses() -> Sequence[str]:
            with self._lock:
                node = self._seen[name].node if name in self._seen else None
            return [] if node is None else [*node.public_ips, *node.private_ips]

        script = bootstrap.script(request, identity=name)
        key, user = request.options["deploy_key"], request.options.get("deploy_user") or "root"
        self.deployer.start(name, addresses, script, key, user, request.until - self.clock())

    def _refuse_useless(self, node: Node, name: str) -> None:
        """Ends a machine that came up in error, or under a name by which no list would show whose it is."""
        if node.state == NodeState.ERROR:
            kind, why = Reason.CAPACITY, str((node.extra.get("fault") or {}).get("message", "it came up in error"))
        elif node.name != name:
            kind, why = Reason.INVALID, f"a machine that was to be {name} is named {node.name}; such a driver cannot be used"
        else:
            return
        try:
            ended = self.driver.call("destroy_node", node=node)
        except ProviderError as error:
            raise Unknown(f"{node.name}: {why}; and it is not ended: {error}") from error
        if not ended:
            raise Unknown(f"{node.name}: {why}; and it is not ended")
        raise Rejected(kind, f"{self.driver.name}: {why}")

    def _order(self, request: Request, name: str) -> dict[str, Any]:
        offering = request.offering
        size = find(self._catalog("list_sizes"), offering.type, "size")
        image = find(self._catalog("list_images"), offering.image or request.image, "image")
        tags = {FARM: request.farm, POOL: request.pool, TOKEN: request.token}
        zone = self._zone(offering.zone)
        return self.driver.order(name, size, image, zone, bootstrap.user_data(request, name), tags, request.options)

    def _zone(self, name: str) -> NodeLocation | str:
        if not name or self.driver.first_of(ZONES) != "location":
            return name
        return find(self._catalog("list_locations"), name, "zone")

    # ------------------------------------------------------------ list

    def list(self) -> Sequence[Instance]:
        now = self.clock()
        if now - self._listed_at > self.lag_s:  # another server led meanwhile: what it asked for may not be listed yet
            self._made_at = now
        self._listed_at = now
        nodes = self.driver.call("list_nodes")
        with self._lock:
            listed = {}
            for node in sorted(nodes, key=lambda node: str(node.id)):
                if self.names.read(node.name):
                    instance = self._instance(node)
                    if instance.id in listed:  # made twice, as a list lagged longer than it may: a stray
                        instance = replace(instance, id=f"{instance.id}/{node.id}")
                    old = self._seen.get(instance.id)
                    if old is not None:
                        instance = _filled(instance, old.instance)
                    self._seen[instance.id] = Seen(instance, node, listed=True, ending=old is not None and old.ending)
                    listed[instance.id] = instance
            self._count_missing(listed)
            gone = [one.instance for id, one in self._seen.items() if id not in listed and one.instance.life is Life.GONE]
            return [*listed.values(), *gone]

    def _count_missing(self, listed: Mapping[str, Instance]) -> None:
        """What was listed, or was to end, and is missing in several lists in a row is gone since the first of them."""
        now = self.clock()
        for id, one in list(self._seen.items()):
            if id in listed or one.instance.life is Life.GONE:
                if (one.instance.ended_at or now) < now - KEEP_S:
                    del self._seen[id]
            elif one.listed or one.ending:
                one.missing_since = one.missing_since if one.misses else now
                one.misses += 1
                if one.misses >= MISSES:
                    reason = "it was terminated" if one.ending else "the cloud no longer lists it"
                    one.instance = replace(one.instance, life=Life.GONE, ended_at=one.missing_since, reason=reason)
        for token in [token for token, order in self._orders.items() if order.at < now - KEEP_S]:
            del self._orders[token]

    def _instance(self, node: Node) -> Instance:
        tags = self.driver.tags_of(node)
        token, k = self.names.read(node.name) or ("", None)
        life = LIVES.get(node.state, Life.STOPPING)
        fault = (node.extra.get("fault") or {}).get("message", "")
        return Instance(
            id=node.name,
            token=token,
            k=k,
            farm=self.farm,
            pool=tags.get(POOL, ""),
            life=life,
            launched_at=node.created_at.timestamp() if node.created_at else None,
            ended_at=self.clock() if life is Life.GONE else None,
            reason=str(fault) or ("the cloud says so" if life is Life.GONE else ""),
        )

    # ------------------------------------------------------------ end, renew

    def terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        self.list()
        fates: dict[str, Fate] = {}
        errors: list[ProviderError] = []
        for id in ids:
            try:
                fates[id] = self._terminate(id)
            except ProviderError as error:
                fates[id] = Fate.FAILED
                errors.append(error)
        if errors and len(errors) == len(ids):
            raise errors[-1]
        return fates

    def _terminate(self, id: str) -> Fate:
        with self._lock:
            one = self._seen.get(id)
        if one is None or one.instance.life is Life.GONE:
            return Fate.GONE
        one.ending = True
        try:
            ended = self.driver.call("destroy_node", node=one.node)
        except Rejected as error:
            if getattr(error.__cause__, "code", None) == 404:
                return Fate.GOING  # lists will tell
            raise
        return Fate.GOING if ended else Fate.FAILED

    def renew(self, ids: Sequence[str], until: float) -> Mapping[str, float]:
        """The machine itself keeps its deadline, and is told the new one by its next call: here nothing is to be done."""
        living = {one.id for one in self.list() if one.life in (Life.PENDING, Life.RUNNING)}
        return {id: until for id in ids if id in living}

    # ------------------------------------------------------------ notices, console

    def notices(self) -> Sequence[Notice]:
        return []

    def console(self, id: str) -> str:
        with self._lock:
            one = self._seen.get(id)
        return self.driver.console(one.node)[-CONSOLE_BYTES:] if one is not None else ""

    # ------------------------------------------------------------ check

    def check(self, pool: PoolSettings) -> Sequence[str]:
        """Credentials first: without them the rest says the same again."""
        self.driver.call("list_nodes")
        problems = []
        if not self.driver.first_of(USER_DATA) and not pool.deploy_key:
            problems.append(f"driver {self.driver.name} {NO_USER_DATA}")
        place = self.driver.first_of(ZONES)
        if not pool.zones and place and self.driver.needs(place):
            problems.append(f"driver {self.driver.name} needs `zones`")
        if not pool.key and (key := next((name for name in KEYS if self.driver.needs(name)), "")):
            problems.append(f"driver {self.driver.name} needs `key`, for its {key}")
        for look in (self._check_offers, self._check_names):
            try:
                problems += look(pool)
            except ProviderError as error:
                problems.append(str(error))
        return problems

    def _check_offers(self, pool: PoolSettings) -> Sequence[str]:
        unknown = [offer.name for offer in self.offerings(pool) if not offer.price_micro]
        return [f"the price of {name} is not known: give the pool a `price`" for name in unknown]

    def _check_names(self, pool: PoolSettings) -> Sequence[str]:
        """Makes an order, as a launch would, and does not send it."""
        for offer in self.offerings(pool)[:1]:
            self._order(bootstrap.sample_request(pool, self.farm, offer, self.clock()), "check")
        return []


def _filled(instance: Instance, old: Instance) -> Instance:
    """What a list leaves out is as it was known before."""
    return replace(
        instance,
        pool=instance.pool or old.pool,
        launched_at=old.launched_at if old.launched_at is not None else instance.launched_at,
        ended_at=old.ended_at if old.ended_at is not None and instance.life is Life.GONE else instance.ended_at,
    )


def _cpus(size: NodeSize) -> int:
    extra = size.extra or {}
    names = ("cpus", "vcpus", "vcpu_count", "cpu")
    said = getattr(size, "vcpus", None) or next((extra[name] for name in names if extra.get(name)), 1)
    try:
        return max(1, int(said))
    except (TypeError, ValueError):
        return 1
