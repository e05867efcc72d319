"""What a spot machine's cloud says on the machine itself: that it takes the machine back.

EC2: spot/instance-action by IMDSv2, two minutes before (Amazon EC2 User Guide, "Spot Instance interruption notices").
Google: `preempted` of the metadata server, 30 seconds before (Compute Engine, "Preemption process").
The addresses are those that the clouds' own SDKs use, with the same environment variables to change them.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

POLL_S = 2.0
TIMEOUT_S = 2.0
TOKEN_S = 21_600
EC2_WARNING_S, GOOGLE_WARNING_S = 120.0, 30.0
logger = logging.getLogger("coalition.worker")


class Ec2:
    """Asks with a session token, which is made again when EC2 no longer takes it."""

    def __init__(self) -> None:
        url = urlsplit(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254")
        self.server = url.netloc
        self._token = ""

    def left_s(self) -> float | None:
        """So long until the machine is taken; None: nothing is said. OSError, HTTPException or ValueError if nobody can tell."""
        if not self._token:
            ask = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
            status, self._token = _answer(self.server, "PUT", "/latest/api/token", ask)
            if status != 200:
                self._token = ""
                raise ValueError(f"no session token: HTTP {status}")
        path = "/latest/meta-data/spot/instance-action"
        status, text = _answer(self.server, "GET", path, {"X-aws-ec2-metadata-token": self._token})
        if status == 404:
            return None
        if status != 200:
            self._token = ""
            raise ValueError(f"HTTP {status}")
        at = datetime.fromisoformat(str(json.loads(text)["time"]).replace("Z", "+00:00")).timestamp()
        return min(max(0.0, at - time.time()), EC2_WARNING_S)


class Google:
    def __init__(self) -> None:
        self.server = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"

    def left_s(self) -> float | None:
        """As Ec2. Google does not say when: it was not said at the last look."""
        path = "/computeMetadata/v1/instance/preempted"
        status, text = _answer(self.server, "GET", path, {"Metadata-Flavor": "Google"})
        if status != 200:
            raise ValueError(f"HTTP {status}")
        return GOOGLE_WARNING_S - POLL_S if text.strip() == "TRUE" else None


CLOUDS: Mapping[str, Callable[[], Ec2 | Google]] = {"aws": Ec2, "gce": Google}


class Watch(threading.Thread):
    """Looks every POLL_S seconds, and calls `tell` once, with the seconds that are left. A cloud that does not answer holds up
    nothing but the next look."""

    def __init__(self, cloud: str, tell: Callable[[float], None]) -> None:
        super().__init__(name="coalition-metadata", daemon=True)
        self._cloud, self._tell = CLOUDS[cloud](), tell
        self._closed = threading.Event()
        self._silent = False

    def run(self) -> None:
        while not self._closed.is_set():
            left_s = self._look()
            if left_s is not None:
                self._tell(left_s)
                return
            self._closed.wait(POLL_S)

    def _look(self) -> float | None:
        try:
            left_s = self._cloud.left_s()
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            if not self._silent:
                logger.warning("the machine's cloud does not say whether it takes the machine back: %s", error)
            self._silent = True
            return None
        self._silent = False
        return left_s

    def close(self) -> None:
        """The thread ends soon; it is not waited for."""
        self._closed.set()


def _answer(server: str, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
    connection = HTTPConnection(server, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, response.read(4_096).decode("utf-8", "replace")
    finally:
        connection.close()
