"""WSGI middleware that makes a cloud's API fail on a script. Below it is any server that speaks as the cloud does.

    faults = CloudFaults(app, dialect)
    faults.script("launch", "lost_after", "capacity")      what becomes of the next calls of that verb, one entry a call
    faults.hide(2)                                         the next instances are missing in two lists

Entries: "" (nothing), capacity, quota, throttle, auth, invalid, error (500), lost_before, lost_after (the effect),
slow:SECONDS, partial:N (an order is filled with N). A Dialect knows the words of one cloud.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from werkzeug.serving import WSGIRequestHandler, make_server

REFUSALS = ("capacity", "quota", "throttle", "auth", "invalid", "error")
PARTIAL = "coalition.partial"  # in the environ of a launch: how many may start
Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Answer:
    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def good(self) -> bool:
        return self.status.startswith("2")


@dataclass(frozen=True)
class Call:
    verb: str
    path: str
    body: bytes
    at: float


class Dialect(Protocol):
    """The words of one cloud's API."""

    def verb(self, environ: Environ, body: bytes) -> str:
        """launch, list, terminate, renew, console, notices, or the API's own word for anything else."""

    def refusal(self, kind: str, verb: str) -> Answer:
        """What the cloud answers for one of REFUSALS."""

    def ids(self, answer: Answer) -> Sequence[str]:
        """The instances that an answer to a launch or a list tells of."""

    def without(self, answer: Answer, ids: Sequence[str]) -> Answer:
        """A list without these instances."""

    def bare(self, answer: Answer) -> Answer:
        """A list whose instances have only what no cloud leaves out: id, state and tags."""


class CloudFaults:
    """`calls` are all that came. Verbs that the script does not name go through."""

    def __init__(self, app: App, dialect: Dialect) -> None:
        self.app, self.dialect = app, dialect
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.calls: list[Call] = []
        self._script: dict[str, list[str]] = defaultdict(list)
        self._hide_next = self._bare_next = 0
        self._hidden: dict[str, int] = {}

    def script(self, verb: str, *faults: str) -> None:
        self._script[verb] += faults

    def hide(self, lists: int) -> None:
        """Instances started from now on are missing in so many lists."""
        self._hide_next = lists

    def bare(self, lists: int) -> None:
        """The next lists leave out all that they may."""
        self._bare_next = lists

    def count(self, verb: str) -> int:
        return sum(call.verb == verb for call in self.calls)

    def left(self) -> Mapping[str, Sequence[str]]:
        """What of the script nobody has met yet."""
        return {verb: faults for verb, faults in self._script.items() if faults}

    # ------------------------------------------------------------ a call

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = body_of(environ)
        verb = self.dialect.verb(environ, body)
        with self._lock:
            self.calls.append(Call(verb, environ.get("PATH_INFO", ""), body, time.time()))
            fault, _, value = (self._script[verb].pop(0) if self._script[verb] else "").partition(":")
        if fault in REFUSALS:
            return send(self.dialect.refusal(fault, verb), start_response)
        if fault == "lost_before":
            cut(environ)
        if fault == "slow":
            time.sleep(float(value))
        if fault == "partial":
            environ[PARTIAL] = int(value)
        answer = self._shaped(verb, ask(self.app, environ, body))
        if fault == "lost_after":
            cut(environ)
        return send(answer, start_response)

    def _shaped(self, verb: str, answer: Answer) -> Answer:
        if not answer.good or verb not in ("launch", "list"):
            return answer
        with self._lock:
            if verb == "launch":
                if self._hide_next:
                    self._hidden.update(dict.fromkeys(self.dialect.ids(answer), self._hide_next))
                return answer
            late = [id for id in self.dialect.ids(answer) if self._hidden.get(id)] if self._hidden else []
            for id in late:
                self._hidden[id] -= 1
            bare, self._bare_next = self._bare_next > 0, max(0, self._bare_next - 1)
        answer = self.dialect.without(answer, late) if late else answer
        return self.dialect.bare(answer) if bare else answer


def body_of(environ: Environ) -> bytes:
    """The body of a request, which stays there for who comes next."""
    if environ.get("wsgi.input_terminated") and not environ.get("CONTENT_LENGTH"):
        body = environ["wsgi.input"].read()
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    put_body(environ, body)
    return bytes(body)


def put_body(environ: Environ, body: bytes) -> None:
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))


def ask(app: App, environ: Environ, body: bytes) -> Answer:
    """What an application answers, read to its end."""
    put_body(environ, body)
    said: list[Any] = []
    parts = app(environ, lambda status, headers, *rest: said.extend([status, headers]))
    try:
        content = b"".join(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()
    return Answer(said[0], tuple(said[1]), content)


def send(answer: Answer, start_response: Callable[..., Any]) -> Iterable[bytes]:
    other = [(name, value) for name, value in answer.headers if name.lower() not in ("content-length", "connection")]
    start_response(answer.status, [*other, ("Content-Length", str(len(answer.body)))])
    return [answer.body]


def cut(environ: Environ) -> None:
    """The connection breaks: no answer, and no hint of why."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("cut by the fault layer")


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as clouds do

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class CloudServer:
    """An application on a port of this machine, served by threads of this process; `with` ends it."""

    def __init__(self, app: App) -> None:
        self._server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> CloudServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
