"""Finished trees leave the tables that the farm works on, and stay to be looked at: one row a job, as it was shown last.

A tree goes in small pieces, its jobs first, then its groups from below, so that nobody waits for it. What has gone is still
counted in the groups that are left, which therefore stay FINISHED, and whoever depends on an archived job stays satisfied.
Attempts, events and money are history already and stay where they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, insert, select

from coalition.errors import NotFound
from coalition.model import Job, to_dict
from coalition.schema import archive, attempt, dependency, group_count, job, spec
from coalition.states import JobState
from coalition.store.base import reads, writes
from coalition.store.dependencies import DROP_ON_BY_RULE, DROP_RULES, DROP_RULES_ON
from coalition.store.reasons import Reasons
from coalition.store.tree import SPENT, Changes
from coalition.store.views import job_rows
from coalition.words import counted

DROPS = (DROP_ON_BY_RULE, DROP_RULES, DROP_RULES_ON)


@dataclass(frozen=True)
class ArchiveQuery:
    """Which archived jobs to list, the newest first: those of a group (0: the tops of trees), or of a user at any level.

    `before`: the id of the last one seen.
    """

    parent: int = 0
    user: str | None = None
    title: str | None = None
    before: int | None = None
    limit: int = 100
    viewer: str | None = None  # who sees own jobs only, and so at any level


class Archive(Reasons):
    """The part of the store that keeps finished trees."""

    # ------------------------------------------------------------ moving

    @reads
    def finished_trees(self, db: Connection, before: float, after_id: int, limit: int) -> list[int]:
        """Tops of trees that are FINISHED and had their last end before a time, in the order of their ids, beyond one."""
        ended = func.coalesce(group_count.c.ended_at, job.c.ended_at, attempt.c.ended_at, spec.c.created_at)
        query = (
            select(job.c.id)
            .join(spec, spec.c.job_id == job.c.id)
            .outerjoin(group_count, group_count.c.group_id == job.c.id)
            .outerjoin(attempt, attempt.c.id == job.c.attempt_id)
            .where(job.c.state == str(JobState.FINISHED), job.c.parent == 0, job.c.id > after_id, ended < before)
        )
        return list(db.execute(query.order_by(job.c.id).limit(limit)).scalars())

    @writes
    def archive_some(self, db: Connection, top: int, limit: int, who: str = "server") -> int:
        """Moves up to `limit` jobs of a finished tree into the archive; how many.

        0 when all are there, or when the tree is no longer to be archived: it runs again, was moved into another, or somebody
        still waits for one of its jobs.
        """
        tops = self._nodes(db, [top])
        if not tops or tops[0].parent or tops[0].state != JobState.FINISHED:
            return 0
        ids = self._lowest(db, top, limit)
        rows = self._nodes(db, ids)
        if any(row.state != JobState.FINISHED for row in rows if not row.is_group) or self._waited_for(db, ids):
            return 0
        self._keep(db, ids)
        if top in ids:
            self._leave_farm(db, tops, who)
        for statement in DROPS:  # met, and so they hold nobody
            statement.run(db, ids)
        self._erase(db, [row for row in rows if row.is_group], [row for row in rows if not row.is_group])
        return len(ids)

    def _lowest(self, db: Connection, top: int, limit: int) -> list[int]:
        """Some jobs of the lowest level: leaves, else groups with nothing below them."""
        level = [top]
        while True:
            query = select(job.c.id, job.c.is_group).where(job.c.parent.in_(level)).order_by(job.c.parent, job.c.id)
            rows = db.execute(query.limit(limit)).all()
            leaves = [row.id for row in rows if not row.is_group]
            if leaves or not rows:
                return leaves or level
            level = [row.id for row in rows]

    def _waited_for(self, db: Connection, ids: Sequence[int]) -> bool:
        unmet = select(dependency.c.job_id).where(dependency.c.on_id.in_(ids), dependency.c.met.is_(False))
        return db.execute(unmet.limit(1)).first() is not None

    def _keep(self, db: Connection, ids: Sequence[int]) -> None:
        """Writes the jobs as they are shown."""
        now = self.clock()
        shown = self._shown(db, db.execute(job_rows().where(job.c.id.in_(ids))).all())
        db.execute(insert(archive), [_row(one, now) for one in shown])

    def _leave_farm(self, db: Connection, tops: Sequence[Any], who: str) -> None:
        """The last of a tree: the farm counts it no longer, but what it spent."""
        changes = Changes()
        (counts,) = self._counted(db, tops, changes).values()
        changes.count((), **{name: -value for name, value in counts.items() if name not in SPENT})
        self._settle(db, changes)
        self._event(db, "job.archive", who, f"archived with {counted(counts['total'], 'job')}", job_id=tops[0].id)

    # ------------------------------------------------------------ looking

    @reads
    def archived(self, db: Connection, query: ArchiveQuery) -> list[dict[str, Any]]:
        """Archived jobs as they were shown, with `archived_at`."""
        wanted = select(archive.c.json, archive.c.archived_at)
        wanted = wanted.where(archive.c.user == query.user) if query.user is not None else wanted
        if query.viewer is not None:
            wanted = wanted.where(archive.c.user == query.viewer)
        if (query.user is None and query.viewer is None) or query.parent:
            wanted = wanted.where(archive.c.parent == query.parent)
        if query.title:
            wanted = wanted.where(func.lower(archive.c.title).contains(query.title.lower(), autoescape=True))
        if query.before is not None:
            wanted = wanted.where(archive.c.job_id < query.before)
        return [_told(row) for row in db.execute(wanted.order_by(archive.c.job_id.desc()).limit(query.limit))]

    @reads
    def archived_job(self, db: Connection, job_id: int, viewer: str | None = None) -> dict[str, Any]:
        """One archived job; NotFound if there is none that the viewer sees."""
        row = db.execute(select(archive.c.json, archive.c.archived_at, archive.c.user).where(archive.c.job_id == job_id)).first()
        if row is None or viewer not in (None, row.user):
            raise NotFound(f"there is no archived job {job_id}")
        return _told(row)


def _row(one: Job, now: float) -> dict[str, Any]:
    columns = {"job_id": one.id, "parent": one.parent, "is_group": one.group, "title": one.title, "user": one.user}
    kept = json.dumps(to_dict(replace(one, allowed_actions=())), separators=(",", ":"))
    return {**columns, "archived_at": now, "json": kept}


def _told(row: Any) -> dict[str, Any]:
    return {**json.loads(row.json), "archived_at": row.archived_at}
