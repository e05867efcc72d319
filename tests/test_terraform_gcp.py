"""The Terraform module for Google, without Google's plugin: its arguments are held against what an npm package declares of them
(scripts/google_schema.py), its roles against the calls of providers/gce.py, and what it puts out is read and used.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
from google.auth.credentials import AnonymousCredentials

from coalition import config
from coalition.config import PoolSettings, options_of
from providers import bootstrap, gce_sweeper
from providers.base import Request
from providers.gce import GceProvider
from providers.gce_order import UNTIL
from providers.names import Names
from scripts import packages
from tests.fakes.gce_server import PROJECT, REGION, GceCloud

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "terraform" / "gcp"
FILES = sorted(MODULE.glob("*.tf"))
TERRAFORM = shutil.which("terraform")
SCHEMA = json.loads((ROOT / "tests" / "google_schema.json").read_text())
META = {"for_each", "count", "depends_on", "lifecycle", "provider", "provisioner", "connection"}
NOTES = {"__is_block__", "__comments__"}
WORKER = "coalition-worker@studio.iam.gserviceaccount.com"


@cache
def blocks() -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
    """(kind and type, name, content) of each resource and data."""
    found = []
    for file in FILES:
        with file.open() as text:
            parsed = hcl2.load(text)  # type: ignore[attr-defined]
        for kind in ("resource", "data"):
            for block in parsed.get(kind, []):
                ((type, named),) = ((key, one) for key, one in block.items() if key not in NOTES)
                ((name, body),) = ((key, one) for key, one in named.items() if key not in NOTES)
                found.append((f"{kind} {type.strip(chr(34))}", name.strip('"'), body))
    return tuple(found)


def arguments(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is given, with what `dynamic` blocks stand for."""
    for name, value in body.items():
        if name == "dynamic":
            for one in value:
                yield from ((kind.strip('"'), made["content"]) for kind, made in one.items() if kind not in NOTES)
        elif name not in NOTES:
            yield name, value


def wrong(body: Mapping[str, Any], takes: Mapping[str, Any], place: str) -> Iterator[str]:
    """What the provider would refuse of a block."""
    given = dict(arguments(body))
    yield from (f"{place} needs {name}" for name, (needed, _) in takes.items() if needed and name not in given)
    for name, value in given.items():
        if name in META and name not in takes:
            continue
        if name not in takes:
            yield f"{place} has no {name}"
            continue
        inner = takes[name][1]
        is_block = isinstance(value, list) and any(isinstance(one, dict) and "__is_block__" in one for one in value)
        if is_block != (inner is not None):
            yield f"{place}.{name} is {'no block' if is_block else 'a block'}"
        elif inner is not None:
            for one in value:
                yield from wrong(one, inner, f"{place}.{name}")


def test_every_argument_is_one_that_googles_provider_takes_and_none_that_it_needs_is_missing() -> None:
    assert len(blocks()) > 35
    assert [words for kind, name, body in blocks() for words in wrong(body, SCHEMA[kind]["takes"], f"{kind}.{name}")] == []


def test_an_argument_that_is_wrong_is_found() -> None:
    takes = SCHEMA["resource google_compute_firewall"]["takes"]
    body = {"name": '"x"', "netwrk": '"y"', "allow": [{"ports": [], "__is_block__": True}], "deny": '"all"'}
    told = list(wrong(body, takes, "f"))
    assert told == ["f needs network", "f has no netwrk", "f.allow needs protocol", "f.deny is a block"]


def test_what_is_read_of_a_resource_is_there_to_be_read() -> None:
    known = {(kind.partition(" ")[2], name): kind for kind, name, _ in blocks()}
    text = "".join(file.read_text() for file in FILES)
    found = re.findall(r'\b(data\.)?(google_\w+)\.(\w+)((?:\[[\w".]+\])?)\.(\w+)', text)
    assert len(found) > 40
    for _, type, name, _, attribute in found:
        schema = SCHEMA[known[type, name]]
        assert attribute in schema["takes"] or attribute in schema["tells"], (type, name, attribute)
    loops = re.findall(r"for one in (google_\w+)\.(\w+) : one\.(\w+)", text)
    for type, name, attribute in loops:
        schema = SCHEMA[known[type, name]]
        assert attribute in schema["takes"] or attribute in schema["tells"], (type, name, attribute)


