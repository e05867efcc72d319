"""What carries the agent's words to the server: connections, pauses after failures, threads for calls and for logs."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

from coalition.discovery import DEFAULT_PORT
from coalition.errors import (
    BadInput,
    CoalitionError,
    Conflict,
    LogGap,
    NotAllowed,
    NotFound,
    ServerUnreachable,
    from_problem,
)

API = "/api/v1"
CALL_S = 15.0  # without an answer for so long, a call has failed; waiting comes on top
PAUSE_S = (0.5, 10.0)  # after failed calls, growing
PIECE_BYTES = 262_144  # of a log in one call
STREAM_S = 1.0  # between two looks at a running job's log
MAX_ANSWER = 64 << 20
END_S = 1.0  # a thread that is closed is waited for so long
T = TypeVar("T")
logger = logging.getLogger("coalition.worker")


class Connection:
    """One kept-alive connection to the server, for one thread."""

    def __init__(self, url: str, ca: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(fields={"server": f'"{url}" is not an address such as http://farm:{DEFAULT_PORT}'})
        self.url = url
        self._base = parts.path.rstrip("/") + API
        self._http: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca or None)
            self._http = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=CALL_S, context=context)
        else:
            self._http = http.client.HTTPConnection(parts.hostname, parts.port, timeout=CALL_S)

    def call(self, method: str, path: str, body: bytes, *, credential: str = "", wait_s: float = 0.0, kind: str = "json") -> Any:
        """The answer's JSON. Raises ServerUnreachable, and what the server's problem body stands for."""
        headers = {"Content-Type": {"json": "application/json", "log": "application/octet-stream"}[kind]}
        if credential:
            headers["Authorization"] = f"Bearer {credential}"
        try:
            if self._http.sock is None:
                self._http.connect()
            self._http.sock.settimeout(CALL_S + wait_s)
            self._http.request(method, self._base + path, body, headers)
            answer = self._http.getresponse()
            data = answer.read(MAX_ANSWER)
            reply = json.loads(data) if data else {}
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            self.close()
            raise ServerUnreachable(f"{self.url}: {error or type(error).__name__}") from None
        if answer.status >= 400:
            raise from_problem(answer.status, reply if isinstance(reply, dict) else {})
        return reply

    def close(self) -> None:
        self._http.close()

    def abort(self) -> None:
        """End the call that another thread is in; it raises ServerUnreachable there."""
        sock = self._http.sock
        if sock is not None:
            with contextlib.suppress(OSError):  # it is closed already
                sock.shutdown(socket.SHUT_RDWR)


class Backoff:
    """Growing pauses with jitter; `ready` once the last one is over."""

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s, self._longest_s = shortest_s, longest_s
        self.reset()

    def reset(self) -> None:
        self.failures = 0
        self.until = 0.0

    def fail(self) -> float:
        """The pause that begins now. The first is none: a server may close an idle connection at any time."""
        pause = min(self._longest_s, self._shortest_s * 2 ** min(self.failures - 1, 16)) if self.failures else 0.0
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads calls, guards nothing
        self.failures += 1
        self.until = time.monotonic() + pause
        return pause


class Line(threading.Thread):
    """A thread that makes one call at a time for the agent and hands the outcome back to it."""

    def __init__(self, name: str, tell: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._tell = tell
        self._work: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._connection: Connection | None = None
        self.busy = False  # only the agent's thread reads or writes it

    def post(self, task: Callable[[], T], then: Callable[[T | CoalitionError], None]) -> None:
        """Do `task()` here; its value or CoalitionError goes to `then`, in the agent's thread."""
        self.busy = True
        self._work.put((task, then))

    def connection(self, url: str, ca: str) -> Connection:
        """This thread's connection to that address."""
        if self._connection is None or self._connection.url != url:
            self._connection = Connection(url, ca)
        return self._connection

    def close(self) -> None:
        """End it, and the call it is in. One that looks for a server may go on for a moment."""
        self._work.put(None)
        if self._connection:
            self._connection.abort()
        if self.is_alive():
            self.join(END_S)

    def run(self) -> None:
        closed = False
        try:
            while (item := self._work.get()) is not None:
                self._deliver(*item)
            closed = True
        finally:
            if self._connection:
                self._connection.close()
            if not closed:
                self._tell(self._broke)

    def _deliver(self, task: Callable[[], Any], then: Callable[[Any], None]) -> None:
        try:
            outcome = task()
        except CoalitionError as error:
            outcome = error
        self._tell(lambda: self._done(then, outcome))

    def _done(self, then: Callable[[Any], None], outcome: Any) -> None:
        self.busy = False
        then(outcome)

    def _broke(self) -> None:
        raise RuntimeError(f"the thread {self.name} ended; its traceback is above")


# ---------------------------------------------------------------- logs


@dataclass(eq=False)
class _Stream:
    """A log on its way. `position` is in the file, `offset` at the server; they differ if the job cut its own output."""

    attempt: int
    file: io.FileIO
    position: int = 0
    offset: int = 0
    next_at: float = 0.0
    ended: bool = False
    touched: bool = False  # a piece was sent, or may have been
    refused: bool = False  # the server wants no more
    gaps: int = 0

    def unsent(self) -> int:
        if self.refused:
            return 0
        size = os.fstat(self.file.fileno()).st_size
        if size < self.position:
            self.position = 0
        return size - self.position

    def is_due(self, now: float) -> bool:
        return self.ended or now >= self.next_at or self.unsent() >= PIECE_BYTES


