"""One moment of the farm as `explain` looks at it: who is up, what each has left, what waits and in which order.

Each part is read once, and only when a question needs it. The fleet is read in tuples of the few columns that matter: with
1,000 workers, rows of all columns took two thirds of an answer's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, bindparam, func, literal, select

from coalition import matching
from coalition.matching import Capacity, Requirement, Room
from coalition.schema import attempt, instance, ready, worker
from coalition.states import WorkerState
from coalition.store.base import Hot, HotIn
from coalition.store.limits import Tokens
from coalition.store.picker import NONEMPTY, RESERVED, shares
from coalition.store.workers import availability, capacity_of

if TYPE_CHECKING:
    from coalition.store.workers import Workers

COUNTED = 10_000  # jobs are counted up to here
KINDS = 16  # different machines whose order of jobs is compared
LAST = 2**62  # beyond every job's id


class Station(NamedTuple):
    """A worker that is up: switched on, and heard of."""

    id: int
    name: str
    state: str
    slots: int
    affinity: str
    facts: str
    load: float
    used_at: float | None
    hours: str
    timezone: str
    hours_end: str
    idle_user_s: float
    idle_load: float
    instance_id: int | None
    payer: str | None

    @property
    def capacity(self) -> Capacity:
        return capacity_of(self.facts, self.affinity, self.payer if self.instance_id is not None else None, self.name)


class Kind(NamedTuple):
    """A kind of waiting jobs: one class that has some."""

    id: int
    set_id: int
    prio_path: str
    generation: int
    fair_key: str


UP = Hot(
    select(*(worker.c[name] for name in Station._fields[:-1]), instance.c.payer)
    .outerjoin(instance, instance.c.id == worker.c.instance_id)
    .where(worker.c.active, worker.c.state != str(WorkerState.TIMEOUT), worker.c.state != str(WorkerState.TERMINATED))
    .order_by(worker.c.id)
)
HELD = Hot(
    select(attempt.c.open_worker, attempt.c.set_id, func.count())
    .where(attempt.c.open_worker.is_not(None))
    .group_by(attempt.c.open_worker, attempt.c.set_id)
)


def _some_ready(ids: list[int]) -> object:
    some = select(literal(1)).select_from(ready).where(ready.c.class_id.in_(ids), ready.c.job_id < bindparam("b_before"))
    return select(func.count()).select_from(some.limit(bindparam("b_limit")).subquery())


READY_BEFORE = HotIn(_some_ready, "b_before", "b_limit")  # type: ignore[arg-type]


class Moment:
    """What one question reads, within its transaction."""

    def __init__(self, store: Workers, db: Connection) -> None:
        self.store, self.db, self.now = store, db, store.clock()

    @cached_property
    def up(self) -> list[Station]:
        return [Station(*row) for row in UP.all(self.db)]

    @cached_property
    def machines(self) -> dict[Capacity, list[Station]]:
        """The workers by what they offer: equal machines are asked once."""
        found: dict[Capacity, list[Station]] = {}
        for one in self.up:
            found.setdefault(one.capacity, []).append(one)
        return found

    @cached_property
    def held(self) -> dict[int, list[tuple[int, int]]]:
        """worker -> (requirement set, how many attempts for it are open)."""
        found: dict[int, list[tuple[int, int]]] = {}
        for worker_id, set_id, count in HELD.all(self.db):
            found.setdefault(worker_id, []).append((set_id, count))
        return found

    @cached_property
    def kinds(self) -> list[Kind]:
        return [Kind(*row) for row in NONEMPTY.all(self.db)]

    @cached_property
    def tokens(self) -> Tokens:
        """What is left of the limits that waiting jobs name."""
        return Tokens.of(self.store, self.db, [self.need(kind.set_id) for kind in self.kinds])

    @cached_property
    def kept(self) -> dict[int, int]:
        """worker -> the job that it keeps its room for."""
        return {worker_id: job_id for worker_id, job_id, is_ready in RESERVED.all(self.db) if is_ready is not None}

    def need(self, set_id: int) -> Requirement:
        return self.store._requirement(self.db, set_id)

    # ------------------------------------------------------------ who could

    def fitting(self, set_id: int) -> list[Station]:
        """The workers that are up and could run such a job, if they took any."""
        if self.need(set_id).named:
            return [one for one in self.up if self._line(set_id, one.capacity) is not None]
        fit = (stations for capacity, stations in self.machines.items() if self._line(set_id, capacity) is not None)
        return sorted((one for stations in fit for one in stations), key=lambda one: one.id)

    def _line(self, set_id: int, capacity: Capacity) -> int | None:
        return self.store.line_of(self.db, set_id, capacity)

    def refusal(self, one: Station) -> str | None:
        """Why a worker takes no jobs now; None if it does, as far as its room allows."""
        if one.state == WorkerState.SICK:
            return "is set aside after errors"
        if one.state == WorkerState.DRAINING:
            return "is draining"
        if not (one.hours or one.idle_user_s or one.idle_load):
            return None
        user_idle_s = None if one.used_at is None else max(0.0, self.now - one.used_at)
        return availability(one).refusal(self.now, one.load, user_idle_s, self.running(one.id))

    def running(self, worker_id: int) -> int:
        return sum(count for _, count in self.held.get(worker_id, ()))

    def lack(self, worker_id: int, capacity: Capacity, need: Requirement) -> str | None:
        """Why such a job cannot start beside what the worker runs, in words that follow its name; None if it can."""
        return self.room(worker_id, capacity).lack(need)

    def room(self, worker_id: int, capacity: Capacity) -> Room:
        """What a worker has left beside what it runs."""
        cpus, memory, gpus, running, closed = capacity.cpus, capacity.memory_bytes, capacity.gpus, 0, False
        for set_id, count in self.held.get(worker_id, ()):
            need = self.need(set_id) if set_id else Requirement()
            cpus, memory, gpus = cpus - count * need.cpus, memory - count * need.memory_bytes, gpus - count * need.gpus
            running, closed = running + count, closed or need.exclusive
        return Room(cpus, memory, gpus, running, closed)

    # ------------------------------------------------------------ in which order

    def ready(self, class_ids: Sequence[int], before: int = LAST) -> int:
        """How many jobs of these classes could start now, of those with a lower id; counted up to one more than COUNTED."""
        return sum(row[0] for row in READY_BEFORE.all(self.db, class_ids, before, COUNTED + 1)) if class_ids else 0

    def ahead(self, class_id: int, takers: Iterable[Station]) -> tuple[list[Kind], list[Kind]]:
        """(the classes dealt before one on some of these workers, those of equal rank: itself too), as far as limits let them."""
        capacities = list({one.capacity: None for one in takers})[:KINDS]
        mine = next((kind for kind in self.kinds if kind.id == class_id), None)
        if mine is None:
            return [], []
        ranks = [(self._line(mine.set_id, capacity), matching.order_key(mine.prio_path)) for capacity in capacities]
        lines = self._lines({kind.set_id for kind in self.kinds}, capacities)
        first, equal = [], []
        for kind in self.kinds:
            key = matching.order_key(kind.prio_path)
            theirs = [(line, key) for line in lines[kind.set_id]]
            if any(line is not None and (line, key) < rank for (line, _), rank in zip(theirs, ranks, strict=True)):
                first.append(kind)
            elif any(rank == other for rank, other in zip(ranks, theirs, strict=True)):
                equal.append(kind)
        return first, equal

    def _lines(self, set_ids: Iterable[int], capacities: Sequence[Capacity]) -> Mapping[int, Sequence[int | None]]:
        """For each set, the line of each machine that fits; none where its limits leave nothing."""
        none = [None] * len(capacities)
        return {
            set_id: [self._line(set_id, one) for one in capacities] if self.tokens.times(self.need(set_id)) else none
            for set_id in set_ids
        }

    def shares(self, keys: Iterable[str]) -> dict[str, float]:
        """What each of these sharers has used of the farm lately, in slot-seconds."""
        return shares(self.db, sorted(set(filter(None, keys))), self.now, self.store.settings.scheduler.fair_half_life_s)
