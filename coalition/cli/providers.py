"""Verbs on the clouds themselves: `coalition cloud ...`. check and list ask the providers from this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from coalition.cli.farm import CONFIG_HELP, server_parts
from coalition.cli.frame import DONE, FAILED, INSTANCES, Call, cli, config_file
from coalition.cli.prices import chosen

if TYPE_CHECKING:
    from coalition.config import PoolSettings, Settings
    from providers.base import Offering, Provider

CONFIG = click.option("--config", "file", metavar="FILE", help=CONFIG_HELP)


@cli.group()
def cloud() -> None:
    """Check the pools' clouds, see what they run, start and end machines by hand."""


@contextmanager
def farm_settings(file: str | None) -> Iterator[Settings]:
    """The farm's settings, for a verb that asks the providers from this machine."""
    from coalition.config import load

    with server_parts():
        yield load(config_file(file))


@cloud.command("check")
@click.argument("pools", nargs=-1, metavar="[POOL...]")
@CONFIG
@click.pass_obj
def cloud_check(call: Call, pools: tuple[str, ...], file: str | None) -> int:
    """See whether pools could start machines now: credentials, image, network, rights (by a dry run), quota, prices.

    Nothing is started. Run it on the server's machine, with the server's credentials. Exit 1 if something is in the way.
    """
    with farm_settings(file) as settings:
        from providers import make

        reports = [_report(settings, pool, make(pool.provider, pool.region, settings)) for pool in chosen(settings.pools, pools)]
    rows = [row for report in reports for row in _rows(report)]
    call.screen.table({"pools": reports}, "POOL FINDING WHAT* PER_HOUR> LAUNCH>", rows, "no pools in the configuration")
    return FAILED if any(report["problems"] for report in reports) else DONE


def _report(settings: Settings, pool: PoolSettings, provider: Provider) -> dict[str, Any]:
    """What is in the way of a pool, and what its offers cost: an hour, and what a launch of one reserves."""
    from providers.base import ProviderError

    problems: list[str] = []
    offers: Sequence[Offering] = ()
    try:
        problems += provider.check(pool)
        offers = provider.offerings(pool)
    except ProviderError as error:
        problems.append(str(error))
    if pool.provider not in ("local", "fake") and _is_loopback(settings):
        problems.append(f"machines would look for the server at {settings.url}; set `url` in [server] to what they can reach")
    return {
        "pool": pool.name,
        "provider": pool.provider,
        "deadline": str(provider.deadline),
        "problems": list(dict.fromkeys(problems)),
        "offers": [_offer(settings, pool, offer) for offer in offers],
    }


def _is_loopback(settings: Settings) -> bool:
    from urllib.parse import urlsplit

    from coalition.config import LOOPBACK

    return bool(LOOPBACK.match(urlsplit(settings.url).hostname or ""))


def _offer(settings: Settings, pool: PoolSettings, offer: Offering) -> dict[str, Any]:
    from coalition import ledger

    price = pool.price_micro or offer.price_micro
    ceiling = price + pool.overhead_per_hour_micro if price else 0
    seconds = pool.funding_s + settings.autoscaler.slack_s
    names = ("name", "slots", "cpus", "memory_bytes", "gpus", "price_source", "price_as_of")
    facts = {name: getattr(offer, name) for name in names}
    currency = pool.currency if pool.price_micro else offer.currency
    return {**facts, "price_micro": ceiling, "launch_micro": ledger.cost(ceiling, 0, seconds), "currency": currency}


def _rows(report: dict[str, Any]) -> Iterator[list[object]]:
    from coalition.output import money

    for problem in report["problems"]:
        yield [report["pool"], "problem", problem, "", ""]
    for offer in report["offers"]:
        known = offer["price_micro"] > 0
        costs = [money(offer[name], offer["currency"]) if known else "?" for name in ("price_micro", "launch_micro")]
        yield [report["pool"], "offer", f"{offer['name']} ({offer['slots']} slots)", *costs]
    if not report["problems"]:
        yield [report["pool"], "good", f"the {report['deadline']} ends its machines when nobody else does", "", ""]


@cloud.command("list")
@click.option("--pool", metavar="NAME", help="Of this pool's provider and region.")
@CONFIG
@click.pass_obj
def cloud_list(call: Call, pool: str | None, file: str | None) -> None:
    """List this farm's machines as the providers see them, recorded or not."""
    from dataclasses import asdict

    from coalition.output import age

    with farm_settings(file) as settings:
        from providers import make

        accounts = {(one.provider, one.region): one for one in chosen(settings.pools, (pool,) if pool else ())}
        found = [
            {"provider": name, "region": region, **asdict(instance), "life": str(instance.life)}
            for name, region in accounts
            for instance in make(name, region, settings).list()
        ]
    names = ("provider", "id", "pool", "life")
    rows = ([*(one[name] for name in names), age(one["launched_at"]), one["reason"]] for one in found)
    heads = "PROVIDER ID* POOL LIFE AGE> REASON*"
    call.screen.table({"instances": found}, heads, rows, "the providers have no machines of this farm")


@cloud.command("launch")
@click.option("--pool", required=True, metavar="NAME", help="Of which pool.")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many.")
@click.option("--offering", default="", metavar="NAME", help="An offer or a type of the pool; else the best for its price.")
@click.pass_obj
def cloud_launch(call: Call, pool: str, count: int, offering: str) -> None:
    """Start machines by hand: the autoscaler does it, within the pool's limits and the budgets.

    `coalition decisions --pool NAME` tells what came of it. They are ended when they are idle, as all others.
    """
    asked = call.client().launch(pool, count, offering)
    note = asked.get("note", "")
    what = f"asked for: {count} in pool {pool}"
    call.screen.said({"asked": asked["changed"], "note": note}, *filter(None, (what, note)))


@cloud.command("terminate")
@INSTANCES
@click.pass_obj
def cloud_terminate(call: Call, ids: Sequence[int]) -> None:
    """End machines now, by their numbers in `coalition instances`; their jobs run again elsewhere."""
    call.changed(call.client().terminate_instances(ids), "instance")
