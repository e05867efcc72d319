"""Answers that are lists: some of the fields, page by page, and one answer for all who ask the same at the same time.

A page is followed by its `next`: what comes after the last row seen, whatever came or went before it. Whoever polls says what age
of an answer will do (`Cache-Control: max-age=1`), and then many pages on the same list cost one. An answer is never older than
the last action that went through this process.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from flask import Response, g, request

from coalition.errors import BadInput, nearest
from coalition.model import MAX_INT, to_dict
from coalition.server import web

MAX_AGE_S = 10.0
KEPT, KEPT_BYTES = 256, 1 << 26  # answers, of which the last used stay
PAGING = ("limit", "cursor", "fields")
Row = Mapping[str, Any]


def listing(name: str, rows: Iterable[Any], following: str | None = None, **more: Any) -> Response:
    """The answer of a list: its rows, with those of their `fields` that were asked for, and where the next page begins."""
    return web.reply({name: some_fields(to_dict(list(rows))), "next": following, **more})


def some_fields(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows with the fields that the call names, or with all."""
    names = web.words("fields")
    if not names or not rows:
        return rows
    for name in names:
        if name not in rows[0]:
            raise BadInput(fields={"fields": f"{name[:40]!r} is no field; {nearest(name[:40], rows[0])}"})
    return [{name: row[name] for name in names} for row in rows]


# ---------------------------------------------------------------- pages


def newest_first(name: str, ask: Callable[[int, int | None], Sequence[Any]], low: int = 100, high: int = 1_000) -> Response:
    """A page of rows by descending id. `ask` gives so many of those with a lower id than one."""
    limit = web.number("limit", low, 1, high)
    found = ask(limit, _before())
    last = found[-1] if len(found) == limit else None
    return listing(name, found, None if last is None else str(last["id"] if isinstance(last, dict) else last.id))


def _before() -> int | None:
    text = request.args.get("cursor") or request.args.get("before")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) > MAX_INT:
        place = "cursor" if request.args.get("cursor") else "before"
        raise BadInput(fields={place: f"{text[:40]!r} is not allowed; give `next` of the page before"})
    return int(text)


def whole(name: str, rows: Iterable[Any], key: str, sorts: Sequence[str]) -> Response:
    """A page of a list that is at hand as a whole. `key`: the fields that tell its rows apart; the first is their usual order."""
    keys = key.split()
    order = web.choice("sort", tuple(f"{sign}{one}" for one in sorts for sign in ("", "-")), keys[0])
    limit = web.number("limit", 10_000, 1, 10_000)
    down = order.startswith("-")
    every = sorted(((_place(row, order.lstrip("-"), keys), row) for row in to_dict(list(rows))), key=itemgetter(0), reverse=down)
    if every and (after := _after(every[0 if down else -1][0])) is not None:
        every = [one for one in every if (one[0] < after if down else one[0] > after)]
    shown = every[:limit]
    following = json.dumps(shown[-1][0], separators=(",", ":")).encode().hex() if len(every) > limit else None
    return web.reply({name: some_fields([row for _, row in shown]), "next": following})


def _place(row: Row, field: str, keys: Sequence[str]) -> list[Any]:
    """Where a row stands: by the field, in which nothing comes first, and then by what tells it apart."""
    value = row[field]
    return [value is not None, value if value is not None else 0, *(row[key] for key in keys)]


def _after(example: Sequence[Any]) -> list[Any] | None:
    """The place that the call's cursor names, which must be of the kind of `example`."""
    text = request.args.get("cursor")
    if not text:
        return None
    try:
        after = json.loads(bytes.fromhex(text))
        if not isinstance(after, list) or len(after) != len(example) or type(after[0]) is not bool:
            raise ValueError("of another form")
        alike = [isinstance(one, str) == isinstance(other, str) for one, other in zip(after[2:], example[2:], strict=True)]
        if not all(alike) or not all(isinstance(one, (str, int, float)) for one in after):
            raise ValueError("of another form")
        if after[0] and example[0] and isinstance(after[1], str) != isinstance(example[1], str):
            raise ValueError("of another form")
    except (ValueError, RecursionError):
        raise BadInput(fields={"cursor": f"{text[:40]!r} is not a cursor; give `next` of the page before"}) from None
    return after


# ---------------------------------------------------------------- one answer for many


@dataclass(frozen=True)
class Kept:
    at: float  # monotonic, before it was made
    body: bytes
    etag: str


class Answers:
    """What was answered lately, by who asked what. Thread-safe: of those who ask at the same time one makes the answer."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Kept] = OrderedDict()
        self._making: dict[Any, threading.Lock] = {}
        self._lock = threading.Lock()
        self._acted = 0.0
        self._bytes = 0

    def forget(self) -> None:
        """Something was done: what was answered before is not given again."""
        self._acted = time.monotonic()

    def get(self, key: Any, age_s: float, make: Callable[[], bytes]) -> Kept:
        """The answer that was made at most `age_s` ago, or a new one; while it is being made others get the one before."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
            kept = self._kept.get(key)
            if kept:
                self._kept.move_to_end(key)
        if kept and kept.at > self._acted and time.monotonic() - kept.at <= age_s:
            return kept
        mine = making.acquire(blocking=False)
        if not mine and kept and kept.at > self._acted and time.monotonic() - kept.at <= MAX_AGE_S:
            return kept
        if not mine:
            making.acquire()
        try:
            kept = self._kept.get(key)
            now = time.monotonic()
            if kept is None or now - kept.at > age_s or kept.at <= self._acted:
                kept = self._keep(key, now, make())
            return kept
        finally:
            making.release()
            with self._lock:
                if key not in self._kept:  # it was refused, or is too large
                    self._making.pop(key, None)

    def _keep(self, key: Any, at: float, body: bytes) -> Kept:
        kept = Kept(at, body, hashlib.sha1(body, usedforsecurity=False).hexdigest())
        with self._lock:
            self._bytes += len(body) - len(self._kept[key].body if key in self._kept else b"")
            self._kept[key] = kept
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT or self._bytes > KEPT_BYTES:
                oldest, gone = self._kept.popitem(last=False)
                self._bytes -= len(gone.body)
                self._making.pop(oldest, None)
        return kept


def shared(view: Callable[..., Response]) -> Callable[..., Response]:
    """A list whose answer may be some seconds old, if the call says so, is made once for all who ask for the same."""

    @functools.wraps(view)
    def answer(**places: Any) -> Response:
        age = request.cache_control.max_age
        if age is None or age <= 0:
            return view(**places)
        key = (request.path, tuple(request.args.items(multi=True)), g.identity.name, g.identity.may)
        make = functools.partial(_body, view, places)
        kept = web.farm().answers.get(key, min(float(age), MAX_AGE_S), make)
        return web.json_answer(kept.body, etag=kept.etag)

    return answer


def _body(view: Callable[..., Response], places: Mapping[str, Any]) -> bytes:
    g.whole = True  # for the next one, whatever this caller has already
    try:
        return view(**places).get_data()
    finally:
        g.whole = False
