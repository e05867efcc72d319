"""What every provider of instances promises, and the errors it may raise.

ProviderError                what the autoscaler does next
├── Rejected(kind, scope)    nothing was started by this call; return the money; block `scope` for `retry_after_s`
├── Unknown                  the outcome is not known: keep the money, call again with the same token, or list
└── TooLate                  `launch_by` is past, this call sent nothing; never call again, list by the token

Each provider translates its SDK's exceptions into these at its own edge; nothing else leaves it.
Times are seconds since 1970, money integer micro-units per hour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from coalition.enums import StrEnum

if TYPE_CHECKING:
    from coalition.config import PoolSettings

LAUNCH_WINDOW_S = 60.0  # how long a request may be sent again
CAPACITY_BLOCK_S = 180.0  # how long "no capacity" is believed


class Reason(StrEnum):
    """Why a request was refused, named by what helps."""

    CAPACITY = "capacity"  # try another offering now, this one in minutes
    QUOTA = "quota"  # the whole region is full for this account; a human raises it
    THROTTLE = "throttle"  # the same again, later
    AUTH = "auth"  # nothing works until a human gives credentials
    INVALID = "invalid"  # the request is wrong; the same again is refused again


class Scope(StrEnum):
    """What a refusal is true for."""

    OFFERING = "offering"
    REGION = "region"
    PROVIDER = "provider"


class Deadline(StrEnum):
    """Who ends an instance at its `until` when nobody else does (DESIGN.md, Rule M)."""

    PROVIDER = "provider"
    SWEEPER = "sweeper"
    GUEST = "guest"


class Life(StrEnum):
    """What a provider says of an instance. Everything but GONE may cost money."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPING = "stopping"
    GONE = "gone"


class Fate(Enum):
    """What became of a request to terminate."""

    GONE = "gone"
    GOING = "going"
    FAILED = "failed"


class ProviderError(Exception):
    """The root; its text is for people."""


class Rejected(ProviderError):
    def __init__(self, kind: Reason, detail: str, scope: Scope = Scope.OFFERING, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.scope = scope
        self.retry_after_s = retry_after_s


class Unknown(ProviderError):
    pass


class TooLate(ProviderError):
    pass


@dataclass(frozen=True)
class Offering:
    """What can be bought: a type in a zone on a market. `price_micro` is the most an hour may cost; 0 is not a price.

    `image` and `network` are what the pool's names stood for when the offer was made, so that a request that is sent again
    is the same. `bid_micro` is the maximum price to be sent with it, `price_micro` without overhead; 0: none.
    """

    name: str
    type: str
    zone: str = ""
    market: str = "on-demand"
    slots: int = 1
    cpus: int = 1
    memory_bytes: int = 0
    gpus: int = 0
    price_micro: int = 0
    currency: str = "USD"
    minimum_s: float = 0.0  # billed at least
    granularity_s: float = 1.0  # billed in steps of
    bid_micro: int = 0
    rate_micro: int = 0  # what an hour costs now, where that is less than the most it may cost; 0: `price_micro`
    changes: tuple[tuple[float, int], ...] = ()  # what an hour cost lately, from when on, oldest first; it may have moved often
    price_source: str = ""  # who said so
    price_as_of: float = 0.0  # and when
    image: str = ""
    network: str = ""

    @property
    def per_slot_micro(self) -> float:
        """What an hour of one slot may cost; without end if the price is not known."""
        return self.price_micro / max(1, self.slots) if self.price_micro > 0 else math.inf


@dataclass(frozen=True)
class Request:
    """One frozen request for `count` equal instances. What it holds is sent, whatever cloud.ini says by then."""

    token: str
    farm: str
    pool: str
    provider: str
    region: str
    offering: Offering
    count: int
    affinity: tuple[str, ...]
    image: str
    server_url: str  # empty: the instance finds the server by broadcast
    discovery_port: int
    launch_by: float
    until: float  # the deadline at launch
    options: Mapping[str, Any] = field(default_factory=dict)  # the knobs that only this provider's pools have
    enrol_token: str = ""  # a secret, made again for each call and never stored


@dataclass(frozen=True)
class Instance:
    """An instance as its provider sees it; (token, k) is whose it is, from its tags."""

    id: str
    token: str
    k: int | None
    farm: str
    pool: str
    life: Life
    launched_at: float | None = None
    ended_at: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Launched:
    """What an order started."""

    instances: tuple[Instance, ...]
    shortfall: str = ""  # why they are fewer than asked for


@dataclass(frozen=True)
class Notice:
    """The provider will take the instance away at `at`."""

    id: str
    at: float
    reason: str


class Provider(Protocol):
    """One account in one region. Methods may be called from several threads; each returns or raises a ProviderError."""

    name: str
    deadline: Deadline
    renewable: bool  # whether `renew` can move a deadline; if not, what a launch says is all the time there is
    settle_s: float  # how soon after a change the list is worth another look
    concurrent: bool  # whether several calls at the same time are over sooner than one after the other

    def check(self, pool: PoolSettings) -> Sequence[str]:
        """What would keep this pool from working, in words; empty if nothing is known. Starts nothing."""

    def offerings(self, pool: PoolSettings) -> Sequence[Offering]:
        """What the pool may buy now. An offering without a price has price 0."""

    def launch(self, request: Request) -> Launched:
        """Starts up to `count` instances, tagged with farm, pool, token and k, which end by themselves at `until`.

        However often it is called with a token, at most `count` instances ever start for it, and each call
        answers with all that did. Checks `launch_by` right before it sends. Rejected: this call started none.
        """

    def list(self) -> Sequence[Instance]:
        """Every instance of this farm that may cost money, and those that ended lately. Complete, or it raises."""

    def terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        """Ends instances; again is harmless. An id that is not known is GONE. One that cannot be ended now is FAILED."""

    def renew(self, ids: Sequence[str], until: float) -> Mapping[str, float]:
        """Moves deadlines; for each instance that lives, the deadline that is in force now."""

    def notices(self) -> Sequence[Notice]:
        """Instances that are about to be taken away, each at least once."""

    def console(self, id: str) -> str:
        """The end of what the instance wrote while it started and ran; empty if there is none."""


def promised() -> tuple[str, ...]:
    """The names of all that a Provider has."""
    return (*Provider.__annotations__, *(name for name, one in vars(Provider).items() if callable(one) and name[0] != "_"))
