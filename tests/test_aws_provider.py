"""Instances of EC2: boto3 over HTTP to moto's server, with the fault layer in front. Nothing is patched."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from coalition.config import PoolSettings
from providers import aws_listing
from providers.aws import AwsProvider
from providers.aws_sweeper import sweep
from providers.base import Fate, Reason, Rejected, Scope, TooLate, Unknown
from tests.contract_faults import FaultRig, NetworkFaults
from tests.contract_provider import ProviderContract
from tests.fakes.aws_cloud import REGION, AwsCloud, aws_here, words_of
from tests.polling import poll_until


@pytest.fixture(scope="module")
def cloud() -> Iterator[AwsCloud]:
    with aws_here() as made:
        yield made


@pytest.fixture(scope="module")
def image(cloud: AwsCloud) -> str:
    return cloud.image()


@pytest.fixture(scope="module")
def shared(cloud: AwsCloud) -> AwsProvider:
    """Made once: the SDK takes its time to read what it knows of a service."""
    return AwsProvider(REGION, "coalition", endpoint=cloud.url)


def fresh(cloud: AwsCloud) -> AwsProvider:
    """One that knows nothing yet."""
    return AwsProvider(REGION, "coalition", endpoint=cloud.url)


@pytest.fixture
def pool(image: str) -> PoolSettings:
    return PoolSettings(
        "p", 1, provider="aws", region=REGION, zones=("us-east-1a",), types=("c5.large",), purchase=("on-demand",), image=image,
        affinity=("linux",), slots=2, max=4,
    )  # fmt: skip


@pytest.fixture
def rig(cloud: AwsCloud, shared: AwsProvider, pool: PoolSettings) -> Iterator[FaultRig]:
    cloud.gaps.prices.on_demand["c5.large"] = 0.1
    shared.bucket._left = 1e6
    (offer,) = shared.offerings(pool)

    def wait(seconds: float) -> None:
        """The schedule on AWS calls the sweeper now and then."""
        end = time.time() + seconds
        poll_until(lambda: time.time() > end)
        sweep(cloud.client("ec2"), "coalition", time.time())

    queue = cloud.queue("announced")
    shared.queues = (queue,)
    rig = FaultRig(
        shared, time.time, wait, pool, offer, cloud.faults, cloud.reclaim,
        lambda farm: cloud.plant({"coalition:farm": farm, "coalition:token": "x"}, pool.image),
        lambda id: cloud.warn(queue, id, f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"),
    )  # fmt: skip
    yield rig
    assert cloud.faults.left() == {}
    shared.notices()  # what was read is taken from the queue
    cloud.reset()


class TestAwsContract(ProviderContract):
    @pytest.fixture
    def rig(self, rig: FaultRig) -> FaultRig:
        return rig


class TestAwsFaults(NetworkFaults):
    @pytest.fixture
    def rig(self, rig: FaultRig) -> FaultRig:
        return rig


# ---------------------------------------------------------------- what is sent


def sent(cloud: AwsCloud, rig: FaultRig, **changes: object) -> dict[str, str]:
    """The words of the last launch."""
    offering = replace(rig.offering, **{key: changes.pop(key) for key in list(changes) if hasattr(rig.offering, key)})  # type: ignore[arg-type]
    options = {**rig.request().options, **changes}
    rig.provider.launch(replace(rig.request(), offering=offering, options=options))
    return words_of(next(call for call in reversed(cloud.faults.calls) if call.verb == "launch").body)


def test_a_launch_carries_its_token_and_tags_and_how_the_machine_ends(cloud: AwsCloud, rig: FaultRig) -> None:
    words = sent(cloud, rig)
    assert len(words["ClientToken"]) == 32
    assert (words["MinCount"], words["MaxCount"]) == ("1", "1")
    assert words["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert words["MetadataOptions.HttpTokens"] == "required"
    assert {words["TagSpecification.1.ResourceType"], words["TagSpecification.2.ResourceType"]} == {"instance", "volume"}
    assert words["Placement.AvailabilityZone"] == "us-east-1a"
    assert not [name for name in words if name.startswith(("InstanceMarketOptions", "SecurityGroup", "Iam", "Block"))]


def test_the_deadline_is_a_tag_and_paying_on_moves_it(cloud: AwsCloud, rig: FaultRig) -> None:
    request = rig.request()
    (one,) = rig.provider.launch(request).instances
    assert float(cloud.tags(one.id)["coalition:until"]) == pytest.approx(request.until, abs=0.001)
    rig.provider.renew([one.id], request.until + 600)
    assert float(cloud.tags(one.id)["coalition:until"]) == pytest.approx(request.until + 600, abs=0.001)


def test_network_profile_and_disk_are_those_of_the_request(cloud: AwsCloud, rig: FaultRig) -> None:
    ec2 = cloud.client("ec2")
    subnet = next(one for one in ec2.describe_subnets()["Subnets"] if one["AvailabilityZone"] == "us-east-1b")
    group = ec2.create_security_group(GroupName="farm", Description="farm", VpcId=subnet["VpcId"])["GroupId"]
    cloud.client("iam").create_instance_profile(InstanceProfileName="farm")
    options = {"security_groups": [group], "instance_profile": "farm", "root_volume_bytes": (50 << 30) + 1}
    words = sent(cloud, rig, network=subnet["SubnetId"], zone="us-east-1b", **options)
    assert words["SubnetId"] == subnet["SubnetId"]
    assert (words["SecurityGroupId.1"], words["IamInstanceProfile.Name"]) == (group, "farm")
    assert words["BlockDeviceMapping.1.DeviceName"] == "/dev/sda1", "the image says which device it boots from"
    assert words["BlockDeviceMapping.1.Ebs.VolumeSize"] == "51"
    assert "Placement.AvailabilityZone" not in words


def test_a_burstable_machine_costs_no_credits_beyond_its_price(cloud: AwsCloud, rig: FaultRig) -> None:
    assert sent(cloud, rig, type="t3.large")["CreditSpecification.CpuCredits"] == "standard"
    assert "CreditSpecification.CpuCredits" not in sent(cloud, rig, type="c5.large")


def test_a_spot_machine_is_asked_for_once_at_its_ceiling_without_overhead(cloud: AwsCloud, rig: FaultRig) -> None:
    words = sent(cloud, rig, market="spot", bid_micro=43_210, price_micro=50_000)
    assert words["InstanceMarketOptions.SpotOptions.MaxPrice"] == "0.043210"
    assert words["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
    assert words["InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"] == "terminate"


def test_a_spot_price_that_rose_above_the_ceiling_is_no_capacity(cloud: AwsCloud, rig: FaultRig) -> None:
    cloud.gaps.prices.spot["c5.large", "us-east-1a"] = 0.05
    with pytest.raises(Rejected) as caught:
        sent(cloud, rig, market="spot", bid_micro=49_999)
    assert (caught.value.kind, caught.value.scope) == (Reason.CAPACITY, Scope.OFFERING)


def test_after_a_day_ec2_forgets_a_token_and_launch_by_is_what_keeps_it_from_being_used(cloud: AwsCloud, rig: FaultRig) -> None:
    request = rig.request(launch_by_s=0.3)
    (first,) = rig.provider.launch(request).instances
    rig.provider.terminate([first.id])
    cloud.gaps.clock = lambda: time.time() + 25 * 3_600
    try:
        poll_until(lambda: time.time() > request.launch_by)
        with pytest.raises(TooLate):
            rig.provider.launch(request)
        (second,) = rig.provider.launch(replace(request, launch_by=time.time() + 60)).instances
        assert second.id != first.id, "the fake forgets as EC2 does"
    finally:
        cloud.gaps.clock = time.time


# ---------------------------------------------------------------- offers


def test_there_is_an_offer_for_each_type_zone_and_market_with_what_it_costs(cloud: AwsCloud, rig: FaultRig) -> None:
    prices = cloud.gaps.prices
    prices.on_demand.update({"m5.xlarge": 0.192})
    prices.spot.update({("m5.xlarge", f"us-east-1{zone}"): 0.08 for zone in "abcdf"} | {("m5.xlarge", "us-east-1d"): 0.19})
    wanted = replace(rig.pool, types=("m5.xlarge",), zones=(), purchase=("spot", "on-demand"), slots=0)
    offers = {offer.name: offer for offer in fresh(cloud).offerings(wanted)}
    spot, on_demand = offers["m5.xlarge/us-east-1a/spot"], offers["m5.xlarge/us-east-1a/on-demand"]
    assert (spot.slots, spot.cpus, spot.memory_bytes, spot.gpus) == (4, 4, 16 << 30, 0)
    assert (spot.price_micro, spot.bid_micro, spot.image) == (96_000, 96_000, rig.pool.image)
    assert (on_demand.price_micro, on_demand.bid_micro, on_demand.currency) == (192_000, 0, "USD")
    assert offers["m5.xlarge/us-east-1d/spot"].price_micro == 192_000, "no more than on demand"
    assert spot.price_source == "aws"
    assert spot.price_as_of == pytest.approx(time.time(), abs=60)
    assert len(offers) == 2 * len({offer.zone for offer in offers.values()})


def test_a_price_that_nobody_tells_is_none(cloud: AwsCloud, rig: FaultRig) -> None:
    wanted = replace(rig.pool, types=("m5.large",), purchase=("spot", "on-demand"))
    offers = fresh(cloud).offerings(wanted)
    assert [(offer.price_micro, offer.price_source) for offer in offers] == [(0, ""), (0, "")]
    cloud.faults.script("GetProducts", "auth")
    cloud.faults.script("DescribeSpotPriceHistory", "error")
    assert [offer.price_micro for offer in fresh(cloud).offerings(wanted)] == [0, 0]


def test_prices_types_and_images_are_asked_for_once_in_a_while_only(cloud: AwsCloud, rig: FaultRig) -> None:
    now = [time.time()]
    provider = AwsProvider(REGION, "coalition", endpoint=cloud.url, clock=lambda: now[0])
    wanted = replace(rig.pool, purchase=("spot", "on-demand"))
    provider.offerings(wanted)
    before = len(cloud.faults.calls)
    provider.offerings(wanted)
    assert len(cloud.faults.calls) == before
    now[0] += 400
    provider.offerings(wanted)
    assert [call.verb for call in cloud.faults.calls[before:]] == ["DescribeSpotPriceHistory"]


def test_subnets_say_which_zones_are_used(cloud: AwsCloud, rig: FaultRig) -> None:
    known = {one["AvailabilityZone"]: one["SubnetId"] for one in cloud.client("ec2").describe_subnets()["Subnets"]}
    wanted = replace(rig.pool, zones=(), subnets=(known["us-east-1b"], known["us-east-1e"]))
    assert [(offer.zone, offer.network) for offer in fresh(cloud).offerings(wanted)] == [("us-east-1b", known["us-east-1b"])]


def test_an_image_is_named_by_id_name_tag_or_parameter(cloud: AwsCloud, rig: FaultRig) -> None:
    cloud.image("node-1")
    tagged = cloud.image("node-2")
    cloud.client("ec2").create_tags(Resources=[tagged], Tags=[{"Key": "role", "Value": "render node"}])
    cloud.client("ssm").put_parameter(Name="/farm/image", Value=rig.pool.image, Type="String", Overwrite=True)
    catalog = fresh(cloud).catalog
    images = cloud.client("ec2").describe_images(Owners=["self"])["Images"]
    newest = max(images, key=lambda one: (one["CreationDate"], one["ImageId"]))
    for name, id in (
        (rig.pool.image, rig.pool.image),
        ("ssm:/farm/image", rig.pool.image),
        ("tag:role=render node", tagged),
        ("name:*", newest["ImageId"]),
    ):
        assert catalog.image(replace(rig.pool, image=name)).id == id


@pytest.mark.parametrize("name", ["name:nobody-*", "tag:role=nobody", "ami-12345678", "ssm:/nobody"])
def test_an_image_that_is_not_there_is_told(cloud: AwsCloud, rig: FaultRig, name: str) -> None:
    with pytest.raises(Rejected) as caught:
        fresh(cloud).offerings(replace(rig.pool, image=name))
    assert caught.value.kind is Reason.INVALID
    assert "nobody" in str(caught.value) or "ami-12345678" in str(caught.value) or "ParameterNotFound" in str(caught.value)


# ---------------------------------------------------------------- lists, notices, consoles, credentials


def test_a_list_whose_second_page_fails_is_no_list(cloud: AwsCloud, rig: FaultRig) -> None:
    for _ in range(6):
        rig.provider.launch(rig.request())
    provider = fresh(cloud)
    provider.page = 5
    assert len({one.id for one in provider.list()}) >= 6
    cloud.faults.script("list", "", "error")
    with pytest.raises(Unknown):
        provider.list()


def test_what_is_read_of_a_list_is_what_the_sdk_reads(cloud: AwsCloud, rig: FaultRig) -> None:
    rig.started(2)
    _, (ended,) = rig.started()
    cloud.reclaim(ended.id)
    told = cloud.client("ec2").describe_instances()["Reservations"]
    theirs = {one["InstanceId"]: one for group in told for one in group["Instances"]}
    ours = {one["InstanceId"]: one for one in rig.provider._describe([])}  # type: ignore[attr-defined]
    assert ours.keys() == theirs.keys()
    assert ours[ended.id].keys() >= {"State", "Tags", "LaunchTime", "AmiLaunchIndex", "StateTransitionReason"}
    for id, one in ours.items():
        assert one == {name: theirs[id][name] for name in one} | {"State": {"Name": theirs[id]["State"]["Name"]}}


ODD = b"<R><reservationSet><item><instancesSet><a><launchTime>soon</launchTime></a></instancesSet></item></reservationSet></R>"


@pytest.mark.parametrize("body", [b"", b"<html>", ODD])
def test_what_is_no_list_is_left_to_the_sdk(body: bytes) -> None:
    answer, found = {"status_code": 200, "body": body}, dict[str, object]()
    aws_listing.read(answer, found)
    assert (answer["body"], found) == (body, {})


def test_interruptions_are_read_from_the_queue_and_told_until_somebody_came_back(cloud: AwsCloud, rig: FaultRig) -> None:
    queue = cloud.queue()
    provider = AwsProvider(REGION, "coalition", [queue], endpoint=cloud.url)
    cloud.warn(queue, "i-0123456789abcdef0")
    cloud.client("sqs").send_message(QueueUrl=queue, MessageBody="junk")
    cloud.client("sqs").send_message(QueueUrl=queue, MessageBody='{"detail-type": "EC2 Instance Rebalance Recommendation"}')
    (notice,) = provider.notices()
    assert (notice.id, notice.at) == ("i-0123456789abcdef0", 1_767_225_600.0 + 120)
    attributes = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    kept = cloud.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=attributes)["Attributes"]
    assert sum(map(int, kept.values())) == 3, "a crash now would have them told again"
    assert provider.notices() == []
    kept = cloud.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=attributes)["Attributes"]
    assert sum(map(int, kept.values())) == 0


def test_the_console_is_what_ec2_kept(rig: FaultRig) -> None:
    (one,) = rig.provider.launch(rig.request()).instances
    assert "Linux version" in rig.provider.console(one.id)
    assert rig.provider.console("i-0123456789abcdef0") == ""


def test_what_a_list_lacks_is_told_once(cloud: AwsCloud, rig: FaultRig, caplog: pytest.LogCaptureFixture) -> None:
    rig.started()
    provider = fresh(cloud)
    cloud.faults.bare(2)
    provider.list()
    provider.list()
    (told,) = [record.message for record in caplog.records if "is listed without" in record.message]
    assert "this is told once" in told


def test_one_that_is_not_there_keeps_no_other_from_being_ended(rig: FaultRig) -> None:
    request = rig.request(count=2)
    ids = [one.id for one in rig.provider.launch(request).instances]
    fates = rig.provider.terminate([*ids, "i-0123456789abcdef0"])
    assert fates == {ids[0]: Fate.GOING, ids[1]: Fate.GOING, "i-0123456789abcdef0": Fate.GONE}
    rig.until_gone(request.token)


def test_one_that_is_protected_fails_alone(cloud: AwsCloud, rig: FaultRig) -> None:
    ids = [one.id for one in rig.provider.launch(rig.request(count=2)).instances]
    protect = cloud.client("ec2").modify_instance_attribute
    protect(InstanceId=ids[0], DisableApiTermination={"Value": True})
    assert rig.provider.terminate(ids) == {ids[0]: Fate.FAILED, ids[1]: Fate.GOING}
    protect(InstanceId=ids[0], DisableApiTermination={"Value": False})


def test_without_credentials_nothing_is_sent(cloud: AwsCloud, rig: FaultRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    before = len(cloud.faults.calls)
    with pytest.raises(Rejected) as caught:
        fresh(cloud).list()
    assert (caught.value.kind, caught.value.scope) == (Reason.AUTH, Scope.PROVIDER)
    assert len(cloud.faults.calls) == before


def test_where_nobody_listens_nothing_was_sent(rig: FaultRig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens on it
        nowhere = AwsProvider(REGION, "coalition", endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(Rejected) as caught:
            nowhere.launch(rig.request())
    assert (caught.value.kind, caught.value.scope) == (Reason.THROTTLE, Scope.REGION)


# ---------------------------------------------------------------- check


def test_check_names_each_thing_that_is_in_the_way(cloud: AwsCloud, rig: FaultRig) -> None:
    cloud.gaps.quotas["L-1216C47A"] = 4
    wrong = replace(
        rig.pool, zones=("us-east-1a", "us-east-9z"), types=("c5.large", "c5.tiny"), security_groups=("sg-12345678",),
        notices_queue=f"{cloud.url}/123456789012/nobody", instance_profile="nobody",
    )  # fmt: skip
    problems = "\n".join(fresh(cloud).check(wrong))
    assert all(words in problems for words in ("[c5.tiny]", "sg-12345678", "NonExistentQueue"))
    told = fresh(cloud).check(replace(wrong, types=("c5.large",)))
    assert "zone us-east-9z has none of its types" in told
    assert "`max` needs 8 vCPUs, and the account's quota of on-demand ones is 4" in told
    assert any("nobody" in problem and "a launch would be refused" in problem for problem in told)


def test_check_says_what_has_no_price(cloud: AwsCloud, rig: FaultRig) -> None:
    unpriced = replace(rig.pool, types=("c5.xlarge",))
    assert fresh(cloud).check(unpriced) == ["the price of c5.xlarge/us-east-1a/on-demand is not known"]
    assert fresh(cloud).check(replace(unpriced, price_micro=1)) == []


# ---------------------------------------------------------------- the sweeper


def test_the_sweeper_ends_what_is_past_its_deadline_and_nothing_else(cloud: AwsCloud, rig: FaultRig) -> None:
    now = time.time()
    old = {"coalition:farm": "coalition", "coalition:until": f"{now - 1:.3f}"}
    overdue = cloud.plant(old, rig.pool.image)
    plants = {
        "later": cloud.plant({**old, "coalition:until": f"{now + 60:.3f}"}, rig.pool.image),
        "other": cloud.plant({**old, "coalition:farm": "other"}, rig.pool.image),
        "wrong": cloud.plant({**old, "coalition:until": "nan"}, rig.pool.image),
    }
    ec2 = cloud.client("ec2")
    assert sweep(ec2, "coalition", now) == [overdue]
    assert sweep(ec2, "coalition", now + 30) == []
    assert set(sweep(ec2, "coalition", now + 3_700)) == {plants["later"], plants["wrong"]}


def test_the_sweeper_goes_on_after_one_that_cannot_be_ended(cloud: AwsCloud, rig: FaultRig) -> None:
    tags = {"coalition:farm": "coalition", "coalition:until": "1"}
    plants = [cloud.plant(tags, rig.pool.image) for _ in range(2)]
    ec2 = cloud.client("ec2")
    ec2.modify_instance_attribute(InstanceId=plants[0], DisableApiTermination={"Value": True})
    with pytest.raises(RuntimeError, match=plants[0]):
        sweep(ec2, "coalition", time.time())
    ec2.modify_instance_attribute(InstanceId=plants[0], DisableApiTermination={"Value": False})
    assert sweep(ec2, "coalition", time.time()) == [plants[0]]


# ---------------------------------------------------------------- speed


def test_many_machines_of_one_plan_are_one_call(cloud: AwsCloud, rig: FaultRig) -> None:
    before = cloud.faults.count("launch")
    assert len(rig.provider.launch(rig.request(count=30)).instances) == 30
    assert cloud.faults.count("launch") == before + 1


def test_the_contract_of_providers_loads_no_sdk_and_no_configuration() -> None:
    heavy = "boto3 botocore google libcloud coalition.config coalition.model psutil json difflib"
    program = f"import sys, providers.base; print([name for name in {heavy.split()!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
