"""Which ready job goes to which worker, within one transaction.

Best tag line first, then priority path, then who has used least of the farm lately (`fair`), then the lowest id. A job that
does not fit beside what the worker runs makes that worker keep its room for it, one worker a job, so that a big one is not
passed by small ones for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from coalition import matching
from coalition.matching import Capacity, Requirement, Room
from coalition.schema import attempt, fair_use, job, klass, ready, reservation
from coalition.store.base import Hot, HotIn
from coalition.store.limits import Tokens
from coalition.store.results import Outcome

if TYPE_CHECKING:
    from coalition.store.dispatch import Dispatch

LOOK_S = 60.0  # what runs counts in a share by its age, and so much more: else all would go to one at first
AVOIDED_LOOK = 32

NONEMPTY = Hot(
    select(klass.c.id, klass.c.set_id, klass.c.prio_path, klass.c.generation, klass.c.fair_key).where(klass.c.nonempty)
)
READY_OF = Hot(
    select(ready.c.job_id, ready.c.avoid)
    .where(ready.c.class_id == bindparam("b_class"), ready.c.job_id > bindparam("b_after"))
    .order_by(ready.c.job_id)
    .limit(bindparam("b_limit")),
    *("b_class", "b_after", "b_limit"),
)
EMPTY_CLASS = Hot(
    update(klass).where(klass.c.id == bindparam("b_id"), klass.c.generation == bindparam("b_gen")).values(nonempty=False),
    *("b_id", "b_gen"),
)
RESERVED = Hot(
    select(reservation.c.worker_id, reservation.c.job_id, ready.c.job_id.label("ready"))
    .outerjoin(job, job.c.id == reservation.c.job_id)
    .outerjoin(ready, (ready.c.class_id == job.c.class_id) & (ready.c.job_id == job.c.id))
)
UNRESERVE = Hot(delete(reservation).where(reservation.c.worker_id == bindparam("b_worker")), "b_worker")
RESERVE = Hot(
    insert(reservation).values(worker_id=bindparam("b_worker"), job_id=bindparam("b_job"), since=bindparam("b_since")),
    *("b_worker", "b_job", "b_since"),
)
SHARES_OF = HotIn(lambda keys: select(fair_use.c.fair_key, fair_use.c.used_s, fair_use.c.at).where(fair_use.c.fair_key.in_(keys)))
RUNNING_BY = Hot(
    select(attempt.c.fair_key, func.count(), func.sum(attempt.c.leased_at))
    .where(attempt.c.open_worker.is_not(None))
    .group_by(attempt.c.fair_key)
)


def shares(db: Connection, keys: Sequence[str], now: float, half_life_s: float) -> dict[str, float]:
    """What each sharer has used lately and uses now, in slot-seconds."""
    if not keys:
        return {}
    use = dict.fromkeys(keys, 0.0)
    for key, used_s, at in SHARES_OF.all(db, keys):
        use[key] = matching.decayed(used_s, now - at, half_life_s)
    for key, count, leased in RUNNING_BY.all(db):
        if key in use:
            use[key] += count * (now + LOOK_S) - float(leased)
    return use


@dataclass(frozen=True)
class Pick:
    """A job for a worker."""

    class_id: int
    job_id: int
    set_id: int
    fair_key: str


@dataclass
class Hand:
    """A worker that is dealt to: how many more jobs it takes, how many of those can start at once, and its room."""

    worker_id: int
    left: int
    now: int
    room: Room | None  # None: nothing waits or runs that takes more than a slot
    outcome: Outcome
    full: set[int]  # classes that do not fit beside what it runs
    keeps: bool = False  # its room, for a job that does not fit yet


class Picker:
    """Deals ready jobs to the workers of one exchange."""

    def __init__(self, store: Dispatch, db: Connection, wanted: int, now: float) -> None:
        self.store, self.db, self.left, self.at = store, db, wanted, now
        rows = NONEMPTY.all(db)
        self.generations = {row[0]: row[3] for row in rows}
        self.needs = {row[0]: store._requirement(db, row[1]) for row in rows}
        self.set_of = {row[0]: row[1] for row in rows}
        self.limited = {class_id for class_id, need in self.needs.items() if need.limits}
        self.tokens = Tokens.of(store, db, [self.needs[c] for c in self.limited]) if self.limited else None
        self.classes = [row for row in rows if row[0] not in self.limited or self._tokens_for(row[0], None)]
        self.heavy = any(self.needs[row[0]].heavy for row in self.classes)
        self.holds = _Holds(self.store, db) if self.heavy else None
        fair = store.settings.scheduler.fair != "no"
        self.fair_keys = {row[0]: row[4] if fair else "" for row in rows}
        keys = sorted({key for key in self.fair_keys.values() if key})
        self.use = shares(db, keys, now, store.settings.scheduler.fair_half_life_s)
        self.heads: dict[int, list[tuple[Any, ...]]] = {}  # class -> (id, avoid) fetched and not yet dealt, lowest last
        self.last: dict[int, int] = {}
        self.dry: set[int] = set()
        self.rooms: dict[int, Room] = {}
        self._orders: dict[tuple[Capacity, str], list[list[int]]] = {}
        self._named = any(self.needs[row[0]].named for row in self.classes)

    def _tokens_for(self, class_id: int, worker_id: int | None) -> bool:
        return self.tokens is None or self.tokens.times(self.needs[class_id], worker_id) > 0

    # ------------------------------------------------------------ dealing

    def take(
        self, worker_id: int, capacity: Capacity, want: int, ahead: int, held: Sequence[int], outcome: Outcome
    ) -> list[Pick]:
        """Up to `want` jobs for a worker that holds attempts for the sets `held`; a job is dealt once.

        `ahead` of them would wait there for a slot: none of these takes a token or wants the machine alone.
        """
        hand = Hand(worker_id, want, max(0, want - ahead), self._room(worker_id, capacity, held), outcome, set())
        dealt: list[Pick] = []
        for peers in self._order(capacity):
            self._deal(peers, hand, dealt)
            if hand.left <= 0:
                break
        if self.holds and hand.left > 0 and not hand.keeps:
            self.holds.release(worker_id)  # it was not met on the whole way: it is none for this worker now
        if hand.room is not None:
            self.rooms[worker_id] = hand.room
        self.left -= want
        return dealt

    def _deal(self, peers: Sequence[int], hand: Hand, dealt: list[Pick]) -> None:
        """Deals of classes of equal rank."""
        while hand.left > 0:
            best = self._best(peers, hand)
            if best is None:
                return
            class_id, index = best
            need = self.needs[class_id]
            if hand.room is not None and hand.room.closed:
                hand.left = 0
                return
            if hand.room is not None and not hand.room.fits(need):
                self._keep_room(class_id, hand)
                continue
            if hand.now <= 0 and (need.limits or need.exclusive):
                hand.left = 0  # it goes first, and nothing is queued before it
                return
            dealt.append(self._give(class_id, index, hand))

    def _best(self, peers: Sequence[int], hand: Hand) -> tuple[int, int] | None:
        """(class, place among its heads) of the next job: of who has used least, the lowest id."""
        best: tuple[tuple[float, int], int, int] | None = None
        for class_id in peers:
            index = self._next(class_id, hand)
            if index is not None:
                rank = (self.use.get(self.fair_keys[class_id], 0.0), self.heads[class_id][index][0])
                if best is None or rank < best[0]:
                    best = (rank, class_id, index)
        return None if best is None else best[1:]

    def _next(self, class_id: int, hand: Hand) -> int | None:
        """Where the class's next job for this worker is among its heads; None if there is none."""
        if class_id in hand.full or not self._fill(class_id, max(self.left, 1)):
            return None
        if class_id in self.limited and not self._tokens_for(class_id, hand.worker_id):
            return None
        if self.heads[class_id][-1][1] != hand.worker_id:
            return -1
        return self._not_avoided(class_id, hand)

    def _not_avoided(self, class_id: int, hand: Hand) -> int | None:
        """A job that failed on this worker last is for another one, while there is one that can take it."""
        if not self.store.others_take(self.db, self.set_of[class_id], hand.worker_id):
            return -1
        hand.outcome.kept_back = True
        self._fetch(class_id, AVOIDED_LOOK)
        heads = self.heads[class_id]
        return next((-place for place in range(1, len(heads) + 1) if heads[-place][1] != hand.worker_id), None)

    def _give(self, class_id: int, index: int, hand: Hand) -> Pick:
        need, key = self.needs[class_id], self.fair_keys[class_id]
        job_id = self.heads[class_id].pop(index)[0]
        hand.left -= 1
        hand.now -= 1
        if hand.room is not None:
            hand.room = hand.room.without(need)
        if self.tokens is not None and need.limits:
            self.tokens.take(need, hand.worker_id)
        if self.holds:
            self.holds.started(job_id)
        if key:
            self.use[key] += LOOK_S
        return Pick(class_id, job_id, self.set_of[class_id], key)

    def _keep_room(self, class_id: int, hand: Hand) -> None:
        """The class does not fit now: the worker keeps its room for the first of its jobs that no other worker waits for.

        What it keeps is as good as taken for all that comes after, a slot included.
        """
        hand.full.add(class_id)
        if hand.keeps or hand.room is None or self.holds is None:
            return
        for job_id, avoid in reversed(self.heads[class_id]):
            if avoid != hand.worker_id and self.holds.reserve(hand.worker_id, job_id):
                hand.keeps = True
                hand.room = hand.room.without(self.needs[class_id])
                hand.now -= 1
                hand.left = min(hand.left - 1, hand.now)
                return

    # ------------------------------------------------------------ what there is

    def _room(self, worker_id: int, capacity: Capacity, held: Sequence[int]) -> Room | None:
        if worker_id in self.rooms:
            return self.rooms[worker_id]
        needs = [self.store._requirement(self.db, set_id) for set_id in held if set_id]
        if not self.heavy and not any(need.exclusive for need in needs):
            return None
        return matching.room(capacity, [*needs, *[Requirement()] * held.count(0)])

    def _order(self, capacity: Capacity) -> list[list[int]]:
        """Classes that fit, in groups of equal rank, best first."""
        key = (capacity, capacity.name if self._named else "")
        if key not in self._orders:
            ranked = []
            for class_id, set_id, path, _, _ in self.classes:
                line = self.store.line_of(self.db, set_id, capacity)
                if line is not None:
                    ranked.append(((line, matching.order_key(path)), class_id))
            ranked.sort()
            self._orders[key] = [[class_id for _, class_id in peers] for _, peers in groupby(ranked, key=lambda pair: pair[0])]
        return self._orders[key]

    def _fill(self, class_id: int, limit: int) -> bool:
        """Whether a job of the class is at hand; fetches what the whole exchange may want of it."""
        if not self.heads.get(class_id):
            self._fetch(class_id, limit)
        return bool(self.heads[class_id])

    def _fetch(self, class_id: int, limit: int) -> None:
        """Adds the class's next jobs to those at hand."""
        heads = self.heads.setdefault(class_id, [])
        if class_id in self.dry:
            return
        rows = READY_OF.all(self.db, class_id, self.last.get(class_id, 0), limit)
        if rows:
            self.last[class_id] = rows[-1][0]
            heads[:0] = rows[::-1]
        if len(rows) < limit:
            self.dry.add(class_id)

    def close(self) -> None:
        """Takes the flag off classes that have nothing left, and writes the tokens and the rooms kept."""
        empty = [(class_id, self.generations[class_id]) for class_id in self.dry if not self.heads[class_id]]
        self.store._many(self.db, EMPTY_CLASS, sorted(empty))
        if self.tokens is not None:
            self.tokens.write()
        if self.holds:
            self.holds.write(self.at)

    def wanted_of(self, names: set[str]) -> bool:
        """Whether jobs wait for tokens of these limits, and some are left."""
        return any(
            self._tokens_for(class_id, None) and (class_id not in self.dry or bool(self.heads.get(class_id)))
            for class_id in self.limited
            if any(name in names for name, _ in self.needs[class_id].limits)
        )


