"""Amazon on this machine: moto's server, with what it lacks and the fault layer in front.

What moto lacks and is here: a ClientToken starts nothing twice for as long as EC2 knows it, MaxCount, spot prices and a maximum
price that is too low, the price list, the quotas of EC2, interruption notices.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode
from urllib.request import Request, urlopen
from xml.etree import ElementTree

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # before moto is loaded: it takes a second

import boto3
import pytest
from moto.core.serialize import AttributePickerContext, XFormedAttributePicker
from moto.core.utils import MISSING, get_value
from moto.ec2.models.tags import TagBackend
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from tests.fakes.cloud_faults import PARTIAL, Answer, App, CloudFaults, CloudServer, Environ, ask, body_of, send

REGION = "us-east-1"
NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
TOKEN_S = 24 * 3_600.0  # how long EC2 knows a token after the last of its instances ended
VERBS = {
    "RunInstances": "launch",
    "DescribeInstances": "list",
    "TerminateInstances": "terminate",
    "CreateTags": "renew",
    "GetConsoleOutput": "console",
    "ReceiveMessage": "notices",
}
CODES = {  # of the EC2 API reference
    "capacity": ("500 Internal Server Error", "InsufficientInstanceCapacity"),
    "quota": ("400 Bad Request", "VcpuLimitExceeded"),
    "throttle": ("503 Service Unavailable", "RequestLimitExceeded"),
    "auth": ("401 Unauthorized", "AuthFailure"),
    "invalid": ("400 Bad Request", "InvalidParameterValue"),
    "error": ("500 Internal Server Error", "InternalError"),
}
ElementTree.register_namespace("", NAMESPACE)
_all_tags = TagBackend.describe_tags


def _tags(self: Any, filters: Mapping[str, Sequence[str]] | None = None) -> list[dict[str, str]]:
    """moto looks through the tags of everything for those of one thing, and for each thing of a list again."""
    ids = (filters or {}).get("resource-id", ())
    if not filters or len(filters) > 1 or len(ids) != 1 or "*" in ids[0]:
        return list(_all_tags(self, filters))
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(ids[0]), "")
    tags = self.tags.get(ids[0], {})
    return [{"resource_id": ids[0], "key": key, "value": value, "resource_type": kind} for key, value in tags.items()]


TagBackend.describe_tags = _tags
_keys: dict[tuple[type, str, Any], Sequence[str]] = {}
_changes: dict[tuple[int, str, str], tuple[Any, Any]] = {}  # with what they are of, whose number stays its own


def _picked(self: XFormedAttributePicker, context: AttributePickerContext) -> Any:
    """moto works out by which names a field may be found for each field of each thing again; they are a class's and a shape's."""
    place = (type(context.obj), context.key, context.shape)
    names = _keys.get(place)
    if names is None:
        names = _keys[place] = tuple(dict.fromkeys(self.get_possible_keys(context)))
    found = (value for name in names if (value := get_value(context.obj, name, MISSING)) is not MISSING)
    value = next(found, None)
    path = (id(self.response_transformers), context.key_path, context.key)
    if path not in _changes:
        all_of_them, place = self.response_transformers, f"{context.key_path}.{context.key}"
        _changes[path] = all_of_them, next((one for end, one in all_of_them.items() if place.endswith(end)), None)
    change = _changes[path][1]
    return change(value) if change else value


XFormedAttributePicker.__call__ = _picked  # type: ignore[method-assign]


def words_of(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def action_of(environ: Environ, body: bytes) -> str:
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    return target.rpartition(".")[2] or words_of(body).get("Action", "")


def refuse(status: str, code: str, message: str = "by the script") -> Answer:
    text = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors></Response>"
    return Answer(status, (("Content-Type", "text/xml"),), text.encode())


class Ec2Words:
    """The dialect of EC2's query API, for the fault layer."""

    def verb(self, environ: Environ, body: bytes) -> str:
        action = action_of(environ, body)
        return VERBS.get(action, action)

    def refusal(self, kind: str, verb: str) -> Answer:
        return refuse(*CODES[kind])

    def ids(self, answer: Answer) -> Sequence[str]:
        return [one.findtext("{*}instanceId", "") for one in _instances(ElementTree.fromstring(answer.body))]

    def without(self, answer: Answer, ids: Sequence[str]) -> Answer:
        root = ElementTree.fromstring(answer.body)
        for group in root.iterfind(".//{*}instancesSet"):
            for one in list(group):
                if one.findtext("{*}instanceId") in ids:
                    group.remove(one)
        return _again(answer, root)

    def bare(self, answer: Answer) -> Answer:
        root = ElementTree.fromstring(answer.body)
        for one in _instances(root):
            for part in list(one):
                if part.tag.rpartition("}")[2] not in ("instanceId", "instanceState", "tagSet", "amiLaunchIndex"):
                    one.remove(part)
        return _again(answer, root)


