"""The Terraform modules: checked against the provider's schema, applied to moto's server, and used by the autoscaler's provider.

Where there is no terraform with its plugin for AWS (in TF_PLUGIN_DIR, or where plugins are installed), only what needs neither is
tested: the modules are parsed, and the policy is compared with the calls. `make test-terraform` applies them, too.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hcl2
import pytest

from coalition.config import PoolSettings, options_of
from providers import bootstrap
from providers.aws import AwsProvider
from providers.aws_sweeper import sweep
from providers.base import Request
from scripts import pack_sweeper
from tests.commands import coalition, document
from tests.e2e.farm import RealFarm
from tests.fakes.aws_cloud import REGION, AwsCloud
from tests.polling import poll_until

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "terraform" / "aws"
MODULES = sorted({path.parent.relative_to(ROOT / "terraform") for path in (ROOT / "terraform").rglob("*.tf")})
PLUGIN_PLACES = [os.environ.get("TF_PLUGIN_DIR", ""), "/usr/share/terraform/plugins"]
PLUGIN_PLACES += [*glob.glob("/opt/*terraform*"), *glob.glob("/opt/tf*")]
PLUGINS = next((place for place in PLUGIN_PLACES if place and list(Path(place).rglob("terraform-provider-aws*"))), "")
TERRAFORM = shutil.which("terraform") if PLUGINS else None


@functools.cache
def parsed(file: Path) -> dict[str, Any]:
    with file.open() as text:
        return dict(hcl2.load(text))  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_describes_what_it_takes_and_gives(module: Path) -> None:
    for file in (ROOT / "terraform" / module).glob("*.tf"):
        assert parsed(file)
        if "examples" not in module.parts:
            blocks = [block for kind in ("variable", "output") for block in parsed(file).get(kind, [])]
            found = [(name, one) for block in blocks for name, one in block.items() if isinstance(one, dict)]
            assert [name for name, one in found if not one.get("description")] == []


def test_the_sweepers_that_are_installed_are_those_in_the_source() -> None:
    for source, (target, _) in pack_sweeper.SWEEPERS.items():
        assert target.read_bytes() == pack_sweeper.packed(source), "python -m scripts.pack_sweeper"


# ---------------------------------------------------------------- terraform


def terraform(folder: Path, *words: str, code: int = 0, **environment: str) -> str:
    given = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", **environment}
    done = subprocess.run(
        [str(TERRAFORM), *words], cwd=folder, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-6_000:]
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules with what they take from the project, to work in."""
    top = tmp_path_factory.mktemp("terraform")
    for name in ("terraform", "deploy"):
        shutil.copytree(ROOT / name, top / name)
    return top / "terraform"


