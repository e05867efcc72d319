"""Verbs on jobs: submit and change them, look at them, wait for them."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from coalition.cli.frame import (
    COMPLETE_JOBS,
    COMPLETE_WORKERS,
    DONE,
    DURATION,
    FAILED,
    IDS,
    JOB,
    LIMIT,
    SIZE,
    Call,
    cli,
    divided,
    parts,
    selecting,
    watched,
    written,
)

if TYPE_CHECKING:
    from coalition.client import Client
    from coalition.model import Attempt, Job, JobSpec


def _environment(context: click.Context, option: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    wrong = next((pair for pair in pairs if not pair.partition("=")[1]), None)
    if wrong is not None:
        raise click.BadParameter(f'"{wrong}" is not NAME=VALUE', context, option)
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _tokens(context: click.Context, parameter: click.Parameter, value: Sequence[str]) -> dict[str, int]:
    """NAME=COUNT, or NAME for one."""
    tokens: dict[str, int] = {}
    for text in value:
        name, equals, count = text.partition("=")
        if not name or (equals and not count.isdecimal()):
            raise click.BadParameter(f"{text!r}: write NAME=COUNT, for example nuke=1")
        tokens[name] = int(count) if equals else 1
    return tokens


def _numbers(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[int]:
    try:
        return [int(text) for text in parts(texts)]
    except ValueError:
        raise click.BadParameter("job ids with commas between them, such as 12,13", context, option) from None


FRAMES = re.compile(r"(?P<on>\d+)(?:x(?P<step>\d+))?(?P<shift>[+-]\d+)?(?P<done>:done)?")


def _frame_rules(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[dict[str, Any]]:
    rules = []
    for text in parts(texts):
        match = FRAMES.fullmatch(text)
        if match is None:
            raise click.BadParameter(f"{text!r}: write ID[xSTEP][+SHIFT][:done], for example 12, 12-1 or 12x2+1", context, option)
        rule = {"on": int(match["on"]), "frames": True, "step": int(match["step"] or 1), "shift": int(match["shift"] or 0)}
        rules.append({**rule, "until": "done" if match["done"] else "finished"})
    return rules


def depending(given: dict[str, Any]) -> dict[str, Any]:
    """The options for dependencies as one field."""
    names = ("depends_on", "depends_done", "depends_frames")
    if given.keys().isdisjoint(names):
        return given
    on, done, frames = (given.pop(name, []) for name in names)
    return {**given, "depends_on": [*on, *({"on": one, "until": "done"} for one in done), *frames]}


def _all(context: click.Context, option: click.Parameter, values: Sequence[Any]) -> list[Any]:
    return list(values)


SORTS = ("id", "priority", "title", "started", "ended", "progress")
FIELDS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
    click.option("--title", help="What people see."),
    click.option("--dir", metavar="DIR", help="The folder the command runs in, on the worker."),
    click.option(
        "--env", "environment", metavar="NAME=VALUE", multiple=True, callback=_environment, help="A variable; may be repeated."
    ),
    click.option("--user", help="Whose job it is; default: who runs this."),
    click.option("--priority", type=int, metavar="0-255", help="Higher first, within its group; default: 127."),
    click.option("--affinity", metavar="TAG,TAG", multiple=True, callback=divided, help="Tags that a worker must have."),
    click.option("--timeout", "timeout_s", type=DURATION, help="Stop it as an error after this time, such as 30m."),
    click.option("--retries", type=int, help="How many errors are run again."),
    click.option("--depends-on", metavar="ID,ID", multiple=True, callback=_numbers, help="Jobs that must be finished before."),
    click.option("--depends-done", metavar="ID,ID", multiple=True, callback=_numbers, help="The same, but they may also fail."),
    click.option(
        "--depends-frames",
        metavar="ID[xSTEP][+SHIFT],...",
        multiple=True,
        callback=_frame_rules,
        help="Of a frame range: frame n waits for frame n*STEP+SHIFT of these ranges; ID:done if that may also fail.",
    ),
    click.option("--depends-any/--depends-all", default=None, help="One of --depends-on and --depends-done is enough, or all."),
    click.option("--url", help="Where its result can be seen."),
    click.option("--progress-pattern", metavar="REGEX", help="With %percent or %one where its output tells the progress."),
    click.option(
        "--error-pattern", "error_patterns", metavar="REGEX", multiple=True, callback=_all, help="Of output that means an error."
    ),
    click.option(
        "--licence-pattern",
        "licence_patterns",
        metavar="REGEX",
        multiple=True,
        callback=_all,
        help="Of output that means: no licence, try later.",
    ),
    click.option(
        "--licence-code",
        "licence_codes",
        type=int,
        metavar="CODE",
        multiple=True,
        callback=_all,
        help="An exit code that means the same.",
    ),
    click.option("--cpus", type=int, help="How many it needs."),
    click.option("--memory", "memory_bytes", type=SIZE, help="How much it needs, such as 8G."),
    click.option("--gpus", type=int, help="How many it needs."),
    click.option(
        "--limit", "limits", metavar="NAME=COUNT", multiple=True, callback=_tokens, help="Tokens it holds while it runs."
    ),
    click.option("--exclusive/--shared", default=None, help="Alone on its worker, or beside others."),
    click.option("--max-running", type=int, help="Of a group or frame range: so many of its jobs at a time."),
    click.option("--decrease-priority-after", type=int, help="Of a group: after so many errors it comes after its siblings."),
    click.option("--note", help="A remark, shown with it."),
    click.option(
        "--notify",
        metavar="WHAT,...",
        multiple=True,
        callback=divided,
        help="Who is told of what: error, finished, first:N, addresses; none for nobody.",
    ),
]


def job_fields(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options for the fields that a job is submitted with, and that can be edited."""
    for option in reversed(FIELDS):
        verb = option(verb)
    return verb


