"""The filter grammar of lists, such as `state:ERROR,WORKING user:ann -title:test created>-2h "shot 10"`. Text in, terms out.

    filter = term { " " term }                          all of them must fit
    term   = [ "-" ] ( field op value { "," value } | word )     - : must not fit; a word is a part of the title
    op     = ":" | ">" | "<" | ">=" | "<="              ":" is equality, for texts like titles that the part is in them
    value  = word | quoted words                        times: 2026-11-24, 2026-11-24T10:00 (UTC), or -2h: two hours ago

Nothing of it becomes text of a query: a term is a field of FIELDS, an operator of OPERATORS, and values of the field's kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from coalition.errors import BadInput, nearest
from coalition.model import MAX_FILTER
from coalition.states import JobState

MAX_TERMS = 32
OPERATORS = (">=", "<=", ":", ">", "<")
TOKEN = re.compile(
    r'\s*(?P<no>-)?(?:(?P<field>[a-z_]+)(?P<op>>=|<=|:|>|<))?(?P<values>(?:"[^"]*"|[^\s",]+)(?:,(?:"[^"]*"|[^\s",]+))*)'
)
VALUE = re.compile(r'"([^"]*)"|([^",]+)')
AGO = re.compile(r"-(\d{1,9}(?:\.\d+)?)(s|m|h|d|w)\Z")
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
FLAGS = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Term:
    """One condition. `values`: any of them; one, where the operator is no equality."""

    field: str
    operator: str
    values: tuple[Any, ...]
    negated: bool = False


def a_state(text: str, now: float) -> str:
    if text.upper() not in list(JobState):
        raise ValueError(f"a state; {nearest(text.upper(), list(JobState))}")
    return text.upper()


def a_text(text: str, now: float) -> str:
    return text


def a_flag(text: str, now: float) -> bool:
    if text.lower() not in FLAGS:
        raise ValueError("yes or no")
    return FLAGS[text.lower()]


def a_number(text: str, now: float) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise ValueError("a whole number")
    return int(text)


def a_time(text: str, now: float) -> float:
    ago = AGO.match(text)
    if ago:
        return now - float(ago[1]) * SECONDS[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a time such as 2026-11-24, 2026-11-24T10:00 or -2h") from None
    return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()


Reader = Callable[[str, float], Any]
EQUAL, ORDERED = (":",), (":", ">", "<", ">=", "<=")
FIELDS: Mapping[str, tuple[Reader, Sequence[str]]] = {
    "state": (a_state, EQUAL),
    "user": (a_text, EQUAL),
    "title": (a_text, EQUAL),
    "paused": (a_flag, EQUAL),
    "group": (a_flag, EQUAL),
    "id": (a_number, ORDERED),
    "parent": (a_number, EQUAL),
    "priority": (a_number, ORDERED),
    "errors": (a_number, ORDERED),
    "retries": (a_number, ORDERED),
    "frame": (a_number, ORDERED),
    "created": (a_time, ORDERED[1:]),
    "started": (a_time, ORDERED[1:]),
    "ended": (a_time, ORDERED[1:]),
}


def parse(text: str, now: float) -> tuple[Term, ...]:
    """The terms of a filter; BadInput says which part is wrong, and what is allowed."""
    if len(text) > MAX_FILTER:
        raise _wrong(f"is {len(text):,} long; at most {MAX_FILTER:,}")
    terms = tuple(_terms(text, now))
    if len(terms) > MAX_TERMS:
        raise _wrong(f"has {len(terms)} terms; at most {MAX_TERMS}")
    return terms


def _terms(text: str, now: float) -> Iterator[Term]:
    at, end = 0, len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at)
        if match is None:
            raise _wrong(f"cannot be read from {text[at : at + 40].strip()!r} on; quotes come in pairs, commas between values")
        at = match.end()
        yield _term(match, now)


def _term(match: re.Match[str], now: float) -> Term:
    name, operator = match["field"] or "title", match["op"] or ":"
    if name not in FIELDS:
        raise _wrong(f"{name[:40]!r} is no field; {nearest(name, FIELDS)}")
    read, allowed = FIELDS[name]
    if operator not in allowed:
        raise _wrong(f"{name}{operator} is not allowed; allowed: {', '.join(name + one for one in allowed)}")
    values = [quoted or plain for quoted, plain in VALUE.findall(match["values"])]
    if operator != ":" and len(values) > 1:
        raise _wrong(f"{name}{operator} takes one value")
    try:
        return Term(name, operator, tuple(read(value, now) for value in values), bool(match["no"]))
    except ValueError as error:
        raise _wrong(f"{name}{operator}{match['values'][:40]} is not {error}") from None


def _wrong(words: str) -> BadInput:
    return BadInput(fields={"filter": words})
