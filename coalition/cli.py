"""The command `coalition`: its verbs, and what each prints.

Exit codes: 0 done; 1 the job failed, or the server refused; 2 wrong usage, input or configuration; 3 no server; 4 not allowed;
130 Ctrl-C. Whatever is not needed to print the help is imported inside the verbs.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from coalition import __version__
from coalition.errors import (
    BadInput,
    CoalitionError,
    ConfigError,
    NotAllowed,
    NotAuthenticated,
    ServerUnreachable,
    Unavailable,
    WrongSchema,
)

if TYPE_CHECKING:
    from coalition.client import Client
    from coalition.config import Settings
    from coalition.model import Job, Worker
    from coalition.output import Screen

DONE, FAILED, USAGE, NO_SERVER, NOT_ALLOWED, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (BadInput, USAGE),
    (ConfigError, USAGE),
    (WrongSchema, USAGE),
    (ServerUnreachable, NO_SERVER),
    (Unavailable, NO_SERVER),
    (NotAuthenticated, NOT_ALLOWED),
    (NotAllowed, NOT_ALLOWED),
    (CoalitionError, FAILED),
    (TimeoutError, FAILED),
)


# ---------------------------------------------------------------- the frame: common options, errors, exit codes


@dataclass
class Call:
    """The options that every verb has."""

    server: str | None = None
    token: str | None = None
    token_file: str | None = None
    ca: str | None = None
    json: bool = False
    quiet: bool = False

    def client(self) -> Client:
        from coalition.client import Client

        return Client(self.server, self.secret(), ca=self.ca)

    def secret(self) -> str | None:
        """The token given by text or by file, else None; then the client looks at COALITION_TOKEN."""
        if self.token or not self.token_file:
            return self.token
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--token-file: {self.token_file} cannot be read: {error}") from None

    @property
    def screen(self) -> Screen:
        from coalition.output import Screen

        return Screen(self.json, self.quiet)

    def changed(self, count: int, thing: str = "job") -> None:
        self.screen.said({"changed": count}, f"{count} {thing}{'' if count == 1 else 's'} changed")


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    call = context.ensure_object(Call)
    if value:
        setattr(call, str(option.name), value)


def _common() -> list[click.Parameter]:
    given: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
        (("--server",), "The server's address; else COALITION_SERVER, this machine, the network.", {"metavar": "URL"}),
        (("--token",), "An API token; else COALITION_TOKEN. Others on this machine may see a command line: prefer the file.", {}),
        (("--token-file",), "A file that holds the token.", {"metavar": "FILE"}),
        (("--ca",), "A file of certificates to trust for https.", {"metavar": "FILE"}),
        (("--json",), "Print one JSON document.", {"is_flag": True}),
        (("--quiet", "-q"), "Print ids only, or nothing.", {"is_flag": True}),
    ]
    return [click.Option(names, help=text, expose_value=False, callback=_keep, **more) for names, text, more in given]


class Verb(click.Command):
    """A verb that also takes the common options, so that they may stand before or after it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params += _common()


class Verbs(click.Group):
    command_class = Verb

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params += _common()


Verbs.group_class = Verbs


class Coalition(Verbs):
    """The whole command: every error becomes one line and an exit code."""

    def main(self, *arguments: Any, **keywords: Any) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        keywords["standalone_mode"] = False
        try:
            code = super().main(*arguments, **keywords)
        except click.ClickException as error:
            error.show()
            code = USAGE
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except (CoalitionError, TimeoutError) as error:
            code = _explain(error)
        sys.exit(code if isinstance(code, int) else DONE)


def _explain(error: Exception) -> int:
    from coalition.output import clean

    hint = "; name a token with --token-file or COALITION_TOKEN" if isinstance(error, NotAuthenticated) else ""
    print(f"coalition: {clean(error)}{hint}", file=sys.stderr)
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


