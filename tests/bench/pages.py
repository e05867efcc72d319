"""Open pages and working machines on one server, played in one thread: what a call of theirs takes while all of them go on.

A page does what the web page does: it waits for changes, then asks for the lists on screen that changed, at most once a second,
and takes an answer that is a second old or that it has already.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from tests.bench.farm import SimulatedWorker, enrol

LISTS = {
    "/farm": {"jobs", "workers", "instances", "money"},
    "/jobs?parent=0&sort=-id&limit=15": {"jobs"},
    "/workers": {"workers"},
    "/instances": {"instances"},
    "/decisions?limit=12": {"decisions"},
}
ROUND_S = 1.0
WAIT_S = 15


@dataclass
class Page:
    """One browser tab on one kept connection."""

    socket: socket.socket
    cursor: str = ""
    queue: list[str] = field(default_factory=list)  # lists to ask for
    etags: dict[str, str] = field(default_factory=dict)
    asked: str = ""
    sent_at: float = 0.0
    round_at: float = 0.0
    buffer: bytearray = field(default_factory=bytearray)

    def send(self) -> None:
        """Asks for the next list, or else for what changed."""
        self.asked = self.queue.pop(0) if self.queue else f"/changes?since={self.cursor}&wait={WAIT_S}"
        has = f"If-None-Match: {self.etags[self.asked]}\r\n" if self.asked in self.etags else ""
        head = f"GET /api/v1{self.asked} HTTP/1.1\r\nHost: 127.0.0.1\r\nCache-Control: max-age=1\r\n{has}\r\n"
        self.sent_at = time.perf_counter()
        self.socket.sendall(head.encode())

    def receive(self) -> bytes | None:
        """The body of the answer once it is complete."""
        self.buffer += self.socket.recv(1 << 18)
        head, separator, body = bytes(self.buffer).partition(b"\r\n\r\n")
        if not separator:
            return None
        lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        if len(body) < int(lines.get(b"content-length", 0)):
            return None
        self.buffer.clear()
        if head[9:12] not in (b"200", b"304"):
            raise RuntimeError(f"the server refused {self.asked}: {head[:80]!r} {body[:300]!r}")
        if b"etag" in lines:
            self.etags[self.asked] = lines[b"etag"].decode()
        return body

    def has_heard(self, body: bytes) -> float:
        """What an answer means for this page; after how many seconds it calls next."""
        if not self.asked.startswith("/changes"):
            return 0.0 if self.queue else max(0.0, self.round_at + ROUND_S - time.perf_counter())
        answer = json.loads(body)
        self.cursor = answer["cursor"]
        self.queue = [path for path, topics in LISTS.items() if topics & set(answer["changed"])]
        self.round_at = time.perf_counter() + max(0.0, answer["poll_s"] - ROUND_S)
        return 0.0 if self.queue else max(ROUND_S, answer["poll_s"])


@dataclass
class Times:
    """How long calls took, in seconds; those that wait for something are not among them."""

    lists: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    syncs: list[float] = field(default_factory=list)

    def all(self) -> Sequence[float]:
        return sorted((*self.lists, *self.changes, *self.syncs))


def crowd(address: str, pages: int, workers: int, job_s: float, seconds: float) -> Times:
    """Pages and one-slot workers, whose jobs take `job_s`, for so many seconds, after a warm-up of two rounds."""
    port = int(address.rpartition(":")[2])
    machines = [enrol(address, f"crowd-{number}", 1) for number in range(workers)]
    tabs = [Page(socket.create_connection(("127.0.0.1", port))) for _ in range(pages)]
    selector, due, times = selectors.DefaultSelector(), list[tuple[float, int, Page | SimulatedWorker]](), Times()
    begun = time.perf_counter()
    for number, one in enumerate((*machines, *tabs)):
        selector.register(one.socket, selectors.EVENT_READ, one)
        heappush(due, (begun + random.uniform(0, job_s if number < workers else ROUND_S), number, one))
    warm, until = begun + 2 * job_s, begun + 2 * job_s + seconds
    for number, (one, took, then) in enumerate(_turns(selector, due, until, job_s), workers + pages):
        if time.perf_counter() > warm and took >= 0:
            _kept(times, one).append(took)
        heappush(due, (time.perf_counter() + then, number, one))
    for one in (*machines, *tabs):
        one.socket.close()
    return times


def _kept(times: Times, one: Page | SimulatedWorker) -> list[float]:
    if isinstance(one, SimulatedWorker):
        return times.syncs
    return times.changes if one.asked.startswith("/changes") else times.lists


def _turns(
    selector: selectors.BaseSelector, due: list[tuple[float, int, Page | SimulatedWorker]], until: float, job_s: float
) -> Iterator[tuple[Page | SimulatedWorker, float, float]]:
    """Sends what is due, and yields (who was answered, how long that took, when it calls next)."""
    while (now := time.perf_counter()) < until:
        while due and due[0][0] <= now:
            heappop(due)[2].send()
        wait = min(0.05, max(0.0, due[0][0] - now)) if due else 0.05
        for key, _ in selector.select(wait):
            one = key.data
            answer = one.receive()
            if answer is None:
                continue
            took = time.perf_counter() - one.sent_at
            if isinstance(one, SimulatedWorker):
                one.held = [lease["attempt"] for lease in answer["leases"]]
                yield one, took, job_s
            else:
                took = -1.0 if one.asked.startswith("/changes") and not json.loads(answer)["poll_s"] else took  # it waited
                yield one, took, one.has_heard(answer)
