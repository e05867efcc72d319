"""A provider of one's own: a pool's `startup = ssh desk7 coalition worker` starts a worker on somebody's desk, and no cloud.

The pool has `provider = own_provider:Desks`, and the server is started with PYTHONPATH=examples. What it promises is in
providers/base.py. A machine is a folder, made once for each token and number, and a process that holds its lock while it runs.
"""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from coalition.config import PoolSettings, Settings
from providers.base import Deadline, Fate, Instance, Launched, Life, Notice, Offering, Request, TooLate


class Desks:
    name, renewable, settle_s, concurrent, deadline = "desks", True, 1.0, False, Deadline.GUEST  # only the worker itself ends it

    def __init__(self, region: str, settings: Settings) -> None:
        self.root = settings.data_dir / "desks"

    def check(self, pool: PoolSettings) -> Sequence[str]:
        return [] if pool.startup else ["`startup` is needed: the command that starts a worker, without its options"]

    def offerings(self, pool: PoolSettings) -> Sequence[Offering]:
        return [Offering("desk", "desk", slots=pool.slots or 1, price_micro=pool.price_micro, currency=pool.currency)]

    def launch(self, request: Request) -> Launched:
        if time.time() > request.launch_by:
            raise TooLate("launch_by is past")
        for folder in (self.root / f"{request.token}-{k}" for k in range(request.count)):
            if not (folder / "facts").exists():  # what is written down is never started again
                self._start(folder, request)
        return Launched(tuple(one for one in self.list() if one.token == request.token))

    def _start(self, folder: Path, request: Request) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "token").write_text(request.enrol_token)
        given = {"server": request.server_url, "token-file": "token", "state-dir": "state", "slots": str(request.offering.slots)}
        given |= {"identity": folder.name, "affinity": ",".join(request.affinity), "funded-for": str(request.until - time.time())}
        words = shlex.split(request.options["startup"]) + [f"--{name}={value}" for name, value in given.items() if value]
        with (folder / "alive").open("w") as alive, (folder / "log").open("w") as log:
            fcntl.flock(alive, fcntl.LOCK_EX)
            facts = {"token": request.token, "k": int(folder.name.rpartition("-")[2]), "farm": request.farm, "pool": request.pool}
            (folder / "new").write_text(json.dumps(facts | {"launched_at": time.time()}))
            (folder / "new").rename(folder / "facts")
            shell = ["sh", "-c", 'echo $$ > alive; "$@" 2>&1 &', "sh", *words]  # it outlives the server, and keeps the lock
            subprocess.run(shell, cwd=folder, stdout=log, pass_fds=[alive.fileno()], start_new_session=True, check=True)

    def list(self) -> Sequence[Instance]:
        return [_seen(facts.parent, json.loads(facts.read_text())) for facts in self.root.glob("*/facts")]

    def terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        for id in (living := self.renew(ids, 0)):
            with suppress(ValueError, ProcessLookupError):  # it has not begun, or has just ended: it is asked again
                os.killpg(int((self.root / id / "alive").read_text()), signal.SIGTERM)
        return {id: Fate.GOING if id in living else Fate.GONE for id in ids}

    def renew(self, ids: Sequence[str], until: float) -> Mapping[str, float]:
        return {one.id: until for one in self.list() if one.id in ids and one.life is Life.RUNNING}  # the server tells the worker

    def notices(self) -> Sequence[Notice]:
        return []

    def console(self, id: str) -> str:
        return (self.root / id / "log").read_text()[-16_384:] if (self.root / id / "log").exists() else ""


def _seen(folder: Path, facts: dict[str, Any]) -> Instance:
    with (folder / "alive").open() as alive, suppress(BlockingIOError):
        fcntl.flock(alive, fcntl.LOCK_SH | fcntl.LOCK_NB)
        (folder / "ended").open("a").close()  # nobody holds it: it ended before it was looked for
        return Instance(folder.name, **facts, life=Life.GONE, ended_at=(folder / "ended").stat().st_mtime, reason="it ended")
    return Instance(folder.name, **facts, life=Life.RUNNING)
