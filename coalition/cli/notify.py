"""Verbs on what people are told, by the configuration of the server and not through it: `coalition notify ...`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from coalition.cli.database import CONFIG
from coalition.cli.farm import server_parts
from coalition.cli.frame import DONE, FAILED, Call, cli, config_file

if TYPE_CHECKING:
    from coalition.config import Settings

Outcome = tuple[str, str, str]


@cli.group()
def notify() -> None:
    """See whether mail and webhooks work, and what waits to be sent."""


@notify.command("test")
@CONFIG
@click.option("--to", "to", metavar="ADDRESS", multiple=True, help="Instead of [mail] to; may be repeated.")
@click.pass_obj
def notify_test(call: Call, file: str | None, to: tuple[str, ...]) -> int:
    """Send a mail and call each webhook, now; exit 1 if one of them fails."""
    from coalition.config import load

    settings = load(config_file(file))
    if not settings.mail.host and not settings.webhooks:
        raise click.UsageError("cloud.ini names neither an SMTP server ([mail] host) nor a [webhook NAME]")
    if settings.mail.host and not (to or settings.mail.to):
        raise click.UsageError("[mail] to is empty: say --to ADDRESS")
    found = [*(_mails(settings, to or settings.mail.to) if settings.mail.host else ()), *_calls(settings)]
    rows = [{"channel": channel, "target": target, "result": result} for channel, target, result in found]
    call.screen.table(rows, "CHANNEL TARGET RESULT*", found, "")
    return DONE if all(result == "sent" for *_, result in found) else FAILED


def _mails(settings: Settings, to: tuple[str, ...]) -> Iterator[Outcome]:
    from coalition.errors import CoalitionError
    from coalition.mail import Item, Later, Post, Refused, message

    now = time.time()
    item = Item("a test", "Mail from this farm arrives.", settings.url)
    for number, one in enumerate(to):
        try:
            with Post(settings.mail) as post:
                post.send(message(settings.mail, settings.server.farm, one, [item], f"test.{now:.0f}.{number}", now), one)
        except (Later, Refused, CoalitionError) as error:
            yield "mail", one, str(error)
        else:
            yield "mail", one, "sent"


def _calls(settings: Settings) -> Iterator[Outcome]:
    from coalition import hooks
    from coalition.errors import CoalitionError

    now = time.time()
    facts = {"id": 0, "farm": settings.server.farm, "at": now, "kind": "test", "job": None}
    told = {**facts, "title": "a test", "text": "Calls from this farm arrive.", "link": settings.url}
    for hook in settings.webhooks:
        try:
            hooks.call(hook, told, f"test-{now:.0f}", now)
        except (hooks.Failed, CoalitionError) as error:
            yield "webhook", hook.name, str(error)
        else:
            yield "webhook", hook.name, "sent"


@notify.command("list")
@CONFIG
@click.pass_obj
def notify_list(call: Call, file: str | None) -> None:
    """What waits to be sent, the oldest first, with what keeps it."""
    from coalition.config import load
    from coalition.output import age

    with server_parts():
        from coalition.schema_version import current, require
        from coalition.store import Store
    store = Store(load(config_file(file)))
    try:
        require(current(store))
        rows = store.unsent()
    finally:
        store.close()
    shown = ([one["channel"], one["target"], age(one["at"]), one["tries"], one["title"], one["why"]] for one in rows)
    call.screen.table({"notices": rows}, "CHANNEL TARGET AGE TRIES TITLE* WHY*", shown, "nothing waits")
