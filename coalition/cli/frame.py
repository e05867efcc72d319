"""What every verb has: the common options, errors as one line and an exit code, and the types of values.

Exit codes: 0 done; 1 the job failed, or the server refused; 2 wrong usage, input or configuration; 3 no server; 4 not allowed;
130 Ctrl-C.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    from coalition.client import Changed, Client
    from coalition.model import Rehearsal
    from coalition.output import News, Screen

WATCH_S = 0.5  # between two looks, at least
LOOK_S = 15  # and at most: ages go on
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


@dataclass
class Call:
    """The options that every verb has."""

    server: str | None = None
    token: str | None = None
    token_file: str | None = None
    ca: str | None = None
    json: bool = False
    quiet: bool = False
    news: News | None = None  # of what is watched
    over: int | None = None  # a verb that is watched sets the exit code with which that ends
    _client: Client | None = None

    def client(self) -> Client:
        from coalition.client import Client

        self._client = self._client or Client(self.server, self.secret(), ca=self.ca)
        return self._client

    def secret(self) -> str | None:
        """The token given by text or by file, else None; then the client looks at COALITION_TOKEN."""
        if self.token or not self.token_file:
            return self.token
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise click.UsageError(f"--token-file: {self.token_file} cannot be read: {reason}") from None

    @property
    def screen(self) -> Screen:
        from coalition.output import Screen

        return Screen(self.json, self.quiet, self.news)

    def changed(self, count: int, thing: str = "job") -> None:
        self.screen.said({"changed": count}, f"{count} {thing}{'' if count == 1 else 's'} changed")

    def acted(self, done: Changed, thing: str = "job") -> int:
        """Tells what an action on many did, or would do; 1 where some were refused."""
        from coalition.model import to_dict
        from coalition.output import clean, rehearsal

        facts = {"changed": int(done), "ids": list(done.ids), "refused": to_dict(done.refused), "dry_run": to_dict(done.dry_run)}
        would = "would be " if done.dry_run else ""
        self.screen.said(facts, f"{int(done):,} {thing}{'' if done == 1 else 's'} {would}changed")
        for line in rehearsal(done.dry_run) if done.dry_run and not self.json else ():
            self.screen.said(None, line)
        for one in () if self.json else done.refused:
            print(f"refused: {clean(one.detail)}", file=sys.stderr)
        return FAILED if done.refused else DONE

    def rehearsed(self, count: int, told: Rehearsal) -> int:
        """Tells what a submission would make."""
        from coalition.model import to_dict
        from coalition.output import rehearsal

        self.screen.said({"count": count, "dry_run": to_dict(told)}, f"{count:,} job{'' if count == 1 else 's'} would be made")
        for line in rehearsal(told) if not self.json else ():
            self.screen.said(None, line)
        return DONE


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

    hint = " (on the command line: --token-file, or COALITION_TOKEN)" if isinstance(error, NotAuthenticated) else ""
    print(f"coalition: {clean(error)}{hint}", file=sys.stderr)
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


@click.group(cls=Coalition, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="coalition")
def cli() -> None:
    """Coalition: jobs for a farm of machines, within a budget.

    Exit codes: 0 done; 1 the job failed, or the server refused; 2 wrong usage, input or configuration; 3 no server;
    4 not allowed.
    """


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


def watched(*topics: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a verb the option --watch: it is done again when something of these topics changes (coalition/server/changes.py)."""

    def wrap(verb: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--watch", is_flag=True, help="Show it again whenever it changes, until Ctrl-C; without a terminal what is new."
        )
        @functools.wraps(verb)
        def look(*arguments: Any, watch: bool, **options: Any) -> Any:
            context = click.get_current_context()
            if watch and context.invoked_subcommand:
                raise click.UsageError("--watch is for the list")
            show = functools.partial(verb, *arguments, **options)
            call = context.find_object(Call)
            return _watch(call, show, set(topics)) if watch and call else show()

        return look

    return wrap


