"""OpenStack on this machine: as much of keystone v3, nova, glance and neutron as libcloud's driver needs to run machines.

    with OpenstackCloud().running() as cloud:
        LibcloudProvider("openstack", cloud.arguments(), "coalition")

A server is BUILD when it is made and ACTIVE when it is listed. A token of keystone's is wanted for every call.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from flask import Flask, Response, jsonify, request

from tests.fakes.cloud_faults import PARTIAL, Answer, CloudFaults, CloudServer, Environ

PAGE = 100  # servers in an answer
PROJECT = "0123456789abcdef0123456789abcdef"
USER, PASSWORD, TOKEN = "farm", "a password", "a-token-of-keystone"
FLAVORS = {"1": ("m1.small", 2, 4_096), "2": ("m1.large", 8, 16_384)}
IMAGES = {"11111111-0000-0000-0000-000000000001": "worker-1", "11111111-0000-0000-0000-000000000002": "worker-2"}
NETWORKS = {"22222222-0000-0000-0000-000000000001": "render", "22222222-0000-0000-0000-000000000002": "public"}
GROUPS = {"33333333-0000-0000-0000-000000000001": "default", "33333333-0000-0000-0000-000000000002": "workers"}
REFUSALS = {  # HTTP status, kind, words
    "quota": (403, "forbidden", "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances"),
    "throttle": (429, "overLimit", "Too many requests"),
    "auth": (401, "unauthorized", "The request you have made requires authentication."),
    "invalid": (400, "badRequest", "Invalid input for field/attribute flavorRef"),
    "error": (500, "computeFault", "Unexpected API Error."),
}
NO_HOST = "No valid host was found. There are not enough hosts available."


class Refused(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind

    def body(self) -> dict[str, Any]:
        return {self.kind: {"code": self.status, "message": str(self)}}


class NovaWords:
    """The dialect of OpenStack's APIs, for the fault layer."""

    def __init__(self, cloud: OpenstackCloud) -> None:
        self.cloud = cloud

    def verb(self, environ: Environ, body: bytes) -> str:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.endswith("/servers") and method == "POST":
            return "launch"
        if path.endswith("/servers/detail"):
            return "list"
        if method == "DELETE":
            return "terminate"
        return "console" if path.endswith("/action") else path.rpartition("/")[2]

    def refusal(self, kind: str, verb: str) -> Answer:
        if kind == "capacity":  # nova takes the order, and the machine comes up in error
            made = self.cloud.make({"name": "x", "flavorRef": "1", "imageRef": next(iter(IMAGES))}, status="ERROR")
            return _answer(202, {"server": {"id": made["id"], "links": made["links"]}})
        status, name, words = REFUSALS[kind]
        return _answer(status, Refused(status, name, words).body())

    def ids(self, answer: Answer) -> Sequence[str]:
        said = json.loads(answer.body)
        return [said["server"]["id"]] if "server" in said else [one["id"] for one in said["servers"]]

    def without(self, answer: Answer, ids: Sequence[str]) -> Answer:
        said = json.loads(answer.body)
        said["servers"] = [one for one in said["servers"] if one["id"] not in ids]
        return Answer(answer.status, answer.headers, json.dumps(said).encode())

    def bare(self, answer: Answer) -> Answer:
        said = json.loads(answer.body)
        needed = ("id", "name", "status", "created", "updated", "links", "addresses", "hostId", "tenant_id")
        said["servers"] = [{**{key: one[key] for key in needed}, "metadata": {}} for one in said["servers"]]
        return Answer(answer.status, answer.headers, json.dumps(said).encode())


def _answer(status: int, body: dict[str, Any]) -> Answer:
    return Answer(f"{status} X", (("Content-Type", "application/json"),), json.dumps(body).encode())


