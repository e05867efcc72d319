"""Run commands: process group, environment, log, progress, limits. No HTTP here.

`Runner.start(lease)` starts a user's shell command, `Runner.poll()` waits and tells which runs ended. One thread calls a
Runner; only `wake()` may be called from others. Output goes straight into a spool file, where it can be read while the
command runs: nothing is copied, and a log of any size or content costs the agent nothing.

How the whole tree of a run is found when it has to end:
    its process group        the shell leads a group of its own
    its descendants          asked of psutil, only when a run is stopped
    those that left both     every process of a run carries COALITION_RUN in its environment; on Linux the agent
                             adopts orphans (PR_SET_CHILD_SUBREAPER), which shows at the end of a run whether it left any
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import psutil

from coalition import run_as
from coalition.errors import BadInput
from coalition.keeper import marked
from coalition.model import CHECKPOINT, INLINE_LOG_BYTES, Enrolled, Lease, a_signal
from coalition.patterns import Patterns
from coalition.places import PathRules, expand
from coalition.progress import Progress
from coalition.states import AttemptState
from coalition.system import KILL, System, of_this_machine

MARK = "COALITION_RUN"
NOTICE = "COALITION_NOTICE"  # names the file that says when the machine will be taken away, once that is known
SCAN_BYTES = 262_144  # of new log are looked at for progress, the last ones
CLEAN_S = 10.0  # how long the end of killed processes is waited for
READ_S = 60.0  # how long the look at the rest of a log is waited for
LOOK_S = 1.0  # between looks at the output of a run that must not be silent
THOROUGH_S = 5.0  # without adoption, runs longer than this are searched for what they left
REACH_S, REACH_LIMIT_S = 1.0, 10.0  # between two signals through the template, and for one
logger = logging.getLogger(__name__)


# ---------------------------------------------------------------- runs


@dataclass(frozen=True)
class Site:
    """What holds for all runs of a worker: the server's address and what it said at enrolment."""

    server: str = ""
    worker: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    paths: Sequence[Mapping[str, str]] = ()
    umask: int = 0o022
    nice: int = 0
    grace_s: float = 10.0
    run_as: str = ""

    @classmethod
    def of(cls, enrolled: Enrolled, server: str) -> Site:
        told = {name: getattr(enrolled, name) for name in ("environment", "paths", "umask", "nice", "grace_s", "run_as")}
        return cls(server, enrolled.name, **told)


@dataclass(frozen=True)
class Ended:
    """How a run ended: FINISHED, ERROR or STOPPED, with an exit code or a signal; one that never started has neither.

    `log` is its whole log if that is no longer than INLINE_LOG_BYTES. `sealed`: nobody is left who could write to it.
    `no_licence`: it ended in ERROR for want of a licence only.
    """

    attempt: int
    state: AttemptState
    run_s: float
    exit_code: int | None
    signal: int | None
    reason: str
    log_bytes: int
    log: bytes | None = None
    sealed: bool = False
    no_licence: bool = False
    memory_bytes: int = 0  # the most that one of its processes took


class _Phase(Enum):
    RUNNING = "running"
    STOPPING = "stopping"  # SIGTERM is sent; SIGKILL follows
    CLEANING = "cleaning"  # the shell ended, something of it is left
    READING = "reading"  # all of it ended, what its log tells is not known to its end yet


