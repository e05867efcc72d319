"""A script and a worker of Coalition 3.x and 4.0, at the level of bytes: they know the old wire and nothing of ours."""

from __future__ import annotations

import ast
import base64
import http.client
import json
from contextlib import closing
from typing import Any
from urllib.parse import urlencode, urlsplit

FORM = "application/x-www-form-urlencoded"


class OldWire:
    """Sends requests as the old programs did: no header beyond what they sent; `login` is (user, password)."""

    def __init__(self, url: str, login: tuple[str, str] | None = None) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.headers: dict[str, str] = {}
        if login:
            self.headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and the bytes of the answer."""
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=30)) as connection:
            connection.request(method, path, body, {**self.headers, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()


class OldClient(OldWire):
    """What the old client library and control.py send."""

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, of a call that must succeed."""
        data = None if body is None else json.dumps(body).encode()
        status, answer = self.send(method, path, data, **({"Content-Type": "application/json"} if data else {}))
        assert status == 200, (method, path, status, answer)
        return json.loads(answer)

    def new_job(self, **fields: Any) -> int:
        return int(self.json("PUT", "/api/jobs", {"title": "job", **fields}))

    def job(self, job_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.json("GET", f"/api/jobs/{job_id}")
        return found


class OldWorker(OldWire):
    """One worker process: it asks for a job, tells of its output while it runs, and ends it."""

    def __init__(self, url: str, name: str = "old1", login: tuple[str, str] | None = None) -> None:
        super().__init__(url, login)
        self.fields = {"hostname": name, "load": "[0.0, 50.0]", "free_memory": "1000", "total_memory": "4000"}

    def post(self, path: str, fields: dict[str, Any]) -> bytes:
        status, answer = self.send("POST", path, urlencode(fields).encode(), **{"Content-Type": FORM})
        assert status == 200, (path, status, answer)
        return answer

    def pick(self) -> bytes:
        return self.post("/workers/pickjob", self.fields)

    def take(self) -> tuple[int, str, str, str, str | None]:
        """The job as the old worker evaluates it; its id is -1 when there is none."""
        job: tuple[int, str, str, str, str | None] = ast.literal_eval(self.pick().decode())
        return job

    def beat(self, job_id: int, output: bytes = b"") -> bool:
        log = base64.b64encode(output).decode()
        return {b"true": True, b"false": False}[self.post("/workers/heartbeat", {**self.fields, "jobId": job_id, "log": log})]

    def end(self, job_id: int, code: int = 0) -> None:
        self.post("/workers/endjob", {"hostname": self.fields["hostname"], "jobId": job_id, "errorCode": code})
