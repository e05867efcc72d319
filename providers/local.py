"""Instances on this machine: each a supervisor process with a worker below it, in a folder named by its token and number.

The folder is the record (local_supervisor.py says what is in it): instances survive the server, and are found again by it.
`until` is enforced by the supervisor (deadline = provider). A file `faults` in the root makes the next instances misbehave,
one line each: never_boots, slow_boot:SECONDS, dies:SECONDS, spot_notice:SECONDS:WARNING (announced after so long, and taken away
so much later), or an empty line for none.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from coalition.config import PoolSettings
from providers import local_supervisor as supervisor
from providers.base import Deadline, Fate, Instance, Launched, Life, Notice, Offering, Request, TooLate, Unknown

NAME = re.compile(r"^[A-Za-z0-9]{8,64}-\d{1,6}$")
START_S = 10.0  # a folder without a supervisor for so long never started
STUCK_S = 10.0  # a supervisor that does not end within it is killed
KILL_S = 1.0  # how long the end of killed processes is waited for
KEEP_S = 3_600.0
CONSOLE_BYTES = 16_384
MARK = "COALITION_INSTANCE"
PRIVATE = re.compile(r"^(COALITION_|AWS_|GOOGLE_|AZURE_|OS_)|SECRET|PASSWORD|TOKEN|CREDENTIAL")

Command = Callable[[Request, str, Path], Sequence[str]]


def worker_command(request: Request, id: str, folder: Path) -> list[str]:
    """The command line of an instance's worker. Secrets are in files: others on the machine can read command lines."""
    command = [sys.executable, "-m", "coalition", "worker", "--name", f"{request.pool}-{id[:8]}-{id.rpartition('-')[2]}"]
    command += ["--slots", str(request.offering.slots), "--state-dir", str(folder / "state"), "--identity", id]
    command += ["--token-file", str(folder / "token")]
    if request.affinity:
        command += ["--affinity", ",".join(request.affinity)]
    if request.server_url:
        return [*command, "--server", request.server_url]
    return [*command, "--loopback", "--farm", request.farm, "--port", str(request.discovery_port)]


