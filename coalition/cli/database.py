"""Verbs on the database itself, not through a server: `coalition db ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coalition.cli.farm import CONFIG_HELP, server_parts
from coalition.cli.frame import DONE, FAILED, Call, cli, config_file

if TYPE_CHECKING:
    from coalition.config import Settings

CONFIG = click.option("--config", "file", metavar="FILE", help=CONFIG_HELP)
PATH = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))


def _settings(file: str | None) -> Settings:
    from coalition.config import load

    return load(config_file(file))


@cli.group()
def db() -> None:
    """Look after the database: upgrade it, check it, back it up."""


@db.command("upgrade")
@CONFIG
@click.pass_obj
def db_upgrade(call: Call, file: str | None) -> None:
    """Bring the database to this version's schema; stop the server and make a backup first."""
    with server_parts():
        from coalition.schema_version import bring_up

        before, now = bring_up(_settings(file))
    call.screen.said({"before": before, "now": now}, f"schema {now}, it was {before or 'empty'}")


@db.command("check")
@CONFIG
@click.pass_obj
def db_check(call: Call, file: str | None) -> int:
    """Check the schema's version, and every sum the database keeps against a recount; exit 1 if something is wrong.

    Servers may run meanwhile: one moment is looked at.
    """
    with server_parts():
        from coalition.schema_version import checked

        version, problems = checked(_settings(file))
    words = problems or [f"schema {version}: good"]
    call.screen.table(
        {"schema": version, "problems": problems}, "PROBLEM*" if problems else "DATABASE*", ([w] for w in words), ""
    )
    return FAILED if problems else DONE


@db.command("backup")
@CONFIG
@PATH
@click.pass_obj
def db_backup(call: Call, file: str | None, path: Path) -> None:
    """Write the whole database to a new FILE; servers may run meanwhile.

    FILE fits every kind of database. SQLite is copied faster, as it is, to a FILE whose name ends in .db. The logs and the keys
    in the data folder are not in it: copy that folder too.
    """
    with server_parts():
        from coalition.backup import back_up

        made = back_up(_settings(file), path)
    call.screen.said({"file": str(path), **vars(made)}, f"{path}: {made.rows:,} rows, schema {made.schema}")


@db.command("restore")
@CONFIG
@PATH
@click.pass_obj
def db_restore(call: Call, file: str | None, path: Path) -> None:
    """Give a backup back into an empty database, of any kind; no server may run.

    Instances are started again only when every provider has said what runs: what was started since the backup is ended.
    """
    with server_parts():
        from coalition.backup import restore

        made = restore(_settings(file), path)
    call.screen.said({"file": str(path), **vars(made)}, f"{made.rows:,} rows from {path}; start the server")