@cli.command(context_settings={"allow_interspersed_args": False})
@job_fields
@click.option("--parent", type=int, metavar="ID", help="The group it goes into.")
@click.option("--paused", is_flag=True, help="Wait until it is started.")
@click.option("--frames", metavar="RANGE", help="One job per frame, as 1-100x2; replaces {frame}, {frame:04d}, {start}, {end}.")
@click.option("--chunk", type=int, help="Frames of one job.")
@click.option("--group", is_flag=True, help="Make an empty group; print its id.")
@click.option("--dry-run", is_flag=True, help="Say what would be made, and make nothing.")
@click.option("--key", help="Of this submission: given again with it within a day, it makes nothing and prints the same id.")
@click.option("--wait", "waits", is_flag=True, help="Wait until it is over; exit 1 if it failed.")
@click.argument("command", nargs=-1)
@click.pass_context
def submit(context: click.Context, /, command: Sequence[str], waits: bool, dry_run: bool, key: str | None, **options: Any) -> int:
    """Submit a job, or one for each frame, and print its id.

    One COMMAND word is a shell line as it is; several are a program and its arguments, whose quotes are kept.

    \b
        coalition submit --title hello 'echo hello > /tmp/hello'
        coalition submit --frames 1-100x2 --title shot -- povray +K{frame} shot.pov
        coalition submit shot.toml

    A file whose name ends in .toml describes the jobs itself, see docs/job-files.md.
    """
    from coalition.cli.job_file import is_job_file, read
    from coalition.model import JobSpec, from_dict

    call: Call = context.obj
    given = depending(written(context, options))
    if is_job_file(tuple(command)):
        if given:
            raise click.UsageError(f"{command[0]} describes the jobs: say it in the file, not by options")
        if len(command) > 1:
            raise click.UsageError(f"{command[0]} is a file that describes jobs: write options before it")
        return _submit(call, read(command[0]), dry_run, key, waits)
    if command:
        given["command"] = command[0] if len(command) == 1 else shlex.join(command)
    elif not options["group"]:
        raise click.UsageError("give a command, or --group for an empty group")
    return _submit(call, [from_dict(JobSpec, given)], dry_run, key, waits)


