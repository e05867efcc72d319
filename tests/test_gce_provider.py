"""Instances of Google Compute Engine: its SDK over HTTP to a server of ours, with the fault layer in front."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials

from autoscaler.loop import Autoscaler
from coalition.config import PoolSettings, Settings, options_of
from coalition.errors import ConfigError
from providers import make
from providers.base import Fate, Life, Notice, ProviderError, Reason, Rejected, Scope, Unknown
from providers.gce import GceProvider
from providers.gce_catalog import gpu_name
from providers.gce_order import label, read_label
from providers.names import Names
from tests.cloud_world import World, budget, settings
from tests.contract_faults import FaultRig, NetworkFaults
from tests.contract_provider import ProviderContract
from tests.fakes.gce_server import PRICES, PROJECT, REGION, GceCloud, failed


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()
ZONE = "europe-west1-b"
POOL = PoolSettings(
    "p", 1, provider="gce", region=REGION, zones=(ZONE,), types=("n2-standard-2",), purchase=("on-demand",),
    image="family:worker", affinity=("linux",), slots=2, max=4,
)  # fmt: skip
N2 = ("N2 Instance Core running in Belgium", "N2 Instance Ram running in Belgium")


@pytest.fixture(scope="module")
def served() -> Iterator[GceCloud]:
    with GceCloud(CLOCK).running() as made:
        yield made


@pytest.fixture
def cloud(served: GceCloud) -> Iterator[GceCloud]:
    yield served
    left = served.faults.left()
    served.reset()
    assert left == {}


def provider_of(cloud: GceCloud, farm: str = "coalition", folder: Path | None = None) -> GceProvider:
    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
    addresses = {"endpoint": cloud.url, "billing": cloud.url}
    made = GceProvider(REGION, farm, PROJECT, clock=CLOCK, credentials=nobody, folder=folder, **addresses)  # type: ignore[arg-type]
    made.bucket._left = 1e6
    return made


@pytest.fixture
def rig(cloud: GceCloud) -> FaultRig:
    cloud.prices = [(N2[0], "OnDemand", 0.01, "h"), (N2[1], "OnDemand", 0.01, "GiBy.h")]
    provider = provider_of(cloud)
    (offer,) = provider.offerings(POOL)

    def wait(seconds: float) -> None:
        CLOCK.now += seconds + 30  # Google's shortest time of a machine

    return FaultRig(provider, CLOCK, wait, POOL, offer, cloud.faults, cloud.preempt, cloud.plant, cloud.preempt)


class TestGceContract(ProviderContract):
    @pytest.fixture
    def rig(self, rig: FaultRig) -> FaultRig:
        return rig


class TestGceFaults(NetworkFaults):
    @pytest.fixture
    def rig(self, rig: FaultRig) -> FaultRig:
        return rig


# ---------------------------------------------------------------- what a launch carries


def test_a_machine_ends_by_itself_before_what_is_funded_does(rig: FaultRig, cloud: GceCloud) -> None:
    rig.provider.launch(rig.request(lasts_s=3_600, launch_by_s=60))
    scheduling = cloud.sent[-1]["scheduling"]
    assert scheduling["maxRunDuration"] == {"seconds": "3540"}
    assert scheduling["instanceTerminationAction"] == "DELETE"
    assert scheduling["automaticRestart"] is False
    assert (scheduling["provisioningModel"], scheduling["onHostMaintenance"]) == ("STANDARD", "MIGRATE")


def test_a_request_that_is_sent_again_later_is_the_same(rig: FaultRig, cloud: GceCloud) -> None:
    request = rig.request()
    rig.faults.script("launch", "error")
    with pytest.raises(Unknown):
        rig.provider.launch(request)
    CLOCK.now += 20
    rig.provider.launch(request)
    (first, second) = [call for call in rig.faults.calls if call.verb == "launch"]  # type: ignore[attr-defined]
    assert first.body == second.body
    assert b"requestId" not in first.body


def test_whose_a_machine_is_stands_in_its_labels_and_what_it_is_told_in_its_metadata(rig: FaultRig, cloud: GceCloud) -> None:
    request = rig.request(lasts_s=600)
    rig.provider.launch(request)
    body = cloud.sent[-1]
    until = str(int(request.until))
    assert body["labels"] == {
        "coalition-farm": "coalition", "coalition-pool": "p", "coalition-token": request.token, "coalition-until": until,
    }  # fmt: skip
    metadata = {item["key"]: item["value"] for item in body["metadata"]["items"]}
    assert metadata["startup-script"].startswith("#!/bin/sh\n")
    assert "TOKEN=id.secret\n" in metadata["startup-script"]
    assert body["disks"][0]["initializeParams"]["sourceImage"] == "projects/studio/global/images/worker-2"
    assert body["disks"][0]["autoDelete"] is True


def test_the_knobs_of_a_pool_are_in_its_requests(rig: FaultRig, cloud: GceCloud) -> None:
    pool = replace(
        POOL, types=("n1-standard-4",), purchase=("spot",), subnetwork="render", public_address=True, network_tags=("worker",),
        service_account="w@studio.iam", disk_type="pd-balanced", root_volume_bytes=50 << 30, accelerator="nvidia-tesla-t4:2",
    )  # fmt: skip
    (offer,) = rig.provider.offerings(pool)
    rig.provider.launch(replace(rig.request(), offering=offer, options=options_of(pool)))
    body = cloud.sent[-1]
    assert body["machineType"] == f"zones/{ZONE}/machineTypes/n1-standard-4"
    assert body["networkInterfaces"][0]["subnetwork"] == f"regions/{REGION}/subnetworks/render"
    assert body["networkInterfaces"][0]["accessConfigs"][0]["type"] == "ONE_TO_ONE_NAT"
    assert body["tags"] == {"items": ["worker"]}
    assert body["serviceAccounts"][0]["email"] == "w@studio.iam"
    disk = body["disks"][0]["initializeParams"]
    assert (disk["diskType"], disk["diskSizeGb"]) == (f"zones/{ZONE}/diskTypes/pd-balanced", "50")
    accelerator = {"acceleratorType": f"zones/{ZONE}/acceleratorTypes/nvidia-tesla-t4", "acceleratorCount": 2}
    assert body["guestAccelerators"] == [accelerator]
    assert (body["scheduling"]["provisioningModel"], body["scheduling"]["onHostMaintenance"]) == ("SPOT", "TERMINATE")


def test_two_hundred_machines_are_one_call(rig: FaultRig, cloud: GceCloud) -> None:
    started = rig.provider.launch(rig.request(count=200))
    assert rig.faults.count("launch") == 1
    assert [one.k for one in started.instances] == list(range(200))
    body = cloud.sent[-1]
    assert (body["count"], body["minCount"]) == ("200", "1")
    assert body["instanceProperties"]["machineType"] == "n2-standard-2"
    cloud.page = 70
    assert len(rig.provider.list()) == 200


# ---------------------------------------------------------------- ends of operations


@pytest.mark.parametrize(
    ("code", "kind", "scope"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", Reason.CAPACITY, Scope.OFFERING),
        ("QUOTA_EXCEEDED", Reason.QUOTA, Scope.REGION),
        ("RESOURCE_OPERATION_RATE_EXCEEDED", Reason.THROTTLE, Scope.REGION),
        ("PERMISSIONS_ERROR", Reason.AUTH, Scope.PROVIDER),
        ("RESOURCE_NOT_FOUND", Reason.INVALID, Scope.OFFERING),
    ],
)
def test_an_operation_that_was_accepted_and_failed_is_a_refusal(
    rig: FaultRig, cloud: GceCloud, code: str, kind: Reason, scope: Scope
) -> None:
    cloud.next_failure = failed(code, "so it is")
    request = rig.request()
    with pytest.raises(Rejected, match=f"{code}: so it is") as caught:
        rig.provider.launch(request)
    assert (caught.value.kind, caught.value.scope) == (kind, scope)
    assert rig.find(request.token) == []


@pytest.mark.parametrize(("status", "kind"), [(403, Reason.AUTH), (503, Reason.CAPACITY), (400, Reason.INVALID)])
def test_a_failed_operation_that_says_so_only_by_its_status_is_a_refusal(
    rig: FaultRig, cloud: GceCloud, status: int, kind: Reason
) -> None:
    cloud.next_failure = {"httpErrorStatusCode": status, "httpErrorMessage": "THE WORDS"}
    with pytest.raises(Rejected, match="THE WORDS") as caught:
        rig.provider.launch(rig.request(count=2))
    assert caught.value.kind is kind


def test_what_was_accepted_and_cannot_be_looked_at_is_unknown(rig: FaultRig) -> None:
    rig.faults.script("wait", "auth")
    request = rig.request()
    with pytest.raises(Unknown):
        rig.provider.launch(request)
    assert len(rig.provider.launch(request).instances) == 1


def test_a_name_that_is_there_although_its_request_was_forgotten_is_the_one_asked_for(rig: FaultRig, cloud: GceCloud) -> None:
    rig.faults.hide(2)
    request = rig.request()
    (first,) = rig.provider.launch(request).instances
    cloud.requests.clear()
    with pytest.raises(Unknown):  # it is there, and not listed yet
        rig.provider.launch(request)
    assert [one.id for one in rig.provider.launch(request).instances] == [first.id]


# ---------------------------------------------------------------- lists, ends, notices


def test_a_zone_that_cannot_be_reached_makes_no_list(rig: FaultRig, cloud: GceCloud) -> None:
    cloud.unreachable = ["zones/europe-west1-c"]
    with pytest.raises(Unknown, match="europe-west1-c could not be reached"):
        rig.provider.list()


def test_a_machine_that_was_stopped_is_still_paid_for_and_can_be_ended(rig: FaultRig, cloud: GceCloud) -> None:
    token, (first,) = rig.started()
    cloud.instances[first.id]["status"] = "TERMINATED"
    assert rig.lives(token) == [Life.STOPPING]
    assert rig.provider.terminate([first.id]) == {first.id: Fate.GOING}
    rig.until_gone(token)


def test_a_spot_machine_that_is_taken_back_is_announced_once_and_gone_for_that_reason(rig: FaultRig, cloud: GceCloud) -> None:
    token, (first,) = rig.started()
    cloud.preempt(first.id)
    words = "Google took the spot machine back"
    assert rig.provider.notices() == [Notice(first.id, CLOCK.now + 30, words)]
    assert rig.provider.notices() == []
    (seen,) = rig.until_gone(token)
    assert (seen.reason, seen.ended_at) == (words, CLOCK.now)


def test_machines_of_another_farm_are_neither_listed_nor_announced(rig: FaultRig, cloud: GceCloud) -> None:
    _, (first,) = rig.started()
    other = provider_of(cloud, "another")
    assert other.list() == []
    cloud.preempt(first.id)
    assert other.notices() == []
    assert other.list() == []


def test_what_could_not_be_ended_is_told_by_itself(rig: FaultRig) -> None:
    _, (first,) = rig.started()
    _, (second,) = rig.started()
    rig.faults.script("terminate", "error")
    fates = rig.provider.terminate([first.id, second.id, "nobody-0"])
    assert sorted((fates[first.id].value, fates[second.id].value)) == ["failed", "going"]  # they are ended at the same time
    assert fates["nobody-0"] is Fate.GONE


def test_the_console_is_the_end_of_what_the_machine_wrote(rig: FaultRig, cloud: GceCloud) -> None:
    _, (first,) = rig.started()
    cloud.consoles[first.id] = "x" * 20_000 + "the end"
    text = rig.provider.console(first.id)
    assert text.endswith("the end")
    assert len(text) == 16_384


# ---------------------------------------------------------------- offers and prices


def prices(cloud: GceCloud, **changes: object) -> dict[str, int]:
    pool = replace(POOL, zones=(), **changes)  # type: ignore[arg-type]
    return {offer.name: offer.price_micro for offer in provider_of(cloud).offerings(pool)}


def test_a_price_is_that_of_cores_memory_and_gpus_of_the_family(cloud: GceCloud) -> None:
    found = prices(cloud, types=("n2-standard-8", "c2-standard-4", "g2-standard-4"))
    assert found[f"n2-standard-8/{ZONE}/on-demand"] == 8 * 34_780 + 32 * 4_661
    assert found[f"c2-standard-4/{ZONE}/on-demand"] == 4 * 37_380 + 16 * 5_010
    assert found[f"g2-standard-4/{ZONE}/on-demand"] == 4 * 27_500 + 16 * 3_200 + 617_000


def test_gpus_that_a_pool_attaches_are_paid_for_too(cloud: GceCloud) -> None:
    found = prices(cloud, types=("n1-standard-4",), accelerator="nvidia-tesla-t4:2")
    assert found[f"n1-standard-4/{ZONE}/on-demand"] == 4 * 34_773 + 15 * 4_661 + 2 * 350_000


def test_a_spot_machine_is_reckoned_at_the_on_demand_price_and_comes_first_if_it_is_preferred(cloud: GceCloud) -> None:
    found = prices(cloud, purchase=("spot", "on-demand"))
    assert next(iter(found)) == f"n2-standard-2/{ZONE}/spot"
    assert set(found.values()) == {2 * 34_780 + 8 * 4_661}
    assert len(found) == 4


def test_what_the_catalog_does_not_price_has_no_price(cloud: GceCloud) -> None:
    cloud.prices = [one for one in PRICES if "L4" not in one[0]]
    found = prices(cloud, types=("g2-standard-4", "e2-micro"))
    assert set(found.values()) == {0}
    assert gpu_name("nvidia-l4") == "Nvidia L4 GPU"


def test_prices_are_kept_with_their_date_and_told_while_the_catalog_is_away(cloud: GceCloud, tmp_path: Path) -> None:
    (first,) = provider_of(cloud, folder=tmp_path).offerings(POOL)
    assert (first.price_source, first.price_as_of) == ("gce", CLOCK.now)
    assert json.loads((tmp_path / f"gce-{REGION}-USD.json").read_text())["as_of"] == CLOCK.now
    asked = cloud.faults.count("prices")
    CLOCK.now += 3_600
    (again,) = provider_of(cloud, folder=tmp_path).offerings(POOL)
    assert cloud.faults.count("prices") == asked
    CLOCK.now += 2 * 86_400
    cloud.faults.script("prices", "error")
    (old,) = provider_of(cloud, folder=tmp_path).offerings(POOL)
    assert (old.price_micro, old.price_as_of) == (first.price_micro, first.price_as_of) == (again.price_micro, again.price_as_of)


def test_without_a_catalog_there_are_offers_without_a_price(cloud: GceCloud) -> None:
    cloud.faults.script("prices", "auth")
    assert prices(cloud) == {f"n2-standard-2/europe-west1-{letter}/on-demand": 0 for letter in "bc"}


# ---------------------------------------------------------------- check


def test_check_says_what_is_wrong_with_a_pool(cloud: GceCloud) -> None:
    provider = provider_of(cloud)
    wrong = replace(POOL, types=("n2-standard-2", "z9"), zones=(ZONE, "europe-west1-z"), max=40, funding_s=60.0)
    problems = provider.check(wrong)
    assert "zone europe-west1-z is not in europe-west1" in problems
    assert "no zone of it has type z9" in problems
    assert any("`funding` is 60 s" in problem for problem in problems)
    assert any("`max` needs 80 vCPUs, and the region's quota of on-demand ones is 64" in problem for problem in problems)


def test_check_says_that_there_is_no_image(cloud: GceCloud) -> None:
    assert any("family:none" in problem for problem in provider_of(cloud).check(replace(POOL, image="family:none")))


def test_check_cannot_say_much_without_credentials(cloud: GceCloud) -> None:
    cloud.faults.script(REGION, "auth")
    with pytest.raises(ProviderError):
        provider_of(cloud).check(POOL)


# ---------------------------------------------------------------- names, settings


@pytest.mark.parametrize("text", ["coalition", "Big Studio", "größe", "a.b", "b32-x", ""])
def test_a_label_says_what_it_was_made_of(text: str) -> None:
    assert read_label(label(text)) == text


def test_names_of_the_longest_tokens_and_numbers_are_names() -> None:
    names = Names("Big Studio")
    assert names.read(names.of("a" * 32, 999_999)) == ("a" * 32, 999_999)
    assert len(names.of("a" * 32, 999_999)) <= 63
    assert Names("other").read(names.of("a" * 32, 0)) is None


def test_pools_of_one_region_are_of_one_project() -> None:
    pools = (replace(POOL, project="studio-one"), replace(POOL, name="q", project="studio-two"))
    with pytest.raises(ConfigError, match=r"several projects \(studio-one, studio-two\)"):
        make("gce", REGION, Settings(pools=pools))


def test_a_pool_whose_name_is_too_long_for_a_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="too long for a label"):
        make("gce", REGION, Settings(pools=(replace(POOL, name="A" * 64),)))


# ---------------------------------------------------------------- with the autoscaler


@pytest.fixture
def world(cloud: GceCloud, tmp_path: Path) -> Iterator[World]:
    """A farm whose machines are Google's."""
    pool = replace(POOL, max=5, funding_s=3_600.0)
    made = World(tmp_path, settings(tmp_path, [pool], [budget(amount=100.0)]))
    provider = provider_of(cloud)
    provider.clock = provider.catalog.clock = cloud.clock = made.clock
    made.scaler = Autoscaler(made.settings, made.store, {f"gce/{REGION}": provider})
    made.scaler.lease_s = 1e9
    yield made
    made.scaler.stop()
    made.store.close()
    cloud.clock = CLOCK