class OpenstackCloud:
    """`servers` are all there are, by id. `left` is how many more may be made; None: any number."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.app = _make_app(self)
        self.faults = CloudFaults(self.app, NovaWords(self))
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.servers: dict[str, dict[str, Any]] = {}
        self.sent: list[dict[str, Any]] = []
        self.consoles: dict[str, str] = {}
        self.left: int | None = None
        self._numbers = itertools.count(1)
        self.faults.reset()

    @contextmanager
    def running(self) -> Iterator[OpenstackCloud]:
        with CloudServer(self.faults) as server:
            self.url = server.url
            yield self

    def arguments(self) -> dict[str, Any]:
        """What the driver is made with."""
        return {
            "key": USER,
            "secret": PASSWORD,
            "ex_force_auth_url": self.url,
            "ex_force_auth_version": "3.x_password",
            "ex_tenant_name": "render",
            "ex_force_service_region": "RegionOne",
        }

    # ------------------------------------------------------------ for tests

    def plant(self, farm: str) -> str:
        """A machine that nobody here asked for; its id."""
        name = f"stranger-{next(self._numbers)}"
        body = {"name": name, "flavorRef": "1", "imageRef": "x", "metadata": {"coalition-farm": farm}}
        return str(self.make(body)["id"])

    def named(self, name: str) -> dict[str, Any]:
        """The server of that name."""
        return next(one for one in self.servers.values() if one["name"] == name)

    def reclaim(self, name: str) -> None:
        del self.servers[self.named(name)["id"]]

    # ------------------------------------------------------------ servers

    def make(self, body: dict[str, Any], status: str = "BUILD") -> dict[str, Any]:
        id = f"44444444-0000-0000-0000-{next(self._numbers):012d}"
        at = datetime.fromtimestamp(self.clock(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        made = {
            "id": id,
            "name": body["name"],
            "status": status,
            "created": at,
            "updated": at,
            "tenant_id": PROJECT,
            "user_id": USER,
            "hostId": "",
            "addresses": {},
            "links": [{"rel": "self", "href": f"{self.url}/v2.1/servers/{id}"}],
            "metadata": body.get("metadata", {}),
            "flavor": {"id": body["flavorRef"]},
            "image": {"id": body["imageRef"]},
        }
        if status == "ERROR":
            made["fault"] = {"code": 500, "message": NO_HOST}
        self.servers[id] = made
        self.consoles[id] = f"{body['name']} login: "
        return made

    def launch(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["flavorRef"] not in FLAVORS or body["imageRef"] not in IMAGES:
            raise Refused(400, "badRequest", "there is no such flavor or image")
        if self.left == 0:
            raise Refused(*REFUSALS["quota"])
        if self.left is not None:
            self.left -= 1
        return self.make(body)

    def one(self, id: str) -> dict[str, Any]:
        if id not in self.servers:
            raise Refused(404, "itemNotFound", f"Instance {id} could not be found.")
        return self.servers[id]

    def catalog(self) -> list[dict[str, Any]]:
        places = {"compute": ("nova", f"{self.url}/v2.1"), "image": ("glance", self.url), "network": ("neutron", self.url)}
        found = []
        for kind, (name, url) in places.items():
            endpoint = {"id": name, "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": url}
            found.append({"id": name, "type": kind, "name": name, "endpoints": [endpoint]})
        return found


def _make_app(cloud: OpenstackCloud) -> Flask:
    app = Flask("openstack")

    @app.errorhandler(Refused)
    def refused(error: Refused) -> tuple[Response, int]:
        return jsonify(error.body()), error.status

    @app.before_request
    def known() -> None:
        if request.path != "/v3/auth/tokens" and request.headers.get("X-Auth-Token") != TOKEN:
            raise Refused(*REFUSALS["auth"])

    @app.post("/v3/auth/tokens")
    def authenticate() -> tuple[Response, int]:
        user = request.get_json()["auth"]["identity"]["password"]["user"]
        if (user["name"], user["password"]) != (USER, PASSWORD):
            raise Refused(401, "error", "The request you have made requires authentication.")
        at = cloud.clock()
        texts = [datetime.fromtimestamp(when, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000000Z") for when in (at, at + 86_400)]
        token = {
            "issued_at": texts[0],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "methods": ["password"],
            "user": {"id": USER, "name": USER, "domain": {"id": "default", "name": "Default"}},
            "project": {"id": PROJECT, "name": "render", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "member", "name": "member"}],
            "catalog": cloud.catalog(),
        }
        answer = jsonify({"token": token})
        answer.headers["X-Subject-Token"] = TOKEN
        return answer, 201

    @app.get("/v2.1/flavors/detail")
    def flavors() -> dict[str, Any]:
        rest = {"disk": 20, "swap": "", "rxtx_factor": 1.0, "OS-FLV-EXT-DATA:ephemeral": 0, "links": []}
        return {"flavors": [{"id": i, "name": n, "vcpus": cpus, "ram": ram, **rest} for i, (n, cpus, ram) in FLAVORS.items()]}

    @app.get("/v2/images")
    def images() -> dict[str, Any]:
        at = "2026-01-01T00:00:00Z"
        rest = {"status": "active", "created_at": at, "updated_at": at, "min_ram": 0, "min_disk": 0, "visibility": "private"}
        return {"images": [{"id": id, "name": name, **rest} for id, name in IMAGES.items()]}

    @app.get("/v2.0/networks")
    def networks() -> dict[str, Any]:
        return {"networks": [{"id": id, "name": name, "status": "ACTIVE", "subnets": []} for id, name in NETWORKS.items()]}

    @app.get("/v2.0/security-groups")
    def groups() -> dict[str, Any]:
        rest = {"tenant_id": PROJECT, "description": "", "security_group_rules": []}
        return {"security_groups": [{"id": id, "name": name, **rest} for id, name in GROUPS.items()]}

    @app.post("/v2.1/servers")
    def create() -> tuple[dict[str, Any], int]:
        if PARTIAL in request.environ:
            cloud.left = request.environ[PARTIAL]
        body = request.get_json()["server"]
        cloud.sent.append(body)
        made = cloud.launch(body)
        return {"server": {"id": made["id"], "links": made["links"], "adminPass": "x"}}, 202

    @app.get("/v2.1/servers/detail")
    def details() -> dict[str, Any]:
        for one in cloud.servers.values():
            one["status"] = "ACTIVE" if one["status"] == "BUILD" else one["status"]
        marker = request.args.get("marker", "")
        rest = [one for id, one in sorted(cloud.servers.items()) if id > marker]
        some, answer = rest[:PAGE], dict[str, Any]()
        if len(rest) > PAGE:
            answer["servers_links"] = [{"rel": "next", "href": f"{request.base_url}?marker={some[-1]['id']}"}]
        return {"servers": some, **answer}

    @app.get("/v2.1/servers/<id>")
    def get(id: str) -> dict[str, Any]:
        return {"server": cloud.one(id)}

    @app.delete("/v2.1/servers/<id>")
    def delete(id: str) -> tuple[str, int]:
        cloud.one(id)
        del cloud.servers[id]
        return "", 204

    @app.post("/v2.1/servers/<id>/action")
    def act(id: str) -> dict[str, Any]:
        cloud.one(id)
        assert "os-getConsoleOutput" in request.get_json()
        return {"output": cloud.consoles[id]}

    return app
