"""Routes of jobs, attempts and their logs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flask import Blueprint, Response, g, request

from coalition.errors import BadInput, NotAllowed, NotFound, TooLarge
from coalition.filters import parse
from coalition.logs import MAX_READ
from coalition.model import (
    MAX_INT,
    Changed,
    Edit,
    Edits,
    JobChanges,
    JobSelection,
    JobSpec,
    MoreFrames,
    Rehearsal,
    ResetSelection,
    SkipSelection,
    from_dict,
    must_select,
)
from coalition.server import log_keeping, web
from coalition.server.auth import Identity, jobs_for_caller, must_own
from coalition.server.changes import LOOK_S, MAX_WAIT_S
from coalition.server.rows import PAGING, listing, newest_first, shared
from coalition.states import ENDED_JOBS, AttemptState, JobState
from coalition.store.bulk import Action
from coalition.store.lists import SORTS, Cursor, JobQuery
from coalition.store.submit import Once, Submitted

blueprint = Blueprint("jobs", __name__)

LOG_PIECE = 1 << 20
MAX_FILTERED = 100  # of one call
MAX_LIST = 1_000


@dataclass(frozen=True)
class Submission:
    jobs: Sequence[JobSpec] = ()


def _who() -> str:
    identity: Identity = g.identity
    return identity.name


def viewer() -> str | None:
    """Who is told of own jobs only; None is told of everybody's."""
    identity: Identity = g.identity
    return identity.viewer


@blueprint.post("/jobs")
def submit() -> Response:
    web.refuse_unknown("dry_run")
    jobs = from_dict(Submission, web.parsed(request.get_data())).jobs
    if not jobs:
        raise BadInput(fields={"jobs": "is empty; give at least one job"})
    if web.flag("dry_run"):
        count, told = web.farm().store.rehearse_submit(_allowed(jobs), _who(), viewer())
        return _submitted(Submitted((), count, {}), told)
    made = accept(jobs, _once(request.headers.get("Idempotency-Key"), request.get_data()))
    return _submitted(made)


def _once(key: str | None, body: bytes) -> Once | None:
    """How a repeat of this call is known; None without a key."""
    if key is None:
        return None
    if not re.fullmatch(r"[!-~]{1,128}", key):
        raise BadInput(fields={"Idempotency-Key": "is not allowed; 1 to 128 letters, digits and signs, without spaces"})
    return Once(key, hashlib.sha256(body).hexdigest())


def _submitted(made: Submitted, told: Rehearsal | None = None) -> Response:
    """Jobs that were not made have no ids."""
    answer = {"ids": made.ids, "count": made.count, "refs": made.refs, "dry_run": told}
    response = web.reply(answer, 201 if told is None else 200)
    if made.repeated:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def accept(jobs: Sequence[JobSpec], once: Once | None = None) -> Submitted:
    """Submits for the caller, who becomes the owner and needs to own the groups."""
    made = web.farm().store.submit(_allowed(jobs), _who(), once)
    web.farm().dispatcher.kick()
    return made


def _allowed(jobs: Sequence[JobSpec]) -> Sequence[JobSpec]:
    """The jobs as the caller may submit them: who owns each is written down. NotAllowed where they may not."""
    identity: Identity = g.identity
    jobs = tuple(_owned(job, identity, identity.name) for job in jobs)
    parents = sorted({job.parent for job in jobs if job.parent})
    if parents:
        must_own(web.farm(), parents, "create", below=False)
    return jobs


def _owned(job: JobSpec, identity: Identity, owner: str) -> JobSpec:
    """Who submits owns the job, unless they may submit for others. What is in a group is its owner's, unless it says whose."""
    if job.user and job.user != identity.name and identity.owner_for("create") is not None:
        raise NotAllowed(f"{identity.name} may not submit for {job.user}")
    user = job.user or owner
    if user == job.user and not job.children:
        return job
    return replace(job, user=user, children=tuple(_owned(child, identity, user) for child in job.children))


