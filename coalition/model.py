"""The wire form: every object that crosses HTTP, as a frozen dataclass. There is no other definition of it.

`from_dict(Kind, data)` checks a JSON object field by field and raises BadInput that names each wrong field;
`to_dict(value)` is its inverse. Units: seconds (`_s`), bytes (`_bytes`), money in integer micro-units (`_micro`),
times as seconds since 1970 in UTC (`_at`).
"""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
import signal
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

from coalition import wishes
from coalition.errors import BadInput, nearest
from coalition.hours import hours_complaint, zone_complaint

PROTOCOL = 1
MAX_INT = 2**63 - 1
MAX_TITLE = 255
MAX_COMMAND = 65_536
MAX_TEXT = 4_096
MAX_FRAMES = 1_000_000
MAX_CHILDREN = 1_000_000
MAX_DEPTH = 64
MAX_PROBLEMS = 100
MAX_PRIORITY = 255
DEFAULT_PRIORITY = 127
INLINE_LOG_BYTES = 4_096
MAX_FILTER = 2_000
HOURS_ENDS = ("finish", "requeue")
UNTIL = ("finished", "done")
TAG = re.compile(r"^[A-Za-z0-9_#][A-Za-z0-9_.#:+\-]{0,63}\Z")
OWN_LIMITS = ("group#", "user#")  # names of limits that the farm keeps itself, for max_running
NONCE = re.compile(r"^[0-9a-f]{32}\Z")
WORKER_NAME = re.compile(r"^[\w.\-]{1,128}\Z")
CHECKPOINT = "COALITION_CHECKPOINT_SIGNAL"  # what a job is sent when its machine is taken away, instead of SIGTERM; it may go on
SCALARS = frozenset((str, int, float, bool, type(None)))
NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*\Z")

T = TypeVar("T")
Check = Callable[[Any], "str | None"]
Reader = Callable[[Any, str], Any]


def spec(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    length: int | None = None,
    check: Check | None = None,
    help: str = "",
) -> Any:
    """A dataclass field with its bounds: numbers from `low` to `high`, texts and lists up to `length`; `check` complains."""
    metadata = {"low": low, "high": high, "length": length, "check": check, "help": help}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _tags(value: Sequence[str]) -> str | None:
    bad = [tag for tag in value if not TAG.match(tag)]
    if not bad:
        return None
    return f"tag {bad[0][:80]!r} is not allowed; 1 to 64 letters, digits or _ . # : + -, of which the first is none of . : + -"


def _tag_lines(value: Sequence[Sequence[str]]) -> str | None:
    return next((complaint for line in value if (complaint := _tags(line))), None)


def _environment(value: Mapping[str, str]) -> str | None:
    bad = [name for name in value if not NAME.match(name)]
    if bad:
        return f"{bad[0][:80]!r} is not a variable's name (letters, digits and _, not starting with a digit)"
    if CHECKPOINT in value and a_signal(value[CHECKPOINT]) is None:
        return f"{CHECKPOINT}={value[CHECKPOINT][:80]!r} is not a signal that can be heeded, such as USR1"
    return "a value holds a NUL byte" if any("\0" in text for text in value.values()) else None


def a_signal(name: str) -> signal.Signals | None:
    """USR1 or SIGUSR1 -> its number; None for what is none, or cannot be heeded."""
    number = getattr(signal, f"SIG{name.removeprefix('SIG')}", None)
    unheeded = [getattr(signal, one, None) for one in ("SIGKILL", "SIGSTOP")]
    return number if isinstance(number, signal.Signals) and number not in unheeded else None


def _pattern(value: str | None) -> str | None:
    if not value:
        return None
    try:
        re.compile(value)
    except re.error as error:
        return f"is not a regular expression: {error}"
    return None


def _text(value: str | None) -> str | None:
    return "holds a NUL byte" if value and "\0" in value else None


def _depends(value: Sequence[Any]) -> str | None:
    bad = [x for x in value if (isinstance(x, int) and x <= 0) or x == ""]
    if bad:
        return f"{bad[0]!r} is not a job; give ids, or the `ref` of a job in the same call"
    whole = [x for x in value if isinstance(x, Dependency) and not x.frames and (x.step, x.shift) != (1, 0)]
    return "`step` and `shift` are for a dependency with `frames`" if whole else None


