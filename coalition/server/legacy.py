"""The wire of Coalition 3.x and 4.0: its scripts, submitters and workers, served with `[server] legacy = yes`.

It only translates: each call ends in the store, the dispatcher and the checks that our own routes use. What an old caller is
told is written as the old server wrote it: numbers bare, flags 0 and 1, times in whole seconds, a job for a worker as the text
of a Python tuple. docs/migration.md has the whole of it.
"""

from __future__ import annotations

import base64
import codecs
import fcntl
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from flask import Blueprint, Flask, Response, current_app, g, request

from coalition.errors import BadInput, NotFound
from coalition.model import (
    DEFAULT_PRIORITY,
    MAX_INT,
    MAX_PRIORITY,
    TAG,
    Job,
    JobChanges,
    JobSpec,
    Worker,
    WorkerChanges,
    from_dict,
)
from coalition.server import jobs as our_jobs
from coalition.server import web
from coalition.server.auth import must_own
from coalition.server.old_workers import MIB, Agents, exit_code, joined, lease_text, machine_of
from coalition.server.web import Farm
from coalition.states import JobState
from coalition.store.lists import JobQuery

blueprint = Blueprint("legacy", __name__)

PAGE = 1_000
MAX_BIT = 63
MAX_EVENTS = 1_000
DEFAULT_TIMEOUT_S = 1_000  # of a job that says nothing
DERIVED = {"id", "worker", "start_time", "duration", "run_done", "progress", "globalprogress", "ping_time", "affinity_bits"}
DERIVED |= {"total", *(prefix + name for prefix in ("", "total_") for name in ("finished", "errors", "working"))}
DERIVED |= {"h_affinity", "h_priority", "h_paused", "h_depth"}
STATE_OF = {"LEASED": "WORKING", "RUNNING": "WORKING"}


def register(app: Flask, farm: Farm) -> None:
    """Adds the old routes to `app`."""
    app.extensions["coalition.legacy"] = Agents(farm, farm.store.sqlite)
    app.config["MAX_FORM_MEMORY_SIZE"] = farm.settings.server.max_body_bytes  # a heartbeat brings all the new output
    app.register_blueprint(blueprint)


def _route(path: str, method: str) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """A route below /api, and the same below /api/webfrontend."""

    def add(view: Callable[..., Response]) -> Callable[..., Response]:
        for prefix in ("/api", "/api/webfrontend"):
            blueprint.add_url_rule(prefix + path, None, view, methods=[method], strict_slashes=False)
        return view

    return add


def _done() -> Response:
    web.farm().dispatcher.kick()
    return web.reply(1)


# ---------------------------------------------------------------- affinities: bits and names


class Bits:
    """Which bit, 1 to 63, stands for which tag; kept in a file, as old scripts remember the numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self, used: Sequence[str] = ()) -> dict[int, str]:
        """The tag of each bit; tags in `used` that have none get the next free ones, as long as there are any."""
        return self._changed(lambda names: _with_bits(names, used))

    def rename(self, given: Mapping[int, str]) -> dict[int, str]:
        """Gives bits new tags; an empty one frees the bit."""
        return self._changed(lambda names: {bit: tag for bit, tag in {**names, **given}.items() if tag})

    def _changed(self, change: Callable[[dict[int, str]], dict[int, str]]) -> dict[int, str]:
        with open(self.path, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # one at a time, of all threads and processes; closing gives it back
            file.seek(0)
            before = {int(bit): str(tag) for bit, tag in json.loads(file.read() or "{}").items()}
            after = change(before)
            if after != before:
                file.truncate(0)
                file.write(json.dumps(after))
            return after


def _with_bits(names: dict[int, str], used: Sequence[str]) -> dict[int, str]:
    free = (bit for bit in range(1, MAX_BIT + 1) if bit not in names)
    fresh = [tag for tag in used if tag not in names.values()]
    return {**names, **dict(zip(free, fresh, strict=False))}


def _bits() -> Bits:
    return Bits(web.farm().settings.data_dir / "legacy-affinities.json")


def _tags(text: Any, place: str) -> list[str]:
    """The tags of "LINUX,24GB"; #N is the tag of bit N, if that has one."""
    tags = [tag.strip() for tag in _text(text, place).split(",") if tag.strip()]
    if not any(tag.startswith("#") for tag in tags):
        return tags
    names = _bits().names()
    return [names.get(int(tag[1:]), tag) if re.fullmatch("#[0-9]{1,2}", tag) else tag for tag in tags]


