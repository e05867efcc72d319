"""Verbs on limits."""

from __future__ import annotations

import click

from coalition.cli.frame import COMPLETE_LIMITS, Call, cli, watched
from coalition.model import to_dict


@cli.group(invoke_without_command=True)
@watched("limits", "jobs")
@click.pass_context
def limits(context: click.Context) -> None:
    """List the limits: tokens, such as licences, that jobs hold while they run."""
    if context.invoked_subcommand:
        return
    call: Call = context.obj
    found = call.client().limits()
    rows = [
        [limit.name, limit.used, "not defined" if limit.maximum is None else limit.maximum, _scope(limit.per_host), limit.waiting]
        for limit in found
    ]
    call.screen.table(
        {"limits": to_dict(found)}, "NAME* USED> MAXIMUM> OF WAITING>", rows, "no limits; define one: coalition limits set"
    )


NAME = click.argument("name", shell_complete=COMPLETE_LIMITS)


def _scope(per_host: bool) -> str:
    return "each machine" if per_host else "the farm"


@limits.command("show")
@NAME
@click.pass_obj
def limits_show(call: Call, name: str) -> None:
    """Show one limit."""
    limit = call.client().limit(name)
    maximum = "not defined" if limit.maximum is None else limit.maximum
    pairs = [
        ("name", limit.name),
        ("used", limit.used),
        ("maximum", maximum),
        ("of", _scope(limit.per_host)),
        ("waiting", limit.waiting),
    ]
    call.screen.details(to_dict(limit), pairs)


@limits.command("set")
@click.argument("name")
@click.argument("maximum", type=click.IntRange(0, 1_000_000))
@click.option("--per-host", is_flag=True, help="So many on each machine, not on the whole farm.")
@click.pass_obj
def limits_set(call: Call, name: str, maximum: int, per_host: bool) -> None:
    """Define a limit, or change it; what runs goes on."""
    call.changed(call.client().set_limit(name, maximum, per_host=per_host), "limit")


@limits.command("delete")
@NAME
@click.pass_obj
def limits_delete(call: Call, name: str) -> None:
    """Forget a limit; jobs that name it wait until it is defined again."""
    call.changed(call.client().delete_limit(name), "limit")