def test_all_of_a_machines_time_is_committed_when_it_starts_and_only_its_end_gives_back(world: World, cloud: GceCloud) -> None:
    world.submit(1)
    world.tick()
    ((id, _),) = cloud.instances.items()
    assert world.states() == ["STARTING"]
    committed = world.committed()
    assert committed >= 106_848  # an hour of it
    world.clock.wait(300)
    cloud.preempt(id)
    world.tick()
    assert world.states()[0] == "GONE"
    gone = world.store.instances(ended=True)[-1]
    assert gone["ended_at"] == world.clock.now
    assert world.reasons("terminate") == []


def test_a_lost_answer_ends_in_one_machine_that_is_paid_once(world: World, cloud: GceCloud) -> None:
    cloud.faults.script("launch", "lost_after")
    world.submit(1)
    world.tick()
    committed = world.committed()
    assert world.states() == ["INTENDED"]
    world.tick()
    assert world.states() == ["STARTING"]
    assert len(cloud.instances) == 1
    assert world.committed() == committed


def test_without_capacity_the_next_zone_is_asked_in_the_next_round(world: World, cloud: GceCloud) -> None:
    providers = world.scaler.providers
    world.reconfigure(pools=(replace(world.settings.pools[0], zones=()),))
    world.scaler.providers = providers
    cloud.faults.script("launch", "capacity")
    world.submit(1)
    world.tick(2)
    assert [id.partition("/")[0] for id in cloud.instances] == ["europe-west1-c"]
    assert cloud.faults.count("launch") == 2
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in world.store.blocks()[0].reason
