"""Workers and who may speak: enrolment, tokens, affinities, drain, delete."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select, update

from coalition import hours, rights
from coalition.errors import BadInput, Conflict, NotAuthenticated, NotFound
from coalition.hours import Availability
from coalition.matching import Capacity
from coalition.model import Enrol, WorkerChanges, to_dict
from coalition.schema import account, attempt, instance, job, person, reqset, spec, token, worker
from coalition.states import WORKER, InstanceState, WorkerState, after
from coalition.store.base import chunks, reads, writes
from coalition.store.dispatch import TAKING, Dispatch
from coalition.store.results import HEALTHY
from coalition.store.tree import Changes
from coalition.words import counted

TOKEN_KINDS = ("user", "enrol", "site")
OFFER_S = 10.0  # before another credential is given to a worker that did not take the last one
OVERLAP_S = 60.0  # the old one holds after the new one was used, for calls that are on their way


@dataclass(frozen=True)
class Admission:
    """A worker that was let in. `credential` is told once and kept hashed."""

    worker_id: int
    name: str
    credential: str
    epoch: int


@dataclass(frozen=True)
class WorkerRow:
    """A worker as dispatch and the autoscaler need it."""

    id: int
    name: str
    state: str
    active: bool
    epoch: int
    session: str
    slots: int
    capacity: Capacity
    idle_since: float | None
    seen_at: float
    instance_id: int | None
    running: int
    available: Availability
    load: float
    used_at: float | None
    old_key: str = ""  # hash of the credential before, which holds until `old_until`; None: until the new one was used
    old_until: float | None = None
    credential_at: float = 0.0


@dataclass(frozen=True)
class TokenRow:
    id: str
    kind: str
    key: str  # sha256 of the secret, hex
    user: str
    role: str
    uses_left: int | None
    expires_at: float | None
    intent_id: int | None
    scope: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    bound: frozenset[str] | None = None  # what its user may now; None: of whom nothing is known
    checked_at: float | None = None  # when a directory said so


def hash_secret(secret: str) -> str:
    """What is stored of a secret of 256 random bits; guessing is hopeless, so one round is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Workers(Dispatch):
    """The part of the store that is about workers and tokens."""

    # ------------------------------------------------------------ tokens

    @writes
    def create_token(
        self,
        db: Connection,
        kind: str,
        *,
        user: str = "",
        role: str = "",
        uses: int | None = None,
        expires_s: float | None = None,
        intent_id: int | None = None,
        secret: str | None = None,
        name: str = "",
        scope: Sequence[str] = (),
        networks: Sequence[str] = (),
        who: str = "",
    ) -> str:
        """A new token's text, "id.secret"; only its hash is kept.

        `scope` narrows the rights of its role; from `networks` only one that is for workers may be used.
        """
        if kind not in TOKEN_KINDS:
            raise BadInput(fields={"kind": f"{kind!r} is not allowed; allowed: {', '.join(TOKEN_KINDS)}"})
        if kind == "user" and role not in rights.ROLES:
            raise BadInput(fields={"role": f"{role!r} is not allowed; allowed: {', '.join(rights.ROLES)}"})
        if kind == "user" and not user:
            raise BadInput(fields={"user": "is missing; a user token says whose it is"})
        if wrong := [one for one in scope if one not in rights.SCOPES]:
            raise BadInput(fields={"scope": f"{wrong[0][:40]!r} is not allowed; allowed: {', '.join(rights.SCOPES)}"})
        if networks and (kind == "user" or problem_of(networks)):
            raise BadInput(fields={"networks": problem_of(networks) or "are for tokens of workers: enrol, site"})
        values = {"user": user, "role": role, "uses_left": uses, "intent_id": intent_id, "name": name, "scope": ",".join(scope)}
        values["networks"] = ",".join(networks)
        text = self._write_token(db, kind, expires_s, secret, **values)
        shown = f"{kind} token {text.partition('.')[0]}" + (f" {name!r}" if name else "") + (f" for {user}" if user else "")
        self._event(db, "token.create", who, shown)
        return text

    def _write_token(self, db: Connection, kind: str, expires_s: float | None, secret: str | None = None, **values: Any) -> str:
        """A new row; its text, which is told once."""
        now, token_id, secret = self.clock(), secrets.token_hex(6), secret or secrets.token_urlsafe(32)
        expires_at = now + expires_s if expires_s is not None else None
        row = {"id": token_id, "kind": kind, "hash": hash_secret(secret), "expires_at": expires_at, "created_at": now, **values}
        db.execute(insert(token).values(row))
        return f"{token_id}.{secret}"

    @reads
    def token(self, db: Connection, token_id: str) -> TokenRow | None:
        """A token that is still good, by its id."""
        return self._token(db, token_id)

    def _token(self, db: Connection, token_id: str, used_up: bool = False) -> TokenRow | None:
        """A token that is not expired, nor used up unless those are asked for too."""
        row = db.execute(select(token).where(token.c.id == token_id)).first()
        if row is None or (row.expires_at is not None and row.expires_at < self.clock()):
            return None
        if row.uses_left == 0 and not used_up:
            return None
        given = (row.id, row.kind, row.hash, row.user, row.role, row.uses_left, row.expires_at, row.intent_id)
        scope, networks = (tuple(filter(None, text.split(","))) for text in (row.scope, row.networks))
        return TokenRow(*given, scope, networks, *self._bound(db, row.user))

    def _bound(self, db: Connection, user: str) -> tuple[frozenset[str] | None, float | None]:
        """What a user may now, and when a directory said so; None where nothing is known of them."""
        mode = self.settings.auth.mode if user else "none"
        if mode == "local":
            role = db.execute(select(account.c.role).where(account.c.name == user)).scalar()
            return (None, None) if role is None else (rights.ROLES.get(role, frozenset()), None)
        told = db.execute(select(person).where(person.c.name == user)).first() if mode == "ldap" else None
        return (None, None) if told is None else (frozenset(filter(None, told.rights.split(","))), told.checked_at)

    @reads
    def discovery_key(self, db: Connection, token_id: str) -> bytes | None:
        """What signs answers to the holder of a token. One that is used up or over signs too: its worker looks for us again."""
        key = db.execute(select(token.c.hash).where(token.c.id == token_id)).scalar()
        return bytes.fromhex(key) if key else None

    def check_token(self, text: str) -> TokenRow | None:
        """The token that this text proves, or None."""
        token_id, _, secret = text.partition(".")
        row = self.token(token_id)
        return row if row and hmac.compare_digest(row.key, hash_secret(secret)) else None

    @reads
    def tokens(self, db: Connection) -> list[dict[str, Any]]:
        """All tokens, and the log-ins of people that hold now, without what would let one use them."""
        rows = db.execute(select(token).order_by(token.c.created_at, token.c.id)).mappings()
        return [{name: value for name, value in row.items() if name != "hash"} for row in rows]

    @writes
    def delete_token(self, db: Connection, token_id: str, who: str = "") -> None:
        """Ends a token at once."""
        if db.execute(delete(token).where(token.c.id == token_id)).rowcount == 0:
            raise NotFound(f"there is no token {token_id}")
        self._event(db, "token.delete", who, f"token {token_id}")

    # ------------------------------------------------------------ enrolment

    @writes
    def enrol(self, db: Connection, request: Enrol, *, open_door: bool = False, address: str = "") -> Admission:
        """Lets a worker in by its old credential, a token, or (`open_door`) its network; its older leases are put back.

        NotAuthenticated without any of them; Conflict when a live worker has the name.
        """
        now = self.clock()
        old = db.execute(select(worker).where(worker.c.name == request.name)).first()
        same_session = bool(old and hmac.compare_digest(old.session.encode(), request.session.encode()))
        # The session is known to that one agent: a repeat after a lost answer spends no second token. Once the worker was heard
        # of it is no repeat, but an old message that somebody sends again.
        repeat = old is not None and same_session and old.seen_at <= old.credential_at
        proof = _proof(request.credential, old, now) if old and request.credential else ""
        known = repeat or bool(proof)
        grant = None if known else self._spend_token(db, request, open_door, address)
        if old and not known and self._alive(old, now):
            raise Conflict(
                f"a live worker is named {request.name}; choose another name, or wait {self.settings.worker.lease_s:.0f} s"
            )
        secret = secrets.token_urlsafe(32)
        epoch = old.epoch + (not same_session) if old else 1
        worker_id = self._write_worker(db, request, old, hash_secret(secret), epoch, now)
        db.execute(update(worker).where(worker.c.id == worker_id).values(old_credential=proof, old_until=now, credential_at=now))
        if old and not same_session:
            self._bump(db, "fleet")  # the agent of before must get nothing more
            changes = Changes()
            self._lose(db, self._open_of(db, worker_id), "the worker started anew", now, changes)
            self._settle(db, changes)
        if old and not known:  # the name of a machine that is gone
            db.execute(update(worker).where(worker.c.id == worker_id).values(instance_id=None))
        if grant and grant.intent_id is not None:
            self._bind(db, grant.intent_id, request.identity, worker_id, now)
        self._event(db, "worker.enrol", request.name, f"{request.slots} slots, epoch {epoch}", worker_id=worker_id)
        return Admission(worker_id, request.name, f"w{worker_id}.{secret}", epoch)

    def _alive(self, row: Any, now: float) -> bool:
        quiet = row.state in (WorkerState.TIMEOUT, WorkerState.TERMINATED)
        return not quiet and now - row.seen_at < self.settings.worker.lease_s

    def _spend_token(self, db: Connection, request: Enrol, open_door: bool, address: str) -> TokenRow | None:
        """The token that lets the worker in, one use less; None where the door is open."""
        if request.token:
            token_id, _, secret = request.token.partition(".")
            row = self._token(db, token_id, used_up=True)
            if row is None or row.kind not in ("enrol", "site") or not hmac.compare_digest(row.key, hash_secret(secret)):
                raise NotAuthenticated("the enrolment token is not known, used up or expired; create one: coalition token create")
            if row.networks and not in_networks(address, row.networks):
                raise NotAuthenticated(f"this enrolment token is for {', '.join(row.networks)}, and not for {address or 'here'}")
            if row.uses_left is not None and not self._rebinds(db, row, request):
                spent = update(token).where(token.c.id == row.id, token.c.uses_left > 0).values(uses_left=token.c.uses_left - 1)
                if db.execute(spent).rowcount == 0:
                    raise NotAuthenticated("the enrolment token is used up")
            return row
        if not open_door:
            raise NotAuthenticated("give an enrolment token (--token-file), or name this network in [auth] enrol_from")
        return None

    def _rebinds(self, db: Connection, row: TokenRow, request: Enrol) -> bool:
        """Whether the same machine comes again with its token: that spends no further use."""
        if row.intent_id is None or not request.identity:
            return False
        query = select(instance.c.id).where(instance.c.intent_id == row.intent_id, instance.c.provider_id == request.identity)
        return db.execute(query.where(instance.c.worker_id.is_not(None))).first() is not None

    def _bind(self, db: Connection, intent_id: int, identity: str, worker_id: int, now: float) -> None:
        bound = self._bind_instance(db, intent_id, identity, worker_id, now)
        if bound is None:
            raise NotAuthenticated(f"no instance of intent {intent_id} is expected as {identity!r}")
        db.execute(update(worker).where(worker.c.id == worker_id).values(instance_id=bound.id))

    def _bind_instance(self, db: Connection, intent_id: int, identity: str, worker_id: int, now: float) -> Any:
        raise NotImplementedError  # coalition/store/cloud.py

    def _write_worker(self, db: Connection, request: Enrol, old: Any, credential: str, epoch: int, now: float) -> int:
        values: dict[str, Any] = {
            "session": request.session,
            "credential": credential,
            "state": str(WorkerState.STARTING) if old is None else after(WORKER, old.state, "enrol"),
            "epoch": epoch,
            "slots": request.slots,
            "facts": json.dumps(to_dict(request.facts)),
            "version": request.version,
            "seen_at": now,
            "idle_since": now,
        }
        lines = json.dumps([sorted(set(line)) for line in request.affinity])
        if old is None:
            # A number of its own sequence: SQLite gives the number of the newest row again when that was deleted.
            worker_id = self._allocate(db, "worker", 1)
            new = {"id": worker_id, "name": request.name, "active": True, "affinity": lines, "enrolled_at": now}
            db.execute(insert(worker).values(**new, **values))
            return worker_id
        if old.state in (WorkerState.DRAINING, WorkerState.SICK):
            values["state"] = old.state  # a restart does not undo a drain, nor make a worker healthy
        # Lines edited on the server stay; a worker that brings its own replaces them.
        if request.affinity:
            values["affinity"] = lines
        db.execute(update(worker).where(worker.c.id == old.id).values(values))
        return int(old.id)

    @writes
    def change_credential(self, db: Connection, worker_id: int, proved: str) -> str | None:
        """A new credential for a worker that proved itself by the hash of its old one, which holds until the new one is used.

        None if it has just been given another, which may be on its way yet.
        """
        now = self.clock()
        row = db.execute(select(worker).where(worker.c.id == worker_id)).first()
        again = row is not None and proved == row.old_credential and row.old_until is None and now - row.credential_at > OFFER_S
        if row is None or not (again or proved == row.credential):
            return None
        secret = secrets.token_urlsafe(32)
        values = {"credential": hash_secret(secret), "old_credential": proved, "old_until": None, "credential_at": now}
        db.execute(update(worker).where(worker.c.id == worker_id).values(values))
        self._event(db, "worker.credential", "server", "got another credential", worker_id=worker_id)
        return f"w{worker_id}.{secret}"

    @writes
    def confirm_credential(self, db: Connection, worker_id: int, used: str) -> float | None:
        """The worker has used this as its new credential: until when the one before holds; None if it has another by now."""
        until = self.clock() + OVERLAP_S
        waiting = and_(worker.c.id == worker_id, worker.c.credential == used, worker.c.old_until.is_(None))
        if db.execute(update(worker).where(waiting).values(old_until=until)).rowcount:
            self._bump(db, "fleet")  # other processes read it again: they must not take the old one for longer
            return until
        return None

    # ------------------------------------------------------------ fleet

    @reads
    def worker_row(self, db: Connection, worker_id: int) -> tuple[WorkerRow, str] | None:
        """A worker and its credential's hash; None if there is none."""
        row = db.execute(_worker_select().where(worker.c.id == worker_id)).first()
        return (_worker_row(row, 0), row.credential) if row else None

    @reads
    def fleet(self, db: Connection) -> list[WorkerRow]:
        """All workers that are not TERMINATED, with the number of attempts each holds."""
        return self._fleet(db)

    def _who_takes(self, db: Connection) -> list[WorkerRow]:
        now, lease_s = self.clock(), self.settings.worker.lease_s
        return [
            row
            for row in self._fleet(db)
            if row.active and row.state in TAKING and now - row.seen_at < lease_s and row.available.hours.is_open(now)
        ]

    def _fleet(self, db: Connection) -> list[WorkerRow]:
        held = select(attempt.c.open_worker, func.count().label("n")).where(attempt.c.open_worker.is_not(None))
        counts = {row.open_worker: row.n for row in db.execute(held.group_by(attempt.c.open_worker))}
        rows = db.execute(_worker_select().where(worker.c.state != str(WorkerState.TERMINATED)).order_by(worker.c.id))
        return [_worker_row(row, counts.get(row.id, 0)) for row in rows]

    @writes
    def edit_workers(self, db: Connection, ids: Sequence[int], changed: WorkerChanges, who: str = "") -> int:
        """Changes tag lines, slots, the `active` switch, hours or the note of workers; all or none."""
        self._workers_must_exist(db, ids)
        values: dict[str, Any] = {name: value for name, value in vars(changed).items() if value is not None}
        names = ", ".join(sorted(values))
        if "affinity" in values:
            values["affinity"] = json.dumps([sorted(set(line)) for line in values["affinity"]])
        columns = [worker.c[name] for name in values]
        before = {row[0]: row[1:] for row in db.execute(select(worker.c.id, *columns).where(worker.c.id.in_(ids)))}
        if values:
            db.execute(update(worker).where(worker.c.id == bindparam("b_id")).values(values), [{"b_id": i} for i in ids])
        for worker_id in ids:
            pairs = zip(values, before[worker_id], values.values(), strict=True)
            changes = {name: (was, now) for name, was, now in pairs if was != now}
            self._event(db, "worker.edit", who, f"changed {names}", worker_id=worker_id, changes=changes)
        self._bump(db, "fleet")
        return len(ids)

    @writes
    def send_home(self, db: Connection, worker_id: int, ended: Sequence[int] = ()) -> int:
        """Puts back what a worker runs, without spending a retry: its hours are over. How many jobs.

        Not what has `ended`: the results of these attempts came with the same call, and count.
        """
        running = select(attempt.c.job_id).where(attempt.c.open_worker == worker_id, attempt.c.id.not_in(ended))
        held = db.execute(running).scalars().all()
        changes = Changes()
        leaves = self._nodes(db, held)
        self._stop_attempts(db, leaves, "the worker's hours are over", changes)
        self._refresh(db, [row.id for row in leaves], changes)
        self._settle(db, changes)
        if leaves:
            words = f"its hours are over: {counted(len(leaves), 'job')} put back"
            self._event(db, "worker.send_home", "server", words, worker_id=worker_id)
        self._bump(db, "backlog")
        return len(leaves)

    @writes
    def drain_workers(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Workers finish what they run and take no more."""
        return self._transition_workers(db, ids, "drain", who)

    @writes
    def resume_workers(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Ends a drain, or forgives a sick worker."""
        rows = self._workers_must_exist(db, ids)
        sick = [row.id for row in rows if row.state == WorkerState.SICK]
        self._transition_workers(db, sick, "forgive", who)
        return len(sick) + self._transition_workers(db, [i for i in ids if i not in sick], "resume", who)

    def _transition_workers(self, db: Connection, ids: Sequence[int], verb: str, who: str) -> int:
        for row in self._workers_must_exist(db, ids):
            if verb == "drain" and row.state == WorkerState.DRAINING:
                continue
            forgiven = HEALTHY if verb == "forgive" else {}
            db.execute(update(worker).where(worker.c.id == row.id).values(state=after(WORKER, row.state, verb), **forgiven))
            self._event(db, f"worker.{verb}", who, "by hand", worker_id=row.id)
            if row.instance_id is not None:  # a machine whose worker takes no more is not paid for until somebody remembers it
                wish = "drain" if verb == "drain" else ""
                live = and_(instance.c.id == row.instance_id, instance.c.state == str(InstanceState.RUNNING))
                db.execute(update(instance).where(live).values(wish=wish, wished_by=who))
        self._bump(db, "fleet")
        self._bump(db, "backlog")  # the autoscaler looks at once
        return len(ids)

    @writes
    def delete_workers(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Forgets workers; what they hold is put back. Conflict for one whose cloud instance still runs: terminate that."""
        rows = self._workers_must_exist(db, ids)
        gone = [str(InstanceState.GONE), str(InstanceState.FAILED)]
        now = self.clock()
        for row in rows:
            live = select(instance.c.id).where(instance.c.id == row.instance_id, instance.c.state.not_in(gone))
            if row.instance_id and db.execute(live).first():
                raise Conflict(f"worker {row.name} runs on instance {row.instance_id}; terminate that first")
            changes = Changes()
            self._lose(db, self._open_of(db, row.id), "the worker was deleted", now, changes)
            self._settle(db, changes)
            db.execute(delete(worker).where(worker.c.id == row.id))
            self._event(db, "worker.delete", who, f"{row.name} deleted", worker_id=row.id)
        self._bump(db, "fleet")
        return len(ids)

    def _workers_must_exist(self, db: Connection, ids: Sequence[int]) -> list[Any]:
        rows: list[Any] = []
        columns = (worker.c.id, worker.c.name, worker.c.state, worker.c.instance_id)
        for chunk in chunks(list(ids)):
            rows += db.execute(select(*columns).where(worker.c.id.in_(chunk))).all()
        missing = sorted(set(ids) - {row.id for row in rows})
        if missing:
            raise NotFound(f"there is no worker {missing[0]}", fields={"ids": f"no worker {missing[0]}"})
        return rows

    @reads
    def affinities(self, db: Connection, viewer: str | None = None) -> list[dict[str, Any]]:
        """Every tag in use, with how many workers have it and how many jobs that are not over ask for it themselves."""
        counts: dict[str, dict[str, Any]] = {}
        for (lines,) in db.execute(select(worker.c.affinity).where(worker.c.state != str(WorkerState.TERMINATED))):
            for tag in {tag for line in json.loads(lines) for tag in line}:
                counts.setdefault(tag, {"tag": tag, "workers": 0, "jobs": 0})["workers"] += 1
        query = select(reqset.c.json, func.count().label("n")).join(job, job.c.own_set == reqset.c.id)
        if viewer is not None:
            query = query.join(spec, spec.c.job_id == job.c.id).where(spec.c.user == viewer)
        for row in db.execute(query.where(job.c.state.not_in(["FINISHED", "ERROR"])).group_by(reqset.c.id)):
            for tag in json.loads(row.json)["tags"]:
                counts.setdefault(tag, {"tag": tag, "workers": 0, "jobs": 0})["jobs"] += row.n
        return sorted(counts.values(), key=lambda entry: str(entry["tag"]))


def _proof(credential: str, row: Any, now: float) -> str:
    """The hash of a credential that proves the worker of a row: its own, or the one before where the answer may be lost."""
    name, _, secret = credential.partition(".")
    key = hash_secret(secret)
    if name != f"w{row.id}":
        return ""
    before = row.old_until is None or now < row.old_until or row.seen_at <= row.credential_at
    good = hmac.compare_digest(row.credential, key) or (before and hmac.compare_digest(row.old_credential, key))
    return key if good else ""


def problem_of(networks: Sequence[str]) -> str:
    """What is wrong with networks; nothing if all are some."""
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            return f"{network[:40]!r} is no network such as 10.0.0.0/8"
    return "are too long" if len(",".join(networks)) > 255 else ""


def in_networks(address: str | None, networks: Iterable[str]) -> bool:
    """Whether an address lies in one of the networks."""
    try:
        peer = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(peer, "ipv4_mapped", None) or peer
    return any(mapped in ipaddress.ip_network(network) for network in networks)


def _worker_select() -> Any:
    return select(worker, instance.c.payer).outerjoin(instance, instance.c.id == worker.c.instance_id)


def _worker_row(row: Any, running: int) -> WorkerRow:
    payer = row.payer if row.instance_id is not None else None
    capacity = capacity_of(row.facts, row.affinity, payer, row.name)
    return WorkerRow(
        row.id,
        row.name,
        row.state,
        row.active,
        row.epoch,
        row.session,
        row.slots,
        capacity,
        row.idle_since,
        row.seen_at,
        row.instance_id,
        running,
        availability(row),
        row.load,
        row.used_at,
        row.old_credential,
        row.old_until,
        row.credential_at,
    )


@lru_cache(maxsize=20_000)
def capacity_of(facts: str, affinity: str, payer: str | None, name: str) -> Capacity:
    """What a worker offers, from the JSON of its row, which seldom changes."""
    told = json.loads(facts)
    lines = tuple(tuple(line) for line in json.loads(affinity))
    gpu_memory = told.get("gpu_memory_bytes", 0)  # workers of the first version did not say
    return Capacity(lines, told["cpus"], told["memory_bytes"], told["gpus"], payer, gpu_memory, name)


@lru_cache(maxsize=1_024)
def _availability(spans: str, zone: str, end: str, user_s: float, load: float) -> Availability:
    return Availability(hours.parse(spans, zone), end, user_s, load)


def availability(row: Any) -> Availability:
    """When the worker of a row takes jobs."""
    return _availability(row.hours, row.timezone, row.hours_end, row.idle_user_s, row.idle_load)
