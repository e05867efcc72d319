"""What may become what: one table each for jobs, attempts, workers and instances.

`after(JOB, state, event)` is the only way a state changes. Anything that is not in a table raises
IllegalTransition, and nothing is changed. The picture in the documentation is drawn from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping

from coalition.enums import StrEnum
from coalition.errors import IllegalTransition

Table = Mapping[tuple[str, str], str]


class JobState(StrEnum):
    WAITING = "WAITING"
    PENDING = "PENDING"
    WORKING = "WORKING"
    FINISHED = "FINISHED"
    ERROR = "ERROR"


class AttemptState(StrEnum):
    LEASED = "LEASED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    ERROR = "ERROR"
    STOPPED = "STOPPED"
    LOST = "LOST"


class WorkerState(StrEnum):
    STARTING = "STARTING"
    WAITING = "WAITING"
    WORKING = "WORKING"
    DRAINING = "DRAINING"
    TIMEOUT = "TIMEOUT"
    SICK = "SICK"
    TERMINATED = "TERMINATED"


class InstanceState(StrEnum):
    INTENDED = "INTENDED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    TERMINATING = "TERMINATING"
    GONE = "GONE"
    FAILED = "FAILED"


# A late result counts until the job is leased again: hence finish and fail from WAITING and PENDING.
JOB: Table = {
    ("WAITING", "block"): "PENDING",
    ("PENDING", "unblock"): "WAITING",
    ("WAITING", "lease"): "WORKING",
    ("WORKING", "requeue"): "WAITING",
    ("WORKING", "finish"): "FINISHED",
    ("WORKING", "fail"): "ERROR",
    ("WAITING", "finish"): "FINISHED",
    ("WAITING", "fail"): "ERROR",
    ("PENDING", "finish"): "FINISHED",
    ("PENDING", "fail"): "ERROR",
    ("WORKING", "reset"): "WAITING",
    ("FINISHED", "reset"): "WAITING",
    ("ERROR", "reset"): "WAITING",
    # By hand; what runs is stopped, and so put back, before.
    ("WAITING", "skip"): "FINISHED",
    ("PENDING", "skip"): "FINISHED",
    ("ERROR", "skip"): "FINISHED",
}

ATTEMPT: Table = {
    ("LEASED", "start"): "RUNNING",
    ("LEASED", "finish"): "FINISHED",
    ("LEASED", "fail"): "ERROR",
    ("LEASED", "stop"): "STOPPED",
    ("LEASED", "lose"): "LOST",
    ("RUNNING", "finish"): "FINISHED",
    ("RUNNING", "fail"): "ERROR",
    ("RUNNING", "stop"): "STOPPED",
    ("RUNNING", "lose"): "LOST",
    ("LOST", "finish"): "FINISHED",
    ("LOST", "fail"): "ERROR",
    ("LOST", "stop"): "STOPPED",
}

WORKER: Table = {
    **{(state, "enrol"): "STARTING" for state in WorkerState},
    ("STARTING", "idle"): "WAITING",
    ("STARTING", "work"): "WORKING",
    ("WAITING", "work"): "WORKING",
    ("WORKING", "idle"): "WAITING",
    **{(state, "drain"): "DRAINING" for state in ("STARTING", "WAITING", "WORKING", "TIMEOUT", "SICK")},
    ("DRAINING", "resume"): "STARTING",
    # DRAINING and SICK stay what they are through a silence: a worker that comes back must not take jobs for it.
    **{(state, "silence"): "TIMEOUT" for state in ("STARTING", "WAITING", "WORKING")},
    ("TIMEOUT", "idle"): "WAITING",
    ("TIMEOUT", "work"): "WORKING",
    **{(state, "sicken"): "SICK" for state in ("STARTING", "WAITING", "WORKING", "TIMEOUT")},
    ("SICK", "forgive"): "STARTING",
    **{(state, "terminate"): "TERMINATED" for state in WorkerState if state != "TERMINATED"},
}

INSTANCE: Table = {
    ("INTENDED", "launched"): "STARTING",
    ("INTENDED", "refused"): "FAILED",
    ("INTENDED", "enrolled"): "RUNNING",
    ("INTENDED", "terminate"): "TERMINATING",
    ("INTENDED", "gone"): "GONE",
    ("STARTING", "enrolled"): "RUNNING",
    ("STARTING", "terminate"): "TERMINATING",
    ("STARTING", "gone"): "GONE",
    ("RUNNING", "drain"): "DRAINING",
    ("RUNNING", "terminate"): "TERMINATING",
    ("RUNNING", "gone"): "GONE",
    ("DRAINING", "keep"): "RUNNING",
    ("DRAINING", "terminate"): "TERMINATING",
    ("DRAINING", "gone"): "GONE",
    ("TERMINATING", "gone"): "GONE",
}

OPEN_ATTEMPTS = (AttemptState.LEASED, AttemptState.RUNNING)
ENDED_JOBS = (JobState.FINISHED, JobState.ERROR)
PAID_INSTANCES = tuple(s for s in InstanceState if s not in (InstanceState.GONE, InstanceState.FAILED))


def after(table: Table, state: str, event: str) -> str:
    """The state that follows `event` in `state`; IllegalTransition if the table has no such line."""
    try:
        return table[state, event]
    except KeyError:
        allowed = sorted(name for origin, name in table if origin == state)
        raise IllegalTransition(
            f"{event} is not possible in state {state}; possible: {', '.join(allowed) or 'nothing'}"
        ) from None


def allows(table: Table, state: str, event: str) -> bool:
    """Whether `event` is possible in `state`."""
    return (state, event) in table
