"""What people do to jobs and all that is below them: pause, start, reset, delete.

Invariants, true after every transaction:
- a leaf's `holds` is the number of its dependencies that are not met, PENDING means holds > 0 on it or above it;
- a leaf has a ready row in its class exactly when it is WAITING, not paused (it or above) and its `not_before` has passed;
- a group's counters equal a recount of the leaves below it;
- a dependency is met exactly while its target is FINISHED. Deleting the target frees whoever waited, with an event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import BigInteger, Connection, Double, bindparam, case, cast, delete, func, or_, select, update

from coalition.schema import attempt, dependency, group_count, group_inherited, job, spec, watch
from coalition.states import ENDED_JOBS, JOB, AttemptState, JobState, after
from coalition.store.append import Appends
from coalition.store.base import HotIn, chunks, writes
from coalition.store.tree import SPENT, UNREADY, Chains, Changes, Node, over
from coalition.words import counted

FAIR = ("no", "user", "group")
FRESH = {"errors": 0, "not_before": 0.0, "avoid": 0, "started_at": None}
SET_PAUSED = HotIn(lambda ids: update(job).where(job.c.id.in_(ids)).values(paused=bindparam("b_paused")), "b_paused")
MAKE_FRESH = HotIn(
    lambda ids: (
        update(job).where(job.c.id.in_(ids)).values({**FRESH, "state": str(JobState.WAITING), "skipped": False, "ended_at": None})
    )
)
MAKE_SKIPPED = HotIn(
    lambda ids: (
        update(job)
        .where(job.c.id.in_(ids))
        .values(state=str(JobState.FINISHED), skipped=True, not_before=0, avoid=0, ended_at=bindparam("b_at"))
    ),
    "b_at",
)
# What waits and was tried before.
STRAINED = HotIn(
    lambda ids: select(job.c.id, job.c.class_id).where(
        job.c.id.in_(ids), or_(job.c.errors > 0, job.c.not_before > 0, job.c.avoid > 0, job.c.started_at.is_not(None))
    )
)
CLEAR = HotIn(lambda ids: update(job).where(job.c.id.in_(ids)).values(FRESH))
PUT_BACK = HotIn(lambda ids: update(job).where(job.c.id.in_(ids)).values(state=str(JobState.WAITING)))
HOLDERS = HotIn(
    lambda ids: select(attempt.c.set_id, attempt.c.worker_id).where(attempt.c.job_id.in_(ids), attempt.c.open_worker.is_not(None))
)
RAN_S = bindparam("b_at", type_=Double) - func.coalesce(attempt.c.started_at, bindparam("b_at", type_=Double))
STOP = HotIn(
    lambda ids: (
        update(attempt)
        .where(attempt.c.job_id.in_(ids), attempt.c.open_worker.is_not(None))
        .values(
            state=str(AttemptState.STOPPED),
            ended_at=bindparam("b_at"),
            open_worker=None,
            reason=bindparam("b_reason"),
            run_ms=case((RAN_S > 0, cast(RAN_S * 1_000, BigInteger)), else_=0),
        )
    ),
    *("b_at", "b_reason"),
)
STOPPED_MS = HotIn(
    lambda ids: (
        select(job.c.parent, func.sum(attempt.c.run_ms))
        .join(attempt, attempt.c.id == job.c.attempt_id)
        .where(job.c.id.in_(ids))
        .group_by(job.c.parent)
    )
)
DELETES = [
    HotIn(lambda ids, column=column: delete(column.table).where(column.in_(ids)))  # type: ignore[misc]
    for column in (job.c.id, spec.c.job_id, dependency.c.job_id, watch.c.job_id)
]
DELETES_OF_GROUPS = [
    HotIn(lambda ids, column=column: delete(column.table).where(column.in_(ids)))  # type: ignore[misc]
    for column in (group_inherited.c.group_id, group_count.c.group_id)
]


class Jobs(Appends):
    """Actions on selections of jobs."""

    @writes
    def pause(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Holds jobs and all below them; what runs is stopped and put back. The number of selected jobs."""
        ids = self._existing(db, ids)
        changes = Changes()
        self._stop_attempts(db, self._below(db, ids), f"paused by {who or 'a user'}", changes)
        SET_PAUSED.run(db, ids, True)
        return self._done(db, ids, changes, "job.pause", who, "paused")

    @writes
    def start(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Takes the pause off the selected jobs."""
        ids = self._existing(db, ids)
        SET_PAUSED.run(db, ids, False)
        return self._done(db, ids, Changes(), "job.start", who, "started")

    @writes
    def reset(self, db: Connection, ids: Sequence[int], errors_only: bool = False, who: str = "") -> int:
        """Makes ended and running jobs below the selection WAITING again; with `errors_only` those in ERROR."""
        ids = self._existing(db, ids)
        changes, chains = Changes(), Chains(db)
        wanted = (JobState.ERROR,) if errors_only else (*ENDED_JOBS, JobState.WORKING)
        groups, below = self._walk(db, ids)
        leaves = [row for row in below if row.state in wanted]
        self._leave(db, [row.id for row in (leaves if errors_only else below)], changes)
        self._lift(db, [row.id for row in groups], f"reset by {who or 'a user'}", who)
        if not errors_only:
            self._forget_errors(db, [row for row in below if row.state not in wanted])
        self._stop_attempts(db, leaves, f"reset by {who or 'a user'}", changes)
        ended = [row for row in leaves if row.state != JobState.WORKING]
        for (parent, state), jobs in Counter((row.parent, row.state) for row in ended).items():
            changes.moved(chains[parent], state, after(JOB, state, "reset"), jobs)
        changes.flips.update((row.id, (False, False)) for row in ended)
        MAKE_FRESH.run(db, [row.id for row in leaves])
        return self._done(db, ids, changes, "job.reset", who, f"reset, {counted(len(leaves), 'job')} to run again")

    def _forget_errors(self, db: Connection, waiting: Sequence[Node]) -> None:
        """What waits is tried again at once, on any worker."""
        by_class: dict[int, list[int]] = {}
        for job_id, class_id in STRAINED.all(db, [row.id for row in waiting]):
            by_class.setdefault(class_id, []).append(job_id)
        for class_id, ids in by_class.items():
            UNREADY.run(db, ids, class_id)  # its row says which worker to avoid, and is made again
            CLEAR.run(db, ids)

    @writes
    def skip(self, db: Connection, ids: Sequence[int], why: str = "", who: str = "") -> int:
        """Makes all jobs below the selection FINISHED by hand; what runs is stopped, whoever waited goes on."""
        ids = self._existing(db, ids)
        changes, chains = Changes(), Chains(db)
        leaves = [row for row in self._below(db, ids) if row.state != JobState.FINISHED]
        self._stop_attempts(db, leaves, f"skipped by {who or 'a user'}", changes)
        put_back = Counter((row.parent, "WAITING" if row.state == JobState.WORKING else row.state) for row in leaves)
        for (parent, state), jobs in put_back.items():
            changes.moved(chains[parent], state, after(JOB, state, "skip"), jobs)
        changes.flips.update((row.id, over(JobState.FINISHED)) for row in leaves)
        MAKE_SKIPPED.run(db, [row.id for row in leaves], self.clock())
        self._mark_ended(db, {row.parent for row in leaves}, self.clock())
        words = f"skipped, {counted(len(leaves), 'job')} taken as finished" + (f": {why}" if why else "")
        return self._done(db, ids, changes, "job.skip", who, words)

    @writes
    def delete(self, db: Connection, ids: Sequence[int], who: str = "") -> int:
        """Removes jobs and all below them; what runs is stopped, whoever waited for them is freed."""
        ids = self._existing(db, ids)
        changes, chains = Changes(), Chains(db)
        tops = self._outermost(db, ids)
        groups, leaves = self._walk(db, [row.id for row in tops])
        self._stop_attempts(db, leaves, f"deleted by {who or 'a user'}", changes)
        for parent, values in self._counted(db, self._nodes(db, [row.id for row in tops]), changes).items():
            changes.count(chains[parent], **{name: -value for name, value in values.items() if name not in SPENT})
        changes.counts = {group: changes.counts[group] for group in changes.counts.keys() - {row.id for row in groups}}
        self._leave(db, [row.id for row in tops], changes)
        self._erase(db, groups, leaves)
        # Only now: a group that is freed must not count the jobs again that were deleted from it.
        self._free_waiters(db, [row.id for row in (*groups, *leaves)], changes, who)
        self._settle(db, changes)
        self._tell(db, ids, "job.delete", who, f"deleted with {len(leaves):,} jobs")
        return len(ids)

    @writes
    def adopt_rules(self, db: Connection) -> bool:
        """Gives every job the class that the knobs `fair` and `max_running_per_user` ask for; whether they have changed.

        To be called when a server starts: classes that were made under other knobs share the farm in another way.
        """
        rules = self.settings.scheduler
        wanted = 2 * FAIR.index(rules.fair) + (rules.max_running_per_user > 0)
        adopted = self._bump(db, "rules", 0)
        if adopted == wanted:
            return False
        changes = Changes()
        tops = list(db.execute(select(job.c.id).where(job.c.parent == 0).order_by(job.c.id)).scalars())
        for chunk in chunks(tops):
            self._refresh(db, chunk, changes)
        self._settle(db, changes)
        self._bump(db, "rules", wanted - adopted)
        self._event(db, "server.rules", "server", "jobs were put in order by the scheduler's new knobs")
        return True

    def _erase(self, db: Connection, groups: Sequence[Node], leaves: Sequence[Node]) -> None:
        by_class: dict[int, list[int]] = {}
        for row in leaves:
            if row.ready is not None:
                by_class.setdefault(row.class_id, []).append(row.id)
        for class_id, ids in by_class.items():
            UNREADY.run(db, ids, class_id)
        for statement in DELETES:
            statement.run(db, [row.id for row in (*groups, *leaves)])
        for statement in DELETES_OF_GROUPS:
            statement.run(db, [row.id for row in groups])
        self._limit_groups(db, [row.id for row in groups if row.max_running], 0)

    def _stop_attempts(self, db: Connection, leaves: Sequence[Node], reason: str, changes: Changes) -> None:
        """Ends the open attempts of those that run and makes them WAITING; the workers hear of it at their next sync."""
        running = [row for row in leaves if row.state == JobState.WORKING]
        if not running:
            return
        chains = Chains(db)
        for parent, jobs in Counter(row.parent for row in running).items():
            changes.moved(chains[parent], JobState.WORKING, after(JOB, JobState.WORKING, "requeue"), jobs)
        ids = [row.id for row in running]
        for set_id, worker_id in HOLDERS.all(db, ids):
            self._give_back(db, set_id, worker_id, changes)
        STOP.run(db, ids, self.clock(), reason)
        PUT_BACK.run(db, ids)
        for parent, run_ms in STOPPED_MS.all(db, ids):
            changes.count(chains[parent], run_ms=int(run_ms))
        self._bump(db, "fleet")  # whoever keeps in memory what workers hold reads it again