def _submit(call: Call, jobs: Sequence[JobSpec], dry_run: bool, key: str | None, waits: bool) -> int:
    client = call.client()
    made = client.submit_many(jobs, dry_run=dry_run, key=key)
    if made.dry_run:
        return call.rehearsed(made.count, made.dry_run)
    if not call.json:
        print(*made.ids, sep="\n", flush=True)
    elif not waits:
        call.screen.document({"id": made.ids[0], "ids": list(made.ids), "count": made.count})
    return _wait(call, client, made.ids, None) if waits else DONE


@cli.command()
@selecting
@job_fields
@click.option("--command", help="The shell line.")
@click.option("--parent", type=int, metavar="ID", help="Moves it into this group.")
@click.pass_context
def edit(context: click.Context, /, ids: Sequence[int], filter: str, partial: bool, dry_run: bool, **options: Any) -> int:
    """Change fields of jobs. --env, --affinity and --depends-on replace what was there."""
    call: Call = context.obj
    given = depending(written(context, options))
    if not given:
        raise click.UsageError("name at least one field to change")
    return call.acted(call.client().edit(ids, filter=filter, partial=partial, dry_run=dry_run, **given))


@cli.command()
@click.argument("file", type=click.File("rb"))
@click.pass_obj
def edits(call: Call, file: BinaryIO) -> int:
    """Change different jobs in different ways, all or none, by a JSON FILE; - is the input.

    \b
        [{"ids": [12, 13], "changes": {"priority": 200}},
         {"filter": "user:ann state:ERROR", "changes": {"retries": 3}}]
    """
    import json

    from coalition.errors import BadInput

    try:
        wanted = json.load(file)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file.name}: is not JSON: {error}") from None
    if not isinstance(wanted, list):
        raise BadInput(f"{file.name}: is no list of changes")
    return call.acted(call.client().edit_each(wanted))


@cli.command()
@selecting
@click.option("--to", "parent", type=int, required=True, metavar="ID", help="The group; 0 is the top.")
@click.pass_obj
def move(call: Call, /, **given: Any) -> int:
    """Put jobs, with all that is below them, into another group."""
    return call.acted(call.client().move(**given))


@cli.command()
@selecting
@click.pass_obj
def pause(call: Call, /, **given: Any) -> int:
    """Hold jobs, with all that is below them; what runs is stopped and will run again."""
    return call.acted(call.client().pause(**given))


@cli.command()
@selecting
@click.pass_obj
def start(call: Call, /, **given: Any) -> int:
    """Let paused jobs go on."""
    return call.acted(call.client().start(**given))


@cli.command()
@selecting
@click.option("--errors", "errors_only", is_flag=True, help="Only those that failed.")
@click.pass_obj
def reset(call: Call, /, **given: Any) -> int:
    """Run jobs again, with all that is below them."""
    return call.acted(call.client().reset(**given))


@cli.command()
@selecting
@click.option("--why", default="", help="Told with the event.")
@click.pass_obj
def skip(call: Call, /, **given: Any) -> int:
    """Let jobs count as finished, with all that is below them; what runs is stopped, and what waited for them goes on."""
    return call.acted(call.client().skip(**given))


@cli.command()
@JOB
@click.argument("frames", metavar="RANGE")
@click.option("--chunk", type=int, help="Frames of one job; default: as before.")
@click.option("--title", help="Of these frames.")
@click.option("--command", help="The shell line of these frames.")
@click.option("--url", help="Where the results of these frames can be seen.")
@click.pass_context
def append(context: click.Context, /, job: int, frames: str, **options: Any) -> None:
    """Append frames to a frame range, or to a group with --command; what is not given is as it was submitted."""
    from coalition.model import to_dict

    call: Call = context.obj
    made = call.client().append(job, frames, **written(context, options))
    call.screen.said(to_dict(made), f"{made.count} job{'' if made.count == 1 else 's'} appended to {made.group}")