def _patterns(value: Sequence[str]) -> str | None:
    return next((f"{one[:80]!r} {words}" for one in value if (words := _pattern(one) or (None if one else "is empty"))), None)


def _limits(value: Mapping[str, int]) -> str | None:
    if complaint := _tags(tuple(value)):
        return complaint.replace("tag ", "limit ", 1)
    if own := [name for name in value if name.startswith(OWN_LIMITS)]:
        return f"limit {own[0]} is one that the farm keeps itself; give max_running"
    wrong = [f"{name}: {count}" for name, count in value.items() if not 1 <= count <= 1_000_000]
    return f"{wrong[0]} is not allowed; a job holds 1 token or more of a limit" if wrong else None


def _worker_names(value: Sequence[str]) -> str | None:
    bad = [name for name in value if not WORKER_NAME.match(name)]
    return f"{bad[0][:80]!r} is not a worker's name; use 1 to 128 letters, digits and _ . -" if bad else None


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Dependency:
    """One dependency in full. `on` is an id, or the `ref` of a job in the same call.

    `until` finished: the target must be FINISHED; done: it may also have ended in ERROR. With `frames`, between two frame ranges,
    frame n waits for frame n * step + shift of the other, a job of several frames for every job that has one of these; a frame
    that is not there is not waited for.
    """

    on: int | str = spec(check=lambda v: _depends((v,)))
    until: str = spec("finished", check=lambda v: None if v in UNTIL else f"is one of {', '.join(UNTIL)}")
    frames: bool = False
    step: int = spec(1, low=1, high=MAX_FRAMES)
    shift: int = spec(0, low=-(10**9), high=10**9)


@dataclass(frozen=True)
class JobSpec:
    """What a client submits: one job, a group with `children`, or a frame range.

    With `frames` ("1-100", "1-100x2", "1,5,9-12") it becomes a group of one job per frame, or per `chunk` frames; then {frame},
    {frame:04d}, {start} and {end} are replaced in command, title and url, and nowhere else. {frame} is the job's first frame,
    {start} and {end} are its first and last.
    """

    title: str = spec("", length=MAX_TITLE, check=_text)
    command: str | None = spec(None, length=MAX_COMMAND, check=_text, help="run by the worker's shell; a group has none")
    dir: str = spec("", length=MAX_TEXT, check=_text)
    environment: Mapping[str, str] = spec(dict, length=1_000, check=_environment)
    user: str = spec("", length=64, check=_text)
    parent: int = spec(0, low=0, help="the group's id, 0 for the root")
    priority: int = spec(DEFAULT_PRIORITY, low=0, high=MAX_PRIORITY)
    affinity: Sequence[str] = spec(tuple, length=64, check=_tags)
    paused: bool = False
    timeout_s: float = spec(0.0, low=0, help="0: none")
    retries: int = spec(0, low=0, high=1_000, help="how many errors are run again")
    depends_on: Sequence[int | str | Dependency] = spec(tuple, length=10_000, check=lambda v: _depends(v))
    depends_any: bool = spec(False, help="one of `depends_on` is enough; frame by frame, all are needed")
    url: str = spec("", length=MAX_TEXT, check=_text)
    progress_pattern: str | None = spec(None, length=MAX_TEXT, check=_pattern)
    cpus: int = spec(0, low=0, high=65_536)
    memory_bytes: int = spec(0, low=0)
    gpus: int = spec(0, low=0, high=1_024)
    gpu_memory_bytes: int = spec(0, low=0, help="of one gpu")
    exclusive: bool = spec(False, help="alone on its worker")
    workers: Sequence[str] = spec(tuple, length=1_000, check=_worker_names, help="names that may run it; empty: any")
    not_workers: Sequence[str] = spec(tuple, length=1_000, check=_worker_names, help="names that may not run it")
    limits: Mapping[str, int] = spec(dict, length=64, check=_limits, help="tokens held while it runs, by the limit's name")
    max_running: int = spec(0, low=0, high=1_000_000, help="of a group: so many of its jobs at a time; 0: any number")
    decrease_priority_after: int = spec(0, low=0, high=1_000_000, help="of a group: so many errors, then it sinks; 0: never")
    timeout_output_s: float = spec(0.0, low=0, help="killed after so long without output; 0: never")
    timeout_progress_s: float = spec(0.0, low=0, help="killed after so long without progress; 0: never")
    error_patterns: Sequence[str] = spec(tuple, length=64, check=_patterns, help="of log lines that mean ERROR")
    licence_patterns: Sequence[str] = spec(tuple, length=64, check=_patterns, help="of lines that mean: no licence, try later")
    licence_codes: Sequence[int] = spec(tuple, length=64, help="exit codes that mean: no licence, try later")
    note: str = spec("", length=1_000, check=_text)
    notify: Sequence[str] = spec(tuple, length=32, check=wishes.problem, help="error, finished, first:N, none, addresses")
    frames: str | None = spec(None, length=MAX_TEXT)
    chunk: int = spec(1, low=1, high=MAX_FRAMES, help="frames of one job of a frame range")
    group: bool = False
    ref: str | None = spec(None, length=MAX_TITLE, help="a label for `depends_on` within the same call")
    children: Sequence[JobSpec] = spec(tuple, length=MAX_CHILDREN)


