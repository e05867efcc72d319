"""Why a worker is idle, or takes no more: what it is itself, else what there is to do, and what of that it lacks."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from coalition import matching
from coalition.errors import NotFound
from coalition.model import Worker
from coalition.schema import event, ready, worker
from coalition.store import lists
from coalition.store.base import reads
from coalition.store.explain import Reason, because
from coalition.store.explain_groups import ExplainGroups
from coalition.store.moment import COUNTED, Kind, Moment
from coalition.words import counted, verb

TOLD = 3  # kinds of jobs that do not fit, the nearest first
CHANGED_BY = {"SICK": ("worker.sicken",), "DRAINING": ("worker.drain", "instance.drain"), "TERMINATED": ("worker.terminate",)}


class ExplainWorkers(ExplainGroups):
    """The part of the store that says why a worker is idle."""

    @reads
    def explain_worker(self, db: Connection, worker_id: int) -> tuple[Worker, list[Reason]]:
        """A worker, and why it takes no job now (or what it does), as {code, text}, most telling first.

        NotFound if there is none.
        """
        row = db.execute(select(worker).where(worker.c.id == worker_id)).first()
        if row is None:
            raise NotFound(f"there is no worker {worker_id}")
        moment = Moment(self, db)
        shown = self._worker_shown(db, row)
        reasons = self._why_closed(db, shown)
        if shown.jobs:
            words = counted(shown.running, "job") + f" on {counted(shown.slots, 'slot')}"
            full = shown.running >= shown.slots
            reasons.append(because("full" if full else "running", f"runs {words}" + (", and has none free" if full else "")))
        if reasons and (reasons[0]["code"] not in ("running",)):
            return shown, reasons
        if worker_id in moment.kept:
            words = f"keeps its room for job #{moment.kept[worker_id]}, which needs more than is free"
            reasons.insert(0, because("reserved", words))
        return shown, reasons + self._why_nothing_to_do(moment, shown)

    def _why_closed(self, db: Connection, shown: Worker) -> list[Reason]:
        """What keeps it from taking jobs whatever there is to do: who or what did that, when, and why."""
        if not shown.reason:
            return []
        code = "off" if not shown.active else shown.state.lower()
        code = "unavailable" if code in ("waiting", "working") else code
        text = shown.reason
        kinds = CHANGED_BY.get(shown.state, ()) if shown.active else ("worker.edit",)
        told = db.execute(
            select(event.c.at, event.c.who, event.c.text)
            .where(event.c.worker_id == shown.id, event.c.kind.in_(kinds))
            .order_by(event.c.id.desc())
            .limit(1)
        ).first()
        if told is not None:
            by = f" by {told.who}" if told.who else ""
            why = f": {told.text}" if code in ("draining", "terminated") and told.text != "by hand" else ""
            text += f", since {max(0.0, self.clock() - told.at):.0f} s{by}{why}"
        return [because(code, text)]

    def _why_nothing_to_do(self, moment: Moment, shown: Worker) -> list[Reason]:
        if not moment.kinds or not moment.db.execute(select(ready.c.job_id).limit(1)).first():
            return [self._why_nothing_waits(moment.db)]
        station = next((one for one in moment.up if one.id == shown.id), None)
        if station is None:
            return []
        capacity = station.capacity
        fit = [kind for kind in moment.kinds if self.line_of(moment.db, kind.set_id, capacity) is not None]
        if not fit:
            return self._why_none_fits(moment, capacity)
        return self._why_not_those(moment, shown, capacity, fit)

    def _why_nothing_waits(self, db: Connection) -> Reason:
        counts = lists.counts(db, None)
        held = [
            f"{counted(counts[name], 'job')} {verb(counts[name], *words)}"
            for name, words in (
                ("waiting", ("is paused or tried again later", "are paused or tried again later")),
                ("pending", ("waits for dependencies", "wait for dependencies")),
            )
            if counts[name]
        ]
        return because("nothing", "no job could start now" + (f": {', '.join(held)}" if held else "; nothing waits"))

    def _why_none_fits(self, moment: Moment, capacity: matching.Capacity) -> list[Reason]:
        """What it lacks, of the jobs for which that is least first."""
        lacks: dict[str, list[int]] = {}
        for kind in moment.kinds:
            lacks.setdefault(matching.mismatch(moment.need(kind.set_id), capacity) or "", []).append(kind.id)
        nearest = sorted(lacks, key=lambda words: (words.count(","), len(words), words))
        reasons = []
        for words in nearest[:TOLD]:
            jobs = _how_many(moment, lacks[words])
            reasons.append(because("no_match", f"{words}, for {jobs} that could start"))
        if len(nearest) > TOLD:
            reasons.append(because("no_match", f"and fits none of {counted(len(nearest) - TOLD, 'further kind')} of jobs"))
        return reasons

    def _why_not_those(self, moment: Moment, shown: Worker, capacity: matching.Capacity, fit: Sequence[Kind]) -> list[Reason]:
        """Jobs match: what keeps each of their kinds from starting here."""
        why: dict[tuple[str, str], list[int]] = {}
        for kind in fit:
            why.setdefault(self._why_not_this(moment, shown.id, capacity, kind), []).append(kind.id)
        ranked = sorted(why, key=lambda key: (key[0] != "soon", -len(why[key]), min(why[key])))
        return [
            because(code, text.format(jobs=f"{_how_many(moment, why[code, text])} that could start")) for code, text in ranked
        ]

    def _why_not_this(self, moment: Moment, worker_id: int, capacity: matching.Capacity, kind: Kind) -> tuple[str, str]:
        """(code, text with {jobs}) of what keeps jobs that match from starting on the worker."""
        need = moment.need(kind.set_id)
        if not moment.tokens.times(need, worker_id):
            limits = "; ".join(one["text"] for one in self._why_limited(moment.db, need)) or "a limit of this machine is used up"
            return "limit", f"{limits}, for {{jobs}}"
        if lack := moment.lack(worker_id, capacity, need):
            return "room", f"{lack}, for {{jobs}}"
        if self._all_avoid(moment, kind.id, worker_id):
            return "avoids", "leaves {jobs} to others, for they failed here last"
        return "soon", "gets the next of {jobs} when it calls"

    def _all_avoid(self, moment: Moment, class_id: int, worker_id: int) -> bool:
        """Whether whatever is ready of a class failed here last; false where the first hundred do not tell."""
        rows = moment.db.execute(select(ready.c.avoid).where(ready.c.class_id == class_id).limit(100)).scalars().all()
        return 0 < len(rows) < 100 and all(avoid == worker_id for avoid in rows)


def _how_many(moment: Moment, class_ids: Sequence[int]) -> str:
    number = moment.ready(class_ids)
    return f"more than {counted(COUNTED, 'job')}" if number > COUNTED else counted(number, "job")
