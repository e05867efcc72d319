"""A small HTTP server that answers what a test tells it to, in the shapes of the API, and records what it was asked."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from coalition.errors import NotFound

PREFIX = "/api/v1"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    connection: int


@dataclass(frozen=True)
class Answer:
    """`body` is JSON data, or bytes that are sent as they are. `hang_up`: the connection ends after it, without notice."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False


Reply = Answer | Callable[[Request], Answer]


class Api:
    """A context manager. `tell(method, path, *answers)` queues answers of a route; the last one is given from then on."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: dict[tuple[str, str], list[Reply]] = {}
        self.otherwise: Reply | None = None  # to what no answer was told for; else that it is not there
        self.connections = 0
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Api:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def tell(self, method: str, path: str, *answers: Reply) -> None:
        self.answers[method, path] = list(answers)

    def asked(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            queue = self.answers.get((request.method, request.path), [])
            reply = queue.pop(0) if len(queue) > 1 else queue[0] if queue else self.otherwise or missing(request.path)
        return reply if isinstance(reply, Answer) else reply(request)


def missing(path: str) -> Answer:
    return refusal(NotFound(f"there is no {path}"))


def refusal(error: Any) -> Answer:
    """The problem body of an error."""
    return Answer(error.to_problem(), error.status)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: Api) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.api.connections += 1
        self.number = self.server.api.connections

    def handle_one_request(self) -> None:
        self.timeout = 30
        super().handle_one_request()

    def _handle(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = json.loads(data) if data else None
        path = parts.path.removeprefix(PREFIX)
        answer = self.server.api.answer(Request(self.command, path, query, dict(self.headers), body, self.number))
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        if answer.status:
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        self.close_connection = answer.hang_up or not answer.status

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet: the requests are recorded."""


# ---------------------------------------------------------------- builders: the API's shapes, with defaults


def a_job(id: int = 1, **changes: Any) -> dict[str, Any]:
    job = {
        "id": id, "parent": 0, "title": f"job {id}", "group": False, "state": "WAITING", "paused": False, "priority": 127,
        "affinity": [], "user": "ann", "command": "true", "dir": "", "environment": {}, "url": "", "timeout_s": 0,
        "retries": 0, "errors": 0, "cpus": 0, "memory_bytes": 0, "gpus": 0, "progress_pattern": None, "progress": 0,
        "created_at": 1_000_000.0, "started_at": None, "ended_at": None, "run_s": 0, "cost_micro": 0, "depends_on": [],
        "attempt": 0, "worker": "", "counts": None, "reason": "", "allowed_actions": [],
    }  # fmt: skip
    assert changes.keys() <= job.keys()
    return {**job, **changes}


def a_group(id: int = 1, state: str = "WAITING", counts: Mapping[str, int] | None = None, **changes: Any) -> dict[str, Any]:
    """A group whose leaves are `counts`, such as {"finished": 2, "error": 1}."""
    every = {"waiting": 0, "pending": 0, "working": 0, "finished": 0, "error": 0, **(counts or {})}
    return a_job(id, state=state, group=True, command=None, counts={"total": sum(every.values()), **every}, **changes)


def an_attempt(id: int = 1, **changes: Any) -> dict[str, Any]:
    attempt = {
        "id": id, "job": 1, "job_title": "job 1", "worker": "node1", "state": "FINISHED", "leased_at": 1.0, "started_at": 1.0,
        "ended_at": 3.0, "run_s": 2.0, "progress": 1, "exit_code": 0, "signal": None, "reason": "", "cost_micro": 0,
    }  # fmt: skip
    return {**attempt, **changes}


def a_worker(id: int = 1, **changes: Any) -> dict[str, Any]:
    worker = {
        "id": id, "name": f"node{id}", "state": "WAITING", "active": True, "slots": 2, "running": 0, "affinity": [["linux"]],
        "facts": {}, "version": "5", "load": 0.5, "memory_free_bytes": 2**30, "finished": 0, "errors": 0, "enrolled_at": 1.0,
        "seen_at": 2.0, "idle_since": None, "instance": None, "jobs": [], "reason": "", "allowed_actions": [],
        "hours": "", "timezone": "UTC", "hours_end": "finish", "idle_user_s": 0, "idle_load": 0, "used_at": None,
        "sick_until": None, "note": "",
    }  # fmt: skip
    return {**worker, **changes}


def log_piece(data: bytes, *, attempt: int = 1, offset: int = 0, size: int | None = None, open: bool = False) -> Answer:
    size = offset + len(data) if size is None else size
    names = {"Attempt": attempt, "Offset": offset, "Size": size, "Open": int(open)}
    return Answer(data, headers={f"X-Log-{name}": str(value) for name, value in names.items()})


def log_of(text: bytes, **words: Any) -> Reply:
    """A log that is read by `offset` and `limit`, as the server does."""

    def answer(request: Request) -> Answer:
        offset = int(request.query.get("offset", 0))
        start = max(0, len(text) + offset) if offset < 0 else min(offset, len(text))
        end = start + int(request.query.get("limit", len(text)))
        return log_piece(text[start:end], offset=start, size=len(text), **words)

    return answer
