"""Each request has an id: the caller's X-Request-Id, or one of ours. It is answered, and stands in every line logged for it."""

from __future__ import annotations

import logging
import re
import secrets
import time

from flask import Flask, Response, g, request

from coalition import metrics
from coalition.journal import request_id
from coalition.server.auth import RIGHTS, SAFE_METHODS, WORKER
from coalition.store.base import caller_address

log = logging.getLogger("coalition.access")
HEADER = "X-Request-Id"
GOOD = re.compile(r"[\w.\-]{1,64}", re.ASCII)


def install(app: Flask) -> None:
    """Before anything else looks at a request."""
    app.before_request(_begin)
    app.after_request(_end)


def id_of(given: str) -> str:
    """A request's id: what its caller gave it, if that is one."""
    return given if given and GOOD.fullmatch(given) else secrets.token_hex(4)


def _begin() -> None:
    g.request_id = id_of(request.headers.get(HEADER, ""))
    g.begun = time.monotonic()
    request_id.set(g.request_id)
    caller_address.set(request.remote_addr or "")


def _end(response: Response) -> Response:
    response.headers[HEADER] = g.request_id
    log.log(_level(response), "%s %s %d %.0f ms%s", request.method, request.path, response.status_code, _took_ms(), _who())
    request_id.set("")
    caller_address.set("")
    _measure(response)
    return response


def _measure(response: Response) -> None:
    """By route, never by what stands in an address: of those there is no end."""
    route = re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", request.url_rule.rule) if request.url_rule else "none"
    method = request.method if request.url_rule else "any"
    metrics.add(metrics.HTTP_REQUESTS, route, method, str(response.status_code))
    metrics.took(metrics.HTTP_SECONDS, time.monotonic() - g.begun, route)


def _level(response: Response) -> int:
    """What people change is told; what only looks, and what workers send all the time, is for `access:debug`."""
    right = RIGHTS.get(request.endpoint or "")
    often = request.method in SAFE_METHODS or (right is not None and WORKER in right.roles)
    return logging.ERROR if response.status_code == 500 else logging.DEBUG if often else logging.INFO


def _took_ms() -> float:
    return float(time.monotonic() - g.begun) * 1_000


def _who() -> str:
    identity = g.get("identity")
    return f" {identity.name}" if identity and identity.name else ""
