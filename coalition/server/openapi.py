"""The API's own description: OpenAPI 3.1 at /api/openapi.json (as a page: docs.py).

Bodies and answers are drawn from the dataclasses of the wire (coalition/model.py); what else a route takes and gives stands in
OPERATIONS, where a route without a line fails a test.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Flask, Response, current_app

import coalition
from coalition import model
from coalition.logs import MAX_READ
from coalition.server import cloud, jobs, logins, system, web
from coalition.server.auth import ANYONE, COOKIE, RIGHTS, WORKER
from coalition.server.changes import MAX_WAIT_S
from coalition.states import InstanceState, JobState, WorkerState
from coalition.store.costs import COLUMNS as COST_COLUMNS
from coalition.store.lists import SORTS

blueprint = Blueprint("openapi", __name__)

Schema = dict[str, Any]
SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
TEXT: Schema = {"type": "string"}
ID: Schema = {"type": "integer", "minimum": 0, "maximum": model.MAX_INT}

SECOND: Schema = {"type": "integer", "minimum": 0, "maximum": system.LATEST}


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _words(*allowed: str) -> Schema:
    return {"type": "string", "enum": list(allowed)}


@dataclass(frozen=True)
class Operation:
    """What a route takes and gives. `reply` is a shape: a type, [a type], or a dict of shapes; None: bytes or a page."""

    summary: str
    reply: Any = None
    body: type | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, Schema] = field(default_factory=dict)
    or_status: int | None = None  # another one that answers the same
    media: str = "application/json"
    accepts: str = "application/json"


TAKEN_TOO = (model.Dependency, model.Price)  # stands in bodies as well as in answers
CHANGED = {"changed": int}
ASKED = {"changed": int, "note": str}
BUDGET_CHANGE = {"before": dict[str, Any] | None, "after": dict[str, Any] | None, "effect": dict[str, Any], "dry_run": bool}
YES = _words("true", "false")
KEY: Schema = {
    "type": "string",
    "pattern": "^[!-~]{1,128}$",
    "description": "a call of the same caller, key and body is answered as before, for a day; another body is refused",
}
DRY = {"dry_run": {**YES, "description": "says what would happen, and changes nothing"}}
BULK = {"partial": {**YES, "description": "leaves out what cannot be, and says so; else one refusal refuses all"}, **DRY}
ACT = functools.partial(Operation, reply=model.Changed, query=BULK)
REASONS = [str]
ROWS = [dict[str, Any]]
WAIT: Schema = {**_whole(0, MAX_WAIT_S), "description": "so many seconds at most, for something new"}
PIECE = {"offset": _whole(-model.MAX_INT, model.MAX_INT), "limit": _whole(1, MAX_READ), "wait": WAIT}
PAGES: dict[str, Schema] = {
    "limit": _whole(1, 1_000),
    "cursor": {"type": "string", "description": "`next` of the page before"},
    "fields": {"type": "string", "description": "some of the fields of the rows, such as id,state"},
}


@dataclass(frozen=True)
class Some:
    """A shape: rows of a kind, of which a call may have asked for some fields only."""

    kind: type


def _list(name: str, kind: type | None = None) -> dict[str, Any]:
    """The answer of a list that goes on at its `next`."""
    return {name: ROWS if kind is None else [Some(kind)], "next": str | None}


def _sorted_by(*names: str) -> dict[str, Schema]:
    return {"sort": _words(*names, *(f"-{name}" for name in names)), **PAGES, "limit": _whole(1, 10_000)}


LOG = functools.partial(Operation, query=PIECE, media="application/octet-stream")
JOB_FILTERS: dict[str, Schema] = {
    "parent": ID,
    "state": _words(*JobState),
    "user": {"type": "string"},
    "title": {"type": "string", "description": "a part of the title"},
    "paused": _words("0", "1"),
    "filter": {"type": "string", "description": 'such as state:ERROR user:ann created>-2h "shot 10"'},
    "sort": _words(*SORTS, *(f"-{name}" for name in SORTS)),
    "offset": {**_whole(0, model.MAX_INT), "description": "leaves out so many jobs, of a list whose `total` is told"},
    **PAGES,
}
ARCHIVE_FILTERS: dict[str, Schema] = {
    **dict.fromkeys(("parent", "before"), ID),
    "user": {"type": "string"},
    "title": {"type": "string", "description": "a part of the title"},
    **PAGES,
}
EVENT_FILTERS: dict[str, Schema] = {
    "below": _words("0", "1"),
    **dict.fromkeys(("job", "worker", "instance", "since", "until", "before"), ID),
    "user": {"type": "string"},
    "kind": {"type": "string"},
    **PAGES,
}

COSTS: dict[str, Schema] = {
    "group_by": _words(*COST_COLUMNS),
    **dict.fromkeys(("since", "until", "job", "group"), ID),
    **dict.fromkeys(("pool", "user", "tag"), TEXT),
}
AUDIT_FILTERS: dict[str, Schema] = {
    **dict.fromkeys(("user", "address"), TEXT),
    "kind": {"type": "string", "description": "such as job.edit, or job for all of its kinds"},
    **dict.fromkeys(("since", "until", "before"), ID),
    **PAGES,
}

OPERATIONS: dict[str, Operation] = {
    "measures.healthz": Operation("Whether the server and its database answer", {"ok": bool}),
    "measures.readyz": Operation(
        "Whether calls may be sent here, and what is wrong otherwise", {"ok": bool, "problems": dict[str, str]}, or_status=503
    ),
    "measures.scrape": Operation("Everything that is measured, for Prometheus", media="text/plain"),
    "openapi.spec": Operation("This description", dict[str, Any]),
    "docs.page": Operation("This description as a page", media="text/html"),
    "docs.style": Operation("That page's style", media="text/css"),
    "package.worker_package": Operation("The wheel of the running version, for machines that start", media="application/zip"),
    "package.studio_package": Operation("A package of the studio, for machines that start", media="application/octet-stream"),
    "system.server": Operation(
        "The server, and who calls",
        {
            "farm": str,
            "version": str,
            "protocol": int,
            "now": float,
            "auth": str,
            "user": str,
            "role": str,
            "rights": [str],
            "csrf": str,
            "url": str,
            "url_schemes": [str],
            "pictures_from": [str],
        },
    ),
    "system.farm": Operation("Counts of jobs, workers and instances, budgets, and what the machines cost now", dict[str, Any]),
    "system.history": Operation(
        "How the farm did: averages over minutes, or over longer steps",
        {"step_s": int, "points": [dict[str, Any]]},
        query={"since": SECOND, "until": SECOND},
    ),
    "system.events": Operation("What happened, newest first", _list("events"), query=EVENT_FILTERS),
    "system.audit": Operation("Who did what from where, with before and after", _list("audit"), query=AUDIT_FILTERS),
    "system.archive": Operation("Jobs that were finished long ago, newest first", _list("jobs"), query=ARCHIVE_FILTERS),
    "system.archived_job": Operation("An archived job as it was, with its attempts", dict[str, Any]),
    "logins.log_in": Operation(
        "Logs in with a password: a cookie, or a token for a script",
        {"user": str, "role": str, "expires_s": float, "csrf": str, "token": str},
        logins.LogIn,
    ),
    "logins.log_out": Operation("Ends the log-in", CHANGED),
    "logins.password": Operation("Changes one's own password, and ends one's log-ins", CHANGED, logins.NewPassword),
    "logins.users": Operation("The users with passwords", {"users": ROWS}),
    "logins.create_user": Operation("A new user", {"name": str}, logins.NewUser, status=201),
    "logins.edit_user": Operation("Another password or role; ends their log-ins", CHANGED, logins.UserChanges),
    "logins.delete_user": Operation("Removes a user, with all log-ins and tokens", CHANGED),
    "system.tokens": Operation("The tokens, without their secrets", {"tokens": ROWS}),
    "system.create_token": Operation("A new token, shown once", {"id": str, "token": str}, system.NewToken, status=201),
    "system.delete_token": Operation("Revokes a token", CHANGED),
    "changes.index": Operation(
        "What changed since the cursor of the answer before; waits for it. `poll_s`: ask again after so long",
        {"cursor": str, "changed": [str], "poll_s": float},
        query={"since": {"type": "string"}, "wait": WAIT},
    ),
    "jobs.submit": Operation(
        "Submits jobs, groups and frame ranges, all or none",
        {"ids": [int], "count": int, "refs": dict[str, int], "dry_run": model.Rehearsal | None},
        jobs.Submission,
        query=DRY,
        headers={"Idempotency-Key": KEY},
        status=201,
        or_status=200,
    ),
    "jobs.index": Operation("A page of jobs", dict[str, Any], query=JOB_FILTERS),
    "jobs.show": Operation("One job", model.Job),
    "jobs.edit": ACT("Changes fields of jobs; `parent` moves them", body=model.Edit),
    "jobs.edits": Operation(
        "Changes fields of different jobs in different ways, all or none", body=model.Edits, reply=model.Changed
    ),
    "jobs.pause": ACT("Holds jobs and all below them; what runs is stopped and put back", body=model.JobSelection),
    "jobs.start": ACT("Takes the pause off jobs", body=model.JobSelection),
    "jobs.reset": ACT("Runs jobs again, or those in error", body=model.ResetSelection),
    "jobs.skip": ACT("Lets jobs and all below them count as finished", body=model.SkipSelection),
    "jobs.append_frames": Operation(
        "Appends frames to a range, or to a group with a command",
        {"group": int, "first": int, "count": int},
        model.MoreFrames,
        status=201,
    ),
    "jobs.delete": ACT("Removes jobs and all below them", body=model.JobSelection),
    "jobs.attempts": Operation("The attempts of a job, newest first", _list("attempts", model.Attempt), query=PAGES),
    "jobs.all_attempts": Operation(
        "The attempts of all jobs, newest first",
        _list("attempts", model.Attempt),
        query={"job": _whole(1, model.MAX_INT), "worker": {"type": "string"}, "since": ID, **PAGES},
    ),
    "jobs.attempt": Operation("One attempt", model.Attempt),
    "jobs.timeline": Operation(
        "What happened to a job, its attempts too, newest first",
        {"timeline": ROWS},
        query={"until": ID, "limit": _whole(1, 1_000)},
    ),
    "jobs.explain": Operation("Why a job is not running", dict[str, Any]),
    "jobs.log": LOG("The log of a job's newest attempt; X-Log-* headers tell where it is, X-Log-Cut where it was cut"),
    "jobs.attempt_log": LOG("The log of an attempt"),
    "jobs.append_log": Operation(
        "Appends to the log of an attempt, at an offset",
        {"size": int},
        query={"offset": ID},
        accepts="application/octet-stream",
    ),
    "workers.index": Operation(
        "The workers",
        _list("workers", model.Worker),
        query={"state": _words(*WorkerState), **_sorted_by("name", "id", "state", "running", "load", "seen_at")},
    ),
    "workers.show": Operation("One worker", model.Worker),
    "workers.explain": Operation("Why a worker is idle", dict[str, Any]),
    "workers.edit": ACT("Changes fields of workers", body=model.WorkerEdit),
    "workers.drain": ACT("Lets workers end what they run, and take no more", body=model.Selection),
    "workers.resume": ACT("Lets workers take jobs again; forgives sick ones", body=model.Selection),
    "workers.delete": ACT("Removes workers; what they run is put back", body=model.Selection),
    "workers.discover": Operation("Proves to who found an address that this is the farm's server", model.Proof, model.Challenge),
    "workers.enrol": Operation("Lets a worker in", model.Enrolled, model.Enrol),
    "workers.sync": Operation("Heartbeat, report, renewal and fetch in one call", model.SyncReply, model.Sync),
    "workers.affinities": Operation(
        "The tags that jobs and workers name", _list("affinities"), query=_sorted_by("tag", "workers", "jobs")
    ),
    "limits.index": Operation(
        "The limits and their use", _list("limits", model.Limit), query=_sorted_by("name", "maximum", "used", "waiting")
    ),
    "limits.show": Operation("One limit", model.Limit),
    "limits.put": Operation("Defines a limit", CHANGED, model.LimitChanges),
    "limits.delete": Operation("Forgets a limit", CHANGED),
    "cloud.pools": Operation(
        "The pools of cloud.ini and their machines", _list("pools"), query=_sorted_by("name", "provider", "max")
    ),
    "cloud.resume_pools": Operation("Lets blocked pools start machines again", CHANGED, cloud.Names),
    "cloud.drain_pools": Operation("Ends the machines of pools as their jobs end, and starts none", CHANGED, cloud.Names),
    "cloud.pause_scaling": Operation("Starts no machines until it is resumed", CHANGED),
    "cloud.resume_scaling": Operation("Lets machines be started again", CHANGED),
    "cloud.launch": Operation("Asks for machines by hand, within the budgets", ASKED, cloud.LaunchWish),
    "cloud.prices": Operation(
        "What machines cost, who said so and when",
        _list("prices", model.ShownPrice),
        query={**_sorted_by("type", "price_micro", "as_of"), **dict.fromkeys(("provider", "region", "type"), TEXT)},
    ),
    "cloud.put_prices": Operation("Brings prices", CHANGED, cloud.PriceList),
    "cloud.instances": Operation(
        "The cloud machines",
        _list("instances"),
        query={
            "state": _words(*InstanceState),
            "pool": {"type": "string"},
            "all": _words("0", "1"),
            **PAGES,
            "limit": _whole(1, 10_000),
        },
    ),
    "cloud.instance": Operation("One cloud machine, also one that is gone", dict[str, Any]),
    "cloud.drain_instances": ACT("Lets machines end what they run, then ends them", body=model.Selection),
    "cloud.terminate_instances": ACT("Ends machines at once", body=model.Selection),
    "cloud.budgets": Operation(
        "The budgets, with what is spent and reserved",
        _list("budgets"),
        query=_sorted_by("name", "cap_micro", "spent_micro", "left_micro"),
    ),
    "cloud.budget": Operation("One budget", dict[str, Any]),
    "cloud.create_budget": Operation(
        "A budget beside those of cloud.ini", BUDGET_CHANGE, cloud.NewBudget, query=DRY, status=201, or_status=200
    ),
    "cloud.edit_budget": Operation("Other values for a budget", BUDGET_CHANGE, cloud.BudgetChanges, query=DRY),
    "cloud.delete_budget": Operation("Removes a budget of run time, or what was changed of the file's", BUDGET_CHANGE, query=DRY),
    "cloud.ledger": Operation(
        "What was spent, by day or by pool",
        _list("entries"),
        query={"since": ID, "group_by": _words("day", "pool"), **_sorted_by("key", "amount_micro", "seconds")},
    ),
    "cloud.cost": Operation(
        "What was spent, booked and running: work, waste (of attempts that did not count), idle and boot time",
        _list("entries"),
        query={**COSTS, **_sorted_by("key", "amount_micro", "seconds")},
    ),
    "cloud.cost_csv": Operation("The same as comma-separated values", media="text/csv", query=COSTS),
    "cloud.forecast": Operation(
        "When what is open will be done, and what it will cost, with the range of 9 of 10 outcomes",
        dict[str, Any],
        query={"job": ID},
    ),
    "cloud.decisions": Operation(
        "What the autoscaler did or not, and why",
        _list("decisions"),
        query={"pool": {"type": "string"}, **PAGES},
    ),
}


# ---------------------------------------------------------------- from types to schemas


class Schemas:
    """JSON schemas of types; each dataclass stands once, among the components."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers  # every field is there, and no other
        self.named: dict[str, Schema] = {}

    def of(self, shape: Any) -> Schema:
        """The schema of a type, of [a type], or of a dict of shapes."""
        if isinstance(shape, Some):
            self.of(shape.kind)
            return {name: part for name, part in self.named[shape.kind.__name__].items() if name != "required"}
        if isinstance(shape, list):
            return {"type": "array", "items": self.of(shape[0])}
        if isinstance(shape, dict):
            parts = {name: self.of(part) for name, part in shape.items()}
            return {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
        if dataclasses.is_dataclass(shape):
            return self._component(shape)  # type: ignore[arg-type]
        return self._generic(shape)

    def _generic(self, hint: Any) -> Schema:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return {}
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(arg) for arg in args]}
        if origin is not None and issubclass(origin, Mapping):
            values = self.of(args[1])
            return {"type": "object", **({"additionalProperties": values} if values else {})}
        if origin is not None and issubclass(origin, Sequence):
            return {"type": "array", "items": self.of(args[0])}
        return {"type": SCALARS[hint]}

    def _component(self, kind: type) -> Schema:
        name = kind.__name__
        if name not in self.named:
            self.named[name] = {}  # it may hold itself
            hints = typing.get_type_hints(kind)
            fields = {one.name: self._field(hints[one.name], one) for one in dataclasses.fields(kind)}
            whole = self.answers and kind not in TAKEN_TOO
            must = [one.name for one in dataclasses.fields(kind) if whole or _is_required(one)]
            self.named[name] = {"type": "object", "properties": fields, "additionalProperties": False}
            if must:
                self.named[name]["required"] = must
            if kind.__doc__ and not kind.__doc__.startswith(f"{name}("):
                self.named[name]["description"] = kind.__doc__.partition("\n\n")[0]
        return {"$ref": f"#/components/schemas/{name}"}

    def _field(self, hint: Any, one: dataclasses.Field[Any]) -> Schema:
        schema = self.of(hint)
        rules = {name: value for name, value in one.metadata.items() if value is not None and value != ""}
        for part in schema.get("anyOf", [schema]):
            part.update(_bounds(part.get("type", ""), rules))
        if "help" in rules:
            schema["description"] = rules["help"]
        if isinstance(one.default, (str, int, float, bool)) and not self.answers:
            schema["default"] = one.default
        return schema


