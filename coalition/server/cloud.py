"""Routes of instances and money: pools, instances, budgets, the ledger, and what the autoscaler decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, Response, g, request

from coalition.errors import BadInput, nearest
from coalition.model import MAX_INT, Selection, spec
from coalition.server import web
from coalition.server.auth import for_caller
from coalition.states import InstanceState

blueprint = Blueprint("cloud", __name__)


@dataclass(frozen=True)
class Names:
    """Which pools an action is for."""

    names: Sequence[str] = spec(length=1_000, check=lambda v: "is empty; name at least one" if not v else None)


@blueprint.get("/pools")
def pools() -> Response:
    web.refuse_unknown()
    return web.reply({"pools": for_caller(web.farm().store.pools())})


@blueprint.post("/pools/resume")
def resume_pools() -> Response:
    """Lets pools start instances again whose boots failed, or that a provider refused."""
    return web.reply({"changed": web.farm().store.unblock_pools(web.body(Names).names, g.identity.name)})


@blueprint.get("/instances")
def instances() -> Response:
    web.refuse_unknown("state", "pool", "all", "limit")
    states = [state for text in request.args.getlist("state") for state in text.split(",") if state]
    for state in states:
        if state not in list(InstanceState):
            raise BadInput(fields={"state": f"{state[:40]!r} is not allowed; {nearest(state, list(InstanceState))}"})
    ended = web.choice("all", ("0", "1"), "0") == "1"
    limit = web.number("limit", 1_000, 1, 10_000)
    rows = web.farm().store.instances(states, web.word("pool"), ended=ended, limit=limit)
    return web.reply({"instances": for_caller(rows)})


@blueprint.post("/instances/drain")
def drain_instances() -> Response:
    return _ask("drain")


@blueprint.post("/instances/terminate")
def terminate_instances() -> Response:
    return _ask("terminate")


def _ask(wish: str) -> Response:
    changed = web.farm().store.mark_instances(web.body(Selection).ids, wish, g.identity.name)
    return web.reply({"changed": changed})


@blueprint.get("/budgets")
def budgets() -> Response:
    web.refuse_unknown()
    return web.reply({"budgets": web.farm().store.budgets()})


@blueprint.get("/ledger")
def ledger() -> Response:
    web.refuse_unknown("since", "group_by")
    since = float(web.number("since", 0, 0, MAX_INT))
    return web.reply({"entries": web.farm().store.ledger_report(since, web.choice("group_by", ("day", "pool"), "day"))})


@blueprint.get("/decisions")
def decisions() -> Response:
    web.refuse_unknown("limit", "pool")
    return web.reply({"decisions": web.farm().store.decisions(web.number("limit", 100, 1, 1_000), web.word("pool"))})
