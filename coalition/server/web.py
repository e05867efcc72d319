"""What every route uses: the farm of the request, bodies and parameters that are checked, JSON answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flask import Response, current_app, g, has_request_context, request

from coalition.config import Settings
from coalition.errors import BadInput, CoalitionError, TooManyTries, Unavailable, nearest
from coalition.logs import Logs
from coalition.model import from_dict, to_dict

if TYPE_CHECKING:
    from coalition.server.changes import Changes
    from coalition.server.dispatcher import Dispatcher
    from coalition.server.logins import Logins
    from coalition.server.rows import Answers
    from coalition.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Farm:
    """What the routes work with."""

    settings: Settings
    store: Store
    logs: Logs
    dispatcher: Dispatcher
    clock: Callable[[], float]
    answers: Answers
    changes: Changes
    logins: Logins


def farm() -> Farm:
    """The farm of the current request."""
    return cast(Farm, current_app.extensions["coalition"])


def body(kind: type[T]) -> T:
    """The request's JSON body as a `kind`; BadInput says what is wrong with it."""
    return from_dict(kind, json_body())


def json_body() -> Any:
    """The request's JSON body."""
    return parsed(request.get_data(cache=False))


def parsed(data: bytes) -> Any:
    """The JSON in a body; BadInput if it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {error}", fields={"body": "is not JSON"}) from None


def reply(value: Any, status: int = 200) -> Response:
    """A JSON answer of dataclasses, lists and dicts."""
    return json_answer(json.dumps(to_dict(value), separators=(",", ":")), status)


def json_answer(text: str | bytes, status: int = 200, etag: str | None = None) -> Response:
    """What was asked for has an ETag, and who has it already gets 304 instead."""
    response = Response(text, status, mimetype="application/json")
    if request.method == "GET" and status == 200 and not g.get("whole"):
        response.set_etag(etag) if etag else response.add_etag()
        response.make_conditional(request)
    return response


def number(name: str, default: int, low: int, high: int) -> int:
    """A whole number of the query string, within bounds."""
    text = request.args.get(name)
    if text is None or text == "":
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high or len(text) > 20:
        raise BadInput(fields={name: f"{text[:40]!r} is not allowed; a whole number from {low} to {high}"})
    return value


def choice(name: str, allowed: tuple[str, ...], default: str) -> str:
    """One of a few words of the query string."""
    text = request.args.get(name, default)
    if text not in allowed:
        raise BadInput(fields={name: f"{text[:40]!r} is not allowed; allowed: {', '.join(allowed)}"})
    return text


def words(name: str) -> list[str]:
    """Words of the query string, divided by commas or given one by one; none where it is not there."""
    return [one for text in request.args.getlist(name) for one in text.split(",") if one]


def choices(name: str, allowed: Sequence[str]) -> list[str]:
    """The same, of a few that are allowed."""
    given = words(name)
    for one in given:
        if one not in allowed:
            raise BadInput(fields={name: f"{one[:40]!r} is not allowed; {nearest(one[:40], allowed)}"})
    return given


def flag(name: str) -> bool:
    """A yes or no of the query string; no where it is not there."""
    return choice(name, ("true", "false", "1", "0"), "false") in ("true", "1")


def refuse_nothing(changes: object) -> None:
    """BadInput for changes that leave every field as it is."""
    if changes == type(changes)():
        raise BadInput(fields={"changes": "is empty; name a field to change"})


def word(name: str) -> str | None:
    """A text of the query string, None without it."""
    text = request.args.get(name)
    if text is not None and "\0" in text:
        raise BadInput(fields={name: "holds a NUL byte"})
    return text


def refuse_unknown(*known: str) -> None:
    """BadInput for a query parameter that the route does not have."""
    for name in request.args:
        if name not in known:
            raise BadInput(fields={name[:80]: f"unknown parameter; allowed: {', '.join(known) or 'none'}"})


def problem(error: CoalitionError) -> Response:
    """RFC 9457: a problem body that says what is wrong and names the fields."""
    response = Response(json.dumps(error.to_problem()), error.status, mimetype="application/problem+json")
    if isinstance(error, (Unavailable, TooManyTries)):
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        legacy = has_request_context() and (request.endpoint or "").startswith("legacy.")
        response.headers["WWW-Authenticate"] = 'Basic realm="coalition"' if legacy else "Bearer"
    return response
