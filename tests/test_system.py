"""Both faces of coalition/system.py, Posix and Windows, on this machine: each runs jobs, asks them to end and ends them.

What needs Windows itself is played by stand-ins of its own calls (cmd.exe by /bin/sh, msvcrt, kernel32). That no other module of
a worker calls what Windows or macOS lack is seen by mypy, told that it is there: scripts/lint.sh.
"""

from __future__ import annotations

import ctypes
import os
import plistlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psutil
import pytest

from coalition.cli import cli
from coalition.places import PathRules
from coalition.runner import Runner, Site
from coalition.system import KILL, Posix, System, Windows, of_this_machine
from tests.polling import poll_until
from tests.test_runner import a_lease, is_alive, log_of, wait

ROOT = Path(__file__).resolve().parent.parent
MISSING = {"error_patterns": ("^Error: missing",)}


class HereAsWindows(Windows):
    """The Windows face on a machine that has no cmd.exe and no process groups of Windows."""

    def __init__(self) -> None:
        super().__init__(flags=0)

    def shell(self, command: str) -> list[str]:  # type: ignore[override]
        return ["/bin/sh", "-c", command]


FACES: dict[str, type[Posix] | type[Windows]] = {"posix": Posix, "windows": HereAsWindows}


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> System:
    return FACES[request.param]()


@pytest.fixture
def runner(tmp_path: Path, face: System) -> Iterator[Runner]:
    spool = tmp_path / "spool"
    spool.mkdir()
    made = Runner(spool, Site(grace_s=0.5), system=face)
    yield made
    made.close()


def test_a_command_runs_in_its_folder_with_its_environment_and_its_log_and_code_are_told(runner: Runner, tmp_path: Path) -> None:
    runner.start(a_lease("pwd; echo $FRAME; exit 3", dir=str(tmp_path), environment={"FRAME": "7"}))
    end = wait(runner)
    assert (end.state, end.exit_code, end.log) == ("ERROR", 3, f"{tmp_path}\n7\n".encode())
    runner.start(a_lease("true", attempt=2, dir="/nowhere/at/all"))
    assert "does not exist on this worker" in wait(runner, 2).reason


def test_what_is_told_to_end_may_do_so_by_itself(runner: Runner) -> None:
    runner.start(a_lease("trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done"))
    poll_until(lambda: b"ready" in log_of(runner))
    runner.stop(1)
    assert wait(runner).state == "STOPPED"
    assert log_of(runner).endswith(b"saved\n")


def test_what_does_not_heed_that_is_killed_with_all_it_started(runner: Runner, tmp_path: Path) -> None:
    runner.start(a_lease(f"trap '' TERM; (trap '' TERM; exec sleep 60) & echo $! >{tmp_path}/child; wait; wait"))
    poll_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    child = int((tmp_path / "child").read_text())
    runner.stop(1)
    assert wait(runner).state == "STOPPED"
    poll_until(lambda: not is_alive(child))


def test_a_log_is_looked_at_and_added_to_while_the_command_writes_it(runner: Runner) -> None:
    runner.start(a_lease("echo PROGRESS:40; sleep 0.2; echo PROGRESS:80"))
    poll_until(lambda: runner.progress(1) == 0.4)
    runner.runs[1].note("a word of ours")
    end = wait(runner)
    assert end.log == b"PROGRESS:40\n* a word of ours\nPROGRESS:80\n"


def test_patterns_in_logs_are_found(runner: Runner) -> None:
    runner.start(a_lease("echo Error: missing texture; sleep 60", **MISSING))
    end = wait(runner)
    assert (end.state, "Error: missing texture" in end.reason) == ("ERROR", True)
    runner.start(a_lease("echo fine", attempt=2, **MISSING))
    assert wait(runner, 2).state == "FINISHED"


