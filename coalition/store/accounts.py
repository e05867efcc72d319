"""Users with passwords, their log-ins, and how often somebody may try."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from coalition import rights
from coalition.errors import BadInput, Conflict, NotAuthenticated, NotFound
from coalition.schema import account, failure, person, token
from coalition.store.base import reads, writes
from coalition.store.workers import Workers

SHORTEST = 10  # characters of a password
LONGEST = 1_000
COST, BLOCK, LANES = 2**15, 8, 1  # of scrypt: 32 MiB and some tens of milliseconds a try
FORGIVEN_S = 900.0  # failures are forgotten when there was none for so long
LONGEST_WAIT_S = 300.0
LOG_INS = ("session", "login")  # by a cookie; by a token for a script


def hash_password(password: str) -> str:
    """What is stored of a password: scrypt, with its parameters and a salt of its own."""
    salt = secrets.token_bytes(16)
    return f"scrypt${COST}${BLOCK}${LANES}${salt.hex()}${_scrypt(password, salt, COST, BLOCK, LANES).hex()}"


def proves(password: str, stored: str) -> bool:
    """Whether this is the password that was stored."""
    _, cost, block, lanes, salt, wanted = stored.split("$")
    found = _scrypt(password, bytes.fromhex(salt), int(cost), int(block), int(lanes))
    return hmac.compare_digest(found, bytes.fromhex(wanted))


def _scrypt(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    memory = 256 * cost * block * lanes
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=block, p=lanes, maxmem=memory, dklen=32)


def _bad_password(password: str) -> str | None:
    if len(password) < SHORTEST:
        return f"is too short; {SHORTEST} characters or more"
    return f"is too long; at most {LONGEST} characters" if len(password) > LONGEST else None


class Accounts(Workers):
    """The part of the store that is about users with passwords."""

    @writes
    def create_account(self, db: Connection, name: str, password: str, role: str, who: str = "") -> None:
        """A new user; Conflict if the name is taken."""
        _must_fit(password=password, role=role)
        if db.execute(select(account.c.name).where(account.c.name == name)).first():
            raise Conflict(f"there is a user {name} already")
        now = self.clock()
        values = {"name": name, "password": hash_password(password), "role": role, "created_at": now, "changed_at": now}
        db.execute(insert(account).values(values))
        self._event(db, "user.create", who, f"user {name}, role {role}")

    @writes
    def edit_account(
        self, db: Connection, name: str, *, password: str | None = None, role: str | None = None, who: str = ""
    ) -> None:
        """Another password or role. Whoever is logged in as this user is logged out."""
        _must_fit(password=password, role=role)
        values: dict[str, Any] = {} if role is None else {"role": role}
        if password is not None:
            values |= {"password": hash_password(password), "changed_at": self.clock()}
        was = db.execute(select(account.c.role).where(account.c.name == name)).scalar()
        if db.execute(update(account).where(account.c.name == name).values(values)).rowcount == 0:
            raise NotFound(f"there is no user {name}")
        db.execute(delete(token).where(token.c.kind.in_(LOG_INS), token.c.user == name))
        told = [*(["the password"] if password is not None else []), *([f"the role, to {role}"] if role else [])]
        changes = {"role": (was, role)} if role else None  # a password is nobody's to read, before or after
        self._event(db, "user.edit", who, f"user {name}: changed {' and '.join(told)}", changes=changes)

    @writes
    def delete_account(self, db: Connection, name: str, who: str = "") -> None:
        """The user, and all that lets one call as this user: log-ins and API tokens."""
        if db.execute(delete(account).where(account.c.name == name)).rowcount == 0:
            raise NotFound(f"there is no user {name}")
        ended = db.execute(delete(token).where(token.c.kind.in_((*LOG_INS, "user")), token.c.user == name)).rowcount
        self._event(db, "user.delete", who, f"user {name}, with {ended} tokens and log-ins")

    @reads
    def accounts(self, db: Connection) -> list[dict[str, Any]]:
        """All users, without their passwords."""
        columns = (account.c.name, account.c.role, account.c.created_at, account.c.changed_at)
        return [dict(row) for row in db.execute(select(*columns).order_by(account.c.name)).mappings()]

    @reads
    def account(self, db: Connection, name: str) -> tuple[str, str] | None:
        """(stored password, role) of a user; None if there is none."""
        row = db.execute(select(account.c.password, account.c.role).where(account.c.name == name)).first()
        return (row.password, row.role) if row else None

    # ------------------------------------------------------------ users of a directory

    @writes
    def note_person(self, db: Connection, name: str, role: str, may: Iterable[str]) -> None:
        """What a directory says of a user now. Whoever calls in this name has no other rights from now on."""
        values = {"role": role, "rights": ",".join(sorted(may)), "checked_at": self.clock()}
        before = db.execute(select(person).where(person.c.name == name)).first()
        if before is None:
            db.execute(insert(person).values(name=name, **values))
        else:
            db.execute(update(person).where(person.c.name == name).values(values))
        if before is None or (before.role, before.rights) != (role, values["rights"]):
            self._event(db, "user.edit", "directory", f"user {name}: role {role}, rights {values['rights'] or 'none'}")

    @writes
    def forget_person(self, db: Connection, name: str) -> None:
        """The directory does not have this user any more: log-ins end, and tokens in this name have no rights."""
        gone = {"role": "", "rights": "", "checked_at": self.clock()}
        known = db.execute(select(person.c.role).where(person.c.name == name)).scalar()
        db.execute(update(person).where(person.c.name == name).values(gone))
        db.execute(delete(token).where(token.c.kind.in_(LOG_INS), token.c.user == name))
        if known:
            self._event(db, "user.edit", "directory", f"user {name} is not there any more: log-ins ended, tokens without rights")

    # ------------------------------------------------------------ log-ins

    @writes
    def begin_session(
        self,
        db: Connection,
        user: str,
        role: str,
        scope: Sequence[str],
        expires_s: float,
        where: str,
        kind: str = "session",
        proved: Callable[[str], bool] | None = None,
    ) -> str:
        """A log-in's text, "id.secret", for a cookie or, of kind "login", a script; only its hash is kept.

        NotAuthenticated if the user's role, or the stored password that is `proved`, has changed since the log-in began.
        """
        if proved is not None:
            now = db.execute(select(account.c.password, account.c.role).where(account.c.name == user)).first()
            if now is None or now.role != role or not proved(now.password):
                raise NotAuthenticated("the user was changed meanwhile; log in again")
        self._event(db, "user.log_in", user, f"from {where}")
        return self._write_token(db, kind, expires_s, user=user, role=role, scope=",".join(scope))

    @writes
    def log_in_refused(self, db: Connection, user: str, why: str) -> None:
        """Somebody could not log in under a name, which need not be anybody's."""
        shown = "".join(one if one.isprintable() else "?" for one in user[:64])
        self._event(db, "user.refused", shown, why)

    @writes
    def end_session(self, db: Connection, token_id: str, user: str) -> None:
        """Logs out; nothing if that was done before."""
        if db.execute(delete(token).where(token.c.id == token_id, token.c.kind == "session")).rowcount:
            self._event(db, "user.log_out", user, "")

    @writes
    def forget_sessions(self, db: Connection, before: float, limit: int) -> int:
        """Forgets log-ins that ended before a time, and failures that are forgiven; how many of the former."""
        db.execute(delete(failure).where(failure.c.last_at < self.clock() - FORGIVEN_S))
        over = select(token.c.id).where(token.c.kind.in_(LOG_INS), token.c.expires_at < before).order_by(token.c.id).limit(limit)
        ids = db.execute(over).scalars().all()
        db.execute(delete(token).where(token.c.id.in_(ids)))
        return len(ids)

    # ------------------------------------------------------------ how often somebody may try

    @writes
    def count_try(self, db: Connection, free: dict[str, int]) -> float:
        """Counts a try under each of the keys, as if it had failed; 0, or (and then it is not counted) how long to wait.

        After so many as are free, each further one doubles the wait.
        """
        now, seen = self.clock(), self._tried(db, free)
        if (wait_s := self._left_s(seen, free)) > 0:
            return wait_s
        db.execute(delete(failure).where(failure.c.key.in_(free)))
        tries = {key: seen[key].tries + 1 if key in seen else 1 for key in sorted(free)}
        db.execute(insert(failure), [{"key": key, "tries": count, "last_at": now} for key, count in tries.items()])
        return 0.0

    @reads
    def must_wait(self, db: Connection, free: dict[str, int]) -> float:
        """How long who comes under these keys has to wait; nothing is counted."""
        return max(0.0, self._left_s(self._tried(db, free), free))

    def _tried(self, db: Connection, free: dict[str, int]) -> dict[str, Any]:
        recent = select(failure).where(failure.c.key.in_(free), failure.c.last_at > self.clock() - FORGIVEN_S)
        return {row.key: row for row in db.execute(recent)}

    def _left_s(self, seen: dict[str, Any], free: dict[str, int]) -> float:
        over = [row for row in seen.values() if row.tries >= free[row.key]]
        return float(max((row.last_at + _wait_s(row.tries - free[row.key]) - self.clock() for row in over), default=0.0))

    @writes
    def forgive_try(self, db: Connection, own: str, shared: str) -> None:
        """It succeeded: forgets the failures under one's own key, and the one under the shared key that was counted for it."""
        db.execute(delete(failure).where(failure.c.key == own))
        self._uncount(db, [shared])

    @writes
    def uncount_try(self, db: Connection, own: str, shared: str) -> None:
        """Nobody knows whether it was right: it alone is taken back, under both keys."""
        self._uncount(db, [own, shared])

    def _uncount(self, db: Connection, keys: Sequence[str]) -> None:
        db.execute(update(failure).where(failure.c.key.in_(keys), failure.c.tries > 0).values(tries=failure.c.tries - 1))


def _wait_s(beyond: int) -> float:
    return min(LONGEST_WAIT_S, 2.0 ** min(beyond, 20))


def _must_fit(*, password: str | None, role: str | None) -> None:
    wrong: dict[str, str] = {}
    if password is not None and (problem := _bad_password(password)):
        wrong["password"] = problem
    if role is not None and role not in rights.ROLES:
        wrong["role"] = f"{role[:40]!r} is not allowed; allowed: {', '.join(rights.ROLES)}"
    if wrong:
        raise BadInput(fields=wrong)
