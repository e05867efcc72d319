"""Verbs on machines that are paid for, and on money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from coalition.cli.frame import (
    COMPLETE_INSTANCES,
    COMPLETE_POOLS,
    DURATION,
    INSTANCES,
    LIMIT,
    Call,
    Written,
    amounts,
    careful,
    cli,
    texts,
    watched,
)


@cli.command()
@watched("jobs", "workers", "instances", "money")
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
@watched("instances", "decisions")
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
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=COMPLETE_POOLS)
@click.pass_obj
def pools_resume(call: Call, names: Sequence[str]) -> None:
    """Let pools start instances again after failed boots or refusals."""
    call.changed(call.client().resume_pools(names), "pool")


@cli.group(invoke_without_command=True)
@watched("instances", "money")
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


@instances.command("show")
@click.argument("instance", type=int, metavar="ID", shell_complete=COMPLETE_INSTANCES)
@click.pass_obj
def instances_show(call: Call, instance: int) -> None:
    """Show one machine, also one that is gone."""
    from coalition.output import moment

    facts = call.client().instance(instance)
    price, spent = amounts(facts, "price spent")
    named = ("id", "pool", "offering", "state", "slots", "worker_name", "reason", "provider_id", "zone")
    times = [(name.removesuffix("_at"), moment(value)) for name, value in facts.items() if name.endswith("_at") and value]
    call.screen.details(facts, [*((n, facts.get(n)) for n in named), ("per hour", price), ("spent", spent), *times])


@instances.command("drain")
@INSTANCES
@careful
@click.pass_obj
def instances_drain(call: Call, /, ids: Sequence[int], **given: bool) -> int:
    """End machines when their jobs are done."""
    return call.acted(call.client().drain_instances(ids, **given), "instance")


@instances.command("terminate")
@INSTANCES
@careful
@click.pass_obj
def instances_terminate(call: Call, /, ids: Sequence[int], **given: bool) -> int:
    """End machines now; their jobs run again elsewhere."""
    return call.acted(call.client().terminate_instances(ids, **given), "instance")


@cli.command("pause-scaling")
@click.pass_obj
def pause_scaling(call: Call) -> None:
    """Start no machines until `coalition resume`; those that run work on, are paid on, and end as usual."""
    done = call.client().pause_scaling()
    call.screen.said({"changed": done}, "scaling is paused" if done else "scaling was paused already")


@cli.command()
@click.argument("pools", nargs=-1, metavar="[POOL...]", shell_complete=COMPLETE_POOLS)
@click.pass_obj
def resume(call: Call, pools: Sequence[str]) -> None:
    """Let machines be started again, after `pause-scaling`; with POOL, in pools that were drained or blocked."""
    if pools:
        call.changed(call.client().resume_pools(pools), "pool")
        return
    done = call.client().resume_scaling()
    call.screen.said({"changed": done}, "scaling goes on" if done else "scaling was not paused")


@cli.command()
@click.argument("pools", nargs=-1, required=True, metavar="POOL...", shell_complete=COMPLETE_POOLS)
@click.pass_obj
def drain(call: Call, pools: Sequence[str]) -> None:
    """Start nothing more in pools, and end their machines as their jobs end; `coalition resume POOL` undoes it."""
    done = call.client().drain_pools(pools)
    call.screen.said({"changed": done}, f"{', '.join(pools)}: {done} machine{'' if done == 1 else 's'} will end")


@cli.group(invoke_without_command=True)
@watched("money")
@click.pass_context
def budget(context: click.Context) -> None:
    """Show what is spent, reserved and left of every budget, or change budgets."""
    if context.invoked_subcommand:
        return
    call: Call = context.obj
    found = call.client().budgets()
    _budgets(call, {"budgets": found}, found)


def _budgets(call: Call, facts: Any, found: Sequence[Mapping[str, Any]]) -> None:
    heads = "NAME* FOR WINDOW KIND CAP> SPENT> RESERVED> LEFT> FROM"
    rows = (
        [
            *texts(entry, "name applies_to window"),
            "hard" if entry.get("hard") else "soft",
            *amounts(entry, "cap spent reserved left"),
            _source(entry),
        ]
        for entry in found
    )
    call.screen.table(facts, heads, rows, "no budgets in the configuration")


def _source(entry: Mapping[str, Any]) -> str:
    """Where a budget's values come from."""
    source, who = str(entry.get("source", "")), entry.get("changed_by") or "hand"
    if entry.get("in_file"):
        return f"{source}, changed by {who}"
    return f"{source}, by {who}" if source == "run time" else source