def _is_required(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _bounds(kind: str, rules: Mapping[str, Any]) -> Schema:
    if kind in ("integer", "number"):
        bounds = {"minimum": rules.get("low"), "maximum": rules.get("high", model.MAX_INT if kind == "integer" else None)}
    else:
        names = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
        bounds = {names[kind]: rules.get("length")} if kind in names else {}
    return {name: value for name, value in bounds.items() if value is not None}


# ---------------------------------------------------------------- the document

PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457; `fields` says of each wrong field what is wrong with it",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["title", "status"],
}


def document(app: Flask) -> dict[str, Any]:
    """The whole description of an application's routes."""
    taken, given = Schemas(answers=False), Schemas(answers=True)
    paths: dict[str, dict[str, Any]] = {}
    for path, method, endpoint in sorted(_routes(app)):
        described = _operation(path, endpoint, OPERATIONS[endpoint], taken, given)
        if method == "get" and OPERATIONS[endpoint].media == "application/json":
            described["responses"]["304"] = {"description": "nothing new since the ETag in If-None-Match"}
        paths.setdefault(_template(path), {})[method] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "Coalition", "version": coalition.__version__},
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM, **dict(sorted({**taken.named, **given.named}.items()))},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


def _routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.startswith(("page.", "legacy.")):
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                yield rule.rule, method.lower(), rule.endpoint