@blueprint.get("/jobs")
@shared
def index() -> Response:
    web.refuse_unknown("parent", "state", "user", "title", "paused", "filter", "sort", "offset", *PAGING)
    query = _query()
    if query.sort == "title" and query.parent is None:
        raise BadInput(fields={"sort": "by title needs a `parent`; 0 is the top"})
    store, told = web.farm().store, dict[str, Any]()
    if offset := web.number("offset", 0, 0, MAX_INT):
        after, passed = store.jobs_after(query, offset)
        query = replace(query, after=after)
        told = {"offset": passed, "cursor": _written(query.sort, after)}
    elif query.after is None:
        told = store.count_jobs(query)
    found, following = store.jobs(query)
    return listing("jobs", jobs_for_caller(found), _written(query.sort, following), **told)


def _query() -> JobQuery:
    states = tuple(dict.fromkeys(web.choices("state", list(JobState))))
    sorts = tuple(SORTS) + tuple(f"-{name}" for name in SORTS)
    sort = web.choice("sort", sorts, "id")
    paused = request.args.get("paused")
    return JobQuery(
        parent=web.number("parent", 0, 0, MAX_INT) if "parent" in request.args else None,
        states=states,
        user=web.word("user"),
        title=web.word("title"),
        paused=None if paused is None else web.choice("paused", ("0", "1"), "0") == "1",
        sort=sort.lstrip("-"),
        descending=sort.startswith("-"),
        limit=web.number("limit", 100, 1, MAX_LIST),
        after=_cursor(sort.lstrip("-")),
        terms=parse(request.args.get("filter", ""), web.farm().clock()),
        viewer=viewer(),
    )


def _written(sort: str, cursor: Cursor | None) -> str | None:
    """A cursor as text; a title in it is written in hex."""
    if cursor is None:
        return None
    value, job_id = cursor
    return f"{value.encode().hex() if sort == 'title' else value}.{job_id}"


def _cursor(sort: str) -> Cursor | None:
    text = request.args.get("cursor")
    if not text:
        return None
    value, _, job_id = text.partition(".")
    form = "(?:[0-9a-f]{2})*" if sort == "title" else "[0-9]{1,18}"
    try:
        if not re.fullmatch(f"{form}[.][0-9]{{1,18}}", text):
            raise ValueError("of another form")
        return (bytes.fromhex(value).decode() if sort == "title" else int(value)), int(job_id)
    except ValueError:  # also bytes that are no text
        raise BadInput(fields={"cursor": f"{text[:40]!r} is not a cursor; give `next` of the page before"}) from None


@blueprint.get("/jobs/<int:job_id>")
def show(job_id: int) -> Response:
    return web.reply(jobs_for_caller([web.farm().store.job(_bounded(job_id), viewer())])[0])


def _bounded(number: int) -> int:
    if number > MAX_INT:
        raise NotFound(f"there is no {number}")
    return number


@blueprint.patch("/jobs")
def edit() -> Response:
    wanted = web.body(Edit)
    web.refuse_nothing(wanted.changes)
    _may_give(wanted.changes)
    return _act("edit", wanted, wanted.changes)


@blueprint.post("/jobs/edits")
def edits() -> Response:
    web.refuse_unknown()
    wanted = web.body(Edits).edits
    if not wanted:
        raise BadInput(fields={"edits": "is empty; give at least one"})
    if sum(bool(one.filter) for one in wanted) > MAX_FILTERED:
        raise BadInput(fields={"edits": f"has more than {MAX_FILTERED} filters, each of which looks at all jobs; give ids"})
    for one in wanted:
        web.refuse_nothing(one.changes)
        _may_give(one.changes)
    done = web.farm().store.act_in_turn([_action("edit", one, one.changes) for one in wanted], _who())
    web.farm().dispatcher.kick()
    return web.reply(done)


