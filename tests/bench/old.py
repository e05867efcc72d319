"""Workers of Coalition 3.x and 4.0 over raw sockets: each picks a job and ends it, as fast as it is answered."""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from tests.bench.farm import Rate


@dataclass
class OldSimulated:
    """One connection of one old worker."""

    name: str
    socket: socket.socket
    job: str = ""
    begun: float = 0.0
    buffer: bytes = b""

    def send(self) -> None:
        """Ends the job that it has, or asks for one."""
        if self.job:
            self._post("endjob", {"hostname": self.name, "jobId": self.job, "errorCode": "0"})
        else:
            self.begun = time.perf_counter()
            self._post("pickjob", {"hostname": self.name, "load": "[5.0]", "free_memory": "1000", "total_memory": "4000"})

    def _post(self, call: str, fields: dict[str, str]) -> None:
        body = urlencode(fields)
        kind = "Content-Type: application/x-www-form-urlencoded"
        head = f"POST /workers/{call} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall((head + body).encode())

    def receive(self) -> bytes | None:
        """The answer once it is complete."""
        self.buffer += self.socket.recv(1 << 16)
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        if len(body) < length:
            return None
        self.buffer = b""
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server refused: {head[:80]!r} {body[:300]!r}")
        return body


def cycles(address: str, connections: int, jobs: int) -> Rate:
    """Picks and ends `jobs` jobs; how fast it went, and how long one pick with its end took."""
    selector = selectors.DefaultSelector()
    for number in range(connections):
        worker = OldSimulated(f"old{number}", socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))))
        worker.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(worker.socket, selectors.EVENT_READ, worker)
        worker.send()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < jobs:
        for key, _ in selector.select(timeout=30):
            worker = key.data
            answer = worker.receive()
            if answer is None:
                continue
            if worker.job:
                times.append(time.perf_counter() - worker.begun)
                worker.job = ""
            else:
                worker.job = answer[1 : answer.index(b",")].decode()
                if worker.job == "-1":
                    raise RuntimeError("no jobs are left")
            worker.send()
    seconds = time.perf_counter() - begun
    for key in selector.get_map().values():
        key.data.socket.close()
    order = sorted(times)
    return Rate(len(times), seconds, order[len(order) // 2] * 1e3, order[int(len(order) * 0.99)] * 1e3)
