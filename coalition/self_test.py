"""`coalition worker --self-test`: can this machine be a worker? No server is needed."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from coalition import __version__
from coalition.errors import CoalitionError
from coalition.model import Lease
from coalition.runner import Ended, Runner, Site
from coalition.states import AttemptState
from coalition.worker import WorkerOptions, facts, funded_clock

RUN_S = 30.0
WORDS = "coalition can run commands here"


def _machine(options: WorkerOptions) -> str:
    found = facts()
    gpus = f", {found.gpus} gpus" if found.gpus else ""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{found.os}, Python {python}, {found.cpus} cpus, {found.memory_bytes >> 20} MiB{gpus}"


def _options(options: WorkerOptions) -> str:
    sets = options.resolved_affinity()
    return f"worker {options.resolved_name()}, {options.resolved_slots()} slots, tags {'; '.join(map(','.join, sets)) or 'none'}"


def _clock(options: WorkerOptions) -> str:
    before = funded_clock()
    time.sleep(0.01)
    if funded_clock() <= before:
        raise CoalitionError("the clock that counts the paid time stands still")
    return "a clock that nobody sets"


def _state(options: WorkerOptions) -> str:
    place = options.resolved_state_dir()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place) as file:
        file.write(WORDS.encode())
        file.flush()
    return f"{place} can be written"


def _run(options: WorkerOptions) -> str:
    with tempfile.TemporaryDirectory(dir=options.resolved_state_dir()) as folder:
        runner = Runner(Path(folder), Site())
        try:
            runner.start(Lease(1, 0, "self-test", f"echo {WORDS}", "", {}, "", RUN_S, ""))
            until = time.monotonic() + RUN_S
            ended: list[Ended] = []
            while not ended and time.monotonic() < until:
                ended = runner.poll(1.0)
            if not ended or ended[0].state is not AttemptState.FINISHED or WORDS.encode() not in (ended[0].log or b""):
                raise CoalitionError(f"a command did not run as it should: {ended[0].reason if ended else 'it did not end'}")
            return "a command runs, and its log is read"
        finally:
            runner.close()


CHECKS: tuple[tuple[str, Callable[[WorkerOptions], str]], ...] = (
    ("machine", _machine),
    ("options", _options),
    ("clock", _clock),
    ("state", _state),
    ("run", _run),
)


def self_test(options: WorkerOptions) -> int:
    """Prints a line for each check; 0 if all are good, else 1."""
    print(f"coalition {__version__}")
    code = 0
    for name, check in CHECKS:
        try:
            print(f"good: {name}: {check(options)}", flush=True)
        except (CoalitionError, OSError) as error:
            print(f"BAD:  {name}: {error}", flush=True)
            code = 1
    return code
