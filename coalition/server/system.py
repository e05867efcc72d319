"""Routes of the farm as a whole: what it is, how it does, events, tokens, health."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flask import Blueprint, Response, g, request

import coalition
from coalition.errors import BadInput, NotFound
from coalition.model import MAX_INT, PROTOCOL, spec
from coalition.rights import SCOPES
from coalition.server import web
from coalition.server.auth import COOKIE, csrf_token
from coalition.server.rows import PAGING, newest_first, shared
from coalition.store.archive import ArchiveQuery

blueprint = Blueprint("system", __name__)
DAY_S = 86_400.0
LATEST = 2**31 * 60 - 60  # seconds since 1970: its minute fits a column
ENROL_S = 7 * 86_400.0  # how long an enrolment token holds that does not say


@dataclass(frozen=True)
class NewToken:
    kind: str
    user: str = spec("", length=64, check=lambda v: None if v.isprintable() else "holds control characters")
    role: str = ""
    uses: int | None = spec(None, low=1)
    expires_s: float | None = spec(None, low=1)
    name: str = spec("", length=64, check=lambda v: None if v.isprintable() else "holds control characters")
    scope: Sequence[str] = spec((), length=len(SCOPES))
    networks: Sequence[str] = spec((), length=16)


@blueprint.get("/api/v1/server")
def server() -> Response:
    settings = web.farm().settings
    return web.reply(
        {
            "farm": settings.server.farm,
            "version": coalition.__version__,
            "protocol": PROTOCOL,
            "now": web.farm().clock(),
            "auth": settings.auth.mode,
            "user": g.identity.name,
            "role": g.identity.role,
            "rights": sorted(g.identity.may),
            "csrf": csrf_token(request.cookies[COOKIE]) if g.identity.session else "",
            "url": settings.url,
            "url_schemes": settings.server.url_schemes,
            "pictures_from": settings.server.pictures_from,
        }
    )


@blueprint.get("/api/v1/farm")
@shared
def farm() -> Response:
    store = web.farm().store
    money, viewer = store.farm_money(), g.identity.viewer
    if viewer is not None:  # the same fields, and nothing in them
        money |= {"instances": {}, "burn_micro_per_hour": 0, "budgets": []}
    return web.reply({"now": web.farm().clock(), "jobs": store.farm_jobs(viewer), **store.farm_workers(), **money})


@blueprint.get("/api/v1/history")
@shared
def history() -> Response:
    """How the farm did: averages over minutes, or over longer steps, the longer the time is."""
    web.refuse_unknown("since", "until")
    now = web.farm().clock()
    until = float(web.number("until", int(now), 0, LATEST))
    since = float(web.number("since", max(0, int(until - DAY_S)), 0, LATEST))
    return web.reply(web.farm().store.history(since, until))


@blueprint.get("/api/v1/events")
@shared
def events() -> Response:
    web.refuse_unknown("job", "below", "worker", "instance", "user", "kind", "since", "until", "before", *PAGING)
    filters: dict[str, int | str] = {
        name: web.number(name, 0, 0, MAX_INT) for name in ("job", "worker", "instance") if name in request.args
    }
    filters |= {name: request.args[name] for name in ("user", "kind") if name in request.args}
    since = float(web.number("since", 0, 0, MAX_INT))
    until = float(web.number("until", 0, 0, MAX_INT)) if "until" in request.args else None
    below = web.choice("below", ("0", "1"), "0") == "1"
    if below and "job" not in filters:
        raise BadInput(fields={"below": "needs a `job`, below which to look"})
    store, viewer = web.farm().store, g.identity.viewer

    def ask(limit: int, before: int | None) -> list[dict[str, Any]]:
        return store.events(filters, since, limit, until=until, before=before, below=below, viewer=viewer)

    return newest_first("events", ask)


@blueprint.get("/api/v1/audit")
def audit() -> Response:
    web.refuse_unknown("user", "address", "kind", "since", "until", "before", *PAGING)
    filters = {name: text for name in ("user", "address", "kind") if (text := web.word(name)) is not None}
    since = float(web.number("since", 0, 0, MAX_INT))
    until = float(web.number("until", 0, 0, MAX_INT)) if "until" in request.args else None
    store = web.farm().store
    return newest_first("audit", lambda limit, before: store.audit(filters, since, limit, until=until, before=before))


@blueprint.get("/api/v1/archive")
def archive() -> Response:
    web.refuse_unknown("parent", "user", "title", "before", *PAGING)
    of = (web.number("parent", 0, 0, MAX_INT), web.word("user"), web.word("title"))
    store, viewer = web.farm().store, g.identity.viewer
    return newest_first("jobs", lambda limit, before: store.archived(ArchiveQuery(*of, before, limit, viewer)))


@blueprint.get("/api/v1/archive/<int:job_id>")
def archived_job(job_id: int) -> Response:
    if job_id > MAX_INT:
        raise NotFound(f"there is no archived job {job_id}")
    store = web.farm().store
    return web.reply({**store.archived_job(job_id, g.identity.viewer), "attempts": store.attempts(job_id)})


@blueprint.get("/api/v1/tokens")
def tokens() -> Response:
    return web.reply({"tokens": web.farm().store.tokens()})


@blueprint.post("/api/v1/tokens")
def create_token() -> Response:
    wanted = web.body(NewToken)
    if wanted.kind == "enrol":
        wanted = replace(wanted, uses=wanted.uses or 1, expires_s=wanted.expires_s or ENROL_S)
    text = web.farm().store.create_token(**vars(wanted), who=g.identity.name)
    return web.reply({"id": text.partition(".")[0], "token": text}, 201)


@blueprint.delete("/api/v1/tokens/<token_id>")
def delete_token(token_id: str) -> Response:
    if not token_id.isalnum():
        raise NotFound(f"there is no token {token_id[:32]!r}")
    web.farm().store.delete_token(token_id[:32], g.identity.name)
    return web.reply({"changed": 1})
