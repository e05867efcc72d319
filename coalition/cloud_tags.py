"""What a cloud tells its machine of the farm's server: the tag `coalition:server` of an EC2 instance, by IMDSv2, or the attribute
`coalition-server` of a Compute Engine instance or project. Its value is an address such as http://farm:19211, or a host.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Mapping
from contextlib import closing

PLACE = ("169.254.169.254", 80)
TAG, ATTRIBUTE = "coalition:server", "coalition-server"
WAIT_S = 0.5  # the service is on the machine's own host: where nothing answers at once there is none
MAX_VALUE = 1_024


def server(place: tuple[str, int] = PLACE) -> tuple[str, str]:
    """The server's address, or an empty text; and what was found, in words."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return "", "switched off by AWS_EC2_METADATA_DISABLED"
    with closing(http.client.HTTPConnection(*place, timeout=WAIT_S)) as service:
        try:
            return _of_ec2(service) or _of_gce(service) or ("", f"neither EC2's nor Compute Engine's at {place[0]}")
        except (OSError, http.client.HTTPException):
            return "", "this machine has none"


def _of_ec2(service: http.client.HTTPConnection) -> tuple[str, str] | None:
    """None where there is no IMDSv2. Tags are told only where the instance's metadata options say so."""
    session = _ask(service, "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if not session:
        return None
    value = _ask(service, "GET", f"/latest/meta-data/tags/instance/{TAG}", {"X-aws-ec2-metadata-token": session})
    return value, f"EC2's tag {TAG} is {value!r}" if value else f"EC2 shows no tag {TAG}"


def _of_gce(service: http.client.HTTPConnection) -> tuple[str, str] | None:
    google = {"Metadata-Flavor": "Google"}
    if not _ask(service, "GET", "/computeMetadata/v1/instance/id", google):
        return None
    for owner in ("instance", "project"):
        value = _ask(service, "GET", f"/computeMetadata/v1/{owner}/attributes/{ATTRIBUTE}", google)
        if value:
            return value, f"the {owner}'s attribute {ATTRIBUTE} is {value!r}"
    return "", f"Compute Engine shows no attribute {ATTRIBUTE}"


def _ask(service: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str]) -> str:
    """One line of printable text; empty for any other answer."""
    service.request(method, path, headers=dict(headers))
    answer = service.getresponse()
    text = answer.read(MAX_VALUE + 1).decode("utf-8", "replace").strip()
    good = answer.status == 200 and len(text) <= MAX_VALUE and text.isprintable()
    if answer.length:  # what is left of it must not be taken for the next answer
        service.close()
    return text if good else ""
