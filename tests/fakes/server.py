"""The real server, in this process and on a free port, and a worker that is played by hand."""

from __future__ import annotations

import base64
import json
import logging
import secrets
import threading
import urllib.request
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server

from coalition.config import NOTHING, Given, Settings, load
from coalition.schema_version import prepare
from coalition.server.app import create_app
from coalition.store import Store


class RealServer:
    """A context manager. `url` is its address, `store` its store; `auth` is none or token."""

    def __init__(self, folder: Path, auth: str = "none", knobs: Given = NOTHING) -> None:
        given = {("server", "data_dir"): str(folder), ("server", "listen"): "127.0.0.1:0", ("auth", "mode"): auth, **knobs}
        self.settings: Settings = load(None, {**given, ("worker", "wait"): "0"})
        folder.mkdir(parents=True, exist_ok=True)
        prepare(self.settings)
        self.store = Store(self.settings)
        self.app = create_app(self.settings, self.store)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self.app, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.port}"

    def __enter__(self) -> RealServer:
        self.app.extensions["coalition"].dispatcher.start()
        self.app.extensions["coalition"].changes.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.app.extensions["coalition"].changes.stop()
        self.app.extensions["coalition"].dispatcher.stop()
        self.store.close()


class HandWorker:
    """A worker whose every step the test says: take a job, write to its log, end it."""

    def __init__(
        self, url: str, name: str = "node1", slots: int = 1, affinity: list[list[str]] | None = None, host: str = ""
    ) -> None:
        self.url = url
        self.seq = 0
        self.slots = slots
        self.running: list[int] = []
        enrol = {
            "name": name,
            "session": secrets.token_hex(16),
            "slots": slots,
            "affinity": affinity or [],
            "facts": {"host": host},
        }
        self.enrolled = self._call("POST", "/workers/enrol", enrol)

    def take(self) -> list[dict[str, Any]]:
        """Syncs once; the new leases, which count as started from now on."""
        leases = [lease for lease in self._sync([])["leases"] if lease["attempt"] not in self.running]
        self.running += [lease["attempt"] for lease in leases]
        return leases

    def report(self) -> None:
        """Says of what runs that half of it is done."""
        self._sync([])

    def write(self, attempt: int, data: bytes, offset: int = 0) -> int:
        """Sends a piece of a log; how much of the log the server has now."""
        return int(self._call("PUT", f"/attempts/{attempt}/log?offset={offset}", data)["size"])

    def end(self, attempt: int, exit_code: int = 0, log: bytes = b"") -> None:
        self.running.remove(attempt)
        state = "ERROR" if exit_code else "FINISHED"
        result = {"attempt": attempt, "state": state, "exit_code": exit_code, "run_s": 1.5, "log": base64.b64encode(log).decode()}
        self._sync([result])

    def _sync(self, finished: list[dict[str, Any]]) -> Any:
        self.seq += 1
        running = [{"attempt": attempt, "started": True, "progress": 0.5} for attempt in self.running]
        body = {
            "epoch": self.enrolled["epoch"],
            "seq": self.seq,
            "free": 0 if finished else self.slots - len(self.running),
            "running": running,
            "finished": finished,
        }
        return self._call("POST", f"/workers/{self.enrolled['worker']}/sync", body)

    def _call(self, method: str, path: str, body: Any) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        request = urllib.request.Request(f"{self.url}/api/v1{path}", data, {"Content-Type": kind}, method=method)
        if self.seq or path != "/workers/enrol":
            request.add_header("Authorization", f"Bearer {self.enrolled['credential']}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