@cli.command()
@selecting
@click.pass_obj
def delete(call: Call, /, **given: Any) -> int:
    """Remove jobs, with all that is below them; what runs is stopped. Their logs go after [keep] logs."""
    return call.acted(call.client().delete(**given))


# ---------------------------------------------------------------- look and wait


@cli.command()
@watched("jobs")
@click.argument("group", type=int, default=0, metavar="[GROUP]", shell_complete=COMPLETE_JOBS)
@click.option("--all", "deep", is_flag=True, help="At every level, not only in GROUP or at the top.")
@click.option(
    "--state", metavar="STATE,STATE", multiple=True, callback=divided, help="WAITING, PENDING, WORKING, FINISHED, ERROR."
)
@click.option("--user", help="Whose.")
@click.option("--title", help="A part of the title.")
@click.option("--paused/--not-paused", default=None, help="Only paused ones, or none of them.")
@click.option(
    "--filter", metavar="TEXT", help="""Such as 'state:ERROR user:ann -title:test created>-2h priority>=200 "shot 10"'."""
)
@click.option(
    "--sort",
    type=click.Choice([f"{sign}{name}" for name in SORTS for sign in ("", "-")]),
    default="-id",
    help="Order; default: newest first.",
)
@click.option(
    "--fields", metavar="NAME,NAME", multiple=True, callback=divided, help="These fields instead, such as id,title,state."
)
@LIMIT
@click.pass_obj
def jobs(call: Call, /, group: int, deep: bool, state: Sequence[str], limit: int, fields: Sequence[str], **filters: Any) -> None:
    """List the jobs at the top, or those in GROUP."""
    from coalition.model import to_dict

    client = call.client()
    states = ",".join(state).upper() or None
    if fields:
        query = {"parent": None if deep else group, "state": states, "limit": min(limit, 1_000), **filters}
        rows = list(islice(client.rows("jobs", fields=fields, **query), limit))
        call.screen.table(
            {"jobs": rows}, " ".join(map(str.upper, fields)), ([row[name] for name in fields] for row in rows), "no jobs"
        )
        return
    found = list(client.jobs(parent=None if deep else group, state=states, limit=limit, **filters))
    currency = _currency(call, client, (job.cost_micro for job in found))
    heads = "ID> STATE TITLE* USER DONE> PRIO> AGE> RUN> COST>"
    call.screen.table({"jobs": to_dict(found)}, heads, (_job_row(job, currency) for job in found), "no jobs")
    if len(found) == limit and call.screen.terminal and not (call.json or call.quiet):
        print(f"the first {limit}; --limit shows more", file=sys.stderr)


def _job_row(job: Job, currency: str) -> list[object]:
    from coalition.output import age, duration, money, progress, state_of

    run = duration(job.run_s) if job.run_s else ""
    cost = money(job.cost_micro, currency) if job.cost_micro else ""
    return [job.id, state_of(job), job.title, job.user, progress(job), job.priority, age(job.created_at), run, cost]


def _currency(call: Call, client: Client, amounts: Iterable[int]) -> str:
    """The farm's currency, asked for only when an amount is to be shown."""
    return str(client.farm().get("currency", "")) if not (call.json or call.quiet) and any(amounts) else ""


