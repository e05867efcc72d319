"""The agent of a machine: enrol, sync, run, outbox.

One thread does everything that matters: it starts jobs, sees them end, keeps what has to be told and decides what to
say when. Others only carry: two lines for calls (one may be parked in a long poll while the other overtakes it), and one
that streams logs. So a network that hangs never delays a job's end, a timeout or a signal.

What a result goes through: the run ends -> its line is in the outbox file -> its log is at the server -> it is in every
sync until one is answered -> its line is struck out. Each step may be repeated after a crash at any point.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from coalition import __version__, journal
from coalition.discovery import DEFAULT_PORT, search
from coalition.errors import BadInput, CoalitionError, Conflict, NotAuthenticated, ServerUnreachable
from coalition.link import PAUSE_S, STREAM_S, Backoff, Connection, Line, LogStreamer
from coalition.metadata import CLOUDS, Watch
from coalition.model import MAX_TEXT, Enrol, Enrolled, Facts, Lease, SyncReply, from_dict, to_dict
from coalition.outbox import Outbox, StateDir
from coalition.places import PLATFORM
from coalition.presence import Presence
from coalition.runner import Ended, Runner, Site, kill_marked
from coalition.states import AttemptState
from coalition.system import of_this_machine
from coalition.values import a_tag_list
from coalition.wire import address

FLUSH_S = 0.2  # results wait so long for company while there is enough to run
ENROL_PAUSE_S = (2.0, 60.0)  # after a refused enrolment
PARK_S = 20.0  # how long an idle call offers to wait
PARKED_S = 0.3  # a call that lasted so long did wait
PATIENCE_S = (5.0, 300.0)  # queued leases that wait longer are given back, so that others can run them
FAREWELL_S = (5.0, 60.0)  # an ending agent tries so long to tell its last results: without a server, with one
LOST_SERVER_S = 30.0  # after so long without the server, it is looked for again; after two leases at the latest
FIND_S = 5.0
STARTUP = 0  # the number of the startup command's run; attempts begin with 1
TAKEN_MARGIN_S = 5.0  # before its machine is taken away all that ran has ended, and is told
OUT_OF_FUNDS = 75  # the exit code that tells a cloud machine's supervisor to power off
T = TypeVar("T")
SYSTEM = of_this_machine()
logger = logging.getLogger("coalition.worker")


@dataclass(frozen=True)
class WorkerOptions:
    """How `coalition worker` was called. Empty texts mean: not given.

    `slots` is a number or "cpus"; `affinity` has a comma list of tags for each line, best first. `server` comes from
    COALITION_SERVER if it is not given, `token` from `token_file`, then COALITION_TOKEN. `spot` names the cloud that may take
    this machine away.
    """

    server: str = ""
    token: str = ""
    token_file: str = ""
    name: str = ""
    slots: str | int = "cpus"
    affinity: Sequence[str] = ()
    state_dir: str = ""
    startup: str = ""
    farm: str = ""
    port: int = DEFAULT_PORT
    loopback: bool = False
    identity: str = ""
    ca: str = ""
    funded_for_s: float | None = None
    deadline_file: str = ""
    spot: str = ""
    log_format: str = "text"
    log_level: str = "info"
    log_file: str = ""

    def resolved_name(self) -> str:
        return self.name or re.sub(r"[^\w.\-]", "-", socket.gethostname())[:128] or "worker"

    def resolved_slots(self) -> int:
        if str(self.slots) == "cpus":
            return cpu_count()
        if not re.fullmatch(r"[1-9]\d{0,3}", str(self.slots)) or int(self.slots) > 4_096:
            raise BadInput(fields={"slots": f'"{self.slots}" is not allowed: "cpus" or a number from 1 to 4096'})
        return int(self.slots)

    def resolved_affinity(self) -> tuple[tuple[str, ...], ...]:
        try:
            return tuple(a_tag_list(line) for line in self.affinity)
        except ValueError as error:
            raise BadInput(fields={"affinity": f"{error}"}) from None

    def resolved_server(self) -> str:
        """The address that was given, or an empty text; the log says where it is from."""
        if self.server:
            logger.info("the server's address is given: %s", self.server)
            return self.server
        known = os.environ.get("COALITION_SERVER", "")
        if known:
            logger.info("the server's address is in COALITION_SERVER: %s", known)
            return address(known).geturl()
        logger.info("no server is given, and COALITION_SERVER is not set: looking for it")
        return ""

    def resolved_token(self) -> str:
        if self.token_file and not self.token:
            try:
                return Path(self.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise BadInput(fields={"token_file": f"cannot be read: {error}"}) from None
        return self.token or os.environ.get("COALITION_TOKEN", "")

    def checked_spot(self) -> str:
        if self.spot not in ("", *CLOUDS):
            raise BadInput(fields={"spot": f'"{self.spot}" is not allowed: {" or ".join(CLOUDS)}'})
        return self.spot

    def resolved_state_dir(self) -> Path:
        return Path(self.state_dir or Path("~/.coalition/workers") / self.resolved_name()).expanduser().absolute()


# ---------------------------------------------------------------- the machine


def cpu_count() -> int:
    """The CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1


