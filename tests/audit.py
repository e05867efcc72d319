"""Every transition has an event in its transaction, except an attempt's own: of those the attempt's row tells."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from coalition import schema

NOBODY = -1


class Audit:
    """The states at the beginning of a transaction, to be compared with those at its end."""

    def __init__(self, db: Connection) -> None:
        self.last = db.execute(select(func.max(schema.event.c.id))).scalar() or 0
        self.states = {table.name: self._states(db, table) for table in (schema.worker, schema.instance)}
        self.jobs = self._jobs(db)
        self.attempts = self._attempts(db)

    def _states(self, db: Connection, table: Any) -> dict[int, str]:
        return {row.id: row.state for row in db.execute(select(table.c.id, table.c.state))}

    def _jobs(self, db: Connection) -> dict[int, Any]:
        columns = [schema.job.c[name] for name in ("id", "parent", "state", "is_group", "attempt_id", "paused")]
        return {row.id: row for row in db.execute(select(*columns))}

    def _attempts(self, db: Connection) -> dict[int, str]:
        return self._states(db, schema.attempt)

    def check(self, db: Connection) -> None:
        """Fails with the first change that nobody told."""
        events = db.execute(select(schema.event).where(schema.event.c.id > self.last)).all()
        for table, column in ((schema.worker, "worker_id"), (schema.instance, "instance_id")):
            told = {getattr(event, column) for event in events}
            for one, state in self._states(db, table).items():
                old = self.states[table.name].get(one, state)
                assert old == state or one in told, f"{table.name} {one} went from {old} to {state}, and no event tells why"
        self._check_jobs(db, events)

    def _check_jobs(self, db: Connection, events: list[Any]) -> None:
        told = {NOBODY if event.job_id is None else event.job_id for event in events if event.kind.startswith("job.")}
        now, attempts = self._jobs(db), self._attempts(db)
        for one, row in now.items():
            old = self.jobs.get(one)
            if old is None or row.is_group or (old.state, old.paused) == (row.state, row.paused):
                continue
            own = row.attempt_id != old.attempt_id or attempts.get(row.attempt_id) != self.attempts.get(row.attempt_id)
            above, parent = {one}, row.parent
            while parent:
                above.add(parent)
                parent = now[parent].parent
            assert own or told & {*above, NOBODY}, f"job {one} went from {old.state} to {row.state}, and no event tells why"
