"""Machines by libcloud: its OpenStack driver over HTTP to a server of ours behind the fault layer, and its dummy driver."""

from __future__ import annotations

import base64
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from libcloud.compute.base import NodeSize
from libcloud.compute.drivers.openstack import OpenStack_2_NodeDriver
from libcloud.compute.providers import set_driver

from coalition.config import LibcloudSettings, PoolSettings, Settings, options_of, parse
from coalition.errors import ConfigError
from providers import make
from providers.base import Deadline, Fate, Life, Reason, Rejected, Unknown
from providers.libcloud import LibcloudProvider
from providers.libcloud_deploy import Deployer
from providers.libcloud_driver import TAGS, USER_DATA, ZONES, Driver, driver_class, known_drivers, pairs
from tests.contract_faults import FaultRig, NetworkFaults
from tests.contract_provider import ProviderContract
from tests.fakes.openstack_server import NO_HOST, OpenstackCloud
from tests.polling import poll_until


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()
POOL = PoolSettings(
    "p", 1, provider="libcloud", region="studio", types=("m1.small",), image="worker-1", affinity=("linux",), slots=2, max=4,
    price_micro=100_000,
)  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[OpenstackCloud]:
    with OpenstackCloud(CLOCK).running() as made:
        yield made


@pytest.fixture
def cloud(served: OpenstackCloud) -> Iterator[OpenstackCloud]:
    yield served
    left = served.faults.left()
    served.reset()
    assert left == {}


def provider_of(cloud: OpenstackCloud, lag_s: float = 0.0, farm: str = "coalition") -> LibcloudProvider:
    made = LibcloudProvider("openstack", cloud.arguments(), farm, lag_s, CLOCK)
    made.bucket._left = 1e6
    return made


@pytest.fixture
def rig(cloud: OpenstackCloud) -> FaultRig:
    provider = provider_of(cloud)
    (offer,) = provider.offerings(POOL)
    return FaultRig(provider, CLOCK, CLOCK.wait, POOL, offer, cloud.faults, cloud.reclaim, cloud.plant)


class TestLibcloudContract(ProviderContract):
    @pytest.fixture
    def rig(self, rig: FaultRig) -> FaultRig:
        return rig


class TestLibcloudFaults(NetworkFaults):
    @pytest.fixture
    def rig(self, rig: FaultRig) -> FaultRig:
        return rig


# ---------------------------------------------------------------- what a launch carries


def test_the_knobs_of_a_pool_are_in_its_requests(rig: FaultRig, cloud: OpenstackCloud) -> None:
    pool = replace(
        POOL, zones=("nova",), networks=("render",), groups=("workers",), key="wrangler", extra=("ex_config_drive=yes",)
    )  # fmt: skip
    (offer,) = rig.provider.offerings(pool)
    request = replace(rig.request(), offering=offer, options=options_of(pool))
    rig.provider.launch(request)
    (body,) = cloud.sent
    assert body["networks"] == [{"uuid": "22222222-0000-0000-0000-000000000001"}]
    assert body["security_groups"] == [{"name": "workers"}]
    assert (body["key_name"], body["availability_zone"], body["config_drive"]) == ("wrangler", "nova", "True")
    assert body["metadata"] == {"coalition-farm": "coalition", "coalition-pool": "p", "coalition-token": request.token}
    assert base64.b64decode(body["user_data"]).startswith(b"#cloud-config\n")
    assert (body["flavorRef"], body["imageRef"]) == ("1", "11111111-0000-0000-0000-000000000001")


def test_an_order_of_several_is_one_call_each_under_names_of_farm_token_and_number(rig: FaultRig, cloud: OpenstackCloud) -> None:
    request = rig.request(count=3)
    rig.provider.launch(request)
    names = [body["name"] for body in cloud.sent]
    assert len({name.removesuffix(f"{request.token}-{k}") for k, name in enumerate(names)}) == 1
    assert provider_of(cloud, farm="another").list() == []


# ---------------------------------------------------------------- without a token


def test_after_a_lost_answer_nothing_is_asked_for_again_before_lists_had_time_to_show_it(cloud: OpenstackCloud) -> None:
    provider = provider_of(cloud, lag_s=15.0)
    (offer,) = provider.offerings(POOL)
    rig = FaultRig(provider, CLOCK, CLOCK.wait, POOL, offer, cloud.faults)
    request = rig.request(launch_by_s=61)
    cloud.faults.script("launch", "lost_before")
    with pytest.raises(Unknown):
        provider.launch(request)
    CLOCK.now += 10
    with pytest.raises(Unknown, match="within 5 s"):
        provider.launch(request)
    assert cloud.faults.count("launch") == 1
    CLOCK.now += 6
    assert len(provider.launch(request).instances) == 1
    assert cloud.faults.count("launch") == 2


