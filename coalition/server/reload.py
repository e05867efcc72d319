"""A changed cloud.ini is applied while the server runs, whole or not at all: by SIGHUP, as `coalition config reload` sends it.

The processes that serve end, what hangs on the configuration in the database is adopted, and new ones start; the listening socket
stays open meanwhile, and callers wait in its queue. What the server makes once, before its processes, needs a restart.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from coalition.config import Settings, describe
from coalition.errors import ConfigError, ServerUnreachable

NEEDS_RESTART = ("[server] ", "[log] ", "[autoscaler] enabled")
FILE = "server.json"  # in data_dir: which process serves, and what became of the last reload
PATIENCE_S, LOOK_S = 120.0, 0.1  # a busy database is waited for, too
CLOCK_S = 5.0  # by which the start of a process may move, as the clock is set

Differences = Mapping[str, tuple[str, str]]


def differences(old: Settings, new: Settings) -> Differences:
    """Each setting that is another one, such as `[budget studio] amount`, with what it was and is; "" for none."""
    before, after = _values(old, hide=False), _values(new, hide=False)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    shown_before, shown_after = _values(old), _values(new)
    return {name: (shown_before.get(name, ""), shown_after.get(name, "")) for name in changed}


def _values(settings: Settings, hide: bool = True) -> dict[str, str]:
    return {f"[{one.section}] {one.key}": one.value for one in describe(settings, hide)}


def check(changes: Differences) -> None:
    """ConfigError for what cannot be changed while the server runs."""
    if fixed := [name for name in changes if name.startswith(NEEDS_RESTART)]:
        raise ConfigError(f"{', '.join(fixed)}: changes by a restart only; nothing was applied")


# ---------------------------------------------------------------- who serves, and what it answers


class Serving(NamedTuple):
    """The server of a data folder. It was `asked` to read its file so often; the last time changed this, or was refused."""

    pid: int
    since: float
    asked: int = 0
    changes: Differences = {}
    refused: str = ""

    @classmethod
    def here(cls) -> Serving:
        """This process."""
        return cls(os.getpid(), psutil.Process().create_time())

    def write(self, folder: Path) -> None:
        new = folder / f"{FILE}.new"
        new.write_text(json.dumps(self._asdict()))
        new.replace(folder / FILE)


def serving(folder: Path) -> Serving | None:
    """The server that runs with this data folder, on this machine; None if none does."""
    try:
        found = Serving(**json.loads((folder / FILE).read_text()))
        same = abs(psutil.Process(found.pid).create_time() - found.since) < CLOCK_S
        return found if same else None
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def ask(folder: Path) -> Differences:
    """Has the server of a data folder read its cloud.ini again; what changed. ConfigError if it changes nothing, and why."""
    before = serving(folder)
    if before is None:
        raise ServerUnreachable(f"no server runs with data_dir {folder} on this machine; the file is read when one starts")
    try:
        os.kill(before.pid, signal.SIGHUP)
    except PermissionError:
        raise ConfigError(f"the server, process {before.pid}, runs as another user: ask as that user, or as root") from None
    until = time.monotonic() + PATIENCE_S
    while (now := serving(folder)) is not None and time.monotonic() < until:
        if now.asked > before.asked:
            if now.refused:
                raise ConfigError(now.refused)
            return now.changes
        time.sleep(LOOK_S)
    raise ServerUnreachable(f"the server, process {before.pid}, did not answer; its log says why")


class Reloader:
    """What the server's first process does at SIGHUP, but for ending and starting its others."""

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        self.settings, self._read = settings, read
        self._said = Serving.here()
        self._said.write(settings.data_dir)

    def look(self) -> tuple[Settings, Differences]:
        """The file as it is now, and what is another than before. ConfigError if it cannot be used."""
        new = self._read()
        changes = differences(self.settings, new)
        check(changes)
        return new, changes

    def say(self, **answer: Any) -> None:
        """Tells who asked what became of it."""
        self._said = Serving(self._said.pid, self._said.since, self._said.asked + 1, **answer)
        self._said.write(self.settings.data_dir)
