"""`coalition terminate-all`: ends every machine of the farm by the providers' own lists, without server and database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from coalition.cli.frame import DONE, DURATION, FAILED, USAGE, Call, cli
from coalition.cli.providers import CONFIG, farm_settings

if TYPE_CHECKING:
    from coalition.config import Settings
    from providers.base import Instance, Provider

PAUSE_S = 1.0
COMING_S = 60.0  # a server may send a request that it has made for so long: providers.base.LAUNCH_WINDOW_S
SERVER_WAIT_S = 5.0


@dataclass
class Account:
    """One provider in one region: what it runs of this farm, and what could not be done."""

    name: str
    provider: Provider | None  # None: `problem` says why
    farm: str
    seen: dict[str, Instance] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    problem: str = ""

    def look(self) -> None:
        """Lists what runs, the machines of nobody else; a list that fails leaves all that was seen as left."""
        from providers.base import Life, ProviderError

        if self.provider is None:
            return
        try:
            live = {one.id: one for one in self.provider.list() if one.farm == self.farm and one.life is not Life.GONE}
        except ProviderError as error:
            self.problem = f"cannot be listed: {error}"
            return
        self.problem = ""
        self.seen |= live
        self.left = set(live)

    def end(self) -> None:
        """Asks for the end of all that is left."""
        from providers.base import ProviderError

        assert self.provider is not None, "nothing is left where nothing was listed"
        try:
            self.provider.terminate(sorted(self.left))
        except ProviderError as error:
            self.problem = f"cannot end machines: {error}"

    @property
    def clear(self) -> bool:
        return not self.left and not self.problem

    def rows(self, done: bool) -> Iterator[dict[str, Any]]:
        for id, one in sorted(self.seen.items()):
            fate = "runs" if not done else "still there" if id in self.left else "ended"
            yield {"account": self.name, "id": id, "pool": one.pool, "launched_at": one.launched_at, "fate": fate}


def end_all(
    accounts: Sequence[Account], wait_s: float, sleep: Callable[[float], None] = time.sleep, coming_s: float = COMING_S
) -> bool:
    """Ends all that the accounts run of the farm, and looks again until nothing is listed; False if something is left.

    For the first `coming_s` seconds, or `wait_s` if that is less, it looks also while nothing is: requests may be under way.
    """
    begun = time.monotonic()
    until = begun + wait_s
    still = min(until, begun + coming_s)
    for account in accounts:
        account.look()
    while True:
        for account in accounts:
            if account.left:
                account.end()
        now = time.monotonic()
        for account in accounts:
            if now < still or not account.clear:
                account.look()
        if now >= still and all(account.clear for account in accounts):
            return True
        if now >= until:
            return False
        sleep(PAUSE_S)


@cli.command("terminate-all")
@click.option("--yes", is_flag=True, help="Do it; without it, only what would be ended is told.")
@click.option("--wait", "wait_s", type=DURATION, default="3m", show_default=True, help="How long to look until all are gone.")
@CONFIG
@click.pass_obj
def terminate_all(call: Call, yes: bool, wait_s: float, file: str | None) -> int:
    """The red button: end ALL cloud machines of this farm now, whatever runs on them.

    It asks the providers of the pools in cloud.ini, on this machine and with its credentials, for what carries the farm's name;
    it needs neither server nor database. If the server answers, scaling is paused first. Exit 1 if something is left.
    """
    with farm_settings(file) as settings:
        accounts = list(_accounts(settings))
        if not yes:
            for account in accounts:
                account.look()
            return _tell(call, accounts, "nothing was ended: repeat it with --yes", done=False)
        words = _pause(call, settings)
        words = words if end_all(accounts, wait_s) else f"something is left; {words}"
        if wait_s < COMING_S:
            words += f"; machines that a server had just asked for may come within {COMING_S:g} s"
        return _tell(call, accounts, words, done=True)


def _accounts(settings: Settings) -> Iterator[Account]:
    from coalition.errors import ConfigError
    from providers import make

    for provider, region in dict.fromkeys((pool.provider, pool.region) for pool in settings.pools):
        name = f"{provider}/{region}" if region else provider
        try:
            yield Account(name, make(provider, region, settings), settings.server.farm)
        except ConfigError as error:  # the others are ended all the same
            yield Account(name, None, settings.server.farm, problem=f"cannot be asked: {error}")


def _pause(call: Call, settings: Settings) -> str:
    """A server that runs would start machines again. What became of asking it not to, in words."""
    from coalition.client import Client
    from coalition.errors import CoalitionError

    try:
        Client(call.server or settings.url, call.secret(), SERVER_WAIT_S, ca=call.ca).pause_scaling()
    except (CoalitionError, click.UsageError, OSError) as error:
        return f"scaling could not be paused, a server that runs may start machines again: {error}"
    return "scaling is paused; `coalition resume` lets machines be started again"


def _tell(call: Call, accounts: Sequence[Account], words: str, *, done: bool) -> int:
    """Prints each machine's fate and each account's problem; the exit code."""
    machines = [row for account in accounts for row in account.rows(done)]
    problems: Mapping[str, str] = {account.name: account.problem for account in accounts if account.problem}
    left = sum(row["fate"] == "still there" for row in machines)
    facts = {"machines": machines, "problems": problems, "left": left, "said": words}
    rows = [[row["account"], row["id"], row["pool"], row["fate"]] for row in machines]
    rows += [[name, "", "", problem] for name, problem in problems.items()]
    call.screen.table(facts, "ACCOUNT ID* POOL FATE*", rows, "the providers run no machines of this farm")
    if not call.json:
        call.screen.said(None, words)
    if problems or left:
        return FAILED
    return DONE if done else USAGE
