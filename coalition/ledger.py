"""Money as arithmetic: seconds x price, windows, what a funding commits, and how a bill splits. Pure: no clock, no SQL.

Amounts are integer micro-units, prices micro-units per hour, times seconds since 1970. Every amount is rounded up, on times
rounded to the microsecond, so that a part never costs less than what a provider could bill for it.
"""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

US = 1_000_000
HOUR_US = 3_600 * US
DAY_S = 86_400
ENDLESS = 253_402_300_800.0  # the year 10000


def _us(at: float) -> int:
    return round(at * US)


def cost(price_micro: int, start: float, end: float) -> int:
    """What the time from `start` to `end` costs, rounded up; 0 if it is empty."""
    return -(-price_micro * max(0, _us(end) - _us(start)) // HOUR_US)


def billed_end(start: float, end: float, minimum_s: float, granularity_s: float) -> float:
    """When the time that is billed ends: at least the provider's minimum, in whole steps of its granularity."""
    length_us = max(_us(end) - _us(start), _us(minimum_s), 0)
    step_us = max(_us(granularity_s), 1)
    return start + -(-length_us // step_us) * step_us / US


def committed_end(funded_until: float, launch_by: float, slack_s: float, minimum_s: float, granularity_s: float) -> float:
    """The latest moment that can be billed of an instance that starts by `launch_by` and ends by `funded_until`."""
    return max(funded_until + slack_s, launch_by + minimum_s) + granularity_s


# ---------------------------------------------------------------- windows


def window_at(kind: str, zone: str, at: float) -> tuple[float, float]:
    """The window (hour, day, week, month, total) of a time zone that `at` is in, as [start, end)."""
    if kind == "total":
        return 0.0, ENDLESS
    clock = timezone.utc if zone == "UTC" else ZoneInfo(zone)
    local = datetime.fromtimestamp(at // 1, clock)
    if kind == "hour":
        start = at // 1 - local.minute * 60 - local.second
        return start, start + 3_600
    first = local.date()
    if kind == "week":
        first -= timedelta(days=local.weekday())
    elif kind == "month":
        first = first.replace(day=1)
    days = {"day": 1, "week": 7}.get(kind, 31)
    last = first + timedelta(days=days)
    return _midnight(first.isoformat(), clock), _midnight((last.replace(day=1) if kind == "month" else last).isoformat(), clock)


def _midnight(day: str, clock: tzinfo) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=clock).timestamp()


def windows(kind: str, zone: str, start: float, end: float) -> list[tuple[float, float]]:
    """The windows that [start, end) touches, in order."""
    found = [window_at(kind, zone, start)]
    while found[-1][1] < end:
        found.append(window_at(kind, zone, found[-1][1]))
    return found


def split(price_micro: int, start: float, end: float, cuts: Iterable[tuple[float, float]]) -> list[int]:
    """The cost of [start, end) in each of the windows that tile it; the parts add up to cost(price_micro, start, end) exactly."""
    parts, before = [], 0
    for _, window_end in cuts:
        until = cost(price_micro, start, max(start, min(end, window_end)))
        parts.append(until - before)
        before = until
    return parts


def commit(price_micro: int, start: float, end: float, cuts: Iterable[tuple[float, float]]) -> list[int]:
    """What [start, end) may cost in each window at most: each part rounded up by itself."""
    return [cost(price_micro, max(start, window_start), min(end, window_end)) for window_start, window_end in cuts]


# ---------------------------------------------------------------- a bill, booked

Rates = Sequence[tuple[float, int]]  # (from when on, price an hour), in order; the first one also holds before its time


def bill(rates: Rates, start: float, end: float) -> int:
    """What the time from `start` to `end` costs at the prices of the time, rounded up once."""
    end = max(start, end)
    cuts = [start, *(min(max(at, start), end) for at, _ in rates[1:]), end]
    total = sum(price * (_us(until) - _us(since)) for (_, price), (since, until) in zip(rates, pairwise(cuts), strict=True))
    return -(-total // HOUR_US)


@dataclass(frozen=True)
class Span:
    """Time in which an attempt held a slot. `waste`: its result did not count."""

    start: float
    end: float
    attempt: int = 0
    waste: bool = False


@dataclass(frozen=True)
class Entry:
    """A part of an instance's bill, within one UTC day. `kind` is boot, run, waste or idle; run and waste are an attempt's."""

    kind: str
    at: float
    seconds: float
    amount_micro: int
    attempt: int = 0


def book(rates: Rates, slots: int, start: float, enrolled: float | None, end: float, spans: Sequence[Span]) -> list[Entry]:
    """The bill of [start, end) by day, kind and attempt; amounts add up to bill(rates, start, end), seconds to end - start.

    Before `enrolled` (None: never) it boots. After it, each span has its share of the slot time, and the rest is idle.
    """
    ready = end if enrolled is None else min(max(enrolled, start), end)
    changes = [at for at, _ in rates[1:] if start < at < end]
    bounds = [start, *sorted({*_midnights(start, end), *changes, ready, end} - {start})]
    busy = _busy(bounds, ready, spans)
    sums: dict[tuple[str, str, int], list[Any]] = {}
    before = 0
    for (begin, cut), held in zip(pairwise(bounds), busy, strict=True):
        until = bill(rates, start, cut)
        for kind, attempt, seconds, amount in _parts(begin, cut, until - before, slots if cut > ready else 0, held, spans):
            entry = sums.setdefault((day_of(begin), kind, attempt), [begin, 0.0, 0])
            entry[1] += seconds
            entry[2] += amount
        before = until
    entries = [Entry(kind, at, seconds, amount, attempt) for (_, kind, attempt), (at, seconds, amount) in sums.items()]
    return [entry for entry in entries if entry.seconds > 0 or entry.amount_micro > 0]


def _busy(bounds: Sequence[float], ready: float, spans: Sequence[Span]) -> list[dict[int, int]]:
    """For each piece between bounds, which spans held a slot in it and for how many microseconds."""
    busy: list[dict[int, int]] = [{} for _ in bounds[1:]]
    for number, span in enumerate(spans):
        since, until = max(span.start, ready), min(span.end, bounds[-1])
        piece = max(0, bisect_right(bounds, since) - 1)
        while piece < len(busy) and bounds[piece] < until:
            held = _us(min(until, bounds[piece + 1])) - _us(max(since, bounds[piece]))
            if held > 0:
                busy[piece][number] = held
            piece += 1
    return busy


def _parts(
    begin: float, cut: float, amount: int, slots: int, held: Mapping[int, int], spans: Sequence[Span]
) -> Iterator[tuple[str, int, float, int]]:
    """(kind, attempt, seconds, amount) of a piece in which nothing changes; without slots it boots."""
    if not slots:
        yield "boot", 0, cut - begin, amount
        return
    full_us = max(slots * (_us(cut) - _us(begin)), sum(held.values()), 1)
    seconds, given, done_us = cut - begin, 0, 0
    for number, us in held.items():
        done_us += us
        share = amount * done_us // full_us - given  # of the running sum, so that the shares add up
        given += share
        yield "waste" if spans[number].waste else "run", spans[number].attempt, seconds * us / full_us, share
    yield "idle", 0, seconds * (full_us - done_us) / full_us, amount - given


def day_of(at: float) -> str:
    """The day in UTC, such as 2024-03-31."""
    return datetime.fromtimestamp(at // 1, timezone.utc).date().isoformat()


def _midnights(start: float, end: float) -> list[float]:
    first = int(start // DAY_S) + 1
    return [float(day * DAY_S) for day in range(first, int(end // DAY_S) + 1) if start < day * DAY_S < end]


# ---------------------------------------------------------------- forecasts

NINETY = 1.645  # standard deviations: 9 of 10 outcomes lie within so many of the mean


@dataclass(frozen=True)
class Likes:
    """Jobs alike: how many are left, for how long those of them that run have run, and what those that finished took and cost.

    Seconds, micro-units.
    """

    left: int
    finished: int
    total_s: float = 0.0
    squares_s: float = 0.0  # the sum of their squares
    cost_micro: int = 0
    ages: tuple[float, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """Machine time and money that are left, each with the range in which 9 of 10 outcomes lie."""

    jobs: int
    unknown: int  # of them: those of which no like has finished, which are guessed by all others
    seconds: tuple[float, float, float]  # the least, the middle, the most
    cost_micro: tuple[int, int, int]


def forecast(groups: Sequence[Likes]) -> Forecast:
    """What is left to run and to pay: each group's mean times what is left of it, less what has run already.

    Few that finished are a rough guide, however alike they were: their spread is at least half of the mean, divided by their
    number. Of whom nothing finished, the mean of all others counts, and the range is as wide as it.
    """
    unknown = sum(one.left for one in groups if not one.finished)
    finished = sum(one.finished for one in groups)
    work_s = variance = cost = 0.0
    all_s, all_micro = sum(one.total_s for one in groups), sum(one.cost_micro for one in groups)
    for one in groups if finished else ():
        count, total_s, micro = (one.finished, one.total_s, one.cost_micro) if one.finished else (finished, all_s, all_micro)
        mean = total_s / count
        spread = max(0.0, one.squares_s / count - mean * mean) + mean * mean / 4 / count if one.finished else mean * mean
        left_s = mean * one.left - sum(min(age, mean) for age in one.ages)
        work_s += left_s
        variance += spread * (one.left + one.left * one.left / (one.finished or 1))  # of the jobs, and of the mean itself
        cost += micro / total_s * left_s if total_s else 0.0
    half = NINETY * math.sqrt(variance)
    share = half / work_s if work_s else 0.0
    low, high = max(0.0, 1 - share), 1 + share
    jobs = sum(one.left for one in groups)
    return Forecast(jobs, unknown, (work_s * low, work_s, work_s + half), (round(cost * low), round(cost), round(cost * high)))


CSV_AMOUNTS = ("amount", "run", "waste", "idle", "boot")


def costs_as_csv(lines: Iterable[Mapping[str, Any]]) -> str:
    """Lines of costs as a table; texts that a spreadsheet would run as a formula begin with an apostrophe."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(["key", "name", "currency", "hours", *CSV_AMOUNTS])
    for line in lines:
        texts = [str(line.get(name, "")) for name in ("key", "name", "currency")]
        amounts = [f"{Decimal(line.get(f'{name}_micro', 0)) / US:f}" for name in CSV_AMOUNTS]
        safe = [f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text for text in texts]
        table.writerow([*safe, f"{line.get('seconds', 0.0) / 3_600:.4f}", *amounts])
    return out.getvalue()


def money(amount_micro: int, currency: str = "USD") -> str:
    """An amount for people: "$1.50", "0.0031 EUR". Small amounts keep two significant digits."""
    value = abs(amount_micro) / US
    digits = 2 if value == 0 or value >= 0.1 else min(6, 2 + max(0, len(str(int(0.1 / value)))))
    text = f"{value:,.{digits}f}"
    sign = "-" if amount_micro < 0 else ""
    return f"{sign}${text}" if currency == "USD" else f"{sign}{text} {currency}"