def test_variables_locals_and_resources_that_are_named_are_there_and_each_is_used() -> None:
    text = "".join(file.read_text() for file in FILES)
    variables = set(re.findall(r'^variable "(\w+)"', text, re.MULTILINE))
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    local = {name for part in re.findall(r"^locals \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL) for name in _keys(part)}
    assert set(re.findall(r"\blocal\.(\w+)", text)) == local
    for example in ("minimal", "studio"):
        given = (MODULE / "examples" / example / "main.tf").read_text()
        (module,) = re.findall(r'^module "farm" \{\n(.*?)^\}', given, re.MULTILINE | re.DOTALL)
        assert set(_keys(module)) - {"source"} <= variables
        assert {"project", "zones"} <= set(_keys(module))


def _keys(part: str) -> list[str]:
    return re.findall(r"^  (\w+) *= ", part, re.MULTILINE)


def test_workers_have_no_public_address_and_nobody_may_call_them() -> None:
    rules = {name: body for kind, name, body in blocks() if kind == "resource google_compute_firewall"}
    worker, server = "google_service_account.worker.email", "google_service_account.server.email"
    for body in rules.values():
        assert body["target_service_accounts"] == [f"${{{worker if 'EGRESS' in body['direction'] else server}}}"]
    assert rules["worker_nowhere_else"]["deny"][0]["protocol"] == '"all"'
    assert all(body["priority"] < rules["worker_nowhere_else"]["priority"] for name, body in rules.items() if name in WAYS_OUT)
    assert "public_address" not in (MODULE / "outputs.tf").read_text()


WAYS_OUT = ("worker_to_server", "worker_out")


def test_each_exception_from_a_check_says_why() -> None:
    for file in (ROOT / "terraform").rglob("*.tf"):
        for line in file.read_text().splitlines():
            if "checkov:skip" in line:
                assert re.search(r"#checkov:skip=CKV2?_(?:AWS|GCP)_\d+:\S.{15,}$", line), (file, line)


# ---------------------------------------------------------------- what the roles allow


def role(name: str) -> set[str]:
    text = "".join(file.read_text() for file in FILES)
    (found,) = re.findall(rf"^  {name} += \[([^\]]*)\]", text, re.MULTILINE)
    return set(re.findall(r'"([\w.]+)"', found))


# Method and path -> the permission that Google's reference of compute v1 names for it.
NEEDS = [
    (r"GET .*/regions/[^/]+", "compute.regions.get"),
    (r"GET .*/zones/[^/]+/machineTypes", "compute.machineTypes.list"),
    (r"GET .*/global/images/family/[^/]+", "compute.images.getFromFamily"),
    (r"GET .*/global/images/[^/]+", "compute.images.get"),
    (r"GET .*/(zones/[^/]+|aggregated)/instances", "compute.instances.list"),
    (r"GET .*/aggregated/operations", "compute.globalOperations.list"),
    (r"POST .*/operations/[^/]+/wait", "compute.zoneOperations.get"),
    (r"POST .*/instances(/bulkInsert)?", "compute.instances.create"),
    (r"DELETE .*/instances/[^/]+", "compute.instances.delete"),
    (r"GET .*/serialPort", "compute.instances.getSerialPortOutput"),
    (r"GET /v1/services/.*/skus", ""),  # prices are for everybody
]


def needed(method: str, path: str, body: bytes) -> set[str]:
    (first, *_) = (permission for pattern, permission in NEEDS if re.fullmatch(pattern, f"{method} {path}"))
    found = {first} - {""}
    if first == "compute.instances.create":
        sent = json.loads(body)
        found |= for_a_machine(sent.get("instanceProperties", sent))
    return found


def for_a_machine(sent: Mapping[str, Any]) -> set[str]:
    """What it takes to start one, by the fields that are set."""
    parts = {
        "labels": {"compute.instances.setLabels"},
        "metadata": {"compute.instances.setMetadata"},
        "tags": {"compute.instances.setTags"},
        "serviceAccounts": {"compute.instances.setServiceAccount", "iam.serviceAccounts.actAs"},
        "disks": {"compute.disks.create", "compute.images.useReadOnly"},
        "networkInterfaces": {"compute.subnetworks.use"},
        "scheduling": set(),
        "machineType": set(),
        "name": set(),
    }
    assert set(sent) <= set(parts), "what it takes to set this is not known here"
    (network,) = sent["networkInterfaces"]
    assert set(network) == {"subnetwork"}
    return {permission for field in sent for permission in parts[field]}


@pytest.fixture(scope="module")
def served() -> Iterator[GceCloud]:
    with GceCloud().running() as made:
        yield made


@pytest.fixture
def cloud(served: GceCloud) -> GceCloud:
    served.reset()
    return served


@pytest.fixture
def methods(cloud: GceCloud, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bytes]]:
    """Each call that comes: method, path, body."""
    seen: list[tuple[str, str, bytes]] = []
    inner = cloud.faults.dialect.verb

    def noted(environ: dict[str, Any], body: bytes) -> str:
        seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], body))
        return inner(environ, body)

    monkeypatch.setattr(cloud.faults.dialect, "verb", noted)
    return seen


