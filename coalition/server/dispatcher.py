"""Serves the workers' syncs: sessions in memory, one writer that combines them, long polls, heartbeats, sweeps.

An idle sync runs no SQL. Everything in memory is a copy: counters in the database say when it is old (`fleet`: workers or
what they hold changed; `ready`: jobs became ready), and one watcher thread reads them every 100 ms.

Each server process has one, and a worker's calls may come to any of them, mostly to the one that has its connection. A call
that does not follow the last one seen here says that another process served the worker meanwhile: what is remembered of it is
read again, and so it is for some time after, in which an older call that waits elsewhere may still get leases.
"""

from __future__ import annotations

import logging
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from sqlalchemy.exc import SQLAlchemyError

from coalition import matching, metrics
from coalition.config import Settings
from coalition.errors import CoalitionError, NotAuthenticated, StaleCall, Unavailable
from coalition.model import Lease, Result, Sync, SyncReply
from coalition.states import InstanceState, WorkerState
from coalition.store.dispatch import TAKING, Beat
from coalition.store.results import Call, Outcome
from coalition.store.workers import OFFER_S, WorkerRow, hash_secret

if TYPE_CHECKING:
    from coalition.store import Store

log = logging.getLogger("coalition.dispatch")

COMBINED = 32  # syncs in one transaction
ANSWER_S = 60.0
SHORT_RUN_S = 2.0  # below it a worker is leased ahead
AHEAD_S = 1.0
AHEAD_PER_SLOT = 64
AHEAD_LEAST = 512  # so many a worker of few slots may hold, too: a call for each 50 of them cost as much as the jobs
WATCH_S = 0.1
FLUSH_S = 5.0
FLUSHED = 256  # heartbeats in a transaction: syncs need not wait for those of a whole farm
FIRST_SEQ = 1  # of a worker's first call after it enrolled
SWEEPER = "sweeper"  # the role of the process that expires leases
LATER = (CoalitionError, SQLAlchemyError)  # a thread that runs beside the calls says so and goes on


@dataclass
class Session:
    """What the server remembers of a worker between its calls."""

    row: WorkerRow
    key: str  # hash of its credential
    fleet: int  # the `fleet` counter this was read at
    seq: int = -1
    open: dict[int, int] = field(default_factory=dict)
    known: bool = False  # is `open` what the database has
    doubted_until: float = 0.0  # monotonic; until then another process may give it leases
    dry: int = -1  # the `ready` counter at which nothing was left for it
    dry_until: float = math.inf  # monotonic
    run_s: float | None = None  # how long its jobs run, lately
    funded_until: float | None = None
    taken_at: float | None = None  # when its cloud takes the machine away
    ending: bool = False  # its instance is to end
    slot_price_micro: int = 0
    seen_at: float = 0.0
    idle_since: float | None = None
    load: float = 0.0
    memory_free_bytes: int = 0
    used_at: float | None = None
    finished: int = 0
    errors: int = 0
    progress: dict[int, float] = field(default_factory=dict)
    dirty: bool = False
    parked: threading.Event | None = None
    wanted: int = 0  # leases, by the call that is parked
    ahead: bool = True  # does it take leases that wait for a slot
    used: str = ""  # hash of the credential that the last call brought
    offer: str = ""  # a new credential, for the next reply
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_proved(self, key: str, now: float) -> bool:
        """Whether this is the hash of its credential, or of the one before while that holds."""
        before = self.row.old_until is None or now < self.row.old_until
        return key == self.key or (before and key == self.row.old_key)


class Answer(Protocol):
    """Who waits for the outcome of a call."""

    def set_result(self, outcome: Outcome) -> None: ...

    def set_exception(self, error: BaseException) -> None: ...


Batch = list[tuple[Call, Answer]]


@dataclass(frozen=True, eq=False)
class Turn:
    """A call that was let in: what the store is to be asked for it, if anything, and what was known when it came."""

    session: Session
    call: Sync
    want: int
    ready: int  # the `ready` counter
    request: Call | None


