"""The Python API: one method for each route of the server, on the standard library alone.

    with Client() as farm:
        group = farm.submit(title="shot 10", frames="1-100", command="render -f {frame} shot10.scn", cpus=4)
        job, = farm.wait([group], on_progress=lambda jobs: print(jobs[0].progress))

A Client may be used by any number of threads at a time; each has its own connection, kept open between calls. Errors are those
of errors.py: the server's problem bodies as the types they were raised as, and ServerUnreachable when there is no connection.
Money is in integer micro-units, times are seconds since 1970 in UTC.
"""

from __future__ import annotations

import dataclasses
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from getpass import getuser
from typing import Any, TypeVar

from coalition import __version__
from coalition.errors import BadInput, CoalitionError, NotFound, ServerUnreachable, Unavailable
from coalition.model import (
    Attempt,
    Edit,
    Job,
    JobChanges,
    JobSelection,
    JobSpec,
    Limit,
    LimitChanges,
    MoreFrames,
    NotDone,
    Price,
    Rehearsal,
    ResetSelection,
    Selection,
    ShownPrice,
    SkipSelection,
    Worker,
    WorkerChanges,
    WorkerEdit,
    defaults,
    from_dict,
    must_select,
    to_dict,
)
from coalition.states import ENDED_JOBS, JobState
from coalition.wire import Wire, json_object

PAGE = 1_000
LOG_PIECE = 256 * 1_024
RESEND_S = 60.0  # a submission whose answer was lost is sent again for so long
RESEND_PAUSE_S = 0.5
SHORTEST_PAUSE_S = 0.02  # between two looks at jobs that are waited for
T = TypeVar("T")
Ids = Iterable[int] | int
Progress = Callable[[Sequence[Job]], object]


@dataclass(frozen=True)
class Page:
    """Some of the jobs asked for; `next` is the cursor of those that follow, None at the end.

    Of a first page, `counts` are all the leaves below its parent by state, and `total` is how many jobs fit the filters: None
    where that is not quickly told; with `more` there are more than that.

    Of a page after an `offset`, `offset` is how many jobs were left out, fewer than asked for at the end, and `cursor` its own:
    it gives this page again, whatever came or went before it.
    """

    jobs: Sequence[Job]
    next: str | None
    counts: Mapping[str, int] | None = None
    total: int | None = None
    more: bool = False
    offset: int = 0
    cursor: str | None = None


@dataclass(frozen=True)
class Submitted:
    """What a submission made: the ids of its top-level jobs in order, the number of jobs in all, and the ids of its refs.

    With `dry_run` no job was made, and none has an id: `count` would have been.
    """

    ids: Sequence[int]
    count: int
    refs: Mapping[str, int]
    dry_run: Rehearsal | None = None


class Changed(int):
    """How many were changed, as a number. Of jobs `ids` are those, and `refused` says of each other one why not.

    With `dry_run` nothing was changed: all of it is what would have been.
    """

    ids: Sequence[int]
    refused: Sequence[NotDone]
    dry_run: Rehearsal | None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Changed:
        made = cls(_part(answer, "changed"))
        made.ids = answer.get("ids", ())
        made.refused = [_read(NotDone, one) for one in answer.get("refused", ())]
        made.dry_run = _read(Rehearsal, answer["dry_run"]) if answer.get("dry_run") else None
        return made


@dataclass(frozen=True)
class Appended:
    """The jobs that were added to a group: `count` numbers from `first` on."""

    group: int
    first: int
    count: int


@dataclass(frozen=True)
class LogPiece:
    """Bytes of an attempt's log from `offset` on; `size` is all there is yet, `open` says that more may come.

    `attempt` is 0 while the job has none. `cut` is the byte where the server cut a log that was too large.
    """

    data: bytes
    attempt: int
    offset: int
    size: int
    open: bool
    cut: int | None = None


def ended(job: Job) -> bool:
    """Whether nothing more will happen to a job by itself.

    A group is shown as ERROR from its first failed job on, so it is over only when nothing below it runs or waits for a worker.
    What is PENDING below a failed group does not count: it may wait for a job that failed.
    """
    if not job.group or job.counts is None:
        return job.state in ENDED_JOBS
    pending = job.counts.pending if job.state != JobState.ERROR else 0
    return job.state in ENDED_JOBS and job.counts.waiting + job.counts.working + pending == 0


class Edits:
    """Changes of jobs that are collected, and sent in one call at the end of the `with`: all of them are made, or none.

    ::

        with farm.edits() as edits:
            for job in farm.jobs(filter="title:shot"):
                edits[job].priority = 200
            edits[12].note = "for the trailer"

    A field that jobs do not have, or a value that is not allowed, raises BadInput where it is set. When the block is left by an
    error, nothing is sent. `changed` says afterwards how many jobs were changed. For one thread at a time.
    """

    def __init__(self, send: Callable[[Sequence[Edit]], int]) -> None:
        self._send = send
        self._wanted: dict[int, dict[str, Any]] = {}
        self.changed = 0

    def __getitem__(self, job: Job | int) -> _Edited:
        return _Edited(self._wanted.setdefault(job.id if isinstance(job, Job) else int(job), {}))

    def __enter__(self) -> Edits:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        edits = [Edit((job,), "", from_dict(JobChanges, given)) for job, given in self._wanted.items() if given]
        if kind is None and edits:
            self.changed = self._send(_alike(edits))


