"""Metadata services of clouds, as machines see them: EC2's (IMDSv2 only) and Compute Engine's."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SESSION = "AQAEAfake-session=="


class Service(ThreadingHTTPServer):
    """`tags` can be changed while it runs. Made where its thread's network is: in a namespace, on that namespace's addresses."""

    daemon_threads = True

    def __init__(self, cloud: str, tags: Mapping[str, str], place: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.tags = dict(tags)
        super().__init__(place, {"ec2": Ec2, "gce": Gce, "none": Neither}[cloud])

    @property
    def place(self) -> tuple[str, int]:
        return str(self.server_address[0]), int(self.server_address[1])


@contextmanager
def running(service: Service) -> Iterator[Service]:
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def say(self, text: str | None, refusal: int = 404) -> None:
        data = (text or "<html>not here</html>").encode()
        self.send_response(refusal if text is None else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


class Ec2(_Handler):
    """Whoever has no session token is refused, as by an instance with HttpTokens = required."""

    def do_PUT(self) -> None:
        asked = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.say(SESSION if asked else None)

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != SESSION:
            self.say(None, 401)
        else:
            self.say(self.server.tags.get(self.path.removeprefix("/latest/meta-data/tags/instance/")))


class Gce(_Handler):
    """`tags` are like instance/attributes/NAME and project/attributes/NAME."""

    def do_PUT(self) -> None:
        self.say(None, 405)

    def do_GET(self) -> None:
        if self.headers["Metadata-Flavor"] != "Google":
            self.say(None, 403)
        else:
            tags = {"instance/id": "4711", **self.server.tags}
            self.say(tags.get(self.path.removeprefix("/computeMetadata/v1/")))


class Neither(_Handler):
    """Some other web server: it answers everything with a page."""

    def do_PUT(self) -> None:
        self.say("<html>\nwelcome\n</html>")

    do_GET = do_PUT
