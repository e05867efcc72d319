"""One line for each row of a list: why a job waits, why a worker is idle. The words are explain's first, at a bounded cost.

What keeps a job that could start from starting is said of its requirement set, what keeps an idle worker from working is said of
its kind of machine: each is asked once, and remembered for a moment, for pages ask every second. Of kinds that are not remembered
few are asked in one list; the rows of the others stay without words until the list is looked at again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from coalition.model import Worker
from coalition.schema import job, klass
from coalition.states import JobState
from coalition.store.base import HotIn
from coalition.store.explain_workers import ExplainWorkers
from coalition.store.moment import Moment
from coalition.words import counted, rough, verb

ASKED = 8  # kinds of jobs, or of machines, that one list asks about
REMEMBERED = 10_000


def _first_waiting() -> HotIn:
    """Groups, each with the first job right below it that waits: by its index, however many there are."""
    child = job.alias("child")
    below = select(child.c.id).where(child.c.parent == job.c.id, child.c.state == str(JobState.WAITING))
    first = below.order_by(child.c.id).limit(1).scalar_subquery()
    return HotIn(lambda ids: select(job.c.id, first).where(job.c.id.in_(ids)))


FIRST_WAITING = _first_waiting()
CLASSES_AT = HotIn(
    lambda ids: select(job.c.id, job.c.class_id).where(
        job.c.id.in_(ids), job.c.is_group.is_(False), job.c.paused.is_(False), job.c.not_before <= bindparam("b_now")
    ),
    "b_now",
)
SETS_OF = HotIn(lambda ids: select(klass.c.id, klass.c.set_id).where(klass.c.id.in_(ids)))


class Reasons(ExplainWorkers):
    """The part of the store that says in a line why what is listed does not run."""

    remember_s = 2.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._said: dict[Hashable, tuple[float, str]] = {}

    # ------------------------------------------------------------ jobs

    def _why_rows(self, db: Connection, rows: Sequence[Any]) -> Mapping[int, str]:
        """Why jobs wait that nothing holds; of a group, why the first one below it does."""
        now = self.clock()
        waiting = [row for row in rows if row.state == JobState.WAITING and not (row.paused or row.above_paused)]
        told = {row.id: self._delayed(row, now) for row in waiting if not row.is_group and row.not_before > now}
        asked = {row.id: row.class_id for row in waiting if not row.is_group and row.id not in told}
        asked |= self._classes_below(db, [row.id for row in waiting if row.is_group], now)
        words = self._why_classes(db, sorted(set(asked.values()))) if asked else {}
        return told | {one: words.get(class_id, "") for one, class_id in asked.items()}

    def _delayed(self, row: Any, now: float) -> str:
        delay = row.not_before - now
        if row.no_licence:
            return f"found no licence; is tried again in {rough(delay)}"
        return f"is tried again in {rough(delay)}, after {counted(row.errors, 'error')}"

    def _classes_below(self, db: Connection, groups: Sequence[int], now: float) -> dict[int, int]:
        """group -> the class of the first job right below it that waits, if it could start."""
        first = {group: child for group, child in FIRST_WAITING.all(db, groups) if child is not None}
        classes = dict(CLASSES_AT.all(db, sorted(first.values()), now))
        return {group: classes[child] for group, child in first.items() if child in classes}

    def _why_classes(self, db: Connection, class_ids: Sequence[int]) -> Mapping[int, str]:
        sets: dict[int, int] = dict(SETS_OF.all(db, class_ids))
        moment = Moment(self, db)
        told = self._ask(sorted(set(sets.values())), lambda set_id: ("set", set_id), lambda set_id: self._why_set(moment, set_id))
        return {class_id: told.get(set_id, "") for class_id, set_id in sets.items()}

    def _why_set(self, moment: Moment, set_id: int) -> str:
        """What keeps the jobs of a requirement set waiting that could start."""
        if reasons := self._why_unmatched(moment, set_id):
            return reasons[0]["text"]
        takers = self._who_may(moment, set_id)
        if reasons := self._why_full(moment, set_id, takers, 0):
            return reasons[0]["text"]
        return f"waits its turn on the {counted(len(takers), 'worker')} that {verb(len(takers), 'matches', 'match')}"

    # ------------------------------------------------------------ workers

    def _why_workers(self, db: Connection, idle: Sequence[Worker]) -> Mapping[int, str]:
        """Why workers are idle that would take jobs."""
        if not idle:
            return {}
        moment = Moment(self, db)
        named = any(moment.need(kind.set_id).named for kind in moment.kinds)
        payers = {one.id: one.payer for one in moment.up} if any(one.instance for one in idle) else {}
        machines = {one.id: _machine(one, payers.get(one.id), named) for one in idle}
        example = {machines[one.id]: one for one in reversed(idle)}
        told = self._ask(sorted(example, key=str), lambda key: key, lambda key: self._why_machine(moment, example[key]))
        kept = {one: f"keeps its room for job #{job_id}, which needs more than is free" for one, job_id in moment.kept.items()}
        return {one.id: kept.get(one.id) or told.get(machines[one.id], "") for one in idle}

    def _why_machine(self, moment: Moment, shown: Worker) -> str:
        """What keeps this kind of machine idle. What is so of one of them only is left to `explain`."""
        reasons = self._why_nothing_to_do(moment, shown)
        return next((one["text"] for one in reasons if one["code"] != "avoids"), "")

    # ------------------------------------------------------------ remembering

    def _ask(self, keys: Sequence[Any], name: Callable[[Any], Hashable], answer: Callable[[Any], str]) -> Mapping[Any, str]:
        """What is remembered of each key, and of a few others what `answer` says."""
        told: dict[Any, str] = {}
        asked = 0
        for key in keys:
            at, words = self._said.get(name(key), (float("-inf"), ""))
            if time.monotonic() - at >= self.remember_s:
                if asked == ASKED:
                    continue
                asked, words = asked + 1, answer(key)
                if len(self._said) >= REMEMBERED:
                    self._said.clear()
                self._said[name(key)] = (time.monotonic(), words)
            told[key] = words
        return told


def _machine(one: Worker, payer: str | None, named: bool) -> Hashable:
    """Equal machines are asked once, unless jobs name workers."""
    facts = tuple(one.facts.get(name) for name in ("cpus", "memory_bytes", "gpus", "gpu_memory_bytes"))
    return (facts, one.affinity, one.instance is not None, payer, one.name if named else "")
