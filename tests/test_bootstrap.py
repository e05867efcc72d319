"""What a new machine is told: the script is checked, and run with stand-ins for what only a cloud has."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.base import Offering, Request
from providers.bootstrap import script, user_data
from scripts import packages
from tests.polling import poll_until

HOSTILE = ["'; touch pwned; '", "$(touch pwned)", "`touch pwned`", "a\nb; touch pwned", '"\\', "-rf", "#x", ""]
HOSTILE += ["\x1b[2J \u2028 \U0001f600"]


def request(**options: object) -> Request:
    now = time.time()
    return Request(
        token="t" * 32, farm="coalition", pool="p", provider="aws", region="r", offering=Offering("m", "m", slots=3), count=2,
        affinity=("linux", "big"), image="", server_url="https://farm.example.com", discovery_port=0, launch_by=now + 60,
        until=now + 900, options=options, enrol_token="id.secret",
    )  # fmt: skip


FULL = {
    "environment": ("OCIO=/mnt/it's/config.ocio",),
    "mounts": ("s3://assets=/mnt/assets", "gs://shows/film=/mnt/film"),
    "packages": ("s3://tools/renderer.tar.gz", "https://tools.example.com/fonts.zip"),
    "startup": "echo started >>$LOG",
}


# ---------------------------------------------------------------- the text


@pytest.mark.parametrize("options", [{}, FULL, {**FULL, "image_prepared": False}])
def test_the_script_is_good_shell(options: Mapping[str, object]) -> None:
    text = script(request(**options))
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    if why := packages.ensure(["shellcheck"]):
        pytest.skip(why)
    # SC2016: that nothing in the values is expanded is what is wanted
    shellcheck = ["shellcheck", "-s", "sh", "-e", "SC2016", "-"]
    checked = subprocess.run(shellcheck, input=text, text=True, capture_output=True, check=False)
    assert checked.stdout == ""


def test_cloud_init_is_given_the_script_to_run_at_every_start() -> None:
    wanted = request(**FULL)
    text = user_data(wanted)
    assert text.startswith("#cloud-config\n")
    (file,) = yaml.safe_load(text)["write_files"]
    assert file["path"].startswith("/var/lib/cloud/scripts/per-boot/")
    assert (file["permissions"], file["owner"]) == ("0700", "root:root")
    assert base64.b64decode(file["content"]).decode() == script(wanted)
    assert len(text) < 16_384, "what EC2 takes at most"


def test_the_same_request_makes_the_same_text() -> None:
    wanted = request(**FULL)
    assert user_data(wanted) == user_data(replace(wanted))


def test_the_only_secret_in_it_is_the_enrolment_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "keep-this")
    text = script(request(**FULL))
    assert text.count("id.secret") == 1
    assert "keep-this" not in text
    assert "t" * 32 not in text, "the intent's token is nobody's on the machine"


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
def test_values_are_values_whatever_is_in_them(values: list[str]) -> None:
    _check_values(values)


def test_hostile_values_are_only_values(tmp_path: Path) -> None:
    for value in HOSTILE:
        _check_values([value, f"x{value}", f"{value}x"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def _check_values(values: list[str], folder: Path | None = None) -> None:
    server, pool, startup = values
    text = script(replace(request(startup=startup), server_url=server, pool=pool))
    head = text[: text.index("\npool_steps()")]
    told = subprocess.run(
        ["sh", "-c", head + '\nprintf \'%s\\0\' "$SERVER" "$POOL" "$STARTUP"'], capture_output=True, check=True, cwd=folder
    ).stdout
    assert told.decode().split("\0") == [*values, ""]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_pool_steps_are_only_words(value: str, tmp_path: Path) -> None:
    made = replace(request(mounts=(f"s3://b=/mnt/{value}",), packages=(f"https://x/{value}",), environment=(f"A={value}",)))
    text = script(made)
    steps = text[text.index("\npool_steps()") : text.index("\n\nrun=$ROOT")]
    run = f"ROOT=\nstep() {{ shift 2; printf '%s\\0' \"$@\"; }}\n{steps}\npool_steps\nprintf '%s' \"$A\""
    told = subprocess.run(["sh", "-c", run], capture_output=True, check=True, cwd=tmp_path).stdout.decode()
    assert told.split("\0") == ["s3://b", f"/mnt/{value}", f"https://x/{value}", value]
    assert list(tmp_path.iterdir()) == []


def test_a_zero_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        script(request(startup="a\0b"))


# ---------------------------------------------------------------- the script at work

STAND_INS = {
    "poweroff": 'echo "poweroff" >>"$LOG"; exec kill -9 0',
    "sleep": "exec /bin/sleep 0.05",
    "id": "exit 1",
    "date": 'cat "$ROOT/date"',
    "curl": (
        'echo "curl $*" >>"$LOG"; [ ! -e "$ROOT/no-network" ] || exit 6; '
        'out=coalition-1-py3-none-any.whl; while [ $# -gt 0 ]; do [ "$1" != -o ] || out=$2; shift; done; echo data >"$out"'
    ),
    "aws": 'echo "aws $*" >>"$LOG"; for out; do :; done; tar -cf "$out" -C "$ROOT" date',
    "gcloud": 'echo "gcloud $*" >>"$LOG"',
    "mount-s3": 'echo "mount-s3 $*" >>"$LOG"; [ ! -e "$ROOT/no-mount" ]',
    "gcsfuse": 'echo "gcsfuse $*" >>"$LOG"',
    "python3": 'echo "python3 $*" >>"$LOG"; case $2 in venv) mkdir -p "$3/bin"; cp "$ROOT/pip" "$3/bin/pip";; esac',
}
WORKER = 'echo "coalition $* OCIO=$OCIO" >>"$LOG"; while [ ! -e "$ROOT/over" ]; do sleep 1; done'


@dataclass
class Machine:
    """A folder that a machine's script takes for the whole disk."""

    root: Path

    def log(self) -> list[str]:
        return (self.root / "log").read_text().splitlines()

    def has(self, *words: str) -> bool:
        return all(any(line.startswith(word) for line in self.log()) for word in words)

    def tool(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def clock(self, uptime_s: float, date_s: float) -> None:
        for name, text in (("proc/uptime", f"{uptime_s:.2f} 1.00\n"), ("date", f"{date_s:.0f}\n")):
            new = self.root / f"{name}.new"
            new.write_text(text)
            new.replace(self.root / name)

    @contextmanager
    def booted(self, wanted: Request) -> Iterator[subprocess.Popen[str]]:
        path = self.root / "boot"
        path.write_text(script(wanted, str(self.root)))
        environment = {"PATH": f"{self.root}/bin:{os.environ['PATH']}", "ROOT": str(self.root), "LOG": str(self.root / "log")}
        process = subprocess.Popen(["sh", str(path), "main"], env=environment, start_new_session=True, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.wait(10)

    def runs_to_its_end(self, wanted: Request) -> list[str]:
        with self.booted(wanted) as process:
            process.wait(30)
        assert "poweroff" in self.log()
        return self.log()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    for folder in ("dev", "proc", "var/lib/cloud/data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "log").touch()
    (tmp_path / "dev/console").touch()
    (tmp_path / "var/lib/cloud/data/instance-id").write_text("i-0123456789abcdef0\n")
    for name, text in STAND_INS.items():
        made.tool(f"bin/{name}", text)
    made.tool("pip", 'echo "pip $*" >>"$LOG"')
    made.tool("opt/coalition/bin/pip", 'echo "pip $*" >>"$LOG"')
    made.tool("opt/coalition/bin/coalition", WORKER)
    made.clock(10.0, time.time())
    return made


def test_a_machine_prepares_itself_and_runs_the_worker(machine: Machine) -> None:
    with machine.booted(request(**FULL)):
        poll_until(lambda: machine.has("coalition "), state=machine.log)
        root, log = str(machine.root), [line.replace(str(machine.root), "") for line in machine.log()]
        assert log[0] == "curl -fsS --retry 10 --retry-connrefused -OJ https://farm.example.com/api/v1/worker-package"
        assert log[1] == "pip install -q --no-index --no-deps /run/coalition/wheel/coalition-1-py3-none-any.whl"
        assert log[2:4] == [
            "mount-s3 --allow-other assets /mnt/assets",
            "gcsfuse --implicit-dirs -o allow_other --only-dir film shows /mnt/film",
        ]
        assert log[4] == "aws s3 cp --only-show-errors s3://tools/renderer.tar.gz /run/coalition/package"
        assert (machine.root / "opt/date").exists(), "the archive is unpacked below /opt"
        assert log[5:7] == [
            "curl -fsSL --retry 5 -o /run/coalition/package https://tools.example.com/fonts.zip",
            "python3 -m zipfile -e /run/coalition/package /opt",
        ]
        assert log[7] == "started"
        assert log[8] == (
            "coalition worker --server https://farm.example.com --token-file /run/coalition/token --identity i-0123456789abcdef0"
            " --name p-i-0123456789abcdef0 --state-dir /var/lib/coalition --slots 3 --deadline-file /run/coalition/deadline"
            " --affinity linux,big OCIO=/mnt/it's/config.ocio"
        )
        assert Path(root, "run/coalition/token").read_text() == "id.secret\n"
        assert Path(root, "run/coalition/token").stat().st_mode & 0o077 == 0


def test_a_package_of_the_server_is_fetched_once_and_the_token_is_no_argument(machine: Machine) -> None:
    def fetched() -> list[str]:
        """What a start fetches of the server's packages, and unpacks."""
        (machine.root / "log").write_text("")
        with machine.booted(request(packages=("fonts.zip",))):
            poll_until(lambda: machine.has("coalition "), state=machine.log)
            return [line for line in machine.log() if "/packages/" in line or "zipfile" in line]

    asked, unpacked = fetched()
    assert asked.startswith("curl -fsS --retry 5 -H @- -o ")
    assert asked.endswith(" https://farm.example.com/api/v1/packages/fonts.zip")
    assert "secret" not in asked
    assert unpacked.startswith("python3 -m zipfile -e ")
    assert fetched() == [], "by then the token is used up"


def test_an_image_with_nothing_but_python_gets_an_environment_for_the_worker(machine: Machine) -> None:
    (machine.root / "opt/coalition/bin/pip").unlink()
    with machine.booted(request(image_prepared=False)):
        poll_until(lambda: machine.has("python3 -m venv", "pip install -q /", "coalition "), state=machine.log)


def test_the_end_of_the_worker_is_the_end_of_the_machine(machine: Machine) -> None:
    (machine.root / "over").touch()
    machine.runs_to_its_end(request())
    assert "the worker ended (exit code 0); switching off" in (machine.root / "dev/console").read_text()


@pytest.mark.parametrize(
    ("broken", "options", "words"),
    [
        ("no-network", {}, "the worker could not be fetched from https://farm.example.com (exit code 6)"),
        ("no-mount", FULL, "s3://assets could not be mounted (exit code 1)"),
        ("", {"startup": "exit 7"}, "the startup command failed (exit code 7)"),
    ],
)
def test_what_fails_at_boot_is_told_and_no_worker_starts(
    machine: Machine, broken: str, options: Mapping[str, object], words: str
) -> None:
    (machine.root / (broken or "nothing")).touch()
    log = machine.runs_to_its_end(request(**options))
    assert not [line for line in log if line.startswith("coalition ")]
    assert words in (machine.root / "dev/console").read_text()


def test_the_machine_ends_when_its_first_money_is_used_up(machine: Machine) -> None:
    with machine.booted(request()) as process:
        poll_until(lambda: machine.has("coalition "), state=machine.log)
        machine.clock(10.0 + 899, time.time())
        poll_until(lambda: process.poll() is not None, state=machine.log)
    assert "poweroff" in machine.log()
    assert "the paid time is over" in (machine.root / "dev/console").read_text()


def test_the_worker_moves_the_deadline_and_a_hung_worker_does_not(machine: Machine) -> None:
    with machine.booted(request()) as process:
        poll_until(lambda: machine.has("coalition "), state=machine.log)
        (machine.root / "run/coalition/deadline").write_text("2000.5\n")
        machine.clock(1_999.0, time.time())
        (machine.root / "log").write_text("")
        poll_until(lambda: process.poll() is None)
        machine.clock(2_000.9, time.time())
        poll_until(lambda: process.poll() is not None, state=machine.log)


@pytest.mark.parametrize(("date_off_s", "expected"), [(0, 910), (-10_000, 900), (800, 110)])
def test_a_wall_clock_that_is_wrong_gives_no_more_than_was_paid(machine: Machine, date_off_s: float, expected: float) -> None:
    wanted = request()
    machine.clock(10.0, time.time() + date_off_s)
    with machine.booted(wanted):
        poll_until(lambda: machine.has("coalition "), state=machine.log)
        deadline = float((machine.root / "run/coalition/deadline").read_text())
    assert deadline <= 900
    assert deadline == pytest.approx(min(expected, 900), abs=3)


def test_a_deadline_that_cannot_be_read_is_over(machine: Machine) -> None:
    with machine.booted(request()) as process:
        poll_until(lambda: machine.has("coalition "), state=machine.log)
        (machine.root / "run/coalition/deadline").write_text("never\n")
        poll_until(lambda: process.poll() is not None, state=machine.log)
    assert "poweroff" in machine.log()


def test_a_machine_that_starts_again_after_its_time_ends_at_once(machine: Machine) -> None:
    machine.clock(5.0, time.time() + 1_000)
    machine.runs_to_its_end(request())
