"""`coalition init`: from nothing to a configuration and the first secrets, by five questions."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coalition.cli.farm import server_parts
from coalition.cli.frame import Call, cli

if TYPE_CHECKING:
    from coalition.config import Settings

TEXT = """\
# Made by `coalition init`. What is not here has its default; the project's cloud.ini lists everything.
[server]
farm = {farm}
listen = {listen}
{url}data_dir = {data_dir}
{database}
[auth]
mode = {mode}
{enrol_from}"""
THERE = "{} is there already; name another file, or take it away"


def _not_there(context: click.Context, parameter: click.Parameter, file: str) -> str:
    """Said before anything is asked."""
    if Path(file).exists():
        raise click.UsageError(THERE.format(file))
    return file


@cli.command()
@click.argument("file", default="cloud.ini", metavar="[FILE]", is_eager=True, callback=_not_there)
@click.option("--farm", prompt="The farm's name", default="coalition", help="The farm's name.")
@click.option(
    "--who", type=click.Choice(["me", "all"]), prompt="Who uses it: me, on this machine, or all on the network", default="me",
    help="me: this machine only, no log-in; all: the network, with tokens.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65_535), prompt="The port", default=19_211, help="The server's port.")
@click.option("--data-dir", prompt="The folder of logs and secrets", default="~/.coalition", help="Where all is kept.")
@click.option(
    "--database", prompt="The database's address, or sqlite", default="sqlite",
    help="sqlite, or an address as of SQLAlchemy.",
)  # fmt: skip
@click.option("--enrol-from", metavar="NETWORKS", help="Networks whose workers need no token.")
@click.pass_obj
def init(call: Call, file: str, farm: str, who: str, port: int, data_dir: str, database: str, enrol_from: str | None) -> None:
    """Make a cloud.ini and the first secrets, and say what comes next. What is there already is not touched."""
    from coalition.config import parse

    shared = who == "all"
    text = TEXT.format(
        farm=farm,
        listen=f"{'0.0.0.0' if shared else '127.0.0.1'}:{port}",  # noqa: S104 - asked for
        url=f"url = http://{socket.gethostname()}:{port}\n" if shared else "",
        data_dir=data_dir,
        database="" if database == "sqlite" else f"database = {database}\n",
        mode="token" if shared else "none",
        enrol_from=f"enrol_from = {enrol_from}\n" if enrol_from else "",
    )
    settings = parse(text, file)
    _write(Path(file), text)
    secrets = _secrets(settings) if shared else {}
    steps = _next_steps(file, settings, secrets)
    call.screen.said({"file": file, "secrets": {name: str(path) for name, path in secrets.items()}}, *steps)


def _write(path: Path, text: str) -> None:
    """A new file that only its owner reads."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise click.UsageError(THERE.format(path)) from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _secrets(settings: Settings) -> dict[str, Path]:
    """The first admin's token and the workers' one, each in a file."""
    with server_parts():
        from coalition.schema_version import upgrade
        from coalition.server.run import first_token, make_data_dir
        from coalition.store import Store
        from coalition.store.base import Base

        make_data_dir(settings)
        base = Base(settings)
        upgrade(base)
        base.close()
        first_token(settings)
        workers = settings.data_dir / "workers.token"
        if not workers.exists():
            store = Store(settings)
            try:
                _write(workers, store.create_token("site", who="init") + "\n")
            finally:
                store.close()
    return {"admin": settings.data_dir / "admin.token", "workers": workers}


def _next_steps(file: str, settings: Settings, secrets: dict[str, Path]) -> list[str]:
    lines = [f"{file} is written. Next:", f"coalition serve --config {file}"]
    if not secrets:
        return [*lines, "coalition worker", "coalition submit -- echo hello"]
    return [
        *lines,
        f"on each render node, with a copy of {secrets['workers']}:",
        "coalition --token-file workers.token worker",
        "for each person, as the admin:",
        f"coalition --server {settings.url} --token-file {secrets['admin']} token create --user NAME --role user",
    ]
