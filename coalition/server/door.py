"""gunicorn's loop, which answers the one call that comes a thousand times a second itself.

gthread hands every request to a thread. A worker's sync then crosses four threads: loop, pool, the dispatcher's writer, pool,
loop; each crossing competes for one interpreter lock, and together they cost more than the sync. Here the loop reads a sync that
comes on a kept connection, and gives those of one look at the sockets to the writer together; the writer answers them in one
transaction, and the loop sends the replies. Only what may take its time is done by a thread: to keep a log, to wait for a job.

Whatever is out of the ordinary (any other request, half a request, a worker that is not known here, a call that is refused)
goes the common way: the bytes are put back, and a thread and Flask serve them.
"""

from __future__ import annotations

import json
import logging
import re
import selectors
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from gunicorn.util import http_date
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from coalition.errors import CoalitionError
from coalition.model import Sync, SyncReply, from_dict, to_dict
from coalition.server import auth, web, workers
from coalition.server.dispatcher import Turn
from coalition.store.results import Call, Outcome

log = logging.getLogger("coalition.server")

READ = 1 << 16  # bytes; what is longer is served by a thread
FIRST_LINE = re.compile(rb"POST /api/v1/workers/([0-9]{1,18})/sync HTTP/1\.1\Z")
PLAIN = re.compile(rb"[A-Za-z-]+:[ -~]*\Z")
UNUSUAL = {b"connection", b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te"}


class Kept(OrderedDict[Any, None]):
    """gunicorn's list of connections between two requests; one in the middle is taken out at once, however many there are."""

    append = OrderedDict.setdefault
    remove = OrderedDict.__delitem__

    def popleft(self) -> Any:
        return self.popitem(last=False)[0]

    def __getitem__(self, index: Any) -> Any:
        return next(iter(self))  # gunicorn looks at the first only


@dataclass(eq=False)
class Flight:
    """A sync between its reading and its answer. To the dispatcher's writer it is what a future is."""

    door: Door
    conn: Any
    turn: Turn

    def set_result(self, outcome: Outcome) -> None:
        self.door.land(self, outcome)

    def set_exception(self, error: BaseException) -> None:
        self.door.land(self, error)


class Door(ThreadWorker):  # type: ignore[misc]
    """gthread, except that its loop answers the syncs of workers on kept connections."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.keepalived_conns = Kept()
        self._read: list[tuple[Call, Any]] = []  # what this look at the sockets brought
        self._landed: deque[tuple[Flight, Any]] = deque()
        self._told = False  # the loop knows that something has landed

    @property
    def farm(self) -> web.Farm:
        farm: web.Farm = self.wsgi.extensions["coalition"]
        return farm

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One look at the sockets; the syncs that it brought go to the writer together."""
        super().wait_for_and_dispatch_events(timeout)
        if self._read:
            self.farm.dispatcher.put(self._read)
            self._read = []

    # ------------------------------------------------------------ reading

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """A kept connection has something to read, or was closed."""
        if getattr(conn, "in_flight", False):  # more, before the answer: it is looked at after that
            self.poller.unregister(client)
            conn.watched = False
        elif not self._takes(conn):
            super().on_client_socket_readable(conn, client)

    def _takes(self, conn: Any) -> bool:
        """Whether the loop answers this request. If not, nothing has happened but that its bytes were read and put back."""
        if not self.alive or self.cfg.is_ssl or conn.is_http2:
            return False
        try:
            data = conn.sock.recv(READ)
        except BlockingIOError:
            return True
        except OSError:
            return False
        turn = self._turn(data)
        if turn is None:
            conn.parser.unreader.unread(data)
            return False
        self.keepalived_conns.remove(conn)
        conn.in_flight, conn.watched = True, True
        self._start(Flight(self, conn, turn))
        return True

    def _turn(self, data: bytes) -> Turn | None:
        """The call of a worker that is known here, if these bytes are one and nothing must be read to answer it."""
        read = request(data)
        if read is None:
            return None
        worker_id, credential, body = read
        dispatcher = self.farm.dispatcher
        try:
            session = dispatcher.known(worker_id, credential)
            call = from_dict(Sync, web.parsed(body)) if session else None
            return dispatcher.begin(session, call) if session and call and dispatcher.is_ordinary(session, call) else None
        except CoalitionError:
            return None

    def _start(self, flight: Flight) -> None:
        turn = flight.turn
        if any(result.log for result in turn.call.finished):
            keeping = self.tpool.submit(workers.keep_logs, self.farm, turn.session, turn.call)
            keeping.add_done_callback(partial(self._logs_are_kept, flight))
        elif turn.request:
            self._read.append((turn.request, flight))
        else:
            self._finish(flight, Outcome())

    # ------------------------------------------------------------ after a thread has done its part

    def _logs_are_kept(self, flight: Flight, keeping: Future[None]) -> None:
        if error := keeping.exception():
            self.land(flight, error)
        elif flight.turn.request:  # there is one: it has results
            self.farm.dispatcher.put([(flight.turn.request, flight)])

    def _has_waited(self, flight: Flight, waiting: Future[SyncReply]) -> None:
        self.method_queue.defer(self._answer, flight, waiting.exception() or waiting.result())

    # ------------------------------------------------------------ answering

    def land(self, flight: Flight, outcome: Outcome | BaseException) -> None:
        """Called by the writer: the loop is woken once for all that has landed."""
        self._landed.append((flight, outcome))
        if not self._told:
            self._told = True
            self.method_queue.defer(self._finish_landed)

    def _finish_landed(self) -> None:
        self._told = False
        while self._landed:
            self._finish(*self._landed.popleft())

    def _finish(self, flight: Flight, outcome: Any) -> None:
        if isinstance(outcome, Outcome):
            outcome = self.farm.dispatcher.finish(flight.turn, outcome)
        if outcome is None:
            self.tpool.submit(self.farm.dispatcher.wait, flight.turn).add_done_callback(partial(self._has_waited, flight))
        else:
            self._answer(flight, outcome)

    def _answer(self, flight: Flight, reply: SyncReply | BaseException) -> None:
        data = _rendered(reply)
        conn = flight.conn
        try:
            sent = conn.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(conn)
            return
        if sent < len(data):  # a slow reader must not hold the loop
            self.tpool.submit(self._send_rest, conn, data[sent:])
        else:
            self._keep(conn)

    def _send_rest(self, conn: Any, data: bytes) -> None:
        try:
            conn.sock.settimeout(self.cfg.keepalive)
            conn.sock.sendall(data)
            conn.sock.setblocking(False)
        except OSError:
            self.method_queue.defer(self._drop, conn)
        else:
            self.method_queue.defer(self._keep, conn)

    def _keep(self, conn: Any) -> None:
        """The connection waits for its next request."""
        conn.in_flight = False
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.append(conn)
        if not conn.watched:
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def _drop(self, conn: Any) -> None:
        if conn.watched:
            with suppress(OSError, KeyError, ValueError):
                self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()


def request(data: bytes) -> tuple[int, str, bytes] | None:
    """(worker, credential, body) of one whole sync; None for anything else, or anything unusual in it."""
    head, end, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    match = FIRST_LINE.match(first)
    if match is None or not end:
        return None
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in fields or name in UNUSUAL or not PLAIN.match(line):
            return None
        fields[name] = value.strip()
    if fields.get(b"content-length") != b"%d" % len(body):
        return None
    return int(match[1]), auth.bearer(fields.get(b"authorization", b"").decode("ascii")), body


def _rendered(reply: SyncReply | BaseException) -> bytes:
    """The bytes of an answer, or of the problem that there is instead."""
    if isinstance(reply, SyncReply):
        body = json.dumps(to_dict(reply), separators=(",", ":")).encode()
        return b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            _date(int(time.time())),
            len(body),
            body,
        )
    if not isinstance(reply, CoalitionError):
        log.error("a worker's sync failed", exc_info=reply)
        reply = CoalitionError("the server failed; its log has the details")
    response = web.problem(reply)
    lines = [f"HTTP/1.1 {response.status}", f"Date: {_date(int(time.time())).decode()}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + response.get_data()


def _remembered(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """The answer for the second that it was last asked for."""
    last: tuple[int, bytes] = (0, b"")

    def answer(second: int) -> bytes:
        nonlocal last
        if last[0] != second:
            last = (second, make(second))
        return last[1]

    return answer


_date = _remembered(lambda second: http_date(second).encode())
