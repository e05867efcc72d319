"""The server's side of the worker protocol, without a store: it does as a test tells it, and keeps what it was told."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from coalition.errors import CoalitionError, LogGap, NotAuthenticated, NotFound, StaleCall, Unavailable
from coalition.model import Enrol, Enrolled, Lease, Result, Running, Sync, SyncReply, from_dict, to_dict


class Farm:
    """Leases what `add` was given. `results` and `logs` are by attempt; `told` counts how often each result came."""

    def __init__(self, port: int = 0, *, token: str = "", site: Mapping[str, Any] | None = None) -> None:
        self.token = token
        usual: dict[str, Any] = {"sync_s": 0.3, "lease_s": 30.0, "grace_s": 0.5, "umask": 0o022, "paths": (), "environment": {}}
        self.site = {**usual, **(site or {})}
        self.enrolments: list[Enrol] = []
        self.syncs: list[Sync] = []
        self.results: dict[int, Result] = {}
        self.logs: dict[int, bytes] = {}
        self.pieces: list[tuple[int, int, int]] = []  # attempt, offset, bytes
        self.told: Counter[int] = Counter()
        self.refuse: set[int] = set()  # attempts whose results do not count
        self.stop_attempts: set[int] = set()
        self.desired = "run"
        self.funded_for_s: float | None = None
        self.taken_in_s: float | None = None
        self.ahead = 0  # leases beyond the free slots
        self.lose_answers = 0  # of the next syncs that report or lease something, after they took effect
        self.errors: list[tuple[str, CoalitionError]] = []  # for the next calls whose path ends so
        self.log_limit = 1 << 40
        self.epoch = self.seq = 0
        self.credential = ""
        self._waiting: list[Lease] = []
        self._leased: dict[int, Lease] = {}
        self._numbers = 0
        self._changes = 0
        self._changed = threading.Condition()
        self._port = port
        self._server: _Server | None = None

    def __enter__(self) -> Farm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Also after `stop()`: then it is at the same address again."""
        farm = self

        class Handler(_Handler):
            owner = farm

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self.change()
            self._server.shutdown()
            self._server.server_close()
            self._server.end_connections()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def add(self, command: str, **fields: Any) -> int:
        """A job for whoever asks next; the number of its attempt."""
        with self._changed:
            self._numbers += 1
            base = {"title": "", "dir": "", "environment": {}, "user": "", "timeout_s": 0.0, "progress_pattern": None}
            self._waiting.append(Lease(attempt=self._numbers, job=self._numbers + 1_000, command=command, **{**base, **fields}))
            self._changed.notify_all()
            return self._numbers

    def change(self, **fields: Any) -> None:
        """Set attributes, and end the call that waits, as a server does when somebody changes workers."""
        with self._changed:
            for name, value in fields.items():
                setattr(self, name, value)
            self._changes += 1
            self._changed.notify_all()

    def held(self) -> dict[int, Running]:
        """What the worker said it has, in its last call."""
        return {running.attempt: running for running in self.syncs[-1].running} if self.syncs else {}

    # -------- what the agent calls

    def enrol(self, body: Any) -> Any:
        wanted = from_dict(Enrol, body)
        with self._changed:
            if self.token and wanted.token != self.token and (wanted.credential or "none") != self.credential:
                raise NotAuthenticated("no such token")
            self.enrolments.append(wanted)
            self.epoch += 1
            self.seq = 0
            self.credential = f"w1.secret{self.epoch}"
            self._leased.clear()
        given: dict[str, Any] = {"worker": 1, "name": wanted.name, "credential": self.credential, "farm": "test", "protocol": 1}
        return to_dict(Enrolled(**given, epoch=self.epoch, **self.site))

    def sync(self, body: Any, credential: str) -> Any:
        call = from_dict(Sync, body)
        with self._changed:
            if credential != self.credential:
                raise NotAuthenticated("no such credential")
            if call.epoch != self.epoch or call.seq <= self.seq:
                raise StaleCall("a newer call was seen")
            self.seq = call.seq
            self._changed.notify_all()
            self.syncs.append(call)
            for result in call.finished:
                self._take(result)
            self._park(call)
            reply = self._answer(call)
            if self.lose_answers and (call.finished or reply.leases):
                self.lose_answers -= 1
                raise ConnectionAbortedError
        return to_dict(reply)

    def _take(self, result: Result) -> None:
        self.told[result.attempt] += 1
        self._leased.pop(result.attempt, None)
        if result.attempt not in self.refuse:
            self.results[result.attempt] = result
            if result.log:
                self.logs[result.attempt] = base64.b64decode(result.log)

    def _park(self, call: Sync) -> None:
        until = time.monotonic() + (min(call.wait_s, 10.0) if self.desired == "run" else 0.0)
        changes = self._changes
        while not self._waiting and (self.seq, self._changes) == (call.seq, changes) and (left := until - time.monotonic()) > 0:
            self._changed.wait(left)

    def _answer(self, call: Sync) -> SyncReply:
        held = {running.attempt for running in call.running}
        queued = sum(not running.started for running in call.running)
        leases = [lease for attempt, lease in self._leased.items() if attempt not in held]
        room = 0 if self.desired != "run" or self.seq != call.seq else call.free + self.ahead - queued - len(leases)
        if call.free == 0 and self.ahead == 0:
            room = 0
        for lease in self._waiting[: max(0, room)]:
            self._leased[lease.attempt] = lease
            leases.append(lease)
        del self._waiting[: max(0, room)]
        refused = [{"attempt": r.attempt, "reason": "leased again"} for r in call.finished if r.attempt in self.refuse]
        reply = {
            "leases": [to_dict(lease) for lease in leases],
            "stop": [*self.stop_attempts],
            "refused": refused,
            "desired": self.desired,
            "funded_for_s": self.funded_for_s,
            "taken_in_s": self.taken_in_s,
            "next_sync_s": self.site["sync_s"],
        }
        self.stop_attempts = set()
        return from_dict(SyncReply, reply)

    def put_log(self, attempt: int, offset: int, data: bytes, credential: str) -> Any:
        with self._changed:
            if credential != self.credential:
                raise NotAuthenticated("no such credential")
            if attempt in self.refuse:
                raise NotFound("no such attempt")
            known = self.logs.get(attempt, b"")
            if offset > len(known):
                raise LogGap(len(known))
            self.pieces.append((attempt, offset, len(data)))
            self.logs[attempt] = (known + data[len(known) - offset :])[: self.log_limit]
            return {"size": len(self.logs[attempt])}

    def next_error(self, path: str) -> CoalitionError | None:
        with self._changed:
            for index, (end, error) in enumerate(self.errors):
                if path.endswith(end):
                    del self.errors[index]
                    return error
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, *args: Any) -> None:
        self._connections: set[Any] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def end_connections(self) -> None:
        for connection in self._connections:
            try:
                connection.shutdown(2)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Farm

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        credential = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        try:
            error = self.owner.next_error(url.path)
            if error:
                raise error
            status, answer = 200, self._route(url.path, parse_qs(url.query), data, credential)
        except CoalitionError as problem:
            status, answer = problem.status, problem.to_problem()
        except ConnectionAbortedError:
            self.close_connection = True
            return
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _route(self, path: str, query: dict[str, list[str]], data: bytes, credential: str) -> Any:
        if path == "/api/v1/workers/enrol":
            return self.owner.enrol(json.loads(data))
        if path == "/api/v1/workers/1/sync":
            return self.owner.sync(json.loads(data), credential)
        if path.startswith("/api/v1/attempts/"):
            return self.owner.put_log(int(path.split("/")[4]), int(query["offset"][0]), data, credential)
        raise NotFound(path)

    do_POST = do_PUT = _serve


UNWELL = Unavailable("the database is away")
