"""Jobs that run as their users: what is filled in where, who is refused, and that stopping goes the same way."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coalition.config import parse
from coalition.errors import BadInput, ConfigError
from coalition.run_as import filled, signal_to
from coalition.runner import Runner, Site
from tests.polling import poll_until
from tests.test_runner import a_lease, is_alive, log_of, wait

SUDO = "sudo -n -u {user} -- /usr/bin/env {environment} /bin/sh -c {command}"
WRAPPER = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/calls"
user=$1
shift
if [ "$(id -u)" = 0 ]; then exec setpriv --reuid="$user" --regid=nogroup --clear-groups -- "$@"; fi
exec "$@"
"""


def test_each_word_is_filled_in_whole_and_no_shell_reads_it() -> None:
    evil = "'; rm -rf / #\n$(reboot) {user}"
    words = filled(SUDO, "ann", "/d", evil, {"B": "x y", "A": "$(id)", "HOME": "/root"})
    assert words == ["sudo", "-n", "-u", "ann", "--", "/usr/bin/env", "A=$(id)", "B=x y", "/bin/sh", "-c", evil]
    assert filled("sudo -u __user__ run --in=__dir__ __cmd__", "ann", "/a b", "c", {})[-2:] == ["--in=/a b", "c"]


@pytest.mark.parametrize("user", ["", "root", "-x", "#0", "0", "a b", "ann;", "../ann", "ann\n", "a" * 65, "$(id)"])
def test_a_user_of_an_odd_name_and_root_are_refused(user: str) -> None:
    with pytest.raises(BadInput, match="runs no commands as"):
        filled(SUDO, user, "/", "true", {})


@pytest.mark.parametrize(
    "template", ["sudo -u {user}", "sh -c {command}", "{user} {command}", "sudo '{user} {command}", "{command} {user}"]
)
def test_a_template_that_could_not_work_is_refused_by_name(template: str) -> None:
    with pytest.raises(ConfigError, match=r"\[worker\] run_as: "):
        parse(f"[worker]\nrun_as = {template}\n")
    assert parse(f"[worker]\nrun_as = {SUDO}\n").worker.run_as == SUDO


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """What the wrapper was called with, line by line."""
    if shutil.which("setpriv") is None:
        pytest.skip("not installed: setpriv")
    (tmp_path / "as").write_text(WRAPPER)
    (tmp_path / "as").chmod(0o755)
    return tmp_path / "calls"


@pytest.fixture
def runner(tmp_path: Path, calls: Path) -> Iterator[Runner]:
    (tmp_path / "spool").mkdir()
    template = f"{tmp_path / 'as'} {{user}} /usr/bin/env {{environment}} /bin/sh -c {{command}}"
    one = Runner(tmp_path / "spool", Site(grace_s=0.5, run_as=template))
    yield one
    one.close()


def test_a_job_runs_as_its_user_with_its_environment(runner: Runner) -> None:
    runner.start(a_lease('id -un; echo "$SHOT"', user="nobody", environment={"SHOT": "a b"}))
    end = wait(runner)
    assert end.state == "FINISHED", log_of(runner)
    assert log_of(runner).split(b"\n")[1] == b"a b"
    assert os.geteuid() != 0 or log_of(runner).startswith(b"nobody\n")


def test_a_job_of_nobody_in_particular_is_an_error_that_says_why(runner: Runner) -> None:
    runner.start(a_lease("true", user="root"))
    end = wait(runner)
    assert (end.state, "runs no commands as 'root'" in end.reason) == ("ERROR", True)


def test_what_a_job_started_is_stopped_through_the_template_wherever_it_went(runner: Runner, calls: Path) -> None:
    runner.start(a_lease("setsid sh -c 'echo $$; exec sleep 600' & sleep 600", user="nobody"))
    pid = int(poll_until(lambda: b"\n" in log_of(runner) and log_of(runner).split()[0]))
    runner.stop(1)
    end = wait(runner)
    assert end.state == "STOPPED"
    poll_until(lambda: not is_alive(pid), 20)
    told = [line for line in calls.read_text().splitlines() if "/environ" in line]
    assert any(" kill -15 " in line for line in told), "asked to end"
    assert all(line.startswith("nobody ") and "COALITION_RUN=" in line for line in told)


def processes_of(user: str, mark: str) -> list[psutil.Process]:
    """What a user runs that carries a mark."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.username() == user and one.environ().get("SHOT") == mark and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.Error:  # it has ended
            continue
    return found


def test_sudo_runs_a_job_as_another_user_and_all_that_it_started_is_stopped_through_it(tmp_path: Path) -> None:
    if shutil.which("sudo") is None or os.geteuid() != 0:
        pytest.skip("not installed, or not root: sudo")
    (tmp_path / "spool").mkdir()
    mark = f"{tmp_path}"
    runner = Runner(tmp_path / "spool", Site(grace_s=0.5, run_as=SUDO))
    with contextlib.closing(runner):
        tree = "(setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' & setsid sleep 600 &) ; sleep 600 & id -un; echo ready; wait"
        runner.start(a_lease(tree, user="nobody", environment={"SHOT": mark}))
        poll_until(lambda: log_of(runner) == b"nobody\nready\n", state=lambda: log_of(runner))
        poll_until(lambda: len(processes_of("nobody", mark)) >= 5, state=lambda: processes_of("nobody", mark))
        runner.stop(1)
        assert wait(runner).state == "STOPPED"
        poll_until(lambda: not processes_of("nobody", mark), 20, state=lambda: processes_of("nobody", mark))


def test_a_signal_reaches_what_carries_the_mark_and_nothing_else() -> None:
    marks = ("one", "two")
    started = [subprocess.Popen(["sleep", "600"], env={**os.environ, "COALITION_RUN": mark}) for mark in marks]
    poll_until(lambda: all(b"COALITION_RUN" in Path(f"/proc/{one.pid}/environ").read_bytes() for one in started))
    subprocess.run(["/bin/sh", "-c", signal_to("COALITION_RUN=one", 15)], check=True)
    assert started[0].wait(20) == -15
    assert started[1].poll() is None
    started[1].kill()
    started[1].wait()
