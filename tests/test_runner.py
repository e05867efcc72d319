"""What a run is promised: its log, its end, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from coalition.errors import BadInput
from coalition.model import Lease
from coalition.places import MAX_TEXT, PLATFORM, PathRules, expand
from coalition.progress import Progress
from coalition.runner import Ended, Runner, Site, describe
from tests.polling import poll_until

ROOT = Path(__file__).parents[1]
LINUX = "linux"
OURS = ("COALITION_RUN", "COALITION_NOTICE")
SHOW = {"name": "SHOW", "linux": "/mnt/show", "macos": "/Volumes/show", "windows": "X:\\show"}


def a_lease(command: str, attempt: int = 1, **fields: Any) -> Lease:
    base = {"title": "", "dir": "", "environment": {}, "user": "", "timeout_s": 0.0, "progress_pattern": None}
    return Lease(attempt=attempt, job=7, command=command, **{**base, **fields})


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    spool = tmp_path / "spool"
    spool.mkdir()
    one = Runner(spool, Site(server="http://farm:1", worker="node1", grace_s=0.3))
    yield one
    one.close()


def wait(runner: Runner, attempt: int = 1) -> Ended:
    """The end of that run."""
    seen: list[Ended] = []

    def ended() -> list[Ended]:
        seen.extend(runner.poll(0.2))
        return [end for end in seen if end.attempt == attempt]

    return poll_until(ended, 20)[0]


def run(runner: Runner, command: str, **fields: Any) -> Ended:
    runner.start(a_lease(command, **fields))
    return wait(runner, fields.get("attempt", 1))


def log_of(runner: Runner, attempt: int = 1) -> bytes:
    return (runner.spool / f"{attempt}.log").read_bytes()


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def pid_in(path: Path) -> int:
    return poll_until(lambda: path.exists() and int(path.read_text() or 0))


# ---------------------------------------------------------------- how a run ends


def test_a_command_that_succeeds_is_finished_and_its_output_is_one_stream(runner: Runner) -> None:
    end = run(runner, "echo out; echo err >&2; echo more")
    assert (end.state, end.exit_code, end.signal, end.reason) == ("FINISHED", 0, None, "")
    assert log_of(runner) == b"out\nerr\nmore\n"
    assert end.log_bytes == 13


def test_an_exit_code_is_an_error_and_is_told(runner: Runner) -> None:
    end = run(runner, "exit 3")
    assert (end.state, end.exit_code, end.signal, end.reason) == ("ERROR", 3, None, "exit code 3")


def test_a_signal_is_an_error_and_is_told(runner: Runner) -> None:
    end = run(runner, "kill -SEGV $$")
    assert (end.state, end.exit_code, end.signal) == ("ERROR", None, signal.SIGSEGV)
    assert end.reason == "killed by signal 11 (SIGSEGV)"


@pytest.mark.parametrize("command", ["exec sleep 60", "sleep 60; true"])
def test_a_checkpoint_signal_without_a_handler_is_no_fault_of_the_job(runner: Runner, command: str) -> None:
    runner.start(a_lease(command, environment={"COALITION_CHECKPOINT_SIGNAL": "USR1"}))
    runner.warn(60.0, 5.0)
    end = wait(runner)
    assert (end.state, end.reason) == ("STOPPED", "ended by the signal that its machine is taken away")


def test_a_missing_command_is_an_error_with_the_reason_in_the_log(runner: Runner) -> None:
    end = run(runner, "no-such-renderer --frame 1")
    assert (end.state, end.exit_code, end.reason) == ("ERROR", 127, "exit code 127 (command not found)")
    assert b"no-such-renderer" in log_of(runner)


@pytest.mark.parametrize(
    ("place", "reason"),
    [("/no/such/place", "directory /no/such/place does not exist"), ("/etc/passwd", "directory /etc/passwd does not exist")],
)
def test_a_missing_directory_is_an_error_with_the_reason_in_the_log(runner: Runner, place: str, reason: str) -> None:
    end = run(runner, "true", dir=place)
    assert (end.state, end.exit_code, end.signal) == ("ERROR", None, None)
    assert end.reason.startswith(reason)
    assert log_of(runner) == f"* {end.reason}\n".encode()


def test_a_command_that_is_too_long_for_the_system_is_an_error(runner: Runner) -> None:
    end = run(runner, "true", environment={"BIG": "x" * (MAX_TEXT + 10)})
    assert end.state == "ERROR"
    assert "longer than this system allows" in end.reason


def test_a_log_that_cannot_be_written_is_an_error_of_the_worker(runner: Runner) -> None:
    runner.spool.rename(runner.spool.with_name("gone"))
    end = run(runner, "true")
    assert (end.state, end.reason) == ("ERROR", "cannot start: the worker cannot write the log: No such file or directory")


@pytest.mark.parametrize(
    ("exit_code", "number", "words"),
    [
        (0, None, ""),
        (126, None, "exit code 126 (not executable)"),
        (139, None, "exit code 139 (its command was killed by SIGSEGV)"),
        (250, None, "exit code 250"),
        (None, 9, "killed by signal 9 (SIGKILL)"),
    ],
)
def test_an_end_is_described_in_words(exit_code: int | None, number: int | None, words: str) -> None:
    assert describe(exit_code, number) == words


# ---------------------------------------------------------------- timeout, stop, and what is left


def test_a_timeout_is_an_error_that_says_so(runner: Runner) -> None:
    end = run(runner, "printf working; sleep 60", timeout_s=0.2)
    assert (end.state, end.reason) == ("ERROR", "timeout: ran longer than 0.2 s")
    assert log_of(runner) == b"working\n* timeout: ran longer than 0.2 s\n"
    assert end.run_s < 10


def test_silence_is_an_error_that_says_for_how_long_and_output_of_any_kind_ends_it(runner: Runner) -> None:
    end = run(runner, "for n in 1 2 3 4 5 6; do printf .; sleep 0.1; done; sleep 60", timeout_output_s=1.5)
    assert (end.state, end.reason) == ("ERROR", "no output for 1.5 s")
    assert log_of(runner) == b"......\n* no output for 1.5 s\n"
    assert 2.0 < end.run_s < 15


def test_output_that_replaces_itself_is_no_silence(runner: Runner) -> None:
    rewrite = "for n in 1 2 3 4 5 6 7 8; do : > /dev/stdout; printf x; sleep 0.25; done"
    assert run(runner, rewrite, timeout_output_s=1.5).state == "FINISHED"


def test_progress_that_does_not_grow_is_an_error_that_says_where_it_stands(runner: Runner) -> None:
    stuck = "for n in 10 20 30 40; do echo PROGRESS:$n; sleep 0.2; done; while :; do echo PROGRESS:40; sleep 0.05; done"
    end = run(runner, stuck, timeout_progress_s=1.5)
    assert (end.state, end.reason) == ("ERROR", "no progress for 1.5 s, at 40%")
    assert end.run_s > 2.0


def test_limits_that_are_kept_change_nothing(runner: Runner) -> None:
    limits = {"timeout_s": 30.0, "timeout_output_s": 20.0, "timeout_progress_s": 20.0}
    assert run(runner, "echo PROGRESS:50", **limits).state == "FINISHED"


def test_an_exit_code_that_means_no_licence_says_so(runner: Runner) -> None:
    end = run(runner, "exit 42", licence_codes=(41, 42))
    assert (end.state, end.exit_code, end.no_licence, end.reason) == ("ERROR", 42, True, "no licence: exit code 42")
    other = run(runner, "exit 43", attempt=2, licence_codes=(41, 42))
    assert (other.state, other.no_licence, other.reason) == ("ERROR", False, "exit code 43")


def test_a_run_that_was_stopped_is_stopped_whatever_its_exit_code(runner: Runner, tmp_path: Path) -> None:
    runner.start(a_lease(f"trap 'exit 42' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done", licence_codes=(42,)))
    poll_until(lambda: (tmp_path / "up").exists())
    runner.stop(1)
    end = wait(runner)
    assert (end.state, end.no_licence) == ("STOPPED", False)


def test_a_stopped_run_may_clean_up_in_its_grace(runner: Runner, tmp_path: Path) -> None:
    runner.site = Site(grace_s=20)
    runner.start(a_lease(f"trap 'echo bye; exit 0' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"))
    poll_until(lambda: (tmp_path / "up").exists())
    runner.stop(1, "stopped by the server")
    end = wait(runner)
    assert (end.state, end.exit_code, end.reason) == ("STOPPED", 0, "stopped by the server")
    assert log_of(runner).endswith(b"bye\n")


def test_a_renderer_keeps_its_grace_though_the_shell_around_it_ends_at_once(runner: Runner, tmp_path: Path) -> None:
    runner.site = Site(grace_s=20)
    save = "signal.signal(15, lambda *_: (time.sleep(.3), print('saved'), sys.exit()))"
    renderer = f"import signal, sys, time\n{save}\nopen('{tmp_path}/up', 'w')\nsignal.pause()"
    runner.start(a_lease('"$PYTHON" -c "$PROGRAM"; true', environment={"PYTHON": sys.executable, "PROGRAM": renderer}))
    poll_until(lambda: (tmp_path / "up").exists())
    runner.stop(1)
    assert wait(runner).state == "STOPPED"
    assert b"saved" in log_of(runner)


def test_stop_ends_a_tree_that_ignores_sigterm_and_children_in_sessions_of_their_own(runner: Runner, tmp_path: Path) -> None:
    deaf = f"trap '' TERM; (echo $$ > {tmp_path}/deaf)"
    escape = f"setsid sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/escaped; while :; do sleep 1; done' &"
    runner.start(a_lease(f"{deaf}; {escape} while :; do sleep 1; done"))
    pids = [pid_in(tmp_path / "deaf"), pid_in(tmp_path / "escaped")]
    runner.stop(1)
    end = wait(runner)
    assert (end.state, end.signal) == ("STOPPED", signal.SIGKILL)
    assert not [pid for pid in pids if is_alive(pid)]


def test_what_a_command_leaves_in_its_group_is_killed_when_it_ends(runner: Runner, tmp_path: Path) -> None:
    end = run(runner, f"sleep 600 & echo $! > {tmp_path}/left; echo done")
    assert (end.state, end.exit_code) == ("FINISHED", 0)
    assert not is_alive(pid_in(tmp_path / "left"))
    assert log_of(runner) == b"done\n* the command left 1 process behind: killed\n"


def test_stopping_twice_or_what_has_ended_does_nothing(runner: Runner) -> None:
    runner.start(a_lease("sleep 60"))
    runner.stop(1, "first")
    runner.stop(1, "second")
    assert wait(runner).reason == "first"
    runner.stop(1)
    runner.stop(99)


def test_close_kills_what_runs(tmp_path: Path) -> None:
    one = Runner(tmp_path)
    one.start(a_lease(f"echo $$ > {tmp_path}/pid; sleep 600"))
    pid = pid_in(tmp_path / "pid")
    one.close()
    assert not is_alive(pid)


AGENT = """
import sys
from pathlib import Path
from coalition.model import Lease
from coalition.runner import Runner, Site
spool, command = Path(sys.argv[1]), sys.argv[2]
runner = Runner(spool, Site(grace_s=0.2), adopt=True, keep=True)
runner.start(Lease(1, 7, "", command, "", {}, "", 0.0, None))
if len(sys.argv) > 3:
    runner.start(Lease(2, 8, "", sys.argv[3], "", {}, "", 0.0, None))