class _Edited:
    """A job whose attributes are changed; those that were set can be read."""

    def __init__(self, given: dict[str, Any]) -> None:
        object.__setattr__(self, "_given", given)

    def __setattr__(self, name: str, value: Any) -> None:
        from_dict(JobChanges, {name: value})
        self._given[name] = value

    def __getattr__(self, name: str) -> Any:
        if name not in self._given:
            raise AttributeError(f"{name} was not changed")
        return self._given[name]


def _alike(edits: Sequence[Edit]) -> list[Edit]:
    """The same edits, with neighbours that change the same taken together."""
    joined: list[Edit] = []
    for edit in edits:
        if joined and joined[-1].changes == edit.changes:
            joined[-1] = Edit((*joined[-1].ids, *edit.ids), "", edit.changes)
        else:
            joined.append(edit)
    return joined


class Client:
    """A farm's server.

    `server` is a URL, or a host with or without a port; when None, COALITION_SERVER, else a server on this machine, else the one
    that the cloud's metadata, DNS or a broadcast tells (discovery.py). `token` is an API token; when None, COALITION_TOKEN.
    `ca`, else COALITION_CA, is a file of certificates to trust for https. `timeout_s` is how long one call may take. No call is
    made before the first method.
    """

    def __init__(
        self,
        server: str | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        *,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        server = server or os.environ.get("COALITION_SERVER")
        token = os.environ.get("COALITION_TOKEN", "") if token is None else token
        self._wire = Wire(server, token.strip(), timeout_s, ca)
        self._owner: str | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this thread's connection; other threads' are closed as these end. The client stays usable."""
        self._wire.drop()

    @property
    def url(self) -> str:
        """The server's address; finds it first when none was given. ServerUnreachable when there is none."""
        return self._wire.url

    # ------------------------------------------------------------ the farm

    def info(self) -> dict[str, Any]:
        """GET /server: farm, version, protocol, now, auth, user, url, currency."""
        return self._get("/server")

    def farm(self) -> dict[str, Any]:
        """GET /farm: the counts of jobs, workers and instances, slots, budgets, and what the machines cost now."""
        return self._get("/farm")

    def changes(self, since: str | None = None, *, wait_s: int = 15) -> dict[str, Any]:
        """GET /changes: {cursor, changed, poll_s}: what of jobs, workers, limits, instances, money, decisions and events changed.

        `since` is the cursor of the answer before; without one the answer comes at once. Else it comes when something changed, at
        most after `wait_s` (up to 30 and less than the client's timeout); `poll_s` is how long to wait before the next call.
        """
        return self._get("/changes", {"since": since, "wait": wait_s})

    # ------------------------------------------------------------ jobs

    def submit(self, **keywords: Any) -> int:
        """Submit one job, a group with `children`, or a frame range; the keywords are fields of model.JobSpec. Returns its id.

        `user`, unless given, is the token's user; without a token, or with an admin's, it is the name of who runs this. A keyword
        that is unknown or not allowed raises BadInput, and nothing is sent.
        """
        from_dict(JobSpec, keywords)
        return self._submit([keywords]).ids[0]

    def submit_many(
        self, jobs: Iterable[JobSpec | Mapping[str, Any]], *, dry_run: bool = False, key: str | None = None
    ) -> Submitted:
        """POST /jobs: submit all of them or, when one is refused, none. `depends_on` may name the `ref` of another one.

        With `dry_run` none is made; the answer says how many would be. When the connection breaks, the call is sent again for
        up to RESEND_S: by its `key` the server knows what it did already, and answers that. Give one of your own where this may
        be called again with the same jobs; the server knows it for a day.
        """
        plain = [_plain(job) if isinstance(job, JobSpec) else job for job in jobs]
        for index, job in enumerate(plain):
            from_dict(JobSpec, job, f"jobs[{index}]")
        return self._submit(plain, dry_run, key)

    def _submit(self, checked: Sequence[Mapping[str, Any]], dry_run: bool = False, key: str | None = None) -> Submitted:
        if not checked:
            raise BadInput(fields={"jobs": "is empty; submit at least one"})
        owned = [to_dict(job) if job.get("user") else {**to_dict(job), "user": self._own_name()} for job in checked]
        query = {"dry_run": dry_run or None}
        return _read(Submitted, self._send_once("/jobs", {"jobs": owned}, query, key or secrets.token_hex(16)))

    def _send_once(self, path: str, body: Any, query: Mapping[str, Any], key: str) -> dict[str, Any]:
        """POST that is sent again where its answer was lost, until the server says what became of it."""
        until = time.monotonic() + RESEND_S
        lost = False
        while True:
            try:
                return self._send("POST", path, body, query, {"Idempotency-Key": key})
            except (ServerUnreachable, Unavailable) as error:
                lost = lost or bool(error.extra.get("lost"))
                if not lost or time.monotonic() > until:
                    raise
            time.sleep(RESEND_PAUSE_S)

    def _own_name(self) -> str:
        """Whose jobs they are that do not say it. Only an admin may submit for others, such as for who runs this."""
        if self._owner is None:
            known = self.info() if self._wire.has_token else {}
            self._owner = _user() if known.get("role", "admin") == "admin" else str(known.get("user", ""))
        return self._owner

    def page(
        self,
        *,
        parent: int | None = None,
        state: str | Iterable[str] | None = None,
        user: str | None = None,
        title: str | None = None,
        paused: bool | None = None,
        filter: str | None = None,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
        offset: int = 0,
    ) -> Page:
        """GET /jobs: the jobs that fit every filter given, at most 1,000 at a time.

        `parent` 0 is the top, None any level; `state` one or several; `title` a part of it; `sort` id, priority,
        title below a parent, or, of up to 5,000 jobs, started, ended and progress; with - before it the other way. A page may
        be short, or empty, though more follow. `offset` leaves out so many jobs, of a list whose `total` is told.
        """
        query = {"parent": parent, "state": _joined(state), "user": user, "title": title, "paused": paused, "filter": filter}
        place = {"sort": sort, "limit": min(limit, PAGE), "cursor": cursor, "offset": offset or None}
        answer = self._get("/jobs", {**query, **place})
        jobs = [_read(Job, job) for job in _part(answer, "jobs")]
        counted = answer.get("counts"), answer.get("total"), bool(answer.get("more"))
        return Page(jobs, answer.get("next"), *counted, answer.get("offset", 0), answer.get("cursor"))

    def jobs(self, *, limit: int | None = None, **filters: Any) -> Iterator[Job]:
        """The jobs that fit the filters of `page`, fetched as they are consumed; all of them unless `limit` is given."""
        cursor = None
        while limit is None or limit > 0:
            found = self.page(limit=PAGE if limit is None else min(limit, PAGE), cursor=cursor, **filters)
            filters.pop("offset", None)  # what follows a page follows it at once
            yield from found.jobs
            limit = None if limit is None else limit - len(found.jobs)
            cursor = found.next
            if cursor is None:
                return

    def job(self, job: int) -> Job:
        """GET /jobs/{id}."""
        return _read(Job, self._get(f"/jobs/{int(job)}"))

    # Each of these takes `ids`, or a `filter` (docs/selections.md) for all jobs that fit. They are changed all or none, unless
    # `partial` leaves out what is refused; with `dry_run` the answer is what would be, and nothing is changed.

    def edit(self, ids: Ids = (), *, filter: str = "", partial: bool = False, dry_run: bool = False, **changes: Any) -> Changed:
        """PATCH /jobs: change fields of model.JobChanges on every selected job. Returns how many jobs were changed."""
        return self._act("PATCH", "/jobs", Edit(_ids(ids), filter, _changes(JobChanges, changes)), partial, dry_run)

    def edits(self) -> Edits:
        """Collects different changes of different jobs, to be sent in one call: see Edits."""
        return Edits(self._send_edits)

    def edit_each(self, edits: Iterable[Edit | Mapping[str, Any]]) -> Changed:
        """POST /jobs/edits: different changes of different jobs, all made in their order, or none.

        Each is {"ids": [...], "changes": {...}}, or has a `filter` instead of `ids`.
        """
        each = [edit if isinstance(edit, Edit) else from_dict(Edit, edit, f"edits[{index}]") for index, edit in enumerate(edits)]
        return self._send_edits(each)

    def _send_edits(self, edits: Sequence[Edit]) -> Changed:
        return Changed.of(self._send("POST", "/jobs/edits", {"edits": [_sparse(edit) for edit in edits]}))

    def move(self, ids: Ids = (), parent: int = 0, *, filter: str = "", partial: bool = False, dry_run: bool = False) -> Changed:
        """Put jobs, with all that is below them, into another group; 0 is the top."""
        return self.edit(ids, filter=filter, partial=partial, dry_run=dry_run, parent=parent)

    def pause(self, ids: Ids = (), *, filter: str = "", partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /jobs/pause: hold whole subtrees; what runs is stopped and will run again."""
        return self._act("POST", "/jobs/pause", JobSelection(_ids(ids), filter), partial, dry_run)

    def start(self, ids: Ids = (), *, filter: str = "", partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /jobs/start: let paused subtrees go on."""
        return self._act("POST", "/jobs/start", JobSelection(_ids(ids), filter), partial, dry_run)

    def reset(
        self, ids: Ids = (), *, filter: str = "", errors_only: bool = False, partial: bool = False, dry_run: bool = False
    ) -> Changed:
        """POST /jobs/reset: run whole subtrees again, or only what failed in them."""
        return self._act("POST", "/jobs/reset", ResetSelection(_ids(ids), filter, errors_only), partial, dry_run)

    def skip(self, ids: Ids = (), *, filter: str = "", why: str = "", partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /jobs/skip: whole subtrees count as FINISHED, by hand; what runs is stopped. A reset takes it back."""
        return self._act("POST", "/jobs/skip", SkipSelection(_ids(ids), filter, why), partial, dry_run)

    def append(self, group: int, frames: str, **given: Any) -> Appended:
        """POST /jobs/{id}/frames: add frames to a range; `chunk`, `title`, `command` and `url` as in model.MoreFrames.

        BadInput names frames that are there already, and nothing is changed.
        """
        more = from_dict(MoreFrames, {"frames": frames, **given})
        return _read(Appended, self._send("POST", f"/jobs/{int(group)}/frames", _sparse(more)))

    def delete(self, ids: Ids = (), *, filter: str = "", partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /jobs/delete: remove whole subtrees; what runs is stopped. Their logs go after `[keep] logs`."""
        return self._act("POST", "/jobs/delete", JobSelection(_ids(ids), filter), partial, dry_run)

    def _act(self, method: str, path: str, chosen: JobSelection, partial: bool, dry_run: bool) -> Changed:
        must_select(chosen)
        return self._change(method, path, chosen, _careful(partial, dry_run))

    def attempts(self, job: int) -> list[Attempt]:
        """GET /jobs/{id}/attempts, newest first."""
        return [_read(Attempt, attempt) for attempt in self._list(f"/jobs/{int(job)}/attempts", "attempts")]

    def all_attempts(
        self, *, job: int | None = None, worker: str | None = None, since: float | None = None, limit: int | None = None
    ) -> list[Attempt]:
        """GET /attempts: those of all jobs, newest first; of one job, of the worker of that name, or begun `since` then."""
        query = {"job": job, "worker": worker, "since": _second(since), "limit": limit}
        return [_read(Attempt, attempt) for attempt in self._list("/attempts", "attempts", query)]

    def explain(self, job: int) -> dict[str, Any]:
        """GET /jobs/{id}/explain: {job, state, reasons: [{code, text}...]}, the most telling reason first."""
        return self._get(f"/jobs/{int(job)}/explain")

    # ------------------------------------------------------------ logs

    def log(self, job: int, *, offset: int = 0, limit: int | None = None, wait_s: int | None = None) -> LogPiece:
        """GET /jobs/{id}/log: bytes of the newest attempt's log; a negative offset counts from its end.

        With `wait_s`, at most 30 and less than the client's timeout, the answer comes when there is something beyond the offset.
        """
        return self._log(f"/jobs/{int(job)}/log", offset, limit, wait_s)

    def attempt_log(self, attempt: int, *, offset: int = 0, limit: int | None = None, wait_s: int | None = None) -> LogPiece:
        """GET /attempts/{id}/log: the same of one attempt."""
        return self._log(f"/attempts/{int(attempt)}/log", offset, limit, wait_s)

    def _log(self, path: str, offset: int, limit: int | None, wait_s: int | None) -> LogPiece:
        headers, data = self._wire.call("GET", path, query={"offset": offset, "limit": limit, "wait": wait_s})
        numbers = {name: _number(headers.get(f"X-Log-{name}", "")) for name in ("Attempt", "Offset", "Size", "Open")}
        cut = _number(headers["X-Log-Cut"]) if "X-Log-Cut" in headers else None
        return LogPiece(data, numbers["Attempt"], numbers["Offset"], numbers["Size"], bool(numbers["Open"]), cut)

    def follow(self, job: int, *, offset: int = 0, poll_s: float = 0.5, patience_s: float = 60.0) -> Iterator[bytes]:
        """The log of a job as it grows, until the job is over; when it is run again, the log of the new attempt follows.

        `offset` is where to begin, negative from the end. BadInput for a group, which has no log. A server that is away is
        waited for, up to `patience_s`.
        """
        attempt = 0
        while True:
            now = self._patiently(patience_s, self.job, job)
            if now.group:
                raise BadInput(fields={"job": f"{job} is a group, which has no log; name one of its jobs"})
            piece = self._newest(patience_s, job, offset)
            while piece.attempt:
                if attempt and piece.attempt != attempt:  # run again meanwhile: this is another log, from wherever
                    attempt, offset = 0, 0
                else:
                    attempt, offset = piece.attempt, piece.offset + len(piece.data)
                    if not piece.data:
                        break
                    yield piece.data
                piece = self._newest(patience_s, job, offset)
            if ended(now) and not piece.open:
                return
            time.sleep(poll_s)

    def _newest(self, patience_s: float, job: int, offset: int) -> LogPiece:
        try:
            return self._patiently(patience_s, self.log, job, offset=offset, limit=LOG_PIECE)
        except NotFound:  # no attempt yet, or deleted: the next look at the job will tell
            return LogPiece(b"", 0, 0, 0, False)

    # ------------------------------------------------------------ waiting

    def wait(
        self,
        ids: Ids,
        on_progress: Progress | None = None,
        *,
        timeout_s: float | None = None,
        poll_s: float = 0.5,
        patience_s: float = 60.0,
    ) -> list[Job]:
        """Wait until every job of `ids` is over, well or not, and return them in that order.

        `on_progress` is called with all of them whenever one has changed. Paused jobs are waited for, and so are those that
        depend on others. They are looked at each `poll_s` seconds, and more often while they are young or nearly over. A
        server that is away is waited for, up to `patience_s` and no longer than `timeout_s`. TimeoutError after `timeout_s`;
        NotFound when one is deleted.
        """
        wanted = _ids(ids)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        pace = _Pace(poll_s)
        seen: dict[int, Job] = {}
        while True:
            started = time.monotonic()
            before = dict(seen)
            for job in (x for x in wanted if x not in seen or not ended(seen[x])):
                left_s = patience_s if until is None else min(patience_s, until - time.monotonic())
                seen[job] = self._patiently(left_s, self.job, job)
            if on_progress and seen != before:
                on_progress([seen[job] for job in wanted])
            if all(ended(job) for job in seen.values()):
                return [seen[job] for job in wanted]
            if until is not None and time.monotonic() >= until:
                left = sum(not ended(job) for job in seen.values())
                raise TimeoutError(f"{left} job{' is' if left == 1 else 's are'} not over after {timeout_s:g} s")
            pause_s = pace.pause_s(time.monotonic(), {job.id: job.progress for job in seen.values() if not ended(job)})
            time.sleep(max(pause_s, time.monotonic() - started))

    def _patiently(self, patience_s: float, call: Callable[..., T], *args: Any, **keywords: Any) -> T:
        """The answer of `call`; as long as the server is away, again, until `patience_s` have passed."""
        until = time.monotonic() + patience_s
        while True:
            try:
                return call(*args, **keywords)
            except (ServerUnreachable, Unavailable) as error:
                if time.monotonic() >= until:
                    raise
                pause_s = error.retry_after_s if isinstance(error, Unavailable) else 1.0
                time.sleep(max(0.0, min(pause_s, until - time.monotonic())))

    def rows(self, name: str, *, fields: Iterable[str] | str | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """GET of any list, such as "jobs", "attempts" or "jobs/7/attempts", as plain objects, fetched as they are consumed.

        `fields` names those wanted; the rest of the keywords are the list's own: filters, `sort`, `limit` of one page.
        """
        wanted = fields if fields is None or isinstance(fields, str) else ",".join(fields)
        cursor = None
        while True:
            answer = self._get(f"/{name}", {**query, "fields": wanted, "cursor": cursor})
            yield from next((rows for rows in answer.values() if isinstance(rows, list)), [])
            cursor = answer.get("next")
            if cursor is None:
                return

    def attempt(self, attempt: int) -> Attempt:
        """GET /attempts/{id}."""
        return _read(Attempt, self._get(f"/attempts/{int(attempt)}"))

    # ------------------------------------------------------------ workers, events

    def workers(self, *, state: str | Iterable[str] | None = None) -> list[Worker]:
        """GET /workers: all, or those in one state or several."""
        return [_read(Worker, worker) for worker in self._list("/workers", "workers", {"state": _joined(state)})]

    def worker(self, worker: int) -> Worker:
        """GET /workers/{id}."""
        return _read(Worker, self._get(f"/workers/{int(worker)}"))

    def explain_worker(self, worker: int) -> dict[str, Any]:
        """GET /workers/{id}/explain: {worker, name, state, reasons: [{code, text}...]}, why it is idle or takes no more."""
        return self._get(f"/workers/{int(worker)}/explain")

    def edit_workers(self, ids: Ids, *, partial: bool = False, dry_run: bool = False, **changes: Any) -> Changed:
        """PATCH /workers: change fields of model.WorkerChanges, such as `affinity` (tag lists, best first), `active`, `hours`
        and `note`. Returns how many were changed.
        """
        wanted = WorkerEdit(_ids(ids), _changes(WorkerChanges, changes))
        return self._change("PATCH", "/workers", wanted, _careful(partial, dry_run))

    def drain_workers(self, ids: Ids, *, partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /workers/drain: they finish what they run and take no more."""
        return self._change("POST", "/workers/drain", Selection(_ids(ids)), _careful(partial, dry_run))

    def resume_workers(self, ids: Ids, *, partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /workers/resume: drained workers take jobs again."""
        return self._change("POST", "/workers/resume", Selection(_ids(ids)), _careful(partial, dry_run))

    def delete_workers(self, ids: Ids, *, partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /workers/delete: forget them; their credentials end."""
        return self._change("POST", "/workers/delete", Selection(_ids(ids)), _careful(partial, dry_run))

    def limits(self) -> list[Limit]:
        """GET /limits: counted tokens, with what is used and how many jobs wait; `maximum` is None where nobody defined it."""
        return [_read(Limit, limit) for limit in self._list("/limits", "limits")]

    def limit(self, name: str) -> Limit:
        """GET /limits/{name}."""
        return _read(Limit, self._get(f"/limits/{name}"))

    def set_limit(self, name: str, maximum: int, *, per_host: bool = False) -> int:
        """PUT /limits/{name}: defines or changes it; what runs goes on. `per_host`: so many on each machine."""
        changes = from_dict(LimitChanges, {"maximum": maximum, "per_host": per_host})
        return int(_part(self._send("PUT", f"/limits/{name}", to_dict(changes)), "changed"))

    def delete_limit(self, name: str) -> int:
        """DELETE /limits/{name}: jobs that name it wait until it is defined again. NotFound when there is none."""
        return int(_part(self._send("DELETE", f"/limits/{name}", {}), "changed"))

    def affinities(self) -> list[dict[str, Any]]:
        """GET /affinities: the tags in use, with the number of workers and of jobs of each."""
        return self._list("/affinities", "affinities")

    def audit(
        self,
        *,
        user: str | None = None,
        address: str | None = None,
        kind: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """GET /audit: who did what from where, newest first. `kind` is such as job.edit, or job for all of its kinds."""
        query = {"user": user, "address": address, "kind": kind, "before": before, "limit": limit}
        times = {"since": None if since is None else int(since), "until": None if until is None else int(until)}
        return self._list("/audit", "audit", {**query, **times})

    def events(
        self,
        *,
        job: int | None = None,
        worker: int | None = None,
        instance: int | None = None,
        user: str | None = None,
        kind: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        limit: int | None = None,
        below: bool = False,
    ) -> list[dict[str, Any]]:
        """GET /events: what happened, newest first. `user` is who did it, `kind` such as job.pause; `before` an event's id.

        `below`: to the job and to all that is below it.
        """
        query = {
            "job": job,
            "below": int(below) or None,
            "worker": worker,
            "instance": instance,
            "user": user,
            "kind": kind,
            "before": before,
        }
        return self._list("/events", "events", {**query, "since": _second(since), "until": _second(until), "limit": limit})

    def timeline(self, job: int, *, until: float | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """GET /jobs/{id}/timeline: its events and its attempts' steps, newest first: {at, kind, who, text, attempt, worker}."""
        query = {"until": _second(until), "limit": limit}
        return self._list(f"/jobs/{int(job)}/timeline", "timeline", query)

    def archive(
        self,
        *,
        parent: int | None = None,
        user: str | None = None,
        title: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """GET /archive: jobs that were finished long ago, newest first, with `archived_at`.

        They are the tops of trees, those in the group `parent`, or a `user`'s at any level. `title` is a part of it; `before` is
        the id of the last one seen.
        """
        query = {"parent": parent, "user": user, "title": title, "before": before, "limit": limit}
        return self._list("/archive", "jobs", query)

    def archived(self, job: int) -> dict[str, Any]:
        """GET /archive/{id}: an archived job as it was, with its attempts."""
        return self._get(f"/archive/{int(job)}")

    # ------------------------------------------------------------ machines and money

    def pools(self) -> list[dict[str, Any]]:
        """GET /pools: what may be started, how much of it runs, and what stops it."""
        return self._list("/pools", "pools")

    def resume_pools(self, names: Iterable[str]) -> int:
        """POST /pools/resume: let pools start instances again whose boots failed, or that a provider refused."""
        return int(_part(self._send("POST", "/pools/resume", {"names": list(names)}), "changed"))

    def launch(self, pool: str, count: int = 1, offering: str = "") -> dict[str, Any]:
        """POST /pools/launch: asks for machines by hand; decisions() tells what came of it.

        `changed` is for how many; `note` says so where only the provider knows whether there is such an offering.
        """
        return self._send("POST", "/pools/launch", {"pool": pool, "count": count, "offering": offering})

    def prices(self, **filters: str | None) -> list[ShownPrice]:
        """GET /prices: what machines cost, who said so and when. Filters: provider, region, type."""
        return [_read(ShownPrice, price) for price in self._list("/prices", "prices", filters)]

    def put_prices(self, prices: Iterable[Price]) -> int:
        """POST /prices: each takes the place of what its source said of the same thing."""
        return int(_part(self._send("POST", "/prices", {"prices": to_dict(list(prices))}), "changed"))

    def instances(self, *, state: str | None = None, pool: str | None = None, all: bool = False) -> list[dict[str, Any]]:
        """GET /instances: the machines that are paid for, or `all` there ever were."""
        return self._list("/instances", "instances", {"state": state, "pool": pool, "all": int(all)})

    def instance(self, instance: int) -> dict[str, Any]:
        """GET /instances/{id}: one machine, also one that is gone."""
        return self._get(f"/instances/{int(instance)}")

    def drain_instances(self, ids: Ids, *, partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /instances/drain: they end when their jobs are done."""
        return self._change("POST", "/instances/drain", Selection(_ids(ids)), _careful(partial, dry_run))

    def terminate_instances(self, ids: Ids, *, partial: bool = False, dry_run: bool = False) -> Changed:
        """POST /instances/terminate: they end now; their jobs run again elsewhere."""
        return self._change("POST", "/instances/terminate", Selection(_ids(ids)), _careful(partial, dry_run))

    def drain_pools(self, names: Sequence[str]) -> int:
        """POST /pools/drain: they start nothing more, and their machines end as their jobs end. How many machines."""
        return int(_part(self._send("POST", "/pools/drain", {"names": list(names)}), "changed"))

    def pause_scaling(self) -> int:
        """POST /scaling/pause: no machines are started until `resume_scaling`; 0 if it was so already."""
        return int(_part(self._send("POST", "/scaling/pause", {}), "changed"))

    def resume_scaling(self) -> int:
        """POST /scaling/resume: machines may be started again."""
        return int(_part(self._send("POST", "/scaling/resume", {}), "changed"))

    def budgets(self) -> list[dict[str, Any]]:
        """GET /budgets: caps, what of them is spent, reserved and left, and where their values come from."""
        return self._list("/budgets", "budgets")

    def budget(self, name: str) -> dict[str, Any]:
        """GET /budgets/{name}."""
        return self._get(f"/budgets/{name}")

    def create_budget(self, name: str, amount_micro: int, *, dry_run: bool = False, **fields: Any) -> dict[str, Any]:
        """POST /budgets: a budget beside those of cloud.ini; `fields` are its other knobs.

        The answer has the budget `before` and `after`, and the `effect` of it: what may start, what is no longer paid on.
        """
        body = {"name": name, "amount_micro": int(amount_micro), **fields}
        return self._send("POST", "/budgets", body, _careful(False, dry_run))

    def edit_budget(self, name: str, *, dry_run: bool = False, **fields: Any) -> dict[str, Any]:
        """PATCH /budgets/{name}: other values (amount_micro, hard, alert) from the next tick on; the answer as above."""
        return self._send("PATCH", f"/budgets/{name}", fields, _careful(False, dry_run))

    def delete_budget(self, name: str, *, dry_run: bool = False) -> dict[str, Any]:
        """DELETE /budgets/{name}: removes one of run time; of one of cloud.ini, what was changed of it."""
        return self._send("DELETE", f"/budgets/{name}", {}, _careful(False, dry_run))

    def ledger(self, *, since: float | None = None, group_by: str = "day") -> list[dict[str, Any]]:
        """GET /ledger: what machines cost, by `day` or by `pool`."""
        return self._list("/ledger", "entries", {"since": _second(since), "group_by": group_by})

    def cost(
        self, *, group_by: str = "day", since: float | None = None, until: float | None = None, **only: Any
    ) -> list[dict[str, Any]]:
        """GET /cost: what was spent, by day, pool, type, instance, user, group, tag, job or attempt.

        `only`: of this pool, user, tag, job, group. A line's amount_micro is the sum of its run, waste, idle and boot; boot and
        idle time has an empty key where it is nobody's.
        """
        return self._list("/cost", "entries", {"group_by": group_by, "since": _second(since), "until": _second(until), **only})

    def forecast(self, job: int | None = None) -> dict[str, Any]:
        """GET /forecast: `ends_at` and `cost_micro` of what is left of a group, of a job, or (None) of all, each with a range."""
        return self._get("/forecast", {"job": job})

    def history(self, *, since: float | None = None, until: float | None = None) -> dict[str, Any]:
        """GET /history: `points` of jobs, slots, machines and cost an hour, averages over `step_s` seconds; else of a day."""
        return self._get("/history", {"since": _second(since), "until": _second(until)})

    def decisions(self, *, limit: int | None = None, pool: str | None = None) -> list[dict[str, Any]]:
        """GET /decisions: what the autoscaler did or did not do, and why; newest first."""
        return self._list("/decisions", "decisions", {"limit": limit, "pool": pool})

    # ------------------------------------------------------------ tokens

    def tokens(self) -> list[dict[str, Any]]:
        """GET /tokens: those that exist, without their secrets."""
        return self._list("/tokens", "tokens")

    def create_token(
        self,
        kind: str,
        *,
        user: str | None = None,
        role: str | None = None,
        uses: int | None = None,
        expires_s: float | None = None,
        name: str | None = None,
        scope: Sequence[str] = (),
        networks: Sequence[str] = (),
    ) -> dict[str, Any]:
        """POST /tokens: a new one of kind user, enrol or site: {id, token}. Its text is told this once.

        `scope` narrows what one of kind user may do, to some of the rights of its role: see coalition/rights.py. One for workers
        may be used from `networks` only, such as 10.1.0.0/16. One of kind enrol ends after a week unless it says when.
        """
        fields: dict[str, Any] = {"kind": kind, "user": user, "role": role, "uses": uses, "expires_s": expires_s, "name": name}
        fields |= {"scope": list(scope) or None, "networks": list(networks) or None}
        return self._send("POST", "/tokens", {name: value for name, value in fields.items() if value is not None})

    def delete_token(self, token: str) -> int:
        """DELETE /tokens/{id}: it is refused from now on. Only the id counts, which is the part before the dot."""
        return int(_part(self._send("DELETE", f"/tokens/{token.partition('.')[0]}", {}), "changed"))

    # ------------------------------------------------------------ users

    def log_in(self, user: str, password: str) -> dict[str, Any]:
        """POST /login: {user, role, expires_s, token}: an API token for as long as a log-in lasts."""
        return self._send("POST", "/login", {"user": user, "password": password, "token": True})

    def change_password(self, old: str, new: str) -> int:
        """POST /password: one's own; one's log-ins end."""
        return int(_part(self._send("POST", "/password", {"old": old, "new": new}), "changed"))

    def users(self) -> list[dict[str, Any]]:
        """GET /users: those with passwords."""
        return self._list("/users", "users")

    def create_user(self, name: str, password: str, *, role: str = "user") -> dict[str, Any]:
        """POST /users."""
        return self._send("POST", "/users", {"name": name, "password": password, "role": role})

    def edit_user(self, name: str, *, password: str | None = None, role: str | None = None) -> int:
        """PATCH /users/{name}: what is given is changed, and the user's log-ins end."""
        changes = {field: value for field, value in (("password", password), ("role", role)) if value is not None}
        return int(_part(self._send("PATCH", f"/users/{name}", changes), "changed"))

    def delete_user(self, name: str) -> int:
        """DELETE /users/{name}: with all log-ins and tokens."""
        return int(_part(self._send("DELETE", f"/users/{name}", {}), "changed"))

    # ------------------------------------------------------------ calls

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._json(self._wire.call("GET", path, query=query)[1])

    def _list(self, path: str, name: str, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        return list(_part(self._get(path, query), name))

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        return self._json(self._wire.call(method, path, query=query, body=body, headers=headers)[1])

    def _change(self, method: str, path: str, selection: Any, query: Mapping[str, Any] | None = None) -> Changed:
        checked = from_dict(type(selection), to_dict(selection))
        return Changed.of(self._send(method, path, _sparse(checked), query))

    def _json(self, data: bytes) -> dict[str, Any]:
        answer = json_object(data)
        if answer is None:
            raise ServerUnreachable(f"{self.url} is not a Coalition server: its answer is no JSON object")
        return answer


# ---------------------------------------------------------------- helpers


def _careful(partial: bool, dry_run: bool) -> dict[str, Any]:
    return {"partial": partial or None, "dry_run": dry_run or None}


def _second(at: float | None) -> int | None:
    return None if at is None else int(at)


def _ids(ids: Ids) -> tuple[int, ...]:
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _joined(names: str | Iterable[str] | None) -> str | None:
    return names if names is None or isinstance(names, str) else ",".join(names)


def _user() -> str:
    """The name of who runs this; empty where the system knows none, such as in a container under a bare number."""
    try:
        return getuser()
    except (KeyError, OSError, ImportError):
        return ""


def _plain(job: JobSpec) -> Any:
    try:
        return _sparse(job)
    except RecursionError:
        raise BadInput(fields={"children": "is nested too deep"}) from None


class _Pace:
    """How long to wait before the next look at jobs: `poll_s`, or less while they are young or nearly over."""

    def __init__(self, poll_s: float) -> None:
        self._longest_s = poll_s
        self._begun_at = time.monotonic()
        self._seen_at = self._begun_at
        self._progress: Mapping[int, float] = {}

    def pause_s(self, now: float, progress: Mapping[int, float]) -> float:
        """`progress`: of each job that is not over, 0 to 1. Half of the time that is left at their pace since the last call."""
        passed_s = now - self._seen_at
        gained = ((value, value - self._progress.get(job, 0.0)) for job, value in progress.items())
        left_s = max(((1 - value) * passed_s / gain if gain > 0 else math.inf for value, gain in gained), default=0.0)
        self._seen_at, self._progress = now, progress
        return min(self._longest_s, max(SHORTEST_PAUSE_S, min((now - self._begun_at) / 4, left_s / 2)))


def _changes(kind: type[T], changes: Mapping[str, Any]) -> T:
    if not changes:
        raise BadInput(fields={"changes": "is empty; name a field to change"})
    return from_dict(kind, changes)


def _sparse(value: Any) -> Any:
    """JSON data without the fields that hold their default, which keeps a large submission small."""
    if dataclasses.is_dataclass(value):
        usual = defaults(type(value))  # type: ignore[arg-type]  # a type is hashable
        given = [(name, item) for name, item in vars(value).items() if item is not usual.get(name)]
        return {name: _sparse(item) for name, item in given if name not in usual or item != usual[name]}
    return [_sparse(item) for item in value] if isinstance(value, (list, tuple)) else value


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def _part(answer: Mapping[str, Any], name: str) -> Any:
    if name not in answer:
        raise CoalitionError(f"the server's answer lacks `{name}`; is it of another version than this client, {__version__}?")
    return answer[name]


@cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind))


def _read(kind: type[T], data: Any) -> T:
    """A dataclass of the server's answer. Fields that this version does not know are passed over: the server may be newer."""
    if isinstance(data, dict):
        data = {name: value for name, value in data.items() if name in _names(kind)}  # type: ignore[arg-type]  # is hashable
    try:
        return from_dict(kind, data)
    except BadInput as error:
        what = f"the server's {kind.__name__} does not fit this client, version {__version__}"
        raise CoalitionError(f"{what}: {error}") from None
