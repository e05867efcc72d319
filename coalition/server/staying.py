"""A gunicorn worker whose threads stay with a connection for a moment after an answer.

gthread hands a connection back to its main thread after every request and takes it up again for the next: two wake-ups of
threads that compete for one interpreter lock. A worker's next sync often follows within milliseconds, and then this saves both.
"""

from __future__ import annotations

import select
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

STAY_MS = 20


class StayingWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, except that few connections keep their threads while their requests follow closely."""

    def handle(self, conn: Any) -> Any:
        """Serves a connection's request, and those that follow at once; what gthread's own `handle` answers."""
        outcome = super().handle(conn)
        while outcome is True and self._stays(conn):
            outcome = super().handle(conn)
        return outcome

    def _stays(self, conn: Any) -> bool:
        """Whether this thread may wait for the next request, and it came. With many connections others need the threads."""
        if not self.alive or self.nr_conns > self.cfg.threads * 3 // 4:
            return False
        if conn.parser.unreader.buf.getvalue():
            return True  # it was read already, behind the last body
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(STAY_MS))
