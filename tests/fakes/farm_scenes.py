"""Canned jobs, workers, instances and budgets, as the API would show them: builders with defaults, and the scenes of farm_api."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from coalition.model import Counts, Job, Worker, to_dict

CURRENCY = "USD"
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>\'"`${7*7}{{7*7}}\u202e'
HUGE = 100_000
GROUP_OF_MANY = 7
PRICE = 96_000  # micro-units per slot and hour
ACTIONS = ("pause", "edit", "delete")


def a_job(job_id: int, **given: Any) -> Job:
    """A waiting job with defaults for all that is not given."""
    values: dict[str, Any] = {
        "parent": 0,
        "title": f"job {job_id}",
        "group": False,
        "state": "WAITING",
        "paused": False,
        "priority": 127,
        "affinity": (),
        "user": "lighting",
        "command": "povray +K0.5 scene.pov",
        "dir": "/shows/orbit",
        "environment": {},
        "url": "",
        "timeout_s": 0.0,
        "retries": 0,
        "errors": 0,
        "cpus": 0,
        "memory_bytes": 0,
        "gpus": 0,
        "progress_pattern": None,
        "progress": 0.0,
        "created_at": time.time() - 600,
        "started_at": None,
        "ended_at": None,
        "run_s": 0.0,
        "cost_micro": 0,
        "depends_on": (),
        "attempt": 0,
        "worker": "",
        "counts": None,
        "reason": "",
        "allowed_actions": ACTIONS,
    }
    unknown = given.keys() - values.keys()
    assert not unknown, f"a job has no {unknown}"
    if given.get("group"):
        values["command"] = None
    return Job(id=job_id, **{**values, **given})


def a_worker(worker_id: int, name: str, **given: Any) -> Worker:
    """An idle worker with defaults for all that is not given."""
    now = time.time()
    values: dict[str, Any] = {
        "state": "WAITING",
        "active": True,
        "slots": 4,
        "running": 0,
        "affinity": (("linux", "povray"),),
        "facts": {"cpus": 8, "memory_bytes": 32 << 30, "gpus": 0, "os": "linux", "host": name},
        "version": "1.0",
        "load": 0.1,
        "memory_free_bytes": 29 << 30,
        "finished": 0,
        "errors": 0,
        "enrolled_at": now - 7_200,
        "seen_at": now - 1,
        "idle_since": now - 40,
        "instance": None,
        "jobs": (),
        "hours": "",
        "timezone": "UTC",
        "hours_end": "finish",
        "idle_user_s": 0.0,
        "idle_load": 0.0,
        "used_at": None,
        "sick_until": None,
        "note": "",
        "reason": "",
        "allowed_actions": ("edit", "drain", "delete"),
    }
    return Worker(id=worker_id, name=name, **{**values, **given})


def an_instance(number: int, state: str, name: str, age_s: float, **given: Any) -> dict[str, Any]:
    """An instance as the API shows it."""
    now = time.time()
    launched = None if state == "INTENDED" else now - age_s
    return {
        "id": number,
        "pool": "local",
        "offering": "small",
        "provider_id": name and f"i-{number:04d}",
        "state": state,
        "slots": 4,
        "worker": number,
        "worker_name": name,
        "price_micro": 4 * PRICE,
        "currency": CURRENCY,
        "payer": "",
        "created_at": now - age_s,
        "launched_at": launched,
        "enrolled_at": launched,
        "ended_at": None,
        "funded_until": now + 520,
        "spent_micro": int(age_s / 3_600 * 4 * PRICE) if launched else 0,
        "reason": "",
        "allowed_actions": ["terminate"] if state == "DRAINING" else ["drain", "terminate"],
        **given,
    }


def a_budget(name: str, window: str, cap: int, spent: int, reserved: int, now: float, **given: Any) -> dict[str, Any]:
    """A budget as the API shows it."""
    length = {"day": 86_400, "week": 604_800, "month": 2_592_000}[window]
    return {
        "name": name,
        "applies_to": "farm",
        "window": window,
        "starts_at": now - length / 2,
        "ends_at": now + length / 3,
        "hard": True,
        "currency": CURRENCY,
        "cap_micro": cap,
        "committed_micro": spent + reserved,
        "spent_micro": spent,
        "reserved_micro": reserved,
        "left_micro": cap - spent - reserved,
        "forecast_micro": spent + (cap - spent) // 3,
        "alert": [0.5, 0.8, 1.0],
        "allowed_actions": ["edit"],
        **given,
    }


def other_jobs() -> Iterator[Job]:
    now = time.time()
    done = Counts(120, finished=120)
    mixed = Counts(240, waiting=148, working=1, finished=88, error=3)
    ended = ("reset", "edit", "delete")
    group = ("pause", "reset", "edit", "delete")
    yield a_job(
        60,
        title="sc041_sh0120 beauty",
        group=True,
        state="FINISHED",
        counts=done,
        user="lighting",
        created_at=now - 9_000,
        progress=1.0,
        started_at=now - 8_700,
        ended_at=now - 2_400,
        run_s=41_200,
        cost_micro=1_098_000,
        allowed_actions=ended,
    )
    yield a_job(
        61,
        title="sc038_sh0040 slap comp",
        state="WORKING",
        user="comp",
        progress=0.71,
        created_at=now - 900,
        started_at=now - 412,
        worker="edit-suite-3",
        attempt=61,
        command="nuke -x sh0040.nk 1-96",
        run_s=412.0,
        affinity=("windows", "nuke"),
    )
    yield a_job(
        62,
        title="sc041_sh0130 fx, smoke and embers",
        group=True,
        state="WORKING",
        counts=mixed,
        user="fx",
        created_at=now - 5_400,
        started_at=now - 5_100,
        progress=0.37,
        priority=140,
        cost_micro=388_000,
        run_s=14_000,
        allowed_actions=group,
    )
    yield a_job(
        63,
        title="denoise, sc041",
        user="lighting",
        gpus=1,
        affinity=("linux",),
        created_at=now - 700,
        priority=180,
        memory_bytes=24 << 30,
        reason="none of the 5 workers fits",
        command="denoise --model v3 sc041/*.exr",
    )
    yield a_job(
        64,
        title="proxies for the night",
        group=True,
        paused=True,
        counts=Counts(64, waiting=64),
        user="editorial",
        priority=20,
        created_at=now - 14_000,
        allowed_actions=("start", "edit", "delete"),
    )
    yield a_job(
        65,
        title="tile cache, hero tree",
        state="ERROR",
        user="assets",
        created_at=now - 4_000,
        started_at=now - 3_900,
        run_s=31.0,
        errors=3,
        ended_at=now - 3_700,
        reason="exit code 137: killed, out of memory",
        retries=2,
        attempt=65,
        worker="render-04",
        cost_micro=830,
        allowed_actions=ended,
    )


def crowd() -> Iterator[Job]:
    now = time.time()
    for n in range(200, 420):
        state = ("FINISHED", "WORKING", "WAITING", "ERROR", "PENDING")[(n * n) % 5]
        counts = Counts(96, **{{"FINISHED": "finished", "WORKING": "working"}.get(state, state.lower()): 96})
        yield a_job(
            n,
            title=f"sc{n % 37:03d}_sh{n * 10 % 900:04d} lighting, version {n % 9}",
            group=True,
            state=state,
            counts=counts,
            progress=0.5,
            created_at=now - n * 30,
            started_at=now - n * 20,
            cost_micro=n * 31_000,
            priority=n % 200,
            user=("fx", "lighting", "comp")[n % 3],
        )


def huge_job(job_id: int, parent: int) -> Job:
    if job_id == GROUP_OF_MANY:
        counts = Counts(HUGE, waiting=HUGE - 11_252, working=252, finished=11_000)
        return a_job(job_id, title="crowd simulation, 100,000 agents", group=True, state="WORKING", counts=counts, progress=0.11)
    return a_job(job_id, parent=parent, title=f"agent {job_id}", state="WAITING" if job_id % 3 else "FINISHED", progress=0.0)


def huge_page(parent: int, start: int, limit: int) -> dict[str, Any]:
    first = HUGE + 1 if parent else 1
    ids = [GROUP_OF_MANY, *(n for n in range(1, HUGE) if n != GROUP_OF_MANY)] if not parent else list(range(first, first + HUGE))
    jobs = [to_dict(huge_job(job_id, parent)) for job_id in ids[start : start + limit]]
    told = {} if start else {"total": 10_000, "more": True}
    return {"jobs": jobs, "next": str(start + limit) if start + limit < len(ids) else None, **told}


def hostile_jobs() -> Iterator[Job]:
    texts: dict[str, Any] = {"title": HOSTILE, "user": HOSTILE, "reason": HOSTILE, "worker": HOSTILE}
    yield a_job(1, **texts, group=True, counts=Counts(1, error=1), state="ERROR")
    yield a_job(
        2,
        **texts,
        parent=1,
        command=HOSTILE,
        dir=HOSTILE,
        environment={"A": HOSTILE},
        affinity=(HOSTILE,),
        state="ERROR",
        url="javascript:window.pwned=1",
        attempt=5,
        started_at=time.time() - 9,
        ended_at=time.time(),
        run_s=9.0,
        progress=1.0,
    )


def hostile_workers() -> list[Worker]:
    return [a_worker(1, HOSTILE, state=HOSTILE, affinity=((HOSTILE,),), reason=HOSTILE, jobs=(2,), running=1)]