@dataclass(frozen=True)
class JobChanges:
    """What PATCH may change of a job; a field that is left out stays as it is."""

    title: str | None = spec(None, length=MAX_TITLE, check=_text)
    command: str | None = spec(None, length=MAX_COMMAND, check=_text)
    dir: str | None = spec(None, length=MAX_TEXT, check=_text)
    environment: Mapping[str, str] | None = spec(None, length=1_000, check=lambda v: _environment(v or {}))
    user: str | None = spec(None, length=64, check=_text)
    parent: int | None = spec(None, low=0, help="moves the job")
    priority: int | None = spec(None, low=0, high=MAX_PRIORITY)
    affinity: Sequence[str] | None = spec(None, length=64, check=lambda v: _tags(v or ()))
    timeout_s: float | None = spec(None, low=0)
    retries: int | None = spec(None, low=0, high=1_000)
    depends_on: Sequence[int | Dependency] | None = spec(None, length=10_000, check=lambda v: _depends(v or ()))
    depends_any: bool | None = None
    url: str | None = spec(None, length=MAX_TEXT, check=_text)
    progress_pattern: str | None = spec(None, length=MAX_TEXT, check=_pattern)
    cpus: int | None = spec(None, low=0, high=65_536)
    memory_bytes: int | None = spec(None, low=0)
    gpus: int | None = spec(None, low=0, high=1_024)
    gpu_memory_bytes: int | None = spec(None, low=0)
    exclusive: bool | None = None
    workers: Sequence[str] | None = spec(None, length=1_000, check=lambda v: _worker_names(v or ()))
    not_workers: Sequence[str] | None = spec(None, length=1_000, check=lambda v: _worker_names(v or ()))
    limits: Mapping[str, int] | None = spec(None, length=64, check=lambda v: _limits(v or {}))
    max_running: int | None = spec(None, low=0, high=1_000_000)
    decrease_priority_after: int | None = spec(None, low=0, high=1_000_000)
    timeout_output_s: float | None = spec(None, low=0)
    timeout_progress_s: float | None = spec(None, low=0)
    error_patterns: Sequence[str] | None = spec(None, length=64, check=lambda v: _patterns(v or ()))
    licence_patterns: Sequence[str] | None = spec(None, length=64, check=lambda v: _patterns(v or ()))
    licence_codes: Sequence[int] | None = spec(None, length=64)
    note: str | None = spec(None, length=1_000, check=_text)
    notify: Sequence[str] | None = spec(None, length=32, check=lambda v: wishes.problem(v or ()))


@dataclass(frozen=True)
class Counts:
    """The leaves below a group by state; `total` is their sum."""

    total: int = 0
    waiting: int = 0
    pending: int = 0
    working: int = 0
    finished: int = 0
    error: int = 0


