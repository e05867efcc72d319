"""When a worker takes jobs: weekly hours, such as "mon-fri 19:00-07:00, sat-sun 00:00-24:00", and a rule for desktops.

Pure: the time is given.

A span begins on each of its days; one that ends at or before its start ends on the day after. Hours are what a clock on the
wall of the time zone shows: where that clock is put back an hour, what it shows twice counts twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from coalition.errors import BadInput, nearest

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60
WEEK = 7 * DAY
PART = re.compile(r"(?:(?P<first>[a-z]+)(?:-(?P<last>[a-z]+))?\s+)?(?P<start>\d\d?:\d\d)\s*-\s*(?P<end>\d\d?:\d\d)")
FORM = "write days and a span, such as mon-fri 19:00-07:00, or a span for every day"


@dataclass(frozen=True)
class Hours:
    """`spans` are minutes since Monday 00:00, ends excluded, none over the end of the week; always open if there are none."""

    spans: tuple[tuple[int, int], ...] = ()
    zone: tzinfo = timezone.utc

    def is_open(self, now: float) -> bool:
        """Whether it is open at a time (seconds since 1970)."""
        if not self.spans:
            return True
        there = datetime.fromtimestamp(now, self.zone)
        minute = there.weekday() * DAY + there.hour * 60 + there.minute
        return any(start <= minute < end for start, end in self.spans)

    def changes_at(self, now: float) -> float | None:
        """When it opens if it is closed, closes if it is open; None if it never does."""
        if not self.spans:
            return None
        before = self.is_open(now)
        return next((at for at in sorted(self._edges(now)) if at > now and self.is_open(at) != before), None)

    def closes_at(self, now: float) -> float | None:
        """When it closes next; None if it is closed now, or never closes."""
        return self.changes_at(now) if self.is_open(now) else None

    def opens_at(self, now: float) -> float | None:
        """When it opens next; None if it is open now."""
        return None if self.is_open(now) else self.changes_at(now)

    def moment(self, at: float) -> str:
        """A time as people in the zone write it: "Mon 19:00"."""
        there = datetime.fromtimestamp(at, self.zone)
        return f"{DAYS[there.weekday()].capitalize()} {there:%H:%M}"

    def _edges(self, now: float) -> Iterator[float]:
        """The times within the next week and a day at which the answer may change, in no order."""
        today = datetime.fromtimestamp(now, self.zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        for offset in range(-1, 9):
            day = today + timedelta(days=offset)
            yield from self._clock_change(day, day + timedelta(days=1))
            for minute in {edge for span in self.spans for edge in span}:
                if minute // DAY % 7 == day.weekday():
                    there = day + timedelta(minutes=minute % DAY)
                    yield from {self._at(there, fold) for fold in (0, 1)}

    def _at(self, there: datetime, fold: int) -> float:
        return there.replace(tzinfo=self.zone, fold=fold).timestamp()

    def _clock_change(self, start: datetime, end: datetime) -> Iterator[float]:
        """The moment between two at which the zone's clock is put forward or back, to the second."""
        low, high = self._at(start, 0), self._at(end, 0)
        before = self._offset(low)
        if before == self._offset(high):
            return
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._offset(middle) == before else (low, middle)
        yield high

    def _offset(self, at: float) -> timedelta | None:
        return datetime.fromtimestamp(at, self.zone).utcoffset()


@dataclass(frozen=True)
class Availability:
    """When a worker takes jobs. `end` is what becomes of what runs when the hours end: finish, or requeue.

    The idle rule (0: none): nobody used the machine for `user_s`, and its load without our own jobs is below `load`.
    """

    hours: Hours = Hours()
    end: str = "finish"
    user_s: float = 0.0
    load: float = 0.0

    def refusal(self, now: float, load: float, user_idle_s: float | None, running: int) -> str | None:
        """Why it takes no job now, in words that follow its name; None if it does.

        `user_idle_s` is None where it cannot be told: then that rule stops nothing. Each job that runs counts as a load of 1.
        """
        opens_at = self.hours.opens_at(now)
        if opens_at is not None:
            return f"is outside its hours; opens {self.hours.moment(opens_at)}"
        if user_idle_s is not None and user_idle_s < self.user_s:
            return f"was used {user_idle_s:.0f} s ago; takes jobs {self.user_s:.0f} s after its user"
        others = max(0.0, load - running)
        if self.load and others >= self.load:
            return f"has a load of {others:.1f}; takes jobs below {self.load:g}"
        return None


@lru_cache(maxsize=1_024)
def parse(text: str, zone: str = "UTC") -> Hours:
    """Hours from their text; empty means always. BadInput names the part that is wrong and what is allowed.

    An equal text gives the same object, so callers need not keep it.
    """
    spans: list[tuple[int, int]] = []
    for part in filter(None, (part.strip() for part in text.lower().split(","))):
        spans += _spans(part)
    return Hours(_merged(spans), a_zone(zone))


def a_zone(name: str) -> tzinfo:
    """A time zone by its IANA name; BadInput with the nearest one."""
    if name == "UTC":  # known also where the machine has no table of time zones
        return timezone.utc
    from zoneinfo import ZoneInfo, available_timezones  # heavier than all else that the client imports

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there, not a name, a folder of zones
        hint = nearest(name[:64], available_timezones())
        hint = hint if hint.startswith("did") else "give an IANA name such as Europe/Berlin"
        raise BadInput(fields={"timezone": f"{name[:64]!r} is not a time zone; {hint}"}) from None


def hours_complaint(text: str) -> str | None:
    """What is wrong with a text of hours; None if it can be used."""
    return _complaint(parse, text)


def zone_complaint(name: str) -> str | None:
    """What is wrong with a time zone's name; None if it can be used."""
    return _complaint(a_zone, name)


def _complaint(read: Callable[[str], object], text: str) -> str | None:
    try:
        read(text)
    except BadInput as error:
        return next(iter(error.fields.values()))
    return None


def _wrong(part: str, why: str) -> BadInput:
    return BadInput(fields={"hours": f"{part[:80]!r} {why}"})


def _spans(part: str) -> Iterator[tuple[int, int]]:
    """The spans of one part, the piece of one that runs over the end of the week apart."""
    match = PART.fullmatch(part)
    if match is None:
        raise _wrong(part, f"is not understood; {FORM}")
    start, end = _minute(part, match["start"]), _minute(part, match["end"])
    if start in (end, DAY):
        raise _wrong(part, "is empty; the whole day is 00:00-24:00")
    length = end - start if end > start else end - start + DAY
    for day in _days(part, match["first"], match["last"]):
        begin = day * DAY + start
        yield begin, min(begin + length, WEEK)
        if begin + length > WEEK:
            yield 0, begin + length - WEEK


def _minute(part: str, text: str) -> int:
    hour, _, minute = text.partition(":")
    found = int(hour) * 60 + int(minute)
    if int(minute) > 59 or found > DAY:
        raise _wrong(part, f"has no time of day in {text}; 00:00 to 24:00 are")
    return found


def _days(part: str, first: str | None, last: str | None) -> Sequence[int]:
    """The days from `first` to `last`, which may go over the end of the week; all of them if none is given."""
    if first is None:
        return range(7)
    for name in (first, last or first):
        if name not in DAYS:
            raise _wrong(part, f"has no day in {name!r}; allowed: {', '.join(DAYS)}")
    begin, end = DAYS.index(first), DAYS.index(last or first)
    return [day % 7 for day in range(begin, (end if end >= begin else end + 7) + 1)]


def _merged(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same hours in ascending spans that do not touch; none if they fill the week."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return () if merged == [(0, WEEK)] else tuple(merged)
