"""The client's connections: calls to one server over HTTP, a connection for each thread, the server found at the first call.

Standard library only, as client.py.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from coalition import __version__
from coalition.errors import BadInput, CoalitionError, ServerUnreachable, Unavailable, from_problem

DEFAULT_SERVER = "http://127.0.0.1:19211"
DEFAULT_PORT = 19211
PREFIX = "/api/v1"
IDLE_S = 30.0  # a connection unused for longer is opened anew: servers and routers drop idle ones
LOST = (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionResetError, BrokenPipeError)
Answer = tuple[http.client.HTTPResponse, bytes]


class _Kept:
    """A connection that one thread keeps open; it is closed with the thread, or with the client."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self.process = os.getpid()  # a fork must not talk on its parent's connection
        self.used = 0.0

    def usable(self) -> bool:
        if self.connection.sock is None or self.process != os.getpid() or time.monotonic() - self.used > IDLE_S:
            return False
        try:
            return not select.select([self.connection.sock], [], [], 0)[0]  # what waits on an idle connection is its end
        except (OSError, ValueError):  # ValueError: a file number beyond what select takes
            return False

    def __del__(self) -> None:
        self.connection.close()


class Wire:
    """Calls to one server, on a connection for each thread. Finds the server at the first call, when no address was given."""

    def __init__(self, server: str | None, token: str, timeout_s: float, ca: str | os.PathLike[str] | None) -> None:
        if not token.isascii() or not token.isprintable():
            raise BadInput(fields={"token": "is not a token: it holds characters that no token has"})
        self._token = token
        self._timeout_s = timeout_s
        self._ca = ca or os.environ.get("COALITION_CA") or None
        self._base = address(server) if server else None
        self._finding = threading.Lock()
        self._local = threading.local()

    @property
    def base(self) -> SplitResult:
        if self._base is None:
            with self._finding:
                self._base = self._base or address(_find(self._token))
        return self._base

    @property
    def url(self) -> str:
        return self.base.geturl()

    @property
    def has_token(self) -> bool:
        return bool(self._token)

    def drop(self) -> None:
        kept: _Kept | None = getattr(self._local, "kept", None)
        self._local.kept = None
        if kept:
            kept.connection.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[http.client.HTTPMessage, bytes]:
        """One request; the headers and the body of a good answer, and the error that any other stands for."""
        headers = {"Accept": "application/json", "User-Agent": f"coalition-client/{__version__}", **(headers or {})}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        response, answer = self._exchange(method, self.base.path + PREFIX + quote(path) + _query(query or {}), data, headers)
        if 200 <= response.status < 300:
            return response.headers, answer
        raise self._error(response, answer)

    def _error(self, response: http.client.HTTPResponse, answer: bytes) -> CoalitionError:
        problem = json_object(answer)
        if problem is not None:
            return from_problem(response.status, problem)
        if response.status in (502, 503, 504):
            return Unavailable(f"{self.url} is away: a proxy answered {response.status}")
        where = f" and points to {response.headers['Location']}" if response.headers["Location"] else ""
        return ServerUnreachable(f"{self.url} is not a Coalition server: it answered {response.status}{where}")

    def _exchange(self, method: str, target: str, data: bytes | None, headers: dict[str, str]) -> Answer:
        """One request; once more when a kept connection was closed meanwhile, except for a POST, which may have arrived."""
        while True:
            kept, fresh = self._kept()
            try:
                return self._once(kept, method, target, data, headers)
            except LOST as error:
                if fresh or method == "POST":
                    raise ServerUnreachable(f"{self.url} broke the connection: {_words(error)}", lost=True) from error
            except TimeoutError as error:
                raise ServerUnreachable(f"{self.url} did not answer within {self._timeout_s:g} s") from error
            except (OSError, http.client.HTTPException) as error:
                raise ServerUnreachable(f"no server at {self.url}: {_words(error)}") from error

    def _once(self, kept: _Kept, method: str, target: str, data: bytes | None, headers: dict[str, str]) -> Answer:
        stays = False
        try:
            if kept.connection.sock is None:
                kept.connection.connect()
            with suppress(BrokenPipeError, ConnectionResetError):  # a server may refuse a body unread: its answer says why
                kept.connection.request(method, target, data, headers)
            response = kept.connection.getresponse()
            answer = response.read()
            stays = not response.will_close
            kept.used = time.monotonic()
            return response, answer
        finally:
            if not stays:  # also on Ctrl-C: an answer that was not read must not be taken for the next call's
                self.drop()

    def _kept(self) -> tuple[_Kept, bool]:
        """This thread's connection, and whether it is a fresh one."""
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept and kept.usable():
            return kept, False
        self.drop()
        self._local.kept = _Kept(self._open())
        return self._local.kept, True

    def _open(self) -> http.client.HTTPConnection:
        host, port = str(self.base.hostname), self.base.port
        if self.base.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        try:
            context = ssl.create_default_context(cafile=self._ca)
        except OSError as error:
            raise BadInput(fields={"ca": f"{self._ca} cannot be used: {_words(error)}"}) from None
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)


def address(server: str) -> SplitResult:
    """The parts of a server's URL; `farm` and `farm:80` mean http, and port 19211 where none is given. BadInput if it is none."""
    server = server.strip()
    wrong = BadInput(fields={"server": f"{server!r} is not an address such as http://farm:19211"})
    try:
        parts = urlsplit(server if "://" in server else f"http://{server}")
        port = parts.port
    except ValueError:
        raise wrong from None
    name = parts.hostname or ""
    if parts.scheme not in ("http", "https") or parts.username is not None or not re.fullmatch(r"[\w.\-:]+", name):
        raise wrong
    host = f"[{name}]" if ":" in name else name
    if port is None and "://" not in server:
        port = DEFAULT_PORT
    return SplitResult(parts.scheme, host if port is None else f"{host}:{port}", parts.path.rstrip("/"), "", "")


def _find(token: str) -> str:
    """A server on this machine, else the one that discovery.py finds and that proves that it knows the token, if there is one."""
    local = urlsplit(DEFAULT_SERVER)
    try:
        socket.create_connection((str(local.hostname), local.port or DEFAULT_PORT), timeout=2).close()
        return DEFAULT_SERVER
    except OSError:
        pass
    try:
        from coalition import discovery
    except ImportError:
        raise ServerUnreachable(f"no server at {DEFAULT_SERVER}, and a client alone cannot look for others: name it") from None
    try:
        return discovery.search(token=token)
    except ServerUnreachable as error:
        hint = "or by COALITION_SERVER, or start one with `coalition serve`"
        raise ServerUnreachable(f"no server at {DEFAULT_SERVER}, and {error}, {hint}") from None


def _query(query: Mapping[str, Any]) -> str:
    given = {name: int(value) if isinstance(value, bool) else value for name, value in query.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def json_object(data: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(data)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