@dataclass(frozen=True)
class Job:
    """A job as the server shows it. Groups have `counts`, and their state, progress, times and cost come from their leaves."""

    id: int
    parent: int
    title: str
    group: bool
    state: str
    paused: bool
    priority: int
    affinity: Sequence[str]
    user: str
    command: str | None
    dir: str
    environment: Mapping[str, str]
    url: str
    timeout_s: float
    retries: int
    errors: int
    cpus: int
    memory_bytes: int
    gpus: int
    progress_pattern: str | None
    progress: float
    created_at: float
    started_at: float | None
    ended_at: float | None
    run_s: float
    cost_micro: int
    depends_on: Sequence[int]  # whom it names itself
    attempt: int
    worker: str
    counts: Counts | None
    reason: str
    allowed_actions: Sequence[str]
    dependencies: Sequence[Dependency] = ()  # the same in full
    depends_any: bool = False
    gpu_memory_bytes: int = 0
    exclusive: bool = False
    workers: Sequence[str] = ()
    not_workers: Sequence[str] = ()
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    max_running: int = 0
    decrease_priority_after: int = 0
    sunk_from: int | None = None  # of a group that sank: its priority before
    timeout_output_s: float = 0.0
    timeout_progress_s: float = 0.0
    error_patterns: Sequence[str] = ()
    licence_patterns: Sequence[str] = ()
    licence_codes: Sequence[int] = ()
    first_frame: int | None = None
    last_frame: int | None = None
    chunk: int | None = None  # of a frame range
    skipped: bool = False  # FINISHED by hand
    note: str = ""
    notify: Sequence[str] = ()  # empty: what the farm says of trees
    used_memory_bytes: int = 0  # by a process of the newest attempt, at most


@dataclass(frozen=True)
class Attempt:
    """One run of a job on a worker."""

    id: int
    job: int
    job_title: str
    worker: str
    state: str
    leased_at: float
    started_at: float | None
    ended_at: float | None
    run_s: float
    progress: float
    exit_code: int | None
    signal: int | None
    reason: str
    cost_micro: int
    memory_bytes: int = 0  # the most that one of its processes took; 0: not known


@dataclass(frozen=True)
class Limit:
    """A counted token, of the farm or of each machine. `maximum` is null where waiting jobs name it and nobody defined it.

    `used` are held by what runs; `waiting` jobs could start now and need some.
    """

    name: str
    maximum: int | None
    per_host: bool
    used: int
    waiting: int
    allowed_actions: Sequence[str] = ()


@dataclass(frozen=True)
class LimitChanges:
    maximum: int = spec(low=0, high=1_000_000)
    per_host: bool = spec(False, help="so many on each machine, not on the whole farm")


def _currency(value: str) -> str | None:
    return None if re.fullmatch("[A-Z]{3}", value) else "is not a currency's three capital letters, for example USD"


@dataclass(frozen=True)
class Price:
    """What an hour of a machine costs, who said so and when. An empty zone means all of the region's."""

    provider: str = spec(length=32, check=_text)
    region: str = spec(length=64, check=_text)
    zone: str = spec(length=64, check=_text)
    type: str = spec(length=128, check=_text)
    market: str = spec(length=16, check=_text)
    source: str = spec(length=32, check=_text, help="studio: imported; a provider's name: its own word")
    price_micro: int = spec(low=0, high=MAX_INT)
    currency: str = spec(check=_currency)
    cpus: int = spec(0, low=0, high=1_000_000)
    memory_bytes: int = spec(0, low=0, high=MAX_INT)
    gpus: int = spec(0, low=0, high=1_000_000)
    as_of: float = spec(0.0, low=0, high=253_402_300_799)


@dataclass(frozen=True)
class ShownPrice(Price):
    """A price as the server shows it. `unknown` says why it does not count as one; empty if it does."""

    unknown: str = ""


@dataclass(frozen=True)
class Selection:
    """Which workers or instances an action is for."""

    ids: Sequence[int] = spec(length=1_000_000, check=lambda v: "is empty; name at least one" if not v else None)


@dataclass(frozen=True)
class JobSelection:
    """Which jobs an action is for: `ids`, or all that fit a `filter` (coalition/filters.py). One of the two is given."""

    ids: Sequence[int] = spec(tuple, length=1_000_000)
    filter: str = spec("", length=MAX_FILTER, check=_text)


@dataclass(frozen=True)
class ResetSelection(JobSelection):
    errors_only: bool = False


@dataclass(frozen=True)
class SkipSelection(JobSelection):
    why: str = spec("", length=1_000, check=_text)


