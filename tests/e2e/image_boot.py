"""The worker's image, built from Debian's packages and booted in qemu on a bridge with the server. Minutes: `make test-image`.

Needs root, network namespaces, debootstrap and qemu, which no hardware has to help. COALITION_IMAGE names an image that is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coalition.client import Client
from coalition.errors import ServerUnreachable, Unavailable
from tests.e2e.lan import SWITCH, Lan, hindrance
from tests.polling import poll_until
from tests.wheels import worker_wheels
from worker_image import build_image

ROOT = Path(__file__).resolve().parent.parent.parent
BOOT_S, END_S = 2_400.0, 600.0  # without KVM, on a machine that does other things, too
REFUSED = re.compile("does not know this token|does not accept this worker")
ADDRESS = "http://10.77.10.2:19211"
pytestmark = [pytest.mark.timeout(3_600)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The qcow2, as build_image.py makes it; the wheels that it needs are those installed here."""
    if given := os.environ.get("COALITION_IMAGE"):
        return Path(given)
    folder = tmp_path_factory.mktemp("image")
    wheel = worker_wheels(folder / "wheels")
    words = ["--wheel", str(wheel), "--wheels", str(folder / "wheels"), "--output", str(folder / "worker.qcow2"), "--size", "3"]
    begun = time.monotonic()
    assert build_image.main([*words, "--work", str(folder)]) == 0
    print(f"image: built in {time.monotonic() - begun:.0f} s", file=sys.__stderr__)
    return folder / "worker.qcow2"


class Farm:
    """A server on a VLAN whose router gives addresses, and no name to find it by."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lan = folder, Lan(folder)
        self.lan.machine("server", 10, 2)
        self.lan.tap("guest", 10)
        self.lan.give_addresses(10)
        ini = folder / "cloud.ini"
        ini.write_text(f"[server]\nfarm = image\nlisten = 0.0.0.0:19211\ndata_dir = {folder / 'data'}\n[auth]\nmode = token\n")
        self.lan.coalition("server", "serve", "--config", str(ini))

    def client(self) -> Client:
        token = poll_until(self._token, 60, lambda: self.lan.log_of("server"))
        made = Client("http://127.0.0.1:19211", token)
        poll_until(lambda: self._answers(made), 60, lambda: self.lan.log_of("server"))
        return made

    def _token(self) -> str:
        file = self.folder / "data/admin.token"
        return file.read_text().strip() if file.exists() else ""

    def _answers(self, client: Client) -> bool:
        try:
            return bool(client.info())
        except (ServerUnreachable, Unavailable):
            return False


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, image: Path) -> Iterator[Farm]:
    """The farm, in whose network the tests run: the image comes first, as its packages come from elsewhere."""
    assert hindrance() is None, hindrance()
    made = Farm(tmp_path_factory.mktemp("farm"))
    try:
        with made.lan.inside("server"):
            yield made
    finally:
        made.lan.close()


class Guest:
    """A machine that boots a copy of the image; `said` is what came over its serial line."""

    def __init__(self, farm: Farm, image: Path, name: str, token: str) -> None:
        self.folder = farm.folder / name
        seed = self.folder / "seed"
        seed.mkdir(parents=True)
        (seed / "meta-data").write_text(f"instance-id: {name}\nlocal-hostname: {name}\n")
        (seed / "user-data").write_text(user_data(token))
        self._socket = self.folder / "qmp"
        disk = f"if=virtio,format=qcow2,snapshot=on,file={image}"
        seeds = f"if=virtio,format=raw,read-only=on,file.driver=vvfat,file.label=cidata,file.dir={seed}"
        words = ["-machine", "pc,accel=tcg", "-cpu", "qemu64", "-smp", "2", "-m", "1024", "-display", "none", "-no-reboot"]
        words += ["-nodefaults", "-no-user-config"]
        words += ["-drive", disk, "-drive", seeds, "-serial", f"file:{self.folder / 'serial'}"]
        words += ["-netdev", "tap,id=lan,ifname=guest,script=no,downscript=no", "-device", "virtio-net-pci,netdev=lan"]
        words += ["-qmp", f"unix:{self._socket},server=on,wait=off"]
        self.process = farm.lan.start(SWITCH, "qemu-system-x86_64", *words)
        self.begun = time.monotonic()

    @property
    def said(self) -> str:
        file = self.folder / "serial"
        return file.read_text(errors="replace") if file.exists() else ""

    def press_power(self) -> None:
        """What a host does to end a machine politely."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(60)
            line.connect(str(self._socket))
            with line.makefile("rw") as words:
                words.readline()
                for command in ("qmp_capabilities", "system_powerdown"):
                    words.write(json.dumps({"execute": command}) + "\n")
                    words.flush()
                    while "return" not in (answer := words.readline()):
                        assert "event" in answer  # as that it was pressed

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=30)


