"""What a region of Google Compute Engine has for a pool: zones, machine types, images, prices. Each is kept for a while.

Prices are made of the SKUs of the Cloud Billing Catalog: so much for a core, a GiB of memory and a GPU of a family, by the hour.
They are kept in a file too, with the time they were asked for. A type whose parts have no SKU has no price.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.api_core import exceptions
from google.cloud import compute_v1

from providers.base import Rejected, Unknown
from providers.gce_errors import translated

T = TypeVar("T")
HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
IMAGE_S = 300.0
TIMEOUT_S = 30.0
BILLING = "https://cloudbilling.googleapis.com"
COMPUTE_ENGINE = "6F81-5844-456A"  # the service's name in the catalog
# What SKUs call a family, where it is not the family's own name in capitals.
FAMILIES = {
    "n1": "N1 Predefined",
    "c2": "Compute optimized",
    "c2d": "C2D AMD",
    "n2d": "N2D AMD",
    "t2a": "T2A Arm",
    "t2d": "T2D AMD",
    "m1": "Memory-optimized",
}
PART = re.compile(r"^(?P<spot>Spot Preemptible )?(?P<family>.+?) (?:Instance )?(?P<part>Core|Ram) running in ")
GPU = re.compile(r"^(?P<name>Nvidia .+?) GPU (?:attached to Spot Preemptible VMs )?running in ")
OTHER = re.compile(r"custom|sole tenancy|commitment|reserved|extended", re.IGNORECASE)  # SKUs of other ways to pay
MARKETS = {"OnDemand": "on-demand", "Preemptible": "spot"}


@dataclass(frozen=True)
class Type:
    """`gpus` are those that the type has by itself: (accelerator type, how many); `unpriced`: billed by more than its parts."""

    name: str
    cpus: int
    memory_bytes: int
    gpus: tuple[str, int] | None
    unpriced: bool

    @property
    def family(self) -> str:
        return self.name.partition("-")[0]


@dataclass(frozen=True)
class Rates:
    """(market, what) -> nano-units of `currency` per hour of one core, GiB or GPU; asked for at `as_of`."""

    nanos: Mapping[tuple[str, str], int]
    currency: str
    as_of: float

    def price_micro(self, type: Type, market: str, gpus: tuple[str, int] | None) -> int:
        """What an hour of such a machine costs; 0 if a part of it is not in the catalog."""
        family = FAMILIES.get(type.family, type.family.upper())
        parts = [(f"{family} Core", float(type.cpus)), (f"{family} Ram", type.memory_bytes / 2**30)]
        if gpus:
            parts.append((gpu_name(gpus[0]), float(gpus[1])))
        rates = [self.nanos.get((market, what.lower()), 0) for what, _ in parts]
        if type.unpriced or not all(rates):
            return 0
        total = sum(rate * amount for rate, (_, amount) in zip(rates, parts, strict=True))
        return -int(-total // 1_000)  # rounded up


def gpu_name(accelerator: str) -> str:
    """nvidia-tesla-t4 -> Nvidia Tesla T4 GPU, as SKUs call it."""
    return " ".join(word.capitalize() for word in accelerator.split("-")) + " GPU"


class Catalog:
    """`client(kind)` gives the SDK's clients, `session()` an authorised HTTP session. Safe for threads."""

    def __init__(
        self,
        region: str,
        project: Callable[[], str],
        client: Callable[[type[Any]], Any],
        session: Callable[[], Any],
        clock: Callable[[], float],
        *,
        billing: str = BILLING,
        folder: Path | None = None,
    ) -> None:
        self.region, self.project, self.client, self.session, self.clock = region, project, client, session, clock
        self.billing, self.folder = billing.rstrip("/"), folder
        self._kept: dict[tuple[Any, ...], tuple[float, Any]] = {}
        self._lock = threading.Lock()

    def _keep(self, key: tuple[Any, ...], lasts_s: float, look_up: Callable[[], T]) -> T:
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and 0 <= self.clock() - kept[0] < lasts_s:
            return kept[1]  # type: ignore[no-any-return]
        value = look_up()
        with self._lock:
            self._kept[key] = (self.clock(), value)
        return value

    # ------------------------------------------------------------ zones, types, images

    def region_facts(self) -> Any:
        """The region with its zones and quotas."""
        return self._keep(("region",), IMAGE_S, self._region_facts)

    def _region_facts(self) -> Any:
        with translated("regions.get"):
            request = {"project": self.project(), "region": self.region}
            return self.client(compute_v1.RegionsClient).get(request=request, retry=None, timeout=TIMEOUT_S)

    def zones(self) -> Sequence[str]:
        return sorted(url.rpartition("/")[2] for url in self.region_facts().zones)

    def types(self, zone: str, names: Sequence[str]) -> Mapping[str, Type]:
        """Those of the named types that the zone has."""
        return self._keep(("types", zone, *names), DAY_S, lambda: self._types(zone, names))

    def _types(self, zone: str, names: Sequence[str]) -> Mapping[str, Type]:
        words = " OR ".join(f'(name = "{name}")' for name in names)
        request = {"project": self.project(), "zone": zone, "filter": words}
        with translated("machineTypes.list"):
            found = self.client(compute_v1.MachineTypesClient).list(request=request, retry=None, timeout=TIMEOUT_S)
            return {type.name: type for type in map(_type, found) if type.name in names}

    def image(self, name: str) -> str:
        """The path of the image that a pool's `image` stands for now; Rejected if there is none."""
        return self._keep(("image", name), IMAGE_S, lambda: self._image(name))

    def _image(self, name: str) -> str:
        project, is_family, short = image_parts(name)
        client = self.client(compute_v1.ImagesClient)
        with translated(f"image {name}"):
            place = {"project": project or self.project()}
            options: Mapping[str, Any] = {"retry": None, "timeout": TIMEOUT_S}
            if is_family:
                found = client.get_from_family(request={**place, "family": short}, **options)
            else:
                found = client.get(request={**place, "image": short}, **options)
            return f"projects/{place['project']}/global/images/{found.name}"

    # ------------------------------------------------------------ prices

    def rates(self, currency: str) -> Rates:
        """Asked for once a day. Where that fails the last ones are told, with their date, as long as there are any."""
        return self._keep(("rates", currency), HOUR_S, lambda: self._rates(currency))

    def _rates(self, currency: str) -> Rates:
        old = self._read(currency)
        if old is not None and 0 <= self.clock() - old.as_of < DAY_S:
            return old
        try:
            rates = Rates(_dearest(rates_of(self._skus(currency), self.region)), currency, self.clock())
        except (Rejected, Unknown):
            if old is None:
                raise
            return old
        self._write(rates)
        return rates

    def _skus(self, currency: str) -> Iterator[Mapping[str, Any]]:
        """All of them, or an error."""
        query = {"currencyCode": currency, "pageSize": "5000"}
        while True:
            with translated("skus.list"):
                url = f"{self.billing}/v1/services/{COMPUTE_ENGINE}/skus"
                answer = self.session().get(url, params=query, timeout=TIMEOUT_S)
                if answer.status_code >= 400:
                    raise exceptions.from_http_response(answer)
                page = answer.json()
            yield from page.get("skus", ())
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = page["nextPageToken"]

    def _path(self, currency: str) -> Path | None:
        return self.folder / f"gce-{self.region}-{currency}.json" if self.folder else None

    def _read(self, currency: str) -> Rates | None:
        path = self._path(currency)
        if path is None or not path.exists():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return Rates({(market, what): nanos for market, what, nanos in kept["nanos"]}, currency, kept["as_of"])
        except (OSError, ValueError, KeyError, TypeError):  # half written, or of another version: it is asked for again
            return None

    def _write(self, rates: Rates) -> None:
        path = self._path(rates.currency)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            nanos = [[*key, value] for key, value in sorted(rates.nanos.items())]
            new = path.with_suffix(f".{threading.get_ident()}.new")
            new.write_text(json.dumps({"as_of": rates.as_of, "nanos": nanos}), encoding="utf-8")
            new.replace(path)


