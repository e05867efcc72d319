"""Numbers in words, as messages and reasons write them."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 worker", "2 workers", "10,000 jobs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def rough(seconds: float) -> str:
    """How long, in one unit: "80 s", "14 min", "3 h", "5 days"; 0 s where it is over."""
    whole = max(0, round(seconds))
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= 2 * length:
            return f"{whole // length:,} {unit}"
    return f"{whole} s"


def verb(number: int, one: str, several: str) -> str:
    """The form of a verb that goes with a number: "1 worker matches", "2 workers match"."""
    return one if number == 1 else several