@cli.command()
@watched("jobs")
@JOB
@click.pass_obj
def job(call: Call, job: int) -> None:
    """Show one job and its attempts. With --watch until it is over; then exit 1 if it failed."""
    from coalition.client import ended
    from coalition.model import to_dict

    client = call.client()
    found, attempts = client.job(job), client.attempts(job)
    if ended(found):
        call.over = FAILED if found.state == "ERROR" else DONE
    currency = _currency(call, client, [found.cost_micro])
    facts = {**to_dict(found), "attempts": to_dict(attempts)}
    call.screen.details(facts, _job_details(found, currency))
    if attempts and not (call.json or call.quiet):
        print()
        _attempts(call, attempts)


def _attempts(call: Call, attempts: Sequence[Attempt], *, facts: Any = None, jobs: bool = False) -> None:
    heads = "ATTEMPT> STATE WORKER RUN> EXIT> REASON*"
    rows = (_attempt_row(attempt) + ([attempt.job] if jobs else []) for attempt in attempts)
    call.screen.table(facts, f"{heads} JOB>" if jobs else heads, rows, "no attempts")


@cli.command()
@watched("jobs")
@click.option("--job", type=int, metavar="ID", help="Of this job.", shell_complete=COMPLETE_JOBS)
@click.option("--worker", metavar="NAME", help="Of this worker.", shell_complete=COMPLETE_WORKERS)
@click.option("--since", type=DURATION, metavar="DURATION", help="Begun in the last time, such as 2h.")
@LIMIT
@click.pass_obj
def attempts(call: Call, job: int | None, worker: str | None, since: float | None, limit: int) -> None:
    """List attempts, of all jobs, newest first."""
    from coalition.model import to_dict

    begun = None if since is None else time.time() - since
    found = call.client().all_attempts(job=job, worker=worker, since=begun, limit=min(limit, 1_000))
    _attempts(call, found, facts={"attempts": to_dict(found)}, jobs=True)


@cli.command()
@click.argument("attempt", type=int, metavar="ID")
@click.pass_obj
def attempt(call: Call, attempt: int) -> None:
    """Show one attempt."""
    from coalition.model import to_dict
    from coalition.output import duration

    facts: dict[str, Any] = to_dict(call.client().attempt(attempt))
    call.screen.details(facts, [(name, duration(value) if name == "run_s" else value) for name, value in facts.items()])


def _job_details(job: Job, currency: str) -> list[tuple[str, object]]:
    from coalition.output import duration, moment, money, progress, state_of

    return [
        ("id", job.id),
        ("title", job.title),
        ("state", f"{state_of(job)} {progress(job)}"),
        ("reason", job.reason),
        ("note", job.note),
        ("user", job.user),
        ("parent", job.parent or ""),
        ("priority", job.priority),
        ("affinity", ", ".join(job.affinity)),
        ("needs", ", ".join(_needs(job))),
        ("command", job.command),
        ("dir", job.dir),
        ("environment", " ".join(f"{name}={shlex.quote(value)}" for name, value in job.environment.items())),
        ("depends on", ", ".join(map(str, job.depends_on))),
        ("timeout", duration(job.timeout_s) if job.timeout_s else ""),
        ("errors", f"{job.errors} (retries: {job.retries})" if job.retries or job.errors else ""),
        ("url", job.url),
        ("worker", job.worker),
        ("created", moment(job.created_at)),
        ("started", moment(job.started_at)),
        ("ended", moment(job.ended_at)),
        ("run time", duration(job.run_s) if job.run_s else ""),
        ("cost", money(job.cost_micro, currency) if job.cost_micro else ""),
    ]


def _needs(job: Job) -> list[str]:
    from coalition.output import size

    memory = [f"{size(job.memory_bytes)} memory"] if job.memory_bytes else []
    return [f"{count} {name}" for name, count in (("cpus", job.cpus), ("gpus", job.gpus)) if count] + memory


def _attempt_row(attempt: Any) -> list[object]:
    from coalition.output import duration

    ended = f"signal {attempt.signal}" if attempt.signal else attempt.exit_code
    return [attempt.id, attempt.state, attempt.worker, duration(attempt.run_s), ended, attempt.reason]


