"""Routes of instances and money: pools, instances, budgets, the ledger, and what the autoscaler decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g

from coalition.config import WINDOWS, BudgetSettings
from coalition.errors import NotFound
from coalition.ledger import costs_as_csv
from coalition.model import MAX_INT, Price, Selection, ShownPrice, spec
from coalition.offerings import doubt
from coalition.server import web
from coalition.server.auth import for_caller
from coalition.server.rows import PAGING, newest_first, shared, whole
from coalition.server.workers import act
from coalition.states import InstanceState
from coalition.store.costs import COLUMNS as COST_COLUMNS
from coalition.store.costs import CostQuery
from coalition.values import NAME_OF_SECTION, a_currency, a_target, a_timezone, one_of

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
    """Lets pools start instances again that were drained, whose boots failed, or that a provider refused."""
    return web.reply({"changed": web.farm().store.resume_pools(web.body(Names).names, g.identity.name)})


@blueprint.post("/pools/drain")
def drain_pools() -> Response:
    """Pools start nothing more, and their instances end as their jobs end."""
    return web.reply({"changed": web.farm().store.drain_pools(web.body(Names).names, g.identity.name)})


@blueprint.post("/scaling/pause")
def pause_scaling() -> Response:
    """No instances are started; those that run are looked after, paid on and ended as before."""
    return web.reply({"changed": web.farm().store.pause_scaling(g.identity.name)})


@blueprint.post("/scaling/resume")
def resume_scaling() -> Response:
    return web.reply({"changed": web.farm().store.resume_scaling(g.identity.name)})


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
    """Asks for machines by hand: the autoscaler starts them, within the pool's limits and the budgets.

    `note`: that nobody but the provider knows whether there is such an offering.
    """
    wish, store = web.body(LaunchWish), web.farm().store
    asked = store.ask_launch(wish.pool, wish.count, wish.offering, g.identity.name)
    pool = next(one for one in store.settings.pools if one.name == wish.pool)
    return web.reply({"changed": asked, "note": doubt(pool, wish.offering)})


@blueprint.get("/prices")
@shared
def prices() -> Response:
    web.refuse_unknown("provider", "region", "type", "sort", *PAGING)
    store = web.farm().store
    limit_s, now = store.settings.autoscaler.price_max_age_s, store.clock()
    kept = store.prices(web.word("provider") or "", web.word("region") or "", web.word("type") or "")
    found = [ShownPrice(**vars(one), unknown=_unknown(one, now, limit_s)) for one in kept]
    return whole("prices", found, "type provider region zone market source", ("type", "price_micro", "as_of"))


def _unknown(price: Price, now: float, limit_s: float) -> str:
    """Why nothing is started at a price, in words; empty if something may be."""
    if price.price_micro <= 0:
        return "it is 0"
    return f"it is older than {limit_s / 86_400:g} days (price_max_age)" if now - price.as_of > limit_s else ""


@blueprint.post("/prices")
def put_prices() -> Response:
    return web.reply({"changed": web.farm().store.put_prices(web.body(PriceList).prices, g.identity.name or "by hand")})


@blueprint.get("/instances")
@shared
def instances() -> Response:
    web.refuse_unknown("state", "pool", "all", *PAGING)
    states = web.choices("state", list(InstanceState))
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


def _is(read: Callable[[str], object]) -> Callable[[str], str | None]:
    """What complains of a text that this reader of cloud.ini does not take."""

    def complaint(text: str) -> str | None:
        try:
            read(text)
        except ValueError as error:
            return f"{text[:80]!r} is not allowed; {error}"
        return None

    return complaint


def _shares(values: Sequence[float]) -> str | None:
    wrong = next((value for value in values if not 0 < value < 10 or value != round(value, 2)), None)
    return None if wrong is None else f"{wrong} is not allowed; whole percents such as 0.5, up to 9.99"


MOST_MICRO = 2**62 - 1


@dataclass(frozen=True)
class NewBudget:
    """A cap over a window, beside those of cloud.ini; the fields are its knobs, `alert` has shares of the cap."""

    name: str = spec(length=64, check=lambda v: None if NAME_OF_SECTION.match(v) else "letters, digits and _ . - only")
    amount_micro: int = spec(low=0, high=MOST_MICRO)
    currency: str = spec("USD", length=3, check=_is(a_currency))
    window: str = spec("month", length=8, check=_is(one_of(*WINDOWS)))
    timezone: str = spec("UTC", length=64, check=_is(a_timezone))
    hard: bool = spec(True)
    applies_to: str = spec("farm", length=255, check=_is(a_target))
    alert: Sequence[float] = spec((0.5, 0.8, 1.0), length=20, check=_shares)
    kill: bool = spec(False)


@dataclass(frozen=True)
class BudgetChanges:
    """Other values for a budget; what is not given stays."""

    amount_micro: int | None = spec(None, low=0, high=MOST_MICRO)
    hard: bool | None = spec(None)
    alert: Sequence[float] | None = spec(None, length=20, check=lambda v: None if v is None else _shares(v))
    kill: bool | None = spec(None)


@blueprint.get("/budgets")
@shared
def budgets() -> Response:
    web.refuse_unknown("sort", *PAGING)
    found = for_caller(web.farm().store.budgets(), "budgets")
    return whole("budgets", found, "name", ("name", "cap_micro", "spent_micro", "left_micro"))


@blueprint.get("/budgets/<name>")
def budget(name: str) -> Response:
    web.refuse_unknown()
    return web.reply(for_caller([web.farm().store.budget(name)], "budgets")[0])


@blueprint.post("/budgets")
def create_budget() -> Response:
    """A budget beside those of cloud.ini; with `dry_run` only what it would do."""
    web.refuse_unknown("dry_run")
    given, dry = web.body(NewBudget), web.flag("dry_run")
    wanted = BudgetSettings(line=0, **{**vars(given), "alert": tuple(given.alert)})
    return web.reply(web.farm().store.create_budget(wanted, g.identity.name, dry_run=dry), 200 if dry else 201)


@blueprint.patch("/budgets/<name>")
def edit_budget(name: str) -> Response:
    """Other values from the next tick on, before those of cloud.ini; with `dry_run` only what they would do."""
    web.refuse_unknown("dry_run")
    changes = web.body(BudgetChanges)
    web.refuse_nothing(changes)
    given = {one: tuple(value) if one == "alert" else value for one, value in vars(changes).items() if value is not None}
    return web.reply(web.farm().store.edit_budget(name, given, g.identity.name, dry_run=web.flag("dry_run")))


@blueprint.delete("/budgets/<name>")
def delete_budget(name: str) -> Response:
    """Removes a budget of run time; of one of cloud.ini, what was changed: the file's values hold again."""
    web.refuse_unknown("dry_run")
    return web.reply(web.farm().store.delete_budget(name, g.identity.name, dry_run=web.flag("dry_run")))