@dataclass(frozen=True)
class MoreFrames:
    """Frames to append to a range. What is left out is as it was submitted; what is given is for these frames only.

    A group that is no frame range becomes one; then `command` must be given.
    """

    frames: str = spec(length=MAX_TEXT)
    chunk: int | None = spec(None, low=1, high=MAX_FRAMES)
    title: str | None = spec(None, length=MAX_TITLE, check=_text)
    command: str | None = spec(None, length=MAX_COMMAND, check=_text)
    url: str | None = spec(None, length=MAX_TEXT, check=_text)


@dataclass(frozen=True)
class Edit(JobSelection):
    changes: JobChanges = spec(JobChanges)  # noqa: RUF009


@dataclass(frozen=True)
class Edits:
    """Different changes of different jobs, in their order: all of them are made, or none."""

    edits: Sequence[Edit] = spec(tuple, length=100_000)


def must_select(chosen: JobSelection) -> None:
    """BadInput for a selection of nothing, and for one by ids and filter at a time."""
    if chosen.ids and chosen.filter:
        raise BadInput(fields={"filter": "is given beside `ids`; give one of the two"})
    if not chosen.ids and not chosen.filter.strip():
        raise BadInput(fields={"ids": "is empty; name at least one, or give a `filter`"})


@dataclass(frozen=True)
class NotDone:
    """One of many that an action was not done to, and why; `status` as if it had been the only one."""

    id: int
    status: int
    detail: str


@dataclass(frozen=True)
class Happening:
    """An event that an action would write; `job` is null where it is about many."""

    kind: str
    job: int | None
    text: str


@dataclass(frozen=True)
class Rehearsal:
    """What an action would do: all jobs of the farm by state before and after it, and its first events."""

    before: Counts
    after: Counts
    events: Sequence[Happening]


@dataclass(frozen=True)
class Changed:
    """What an action on many did. With `dry_run` nothing was changed: it is what would have been."""

    changed: int
    ids: Sequence[int]
    refused: Sequence[NotDone] = ()
    dry_run: Rehearsal | None = None


# ---------------------------------------------------------------- workers


@dataclass(frozen=True)
class Facts:
    """What a worker says of its machine."""

    cpus: int = spec(1, low=1, high=65_536)
    memory_bytes: int = spec(0, low=0)
    gpus: int = spec(0, low=0, high=1_024)
    os: str = spec("linux", length=64, check=_text)
    host: str = spec("", length=255, check=_text)
    gpu_memory_bytes: int = spec(0, low=0, help="of its smallest gpu")


@dataclass(frozen=True)
class Challenge:
    """The question of who looks for a server: see discovery.py. `token` is the id of one, without its secret."""

    nonce: str = spec(length=32, check=lambda v: None if NONCE.match(v) else "is not 32 hex digits, in small letters")
    farm: str = spec("", length=256, check=_text)
    token: str = spec("", length=64, check=_text)
    coalition: int = spec(1, low=1, high=1, help="the version of the question")


@dataclass(frozen=True)
class Proof:
    """Where the server is; `mac` signs it with a token that the server knows."""

    coalition: int
    farm: str
    url: str
    nonce: str
    mac: str


@dataclass(frozen=True)
class Enrol:
    """A worker's first call. The answer's credential replaces `token` from then on."""

    name: str = spec(check=lambda v: None if WORKER_NAME.match(v) else "use 1 to 128 letters, digits and _ . -")
    session: str = spec(length=64, check=lambda v: _text(v) if len(v) >= 16 else "needs 16 random characters or more")
    slots: int = spec(1, low=1, high=4_096)
    affinity: Sequence[Sequence[str]] = spec(tuple, length=64, check=_tag_lines, help="tag sets, best first")
    facts: Facts = spec(Facts)  # noqa: RUF009
    version: str = spec("", length=64, check=_text)
    protocol: int = spec(PROTOCOL, low=1)
    token: str = spec("", length=256, check=_text)
    credential: str = spec("", length=256, check=_text, help="the one of an earlier start, if it is still at hand")
    identity: str = spec("", length=255, check=_text, help="a cloud machine's own id, bound to one use of the token")


@dataclass(frozen=True)
class Enrolled:
    worker: int
    name: str
    credential: str
    epoch: int
    farm: str
    protocol: int
    sync_s: float
    lease_s: float
    grace_s: float
    umask: int
    paths: Sequence[Mapping[str, str]]
    environment: Mapping[str, str]
    nice: int = 0  # what is added to the niceness of a run
    run_as: str = ""  # the template by which a command is run as its job's user; empty: as the worker's


