"""Who calls, and what they may do. RIGHTS is the one table; a route without a line in it stops the start (and fails a test)."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from flask import Flask, Request, g, request

from coalition.config import LOOPBACK
from coalition.errors import BadInput, NotAllowed, NotAuthenticated

if TYPE_CHECKING:
    from coalition.server.dispatcher import Session
    from coalition.server.web import Farm

T = TypeVar("T")
ANYONE, USER, ADMIN, WORKER = "anyone", "user", "admin", "worker"


@dataclass(frozen=True)
class Right:
    """Who may call a route, and of what: `own` means only what is one's own, except for admins."""

    roles: frozenset[str]
    scope: str = "all"
    legacy: bool = False  # a call of the predecessor's wire, which proves itself in its own ways


def _right(*roles: str, scope: str = "all", legacy: bool = False) -> Right:
    return Right(frozenset(roles), scope, legacy)


SEE = _right(USER, ADMIN)
OWN = _right(USER, ADMIN, scope="own")
ADMINS = _right(ADMIN)
OPEN = _right(ANYONE)
AGENT = _right(WORKER, scope="own")
OLD_SEE = _right(USER, ADMIN, legacy=True)
OLD_OWN = _right(USER, ADMIN, scope="own", legacy=True)
OLD_ADMINS = _right(ADMIN, legacy=True)
OLD_AGENT = _right(WORKER, ADMIN, scope="own", legacy=True)  # an old worker has no credential of its own

RIGHTS: dict[str, Right] = {
    "page.static": OPEN,
    "page.index": OPEN,
    "system.healthz": OPEN,
    "openapi.spec": OPEN,
    "docs.page": OPEN,
    "docs.style": OPEN,
    "package.worker_package": OPEN,  # the program; nothing of the farm is in it
    "system.server": SEE,
    "system.farm": SEE,
    "system.events": SEE,
    "system.archive": SEE,
    "system.archived_job": SEE,
    "system.tokens": ADMINS,
    "system.create_token": ADMINS,
    "system.delete_token": ADMINS,
    "changes.index": SEE,
    "jobs.submit": OWN,
    "jobs.index": SEE,
    "jobs.show": SEE,
    "jobs.edit": OWN,
    "jobs.pause": OWN,
    "jobs.start": OWN,
    "jobs.reset": OWN,
    "jobs.skip": OWN,
    "jobs.append_frames": OWN,
    "jobs.delete": OWN,
    "jobs.attempts": SEE,
    "jobs.all_attempts": SEE,
    "jobs.attempt": SEE,
    "jobs.timeline": SEE,
    "jobs.explain": SEE,
    "jobs.log": SEE,
    "jobs.attempt_log": SEE,
    "jobs.append_log": AGENT,
    "workers.index": SEE,
    "workers.show": SEE,
    "workers.explain": SEE,
    "workers.edit": ADMINS,
    "workers.drain": ADMINS,
    "workers.resume": ADMINS,
    "workers.delete": ADMINS,
    "workers.enrol": OPEN,  # proves itself by token, credential or network
    "workers.sync": AGENT,
    "workers.affinities": SEE,
    "limits.index": SEE,
    "limits.show": SEE,
    "limits.put": ADMINS,
    "limits.delete": ADMINS,
    "cloud.pools": SEE,
    "cloud.resume_pools": ADMINS,
    "cloud.launch": ADMINS,
    "cloud.prices": SEE,
    "cloud.put_prices": ADMINS,
    "cloud.instances": SEE,
    "cloud.instance": SEE,
    "cloud.drain_instances": ADMINS,
    "cloud.terminate_instances": ADMINS,
    "cloud.budgets": SEE,
    "cloud.ledger": SEE,
    "cloud.decisions": SEE,
    "legacy.jobs": OLD_SEE,
    "legacy.job": OLD_SEE,
    "legacy.children": OLD_SEE,
    "legacy.dependencies": OLD_SEE,
    "legacy.children_dependencies": OLD_SEE,
    "legacy.log": OLD_SEE,
    "legacy.values": OLD_SEE,
    "legacy.workers": OLD_SEE,
    "legacy.events": OLD_SEE,
    "legacy.affinities": OLD_SEE,
    "legacy.get_jobs": OLD_SEE,
    "legacy.new_job": OLD_OWN,
    "legacy.edit_jobs": OLD_OWN,
    "legacy.depend": OLD_OWN,
    "legacy.delete_jobs": OLD_OWN,
    "legacy.reset_jobs": OLD_OWN,
    "legacy.reset_error_jobs": OLD_OWN,
    "legacy.start_jobs": OLD_OWN,
    "legacy.pause_jobs": OLD_OWN,
    "legacy.add_job": OLD_OWN,
    "legacy.add_job_text": OLD_OWN,
    "legacy.clear_jobs": OLD_OWN,
    "legacy.edit_workers": OLD_ADMINS,
    "legacy.delete_workers": OLD_ADMINS,
    "legacy.start_workers": OLD_ADMINS,
    "legacy.stop_workers": OLD_ADMINS,
    "legacy.terminate_workers": OLD_ADMINS,
    "legacy.name_affinities": OLD_ADMINS,
    "legacy.pick_job": OLD_AGENT,
    "legacy.heartbeat": OLD_AGENT,
    "legacy.end_job": OLD_AGENT,
}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Identity:
    name: str
    role: str
    worker_id: int | None = None


