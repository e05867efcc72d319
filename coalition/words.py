"""Numbers in words, as messages and reasons write them."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 worker", "2 workers", "10,000 jobs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def verb(number: int, one: str, several: str) -> str:
    """The form of a verb that goes with a number: "1 worker matches", "2 workers match"."""
    return one if number == 1 else several
