"""Instances of Amazon EC2, by boto3. One account (the SDK's chain of credentials finds it) in one region.

An intent is one call of run_instances, whose ClientToken is the intent's token: EC2 starts nothing twice for it. Whose it is
stands in an instance's tags, set by the same call: coalition:farm, coalition:pool, coalition:token and coalition:until, the
deadline as seconds since 1970. Who ends an instance at that deadline is the sweeper (aws_sweeper.py), also when no server runs.
The SDK retries nothing: what was refused is the autoscaler's to decide.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from coalition.config import PoolSettings
from coalition.values import MICRO
from providers import aws_listing, bootstrap
from providers.aws_catalog import Catalog, Price, Type
from providers.aws_errors import ALREADY_SENT, DRY_RUN, NO_INSTANCE, answered, code_of, translated
from providers.base import (
    Deadline,
    Fate,
    Instance,
    Launched,
    Life,
    Notice,
    Offering,
    ProviderError,
    Reason,
    Rejected,
    Request,
    TooLate,
    Unknown,
)
from providers.pacing import Backoff, Bucket

log = logging.getLogger("providers.aws")

FARM, POOL, TOKEN, UNTIL = "coalition:farm", "coalition:pool", "coalition:token", "coalition:until"
ID = re.compile(r"^i-[0-9a-f]{8,17}\Z")
LIVES = {"pending": Life.PENDING, "running": Life.RUNNING, "terminated": Life.GONE}  # else STOPPING: its disk is paid for
ENDED = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
WARNING_S = 120.0  # EC2 says so before it takes a spot machine
MINIMUM_S = 60.0  # what EC2 bills at least
BATCH = 200  # ids that EC2 takes in one filter
CONSOLE_BYTES = 16_384
# A third of what EC2 allows an account by default: other things in it start machines, too.
LAUNCHES_PER_S, LAUNCH_BURST = 1.5, 5
PRICE_SOURCE = "aws"


class AwsProvider:
    """`queues` are the SQS addresses of notices. `endpoint` is the address of another service that speaks as AWS does."""

    name = "aws"
    deadline = Deadline.SWEEPER
    renewable = True
    settle_s = 5.0
    concurrent = True
    page = 1_000  # of a list

    def __init__(
        self,
        region: str,
        farm: str,
        queues: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.time,
        endpoint: str | None = None,
    ) -> None:
        self.region, self.farm, self.queues, self.clock, self.endpoint = region, farm, tuple(queues), clock, endpoint
        self.catalog = Catalog(region, self.client, clock)
        self.bucket = Bucket(LAUNCHES_PER_S, LAUNCH_BURST)
        self.backoff = Backoff()
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self._read_notices: dict[str, list[str]] = {}
        self._told_incomplete = False

    def client(self, service: str, region: str = "") -> Any:
        """The SDK's client, made once: it may be used by all threads, making one may not."""
        with self._lock, translated(service):
            key = (service, region or self.region)
            if key not in self._clients:
                config = Config(
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    connect_timeout=5,
                    read_timeout=30,
                    max_pool_connections=32,
                )
                session = boto3.Session(region_name=key[1])
                client = self._clients[key] = session.client(service, endpoint_url=self.endpoint, config=config)
                client.meta.events.register(aws_listing.EVENT, aws_listing.read)
            return self._clients[key]

    # ------------------------------------------------------------ what can be bought

    def offerings(self, pool: PoolSettings) -> Sequence[Offering]:
        image = self.catalog.image(pool).id
        subnets = self.catalog.subnets(pool.subnets)
        zones = self.catalog.zones_of(pool.types)
        spot = self._quietly({}, lambda: self.catalog.spot_prices(pool.types)) if "spot" in pool.purchase else {}
        found = []
        for type in self.catalog.types(pool.types):
            on_demand = self._quietly(0, lambda type=type: self._list_price(type.name))  # type: ignore[misc]
            for zone in zones.get(type.name, ()):
                if (subnets and zone not in subnets) or (pool.zones and zone not in pool.zones):
                    continue
                # A local zone, such as us-west-2-lax-1a, has prices of its own.
                listed = on_demand if re.fullmatch(rf"{re.escape(self.region)}[a-z]", zone) else 0
                prices = {"on-demand": listed, "spot": self._bid(spot.get((type.name, zone)), listed, pool.spot_headroom)}
                for market in pool.purchase:
                    offer = self._offer(pool, type, zone, market, prices[market], image, subnets.get(zone, ""))
                    found.append(_rated(offer, spot.get((type.name, zone))))
        return found

    def _quietly(self, nothing: Any, ask: Callable[[], Any]) -> Any:
        """Without a price an offer is still one; why there is none is logged."""
        try:
            return ask()
        except ProviderError as error:
            log.warning("prices of %s are not known: %s", self.region, error)
            return nothing

    def _list_price(self, type: str) -> int:
        return self.catalog.list_price(type).micro

    @staticmethod
    def _bid(price: Price | None, on_demand: int, headroom: float) -> int:
        """The most a spot machine may cost: above its price now, but no more than an on-demand one."""
        if price is None or price.micro <= 0:
            return 0
        bid = round(price.micro * (1 + headroom))
        return max(min(bid, on_demand), price.micro) if on_demand else bid

    def _offer(self, pool: PoolSettings, type: Type, zone: str, market: str, price: int, image: str, subnet: str) -> Offering:
        return Offering(
            name=f"{type.name}/{zone}/{market}",
            type=type.name,
            zone=zone,
            market=market,
            slots=pool.slots or type.cpus,
            cpus=type.cpus,
            memory_bytes=type.memory_bytes,
            gpus=type.gpus,
            price_micro=price,
            currency="USD",
            minimum_s=MINIMUM_S,
            bid_micro=price if market == "spot" else 0,
            price_source=PRICE_SOURCE if price else "",
            price_as_of=self.clock() if price else 0.0,
            image=image,
            network=subnet,
        )

    # ------------------------------------------------------------ launch

    def launch(self, request: Request) -> Launched:
        order = self._order(request)
        self.bucket.take()
        if self.clock() > request.launch_by:
            raise TooLate(f"{request.token} was to be sent before; nothing was started now")
        try:
            found = self._run(order)
        except _AlreadySent as error:
            instances = self._of_token(request.token)
            if len(instances) < request.count:  # not all listed yet, or never started: nobody knows
                raise Unknown(str(error)) from error
        else:
            instances = [self._instance(one) for one in found["Instances"]]
        short = "" if len(instances) >= request.count else f"{len(instances)} of {request.count} were to be had"
        return Launched(tuple(instances), short)

    def _run(self, order: Mapping[str, Any]) -> Any:
        try:
            with translated("run_instances"):
                try:
                    answer = self.client("ec2").run_instances(**order)
                except ClientError as error:
                    if code_of(error) == ALREADY_SENT:
                        raise _AlreadySent(str(error)) from error
                    raise
        except Rejected as error:
            if error.kind is Reason.THROTTLE:
                error.retry_after_s = self.backoff.refused()
            raise
        self.backoff.worked()
        return answer

    def _order(self, request: Request) -> dict[str, Any]:
        """The arguments of run_instances; the same request makes the same ones."""
        offering, options = request.offering, request.options
        order: dict[str, Any] = {
            "ImageId": offering.image or request.image,
            "InstanceType": offering.type,
            "MinCount": 1,
            "MaxCount": request.count,
            "ClientToken": request.token,
            "UserData": bootstrap.user_data(request),
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "TagSpecifications": self._tags(request),
        }
        if offering.network:
            order["SubnetId"] = offering.network
        elif offering.zone:
            order["Placement"] = {"AvailabilityZone": offering.zone}
        if options.get("security_groups"):
            order["SecurityGroupIds"] = list(options["security_groups"])
        if profile := options.get("instance_profile"):
            order["IamInstanceProfile"] = {"Arn" if profile.startswith("arn:") else "Name": profile}
        if size := options.get("root_volume_bytes"):
            device = self.catalog.image_by_id(order["ImageId"]).root_device
            disk = {"VolumeSize": -(-size // 2**30), "VolumeType": "gp3", "DeleteOnTermination": True}
            order["BlockDeviceMappings"] = [{"DeviceName": device, "Ebs": disk}]
        if re.match(r"t\d", offering.type):  # else EC2 bills CPU credits beyond the price
            order["CreditSpecification"] = {"CpuCredits": "standard"}
        if offering.market == "spot":
            spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            most = {"MaxPrice": f"{offering.bid_micro / MICRO:.6f}"} if offering.bid_micro else {}
            order["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": {**spot, **most}}
        return order

    def _tags(self, request: Request) -> list[dict[str, Any]]:
        """All of it says whose it is: what is left over by accident can be found, too."""
        owner = {"Name": f"{request.farm}-{request.pool}", FARM: request.farm, POOL: request.pool, TOKEN: request.token}
        of_instance = {**owner, UNTIL: _until_text(request.until)}
        kinds = {"instance": of_instance, "volume": owner}
        if request.offering.market == "spot":
            kinds["spot-instances-request"] = owner
        return [
            {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
            for kind, tags in kinds.items()
        ]

    # ------------------------------------------------------------ look

    def list(self) -> Sequence[Instance]:
        return [self._instance(one) for one in self._describe([{"Name": f"tag:{FARM}", "Values": [self.farm]}])]

    def _of_token(self, token: str) -> Sequence[Instance]:
        return [self._instance(one) for one in self._describe([{"Name": f"tag:{TOKEN}", "Values": [token]}])]

    def _describe(self, filters: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """All pages, or an error."""
        with translated("describe_instances"):
            pages = self.client("ec2").get_paginator("describe_instances")
            answer = pages.paginate(Filters=list(filters), PaginationConfig={"PageSize": self.page})
            return [one for page in answer for group in page.get("Reservations", ()) for one in group.get("Instances", ())]

    def _instance(self, answer: Mapping[str, Any]) -> Instance:
        """What a listing says of an instance; fields that are missing are not known, and nothing worse."""
        tags = {tag["Key"]: tag.get("Value", "") for tag in answer.get("Tags", ())}
        state = answer.get("State", {}).get("Name", "")
        if not (tags and state and answer.get("LaunchTime")) and not self._told_incomplete:
            self._told_incomplete = True
            log.warning("%s is listed without its tags, state or time; this is told once", answer["InstanceId"])
        life = LIVES.get(state, Life.STOPPING if state else Life.PENDING)
        launched = answer.get("LaunchTime")
        ended_at, reason = _end(answer, tags) if life is Life.GONE else (None, "")
        return Instance(
            id=answer["InstanceId"],
            token=tags.get(TOKEN, answer.get("ClientToken", "")),
            k=answer.get("AmiLaunchIndex"),
            farm=tags.get(FARM, ""),
            pool=tags.get(POOL, ""),
            life=life,
            launched_at=launched.timestamp() if launched else None,
            ended_at=ended_at,
            reason=reason,
        )

    # ------------------------------------------------------------ end, renew

    def terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        fates = {id: Fate.GONE for id in ids if not ID.match(id)}
        for some in _batches([id for id in ids if ID.match(id)]):
            fates.update(self._terminate(some))
        return fates

    def _terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        """EC2 ends all or none: where one is in the way, each is asked for by itself."""
        try:
            with translated("terminate_instances"):
                answer = self.client("ec2").terminate_instances(InstanceIds=list(ids))
        except Rejected as error:
            if error.kind is not Reason.INVALID:
                raise
            if len(ids) > 1:
                return {id: fate for one in ids for id, fate in self._terminate([one]).items()}
            return {ids[0]: Fate.GONE if code_of(error.__cause__) in NO_INSTANCE else Fate.FAILED}
        states = {one["InstanceId"]: one["CurrentState"]["Name"] for one in answer["TerminatingInstances"]}
        return {id: Fate.GONE if states.get(id) == "terminated" else Fate.GOING for id in ids}

    def renew(self, ids: Sequence[str], until: float) -> Mapping[str, float]:
        deadlines = {}
        for some in _batches([id for id in ids if ID.match(id)]):
            found = self._describe([{"Name": "instance-id", "Values": list(some)}])
            living = [one["InstanceId"] for one in found if one["State"]["Name"] not in ("shutting-down", "terminated")]
            if living:
                with translated("create_tags"):
                    self.client("ec2").create_tags(Resources=living, Tags=[{"Key": UNTIL, "Value": _until_text(until)}])
            deadlines.update(dict.fromkeys(living, until))
        return deadlines

    # ------------------------------------------------------------ notices, console

    def notices(self) -> Sequence[Notice]:
        """What was read before is taken from the queue first: a notice that nobody came to act on is told again."""
        found: dict[str, Notice] = {}
        for queue in self.queues:
            with translated("sqs"):
                sqs = self.client("sqs")
                for receipt in self._read_notices.pop(queue, ()):
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=receipt)
                for message in self._messages(sqs, queue):
                    self._read_notices.setdefault(queue, []).append(message["ReceiptHandle"])
                    if notice := _notice(message.get("Body", "")):
                        found.setdefault(notice.id, notice)
        return list(found.values())

    def _messages(self, sqs: Any, queue: str) -> Iterator[Mapping[str, Any]]:
        for _ in range(10):  # a hundred at a time are enough
            messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", ())
            yield from messages
            if not messages:
                return

    def console(self, id: str) -> str:
        if not ID.match(id):
            return ""
        with translated("get_console_output"):
            try:
                answer = self.client("ec2").get_console_output(InstanceId=id)
            except ClientError as error:
                if code_of(error) in NO_INSTANCE:
                    return ""
                raise
        return str(answer.get("Output") or "")[-CONSOLE_BYTES:]

    # ------------------------------------------------------------ check

    def check(self, pool: PoolSettings) -> Sequence[str]:
        """Credentials first: without them the rest says the same again."""
        with translated("get_caller_identity"):
            self.client("sts").get_caller_identity()
        problems: list[str] = []
        for look in (self._check_offers, self._check_network, self._check_permission, self._check_quota, self._check_queue):
            try:
                problems += look(pool)
            except ProviderError as error:
                problems.append(str(error))
        return list(dict.fromkeys(problems))

    def _check_offers(self, pool: PoolSettings) -> Sequence[str]:
        problems = []
        offers = self.offerings(pool)
        places = sorted({zone for zones in self.catalog.zones_of(pool.types).values() for zone in zones})
        problems += [f"zone {zone} has none of its types" for zone in pool.zones if zone not in places]
        if not offers:
            problems.append("nothing can be bought: no zone has a type and a subnet of it")
        if not pool.price_micro:
            problems += [f"the price of {offer.name} is not known" for offer in offers if not offer.price_micro]
        return problems

    def _check_network(self, pool: PoolSettings) -> Sequence[str]:
        if pool.security_groups:
            with translated("describe_security_groups"):
                self.client("ec2").describe_security_groups(GroupIds=list(pool.security_groups))
        if pool.zones and pool.subnets:
            missing = sorted(set(pool.zones) - set(self.catalog.subnets(pool.subnets)))
            return [f"zone {zone} has none of its subnets" for zone in missing]
        return []

    def _check_permission(self, pool: PoolSettings) -> Sequence[str]:
        """A launch that EC2 only looks at, as it would be sent."""
        offers = self.offerings(pool)
        if not offers:
            return []
        request = bootstrap.sample_request(pool, self.farm, offers[0], self.clock())
        order = {name: value for name, value in self._order(request).items() if name != "ClientToken"}
        try:
            self.client("ec2").run_instances(**order, DryRun=True)
        except ClientError as error:
            return [] if code_of(error) == DRY_RUN else [f"a launch would be refused: {answered('run_instances', error)}"]
        return []

    def _check_quota(self, pool: PoolSettings) -> Sequence[str]:
        """Running vCPUs that EC2 allows, for the standard types; that it cannot be read is no problem."""
        problems = []
        cpus = max((type.cpus for type in self.catalog.types(pool.types) if type.name[0] in STANDARD_TYPES), default=0) * pool.max
        for market, code in QUOTAS.items():
            if market in pool.purchase and cpus:
                try:
                    answer = self.client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)
                except ClientError as error:
                    log.info("quota %s cannot be read: %s", code, error)
                    continue
                allowed = answer["Quota"]["Value"]
                if cpus > allowed:
                    problems.append(f"`max` needs {cpus} vCPUs, and the account's quota of {market} ones is {allowed:.0f}")
        return problems

    def _check_queue(self, pool: PoolSettings) -> Sequence[str]:
        if pool.notices_queue:
            with translated("get_queue_attributes"):
                self.client("sqs").get_queue_attributes(QueueUrl=pool.notices_queue, AttributeNames=["QueueArn"])
        return []


STANDARD_TYPES = "acdhimrtz"  # the families of the quotas below
QUOTAS = {"on-demand": "L-1216C47A", "spot": "L-34B43A08"}


class _AlreadySent(Exception):
    """Instances were started with this token, by a request that was not quite the same."""


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]


def _rated(offer: Offering, spot: Price | None) -> Offering:
    """A spot machine costs what it costs now, which is less than the most that it may."""
    known = offer.market == "spot" and offer.price_micro and spot
    return replace(offer, rate_micro=spot.micro, changes=spot.changes) if known and spot else offer


def _until_text(until: float) -> str:
    return f"{until:.3f}"


def _end(answer: Mapping[str, Any], tags: Mapping[str, str]) -> tuple[float | None, str]:
    """When an instance ended, if EC2 says, and why."""
    words = answer.get("StateTransitionReason", "")
    match = ENDED.search(words)
    ended_at = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp() if match else None
    code = answer.get("StateReason", {}).get("Code", "")
    if code.startswith("Server.Spot"):
        return ended_at, "EC2 took the spot machine back"
    until = float(tags[UNTIL]) if re.fullmatch(r"\d+(\.\d+)?", tags.get(UNTIL, "")) else None
    if until is not None and ended_at is not None and ended_at + 1 >= until:
        return ended_at, "its paid time was over"
    return ended_at, answer.get("StateReason", {}).get("Message") or words or "it ended"


def _notice(body: str) -> Notice | None:
    """An interruption as EventBridge tells it; None for what else may be in the queue."""
    try:
        event = json.loads(body)
        if event["detail-type"] != "EC2 Spot Instance Interruption Warning":
            return None
        said_at = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
        return Notice(event["detail"]["instance-id"], said_at + WARNING_S, "EC2 takes the spot machine back")
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("a message in the queue of notices is not one: %.200s", body)
        return None