def test_a_server_that_starts_again_waits_for_the_lists_before_it_sends_what_another_may_have_sent(cloud: OpenstackCloud) -> None:
    old = provider_of(cloud, lag_s=15.0)
    (offer,) = old.offerings(POOL)
    request = FaultRig(old, CLOCK, CLOCK.wait, POOL, offer, cloud.faults).request(launch_by_s=61)
    CLOCK.now += 2
    cloud.faults.hide(1)
    (first,) = old.launch(request).instances
    again = provider_of(cloud, lag_s=15.0)
    with pytest.raises(Unknown):  # its list does not show it yet
        again.launch(request)
    assert [one.id for one in again.launch(request).instances] == [first.id]
    assert len(cloud.servers) == 1


def test_what_another_process_started_in_part_is_completed(cloud: OpenstackCloud) -> None:
    old, again = provider_of(cloud), provider_of(cloud)
    (offer,) = old.offerings(POOL)
    request = FaultRig(old, CLOCK, CLOCK.wait, POOL, offer, cloud.faults).request(count=3)
    cloud.faults.script("launch", "", "lost_after")
    with pytest.raises(Unknown):
        old.launch(request)
    assert sorted(one.k or 0 for one in again.launch(request).instances) == [0, 1, 2]
    assert len(cloud.servers) == 3


def test_an_order_that_takes_longer_than_it_may_be_sent_is_filled_in_part(rig: FaultRig, cloud: OpenstackCloud) -> None:
    request = rig.request(count=3)

    def slow() -> float:
        CLOCK.now += 40
        return CLOCK.now

    cloud.clock = slow  # it asks for the time when it makes a machine
    try:
        started = rig.provider.launch(request)
    finally:
        cloud.clock = CLOCK
    assert len(started.instances) == 2
    assert "was to be sent before" in started.shortfall


def test_a_machine_that_comes_up_in_error_is_ended_and_says_why(rig: FaultRig, cloud: OpenstackCloud) -> None:
    error = rig.refused("capacity")
    assert NO_HOST in str(error)
    assert cloud.servers == {}


def test_a_machine_in_error_later_is_paid_for_until_it_is_ended(rig: FaultRig, cloud: OpenstackCloud) -> None:
    token, (first,) = rig.started()
    cloud.named(first.id).update(status="ERROR", fault={"message": "its disk is gone"})
    (seen,) = rig.find(token)
    assert (seen.life, seen.reason) == (Life.STOPPING, "its disk is gone")
    assert rig.provider.terminate([first.id]) == {first.id: Fate.GOING}


def test_one_list_that_shows_less_ends_nothing(rig: FaultRig, cloud: OpenstackCloud) -> None:
    token, (first,) = rig.started()
    kept = cloud.servers.pop(cloud.named(first.id)["id"])
    assert rig.find(token) == []
    cloud.servers[kept["id"]] = kept
    assert rig.lives(token) == [Life.RUNNING]
    assert rig.provider.terminate([first.id]) == {first.id: Fate.GOING}


def test_a_machine_that_was_made_twice_is_two_of_which_one_can_be_ended(rig: FaultRig, cloud: OpenstackCloud) -> None:
    token, (first,) = rig.started()
    twin = cloud.make({"name": first.id, "flavorRef": "1", "imageRef": "x"})
    assert [one.id for one in rig.find(token)] == [first.id, f"{first.id}/{twin['id']}"]
    assert rig.provider.terminate([f"{first.id}/{twin['id']}"]) == {f"{first.id}/{twin['id']}": Fate.GOING}
    assert [one["id"] for one in cloud.servers.values()] != [twin["id"]]
    assert cloud.named(first.id)["id"] != twin["id"]


def test_a_machine_is_told_the_name_by_which_it_enrols(rig: FaultRig, cloud: OpenstackCloud) -> None:
    started = rig.provider.launch(rig.request(count=2))
    assert [one.id for one in started.instances] == [body["name"] for body in cloud.sent]
    for body in cloud.sent:
        (file,) = json.loads(base64.b64decode(body["user_data"]).decode().partition("\n")[2])["write_files"]
        assert f"\nIDENTITY={body['name']}\n" in base64.b64decode(file["content"]).decode()


def test_the_console_is_the_end_of_what_the_machine_wrote(rig: FaultRig, cloud: OpenstackCloud) -> None:
    _, (first,) = rig.started()
    cloud.consoles[cloud.named(first.id)["id"]] = "x" * 20_000 + "the end"
    assert rig.provider.console(first.id).endswith("the end")
    assert len(rig.provider.console(first.id)) == 16_384


