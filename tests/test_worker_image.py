"""The worker's image: provisioning is run in a copy of this machine's files, with stand-ins for what only an image has."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.ec2.models import ec2_backends

from coalition.config import PoolSettings
from providers.base import Offering
from providers.bootstrap import sample_request, user_data
from scripts import packages
from tests.box import Box
from tests.commands import coalition
from tests.fakes.aws_cloud import REGION, aws_here
from tests.wheels import worker_wheels
from worker_image import build_image

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ROOT / "worker_image"
WORK = "/srv/worker_image"
APT = """#!/bin/sh
echo "$*" >>/srv/apt.log
touch /lib/systemd/system/chrony.service
printf '[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n' >/lib/systemd/system/chrony.service
"""
HOOK = "#!/bin/sh\necho renderer >>/srv/hooks.log\n"


def needs(*names: str) -> None:
    if why := packages.ensure(names):
        pytest.skip(why)


# ---------------------------------------------------------------- provisioning


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A machine on which provision.sh was run once."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a copy of a machine")
    needs("systemd")
    made = Box(tmp_path_factory.mktemp("box"))
    try:
        shutil.copytree(IMAGE, made.root / WORK[1:])
        worker_wheels(made.root / "srv" / "wheels")
        made.write("/usr/local/sbin/apt-get", APT, 0o755)
        made.write("/usr/local/bin/cloud-init", "#!/bin/sh\n", 0o755)
        made.write("/etc/coalition/image.d/10-renderer", HOOK, 0o755)
        made.write("/etc/coalition/image.d/README", "not a step\n")
        made.write("/etc/coalition/worker.env", "COALITION_TOKEN=of-the-builder\n", 0o600)
        made.write("/etc/ssh/ssh_host_rsa_key", "the same key on all machines\n", 0o600)
        reachable = [path for path in Path(python()).parents if path != Path("/")]
        made.run("chmod", "a+rx", *map(str, reachable))
        provision(made)
        yield made
    finally:
        made.close()


def python() -> str:
    return str(Path(sys.base_prefix, "bin", "python3").resolve())


def provision(box: Box, *steps: str, code: int = 0, **environment: str) -> str:
    (wheel,) = (box.root / "srv/wheels").glob("coalition-*.whl")
    given = {"WHEEL": f"/srv/wheels/{wheel.name}", "PYTHON": python(), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/srv/wheels"}
    given["PIP_NO_COMPILE"] = "1"  # takes the most time
    return box.run(f"{WORK}/provision.sh", *steps, code=code, **{**given, **environment})


def test_the_worker_is_there_and_its_user_has_no_login(box: Box) -> None:
    assert box.run("/opt/coalition/bin/coalition", "--version").strip()
    user = box.run("getent", "passwd", "coalition").strip().split(":")
    assert (user[5], user[6]) == ("/var/lib/coalition", "/usr/sbin/nologin")
    assert (box.root / "var/lib/coalition").stat().st_uid == int(user[2])


def test_the_systems_python_knows_nothing_of_the_worker(box: Box) -> None:
    box.run(python(), "-c", "import coalition", code=1)


def test_its_units_are_good_and_start_with_the_machine(box: Box) -> None:
    units = [f"/etc/systemd/system/{path.name}" for path in (IMAGE / "files").iterdir() if path.suffix in (".service", ".timer")]
    assert len(units) == 3
    assert box.run("systemd-analyze", "verify", "--man=no", *units) == ""
    wants = box.root / "etc/systemd/system"
    assert (wants / "multi-user.target.wants/coalition-site-worker.service").is_symlink()
    assert (wants / "timers.target.wants/coalition-dead-man.timer").is_symlink()


def test_the_unit_exposes_little(box: Box) -> None:
    unit = "/etc/systemd/system/coalition-site-worker.service"
    told = box.run("systemd-analyze", "security", "--offline=true", "--threshold=30", unit)
    assert "Overall exposure level" in told


def test_what_would_be_the_same_on_all_machines_is_not_in_the_image(box: Box) -> None:
    assert not (box.root / "etc/ssh/ssh_host_rsa_key").exists()
    assert not (box.root / "etc/coalition/worker.env").exists()
    assert (box.root / "etc/machine-id").read_text() == ""


def test_cloud_init_looks_only_where_it_was_told(box: Box) -> None:
    provision(box, "cloud_init", DATASOURCES="NoCloud, None")
    assert (box.root / "etc/cloud/cloud.cfg.d/90-coalition.cfg").read_text() == "datasource_list: [NoCloud, None]\n"


def state(box: Box) -> dict[str, tuple[int, int]]:
    """Of what provisioning wrote: mode and time of change."""
    folders = ("opt/coalition", "etc/systemd", "etc/coalition")
    files = [path for folder in folders for path in (box.root / folder).rglob("*") if "__pycache__" not in path.parts]
    return {str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in files if path.is_file()}


def test_a_second_run_changes_nothing_and_runs_the_hooks_again(box: Box) -> None:
    before, hooked = state(box), (box.root / "srv/hooks.log").read_text()
    provision(box)
    assert state(box) == before
    assert len(before) > 100
    assert (box.root / "srv/hooks.log").read_text() == hooked + "renderer\n"


def test_a_hook_that_fails_is_named_and_ends_it(box: Box) -> None:
    box.write("/etc/coalition/image.d/20-broken", "#!/bin/sh\nexit 7\n", 0o755)
    try:
        told = provision(box, "hooks", "clean", code=1)
    finally:
        (box.root / "etc/coalition/image.d/20-broken").unlink()
    assert "20-broken failed" in told
    assert "provision: clean" not in told


def test_a_mount_helper_that_is_not_what_was_expected_is_not_installed(box: Box) -> None:
    box.write("/usr/local/bin/curl", '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho evil >"$2"\n', 0o755)
    words = {"MOUNT_S3": "https://example.com/mount-s3.deb"}
    assert "no checksum is given" in provision(box, "mount_helpers", code=1, **words)
    installed = (box.root / "srv/apt.log").read_text()
    assert "is not what was expected" in provision(box, "mount_helpers", code=1, MOUNT_S3_SHA256="0" * 64, **words)
    assert (box.root / "srv/apt.log").read_text() == installed


def test_steps_that_are_not_known_and_a_missing_wheel_are_told(box: Box) -> None:
    assert "the steps are: packages user worker" in provision(box, "uesr", code=1)
    assert "WHEEL must name the worker's wheel" in provision(box, "worker", code=1, WHEEL="/nowhere.whl")


# ---------------------------------------------------------------- the dead man


def dead_man(root: Path, uptime: str, deadline: str | None, *, cloud: bool = False) -> bool:
    """Whether it switched off."""
    for folder in ("proc", "run/coalition", "etc/coalition", "bin"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "proc/uptime").write_text(f"{uptime} 1.00\n")
    if deadline is not None:
        (root / "run/coalition/deadline").write_text(deadline)
    if cloud:
        (root / "etc/coalition/cloud").touch()
    (root / "bin/poweroff").write_text(f"#!/bin/sh\ntouch {root}/off\n")
    (root / "bin/poweroff").chmod(0o755)
    path = f"{root}/bin:{os.environ['PATH']}"
    subprocess.run([IMAGE / "files/dead-man"], env={"PATH": path, "ROOT": str(root)}, check=True, capture_output=True)
    return (root / "off").exists()


@pytest.mark.parametrize(
    ("uptime", "deadline", "cloud", "off"),
    [
        ("99.99", "100\n", False, False),
        ("100.00", "100\n", False, True),
        ("100.00", "100.75\n", False, True),
        ("10.00", "", False, True),
        ("10.00", "soon\n", False, True),
        ("1799.00", None, True, False),
        ("1800.00", None, True, True),
        ("999999.00", None, False, False),
    ],
)  # fmt: skip
def test_the_dead_man_ends_what_is_not_paid_for(
    tmp_path: Path, uptime: str, deadline: str | None, cloud: bool, off: bool
) -> None:
    assert dead_man(tmp_path, uptime, deadline, cloud=cloud) is off


# ---------------------------------------------------------------- builders


@pytest.mark.parametrize("script", ["provision.sh", "files/dead-man"])
def test_scripts_are_good_shell(script: str) -> None:
    needs("shellcheck")
    checked = subprocess.run(["shellcheck", IMAGE / script], capture_output=True, text=True, check=False)
    assert checked.stdout == ""


PACKER = {"aws": [], "gce": ["-var", "project_id=studio"]}


@pytest.mark.parametrize("cloud", PACKER)
def test_packers_templates_are_valid_with_their_defaults_and_without(cloud: str, tmp_path: Path) -> None:
    needs("packer")
    wheel = tmp_path / "coalition-1-py3-none-any.whl"
    wheel.touch()
    own = {"aws": ["-var", "source_ami=ami-1", "-var", "spot_types=[]"], "gce": ["-var", "source_image=base-1"]}
    for more in ([], own[cloud], ["-var", f"hooks={tmp_path}"]):
        words = ["-var", f"wheel={wheel}", "-var", "version=1.2.3", *PACKER[cloud], *more, IMAGE / f"packer/{cloud}.pkr.hcl"]
        done = subprocess.run(["packer", "validate", *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_packer_builds_an_encrypted_image_with_version_and_date_by_the_template_for_aws(tmp_path: Path) -> None:
    """Against moto, whose machines run nothing: so without the steps on the machine, which are provision.sh."""
    needs("packer")
    text = (IMAGE / "packer/aws.pkr.hcl").read_text()
    template = tmp_path / "aws.pkr.hcl"
    template.write_text(text[: text.index('  provisioner "shell"')] + "}\n")
    with aws_here() as cloud:
        base = cloud.image("base")
        ec2_backends[ACCOUNT][REGION].amis[base].root_device_type = "ebs"
        given = {"wheel": "w.whl", "version": "1.2.3", "endpoint": cloud.url, "communicator": "none", "region": REGION}
        given |= {"source_ami": base, "spot_types": "[]", "instance_type": "c5.large"}
        words = [word for name, value in given.items() for word in ("-var", f"{name}={value}")]
        environment = {**os.environ, "CHECKPOINT_DISABLE": "1", "AWS_POLL_DELAY_SECONDS": "1", "HOME": str(tmp_path)}
        command = ["packer", "build", "-color=false", *words, str(template)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout[-3_000:]
        images = cloud.client("ec2").describe_images(Owners=["self"])["Images"]
        (made,) = (one for one in images if one["ImageId"] != base)
        tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
        assert made["Name"] == f"coalition-worker-1.2.3-{tags['date']}"
        assert (tags["role"], tags["version"], tags["Name"]) == ("coalition-worker", "1.2.3", "coalition-worker-1.2.3")
        machines = cloud.client("ec2").describe_instances()["Reservations"]
        assert [one["State"]["Name"] for group in machines for one in group["Instances"]] == ["terminated"]


def test_packers_templates_are_formatted() -> None:
    needs("packer")
    done = subprocess.run(["packer", "fmt", "-check", IMAGE / "packer"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_grub_is_told_where_it_lies_on_the_disk() -> None:
    first, core = build_image.boot_code(bytes(512), b"\1" * 1_300)
    assert struct.unpack("<Q", first[0x5C:0x64]) == (build_image.BOOT_AT,)
    assert struct.unpack("<QHH", core[0x1F4:0x200]) == (build_image.BOOT_AT + 1, 2, 0x820)
    assert (len(first), len(core)) == (440, 3 * build_image.SECTOR)
    with pytest.raises(build_image.Failed, match="does not fit"):
        build_image.boot_code(bytes(512), bytes((build_image.BOOT_SECTORS + 1) * 512))


def test_the_newest_kernel_is_started(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    with pytest.raises(build_image.Failed, match="no kernel"):
        build_image.grub_config(tmp_path)
    for age, version in enumerate(["6.1.0-9", "6.1.0-10"]):
        (tmp_path / f"boot/vmlinuz-{version}").touch()
        os.utime(tmp_path / f"boot/vmlinuz-{version}", (age, age))
    assert re.findall(r"6\.1\.0-\d+", build_image.grub_config(tmp_path)) == ["6.1.0-10", "6.1.0-10"]


def test_a_tool_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert build_image.main(["--wheel", "w", "--output", "worker.qcow2"]) == 1
    assert "needs debootstrap, mkfs.ext4, sfdisk, chroot, qemu-img" in capsys.readouterr().err


def test_user_data_is_what_cloud_init_takes(tmp_path: Path) -> None:
    needs("cloud-init")
    pool = PoolSettings("p", 1, provider="aws", affinity=("linux",), max=1)
    text = user_data(sample_request(pool, "coalition", Offering("m", "m", slots=1), 1_000.0))
    (tmp_path / "user-data").write_text(text)
    words = ["cloud-init", "schema", "--config-file", tmp_path / "user-data"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Valid cloud-config" in done.stdout


# ---------------------------------------------------------------- self-test


def test_the_self_test_says_what_the_machine_is_and_that_it_can_run_commands(tmp_path: Path) -> None:
    told = coalition("worker", "--self-test", "--state-dir", str(tmp_path / "state"), "--affinity", "linux,big").stdout
    assert re.findall(r"^good: (\w+)", told, re.MULTILINE) == ["machine", "options", "clock", "state", "run"]
    assert "tags linux,big" in told or "tags big,linux" in told
    assert list((tmp_path / "state").iterdir()) == []


def test_the_self_test_says_what_is_bad_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = coalition("worker", "--self-test", "--state-dir", str(tmp_path / "file"), "--slots", "many", code=1).stdout
    assert re.findall(r"^BAD:  (\w+)", told, re.MULTILINE) == ["options", "state", "run"]