@dataclass(eq=False)
class Run:
    """One started command. Moments are on the monotonic clock; `deadline` is when the runner must look at it again."""

    lease: Lease
    progress: Progress
    started_at: float = 0.0
    deadline: float = float("inf")
    kill_at: float = 0.0  # when what is left is sent SIGKILL
    log_fd: int = -1
    log_path: str = ""
    exit_fd: Any = -1
    system: System | None = None
    pid: int = 0  # of the shell, and so of its group; 0: it did not start
    memory_bytes: int = 0
    code: int = 0  # once it ended: its exit code, or the signal's number below zero
    phase: _Phase = _Phase.RUNNING
    verdict: tuple[AttemptState, str] | None = None
    run_s: float = 0.0
    left: int = 0  # processes that its shell left, at most
    remain: int = 0  # and those that even SIGKILL did not end
    scanned: int = 0
    kept: bool = False  # the watchdog knows it
    output: tuple[int, int] = (0, 0)  # size and time of change of its log when it last differed,
    output_at: float = 0.0  # and when that was seen
    grown_at: float = 0.0  # when its progress was last seen to have grown
    sealed: bool = False  # nobody is left who could write to its log
    reached_at: float = 0.0  # when its user's processes were last signalled through the site's template
    error: str = ""  # the error its log tells, in words
    licence: str = ""  # the same of a licence
    doomed_at: float = float("inf")  # when it is stopped for that, unless it ends by itself
    warned: int = 0  # the checkpoint signal that it was sent
    slow: list[str] = field(default_factory=list)  # patterns that were given up

    def __post_init__(self) -> None:
        self.attempt = self.lease.attempt
        self.begin()

    def begin(self) -> None:
        """It starts now."""
        self.started_at = self.output_at = self.grown_at = time.monotonic()

    @property
    def log_bytes(self) -> int:
        return os.fstat(self.log_fd).st_size if self.log_fd >= 0 else 0

    def note(self, text: str) -> None:
        """A line of our own in the log; it begins with `* `."""
        size = self.log_bytes
        fresh = size == 0 or self.read_log(size - 1, 1) == b"\n"
        with contextlib.suppress(OSError):  # a full disk must not end the agent
            os.write(self.log_fd, f"{'' if fresh else chr(10)}* {text}\n".encode("utf-8", "replace"))

    def read_log(self, offset: int, count: int) -> bytes:
        return self.system.read_at(self.log_fd, count, offset, self.log_path) if self.system and self.log_fd >= 0 else b""

    def look(self, now: float) -> None:
        """Notice whether it wrote something since the last look."""
        status = os.fstat(self.log_fd)
        seen = (status.st_size, status.st_mtime_ns)
        if seen != self.output:
            self.output, self.output_at = seen, now

    def overdue(self, now: float) -> str:
        """The limit it has passed, in words; empty if there is none."""
        lease = self.lease
        if 0 < lease.timeout_s <= now - self.started_at:
            return f"timeout: ran longer than {lease.timeout_s:g} s"
        if 0 < lease.timeout_output_s <= now - self.output_at:
            return f"no output for {lease.timeout_output_s:g} s"
        if 0 < lease.timeout_progress_s <= now - self.grown_at:
            return f"no progress for {lease.timeout_progress_s:g} s, at {self.progress.value:.0%}"
        return self.licence or self.error if self.doomed_at <= now else ""

    def next_look(self, now: float) -> float:
        """When it may be overdue, or has to be looked at in order to know."""
        lease, times = self.lease, [self.doomed_at]
        if lease.timeout_s > 0:
            times.append(self.started_at + lease.timeout_s)
        if lease.timeout_output_s > 0:
            times.append(min(now + LOOK_S, self.output_at + lease.timeout_output_s))
        if lease.timeout_progress_s > 0:
            times.append(min(now + LOOK_S, self.grown_at + lease.timeout_progress_s))
        return min(times)

    def end(self, state: AttemptState, reason: str) -> Ended:
        """Its end; the log is complete. What the log tells counts more than how the command ended, but not than a stop."""
        exit_code, number = (None, None) if not self.pid else (self.code, None) if self.code >= 0 else (None, -self.code)
        if exit_code in self.lease.licence_codes and exit_code is not None:
            self.licence = self.licence or f"no licence: exit code {exit_code}"
        no_licence = bool(self.licence) and state is not AttemptState.STOPPED
        if state is not AttemptState.STOPPED and (self.licence or self.error):
            state, reason = AttemptState.ERROR, self.licence or self.error
        size = self.log_bytes
        log = None if size > INLINE_LOG_BYTES else self.read_log(0, size) if size else b""
        told = (exit_code, number, reason, size, log, self.sealed, no_licence, self.memory_bytes)
        return Ended(self.attempt, state, self.run_s, *told)


