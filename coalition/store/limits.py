"""Limits: counted tokens (licences) that jobs hold while they run, of the whole farm or of each machine.

A lease takes its tokens by a guarded update, every end of an attempt gives them back, both in the transaction of the change:
what is counted as used is always a recount of the open attempts. A limit that nobody has defined has no tokens: jobs wait.
The limits "group#ID" and "user#NAME" are the farm's own, for max_running; the latter's maximum is the knob of that name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from coalition.errors import BadInput, NotFound
from coalition.matching import Requirement
from coalition.model import OWN_LIMITS, TAG, Limit
from coalition.schema import attempt, farm_limit, klass, limit_use, ready
from coalition.store import sight
from coalition.store.base import Hot, HotIn, reads, writes
from coalition.store.sets import SET_JSON
from coalition.store.tree import Changes, Tree

FARM = 0  # the holder of tokens that are the whole farm's; others are a worker's
UNLIMITED = 2**31 - 1
NO_LIMIT = (0, False)  # what a limit that is not defined allows

LIMITS_OF = HotIn(
    lambda names: select(farm_limit.c.name, farm_limit.c.maximum, farm_limit.c.per_host).where(farm_limit.c.name.in_(names))
)
USES_OF = HotIn(
    lambda names: select(limit_use.c.name, limit_use.c.worker_id, limit_use.c.used).where(limit_use.c.name.in_(names))
)
NEW_USE = Hot(
    insert(limit_use).values(name=bindparam("b_name"), worker_id=bindparam("b_holder"), used=0),
    *("b_name", "b_holder"),
)
TAKE = Hot(
    update(limit_use)
    .where(
        limit_use.c.name == bindparam("b_name"),
        limit_use.c.worker_id == bindparam("b_holder"),
        limit_use.c.used + bindparam("b_more") <= bindparam("b_maximum"),
    )
    .values(used=limit_use.c.used + bindparam("b_count")),
    *("b_count", "b_name", "b_holder", "b_more", "b_maximum"),
)
GIVE_BACK = Hot(
    update(limit_use)
    .where(limit_use.c.name == bindparam("b_name"), limit_use.c.worker_id == bindparam("b_holder"))
    .values(used=limit_use.c.used - bindparam("b_count")),
    *("b_count", "b_name", "b_holder"),
)
HELD_SETS = HotIn(
    lambda ids: (
        select(attempt.c.set_id)
        .where(attempt.c.job_id.in_(ids), attempt.c.open_worker.is_not(None), attempt.c.set_id != 0)
        .distinct()
    )
)
HOLD_SET = HotIn(
    lambda ids: (
        update(attempt)
        .where(attempt.c.job_id.in_(ids), attempt.c.open_worker.is_not(None), attempt.c.set_id == bindparam("b_old"))
        .values(set_id=bindparam("b_new"))
    ),
    *("b_new", "b_old"),
)


class Limits(Tree):
    """The part of the store that keeps limits."""

    @reads
    def limits(self, db: Connection, viewer: str | None = None) -> list[Limit]:
        """All limits that are defined, and those that waiting jobs name and nobody has defined (`maximum` is None).

        A viewer is told how many own jobs wait.
        """
        waiting = self._waiting_for_limits(db, viewer)
        used: dict[str, int] = {}
        for name, _, count in db.execute(select(limit_use.c.name, limit_use.c.worker_id, limit_use.c.used)):
            used[name] = used.get(name, 0) + count
        kinds = {row.name: row for row in db.execute(select(farm_limit)) if not row.name.startswith(OWN_LIMITS)}
        return [
            Limit(
                name, kinds[name].maximum, bool(kinds[name].per_host), used.get(name, 0), waiting.get(name, 0), ("set", "delete")
            )
            if name in kinds
            else Limit(name, None, False, 0, waiting[name], ("set",))
            for name in sorted(kinds.keys() | {name for name in waiting if not name.startswith(OWN_LIMITS)})
        ]

    def _waiting_for_limits(self, db: Connection, viewer: str | None = None) -> dict[str, int]:
        """limit -> how many jobs that could start now need its tokens."""
        waiting: dict[str, int] = {}
        for class_id, set_id in db.execute(select(klass.c.id, klass.c.set_id).where(klass.c.nonempty)):
            if limits := self._requirement(db, set_id).limits:
                wait = select(func.count()).select_from(ready).where(ready.c.class_id == class_id)
                if viewer is not None:
                    wait = wait.where(sight.is_own(ready.c.job_id, viewer))
                count = db.execute(wait).scalar_one()
                for name, _ in limits if count else ():
                    waiting[name] = waiting.get(name, 0) + count
        return waiting

    @writes
    def set_limit(self, db: Connection, name: str, maximum: int, per_host: bool = False, who: str = "") -> None:
        """Defines a limit, or changes it: what runs goes on, also above a new maximum. BadInput for a name of the farm's own."""
        if not TAG.match(name) or name.startswith(OWN_LIMITS):
            words = "is kept by the farm itself; give groups max_running" if name.startswith(OWN_LIMITS) else "is not allowed"
            raise BadInput(fields={"name": f"{name[:80]!r} {words}"})
        was = db.execute(select(farm_limit.c.maximum, farm_limit.c.per_host).where(farm_limit.c.name == name)).first()
        self._define_limit(db, name, maximum, per_host)
        changes: dict[str, tuple[int | None, int]] = {"maximum": (was.maximum if was else None, maximum)}
        if was and bool(was.per_host) != per_host:
            changes["per_host"] = (bool(was.per_host), per_host)
        self._event(db, "limit.set", who, f"{name}: {maximum}{' a machine' if per_host else ''}", changes=changes)
        self._bump(db, "ready")  # whoever found none left looks again
        self._bump(db, "backlog")

    @writes
    def delete_limit(self, db: Connection, name: str, who: str = "") -> None:
        """Forgets a limit; jobs that name it wait until it is defined again. NotFound if there is none."""
        named = TAG.match(name) and not name.startswith(OWN_LIMITS)
        was = db.execute(select(farm_limit.c.maximum).where(farm_limit.c.name == name)).scalar() if named else None
        if was is None:
            raise NotFound(f"there is no limit {name[:80]}")
        self._drop_limit(db, name)
        self._event(db, "limit.delete", who, name, changes={"maximum": (was, None)})
        self._bump(db, "backlog")

    def _define_limit(self, db: Connection, name: str, maximum: int, per_host: bool = False) -> None:
        """Writes the limit, and counts what open attempts hold of it."""
        db.execute(delete(farm_limit).where(farm_limit.c.name == name))
        db.execute(insert(farm_limit).values(name=name, maximum=maximum, per_host=per_host))
        self._count_again(db, name, per_host)

    def _count_again(self, db: Connection, name: str, per_host: bool) -> None:
        db.execute(delete(limit_use).where(limit_use.c.name == name))
        held: dict[int, int] = {}
        for worker_id, count in self._recount(db, name).items():
            holder = worker_id if per_host else FARM
            held[holder] = held.get(holder, 0) + count
        for holder, count in sorted(held.items()):
            db.execute(insert(limit_use).values(name=name, worker_id=holder, used=count))

    def _drop_limit(self, db: Connection, name: str) -> None:
        db.execute(delete(farm_limit).where(farm_limit.c.name == name))
        db.execute(delete(limit_use).where(limit_use.c.name == name))

    def _hold_again(self, db: Connection, changes: Changes) -> None:
        """What runs holds the tokens that its job asks for now, also when the job was edited or moved meanwhile."""
        reclassed, changes.reclassed = changes.reclassed, {}
        names: set[str] = set()
        for class_id, ids in reclassed.items():
            set_id = db.execute(select(klass.c.set_id).where(klass.c.id == class_id)).scalar_one()
            limits = set(self._limits_of(db, set_id))
            for old in {row[0] for row in HELD_SETS.all(db, ids)}:
                if other := limits ^ set(self._limits_of(db, old)):
                    names.update(name for name, _ in other)
                    HOLD_SET.run(db, ids, set_id, old)
        kinds = {row[0]: bool(row[2]) for row in LIMITS_OF.all(db, sorted(names))}
        for name in sorted(names):
            if name in kinds or name.startswith(OWN_LIMITS):
                self._count_again(db, name, kinds.get(name, False))

    def _limits_of(self, db: Connection, set_id: int) -> tuple[tuple[str, int], ...]:
        return Requirement.from_json(SET_JSON.all(db, set_id)[0][0]).limits  # not remembered: it may be this transaction's

    def _recount(self, db: Connection, name: str) -> dict[int, int]:
        """worker -> how many tokens its open attempts hold."""
        held: dict[int, int] = {}
        columns = (attempt.c.open_worker, attempt.c.set_id)
        still_open = select(*columns, func.count().label("n")).where(attempt.c.open_worker.is_not(None), attempt.c.set_id != 0)
        for row in db.execute(still_open.group_by(*columns)):
            each = dict(self._limits_of(db, row.set_id)).get(name, 0)
            if each:
                held[row.open_worker] = held.get(row.open_worker, 0) + each * row.n
        return held

    def _give_back(self, db: Connection, set_id: int, worker_id: int, changes: Changes) -> None:
        """Notes the tokens of an attempt that was open and is no more."""
        for name, count in self._requirement(db, set_id).limits if set_id else ():
            changes.tokens[name, worker_id] = changes.tokens.get((name, worker_id), 0) + count

    def _return_tokens(self, db: Connection, changes: Changes) -> set[str]:
        """Writes what was given back; the names of the limits that have more left now."""
        tokens, changes.tokens = changes.tokens, {}
        held = Counter(tokens)
        for (name, _), count in tokens.items():
            held[name, FARM] += count
        # Of a holder's row and the farm's one is there: the limit is of the farm, or of each machine.
        self._many(db, GIVE_BACK, [(count, *key) for key, count in sorted(held.items())])
        return {name for name, _ in tokens}


