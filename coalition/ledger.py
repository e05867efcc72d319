"""Money as arithmetic: seconds x price, windows, what a funding commits, and how a bill splits. Pure: no clock, no SQL.

Amounts are integer micro-units, prices micro-units per hour, times seconds since 1970. Every amount is rounded up, on times
rounded to the microsecond, so that a part never costs less than what a provider could bill for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
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


@dataclass(frozen=True)
class Entry:
    """A part of an instance's bill, within one UTC day. `kind` is boot, run or idle."""

    kind: str
    at: float
    seconds: float
    amount_micro: int


def book(
    price_micro: int, slots: int, start: float, enrolled: float | None, end: float, busy: Sequence[tuple[float, float]]
) -> list[Entry]:
    """The bill of [start, end) by day and kind; amounts add up to cost(price_micro, start, end), seconds to end - start.

    Before `enrolled` (None: never) it boots. After it, the share of slot time that `busy` intervals fill is run, the rest idle.
    """
    ready = end if enrolled is None else min(max(enrolled, start), end)
    cuts = sorted({*_midnights(start, end), ready, end} - {start})
    entries, begin = [], start
    for cut, amount in zip(cuts, split(price_micro, start, end, [(0.0, cut) for cut in cuts]), strict=True):
        seconds = cut - begin
        if cut <= ready:
            entries.append(Entry("boot", begin, seconds, amount))
        else:
            full_us = slots * (_us(cut) - _us(begin))
            busy_us = min(full_us, sum(max(0, _us(min(b, cut)) - _us(max(a, begin))) for a, b in busy))
            run = amount * busy_us // full_us if full_us else 0
            ran_s = min(seconds, busy_us / US / slots)
            entries.append(Entry("run", begin, ran_s, run))
            entries.append(Entry("idle", begin, seconds - ran_s, amount - run))
        begin = cut
    return [entry for entry in entries if entry.seconds > 0 or entry.amount_micro > 0]


def _midnights(start: float, end: float) -> list[float]:
    first = int(start // DAY_S) + 1
    return [float(day * DAY_S) for day in range(first, int(end // DAY_S) + 1) if start < day * DAY_S < end]


def money(amount_micro: int, currency: str = "USD") -> str:
    """An amount for people: "$1.50", "0.0031 EUR". Small amounts keep two significant digits."""
    value = abs(amount_micro) / US
    digits = 2 if value == 0 or value >= 0.1 else min(6, 2 + max(0, len(str(int(0.1 / value)))))
    text = f"{value:,.{digits}f}"
    sign = "-" if amount_micro < 0 else ""
    return f"{sign}${text}" if currency == "USD" else f"{sign}{text} {currency}"