WINDOWS = click.Choice(["hour", "day", "week", "month", "total"])
AMOUNT = Written("amount", "a_money")
SHARES = Written("shares", "a_share_list")
HARD = click.option("--hard/--soft", default=None, help="Whether it can stop machines, or only warns.")
ALERT = click.option("--alert", type=SHARES, metavar="SHARES", help="Shares of the cap that are told, such as '50%, 80%'.")
KILL = click.option("--kill/--no-kill", default=None, help="Whether jobs start that it is not expected to pay for to their end.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what would start, stop or be forbidden, and change nothing.")


@budget.command("show")
@click.argument("name")
@click.pass_obj
def budget_show(call: Call, name: str) -> None:
    """Show one budget."""
    found = call.client().budget(name)
    _budgets(call, found, [found])


@budget.command("add")
@click.argument("name")
@click.argument("amount", type=AMOUNT)
@click.option("--window", type=WINDOWS, default="month", show_default=True, help="The time that the cap is for.")
@click.option("--timezone", metavar="ZONE", default="UTC", show_default=True, help="Where the window's days begin.")
@click.option("--currency", metavar="CODE", default="USD", show_default=True, help="Of the cap, as of the pools it pays for.")
@click.option(
    "--for", "applies_to", default="farm", show_default=True, help="farm, pool:, offering:, user:, group: or affinity:NAME."
)
@HARD
@ALERT
@KILL
@DRY_RUN
@click.pass_obj
def budget_add(call: Call, /, name: str, amount: int, hard: bool | None, dry_run: bool, **given: Any) -> None:
    """Add a budget NAME with a cap of AMOUNT; it holds from the autoscaler's next tick on."""
    fields = {key: value for key, value in given.items() if value is not None} | ({} if hard is None else {"hard": hard})
    _told(call, call.client().create_budget(name, amount, dry_run=dry_run, **fields))


@budget.command("set")
@click.argument("name")
@click.option("--amount", "amount_micro", type=AMOUNT, metavar="AMOUNT", help="The cap.")
@HARD
@ALERT
@KILL
@DRY_RUN
@click.pass_obj
def budget_set(call: Call, /, name: str, dry_run: bool, **given: Any) -> None:
    """Change budget NAME, whatever cloud.ini says, from the autoscaler's next tick on."""
    fields = {key: value for key, value in given.items() if value is not None}
    _told(call, call.client().edit_budget(name, dry_run=dry_run, **fields))


@budget.command("delete")
@click.argument("name")
@DRY_RUN
@click.pass_obj
def budget_delete(call: Call, name: str, dry_run: bool) -> None:
    """Remove a budget that was added; of one in cloud.ini, what was changed: the file's values hold again."""
    _told(call, call.client().delete_budget(name, dry_run=dry_run))


def _told(call: Call, change: Mapping[str, Any]) -> None:
    """What a change of a budget does, a line each."""
    would = "would be" if change.get("dry_run") else "is"
    after, effect = change.get("after"), change.get("effect", {})
    one = after or change.get("before") or {}
    what = f"{amounts(one, 'cap')[0]} ({one.get('window')})" if after else "no more"
    lines = [f"budget {one.get('name')} {would} {what}"]
    for pool in effect.get("starts", ()):
        lines.append(f"pool {pool['pool']} may start {_count(pool)} machines: {pool['waits']}")
    for machine in effect.get("stops", ()):
        lines.append(f"instance {machine['instance']} ({machine['pool']}) is not paid on, and ends as its jobs end")
    lines += [effect["forbids"]] if effect.get("forbids") else []
    call.screen.said(dict(change), lines[0])
    for line in () if call.json else lines[1:]:
        call.screen.said(None, f"  {line}")


def _count(entry: Mapping[str, Any]) -> str:
    return "any number of" if entry.get("at_most") is None else f"up to {entry['at_most']}"


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


BY = ("day", "pool", "type", "instance", "user", "group", "tag", "job", "attempt")


