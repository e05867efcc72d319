"""A real server in its own process for benchmarks, and simulated workers that speak its protocol over raw sockets."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from coalition.client import Client
from coalition.errors import ServerUnreachable


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, lease: str = "60s", ca: Path | None = None, **knobs: str) -> Iterator[str]:
    """A `coalition serve` on loopback, with SQLite unless it is told otherwise; yields its address, and ends it.

    `ca`: the authority of the certificate that the knobs name; it speaks https.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = ["[server]", f"listen = 127.0.0.1:{port}", f"data_dir = {folder / 'data'}", "discovery = no"]
    lines += [f"{name} = {value}" for name, value in knobs.items()]
    (folder / "cloud.ini").write_text("\n".join([*lines, "[worker]", f"lease = {lease}", "[autoscaler]", "enabled = no", ""]))
    command = [sys.executable, "-m", "coalition", "serve", "--config", str(folder / "cloud.ini")]
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"{'https' if ca else 'http'}://127.0.0.1:{port}"
        _until_healthy(address, process, ca)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)
        log.close()


def _until_healthy(address: str, process: subprocess.Popen[bytes], ca: Path | None) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            Client(address, ca=ca).info()
        except ServerUnreachable:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the server did not come up (exit code {process.poll()})")


@dataclass
class SimulatedWorker:
    """One connection that syncs as fast as it is answered: finishes all it was given, asks for `slots` more."""

    slots: int
    socket: socket.socket
    worker: int
    credential: str
    epoch: int
    seq: int = 0
    held: list[int] = field(default_factory=list)
    sent_at: float = 0.0
    buffer: bytes = b""
    empty: int = 0

    def send(self) -> None:
        self.seq += 1
        finished = [{"attempt": attempt, "state": "FINISHED", "run_s": 5.0, "exit_code": 0} for attempt in self.held]
        body = json.dumps({"epoch": self.epoch, "seq": self.seq, "free": self.slots, "finished": finished}).encode()
        head = (
            f"POST /api/v1/workers/{self.worker}/sync HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.credential}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.sent_at = time.perf_counter()
        self.socket.sendall(head.encode() + body)

    def receive(self) -> dict[str, Any] | None:
        """The answer once it is complete."""
        self.buffer += self.socket.recv(1 << 18)
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        if len(body) < length:
            return None
        self.buffer = body[length:]
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise RuntimeError(f"the server refused: {head[:80]!r} {body[:300]!r}")
        return dict(json.loads(body[:length]))


def secured(address: str, ca: Path) -> socket.socket:
    """A connection whose certificate was checked."""
    plain = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ssl.create_default_context(cafile=str(ca)).wrap_socket(plain, server_hostname="127.0.0.1")


def enrol(address: str, name: str, slots: int, connection: socket.socket | None = None) -> SimulatedWorker:
    """A worker with a connection of its own, or on one that it shares."""
    if connection is None:
        connection = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = json.dumps({"name": name, "session": f"bench-{name}-0123456789", "slots": slots, "facts": {"cpus": slots}}).encode()
    head = (
        "POST /api/v1/workers/enrol HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    worker = SimulatedWorker(slots, connection, 0, "", 0)
    while (answer := worker.receive()) is None:
        pass
    worker.worker, worker.credential, worker.epoch = answer["worker"], answer["credential"], answer["epoch"]
    return worker


@dataclass(frozen=True)
class Rate:
    """What a dispatch run gave."""

    jobs: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        return self.jobs / self.seconds


def dispatch(address: str, connections: int, slots: int, jobs: int, ca: Path | None = None) -> Rate:
    """Finishes `jobs` jobs with simulated workers, one sync after another on each connection; how fast it went.

    Over TLS an answer must fit one record of 16 KB: those for one slot do.
    """
    lines = [secured(address, ca) if ca else None for _ in range(connections)]
    others = secrets.token_hex(4)  # than those of the measurement before, which count as alive for a while
    workers = [enrol(address, f"sim-{others}-{number}", slots, line) for number, line in enumerate(lines)]
    selector = selectors.DefaultSelector()
    for worker in workers:
        selector.register(worker.socket, selectors.EVENT_READ, worker)
        worker.send()
    times: deque[float] = deque()
    done, begun = 0, time.perf_counter()
    while done < jobs and selector.get_map():
        for key, _ in selector.select(timeout=30):
            worker = key.data
            answer = worker.receive()
            if answer is None:
                continue
            times.append(time.perf_counter() - worker.sent_at)
            done += len(worker.held)
            worker.held = [lease["attempt"] for lease in answer["leases"]]
            worker.empty = 0 if worker.held else worker.empty + 1
            if worker.empty > 20:
                raise RuntimeError("no jobs are left")
            worker.send()
    seconds = time.perf_counter() - begun
    for worker in workers:
        worker.socket.close()
    order = sorted(times)
    return Rate(done, seconds, order[len(order) // 2] * 1e3, order[int(len(order) * 0.99)] * 1e3)


def idle(address: str, count: int, every_s: float, seconds: float, connections: int = 50) -> float:
    """The cores that the server uses while `count` workers without jobs sync every `every_s` seconds, over shared connections."""
    first = [enrol(address, f"idle-{number}", 1) for number in range(connections)]
    workers = first + [
        enrol(address, f"idle-{number}", 1, first[number % connections].socket) for number in range(connections, count)
    ]
    _round(workers, connections, 0.0)  # each worker's first sync is no idle one: the server gets to know it
    begun, used = time.monotonic(), _cpu_s()
    while time.monotonic() < begun + seconds:
        _round(workers, connections, every_s)
    cores = (_cpu_s() - used) / (time.monotonic() - begun)
    for worker in first:
        worker.socket.close()
    return cores


def _round(workers: Sequence[SimulatedWorker], connections: int, every_s: float) -> None:
    """One sync of each worker, evenly over `every_s`."""
    begun = time.monotonic()
    for start in range(0, len(workers), connections):
        some = workers[start : start + connections]
        time.sleep(max(0.0, begun + every_s * start / len(workers) - time.monotonic()))
        for worker in some:
            worker.send()
        for worker in some:
            while worker.receive() is None:
                pass
    time.sleep(max(0.0, begun + every_s - time.monotonic()))


def memory() -> int:
    """The resident bytes of the largest of this process's children: the server's worker."""
    return max(child.memory_info().rss for child in psutil.Process().children(recursive=True))


def _cpu_s() -> float:
    """What this process's children have used, all together."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)