@dataclass(frozen=True)
class Lease:
    """The right to run one attempt."""

    attempt: int
    job: int
    title: str
    command: str
    dir: str
    environment: Mapping[str, str]
    user: str
    timeout_s: float
    progress_pattern: str | None
    timeout_output_s: float = 0.0
    timeout_progress_s: float = 0.0
    error_patterns: Sequence[str] = ()
    licence_patterns: Sequence[str] = ()
    licence_codes: Sequence[int] = ()


@dataclass(frozen=True)
class Running:
    attempt: int = spec(low=1)
    started: bool = False
    progress: float = spec(0.0, low=0, high=1)


@dataclass(frozen=True)
class Result:
    """An attempt that ended. `log` is base64, for logs of up to INLINE_LOG_BYTES that were not sent before."""

    attempt: int = spec(low=1)
    state: str = spec(check=lambda v: None if v in ("FINISHED", "ERROR", "STOPPED") else "is one of FINISHED, ERROR, STOPPED")
    run_s: float = spec(0.0, low=0, high=1e9)
    exit_code: int | None = spec(None, low=-(2**31), high=2**32 - 1)
    signal: int | None = spec(None, low=-(2**31), high=2**31 - 1)
    reason: str = spec("", length=MAX_TEXT)
    no_licence: bool = spec(False, help="it found no licence: it is run again later, and spends no retry")
    memory_bytes: int = spec(0, low=0, high=MAX_INT, help="the most that one of its processes took; 0: not known")
    log: str = spec("", length=8_192)
    log_offset: int = spec(0, low=0)


@dataclass(frozen=True)
class Sync:
    """Heartbeat, report, renewal and fetch in one call. A newer `seq` of an epoch ends an older call that still waits."""

    epoch: int = spec(low=0)
    seq: int = spec(low=0)
    free: int = spec(0, low=0, high=4_096, help="slots that could start a job now")
    running: Sequence[Running] = spec(tuple, length=20_000, help="every attempt it holds, started or queued")
    finished: Sequence[Result] = spec(tuple, length=20_000)
    load: float = spec(0.0, low=0)
    memory_free_bytes: int = spec(0, low=0)
    wait_s: float = spec(0.0, low=0, high=60, help="how long the server may hold the call when there is nothing to do")
    takes: bool = spec(True, help="false: it takes no leases, also none ahead; it is ending, or its disk is full")
    user_idle_s: float | None = spec(None, low=0, help="since somebody used its keyboard or mouse; null: cannot be told")
    taken_in_s: float | None = spec(None, low=0, high=1e9, help="until its cloud takes the machine away; null: nothing is said")


@dataclass(frozen=True)
class Refused:
    attempt: int
    reason: str


@dataclass(frozen=True)
class SyncReply:
    """`desired` is run, drain (take no more) or exit (end when empty). Leases may repeat: run each attempt once.

    `taken_in_s`: so long until its cloud takes the machine away; null: nothing is said.
    """

    leases: Sequence[Lease]
    stop: Sequence[int]
    refused: Sequence[Refused]
    desired: str
    funded_for_s: float | None
    next_sync_s: float
    taken_in_s: float | None = None
    credential: str = ""  # a new one, to be used from now on; the one before holds until it is


@dataclass(frozen=True)
class Worker:
    id: int
    name: str
    state: str
    active: bool
    slots: int
    running: int
    affinity: Sequence[Sequence[str]]
    facts: Mapping[str, Any]
    version: str
    load: float
    memory_free_bytes: int
    finished: int
    errors: int
    enrolled_at: float
    seen_at: float
    idle_since: float | None
    instance: int | None
    jobs: Sequence[int]
    hours: str
    timezone: str
    hours_end: str
    idle_user_s: float
    idle_load: float
    used_at: float | None
    sick_until: float | None
    note: str
    reason: str
    allowed_actions: Sequence[str]