def install(app: Flask, farm: Farm) -> None:
    """Checks every request before its view runs."""
    lacking = sorted({rule.endpoint for rule in app.url_map.iter_rules()} - RIGHTS.keys())
    if lacking:
        raise RuntimeError(f"routes without a line in RIGHTS: {', '.join(lacking)}")

    @app.before_request
    def check() -> None:
        if request.endpoint is None:
            return
        right = RIGHTS[request.endpoint]
        if right.legacy:
            _refuse_browsers(request)
        if farm.settings.auth.mode == "none" and (right.legacy or WORKER not in right.roles):  # a worker proves itself anyway
            _refuse_foreign_pages(request, forms=right.legacy)
        g.identity = identify(farm, request, right)


def identify(farm: Farm, call: Request, right: Right) -> Identity:
    """Who calls; NotAuthenticated without a good credential, NotAllowed for the wrong role."""
    if ANYONE in right.roles:
        return Identity("", ANYONE)
    if right.legacy:
        return _old_caller(farm, call, right)
    if WORKER in right.roles:
        return _worker(farm, call)
    if farm.settings.auth.mode == "none":
        return Identity("", ADMIN)
    row = farm.store.check_token(bearer(call.headers.get("Authorization", "")))
    if row is None or row.kind != "user":
        raise NotAuthenticated("the token is missing, unknown or expired; send one as Authorization: Bearer TOKEN")
    return _with_role(Identity(row.user, row.role), right)


def _with_role(who: Identity, right: Right) -> Identity:
    if who.role not in right.roles:
        raise NotAllowed(f"{who.name or 'this token'} is {who.role}; this needs {' or '.join(sorted(right.roles))}")
    return who


def _old_caller(farm: Farm, call: Request, right: Right) -> Identity:
    """Who makes a call of the predecessor's wire: by user and API token (HTTP basic), or by its network.

    A worker's call may also bring a site token as the password. In a network of `legacy_networks` it needs nothing, as in
    `enrol_from`, whatever the right of `legacy_user`.
    """
    rules = farm.settings.auth
    if rules.mode == "none":
        return Identity("", ADMIN)
    header = call.headers.get("Authorization", "")
    if not header and in_networks(call.remote_addr, rules.legacy_networks):
        return _with_role(Identity(rules.legacy_user, WORKER if WORKER in right.roles else rules.legacy_role), right)
    user, secret = basic(header)
    row = farm.store.check_token(secret)
    if row is not None and row.kind == "site" and WORKER in right.roles:
        return Identity("", WORKER)
    if row is None or row.kind != "user" or user != row.user:
        raise NotAuthenticated("send the user and an API token as the password (HTTP basic), or see [auth] legacy_networks")
    return _with_role(Identity(row.user, row.role), right)