def provider_at(cloud: GceCloud, farm: str) -> GceProvider:
    nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
    return GceProvider(REGION, farm, PROJECT, endpoint=cloud.url, billing=cloud.url, credentials=nobody)


def request_of(provider: GceProvider, pool: PoolSettings, count: int = 1) -> Request:
    now = provider.clock()
    sample = bootstrap.sample_request(pool, provider.farm, provider.offerings(pool)[0], now)
    values = {name: getattr(sample, name) for name in sample.__dataclass_fields__}
    more = {"token": f"t{time.monotonic_ns():x}", "launch_by": now + 60, "options": options_of(pool), "count": count}
    return Request(**{**values, **more})


def use(provider: GceProvider, pool: PoolSettings) -> None:
    """All that a provider can be asked for."""
    assert list(provider.check(pool)) == []
    ids = [one.id for count in (1, 2) for one in provider.launch(request_of(provider, pool, count)).instances]
    provider.renew(ids, provider.clock() + 600)
    provider.console(ids[0])
    provider.notices()
    provider.terminate(ids)
    provider.list()


def written(tmp_path: Path) -> str:
    """cloud_ini as Terraform itself makes it of the module's variables, without the provider."""
    text = (MODULE / "outputs.tf").read_text()
    (output,) = re.findall(r'^output "cloud_ini" \{.*?^\}', text, re.MULTILINE | re.DOTALL)
    (tmp_path / "outputs.tf").write_text(output.replace("google_service_account.worker.email", f'"{WORKER}"', 1))
    shutil.copy(MODULE / "variables.tf", tmp_path)
    pool = json.dumps({"types": ["n2-standard-2"], "image": "family:worker", "max": 4})
    given = ["-var", f"project={PROJECT}", "-var", 'zones=["europe-west1-b","europe-west1-c"]', "-var", f"pool={pool}"]
    told(tmp_path, "apply", "-auto-approve", "-no-color", *given)
    return told(tmp_path, "output", "-raw", "cloud_ini")


