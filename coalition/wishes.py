"""Who wants to be told of a job, and of what: the words of its `notify`, and the addresses that may be named there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OF_JOBS = ("error", "finished", "first")
OF_FARM = ("budget", "sick", "boot")  # an alert of a budget, a worker set aside, a machine that did not come up
KINDS = (*OF_JOBS, *OF_FARM)
NOBODY = "none"
FIRST = re.compile(r"first:([1-9][0-9]{0,5})\Z")
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
ADDRESS = re.compile(rf"(?=[^@]{{1,64}}@){ATOM}(?:\.{ATOM})*@[A-Za-z0-9](?:[A-Za-z0-9.-]{{0,187}}[A-Za-z0-9])?\Z")


class Wish(NamedTuple):
    """What is to be told, the number of children for `first` (0: none), and to which addresses besides the owner's."""

    kinds: frozenset[str]
    first: int
    addresses: tuple[str, ...]


def problem(words: Sequence[str]) -> str | None:
    """What is wrong with the words of a `notify`, or None."""
    for word in words:
        if word not in (*OF_JOBS[:2], NOBODY) and not FIRST.match(word) and not ADDRESS.match(word):
            return f"{word[:80]!r} is not allowed; allowed: error, finished, first:N, none, addresses such as ann@studio.example"
    if NOBODY in words and len(words) > 1:
        return "none stands alone"
    return None


def wish(words: Iterable[str]) -> Wish:
    """What the words of a `notify` ask for. Addresses alone ask for errors and the end."""
    kinds, first, addresses = set[str](), 0, []
    for word in words:
        if match := FIRST.match(word):
            first = int(match[1])
            kinds.add("first")
        elif "@" in word:
            addresses.append(word)
        elif word != NOBODY:
            kinds.add(word)
    if addresses and not kinds:
        kinds = {"error", "finished"}
    return Wish(frozenset(kinds), first, tuple(addresses))


def address_of(user: str, domains: Sequence[str]) -> str:
    """A user's address: the name itself if it is one, else the name in the first of the domains. Empty if there is none."""
    found = user if "@" in user else f"{user}@{domains[0]}" if domains else ""
    return found if may_be_told(found, domains) else ""


def may_be_told(address: str, domains: Sequence[str]) -> bool:
    """Whether jobs may have this address written to: the farm is no way to write to strangers."""
    return bool(ADDRESS.match(address)) and address.rpartition("@")[2].lower() in {domain.lower() for domain in domains}