def user_data(token: str) -> str:
    """What a machine of a cloud without a provider of ours is told: a token, and what it may run. No server's address."""
    env = f"COALITION_TOKEN={token}\nCOALITION_WORKER_OPTIONS=--farm image --affinity only-here --slots 1\n"
    files = [{"path": "/etc/coalition/worker.env", "permissions": "0600", "content": env}]
    watch = "setsid journalctl -f -n all -o cat -u coalition-site-worker >/dev/ttyS0 2>&1 &"
    return "#cloud-config\n" + json.dumps({"write_files": files, "runcmd": [["sh", "-c", watch]]}) + "\n"


@contextmanager
def booted(farm: Farm, image: Path, name: str, token: str) -> Iterator[Guest]:
    made = Guest(farm, image, name, token)
    try:
        yield made
    finally:
        made.close()


def test_an_image_finds_the_server_by_broadcast_does_the_job_that_only_it_may_is_drained_and_powers_off(
    farm: Farm, image: Path
) -> None:
    client = farm.client()
    token = client.create_token("enrol", uses=1)["token"]
    nobodys = client.submit(title="of others", command="true", affinity=["elsewhere"])
    job = client.submit(title="of the image", command="hostname; id -un; systemd-detect-virt", affinity=["only-here"])
    with booted(farm, image, "first", token) as guest:
        poll_until(lambda: client.job(job).state == "FINISHED", BOOT_S, lambda: guest.said[-4_000:])
        print(f"image: job done {time.monotonic() - guest.begun:.0f} s after power on", file=sys.__stderr__)
        (worker,) = client.workers()
        assert (worker.name, worker.affinity, worker.state) == ("first", (("only-here",),), "WAITING")
        assert client.log(job).data.split() == [b"first", b"coalition", b"qemu"]
        assert client.job(nobodys).state == "WAITING"
        poll_until(lambda: f"found farm image at {ADDRESS}" in guest.said, BOOT_S, lambda: guest.said[-4_000:])
        assert "broadcast: asking 10.77.10.255" in guest.said
        client.drain_workers([worker.id])
        late = client.submit(title="too late", command="true", affinity=["only-here"])
        poll_until(lambda: client.workers()[0].state == "DRAINING", 60, client.workers)
        guest.press_power()
        assert guest.process.wait(timeout=END_S) == 0
        print(f"image: off {time.monotonic() - guest.begun:.0f} s after power on", file=sys.__stderr__)
        assert (client.job(late).state, client.job(nobodys).state) == ("WAITING", "WAITING")


def test_a_boot_whose_token_was_used_is_refused(farm: Farm, image: Path) -> None:
    client = farm.client()
    token = client.create_token("enrol", uses=1)["token"]
    words = ["--farm", "image", "--name", "earlier", "--affinity", "earlier", "--state-dir", str(farm.folder / "earlier")]
    earlier = farm.lan.coalition("server", "--server", "http://127.0.0.1:19211", "--token", token, "worker", *words)
    poll_until(lambda: "earlier" in [one.name for one in client.workers()], 120, lambda: farm.lan.log_of("server"))
    earlier.terminate()
    before = sorted(one.name for one in client.workers())
    with booted(farm, image, "second", token) as guest:
        poll_until(lambda: REFUSED.search(guest.said), BOOT_S, lambda: guest.said[-4_000:])
        print(f"image: refused {time.monotonic() - guest.begun:.0f} s after power on", file=sys.__stderr__)
        assert sorted(one.name for one in client.workers()) == before


def test_what_it_needs_is_there() -> None:
    assert shutil.which("qemu-system-x86_64")
    assert subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, check=False).returncode == 0