def may_change(ids: Sequence[int], changes: JobChanges) -> None:
    """NotAllowed for jobs of others, for giving jobs away, and for moving them into the group of somebody else."""
    must_own(web.farm(), ids)
    _may_give(changes)


def _may_give(changes: JobChanges) -> None:
    identity: Identity = g.identity
    if identity.owner_for("edit") is not None:
        if changes.user not in (None, identity.name):
            raise NotAllowed(f"{identity.name} may not give jobs to {changes.user}")
        if changes.parent:
            must_own(web.farm(), [changes.parent], below=False)


@blueprint.post("/jobs/pause")
def pause() -> Response:
    return _act("pause", web.body(JobSelection))


@blueprint.post("/jobs/start")
def start() -> Response:
    return _act("start", web.body(JobSelection))


@blueprint.post("/jobs/reset")
def reset() -> Response:
    wanted = web.body(ResetSelection)
    return _act("reset", wanted, wanted.errors_only)


@blueprint.post("/jobs/skip")
def skip() -> Response:
    wanted = web.body(SkipSelection)
    return _act("skip", wanted, wanted.why)


@blueprint.post("/jobs/<int:job_id>/frames")
def append_frames(job_id: int) -> Response:
    more = web.body(MoreFrames)
    must_own(web.farm(), [_bounded(job_id)], below=False)
    made = web.farm().store.append(job_id, more, _who())
    web.farm().dispatcher.kick()
    return web.reply(made, 201)


@blueprint.post("/jobs/delete")
def delete() -> Response:
    return _act("delete", web.body(JobSelection))


def _act(name: str, wanted: JobSelection, *values: Any) -> Response:
    """One action on all that is selected: all or none, unless the call says `partial`; only told, if it says `dry_run`."""
    web.refuse_unknown("partial", "dry_run")
    farm, action = web.farm(), _action(name, wanted, *values, partial=web.flag("partial"))
    if web.flag("dry_run"):
        return web.reply(farm.store.rehearse(action, _who()))
    done: Changed = farm.store.act(action, _who())
    farm.dispatcher.kick()
    return web.reply(done)


def _action(name: str, wanted: JobSelection, *values: Any, partial: bool = False) -> Action:
    must_select(wanted)
    return Action(
        name=name,
        ids=wanted.ids,
        terms=parse(wanted.filter, web.farm().clock()),
        values=values,
        owner=g.identity.owner_for("delete" if name == "delete" else "edit"),
        partial=partial,
        viewer=viewer(),
    )


@blueprint.get("/jobs/<int:job_id>/attempts")
@shared
def attempts(job_id: int) -> Response:
    web.refuse_unknown(*PAGING)
    store, seen_by = web.farm().store, viewer()
    store.job(_bounded(job_id), seen_by)
    return newest_first("attempts", lambda limit, before: store.runs(job_id, None, 0.0, limit, before, seen_by))


@blueprint.get("/attempts")
@shared
def all_attempts() -> Response:
    web.refuse_unknown("job", "worker", "since", *PAGING)
    job_id = web.number("job", 0, 1, MAX_INT) if "job" in request.args else None
    worker, since = web.word("worker"), float(web.number("since", 0, 0, MAX_INT))
    store, seen_by = web.farm().store, viewer()
    return newest_first("attempts", lambda limit, before: store.runs(job_id, worker, since, limit, before, seen_by))


@blueprint.get("/attempts/<int:attempt_id>")
def attempt(attempt_id: int) -> Response:
    web.refuse_unknown()
    return web.reply(web.farm().store.attempt(_bounded(attempt_id), viewer()))


@blueprint.get("/jobs/<int:job_id>/timeline")
def timeline(job_id: int) -> Response:
    web.refuse_unknown("until", "limit")
    until = float(web.number("until", 0, 0, MAX_INT)) if "until" in request.args else None
    limit = web.number("limit", 100, 1, 1_000)
    return web.reply({"timeline": web.farm().store.timeline(_bounded(job_id), limit, until, viewer())})