def facts() -> Facts:
    gpus = len(glob.glob("/dev/nvidia[0-9]*"))
    memory = gpu_memory_bytes() if gpus else 0
    return Facts(cpu_count(), psutil.virtual_memory().total, gpus, PLATFORM, socket.gethostname()[:255], memory)


def gpu_memory_bytes() -> int:
    """The memory of the smallest GPU, as nvidia-smi tells it in MiB; 0 if it cannot be told."""
    ask = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True).stdout
        return min(int(line) for line in told.split()) << 20
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.warning("the memory of the GPUs is not known: %s", error)
        return 0


def funded_clock() -> float:
    """Seconds on a clock that nobody sets and that goes on in suspend, where there is one."""
    return SYSTEM.clock_s()


# ---------------------------------------------------------------- when to call


@dataclass(frozen=True)
class _Flight:
    """A sync on its way. `told` are the results in it."""

    seq: int
    sent_at: float
    funded_from: float
    waits: bool
    told: tuple[int, ...]


class _Schedule:
    """The order of syncs: when the next is due, which answers count. Times come from outside, on the monotonic clock.

    One call at a time, except that a newer one may overtake a call that waits at the server. An answer counts only if
    it is newer than the last that did, so nothing that was done in between is undone by it.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.applied = 0
        self.flights: dict[int, _Flight] = {}
        self.news = True  # something the server should hear at once: a free slot, the will to end
        self._next_at = 0.0
        self._unparked = 0  # calls in a row that offered to wait and were answered at once
        self._stale = 0  # the server's refusals of calls that were the newest

    def due_at(self, now: float, flush_at: float) -> float:
        """When to call; infinity while an answer has to come first. `flush_at`: when the results at hand should go."""
        if len(self.flights) > 1 or any(not flight.waits for flight in self.flights.values()):
            return float("inf")
        if self.news:
            return now
        return flush_at if self.flights else min(flush_at, self._next_at)

    def sent(self, now: float, funded_from: float, waits: bool, told: tuple[int, ...]) -> _Flight:
        flight = _Flight(self.seq, now, funded_from, waits, told)
        self.flights[flight.seq] = flight
        self.news = False
        return flight

    def counts(self, flight: _Flight) -> bool:
        """Whether this answer is the newest so far; afterwards it is."""
        newest = self.flights.pop(flight.seq, None) is flight and flight.seq > self.applied
        if newest:
            self.applied = flight.seq
            self._stale = 0
        return newest

    def answered(self, flight: _Flight, now: float, found: bool, free: bool, next_sync_s: float) -> None:
        """Set the time of the next call, after an answer that counts. `found`: it held leases; `free`: slots are left."""
        if not free:
            self._next_at = now + next_sync_s
        elif found or not flight.waits or now - flight.sent_at >= PARKED_S:
            self._unparked = 0
            self._next_at = now
        else:  # enough others wait there already: come again, at first soon
            self._unparked += 1
            self._next_at = now + min(next_sync_s, 0.1 * 2 ** min(self._unparked, 10))

    def stale(self, flight: _Flight) -> bool:
        """A refusal of the call as too old. True when that cannot be: then it is the epoch that is over."""
        self.flights.pop(flight.seq, None)
        self._stale += flight.seq == self.seq
        return self._stale >= 3

    def failed(self, flight: _Flight) -> None:
        self.flights.pop(flight.seq, None)
        self.news = True

    def new_epoch(self) -> None:
        """Answers to what was sent before do not count."""
        self.flights.clear()
        self.applied = self.seq
        self.news = True
        self._stale = 0


# ---------------------------------------------------------------- the agent


class Agent:
    """One worker. `run()` works until it is told to end and gives the exit code:

    0 ended as told, 1 the startup command failed, or told three times, 2 the server does not accept these options,
    75 the time paid for is over. `own_process`: the process is the agent's alone; it then adopts what its jobs leave.
    """

    def __init__(self, options: WorkerOptions, *, own_process: bool = False) -> None:
        options = replace(options, ca=options.ca or os.environ.get("COALITION_CA", ""))
        self._options = options
        self._slots = options.resolved_slots()
        self._affinity = options.resolved_affinity()
        self._token = options.resolved_token()
        self._url = self._given_url = options.resolved_server()
        if self._url:
            Connection(self._url, options.ca).close()  # complains now if it cannot be one
        self._session = secrets.token_hex(16)
        self._presence = Presence()
        spot = options.checked_spot()
        self._watch = Watch(spot, lambda left_s: self._tell(lambda: self._hear(time.monotonic() + left_s))) if spot else None
        self._taken_at: float | None = None  # when its cloud takes the machine away
        self._open_state(options.resolved_state_dir(), own_process)
        self._inbox: deque[Callable[[], None]] = deque()
        self._lines = [Line(f"call-{number}", self._tell) for number in (1, 2)]
        self._log_line: Connection | None = None  # the streamer's
        self._logs = LogStreamer(self._send_log, lambda attempt: self._tell(lambda: self._log_delivered(attempt)), self._tell)

        self._enrolled: Enrolled | None = None
        self._joining = False  # finding or enrolling
        self._backoff = Backoff(*PAUSE_S)
        self._refusals = Backoff(*ENROL_PAUSE_S)
        self._unreachable_since: float | None = None
        self._said = ""
        self._told: set[str] = set()  # what was said while the server was looked for
        self._schedule = _Schedule()

        self._queue: dict[int, tuple[Lease, float]] = {}  # leases that wait for a slot, since when
        self._titles: dict[int, str] = {}  # of what runs
        self._shown: set[int] = set()  # runs that were long enough to be worth a line
        self._ready_at = float("inf")  # since when a result can be told
        self._low = 0  # with so few leases left in the queue, more are fetched
        self._patience = Backoff(*PATIENCE_S)
        self._patience_s = PATIENCE_S[0]
        self._desired = "run"
        self._funded_until = None if options.funded_for_s is None else funded_clock() + options.funded_for_s
        self._tended_at = 0.0
        self._is_full = False

        self._told_to_end = 0  # signals that came
        self._heeded = 0
        self._ending = False
        self._farewell = 0  # the first call that says so
        self._busy_at = time.monotonic()
        self._exit_code: int | None = None

    def _open_state(self, path: Path, own_process: bool) -> None:
        self._state = StateDir(path)
        earlier = self._state.read("session").get("mark")
        if isinstance(earlier, str) and kill_marked(earlier):
            logger.warning("ended what the jobs of a killed agent had left running")
        self._outbox = Outbox(path / "outbox")
        self._state.keep_only(self._outbox)
        self._known = self._state.read("credential")
        self._runner = Runner(self._state.spool, adopt=own_process, keep=True)
        self._state.write("session", {"mark": self._runner.session})

    @property
    def name(self) -> str:
        return self._options.resolved_name()

    # -------- the loop

    def run(self) -> int:
        """Work until told to end; the exit code."""
        SYSTEM.allow_files(4 * self._slots + 256)
        with self._heed_signals():
            try:
                for thread in filter(None, (*self._lines, self._logs, self._watch)):
                    thread.start()
                self._begin()
                while self._exit_code is None:
                    self._step()
            finally:
                self._close()
        return self._exit_code

    def end(self) -> None:
        """What a signal does: finish what runs and end; the second time stop what runs, the third time kill. From any thread."""
        self._told_to_end += 1
        self._runner.wake()

    def _begin(self) -> None:
        if self._options.startup:
            logger.info("startup: %s", self._options.startup)
            self._runner.start(Lease(STARTUP, 0, "startup", self._options.startup, "", {}, "", 0.0, ""))

    def _step(self) -> None:
        ended = self._runner.poll(self._pause(time.monotonic()), self._start_queued)
        for end in ended:
            self._on_end(end)
        while self._inbox:
            self._inbox.popleft()()
        self._start_queued()
        now = time.monotonic()
        if self._told_to_end > self._heeded:
            self._heed(now)
        if now >= self._tended_at + STREAM_S:
            self._tend(now)
        if self._exit_code is None and now >= self._call_at(now):
            self._call(now)
        self._look_for_the_end(now)
        self._prepare_next()

    def _pause(self, now: float) -> float:
        if self._inbox or self._told_to_end > self._heeded:
            return 0.0
        paid_s = STREAM_S if self._funded_until is None else self._funded_until - funded_clock()
        return max(0.0, min(self._call_at(now) - now, self._tended_at + STREAM_S - now, paid_s))

    def _tell(self, what: Callable[[], None]) -> None:
        """Have it done by the agent's thread. From any thread."""
        self._inbox.append(what)
        self._runner.wake()

    def _tend(self, now: float) -> None:
        """Once a second: what running jobs need, and what changes slowly."""
        self._tended_at = now
        self._runner.tend()
        for run in list(self._runner.runs.values()):
            if now - run.started_at >= STREAM_S and run.attempt != STARTUP:
                self._logs.follow(run.attempt, self._state.log(run.attempt))
                if run.attempt not in self._shown:
                    self._shown.add(run.attempt)
                    logger.info("%s is running", self._titles[run.attempt])
        if self._taken_at is not None and now >= self._taken_at - TAKEN_MARGIN_S - self._runner.site.grace_s:
            self._stop_all("its machine is about to be taken away")
        full = self._state.is_full
        if full != self._is_full:
            self._is_full = full
            logger.warning("the disk of %s %s", self._state.path, "is full: no job is taken" if full else "has room again")
        late = [attempt for attempt, (_, since) in self._queue.items() if now - since > self._patience_s]
        if late:
            self._give_back(late, "not started: what runs before it takes longer than expected")
            self._patience_s = max(PATIENCE_S[0], self._patience.fail())

    # -------- jobs

    def _start_queued(self) -> None:
        while self._queue and self._runner.busy < self._slots and not self._is_leaving:
            lease, _ = self._queue.pop(next(iter(self._queue)))
            self._titles[lease.attempt] = f"job {lease.job} ({lease.title})" if lease.title else f"job {lease.job}"
            self._runner.start(lease)

    def _prepare_next(self) -> None:
        """While all slots are in use: what a start takes besides itself would keep the next free slot waiting."""
        if self._queue and not self._is_leaving:
            self._runner.make_ready(next(iter(self._queue.values()))[0])

    def _take(self, leases: Sequence[Lease], now: float) -> None:
        """Queue what is new; a lease may be told many times and is run once."""
        for lease in leases:
            if not (lease.attempt in self._queue or lease.attempt in self._runner.runs or lease.attempt in self._outbox):
                self._queue[lease.attempt] = (lease, now)

    def _give_back(self, attempts: Sequence[int], reason: str) -> None:
        for attempt in attempts:
            del self._queue[attempt]
            self._keep({"attempt": attempt, "state": str(AttemptState.STOPPED), "run_s": 0.0, "reason": reason}, spool=False)

    def _on_end(self, end: Ended) -> None:
        if end.attempt == STARTUP:
            self._on_startup(end)
            return
        title = self._titles.pop(end.attempt)
        if end.attempt in self._shown or end.state is AttemptState.ERROR:
            self._shown.discard(end.attempt)
            logger.info("%s: %s after %.1f s%s", title, end.state, end.run_s, f", {end.reason}" if end.reason else "")
        result = {
            "attempt": end.attempt,
            "state": str(end.state),
            "run_s": round(end.run_s, 6),
            "exit_code": end.exit_code,
            "signal": end.signal,
            "reason": end.reason[:MAX_TEXT],
        }
        if end.no_licence:
            result["no_licence"] = True
        if end.memory_bytes:
            result["memory_bytes"] = end.memory_bytes
        inline = end.log is not None and self._logs.release(end.attempt)
        if inline and end.log:
            result["log"] = base64.b64encode(end.log).decode()
        self._keep(result, spool=not inline)
        if inline:
            self._runner.discard_log(end)
        else:
            self._logs.finish(end.attempt, self._state.log(end.attempt))
        self._patience.reset()
        self._patience_s = PATIENCE_S[0]
        self._schedule.news = self._schedule.news or not self._queue

    def _keep(self, result: dict[str, Any], *, spool: bool) -> None:
        self._outbox.add(result, spool=spool)
        self._busy_at = time.monotonic()
        if not spool:
            self._ready_at = min(self._ready_at, self._busy_at)

    def _log_delivered(self, attempt: int) -> None:
        if attempt in self._outbox.waiting:
            self._outbox.waiting.discard(attempt)
            self._ready_at = min(self._ready_at, time.monotonic())

    def _strike(self, attempts: Sequence[int]) -> None:
        for attempt in attempts:
            if self._outbox.has_log(attempt):
                self._state.log(attempt).unlink(missing_ok=True)
        self._outbox.strike(attempts)
        self._ready_at = time.monotonic() if self._outbox.is_ready else float("inf")

    def _on_startup(self, end: Ended) -> None:
        path = self._state.log(STARTUP)
        if end.state is not AttemptState.FINISHED and not self._ending:
            logger.error("the startup command failed (%s); the end of what it said:\n%s", end.reason, _tail(path))
            self._exit_code = 1
        path.unlink(missing_ok=True)

    def _stop_all(self, reason: str) -> None:
        for attempt in list(self._runner.runs):
            self._runner.stop(attempt, reason)

    # -------- the cloud takes the machine away

    def _hear(self, taken_at: float) -> None:
        """Of the server or the machine's own cloud: nothing new is begun here, and what runs has the time that is left."""
        if self._taken_at is not None:
            return
        left_s = max(0.0, taken_at - time.monotonic())
        self._taken_at = taken_at
        self._schedule.news = True
        logger.warning("the cloud takes this machine away in %.0f s", left_s)
        self._give_back(list(self._queue), "not started: its machine is taken away")
        self._runner.warn(left_s, max(1.0, left_s - TAKEN_MARGIN_S))

    # -------- calls

    def _call_at(self, now: float) -> float:
        """When the next call can and should be made."""
        if self._joining or STARTUP in self._runner.runs or all(line.busy for line in self._lines):
            return float("inf")
        if self._enrolled is None:
            return max(self._backoff.until, self._refusals.until)
        # Half a queue is left for the time that the call takes: a queue that runs dry leaves the machine idle for so long.
        flush_at = self._ready_at + (FLUSH_S if len(self._queue) > self._low else 0.0)
        return max(self._backoff.until, self._schedule.due_at(now, flush_at))

    def _call(self, now: float) -> None:
        line = next(line for line in self._lines if not line.busy)
        if not self._url:
            self._joining = True
            options = self._options
            question = (options.farm, self._token, options.port, options.loopback, FIND_S, self._told)
            line.post(lambda: search(*question), self._on_found)
        elif self._enrolled is None:
            self._joining = True
            url, body = self._url, self._enrol_body()
            line.post(lambda: line.connection(url, self._options.ca).call("POST", "/workers/enrol", body), self._on_enrolled)
        else:
            self._sync(line, self._enrolled, now)

    def _say(self, level: int, text: str) -> None:
        """Once, however often it is the case."""
        if text != self._said:
            self._said = text
            logger.log(level, text)

    def _fail(self, error: CoalitionError) -> None:
        """The server is away or unwell: jobs run on, results wait."""
        now = time.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since = now
        if self._backoff.fail():
            self._say(logging.WARNING, f"no answer from the server, trying on: {error}")
        patience_s = min(LOST_SERVER_S, 2 * self._enrolled.lease_s) if self._enrolled else LOST_SERVER_S
        if now - self._unreachable_since > patience_s and self._url and not self._given_url:
            logger.warning("%s has not answered for %.0f s: looking for the server again", self._url, patience_s)
            self._url = ""  # it may have moved
            self._told.clear()

    def _reached(self) -> None:
        if self._said and self._unreachable_since is not None:
            logger.info("the server is back")
        self._unreachable_since = None
        self._said = ""
        self._backoff.reset()

    # -------- joining

    def _on_found(self, outcome: str | CoalitionError) -> None:
        self._joining = False
        if isinstance(outcome, str):
            if not self._token and outcome != self._known.get("server"):
                self._enrolled = None  # nobody signed this answer: whoever it is must admit us, and learns no credential
            self._url = outcome
            self._backoff.reset()
        else:
            self._backoff.fail()
            self._say(logging.WARNING, f"{outcome}; looking on")

    def _enrol_body(self) -> bytes:
        # The credential goes only to where it came from: a stranger's answer to a question on the network must not get it.
        credential = self._known.get("credential", "") if self._known.get("server") == self._url else ""
        wanted = Enrol(
            name=self.name,
            session=self._session,
            slots=self._slots,
            affinity=self._affinity,
            facts=facts(),
            version=__version__,
            token=self._token,
            credential=str(credential),
            identity=self._options.identity,
        )
        return json.dumps(to_dict(wanted)).encode()

    def _on_enrolled(self, outcome: Any) -> None:
        self._joining = False
        try:
            if isinstance(outcome, CoalitionError):
                raise outcome
            self._welcome(_read_answer(Enrolled, outcome))
        except NotAuthenticated as error:
            if self._known.pop("credential", None) is None:
                self._refused(f"the server does not accept this worker: {error}")
        except Conflict as error:
            self._refused(f"the server does not take this worker now: {error}")
        except BadInput as error:
            logger.error("the server does not accept this worker's options: %s", error)
            self._exit_code = 2
        except CoalitionError as error:
            self._fail(error)

    def _refused(self, text: str) -> None:
        self._refusals.fail()
        self._say(logging.ERROR, f"{text}; trying again now and then")

    def _welcome(self, enrolled: Enrolled) -> None:
        self._reached()
        slots = f"{self._slots} slot{'s' * (self._slots > 1)}"
        logger.info("worker %s of farm %s at %s, %s", enrolled.name, enrolled.farm, self._url, slots)
        who = {"server": self._url, "farm": enrolled.farm, "worker": enrolled.worker}
        strangers = len(self._outbox) and any(self._known.get(key) != who[key] for key in ("farm", "worker"))
        if strangers:
            logger.warning("%d results for another farm or worker are dropped", len(self._outbox))
            self._strike(list(self._outbox))
        self._known = {**who, "credential": enrolled.credential}
        self._state.write("credential", self._known)
        for attempt in list(self._outbox.waiting):
            self._logs.finish(attempt, self._state.log(attempt))
        self._ready_at = 0.0 if self._outbox.is_ready else float("inf")
        self._enrolled = enrolled
        self._runner.site = Site.of(enrolled, self._url)
        self._schedule.new_epoch()

    # -------- syncs

    @property
    def _is_leaving(self) -> bool:
        return self._ending or self._desired != "run" or self._taken_at is not None

    def _takes(self) -> bool:
        return not (self._is_leaving or self._is_full)

    def _free(self) -> int:
        if not self._takes():
            return 0
        return max(0, self._slots - self._runner.busy - len(self._queue))

    def _sync(self, line: Line, enrolled: Enrolled, now: float) -> None:
        free = self._free()
        finished = self._outbox.ready()
        runs = [run for run in self._runner.runs if run != STARTUP]
        wait_s = 0.0
        if free and not finished:
            wait_s = min(PARK_S, enrolled.lease_s / 3, enrolled.sync_s if runs or self._outbox.waiting else PARK_S)
        told = tuple(result["attempt"] for result in finished)
        self._schedule.seq += 1
        body = {
            "epoch": enrolled.epoch,
            "seq": self._schedule.seq,
            "free": free,
            "running": self._held(told, now),
            "finished": finished,
            "load": round(psutil.getloadavg()[0], 2),
            "memory_free_bytes": psutil.virtual_memory().available,
            "wait_s": wait_s,
            "user_idle_s": self._presence.idle_s(),
        }
        if not self._takes():
            body["takes"] = False
        if self._taken_at is not None:
            body["taken_in_s"] = max(0.0, self._taken_at - now)
        flight = self._schedule.sent(now, funded_clock(), wait_s > 0, told)
        data = json.dumps(body).encode()
        url, path = self._url, f"/workers/{enrolled.worker}/sync"

        def call() -> Any:
            connection = line.connection(url, self._options.ca)
            return connection.call("POST", path, data, credential=enrolled.credential, wait_s=wait_s)

        line.post(call, lambda outcome: self._on_answer(flight, outcome))

    def _held(self, told: Container[int], now: float) -> list[dict[str, Any]]:
        """Every attempt but those that the same call tells the end of: running, its log on the way, or queued."""
        held: list[dict[str, Any]] = [
            {
                "attempt": run.attempt,
                "started": True,
                "progress": self._runner.progress(run.attempt) if now - run.started_at >= STREAM_S else 0.0,
            }
            for run in list(self._runner.runs.values())
            if run.attempt != STARTUP
        ]
        held += [{"attempt": attempt, "started": True} for attempt in self._outbox.untold(told)]
        return held + [{"attempt": attempt} for attempt in self._queue]

    def _on_answer(self, flight: _Flight, outcome: Any) -> None:
        try:
            if isinstance(outcome, CoalitionError):
                raise outcome
            reply = _read_answer(SyncReply, outcome)
        except NotAuthenticated as error:
            self._schedule.failed(flight)
            self._leave(f"the server does not know this worker any more, enrolling again: {error}")
        except Conflict as error:
            if self._schedule.stale(flight):
                self._leave(f"the server refuses this worker's calls, enrolling again: {error}")
        except CoalitionError as error:
            self._schedule.failed(flight)
            self._fail(error)
        else:
            if self._schedule.counts(flight):
                self._apply(flight, reply, time.monotonic())

    def _leave(self, text: str) -> None:
        """Enrol again: at once, then now and then."""
        self._refusals.fail()
        self._say(logging.WARNING, text)
        self._enrolled = None

    def _apply(self, flight: _Flight, reply: SyncReply, now: float) -> None:
        self._reached()
        self._refusals.reset()
        for refused in reply.refused:
            logger.info("attempt %d: its result does not count: %s", refused.attempt, refused.reason)
        self._strike(flight.told)
        if reply.funded_for_s is not None:
            self._funded_until = flight.funded_from + reply.funded_for_s
            self._write_deadline()
        if reply.credential and self._enrolled is not None:
            self._known = {**self._known, "credential": reply.credential}
            self._state.write("credential", self._known)  # first: until the new one is used the one before holds, too
            self._enrolled = replace(self._enrolled, credential=reply.credential)
        if reply.taken_in_s is not None:
            self._hear(flight.sent_at + reply.taken_in_s)
        self._take(reply.leases, now)
        self._low = len(self._queue) // 2
        for attempt in reply.stop:
            self._queue.pop(attempt, None)
            self._runner.stop(attempt, "stopped by the server")
        self._follow_wish(reply.desired, now)
        self._schedule.answered(flight, now, bool(reply.leases), self._free() > 0, reply.next_sync_s)

    def _write_deadline(self) -> None:
        """For whoever switches the machine off though this process hangs: the end of the paid time, in seconds since its boot."""
        if self._options.deadline_file:
            path = Path(self._options.deadline_file)
            new = path.with_name(f"{path.name}.new")
            try:
                new.write_text(f"{self._funded_until:.3f}\n", encoding="ascii")
                new.replace(path)
            except OSError as error:  # the earlier deadline holds, which ends the machine too soon rather than too late
                self._say(logging.WARNING, f"{path} cannot be written: {error}")

    def _follow_wish(self, desired: str, now: float) -> None:
        if desired != self._desired:
            logger.info("the server's wish: %s", desired)
            self._desired = desired
        if desired == "exit" and not self._ending:
            self._end_soon(now)
        if self._queue and self._is_leaving:
            self._give_back(list(self._queue), "not started: the worker takes no more")

    def _send_log(self, attempt: int, offset: int, piece: bytes) -> Mapping[str, Any]:
        """In the streamer's thread."""
        enrolled, url = self._enrolled, self._url
        if enrolled is None or not url:
            raise ServerUnreachable("not enrolled")
        if self._log_line is None or self._log_line.url != url:
            self._log_line = Connection(url, self._options.ca)
        path = f"/attempts/{attempt}/log?offset={offset}"
        answer = self._log_line.call("PUT", path, piece, credential=enrolled.credential, kind="log")
        return answer if isinstance(answer, dict) else {}

    # -------- the end

    @contextlib.contextmanager
    def _heed_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda *_: self.end()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _heed(self, now: float) -> None:
        self._heeded = self._told_to_end
        running = len(self._runner.runs)
        if self._heeded == 1:
            what = f"finishing {running} running job{'s' * (running > 1)}; once more to stop" if running else "ending"
            logger.info("told to end: %s", what)
            if STARTUP in self._runner.runs:
                self._runner.stop(STARTUP)
            if not self._ending:
                self._end_soon(now)
        elif self._heeded == 2:
            logger.info("told to end again: stopping %d jobs; once more to kill", running)
            self._stop_all("the worker was told to end")
        else:
            logger.warning("told to end a third time: killing")
            self._exit_code = 1

    def _end_soon(self, now: float) -> None:
        self._ending = True
        self._busy_at = now
        self._farewell = self._schedule.seq + 1
        self._schedule.news = True
        self._give_back(list(self._queue), "not started: the worker is ending")

    def _look_for_the_end(self, now: float) -> None:
        if self._funded_until is not None and funded_clock() >= self._funded_until:
            logger.critical("the time paid for is over: ending at once")
            self._exit_code = OUT_OF_FUNDS
        elif self._ending and self._exit_code is None and not self._runner.runs and not self._queue:
            told = not self._outbox and self._schedule.applied >= self._farewell
            if told or self._enrolled is None or now - self._busy_at > FAREWELL_S[self._unreachable_since is None]:
                if self._outbox:
                    logger.warning("%d results stay in %s for the next start", len(self._outbox), self._state.path)
                self._exit_code = 0

    def _close(self) -> None:
        self._runner.close()  # first: jobs cost more than calls
        self._presence.close()
        if self._watch:
            self._watch.close()
        if self._log_line:
            self._log_line.abort()
        self._logs.close()
        if self._log_line:
            self._log_line.close()
        for line in self._lines:
            line.close()
        self._outbox.close()
        self._state.close()


def _read_answer(kind: type[T], data: Any) -> T:
    try:
        return from_dict(kind, data)
    except BadInput as error:
        raise ServerUnreachable(f"its answer cannot be read: {error}") from None


def _tail(path: Path, count: int = 2_000) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - count))
        return file.read().decode("utf-8", "replace").strip()
    return ""


def run_worker(options: WorkerOptions) -> int:
    """Be a worker until told to end; the exit code for the process. This process must be for nothing else."""
    try:
        journal.begin(journal.Journal(options.log_format, journal.a_level_list(options.log_level), options.log_file))
    except (OSError, ValueError) as error:
        raise BadInput(fields={"log": str(error)}) from None
    return Agent(options, own_process=True).run()