def _type(answer: Any) -> Type:
    local_disks = bool(answer.bundled_local_ssds.partition_count)  # billed beside cores and memory
    gpus = [(one.guest_accelerator_type, one.guest_accelerator_count) for one in answer.accelerators]
    return Type(
        answer.name, answer.guest_cpus, answer.memory_mb << 20, gpus[0] if gpus else None, answer.is_shared_cpu or local_disks
    )


def _dearest(rates: Iterator[tuple[tuple[str, str], int]]) -> dict[tuple[str, str], int]:
    """Of SKUs of one name the dearest, since a price is a ceiling."""
    found: dict[tuple[str, str], int] = {}
    for key, nanos in rates:
        found[key] = max(nanos, found.get(key, 0))
    return found


def image_parts(name: str) -> tuple[str, bool, str]:
    """(project or nothing, whether it is a family, name) of what a pool says in `image`."""
    if match := re.fullmatch(r"projects/([^/]+)/global/images/(family/)?([^/]+)", name):
        return match[1], bool(match[2]), match[3]
    kind, _, rest = name.rpartition(":")
    return "", kind == "family", rest


def rates_of(skus: Iterator[Mapping[str, Any]], region: str) -> Iterator[tuple[tuple[str, str], int]]:
    """((market, what), nano-units per hour) of the SKUs that a region's machines are made of."""
    for sku in skus:
        market = MARKETS.get(sku.get("category", {}).get("usageType", ""))
        words = sku.get("description", "")
        if market is None or region not in sku.get("serviceRegions", ()) or OTHER.search(words):
            continue
        nanos = _nanos(sku)
        if nanos <= 0:
            continue
        if match := PART.match(words):
            yield (market, f"{match['family']} {match['part']}".lower()), nanos
        elif match := GPU.match(words):
            yield (market, f"{match['name']} GPU".lower()), nanos


def _nanos(sku: Mapping[str, Any]) -> int:
    """The price per hour of the dearest step; 0 if it is not by the hour."""
    offers = sku.get("pricingInfo", ())
    expression = offers[-1].get("pricingExpression", {}) if offers else {}
    if expression.get("usageUnit") not in ("h", "GiBy.h"):
        return 0
    prices = [rate.get("unitPrice", {}) for rate in expression.get("tieredRates", ())]
    return max((int(price.get("units", 0)) * 10**9 + int(price.get("nanos", 0)) for price in prices), default=0)
