"""Routes of instances and money: pools, instances, budgets, the ledger, and what the autoscaler decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, request

from coalition.errors import BadInput, NotFound, nearest
from coalition.model import MAX_INT, Price, Selection, spec
from coalition.server import web
from coalition.server.auth import for_caller
from coalition.server.rows import PAGING, newest_first, shared, whole
from coalition.server.workers import act
from coalition.states import InstanceState

blueprint = Blueprint("cloud", __name__)


@dataclass(frozen=True)
class Names:
    """Which pools an action is for."""

    names: Sequence[str] = spec(length=1_000, check=lambda v: "is empty; name at least one" if not v else None)


@blueprint.get("/pools")
@shared
def pools() -> Response:
    web.refuse_unknown("sort", *PAGING)
    return whole("pools", for_caller(web.farm().store.pools(), "cloud"), "name", ("name", "provider", "max"))


@blueprint.post("/pools/resume")
def resume_pools() -> Response:
    """Lets pools start instances again whose boots failed, or that a provider refused."""
    return web.reply({"changed": web.farm().store.unblock_pools(web.body(Names).names, g.identity.name)})


@dataclass(frozen=True)
class LaunchWish:
    """Machines asked for by hand; `offering` names an offer or a type, nothing means the cheapest place for a job."""

    pool: str = spec(length=64)
    count: int = spec(1, low=1, high=10_000)
    offering: str = spec("", length=255)


@dataclass(frozen=True)
class PriceList:
    """Prices to be known from now on: each takes the place of what its source said of the same thing."""

    prices: Sequence[Price] = spec(length=100_000)


@blueprint.post("/pools/launch")
def launch() -> Response:
    """Asks for machines by hand: the autoscaler starts them, within the pool's limits and the budgets."""
    wish = web.body(LaunchWish)
    return web.reply({"changed": web.farm().store.ask_launch(wish.pool, wish.count, wish.offering, g.identity.name)})


@blueprint.get("/prices")
@shared
def prices() -> Response:
    web.refuse_unknown("provider", "region", "type", "sort", *PAGING)
    found = web.farm().store.prices(web.word("provider") or "", web.word("region") or "", web.word("type") or "")
    return whole("prices", found, "type provider region zone market source", ("type", "price_micro", "as_of"))


@blueprint.post("/prices")
def put_prices() -> Response:
    return web.reply({"changed": web.farm().store.put_prices(web.body(PriceList).prices, g.identity.name or "by hand")})


@blueprint.get("/instances")
@shared
def instances() -> Response:
    web.refuse_unknown("state", "pool", "all", *PAGING)
    states = [state for text in request.args.getlist("state") for state in text.split(",") if state]
    for state in states:
        if state not in list(InstanceState):
            raise BadInput(fields={"state": f"{state[:40]!r} is not allowed; {nearest(state, list(InstanceState))}"})
    ended = web.choice("all", ("0", "1"), "0") == "1"
    pool, store = web.word("pool"), web.farm().store

    def ask(limit: int, before: int | None) -> list[dict[str, Any]]:
        return for_caller(store.instances(states, pool, ended=ended, limit=limit, before=before), "cloud")

    return newest_first("instances", ask, 1_000, 10_000)


@blueprint.get("/instances/<int:instance_id>")
def instance(instance_id: int) -> Response:
    web.refuse_unknown()
    wanted = min(instance_id, MAX_INT - 1)
    found = web.farm().store.instances(ended=True, limit=1, before=wanted + 1)
    if not found or found[0]["id"] != instance_id:
        raise NotFound(f"there is no instance {instance_id}")
    return web.reply(for_caller(found, "cloud")[0])


@blueprint.post("/instances/drain")
def drain_instances() -> Response:
    return _ask("drain")


@blueprint.post("/instances/terminate")
def terminate_instances() -> Response:
    return _ask("terminate")


def _ask(wish: str) -> Response:
    return act("mark_instances", web.body(Selection).ids, wish)


@blueprint.get("/budgets")
@shared
def budgets() -> Response:
    web.refuse_unknown("sort", *PAGING)
    return whole("budgets", web.farm().store.budgets(), "name", ("name", "cap_micro", "spent_micro", "left_micro"))


@blueprint.get("/ledger")
@shared
def ledger() -> Response:
    web.refuse_unknown("since", "group_by", "sort", *PAGING)
    since = float(web.number("since", 0, 0, MAX_INT))
    entries = web.farm().store.ledger_report(since, web.choice("group_by", ("day", "pool"), "day"))
    return whole("entries", entries, "key currency", ("key", "amount_micro", "seconds"))


@blueprint.get("/decisions")
@shared
def decisions() -> Response:
    web.refuse_unknown("pool", *PAGING)
    pool, store = web.word("pool"), web.farm().store
    return newest_first("decisions", lambda limit, before: store.decisions(limit, pool, before))