class LocalProvider:
    """`root` is the folder of all instances. `command` makes the worker's command line."""

    name = "local"
    deadline = Deadline.PROVIDER
    renewable = True
    settle_s = 0.5
    concurrent = False

    def __init__(self, root: Path, clock: Callable[[], float] = time.time, command: Command = worker_command) -> None:
        self.root, self.clock, self.command = root, clock, command

    def check(self, pool: PoolSettings) -> Sequence[str]:
        problems = []
        if pool.price_micro == 0:
            problems.append("it has no price, so that nothing starts under a hard budget")
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            problems.append(f"{self.root} cannot be made: {error.strerror}")
        return problems

    def offerings(self, pool: PoolSettings) -> Sequence[Offering]:
        cpus = os.cpu_count() or 1
        machine = Offering(
            name="local",
            type="local",
            slots=pool.slots or cpus,
            cpus=cpus,
            memory_bytes=psutil.virtual_memory().total,
            price_micro=pool.price_micro,
            currency=pool.currency,
        )
        return [replace(machine, name=name, type=name) for name in pool.types or ("local",)]

    # ------------------------------------------------------------ launch

    def launch(self, request: Request) -> Launched:
        if self.clock() > request.launch_by:
            raise TooLate(f"{request.token} was to be sent before; nothing was started now")
        with _translated("launch"):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._prune()
            ids = [f"{request.token}-{k}" for k in range(request.count)]
            for id in ids:
                folder = self.root / id
                if not folder.exists():
                    self._make_folder(request, id)
                if not (folder / "pid").exists() and not (folder / "ended").exists():
                    _spawn(folder)
            return Launched(tuple(self._look(self.root / id) for id in ids))

    def _make_folder(self, request: Request, id: str) -> None:
        """The whole folder or nothing: it is made under another name."""
        new = self.root / f".new-{secrets.token_hex(8)}"
        new.mkdir(mode=0o700)
        spec = {
            "token": request.token,
            "farm": request.farm,
            "pool": request.pool,
            "created_at": self.clock(),
            "fault": self._next_fault(),
            "command": list(self.command(request, id, self.root / id)),
            "environment": {MARK: id},
        }
        with os.fdopen(os.open(new / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(request.enrol_token + "\n")
        (new / "instance.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
        (new / "console.log").touch(mode=0o600)
        (new / "until").write_text(f"{self._on_boot_clock(request.until)!r}\n", encoding="utf-8")
        new.rename(self.root / id)

    def _on_boot_clock(self, at: float) -> float:
        return supervisor.boot_time() + at - self.clock()

    def _next_fault(self) -> str:
        path = self.root / "faults"
        try:
            first, *rest = path.read_text(encoding="utf-8").splitlines() or [""]
        except FileNotFoundError:
            return ""
        supervisor.write_atomically(path, "".join(f"{line}\n" for line in rest))
        return first.strip()

    def _prune(self) -> None:
        for folder in self._folders():
            ended = _read_json(folder / "ended")
            if ended and ended["at"] < self.clock() - KEEP_S:
                shutil.rmtree(folder, ignore_errors=True)

    # ------------------------------------------------------------ look

    def list(self) -> Sequence[Instance]:
        with _translated("list"):
            found = []
            for folder in self._folders():
                with suppress(FileNotFoundError):  # pruned meanwhile
                    found.append(self._look(folder))
            return found

    def _folders(self) -> Sequence[Path]:
        if not self.root.exists():
            return ()
        return sorted(folder for folder in self.root.iterdir() if NAME.match(folder.name))

    def _look(self, folder: Path) -> Instance:
        spec = json.loads((folder / "instance.json").read_text(encoding="utf-8"))
        token, _, k = folder.name.rpartition("-")
        life, ended = self._life(folder, spec["created_at"])
        return Instance(
            id=folder.name,
            token=token,
            k=int(k),
            farm=spec["farm"],
            pool=spec["pool"],
            life=life,
            launched_at=spec["created_at"],
            ended_at=ended.get("at"),
            reason=ended.get("reason", ""),
        )

    def _life(self, folder: Path, created_at: float) -> tuple[Life, dict[str, Any]]:
        if ended := _read_json(folder / "ended"):
            return Life.GONE, ended
        started = (folder / "pid").exists()
        handle = supervisor.lock(folder)
        if handle is None:
            return (Life.STOPPING if (folder / "terminate").exists() else Life.RUNNING) if started else Life.PENDING, {}
        try:
            if ended := _read_json(folder / "ended"):  # it ended between the two looks
                return Life.GONE, ended
            if not started and self.clock() < created_at + START_S:
                return Life.PENDING, {}
            if _processes(folder.name):  # the supervisor was killed, its worker lives on
                return Life.RUNNING, {}
            self._write_end(folder, "its supervisor was killed" if started else "it never started")
            return Life.GONE, _read_json(folder / "ended")
        finally:
            os.close(handle)

    def _write_end(self, folder: Path, reason: str) -> None:
        (folder / "token").unlink(missing_ok=True)
        supervisor.write_atomically(folder / "ended", json.dumps({"at": self.clock(), "reason": reason}))

    # ------------------------------------------------------------ end, renew

    def terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        fates = {}
        for id in ids:
            folder = self.root / id
            try:
                fates[id] = self._terminate(folder) if NAME.match(id) and folder.exists() else Fate.GONE
            except OSError:
                fates[id] = Fate.FAILED
        return fates

    def _terminate(self, folder: Path) -> Fate:
        if (folder / "ended").exists():
            return Fate.GONE
        handle = supervisor.lock(folder)
        if handle is None:
            self._ask_to_end(folder)
            return Fate.GOING
        try:
            doomed = _processes(folder.name)
            for process in doomed:
                with suppress(psutil.Error):
                    process.kill()
            if psutil.wait_procs(doomed, timeout=KILL_S)[1]:
                return Fate.GOING  # killed, and not seen gone
            if not (folder / "ended").exists():
                self._write_end(folder, "it was terminated")
            return Fate.GONE
        finally:
            os.close(handle)

    def _ask_to_end(self, folder: Path) -> None:
        """SIGTERM to the supervisor; SIGKILL to it and to all of its own when it was asked long ago."""
        mark = folder / "terminate"
        stuck = mark.exists() and time.time() - mark.stat().st_mtime > STUCK_S
        if not mark.exists():
            mark.touch()
        with suppress(FileNotFoundError, ValueError):
            _signal_holder(folder, signal.SIGKILL if stuck else signal.SIGTERM)
        for process in _processes(folder.name) if stuck else ():
            with suppress(psutil.Error):
                process.kill()

    def renew(self, ids: Sequence[str], until: float) -> Mapping[str, float]:
        deadlines = {}
        with _translated("renew"):
            for id in ids:
                folder = self.root / id
                if NAME.match(id) and folder.exists() and not (folder / "ended").exists():
                    supervisor.write_atomically(folder / "until", f"{self._on_boot_clock(until)!r}\n")
                    deadlines[id] = until
        return deadlines

    def notices(self) -> Sequence[Notice]:
        """Told as long as they live: whoever reads it may end before it is heeded."""
        found = []
        for folder in self._folders():
            with suppress(OSError, ValueError):
                if not (folder / "ended").exists():
                    at = float((folder / "notice").read_text(encoding="utf-8"))
                    found.append(Notice(folder.name, at, "it will be taken back, as a spot machine may be"))
        return found

    def console(self, id: str) -> str:
        if not NAME.match(id):
            return ""
        try:
            with (self.root / id / "console.log").open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - CONSOLE_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


@contextmanager
def _translated(verb: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        raise Unknown(f"local {verb}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _spawn(folder: Path) -> None:
    """Starts the supervisor, which leaves us at once. Our secrets are not for jobs."""
    environment = {name: value for name, value in os.environ.items() if not PRIVATE.search(name)}
    subprocess.run(
        [sys.executable, "-I", "-S", supervisor.__file__, str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
        cwd=folder,
    )


def _signal_holder(folder: Path, number: int) -> None:
    """Signals whoever holds the lock. The number in `pid` is a stranger's if the lock turns out to be free."""
    pid = int((folder / "pid").read_text(encoding="utf-8"))
    if not hasattr(os, "pidfd_open"):
        os.kill(pid, number)
        return
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            handle = supervisor.lock(folder)
            if handle is None:
                signal.pidfd_send_signal(process, number)
            else:
                os.close(handle)
        finally:
            os.close(process)


def _processes(id: str) -> list[psutil.Process]:
    """What an instance runs, by the mark in its environment, whatever became of its process tree."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == id:
                found.append(process)
    return found
