"""The other end of a webhook: prints what the farm tells, and believes only what is signed with the key, lately, and once.

    python examples/webhook_receiver.py --key-file chat.key --port 8080

The farm's cloud.ini then has a [webhook chat] with `url = http://this-machine:8080/` and the same key in its `secret_file`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from coalition.hooks import HEADER, verify

LARGEST = 1_000_000


class Receiver(BaseHTTPRequestHandler):
    key = ""
    known: deque[str] = deque(
        maxlen=10_000
    )  # what the farm sends again, as it heard no answer, has the Idempotency-Key of before

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(int(length)) if length.isascii() and length.isdigit() and int(length) <= LARGEST else b""
        if not verify(self.key, body, self.headers.get(HEADER, ""), time.time()):
            self._answer(403)
            return
        id = self.headers.get("Idempotency-Key", "")
        if id not in self.known:
            told = json.loads(body)
            print(f"{told['farm']}: {told['kind']}: {told['title']}", flush=True)
            self.known.append(id)
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing of each call: what was told is printed."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints what a farm's webhook tells.")
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free")
    given = parser.parse_args()
    Receiver.key = given.key_file.read_text(encoding="utf-8").strip()
    with ThreadingHTTPServer((given.host, given.port), Receiver) as server:
        print(f"listening on http://{given.host}:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
