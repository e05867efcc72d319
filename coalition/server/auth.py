"""Who calls, and what they may do. RIGHTS is the one table; a route without a line in it stops the start (and fails a test)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from flask import Flask, Request, g, request

from coalition.config import LOOPBACK
from coalition.errors import BadInput, NotAllowed, NotAuthenticated
from coalition.model import Job
from coalition.rights import ALL, ROLES, narrowed, roles_with, within
from coalition.store.workers import in_networks

if TYPE_CHECKING:
    from coalition.server.dispatcher import Session
    from coalition.server.web import Farm
    from coalition.store.workers import TokenRow

T = TypeVar("T")
ANYONE, KNOWN, ADMIN, WORKER = "anyone", "known", "admin", "worker"
COOKIE = "coalition_session"
CSRF = "X-CSRF-Token"


@dataclass(frozen=True)
class Right:
    """Who may call a route: whoever has the right `needs`; of jobs, of their own ones at least (the route looks at which)."""

    needs: str
    legacy: bool = False  # a call of the predecessor's wire, which proves itself in its own ways
    measured: bool = False  # open also to the networks of `metrics_networks`

    @property
    def roles(self) -> frozenset[str]:
        """The roles that may call it."""
        if self.needs in (ANYONE, WORKER):
            return frozenset((self.needs, ADMIN) if self.legacy else (self.needs,))
        return frozenset(ROLES) if self.needs == KNOWN else roles_with(self.needs)


OPEN = Right(ANYONE)
ANY_USER = Right(KNOWN)
SEE = Right("view")  # of own jobs at least; also workers and limits
SEE_ALL = Right("view_all")  # what is of everybody's jobs: machines, money
CREATE, EDIT, DELETE = Right("create"), Right("edit"), Right("delete")
WORKERS, CLOUD, BUDGETS, ADMINS = (Right(needs) for needs in ("workers", "cloud", "budgets", "admin"))
AGENT = Right(WORKER)
OLD_SEE, OLD_CREATE, OLD_EDIT, OLD_DELETE = (Right(needs, legacy=True) for needs in ("view", "create", "edit", "delete"))
OLD_WORKERS = Right("workers", legacy=True)
OLD_AGENT = Right(WORKER, legacy=True)  # an old worker has no credential of its own

RIGHTS: dict[str, Right] = {
    "page.static": OPEN,
    "page.index": OPEN,
    "measures.healthz": OPEN,
    "measures.readyz": OPEN,
    "measures.scrape": Right("view_all", measured=True),
    "openapi.spec": OPEN,
    "docs.page": OPEN,
    "docs.style": OPEN,
    "package.worker_package": OPEN,  # the program; nothing of the farm is in it
    "package.studio_package": OPEN,  # the caller proves itself by its enrolment token
    "system.server": ANY_USER,
    "system.farm": SEE,
    "system.history": SEE_ALL,
    "system.events": SEE,
    "system.audit": ADMINS,
    "system.archive": SEE,
    "system.archived_job": SEE,
    "logins.log_in": OPEN,  # proves itself by name and password
    "logins.log_out": ANY_USER,
    "logins.password": ANY_USER,
    "logins.users": ADMINS,
    "logins.create_user": ADMINS,
    "logins.edit_user": ADMINS,
    "logins.delete_user": ADMINS,
    "system.tokens": ADMINS,
    "system.create_token": ADMINS,
    "system.delete_token": ADMINS,
    "changes.index": SEE,
    "jobs.submit": CREATE,
    "jobs.index": SEE,
    "jobs.show": SEE,
    "jobs.edit": EDIT,
    "jobs.edits": EDIT,
    "jobs.pause": EDIT,
    "jobs.start": EDIT,
    "jobs.reset": EDIT,
    "jobs.skip": EDIT,
    "jobs.append_frames": EDIT,
    "jobs.delete": DELETE,
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
    "workers.explain": SEE_ALL,
    "workers.edit": WORKERS,
    "workers.drain": WORKERS,
    "workers.resume": WORKERS,
    "workers.delete": WORKERS,
    "workers.discover": OPEN,  # tells nothing that a datagram does not
    "workers.enrol": OPEN,  # proves itself by token, credential or network
    "workers.sync": AGENT,
    "workers.affinities": SEE,
    "limits.index": SEE,
    "limits.show": SEE,
    "limits.put": WORKERS,
    "limits.delete": WORKERS,
    "cloud.pools": SEE_ALL,
    "cloud.resume_pools": CLOUD,
    "cloud.drain_pools": CLOUD,
    "cloud.pause_scaling": CLOUD,
    "cloud.resume_scaling": CLOUD,
    "cloud.launch": CLOUD,
    "cloud.prices": SEE_ALL,
    "cloud.put_prices": BUDGETS,
    "cloud.instances": SEE_ALL,
    "cloud.instance": SEE_ALL,
    "cloud.drain_instances": CLOUD,
    "cloud.terminate_instances": CLOUD,
    "cloud.budgets": SEE_ALL,
    "cloud.budget": SEE_ALL,
    "cloud.create_budget": BUDGETS,
    "cloud.edit_budget": BUDGETS,
    "cloud.delete_budget": BUDGETS,
    "cloud.ledger": SEE_ALL,
    "cloud.cost": SEE_ALL,
    "cloud.cost_csv": SEE_ALL,
    "cloud.forecast": SEE_ALL,
    "cloud.decisions": SEE_ALL,
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
    "legacy.new_job": OLD_CREATE,
    "legacy.edit_jobs": OLD_EDIT,
    "legacy.depend": OLD_EDIT,
    "legacy.delete_jobs": OLD_DELETE,
    "legacy.reset_jobs": OLD_EDIT,
    "legacy.reset_error_jobs": OLD_EDIT,
    "legacy.start_jobs": OLD_EDIT,
    "legacy.pause_jobs": OLD_EDIT,
    "legacy.add_job": OLD_CREATE,
    "legacy.add_job_text": OLD_CREATE,
    "legacy.clear_jobs": OLD_DELETE,
    "legacy.edit_workers": OLD_WORKERS,
    "legacy.delete_workers": OLD_WORKERS,
    "legacy.start_workers": OLD_WORKERS,
    "legacy.stop_workers": OLD_WORKERS,
    "legacy.terminate_workers": OLD_WORKERS,
    "legacy.name_affinities": OLD_WORKERS,
    "legacy.pick_job": OLD_AGENT,
    "legacy.heartbeat": OLD_AGENT,
    "legacy.end_job": OLD_AGENT,
}
OF_USERS = ("user", "login")  # kinds of tokens that act as their user
TOKEN = re.compile(r"[0-9a-f]{12}\.[\w-]{40,}")  # the form of ours: one that has ended is no guess at a password
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
WORDS = {"create": "submit into", "view": "see", "edit": "change", "delete": "delete"}


@dataclass(frozen=True)
class Identity:
    """Who calls. `may` are the rights of rights.py; `session` is the log-in that its cookie proves."""

    name: str
    role: str
    worker_id: int | None = None
    may: frozenset[str] = frozenset()
    session: str = ""

    def owner_for(self, right: str) -> str | None:
        """Whose jobs the right is for: None, everybody's."""
        return None if f"{right}_all" in self.may else self.name

    @property
    def viewer(self) -> str | None:
        """Who is told of own jobs only; None is told of everybody's."""
        return self.owner_for("view")


