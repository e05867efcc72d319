"""Google Compute Engine on this machine: the REST shapes of compute v1 and of the billing catalog that a farm needs.

    with GceCloud().running() as cloud:
        GceProvider(REGION, "coalition", PROJECT, endpoint=cloud.url, billing=cloud.url, credentials=AnonymousCredentials())

Operations are RUNNING when they are answered and DONE when they are looked at. A requestId is known for as long as this runs. A
machine is deleted by its maxRunDuration, and what ended stays in the operations, as at Google.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from flask import Flask, Response, jsonify, request

from tests.fakes.cloud_faults import PARTIAL, Answer, CloudFaults, CloudServer, Environ

PROJECT, REGION = "studio", "europe-west1"
ZONES = ("europe-west1-b", "europe-west1-c", "us-central1-a")
NAME = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")
LABEL = re.compile(r"^[a-z0-9_-]{0,63}\Z")
TYPES = {  # name: (cpus, memory in MB, accelerators, shared core)
    "n2-standard-2": (2, 8_192, [], False),
    "n2-standard-8": (8, 32_768, [], False),
    "c2-standard-4": (4, 16_384, [], False),
    "n1-standard-4": (4, 15_360, [], False),
    "g2-standard-4": (4, 16_384, [{"guestAcceleratorType": "nvidia-l4", "guestAcceleratorCount": 1}], False),
    "e2-micro": (2, 1_024, [], True),
}
PRICES = [  # description, usage type, dollars
    ("N2 Instance Core running in Belgium", "OnDemand", 0.03478, "h"),
    ("N2 Instance Ram running in Belgium", "OnDemand", 0.004661, "GiBy.h"),
    ("N2 Custom Instance Core running in Belgium", "OnDemand", 9.0, "h"),
    ("Spot Preemptible N2 Instance Core running in Belgium", "Preemptible", 0.00842, "h"),
    ("Spot Preemptible N2 Instance Ram running in Belgium", "Preemptible", 0.001129, "GiBy.h"),
    ("Compute optimized Core running in Belgium", "OnDemand", 0.03738, "h"),
    ("Compute optimized Ram running in Belgium", "OnDemand", 0.00501, "GiBy.h"),
    ("N1 Predefined Instance Core running in Belgium", "OnDemand", 0.034773, "h"),
    ("N1 Predefined Instance Ram running in Belgium", "OnDemand", 0.004661, "GiBy.h"),
    ("Nvidia Tesla T4 GPU running in Belgium", "OnDemand", 0.35, "h"),
    ("G2 Instance Core running in Belgium", "OnDemand", 0.0275, "h"),
    ("G2 Instance Ram running in Belgium", "OnDemand", 0.0032, "GiBy.h"),
    ("Nvidia L4 GPU running in Belgium", "OnDemand", 0.617, "h"),
    ("E2 Instance Core running in Belgium", "OnDemand", 0.024, "h"),
    ("E2 Instance Ram running in Belgium", "OnDemand", 0.0032, "GiBy.h"),
    ("Commitment v1: N2 Cpu in Belgium for 1 Year", "Commit1Yr", 0.02, "h"),
]
REFUSALS = {  # HTTP status, reason
    "throttle": (403, "rateLimitExceeded"),
    "auth": (401, "authError"),
    "invalid": (400, "invalid"),
    "error": (500, "backendError"),
}
ENDINGS = {"capacity": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "quota": "QUOTA_EXCEEDED"}  # of operations


class Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    def body(self) -> dict[str, Any]:
        errors = [{"domain": "global", "reason": self.reason, "message": str(self)}]
        return {"error": {"code": self.status, "message": str(self), "errors": errors}}


def failed(code: str, message: str = "by the script") -> dict[str, Any]:
    """What makes an operation a failed one."""
    return {"error": {"errors": [{"code": code, "message": message}]}}


class GceWords:
    """The dialect of compute v1, for the fault layer."""

    def __init__(self, cloud: GceCloud) -> None:
        self.cloud = cloud

    def verb(self, environ: Environ, body: bytes) -> str:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.endswith(("/instances", "/instances/bulkInsert")):
            return "launch" if method == "POST" else "list"
        if method == "DELETE":
            return "terminate"
        words = {"serialPort": "console", "setLabels": "renew", "wait": "wait", "operations": "operations", "skus": "prices"}
        last = path.rpartition("/")[2]
        return words.get(last, last)

    def refusal(self, kind: str, verb: str) -> Answer:
        if verb == "launch" and kind in ENDINGS:
            return _answer(200, self.cloud.operation("insert", ZONES[0], "x", status="DONE", kept=False, **failed(ENDINGS[kind])))
        status, reason = REFUSALS[kind]
        return _answer(status, Refused(status, reason, "by the script").body())

    def ids(self, answer: Answer) -> Sequence[str]:
        said = json.loads(answer.body)
        if "operationType" in said:
            return self.cloud.started.get(said["name"], ())
        return [one["name"] for scoped in _scoped(said) for one in scoped.get("instances", scoped.get("items", ()))]

    def without(self, answer: Answer, ids: Sequence[str]) -> Answer:
        return self._shaped(answer, lambda one: None if one["name"] in ids else one)

    def bare(self, answer: Answer) -> Answer:
        return self._shaped(answer, lambda one: {key: one[key] for key in ("name", "status", "labels")})

    def _shaped(self, answer: Answer, shape: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Answer:
        said = json.loads(answer.body)
        for scoped in _scoped(said):
            key = "items" if "items" in scoped else "instances"
            scoped[key] = [one for one in map(shape, scoped.get(key, ())) if one]
        return Answer(answer.status, answer.headers, json.dumps(said).encode())


def _scoped(said: dict[str, Any]) -> list[dict[str, Any]]:
    """The lists in a listing: one for each zone, or itself."""
    items = said.get("items", {})
    return list(items.values()) if isinstance(items, dict) else [said]


def _answer(status: int, body: Mapping[str, Any]) -> Answer:
    return Answer(f"{status} X", (("Content-Type", "application/json"),), json.dumps(body).encode())


class GceCloud:
    """`operations` and `instances` are all there is, by name. Tests write into them as they like."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.app = _make_app(self)
        self.faults = CloudFaults(self.app, GceWords(self))
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.instances: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.requests: dict[str, str] = {}  # requestId -> operation
        self.started: dict[str, list[str]] = {}  # operation -> names
        self.sent: list[dict[str, Any]] = []  # bodies of launches
        self.consoles: dict[str, str] = {}
        self.images = {"worker-1": "worker", "worker-2": "worker"}  # name -> family
        self.quotas = {"CPUS": 64.0, "PREEMPTIBLE_CPUS": 0.0}
        self.prices = list(PRICES)
        self.unreachable: list[str] = []
        self.next_failure: dict[str, Any] = {}  # what the next launch's operation ends with, after it was accepted
        self.page = 500
        self._numbers = itertools.count(1)
        self.faults.reset()

    @contextmanager
    def running(self) -> Iterator[GceCloud]:
        with CloudServer(self.faults) as server:
            self.url = server.url
            yield self

    # ------------------------------------------------------------ for tests

    def preempt(self, id: str) -> None:
        """Takes a spot machine back: the operation says so, then it is deleted."""
        zone, _, name = id.partition("/")
        with self.lock:
            self.operation("compute.instances.preempted", zone, name, status="DONE")
            self._remove(zone, name, "delete", self.clock())

    def plant(self, farm: str) -> str:
        """A machine that nobody here asked for; its id."""
        with self.lock:
            name = f"stranger-{next(self._numbers)}"
            body = {"name": name, "machineType": "zones/x/machineTypes/n2-standard-2", "labels": {"coalition-farm": farm}}
            self._add(ZONES[0], body)
            return f"{ZONES[0]}/{name}"

    # ------------------------------------------------------------ operations

    def operation(
        self,
        kind: str,
        zone: str,
        target: str,
        *,
        status: str = "RUNNING",
        at: float | None = None,
        kept: bool = True,
        **more: Any,
    ) -> dict[str, Any]:
        now = _text(self.clock() if at is None else at)
        name = f"operation-{next(self._numbers)}"
        base = f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{zone}"
        made = {"name": name, "operationType": kind, "zone": base, "targetLink": f"{base}/instances/{target}", "status": status}
        made.update({"id": str(10_000 + next(self._numbers)), "insertTime": now, "startTime": now, **more})
        if status == "DONE":
            made["endTime"] = now
        if kept:
            self.operations[name] = made
        return made

    def finish(self, name: str) -> dict[str, Any]:
        """An operation that was looked at is done."""
        made = self.operations.get(name)
        if made is None:
            raise Refused(404, "notFound", f"The resource '{name}' was not found")
        if made["status"] != "DONE":
            made.update(status="DONE", endTime=_text(self.clock()))
            zone, target = made["zone"].rpartition("/")[2], made["targetLink"].rpartition("/")[2]
            if made["operationType"] == "delete":
                self.instances.pop(f"{zone}/{target}", None)
            for one in self.started.get(name, ()):
                if f"{zone}/{one}" in self.instances:
                    self.instances[f"{zone}/{one}"]["status"] = "RUNNING"
        return made

    # ------------------------------------------------------------ launches

    def launch(self, zone: str, bodies: list[dict[str, Any]], kind: str, request_id: str, partial: int | None) -> dict[str, Any]:
        if request_id in self.requests:
            return self.operations[self.requests[request_id]]
        taken = [body["name"] for body in bodies if f"{zone}/{body['name']}" in self.instances]
        if taken:
            raise Refused(409, "alreadyExists", f"The resource '{taken[0]}' already exists")
        for body in bodies:
            self._check(zone, body)
        failure, self.next_failure = self.next_failure, {}
        some = [] if failure else list(bodies)[:partial]
        for body in some:
            self._add(zone, body)
        more: dict[str, Any] = dict(failure)
        if kind == "bulkInsert":
            status = {"status": "DONE", "targetVmCount": len(bodies), "createdVmCount": len(some)}
            status["failedToCreateVmCount"] = len(bodies) - len(some)
            more["instancesBulkInsertOperationMetadata"] = {"perLocationStatus": {f"zones/{zone}": status}}
        made = self.operation(kind, zone, bodies[0]["name"] if kind == "insert" else "", **more)
        self.requests[request_id] = made["name"]
        self.started[made["name"]] = [body["name"] for body in some]
        return made

    def _check(self, zone: str, body: Mapping[str, Any]) -> None:
        type = body["machineType"].rpartition("/")[2]
        run_s = int(body["scheduling"]["maxRunDuration"]["seconds"])
        image = body["disks"][0]["initializeParams"]["sourceImage"]
        wrong = [
            (not NAME.match(body["name"]), "resource.name"),
            (type not in TYPES, "resource.machineType"),
            (not 30 <= run_s <= 120 * 86_400, "resource.scheduling.maxRunDuration"),
            (any(not LABEL.match(value) for value in body["labels"].values()), "resource.labels"),
            (image.rpartition("/")[2] not in self.images, "resource.disks[0].initializeParams.sourceImage"),
        ]
        for is_wrong, field in wrong:
            if is_wrong:
                raise Refused(400, "invalid", f"Invalid value for field '{field}'")

    def _add(self, zone: str, body: Mapping[str, Any]) -> None:
        now = self.clock()
        made = {**body, "id": str(next(self._numbers)), "status": "STAGING", "creationTimestamp": _text(now)}
        if seconds := body.get("scheduling", {}).get("maxRunDuration", {}).get("seconds"):
            made["resourceStatus"] = {"scheduling": {"terminationTimestamp": _text(now + int(seconds))}}
        self.instances[f"{zone}/{body['name']}"] = made
        self.consoles.setdefault(f"{zone}/{body['name']}", f"{body['name']} login: ")

    # ------------------------------------------------------------ ends

    def delete(self, zone: str, name: str) -> dict[str, Any]:
        if f"{zone}/{name}" not in self.instances:
            raise Refused(404, "notFound", f"The resource 'projects/{PROJECT}/zones/{zone}/instances/{name}' was not found")
        self.instances[f"{zone}/{name}"]["status"] = "STOPPING"
        return self.operation("delete", zone, name)

    def _remove(self, zone: str, name: str, kind: str, at: float) -> None:
        del self.instances[f"{zone}/{name}"]
        self.operation(kind, zone, name, status="DONE", at=at)

    def pass_time(self) -> None:
        """What time does: deadlines, and ends that were asked for before."""
        for id, one in list(self.instances.items()):
            zone, _, name = id.partition("/")
            until = one.get("resourceStatus", {}).get("scheduling", {}).get("terminationTimestamp")
            if until and datetime.fromisoformat(until).timestamp() <= self.clock():
                self._remove(zone, name, "compute.instances.deferredDelete", datetime.fromisoformat(until).timestamp())

    def settle(self) -> None:
        for name in list(self.operations):
            self.finish(name)


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="milliseconds")


