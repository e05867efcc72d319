"""The workers of Coalition 3.x and 4.0: each is one of ours with a single slot, for which this keeps the session.

An old worker proves itself at each call, by its network or a token (see auth.py), and knows no attempts, only jobs. What one of
our own workers would keep is kept here for it: the number of its call, the attempt that it runs, what its log tells of progress,
and when the job has run too long.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from flask import request

from coalition.errors import NotAuthenticated, NotFound, StaleCall
from coalition.model import MAX_INT, Enrol, Job, Lease, Result, Running, Sync, SyncReply, from_dict
from coalition.progress import Progress
from coalition.server import log_keeping, web
from coalition.server.dispatcher import Session
from coalition.states import AttemptState

T = TypeVar("T")

MIB = 1 << 20
NO_JOB = '(-1,"","","",None)'
VERSION = "legacy"  # what stands for an old worker's version, and tells it from ours
LOG_PIECE = 4_096  # of a log that a progress pattern looks at at a time


@dataclass(frozen=True)
class Machine:
    """What an old worker says of itself in a call."""

    name: str
    load: float = 0.0
    cpus: int = 1
    free_bytes: int = 0
    total_bytes: int | None = None  # not said


@dataclass
class Run:
    """The attempt that an old worker runs."""

    attempt: int
    job_id: int
    timeout_s: float
    since: float
    pattern: str | None
    progress: Progress


@dataclass
class Agent:
    """An old worker. Its calls are taken one after the other."""

    id: int
    total_bytes: int
    lock: threading.RLock = field(default_factory=threading.RLock)
    run: Run | None = None


class Agents:
    """The old workers that call here. `alone`: there is no other server process that they may call as well."""

    def __init__(self, farm: web.Farm, alone: bool) -> None:
        self.farm, self.alone = farm, alone
        self._agents: dict[str, Agent] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------------------ the three calls

    def pick(self, machine: Machine) -> Lease | None:
        """A job for the worker, or None. What it held before is given again: it did not hear of it."""

        def take(agent: Agent) -> Lease | None:
            return self.picked(agent, self._sync(agent, machine, free=1))

        return self._with_agent(machine, take)

    def picked(self, agent: Agent, reply: SyncReply) -> Lease | None:
        """What the worker runs from now on."""
        lease = reply.leases[0] if reply.leases else None
        agent.run = None if lease is None else self._run_of_lease(lease)
        return lease

    def beat(self, machine: Machine, job_id: int, output: bytes) -> bool:
        """Keeps the new output; whether the job is to go on."""

        def renew(agent: Agent) -> bool:
            run = self._run(agent, job_id)
            if run is None:
                return False
            self._keep(run, output)
            late = self._too_late(run)
            if late:
                self._report(agent, machine, run, None, late)
                return False
            running = (Running(run.attempt, True, run.progress.value),)
            return run.attempt not in self._sync(agent, machine, running=running).stop

        return self._with_agent(machine, renew)

    def end(self, machine: Machine, job_id: int, code: int) -> None:
        """Takes the result of a job; one that is no longer wanted changes nothing."""

        def finish(agent: Agent) -> None:
            run = self._run(agent, job_id)
            if run is not None:
                self._report(agent, machine, run, code, exit_words(code))

        self._with_agent(machine, finish)

    def _report(self, agent: Agent, machine: Machine, run: Run, code: int | None, reason: str) -> None:
        self._sync(agent, machine, finished=(self.result(run, code, reason),))
        agent.run = None

    def result(self, run: Run, code: int | None, reason: str) -> Result:
        """How a run ended; with a reason it is an error."""
        state = AttemptState.ERROR if reason else AttemptState.FINISHED
        run_s = min(1e9, max(0.0, self.farm.clock() - run.since))
        return Result(run.attempt, str(state), run_s, exit_code=code, reason=reason)

    # ------------------------------------------------------------ who calls

    def _with_agent(self, machine: Machine, act: Callable[[Agent], T]) -> T:
        """Runs `act` for the worker, which appears by its first call; once more if it was deleted meanwhile."""
        agent = self._agent(machine)
        try:
            with agent.lock:
                return act(agent)
        except (NotAuthenticated, StaleCall):
            self._agents.pop(machine.name, None)
        agent = self._agent(machine)
        with agent.lock:
            return act(agent)

    def known(self, machine: Machine) -> Agent | None:
        """The worker, if it called before and says nothing new of itself."""
        agent = self._agents.get(machine.name)
        return agent if agent and machine.total_bytes in (None, agent.total_bytes) else None

    def _agent(self, machine: Machine) -> Agent:
        agent = self.known(machine)
        if agent is None:
            with self._lock:
                agent = self._agents[machine.name] = self._admit(machine, self._agents.get(machine.name))
        return agent

    def _admit(self, machine: Machine, agent: Agent | None) -> Agent:
        """The worker of this name as the store has it, or a new one; its memory is written when it says another."""
        store = self.farm.store
        known = next((one for one in store.workers() if one.name == machine.name and one.version == VERSION), None)
        if known is None:
            return Agent(self._enrol(machine, secrets.token_hex(16)), machine.total_bytes or 0)
        agent = agent if agent and agent.id == known.id else Agent(known.id, int(known.facts["memory_bytes"]))
        if machine.total_bytes not in (None, agent.total_bytes):
            with agent.lock:
                self._enrol(machine, self.farm.dispatcher.session_of(known.id).row.session)
                agent.total_bytes = machine.total_bytes or 0
        return agent

    def _enrol(self, machine: Machine, session: str) -> int:
        """Writes the worker; who may call at all was checked before. Conflict when a live worker of ours has the name."""
        facts = {"cpus": machine.cpus, "memory_bytes": machine.total_bytes or 0, "host": request.remote_addr or ""}
        wanted = {"name": machine.name, "session": session, "slots": 1, "facts": facts, "version": VERSION}
        worker_id = self.farm.store.enrol(from_dict(Enrol, wanted), open_door=True).worker_id
        self.farm.dispatcher.sessions.pop(worker_id, None)  # it has other facts now
        return worker_id

    # ------------------------------------------------------------ our own protocol

    def _sync(self, agent: Agent, machine: Machine, *, free: int = 0, **fields: Any) -> SyncReply:
        """One call as our own workers make it; without `free` it takes no job."""
        session = self.farm.dispatcher.session_of(agent.id)
        return self.farm.dispatcher.sync(session, self.call(session, machine, free=free, **fields))

    def call(self, session: Session, machine: Machine, *, free: int = 0, **fields: Any) -> Sync:
        """The next call of a worker as our own workers make it; without `free` it takes no job."""
        session.ahead = False
        # Another process may have answered the last one: a number is left out, so that what is remembered here is read again.
        number = max(session.seq, 0) + (1 if self.alone else 2)
        call = Sync(session.row.epoch, number, free, takes=free > 0, load=machine.load, memory_free_bytes=machine.free_bytes)
        return replace(call, **fields)

    def _run(self, agent: Agent, job_id: int) -> Run | None:
        """What the worker runs, if that is this job; read again after a restart of the server."""
        run = agent.run if agent.run and agent.run.job_id == job_id else None
        if run is None or not self.alone:
            run = agent.run = self._run_in_store(agent, job_id, run)
        return run

    def _run_in_store(self, agent: Agent, job_id: int, run: Run | None) -> Run | None:
        job = self._job(job_id)
        holder = self.farm.store.attempt_holder(job.attempt) if job and job.attempt else None
        if job is None or holder is None or holder[0] != agent.id:
            return None
        if run and run.attempt == job.attempt:
            return run
        return self._a_run(job.attempt, job_id, job.timeout_s, job.started_at, job.progress_pattern)

    def _job(self, job_id: int) -> Job | None:
        try:
            return self.farm.store.job(job_id)
        except NotFound:  # deleted
            return None

    def _run_of_lease(self, lease: Lease) -> Run:
        return self._a_run(lease.attempt, lease.job, lease.timeout_s, None, lease.progress_pattern)

    def _a_run(self, attempt: int, job_id: int, timeout_s: float, since: float | None, pattern: str | None) -> Run:
        told = pattern if pattern is None or _is_cheap(pattern) else ""
        return Run(attempt, job_id, timeout_s, since or self.farm.clock(), told, Progress(told))

    def _keep(self, run: Run, output: bytes) -> None:
        if output:
            log_keeping.add(self.farm, run.attempt, output)
        for start in range(0, len(output), LOG_PIECE):
            run.progress.feed(output[start : start + LOG_PIECE])

    def _too_late(self, run: Run) -> str:
        """Why the job is to be killed: an old worker does not look at the time itself."""
        if 0 < run.timeout_s <= self.farm.clock() - run.since:
            return f"timeout: ran longer than {run.timeout_s:g} s"
        return ""


def _is_cheap(pattern: str) -> bool:
    """Whether a pattern cannot take long on a short line: here it holds up the whole server, not one worker.

    That is so with one repetition at most, and no groups; a job with another pattern has no progress until it ends.
    """
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "c", re.sub(r"\\.", "c", pattern, flags=re.DOTALL))
    return "(" not in plain and "{" not in plain and sum(plain.count(sign) for sign in "*+?") <= 1


# ---------------------------------------------------------------- what is said, and how


def machine_of(form: Mapping[str, str]) -> Machine:
    """The worker of a call; what it says badly of its machine is taken as not said."""
    loads = _loads(form.get("load", ""))
    free, total = (_mebibytes(form.get(name, "")) for name in ("free_memory", "total_memory"))
    return Machine(form.get("hostname", ""), sum(loads) / 100, max(1, len(loads)), free or 0, total)


def _loads(text: str) -> list[float]:
    """The percentages of "[3.0, 12.5]", one for each cpu."""
    try:
        return [min(100.0, float(part)) for part in text.strip("[]() ").split(",") if part.strip() and float(part) >= 0][:4_096]
    except ValueError:
        return []


def _mebibytes(given: str) -> int | None:
    text = given.partition(".")[0].strip()
    return min(int(text) * MIB, MAX_INT) if re.fullmatch("[0-9]{1,12}", text) else None


def lease_text(farm: web.Farm, lease: Lease | None) -> str:
    """A job as the text of a Python tuple."""
    if lease is None:
        return NO_JOB
    pairs = {name: value for name, _, value in (pair.partition("=") for pair in farm.settings.worker.environment)}
    environment = joined({**pairs, **lease.environment}) or None
    return repr((lease.job, lease.command, lease.dir, lease.user, environment))


def joined(environment: Mapping[str, str]) -> str:
    """An environment as the old worker reads it: a backslash and an n between the pairs."""
    return "\\n".join(f"{name}={value}" for name, value in environment.items())


def exit_words(code: int) -> str:
    """Why a job is in error, by its exit code; nothing if it is not."""
    return f"exit code {code}" if code else ""


def exit_code(number: int) -> int:
    """An exit code within what is kept of one."""
    return max(-(2**31), min(2**32 - 1, number))
