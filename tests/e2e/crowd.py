"""Many simulated workers over real HTTP that are as bad as real ones: they fail, vanish, lose answers and repeat themselves."""

from __future__ import annotations

import base64
import http.client
import json
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any


class Crowd:
    """Workers in threads, until `close`. `refused` are answers that no worker should get, each with how often it came.

    `logs`: each result has a log. `proxied`: a proxy is between, which may tell that a server is gone.
    """

    def __init__(
        self, address: str, workers: int, silence_s: float, seed: int = 1, *, logs: bool = False, proxied: bool = False
    ) -> None:
        self.logs, self.proxied = logs, proxied
        self.port = int(address.rpartition(":")[2])
        self.silence_s = silence_s  # of one that vanishes: longer than its lease
        self.refused: Counter[str] = Counter()
        self.accidents: Counter[str] = Counter()
        self.ended = threading.Event()
        self._failed: set[int] = set()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=_Member(self, f"crowd-{number}", random.Random(f"{seed} {number}")).work)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self.ended.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)

    def fails(self, job: int) -> bool:
        """Whether an attempt at this job ends in ERROR: of every tenth job the first one does."""
        with self._lock:
            first = job % 10 == 0 and job not in self._failed
            self._failed.update([job] if first else [])
            return first

    def note(self, kind: Counter[str], what: str) -> None:
        with self._lock:
            kind[what] += 1


class _Member:
    """One worker."""

    def __init__(self, crowd: Crowd, name: str, chance: random.Random) -> None:
        self.crowd, self.name, self.chance = crowd, name, chance
        self.slots = chance.choice([1, 2, 8])
        self.connection = http.client.HTTPConnection("127.0.0.1", crowd.port, timeout=60)
        self.credential = ""
        self.seq = self.id = self.epoch = 0
        self.held: dict[int, int] = {}
        self.report: list[dict[str, Any]] = []

    def work(self) -> None:
        with closing(self.connection), suppress(ConnectionError, http.client.HTTPException):  # at the end the server may be gone
            self.heard(self.enrol)
            while not self.crowd.ended.is_set():
                self.heard(self.sync)

    def heard(self, call: Callable[[], None]) -> None:
        """A call; behind a proxy, one without an answer is repeated by the next."""
        try:
            call()
        except (OSError, http.client.HTTPException):
            if not self.crowd.proxied:
                raise
            self.crowd.note(self.crowd.accidents, "no answer")
            self.connection.close()
            if not self.credential and not self.crowd.ended.is_set():
                self.heard(call)

    def enrol(self) -> None:
        """A new start: what an earlier one held is lost."""
        body = {"name": self.name, "session": secrets.token_hex(16), "slots": self.slots, "credential": self.credential}
        _, answer = self.call("/workers/enrol", body)
        self.id, self.epoch, self.credential = answer["worker"], answer["epoch"], answer["credential"]
        self.seq, self.held, self.report = 0, {}, []

    def sync(self) -> None:
        self.have_an_accident()
        self.report += [self.result(attempt, job) for attempt, job in self.held.items()]
        self.held = {}
        self.seq += 1
        body = {"epoch": self.epoch, "seq": self.seq, "free": self.slots, "finished": self.report, "wait_s": 1}
        if self.chance.random() < 0.01:  # the answer is lost; the report is repeated by the next call, elsewhere perhaps
            self.crowd.note(self.crowd.accidents, "lost answer")
            self.send(f"/workers/{self.id}/sync", body)
            self.connection.close()
            return
        status, answer = self.call(f"/workers/{self.id}/sync", body)
        if status == 200:
            self.report = []
            self.held = {lease["attempt"]: lease["job"] for lease in answer["leases"]}

    def have_an_accident(self) -> None:
        luck = self.chance.random()
        if luck < 0.02:
            self.connection.close()  # the next call may come to another process
        elif luck < 0.023:
            self.crowd.note(self.crowd.accidents, "silence")
            self.crowd.ended.wait(self.crowd.silence_s)
        elif luck < 0.026:
            self.crowd.note(self.crowd.accidents, "restart")
            self.enrol()

    def result(self, attempt: int, job: int) -> dict[str, Any]:
        failed = self.crowd.fails(job)
        state = {"state": "ERROR", "exit_code": 1, "reason": "bad luck"} if failed else {"state": "FINISHED", "exit_code": 0}
        log = {"log": base64.b64encode(f"log of {attempt}\n".encode()).decode()} if self.crowd.logs else {}
        return {"attempt": attempt, "run_s": 5.0, **state, **log}

    def send(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.credential}"}
        self.connection.request("POST", f"/api/v1{path}", json.dumps(body), headers)

    def call(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.send(path, body)
        response = self.connection.getresponse()
        data = response.read()
        if self.crowd.proxied and response.status in (502, 504):  # whether it was heard is not known: it is said again
            self.crowd.note(self.crowd.accidents, "server gone")
            return response.status, {}
        answer = json.loads(data)
        if response.status == 409:  # the server has seen a call that this one does not know it sent
            time.sleep(0.01)
        elif response.status >= 400:
            self.crowd.note(self.crowd.refused, f"{response.status} {answer.get('detail', '')}")
        return response.status, answer