def _kept(item: Mapping[str, Any], words: str) -> bool:
    """Whether a filter keeps an item: (field = "x") OR ..., labels.KEY = "x", field > "x"."""
    if not words:
        return True
    terms = re.findall(r'([\w.\-]+)\s*(=|>)\s*"([^"]*)"', words)
    assert terms, f"this filter is not understood: {words}"
    for field, sign, wanted in terms:
        value = item.get("labels", {}).get(field[7:]) if field.startswith("labels.") else item.get(field)
        if value is not None and (value == wanted if sign == "=" else value > wanted):
            return True
    return False


def _make_app(cloud: GceCloud) -> Flask:
    app = Flask("gce")
    base = f"/compute/v1/projects/{PROJECT}"
    in_zone = f"{base}/zones/<zone>"

    @app.errorhandler(Refused)
    def refused(error: Refused) -> tuple[Response, int]:
        return jsonify(error.body()), error.status

    def paged(items: Sequence[Any]) -> tuple[Sequence[Any], dict[str, str]]:
        start = int(request.args.get("pageToken") or 0)
        size = min(cloud.page, int(request.args.get("maxResults") or cloud.page))
        more = {"nextPageToken": str(start + size)} if start + size < len(items) else {}
        return items[start : start + size], more

    def aggregated(all_items: Mapping[str, Any], key: str) -> dict[str, Any]:
        words = request.args.get("filter", "")
        kept = [(zone, one) for zone, one in all_items if _kept(one, words)]
        some, more = paged(kept)
        empty = {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "There are no results for this scope"}}
        items: dict[str, Any] = {f"zones/{zone}": dict(empty) for zone in ZONES}
        for zone in ZONES:
            here = [one for there, one in some if there == zone]
            if here:
                items[f"zones/{zone}"] = {key: here}
        return {"items": items, "unreachables": list(cloud.unreachable), **more}

    @app.get(f"{base}/regions/<region>")
    def get_region(region: str) -> dict[str, Any]:
        zones = [zone for zone in ZONES if zone.startswith(f"{region}-")]
        if not zones:
            raise Refused(404, "notFound", f"The resource 'regions/{region}' was not found")
        urls = [f"https://www.googleapis.com{base}/zones/{zone}" for zone in zones]
        quotas = [{"metric": metric, "limit": limit, "usage": 0.0} for metric, limit in cloud.quotas.items()]
        return {"name": region, "zones": urls, "quotas": quotas, "status": "UP"}

    @app.get(f"{in_zone}/machineTypes")
    def list_types(zone: str) -> dict[str, Any]:
        items = []
        for name, (cpus, memory_mb, accelerators, shared) in TYPES.items():
            facts = {"name": name, "guestCpus": cpus, "memoryMb": memory_mb, "accelerators": accelerators, "isSharedCpu": shared}
            items.append({**facts, "zone": zone})
        return {"items": [item for item in items if _kept(item, request.args.get("filter", ""))]}

    @app.get(f"{base}/global/images/<name>")
    def get_image(name: str) -> dict[str, Any]:
        if name not in cloud.images:
            raise Refused(404, "notFound", f"The resource 'projects/{PROJECT}/global/images/{name}' was not found")
        return {"name": name, "family": cloud.images[name]}

    @app.get(f"{base}/global/images/family/<family>")
    def get_family(family: str) -> dict[str, Any]:
        return get_image(max((name for name, of in cloud.images.items() if of == family), default=family))

    @app.post(f"{in_zone}/instances")
    def insert(zone: str) -> dict[str, Any]:
        with cloud.lock:
            cloud.sent.append(request.get_json())
            return cloud.launch(zone, [request.get_json()], "insert", request.args["requestId"], request.environ.get(PARTIAL))

    @app.post(f"{in_zone}/instances/bulkInsert")
    def bulk_insert(zone: str) -> dict[str, Any]:
        with cloud.lock:
            body = request.get_json()
            cloud.sent.append(body)
            names = list(body["perInstanceProperties"])
            assert int(body["count"]) == len(names)
            bodies = [{**body["instanceProperties"], "name": name} for name in names]
            return cloud.launch(zone, bodies, "bulkInsert", request.args["requestId"], request.environ.get(PARTIAL))

    @app.get(f"{in_zone}/instances")
    def list_instances(zone: str) -> dict[str, Any]:
        with cloud.lock:
            cloud.pass_time()
            here = [one for id, one in cloud.instances.items() if id.startswith(f"{zone}/")]
            some, more = paged([one for one in here if _kept(one, request.args.get("filter", ""))])
            return {"items": list(some), **more}

    @app.get(f"{base}/aggregated/instances")
    def list_all_instances() -> dict[str, Any]:
        with cloud.lock:
            cloud.pass_time()
            cloud.settle()
            return aggregated([(id.partition("/")[0], one) for id, one in cloud.instances.items()], "instances")

    @app.get(f"{base}/aggregated/operations")
    def list_all_operations() -> dict[str, Any]:
        with cloud.lock:
            newest = sorted(cloud.operations.values(), key=lambda one: one["insertTime"], reverse=True)
            return aggregated([(one["zone"].rpartition("/")[2], one) for one in newest], "operations")

    @app.delete(f"{in_zone}/instances/<name>")
    def delete_instance(zone: str, name: str) -> dict[str, Any]:
        with cloud.lock:
            return cloud.delete(zone, name)

    @app.get(f"{in_zone}/instances/<name>/serialPort")
    def console(zone: str, name: str) -> dict[str, Any]:
        if f"{zone}/{name}" not in cloud.consoles:
            raise Refused(404, "notFound", f"The resource '{name}' was not found")
        return {"contents": cloud.consoles[f"{zone}/{name}"], "start": "0", "next": "1"}

    @app.post(f"{in_zone}/operations/<name>/wait")
    def wait(zone: str, name: str) -> dict[str, Any]:
        with cloud.lock:
            return cloud.finish(name)

    @app.get("/v1/services/6F81-5844-456A/skus")
    def list_skus() -> dict[str, Any]:
        skus = []
        for words, usage, price, unit in cloud.prices:
            nanos = round(price * 10**9)
            money = {"currencyCode": request.args["currencyCode"], "units": str(nanos // 10**9), "nanos": nanos % 10**9}
            expression = {"usageUnit": unit, "tieredRates": [{"startUsageAmount": 0, "unitPrice": money}]}
            category = {"resourceFamily": "Compute", "usageType": usage}
            sku = {"description": words, "category": category, "serviceRegions": [REGION]}
            skus.append({**sku, "pricingInfo": [{"pricingExpression": expression}]})
        start = int(request.args.get("pageToken") or 0)
        more = str(start + 5) if start + 5 < len(skus) else ""
        return {"skus": skus[start : start + 5], "nextPageToken": more}

    return app
