"""Instances on this machine, with real processes: the worker's place is taken by small shell programs."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from providers.base import Fate, Life, Request, Unknown
from providers.local import MARK, LocalProvider, worker_command
from providers.local_supervisor import write_atomically
from tests.contract_faults import FaultRig, ProviderFaults
from tests.contract_provider import ProviderContract, Rig
from tests.polling import poll_until


def of_instance(id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def shell(script: str) -> object:
    def command(request: Request, id: str, folder: Path) -> Sequence[str]:
        return ["sh", "-c", script]

    return command


def provider(root: Path, script: str = "echo here; exec sleep 600") -> LocalProvider:
    return LocalProvider(root, command=shell(script))  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "local"
    yield root
    last = LocalProvider(root)
    ids = [instance.id for instance in last.list()]
    last.terminate(ids)
    poll_until(lambda: all(instance.life is Life.GONE for instance in last.list()), state=last.list)
    assert not [process for id in ids for process in of_instance(id)]


def rig_of(provider: LocalProvider) -> Rig:
    return Rig(provider, time.time)


class TestLocalContract(ProviderContract):
    @pytest.fixture
    def rig(self, root: Path) -> Rig:
        return rig_of(provider(root))


class BrokenDisk:
    """Instances whose folders cannot be made, on a script: the first of an order, or all but the first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.next: list[str] = []

    def command(self, request: Request, id: str, folder: Path) -> Sequence[str]:
        if self.next and (self.next[0] == "lost_before" or id.endswith("-1")):
            del self.next[0]
            raise OSError("the disk is full")
        return ["sh", "-c", "exec sleep 600"]

    def script(self, verb: str, *faults: str) -> None:
        assert verb == "launch"
        self.next += faults

    def hide(self, lists: int) -> None:
        raise NotImplementedError("no list lags behind here")

    bare = hide

    def count(self, verb: str) -> int:
        """What was started, or asked of those."""
        return len(list(self.root.glob("*/instance.json"))) if verb == "launch" else 0


class TestLocalFaults(ProviderFaults):
    @pytest.fixture
    def rig(self, root: Path) -> FaultRig:
        disk = BrokenDisk(root)
        made = LocalProvider(root, command=disk.command)

        def reclaim(id: str) -> None:
            os.kill(int((root / id / "pid").read_text()), signal.SIGKILL)
            for process in of_instance(id):
                process.kill()

        def announce(id: str) -> None:
            write_atomically(root / id / "notice", repr(time.time() + 30))

        rig = FaultRig(made, time.time, faults=disk, reclaim=reclaim, announce=announce)
        rig.plant = lambda farm: made.launch(replace(rig.request(), farm=farm)).instances[0].id
        return rig


def running(rig: Rig, token: str) -> None:
    poll_until(lambda: rig.lives(token) == [Life.RUNNING], state=lambda: rig.find(token))


def started(rig: Rig, **options: float) -> tuple[str, str]:
    """(token, id) of an instance whose worker runs."""
    request = rig.request(**options)  # type: ignore[arg-type]
    (instance,) = rig.provider.launch(request).instances
    poll_until(lambda: of_instance(instance.id), state=lambda: rig.provider.console(instance.id))
    running(rig, request.token)
    return request.token, instance.id


def test_the_enrolment_token_is_in_a_private_file_and_nowhere_else(root: Path) -> None:
    rig = rig_of(provider(root))
    _, id = started(rig)
    path = root / id / "token"
    assert path.read_text() == "id.secret\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((root / id).stat().st_mode) == 0o700
    for process in of_instance(id):
        assert "id.secret" not in " ".join(process.cmdline()) + str(process.environ())
    assert "id.secret" not in (root / id / "instance.json").read_text()


