"""What an AWS region has for a pool: types, zones, subnets, images, prices. Each is looked up once and kept for a while."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from coalition.config import PoolSettings
from coalition.values import MICRO
from providers.aws_errors import translated
from providers.base import Reason, Rejected

T = TypeVar("T")
HOUR_S = 3_600.0
SPOT_S = 300.0  # spot prices move
PAST_S = 24 * HOUR_S  # of their history that is asked for at first
PRICING_REGION = "us-east-1"  # the price list is served from few regions


@dataclass(frozen=True)
class Type:
    name: str
    cpus: int
    memory_bytes: int
    gpus: int


@dataclass(frozen=True)
class Image:
    id: str
    root_device: str


@dataclass(frozen=True)
class Price:
    """Micro-dollars per hour, and when it was said; `changes`: what it was lately and is, from when on."""

    micro: int
    as_of: float
    changes: tuple[tuple[float, int], ...] = ()


class Catalog:
    """`client(service, region)` gives the SDK's clients. Safe for threads."""

    def __init__(self, region: str, client: Callable[..., Any], clock: Callable[[], float]) -> None:
        self.region, self.client, self.clock = region, client, clock
        self._kept: dict[tuple[Any, ...], tuple[float, Any]] = {}
        self._spot_since: dict[tuple[str, ...], float] = {}  # by types: from when on the next look wants to know
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

    # ------------------------------------------------------------ types, zones, networks

    def types(self, names: Sequence[str]) -> Sequence[Type]:
        return self._keep(("types", *names), 24 * HOUR_S, lambda: self._types(names))

    def _types(self, names: Sequence[str]) -> Sequence[Type]:
        with translated("describe_instance_types"):
            pages = self.client("ec2").get_paginator("describe_instance_types").paginate(InstanceTypes=list(names))
            found = {type.name: type for page in pages for type in map(_type, page["InstanceTypes"])}
        return [found[name] for name in names if name in found]

    def zones_of(self, types: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """type -> the zones that have it."""
        return self._keep(("zones", *types), HOUR_S, lambda: self._zones_of(types))

    def _zones_of(self, types: Sequence[str]) -> Mapping[str, Sequence[str]]:
        where = {"LocationType": "availability-zone", "Filters": [{"Name": "instance-type", "Values": list(types)}]}
        zones: dict[str, list[str]] = {}
        with translated("describe_instance_type_offerings"):
            for page in self.client("ec2").get_paginator("describe_instance_type_offerings").paginate(**where):
                for one in page["InstanceTypeOfferings"]:
                    zones.setdefault(one["InstanceType"], []).append(one["Location"])
        return {type: sorted(found) for type, found in zones.items()}

    def subnets(self, ids: Sequence[str]) -> Mapping[str, str]:
        """zone -> the first of these subnets in it; empty if none are named."""
        return self._keep(("subnets", *ids), HOUR_S, lambda: self._subnets(ids)) if ids else {}

    def _subnets(self, ids: Sequence[str]) -> Mapping[str, str]:
        with translated("describe_subnets"):
            found = self.client("ec2").describe_subnets(SubnetIds=list(ids))["Subnets"]
        return {one["AvailabilityZone"]: one["SubnetId"] for one in sorted(found, key=lambda one: -ids.index(one["SubnetId"]))}

    # ------------------------------------------------------------ images

    def image(self, pool: PoolSettings) -> Image:
        """The image that the pool's `image` stands for now; Rejected if there is none."""
        return self._keep(("image", pool.image, pool.image_owners), SPOT_S, lambda: self._image(pool))

    def _image(self, pool: PoolSettings) -> Image:
        kind, _, rest = pool.image.partition(":")
        if kind == "ssm":
            with translated("get_parameter"):
                rest = self.client("ssm").get_parameter(Name=rest)["Parameter"]["Value"]
        if kind in ("ssm", pool.image):
            return self.image_by_id(rest or pool.image)
        key, _, value = rest.partition("=")
        name, wanted = ("name", rest) if kind == "name" else (f"tag:{key}", value)
        filters = [{"Name": name, "Values": [wanted]}, {"Name": "state", "Values": ["available"]}]
        with translated("describe_images"):
            found = self.client("ec2").describe_images(Owners=list(pool.image_owners), Filters=filters)["Images"]
        if not found:
            owners = ", ".join(pool.image_owners)
            raise Rejected(Reason.INVALID, f"no image of {owners} fits {pool.image} in {self.region}")
        return _image(max(found, key=lambda one: (one.get("CreationDate", ""), one["ImageId"])))

    def image_by_id(self, id: str) -> Image:
        return self._keep(("ami", id), 24 * HOUR_S, lambda: self._image_by_id(id))

    def _image_by_id(self, id: str) -> Image:
        with translated("describe_images"):
            found = self.client("ec2").describe_images(ImageIds=[id])["Images"]
        if not found:
            raise Rejected(Reason.INVALID, f"there is no image {id} in {self.region}")
        return _image(found[0])

    # ------------------------------------------------------------ prices

    def spot_prices(self, types: Sequence[str]) -> Mapping[tuple[str, str], Price]:
        """(type, zone) -> what a spot machine costs now, and cost since this was asked before."""
        return self._keep(("spot", *types), SPOT_S, lambda: self._spot_prices(types))

    def _spot_prices(self, types: Sequence[str]) -> Mapping[tuple[str, str], Price]:
        now, since = self.clock(), self._spot_since.get(tuple(types), self.clock() - PAST_S)
        asked = {"InstanceTypes": list(types), "ProductDescriptions": ["Linux/UNIX"], "StartTime": since}
        said: dict[tuple[str, str], dict[float, int]] = {}
        with translated("describe_spot_price_history"):
            for page in self.client("ec2").get_paginator("describe_spot_price_history").paginate(**asked):
                for one in page["SpotPriceHistory"]:
                    prices = said.setdefault((one["InstanceType"], one["AvailabilityZone"]), {})
                    prices[one["Timestamp"].timestamp()] = round(float(one["SpotPrice"]) * MICRO)
        self._spot_since[tuple(types)] = now - SPOT_S  # what was asked for before is known, and may have come late
        # A price that has not moved for weeks was said again a moment ago.
        changes = {key: tuple(sorted(prices.items())) for key, prices in said.items()}
        return {key: Price(moved[-1][1], now, moved) for key, moved in changes.items()}

    def list_price(self, type: str) -> Price:
        """What an on-demand machine with Linux costs; 0 if the price list does not say."""
        return self._keep(("list", type), 24 * HOUR_S, lambda: self._list_price(type))

    def _list_price(self, type: str) -> Price:
        wanted = {
            "instanceType": type,
            "regionCode": self.region,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
        }
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        with translated("get_products"):
            pricing = self.client("pricing", PRICING_REGION)
            pages = pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)
            rates = {rate for page in pages for product in page["PriceList"] for rate in _hourly(json.loads(product))}
        # Two prices for what was asked mean that it was asked wrongly: the higher one is the ceiling.
        return Price(max(rates, default=0), self.clock())


def _type(answer: Mapping[str, Any]) -> Type:
    gpus = sum(gpu.get("Count", 0) for gpu in answer.get("GpuInfo", {}).get("Gpus", ()))
    return Type(answer["InstanceType"], answer["VCpuInfo"]["DefaultVCpus"], answer["MemoryInfo"]["SizeInMiB"] << 20, gpus)


def _image(answer: Mapping[str, Any]) -> Image:
    return Image(answer["ImageId"], answer.get("RootDeviceName", "/dev/xvda"))


def _hourly(product: Mapping[str, Any]) -> Iterator[int]:
    """Micro-dollars per hour in an entry of the price list."""
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for rate in term.get("priceDimensions", {}).values():
            if rate.get("unit") == "Hrs" and float(rate.get("pricePerUnit", {}).get("USD", 0)) > 0:
                yield round(float(rate["pricePerUnit"]["USD"]) * MICRO)