def _instances(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [one for group in root.iterfind(".//{*}instancesSet") for one in group]


def _again(answer: Answer, root: ElementTree.Element) -> Answer:
    return Answer(answer.status, answer.headers, ElementTree.tostring(root))


@dataclass
class Sent:
    """What EC2 remembers of a ClientToken."""

    words: Mapping[str, str]
    answer: Answer
    ids: Sequence[str]


@dataclass
class Prices:
    """Dollars per hour: what spot machines cost by (type, zone), and what the list says by type."""

    spot: dict[tuple[str, str], float] = field(default_factory=dict)
    on_demand: dict[str, float] = field(default_factory=dict)
    page: int = 3  # entries in an answer


class Ec2Gaps:
    """WSGI middleware: what moto does not do, or does otherwise than EC2."""

    def __init__(self, app: App, clock: Callable[[], float] = time.time) -> None:
        self.app, self.clock = app, clock
        self.reset()

    def reset(self) -> None:
        self.prices = Prices()
        self.quotas: dict[str, float] = {}
        self.sent: dict[str, Sent] = {}
        self.ended: dict[str, float] = {}

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = body_of(environ)
        doer = getattr(self, f"_{action_of(environ, body)}", None)
        answer = doer(environ, body) if doer else ask(self.app, environ, body)
        return send(answer, start_response)

    # ------------------------------------------------------------ instances

    def _RunInstances(self, environ: Environ, body: bytes) -> Answer:
        words = words_of(body)
        token = words.get("ClientToken", "")
        if words.get("DryRun") == "true":
            return ask(self.app, environ, body)
        self._forget(token)
        if token in self.sent:
            return self._replayed(self.sent[token], words, environ)
        lowest, most = int(words["MinCount"]), int(words["MaxCount"])
        count = min(most, environ.get(PARTIAL, most))
        if count < lowest:
            return refuse(*CODES["capacity"])
        if self._too_cheap(words):
            return refuse("400 Bad Request", "SpotMaxPriceTooLow")
        answer = ask(self.app, environ, urlencode({**words, "MinCount": str(count)}).encode())
        if answer.good and token:
            self.sent[token] = Sent(words, answer, Ec2Words().ids(answer))
        return answer

    def _forget(self, token: str) -> None:
        sent = self.sent.get(token)
        if sent and all(self.clock() - self.ended.get(id, float("inf")) > TOKEN_S for id in sent.ids):
            del self.sent[token]

    def _replayed(self, sent: Sent, words: Mapping[str, str], environ: Environ) -> Answer:
        """The first answer, with the states of now; another request with the token is refused."""
        if words != sent.words:
            return refuse("400 Bad Request", "IdempotentParameterMismatch")
        asked = {"Action": "DescribeInstances", "Version": words["Version"]}
        asked |= {f"InstanceId.{number}": id for number, id in enumerate(sent.ids, 1)}
        now = ask(self.app, environ, urlencode(asked).encode())
        fresh = {one.findtext("{*}instanceId"): one for one in _instances(ElementTree.fromstring(now.body))}
        root = ElementTree.fromstring(sent.answer.body)
        for group in root.iterfind(".//{*}instancesSet"):
            group[:] = [fresh[one.findtext("{*}instanceId")] for one in group]
        return _again(sent.answer, root)

    def _too_cheap(self, words: Mapping[str, str]) -> bool:
        bid = words.get("InstanceMarketOptions.SpotOptions.MaxPrice")
        zone = words.get("Placement.AvailabilityZone", "")
        return bid is not None and float(bid) < self.prices.spot.get((words["InstanceType"], zone), 0.0)

    def _TerminateInstances(self, environ: Environ, body: bytes) -> Answer:
        """To moto, what has ended is about to end when it is asked to end again."""
        answer = ask(self.app, environ, body)
        if not answer.good:
            return answer
        root = ElementTree.fromstring(answer.body)
        for one in root.iterfind(".//{*}instancesSet/{*}item"):
            id = one.findtext("{*}instanceId", "")
            if id in self.ended:
                for now, before in zip(one.find("{*}currentState") or (), one.find("{*}previousState") or (), strict=True):
                    now.text = before.text
            self.ended.setdefault(id, self.clock())
        return _again(answer, root)

    # ------------------------------------------------------------ prices, quotas

    def _DescribeSpotPriceHistory(self, environ: Environ, body: bytes) -> Answer:
        words = words_of(body)
        types = {value for name, value in words.items() if name.startswith("InstanceType.")}
        entries = sorted((*key, price) for key, price in self.prices.spot.items() if key[0] in types)
        start = int(words.get("NextToken") or 0)
        page, end = entries[start : start + self.prices.page], start + self.prices.page
        items = "".join(
            f"<item><instanceType>{type}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{price:.6f}</spotPrice><timestamp>2026-01-01T00:00:00.000Z</timestamp>"
            f"<availabilityZone>{zone}</availabilityZone></item>"
            for type, zone, price in page
        )
        more = end if end < len(entries) else ""
        text = f'<R xmlns="{NAMESPACE}"><spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken>{more}</nextToken></R>'
        return Answer("200 OK", (("Content-Type", "text/xml"),), text.encode())

    def _GetProducts(self, environ: Environ, body: bytes) -> Answer:
        wanted = {one["Field"]: one["Value"] for one in json.loads(body)["Filters"]}
        price = self.prices.on_demand.get(wanted["instanceType"])
        rate = {"unit": "Hrs", "pricePerUnit": {"USD": f"{price or 0:.10f}"}}
        product = {"terms": {"OnDemand": {"a": {"priceDimensions": {"b": rate}}}}}
        return _json({"PriceList": [] if price is None else [json.dumps(product)]})

    def _GetServiceQuota(self, environ: Environ, body: bytes) -> Answer:
        code = json.loads(body)["QuotaCode"]
        return _json({"Quota": {"QuotaCode": code, "Value": self.quotas.get(code, 10_000.0)}})


def _json(document: object) -> Answer:
    return Answer("200 OK", (("Content-Type", "application/x-amz-json-1.1"),), json.dumps(document).encode())


class AwsCloud:
    """The servers and what a test does behind a provider's back. `reset` makes it empty again."""

    def __init__(self) -> None:
        self.gaps = Ec2Gaps(DomainDispatcherApplication(create_backend_app))
        self.faults = CloudFaults(self.gaps, Ec2Words())
        self.url = self.inner_url = ""
        self._clients: dict[str, Any] = {}

    @contextmanager
    def running(self) -> Iterator[AwsCloud]:
        with CloudServer(self.faults) as outer, CloudServer(self.gaps) as inner:
            self.url, self.inner_url = outer.url, inner.url
            # What moto knows is the whole process's: a module begins with nothing of the one before.
            urlopen(Request(f"{inner.url}/moto-api/reset", method="POST"), timeout=60).close()
            yield self

    def client(self, service: str) -> Any:
        """A client that the fault layer does not see."""
        if service not in self._clients:
            self._clients[service] = boto3.client(service, region_name=REGION, endpoint_url=self.inner_url)
        return self._clients[service]

    def reset(self) -> None:
        ec2 = self.client("ec2")
        live = ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}])
        ids = [one["InstanceId"] for group in live["Reservations"] for one in group["Instances"]]
        if ids:
            ec2.terminate_instances(InstanceIds=ids)
        self.gaps.reset()
        self.faults.reset()

    def image(self, name: str = "farm-1", **more: Any) -> str:
        return str(self.client("ec2").register_image(Name=name, RootDeviceName="/dev/sda1", **more)["ImageId"])

    def tags(self, id: str) -> dict[str, str]:
        (group,) = self.client("ec2").describe_instances(InstanceIds=[id])["Reservations"]
        return {tag["Key"]: tag["Value"] for tag in group["Instances"][0]["Tags"]}

    def reclaim(self, id: str) -> None:
        """It ends, and nobody says a word before."""
        self.client("ec2").terminate_instances(InstanceIds=[id])

    def plant(self, tags: Mapping[str, str], image: str) -> str:
        """An instance of somebody else in the account."""
        words = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
        order = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
        return str(self.client("ec2").run_instances(**order, TagSpecifications=words)["Instances"][0]["InstanceId"])

    def queue(self, name: str = "notices") -> str:
        return str(self.client("sqs").create_queue(QueueName=name)["QueueUrl"])

    def warn(self, queue: str, id: str, at: str = "2026-01-01T00:00:00Z") -> None:
        """What EventBridge puts into the queue two minutes before EC2 takes a spot machine back."""
        kind = "EC2 Spot Instance Interruption Warning"
        event = {"detail-type": kind, "time": at, "detail": {"instance-id": id, "instance-action": "terminate"}}
        self.client("sqs").send_message(QueueUrl=queue, MessageBody=json.dumps(event))


@contextmanager
def aws_here() -> Iterator[AwsCloud]:
    """The cloud, and an environment in which the SDK has credentials for it and looks nowhere else."""
    known = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**known, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nowhere"}.items():
            patch.setenv(name, value)
        with AwsCloud().running() as made:
            yield made