class _Holds:
    """Which worker keeps its room for which job; those whose job is not ready any more are gone."""

    def __init__(self, store: Dispatch, db: Connection) -> None:
        self.store, self.db = store, db
        rows = RESERVED.all(db)
        self.before: Mapping[int, int] = {worker_id: job_id for worker_id, job_id, _ in rows}
        self.job_of = {worker_id: job_id for worker_id, job_id, is_ready in rows if is_ready is not None}
        self.worker_of = {job_id: worker_id for worker_id, job_id in self.job_of.items()}

    def reserve(self, worker_id: int, job_id: int) -> bool:
        """Whether the worker keeps its room for the job from now on: no other one does."""
        if self.worker_of.get(job_id, worker_id) != worker_id:
            return False
        self.release(worker_id)
        self.job_of[worker_id], self.worker_of[job_id] = job_id, worker_id
        return True

    def release(self, worker_id: int) -> None:
        if (job_id := self.job_of.pop(worker_id, None)) is not None:
            del self.worker_of[job_id]

    def started(self, job_id: int) -> None:
        if (worker_id := self.worker_of.get(job_id)) is not None:
            self.release(worker_id)

    def write(self, now: float) -> None:
        gone = [(worker_id,) for worker_id, job_id in self.before.items() if self.job_of.get(worker_id) != job_id]
        new = [(worker_id, job_id, now) for worker_id, job_id in self.job_of.items() if self.before.get(worker_id) != job_id]
        self.store._many(self.db, UNRESERVE, sorted(gone))
        self.store._many(self.db, RESERVE, sorted(new))
