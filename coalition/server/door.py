"""gunicorn's loop, which answers the calls that come a thousand times a second itself: workers' syncs.

gthread hands every request to a thread. A worker's sync then crosses four threads: loop, pool, the dispatcher's writer, pool,
loop; each crossing competes for one interpreter lock, and together they cost more than the sync. Here the loop reads a sync that
comes on a kept connection, and gives those of one look at the sockets to the writer together; the writer answers them in one
transaction, and the loop sends the replies. Only what may take its time is done by a thread: to keep a log, to wait for a job.

Whatever is out of the ordinary (any other request, half a request, a worker that is not known here, a call that is refused)
goes the common way: the bytes are put back, and a thread and Flask serve them.
"""

from __future__ import annotations

import errno
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

import gunicorn.http
import gunicorn.sock
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from coalition import metrics
from coalition.errors import CoalitionError
from coalition.journal import request_id
from coalition.model import Sync, SyncReply, from_dict, to_dict
from coalition.server import auth, old_door, web, workers
from coalition.server.dispatcher import Turn
from coalition.server.old_workers import Agents
from coalition.server.request_ids import id_of
from coalition.server.requests import Request, answer, request, with_id
from coalition.store.results import Call, Outcome

log = logging.getLogger("coalition.server")

GRACE_S = 5.0  # for a request, and for an answer, besides what its bytes may take
SLOWEST = 4_096  # bytes a second that are sent to us
SLOWEST_READER = 16_384  # and that are read of an answer
READ = 1 << 16  # bytes; what is longer is served by a thread
SYNC = "/api/v1/workers/"
SYNC_ROUTE = "/api/v1/workers/{worker_id}/sync"
SYNC_PATH = re.compile(r"/api/v1/workers/([0-9]{1,18})/sync\Z")
Render = Callable[[SyncReply], bytes]


class Kept(OrderedDict[Any, None]):
    """gunicorn's list of connections between two requests; one in the middle is taken out at once, however many there are."""

    append = OrderedDict.setdefault
    remove = OrderedDict.__delitem__

    def popleft(self) -> Any:
        return self.popitem(last=False)[0]

    def __getitem__(self, index: Any) -> Any:
        return next(iter(self))  # gunicorn looks at the first only


