"""Routes of limits: counted tokens (licences) that jobs hold while they run."""

from __future__ import annotations

from flask import Blueprint, Response, g

from coalition.model import LimitChanges
from coalition.server import web
from coalition.server.auth import for_caller

blueprint = Blueprint("limits", __name__)


@blueprint.get("/limits")
def index() -> Response:
    return web.reply({"limits": for_caller(web.farm().store.limits())})


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