def _watch(call: Call, show: Callable[[], Any], topics: set[str]) -> int:
    """Shows it until Ctrl-C, or until it is over; a server that is away is waited for, and that is said once."""
    from coalition.output import News

    call.news = News()
    client = call.client()
    cursor = client.changes()["cursor"]
    changed, said = topics, False
    while True:
        try:
            if changed & topics or call.screen.terminal:
                if not (call.json or call.quiet):
                    click.clear()  # of a terminal only
                show()
            if call.over is not None:
                return call.over
            told = client.changes(cursor, wait_s=LOOK_S)
            pause = WATCH_S if told["changed"] else max(WATCH_S, told["poll_s"])
            cursor, changed, said = told["cursor"], set(told["changed"]), False
        except (ServerUnreachable, Unavailable) as error:
            if not said:
                print(f"coalition: {error}; trying again", file=sys.stderr)
            changed, pause, said = topics, 2 * WATCH_S, True
        time.sleep(pause)


def _choices(ask: Callable[[Client], Iterable[tuple[object, str]]]) -> Callable[..., list[Any]]:
    """Completes an argument by what the server knows; by nothing where there is none."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        from coalition.client import Client
        from coalition.wire import DEFAULT_SERVER

        call = context.find_object(Call) or Call()
        try:
            server = call.server or os.environ.get("COALITION_SERVER") or DEFAULT_SERVER  # Tab searches no network
            found = list(ask(Client(server, call.secret(), 2.0, ca=call.ca)))
        except (CoalitionError, click.ClickException):
            return []
        return [CompletionItem(str(name), help=text) for name, text in found if str(name).startswith(typed)]

    return complete


COMPLETE_JOBS = _choices(lambda client: ((job.id, f"{job.state} {job.title}") for job in client.jobs(sort="-id", limit=200)))
COMPLETE_WORKERS = _choices(lambda client: ((worker.name, worker.state) for worker in client.workers()))
COMPLETE_LIMITS = _choices(lambda client: ((limit.name, f"{limit.used} used") for limit in client.limits()))
COMPLETE_POOLS = _choices(lambda client: ((pool["name"], pool.get("provider", "")) for pool in client.pools()))
COMPLETE_INSTANCES = _choices(lambda client: ((one["id"], f"{one['state']} {one['pool']}") for one in client.instances()))
DURATION = Written("duration", "a_duration")
SIZE = Written("size", "a_size")
IDS = click.argument("ids", nargs=-1, required=True, type=int, metavar="ID...", shell_complete=COMPLETE_JOBS)
INSTANCES = click.argument("ids", nargs=-1, required=True, type=int, metavar="ID...", shell_complete=COMPLETE_INSTANCES)
CAREFUL: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option("--partial", is_flag=True, help="Leave out what is refused; else one refusal refuses all."),
    click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing."),
)
SELECTION: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.argument("ids", nargs=-1, type=int, metavar="[ID...]", shell_complete=COMPLETE_JOBS),
    click.option(
        "--filter", metavar="TEXT", default="", help="Instead of ids: all jobs that fit, such as 'state:ERROR user:ann'."
    ),
    *CAREFUL,
)
JOB = click.argument("job", type=int, metavar="ID", shell_complete=COMPLETE_JOBS)
LIMIT = click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")


def selecting(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments of a verb that acts on many jobs."""
    for part in reversed(SELECTION):
        verb = part(verb)
    return verb


def careful(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a verb that acts on many machines."""
    for part in reversed(CAREFUL):
        verb = part(verb)
    return verb


def parts(texts: Iterable[str]) -> list[str]:
    """The parts of texts with commas between them, without the empty ones."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def divided(context: click.Context, option: click.Parameter, given: Sequence[str]) -> list[str]:
    return parts(given)


def written(context: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of `options`, those that were written on the command line."""
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def texts(entry: Mapping[str, Any], names: str) -> list[object]:
    """The fields of an entry with these names."""
    return [entry.get(name, "") for name in names.split()]


def amounts(entry: Mapping[str, Any], names: str) -> list[object]:
    """The amounts of an entry in its currency; `names` without their unit."""
    from coalition.output import money

    return [money(entry.get(f"{name}_micro"), entry.get("currency", "")) for name in names.split()]


def config_file(given: str | None) -> str | None:
    """The configuration to use: the one given, COALITION_CONFIG, ./cloud.ini if it is there, else none."""
    return given or os.environ.get("COALITION_CONFIG") or ("cloud.ini" if Path("cloud.ini").is_file() else None)