class Paced:
    """A socket of which a thread reads a request: who sends too slowly is taken for gone, and holds the thread no longer."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.begin()

    def begin(self) -> None:
        """The next request begins."""
        self.begun, self.taken = time.monotonic(), 0

    def recv(self, size: int) -> bytes:
        left_s = self.begun + GRACE_S + self.taken / SLOWEST - time.monotonic()
        try:
            self.sock.settimeout(max(0.01, left_s))
            data: bytes = self.sock.recv(size)
        except TimeoutError:
            return b""
        finally:
            self.sock.settimeout(None)
        self.taken += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


class Unhurried:
    """A socket to which a thread writes an answer: who reads nothing for a while, or all of it too slowly, is taken for gone.

    Only the time spent in sending counts, not what it takes to make the answer.
    """

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.spent_s, self.sent = 0.0, 0

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._send(view[:READ]) :]
        except TimeoutError:
            raise BrokenPipeError(errno.EPIPE, "the answer is read too slowly") from None
        finally:
            self.sock.settimeout(None)

    def _send(self, data: memoryview) -> int:
        begun, left_s = time.monotonic(), GRACE_S + self.sent / SLOWEST_READER - self.spent_s
        self.sock.settimeout(max(0.01, min(GRACE_S, left_s)))
        sent: int = self.sock.send(data)
        self.sent += sent
        self.spent_s += time.monotonic() - begun
        return sent

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> None:
        file.seek(offset)
        left = count
        while data := file.read(READ if left is None else min(READ, left)):
            left = None if left is None else left - len(data)
            self.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


@dataclass(eq=False)
class Flight:
    """A sync between its reading and its answer. To the dispatcher's writer it is what a future is."""

    door: Door
    conn: Any
    turn: Turn
    render: Render
    route: str  # as metrics name it
    id: str  # of the request
    begun: float  # perf_counter

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

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """Calls that wait for a job are answered while the loop is there to send it."""
        if self.alive:
            self.method_queue.defer(self.farm.dispatcher.let_go)
        super().handle_exit(sig, frame)

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

    def handle(self, conn: Any) -> Any:
        """A thread reads a request and serves it."""
        if not conn.initialized:
            conn.init = partial(_init_paced, conn, conn.init)
        elif isinstance(paced := conn.parser.unreader.sock, Paced):
            paced.begin()
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """A thread serves a request, and sends the answer."""
        sock = conn.sock
        conn.sock = Unhurried(sock)
        try:
            return super().handle_request(req, conn)
        finally:
            conn.sock = sock

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        """A kept connection has something to read, or was closed."""
        if getattr(conn, "in_flight", False):  # more, before the answer: it is looked at after that
            if conn.watched:  # else it was dropped by what came before in the same look
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
        taken = self._taken(conn, data)
        if taken is None:
            conn.parser.unreader.unread(data)
            return False
        self.keepalived_conns.remove(conn)
        conn.in_flight, conn.watched = True, True
        self._start(Flight(self, conn, *taken, time.perf_counter()))
        return True

    def _taken(self, conn: Any, data: bytes) -> tuple[Turn, Render, str, str] | None:
        """A call that is begun, and how it is answered; None if these bytes are none, or something must be read for it."""
        read = request(data)
        if read is None:
            return None
        try:
            taken, route = (
                (self._sync(read), SYNC_ROUTE) if read.path.startswith(SYNC) else (self._old(read, conn.client), read.path)
            )
            return (*taken, route, id_of(read.fields.get("x-request-id", ""))) if taken else None
        except CoalitionError:
            return None
        except Exception:  # one call that cannot be read must not end the loop, on which all others wait
            log.exception("a worker's call could not be read")
            return None

    def _sync(self, read: Request) -> tuple[Turn, Render] | None:
        """The call of a worker that is known here."""
        match, dispatcher = SYNC_PATH.match(read.path), self.farm.dispatcher
        session = dispatcher.known(int(match[1]), auth.bearer(read.fields.get("authorization", ""))) if match else None
        if session is None:
            return None
        call = from_dict(Sync, web.parsed(read.body))
        return (dispatcher.begin(session, call), as_json) if dispatcher.is_ordinary(session, call) else None

    def _old(self, read: Request, peer: Any) -> tuple[Turn, Render] | None:
        """The call of a worker of Coalition 3.x or 4.0."""
        agents: Agents | None = self.wsgi.extensions.get("coalition.legacy")
        return old_door.taken(agents, read, str(peer[0])) if agents and isinstance(peer, tuple) else None

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
        self.method_queue.defer(self._finish, flight, waiting.exception() or waiting.result())

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
        request_id.set(flight.id)
        data = self._rendered(flight, outcome)
        request_id.set("")
        if data is None:
            self.tpool.submit(self.farm.dispatcher.wait, flight.turn).add_done_callback(partial(self._has_waited, flight))
        else:
            self._send(flight.conn, with_id(data, flight.id))
            metrics.add(metrics.HTTP_REQUESTS, flight.route, "POST", data[9:12].decode("ascii"))
            metrics.took(metrics.HTTP_SECONDS, time.perf_counter() - flight.begun, flight.route)

    def _rendered(self, flight: Flight, outcome: Outcome | SyncReply | BaseException) -> bytes | None:
        """The answer; None if the call may wait for a job first."""
        try:
            reply = self.farm.dispatcher.finish(flight.turn, outcome) if isinstance(outcome, Outcome) else outcome
            if isinstance(reply, BaseException):
                return as_problem(reply)
            return None if reply is None else flight.render(reply)
        except Exception:  # as above
            log.exception("a worker's call failed")
            return as_problem(CoalitionError("the server failed; its log has the details"))

    def _send(self, conn: Any, data: bytes) -> None:
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
            Unhurried(conn.sock).sendall(data)
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
        conn.watched = False
        self.nr_conns -= 1
        conn.close()


def _shake_hands(conn: Any) -> None:
    """As gunicorn does it, which waits for a stranger's handshake for ever. OSError when it is not done soon."""
    conn.sock.settimeout(GRACE_S)
    conn.sock = gunicorn.sock.ssl_wrap_socket(conn.sock, conn.cfg)
    conn.sock.do_handshake()
    conn.sock.settimeout(None)
    conn.parser = gunicorn.http.get_parser(conn.cfg, conn.sock, conn.client)
    conn.initialized = True


def _init_paced(conn: Any, init: Callable[[], None]) -> None:
    if not conn.initialized:
        if conn.cfg.is_ssl:
            _shake_hands(conn)
        init()
        if hasattr(conn.parser, "unreader"):
            conn.parser.unreader.sock = Paced(conn.sock)


def as_json(reply: SyncReply) -> bytes:
    """The answer to one of our workers."""
    return answer(json.dumps(to_dict(reply), separators=(",", ":")).encode(), b"application/json")


def as_problem(error: BaseException) -> bytes:
    """The answer when there is a problem instead."""
    if not isinstance(error, CoalitionError):
        log.error("a worker's call failed", exc_info=error)
        error = CoalitionError("the server failed; its log has the details")
    response = web.problem(error)
    lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in response.headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + response.get_data()
