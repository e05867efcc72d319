"""Instances of EC2: boto3 over HTTP to moto's server, with the fault layer in front. Nothing is patched."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from coalition.config import PoolSettings
from providers.aws import AwsProvider
from providers.aws_sweeper import sweep
from tests.contract_faults import FaultRig, ProviderFaults
from tests.contract_provider import ProviderContract
from tests.fakes.aws_cloud import REGION, AwsCloud
from tests.polling import poll_until


@pytest.fixture(scope="module")
def cloud() -> Iterator[AwsCloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nowhere")
        with AwsCloud().running() as made:
            yield made


@pytest.fixture(scope="module")
def image(cloud: AwsCloud) -> str:
    return cloud.image()


@pytest.fixture(scope="module")
def shared(cloud: AwsCloud) -> AwsProvider:
    """Made once: the SDK takes its time to read what it knows of a service."""
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

    rig = FaultRig(
        shared, time.time, wait, pool, offer, cloud.faults, cloud.reclaim,
        lambda farm: cloud.plant({"coalition:farm": farm, "coalition:token": "x"}, pool.image),
    )  # fmt: skip
    yield rig
    assert cloud.faults.left() == {}
    cloud.reset()


class TestAwsContract(ProviderContract):
    @pytest.fixture
    def rig(self, rig: FaultRig) -> FaultRig:
        return rig


class TestAwsFaults(ProviderFaults):
    @pytest.fixture
    def rig(self, rig: FaultRig) -> FaultRig:
        return rig