EVERYTHING = Identity("", ADMIN, may=ALL)  # who calls where nobody logs in


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
        if farm.settings.auth.mode == "none" and (right.legacy or right.needs != WORKER):  # a worker proves itself anyway
            _refuse_foreign_pages(request, forms=right.legacy)
        g.identity = identify(farm, request, right)


def identify(farm: Farm, call: Request, right: Right) -> Identity:
    """Who calls; NotAuthenticated without a good credential, NotAllowed without the right."""
    if right.needs == ANYONE:
        return Identity("", ANYONE)
    if right.legacy:
        return _old_caller(farm, call, right)
    if right.needs == WORKER:
        return _worker(farm, call)
    if farm.settings.auth.mode == "none":
        return EVERYTHING
    if right.measured and _scrapes(farm, call):
        return Identity("", "metrics")
    return _entitled(_user(farm, call), right)


PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")


def _scrapes(farm: Farm, call: Request) -> bool:
    """Whether a call without a credential comes from a network that may read what is measured, by itself: not from a page of
    some site in a browser there, and not through a proxy, which gives everybody its own address."""
    passed_on = any(name in call.headers for name in PASSED_ON)
    browser = "Sec-Fetch-Site" in call.headers or call.headers.get("User-Agent", "").startswith("Mozilla/")
    proves = "Authorization" in call.headers or COOKIE in call.cookies
    return not (passed_on or browser or proves) and in_networks(call.remote_addr, farm.settings.auth.metrics_networks)


def _user(farm: Farm, call: Request) -> Identity:
    """The user whom an API token proves, or the cookie of a log-in."""
    header, mode = call.headers.get("Authorization", ""), farm.settings.auth.mode
    if COOKIE in call.cookies and not header:
        row = _proved(farm, call.cookies[COOKIE])
        if row is None or row.kind != "session":
            raise NotAuthenticated("the log-in is over; log in again", auth=mode)
        if call.method not in SAFE_METHODS:
            _refuse_forged(call, call.cookies[COOKIE])
        return replace(_identity_of(row), session=row.id)
    row = _proved(farm, bearer(header))
    if row is None or row.kind not in OF_USERS:
        raise NotAuthenticated("the token is missing, unknown or expired; send one as Authorization: Bearer TOKEN", auth=mode)
    return _identity_of(row)


def _proved(farm: Farm, text: str) -> TokenRow | None:
    """The token or log-in that a text proves, with what its user may now."""
    row = farm.store.check_token(text)
    return farm.logins.current(row) if row is not None else None


