"""Verbs on workers, and on the tags that they and jobs have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from coalition.cli.frame import (
    COMPLETE_JOBS,
    COMPLETE_WORKERS,
    DURATION,
    Call,
    careful,
    cli,
    divided,
    parts,
    texts,
    watched,
    written,
)

if TYPE_CHECKING:
    from coalition.client import Client
    from coalition.model import Worker


@cli.group(invoke_without_command=True)
@watched("workers", "jobs")
@click.option("--state", metavar="STATE,STATE", multiple=True, callback=divided, help="Only those: WORKING, TIMEOUT, SICK...")
@click.pass_context
def workers(context: click.Context, state: Sequence[str]) -> None:
    """List the workers, or change them."""
    if context.invoked_subcommand:
        if state:
            raise click.UsageError("--state is for the list; name the workers that are meant")
        return
    from coalition.model import to_dict

    call: Call = context.obj
    found = call.client().workers(state=[one.upper() for one in state] or None)
    heads = "ID> NAME* STATE BUSY> AFFINITY LOAD> FREE> SEEN> JOBS NOTE"
    none = "no workers in these states" if state else "no workers; start one with `coalition worker`"
    call.screen.table({"workers": to_dict(found)}, heads, map(_worker_row, found), none)


def _worker_row(worker: Worker) -> list[object]:
    from coalition.output import age, size

    affinity = " | ".join(",".join(line) for line in worker.affinity)
    free = size(worker.memory_free_bytes) if worker.memory_free_bytes else ""
    held = ",".join(map(str, worker.jobs[:3])) + ("..." if len(worker.jobs) > 3 else "")
    state = worker.state if worker.active else f"{worker.state} (off)"
    busy = f"{min(worker.running, worker.slots)}/{worker.slots}"  # more than that wait on the worker for a slot
    return [worker.id, worker.name, state, busy, affinity, f"{worker.load:.1f}", free, age(worker.seen_at), held, worker.note]


WORKERS = click.argument("names", nargs=-1, required=True, metavar="NAME|ID...", shell_complete=COMPLETE_WORKERS)


def _worker_ids(client: Client, names: Sequence[str]) -> list[int]:
    """The ids of workers given by id or by name."""
    if all(name.isdigit() for name in names):
        return [int(name) for name in names]
    known = {worker.name: worker.id for worker in client.workers()}
    unknown = [name for name in names if name not in known and not name.isdigit()]
    if unknown:
        from coalition.errors import nearest

        raise click.UsageError(f"no worker {unknown[0]}; {nearest(unknown[0], known)}")
    return [known[name] if name in known else int(name) for name in names]


@workers.command("show")
@click.argument("name", metavar="NAME|ID", shell_complete=COMPLETE_WORKERS)
@click.pass_obj
def workers_show(call: Call, name: str) -> None:
    """Show one worker."""
    from coalition.model import to_dict
    from coalition.output import age, size

    client = call.client()
    found = client.worker(_worker_ids(client, [name])[0])
    facts = {name: size(value) if name.endswith("_bytes") else value for name, value in found.facts.items()}
    pairs: list[tuple[str, object]] = [
        ("id", found.id),
        ("name", found.name),
        ("state", found.state if found.active else f"{found.state} (off)"),
        ("reason", found.reason),
        ("note", found.note),
        ("busy", f"{found.running}/{found.slots}"),
        ("jobs", ", ".join(map(str, found.jobs))),
        ("affinity", " | ".join(",".join(line) for line in found.affinity)),
        ("machine", ", ".join(f"{name.removesuffix('_bytes')} {value}" for name, value in facts.items() if value)),
        ("version", found.version),
        ("load", f"{found.load:.1f}"),
        ("hours", f"{found.hours} {found.timezone}" if found.hours else ""),
        ("finished", f"{found.finished}, {found.errors} errors"),
        ("seen", f"{age(found.seen_at)} ago"),
    ]
    call.screen.details(to_dict(found), pairs)


@workers.command("drain")
@WORKERS
@careful
@click.pass_obj
def workers_drain(call: Call, /, names: Sequence[str], **given: bool) -> int:
    """Let workers finish what they run, and take no more."""
    client = call.client()
    return call.acted(client.drain_workers(_worker_ids(client, names), **given), "worker")


@workers.command("resume")
@WORKERS
@careful
@click.pass_obj
def workers_resume(call: Call, /, names: Sequence[str], **given: bool) -> int:
    """Let drained workers take jobs again."""
    client = call.client()
    return call.acted(client.resume_workers(_worker_ids(client, names), **given), "worker")


@workers.command("delete")
@WORKERS
@careful
@click.pass_obj
def workers_delete(call: Call, /, names: Sequence[str], **given: bool) -> int:
    """Forget workers; their credentials end."""
    client = call.client()
    return call.acted(client.delete_workers(_worker_ids(client, names), **given), "worker")


@workers.command("edit")
@WORKERS
@click.option("--affinity", metavar="TAG,TAG", multiple=True, help="Tags of jobs it may run; repeated: other sets, best first.")
@click.option("--active/--inactive", default=None, help="Whether it takes jobs.")
@click.option("--slots", type=int, help="How many jobs at a time.")
@click.option("--hours", metavar="SPANS", help="When it takes jobs: 'mon-fri 19:00-07:00, sat-sun 00:00-24:00'; '': always.")
@click.option("--timezone", metavar="NAME", help="Of the hours, such as Europe/Paris; default: UTC.")
@click.option("--hours-end", type=click.Choice(["finish", "requeue"]), help="What becomes of what runs when the hours end.")
@click.option("--idle-user", "idle_user_s", type=DURATION, help="It takes jobs when nobody used it for so long; 0: always.")
@click.option("--idle-load", type=float, help="It takes jobs when others load it less than this; 0: always.")
@click.option("--note", help="Words for whoever looks at it.")
@careful
@click.pass_context
def workers_edit(context: click.Context, /, names: Sequence[str], partial: bool, dry_run: bool, **options: Any) -> int:
    """Change workers."""
    call: Call = context.obj
    given = written(context, options)
    if not given:
        raise click.UsageError("name at least one thing to change")
    if "affinity" in given:
        given["affinity"] = [line for line in ([*parts([text])] for text in given["affinity"]) if line]
    client = call.client()
    done = client.edit_workers(_worker_ids(client, names), partial=partial, dry_run=dry_run, **given)
    return call.acted(done, "worker")


@cli.command()
@watched("workers", "jobs")
@click.pass_obj
def affinities(call: Call) -> None:
    """List the tags in use, with the workers and jobs that have them."""
    found = call.client().affinities()
    rows = (texts(entry, "tag workers jobs") for entry in found)
    call.screen.table({"affinities": found}, "TAG* WORKERS> JOBS>", rows, "no tags")


@cli.command()
@click.argument("job", type=int, required=False, shell_complete=COMPLETE_JOBS)
@click.option("--worker", metavar="NAME|ID", shell_complete=COMPLETE_WORKERS, help="Why this worker is idle, instead.")
@click.pass_obj
def explain(call: Call, job: int | None, worker: str | None) -> None:
    """Say why a job, or the jobs of a group, are not running; or why a worker is idle."""
    if (job is None) == (worker is None):
        raise click.UsageError("name a job, or a worker by --worker")
    client = call.client()
    answer = client.explain(job) if job is not None else client.explain_worker(_worker_ids(client, [worker or ""])[0])
    reasons = enumerate(answer.get("reasons", ()), 1)
    told = ((f"reason {number}", reason.get("text")) for number, reason in reasons)
    subject = ("job", job) if job is not None else ("worker", answer.get("name"))
    call.screen.details(answer, [subject, ("state", answer.get("state")), *told])