def _mask(tags: Sequence[str], names: Mapping[int, str]) -> int:
    return sum(1 << (bit - 1) for bit, name in names.items() if name in tags)


@_route("/affinities", "GET")
def affinities() -> Response:
    used = [str(row["tag"]) for row in web.farm().store.affinities()]
    return web.reply({str(bit): tag for bit, tag in sorted(_bits().names(used).items())})


@_route("/affinities", "POST")
def name_affinities() -> Response:
    given: dict[int, str] = {}
    for key, tag in _object(web.json_body()).items():
        bit, name = _whole(key, "id"), _text(tag, key[:20])
        if not 1 <= bit <= MAX_BIT:
            raise BadInput(fields={"id": f"{bit} is not allowed; 1 to {MAX_BIT}"})
        if name and not TAG.match(name):
            raise BadInput(fields={str(bit): f"{name[:80]!r} is not a tag; letters, digits and _ . # : + -"})
        given[bit] = name
    _bits().rename(given)
    return web.reply(1)


# ---------------------------------------------------------------- values that come in


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(fields={"body": "is not an object"})
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadInput(fields={"body": "is not a list"})
    return value


def _text(value: Any, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadInput(fields={place: "is not a text"})
    return str(value)


def _whole(value: Any, place: str) -> int:
    """A whole number, also one that is written as a text or with a fraction, as old scripts do."""
    try:
        number = 0 if value in (None, "") else int(value)
    except (TypeError, ValueError, OverflowError):
        number = MAX_INT + 1
    if abs(number) > MAX_INT:
        raise BadInput(fields={place: f"{str(value)[:40]!r} is not a whole number"})
    return number


def _ids(value: Any) -> list[int]:
    return [_whole(one, "ids") for one in _list(value)]


def _pairs(value: Any) -> dict[str, str]:
    """An environment: an object, or NAME=value pairs with newlines between them, or with a backslash and an n."""
    if isinstance(value, dict):
        return {name: _text(one, "environment") for name, one in value.items()}
    lines = [line for line in re.split(r"\\n|\r?\n", _text(value, "environment")) if line.strip()]
    return {name.strip(): text for name, _, text in (line.partition("=") for line in lines)}


def _priority(value: Any) -> int:
    return max(0, min(MAX_PRIORITY, _whole(value, "priority")))


def _dependencies(value: Any) -> list[int]:
    """A list of ids, or a text with numbers in it."""
    if isinstance(value, list):
        return [_whole(one, "dependencies") for one in value]
    return [_whole(one, "dependencies") for one in re.findall("[0-9]{1,18}", _text(value, "dependencies"))]


Read = Callable[[Any], Any]
FIELDS: dict[str, tuple[str, Read]] = {
    "parent": ("parent", lambda value: _whole(value, "parent")),
    "title": ("title", lambda value: _text(value, "title")),
    "command": ("command", lambda value: _text(value, "command")),
    "dir": ("dir", lambda value: _text(value, "dir")),
    "environment": ("environment", _pairs),
    "timeout": ("timeout_s", lambda value: float(_whole(value, "timeout"))),
    "retry": ("retries", lambda value: _whole(value, "retry")),
    "priority": ("priority", _priority),
    "affinity": ("affinity", lambda value: _tags(value, "affinity")),
    "user": ("user", lambda value: _text(value, "user")),
    "url": ("url", lambda value: _text(value, "url")),
    "progress_pattern": ("progress_pattern", lambda value: _text(value, "progress_pattern")),
    "dependencies": ("depends_on", _dependencies),
}
SAME = {"cmd": "command", "env": "environment", "localprogress": "progress_pattern"}  # what 3.x calls them
SWITCHES = ("state", "paused")


def _translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """Old attributes as our fields; those that the server derives are left out, as the old one did not take them either."""
    named = {SAME.get(name, name): value for name, value in given.items()}
    unknown = sorted(named.keys() - FIELDS.keys() - DERIVED - {*SWITCHES})
    if unknown:
        words = f"unknown attribute; allowed: {', '.join((*FIELDS, *SWITCHES))}"
        raise BadInput(fields={name[:80]: words for name in unknown[:10]})
    return {FIELDS[name][0]: FIELDS[name][1](value) for name, value in named.items() if name in FIELDS}


def _switch(given: Mapping[str, Any], allowed: Sequence[str]) -> str:
    """The state that is asked for, or nothing."""
    state = _text(given.get("state"), "state").upper()
    if state and state not in allowed:
        raise BadInput(fields={"state": f"{state[:40]!r} is not allowed; allowed: {', '.join(allowed)}"})
    if "paused" in given and not state:
        return "PAUSED" if _flag(given["paused"], "paused") else "STARTED"
    return state


def _flag(value: Any, place: str) -> bool:
    if isinstance(value, str):
        if value.lower() not in ("0", "1", "true", "false", ""):
            raise BadInput(fields={place: f"{value[:40]!r} is not allowed; 0 or 1"})
        return value.lower() in ("1", "true")
    if not isinstance(value, bool | int | None):
        raise BadInput(fields={place: "is not allowed; 0 or 1"})
    return bool(value)


# ---------------------------------------------------------------- jobs that go out


@dataclass(frozen=True)
class Above:
    """What a job inherits: tags, the priorities from the root down, is a group above paused, how many there are."""

    tags: frozenset[str] = frozenset()
    priorities: tuple[int, ...] = ()
    paused: bool = False

    def below(self, job: Job) -> Above:
        return Above(self.tags | set(job.affinity), (*self.priorities, job.priority), self.paused or job.paused)

    @property
    def rank(self) -> int:
        """The priorities as one number: 8 bits for each of the first 7 levels."""
        return sum(priority << 8 * (6 - level) for level, priority in enumerate(self.priorities[:7]))


class Shown:
    """Writes jobs as the old server did; one for a request, as jobs have groups in common."""

    def __init__(self) -> None:
        self.store = web.farm().store
        self.names = _bits().names()
        self.now = web.farm().clock()
        self._above = {0: Above()}

    def above(self, group: int) -> Above:
        if group not in self._above:
            job = self.store.job(group, our_jobs.viewer())
            self._above[group] = self.above(job.parent).below(job)
        return self._above[group]

    def job(self, job: Job) -> dict[str, Any]:
        mine = self.above(job.parent).below(job)
        return {
            "id": job.id,
            "parent": job.parent,
            "title": job.title,
            "command": job.command or "",
            "dir": job.dir,
            "environment": joined(job.environment),
            "state": _state(job),
            "paused": int(job.paused),
            "worker": job.worker,
            "start_time": int(job.started_at or 0),
            "duration": int(job.run_s),
            "run_done": job.errors + (job.state == JobState.FINISHED and not job.group),
            "timeout": int(job.timeout_s),
            "priority": job.priority,
            "affinity": ",".join(job.affinity),
            "affinity_bits": _mask(job.affinity, self.names),
            "user": job.user,
            **_counters(job),
            "url": job.url,
            "progress": job.progress,
            "progress_pattern": job.progress_pattern or "",
            "dependencies": list(job.depends_on),
            "ping_time": int(self.now if job.state == JobState.WORKING else job.ended_at or 0),
            "h_affinity": _mask(sorted(mine.tags), self.names),
            "h_priority": mine.rank,
            "h_paused": int(mine.paused),
            "h_depth": len(mine.priorities) - 1,
        }

    def children(self, group: int) -> list[dict[str, Any]]:
        return [self.job(job) for job in _children(group)]


def _children(group: int) -> Iterator[Job]:
    return _all(JobQuery(parent=group, limit=PAGE))


def _all(query: JobQuery) -> Iterator[Job]:
    """All jobs that a query finds, page by page."""
    query = replace(query, viewer=our_jobs.viewer())
    while True:
        found, cursor = web.farm().store.jobs(query)
        yield from found
        if cursor is None:
            return
        query = replace(query, after=cursor)


def _state(job: Job) -> str:
    return "PAUSED" if job.paused and job.state in (JobState.WAITING, JobState.PENDING) else job.state


def _counters(job: Job) -> dict[str, int]:
    counts = job.counts
    told = (counts.total, counts.finished, counts.error, counts.working) if counts else (0, 0, 0, 0)
    names = ("total", "finished", "errors", "working")
    return dict(zip((*names, *(f"total_{name}" for name in names[1:])), (*told, *told[1:]), strict=True))


def _existing(job_id: int) -> Job:
    if job_id > MAX_INT:
        raise NotFound(f"there is no job {job_id}")
    return web.farm().store.job(job_id, our_jobs.viewer())


@_route("/jobs", "GET")
def jobs() -> Response:
    return web.reply(Shown().children(0))


@_route("/jobs/<int:job_id>", "GET")
def job(job_id: int) -> Response:
    return web.reply(Shown().job(_existing(job_id)))


@_route("/jobs/<int:job_id>/children", "GET")
def children(job_id: int) -> Response:
    if job_id:
        _existing(job_id)
    return web.reply(Shown().children(job_id))


@_route("/jobs/<int:job_id>/dependencies", "GET")
def dependencies(job_id: int) -> Response:
    shown = Shown()
    return web.reply([shown.job(job) for job in map(_unless_gone, _existing(job_id).depends_on) if job])


def _unless_gone(job_id: int) -> Job | None:
    try:
        return web.farm().store.job(job_id, our_jobs.viewer())
    except NotFound:  # archived
        return None


@_route("/jobs/<int:job_id>/childrendependencies", "GET")
def children_dependencies(job_id: int) -> Response:
    if job_id:
        _existing(job_id)
    return web.reply([{"id": job.id, "dependency": on} for job in _children(job_id) for on in job.depends_on])


@_route("/jobs/<int:job_id>/log", "GET")
def log(job_id: int) -> Response:
    attempt = _existing(job_id).attempt  # of a group, 0
    return Response(_log_as_json(web.farm(), attempt), mimetype="application/json")


def _log_as_json(farm: Farm, attempt: int) -> Iterator[str]:
    """The log as one JSON string, piece by piece: it may be larger than the memory."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offset, size = 0, farm.logs.size(attempt) if attempt else 0
    yield '"'
    while offset < size:
        data = farm.logs.read(attempt, offset).data[: size - offset]
        offset = offset + len(data) if data else size
        yield json.dumps(decoder.decode(data, offset >= size))[1:-1]
    yield '"'


@_route("/jobs/<any(users, states, workers, priorities, affinities):kind>/", "GET")
def values(kind: str) -> Response:
    """The distinct values of an attribute of jobs, each as an object."""
    store, viewer = web.farm().store, our_jobs.viewer()
    found: dict[str, tuple[str, Callable[[], Sequence[Any]]]] = {
        "users": ("user", lambda: store.users(viewer)),
        "priorities": ("priority", lambda: store.priorities(viewer)),
        "states": ("state", lambda: [name.upper() for name, jobs in store.farm_jobs(viewer).items() if jobs]),
        "workers": ("worker", lambda: [worker.name for worker in store.workers()]),
        "affinities": ("affinity", lambda: [row["tag"] for row in store.affinities(viewer) if row["jobs"]]),
    }
    name, read = found[kind]
    return web.reply([{name: value} for value in read()])


# ---------------------------------------------------------------- what is done to jobs


@_route("/jobs", "PUT")
def new_job() -> Response:
    return web.reply(_submit(_object(web.json_body())))


def _submit(given: Mapping[str, Any]) -> int:
    """A new job's id. One without a command is a group; the state may be WAITING or PAUSED."""
    state = _switch(given, ("WAITING", "PAUSED"))
    fields = {"timeout_s": float(DEFAULT_TIMEOUT_S), "priority": DEFAULT_PRIORITY, **_translated(given)}
    fields["paused"] = state == "PAUSED" or _flag(given.get("paused"), "paused")
    fields["progress_pattern"] = fields.get("progress_pattern") or None
    if not fields.get("command"):
        fields |= {"command": None, "group": True}
    return int(our_jobs.accept([from_dict(JobSpec, fields)]).ids[0])


@_route("/jobs", "POST")
def edit_jobs() -> Response:
    """Changes any number of jobs, each in its own way; all is checked before anything is changed."""
    wanted: dict[int, tuple[JobChanges, str]] = {}
    for key, given in _object(web.json_body()).items():
        state = _switch(_object(given), ("WAITING", "PAUSED", "FINISHED"))
        wanted[_whole(key, "id")] = (from_dict(JobChanges, _translated(given)), state)
    for job_id, (changes, _) in wanted.items():
        _existing(job_id)
        our_jobs.may_change([job_id], changes)
    for job_id, (changes, state) in wanted.items():
        _change(job_id, changes, state)
    return _done()


def _change(job_id: int, changes: JobChanges, state: str) -> None:
    store, who = web.farm().store, g.identity.name
    if changes != JobChanges():
        store.edit([job_id], changes, who)
    if state == "PAUSED":
        store.pause([job_id], who)
    elif state == "FINISHED":
        store.skip([job_id], "by an old script", who)
    elif state:
        store.start([job_id], who)
    if state == "WAITING" and store.job(job_id).state in (JobState.FINISHED, JobState.ERROR):
        store.reset([job_id], False, who)


@_route("/jobs/<int:job_id>/dependencies", "POST")
def depend(job_id: int) -> Response:
    changes = from_dict(JobChanges, {"depends_on": _ids(web.json_body())})
    _existing(job_id)
    our_jobs.may_change([job_id], changes)
    web.farm().store.edit([job_id], changes, g.identity.name)
    return _done()


def _on_jobs(ids: Sequence[int], act: Callable[[Sequence[int], str], object], right: str = "edit") -> Response:
    if not ids:
        return web.reply(1)
    must_own(web.farm(), ids, right)
    act(ids, g.identity.name)
    return _done()


@_route("/jobs", "DELETE")
def delete_jobs() -> Response:
    return _on_jobs(_ids(web.json_body()), web.farm().store.delete, "delete")


@_route("/resetjobs", "POST")
def reset_jobs() -> Response:
    return _on_jobs(_ids(web.json_body()), lambda ids, who: web.farm().store.reset(ids, False, who))


@_route("/reseterrorjobs", "POST")
def reset_error_jobs() -> Response:
    return _on_jobs(_ids(web.json_body()), lambda ids, who: web.farm().store.reset(ids, True, who))


@_route("/startjobs", "POST")
def start_jobs() -> Response:
    return _on_jobs(_ids(web.json_body()), web.farm().store.start)


@_route("/pausejobs", "POST")
def pause_jobs() -> Response:
    return _on_jobs(_ids(web.json_body()), web.farm().store.pause)


# ---------------------------------------------------------------- 3.x: control.py, and addjob by form


@blueprint.get("/json/addjob")
def add_job() -> Response:
    return web.reply(_submit(_form(request.args)))


@blueprint.route("/xmlrpc/addjob", methods=["GET", "POST"])
def add_job_text() -> Response:
    try:
        answer = _submit(_form(request.values))
    except BadInput:
        answer = -1
    return Response(str(answer), mimetype="text/plain")


def _form(fields: Mapping[str, str]) -> dict[str, Any]:
    """The fields of addjob; those that are empty count as not given."""
    given: dict[str, Any] = {name: value for name, value in fields.items() if value != ""}
    if "parent" in given:
        given["parent"] = _group_at(given["parent"])
    return given


def _group_at(text: str) -> int:
    """A group by id, or by its titles from the root down: group|subgroup."""
    if re.fullmatch("[0-9]{1,18}", text):
        return int(text)
    group = 0
    for title in text.split("|"):
        found = next((job.id for job in _titled(group, title) if job.group and job.title == title), None)
        if found is None:
            raise BadInput(fields={"parent": f"there is no group {text[:200]!r}"})
        group = found
    return group


def _titled(group: int, title: str) -> Iterator[Job]:
    """The children of a group that have this in their titles."""
    if "\0" in title:
        raise BadInput(fields={"parent": "holds a NUL byte"})
    return _all(JobQuery(parent=group, title=title, limit=PAGE))


COLUMNS: dict[str, str] = {
    "ID": "id",
    "Title": "title",
    "URL": "url",
    "State": "state",
    "Priority": "priority",
    "Affinity": "affinity",
    "User": "user",
    "Worker": "worker",
    "StartTime": "start_time",
    "Duration": "duration",
    "Try": "run_done",
    "Finished": "total_finished",
    "Working": "total_working",
    "Errors": "total_errors",
    "Total": "total",
    "TimeOut": "timeout",
    "Dir": "dir",
    "Command": "command",
    "Environment": "environment",
    "Parent": "parent",
    "Dependencies": "dependencies",
    "LocalProgress": "progress",
    "GlobalProgress": "progress",
}


@blueprint.get("/json/getjobs")
def get_jobs() -> Response:
    group = web.number("id", 0, 0, MAX_INT)
    parents: list[dict[str, Any]] = []
    above = group
    while above:
        one = _existing(above)
        parents.insert(0, {"ID": one.id, "Title": one.title})
        above = one.parent
    table = [[row[name] for name in COLUMNS.values()] for row in Shown().children(group)]
    return web.reply({"Vars": list(COLUMNS), "Jobs": table, "Parents": [{"ID": 0, "Title": "Root"}, *parents]})


@blueprint.get("/json/clearjobs")
def clear_jobs() -> Response:
    job_id = web.number("id", 0, 0, MAX_INT)
    if not job_id:
        raise BadInput(fields={"id": "is missing; the job to delete"})
    return _on_jobs([job_id], web.farm().store.delete, "delete")


# ---------------------------------------------------------------- workers, as people see and change them


@_route("/workers", "GET")
def workers() -> Response:
    return web.reply([_worker(worker) for worker in web.farm().store.workers(our_jobs.viewer())])


def _worker(worker: Worker) -> dict[str, Any]:
    cpus = int(worker.facts.get("cpus", 1))
    busy = min(100, round(100 * worker.load / max(1, cpus)))
    return {
        "name": worker.name,
        "ip": str(worker.facts.get("host", "")),
        "affinity": "\n".join(",".join(line) for line in worker.affinity),
        "state": worker.state,
        "ping_time": int(worker.seen_at),
        "start_time": int(worker.enrolled_at),
        "finished": worker.finished,
        "error": worker.errors,
        "last_job": worker.jobs[0] if worker.jobs else -1,
        "current_event": -1,
        "cpu": json.dumps([busy] * cpus),
        "free_memory": worker.memory_free_bytes // MIB,
        "total_memory": int(worker.facts.get("memory_bytes", 0)) // MIB,
        "active": int(worker.active),
    }


def _named(names: Sequence[Any]) -> list[Worker]:
    """The workers of these names; NotFound for one that is not there."""
    there = {worker.name: worker for worker in web.farm().store.workers()}
    texts = [_text(name, "names") for name in names]
    missing = [name for name in texts if name not in there]
    if missing:
        raise NotFound(f"there is no worker {missing[0][:80]!r}", fields={"names": f"no worker {missing[0][:80]!r}"})
    return [there[name] for name in dict.fromkeys(texts)]


@_route("/workers", "POST")
def edit_workers() -> Response:
    given = {name: _worker_changes(_object(fields)) for name, fields in _object(web.json_body()).items()}
    store = web.farm().store
    for worker in _named(list(given)):
        if given[worker.name] != WorkerChanges():
            store.edit_workers([worker.id], given[worker.name], g.identity.name)
    return _done()


def _worker_changes(given: Mapping[str, Any]) -> WorkerChanges:
    """Its lines of tags and its switch; what else an old script may send is what the worker itself says."""
    fields: dict[str, Any] = {}
    if "affinity" in given:
        lines = re.split(r"\\n|\r?\n", _text(given["affinity"], "affinity"))
        fields["affinity"] = [tags for tags in (_tags(line, "affinity") for line in lines) if tags]
    if "active" in given:
        fields["active"] = _flag(given["active"], "active")
    return from_dict(WorkerChanges, fields)


def _on_workers(act: Callable[[list[Worker], str], object]) -> Response:
    found = _named(_list(web.json_body()))
    if found:
        act(found, g.identity.name)
    return _done()


@_route("/workers", "DELETE")
def delete_workers() -> Response:
    return _on_workers(lambda found, who: web.farm().store.delete_workers([worker.id for worker in found], who))


@_route("/startworkers", "POST")
def start_workers() -> Response:
    switch = WorkerChanges(active=True)
    return _on_workers(lambda found, who: web.farm().store.edit_workers([worker.id for worker in found], switch, who))


@_route("/stopworkers", "POST")
def stop_workers() -> Response:
    return _on_workers(_stop)


def _stop(found: list[Worker], who: str) -> None:
    """They take no more, and what they run is put back."""
    store = web.farm().store
    store.edit_workers([worker.id for worker in found], WorkerChanges(active=False), who)
    held = [job_id for worker in found for job_id in worker.jobs]
    if held:
        store.reset(held, False, who)


@_route("/terminateworkers", "POST")
def terminate_workers() -> Response:
    return _on_workers(_terminate)


def _terminate(found: list[Worker], who: str) -> None:
    """Cloud machines are ended; other workers finish what they run and take no more."""
    store = web.farm().store
    machines = [worker.instance for worker in found if worker.instance is not None]
    if machines:
        store.mark_instances(machines, "terminate", who)
    others = [worker.id for worker in found if worker.instance is None]
    if others:
        store.drain_workers(others, who)


@_route("/events", "GET")
def events() -> Response:
    """The runs of jobs, newest first: what the old server calls events."""
    how_long = web.number("howlong", 0, 0, MAX_INT)
    since = web.farm().clock() - how_long if how_long else 0.0
    job_id = web.number("job", 0, 0, MAX_INT) if request.args.get("job") else None
    runs = web.farm().store.runs(job_id, web.word("worker") or None, since, MAX_EVENTS, viewer=our_jobs.viewer())
    return web.reply(
        [
            {
                "id": run.id,
                "worker": run.worker,
                "job_id": run.job,
                "job_title": run.job_title,
                "state": STATE_OF.get(run.state, run.state),
                "start": int(run.started_at or run.leased_at),
                "duration": int(run.run_s),
            }
            for run in runs
        ]
    )


# ---------------------------------------------------------------- what old workers call


def _agents() -> Agents:
    return cast(Agents, current_app.extensions["coalition.legacy"])


def _job_id() -> int:
    return _whole(request.form.get("jobId") or request.form.get("jobid"), "jobId")


def _plain(text: str) -> Response:
    return Response(text, mimetype="text/plain")


@blueprint.post("/workers/pickjob")
def pick_job() -> Response:
    return _plain(lease_text(web.farm(), _agents().pick(machine_of(request.form))))


@blueprint.post("/workers/heartbeat")
def heartbeat() -> Response:
    try:
        output = base64.b64decode(request.form.get("log", "").replace(" ", "+"))
    except ValueError:
        raise BadInput(fields={"log": "is not base64"}) from None
    return _plain("true" if _agents().beat(machine_of(request.form), _job_id(), output) else "false")


@blueprint.post("/workers/endjob")
def end_job() -> Response:
    code = exit_code(_whole(request.form.get("errorCode"), "errorCode"))
    _agents().end(machine_of(request.form), _job_id(), code)
    return _plain("true")