def test_many_machines_are_listed_page_by_page(rig: FaultRig, cloud: OpenstackCloud) -> None:
    for number in range(250):
        cloud.make({"name": rig.provider.names.of("t", number), "flavorRef": "1", "imageRef": "x"})  # type: ignore[attr-defined]
    assert len(rig.find("t")) == 250


# ---------------------------------------------------------------- check, settings, other drivers


def test_check_says_what_is_wrong_with_a_pool(cloud: OpenstackCloud) -> None:
    provider = provider_of(cloud)
    assert provider.check(replace(POOL, price_micro=0)) == ["the price of m1.small is not known: give the pool a `price`"]
    (problem,) = set(provider.check(replace(POOL, types=("m1.huge",))))
    assert problem == 'there is no size "m1.huge"; there are: m1.large, m1.small'
    assert provider.check(replace(POOL, networks=("vlan7",))) == ['there is no network "vlan7"; there are: public, render']
    assert provider.check(replace(POOL, groups=("x",))) == ['there is no security group "x"; there are: default, workers']


def test_a_wrong_password_is_told_as_one(cloud: OpenstackCloud) -> None:
    provider = LibcloudProvider("openstack", {**cloud.arguments(), "secret": "wrong"}, "coalition", clock=CLOCK)
    with pytest.raises(Rejected) as caught:
        provider.check(POOL)
    assert caught.value.kind is Reason.AUTH


def test_a_driver_that_gives_machines_other_names_is_refused_and_what_it_made_is_ended() -> None:
    provider = LibcloudProvider("dummy", {"key": 0}, "coalition", 0.0, CLOCK)
    pool = replace(POOL, types=("Small",), image="Ubuntu 9.10")
    (offer,) = provider.offerings(pool)
    assert (offer.type, offer.memory_bytes, offer.price_micro) == ("1", 128 << 20, 100_000)
    assert any("no user data" in problem for problem in provider.check(pool))
    count = len(provider.driver.call("list_nodes"))
    with pytest.raises(Rejected, match="set `deploy_key`"):
        provider.launch(FaultRig(provider, CLOCK, CLOCK.wait, pool, offer).request())
    assert len(provider.driver.call("list_nodes")) == count
    pool = replace(pool, deploy_key="/nowhere/key")
    with pytest.raises(Rejected, match="is named dummy-3"):
        provider.launch(FaultRig(provider, CLOCK, CLOCK.wait, pool, offer).request())
    lives = {node.name: node.state for node in provider.driver.call("list_nodes")}
    assert lives.get("dummy-3") not in ("running", "pending")


@pytest.mark.parametrize(
    ("name", "user_data", "zone", "tags"),
    [
        ("openstack", "ex_userdata", "ex_availability_zone", "ex_metadata"),
        ("azure_arm", "ex_customdata", "location", "ex_tags"),
        ("digitalocean", "ex_user_data", "location", ""),
        ("vultr", "ex_userdata", "location", "ex_tag"),
        ("linode", "ex_userdata", "location", "ex_tags"),
        ("exoscale", "ex_userdata", "location", ""),
        ("cloudstack", "ex_userdata", "location", ""),
        ("brightbox", "ex_userdata", "location", ""),
        ("equinixmetal", "cloud_init", "location", ""),
        ("scaleway", "", "region", "ex_tags"),
        ("upcloud", "", "location", ""),
        ("ovh", "", "location", ""),
    ],
)
def test_what_a_driver_takes_is_read_from_its_signature(name: str, user_data: str, zone: str, tags: str) -> None:
    driver = Driver(name, {})
    driver.__dict__["takes"] = inspect.signature(newest(name).create_node).parameters
    assert (driver.first_of(USER_DATA), driver.first_of(ZONES), driver.first_of(TAGS)) == (user_data, zone, tags)


def newest(name: str) -> type:
    """The class of a driver's newest API, which libcloud picks when one is made; making one may call the cloud."""
    kind = driver_class(name)
    versions = {
        "openstack": "OpenStack_2_NodeDriver",
        "digitalocean": "DigitalOcean_v2_NodeDriver",
        "vultr": "VultrNodeDriverV2",
        "linode": "LinodeNodeDriverV4",
    }
    return getattr(sys.modules[kind.__module__], versions[name]) if name in versions else kind  # type: ignore[return-value, no-any-return]


class BareDriver(OpenStack_2_NodeDriver):
    """As drivers whose clouds know no user data."""

    def create_node(self, name: str, size: object, image: object) -> object:  # type: ignore[override]
        return super().create_node(name=name, size=size, image=image)


SSH = """#!/bin/sh
[ -e "$0.up" ] || { touch "$0.up"; echo 'it boots' >&2; exit 255; }
printf '%s\\n' "$@" >"$0.words"
cat >"$0.script.new"
mv "$0.script.new" "$0.script"
"""