class LogStreamer(threading.Thread):
    """Sends logs from the spool to the server: what is new each second, in pieces, until the end of each.

    `send(attempt, offset, piece)` makes the call and gives the server's answer; `delivered(attempt)` is told, in this
    thread, when the whole log of an attempt that ended is there, or the server wants no more of it.
    """

    def __init__(
        self,
        send: Callable[[int, int, bytes], Mapping[str, Any]],
        delivered: Callable[[int], None],
        tell: Callable[[Callable[[], None]], None],
    ) -> None:
        super().__init__(name="logs", daemon=True)
        self._tell = tell
        self._send = send
        self._delivered = delivered
        self._streams: dict[int, _Stream] = {}
        self._changed = threading.Condition()
        self._backoff = Backoff(*PAUSE_S)
        self._closed = False

    def follow(self, attempt: int, path: Path) -> None:
        """Send what is in the file, and what will be."""
        with self._changed:
            if attempt not in self._streams:
                with contextlib.suppress(FileNotFoundError):
                    self._streams[attempt] = _Stream(attempt, open(path, "rb", buffering=0))  # noqa: SIM115
                    self._changed.notify()

    def finish(self, attempt: int, path: Path) -> None:
        """The log is complete: send the rest now, then tell `delivered`."""
        self.follow(attempt, path)
        with self._changed:
            if attempt in self._streams:
                self._streams[attempt].ended = True
                self._changed.notify()
                return
        self._delivered(attempt)  # there is no such file any more

    def release(self, attempt: int) -> bool:
        """True if nothing of it was sent; then it is forgotten here, and the caller tells it another way."""
        with self._changed:
            stream = self._streams.get(attempt)
            if stream is None or stream.touched:
                return stream is None
            self._forget(stream)
            return True

    def close(self) -> None:
        """End it; the caller ends the call it may be in."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self.is_alive():
            self.join(END_S)
        with self._changed:
            for stream in list(self._streams.values()):
                self._forget(stream)

    def run(self) -> None:
        try:
            while not self._closed:
                self._round()
        finally:
            if not self._closed:
                self._tell(self._broke)

    def _broke(self) -> None:
        raise RuntimeError("the thread that sends logs ended; its traceback is above")

    def _round(self) -> None:
        for stream in self._due():
            if not self._push(stream):
                break
        with self._changed:
            pause = self._pause(time.monotonic())
            if pause > 0 and not self._closed:
                self._changed.wait(pause)

    def _due(self) -> list[_Stream]:
        now = time.monotonic()
        with self._changed:
            return [] if now < self._backoff.until else [stream for stream in self._streams.values() if stream.is_due(now)]

    def _pause(self, now: float) -> float:
        if now < self._backoff.until:
            return self._backoff.until - now
        if any(stream.is_due(now) for stream in self._streams.values()):
            return 0.0
        return min([stream.next_at - now for stream in self._streams.values()] + [60.0])

    def _push(self, stream: _Stream) -> bool:
        """One piece. False when the server cannot take anything now."""
        piece = self._next_piece(stream)
        if not piece:
            return True
        try:
            size = self._send(stream.attempt, stream.offset, piece).get("size")
        except LogGap as gap:
            self._rewind(stream, gap.offset)
        except (NotFound, Conflict, NotAllowed, BadInput) as error:
            logger.info("attempt %d: the server takes no more of its log: %s", stream.attempt, error)
            self._drop(stream)
        except CoalitionError:
            self._backoff.fail()
            return False
        else:
            self._backoff.reset()
            stream.gaps = 0
            stream.position += len(piece)
            stream.offset += len(piece)
            if isinstance(size, int) and size < stream.offset:  # it has cut the log
                self._drop(stream)
        return True

    def _next_piece(self, stream: _Stream) -> bytes:
        with self._changed:
            if self._streams.get(stream.attempt) is not stream:
                return b""
            stream.next_at = time.monotonic() + STREAM_S
            ended = stream.ended  # looked at before the size: then the size is final
            if stream.unsent():
                stream.touched = True
                stream.file.seek(stream.position)
                return stream.file.read(PIECE_BYTES) or b""
        if ended:
            self._drop(stream)
        return b""

    def _rewind(self, stream: _Stream, offset: int) -> None:
        """Go on where the server is. It may know less after its own crash; it cannot know more than there is."""
        stream.gaps += 1
        if stream.gaps > 5 or not 0 <= offset < stream.offset or stream.offset != stream.position:
            logger.warning("attempt %d: its log at the server ends at byte %d; the rest is lost", stream.attempt, offset)
            self._drop(stream)
        else:
            stream.position = stream.offset = offset

    def _drop(self, stream: _Stream) -> None:
        """No more of this one."""
        with self._changed:
            stream.refused = True
            if not stream.ended:
                return
            self._forget(stream)
        self._delivered(stream.attempt)

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.attempt]
        stream.file.close()