@dataclass(frozen=True)
class WorkerChanges:
    """What PATCH may change of a worker; a field that is left out stays as it is.

    `hours`: when it takes jobs, "mon-fri 19:00-07:00, sat-sun 00:00-24:00" (empty: always). `hours_end`: what becomes of what
    runs when they end. `idle_user_s`, `idle_load`: it takes jobs when nobody used it for so long, and others load it less.
    """

    affinity: Sequence[Sequence[str]] | None = spec(None, length=64, check=lambda v: _tag_lines(v or ()))
    active: bool | None = None
    slots: int | None = spec(None, low=1, high=4_096)
    hours: str | None = spec(None, length=500, check=lambda v: hours_complaint(v or ""))
    timezone: str | None = spec(None, length=64, check=lambda v: zone_complaint(v or ""))
    hours_end: str | None = spec(None, check=lambda v: None if v in (None, *HOURS_ENDS) else f"is one of {', '.join(HOURS_ENDS)}")
    idle_user_s: float | None = spec(None, low=0, high=1e9)
    idle_load: float | None = spec(None, low=0, high=1e6)
    note: str | None = spec(None, length=1_000, check=_text)


@dataclass(frozen=True)
class WorkerEdit:
    ids: Sequence[int] = spec(length=100_000, check=lambda v: "is empty; name at least one" if not v else None)
    changes: WorkerChanges = spec(WorkerChanges)  # noqa: RUF009


# ---------------------------------------------------------------- from and to JSON


class _Field(NamedTuple):
    """How a field is read from JSON."""

    reader: Reader
    rules: Mapping[str, Any] | None
    required: bool
    length: int  # an ASCII text that is not longer is right without a closer look; -1 where it may not be


@cache
def _fields(kind: type) -> dict[str, _Field]:
    hints, missing = typing.get_type_hints(kind), dataclasses.MISSING
    return {
        f.name: _Field(
            _reader(hints[f.name])[1],
            _rules(f),
            f.default is missing and f.default_factory is missing,
            _plain_length(hints[f.name], f.metadata),
        )
        for f in dataclasses.fields(kind)
    }


def _plain_length(hint: Any, rules: Mapping[str, Any]) -> int:
    """How long an ASCII text without a NUL may be that nothing else is asked of; -1 if a field is no such text."""
    if hint not in (str, str | None) or rules.get("check") not in (None, _text) or rules.get("low") is not None:
        return -1
    length = rules.get("length")
    return sys.maxsize if length is None else int(length)


@cache
def _required(kind: type) -> tuple[str, ...]:
    """The fields that must be given."""
    return tuple(name for name, field in _fields(kind).items() if field.required)


@cache
def defaults(kind: type) -> Mapping[str, Any]:
    """What the other fields are without being given; those values are shared, and nobody changes them."""
    missing = dataclasses.MISSING
    made = {f.name: f.default_factory() for f in dataclasses.fields(kind) if f.default_factory is not missing}
    return {**{f.name: f.default for f in dataclasses.fields(kind) if f.default is not missing}, **made}


def _rules(field: dataclasses.Field[Any]) -> Mapping[str, Any] | None:
    """A field's bounds, or None if it has none."""
    return field.metadata if any(field.metadata.get(name) is not None for name in ("low", "high", "length", "check")) else None


@cache
def _reader(hint: Any) -> tuple[str, Reader]:
    """The words for a type, and a function (value, path) -> value that raises BadInput."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union_reader(args)
    if dataclasses.is_dataclass(hint):
        return "an object", lambda value, path: from_dict(hint, value, path)  # type: ignore[arg-type]
    if hint is Any:
        return "anything", lambda value, path: value
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_reader(_reader(args[1]))
    if origin is not None and issubclass(origin, Sequence):
        return _sequence_reader(_reader(args[0]))
    return _scalar_reader(hint)


_short = reprlib.Repr()  # looks neither deep nor far into what it shows, which may be 10 MB or 10,000 levels
_short.maxstring = _short.maxother = 80
_short.maxlevel = 2


def _wrong(path: str, value: Any, words: str) -> BadInput:
    shown = f"an integer of {value.bit_length()} bits" if isinstance(value, int) and abs(value) > MAX_INT else _short.repr(value)
    return BadInput(fields={path: f"{shown} is not {words}"})


def _scalar_reader(hint: Any) -> tuple[str, Reader]:
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}[hint]

    def read(value: Any, path: str) -> Any:
        if type(value) is int and not -MAX_INT <= value <= MAX_INT:
            raise _wrong(path, value, "a number of 64 bits")
        if hint is float and type(value) is int:
            value = float(value)
        if type(value) is not hint or (hint is float and not math.isfinite(value)):
            raise _wrong(path, value, words)
        if hint is str and not value.isascii():
            _check_unicode(value, path)
        return value

    return words, read


def _check_unicode(value: str, path: str) -> None:
    """No lone surrogates: JSON can write them, but neither UTF-8 nor any database takes them."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInput(fields={path: "holds a lone surrogate, which is half a character"}) from None


