"""Verbs on the farm itself: its processes, configuration, events and tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from coalition.cli.frame import COMPLETE_JOBS, DURATION, JOB, LIMIT, Call, cli, config_file, texts, watched
from coalition.rights import SCOPES

if TYPE_CHECKING:
    from coalition.config import Given, Settings

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
    given: Given = {key: value for key, value in options.items() if value is not None}
    found = config_file(file)
    if not call.quiet:
        print(f"configuration: {found or 'the defaults; cloud.ini has all of them'}", file=sys.stderr)
    return _serve(lambda: load(found, given))


EXTRAS = {
    "boto3": "aws",
    "botocore": "aws",
    "google": "gcp",
    "libcloud": "libcloud",
    "pymysql": "mysql",
    "psycopg": "postgresql",
}


@contextmanager
def server_parts() -> Iterator[None]:
    """Says what to install where a part of the server is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "coalition", "autoscaler", "providers"):
            raise
        extra = EXTRAS.get(missing, "server")
        raise click.UsageError(f"the server needs {missing}, which is not installed: pip install 'coalition[{extra}]'") from None


def _serve(load: Callable[[], Settings]) -> int:
    with server_parts():
        from autoscaler.loop import Autoscaler
        from coalition.server.run import serve as run
        from providers import check_pools

        def read() -> Settings:
            found = load()
            check_pools(found)  # a pool that cannot be used is told here, not by a part that fails later
            return found

        settings = read()
        return run(settings, [Autoscaler] if settings.autoscaler.enabled else [], read)


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
@click.option("--deadline-file", metavar="FILE", help="Where the end of the paid time is kept, in seconds since boot.")
@click.option("--spot", type=click.Choice(["aws", "gce"]), help="A spot machine of this cloud: its metadata tell its end.")
@click.option("--self-test", "only_test", is_flag=True, help="Say whether this machine can be a worker, and end; 1: it cannot.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Of what the worker says of itself; default: text.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error; of single parts too: info,runner:debug.")
@click.option("--log-file", metavar="FILE", help="Instead of stderr; of 10 MB each, the last 6 are kept.")
@click.pass_obj
def worker(call: Call, /, only_test: bool, **options: Any) -> int:
    """Run a worker: take jobs from the server until told to stop. SIGTERM: finish what runs, then end."""
    from coalition.wire import address
    from coalition.worker import WorkerOptions, run_worker

    common = {
        "server": address(call.server).geturl() if call.server else "",
        "token": call.token,
        "token_file": call.token_file,
        "ca": call.ca,
    }
    wanted = WorkerOptions(**{name: value for name, value in {**common, **options}.items() if value})
    if only_test:
        from coalition.self_test import self_test

        return self_test(wanted)
    return run_worker(wanted)


# ---------------------------------------------------------------- events, archive, tokens


@cli.command()
@click.pass_obj
def server(call: Call) -> None:
    """Show the server, and who you are to it."""
    from coalition.output import moment

    client = call.client()
    facts = {"address": client.url, **client.info()}
    facts.pop("csrf", None)
    lists = {name: ", ".join(value) for name, value in facts.items() if isinstance(value, list)}
    shown = {**facts, **lists, "now": moment(facts.get("now"))}
    call.screen.details(facts, shown.items())


@cli.command()
@watched("events")
@click.option("--job", type=int, metavar="ID", help="About this job.", shell_complete=COMPLETE_JOBS)
@click.option("--below", is_flag=True, help="About all that is below the job, too.")
@click.option("--worker", type=int, metavar="ID", help="About this worker.")
@click.option("--instance", type=int, metavar="ID", help="About this instance.")
@click.option("--user", help="Done by this user, worker or part of the server.")
@click.option("--kind", help="Of this kind, such as job.pause.")
@click.option("--before", type=int, metavar="ID", help="Older than this event.")
@LIMIT
@click.pass_obj
def events(call: Call, /, **filters: Any) -> None:
    """Show what happened, newest first."""
    from coalition.output import moment

    found = call.client().events(**filters)
    rows = ([moment(entry.get("at")), *texts(entry, "kind who job worker instance text")] for entry in found)
    call.screen.table({"events": found}, "TIME KIND WHO JOB> WORKER> INSTANCE> TEXT*", rows, "no events")