@cli.command()
@JOB
@click.option("--follow", "-f", is_flag=True, help="Go on until the job is over; exit 1 if it failed.")
@click.option("--attempt", type=int, metavar="ID", help="The log of this attempt instead of the newest.")
@click.option("--tail", type=SIZE, default=0, metavar="SIZE", help="Only the last bytes, such as 4K.")
@click.pass_obj
def log(call: Call, job: int, follow: bool, attempt: int | None, tail: int) -> int:
    """Print a job's log, byte by byte as it was written."""
    if follow and (call.json or attempt is not None):
        raise click.UsageError("--follow is for the newest attempt, and not for --json")
    client = call.client()
    if follow:
        for data in client.follow(job, offset=-tail):
            _put(data)
        return FAILED if client.job(job).state == "ERROR" else DONE
    pieces = _pieces(client, job, attempt, -tail)
    if call.json:
        read = list(pieces)
        text = b"".join(piece.data for piece in read).decode("utf-8", "replace")
        facts = {name: getattr(read[0], name) for name in ("attempt", "size", "open", "cut")}
        call.screen.document({"job": job, **facts, "log": text})
        return DONE
    for piece in pieces:
        _put(piece.data)
    return DONE


def _pieces(client: Client, job: int, attempt: int | None, offset: int) -> Iterable[Any]:
    """The log up to where it ended at the first look; at least one piece."""
    from coalition.errors import BadInput

    size = None
    while True:
        read = client.log(job, offset=offset) if attempt is None else client.attempt_log(attempt, offset=offset)
        if not read.attempt and client.job(job).group:
            raise BadInput(fields={"job": f"{job} is a group, which has no log; name one of its jobs"})
        yield read
        attempt = read.attempt or attempt
        size = read.size if size is None else size
        offset = read.offset + len(read.data)
        if not read.data or offset >= size:
            return


def _put(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@cli.command()
@IDS
@click.option("--timeout", type=DURATION, metavar="DURATION", help="Give up after this time, such as 10m.")
@click.pass_obj
def wait(call: Call, ids: Sequence[int], timeout: float | None) -> int:
    """Wait until jobs are over; exit 1 if one failed."""
    return _wait(call, call.client(), ids, timeout)


def _wait(call: Call, client: Client, ids: Sequence[int], timeout_s: float | None) -> int:
    from coalition.model import to_dict

    bars = nullcontext() if call.quiet or call.json or not sys.stderr.isatty() else _Bars()
    with bars as shown:
        over = client.wait(ids, shown, timeout_s=timeout_s)
    currency = _currency(call, client, (job.cost_micro for job in over))
    if not call.quiet:
        heads = "ID> STATE TITLE* USER DONE> PRIO> AGE> RUN> COST>"
        call.screen.table({"jobs": to_dict(over)}, heads, (_job_row(job, currency) for job in over), "")
    return FAILED if any(job.state == "ERROR" for job in over) else DONE


class _Bars:
    """A progress bar for each job on the terminal, while they are waited for."""

    def __enter__(self) -> _Bars:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        words = TextColumn("{task.description}", markup=False)
        done = TextColumn("{task.fields[done]}", markup=False)
        self.bars = Progress(words, BarColumn(), done, TimeElapsedColumn(), console=Console(stderr=True))
        self.tasks: dict[int, Any] = {}
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def __call__(self, jobs: Sequence[Job]) -> None:
        from coalition.output import clean, progress, state_of

        for job in jobs:
            if job.id not in self.tasks:
                self.tasks[job.id] = self.bars.add_task(clean(job.title or job.id)[:40], total=1, done="")
            share = (job.counts.finished + job.counts.error) / max(1, job.counts.total) if job.counts else job.progress
            over = job.state == "FINISHED"
            self.bars.update(self.tasks[job.id], completed=1 if over else share, done=f"{progress(job)} {state_of(job)}")
