"""Appending frames to a group that is there already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from coalition.errors import BadInput
from coalition.model import JobSpec, MoreFrames
from coalition.schema import job, spec
from coalition.states import JobState
from coalition.store.base import writes
from coalition.store.dependencies import Frame, holds_of
from coalition.store.edit import Edits
from coalition.store.submit import Adding, Template, commands_of, pieces_of
from coalition.store.tree import Changes

NAMED = 10  # frames that are there already


@dataclass(frozen=True)
class Appended:
    """The jobs that were made; their numbers follow each other."""

    group: int
    first: int
    count: int


class Appends(Edits):
    """How a group grows."""

    @writes
    def append(self, db: Connection, group: int, more: MoreFrames, who: str = "") -> Appended:
        """Adds a job for each further frame, or each `chunk` of them, all or none; a FINISHED group opens again.

        BadInput if frames are there already, or the group has no command for them; NotFound if there is no such job.
        """
        self._existing(db, [group])
        columns = (job.c.is_group, job.c.retries, spec.c.chunk, *(spec.c[name] for name in Template._fields))
        row = db.execute(select(*columns).join(spec, spec.c.job_id == job.c.id).where(job.c.id == group)).one()
        if not row.is_group:
            raise BadInput(fields={"job": f"job {group} is no group"})
        pieces = pieces_of(more.frames, more.chunk or row.chunk or 1, "frames")
        self._refuse_present(db, group, pieces)
        template = self._template(db, group, row, more)
        if template.command is not None:
            self.commands.check(template.user, commands_of(template.command, pieces), json.loads(template.environment))
        first = self._allocate(db, "job", len(pieces))
        changes = Changes()
        frames = [Frame(first + at, group, piece, str(JobState.WAITING)) for at, piece in enumerate(pieces)]
        edges = self._link(db, {group: frames}, changes)
        adding = Adding(self, db, [], changes)
        own = adding.sets.own(JobSpec(user=template.user), is_group=False)
        adding.know(group, self._above(db, group, "job"))
        adding.add_frames(group, first, pieces, template, own, row.retries, holds_of(edges, set()))
        adding.count_up()
        self._add(db, adding.rows)
        self._settle(db, changes)
        self._event(db, "job.append", who, f"frames {more.frames[:200]} appended: {len(pieces):,} jobs", job_id=group)
        self._bump(db, "backlog")
        return Appended(group, first, len(pieces))

    def _refuse_present(self, db: Connection, group: int, pieces: Sequence[tuple[int, int, int]]) -> None:
        wanted = {frame for first, last, by in pieces for frame in range(first, last + 1, by)}
        there = [one.piece for one in self._frames_in(db, [group]).get(group, ())]
        twice = sorted(frame for first, last, by in there for frame in range(first, last + 1, by) if frame in wanted)
        if twice:
            names = ", ".join(map(str, twice[:NAMED])) + (f" and {len(twice) - NAMED:,} more" if len(twice) > NAMED else "")
            raise BadInput(fields={"frames": f"{names}: there already; reset them to run them again"})

    def _template(self, db: Connection, group: int, row: Any, more: MoreFrames) -> Template:
        """What the new frames are made of; kept with a group that had no such thing."""
        template = Template(**{name: getattr(row, name) for name in Template._fields})
        given = {name: value for name in ("title", "command", "url") if (value := getattr(more, name)) is not None}
        template = template._replace(**given)
        if not template.command:
            raise BadInput(fields={"command": f"is missing; group {group} has none for its frames"})
        if row.chunk is None:
            values = {"command": template.command, "url": template.url, "chunk": more.chunk or 1}
            db.execute(update(spec).where(spec.c.job_id == group).values(values))
        return template
