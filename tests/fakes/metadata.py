"""The metadata servers of EC2 (IMDSv2 only) and of Google, on this machine; `take` says that the machine is taken back."""

from __future__ import annotations

import json
import secrets
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Metadata:
    """`environment` brings a worker here; `asked` are the paths that came. `tokens` that are forgotten are no longer good."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self._notice = ""
        self._preempted = False
        owner = self

        class Handler(_Handler):
            metadata = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.environment = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{self.host}", "GCE_METADATA_HOST": self.host}

    def __enter__(self) -> Metadata:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, in_s: float = 120.0) -> None:
        at = datetime.now(timezone.utc) + timedelta(seconds=in_s)
        self._notice = json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"})
        self._preempted = True

    def answer(self, method: str, path: str, token: str, flavor: str) -> tuple[int, str]:
        self.asked.append(path)
        if path == "/computeMetadata/v1/instance/preempted":
            return (200, "TRUE" if self._preempted else "FALSE") if flavor == "Google" else (403, "")
        if (method, path) == ("PUT", "/latest/api/token"):
            self.tokens.add(made := secrets.token_hex(8))
            return 200, made
        if token not in self.tokens:
            return 401, ""
        there = path == "/latest/meta-data/spot/instance-action" and self._notice
        return (200, self._notice) if there else (404, "")


class _Handler(BaseHTTPRequestHandler):
    metadata: Metadata

    def _answer(self) -> None:
        token, flavor = self.headers.get("X-aws-ec2-metadata-token", ""), self.headers.get("Metadata-Flavor", "")
        status, text = self.metadata.answer(self.command, self.path, token, flavor)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        pass
