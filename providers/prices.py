"""What an hour of a machine costs: who said so and when, which source goes first, and tables that people bring.

The first of these that knows a fresh price above 0 has the word: the studio's own table, the provider itself, the short list
below, anything else. A price that is 0, missing, or older than `price_max_age` is not known. Currencies are not converted.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from coalition.errors import BadInput, nearest
from coalition.model import Price
from coalition.values import a_currency, a_money, a_size
from providers.base import Offering

T = TypeVar("T")
STUDIO, SEED = "studio", "seed"
MARKETS = ("spot", "on-demand")
COLUMNS = ("provider", "region", "zone", "type", "market", "price", "currency", "cpus", "memory", "gpus", "as_of")
OTHER_NAMES = {"vcpus": "cpus", "gpu": "gpus", "price_per_hour": "price", "instance_type": "type", "date": "as_of"}
SPOT_LINE = re.compile(r"^[a-z0-9]+-az\d+\t")  # the public format of EC2's spot prices: zone id, type, product, dollars, time
DIRECTIONS = {
    "e": "east", "w": "west", "n": "north", "s": "south", "c": "central",
    "ne": "northeast", "nw": "northwest", "se": "southeast", "sw": "southwest",
}  # fmt: skip

# On-demand dollars per hour with Linux in us-east-1, for a first look before any source is at hand.
SEED_AS_OF = datetime(2024, 6, 1, tzinfo=timezone.utc).timestamp()
SEED_PRICES = {
    "c5.large": 0.085, "c5.xlarge": 0.17, "c5.2xlarge": 0.34, "c5.4xlarge": 0.68, "c5.9xlarge": 1.53,
    "c6i.large": 0.085, "c6i.xlarge": 0.17, "c6i.2xlarge": 0.34, "c6i.4xlarge": 0.68, "c6i.8xlarge": 1.36,
    "m5.large": 0.096, "m5.xlarge": 0.192, "m5.2xlarge": 0.384, "m5.4xlarge": 0.768,
    "r5.large": 0.126, "r5.xlarge": 0.252, "r5.2xlarge": 0.504, "g4dn.xlarge": 0.526, "g4dn.2xlarge": 0.752,
}  # fmt: skip


def seed() -> list[Price]:
    return [
        Price("aws", "us-east-1", "", type, "on-demand", SEED, round(dollars * 1e6), "USD", as_of=SEED_AS_OF)
        for type, dollars in SEED_PRICES.items()
    ]


# ---------------------------------------------------------------- which price holds


class Book:
    """Prices of all sources, to look up."""

    def __init__(self, prices: Iterable[Price], max_age_s: float) -> None:
        self.max_age_s = max_age_s
        self._prices: dict[tuple[str, str, str, str], list[Price]] = {}
        for one in [*prices, *seed()]:
            self._prices.setdefault((one.provider, one.region, one.type, one.market), []).append(one)

    def priced(self, provider: str, region: str, offer: Offering, now: float) -> Offering:
        """The offer with the price that holds; with price 0, and what is too old as its source, if none does."""
        live = self._own(provider, region, offer)
        known = self._prices.get((provider, region, offer.type, offer.market), [])
        # What the provider said before may be of another accelerator, or in another currency.
        known = [one for one in known if one.source != provider or (one.gpus == offer.gpus == 0 and not live)]
        found = [*live, *self._of_zone(known, offer.zone)]
        found.sort(key=lambda one: (_rank(one.source, provider), -one.as_of))
        for one in found:
            if one.price_micro > 0 and now - one.as_of <= self.max_age_s:
                if one in live:
                    return offer
                return _with(offer, one)
        return replace(offer, price_micro=0, bid_micro=0, price_source=self._why_none(found), price_as_of=0.0)

    def _own(self, provider: str, region: str, offer: Offering) -> list[Price]:
        """What the provider said with the offer. It does not date everything; what it says undated is of now."""
        if offer.price_micro <= 0:
            return []
        as_of = offer.price_as_of or float("inf")
        named = (provider, region, offer.zone, offer.type, offer.market)
        return [Price(*named, provider, offer.price_micro, offer.currency, as_of=as_of)]

    def _of_zone(self, known: Sequence[Price], zone: str) -> Iterator[Price]:
        """Of each source the price in this zone, else the one for all zones, else the highest of any zone."""
        for source in sorted({one.source for one in known}):
            mine = [one for one in known if one.source == source]
            exact = [one for one in mine if one.zone == zone] or [one for one in mine if not one.zone]
            yield max(exact or mine, key=lambda one: (one.price_micro, one.as_of))

    def _why_none(self, found: Sequence[Price]) -> str:
        old = max((one for one in found if one.price_micro > 0), key=lambda one: one.as_of, default=None)
        if old is None:
            return ""
        day = datetime.fromtimestamp(old.as_of, timezone.utc).date().isoformat()
        return f"that of {old.source} is of {day}, and price_max_age is {self.max_age_s / 86_400:g} days"


def _with(offer: Offering, price: Price) -> Offering:
    return replace(
        offer,
        price_micro=price.price_micro,
        bid_micro=price.price_micro if offer.market == "spot" else 0,
        rate_micro=0,
        currency=price.currency,
        price_source=price.source,
        price_as_of=price.as_of,
    )


def _rank(source: str, provider: str) -> int:
    order = (STUDIO, provider, SEED)
    return order.index(source) if source in order else len(order)


def said(provider: str, region: str, offers: Iterable[Offering]) -> list[Price]:
    """What a provider says of its offers and dates, to be kept."""
    return [
        Price(provider, region, one.zone, one.type, one.market, provider, one.price_micro, one.currency,
              one.cpus, one.memory_bytes, one.gpus, one.price_as_of)
        for one in offers
        if one.price_micro > 0 and one.price_as_of
    ]  # fmt: skip


# ---------------------------------------------------------------- tables that people bring


def read_table(path: Path, defaults: Mapping[str, str] | None = None, source: str = STUDIO) -> list[Price]:
    """The prices in a CSV or TSV file (.gz too), or in the public format of EC2's spot prices. BadInput names the line.

    `defaults` are values for columns that the file does not have.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.name.endswith(".gz") else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(fields={"file": f"{path} cannot be read: {error}"}) from None
    if SPOT_LINE.match(text):
        return list(_spot_lines(text, source))
    return list(_table_lines(text, defaults or {}, source))