@dataclass
class _Made:
    """All that a run needs to start, as it was made for a site; or why it cannot."""

    run: Run
    site: Site
    words: list[str] | str = ""
    place: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    error: BadInput | OSError | ValueError | None = None


class Runner:
    """Starts runs and waits for their ends.

    `spool` is the folder of the logs, ATTEMPT.log each, which the caller removes or discards. `adopt`: orphans of runs
    become children of this process, which then must have no other children and call from its main thread (Linux; an agent's
    process wants it). `keep`: a watchdog process ends the runs when this process dies without ending them.
    """

    def __init__(
        self,
        spool: Path,
        site: Site | None = None,
        *,
        adopt: bool = False,
        keep: bool = False,
        system: System | None = None,
    ) -> None:
        self.system = system or of_this_machine()
        self.spool = spool
        self.session = secrets.token_hex(8)
        self.runs: dict[int, Run] = {}
        self._notice = spool.absolute() / "notice"
        self._notice.unlink(missing_ok=True)
        self._told: list[Ended] = []  # ends for the next poll
        self._made: _Made | None = None  # what starts next
        self._children_fd = self.system.adopt() if adopt else -1
        self._adopting = self._children_fd >= 0
        self._keeper = _Keeper(f"{MARK}={self.session}-", self.system) if keep and not self.system.keeps_itself else None
        if keep:
            self.system.keep()
        self._patterns: Patterns | None = None  # once a lease has some
        self._strangers: set[int] = set()  # orphans that we may not kill
        self._orphans = 0  # that lived at the last look
        self._spare: list[str] = []  # discarded logs, for the next runs
        self._selector = selectors.DefaultSelector()
        self.system.begin()
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self.site = site or Site()

    @property
    def site(self) -> Site:
        return self._site

    @site.setter
    def site(self, site: Site) -> None:
        """Used by the runs that start from now on."""
        self._site = site
        self._rules = PathRules(site.paths)
        base = {name: text for name, text in os.environ.items() if not name.startswith("COALITION_")}
        layers = (site.environment, base, self._rules.places)
        self._base = {**base, **{name: self._rules.map(expand(text, layers)) for name, text in site.environment.items()}}
        self._base.update(COALITION_SERVER=site.server, COALITION_WORKER=site.worker)

    # -------- starting

    def start(self, lease: Lease) -> None:
        """Start the lease's command. One that cannot start is told by `poll` like every other end, with the reason in its log."""
        made, self._made = self._made, None
        if made is None or made.run.lease is not lease or made.site is not self._site:
            self._unmake(made)
            made = self._make(lease)
        run = self.runs[lease.attempt] = made.run
        run.begin()
        try:
            if made.error:
                raise made.error
            self._launch(made)
        except (BadInput, OSError, ValueError) as error:
            self._refuse(run, _why_not(error))
            return
        run.deadline = run.next_look(run.started_at)
        if lease.error_patterns or lease.licence_patterns:
            self._watch_log(lease)

    def make_ready(self, lease: Lease) -> None:
        """Do what can be done of a lease's start before there is a slot for it, so that the slot waits less. One at a time."""
        if self._made is None or self._made.run.lease is not lease:
            self._unmake(self._made)
            self._made = self._make(lease)

    def _make(self, lease: Lease) -> _Made:
        path = f"{self.spool}/{lease.attempt}.log"
        made = _Made(Run(lease, Progress(lease.progress_pattern), log_path=path, system=self.system), self._site)
        try:
            made.run.log_fd = self._open_log(path)
            command, made.place, environment = self.prepare(lease)
            made.words = self._words(lease, command, made.place, environment)
            # The template gives the job its own; this starts as us.
            made.environment = {**self._base, MARK: environment[MARK]} if self._is_others(lease) else environment
        except (BadInput, OSError, ValueError) as error:
            made.error = error
        return made

    def _unmake(self, made: _Made | None) -> None:
        """Nobody starts it, or it is made anew: its log is empty and serves the next."""
        if made and made.run.log_fd >= 0:
            os.close(made.run.log_fd)
            self._spare.append(made.run.log_path)

    @property
    def busy(self) -> int:
        """How many runs have not ended but for the look at the rest of their logs."""
        return sum(run.phase is not _Phase.READING for run in self.runs.values())

    def prepare(self, lease: Lease) -> tuple[str, str, dict[str, str]]:
        """Command, directory and environment as they will be used: $(NAME) first, then the places of other platforms."""
        given = {**lease.environment, "COALITION_JOB": str(lease.job), "COALITION_ATTEMPT": str(lease.attempt)}
        layers = (given, self._base, self._rules.places)
        environment = dict(self._base)
        for name, text in given.items():
            environment[name] = self._rules.map(expand(text, layers))
        environment[MARK] = f"{self.session}-{lease.attempt}"
        environment[NOTICE] = str(self._notice)
        return self._rules.map(expand(lease.command, layers)), self._rules.map(expand(lease.dir, layers)), environment

    def _launch(self, made: _Made) -> None:
        run = made.run
        run.pid = self.system.spawn(made.words, made.place, made.environment, run.log_fd, self._site.umask, self._site.nice)
        run.exit_fd = self.system.watch(run.pid)
        self._selector.register(run.exit_fd, selectors.EVENT_READ, run)

    def _words(self, lease: Lease, command: str, place: str, environment: Mapping[str, str]) -> list[str] | str:
        """What is started: the shell, by the template of the site if a job's user is to run it."""
        if not self._is_others(lease):
            return self.system.shell(command)
        return run_as.filled(self._site.run_as, lease.user, place, command, environment)

    def _is_others(self, lease: Lease) -> bool:
        """Whether it is run by its job's user; the startup command is of no job."""
        return bool(self._site.run_as) and lease.job > 0

    def _reach(self, run: Run, number: int) -> None:
        """Signals what is left of a run through the template, as its user: this one may not."""
        now = time.monotonic()
        if not self._is_others(run.lease) or now < run.reached_at + REACH_S:
            return
        run.reached_at = now
        mark = f"{MARK}={self.session}-{run.attempt}"
        try:
            words = run_as.filled(self._site.run_as, run.lease.user, "/", run_as.signal_to(mark, number), {})
            subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=REACH_LIMIT_S, cwd="/", check=True)
        except (BadInput, OSError, subprocess.SubprocessError) as error:
            logger.warning("attempt %d: what it runs cannot be stopped as %s: %s", run.attempt, run.lease.user, error)

    def _open_log(self, path: str) -> int:
        if self._spare:
            with contextlib.suppress(OSError):
                os.replace(self._spare.pop(), path)
        try:
            return self.system.open_log(path)
        except OSError as error:
            raise BadInput(f"the worker cannot write the log: {error.strerror}") from None

    def discard_log(self, ended: Ended) -> None:
        """Nobody needs its log any more. The file serves a later run if it is sealed; else it is removed."""
        path = f"{self.spool}/{ended.attempt}.log"
        if ended.sealed:
            # To create a file anew costs ext4 the more, the more were removed in the last seconds: 0.1 ms at 1,500 a second.
            self._spare.append(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _refuse(self, run: Run, reason: str) -> None:
        if run.pid:  # started, but no descriptor was left to watch it
            self.system.send(run.pid, KILL, ())
            self.system.reap(run.pid)
            run.pid = 0
        if run.log_fd >= 0:
            run.note(reason)
        self._told.append(self._end(run, run.end(AttemptState.ERROR, reason)))

    # -------- stopping

    def warn(self, left_s: float, grace_s: float) -> None:
        """The machine will be taken away in `left_s`: the file of NOTICE says when, in seconds since 1970.

        SIGTERM to each run, and after `grace_s` SIGKILL; it ends as STOPPED. A job with a checkpoint signal gets only that.
        """
        new = self._notice.with_name("notice.new")
        with contextlib.suppress(OSError):  # a full disk: the signal comes all the same
            new.write_text(f"{time.time() + left_s:.0f}\n", encoding="ascii")
            new.replace(self._notice)
        words = f"the cloud takes this machine away in {left_s:.0f} s"
        for run in [run for run in self.runs.values() if run.phase is _Phase.RUNNING]:
            number = a_signal(run.lease.environment.get(CHECKPOINT, ""))
            if number is None:
                self._terminate(run, AttemptState.STOPPED, words, grace_s)
            else:
                run.note(f"{words}: {number.name} is sent")
                run.warned = number
                self._signal(run, number)

    def stop(self, attempt: int, reason: str = "stopped") -> None:
        """SIGTERM to the run's whole tree, after the grace SIGKILL; it ends as STOPPED. No effect if it is ending already."""
        run = self.runs.get(attempt)
        if run and run.phase is _Phase.RUNNING:
            self._terminate(run, AttemptState.STOPPED, reason)

    def kill(self) -> None:
        """SIGKILL to every run, now; `poll` tells their ends."""
        for run in self.runs.values():
            run.kill_at = run.deadline = 0.0
            if run.phase is _Phase.RUNNING:
                run.phase, run.verdict = _Phase.STOPPING, (AttemptState.STOPPED, "killed")
        self._told += self._look(time.monotonic())

    def _terminate(self, run: Run, state: AttemptState, reason: str, grace_s: float | None = None) -> None:
        if reason not in (run.licence, run.error):
            run.note(reason)
        run.phase, run.verdict = _Phase.STOPPING, (state, reason)
        run.deadline = run.kill_at = time.monotonic() + (self._site.grace_s if grace_s is None else grace_s)
        self._signal(run, signal.SIGTERM)

    def _signal(self, run: Run, number: int) -> None:
        escaped = self._escaped(run)  # before the group ends, and with it the trace to them
        self.system.send(run.pid, number, escaped)
        self._reach(run, number)

    def _escaped(self, run: Run) -> list[psutil.Process]:
        """The run's live processes outside its group: descendants, and whoever carries its mark."""
        found: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.Error):
            found = {process.pid: process for process in psutil.Process(run.pid).children(recursive=True)}
        mark = f"{self.session}-{run.attempt}"
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # others' processes, and those that just ended
                if process.pid not in found and process.environ().get(MARK) == mark:
                    found[process.pid] = process
        return [process for process in found.values() if self.system.group_of(process.pid) not in (run.pid, None)]

    # -------- waiting

    def wake(self) -> None:
        """Make `poll` return soon. From any thread, and from a signal handler."""
        with contextlib.suppress(OSError):  # it rings already, or the runner is closed
            self._button.send(b"!")

    def poll(self, timeout_s: float, refill: Callable[[], None] = lambda: None) -> list[Ended]:
        """Wait until a run ends, `wake()` is called or `timeout_s` passed. The runs that ended, in that order.

        `refill` is called once slots are free, before anything else is done about what ended: they cost more than a late word.
        """
        due = min((run.deadline for run in self.runs.values()), default=float("inf")) - time.monotonic()
        ready = self._selector.select(0 if self._told else max(0.0, min(timeout_s, due)))
        ended, self._told = self._told, []
        gone: list[Run] = []
        for key, _ in ready:
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4_096)
            elif key.data is self._patterns:
                ended += self._hear(self._patterns)
            elif self._exited(key.data):
                gone.append(key.data)
        if gone:
            refill()
        now = time.monotonic()
        for run in gone:
            if run.attempt in self.runs:  # not if it was given up with the process that looks at logs
                ended += self._finish(run, now)
        return ended + self._look(now)

    def _exited(self, run: Run) -> bool:
        """Its shell has ended; whether nothing is left of it."""
        self._selector.unregister(run.exit_fd)
        self.system.forget(run.exit_fd)
        run.code, run.memory_bytes = self.system.reap(run.pid)
        now = time.monotonic()
        run.run_s = now - run.started_at
        if run.phase is _Phase.RUNNING:
            run.kill_at = now
        run.phase = _Phase.CLEANING
        if run.verdict or run.run_s > THOROUGH_S:
            run.reached_at = 0.0
            self._reach(run, KILL)
        return self._clean(run, now)

    def _look(self, now: float) -> list[Ended]:
        """What is due: timeouts, SIGKILL after the grace, and runs that wait for the end of what they left."""
        ended: list[Ended] = []
        for run in [run for run in self.runs.values() if run.deadline <= now]:
            if run.phase is _Phase.RUNNING:
                self._check_limits(run, now)
            elif run.phase is _Phase.STOPPING:
                self._signal(run, KILL)
                run.deadline = now + 1.0
            elif run.phase is _Phase.CLEANING:
                ended += self._finish(run, now) if self._clean(run, now) else []
            else:
                ended.append(self._give_up(run, "its log was not looked at to its end"))
        return ended

    def _check_limits(self, run: Run, now: float) -> None:
        if run.lease.timeout_output_s > 0:
            run.look(now)
        if run.lease.timeout_progress_s > 0:
            self.progress(run.attempt)
        reason = run.overdue(now)
        if reason:
            self._terminate(run, AttemptState.ERROR, reason)
        else:
            run.deadline = run.next_look(now)

    def _clean(self, run: Run, now: float) -> bool:
        """End what the shell left: at once, or when it was being stopped after the rest of its grace. Whether all is over."""
        left = self._left_by(run, now)
        run.left = max(run.left, left)
        if left and now < run.kill_at + CLEAN_S:
            if now >= run.kill_at:
                self._signal(run, KILL)
            run.deadline = now + 0.02
            return False
        run.sealed = self._adopting and not (run.verdict or run.left or self._orphans)
        run.phase, run.remain = _Phase.READING, left
        return True

    def _finish(self, run: Run, now: float) -> list[Ended]:
        """Nothing of it runs any more. Its end, unless the rest of its log must be looked at first."""
        if not (run.lease.error_patterns or run.lease.licence_patterns):
            self._note_left(run)
            return [self._end(run, self._result(run))]
        if self._patterns is None:
            return [self._give_up(run, "its log was not looked at: the process that does so has ended")]
        self._forget_group(run)
        run.deadline = now + READ_S
        self._patterns.finish(run.attempt, run.log_bytes)
        return []

    def _note_left(self, run: Run) -> None:
        if run.left and not run.verdict:
            run.note(f"the command left {run.left} {'process' if run.left == 1 else 'processes'} behind: killed")
        if run.remain:
            run.note(f"{run.remain} still there {CLEAN_S:g} s after SIGKILL")

    # -------- patterns in logs

    def _watch_log(self, lease: Lease) -> None:
        if self._patterns is None:
            self._patterns = Patterns(self.system)
            self._selector.register(self._patterns, selectors.EVENT_READ, self._patterns)
        self._patterns.watch(lease.attempt, self.spool / f"{lease.attempt}.log", lease.error_patterns, lease.licence_patterns)

    def _hear(self, patterns: Patterns) -> list[Ended]:
        """What was found in logs; the runs that ended by that."""
        ended = []
        for answer in patterns.read():
            run = self.runs.get(answer["attempt"])
            if run and answer["kind"] == "done":
                ended.append(self._conclude(run))
            elif run and answer["kind"] == "slow":
                run.slow.append(answer["pattern"])
            elif run:
                self._found(run, **answer)
        return ended + (self._lose_patterns() if patterns.broken else [])

    def _found(self, run: Run, attempt: int, kind: str, pattern: str, line: str) -> None:
        # It has the grace to end by itself: what follows may tell more of the error, or that it was for want of a licence.
        if kind == "licence":
            run.licence = f"no licence: its log matched {pattern!r}: {line}"
        else:
            run.error = f"its log matched {pattern!r}: {line}"
        run.doomed_at = min(run.doomed_at, time.monotonic() + self._site.grace_s)
        if run.phase is _Phase.RUNNING:
            run.deadline = min(run.deadline, run.doomed_at)

    def _give_up(self, run: Run, words: str) -> Ended:
        run.note(words)
        if self._patterns:
            self._patterns.forget(run.attempt)
        return self._conclude(run)

    def _conclude(self, run: Run) -> Ended:
        """Say in the log what was found, in it and beside it: now, as before it would be looked at like what the job says."""
        self._note_left(run)
        for pattern in run.slow:
            run.note(f"{pattern!r} takes too long and was given up")
        if run.licence or run.error:
            run.note(run.licence or run.error)
        return self._end(run, self._result(run))

    def _lose_patterns(self) -> list[Ended]:
        """Its process is gone; the next lease with patterns gets another."""
        logger.warning("the process that looks for patterns in logs has ended")
        self._close_patterns()
        words = "its log was not looked at to its end: the process that does so has ended"
        return [self._give_up(run, words) for run in list(self.runs.values()) if run.phase is _Phase.READING]

    def _close_patterns(self) -> None:
        if self._patterns:
            self._selector.unregister(self._patterns)
            self._patterns.close()
            self._patterns = None

    def _left_by(self, run: Run, now: float) -> int:
        """How many live processes of the run there are; cheap when there are none."""
        orphans = self._reap(run, now) if self._adopting else 0
        if self.system.has_group(run.pid):
            return orphans + self._count_alive(run.pid)
        if not self._adopting and (run.run_s > THOROUGH_S or run.left or run.verdict):
            return len(self._escaped(run))
        return orphans

    def _reap(self, ending: Run | None, now: float) -> int:
        """Reap orphans that ended and kill those whose run has; how many of `ending` live outside its group."""
        ours = {run.pid for run in self.runs.values() if run.phase is not _Phase.READING}
        ours |= {helper.pid for helper in (self._keeper, self._patterns) if helper}
        orphans = [pid for pid in self._children() if pid not in ours and not self.system.reaped(pid)]
        self._orphans = len(orphans)
        count = 0
        for pid in orphans:
            if pid in self._strangers:
                continue
            owner = self._owner(pid, ending)
            if owner is None or (owner is ending and now >= owner.kill_at):
                self._kill_orphan(pid)
            count += ending is not None and owner is ending and self.system.group_of(pid) != ending.pid
        return count

    def _count_alive(self, group: int) -> int:
        """The group's processes without those that ended and wait to be reaped, by whoever is slow to do so."""
        count = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                count += self.system.group_of(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
        return count

    def _children(self) -> list[int]:
        """The children of this process's main thread: that is who adopts orphans."""
        data, part = b"", b"-"
        while part:
            part = self.system.read_at(self._children_fd, 65_536, len(data), "")
            data += part
        return [int(pid) for pid in data.split()]

    def _owner(self, pid: int, ending: Run | None) -> Run | None:
        """The run an orphan belongs to; None if that has ended. Without a mark it is of any run that may have started it."""
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            session, _, attempt = process.environ().get(MARK, "").rpartition("-")
            if session == self.session and attempt.isdigit():
                run = self.runs.get(int(attempt))
                return run if run and run.phase is not _Phase.READING else None
            age = time.time() - process.create_time()
            runs = [run for run in self.runs.values() if run.phase is not _Phase.READING]
            may = [run for run in runs if time.monotonic() - run.started_at >= age - 1.0]
            return next((run for run in may if run is not ending), ending if ending in may else None)
        return None

    def _kill_orphan(self, pid: int) -> None:
        try:
            os.kill(pid, KILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            self._strangers.add(pid)

    def tend(self) -> None:
        """Call it about once a second: reaps the orphans of jobs that still run, and tells the watchdog what runs."""
        if self._patterns:
            self._patterns.push()
        if self._adopting:
            self._reap(None, time.monotonic())
        for run in self.runs.values():
            if self._keeper and not run.kept and run.phase is not _Phase.READING:
                run.kept = True
                self._keeper.tell("+", run.pid)

    # -------- ending

    def _result(self, run: Run) -> Ended:
        code = run.code
        state, reason = AttemptState.FINISHED, ""
        if run.verdict:
            state, reason = run.verdict
        elif run.warned and code in (-run.warned, 128 + run.warned):  # it had no handler for it
            state, reason = AttemptState.STOPPED, "ended by the signal that its machine is taken away"
        elif code:
            state, reason = AttemptState.ERROR, describe(code, None) if code > 0 else describe(None, -code)
        return run.end(state, reason)

    def _end(self, run: Run, ended: Ended) -> Ended:
        del self.runs[run.attempt]
        if run.log_fd >= 0:
            os.close(run.log_fd)
        self._forget_group(run)
        return ended

    def _forget_group(self, run: Run) -> None:
        if self._keeper and run.kept:
            self._keeper.tell("-", run.pid)
            run.kept = False

    def progress(self, attempt: int) -> float:
        """What the run's log tells by now, 0 to 1. Looks at what was written since the last call, at most SCAN_BYTES."""
        run = self.runs[attempt]
        before = run.progress.value
        size = run.log_bytes
        start = max(run.scanned if run.scanned <= size else 0, size - SCAN_BYTES)
        if start < size:
            data = run.read_log(start, SCAN_BYTES)
            run.scanned = start + len(data)
            try:
                run.progress.feed(data)
            except TimeoutError as error:
                run.note(str(error))
        if run.progress.value > before:
            run.grown_at = time.monotonic()
        return run.progress.value

    def close(self) -> None:
        """Kill what runs and give everything back."""
        deadline = time.monotonic() + CLEAN_S
        self.kill()
        while self.runs and time.monotonic() < deadline:
            self.poll(0.1)
        if self._keeper:
            self._keeper.close()
        self._close_patterns()
        self._unmake(self._made)
        self._made = None
        for path in self._spare:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._selector.close()
        self._bell.close()
        self._button.close()
        self.system.close()
        if self._children_fd >= 0:
            os.close(self._children_fd)


class _Keeper:
    """The watchdog process (keeper.py). It finds what carries the mark; of groups that last it is told besides."""

    def __init__(self, mark: str, system: System) -> None:
        program = Path(__file__).with_name("keeper.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program), mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            bufsize=0,
        )
        assert self._process.stdin
        self._pipe = self._process.stdin
        system.unblock(self._pipe)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, what: str, group: int) -> None:
        if self._pipe.closed:
            return
        try:
            told = self._pipe.write(f"{what}{group}\n".encode())
        except OSError:
            told = None
        if not told:
            logger.warning("the watchdog is gone; if this agent is killed, its jobs run on")
            self.close()

    def close(self) -> None:
        """End it. Not by closing the pipe: what it was told of could be out of date."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()


def describe(exit_code: int | None, number: int | None) -> str:
    """The reason of an end in words; empty for exit code 0."""
    if number is not None:
        return f"killed by signal {number} ({_signal_name(number)})"
    if not exit_code:
        return ""
    hints = {126: "not executable", 127: "command not found"}
    if exit_code in hints:
        return f"exit code {exit_code} ({hints[exit_code]})"
    name = _signal_name(exit_code - 128) if 128 < exit_code < 193 else ""
    return f"exit code {exit_code}" + (f" (its command was killed by {name})" if name.startswith("SIG") else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _why_not(error: Exception) -> str:
    if not isinstance(error, OSError):
        return f"cannot start: {error}"
    if error.errno == errno.E2BIG:
        return "cannot start: command and environment are longer than this system allows"
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and error.filename:
        return f"directory {error.filename} does not exist on this worker"
    if error.filename:
        return f"cannot use {error.filename}: {error.strerror}"
    return f"cannot start: {error.strerror or error}"


# ---------------------------------------------------------------- the system's side


def kill_marked(session: str) -> int:
    """SIGKILL to what an earlier Runner, of this session, left; how many processes. Where there is /proc."""
    found = list(marked(os.fsencode(f"{MARK}={session}-")))
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, KILL)
    return len(found)
