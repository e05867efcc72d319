"""A whole farm of real processes for the end-to-end tests: server, workers, local instances; each can be killed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil

from coalition.client import Client
from coalition.config import SINGLE
from coalition.model import Job
from tests.polling import poll_until

MARK = "COALITION_TEST_FARM"


class RealFarm:
    """Processes that carry a mark in their environment, so that none can hide when the test asks what is left."""

    def __init__(self, folder: Path, **sections: str) -> None:
        self.folder = folder
        self.mark = f"test-{secrets.token_hex(6)}"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.address)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ini = folder / "cloud.ini"
        self.ini.write_text(self._ini(sections))

    def _ini(self, sections: dict[str, str]) -> str:
        server = f"[server]\nfarm = {self.mark}\nlisten = 127.0.0.1:{self.port}\ndata_dir = {self.folder / 'data'}\n"
        server += sections.pop("server", "threads = 16") + "\n"
        worker = sections.pop("worker", "sync = 500ms\nlease = 3s\nwait = 2s\ngrace = 1s").replace("500ms", "0.5")
        names = {name: name if name in SINGLE else name.replace("_", " ") for name in sections}
        others = "".join(f"[{names[name]}]\n{text}\n" for name, text in sections.items())
        return f"{server}[worker]\n{worker}\n{others}"

    # ------------------------------------------------------------ processes

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self.start_process(name, [sys.executable, "-m", "coalition", *arguments])

    def start_process(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Starts any program of the farm."""
        environment = {**os.environ, MARK: self.mark, "PYTHONUNBUFFERED": "1"}
        environment.pop("COALITION_SERVER", None)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.processes.append(process)
        return process

    def serve(self) -> subprocess.Popen[bytes]:
        """Starts the server and waits until it answers."""
        process = self._start("server", "serve", "--config", str(self.ini))
        poll_until(lambda: self.answers(process, "server", self.address), 30, lambda: self.log_of("server"))
        return process

    def answers(self, process: subprocess.Popen[bytes], name: str, address: str) -> bool:
        """Whether a server answers there; fails if it has ended."""
        assert process.poll() is None, f"{name} ended with {process.returncode}: {self.log_of(name)}"
        try:  # an open port is no answer: a killed server's last thread may hold it for a moment
            with urllib.request.urlopen(f"{address}/healthz", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def worker(self, name: str, *options: str, slots: int = 1) -> subprocess.Popen[bytes]:
        """Starts a worker that is told the server's address."""
        state = str(self.folder / name)
        common = ["--name", name, "--slots", str(slots), "--state-dir", state]
        return self._start(name, "--server", self.address, "worker", *common, *options)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """kill -9 of a process and what it started in its group, and not one of them is left to answer."""
        group = [one for one in psutil.process_iter() if _group_of(one) == process.pid]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        poll_until(lambda: not any(_alive(one) for one in group), 10, lambda: group)

    def server_workers(self) -> list[psutil.Process]:
        """The processes that serve: gunicorn's children."""
        return psutil.Process(self.processes[0].pid).children()

    def log_of(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-3_000:] if path.exists() else ""

    def left_running(self) -> list[str]:
        """Every process that carries this farm's mark."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def close(self) -> None:
        """Ends the farm, politely first, and fails if anything is left."""
        self.client.close()
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill(process)
        poll_until(lambda: not self.left_running(), 20, self.left_running)

    # ------------------------------------------------------------ looking

    def finished(self, job: int, timeout_s: float = 60) -> Job:
        """The job once it is FINISHED."""
        return poll_until(lambda: self._if_state(job, "FINISHED"), timeout_s, lambda: self.state(job))

    def _if_state(self, job: int, state: str) -> Job | None:
        found = self.client.job(job)
        return found if found.state == state else None

    def state(self, job: int) -> object:
        """What a failed wait prints."""
        return self.client.job(job), self.client.explain(job), self.log_of("server")

    def leaves(self, job: int) -> list[Job]:
        return list(self.client.jobs(parent=job))


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