def _spot_lines(text: str, source: str) -> Iterator[Price]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("\t")
        if len(words) != 5:
            raise _wrong(number, "line", line, "zone id, type, product, dollars per hour and time")
        zone, type, product, dollars, time = words
        if product == "Linux/UNIX":
            row = {"provider": "aws", "region": region_of(zone), "zone": zone, "type": type, "market": "spot"}
            yield _price({**row, "price": dollars, "currency": "USD", "as_of": time}, number, source)


def region_of(zone_id: str) -> str:
    """use1-az2 -> us-east-1; BadInput for what is no zone's id."""
    match = re.fullmatch(r"([a-z]{2})(ne|nw|se|sw|n|e|s|w|c)(\d)-az\d+", zone_id)
    if not match:
        raise BadInput(fields={"zone": f'"{zone_id}" is not the id of a zone, such as use1-az2'})
    return f"{match[1]}-{DIRECTIONS[match[2]]}-{match[3]}"


def _table_lines(text: str, defaults: Mapping[str, str], source: str) -> Iterator[Price]:
    first = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in first else ",", strict=True)
    try:
        names = [OTHER_NAMES.get(name.strip().lower(), name.strip().lower()) for name in next(rows, [])]
        for name in names:
            if name not in COLUMNS:
                raise BadInput(fields={"line 1": f'"{name[:40]}" is no column; {nearest(name[:40], COLUMNS)}'})
        for words in rows:
            if not words:
                continue
            if len(words) != len(names):
                raise _wrong(rows.line_num, "line", ",".join(words), f"{len(names)} values, as in the first line")
            yield _price({**defaults, **dict(zip(names, map(str.strip, words), strict=True))}, rows.line_num, source)
    except csv.Error as error:
        raise BadInput(fields={f"line {rows.line_num}": f"cannot be read: {error}"}) from None


def _price(row: Mapping[str, str], number: int, source: str) -> Price:
    for name in ("provider", "type", "price", "as_of"):
        if not row.get(name):
            raise BadInput(fields={f"line {number}": f"has no `{name}`"})
    market = row.get("market") or "on-demand"
    if market not in MARKETS:
        raise _wrong(number, "market", market, " or ".join(MARKETS))
    return Price(
        provider=row["provider"],
        region=row.get("region", ""),
        zone=row.get("zone", ""),
        type=row["type"],
        market=market,
        source=source,
        price_micro=_read(a_money, row["price"], number, "price"),
        currency=_read(a_currency, row.get("currency") or "USD", number, "currency"),
        cpus=_read(int, row.get("cpus") or "0", number, "cpus"),
        memory_bytes=_read(a_size, row.get("memory") or "0", number, "memory"),
        gpus=_read(int, row.get("gpus") or "0", number, "gpus"),
        as_of=_read(moment, row["as_of"], number, "as_of"),
    )


def _read(read: Callable[[str], T], text: str, number: int, name: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise _wrong(number, name, text, str(error)) from None


def moment(text: str) -> float:
    """Seconds since 1970 of an ISO date or time (UTC where it does not say), or of such seconds."""
    if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
        return float(text)
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError("a date such as 2026-01-31 or 2026-01-31T12:00:00+00:00") from None
    return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()


def _wrong(number: int, name: str, value: str, allowed: str) -> BadInput:
    return BadInput(fields={f"line {number}": f'{name} "{value[:80]}" is not allowed: {allowed}'})
