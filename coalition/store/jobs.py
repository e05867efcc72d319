"""What people do to jobs: pause, start, reset, delete, edit, move.

Invariants, true after every transaction:
- a leaf's `holds` is the number of its dependencies that are not met, PENDING means holds > 0 on it or above it;
- a leaf has a ready row in its class exactly when it is WAITING, not paused (it or above) and its `not_before` has passed;
- a group's counters equal a recount of the leaves below it;
- a dependency is met exactly while its target is FINISHED. Deleting the target frees whoever waited, with an event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, select, update

from coalition import matching
from coalition.errors import BadInput
from coalition.matching import Requirement
from coalition.model import JobChanges
from coalition.schema import attempt, dependency, group_count, group_inherited, job, spec
from coalition.states import ENDED_JOBS, JOB, OPEN_ATTEMPTS, AttemptState, JobState, after
from coalition.store.base import chunks, writes
from coalition.store.submit import Submit
from coalition.store.tree import DELETE_READY, SPENT, Changes


class Jobs(Submit):
    """Actions on selections of jobs."""

    @writes
    def pause(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Holds jobs and all below them; what runs is stopped and put back. The number of selected jobs."""
        ids = self._existing(db, ids)
        changes = Changes()
        leaves = self._below(db, ids)
        self._stop_attempts(db, [row for row in leaves if row.state == JobState.WORKING], f"paused by {who or 'a user'}", changes)
        db.execute(update(job).where(job.c.id == bindparam("b_id")).values(paused=True), [{"b_id": i} for i in ids])
        return self._done(db, ids, changes, "job.pause", who, "paused")

    @writes
    def start(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Takes the pause off the selected jobs."""
        ids = self._existing(db, ids)
        db.execute(update(job).where(job.c.id == bindparam("b_id")).values(paused=False), [{"b_id": i} for i in ids])
        return self._done(db, ids, Changes(), "job.start", who, "started")

    @writes
    def reset(self, db: Connection, ids: Sequence[int], errors_only: bool = False, who: str = "") -> int:
        """Makes ended and running jobs below the selection WAITING again; with `errors_only` those in ERROR."""
        ids = self._existing(db, ids)
        changes = Changes()
        wanted = (JobState.ERROR,) if errors_only else (*ENDED_JOBS, JobState.WORKING)
        leaves = [row for row in self._below(db, ids) if row.state in wanted]
        self._stop_attempts(db, [row for row in leaves if row.state == JobState.WORKING], f"reset by {who or 'a user'}", changes)
        rows = []
        chains: dict[int, tuple[int, ...]] = {}
        for row in leaves:
            if row.state != JobState.WORKING:
                if row.parent not in chains:
                    chains[row.parent] = self._ancestors(db, row.parent)
                changes.moved(chains[row.parent], row.state, after(JOB, row.state, "reset"))
                if row.state == JobState.FINISHED:
                    changes.flips[row.id] = False
            rows.append({"b_id": row.id})
        if rows:
            fresh = {"state": str(JobState.WAITING), "errors": 0, "not_before": 0.0, "avoid": 0}
            db.execute(update(job).where(job.c.id == bindparam("b_id")).values(fresh), rows)
        return self._done(db, ids, changes, "job.reset", who, f"reset, {len(rows):,} jobs run again")

    @writes
    def delete(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Removes jobs and all below them; what runs is stopped, whoever waited for them is freed."""
        ids = self._existing(db, ids)
        changes = Changes()
        tops = self._outermost(db, ids)
        leaves = self._below(db, tops)
        self._stop_attempts(
            db, [row for row in leaves if row.state == JobState.WORKING], f"deleted by {who or 'a user'}", changes
        )
        for row in self._nodes(db, job.c.id, tops):
            values = self._subtree_counts(db, row, changes)
            changes.count(
                self._ancestors(db, row.parent), **{name: -value for name, value in values.items() if name not in SPENT}
            )
        groups = self._groups_below(db, tops)
        self._many(db, DELETE_READY, [(row.class_id, row.id) for row in leaves])
        for chunk in chunks([*groups, *(row.id for row in leaves)]):
            for table, column in ((job, job.c.id), (spec, spec.c.job_id), (dependency, dependency.c.job_id)):
                db.execute(delete(table).where(column.in_(chunk)))
        for chunk in chunks(groups):
            db.execute(delete(group_inherited).where(group_inherited.c.group_id.in_(chunk)))
            db.execute(delete(group_count).where(group_count.c.group_id.in_(chunk)))
        gone = set(groups)
        changes.counts = {group: row for group, row in changes.counts.items() if group not in gone}
        # Only now: a group that is freed must not count the jobs again that were deleted from it.
        self._free_waiters(db, [*groups, *(row.id for row in leaves)], changes, who)
        self._settle(db, changes)
        self._tell(db, ids, "job.delete", who, f"deleted with {len(leaves):,} jobs")
        return len(ids)

    @writes
    def edit(self, db: Connection, ids: Sequence[int], changed: JobChanges, who: str = "") -> int:
        """Changes fields of jobs; `parent` moves them. All or none."""
        ids = self._existing(db, ids)
        changes = Changes()
        given = {name: value for name, value in vars(changed).items() if value is not None}
        if changed.command is not None:
            self._must_be_leaves(db, ids)
        if changed.command == "":
            raise BadInput(fields={"changes.command": "is empty; a job needs a command"})
        self._edit_spec(db, ids, given)
        if given.keys() & {"priority", "retries"}:
            names = {"priority": "prio", "retries": "retries"}
            values = {names[name]: given[name] for name in names if name in given}
            db.execute(update(job).where(job.c.id == bindparam("b_id")).values(values), [{"b_id": i} for i in ids])
        if given.keys() & {"affinity", "cpus", "memory_bytes", "gpus", "user", "title"}:
            self._edit_requirements(db, ids, given)
        if "parent" in given:
            self._move(db, ids, given["parent"], changes)
        if "depends_on" in given:
            self._depend(db, ids, given["depends_on"])
        if given.keys() & {"parent", "depends_on"}:
            self._refuse_cycle(db, ids)
        return self._done(db, ids, changes, "job.edit", who, "changed " + ", ".join(sorted(given)))

    def _done(self, db: Connection, ids: Sequence[int], changes: Changes, kind: str, who: str, words: str) -> int:
        self._refresh(db, ids, changes)
        self._settle(db, changes)
        self._tell(db, ids, kind, who, words)
        self._bump(db, "backlog")
        return len(ids)

    def _tell(self, db: Connection, ids: Sequence[int], kind: str, who: str, words: str) -> None:
        """One event row for each of a few, one for all of many."""
        if len(ids) > 100:
            self._event(db, kind, who, f"{words}: {len(ids):,} jobs, #{min(ids)} to #{max(ids)}")
            return
        for job_id in ids:
            self._event(db, kind, who, words, job_id=job_id)

    def _must_be_leaves(self, db: Connection, ids: Sequence[int]) -> None:
        for chunk in chunks(list(ids)):
            group = db.execute(select(job.c.id).where(job.c.id.in_(chunk), job.c.is_group)).scalar()
            if group:
                raise BadInput(fields={"changes.command": f"job {group} is a group; a group has no command"})

    # ------------------------------------------------------------ parts of the actions

    def _stop_attempts(self, db: Connection, leaves: Sequence[Any], reason: str, changes: Changes) -> None:
        """Ends the open attempts of running jobs and makes the jobs WAITING; the workers hear of it at their next sync."""
        now = self.clock()
        chains: dict[int, tuple[int, ...]] = {}
        for row in leaves:
            if row.parent not in chains:
                chains[row.parent] = self._ancestors(db, row.parent)
            changes.moved(chains[row.parent], row.state, after(JOB, row.state, "requeue"))
        open_states = [str(state) for state in OPEN_ATTEMPTS]
        for chunk in chunks([row.id for row in leaves]):
            here = and_(attempt.c.job_id.in_(chunk), attempt.c.state.in_(open_states))
            for set_id, worker_id in db.execute(select(attempt.c.set_id, attempt.c.worker_id).where(here)):
                self._give_back(db, set_id, worker_id, changes)
            stopped = {"state": str(AttemptState.STOPPED), "ended_at": now, "open_worker": None, "reason": reason}
            db.execute(update(attempt).where(here).values(stopped))
            db.execute(update(job).where(job.c.id.in_(chunk)).values(state=str(JobState.WAITING)))
        if leaves:
            self._bump(db, "fleet")  # whoever keeps in memory what workers hold reads it again

    def _edit_spec(self, db: Connection, ids: Sequence[int], given: Mapping[str, Any]) -> None:
        columns = ("title", "command", "dir", "environment", "user", "timeout_s", "url", "progress_pattern")
        values = {name: given[name] for name in columns if name in given}
        if "environment" in values:
            values["environment"] = json.dumps(dict(values["environment"]))
        if values:
            db.execute(update(spec).where(spec.c.job_id == bindparam("b_id")).values(values), [{"b_id": i} for i in ids])

    def _edit_requirements(self, db: Connection, ids: Sequence[int], given: Mapping[str, Any]) -> None:
        rows = []
        for chunk in chunks(list(ids)):
            query = select(job.c.id, job.c.own_set, job.c.is_group, spec.c.user, spec.c.title)
            for row in db.execute(query.where(spec.c.job_id == job.c.id, job.c.id.in_(chunk))):
                old = self._requirement(db, row.own_set)
                tags = tuple(sorted(set(given.get("affinity", old.tags))))
                new = Requirement(
                    tags,
                    given.get("cpus", old.cpus),
                    given.get("memory_bytes", old.memory_bytes),
                    given.get("gpus", old.gpus),
                    self._payer(row, tags),
                )
                rows.append({"b_id": row.id, "own_set": self._reqset(db, new)})
        db.execute(update(job).where(job.c.id == bindparam("b_id")), rows)

    def _payer(self, row: Any, tags: Sequence[str]) -> str:
        """A group pays by its title, a leaf by its user, both by their tags."""
        user, titles = ("", [row.title]) if row.is_group else (row.user, [])
        return matching.payer(self.settings.budgets, user, titles, tags)

    def _move(self, db: Connection, ids: Sequence[int], parent: int, changes: Changes) -> None:
        self._above(db, parent, "changes.parent")
        inside = set(self._ancestors(db, parent)) & set(ids)
        if inside:
            raise BadInput(fields={"changes.parent": f"{parent} lies in job {min(inside)}, which would be moved into itself"})
        new_chain = self._ancestors(db, parent)
        for row in self._nodes(db, job.c.id, self._outermost(db, ids)):
            values = self._subtree_counts(db, row, changes)
            changes.count(self._ancestors(db, row.parent), **{name: -value for name, value in values.items()})
            changes.count(new_chain, **values)
            db.execute(update(job).where(job.c.id == row.id).values(parent=parent))
            db.execute(update(spec).where(spec.c.job_id == row.id).values(parent=parent))