def _union_reader(args: tuple[Any, ...]) -> tuple[str, Reader]:
    optional = type(None) in args
    readers = [_reader(arg) for arg in args if arg is not type(None)]
    words = " or ".join([words for words, _ in readers] + ["null"] * optional)

    def read(value: Any, path: str) -> Any:
        if value is None and optional:
            return None
        if len(readers) == 1:
            return readers[0][1](value, path)
        for kind, reader in readers:
            try:
                return reader(value, path)
            except BadInput:
                if kind == "an object" and isinstance(value, Mapping):
                    raise  # it was meant, and the error says which of its fields is wrong
        raise _wrong(path, value, words)

    return words, read


def _mapping_reader(item: tuple[str, Reader]) -> tuple[str, Reader]:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _wrong(path, value, "an object")
        return {key: item[1](entry, f"{path}.{key}") for key, entry in value.items()}

    return "an object", read


def _sequence_reader(item: tuple[str, Reader]) -> tuple[str, Reader]:
    def read(value: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _wrong(path, value, "a list")
        return tuple(item[1](entry, f"{path}[{index}]") for index, entry in enumerate(value))

    return "a list", read


def _complaint(value: Any, rules: Mapping[str, Any]) -> str | None:
    if value is None:
        return None
    low, high, length, check = rules.get("low"), rules.get("high"), rules.get("length"), rules.get("check")
    if (low is not None and value < low) or (high is not None and value > high):
        return f"{value} is not allowed; " + (f"{low:g} to {high:g}" if high is not None else f"{low:g} or more")
    if length is not None and len(value) > length:
        return f"is {len(value):,} long; at most {length:,}"
    return check(value) if check else None


def from_dict(kind: type[T], data: Any, path: str = "") -> T:
    """A `kind` from a JSON object. BadInput names every field that is unknown, missing, of a wrong type or out of bounds."""
    if type(data) is not dict and not isinstance(data, Mapping):
        raise _wrong(path or "body", data, "an object")
    if path.count("[") > MAX_DEPTH:
        raise BadInput(fields={path.partition("[")[0]: f"is nested deeper than {MAX_DEPTH} levels"})
    fields = _fields(kind)  # type: ignore[arg-type]  # a type is hashable
    prefix = f"{path}." if path else ""
    problems: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if len(problems) >= MAX_PROBLEMS:
            break
        if name not in fields:
            problems[f"{prefix}{str(name)[:80]}"] = f"unknown field; {nearest(str(name)[:80], fields)}"
            continue
        reader, rules, _, length = fields[name]
        if type(value) is str and len(value) <= length and value.isascii() and "\0" not in value:
            values[name] = value
            continue
        try:
            values[name] = reader(value, f"{prefix}{name}")
            complaint = _complaint(values[name], rules) if rules else None
            if complaint:
                problems[f"{prefix}{name}"] = complaint
        except BadInput as error:
            problems.update(error.fields)
    required, others = _required(kind), defaults(kind)  # type: ignore[arg-type]
    if required:
        problems.update({f"{prefix}{name}": "is missing" for name in required if name not in data})
    if problems:
        raise BadInput(fields=problems)
    # A frozen dataclass sets one field at a time; a list of 100,000 jobs has 3,500,000 of them.
    made = object.__new__(kind)
    object.__setattr__(made, "__dict__", {**others, **values})
    return made


def to_dict(value: Any) -> Any:
    """JSON data of a dataclass, deep; `from_dict` reads it back."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is list or kind is tuple:
        return [to_dict(entry) for entry in value]
    if hasattr(kind, "__dataclass_fields__"):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: entry if type(entry) in SCALARS else to_dict(entry) for key, entry in value.items()}
    return value