class Dispatcher:
    """One per process. Thread-safe."""

    def __init__(self, settings: Settings, store: Store, clock: Callable[[], float] = time.time) -> None:
        self.settings, self.store, self.clock = settings, store, clock
        self.sessions: dict[int, Session] = {}
        self._sessions_lock = threading.Lock()
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._holder = secrets.token_hex(8)
        self._may_park = threading.BoundedSemaphore(max(1, settings.server.threads // 2))
        self._versions: dict[str, int] = {}
        self.on_look: Callable[[Mapping[str, int]], None] = lambda versions: None  # who else wants the numbers
        self._looking = threading.Lock()
        self._kick = threading.Event()
        self._flush_now = threading.Event()
        self._stopping = threading.Event()
        self._leaving = threading.Event()  # nobody waits any more
        self._threads: list[threading.Thread] = []

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Starts the writer, the watcher, the flusher and the sweeper."""
        self._versions = self.store.counters()
        for body in (self._write, self._watch, self._flush_often, self._sweep_often):
            thread = threading.Thread(target=body, name=f"coalition-{body.__name__.strip('_')}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Ends the threads; calls that wait are answered, heartbeats are written."""
        self.let_go()
        self._stopping.set()
        self._kick.set()
        self._flush_now.set()
        self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=10)
        while not self._queue.empty():  # whoever came after the writer's end
            for _, answer in self._queue.get() or ():
                answer.set_exception(Unavailable("the server is stopping; call again"))
        self.flush()

    @property
    def is_running(self) -> bool:
        """Whether calls are answered: its threads run, and nobody has told them to end."""
        return bool(self._threads) and not self._leaving.is_set() and all(thread.is_alive() for thread in self._threads)

    def let_go(self) -> None:
        """The server is about to stop: calls that wait are answered, and no other waits."""
        self._leaving.set()
        for session in list(self.sessions.values()):
            _ring(session)

    def kick(self) -> None:
        """Something was submitted or changed here: look at once who can use it.

        Whoever syncs after this returns is told, so that what was paused or deleted is stopped at the next sync.
        """
        try:
            self._look()
        except LATER as error:
            log.warning("cannot see what changed: %s", error)  # the watcher goes on trying
        self._kick.set()

    # ------------------------------------------------------------ sessions

    def session(self, worker_id: int, credential: str) -> Session:
        """The session of a worker that proves who it is; NotAuthenticated otherwise."""
        if session := self.known(worker_id, credential):
            return session
        name, _, secret = credential.partition(".")
        session, key = self._open_session(worker_id) if name == f"w{worker_id}" else None, hash_secret(secret)
        if session is None or not session.is_proved(key, self.clock()):
            raise NotAuthenticated("the worker's credential is not known here; it must enrol again")
        session.used = key
        return session

    def known(self, worker_id: int, credential: str) -> Session | None:
        """The session of a worker that proves who it is, if it has one here; nothing is read."""
        name, _, secret = credential.partition(".")
        session = self.sessions.get(worker_id) if name == f"w{worker_id}" else None
        if session is None or not session.is_proved(key := hash_secret(secret), self.clock()):
            return None
        session.used = key
        return session

    def session_of(self, worker_id: int) -> Session:
        """The session of a worker for whom the caller vouches; NotAuthenticated when it was deleted."""
        session = self.sessions.get(worker_id) or self._open_session(worker_id)
        if session is None:
            raise NotAuthenticated("the worker was deleted; it must enrol again")
        return session

    def _open_session(self, worker_id: int) -> Session | None:
        with self._sessions_lock:
            fleet = self._versions.get("fleet", 0)
            found = self.store.worker_row(worker_id)
            if found is None:
                self.sessions.pop(worker_id, None)
                return None
            row, key = found
            old = self.sessions.get(worker_id)
            if old and old.key == key and old.row.epoch == row.epoch:
                return old
            if old and old.parked:
                old.parked.set()
            session = Session(row, key, fleet, idle_since=row.idle_since, seen_at=self.clock())
            self._read_instance(session)
            self.sessions[worker_id] = session
            return session

    def _refresh_session(self, session: Session) -> None:
        """Reads a worker again after somebody changed workers or what they hold."""
        fleet = self._versions.get("fleet", 0)
        found = self.store.worker_row(session.row.id)
        if found is None or not _still(session, *found):
            self.sessions.pop(session.row.id, None)
            raise NotAuthenticated("the worker was deleted or has enrolled anew")
        session.key = found[1]
        session.row, session.fleet, session.known, session.dry = found[0], fleet, False, -1
        self._read_instance(session)

    def _read_instance(self, session: Session) -> None:
        machine = self.store.instance_of(session.row.id) if session.row.instance_id else None
        if machine is not None:
            session.funded_until, session.taken_at = machine.funded_until, machine.taken_at
            session.slot_price_micro = -(-machine.price_micro // max(1, session.row.slots))
            session.ending = machine.state in (InstanceState.TERMINATING, InstanceState.GONE, InstanceState.FAILED)

    # ------------------------------------------------------------ one sync

    def sync(self, session: Session, call: Sync) -> SyncReply:
        """Answers a worker's call. StaleCall for one that is older than what was seen, or of an earlier epoch."""
        turn = self.begin(session, call)
        outcome = self._exchange(turn.request) if turn.request else Outcome()
        return self.finish(turn, outcome) or self.wait(turn)

    def is_ordinary(self, session: Session, call: Sync) -> bool:
        """Whether `begin` reads and writes nothing, and takes the call."""
        current = call.epoch == session.row.epoch and call.seq > session.seq
        known = session.fleet == self._versions.get("fleet", 0) and not self._is_notice(session, call)
        return current and known and not self._goes_home(session) and not self._is_due(session)

    def begin(self, session: Session, call: Sync) -> Turn:
        """Takes a call in. StaleCall as `sync`."""
        self._accept(session, call)
        if session.fleet != self._versions.get("fleet", 0):
            self._refresh_session(session)
        if self._goes_home(session):
            self.store.send_home(session.row.id, [result.attempt for result in call.finished])
            session.known = False
        if self._is_notice(session, call):
            self._announce(session, call)
        if self._is_due(session):
            self._renew(session)
        ready, want = self._versions.get("ready", 0), self._want(session, call)
        request = self._request(session, call, want) if self._needs_store(session, call, want) else None
        return Turn(session, call, want, ready, request)

    def finish(self, turn: Turn, outcome: Outcome) -> SyncReply | None:
        """The reply, once the store has answered. None: the call may wait for a job, and `wait` must follow."""
        session, call = turn.session, turn.call
        if turn.request:
            self._remember(turn, outcome)
        nothing = not session.offer and (
            turn.want and call.wait_s and not self._leaving.is_set() and not (outcome.leases or outcome.stop or call.finished)
        )
        if nothing and self._may_park.acquire(blocking=False):  # else too many wait already
            return None
        return self._reply(session, outcome)

    def wait(self, turn: Turn) -> SyncReply:
        """The reply of a call that waits for a job, at most `wait_s`; without one when that is over, or a newer call comes."""
        try:
            return self._reply(turn.session, Outcome(leases=self._wait(turn.session, turn.call)))
        finally:
            self._may_park.release()

    def put(self, calls: Batch) -> None:
        """Has the writer answer these calls, together."""
        for start in range(0, len(calls), COMBINED):
            self._queue.put(calls[start : start + COMBINED])

    def _accept(self, session: Session, call: Sync) -> None:
        with session.lock:
            if call.epoch != session.row.epoch:
                raise StaleCall(f"epoch {call.epoch} is over; this worker is in epoch {session.row.epoch}")
            if call.seq <= session.seq:
                raise StaleCall(f"call {session.seq} of this worker was seen already")
            now = self.clock()
            if session.seq < 0 or now - session.seen_at > self.settings.worker.lease_s:
                self._flush_now.set()  # a worker that just came, or came back, is shown as such at once
            if call.seq != session.seq + 1 and call.seq > FIRST_SEQ:
                self._served_elsewhere(session)
            session.seq = call.seq
            if session.parked:
                session.parked.set()
            session.seen_at = now
            session.load, session.memory_free_bytes = call.load, call.memory_free_bytes
            session.used_at = None if call.user_idle_s is None else now - call.user_idle_s
            session.progress = {running.attempt: running.progress for running in call.running}
            session.dirty = True

    def _served_elsewhere(self, session: Session) -> None:
        """Another process has answered the worker since, or nobody did: what is remembered of it may be old."""
        session.known, session.dry = False, -1
        if session.seq >= 0:  # else it was read just now
            session.idle_since = None
        session.doubted_until = time.monotonic() + self._longest_wait_s + FLUSH_S

    @property
    def _longest_wait_s(self) -> float:
        """How long a call may be parked: while it waits the worker is silent, and what it runs is not renewed."""
        rules = self.settings.worker
        return min(rules.wait_s, rules.lease_s / 3)

    def _want(self, session: Session, call: Sync) -> int:
        """How many leases this call may get."""
        row = session.row
        if not call.takes or not row.active or session.ending or row.state not in TAKING or self._stopping.is_set():
            return 0
        if self._refuses(session):
            return 0
        queued = sum(not running.started for running in call.running)
        ahead = 0
        run_s = None if any(map(_is_unstarted, call.finished)) else session.run_s
        if session.ahead and run_s is not None and run_s < SHORT_RUN_S:
            ahead = min(math.ceil(row.slots * AHEAD_S / max(run_s, 0.001)), max(AHEAD_LEAST, AHEAD_PER_SLOT * row.slots))
        return max(0, min(call.free, row.slots) + ahead - queued)

    def _refuses(self, session: Session) -> bool:
        """Whether the worker takes no jobs now, by its hours or because somebody uses its machine."""
        now = self.clock()
        user_idle_s = None if session.used_at is None else now - session.used_at
        return session.row.available.refusal(now, session.load, user_idle_s, len(session.open)) is not None

    def _goes_home(self, session: Session) -> bool:
        """Whether what it runs is to run elsewhere, because its hours have ended."""
        rules = session.row.available
        return bool(session.open) and rules.end == "requeue" and not rules.hours.is_open(self.clock())

    @staticmethod
    def _is_notice(session: Session, call: Sync) -> bool:
        """Whether the worker says, as the first, that its cloud takes the machine away."""
        return call.taken_in_s is not None and session.taken_at is None and session.row.instance_id is not None

    def _announce(self, session: Session, call: Sync) -> None:
        assert call.taken_in_s is not None
        assert session.row.instance_id is not None
        session.taken_at = self.clock() + call.taken_in_s
        words = "its cloud takes the machine back, as the machine was told"
        self.store.announce(session.row.instance_id, session.taken_at, session.row.name, words)

    def _is_due(self, session: Session) -> bool:
        """Whether its credential is to be changed, or it has just used the new one."""
        row, every_s = session.row, self.settings.worker.credential_s
        if not session.used:  # somebody else vouches for it
            return False
        waiting, age_s = bool(row.old_key) and row.old_until is None, self.clock() - row.credential_at
        if session.used != session.key:
            return waiting and age_s > OFFER_S  # the answer with the new one was lost
        return waiting or 0 < every_s < age_s

    def _renew(self, session: Session) -> None:
        """Gives it another credential with the next reply; the one before holds until it is used, and for a moment more."""
        row = session.row
        if session.used == session.key and row.old_key and row.old_until is None:
            until = self.store.confirm_credential(row.id, session.used)
            if until is None:  # another process has changed it meanwhile
                self.sessions.pop(row.id, None)
            else:
                session.row = replace(row, old_until=until)
            return
        made = self.store.change_credential(row.id, session.used)
        if made is not None:
            session.offer, session.key = made, hash_secret(made.partition(".")[2])
            session.row = replace(row, old_key=session.used, old_until=None, credential_at=self.clock())

    def _at_once(self, session: Session, call: Sync) -> int:
        """How many new leases could start at once."""
        queued = sum(not running.started for running in call.running)
        return max(0, min(call.free, session.row.slots) - queued)

    def _needs_store(self, session: Session, call: Sync, want: int) -> bool:
        if call.finished or not session.known or time.monotonic() < session.doubted_until:
            return True
        known = session.open  # another call of this worker may replace it meanwhile
        held = {running.attempt for running in call.running}
        if held != known.keys() or any(r.started and known[r.attempt] >= 0 for r in call.running):
            return True
        return bool(want) and not self._is_dry(session)

    def _is_dry(self, session: Session) -> bool:
        """Whether nothing was left for it, and nothing became ready since."""
        return session.dry == self._versions.get("ready", 0) and time.monotonic() < session.dry_until

    def _request(self, session: Session, call: Sync, want: int) -> Call:
        """What the store is asked for a call."""
        return Call(
            session.row.id,
            session.row.epoch,
            session.row.capacity,
            call.finished,
            [r for r in call.running if r.started and session.open.get(r.attempt, 0) >= 0],
            want,
            frozenset(running.attempt for running in call.running),
            session.slot_price_micro,
            ahead=max(0, want - self._at_once(session, call)),
        )

    def _exchange(self, request: Call) -> Outcome:
        """The outcome of one call, which comes with others'."""
        if self._stopping.is_set():
            raise Unavailable("the server is stopping; call again")
        answer: Future[Outcome] = Future()
        self.put([(request, answer)])
        try:
            return answer.result(timeout=ANSWER_S)
        except FutureTimeout:
            raise Unavailable("the database is slow; call again") from None

    def _remember(self, turn: Turn, outcome: Outcome) -> None:
        session = turn.session
        with session.lock:
            self._remember_leases(session, turn.call, outcome)
            session.dry = turn.ready if len(outcome.leases) < turn.want else -1
            # Nobody tells when the others that should take a job are gone.
            session.dry_until = time.monotonic() + FLUSH_S if outcome.kept_back else math.inf

    def _remember_leases(self, session: Session, call: Sync, outcome: Outcome) -> None:
        started = {running.attempt for running in call.running if running.started}
        # -1 stands for an attempt whose start is in the database already.
        session.open = {lease: (-1 if lease in started else job_id) for lease, job_id in outcome.open.items()}
        session.known = True
        session.finished += outcome.finished
        session.errors += outcome.errors
        for result in call.finished:
            if result.state != "STOPPED":
                session.run_s = result.run_s if session.run_s is None else 0.7 * session.run_s + 0.3 * result.run_s
            elif _is_unstarted(result):
                session.run_s = None
        if outcome.open:
            session.idle_since = None
        elif session.idle_since is None:
            session.idle_since = self.clock()

    def _reply(self, session: Session, outcome: Outcome) -> SyncReply:
        row = session.row
        desired = "exit" if session.ending else "drain" if row.state == WorkerState.DRAINING or not row.active else "run"
        funded = None if session.funded_until is None else max(0.0, session.funded_until - self.clock())
        taken = None if session.taken_at is None else max(0.0, session.taken_at - self.clock())
        offer, session.offer = session.offer, ""
        return SyncReply(
            outcome.leases, outcome.stop, outcome.refused, desired, funded, self.settings.worker.sync_s, taken, offer
        )

    # ------------------------------------------------------------ waiting in the call

    def _wait(self, session: Session, call: Sync) -> list[Lease]:
        until = time.monotonic() + min(call.wait_s, self._longest_wait_s)
        bell = threading.Event()
        with session.lock:
            if session.seq != call.seq or self._leaving.is_set():
                return []
            session.parked, session.wanted = bell, self._want(session, call)
        self._kick.set()  # something may have become ready between the look and this
        try:
            while (left := until - time.monotonic()) > 0:
                bell.wait(left)
                if (
                    self._leaving.is_set()
                    or self._stopping.is_set()
                    or session.seq != call.seq
                    or session.fleet != self._versions.get("fleet", 0)
                ):
                    return []
                if bell.is_set():
                    bell.clear()
                    ready, want = self._versions.get("ready", 0), self._want(session, call)
                    request = self._request(session, call, want)
                    outcome = self._exchange(request)
                    self._remember(Turn(session, call, want, ready, request), outcome)
                    if outcome.leases:
                        return outcome.leases
            return []
        finally:
            with session.lock:
                if session.parked is bell:
                    session.parked = None

    # ------------------------------------------------------------ threads

    def _write(self) -> None:
        """The one writer: takes all queued syncs, runs one transaction, answers them all."""
        while (first := self._queue.get()) is not None:
            self._run(first, self._add_queued)

    def _add_queued(self, batch: Batch) -> Batch:
        """The batch with what came meanwhile. Only when it is this process's turn: others' transactions take their time."""
        while len(batch) < COMBINED:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._queue.put(None)
                break
            batch += more
        return batch

    def _run(self, batch: Batch, complete: Callable[[Batch], Batch]) -> None:
        begun = time.perf_counter()
        try:
            outcomes = self.store.exchange_those(lambda: [call for call, _ in complete(batch)])
        except Exception as error:  # whoever waits must get it, whatever it is
            if len(batch) > 1 and not isinstance(error, Unavailable):  # one bad call must not fail the others
                for single in batch:
                    self._run([single], list)
                return
            if not isinstance(error, CoalitionError):
                log.exception("a worker's sync failed")
            for _, answer in batch:
                answer.set_exception(error)
            return
        _measure(outcomes, time.perf_counter() - begun)
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            answer.set_result(outcome)
        if outcomes[0].fed:
            self._kick.set()

    def _watch(self) -> None:
        """Sees what changed, here or in another process, and wakes no more waiting workers than there are jobs."""
        fleet = self._versions.get("fleet")
        while not self._stopping.is_set():
            self._kick.wait(WATCH_S)
            self._kick.clear()
            try:
                self._look()
                before, fleet = fleet, self._versions.get("fleet")
                self._wake(everyone=before != fleet)
            except LATER as error:
                log.warning("cannot see what changed: %s", error)
                self._stopping.wait(1.0)

    def _look(self) -> None:
        with self._looking:  # what was read later is kept
            self._versions = self.store.counters()
        self.on_look(self._versions)

    def _wake(self, everyone: bool) -> None:
        parked = [session for session in list(self.sessions.values()) if session.parked]
        if not parked:
            return
        # Machines that are in use anyway go first, so that the others may become idle, and end.
        parked.sort(key=lambda session: (not session.open, session.row.id))
        classes = [] if everyone else self.store.waiting_classes(len(parked))
        for session in parked:
            if everyone:
                _ring(session)
                continue
            if self._is_dry(session):
                continue
            for index, (requirement, left) in enumerate(classes):
                if left > 0 and matching.line(requirement, session.row.capacity) is not None:
                    classes[index] = (requirement, left - max(1, session.wanted))
                    _ring(session)
                    break

    def _flush_often(self) -> None:
        interval = min(FLUSH_S, self.settings.worker.lease_s / 6)
        while not self._stopping.is_set():
            self._flush_now.wait(interval)
            self._flush_now.clear()
            self.flush()

    def flush(self) -> None:
        """Writes the heartbeats since the last flush; they are kept when the database is away."""
        taken = []
        for session in list(self.sessions.values()):
            if session.dirty:
                with session.lock:
                    session.dirty = False
                    taken.append((session, self._beat(session)))
                    session.finished = session.errors = 0
        while taken:
            try:
                self.store.flush_beats([beat for _, beat in taken[:FLUSHED]])
            except LATER as error:
                log.warning("heartbeats are not written: %s", error)
                break
            del taken[:FLUSHED]
        for session, beat in taken:
            with session.lock:
                session.dirty = True
                session.finished += beat.finished
                session.errors += beat.errors

    def _beat(self, session: Session) -> Beat:
        holds = tuple((lease, session.progress.get(lease, 0.0)) for lease in session.open)
        return Beat(
            session.row.id,
            session.seen_at,
            session.load,
            session.memory_free_bytes,
            session.idle_since,
            session.finished,
            session.errors,
            holds,
            session.used_at,
        )

    def _sweep_often(self) -> None:
        interval = min(FLUSH_S, self.settings.worker.lease_s / 6)
        while not self._stopping.wait(interval):
            try:
                self.sweep(1.5 * interval)  # so that another one takes it up before the gap counts as an outage
            except LATER as error:
                log.warning("leases are not swept: %s", error)
        with suppress(*LATER):  # when the database is away, the role runs out by itself
            self.store.release_leader(SWEEPER, self._holder)

    def sweep(self, lead_s: float) -> None:
        """Expires leases, if this process is the one of the farm that does it, and then stays so for `lead_s`."""
        if self.store.claim_leader(SWEEPER, self._holder, lead_s) is not None and (expired := self.store.sweep()):
            metrics.add(metrics.EXPIRED, by=expired)
            self._kick.set()


def _measure(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Counts what a transaction did."""
    metrics.took(metrics.EXCHANGE_SECONDS, seconds)
    metrics.add(metrics.LEASES, by=sum(len(one.leases) for one in outcomes))
    metrics.add(metrics.RESULTS, "finished", by=sum(one.finished for one in outcomes))
    metrics.add(metrics.RESULTS, "error", by=sum(one.errors for one in outcomes))


def _is_unstarted(result: Result) -> bool:
    """Whether a worker gave it back from its queue: its jobs take longer than was thought, and others may have slots."""
    return result.state == "STOPPED" and not result.run_s


def _ring(session: Session) -> None:
    with session.lock:
        if session.parked:
            session.parked.set()


def _still(session: Session, row: WorkerRow, key: str) -> bool:
    """Whether a session is that of the worker as it is now, whose credential another process may have changed."""
    return key == session.key or bool(session.used and session.used in (key, row.old_key) and row.epoch == session.row.epoch)