def _template(path: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)


def _operation(path: str, endpoint: str, one: Operation, taken: Schemas, given: Schemas) -> dict[str, Any]:
    answer: Schema = {"schema": given.of(one.reply)} if one.reply is not None else {}
    described: dict[str, Any] = {
        "operationId": endpoint,
        "summary": one.summary,
        "tags": [path.removeprefix("/api/v1/").split("/")[0] if path.startswith("/api/v1/") else "server"],
        "responses": {
            **{
                str(status): {"description": one.summary, "content": {one.media: answer}}
                for status in (one.status, one.or_status)
                if status
            },
            "default": {
                "description": "a problem",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    places = [
        {"name": name, "in": "path", "required": True, "schema": ID if kind == "int:" else {"type": "string"}}
        for kind, name in re.findall(r"<(\w+:)?(\w+)>", path)
    ]
    asked = [{"name": name, "in": "query", "schema": schema} for name, schema in one.query.items()]
    asked += [{"name": name, "in": "header", "schema": schema} for name, schema in one.headers.items()]
    if places or asked:
        described["parameters"] = places + asked
    if one.body:
        described["requestBody"] = {"required": True, "content": {one.accepts: {"schema": taken.of(one.body)}}}
    elif one.accepts != "application/json":
        described["requestBody"] = {"required": True, "content": {one.accepts: {}}}
    roles = RIGHTS[endpoint].roles
    if ANYONE not in roles:
        described["security"] = [{"token": []}] if WORKER in roles else [{"token": []}, {"session": []}]
    described["x-who"] = sorted(roles) if WORKER not in roles else ["the worker itself"]
    return described


@blueprint.get("/api/openapi.json")
def spec() -> Response:
    return web.reply(document(current_app))
