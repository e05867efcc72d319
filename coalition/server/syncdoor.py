"""The one call that comes a thousand times a second, answered before Flask routes it.

A worker's sync is the same here and in the route `workers.sync`: the same right, the same checks, the same answer and problem
bodies. What is saved is Flask's matching, contexts and response object, which cost about as much as the sync itself. Whatever
is out of the ordinary (another method, a body without a length or too large) goes the common way.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from coalition.errors import CoalitionError
from coalition.model import Sync, from_dict, to_dict
from coalition.server import auth, workers
from coalition.server.web import Farm, parsed, problem

log = logging.getLogger("coalition.server")

PATH = re.compile(r"/api/v1/workers/([0-9]{1,18})/sync\Z")
WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class SyncDoor:
    """WSGI before the application: answers syncs itself, hands on everything else."""

    def __init__(self, farm: Farm, inner: WSGI) -> None:
        self.farm, self.inner = farm, inner

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match = PATH.match(environ.get("PATH_INFO", "")) if environ["REQUEST_METHOD"] == "POST" else None
        length = environ.get("CONTENT_LENGTH") or ""
        if match is None or not length.isdecimal() or int(length) > self.farm.settings.server.max_body_bytes:
            return self.inner(environ, start_response)
        try:
            body = self._answer(int(match[1]), environ, int(length))
        except CoalitionError as error:
            return problem(error)(environ, start_response)
        except Exception:  # as Flask's own handler: logged with its trace, told without it
            log.exception("%s failed", environ["PATH_INFO"])
            return problem(CoalitionError("the server failed; its log has the details"))(environ, start_response)
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, worker_id: int, environ: dict[str, Any], length: int) -> bytes:
        session = auth.worker_session(self.farm, auth.bearer(environ.get("HTTP_AUTHORIZATION", "")))
        call = from_dict(Sync, parsed(environ["wsgi.input"].read(length)))
        reply = workers.answer_sync(self.farm, session, worker_id, call)
        return json.dumps(to_dict(reply), separators=(",", ":")).encode()
