"""Ends instances of Google Compute Engine whose paid time is over, also when no server runs: a scheduled function, in one file.

It needs nothing but Python, and the rights compute.instances.list and compute.instances.delete. The environment variables
COALITION_FARM and COALITION_PROJECT name the farm and its project; instances without the farm's label are never touched. An
instance of the farm whose label coalition-until cannot be read is ended, too, once it is an hour old: nothing says that
anybody pays for it. Google ends machines at their deadline by itself (maxRunDuration); this is for those that it did not.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

FARM, UNTIL = "coalition-farm", "coalition-until"
UNREADABLE_AGE_S = 3_600.0
TIMEOUT_S = 20.0
COMPUTE = "https://compute.googleapis.com"
TOKEN = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 - an address
Call = Callable[[str, str], Mapping[str, Any]]  # (method, path) -> what was answered


def handler(request: object) -> str:
    """What the schedule calls."""
    ended = sweep(calling(COMPUTE, token()), os.environ["COALITION_PROJECT"], os.environ["COALITION_FARM"], time.time())
    return json.dumps({"ended": ended})


def sweep(call: Call, project: str, farm: str, now: float) -> Sequence[str]:
    """Ends what is past its deadline; the names with their zones. One that cannot be ended keeps no other from it."""
    failed: list[str] = []
    overdue = [id for id, one in living(call, project, farm, failed) if now >= _until(one)]
    for id in overdue:
        zone, _, name = id.partition("/")
        try:
            call("DELETE", f"projects/{project}/zones/{zone}/instances/{name}")
        except urllib.error.HTTPError as error:
            if error.code != 404:  # it is gone already
                failed.append(f"{id}: {error}")
        except OSError as error:
            failed.append(f"{id}: {error}")
    if failed:
        raise RuntimeError("; ".join(failed))
    return overdue


def living(call: Call, project: str, farm: str, failed: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(ZONE/NAME, instance) of all that the farm has. Zones that could not be asked are added to `failed`."""
    query = {"filter": f'labels.{FARM} = "{farm}"'}
    while True:
        page = call("GET", f"projects/{project}/aggregated/instances?{urllib.parse.urlencode(query)}")
        failed += [f"{scope} could not be reached" for scope in page.get("unreachables", ())]
        for scope, scoped in page.get("items", {}).items():
            for one in scoped.get("instances", ()):
                if one.get("labels", {}).get(FARM) == farm and one.get("status") not in ("STOPPING", "TERMINATED"):
                    yield f"{scope.rpartition('/')[2]}/{one['name']}", one
        if not page.get("nextPageToken"):
            return
        query["pageToken"] = page["nextPageToken"]


def calling(address: str, bearer: str) -> Call:
    """Calls compute v1 at that address, as whom the token says."""

    def call(method: str, path: str) -> Mapping[str, Any]:
        headers = {"Authorization": f"Bearer {bearer}"}
        asked = urllib.request.Request(f"{address}/compute/v1/{path}", method=method, headers=headers)  # noqa: S310 - https
        with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310 - a fixed address
            return json.load(answer)  # type: ignore[no-any-return]

    return call


def token() -> str:
    """Who this function is to Google, as its metadata tell."""
    asked = urllib.request.Request(TOKEN, headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(asked, timeout=TIMEOUT_S) as answer:  # noqa: S310 - a fixed address
        return str(json.load(answer)["access_token"])


def _until(instance: Mapping[str, Any]) -> float:
    label = instance.get("labels", {}).get(UNTIL, "")
    if re.fullmatch(r"\d{1,12}", label):
        return float(label)
    return datetime.fromisoformat(instance["creationTimestamp"].replace("Z", "+00:00")).timestamp() + UNREADABLE_AGE_S
