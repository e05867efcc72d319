"""The whole farm with real processes: what a studio's day and its accidents look like."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.e2e.farm import RealFarm
from tests.polling import poll_until

MakeFarm = Callable[..., RealFarm]
NO_SCALING = {"autoscaler": "enabled = no"}
POOL = "provider = local\nprice = 0.36\nslots = 1\nmax = 2\nidle = 1s\nboot_timeout = 30s\nfunding = 30s\naffinity = cloud"
BUDGET = "amount = 1.00\nwindow = total\nhard = yes"


def test_backlog_starts_local_instances_which_run_all_and_end_when_idle(make_farm: MakeFarm) -> None:
    farm = make_farm(autoscaler="interval = 0.5", pool_burst=POOL, budget_demo=BUDGET)
    farm.serve()
    made = farm.client.submit_many(
        [
            {
                "title": "frames",
                "ref": "frames",
                "frames": "1-8",
                "command": "echo frame {frame}; sleep 0.2",
                "affinity": ["cloud"],
            },
            {"title": "film", "command": "echo assembled", "depends_on": ["frames"], "affinity": ["cloud"]},
        ]
    )
    frames, film = made.ids
    assert "dependencies" in {reason["code"] for reason in farm.client.explain(film)["reasons"]}
    farm.finished(film)
    leaves = farm.leaves(frames)
    assert [job.state for job in leaves] == ["FINISHED"] * 8
    assert farm.client.log(leaves[2].id).data == b"frame 3\n"
    assert all(len(farm.client.attempts(job.id)) == 1 for job in leaves)
    poll_until(lambda: not farm.client.instances(), 40, lambda: (farm.client.instances(), farm.log_of("server")))
    _money_adds_up(farm)
    reasons = [decision["reason"] for decision in farm.client.decisions() if decision["action"] == "launch"]
    assert reasons
    assert all("job" in reason for reason in reasons)


def _money_adds_up(farm: RealFarm) -> None:
    """Everything is settled: what the budget holds is what the instances cost, and it is under the cap."""
    (budget,) = farm.client.budgets()
    instances = farm.client.instances(all=True)
    spent = sum(instance["spent_micro"] for instance in instances)
    assert 0 < spent == budget["committed_micro"] < budget["cap_micro"]
    assert sum(entry["amount_micro"] for entry in farm.client.ledger()) == spent
    assert sum(job.cost_micro for job in farm.client.jobs(parent=0)) <= spent


def test_kill_9_of_the_server_in_mid_run_loses_nothing_and_counts_nothing_twice(make_farm: MakeFarm) -> None:
    farm = make_farm(**NO_SCALING)
    server = farm.serve()
    farm.worker("one", slots=2)
    group = farm.client.submit(title="long", frames="1-20", command="echo start; sleep 0.3; echo end {frame}")
    poll_until(lambda: farm.client.job(group).counts.finished >= 4, 30, lambda: farm.state(group))
    farm.kill(server)
    farm.serve()
    farm.finished(group)
    for job in farm.leaves(group):
        counted = [attempt for attempt in farm.client.attempts(job.id) if attempt.state == "FINISHED"]
        assert len(counted) == 1, (job, farm.client.attempts(job.id))
        assert farm.client.log(job.id).data.startswith(b"start\nend")


def test_kill_9_of_a_worker_and_its_jobs_finish_elsewhere(make_farm: MakeFarm) -> None:
    farm = make_farm(**NO_SCALING)
    farm.serve()
    doomed = farm.worker("doomed", slots=2)
    command = f"while [ ! -e {farm.folder}/go ]; do sleep 0.05; done"
    group = farm.client.submit(title="shots", frames="1-4", command=command)
    poll_until(lambda: farm.client.job(group).counts.working == 2, 30, lambda: farm.state(group))
    farm.kill(doomed)
    (farm.folder / "go").touch()
    farm.worker("rescue", slots=2)
    farm.finished(group)
    attempts = [attempt for job in farm.leaves(group) for attempt in farm.client.attempts(job.id)]
    assert {attempt.worker for attempt in attempts if attempt.state == "FINISHED"} == {"rescue"}
    assert sum(attempt.state == "LOST" for attempt in attempts) == 2
    assert all(job.errors == 0 for job in farm.leaves(group)), "a lost worker spends no retry"


def test_errors_say_why(make_farm: MakeFarm) -> None:
    farm = make_farm(**NO_SCALING)
    farm.serve()
    farm.worker("one", slots=2)
    wrong = farm.client.submit(title="no such command", command="no-such-renderer --frame 1")
    homeless = farm.client.submit(title="no such directory", command="true", dir="/no/such/directory")
    crash = farm.client.submit(title="crash", command="kill -SEGV $$")
    for job in (wrong, homeless, crash):
        poll_until(lambda job=job: farm.client.job(job).state == "ERROR", 30, lambda job=job: farm.state(job))
    assert b"no-such-renderer" in farm.client.log(wrong).data
    assert farm.client.attempts(wrong)[0].exit_code == 127
    assert b"/no/such/directory" in farm.client.log(homeless).data
    assert "/no/such/directory" in farm.client.job(homeless).reason
    assert farm.client.attempts(crash)[0].signal == signal.SIGSEGV


def test_pause_stops_a_running_job_and_start_runs_it_again(make_farm: MakeFarm) -> None:
    farm = make_farm(**NO_SCALING)
    farm.serve()
    farm.worker("one")
    job = farm.client.submit(title="slow", command="sleep 60")
    poll_until(lambda: farm.client.job(job).state == "WORKING", 30, lambda: farm.state(job))
    farm.client.pause([job])
    poll_until(lambda: not any("sleep 60" in line for line in farm.left_running()), 10, farm.left_running)
    assert farm.client.job(job).state == "WAITING"
    farm.client.edit([job], command="echo quick")
    farm.client.start([job])
    farm.finished(job)
    assert [attempt.state for attempt in farm.client.attempts(job)] == ["FINISHED", "STOPPED"]


def test_sigterm_drains_a_worker(make_farm: MakeFarm) -> None:
    farm = make_farm(**NO_SCALING)
    farm.serve()
    worker = farm.worker("one")
    command = f"while [ ! -e {farm.folder}/go ]; do sleep 0.05; done"
    first, second = farm.client.submit_many([{"command": command}, {"command": "true"}]).ids
    poll_until(lambda: farm.client.job(first).state == "WORKING", 30, lambda: farm.state(first))
    worker.terminate()
    poll_until(lambda: "told to end" in farm.log_of("one"), 30, lambda: farm.log_of("one"))
    (farm.folder / "go").touch()
    assert worker.wait(timeout=20) == 0
    assert farm.client.job(first).state == "FINISHED"
    assert farm.client.job(second).state == "WAITING"


def test_a_worker_without_an_address_finds_its_farm_by_broadcast_on_loopback(make_farm: MakeFarm) -> None:
    farm, other = make_farm(**NO_SCALING), make_farm(**NO_SCALING)
    farm.serve()
    other.serve()
    state = str(farm.folder / "finder")
    options = [
        "--name",
        "finder",
        "--slots",
        "1",
        "--state-dir",
        state,
        "--loopback",
        "--farm",
        farm.mark,
        "--port",
        str(farm.port),
    ]
    farm._start("finder", "worker", *options)
    farm.finished(farm.client.submit(command="echo found"))
    assert [worker.name for worker in farm.client.workers()] == ["finder"]
    assert other.client.workers() == []


def test_token_mode_admits_only_who_proves_himself(make_farm: MakeFarm) -> None:
    farm = make_farm(auth="mode = token", **NO_SCALING)
    farm.serve()
    admin = (farm.folder / "data" / "admin.token").read_text().strip()
    stranger = farm.worker("stranger", "--affinity", "x")
    farm.client.close()
    from coalition.client import Client

    farm.client = Client(farm.address, token=admin)
    token = farm.client.create_token(kind="enrol")["token"]
    path = farm.folder / "enrol.token"
    path.write_text(token)
    path.chmod(0o600)
    farm._start("member", "--server", farm.address, "--token-file", str(path), "worker", "--name", "member", "--slots", "1",
                "--state-dir", str(farm.folder / "member"))  # fmt: skip
    farm.finished(farm.client.submit(command="echo hello"))
    assert [worker.name for worker in farm.client.workers()] == ["member"]
    assert stranger.poll() is None, "it waits for a good token"
    assert farm.log_of("stranger").count("token") <= 2, "and it says so once"