@click.group(cls=Coalition, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="coalition")
def cli() -> None:
    """Coalition: jobs for a farm of machines, within a budget.

    Exit codes: 0 done; 1 the job failed, or the server refused; 2 wrong usage, input or configuration; 3 no server;
    4 not allowed.
    """


def main() -> NoReturn:
    """What the console script runs."""
    cli.main(prog_name="coalition")
    raise AssertionError("main exits")


class Written(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A value in the notation of cloud.ini, read by the function of config.py of that name."""

    def __init__(self, name: str, reader: str) -> None:
        self.name = name
        self.reader = reader

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return getattr(importlib.import_module("coalition.config"), self.reader)(value.strip())
        except ValueError as error:
            self.fail(f'"{value[:80]}" is not {error}', param, context)


DURATION = Written("duration", "a_duration")
SIZE = Written("size", "a_size")
IDS = click.argument("ids", nargs=-1, required=True, type=int, metavar="ID...")
JOB = click.argument("job", type=int, metavar="ID")
LIMIT = click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")


# ---------------------------------------------------------------- server and worker


def _config_file(given: str | None) -> str | None:
    """The configuration to use: the one given, COALITION_CONFIG, ./cloud.ini if it is there, else none."""
    return given or os.environ.get("COALITION_CONFIG") or ("cloud.ini" if Path("cloud.ini").is_file() else None)


CONFIG_HELP = "The configuration; else COALITION_CONFIG, or ./cloud.ini if there is one, else the defaults."


@cli.command()
@click.option("--config", "file", metavar="FILE", help=CONFIG_HELP)
@click.option("--listen", metavar="HOST:PORT", help="Instead of `listen` in the configuration.")
@click.option("--data-dir", metavar="DIR", help="Instead of `data_dir` in the configuration.")
@click.pass_obj
def serve(call: Call, file: str | None, listen: str | None, data_dir: str | None) -> int:
    """Run the server, and the autoscaler with it.

    With `mode = token` in the configuration, the first start writes a token with all rights to admin.token in the data folder,
    readable by its owner only: use it with --token-file to make others by `coalition token create`.
    """
    from coalition.config import load

    options = {("server", "listen"): listen, ("server", "data_dir"): data_dir}
    found = _config_file(file)
    settings = load(found, {key: value for key, value in options.items() if value is not None})
    if not call.quiet:
        print(f"configuration: {found or 'the defaults; cloud.ini has all of them'}", file=sys.stderr)
    return _serve(settings)


EXTRAS = {
    "boto3": "aws",
    "botocore": "aws",
    "google": "gcp",
    "libcloud": "libcloud",
    "pymysql": "mysql",
    "psycopg": "postgresql",
}


def _serve(settings: Settings) -> int:
    try:
        from autoscaler.loop import Autoscaler, make_providers
        from coalition.server.run import serve as run

        make_providers(settings)  # a pool that cannot be used is told here, not by a part that fails later
        return run(settings, [Autoscaler] if settings.autoscaler.enabled else [])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "coalition", "autoscaler", "providers"):
            raise
        extra = EXTRAS.get(missing, "server")
        raise click.UsageError(f"the server needs {missing}, which is not installed: pip install 'coalition[{extra}]'") from None


@cli.command()
@click.option("--name", help="The worker's name; default: this machine's.")
@click.option("--slots", metavar="N|cpus", help="How many jobs at a time; default: one for each cpu.")
@click.option("--affinity", metavar="TAG,TAG", multiple=True, help="Tags of jobs it may run; repeated: other sets, best first.")
@click.option("--state-dir", metavar="DIR", help="Where results and logs wait while the server is away.")
@click.option("--startup", metavar="COMMAND", help="Run before the first job.")
@click.option("--farm", help="Join this farm only, when looking on the network.")
@click.option("--loopback", is_flag=True, help="Look for a server on this machine only.")
@click.option("--port", type=click.IntRange(1, 65_535), help="The UDP port to look on.")
@click.option("--identity", help="A cloud machine's own id.")
@click.option("--funded-for", "funded_for_s", type=DURATION, help="Paid for so long; stops by then unless the server extends it.")
@click.pass_obj
def worker(call: Call, /, **options: Any) -> int:
    """Run a worker: take jobs from the server until told to stop. SIGTERM: finish what runs, then end."""
    from coalition.client import address
    from coalition.worker import WorkerOptions, run_worker

    server = call.server or os.environ.get("COALITION_SERVER")
    common = {
        "server": address(server).geturl() if server else "",
        "token": call.token,
        "token_file": call.token_file,
        "ca": call.ca,
    }
    return run_worker(WorkerOptions(**{name: value for name, value in {**common, **options}.items() if value}))


# ---------------------------------------------------------------- jobs: submit and change


def _list(texts: Iterable[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _environment(context: click.Context, option: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    wrong = next((pair for pair in pairs if not pair.partition("=")[1]), None)
    if wrong is not None:
        raise click.BadParameter(f'"{wrong}" is not NAME=VALUE', context, option)
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _numbers(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[int]:
    try:
        return [int(text) for text in _list(texts)]
    except ValueError:
        raise click.BadParameter("job ids with commas between them, such as 12,13", context, option) from None


def _tags(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[str]:
    return _list(texts)


FIELDS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
    click.option("--title", help="What people see."),
    click.option("--dir", metavar="DIR", help="The folder the command runs in, on the worker."),
    click.option(
        "--env", "environment", metavar="NAME=VALUE", multiple=True, callback=_environment, help="A variable; may be repeated."
    ),
    click.option("--user", help="Whose job it is; default: who runs this."),
    click.option("--priority", type=int, metavar="0-255", help="Higher first, within its group; default: 127."),
    click.option("--affinity", metavar="TAG,TAG", multiple=True, callback=_tags, help="Tags that a worker must have."),
    click.option("--timeout", "timeout_s", type=DURATION, help="Stop it as an error after this time, such as 30m."),
    click.option("--retries", type=int, help="How many errors are run again."),
    click.option("--depends-on", metavar="ID,ID", multiple=True, callback=_numbers, help="Jobs that must be finished before."),
    click.option("--url", help="Where its result can be seen."),
    click.option("--progress-pattern", metavar="REGEX", help="With %percent or %one where its output tells the progress."),
    click.option("--cpus", type=int, help="How many it needs."),
    click.option("--memory", "memory_bytes", type=SIZE, help="How much it needs, such as 8G."),
    click.option("--gpus", type=int, help="How many it needs."),
]


def job_fields(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options for the fields that a job is submitted with, and that can be edited."""
    for option in reversed(FIELDS):
        verb = option(verb)
    return verb


def _given(context: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of `options`, those that were written on the command line."""
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


@cli.command(context_settings={"allow_interspersed_args": False})
@job_fields
@click.option("--parent", type=int, metavar="ID", help="The group it goes into.")
@click.option("--paused", is_flag=True, help="Wait until it is started.")
@click.option("--frames", metavar="RANGE", help="One job per frame, as 1-100x2; replaces {frame}, {frame:04d}, {start}, {end}.")
@click.option("--group", is_flag=True, help="Make an empty group; print its id.")
@click.option("--wait", "waits", is_flag=True, help="Wait until it is over; exit 1 if it failed.")
@click.argument("command", nargs=-1)
@click.pass_context
def submit(context: click.Context, /, command: Sequence[str], waits: bool, **options: Any) -> int:
    """Submit a job, or one for each frame, and print its id.

    One COMMAND word is a shell line as it is; several are a program and its arguments, whose quotes are kept.

    \b
        coalition submit --title hello 'echo hello > /tmp/hello'
        coalition submit --frames 1-100x2 --title shot -- povray +K{frame} shot.pov
    """
    from coalition.model import JobSpec, from_dict

    call: Call = context.obj
    given = _given(context, options)
    if command:
        given["command"] = command[0] if len(command) == 1 else shlex.join(command)
    elif not options["group"]:
        raise click.UsageError("give a command, or --group for an empty group")
    client = call.client()
    made = client.submit_many([from_dict(JobSpec, given)])
    if not call.json:
        print(made.ids[0], flush=True)
    elif not waits:
        call.screen.document({"id": made.ids[0], "count": made.count})
    return _wait(call, client, made.ids, None) if waits else DONE


@cli.command()
@IDS
@job_fields
@click.option("--command", help="The shell line.")
@click.option("--parent", type=int, metavar="ID", help="Moves it into this group.")
@click.pass_context
def edit(context: click.Context, /, ids: Sequence[int], **options: Any) -> None:
    """Change fields of jobs. --env, --affinity and --depends-on replace what was there."""
    call: Call = context.obj
    given = _given(context, options)
    if not given:
        raise click.UsageError("name at least one field to change")
    call.changed(call.client().edit(ids, **given))


@cli.command()
@IDS
@click.option("--to", "parent", type=int, required=True, metavar="ID", help="The group; 0 is the top.")
@click.pass_obj
def move(call: Call, ids: Sequence[int], parent: int) -> None:
    """Put jobs, with all that is below them, into another group."""
    call.changed(call.client().move(ids, parent))


@cli.command()
@IDS
@click.pass_obj
def pause(call: Call, ids: Sequence[int]) -> None:
    """Hold jobs, with all that is below them; what runs is stopped and will run again."""
    call.changed(call.client().pause(ids))


@cli.command()
@IDS
@click.pass_obj
def start(call: Call, ids: Sequence[int]) -> None:
    """Let paused jobs go on."""
    call.changed(call.client().start(ids))


@cli.command()
@IDS
@click.option("--errors", is_flag=True, help="Only those that failed.")
@click.pass_obj
def reset(call: Call, ids: Sequence[int], errors: bool) -> None:
    """Run jobs again, with all that is below them."""
    call.changed(call.client().reset(ids, errors_only=errors))


@cli.command()
@IDS
@click.pass_obj
def delete(call: Call, ids: Sequence[int]) -> None:
    """Remove jobs, with all that is below them and their logs; what runs is stopped."""
    call.changed(call.client().delete(ids))


# ---------------------------------------------------------------- jobs: look and wait


@cli.command()
@click.argument("group", type=int, default=0, metavar="[GROUP]")
@click.option("--all", "deep", is_flag=True, help="At every level, not only in GROUP or at the top.")
@click.option("--state", metavar="STATE,STATE", multiple=True, callback=_tags, help="WAITING, PENDING, WORKING, FINISHED, ERROR.")
@click.option("--user", help="Whose.")
@click.option("--title", help="A part of the title.")
@click.option("--paused/--not-paused", default=None, help="Only paused ones, or none of them.")
@click.option(
    "--sort", type=click.Choice(["id", "-id", "priority", "-priority"]), default="-id", help="Order; default: newest first."
)
@LIMIT
@click.pass_obj
def jobs(call: Call, /, group: int, deep: bool, state: Sequence[str], limit: int, **filters: Any) -> None:
    """List the jobs at the top, or those in GROUP."""
    from coalition.model import to_dict

    client = call.client()
    states = ",".join(state).upper() or None
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
@JOB
@click.pass_obj
def job(call: Call, job: int) -> None:
    """Show one job and its attempts."""
    from coalition.model import to_dict

    client = call.client()
    found, attempts = client.job(job), client.attempts(job)
    currency = _currency(call, client, [found.cost_micro])
    facts = {**to_dict(found), "attempts": to_dict(attempts)}
    call.screen.details(facts, _job_details(found, currency))
    if attempts and not (call.json or call.quiet):
        print()
        heads = "ATTEMPT> STATE WORKER RUN> EXIT> REASON*"
        call.screen.table(None, heads, (_attempt_row(attempt) for attempt in attempts), "")


def _job_details(job: Job, currency: str) -> list[tuple[str, object]]:
    from coalition.output import duration, moment, money, progress, state_of

    return [
        ("id", job.id),
        ("title", job.title),
        ("state", f"{state_of(job)} {progress(job)}"),
        ("reason", job.reason),
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
        ("errors", f"{job.errors}, {job.retries} are run again" if job.retries or job.errors else ""),
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
        facts = {"job": job, "attempt": read[0].attempt, "size": read[0].size, "open": read[0].open, "log": text}
        call.screen.document(facts)
        return DONE
    for piece in pieces:
        _put(piece.data)
    return DONE


def _pieces(client: Client, job: int, attempt: int | None, offset: int) -> Iterable[Any]:
    """The log up to where it ended at the first look; at least one piece."""
    size = None
    while True:
        read = client.log(job, offset=offset) if attempt is None else client.attempt_log(attempt, offset=offset)
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


@cli.command()
@JOB
@click.pass_obj
def explain(call: Call, job: int) -> None:
    """Say why a job is not running."""
    answer = call.client().explain(job)
    reasons = enumerate(answer.get("reasons", ()), 1)
    told = ((f"reason {number}", reason.get("text")) for number, reason in reasons)
    pairs = [("job", job), ("state", answer.get("state")), *told]
    call.screen.details(answer, pairs)


# ---------------------------------------------------------------- workers


@cli.group(invoke_without_command=True)
@click.pass_context
def workers(context: click.Context) -> None:
    """List the workers, or change them."""
    if context.invoked_subcommand:
        return
    from coalition.model import to_dict

    call: Call = context.obj
    found = call.client().workers()
    heads = "ID> NAME* STATE BUSY> AFFINITY LOAD> FREE> SEEN> JOBS"
    none = "no workers; start one with `coalition worker`"
    call.screen.table({"workers": to_dict(found)}, heads, map(_worker_row, found), none)


def _worker_row(worker: Worker) -> list[object]:
    from coalition.output import age, size

    affinity = " | ".join(",".join(line) for line in worker.affinity)
    free = size(worker.memory_free_bytes) if worker.memory_free_bytes else ""
    held = ",".join(map(str, worker.jobs[:3])) + ("..." if len(worker.jobs) > 3 else "")
    state = worker.state if worker.active else f"{worker.state} (off)"
    busy = f"{worker.running}/{worker.slots}"
    return [worker.id, worker.name, state, busy, affinity, f"{worker.load:.1f}", free, age(worker.seen_at), held]


WORKERS = click.argument("names", nargs=-1, required=True, metavar="NAME|ID...")


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


@workers.command("drain")
@WORKERS
@click.pass_obj
def workers_drain(call: Call, names: Sequence[str]) -> None:
    """Let workers finish what they run, and take no more."""
    client = call.client()
    call.changed(client.drain_workers(_worker_ids(client, names)), "worker")


@workers.command("resume")
@WORKERS
@click.pass_obj
def workers_resume(call: Call, names: Sequence[str]) -> None:
    """Let drained workers take jobs again."""
    client = call.client()
    call.changed(client.resume_workers(_worker_ids(client, names)), "worker")


@workers.command("delete")
@WORKERS
@click.pass_obj
def workers_delete(call: Call, names: Sequence[str]) -> None:
    """Forget workers; their credentials end."""
    client = call.client()
    call.changed(client.delete_workers(_worker_ids(client, names)), "worker")


@workers.command("edit")
@WORKERS
@click.option("--affinity", metavar="TAG,TAG", multiple=True, help="Tags of jobs it may run; repeated: other sets, best first.")
@click.option("--active/--inactive", default=None, help="Whether it takes jobs.")
@click.option("--slots", type=int, help="How many jobs at a time.")
@click.pass_context
def workers_edit(context: click.Context, /, names: Sequence[str], **options: Any) -> None:
    """Change workers."""
    call: Call = context.obj
    given = _given(context, options)
    if not given:
        raise click.UsageError("name at least one thing to change")
    if "affinity" in given:
        given["affinity"] = [line for line in ([*_list([text])] for text in given["affinity"]) if line]
    client = call.client()
    call.changed(client.edit_workers(_worker_ids(client, names), **given), "worker")


@cli.command()
@click.pass_obj
def affinities(call: Call) -> None:
    """List the tags in use, with the workers and jobs that have them."""
    found = call.client().affinities()
    rows = (_texts(entry, "tag workers jobs") for entry in found)
    call.screen.table({"affinities": found}, "TAG* WORKERS> JOBS>", rows, "no tags")


# ---------------------------------------------------------------- machines and money


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


def _texts(entry: Mapping[str, Any], names: str) -> list[object]:
    return [entry.get(name, "") for name in names.split()]


def _amounts(entry: Mapping[str, Any], names: str) -> list[object]:
    """The amounts of an entry in its currency; `names` without their unit."""
    from coalition.output import money

    return [money(entry.get(f"{name}_micro"), entry.get("currency", "")) for name in names.split()]


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
    return [*_texts(pool, "name provider"), state, live, allowed, ",".join(pool.get("affinity", ())), pool.get("blocked")]


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

    price, spent = _amounts(instance, "price spent")
    facts = _texts(instance, "id pool offering state slots worker_name")
    return [*facts, price, age(instance.get("created_at")), spent, instance.get("reason")]


@instances.command("drain")
@IDS
@click.pass_obj
def instances_drain(call: Call, ids: Sequence[int]) -> None:
    """End machines when their jobs are done."""
    call.changed(call.client().drain_instances(ids), "instance")


@instances.command("terminate")
@IDS
@click.pass_obj
def instances_terminate(call: Call, ids: Sequence[int]) -> None:
    """End machines now; their jobs run again elsewhere."""
    call.changed(call.client().terminate_instances(ids), "instance")


@cli.command()
@click.pass_obj
def budget(call: Call) -> None:
    """Show what is spent, reserved and left of every budget."""
    found = call.client().budgets()
    heads = "NAME* FOR WINDOW KIND CAP> SPENT> RESERVED> LEFT>"
    rows = (
        [
            *_texts(entry, "name applies_to window"),
            "hard" if entry.get("hard") else "soft",
            *_amounts(entry, "cap spent reserved left"),
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
    rows = ([entry.get("key"), duration(entry.get("seconds")), *_amounts(entry, "amount run idle boot")] for entry in found)
    call.screen.table({"entries": found}, f"{group_by.upper()}* TIME> COST> JOBS> IDLE> BOOT>", rows, "nothing was spent")


@cli.command()
@click.option("--pool", metavar="NAME", help="About this pool.")
@LIMIT
@click.pass_obj
def decisions(call: Call, pool: str | None, limit: int) -> None:
    """Show what the autoscaler did or did not do, and why."""
    from coalition.output import moment

    found = call.client().decisions(limit=limit, pool=pool)
    rows = ([moment(entry.get("at")), *_texts(entry, "pool action count reason")] for entry in found)
    call.screen.table({"decisions": found}, "TIME POOL ACTION COUNT> REASON*", rows, "no decisions yet")


@cli.command()
@click.option("--job", type=int, metavar="ID", help="About this job.")
@click.option("--worker", type=int, metavar="ID", help="About this worker.")
@click.option("--instance", type=int, metavar="ID", help="About this instance.")
@LIMIT
@click.pass_obj
def events(call: Call, /, **filters: Any) -> None:
    """Show what happened, newest first."""
    from coalition.output import moment

    found = call.client().events(**filters)
    rows = ([moment(entry.get("at")), *_texts(entry, "kind who job worker instance text")] for entry in found)
    call.screen.table({"events": found}, "TIME KIND WHO JOB> WORKER> INSTANCE> TEXT*", rows, "no events")


# ---------------------------------------------------------------- tokens, configuration


@cli.group()
def token() -> None:
    """Make, list and delete tokens; needs a token with all rights.

    The first one is in admin.token in the server's data folder, written at its first start in `mode = token`.
    """


@token.command("create")
@click.option("--kind", type=click.Choice(["user", "enrol", "site"]), default="user", show_default=True, help="What it is for.")
@click.option("--user", help="Whose calls it makes (kind user).")
@click.option("--role", help="What it may do (kind user).")
@click.option("--uses", type=int, help="How many workers may enrol with it (kind enrol).")
@click.option("--expires", "expires_s", type=DURATION, metavar="DURATION", help="When it ends, such as 30d.")
@click.pass_obj
def token_create(call: Call, /, kind: str, **options: Any) -> None:
    """Make a token, and print it: this once.

    \b
    user:  for a person's or a script's calls
    enrol: lets so many workers join
    site:  lets any number of workers join; a file on the machines at hand
    """
    made = call.client().create_token(kind, **options)
    if call.json:
        call.screen.document(made)
    else:
        print(made["token"])


@token.command("list")
@click.pass_obj
def token_list(call: Call) -> None:
    """List the tokens, without their secrets."""
    from coalition.output import moment

    found = call.client().tokens()
    rows = ([*_texts(entry, "id kind user role uses_left"), moment(entry.get("expires_at"))] for entry in found)
    call.screen.table({"tokens": found}, "ID* KIND USER ROLE USES_LEFT> EXPIRES", rows, "no tokens")


@token.command("delete")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def token_delete(call: Call, ids: Sequence[str]) -> None:
    """Refuse tokens from now on."""
    client = call.client()
    call.changed(sum(client.delete_token(token) for token in ids), "token")


@cli.group()
def config() -> None:
    """Look at a configuration file."""


FILE = click.argument("file", required=False, metavar="[FILE]")


@config.command("check")
@FILE
@click.pass_obj
def config_check(call: Call, file: str | None) -> None:
    """Check a cloud.ini; exit 2 with the line and the nearest valid name if it cannot be used."""
    from coalition.config import load

    found = _config_file(file)
    settings = load(found)
    pools, budgets = [pool.name for pool in settings.pools], [budget.name for budget in settings.budgets]
    words = f"{found or 'the defaults'}: good; pools: {', '.join(pools) or 'none'}; budgets: {', '.join(budgets) or 'none'}"
    call.screen.said({"file": found, "pools": pools, "budgets": budgets}, words)


@config.command("show")
@FILE
@click.pass_obj
def config_show(call: Call, file: str | None) -> None:
    """Print every setting, its value and its default."""
    from coalition.config import describe, load

    knobs = list(describe(load(_config_file(file))))
    facts = [{**knob._asdict(), "changed": knob.changed} for knob in knobs]
    rows = ([f"[{knob.section}] {knob.key}", knob.value, knob.default if knob.changed else "", knob.help] for knob in knobs)
    call.screen.table({"settings": facts}, "SETTING VALUE DEFAULT HELP*", rows, "")


@cli.group()
def db() -> None:
    """Look after the database's schema."""


@db.command("upgrade")
@click.option("--config", "file", metavar="FILE", help=CONFIG_HELP)
@click.pass_obj
def db_upgrade(call: Call, file: str | None) -> None:
    """Bring the database to this version's schema; stop the server and make a backup first."""
    from coalition.config import load
    from coalition.schema_version import bring_up

    before, now = bring_up(load(_config_file(file)))
    call.screen.said({"before": before, "now": now}, f"schema {now}, it was {before or 'empty'}")
