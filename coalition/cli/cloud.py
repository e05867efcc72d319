"""Verbs on machines that are paid for, and on money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from coalition.cli.frame import DURATION, IDS, LIMIT, Call, amounts, careful, cli, texts


@cli.command()
@click.pass_obj
def status(call: Call) -> None:
    """Show the farm at a glance."""
    from coalition.output import money

    answer = call.client().farm()
    slots, scaling = answer.get("slots", {}), answer.get("scaling", {})
    counted = {
        name: ", ".join(f"{count} {state.lower()}" for state, count in answer.get(name, {}).items() if count) or "none"
        for name in ("jobs", "workers", "instances")
    }
    pairs = [
        *counted.items(),
        ("slots", f"{slots.get('busy', 0)} of {slots.get('total', 0)} busy"),
        ("cost now", f"{money(answer.get('burn_micro_per_hour'), answer.get('currency', ''))} per hour"),
        ("autoscaler", "off" if not scaling.get("enabled") else "paused" if scaling.get("paused") else "on"),
    ]
    call.screen.details(answer, pairs)


@cli.group(invoke_without_command=True)
@click.pass_context
def pools(context: click.Context) -> None:
    """List the pools: what may be started, and what stops it."""
    if context.invoked_subcommand:
        return
    call: Call = context.obj
    found = call.client().pools()
    heads = "NAME PROVIDER STATE LIVE> ALLOWED> AFFINITY BLOCKED*"
    call.screen.table({"pools": found}, heads, map(_pool_row, found), "no pools in the configuration")


def _pool_row(pool: Mapping[str, Any]) -> list[object]:
    live = sum(count for state, count in pool.get("instances", {}).items() if state not in ("GONE", "FAILED"))
    allowed = f"{pool.get('min')}-{pool.get('max')}"
    state = "on" if pool.get("enabled") else "off"
    return [*texts(pool, "name provider"), state, live, allowed, ",".join(pool.get("affinity", ())), pool.get("blocked")]


@pools.command("resume")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.pass_obj
def pools_resume(call: Call, names: Sequence[str]) -> None:
    """Let pools start instances again after failed boots or refusals."""
    call.changed(call.client().resume_pools(names), "pool")


@cli.group(invoke_without_command=True)
@click.option("--all", "ended", is_flag=True, help="Those that ended, too.")
@click.option("--pool", metavar="NAME", help="Of this pool.")
@click.option("--state", metavar="STATE", help="In this state.")
@click.pass_context
def instances(context: click.Context, ended: bool, pool: str | None, state: str | None) -> None:
    """List the machines that are paid for, or end them."""
    if context.invoked_subcommand:
        return
    call: Call = context.obj
    found = call.client().instances(all=ended, pool=pool, state=state.upper() if state else None)
    heads = "ID> POOL TYPE STATE SLOTS> WORKER PER_HOUR> AGE> SPENT> REASON*"
    call.screen.table({"instances": found}, heads, map(_instance_row, found), "no instances")


def _instance_row(instance: Mapping[str, Any]) -> list[object]:
    from coalition.output import age

    price, spent = amounts(instance, "price spent")
    facts = texts(instance, "id pool offering state slots worker_name")
    return [*facts, price, age(instance.get("created_at")), spent, instance.get("reason")]


@instances.command("drain")
@IDS
@careful
@click.pass_obj
def instances_drain(call: Call, /, ids: Sequence[int], **given: bool) -> int:
    """End machines when their jobs are done."""
    return call.acted(call.client().drain_instances(ids, **given), "instance")


@instances.command("terminate")
@IDS
@careful
@click.pass_obj
def instances_terminate(call: Call, /, ids: Sequence[int], **given: bool) -> int:
    """End machines now; their jobs run again elsewhere."""
    return call.acted(call.client().terminate_instances(ids, **given), "instance")


@cli.command()
@click.pass_obj
def budget(call: Call) -> None:
    """Show what is spent, reserved and left of every budget."""
    found = call.client().budgets()
    heads = "NAME* FOR WINDOW KIND CAP> SPENT> RESERVED> LEFT>"
    rows = (
        [
            *texts(entry, "name applies_to window"),
            "hard" if entry.get("hard") else "soft",
            *amounts(entry, "cap spent reserved left"),
        ]
        for entry in found
    )
    call.screen.table({"budgets": found}, heads, rows, "no budgets in the configuration")


@cli.command()
@click.option("--since", type=DURATION, metavar="DURATION", help="Of the last time, such as 7d.")
@click.option("--by", "group_by", type=click.Choice(["day", "pool"]), default="day", show_default=True, help="A line for each.")
@click.pass_obj
def ledger(call: Call, since: float | None, group_by: str) -> None:
    """Show what machines cost, and how much of it was for jobs, idle time and boots."""
    import time

    from coalition.output import duration

    found = call.client().ledger(since=None if since is None else time.time() - since, group_by=group_by)
    rows = ([entry.get("key"), duration(entry.get("seconds")), *amounts(entry, "amount run idle boot")] for entry in found)
    call.screen.table({"entries": found}, f"{group_by.upper()}* TIME> COST> JOBS> IDLE> BOOT>", rows, "nothing was spent")


@cli.command()
@click.option("--pool", metavar="NAME", help="About this pool.")
@LIMIT
@click.pass_obj
def decisions(call: Call, pool: str | None, limit: int) -> None:
    """Show what the autoscaler did or did not do, and why."""
    from coalition.output import moment

    found = call.client().decisions(limit=limit, pool=pool)
    rows = ([moment(entry.get("at")), *texts(entry, "pool action count reason")] for entry in found)
    call.screen.table({"decisions": found}, "TIME POOL ACTION COUNT> REASON*", rows, "no decisions yet")
