"""Verbs on prices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from coalition.cli.farm import CONFIG_HELP, server_parts
from coalition.cli.frame import Call, cli, config_file
from coalition.model import to_dict


@cli.group(invoke_without_command=True)
@click.pass_context
def prices(context: click.Context) -> None:
    """List what machines cost, who said so and when; bring and fetch prices."""
    if not context.invoked_subcommand:
        context.invoke(prices_list)


@prices.command("list")
@click.option("--provider", metavar="NAME", help="Of this provider.")
@click.option("--region", metavar="NAME", help="In this region.")
@click.option("--type", "type", metavar="NAME", help="Of this type of machine.")
@click.pass_obj
def prices_list(call: Call, /, **filters: str | None) -> None:
    """List the prices that are known, old ones too."""
    from coalition.output import moment, money

    found = call.client().prices(**filters)
    names = ("provider", "region", "zone", "type", "market")
    rows = (
        [
            *(getattr(one, name) for name in names),
            money(one.price_micro, one.currency),
            one.source,
            moment(one.as_of),
            one.unknown and f"not known: {one.unknown}",
        ]
        for one in found
    )
    heads = "PROVIDER REGION ZONE TYPE* MARKET PER_HOUR> SOURCE AS_OF NOTE"
    call.screen.table({"prices": to_dict(found)}, heads, rows, "no prices are kept")


@prices.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--provider", metavar="NAME", help="Where the file has no such column.")
@click.option("--region", metavar="NAME", help="Where the file has no such column.")
@click.option("--market", type=click.Choice(["spot", "on-demand"]), help="Where the file has no such column.")
@click.option("--currency", metavar="CODE", help="Where the file has no such column; default: USD.")
@click.option("--as-of", "as_of", metavar="DATE", help="Where the file has no such column.")
@click.pass_obj
def prices_import(call: Call, /, file: Path, **columns: str | None) -> None:
    """Bring prices of your own: they go before all others until they are too old.

    FILE is CSV or TSV (.gz too). Its first line names the columns: type, price and as_of, provider, region, zone, market,
    currency, cpus, memory and gpus. The public lists of EC2's spot prices (zone id, type, product, dollars, time) are
    taken as they are.
    """
    from providers.prices import read_table

    given = {name: value for name, value in columns.items() if value}
    call.changed(call.client().put_prices(read_table(file, given)), "price")


@prices.command("refresh")
@click.argument("pools", nargs=-1, metavar="[POOL...]")
@click.option("--config", "file", metavar="FILE", help=CONFIG_HELP)
@click.pass_obj
def prices_refresh(call: Call, pools: tuple[str, ...], file: str | None) -> None:
    """Ask the providers of pools for their prices now, with the configuration and the credentials of this machine."""
    from coalition.config import load

    with server_parts():
        from providers import make
        from providers.prices import said

        settings = load(config_file(file))
        found = []
        for pool in chosen(settings.pools, pools):
            offers = make(pool.provider, pool.region, settings).offerings(pool)
            found += said(pool.provider, pool.region, offers)
    call.changed(call.client().put_prices(found) if found else 0, "price")


def chosen(pools: tuple[Any, ...], names: tuple[str, ...]) -> list[Any]:
    """The pools of these names, or all; NotFound for a name that none has."""
    from coalition.errors import NotFound, nearest

    known: Mapping[str, Any] = {pool.name: pool for pool in pools}
    for name in names:
        if name not in known:
            raise NotFound(f"there is no pool {name}; {nearest(name, known)}")
    return [known[name] for name in names] if names else list(pools)
