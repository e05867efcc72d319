"""Verbs on users with passwords, and logging in."""

from __future__ import annotations

import sys
from getpass import getuser
from typing import TextIO

import click

from coalition.cli.frame import Call, cli, texts
from coalition.rights import ROLES

ROLE = click.Choice(list(ROLES))
PASSWORD_FILE = click.option(
    "--password-file",
    type=click.File(lazy=False),
    help="A file whose first line is the password; - is the input. Else it is asked for.",
)


@cli.command()
@click.option("--user", help="Who logs in; else who runs this.")
@PASSWORD_FILE
@click.pass_obj
def login(call: Call, user: str | None, password_file: TextIO | None) -> None:
    """Print an API token for a name and password; it lasts as long as a log-in.

    \b
    export COALITION_TOKEN=$(coalition login)
    """
    secret = _password(password_file, twice=False)
    made = call.client().log_in(user or getuser(), secret)
    if call.json:
        call.screen.document(made)
    else:
        print(made["token"])


@cli.group()
def user() -> None:
    """Make, list, change and delete users with passwords (`[auth] mode = local`)."""


@user.command("list")
@click.pass_obj
def user_list(call: Call) -> None:
    """List the users."""
    from coalition.output import moment

    found = call.client().users()
    rows = ([*texts(one, "name role"), moment(one["created_at"]), moment(one["changed_at"])] for one in found)
    call.screen.table({"users": found}, "NAME* ROLE CREATED PASSWORD_OF", rows, "no users")


@user.command("create")
@click.argument("name")
@click.option("--role", type=ROLE, default="user", show_default=True, help="What the user may do.")
@PASSWORD_FILE
@click.pass_obj
def user_create(call: Call, name: str, role: str, password_file: TextIO | None) -> None:
    """Make a user, with a password."""
    made = call.client().create_user(name, _password(password_file), role=role)
    call.screen.said(made, f"user {name}, role {role}")


@user.command("edit")
@click.argument("name")
@click.option("--role", type=ROLE, help="What the user may do from now on.")
@click.option("--password", is_flag=True, help="Ask for another password.")
@PASSWORD_FILE
@click.pass_obj
def user_edit(call: Call, name: str, role: str | None, password: bool, password_file: TextIO | None) -> None:
    """Give a user another role or password; all log-ins of the user end."""
    secret = _password(password_file) if password or password_file else None
    call.changed(call.client().edit_user(name, password=secret, role=role), "user")


@user.command("delete")
@click.argument("name")
@click.pass_obj
def user_delete(call: Call, name: str) -> None:
    """Remove a user, with all log-ins and tokens; the user's jobs stay."""
    call.changed(call.client().delete_user(name), "user")


@user.command("password")
@PASSWORD_FILE
@click.pass_obj
def user_password(call: Call, password_file: TextIO | None) -> None:
    """Change your own password; a file holds the old one in its first line, the new one in its second."""
    if password_file:
        old, new = (password_file.readline().rstrip("\r\n") for _ in range(2))
    else:
        old, new = click.prompt("Old password", hide_input=True, err=True), _password(None)
    call.changed(call.client().change_password(old, new), "password")


def _password(file: TextIO | None, twice: bool = True) -> str:
    if file:
        return str(file.readline().rstrip("\r\n"))
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for the password on; give --password-file")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=twice, err=True))
