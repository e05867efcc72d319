"""What the agent is promised to do, against a server that speaks the protocol and does what each test wants."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from coalition.errors import BadInput, Conflict, NotAuthenticated
from coalition.link import PIECE_BYTES, Connection
from coalition.outbox import Outbox, StateDir
from coalition.worker import Agent, WorkerOptions, _Schedule, gpu_memory_bytes
from tests.fakes.protocol import UNWELL, Farm
from tests.polling import poll_until

ROOT = Path(__file__).parents[1]


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as one:
        yield one


Start = Callable[..., "InThread"]


class InThread:
    """An agent in a thread of this process."""

    def __init__(self, options: WorkerOptions) -> None:
        self.agent = Agent(options)
        self.exit_code: int | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.exit_code = self.agent.run()

    def end(self, times: int = 1) -> int:
        for _ in range(times):
            self.agent.end()
        return self.wait()

    def wait(self) -> int:
        self.thread.join(20)
        assert self.exit_code is not None, "the agent did not end"
        return self.exit_code


@pytest.fixture
def start(tmp_path: Path, farm: Farm) -> Iterator[Start]:
    agents: list[InThread] = []

    def begin(**fields: Any) -> InThread:
        base = {"server": farm.url, "name": "node1", "slots": 2, "state_dir": str(tmp_path / "state")}
        agents.append(InThread(WorkerOptions(**{**base, **fields})))
        return agents[-1]

    yield begin
    for agent in agents:
        if agent.exit_code is None:
            agent.end(3)


def agent_process(farm: Farm, state: Path, **fields: Any) -> subprocess.Popen[str]:
    """The agent as `coalition worker` runs it: a process of its own."""
    options = {"server": farm.url, "name": "node1", "slots": 2, "state_dir": str(state), **fields}
    program = "import json, sys; from coalition.worker import *; sys.exit(run_worker(WorkerOptions(**json.loads(sys.argv[1]))))"
    return subprocess.Popen([sys.executable, "-c", program, json.dumps(options)], stderr=subprocess.PIPE, text=True, cwd=ROOT)


def told(farm: Farm, *attempts: int) -> None:
    poll_until(lambda: set(attempts) <= farm.results.keys(), 20, lambda: (farm.results, farm.syncs[-2:]))


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def pid_in(path: Path) -> int:
    return poll_until(lambda: path.exists() and int(path.read_text() or 0))


# ---------------------------------------------------------------- joining


def test_a_worker_enrols_with_its_name_slots_tags_and_facts(farm: Farm, start: Start) -> None:
    start(slots=3, affinity=["linux,gpu", "linux"], token="id.secret", identity="i-1")
    wanted = poll_until(lambda: farm.enrolments)[0]
    assert (wanted.name, wanted.slots, wanted.affinity) == ("node1", 3, (("linux", "gpu"), ("linux",)))
    assert (wanted.token, wanted.identity) == ("id.secret", "i-1")
    assert wanted.facts.cpus >= 1
    assert wanted.facts.memory_bytes > 1 << 20


def test_the_credential_is_for_this_users_eyes_and_its_own_server_only(farm: Farm, start: Start, tmp_path: Path) -> None:
    start()
    kept = tmp_path / "state/credential"
    poll_until(kept.exists)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text())["credential"] == farm.credential
    with Farm() as other:
        agent = Agent(WorkerOptions(server=other.url, state_dir=str(tmp_path / "two")))
        agent._known = json.loads(kept.read_text())
        assert json.loads(agent._enrol_body())["credential"] == ""
        agent._known["server"] = other.url
        assert json.loads(agent._enrol_body())["credential"] == farm.credential
        agent._close()


@pytest.mark.parametrize(("told", "memory"), [("echo 24564; echo 8192", 8_192 << 20), ("echo N/A", 0), ("exit 9", 0)])
def test_the_memory_of_the_smallest_gpu_is_what_counts(
    told: str, memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{told}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_memory_bytes() == memory


def test_a_wrong_token_is_said_once_and_waited_for(farm: Farm, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    farm.token = "right.one"
    agent = start(token="wrong.one")
    poll_until(lambda: agent.agent._refusals.failures >= 3, 15)
    said = [record.message for record in caplog.records if "does not accept" in record.message]
    assert said == ["the server does not accept this worker: no such token; trying again now and then"]
    farm.token = ""
    poll_until(lambda: farm.enrolments, 20)
    assert agent.exit_code is None


def test_a_name_in_use_is_waited_for(farm: Farm, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    farm.errors = [("/enrol", Conflict("node1 is in use")), ("/enrol", Conflict("node1 is in use"))]
    start()
    poll_until(lambda: farm.enrolments, 20)
    assert len([record for record in caplog.records if "node1 is in use" in record.message]) == 1


def test_options_that_the_server_refuses_end_the_worker(farm: Farm, start: Start) -> None:
    farm.errors = [("/enrol", BadInput(fields={"affinity": "too many"}))]
    assert start().wait() == 2


def test_two_workers_cannot_share_a_folder(start: Start, tmp_path: Path) -> None:
    start()
    with pytest.raises(BadInput, match="another worker uses"):
        StateDir(tmp_path / "state")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slots": "many"}, "slots"),
        ({"slots": 0}, "slots"),
        ({"affinity": ["a b"]}, "affinity"),
        ({"server": "farm:19211"}, "is not an address"),
        ({"token_file": "/no/such/file"}, "token_file"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        Agent(WorkerOptions(**{"state_dir": str(tmp_path), **fields}))


def test_slots_may_be_one_per_cpu(tmp_path: Path) -> None:
    assert WorkerOptions(slots="cpus").resolved_slots() == len(os.sched_getaffinity(0))


def test_a_startup_command_runs_before_the_worker_joins(farm: Farm, start: Start, tmp_path: Path) -> None:
    start(startup=f"sleep 0.2; touch {tmp_path}/mounted; echo joined: $(ls {tmp_path})")
    poll_until(lambda: farm.enrolments)
    assert (tmp_path / "mounted").exists()


def test_a_startup_command_that_fails_ends_the_worker_and_says_why(
    farm: Farm, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    assert start(startup="echo no licence server; exit 4").wait() == 1
    assert not farm.enrolments
    assert "the startup command failed (exit code 4)" in caplog.text
    assert "no licence server" in caplog.text


# ---------------------------------------------------------------- running


def test_leases_run_and_their_results_and_short_logs_are_told(farm: Farm, start: Start) -> None:
    good, bad = farm.add("echo hello"), farm.add("echo oh; exit 3")
    start()
    told(farm, good, bad)
    assert (farm.results[good].state, farm.results[good].exit_code) == ("FINISHED", 0)
    assert (farm.results[bad].state, farm.results[bad].exit_code, farm.results[bad].reason) == ("ERROR", 3, "exit code 3")
    assert base64.b64decode(farm.results[good].log) == b"hello\n"
    assert not farm.pieces


def test_a_job_that_found_no_licence_is_told_as_such(farm: Farm, start: Start) -> None:
    attempt, other = farm.add("exit 42", licence_codes=(42,)), farm.add("exit 43", licence_codes=(42,))
    start()
    told(farm, attempt, other)
    assert (farm.results[attempt].state, farm.results[attempt].no_licence) == ("ERROR", True)
    assert not farm.results[other].no_licence


def test_what_a_log_tells_of_errors_and_licences_is_told(farm: Farm, start: Start) -> None:
    patterns = {"error_patterns": ("^Error",), "licence_patterns": ("no licence",)}
    good, bad, none = (farm.add(f"echo {words}", **patterns) for words in ("fine", "Error 1", "no licence"))
    start()
    told(farm, good, bad, none)
    found = [(farm.results[n].state, farm.results[n].no_licence) for n in (good, bad, none)]
    assert found == [("FINISHED", False), ("ERROR", False), ("ERROR", True)]
    assert farm.results[bad].reason == "its log matched '^Error': Error 1"
    assert farm.logs[good] == b"fine\n"


def test_a_silent_job_is_ended_and_the_reason_told(farm: Farm, start: Start) -> None:
    attempt = farm.add("echo once; sleep 600", timeout_output_s=0.3)
    start()
    told(farm, attempt)
    assert (farm.results[attempt].state, farm.results[attempt].reason) == ("ERROR", "no output for 0.3 s")


def test_a_worker_runs_as_many_jobs_as_it_has_slots(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempts = [farm.add(f"echo $$ > {tmp_path}/{n}; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done") for n in range(5)]
    start()
    poll_until(lambda: len(farm.held()) == 2)
    assert farm.syncs[-1].free == 0
    (tmp_path / "go").touch()
    told(farm, *attempts)


def test_an_idle_worker_waits_in_the_call_and_gets_a_job_at_once(farm: Farm, start: Start) -> None:
    farm.site["sync_s"] = 8.0  # however long the job takes to start, no further call is due meanwhile
    start()
    poll_until(lambda: farm.syncs and farm.syncs[-1].wait_s > 0)
    count = len(farm.syncs)
    attempt = farm.add("true")
    told(farm, attempt)
    assert len(farm.syncs) <= count + 3


def test_an_end_overtakes_a_call_that_waits(farm: Farm, start: Start, tmp_path: Path) -> None:
    farm.site["sync_s"] = 8.0
    attempt = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    start()
    poll_until(lambda: farm.syncs and farm.syncs[-1].wait_s > 0 and attempt in farm.held())
    begun = time.monotonic()
    (tmp_path / "go").touch()
    told(farm, attempt)
    assert time.monotonic() - begun < 4


def test_leases_ahead_are_queued_and_listed_and_results_go_in_batches(farm: Farm, start: Start, tmp_path: Path) -> None:
    farm.ahead = 50
    attempts = [farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done") for _ in range(60)]
    start()
    poll_until(lambda: sum(not running.started for running in farm.held().values()) == 50)
    (tmp_path / "go").touch()
    told(farm, *attempts)
    assert sum(bool(sync.finished) for sync in farm.syncs) < 40
    assert set(farm.told.values()) == {1}


def test_more_is_fetched_before_the_queue_runs_dry(
    farm: Farm, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalition.worker.FLUSH_S", 60.0)
    farm.site["sync_s"] = 60.0
    farm.ahead = 20
    for n in range(30):
        farm.add(f"while [ ! -e {tmp_path}/{n} ]; do sleep 0.02; done")
    start(slots=1)
    poll_until(lambda: (tmp_path / "state/spool/1.log").exists())
    for n in range(15):
        (tmp_path / str(n)).touch()
    told(farm, 5)
    left = [len([running for running in sync.running if not running.started]) for sync in farm.syncs if sync.finished]
    assert left[0] == 10


def test_a_lease_that_is_delivered_again_runs_once(farm: Farm, start: Start, tmp_path: Path) -> None:
    farm.lose_answers = 3
    attempts = [farm.add(f"echo {n} >> {tmp_path}/runs; sleep 0.1") for n in range(4)]
    start()
    told(farm, *attempts)
    assert sorted((tmp_path / "runs").read_text().split()) == ["0", "1", "2", "3"]


def test_queued_leases_that_wait_too_long_are_given_back(farm: Farm, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coalition.worker.PATIENCE_S", (0.5, 60.0))
    farm.ahead = 3
    attempts = [farm.add("sleep 600") for _ in range(3)]
    start(slots=1)
    told(farm, *attempts[1:])
    assert {(farm.results[n].state, farm.results[n].run_s) for n in attempts[1:]} == {("STOPPED", 0.0)}
    assert "takes longer than expected" in farm.results[attempts[1]].reason
    assert attempts[0] in farm.held()


def test_a_job_that_the_server_stops_is_killed_and_its_slot_used_again(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"echo $$ > {tmp_path}/pid; sleep 600")
    start(slots=1)
    pid = pid_in(tmp_path / "pid")
    farm.change(stop_attempts={attempt})
    told(farm, attempt)
    assert farm.results[attempt].state == "STOPPED"
    assert not is_alive(pid)
    told(farm, farm.add("true"))


def test_progress_is_told_while_a_job_runs(farm: Farm, start: Start) -> None:
    attempt = farm.add("echo 40 of 100; sleep 600", progress_pattern="%percent of 100")
    start()
    poll_until(lambda: attempt in farm.held() and farm.held()[attempt].progress == 0.4)
    assert farm.held()[attempt].started


def test_load_and_free_memory_are_told(farm: Farm, start: Start) -> None:
    start()
    sync = poll_until(lambda: farm.syncs)[0]
    assert sync.memory_free_bytes > 0


@pytest.mark.skipif(sys.platform != "linux", reason="terminals tell when they were used on Linux")
def test_how_long_nobody_used_the_machine_is_told(farm: Farm, start: Start) -> None:
    terminals = os.openpty()
    start()
    idle_s = poll_until(lambda: farm.syncs)[0].user_idle_s
    for handle in terminals:
        os.close(handle)
    assert idle_s is not None
    assert 0 <= idle_s < 60


def test_no_job_is_taken_on_a_full_disk(farm: Farm, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coalition.outbox.DISK_LOW_BYTES", 1 << 70)
    start()
    poll_until(lambda: farm.syncs and farm.syncs[-1].free == 0)
    attempt = farm.add("true")
    monkeypatch.setattr("coalition.outbox.DISK_LOW_BYTES", 0)
    told(farm, attempt)


# ---------------------------------------------------------------- logs


def test_a_log_is_streamed_while_the_job_runs_and_is_whole_before_the_result(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"echo first; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo last")
    start()
    poll_until(lambda: farm.logs.get(attempt) == b"first\n")
    (tmp_path / "go").touch()
    told(farm, attempt)
    assert farm.logs[attempt] == b"first\nlast\n"
    assert farm.results[attempt].log == ""


def test_a_long_log_goes_in_pieces_and_nothing_of_it_stays(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add("head -c 1000000 /dev/zero")
    start()
    told(farm, attempt)
    assert farm.logs[attempt] == bytes(1_000_000)
    assert max(size for _, _, size in farm.pieces) == PIECE_BYTES
    poll_until(lambda: not list((tmp_path / "state/spool").iterdir()))


def test_a_gap_at_the_server_is_filled_from_where_it_is(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"echo first; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo last")
    start()
    poll_until(lambda: farm.logs.get(attempt) == b"first\n")
    farm.logs[attempt] = b"fi"  # as after a crash that lost the end of the file
    (tmp_path / "go").touch()
    told(farm, attempt)
    assert farm.logs[attempt] == b"first\nlast\n"


def test_a_log_that_the_server_does_not_want_does_not_hold_the_result_back(farm: Farm, start: Start) -> None:
    attempt = farm.add("head -c 100000 /dev/zero")
    farm.refuse.add(attempt)
    start()
    poll_until(lambda: farm.told[attempt])
    told(farm, farm.add("true"))
    assert farm.told[attempt] == 1


def test_a_log_that_the_server_has_cut_is_not_sent_further(farm: Farm, start: Start) -> None:
    farm.log_limit = 300_000
    attempt = farm.add("head -c 3000000 /dev/zero")
    start()
    told(farm, attempt)
    assert len(farm.logs[attempt]) == 300_000
    assert len(farm.pieces) == 2


def test_output_that_the_job_itself_cut_goes_on_behind_what_was_sent(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"echo before; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; : > /dev/stdout; echo ok")
    start()
    poll_until(lambda: farm.logs.get(attempt) == b"before\n")
    (tmp_path / "go").touch()
    told(farm, attempt)
    assert farm.logs[attempt] == b"before\nok\n"


# ---------------------------------------------------------------- a server that is away or unwell


def test_jobs_run_on_while_the_server_is_away_and_results_wait(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo made it")
    agent = start()
    poll_until(lambda: attempt in farm.held())
    farm.stop()
    (tmp_path / "go").touch()
    poll_until(lambda: attempt in agent.agent._outbox)
    farm.start()
    told(farm, attempt)
    assert farm.results[attempt].state == "FINISHED"
    assert farm.logs[attempt] == b"made it\n"
    assert len(farm.enrolments) == 1


def test_a_server_that_is_unwell_is_called_again(farm: Farm, start: Start) -> None:
    farm.errors = [("/enrol", UNWELL), ("/sync", UNWELL), ("/sync", UNWELL)]
    attempt = farm.add("true")
    start()
    told(farm, attempt)


def test_a_result_is_repeated_until_it_is_taken_and_then_never_again(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    start()
    poll_until(lambda: attempt in farm.held())
    farm.errors = [("/sync", UNWELL)] * 2
    farm.lose_answers = 1
    (tmp_path / "go").touch()
    told(farm, attempt)
    told(farm, farm.add("true"))
    assert farm.told[attempt] == 2  # the answer to the first was lost
    poll_until(lambda: (tmp_path / "state/outbox").stat().st_size == 0)


def test_a_refused_result_is_dropped(farm: Farm, start: Start) -> None:
    attempt = farm.add("true")
    farm.refuse.add(attempt)
    start()
    poll_until(lambda: farm.told[attempt])
    told(farm, farm.add("true"))
    assert farm.told[attempt] == 1


def test_a_worker_whose_credential_is_gone_enrols_again_and_keeps_its_jobs(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    start()
    poll_until(lambda: attempt in farm.held())
    farm.change(errors=[("/sync", NotAuthenticated("gone"))])
    poll_until(lambda: len(farm.enrolments) == 2)
    assert farm.enrolments[0].session == farm.enrolments[1].session
    poll_until(lambda: attempt in farm.held())
    (tmp_path / "go").touch()
    told(farm, attempt)


def test_a_worker_whose_epoch_is_over_enrols_again(farm: Farm, start: Start) -> None:
    start()
    poll_until(lambda: farm.syncs)
    farm.change(epoch=farm.epoch + 1)
    poll_until(lambda: len(farm.enrolments) == 2)


# ---------------------------------------------------------------- the end


def test_a_worker_that_is_told_to_end_finishes_what_runs_and_takes_no_more(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    agent = start()
    poll_until(lambda: attempt in farm.held())
    agent.agent.end()
    poll_until(lambda: farm.syncs[-1].free == 0)
    late = farm.add("true")
    (tmp_path / "go").touch()
    assert agent.wait() == 0
    assert farm.results[attempt].state == "FINISHED"
    assert late not in farm.told


def test_queued_leases_of_a_worker_that_ends_are_given_back(farm: Farm, start: Start, tmp_path: Path) -> None:
    farm.ahead = 2
    first, *others = (farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done") for _ in range(3))
    agent = start(slots=1)
    poll_until(lambda: len(farm.held()) == 3)
    agent.agent.end()
    told(farm, *others)
    assert {farm.results[n].state for n in others} == {"STOPPED"}
    (tmp_path / "go").touch()
    assert agent.wait() == 0
    assert farm.results[first].state == "FINISHED"


def test_a_worker_that_ends_says_that_it_takes_nothing_ahead(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    agent = start(slots=1)
    poll_until(lambda: attempt in farm.held())
    assert farm.syncs[-1].takes
    agent.agent.end()
    poll_until(lambda: not farm.syncs[-1].takes)
    farm.change(desired="run")
    (tmp_path / "go").touch()
    assert agent.wait() == 0


def test_told_twice_it_stops_what_runs_and_reports_that(farm: Farm, start: Start) -> None:
    attempt = farm.add("sleep 600")
    agent = start()
    poll_until(lambda: attempt in farm.held())
    agent.agent.end()
    poll_until(lambda: farm.syncs[-1].free == 0)
    assert agent.end() == 0
    assert farm.results[attempt].state == "STOPPED"


def test_the_servers_wish_to_drain_is_followed_until_it_is_taken_back(farm: Farm, start: Start) -> None:
    farm.desired = "drain"
    agent = start()
    poll_until(lambda: farm.syncs and farm.syncs[-1].free == 0)
    farm.change(desired="run")
    told(farm, farm.add("true"))
    assert agent.exit_code is None


def test_the_servers_wish_to_exit_ends_the_worker_when_it_holds_nothing(farm: Farm, start: Start, tmp_path: Path) -> None:
    attempt = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    agent = start()
    poll_until(lambda: attempt in farm.held())
    farm.change(desired="exit")
    poll_until(lambda: farm.syncs[-1].free == 0)
    assert agent.exit_code is None
    (tmp_path / "go").touch()
    assert agent.wait() == 0
    assert farm.results[attempt].state == "FINISHED"


def test_when_the_time_paid_for_is_over_the_worker_kills_its_jobs_and_says_75(farm: Farm, start: Start, tmp_path: Path) -> None:
    farm.funded_for_s = 60
    farm.add(f"echo $$ > {tmp_path}/pid; sleep 600")
    agent = start()
    pid = pid_in(tmp_path / "pid")
    farm.change(funded_for_s=0.5)
    assert agent.wait() == 75
    assert not is_alive(pid)


def test_the_end_of_the_paid_time_is_kept_in_a_file(farm: Farm, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "deadline"
    farm.funded_for_s = 600
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    start(deadline_file=str(file))
    poll_until(file.exists)
    assert before + 600 <= float(file.read_text()) <= time.clock_gettime(time.CLOCK_BOOTTIME) + 600
    farm.change(funded_for_s=6_000)
    poll_until(lambda: float(file.read_text()) > before + 6_000)


def test_a_worker_that_was_paid_for_at_launch_ends_though_it_never_finds_the_server(farm: Farm, start: Start) -> None:
    farm.stop()
    assert start(funded_for_s=0.5).wait() == 75


def test_results_of_an_agent_that_ends_without_a_server_are_told_by_the_next(
    farm: Farm, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalition.worker.FAREWELL_S", (0.5, 0.5))
    short = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo short")
    long = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; head -c 100000 /dev/zero")
    agent = start()
    poll_until(lambda: len(farm.held()) == 2)
    farm.stop()
    (tmp_path / "go").touch()
    assert agent.end() == 0
    assert not farm.results
    farm.start()
    start()
    told(farm, short, long)
    assert farm.logs[long] == bytes(100_000)
    assert farm.logs[short] == b"short\n"


def test_results_for_another_farm_are_not_told(farm: Farm, start: Start, tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.write("credential", {"farm": "another", "worker": 1, "server": farm.url, "credential": "w1.old"})
    box = Outbox(state.path / "outbox")
    box.add({"attempt": 77, "state": "FINISHED"}, spool=False)
    box.close()
    state.close()
    start()
    told(farm, farm.add("true"))
    assert 77 not in farm.told


# ---------------------------------------------------------------- as a process


def test_sigterm_drains_and_the_process_ends_cleanly(farm: Farm, tmp_path: Path) -> None:
    attempt = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done")
    with agent_process(farm, tmp_path / "state") as process:
        poll_until(lambda: attempt in farm.held(), 20)
        process.send_signal(signal.SIGTERM)
        poll_until(lambda: farm.syncs[-1].free == 0)
        assert process.poll() is None
        (tmp_path / "go").touch()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "finishing 1 running job" in said
    assert "Traceback" not in said
    assert farm.results[attempt].state == "FINISHED"


def test_ctrl_c_ends_an_idle_worker_at_once_and_without_noise(farm: Farm, tmp_path: Path) -> None:
    with agent_process(farm, tmp_path / "state") as process:
        poll_until(lambda: farm.syncs, 20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in said


def test_a_killed_agents_results_survive_and_its_running_jobs_do_not(farm: Farm, tmp_path: Path) -> None:
    running = farm.add(f"(setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 600' &); echo $$ > {tmp_path}/pid; sleep 600")
    short = farm.add(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo short")
    with agent_process(farm, tmp_path / "state") as process:
        pids = [pid_in(tmp_path / "pid"), pid_in(tmp_path / "daemon")]
        poll_until(lambda: len(farm.held()) == 2)
        farm.stop()
        (tmp_path / "go").touch()
        poll_until(lambda: b'"result"' in (tmp_path / "state/outbox").read_bytes())
        process.kill()
    poll_until(lambda: not [pid for pid in pids if is_alive(pid)])
    farm.start()
    with agent_process(farm, tmp_path / "state") as process:
        told(farm, short)
        process.terminate()
        process.communicate(timeout=20)
    assert farm.results[short].log == base64.b64encode(b"short\n").decode()
    assert running not in farm.told
    assert farm.enrolments[0].session != farm.enrolments[1].session
    assert farm.enrolments[1].credential


def test_what_an_agent_and_its_watchdog_left_is_killed_at_the_next_start(farm: Farm, start: Start, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    left = subprocess.Popen(["sleep", "600"], env={**os.environ, "COALITION_RUN": "0ld5e5510n-5"})
    state = StateDir(tmp_path / "state")
    state.write("session", {"mark": "0ld5e5510n"})
    state.close()
    start()
    assert left.wait(timeout=10) == -signal.SIGKILL


def test_the_worker_imports_light() -> None:
    heavy = ("flask", "sqlalchemy", "boto3", "click", "rich")
    program = f"import sys, coalition.worker; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"


# ---------------------------------------------------------------- the outbox by itself


def a_result(attempt: int) -> dict[str, Any]:
    return {"attempt": attempt, "state": "FINISHED"}


def test_an_outbox_is_read_back_without_what_was_taken(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox")
    for attempt in (1, 2, 3):
        box.add(a_result(attempt), spool=attempt == 3)
    box.strike([1])
    again = Outbox(tmp_path / "outbox")
    assert [result["attempt"] for result in again.ready()] == [2]
    assert again.waiting == {3}
    assert again.untold(()) == []
    box.close()
    again.close()


def test_half_a_line_of_a_killed_agent_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    box = Outbox(path)
    box.add(a_result(1), spool=False)
    box.close()
    path.write_bytes(path.read_bytes() + b'{"result": {"attem')
    again = Outbox(path)
    again.add(a_result(2), spool=False)
    again.close()
    third = Outbox(path)
    assert list(third) == [1, 2]
    third.close()


def test_results_are_kept_in_memory_while_the_disk_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    box = Outbox(tmp_path / "outbox")
    good = box._file
    box._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    box.add(a_result(1), spool=False)
    assert "kept in memory" in caplog.text
    box._file.close()
    box._file = good
    box.add(a_result(2), spool=False)
    box.close()
    again = Outbox(tmp_path / "outbox")
    assert list(again) == [1, 2]
    again.close()


# ---------------------------------------------------------------- the order of calls by itself


def test_one_call_at_a_time_but_a_newer_overtakes_one_that_waits() -> None:
    schedule = _Schedule()
    schedule.seq = 1
    waiting = schedule.sent(0.0, 0.0, waits=True, told=())
    assert schedule.due_at(1.0, flush_at=float("inf")) == float("inf")
    assert schedule.due_at(1.0, flush_at=1.5) == 1.5
    schedule.seq = 2
    newer = schedule.sent(1.5, 0.0, waits=False, told=(5,))
    assert schedule.due_at(2.0, flush_at=0.0) == float("inf")
    assert schedule.counts(newer)
    assert not schedule.counts(waiting)


def test_a_server_with_enough_waiting_workers_is_called_less_and_less_often() -> None:
    schedule = _Schedule()
    pauses = []
    now = 0.0
    for _ in range(8):
        schedule.seq += 1
        flight = schedule.sent(now, 0.0, waits=True, told=())
        assert schedule.counts(flight)
        schedule.answered(flight, now, found=False, free=True, next_sync_s=5.0)
        pauses.append(round(schedule.due_at(now, float("inf")) - now, 3))
        now += pauses[-1]
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_a_call_that_did_wait_is_followed_by_the_next_at_once() -> None:
    schedule = _Schedule()
    schedule.seq = 1
    flight = schedule.sent(0.0, 0.0, waits=True, told=())
    assert schedule.counts(flight)
    schedule.answered(flight, 10.0, found=False, free=True, next_sync_s=5.0)
    assert schedule.due_at(10.0, float("inf")) == 10.0


def test_an_address_may_have_a_path_before_the_api(farm: Farm) -> None:
    assert Connection(f"{farm.url}/farm/")._base == "/farm/api/v1"


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="coalition")