def test_nothing_is_left_open(face: System, tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(2):
        made = Runner(tmp_path, Site(), system=face)
        made.start(a_lease("echo Error: missing", **MISSING))
        wait(made)
        made.close()
        poll_until(lambda: len(os.listdir("/dev/fd")) == before)


# ---------------------------------------------------------------- Windows's own calls


def test_the_face_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(of_this_machine()) is Posix
    monkeypatch.setattr(sys, "platform", "win32")
    assert type(of_this_machine()) is Windows


def test_cmd_gets_the_command_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMSPEC", r"C:\Windows\system32\cmd.exe")
    words = Windows().shell(r'"C:\Program Files\r.exe" "a b.scn" & echo %ERRORLEVEL%')
    assert words == r'C:\Windows\system32\cmd.exe /d /s /c ""C:\Program Files\r.exe" "a b.scn" & echo %ERRORLEVEL%"'


def test_a_run_is_a_console_group_of_its_own_and_is_asked_to_end_by_ctrl_break(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[int] = []
    sent: list[tuple[int, int]] = []

    def popen(words: str, **options: Any) -> Any:
        flags.append(options["creationflags"])
        return types.SimpleNamespace(pid=77, kill=lambda: sent.append((77, KILL)))

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    face = Windows()
    assert face.spawn("cmd", "", {}, 1, 0o022, nice=0) == 77
    assert face.spawn("cmd", "", {}, 1, 0o022, nice=10) == 77
    face.send(77, signal.SIGTERM, ())
    face.send(77, KILL, ())
    assert (flags, sent) == ([0x200, 0x4200], [(77, 1), (77, KILL)])


def test_one_agent_at_a_time_has_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: set[int] = set()

    def locking(handle: int, how: int, count: int) -> None:
        place = os.fstat(handle).st_ino
        if how == 0:
            taken.discard(place)
        elif place in taken:
            raise OSError(36, "Resource deadlock avoided")
        else:
            taken.add(place)

    system = types.SimpleNamespace(locking=locking, LK_UNLCK=0, LK_LOCK=1, LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "msvcrt", system)  # type: ignore[arg-type]
    face = Windows()
    with (tmp_path / "lock").open("ab") as one, (tmp_path / "lock").open("ab") as two:
        face.lock(one)
        with pytest.raises(BlockingIOError):
            face.lock(two)
        waiting = threading.Thread(target=face.lock, args=(two,), kwargs={"wait": True})
        waiting.start()
        face.unlock(one)
        waiting.join(20)
        assert not waiting.is_alive()
        face.unlock(two.fileno())
    assert taken == set()


class Kernel:
    """kernel32's job objects: what was set on which handle."""

    def __init__(self, works: bool) -> None:
        self.works, self.limits, self.members = works, b"", []

    def CreateJobObjectW(self, *_: object) -> int:
        return 5

    def SetInformationJobObject(self, job: int, kind: int, block: Any, size: int) -> int:
        assert (job, kind, size) == (5, 9, 144)
        self.limits = bytes(block._obj)
        return 1

    def AssignProcessToJobObject(self, job: int, process: int) -> int:
        self.members.append((job, process))
        return int(self.works)

    def GetCurrentProcess(self) -> int:
        return -1


@pytest.mark.parametrize("works", [True, False])
def test_what_an_agent_started_ends_with_it_by_a_job_object(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    kernel = Kernel(works)
    monkeypatch.setattr(ctypes, "windll", types.SimpleNamespace(kernel32=kernel), raising=False)
    if works:
        Windows().keep()
    else:
        with pytest.raises(OSError, match="no job object"):
            Windows().keep()
    assert kernel.members == [(5, -1)]
    assert int.from_bytes(kernel.limits[16:20], "little") == 0x2000
    assert not any(kernel.limits[:16] + kernel.limits[20:])


def test_what_is_left_of_a_run_is_found_without_groups(tmp_path: Path) -> None:
    face = HereAsWindows()
    assert (face.has_group(os.getpid()), face.adopt(), face.group_of(os.getpid())) == (False, -1, 0)
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert (face.group_of(ended.pid), face.reaped(ended.pid)) == (None, True)
    assert face.clock_s() > 0
    assert psutil.pid_exists(os.getpid())


# ---------------------------------------------------------------- places, and what starts a worker there


def test_places_are_those_of_the_platform() -> None:
    rule = {"name": "X_DRIVE", "linux": "/mnt/x", "macos": "/Volumes/x", "windows": "X:"}
    command = 'render -o "/mnt/x/out" X:\\shots\\a.scn /Volumes/x/lib'
    assert PathRules([rule], "windows").map(command) == 'render -o "X:/out" X:\\shots\\a.scn X:/lib'
    assert PathRules([rule], "macos").map(command) == 'render -o "/Volumes/x/out" /Volumes/x/shots/a.scn /Volumes/x/lib'
    assert PathRules([rule], "windows").places == {"X_DRIVE": "X:"}


def taken(words: list[str]) -> dict[str, Any]:
    """What the command line makes of the words of `coalition worker`."""
    assert words[0] == "worker"
    worker = cli.get_command(click.Context(cli), "worker")
    assert worker is not None
    return worker.make_context("worker", words[1:]).params


def test_launchds_file_starts_a_worker_and_lets_it_finish() -> None:
    job = plistlib.loads((ROOT / "deploy/macos/org.coalition.worker.plist").read_bytes())
    given = taken(job["ProgramArguments"][1:])
    assert (given["state_dir"], given["affinity"]) == ("/opt/coalition/state", ("macos",))
    assert job["ProgramArguments"][4:6] == ["--token-file", "/opt/coalition/site.token"]
    assert (job["KeepAlive"], job["RunAtLoad"], job["ExitTimeOut"], job["UserName"]) == (True, True, 86_400, "coalition")


def test_nssms_file_starts_a_worker_and_lets_it_finish() -> None:
    text = (ROOT / "deploy/windows/install-worker.cmd").read_text()
    (words,) = re.findall(r"^nssm set CoalitionWorker AppParameters (.*)$", text, re.MULTILINE)
    given = taken(shlex.split(words.replace("%HOME_DIR%", "C:/coalition").replace("\\", "/")))
    assert (given["state_dir"], given["affinity"]) == ("C:/coalition/state", ("windows",))
    assert dict(re.findall(r"^nssm set CoalitionWorker (AppStopMethod\w+|AppExit) (.*)$", text, re.MULTILINE)) == {
        "AppStopMethodSkip": "0", "AppStopMethodConsole": "86400000", "AppExit": "Default Restart",
    }  # fmt: skip


SESSIONS = """
import os, pty, sys
from pathlib import Path
from coalition.system import Posix

def told(folder):
    system = Posix()
    system.begin()
    log = system.open_log(str(folder / "log"))
    which = "import os; print(os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid())"
    os.waitpid(system.spawn([sys.executable, "-c", which], "", dict(os.environ), log, 0o022, 0), 0)
    return (folder / "log").read_text().strip()

os.setsid()
folder = Path(sys.argv[1])
print(told(folder), flush=True)
child, terminal = pty.fork()
if child == 0:
    (folder / "with").write_text(told(folder))
    os._exit(0)
os.waitpid(child, 0)
print((folder / "with").read_text())
"""


MEMORY = """
import os, sys
from coalition.system import Posix

system = Posix()
system.begin()
for size in (100, 0):
    eat = f"b = bytearray({size} << 20); b[::4096] = b'x' * len(b[::4096])"
    log = system.open_log(sys.argv[1])
    print(system.reap(system.spawn([sys.executable, "-c", eat], "", dict(os.environ), log, 0o022, 0))[1] >> 20)
"""


def test_the_memory_of_a_run_is_told_though_who_started_the_worker_has_more(tmp_path: Path) -> None:
    start = f"subprocess.run([sys.executable, '-c', {MEMORY!r}, {str(tmp_path / 'log')!r}])"
    large = f"import subprocess, sys; b = bytearray(b'x' * (200 << 20)); {start}"
    done = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True, check=True, cwd=ROOT)
    told, none = map(int, done.stdout.split())
    assert 100 <= told < 150
    assert none == 0


def test_a_run_is_a_group_of_its_own_and_a_session_where_there_is_a_terminal(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SESSIONS, str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout.splitlines(), ended.stderr) == (["True False", "True True"], "")