@cli.command()
@click.option("--by", "group_by", type=click.Choice(BY), default="day", show_default=True, help="A line for each.")
@click.option("--since", type=DURATION, metavar="DURATION", help="Of the last time, such as 7d.")
@click.option("--until", type=DURATION, metavar="DURATION", help="Not of the last time.")
@click.option("--pool", metavar="NAME", help="Of this pool.")
@click.option("--user", metavar="NAME", help="Of this user's jobs.")
@click.option("--tag", metavar="TAG", help="Of jobs with this tag.")
@click.option("--job", type=int, metavar="ID", help="Of this job.")
@click.option("--group", type=int, metavar="ID", help="Of the jobs below this group, which is at the top.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, amounts in whole units of the currency.")
@click.pass_obj
def cost(call: Call, /, group_by: str, since: float | None, until: float | None, as_csv: bool, **only: str | int | None) -> None:
    """Show what machines cost by day, pool, type, instance, user, group, tag, job or attempt, those that run up to now.

    Work that did not count (errors, lost machines) is waste. Boot and idle time is nobody's: a line without a name.
    """
    import time

    from coalition.ledger import costs_as_csv
    from coalition.output import duration

    now = time.time()
    began, over = (None if ago is None else now - ago for ago in (since, until))
    given = {name: value for name, value in only.items() if value is not None}
    found = call.client().cost(group_by=group_by, since=began, until=over, **given)
    if as_csv:
        print(costs_as_csv(found).replace("\r\n", "\n"), end="")
        return
    rows = (
        [entry.get("key"), entry.get("name", ""), duration(entry.get("seconds")), *amounts(entry, "amount run waste idle boot")]
        for entry in found
    )
    heads = f"{group_by.upper()}* TITLE* TIME> COST> JOBS> WASTE> IDLE> BOOT>"
    call.screen.table({"entries": found}, heads, rows, "nothing was spent")


@cli.command()
@click.argument("job", type=int, required=False, metavar="[ID]")
@click.pass_obj
def forecast(call: Call, job: int | None) -> None:
    """Say when a group or job, or without ID all that is open, will be done and what that will cost, by its finished frames."""
    from coalition.output import duration, moment

    told = call.client().forecast(job)
    ends = [moment(told.get(name)) for name in ("ends_at", "ends_early", "ends_late")]
    costs = amounts(told, "cost cost_low cost_high")
    unknown = f", {told.get('unknown')} of unknown length" if told.get("unknown") else ""
    pairs = [
        ("jobs left", f"{told.get('jobs', 0)}, {told.get('running', 0)} of them running{unknown}"),
        ("machine time", duration(told.get("work_s"))),
        ("done", f"{ends[0]} (9 of 10 times from {ends[1]} to {ends[2]})" if told.get("ends_at") else "not known"),
        ("will cost", f"{costs[0]} more (9 of 10 times from {costs[1]} to {costs[2]})"),
    ]
    call.screen.details(told, pairs)


@cli.command()
@click.option("--since", type=DURATION, metavar="DURATION", help="Of the last time, such as 7d; else of a day.")
@click.pass_obj
def history(call: Call, since: float | None) -> None:
    """Show how the farm did over time: jobs to do and at work, slots, machines, and what an hour cost."""
    import time

    from coalition.output import moment, money

    told = call.client().history(since=None if since is None else time.time() - since)
    names = ("waiting", "working", "error", "busy", "slots", "instances")
    rows = (
        [moment(point.get("at")), *(f"{point.get(name, 0):g}" for name in names), money(point.get("burn_micro"), "")]
        for point in told.get("points", [])
    )
    call.screen.table(told, "TIME WAITING> WORKING> ERRORS> BUSY> SLOTS> MACHINES> PER-HOUR>", rows, "nothing was noted yet")


@cli.command()
@watched("decisions")
@click.option("--pool", metavar="NAME", help="About this pool.", shell_complete=COMPLETE_POOLS)
@LIMIT
@click.pass_obj
def decisions(call: Call, pool: str | None, limit: int) -> None:
    """Show what the autoscaler did or did not do, and why."""
    from coalition.output import moment

    found = call.client().decisions(limit=limit, pool=pool)
    rows = ([moment(entry.get("at")), *texts(entry, "pool action count reason")] for entry in found)
    call.screen.table({"decisions": found}, "TIME POOL ACTION COUNT> REASON*", rows, "no decisions yet")
