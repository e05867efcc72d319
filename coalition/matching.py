"""May this worker run this job, and if not, why not. Pure: values in, values out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coalition.config import BudgetSettings


FIRST_FIELDS = ("tags", "cpus", "memory_bytes", "gpus", "payer")  # written always: stored hashes are made of them
NOBODY = "*"  # no worker has this name


@dataclass(frozen=True)
class Requirement:
    """What a job needs of a worker: every tag, and its resources. `payer` names the hard budgets that pay for it.

    `soft` names those that only count what is started for it: any worker will do for them.
    `exclusive`: nothing else runs there meanwhile. `workers`: the names that may run it (empty: any). `limits`: tokens held.
    """

    tags: tuple[str, ...] = ()
    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    payer: str = ""
    gpu_memory_bytes: int = 0
    exclusive: bool = False
    workers: tuple[str, ...] = ()
    not_workers: tuple[str, ...] = ()
    limits: tuple[tuple[str, int], ...] = ()
    soft: str = ""

    def to_json(self) -> str:
        """Without what is not asked for, so that a new kind of requirement leaves the hashes of the others alone."""
        given = {name: value for name, value in asdict(self).items() if value or name in FIRST_FIELDS}
        return json.dumps(given, sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Requirement:
        data: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(text).items()}
        data["limits"] = tuple((name, count) for name, count in data.get("limits", ()))
        return cls(**data)

    @property
    def named(self) -> bool:
        """Whether it depends on the worker's name: nothing else tells equal machines apart."""
        return bool(self.workers or self.not_workers)

    @property
    def heavy(self) -> bool:
        """Whether it takes more of a machine than a slot."""
        return bool(self.cpus or self.memory_bytes or self.gpus or self.exclusive)

    def under(self, above: Requirement) -> Requirement:
        """This, with what the ancestors ask for: tags add up, of resources and tokens the larger counts.

        Of two lists of workers that may run it those count that are in both.
        """
        limits = dict(above.limits)
        for name, count in self.limits:
            limits[name] = max(count, limits.get(name, 0))
        return Requirement(
            tags=tuple(sorted({*self.tags, *above.tags})),
            cpus=max(self.cpus, above.cpus),
            memory_bytes=max(self.memory_bytes, above.memory_bytes),
            gpus=max(self.gpus, above.gpus),
            payer=joined(self.payer, above.payer),
            gpu_memory_bytes=max(self.gpu_memory_bytes, above.gpu_memory_bytes),
            exclusive=self.exclusive or above.exclusive,
            workers=_in_both(self.workers, above.workers),
            not_workers=tuple(sorted({*self.not_workers, *above.not_workers})),
            limits=tuple(sorted(limits.items())),
            soft=joined(self.soft, above.soft),
        )


def joined(some: str, others: str) -> str:
    """The names of budgets in either text, sorted, joined by '|'."""
    return "|".join(sorted({*filter(None, some.split("|")), *filter(None, others.split("|"))}))


