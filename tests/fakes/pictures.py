"""A web server of renders on this machine: every path that ends in .png and does not hold "missing" is a picture."""

from __future__ import annotations

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


class Pictures:
    """A context manager. `origin` is its address; `asked` are the paths that came, and `referrers` what they came from."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.referrers: set[str] = set()
        owner = self

        class Handler(_Handler):
            pictures = owner

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Pictures:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    pictures: Pictures

    def do_GET(self) -> None:
        self.pictures.asked.append(self.path)
        self.pictures.referrers.add(self.headers.get("Referer", ""))
        name = self.path.partition("?")[0]
        there = name.endswith(".png") and "missing" not in name
        self.send_response(200 if there else 404)
        self.send_header("Content-Type", "image/png" if there else "text/plain")
        self.send_header("Content-Length", str(len(PNG) if there else 0))
        self.end_headers()
        self.wfile.write(PNG if there else b"")

    def log_message(self, *_: object) -> None:
        pass