def test_secrets_of_the_server_do_not_reach_the_worker(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("COALITION_TOKEN", "s")
    monkeypatch.setenv("OCIO", "kept")
    _, id = started(rig_of(provider(root)))
    environment = of_instance(id)[0].environ()
    assert environment["OCIO"] == "kept"
    assert not {"AWS_SECRET_ACCESS_KEY", "COALITION_TOKEN"} & environment.keys()


def test_another_provider_object_finds_the_instances_again(root: Path) -> None:
    token, id = started(rig_of(provider(root)))
    again = rig_of(provider(root))
    assert [(instance.id, instance.life) for instance in again.find(token)] == [(id, Life.RUNNING)]
    again.provider.terminate([id])
    again.until_gone(token)
    assert of_instance(id) == []


def test_an_instance_survives_the_process_that_started_it(root: Path) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_local_provider import provider, rig_of
from pathlib import Path
rig = rig_of(provider(Path({str(root)!r})))
print(rig.provider.launch(rig.request()).instances[0].token, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    token = parent.stdout.readline().strip()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    running(rig_of(provider(root)), token)


def test_the_end_of_the_worker_is_the_end_of_the_instance(root: Path) -> None:
    rig = rig_of(provider(root, "echo failed >&2; exit 7"))
    request = rig.request()
    (instance,) = rig.provider.launch(request).instances
    (seen,) = rig.until_gone(request.token)
    assert "exit code 7" in seen.reason
    assert rig.provider.console(instance.id) == "failed\n"


def test_terminate_ends_the_whole_tree_though_it_ignores_signals_and_left_the_group(root: Path) -> None:
    script = "trap '' TERM; setsid sleep 600 & (trap '' TERM; setsid sh -c 'sleep 601 & sleep 602' &) ; while :; do sleep 1; done"
    rig = rig_of(provider(root, script))
    token, id = started(rig)
    poll_until(lambda: len(of_instance(id)) >= 5, state=lambda: of_instance(id))
    rig.provider.terminate([id])
    rig.until_gone(token)
    assert of_instance(id) == []


def test_a_worker_that_hangs_is_ended_at_the_deadline(root: Path) -> None:
    rig = rig_of(provider(root))
    token, id = started(rig, lasts_s=5.0)
    os.kill(of_instance(id)[0].pid, signal.SIGSTOP)
    (seen,) = rig.until_gone(token)
    assert "paid time" in seen.reason
    assert of_instance(id) == []


def test_a_killed_supervisor_is_noticed_and_its_worker_is_ended(root: Path) -> None:
    rig = rig_of(provider(root))
    token, id = started(rig)
    os.kill(int((root / id / "pid").read_text()), signal.SIGKILL)
    assert rig.lives(token) == [Life.RUNNING]
    poll_until(lambda: rig.provider.terminate([id])[id] is Fate.GONE)
    rig.until_gone(token)
    assert of_instance(id) == []


def test_a_supervisor_that_died_with_its_worker_is_gone(root: Path) -> None:
    rig = rig_of(provider(root))
    token, id = started(rig)
    victims = [int((root / id / "pid").read_text()), *(process.pid for process in of_instance(id))]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    (seen,) = rig.until_gone(token)
    assert "killed" in seen.reason


def test_taking_the_folder_away_ends_the_instance(root: Path) -> None:
    _, id = started(rig_of(provider(root)))
    (root / id / "until").unlink()
    poll_until(lambda: not of_instance(id))


def test_faults_are_shown_on_request_by_one_instance_each(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "faults").write_text("never_boots\ndies:0.3\nslow_boot:4\n")
    rig = rig_of(provider(root))
    never, dies, slow, good = (rig.provider.launch(rig.request()).instances[0] for _ in range(4))
    poll_until(lambda: of_instance(good.id))
    assert of_instance(slow.id) == []
    (dead,) = rig.until_gone(dies.token)
    assert "died" in dead.reason
    poll_until(lambda: of_instance(slow.id))
    running(rig, never.token)
    assert of_instance(never.id) == []


def test_an_instance_that_is_taken_back_is_announced_before_as_often_as_somebody_asks(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "faults").write_text("spot_notice:0.2:600\n")
    rig = rig_of(provider(root))
    before = time.time()
    token, id = started(rig)
    (notice,) = poll_until(rig.provider.notices)
    assert notice.id == id
    assert before + 600 <= notice.at <= time.time() + 600
    assert rig.provider.notices() == [notice]
    rig.provider.terminate([id])
    rig.until_gone(token)
    assert rig.provider.notices() == []


def test_an_instance_that_was_taken_back_says_so(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "faults").write_text("spot_notice:0:0.3\n")
    rig = rig_of(provider(root))
    request = rig.request()
    rig.provider.launch(request)
    (seen,) = rig.until_gone(request.token)
    assert seen.reason == "it was taken back, as was announced"


def test_a_list_that_is_not_complete_raises(root: Path) -> None:
    rig = rig_of(provider(root))
    _, id = started(rig)
    (root / id / "instance.json").rename(root / id / "away")
    (root / id / "instance.json").write_text("{")
    with pytest.raises(Unknown):
        rig.provider.list()
    (root / id / "away").rename(root / id / "instance.json")


def test_the_worker_is_told_to_look_on_loopback_for_its_farm_only(root: Path) -> None:
    request = rig_of(provider(root)).request(token="abcdef0123456789")
    command = " ".join(worker_command(request, "abcdef0123456789-1", root / "x"))
    assert "--loopback --farm coalition --port 19211" in command
    assert "--slots 2 --state-dir" in command
    assert "--affinity linux" in command
    assert "--name p-abcdef01-1 --" in command
    assert "secret" not in command


def test_the_supervisor_starts_without_our_packages() -> None:
    supervisor = Path(sys.modules["providers.local"].__file__ or "").with_name("local_supervisor.py")
    done = subprocess.run([sys.executable, "-I", "-S", supervisor], capture_output=True, text=True)
    assert "IndexError" in done.stderr  # it came as far as reading its folder's name