def _in_both(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """The names in both lists, of which an empty one stands for all."""
    if not some or not others:
        return tuple(sorted(some or others))
    return tuple(sorted({*some} & {*others})) or (NOBODY,)


@dataclass(frozen=True)
class Capacity:
    """What a worker offers. `lines` are its tag sets, best first; `payer` is None where no budget pays for it.

    Equal machines are equal whatever their names, of which few requirements speak (Requirement.named).
    """

    lines: tuple[tuple[str, ...], ...] = ()
    cpus: int = 1
    memory_bytes: int = 0
    gpus: int = 0
    payer: str | None = None
    gpu_memory_bytes: int = 0
    name: str = field(default="", compare=False)


@dataclass(frozen=True)
class Room:
    """What a worker has left beside what it runs. `closed`: something there is exclusive."""

    cpus: int
    memory_bytes: int
    gpus: int
    running: int = 0
    closed: bool = False

    def without(self, requirement: Requirement) -> Room:
        """What is left when such a job runs there too."""
        return Room(
            self.cpus - requirement.cpus,
            self.memory_bytes - requirement.memory_bytes,
            self.gpus - requirement.gpus,
            self.running + 1,
            self.closed or requirement.exclusive,
        )

    def fits(self, requirement: Requirement) -> bool:
        """Whether such a job can start now. What it does not ask for may be overdrawn."""
        return self.lack(requirement) is None

    def lack(self, requirement: Requirement) -> str | None:
        """Why such a job cannot start now, in words that follow the worker's name; None if it can."""
        if self.closed:
            return "runs an exclusive job"
        if requirement.exclusive and self.running:
            return f"runs {self.running} jobs, and this one wants it alone"
        if requirement.cpus and requirement.cpus > self.cpus:
            return f"has {max(0, self.cpus)} cpus free of {requirement.cpus}"
        if requirement.memory_bytes and requirement.memory_bytes > self.memory_bytes:
            return f"has {_gib(max(0, self.memory_bytes))} GiB of memory free of {_gib(requirement.memory_bytes)}"
        if requirement.gpus and requirement.gpus > self.gpus:
            return f"has {max(0, self.gpus)} gpus free of {requirement.gpus}"
        return None


def room(capacity: Capacity, held: Iterable[Requirement]) -> Room:
    """What a worker that runs these has left."""
    left = Room(capacity.cpus, capacity.memory_bytes, capacity.gpus)
    for requirement in held:
        left = left.without(requirement)
    return left


def fitting(requirement: Requirement, capacity: Capacity, slots: int) -> int:
    """How many such jobs a machine of so many slots runs at a time when it runs nothing else."""
    if requirement.exclusive:
        return min(1, slots)
    most = slots
    if requirement.cpus:
        most = min(most, capacity.cpus // requirement.cpus)
    if requirement.memory_bytes:
        most = min(most, capacity.memory_bytes // requirement.memory_bytes)
    if requirement.gpus:
        most = min(most, capacity.gpus // requirement.gpus)
    return most


def line(requirement: Requirement, capacity: Capacity) -> int | None:
    """The best of the worker's tag lines that fits (0 first), or None. Jobs without tags come after all lines."""
    if requirement.cpus > capacity.cpus or requirement.memory_bytes > capacity.memory_bytes or requirement.gpus > capacity.gpus:
        return None  # most that does not fit ends here, without a word of why
    if _resource_mismatch(requirement, capacity) is not None:
        return None
    if not requirement.tags:
        return len(capacity.lines)
    wanted = set(requirement.tags)
    return next((index for index, tags in enumerate(capacity.lines) if wanted.issubset(tags)), None)


def _resource_mismatch(requirement: Requirement, capacity: Capacity) -> str | None:
    if capacity.payer is not None and capacity.payer != requirement.payer:
        return f"is paid for by {capacity.payer or 'the farm'}, the job by {requirement.payer or 'the farm'}"
    if requirement.named and (words := _name_mismatch(requirement, capacity.name)):
        return words
    if requirement.cpus > capacity.cpus:
        return f"has {capacity.cpus} cpus of {requirement.cpus}"
    if requirement.memory_bytes > capacity.memory_bytes:
        return f"has {_gib(capacity.memory_bytes)} GiB of memory of {_gib(requirement.memory_bytes)}"
    if requirement.gpus > capacity.gpus:
        return f"has {capacity.gpus} gpus of {requirement.gpus}"
    if requirement.gpu_memory_bytes > capacity.gpu_memory_bytes:
        return f"has {_gib(capacity.gpu_memory_bytes)} GiB of memory a gpu of {_gib(requirement.gpu_memory_bytes)}"
    return None


def _name_mismatch(requirement: Requirement, name: str) -> str | None:
    if name in requirement.not_workers:
        return "is one that the job does not allow"
    if requirement.workers and name not in requirement.workers:
        if NOBODY in requirement.workers:
            return "is not allowed by the job and its groups: their lists have no worker in common"
        allowed = ", ".join(requirement.workers[:3]) + (", ..." if len(requirement.workers) > 3 else "")
        return f"is none of those that the job allows: {allowed}"
    return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


def mismatch(requirement: Requirement, capacity: Capacity) -> str | None:
    """Why the worker cannot run it, in words that follow its name; None if it can."""
    resource = _resource_mismatch(requirement, capacity)
    if resource or line(requirement, capacity) is not None:
        return resource
    lacking = min((set(requirement.tags).difference(tags) for tags in capacity.lines or ((),)), key=len)
    return f"lacks {', '.join(sorted(lacking))}"


def payers(budgets: Iterable[BudgetSettings], user: str, titles: Sequence[str], tags: Iterable[str]) -> tuple[str, str]:
    """The user, group and affinity budgets that a job falls under: the hard ones (Rule M's payer), and the soft ones.

    Both sorted, joined by '|'.
    """
    marks = {f"user:{user}", *(f"group:{title}" for title in titles), *(f"affinity:{tag}" for tag in tags)}
    mine = sorted((budget for budget in budgets if budget.applies_to in marks), key=lambda budget: budget.name)
    return "|".join(one.name for one in mine if one.hard), "|".join(one.name for one in mine if not one.hard)


def sponsors(
    pool: str, payer: str, budgets: Iterable[BudgetSettings], offering: Iterable[str] = (), soft: str = ""
) -> tuple[str, ...]:
    """The budgets that all of an instance counts against: those of the farm, of its pool and of what is bought, and of its jobs.

    Soft ones too. `offering`: the names that a budget may call it by. `soft`: of its jobs' budgets those that only count; one
    that became hard since pays for its own machines only.
    """
    paying, counting = (set(filter(None, names.split("|"))) for names in (payer, soft))
    marks = {"farm", f"pool:{pool}", *(f"offering:{name}" for name in offering)}
    mine = (b for b in budgets if b.applies_to in marks or b.name in paying or (b.name in counting and not b.hard))
    return tuple(sorted(budget.name for budget in mine))


def order_key(prio_path: str) -> tuple[int, ...]:
    """Sorts priority paths (hex, two digits a level, no trailing zeros) highest first, level by level.

    The end sorts after every level: what follows in a longer path ends in a level above 0.
    """
    return (*(-level for level in bytes.fromhex(prio_path)), 1)


def decayed(used_s: float, age_s: float, half_life_s: float) -> float:
    """What use of the farm still counts after some time: half as much after each half-life."""
    return float(used_s * 0.5 ** (max(0.0, age_s) / half_life_s))


def extend_path(prio_path: str, priority: int) -> str:
    """The priority path one level down. Levels of 0 at the end are dropped later, by `strip_path`."""
    return f"{prio_path}{priority:02x}"


def strip_path(prio_path: str) -> str:
    """Without trailing levels of 0, so that equal orders have one spelling."""
    while prio_path.endswith("00") and len(prio_path) >= 2:
        prio_path = prio_path[:-2]
    return prio_path