@cli.command()
@click.option("--user", help="Done by this user.")
@click.option("--from", "address", metavar="ADDRESS", help="From this address.")
@click.option("--kind", help="Of this kind, such as job.edit, or job for all of its kinds.")
@click.option("--since", type=DURATION, help="Not longer ago than this, such as 7d.")
@click.option("--before", type=int, metavar="ID", help="Older than this one.")
@click.option("--csv", "as_csv", is_flag=True, help="As a table for other programs, with before and after.")
@LIMIT
@click.pass_obj
def audit(call: Call, /, as_csv: bool, since: float | None, **filters: Any) -> None:
    """Show who did what from where, newest first; with --json or --csv what edits changed, too."""
    import csv
    import json
    import time

    from coalition.output import clean, moment

    found = call.client().audit(**filters, since=None if since is None else max(0.0, time.time() - since))
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(AUDITED)
        for entry in found:
            row = [json.dumps(entry[name]) if name in ("before", "after") else clean(entry[name] or "") for name in AUDITED]
            writer.writerow([f"'{cell}" if str(cell).startswith(FORMULA) else cell for cell in row])
        return
    rows = ([moment(entry["at"]), *texts(entry, "kind who address job worker instance text")] for entry in found)
    call.screen.table({"audit": found}, "TIME KIND WHO FROM JOB> WORKER> INSTANCE> TEXT*", rows, "nobody did anything")


AUDITED = ("id", "at", "kind", "who", "address", "job", "worker", "instance", "text", "before", "after")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


@cli.command()
@watched("jobs", "events")
@JOB
@LIMIT
@click.pass_obj
def timeline(call: Call, job: int, limit: int) -> None:
    """Show what happened to a job, its attempts too, newest first."""
    from coalition.output import moment

    found = call.client().timeline(job, limit=limit)
    rows = ([moment(entry["at"]), *texts(entry, "kind who attempt text")] for entry in found)
    call.screen.table({"timeline": found}, "TIME KIND WHO ATTEMPT> TEXT*", rows, "nothing happened yet")


@cli.command()
@click.argument("group", type=int, required=False, metavar="[GROUP]")
@click.option("--user", help="Whose, at any level.")
@click.option("--title", help="A part of the title.")
@click.option("--before", type=int, metavar="ID", help="Older than this job.")
@LIMIT
@click.pass_obj
def archive(call: Call, /, group: int | None, limit: int, **filters: Any) -> None:
    """List jobs that were finished long ago, newest first: the trees, or what is in GROUP.

    `[keep] finished` says after how long a finished tree goes there.
    """
    from coalition.output import duration, moment

    found = call.client().archive(parent=group, limit=limit, **filters)
    rows = (
        [
            *texts(entry, "id title user"),
            moment(entry.get("ended_at")),
            duration(entry.get("run_s", 0.0)),
            moment(entry["archived_at"]),
        ]
        for entry in found
    )
    call.screen.table({"jobs": found}, "ID> TITLE* USER ENDED RUN> ARCHIVED", rows, "nothing is archived")


@cli.command()
@click.argument("job", type=int, metavar="ID")
@click.pass_obj
def archived(call: Call, job: int) -> None:
    """Show a job of the archive, as it was."""
    from coalition.output import moment

    facts = call.client().archived(job)
    shown = {name: moment(value) if name.endswith("_at") and value else value for name, value in facts.items()}
    call.screen.details(facts, [(name, value) for name, value in shown.items() if not isinstance(value, (list, dict))])


@cli.group()
def token() -> None:
    """Make, list and delete tokens; needs a token with all rights.

    The first one is in admin.token in the server's data folder, written at its first start in another mode than none.
    """