def test_where_there_is_no_user_data_the_start_up_script_is_brought_by_ssh(cloud: OpenstackCloud, tmp_path: Path) -> None:
    if "bare" not in known_drivers():
        set_driver("bare", __name__, "BareDriver")
    program = tmp_path / "ssh"
    program.write_text(SSH)
    program.chmod(0o755)
    arguments = {**cloud.arguments(), "ex_force_auth_version": "3.x_password"}
    provider = LibcloudProvider("bare", arguments, "coalition", 0.0, CLOCK)
    provider.deployer = Deployer(str(program), pause_s=0.05)
    pool = replace(POOL, deploy_key="/keys/farm", deploy_user="debian")
    assert provider.check(pool) == []
    (offer,) = provider.offerings(pool)
    (made,) = provider.launch(FaultRig(provider, CLOCK, CLOCK.wait, pool, offer).request()).instances
    cloud.named(made.id)["addresses"] = {"render": [{"addr": "10.0.0.7", "version": 4}]}
    provider.list()
    script = Path(f"{program}.script")
    poll_until(script.exists)
    assert f"\nIDENTITY={made.id}\n" in script.read_text()
    words = Path(f"{program}.words").read_text()
    assert "debian@10.0.0.7" in words
    assert "/keys/farm" in words
    assert "sudo sh -c" in words
    assert "id.secret" not in words


def test_prices_that_the_cloud_itself_tells_are_taken() -> None:
    size = NodeSize(id="s-2", name="s-2", ram=4_096, disk=80, bandwidth=0, price=0.0595, driver=None, extra={"vcpus": 2})
    pool = replace(POOL, price_micro=0, slots=0)
    live = LibcloudProvider("digitalocean", {"key": "x"}, "coalition", clock=CLOCK)._offer(pool, size, "nyc3", "1")
    assert (live.name, live.slots, live.price_micro, live.price_source, live.price_as_of) == (
        "s-2/nyc3", 2, 59_500, "digitalocean", CLOCK.now,
    )  # fmt: skip
    assert LibcloudProvider("scaleway", {"key": "x"}, "coalition", clock=CLOCK)._offer(pool, size, "", "1").price_micro == 0


def test_arguments_are_what_they_look_like() -> None:
    assert pairs(("a=yes", "b=12", "c=x=y", "api_version=2")) == {"a": True, "b": 12, "c": "x=y", "api_version": "2"}
    assert {"openstack", "digitalocean", "dummy"} <= set(known_drivers())


ACCOUNT = "[libcloud studio]\ndriver = openstack\n"
POOL_TEXT = "[pool a]\nprovider = libcloud\nregion = studio\ntypes = m1.small\nimage = worker\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (POOL_TEXT, "cloud.ini:3: [pool a] region: no [libcloud studio]"),
        (ACCOUNT + POOL_TEXT + "purchase = spot\n", "cloud.ini:8: [pool a] purchase: libcloud's drivers start on-demand"),
        (ACCOUNT + POOL_TEXT + "subnetwork = a\n", "cloud.ini:8: [pool a] subnetwork: is for provider gce"),
        (ACCOUNT + POOL_TEXT + "extra = x\n", "cloud.ini:8: [pool a] extra: "),
        ("[libcloud studio]\ndriver = Open Stack\n", "cloud.ini:2: [libcloud studio] driver: "),
        ("[libcloud studio]\n", "cloud.ini:1: [libcloud studio] needs `driver`"),
        (ACCOUNT + "secret = x\n", "cloud.ini:3: [libcloud studio] secret: unknown key"),
        (ACCOUNT + ACCOUNT.replace("studio", " studio"), "is there already"),
    ],
)
def test_wrong_settings_are_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_the_secrets_of_an_account_are_in_a_file_that_nobody_else_may_read(tmp_path: Path, cloud: OpenstackCloud) -> None:
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps({"key": "farm", "secret": "a password"}))
    file.chmod(0o600)
    known = [f"{name}={value}" for name, value in cloud.arguments().items() if name not in ("key", "secret")]
    account = LibcloudSettings("studio", 1, driver="openstack", credentials=str(file), arguments=tuple(known))
    made = make("libcloud", "studio", Settings(accounts=(account,)))
    assert made.deadline is Deadline.GUEST
    assert made.check(POOL) == []
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        make("libcloud", "studio", Settings(accounts=(account,)))
    with pytest.raises(ConfigError, match=r'\[libcloud studio\] driver "openstak" is not .*: did you mean "openstack"'):
        make("libcloud", "studio", Settings(accounts=(replace(account, driver="openstak"),)))
    with pytest.raises(ConfigError, match="cannot be read"):
        make("libcloud", "studio", Settings(accounts=(replace(account, credentials=str(tmp_path / "none")),)))
