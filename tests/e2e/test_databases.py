"""Server processes and databases as they are in a studio: several of the ones, and restarts of the others."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from coalition import schema
from coalition.config import ServerSettings, Settings
from coalition.errors import Unavailable
from coalition.store import Store
from coalition.store.check import problems
from tests.databases import KINDS, Databases
from tests.e2e.crowd import Crowd
from tests.e2e.farm import RealFarm
from tests.invariants import check_invariants
from tests.polling import poll_until

MakeFarm = Callable[..., RealFarm]
NO_SCALING = {"autoscaler": "enabled = no"}
LONG = os.environ.get("COALITION_TEST_LONG") == "yes"  # make test-long
JOBS = 20_000 if LONG else 2_000
WORKERS = 64 if LONG else 24
servers = pytest.mark.parametrize("kind", KINDS[1:], indirect=True)


# ---------------------------------------------------------------- a restart of the database


def refusal(address: str) -> tuple[int, str] | None:
    """(status, Retry-After) of a server that does not answer as it should."""
    try:
        with urllib.request.urlopen(address, timeout=20):
            return None
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]


@servers
def test_a_restart_of_the_database_in_mid_run_is_survived(
    kind: str, database: str, databases: Databases, make_farm: MakeFarm
) -> None:
    farm = make_farm(server=f"threads = 16\nprocesses = 2\ndatabase = {database}", **NO_SCALING)
    server, worker = farm.serve(), farm.worker("one", slots=3)
    ran, gate = farm.folder / "ran", farm.folder / "gate"
    long = farm.client.submit(title="long", command=f"while [ ! -e {gate} ]; do sleep 0.05; done; echo long >> {ran}")
    group = farm.client.submit(title="shots", frames="1-24", command=f"sleep 0.3; echo {{frame}} >> {ran}; echo end {{frame}}")
    poll_until(lambda: farm.client.job(group).counts.finished >= 4, 30, lambda: farm.state(group))
    poll_until(lambda: farm.client.job(long).state == "WORKING", 30, lambda: farm.state(long))
    databases.server(kind).stop()
    try:
        for path in ("/healthz", f"/api/v1/jobs/{group}"):
            status, retry_after = refusal(farm.address + path) or (200, "")
            assert (status, int(retry_after) >= 1) == (503, True), path
        with pytest.raises(Unavailable, match="the database is away"):
            farm.client.submit(title="more", command="true")
        gate.touch()
        poll_until(lambda: "long" in ran.read_text(), 20, lambda: "the job does not go on")
    finally:
        databases.server(kind).start()
    farm.finished(group)
    farm.finished(long)
    assert (server.poll(), worker.poll()) == (None, None)
    assert sorted(ran.read_text().split()) == sorted(["long", *map(str, range(1, 25))]), "each ran once"
    leaves = farm.leaves(group)
    assert [[attempt.state for attempt in farm.client.attempts(job.id)] for job in leaves] == [["FINISHED"]] * 24
    assert {farm.client.log(job.id).data for job in leaves} == {f"end {number}\n".encode() for number in range(1, 25)}
    assert "Traceback" not in farm.log_of("server")


@servers
def test_no_password_is_told_by_a_server_that_cannot_reach_its_database(kind: str, database: str, tmp_path: Path) -> None:
    port = database.rpartition(":")[2].partition("/")[0]
    away = re.sub(r"//.*@", "//farm:hunter2@", database).replace(port, "1")
    (tmp_path / "cloud.ini").write_text(f"[server]\ndatabase = {away}\ndata_dir = {tmp_path / 'data'}\n")
    command = [sys.executable, "-m", "coalition", "serve", "--config", str(tmp_path / "cloud.ini")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "the database is away" in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr


# ---------------------------------------------------------------- several server processes


@pytest.fixture
def store(database: str, tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(server=ServerSettings(database=database, data_dir=str(tmp_path))))
    yield made
    made.close()


def a_production(jobs: int) -> list[dict[str, Any]]:
    """Shots of twenty frames in sequences, with priorities; each shot waits for the one before, and has a film made of it."""
    given = []
    for number in range(jobs // 21):
        waits = [f"shot{number - 4}"] if number % 5 == 4 else []
        common = {"retries": 20, "priority": 100 + number % 7, "depends_on": waits}
        given.append({"title": f"shot {number}", "ref": f"shot{number}", "frames": "1-20", "command": "true", **common})
        film = {"title": f"film {number}", "command": "true", "retries": 20, "depends_on": [f"shot{number}"]}
        given.append(film)
    return given


def disturb(farm: RealFarm, groups: list[int], chance: random.Random) -> None:
    """What people do meanwhile."""
    some = chance.sample(groups, 2)
    farm.client.pause(some)
    farm.client.explain(some[0])
    farm.client.edit([some[1]], priority=chance.randrange(90, 120))
    farm.client.start(some)


@servers
@pytest.mark.timeout(500)
def test_four_processes_and_bad_workers_count_each_job_exactly_once(
    kind: str, database: str, store: Store, make_farm: MakeFarm
) -> None:
    rules = "retry_delay = 0\nsick_after = 0\nstop_after_workers = 0"
    worker = "sync = 1\nlease = 4s\nwait = 1s"
    farm = make_farm(server=f"threads = 32\nprocesses = 4\ndatabase = {database}", scheduler=rules, worker=worker, **NO_SCALING)
    farm.serve()
    made = farm.client.submit_many(a_production(JOBS))
    total = sum(farm.client.farm()["jobs"].values())
    crowd = Crowd(farm.address, WORKERS, silence_s=6)
    chance = random.Random(5)

    def over() -> bool:
        disturb(farm, list(made.ids), chance)
        return bool(farm.client.farm()["jobs"]["finished"] == total)

    try:
        poll_until(over, 400, lambda: (farm.client.farm()["jobs"], crowd.refused, farm.log_of("server")))
    finally:
        crowd.close()
    assert not crowd.refused
    assert crowd.accidents.keys() == {"lost answer", "silence", "restart"}
    assert_each_counted_once(store)
    assert {measured(farm, 'coalition_attempts_ended_total{result="finished"}') for _ in range(8)} == {total}, "whoever answers"
    assert "Traceback" not in farm.log_of("server")


def measured(farm: RealFarm, name: str) -> float:
    """A value of /metrics, from whichever process answers."""
    with urllib.request.urlopen(f"{farm.address}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(name)))


def assert_each_counted_once(store: Store) -> None:
    check_invariants(store)
    with store.read() as db:
        assert list(problems(db)) == []
        leaves = dict(db.execute(select(schema.job.c.id, schema.job.c.errors).where(schema.job.c.is_group.is_(False))).all())
        attempts = db.execute(select(schema.attempt.c.job_id, schema.attempt.c.state)).all()
    ended = Counter(attempts)
    assert {job: ended[job, "FINISHED"] for job in leaves} == dict.fromkeys(leaves, 1)
    assert {job: ended[job, "ERROR"] for job in leaves} == leaves
