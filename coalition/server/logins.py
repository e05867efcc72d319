"""Logging in with a password, kept here or in a directory, and users.

A log-in is a cookie that no script can read; changes need its CSRF token too.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets
import threading
import time
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Blueprint, Response, g, request

from coalition import metrics, rights
from coalition.config import Settings
from coalition.errors import BadInput, ConfigError, Conflict, NotAllowed, NotAuthenticated, TooManyTries, Unavailable
from coalition.model import spec
from coalition.server import web
from coalition.server.auth import COOKIE, Identity, csrf_token
from coalition.store import Store
from coalition.store.accounts import LONGEST, hash_password, proves

if TYPE_CHECKING:
    from coalition.server.directory import Directory, Person
    from coalition.store.workers import TokenRow

blueprint = Blueprint("logins", __name__)

TRIES_OF_ONE, TRIES_OF_ALL = 5, 50  # of a user from an address, and from an address, before each has to wait longer
PROVED = 1_000  # passwords that are known to be right
ASKING = 2  # at most so many calls look users up again at a time
ASK_AGAIN_S = 10.0  # a directory that did not answer
NOBODY = Identity("", "")
WRONG = "the name or the password is wrong"


def _name(value: str) -> str | None:
    if not value or not value.isprintable() or set(value) & set(":/") or value != value.strip():
        return "is not a name; 1 to 64 characters without : and /, and without spaces at its ends"
    return None


@dataclass(frozen=True)
class LogIn:
    user: str = spec(length=64)
    password: str = spec(length=LONGEST)
    token: bool = spec(False, help="answers an API token for a script, and sets no cookie")


@dataclass(frozen=True)
class NewPassword:
    old: str = spec(length=LONGEST)
    new: str = spec(length=LONGEST)


@dataclass(frozen=True)
class NewUser:
    name: str = spec(length=64, check=_name)
    password: str = spec(length=LONGEST)
    role: str = "user"


@dataclass(frozen=True)
class UserChanges:
    password: str | None = spec(None, length=LONGEST)
    role: str | None = None


class Logins:
    """Proves names and passwords. Thread-safe."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self._key = secrets.token_bytes(32)
        self._proved: dict[bytes, None] = {}  # of the old wire, which sends its password with each call: no scrypt for each
        self._told: dict[bytes, tuple[float, Identity]] = {}  # until when what a directory said of a password holds
        self.directory = _directory(settings) if settings.auth.mode == "ldap" else None
        self._away_until = 0.0  # the directory is not asked before, as far as there is another way
        self._proving = threading.BoundedSemaphore(max(1, settings.server.threads // 4))
        self._asked: set[str] = set()  # users whom somebody asks it of
        self._asking = threading.Lock()

    def prove(self, user: str, password: str, address: str) -> Identity:
        """Who this is; NotAuthenticated if the password is wrong, TooManyTries if there were too many wrong ones."""
        if self.directory is not None:
            return self._prove_there(self.directory, user, password, address)
        stored = self.store.account(user)
        known = self._digest(user, password, stored[0]) if stored else b""
        if stored and known in self._proved:
            return _identity(user, stored[1])
        own, shared = self._count_try(user, address)
        # As long for a name that is not known: how long it takes must not tell which are.
        if not proves(password, stored[0] if stored else _nobody()) or stored is None:
            self._refused(user)
            raise NotAuthenticated(WRONG, auth=self.settings.auth.mode)
        metrics.add(metrics.LOG_INS, "ok")
        self.store.forgive_try(own, shared)
        if len(self._proved) >= PROVED:
            self._proved.clear()
        self._proved[known] = None
        return _identity(user, stored[1])

    def _refused(self, user: str) -> None:
        """It is told in the audit: how often, the waits between tries see to."""
        metrics.add(metrics.LOG_INS, "wrong")
        self.store.log_in_refused(user, WRONG)

    def _count_try(self, user: str, address: str) -> tuple[str, str]:
        """The keys under which a try is counted; TooManyTries if it must wait."""
        own, shared = f"log-in {user[:64]}@{address}", f"log-in @{address}"
        wait_s = self.store.count_try({own: TRIES_OF_ONE, shared: TRIES_OF_ALL})
        if wait_s:
            metrics.add(metrics.LOG_INS, "too_many")
            raise TooManyTries(f"too many log-ins failed; try again in {wait_s:.0f} s", wait_s)
        return own, shared

    # ------------------------------------------------------------ a directory

    def _prove_there(self, directory: Directory, user: str, password: str, address: str) -> Identity:
        user = " ".join(unicodedata.normalize("NFKC", user).split())  # to a directory these are one name, and so one to guess at
        known = self._digest(user, password, "")
        until, who = self._told.get(known, (0.0, NOBODY))
        if time.monotonic() < until:
            return who
        own, shared = self._count_try(user.casefold(), address)
        try:
            person = self._proved_by(directory, user, password)
        except Unavailable:
            self.store.uncount_try(own, shared)
            raise
        if person is None:
            self._refused(user)
            raise NotAuthenticated(WRONG, auth=self.settings.auth.mode)
        metrics.add(metrics.LOG_INS, "ok")
        self.store.forgive_try(own, shared)
        self.store.note_person(person.name, person.role, person.may)
        if not person.may:
            raise NotAllowed(f"the directory knows {person.name}, and gives no right here; see [ldap] in cloud.ini")
        if len(self._told) >= PROVED:
            self._told.clear()
        who = Identity(person.name, person.role, may=person.may)
        self._told[known] = (time.monotonic() + self.settings.ldap.cache_s, who)
        return who

    def _proved_by(self, directory: Directory, user: str, password: str) -> Person | None:
        """A directory that hangs holds so many threads and no more."""
        if not self._proving.acquire(blocking=False):
            raise Unavailable("the directory of users takes its time; log in again later", retry_after_s=ASK_AGAIN_S)
        try:
            return directory.prove(user, password)
        finally:
            self._proving.release()

    def current(self, row: TokenRow) -> TokenRow | None:
        """The token with what the directory says of its user, asked again after a while; None if that ended it.

        While the directory does not answer, what it said last holds.
        """
        directory, checked_at = self.directory, row.checked_at
        if directory is None or checked_at is None or not directory.can_look:
            return row
        if self.store.clock() - checked_at <= self.settings.ldap.cache_s or not self._may_ask(row.user):
            return row
        try:
            person = directory.look(row.user)
        except Unavailable:
            self._away_until = time.monotonic() + ASK_AGAIN_S
            return row
        finally:
            self._asked.discard(row.user)
        if person is None:
            self.store.forget_person(row.user)
        else:
            self.store.note_person(row.user, person.role, person.may)
        return self.store.token(row.id)

    def _may_ask(self, user: str) -> bool:
        """Whether this call is the one that asks; the others go on with what is known."""
        with self._asking:
            if time.monotonic() < self._away_until or user in self._asked or len(self._asked) >= ASKING:
                return False
            self._asked.add(user)
            return True

    # ------------------------------------------------------------ log-ins

    def begin(self, who: Identity, password: str, where: str, kind: str) -> str:
        """The log-in of a user who was proved by this password; NotAuthenticated if one of them was changed since."""
        expires_s = self.settings.auth.session_s

        def still(stored: str) -> bool:
            return self._digest(who.name, password, stored) in self._proved

        proved = still if self.directory is None else None
        return self.store.begin_session(who.name, who.role, (), expires_s, where, kind, proved)

    def _digest(self, user: str, password: str, stored: str) -> bytes:
        return hmac.digest(self._key, "\0".join((user, password, stored)).encode(), hashlib.sha256)


def _directory(settings: Settings) -> Directory:
    try:
        from coalition.server.directory import Directory
    except ImportError as error:
        raise ConfigError(f"[auth] mode: ldap needs a library: {error}; pip install 'coalition[ldap]'") from None
    return Directory(settings.ldap)


@functools.cache
def _nobody() -> str:
    """A password that nobody has."""
    return hash_password(secrets.token_hex(16))


def _identity(user: str, role: str) -> Identity:
    return Identity(user, role, may=rights.ROLES.get(role, frozenset()))


def _must_have_passwords() -> None:
    if web.farm().settings.auth.mode in ("none", "token"):
        raise Conflict("this farm has no log-in with a password; see [auth] mode in cloud.ini")


# ---------------------------------------------------------------- in and out


@blueprint.post("/login")
def log_in() -> Response:
    farm, wanted = web.farm(), web.body(LogIn)
    _must_have_passwords()
    _refuse_other_pages()
    where = request.remote_addr or ""
    who = farm.logins.prove(wanted.user, wanted.password, where)
    expires_s = farm.settings.auth.session_s
    told = {"user": who.name, "role": who.role, "expires_s": expires_s}
    if wanted.token:
        return web.reply({**told, "csrf": "", "token": farm.logins.begin(who, wanted.password, where, "login")})
    text = farm.logins.begin(who, wanted.password, where, "session")
    response = web.reply({**told, "csrf": csrf_token(text), "token": ""})
    _set_cookie(response, text, round(expires_s))
    return response


def _refuse_other_pages() -> None:
    """A page of another site must not log a browser in as somebody else. A form cannot send JSON; this is for the rest."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed("log-ins from pages of other sites are not served")
    if request.mimetype != "application/json":
        raise BadInput("send Content-Type: application/json", fields={"Content-Type": "must be application/json"})


def _set_cookie(response: Response, text: str, max_age: int) -> None:
    secure = request.is_secure or web.farm().settings.url.startswith("https:")
    response.set_cookie(COOKIE, text, max_age=max_age, path="/api", secure=secure, httponly=True, samesite="Strict")


@blueprint.post("/logout")
def log_out() -> Response:
    who: Identity = g.identity
    if who.session:
        web.farm().store.end_session(who.session, who.name)
    response = web.reply({"changed": int(bool(who.session))})
    _set_cookie(response, "", 0)
    return response


@blueprint.post("/password")
def password() -> Response:
    farm, wanted, who = web.farm(), web.body(NewPassword), g.identity
    if farm.settings.auth.mode != "local":
        raise Conflict("passwords are not kept here; see [auth] mode in cloud.ini")
    farm.logins.prove(who.name, wanted.old, request.remote_addr or "")
    farm.store.edit_account(who.name, password=wanted.new, who=who.name)
    return web.reply({"changed": 1})


# ---------------------------------------------------------------- users


@blueprint.get("/users")
def users() -> Response:
    web.refuse_unknown()
    return web.reply({"users": web.farm().store.accounts()})


@blueprint.post("/users")
def create_user() -> Response:
    wanted = web.body(NewUser)
    web.farm().store.create_account(wanted.name, wanted.password, wanted.role, g.identity.name)
    return web.reply({"name": wanted.name}, 201)


@blueprint.patch("/users/<name>")
def edit_user(name: str) -> Response:
    wanted = web.body(UserChanges)
    web.refuse_nothing(wanted)
    web.farm().store.edit_account(_given(name), password=wanted.password, role=wanted.role, who=g.identity.name)
    return web.reply({"changed": 1})


@blueprint.delete("/users/<name>")
def delete_user(name: str) -> Response:
    web.farm().store.delete_account(_given(name), g.identity.name)
    return web.reply({"changed": 1})


def _given(name: str) -> str:
    """A name from an address; what cannot be one is nobody's."""
    return name[:65] if _name(name) is None else " "