def told(folder: Path, *words: str, given: str = "") -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "CHECKPOINT_DISABLE": "1", "TF_CLI_CONFIG_FILE": "/dev/null"}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 100, "check": False}
    done = subprocess.run([str(TERRAFORM), *words], cwd=folder, input=given, env=environment, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SNIPPET = f"""[pool render]
provider = gce
project = {PROJECT}
region = {REGION}
zones = europe-west1-b, europe-west1-c
types = n2-standard-2
image = family:worker
affinity = linux
subnetwork = coalition-worker-{{zone}}
service_account = {WORKER}
funding = 8h
max = 4
"""


def test_the_roles_allow_what_the_provider_calls_and_nothing_else(cloud: GceCloud, methods: list[tuple[str, str, bytes]]) -> None:
    (pool,) = config.parse(SNIPPET).pools
    named = next(one for one in config.parse(SNIPPET.replace("family:worker", "worker-1")).pools)
    provider = provider_at(cloud, "coalition")
    use(provider, pool)
    provider.offerings(named)
    called = {permission for method, path, body in methods for permission in needed(method, path, body)}
    allowed = role("look") | role("own") | role("join") | role("give")
    assert called == allowed
    networks = {one["networkInterfaces"][0]["subnetwork"] for one in cloud.sent[:1]}
    assert networks == {f"regions/{REGION}/subnetworks/coalition-worker-europe-west1-b"}


def test_rights_on_machines_end_with_this_farms_names() -> None:
    text = (MODULE / "iam.tf").read_text()
    assert 'prefix = "coalition-${substr(sha256(var.farm), 0, 6)}-"' in text
    assert 'resource.name.extract(\\"/instances/{name}\\").startsWith(\\"${local.prefix}\\")' in text
    members = {name: body for kind, name, body in blocks() if kind == "resource google_project_iam_member"}
    assert {name for name, body in members.items() if "condition" in body} == {"own", "sweep_end"}
    assert {permission.split(".")[1] for permission in role("own") | role("sweep_end")} == {"instances"}
    assert Names("studio").of("t", 0).startswith("coalition-da0daa-")


# ---------------------------------------------------------------- the sweeper


def machines(cloud: GceCloud, now: float) -> dict[str, str]:
    """Some of this farm's and another's; {name: coalition-until}."""
    until = {"paid": f"{now + 60:.0f}", "overdue": f"{now - 1:.0f}", "unreadable": "soon", "others": f"{now - 1:.0f}"}
    for name, text in until.items():
        labels = {"coalition-farm": "other" if name == "others" else "coalition", UNTIL: text}
        cloud._add("europe-west1-c", {"name": name, "machineType": "zones/x/machineTypes/n2-standard-2", "labels": labels})
    return until


def test_the_sweeper_ends_what_is_not_paid_for_and_what_nobody_speaks_for(
    cloud: GceCloud, methods: list[tuple[str, str, bytes]]
) -> None:
    now = time.time()
    machines(cloud, now)
    cloud.page = 2
    call = gce_sweeper.calling(cloud.url, "t")
    assert gce_sweeper.sweep(call, PROJECT, "coalition", now) == ["europe-west1-c/overdue"]
    assert gce_sweeper.sweep(call, PROJECT, "coalition", now + 4_000) == ["europe-west1-c/paid", "europe-west1-c/unreadable"]
    cloud.settle()
    assert list(cloud.instances) == ["europe-west1-c/others"]
    called = {permission for method, path, body in methods for permission in needed(method, path, body)}
    assert called == role("sweep_look") | role("sweep_end")


def test_what_the_sweeper_cannot_end_or_ask_keeps_no_other_from_it_and_is_told(cloud: GceCloud) -> None:
    now = time.time()
    machines(cloud, now)
    cloud.unreachable = ["zones/europe-west1-b"]
    cloud.faults.script("terminate", "error")
    with pytest.raises(RuntimeError, match="europe-west1-b could not be reached; europe-west1-c/paid: HTTP Error 500"):
        gce_sweeper.sweep(gce_sweeper.calling(cloud.url, "t"), PROJECT, "coalition", now + 4_000)
    cloud.settle()
    assert sorted(cloud.instances) == ["europe-west1-c/others", "europe-west1-c/paid"]


def test_one_that_is_gone_meanwhile_is_no_failure_of_the_sweeper() -> None:
    one = {"name": "x", "labels": {"coalition-farm": "coalition", UNTIL: "1"}}

    def call(method: str, path: str) -> Mapping[str, Any]:
        if method == "DELETE":
            raise urllib.error.HTTPError(path, 404, "Not Found", {}, None)  # type: ignore[arg-type]
        return {"items": {"zones/a-b": {"instances": [one]}}}

    assert gce_sweeper.sweep(call, "p", "coalition", 2.0) == ["a-b/x"]


# ---------------------------------------------------------------- with terraform itself

if TERRAFORM:

    def test_the_pool_that_it_puts_out_can_be_used_as_it_is(tmp_path: Path, cloud: GceCloud) -> None:
        snippet = written(tmp_path)
        assert config.parse(snippet) == config.parse(f"# for [server] farm = coalition\n{SNIPPET}")
        (pool,) = config.parse(snippet).pools
        use(provider_at(cloud, "coalition"), pool)
        assert len(cloud.sent) == 2

    def test_the_servers_script_is_good_shell_and_holds_its_unit(tmp_path: Path) -> None:
        if why := packages.ensure(["shellcheck"]):
            pytest.skip(why)
        shutil.copy(MODULE / "server.sh", tmp_path)
        ask = 'base64encode(templatefile("server.sh", {source = "gs://b/assets/c.whl", unit = base64encode("[Unit]")}))\n'
        made = told(tmp_path, "console", given=ask).strip().strip('"')
        script = subprocess.run(["base64", "-d"], input=made, capture_output=True, text=True, check=True).stdout
        checked = subprocess.run(["shellcheck", "-"], input=script, capture_output=True, text=True, check=False)
        assert checked.stdout == ""
        assert "echo 'W1VuaXRd' | base64 -d >/etc/systemd/system/coalition.service" in script
        assert "gcloud storage cp" in script

    def test_the_names_that_the_roles_allow_are_those_that_machines_get(tmp_path: Path) -> None:
        for farm in ("coalition", "studio"):
            assert told(tmp_path, "console", given=f'substr(sha256("{farm}"), 0, 6)\n').strip().strip('"') in Names(farm).prefix