while 1 in runner.runs:
    for end in runner.poll(0.2):
        print(end.state.value, end.reason, flush=True)
    runner.tend()
print("closing", flush=True)
sys.stdin.readline()
runner.close()
"""


AGENT_OF_TWO = """
import sys
from pathlib import Path
from coalition.model import Lease
from coalition.runner import Runner, Site
spool = Path(sys.argv[1])
runner = Runner(spool, Site(grace_s=0.2), adopt=True)
def run(attempt, command):
    runner.start(Lease(attempt, 7, "", command, "", {}, "", 0.0, None))
    while True:
        for end in runner.poll(0.2):
            return end
first = run(1, "echo first")
print("sealed" if first.sealed else "", first.log)
runner.discard_log(first)
second = run(2, "echo 2")
print([path.name for path in spool.glob("*.log")], second.log)
runner.discard_log(second)
third = run(3, "DAEMON; while [ ! -s %s/daemon ]; do sleep 0.02; done" % spool)
print("sealed" if third.sealed else "unsealed")
runner.discard_log(third)
print([path.name for path in spool.glob("*.log")])
runner.close()
"""


def an_agent(spool: Path, *commands: str) -> subprocess.Popen[str]:
    """A process of its own that adopts orphans and has a watchdog, as the real agent."""
    arguments = [sys.executable, "-c", AGENT, str(spool), *commands]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.skipif(sys.platform != "linux", reason="adoption of orphans is Linux's")
@pytest.mark.parametrize("clean", ["", "env -i PATH=$PATH "], ids=["marked", "without our mark"])
def test_daemons_of_a_command_that_ended_are_found_and_killed(tmp_path: Path, clean: str) -> None:
    daemon = f"({clean}setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 600' &)"
    with an_agent(tmp_path, f"{daemon}; while [ ! -s {tmp_path}/daemon ]; do sleep 0.02; done") as agent:
        assert agent.stdout
        assert agent.stdout.readline() == "FINISHED \n"
        assert not is_alive(pid_in(tmp_path / "daemon"))
        agent.communicate("\n")
    assert b"left 1 process behind" in (tmp_path / "1.log").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="adoption of orphans is Linux's")
def test_the_daemon_of_a_command_that_still_runs_is_left_alone(tmp_path: Path) -> None:
    daemon = f"(setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 600' &); sleep 600"
    short = f"while [ ! -s {tmp_path}/daemon ]; do sleep 0.02; done"
    with an_agent(tmp_path, short, daemon) as agent:
        assert agent.stdout
        assert agent.stdout.readline() == "FINISHED \n"
        assert agent.stdout.readline() == "closing\n"
        pid = pid_in(tmp_path / "daemon")
        assert is_alive(pid)
        agent.communicate("\n")
    assert not is_alive(pid)


def test_when_the_agent_is_killed_its_jobs_end_too(tmp_path: Path) -> None:
    daemon = f"(setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 600' &)"
    with an_agent(tmp_path, f"{daemon}; echo $$ > {tmp_path}/job; sleep 600") as agent:
        pids = [pid_in(tmp_path / "job"), pid_in(tmp_path / "daemon")]
        agent.kill()
    poll_until(lambda: not [pid for pid in pids if is_alive(pid)])


# ---------------------------------------------------------------- patterns in logs

MISSING = {"error_patterns": ("Error: missing .*",)}


def test_a_matching_line_makes_an_error_of_exit_code_0_and_is_told(runner: Runner) -> None:
    end = run(runner, "echo fine; echo 'x Error: missing texture a.png'; echo more", **MISSING)
    assert (end.state, end.exit_code, end.no_licence) == ("ERROR", 0, False)
    assert end.reason == "its log matched 'Error: missing .*': x Error: missing texture a.png"
    assert log_of(runner).endswith(f"more\n* {end.reason}\n".encode())


def test_a_log_without_a_match_changes_nothing(runner: Runner) -> None:
    end = run(runner, "echo Error; echo missing", **MISSING)
    assert (end.state, end.reason, end.log) == ("FINISHED", "", b"Error\nmissing\n")
    assert run(runner, "exit 4", attempt=2, **MISSING).reason == "exit code 4"


def test_a_match_in_the_last_line_without_its_end_counts(runner: Runner) -> None:
    assert run(runner, "printf 'Error: missing newline'", **MISSING).state == "ERROR"


def test_a_match_that_is_written_in_two_parts_counts(runner: Runner) -> None:
    end = run(runner, "printf 'Error: mis'; sleep 0.7; echo 'sing half'", **MISSING)
    assert end.reason.endswith(": Error: missing half")


def test_a_licence_pattern_means_no_licence_and_wins_over_an_error(runner: Runner) -> None:
    runner.site = Site(grace_s=20)
    patterns = {**MISSING, "licence_patterns": ("no licence for \\w+",)}
    end = run(runner, "echo Error: missing key; sleep 0.5; echo no licence for arnold; exit 1", **patterns)
    assert (end.state, end.exit_code, end.no_licence) == ("ERROR", 1, True)
    assert end.reason == "no licence: its log matched 'no licence for \\\\w+': no licence for arnold"


def test_what_we_say_in_a_log_ourselves_is_not_taken_for_the_jobs(runner: Runner) -> None:
    end = run(runner, "sleep 60 & exec sleep 0.2", error_patterns=("left behind", "killed"))
    assert (end.state, end.reason) == ("FINISHED", "")
    assert b"behind: killed" in log_of(runner)


def test_a_job_that_goes_on_after_a_match_is_stopped_after_its_grace(runner: Runner) -> None:
    end = run(runner, "echo Error: missing all; sleep 600", **MISSING)
    assert (end.state, end.signal, end.reason) == ("ERROR", 15, "its log matched 'Error: missing .*': Error: missing all")
    assert end.run_s < 15


def test_matches_are_found_in_garbage_and_in_a_line_without_end(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(range(256)).replace(b"\n", b"") * 4_000 + b"Error: missing \xff sense" + b"\0" * 900_000)
    end = run(runner, f"cat {tmp_path}/log", **MISSING)
    assert end.state == "ERROR"
    assert "Error: missing \ufffd sense" in end.reason
    assert len(end.reason) < 1_000


def test_a_hopeless_pattern_is_given_up_and_others_go_on(runner: Runner) -> None:
    hopeless = "(a+)+$"
    runner.start(a_lease(f"echo {'a' * 60}b; echo Error: missing it", error_patterns=(hopeless, *MISSING["error_patterns"])))
    begun = time.monotonic()
    assert run(runner, "true", attempt=2).state == "FINISHED"
    assert time.monotonic() - begun < 10
    end = wait(runner)
    assert end.reason == "its log matched 'Error: missing .*': Error: missing it"
    assert f"* {hopeless!r} takes too long and was given up\n".encode() in log_of(runner)


def test_a_run_whose_log_is_still_read_holds_no_slot(runner: Runner) -> None:
    runner.start(a_lease(f"for n in 1 2 3; do echo {'a' * 60}b; done", error_patterns=("(a+)+$",) * 4))
    poll_until(lambda: runner.poll(0.05) or not runner.busy)
    assert 1 in runner.runs
    assert wait(runner).state == "FINISHED"


def test_when_the_process_that_reads_logs_dies_runs_end_all_the_same(runner: Runner) -> None:
    runner.start(a_lease("echo Error: missing; sleep 1", **MISSING))
    assert runner._patterns
    os.kill(runner._patterns.pid, signal.SIGKILL)
    end = wait(runner)
    assert end.state == "FINISHED"
    assert b"* its log was not looked at" in log_of(runner)
    assert run(runner, "echo Error: missing again", attempt=2, **MISSING).state == "ERROR"


# ---------------------------------------------------------------- logs


def test_binary_output_is_kept_as_it_is(runner: Runner, tmp_path: Path) -> None:
    garbage = bytes(range(256)) * 300
    (tmp_path / "garbage").write_bytes(garbage)
    assert run(runner, f"cat {tmp_path}/garbage").state == "FINISHED"
    assert log_of(runner) == garbage


def test_a_short_log_is_told_with_the_end_and_a_long_one_is_not(runner: Runner) -> None:
    assert run(runner, "echo short").log == b"short\n"
    assert run(runner, "true", attempt=2).log == b""
    long = run(runner, "head -c 4097 /dev/zero", attempt=3)
    assert (long.log, long.log_bytes) == (None, 4_097)


def test_a_discarded_log_is_gone_or_serves_a_later_run_from_its_first_byte(tmp_path: Path) -> None:
    program = AGENT_OF_TWO.replace("DAEMON", f"(setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 600' &)")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.split() == ["sealed", "b'first\\n'", "['2.log']", "b'2\\n'", "unsealed", "[]"], done.stderr
    assert not list(tmp_path.glob("*.log"))


def test_output_can_be_read_while_the_command_runs(runner: Runner) -> None:
    runner.start(a_lease("echo early; sleep 600"))
    poll_until(lambda: log_of(runner) == b"early\n")
    assert 1 in runner.runs


# ---------------------------------------------------------------- environment, umask, $(NAME), places


def environment_of(runner: Runner, **fields: Any) -> dict[str, str]:
    run(runner, '"$PYTHON" -c "import os, json; print(json.dumps(dict(os.environ)))"', **fields)
    return dict(json.loads(log_of(runner)))


def test_a_command_sees_the_workers_the_farms_and_its_own_environment(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_WORKER", "worker")
    monkeypatch.setenv("OVERRIDDEN", "worker")
    monkeypatch.setenv("COALITION_TOKEN", "secret")
    runner.site = Site("http://farm:1", "node1", {"OF_FARM": "$(OF_WORKER)/farm", "OVERRIDDEN": "farm"})
    own = {"PYTHON": sys.executable, "OVERRIDDEN": "job", "SCENE": "$(OF_FARM)/a $(COALITION_JOB)"}
    seen = environment_of(runner, environment=own)
    assert seen["OF_WORKER"] == "worker"
    assert seen["OF_FARM"] == "worker/farm"
    assert seen["OVERRIDDEN"] == "job"
    assert seen["SCENE"] == "worker/farm/a 7"
    known = {name: text for name, text in seen.items() if name.startswith("COALITION_") and name not in OURS}
    assert known == {
        "COALITION_JOB": "7",
        "COALITION_ATTEMPT": "1",
        "COALITION_SERVER": "http://farm:1",
        "COALITION_WORKER": "node1",
    }


def test_umask_and_directory_are_the_farms_and_the_jobs(runner: Runner, tmp_path: Path) -> None:
    runner.site = Site(umask=0o027)
    before = os.umask(0o022)
    os.umask(before)
    assert run(runner, "touch made; pwd; umask", dir="$(PLACE)", environment={"PLACE": str(tmp_path)}).state == "FINISHED"
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o640
    assert log_of(runner).decode().split() == [str(tmp_path), "0027"]
    assert os.umask(before) == before


def test_runs_yield_the_processor_by_what_the_farm_says_beyond_what_the_worker_does(runner: Runner) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for nice, seen in ((7, own + 7), (19, 19), (0, own)):
        runner.site = Site(nice=nice)
        assert run(runner, f'until [ "$(nice)" = {seen} ]; do :; done').state == "FINISHED"


def test_what_was_made_ready_starts_with_what_holds_at_its_start(runner: Runner) -> None:
    lease = a_lease("echo $COLOUR")
    runner.make_ready(lease)
    runner.site = Site(environment={"COLOUR": "red"})
    runner.start(lease)
    assert wait(runner).log == b"red\n"


def test_its_time_runs_from_its_start_and_not_from_when_it_was_made_ready(runner: Runner) -> None:
    lease = a_lease("sleep 0.3", timeout_s=0.9)
    runner.make_ready(lease)
    assert run(runner, "sleep 1", attempt=2).state == "FINISHED"
    runner.make_ready(lease)
    runner.start(lease)
    ended = wait(runner)
    assert (ended.state, ended.run_s < 0.9) == ("FINISHED", True)


def test_what_was_made_ready_and_never_starts_leaves_nothing(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    before = psutil.Process().num_fds()
    for attempt in range(1, 4):
        runner.make_ready(a_lease("true", attempt))
    runner.make_ready(a_lease("true", 4, dir="\0"))
    assert run(runner, "echo other", attempt=5).log == b"other\n"
    assert psutil.Process().num_fds() == before
    runner.close()
    assert os.listdir(tmp_path) == ["5.log"]


def test_what_cannot_be_made_ready_is_told_when_it_should_start(runner: Runner) -> None:
    lease = a_lease("true", environment={"A": "$(NOWHERE)"}, dir="nowhere")
    runner.make_ready(lease)
    runner.start(lease)
    ended = wait(runner)
    assert (ended.state, ended.exit_code) == ("ERROR", None)
    assert b"nowhere" in log_of(runner)


def test_a_directory_is_the_jobs_alone(runner: Runner, tmp_path: Path) -> None:
    run(runner, "pwd", dir=str(tmp_path))
    run(runner, "pwd", attempt=2)
    assert log_of(runner, 2).decode().strip() == os.getcwd() == str(Path.cwd())


def test_a_command_inherits_no_descriptor_of_the_agents_parent(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    one = Runner(tmp_path)
    assert run(one, f"[ ! -e /dev/fd/{writing} ]").state == "FINISHED"
    one.close()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("render $(SCENE).pov", "render /jobs/tea.pov"),
        ("echo $(date) $HOME $(not a name)", "echo $(date) $HOME $(not a name)"),
        ("$(PATH)", "/opt/bin:/usr/bin"),
        ("$(LOOP)", "a $(LOOP)"),
        ("$(PING)", "1 2 $(PING)"),
        ("$(ROOT)", "/worker"),
        ("$(SHOW)/x", "/mnt/show/x"),
    ],
)
def test_names_are_replaced_by_the_jobs_value_then_the_workers_then_the_place(text: str, result: str) -> None:
    job = {"SCENE": "$(DIR)/tea", "DIR": "/jobs", "PATH": "/opt/bin:$(PATH)"}
    job.update(LOOP="a $(LOOP)", PING="1 $(PONG)", PONG="2 $(PING)")
    worker = {"PATH": "/usr/bin", "ROOT": "/worker", "DIR": "/worker/jobs"}
    assert expand(text, (job, worker, PathRules([SHOW], LINUX).places)) == result


def test_values_that_grow_without_end_are_refused() -> None:
    names = {f"N{i}": f"$(N{i + 1})" * 10 for i in range(30)}
    with pytest.raises(BadInput, match="grows beyond"):
        expand("$(N0)", [{**names, "N30": "x"}])


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("/Volumes/show/a.pov", "/mnt/show/a.pov"),
        ("X:\\show\\shots\\a.pov", "/mnt/show/shots/a.pov"),
        ("x:/Show/a.pov", "/mnt/show/a.pov"),
        ("render -o X:\\show\\out\\a.png X:\\show\\b.pov", "render -o /mnt/show/out/a.png /mnt/show/b.pov"),
        ('render "X:\\show\\two words\\a.pov" \\n', 'render "/mnt/show/two words/a.pov" \\n'),
        ("render 'X:\\\\show\\\\a' --to=/Volumes/show", "render '/mnt/show/a' --to=/mnt/show"),
        ("/Volumes/show:/Volumes/show/b;X:\\show\\c", "/mnt/show:/mnt/show/b;/mnt/show/c"),
        ("/Volumes/showreel /other/Volumes/show", "/Volumes/showreel /other/Volumes/show"),
        ("/mnt/show/a", "/mnt/show/a"),
        ("/Volumes/show/tex/wood.png", "/fast/tex/wood.png"),
        ("\\\\nas\\plates\\001.exr", "/mnt/plates/001.exr"),
        ("sed s/\\n/x/ file", "sed s/\\n/x/ file"),
    ],
)
def test_places_of_other_platforms_become_this_ones(text: str, result: str) -> None:
    textures = {"name": "TEX", "linux": "/fast/tex", "macos": "/Volumes/show/tex"}
    plates = {"name": "PLATES", "linux": "/mnt/plates", "windows": "\\\\nas\\plates"}
    nowhere = {"name": "NONE", "macos": "/Volumes/none", "windows": "N:\\none"}
    assert PathRules([SHOW, textures, plates, nowhere], LINUX).map(text) == result


def test_a_place_that_is_here_already_is_not_taken_for_a_shorter_foreign_one() -> None:
    rules = PathRules([{"name": "VOL", "linux": "/mnt/show/vol", "macos": "/mnt/show"}], LINUX)
    assert rules.map("/mnt/show/vol/a /mnt/show/b") == "/mnt/show/vol/a /mnt/show/vol/b"


def test_places_are_replaced_in_directory_command_and_environment(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "shots").mkdir()
    runner.site = Site(paths=[{**SHOW, PLATFORM: str(tmp_path)}])
    run(runner, "pwd; echo X:\\show\\a $SCENE $(SHOW)", dir="X:\\show\\shots", environment={"SCENE": "X:\\show\\b"})
    assert log_of(runner).decode().split() == [f"{tmp_path}/shots", f"{tmp_path}/a", f"{tmp_path}/b", str(tmp_path)]


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize(
    ("pattern", "log", "value"),
    [
        (None, b"PROGRESS:10\nPROGRESS:42\n", 0.42),
        (None, b"nothing", 0.0),
        ("", b"PROGRESS:10", 0.0),
        (r"Rendered %percent ?%", b"Rendered 12.5%\r", 0.125),
        (r"done=%one", b"done=.25 done=0.75", 0.75),
        (r"%percent%|part %one", b"10% part 0.3", 0.3),
        (None, b"PROGRESS:900", 1.0),
        (r"(\d+)/%percent", b"1/50", 0.5),
        ("no number", b"no number", 0.0),
    ],
)
def test_the_last_match_of_the_pattern_is_the_progress(pattern: str | None, log: bytes, value: float) -> None:
    progress = Progress(pattern)
    progress.feed(log)
    assert progress.value == pytest.approx(value)


def test_progress_is_found_across_pieces_of_one_endless_line_in_little_memory() -> None:
    progress = Progress(None)
    for _ in range(200):
        progress.feed(b"\xff\x00garbage" * 2_000)
    progress.feed(b"PROGRE")
    progress.feed(b"SS:55")
    assert progress.value == 0.55
    assert len(progress._carry) <= 4_096


def test_a_runs_progress_is_read_from_its_log(runner: Runner) -> None:
    runner.start(a_lease("printf 'x%.0s' $(seq 300000); printf 'PROGRESS:30'; sleep 600"))
    poll_until(lambda: runner.progress(1) == 0.3, state=lambda: runner.progress(1))


def test_a_pattern_that_never_ends_is_given_up_and_the_agent_goes_on(runner: Runner) -> None:
    runner.start(a_lease(f"echo {'a' * 40}b; sleep 600", progress_pattern=r"(a+)+c%percent"))
    poll_until(lambda: log_of(runner))
    started = time.monotonic()
    assert runner.progress(1) == 0.0
    assert time.monotonic() - started < 5
    assert b"* the progress pattern takes too long\n" in log_of(runner)
    assert runner.progress(1) == 0.0


# ---------------------------------------------------------------- the loop


def test_wake_ends_a_wait(runner: Runner) -> None:
    runner.wake()
    started = time.monotonic()
    assert runner.poll(30) == []
    assert time.monotonic() - started < 10


def test_hundreds_of_runs_end_once_each(runner: Runner) -> None:
    waiting = list(range(1, 201))
    ends: list[Ended] = []
    while len(ends) < 200:
        while waiting and len(runner.runs) < 4:
            runner.start(a_lease("echo $COALITION_ATTEMPT", attempt=waiting.pop()))
        ends += runner.poll(5)
    assert sorted(end.attempt for end in ends) == list(range(1, 201))
    assert {end.state for end in ends} == {"FINISHED"}
    assert all(log_of(runner, n) == f"{n}\n".encode() for n in range(1, 201))


def test_the_memory_that_a_run_took_at_most_is_told(runner: Runner) -> None:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10  # of this process: what has less is not told from it
    taken = max(400 << 20, most + (200 << 20))
    ended = run(runner, f"{sys.executable} -c \"b = bytearray({taken}); b[::4096] = b'x' * len(b[::4096])\"")
    assert ended.exit_code == 0
    assert taken < ended.memory_bytes < taken + (200 << 20)