@blueprint.get("/ledger")
@shared
def ledger() -> Response:
    web.refuse_unknown("since", "group_by", "sort", *PAGING)
    since = float(web.number("since", 0, 0, MAX_INT))
    entries = web.farm().store.ledger_report(since, web.choice("group_by", ("day", "pool"), "day"))
    return whole("entries", entries, "key currency", ("key", "amount_micro", "seconds"))


@blueprint.get("/cost")
@shared
def cost() -> Response:
    """What was spent, by what is asked for, with the running machines up to now."""
    web.refuse_unknown(*COST_FILTERS, "sort", *PAGING)
    return whole("entries", _costs(), "key currency", ("key", "amount_micro", "seconds"))


@blueprint.get("/cost.csv")
def cost_csv() -> Response:
    """The same as a table of comma-separated values, amounts in whole units of their currency."""
    web.refuse_unknown(*COST_FILTERS)
    return Response(costs_as_csv(_costs()), mimetype="text/csv")


COST_FILTERS = ("group_by", "since", "until", "pool", "user", "tag", "job", "group")


def _costs() -> list[dict[str, Any]]:
    numbers = {name: web.number(name, 0, 0, MAX_INT) for name in ("since", "until", "job", "group")}
    words = {name: web.word(name) or "" for name in ("pool", "user", "tag")}
    since, until = float(numbers["since"]), float(numbers["until"]) or None
    query = CostQuery(since, until, **words, job=numbers["job"] or None, group=numbers["group"] or None)
    return web.farm().store.costs(web.choice("group_by", tuple(COST_COLUMNS), "day"), query)


@blueprint.get("/forecast")
def forecast() -> Response:
    """When what is open will be done and what it will cost, of one group or job or of all."""
    web.refuse_unknown("job")
    return web.reply(web.farm().store.forecast(web.number("job", 0, 0, MAX_INT) or None))


@blueprint.get("/decisions")
@shared
def decisions() -> Response:
    web.refuse_unknown("pool", *PAGING)
    pool, store = web.word("pool"), web.farm().store
    return newest_first("decisions", lambda limit, before: store.decisions(limit, pool, before))