@blueprint.get("/jobs/<int:job_id>/explain")
def explain(job_id: int) -> Response:
    job = web.farm().store.job(_bounded(job_id), viewer())
    return web.reply({"job": job.id, "state": job.state, "reasons": web.farm().store.explain(job_id, viewer())})


# ---------------------------------------------------------------- logs


@blueprint.get("/jobs/<int:job_id>/log")
def log(job_id: int) -> Response:
    farm, wait_s = web.farm(), web.number("wait", 0, 0, MAX_WAIT_S)
    job = farm.store.job(_bounded(job_id), viewer())
    if not job.attempt and job.state not in ENDED_JOBS and wait_s:
        farm.changes.wait(lambda: bool(farm.store.job(job_id).attempt), wait_s)
        job = farm.store.job(job_id)
    if not job.attempt:
        return _log_piece(0, is_open=job.state not in ENDED_JOBS)
    return attempt_log(job.attempt)


@blueprint.get("/attempts/<int:attempt_id>/log")
def attempt_log(attempt_id: int) -> Response:
    wait_s = web.number("wait", 0, 0, MAX_WAIT_S)
    if viewer() is not None:
        web.farm().store.attempt(_bounded(attempt_id), viewer())
    is_open = _is_open(_bounded(attempt_id))
    offset = web.number("offset", 0, -MAX_INT, MAX_INT)
    if is_open and wait_s and offset >= 0:
        is_open = _wait_for_log(attempt_id, offset, wait_s)
    return _log_piece(attempt_id, is_open)


def _is_open(attempt_id: int) -> bool:
    """Whether an attempt has not ended; NotFound if there is none."""
    holder = web.farm().store.attempt_holder(attempt_id)
    if holder is None:
        raise NotFound(f"there is no attempt {attempt_id}")
    return holder[1] in (AttemptState.LEASED, AttemptState.RUNNING)


def _wait_for_log(attempt_id: int, offset: int, wait_s: float) -> bool:
    """Waits until the log goes beyond `offset`, or the attempt ends; whether it is open. The store is asked when jobs changed."""
    farm = web.farm()
    asked, is_open = farm.changes.cursor, True

    def is_there() -> bool:
        nonlocal asked, is_open
        if farm.logs.size(attempt_id) > offset:
            return True
        if asked != farm.changes.cursor:
            asked, is_open = farm.changes.cursor, _is_open(attempt_id)
        return not is_open

    farm.changes.wait(is_there, wait_s, LOOK_S)
    return _is_open(attempt_id)


def _log_piece(attempt_id: int, is_open: bool) -> Response:
    web.refuse_unknown("offset", "limit", "wait")
    offset = web.number("offset", 0, -MAX_INT, MAX_INT)
    piece = web.farm().logs.read(attempt_id, offset, web.number("limit", MAX_READ, 1, MAX_READ))
    response = Response(piece.data, mimetype="application/octet-stream")
    response.headers["X-Log-Attempt"] = str(attempt_id)
    response.headers["X-Log-Size"] = str(piece.size)
    response.headers["X-Log-Offset"] = str(piece.offset)
    response.headers["X-Log-Open"] = "1" if is_open else "0"
    if piece.cut is not None:
        response.headers["X-Log-Cut"] = str(piece.cut)
    return response


@blueprint.put("/attempts/<int:attempt_id>/log")
def append_log(attempt_id: int) -> Response:
    holder = web.farm().store.attempt_holder(_bounded(attempt_id))
    if holder is None or holder[0] != g.identity.worker_id:
        raise NotFound(f"there is no attempt {attempt_id} of this worker")
    if (request.content_length or 0) > LOG_PIECE:
        raise TooLarge(f"send logs in pieces of at most {LOG_PIECE:,} bytes")
    offset = web.number("offset", 0, 0, MAX_INT)
    data = request.get_data(cache=False)
    return web.reply({"size": log_keeping.append(web.farm(), attempt_id, offset, data)})