@pytest.fixture(scope="module")
def cloud() -> Iterator[AwsCloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nowhere")
        with AwsCloud().running() as made:
            yield made


# ---------------------------------------------------------------- what the policy allows

SERVICES = {"service-quotas": "servicequotas"}
CONDITIONS = {"ec2:CreateAction", "iam:PassedToService"}  # not actions
FREE = {"sts:GetCallerIdentity"}  # everybody may ask who they are


def allowed() -> set[str]:
    """The actions of `launch` in iam.tf."""
    text = (MODULE / "iam.tf").read_text()
    part = text[text.index("  launch = [") : text.index("  keep_logs = [")]
    return set(re.findall(r'"((?:ec2|iam|pricing|servicequotas|sqs|ssm):[A-Z]\w+)"', part)) - CONDITIONS


class Recording(AwsProvider):
    """Notes each call before the SDK sends it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.called: set[str] = set()
        self._noted: set[int] = set()

    def client(self, service: str, region: str = "") -> Any:
        made = super().client(service, region)
        if id(made) not in self._noted:
            self._noted.add(id(made))
            made.meta.events.register("before-parameter-build", self._note)
        return made

    def _note(self, params: Mapping[str, Any], model: Any, **_: Any) -> None:
        service = model.service_model.signing_name
        self.called.add(f"{SERVICES.get(service, service)}:{model.name}")
        if "TagSpecifications" in params:
            self.called.add("ec2:CreateTags")
        if "IamInstanceProfile" in params:
            self.called.add("iam:PassRole")


def request_of(provider: AwsProvider, pool: PoolSettings) -> Request:
    """For one machine of the first offer, with all that a pool can say."""
    now = provider.clock()
    sample = bootstrap.sample_request(pool, provider.farm, provider.offerings(pool)[0], now)
    values = {name: getattr(sample, name) for name in sample.__dataclass_fields__}
    return Request(**{**values, "token": os.urandom(16).hex(), "launch_by": now + 60, "options": options_of(pool)})


def use(provider: AwsProvider, pool: PoolSettings) -> None:
    """All that a provider can be asked for."""
    provider.check(pool)
    provider.offerings(pool)
    (one,) = provider.launch(request_of(provider, pool)).instances
    provider.renew([one.id], provider.clock() + 600)
    provider.console(one.id)
    provider.notices()
    provider.notices()
    provider.terminate([one.id])
    provider.list()


def test_the_servers_policy_allows_what_the_provider_calls_and_nothing_else(cloud: AwsCloud) -> None:
    image = cloud.image()
    sqs, ec2 = cloud.client("sqs"), cloud.client("ec2")
    queue = sqs.create_queue(QueueName="notices")["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="no notice")
    cloud.client("ssm").put_parameter(Name="/coalition/image", Value=image, Type="String")
    cloud.client("iam").create_instance_profile(InstanceProfileName="policy")
    subnet = next(one for one in ec2.describe_subnets()["Subnets"] if one["AvailabilityZone"] == "us-east-1a")
    group = ec2.create_security_group(GroupName="policy", Description="policy", VpcId=subnet["VpcId"])["GroupId"]
    pool = PoolSettings(
        "p", 1, provider="aws", region=REGION, types=("c5.large",), image="ssm:/coalition/image", max=4, notices_queue=queue,
        subnets=(subnet["SubnetId"],), security_groups=(group,), instance_profile="policy", root_volume_bytes=50 << 30,
    )  # fmt: skip
    cloud.gaps.prices.on_demand["c5.large"] = 0.1
    provider = Recording(REGION, "coalition", [queue], endpoint=cloud.url)
    use(provider, pool)
    assert provider.called - FREE == allowed()
    cloud.reset()


def test_every_call_in_the_providers_source_was_made_by_that_test(cloud: AwsCloud) -> None:
    """So that a call which is new there is new here, too."""
    text = "".join(path.read_text() for path in (ROOT / "providers").glob("aws*.py"))
    calls = set(re.findall(r'(?:client\("[\w-]+"\)|\bsqs|\bec2|pricing)\.(?!get_paginator|client)([a-z_]+)\(', text))
    calls |= set(re.findall(r'get_paginator\("([a-z_]+)"\)', text))
    names = {"".join(word.title() for word in call.split("_")) for call in calls}
    known = {action.partition(":")[2] for action in allowed() | FREE}
    assert names <= known
    assert len(names) > 12


# ---------------------------------------------------------------- with terraform itself

if TERRAFORM:

    def test_the_modules_are_formatted() -> None:
        assert terraform(ROOT / "terraform", "fmt", "-check", "-recursive") == ""

    def test_the_modules_tests_pass_and_the_examples_are_valid(copy: Path) -> None:
        terraform(copy / "aws", "init", "-backend=false", "-no-color", f"-plugin-dir={PLUGINS}")
        told = terraform(copy / "aws", "test", "-no-color")
        assert re.search(r"Success! [1-9]\d* passed, 0 failed", told)
        studio = copy / "aws/examples/studio"
        terraform(studio, "init", "-backend=false", "-no-color", f"-plugin-dir={PLUGINS}")
        assert "Success" in terraform(studio, "validate", "-no-color")


# What moto does not keep, and what a plan therefore wants to do again.
MOTO_FORGETS = {
    "aws_route53_zone.farm",
    "aws_vpc_dhcp_options.farm",
    "aws_vpc_security_group_egress_rule.worker_to_s3",
    "aws_vpc_security_group_egress_rule.worker_to_server",
    "aws_vpc_security_group_ingress_rule.server_from_worker",
}

if TERRAFORM and os.environ.get("COALITION_TEST_LONG") == "yes":  # the plugin waits for minutes until names are known everywhere
    pytestmark = pytest.mark.timeout(600)

    @pytest.fixture(scope="module")
    def applied(copy: Path, cloud: AwsCloud) -> Iterator[tuple[Path, dict[str, str]]]:
        """The smallest example, applied."""
        folder = copy / "aws/examples/minimal"
        pool = json.dumps({"types": ["c5.large"], "image": cloud.image("worker"), "max": 2})
        given = {"AWS_ENDPOINT_URL": cloud.url, "TF_VAR_region": REGION, "TF_VAR_pool": pool}
        terraform(folder, "init", "-no-color", f"-plugin-dir={PLUGINS}")
        terraform(folder, "apply", "-auto-approve", "-no-color", **given)
        yield folder, given
        terraform(folder, "destroy", "-auto-approve", "-no-color", **given)
        assert cloud.client("ec2").describe_vpcs(Filters=[{"Name": "tag:Name", "Values": ["coalition"]}])["Vpcs"] == []

    def test_what_is_applied_needs_no_change_and_its_pool_can_be_used(
        applied: tuple[Path, dict[str, str]], cloud: AwsCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, given = applied
        planned = terraform(folder, "plan", "-no-color", **given)
        assert set(re.findall(r"# module\.farm\.(\S+) will be", planned)) <= MOTO_FORGETS
        assert "0 to add" in planned
        assert "0 to destroy" in planned
        cloud.gaps.prices.on_demand["c5.large"] = 0.1
        cloud.gaps.prices.spot = {("c5.large", f"{REGION}{zone}"): 0.05 for zone in "ab"}
        monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.url)
        farm = RealFarm(tmp_path)
        server = f"[server]\nlisten = 127.0.0.1:{farm.port}\nurl = https://farm.example.com\ndata_dir = {tmp_path / 'data'}\n"
        farm.ini.write_text(f"{server}{terraform(folder, 'output', '-raw', 'cloud_ini', **given)}")
        told = document("cloud", "check", "--config", str(farm.ini))["pools"][0]
        assert (told["problems"], len(told["offers"]) > 0) == ([], True)
        process = farm.serve()
        try:
            coalition("--server", farm.address, "cloud", "launch", "--pool", "render", "--count", "1")
            (one,) = poll_until(lambda: machines(cloud), 60, lambda: farm.log_of("server"))
            assert cloud.client("ec2").describe_vpcs(VpcIds=[one["VpcId"]])["Vpcs"][0]["CidrBlock"] == "10.64.0.0/16"
        finally:
            farm.kill(process)
        assert sweep(cloud.client("ec2"), "coalition", time.time() + 100_000) == [one["InstanceId"]]
        poll_until(lambda: not machines(cloud))

    def machines(cloud: AwsCloud) -> list[dict[str, Any]]:
        """What lives of the farm."""
        asked = [{"Name": "tag:coalition:farm", "Values": ["coalition"]}, {"Name": "instance-state-name", "Values": ["running"]}]
        found = cloud.client("ec2").describe_instances(Filters=asked)["Reservations"]
        return [one for group in found for one in group["Instances"]]
