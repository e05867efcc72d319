"""Routes of limits: counted tokens (licences) that jobs hold while they run."""

from __future__ import annotations

from flask import Blueprint, Response, g

from coalition.errors import NotFound
from coalition.model import LimitChanges
from coalition.server import web
from coalition.server.auth import for_caller
from coalition.server.rows import PAGING, shared, whole

blueprint = Blueprint("limits", __name__)


@blueprint.get("/limits")
@shared
def index() -> Response:
    web.refuse_unknown("sort", *PAGING)
    found = for_caller(web.farm().store.limits(g.identity.viewer), "workers")
    return whole("limits", found, "name", ("name", "maximum", "used", "waiting"))


@blueprint.get("/limits/<name>")
def show(name: str) -> Response:
    web.refuse_unknown()
    found = [one for one in for_caller(web.farm().store.limits(g.identity.viewer), "workers") if one.name == name]
    if not found:
        raise NotFound(f"there is no limit {name[:128]!r}")
    return web.reply(found[0])


@blueprint.put("/limits/<name>")
def put(name: str) -> Response:
    wanted = web.body(LimitChanges)
    web.farm().store.set_limit(name, wanted.maximum, wanted.per_host, g.identity.name)
    web.farm().dispatcher.kick()
    return web.reply({"changed": 1})


@blueprint.delete("/limits/<name>")
def delete(name: str) -> Response:
    web.farm().store.delete_limit(name, g.identity.name)
    return web.reply({"changed": 1})