def _worker(farm: Farm, call: Request) -> Identity:
    g.session = worker_session(farm, bearer(call.headers.get("Authorization", "")))
    return Identity(g.session.row.name, WORKER, g.session.row.id)


def worker_session(farm: Farm, credential: str) -> Session:
    """The session of the worker that this credential proves; NotAuthenticated otherwise."""
    number = credential.partition(".")[0][1:]
    if not credential.startswith("w") or not re.fullmatch("[0-9]{1,18}", number):
        raise NotAuthenticated("a worker's credential is needed; enrol first")
    return farm.dispatcher.session(int(number), credential)


def bearer(header: str) -> str:
    """The text after "Bearer" in an Authorization header, or nothing."""
    kind, _, text = header.partition(" ")
    return text.strip() if kind.lower() == "bearer" else ""


def basic(header: str) -> tuple[str, str]:
    """User and password in an Authorization header, or nothing."""
    kind, _, text = header.partition(" ")
    try:
        plain = base64.b64decode(text.strip(), validate=True).decode() if kind.lower() == "basic" else ""
    except ValueError:  # no base64, no text
        plain = ""
    user, _, password = plain.partition(":")
    return user, password


def _refuse_browsers(call: Request) -> None:
    """The old calls change jobs by GET and forms, and may need no log-in: a page of any site could send them from a browser."""
    if "Sec-Fetch-Site" in call.headers or call.headers.get("User-Agent", "").startswith("Mozilla/"):
        raise NotAllowed("these calls are for scripts and workers of Coalition 3.x and 4.0, not for browsers; the page is at /")


def _refuse_foreign_pages(call: Request, forms: bool = False) -> None:
    """Without log-in, a page of another site must not reach us through the user's browser (DNS rebinding, forged posts)."""
    try:
        host = urlsplit(f"//{call.host}").hostname or ""
    except ValueError:  # such as "["
        host = call.host
    if not LOOPBACK.match(host):
        raise NotAllowed(f"without authentication only loopback names are served, not {host[:80]!r}")
    origin = call.headers.get("Origin")
    if origin is not None and origin != f"{call.scheme}://{call.host}":
        raise NotAllowed("requests from pages of other sites are not served")
    if not forms and call.method not in SAFE_METHODS and call.mimetype not in ("application/json", "application/octet-stream"):
        raise BadInput("send Content-Type: application/json", fields={"Content-Type": "must be application/json"})


def must_own(farm: Farm, ids: Sequence[int], *, below: bool = True) -> None:
    """NotAllowed if the caller is no admin and one of the jobs, or one below them, belongs to somebody else."""
    who: Identity = g.identity
    if who.role == ADMIN:
        return
    others = farm.store.owners(ids, below=below) - {who.name}
    if others:
        raise NotAllowed(f"{who.name} may change own jobs only; these belong to {', '.join(sorted(others))[:200]}")


def for_caller(rows: Iterable[T], is_own: Callable[[T], bool] = lambda row: False) -> list[T]:
    """Rows as the caller may act on them: who is no admin has no actions on what is not their own."""
    who: Identity = g.identity
    return [row if who.role == ADMIN or is_own(row) else _without_actions(row) for row in rows]


def _without_actions(row: T) -> T:
    if isinstance(row, dict):
        return cast(T, {**row, "allowed_actions": []})
    return cast(T, replace(cast(Any, row), allowed_actions=()))


def in_networks(address: str | None, networks: Iterable[str]) -> bool:
    """Whether an address lies in one of the networks."""
    try:
        peer = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(peer, "ipv4_mapped", None) or peer
    return any(mapped in ipaddress.ip_network(network) for network in networks)