@token.command("create")
@click.option("--kind", type=click.Choice(["user", "enrol", "site"]), default="user", show_default=True, help="What it is for.")
@click.option("--user", help="Whose calls it makes (kind user).")
@click.option("--role", help="What it may do (kind user).")
@click.option("--name", help="What it is for.")
@click.option(
    "--scope", multiple=True, type=click.Choice(SCOPES), help="Of the role's rights only this (kind user); may be repeated."
)
@click.option("--uses", type=int, help="How many workers may enrol with it (kind enrol).")
@click.option("--expires", "expires_s", type=DURATION, metavar="DURATION", help="When it ends, such as 30d (enrol: after 7d).")
@click.option("--from", "networks", multiple=True, metavar="NETWORK", help="Where workers with it may be; may be repeated.")
@click.pass_obj
def token_create(call: Call, /, kind: str, scope: Sequence[str], networks: Sequence[str], **options: Any) -> None:
    """Make a token, and print it: this once.

    \b
    user:  for a person's or a script's calls
    enrol: lets so many workers join
    site:  lets any number of workers join; a file on the machines at hand
    """
    made = call.client().create_token(kind, scope=scope, networks=networks, **options)
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
    rows = ([*texts(entry, "id kind user role scope name uses_left"), moment(entry.get("expires_at"))] for entry in found)
    call.screen.table({"tokens": found}, "ID* KIND USER ROLE SCOPE NAME USES_LEFT> EXPIRES", rows, "no tokens")


@token.command("delete")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def token_delete(call: Call, ids: Sequence[str]) -> None:
    """Refuse tokens from now on."""
    client = call.client()
    call.changed(sum(client.delete_token(token) for token in ids), "token")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes verbs and options in a shell, such as by eval "$(coalition completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind
    print(kind(cli, {}, "coalition", "_COALITION_COMPLETE").source())


@cli.group()
def config() -> None:
    """Look at a configuration file, and apply it to a server that runs."""


FILE = click.argument("file", required=False, metavar="[FILE]")


@config.command("check")
@FILE
@click.pass_obj
def config_check(call: Call, file: str | None) -> None:
    """Check a cloud.ini; exit 2 with the line and the nearest valid name if it cannot be used."""
    from coalition.config import load
    from providers import check_pools

    found = config_file(file)
    settings = load(found)
    check_pools(settings)
    pools, budgets = [pool.name for pool in settings.pools], [budget.name for budget in settings.budgets]
    words = f"{found or 'the defaults'}: good; pools: {', '.join(pools) or 'none'}; budgets: {', '.join(budgets) or 'none'}"
    call.screen.said({"file": found, "pools": pools, "budgets": budgets}, words)


@config.command("reload")
@FILE
@click.option("--data-dir", metavar="DIR", help="Instead of `data_dir` in the configuration, if the server was started so.")
@click.pass_obj
def config_reload(call: Call, file: str | None, data_dir: str | None) -> None:
    """Have the server on this machine read its cloud.ini again, whole or not at all; jobs go on meanwhile.

    A file that cannot be used changes nothing; exit 2 with its line. [server], [log] and [autoscaler] `enabled` need a restart.
    """
    from coalition.config import load

    found = config_file(file)
    settings = load(found, {("server", "data_dir"): data_dir} if data_dir else {})
    with server_parts():
        from coalition.server.reload import ask

        changes = ask(settings.data_dir)
    rows = ([name, before or "-", after or "-"] for name, (before, after) in changes.items())
    facts = {"changes": {name: list(pair) for name, pair in changes.items()}}
    call.screen.table(facts, "SETTING BEFORE NOW", rows, "nothing has changed")


@config.command("show")
@FILE
@click.pass_obj
def config_show(call: Call, file: str | None) -> None:
    """Print every setting, its value and its default."""
    from coalition.config import describe, load

    knobs = list(describe(load(config_file(file))))
    facts = [{**knob._asdict(), "changed": knob.changed} for knob in knobs]
    rows = ([f"[{knob.section}] {knob.key}", knob.value, knob.default if knob.changed else "", knob.help] for knob in knobs)
    call.screen.table({"settings": facts}, "SETTING VALUE DEFAULT HELP*", rows, "")