@dataclass
class Tokens:
    """What is left, within one transaction, of the limits that some requirements name."""

    store: Limits
    db: Connection
    kinds: dict[str, tuple[int, bool]] = field(default_factory=dict)  # name -> (maximum, per host)
    used: dict[tuple[str, int], int] = field(default_factory=dict)
    taken: dict[tuple[str, int], int] = field(default_factory=dict)
    there: set[tuple[str, int]] = field(default_factory=set)  # rows of limit_use

    @classmethod
    def of(cls, store: Limits, db: Connection, requirements: Iterable[Requirement]) -> Tokens:
        made = cls(store, db)
        names = sorted({name for requirement in requirements for name, _ in requirement.limits})
        own = store.settings.scheduler.max_running_per_user or UNLIMITED
        made.kinds = {name: (own, False) for name in names if name.startswith("user#")}
        made.kinds |= {name: (maximum, bool(per_host)) for name, maximum, per_host in LIMITS_OF.all(db, names)}
        made.used = {(name, holder): used for name, holder, used in USES_OF.all(db, names)}
        made.there = set(made.used)
        return made

    def times(self, requirement: Requirement, worker_id: int | None = None) -> int:
        """How many such jobs may start on that worker; on some worker, if none is given."""
        return min((self._left(name, worker_id) // count for name, count in requirement.limits), default=UNLIMITED)

    def _left(self, name: str, worker_id: int | None) -> int:
        maximum, per_host = self.kinds.get(name, NO_LIMIT)
        if per_host and worker_id is None:
            return UNLIMITED if maximum else 0
        return max(0, maximum - self.used.get(self._key(name, worker_id or FARM), 0))

    def _key(self, name: str, worker_id: int) -> tuple[str, int]:
        return name, worker_id if self.kinds.get(name, NO_LIMIT)[1] else FARM

    def take(self, requirement: Requirement, worker_id: int, jobs: int = 1) -> None:
        """Notes the tokens of jobs that start there."""
        for name, count in requirement.limits:
            key = self._key(name, worker_id)
            self.used[key] = self.used.get(key, 0) + count * jobs
            self.taken[key] = self.taken.get(key, 0) + count * jobs

    def write(self) -> None:
        """Writes what was taken. No limit is ever passed: the guard would find no row, and nothing at all would be leased."""
        self.store._many(self.db, NEW_USE, sorted(self.taken.keys() - self.there))
        rows = [(count, *key, count, self.kinds[key[0]][0]) for key, count in sorted(self.taken.items())]
        if self.store._many(self.db, TAKE, rows) != len(rows):
            raise RuntimeError(f"limits would be exceeded: {_shown(self.taken)}")


def _shown(tokens: Mapping[tuple[str, int], int]) -> str:
    return ", ".join(f"{name} +{count}" for (name, _), count in sorted(tokens.items()))