def _identity_of(row: TokenRow) -> Identity:
    """Who calls by a token: with its role's rights, never more than its user has now. A log-in has all of those."""
    given = row.bound if row.kind != "user" and row.bound is not None else within(ROLES.get(row.role, ()), row.bound)
    return Identity(row.user, row.role, may=narrowed(given, row.scope))


def csrf_token(cookie: str) -> str:
    """What a page must send with each change to show that it could read an answer of ours: no other site can."""
    return hmac.new(cookie.encode(), b"coalition csrf", hashlib.sha256).hexdigest()


def _refuse_forged(call: Request, cookie: str) -> None:
    """A browser sends the cookie whoever asks it to; a change must also bring what only our page knows."""
    given = call.headers.get(CSRF, "")
    if not hmac.compare_digest(given.encode(), csrf_token(cookie).encode()):
        raise NotAllowed(f"send the log-in's csrf token as {CSRF}; GET /api/v1/server tells it")


def _entitled(who: Identity, right: Right) -> Identity:
    if right.needs not in (KNOWN, *who.may):
        name, scoped = who.name or "this token", right.needs in ROLES.get(who.role, ())
        why = f"the token's scope is without {right.needs}" if scoped else f"this needs {' or '.join(sorted(right.roles))}"
        raise NotAllowed(f"{name} is {who.role}; {why}")
    return who


def _old_caller(farm: Farm, call: Request, right: Right) -> Identity:
    """Who makes a call of the predecessor's wire: by user and API token (HTTP basic), or by its network.

    A worker's call may also bring a site token as the password. In a network of `legacy_networks` it needs nothing, as in
    `enrol_from`, whatever the right of `legacy_user`.
    """
    rules = farm.settings.auth
    if rules.mode == "none":
        return EVERYTHING
    header = call.headers.get("Authorization", "")
    agent = right.needs == WORKER
    if not header and in_networks(call.remote_addr, rules.legacy_networks):
        role = WORKER if agent else rules.legacy_role
        return _old_entitled(Identity(rules.legacy_user, role, may=ROLES.get(role, frozenset())), right)
    user, secret = basic(header)
    row = _proved(farm, secret)
    if row is not None and row.kind == "site" and agent:
        return Identity("", WORKER)
    if row is not None and row.kind in OF_USERS and user == row.user:
        return _old_entitled(_identity_of(row), right)
    if user and secret and rules.mode != "token" and row is None and not TOKEN.fullmatch(secret):
        return _old_entitled(farm.logins.prove(user, secret, call.remote_addr or ""), right)
    raise NotAuthenticated("send the user and an API token as the password (HTTP basic), or see [auth] legacy_networks")


def _old_entitled(who: Identity, right: Right) -> Identity:
    """The calls of old workers are for them, and for admins."""
    if right.needs != WORKER:
        return _entitled(who, right)
    if who.role != WORKER and "admin" not in who.may:
        raise NotAllowed(f"{who.name} is {who.role}; this needs worker or admin")
    return who


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


def must_own(farm: Farm, ids: Sequence[int], right: str = "edit", *, below: bool = True) -> None:
    """NotAllowed if the right is for the caller's own jobs only, and one of these, or one below them, is somebody else's."""
    owner = g.identity.owner_for(right)
    if owner is None:
        return
    for job_id in ids if g.identity.viewer is not None else ():
        farm.store.job(job_id, owner)  # NotFound: what is not told of is not there
    others = farm.store.owners(ids, below=below) - {owner}
    if others and g.identity.viewer is not None:
        raise NotAllowed(f"{owner} may {WORDS[right]} own jobs only; not all of these are, or of what is in them")
    if others:
        raise NotAllowed(f"{owner} may {WORDS[right]} own jobs only; these belong to {', '.join(sorted(others))[:200]}")


def for_caller(rows: Iterable[T], right: str) -> list[T]:
    """Rows as the caller may act on them: who has not the right for them has no actions."""
    return [row if right in g.identity.may else _without_actions(row) for row in rows]


def jobs_for_caller(jobs: Iterable[Job]) -> list[Job]:
    """Jobs with the actions that the caller has the right to."""
    who: Identity = g.identity
    own, others = (_changes(who.may, suffix) for suffix in ("", "_all"))
    return [_with_actions(job, own | others if job.user == who.name else others) for job in jobs]


def _changes(may: frozenset[str], suffix: str) -> frozenset[str]:
    return frozenset(right for right in ("edit", "delete") if f"{right}{suffix}" in may)


def _with_actions(job: Job, rights: frozenset[str]) -> Job:
    if len(rights) == 2:
        return job
    return replace(job, allowed_actions=tuple(one for one in job.allowed_actions if _right_to(one) in rights))


def _right_to(action: str) -> str:
    return "delete" if action == "delete" else "edit"


def _without_actions(row: T) -> T:
    if isinstance(row, dict):
        return cast(T, {**row, "allowed_actions": []})
    return cast(T, replace(cast(Any, row), allowed_actions=()))
