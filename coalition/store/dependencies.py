"""Dependencies: who waits for whom, what follows when a target is finished, reset or deleted, and no cycles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, and_, bindparam, delete, exists, insert, or_, select, update

from coalition.errors import BadInput
from coalition.schema import dependency, job
from coalition.states import JobState
from coalition.store.base import Hot, HotIn, chunks
from coalition.store.limits import Limits
from coalition.store.tree import FEED_CLASS, Changes

INSERT_DEPENDENCY = Hot(
    insert(dependency).values(job_id=bindparam("job_id"), on_id=bindparam("on_id"), met=bindparam("met")),
    "job_id",
    "on_id",
    "met",
)
WAITERS = HotIn(lambda ids: select(dependency.c.job_id, dependency.c.on_id, dependency.c.met).where(dependency.c.on_id.in_(ids)))
WAITS_OR_GROUP = or_(job.c.is_group, exists().where(dependency.c.job_id == job.c.id))
WAITING_OF = HotIn(lambda ids: select(job.c.id).where(job.c.id.in_(ids), WAITS_OR_GROUP))
PARENTS_OF = HotIn(lambda ids: select(job.c.id, job.c.parent).where(job.c.id.in_(ids)))


class Dependencies(Limits):
    """What follows from a job's end."""

    def _settle(self, db: Connection, changes: Changes) -> None:
        """Carries a transaction's changes upwards and across dependencies until nothing follows any more."""
        while changes.counts or changes.flips:
            self._apply_counts(db, changes)
            flips, changes.flips = changes.flips, {}
            self._flip(db, flips, changes)
        for class_id in sorted(changes.fed):
            FEED_CLASS.many(db, [(class_id,)])
        returned = self._return_tokens(db, changes)
        if changes.reclassed:
            self._hold_again(db, changes)
        if changes.fed or returned:
            self._bump(db, "ready")  # whoever knows that nothing is ready looks again

    def _flip(self, db: Connection, flips: Mapping[int, bool], changes: Changes) -> None:
        """Targets became FINISHED, or are no more: whoever depends on them gains or loses a hold."""
        if not flips:
            return
        affected: dict[int, int] = {}
        rows = []
        for job_id, on_id, met in set(WAITERS.all(db, sorted(flips))):
            if bool(met) != flips[on_id]:
                rows.append({"b_job": job_id, "b_on": on_id, "met": flips[on_id]})
                affected[job_id] = affected.get(job_id, 0) + (-1 if flips[on_id] else 1)
        if rows:
            match = and_(dependency.c.job_id == bindparam("b_job"), dependency.c.on_id == bindparam("b_on"))
            db.execute(update(dependency).where(match), rows)
            self._hold(db, affected, changes)

    def _hold(self, db: Connection, affected: Mapping[int, int], changes: Changes) -> None:
        rows = [{"b_id": job_id, "b_by": by} for job_id, by in affected.items()]
        db.execute(update(job).where(job.c.id == bindparam("b_id")).values(holds=job.c.holds + bindparam("b_by")), rows)
        self._refresh(db, sorted(affected), changes)

    def _free_waiters(self, db: Connection, ids: Sequence[int], changes: Changes, who: str) -> None:
        """The stated rule: a dependency on a deleted job is dropped, and whoever waited for it goes on."""
        affected: dict[int, int] = {}
        for job_id, on_id, met in set(WAITERS.all(db, list(ids))) if ids else ():
            if not met:
                affected[job_id] = affected.get(job_id, 0) - 1
            self._event(db, "job.freed", who, f"dependency on #{on_id} dropped: it was deleted", job_id=job_id)
        for chunk in chunks(list(ids)):
            db.execute(delete(dependency).where(dependency.c.on_id.in_(chunk)))
        if affected:
            self._hold(db, affected, changes)

    def _depend(self, db: Connection, ids: Sequence[int], targets: Sequence[int]) -> None:
        states = self._states(db, sorted(set(targets)))
        missing = [target for target in targets if target not in states]
        if missing:
            raise BadInput(fields={"changes.depends_on": f"there is no job {missing[0]}"})
        if set(ids) & set(targets):
            raise BadInput(fields={"changes.depends_on": "a job cannot depend on itself"})
        rows = [(one, on, states[on] == JobState.FINISHED) for one in ids for on in sorted(set(targets))]
        for chunk in chunks(list(ids)):
            db.execute(delete(dependency).where(dependency.c.job_id.in_(chunk)))
        self._many(db, INSERT_DEPENDENCY, rows)
        holds = sum(state != JobState.FINISHED for state in states.values())
        db.execute(update(job).where(job.c.id == bindparam("b_id")).values(holds=holds), [{"b_id": i} for i in ids])

    # ------------------------------------------------------------ cycles

    def _refuse_cycle(self, db: Connection, ids: Sequence[int]) -> None:
        """BadInput with the path, if the end of one of these jobs would have to wait for itself.

        A job has a start and an end. An end waits for its own start and, in a group, for the ends of the children; a start
        waits for the parent's start and for the ends of what the job depends on.
        """
        origins = self._origins(db, ids)
        graph = self._waits_for(db, origins)
        done: set[tuple[str, int]] = set()
        for origin in origins:
            path = _find_cycle(graph, origin, done)
            if path:
                words = " -> ".join(f"#{one}" for one in path)
                raise BadInput(f"the dependencies would form a cycle: {words}", fields={"depends_on": f"cycle: {words}"})

    def _origins(self, db: Connection, ids: Sequence[int]) -> list[tuple[str, int]]:
        """Where a cycle through these jobs is looked for: of leaves that wait for nothing themselves, at their groups."""
        waiting = {row[0] for row in WAITING_OF.all(db, ids)}
        groups = {row[1] for row in PARENTS_OF.all(db, ids) if row[0] not in waiting}
        return [*(("end", one) for one in sorted(waiting)), *(("start", one) for one in sorted(groups - {0}))]

    def _waits_for(self, db: Connection, origins: Iterable[tuple[str, int]]) -> dict[tuple[str, int], list[tuple[str, int]]]:
        graph: dict[tuple[str, int], list[tuple[str, int]]] = {}
        frontier = set(origins)
        while frontier:
            for one in frontier:
                graph[one] = [("start", one[1])] if one[0] == "end" else []
            starts = sorted(job_id for kind, job_id in frontier if kind == "start")
            ends = sorted(job_id for kind, job_id in frontier if kind == "end")
            for chunk in chunks(starts):
                for row in db.execute(select(dependency.c.job_id, dependency.c.on_id).where(dependency.c.job_id.in_(chunk))):
                    graph["start", row.job_id].append(("end", row.on_id))
                for row in db.execute(select(job.c.id, job.c.parent).where(job.c.id.in_(chunk), job.c.parent != 0)):
                    graph["start", row.id].append(("start", row.parent))
            for chunk in chunks(ends):
                # A leaf that waits for nothing itself adds no way that its group does not have.
                for row in db.execute(select(job.c.id, job.c.parent).where(job.c.parent.in_(chunk), WAITS_OR_GROUP)):
                    graph["end", row.parent].append(("end", row.id))
            frontier = {two for one in frontier for two in graph[one]} - graph.keys()
        return graph


def _find_cycle(
    graph: Mapping[tuple[str, int], Sequence[tuple[str, int]]], origin: tuple[str, int], done: set[tuple[str, int]]
) -> list[int] | None:
    """The jobs on a cycle that can be reached from `origin`, first and last the same; None if there is none."""
    path: list[tuple[str, int]] = []
    on_path: set[tuple[str, int]] = set()
    stack = [(origin, iter(graph[origin]))] if origin not in done else []
    while stack:
        node, following = stack[-1]
        if node not in on_path:
            path.append(node)
            on_path.add(node)
        step = next((two for two in following if two not in done), None)
        if step is None:
            stack.pop()
            on_path.discard(path.pop())
            done.add(node)
        elif step in on_path:
            jobs = [job_id for _, job_id in [*path[path.index(step) :], step]]
            return [one for index, one in enumerate(jobs) if index == 0 or one != jobs[index - 1]]
        else:
            stack.append((step, iter(graph[step])))
    return None
