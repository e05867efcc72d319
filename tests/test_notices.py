"""A machine that its cloud takes back: heard on the machine itself, told to the server, its jobs and the next plan."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from autoscaler.loop import Autoscaler
from coalition.metadata import Ec2, Google, Watch
from coalition.model import JobSpec, Sync
from coalition.server.app import create_app
from providers.base import Notice, Request
from providers.fake import FakeProvider
from tests.cloud_world import LINUX, World, budget, make_store, pool, settings
from tests.fakes.metadata import Metadata
from tests.fakes.protocol import Farm
from tests.polling import poll_until

ROOT = Path(__file__).parents[1]
SAVES = """trap 'echo saved with $(($(cat "$COALITION_NOTICE") - $(date +%s))) s left; exit 3' TERM
touch {mark}; while :; do sleep 0.05; done"""
GOES_ON = """trap 'echo saved; saved=yes' USR1; touch {mark}; while [ -z "$saved" ]; do sleep 0.05; done; echo done"""


@pytest.fixture
def cloud() -> Iterator[Metadata]:
    with Metadata() as made:
        yield made


@contextmanager
def worker(cloud: Metadata, url: str, folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`coalition worker`, as the start-up script of a spot machine calls it."""
    words = ["worker", "--server", url, "--name", "node1", "--slots", "1", "--state-dir", str(folder / "state"), *options]
    environment = {**os.environ, **cloud.environment}
    process = subprocess.Popen([sys.executable, "-m", "coalition", *words], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# ---------------------------------------------------------------- what the clouds say


def test_ec2_is_asked_with_a_session_token_which_is_made_again_when_it_is_no_longer_good(
    cloud: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{cloud.host}")
    ec2 = Ec2()
    assert [ec2.left_s(), ec2.left_s()] == [None, None]
    assert cloud.asked.count("/latest/api/token") == 1
    cloud.tokens.clear()
    cloud.take(100)
    with pytest.raises(ValueError, match="401"):
        ec2.left_s()
    left_s = ec2.left_s()
    assert left_s is not None
    assert 95 < left_s <= 100
    cloud.take(-5)
    assert ec2.left_s() == 0.0, "a notice that is over"
    cloud.take(9_999)
    assert ec2.left_s() == 120.0, "the machine's clock is wrong: no longer than EC2 ever says"


def test_google_says_only_that_it_is_so(cloud: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCE_METADATA_HOST", cloud.host)
    google = Google()
    assert google.left_s() is None
    cloud.take()
    assert google.left_s() == 28.0


def test_a_cloud_that_does_not_answer_is_said_once_and_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("coalition.metadata.POLL_S", 0.01)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens on it
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{taken.getsockname()[1]}")
        told: list[float] = []
        watch = Watch("gce", told.append)
        looks: list[int] = []
        ask = watch._cloud.left_s
        monkeypatch.setattr(watch._cloud, "left_s", lambda: looks.append(1) or ask())
        watch.start()
        poll_until(lambda: len(looks) > 2)
        watch.close()
        watch.join(10)
    assert told == []
    assert len([record for record in caplog.records if "does not say" in record.message]) == 1


# ---------------------------------------------------------------- what a worker does


@pytest.mark.parametrize("kind", ["aws", "gce"])
def test_a_worker_tells_its_server_and_gives_its_job_the_time_that_is_left(kind: str, cloud: Metadata, tmp_path: Path) -> None:
    with Farm() as farm:
        first, second = farm.add(SAVES.format(mark=tmp_path / "runs")), farm.add("true")
        with worker(cloud, farm.url, tmp_path, "--spot", kind):
            poll_until(lambda: (tmp_path / "runs").exists(), 20)
            cloud.take(120)
            result = poll_until(lambda: farm.results.get(first), 20, lambda: farm.syncs[-1:])
            last: Sync = poll_until(lambda: farm.syncs[-1] if farm.syncs[-1].taken_in_s is not None else None, 20)
    assert (result.state, result.exit_code) == ("STOPPED", 3)
    assert "takes this machine away" in result.reason
    left_s = int(farm.logs[first].decode().partition("saved with ")[2].partition(" ")[0])
    assert (left_s in range(100, 122)) if kind == "aws" else (left_s in range(20, 30))
    assert last.taken_in_s is not None
    assert last.taken_in_s <= 120
    assert (last.takes, last.free) == (False, 0)
    assert second not in farm.results, "nothing more is begun there"


def test_a_job_with_a_checkpoint_signal_is_sent_it_and_goes_on(cloud: Metadata, tmp_path: Path) -> None:
    with Farm() as farm:
        job = farm.add(GOES_ON.format(mark=tmp_path / "runs"), environment={"COALITION_CHECKPOINT_SIGNAL": "USR1"})
        with worker(cloud, farm.url, tmp_path, "--spot", "aws"):
            poll_until(lambda: (tmp_path / "runs").exists(), 20)
            cloud.take(120)
            result = poll_until(lambda: farm.results.get(job), 20, lambda: farm.syncs[-1:])
    text = farm.logs[job].decode()
    assert result.state == "FINISHED"
    assert [line for line in text.splitlines() if line in ("saved", "done")] == ["saved", "done"]
    assert "SIGUSR1 is sent" in text


def test_what_goes_on_after_a_checkpoint_is_stopped_in_time(cloud: Metadata, tmp_path: Path) -> None:
    with Farm() as farm:
        loop = "trap 'echo saved' USR1; touch %s; while :; do sleep 0.05; done" % (tmp_path / "runs")
        job = farm.add(loop, environment={"COALITION_CHECKPOINT_SIGNAL": "SIGUSR1"})
        with worker(cloud, farm.url, tmp_path, "--spot", "aws"):
            poll_until(lambda: (tmp_path / "runs").exists(), 20)
            cloud.take(8)
            before = time.monotonic()
            result = poll_until(lambda: farm.results.get(job), 20, lambda: farm.syncs[-1:])
    assert result.state == "STOPPED"
    assert "about to be taken away" in result.reason
    assert time.monotonic() - before < 8


def test_a_worker_that_is_no_spot_machine_asks_nobody(cloud: Metadata, tmp_path: Path) -> None:
    with Farm() as farm, worker(cloud, farm.url, tmp_path):
        job = farm.add("true")
        poll_until(lambda: farm.results.get(job), 20)
    assert cloud.asked == []


def test_what_the_server_hears_of_the_cloud_its_worker_is_told(tmp_path: Path, cloud: Metadata) -> None:
    with Farm() as farm:
        job = farm.add(SAVES.format(mark=tmp_path / "runs"))
        with worker(cloud, farm.url, tmp_path):
            poll_until(lambda: (tmp_path / "runs").exists(), 20)
            farm.change(taken_in_s=60.0)
            result = poll_until(lambda: farm.results.get(job), 20, lambda: farm.syncs[-1:])
    assert result.state == "STOPPED"
    assert int(farm.logs[job].decode().partition("saved with ")[2].partition(" ")[0]) in range(50, 62)
    assert cloud.asked == []


# ---------------------------------------------------------------- the whole way


class Whole:
    """A server with an autoscaler that ticks when told, on a provider in memory whose machines are real workers."""

    def __init__(self, folder: Path) -> None:
        self.settings = settings(folder, [pool(max=5, purchase=("spot",))], [budget()])
        self.settings = replace(self.settings, worker=replace(self.settings.worker, wait_s=0.5))
        self.store = make_store(self.settings, time.time)  # type: ignore[arg-type]
        spot = replace(LINUX, market="spot", slots=1)
        self.fake = FakeProvider(offers=(spot, replace(spot, name="other", price_micro=2 * spot.price_micro)))
        self.scaler = Autoscaler(self.settings, self.store, {"fake": self.fake})
        self.app = create_app(self.settings, self.store)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self.app, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Whole:
        self.app.extensions["coalition"].dispatcher.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.app.extensions["coalition"].dispatcher.stop()
        self.store.close()

    def launches(self) -> list[Request]:
        return [what for verb, what in self.fake.calls if verb == "launch"]

    def states(self) -> list[str]:
        return [row["state"] for row in self.store.instances(ended=True)][::-1]

    def texts(self, action: str) -> list[str]:
        return [row["reason"] for row in self.store.decisions() if row["action"] == action]


def test_a_notice_on_the_machine_drains_it_and_its_replacement_is_asked_for_in_the_same_tick(
    cloud: Metadata, tmp_path: Path
) -> None:
    with Whole(tmp_path) as farm:
        command = SAVES.format(mark=tmp_path / "runs")
        (job,) = farm.store.submit([JobSpec(title="frame", command=command, affinity=("linux",), retries=0)]).ids
        farm.scaler.tick()
        token = farm.launches()[0].enrol_token
        options = ("--token", token, "--identity", "f-1", "--affinity", "linux", "--spot", "aws")
        with worker(cloud, farm.url, tmp_path, *options):
            poll_until(lambda: (tmp_path / "runs").exists(), 20, farm.states)
            ticks = farm.store.counters()["backlog"]
            cloud.take(120)
            poll_until(lambda: farm.store.counters()["backlog"] > ticks, 20)  # what wakes the autoscaler
            poll_until(lambda: farm.store.machines()[0].taken_at is not None, 20)
            assert farm.states() == ["RUNNING"]
            farm.scaler.tick()
            assert farm.states() == ["DRAINING", "STARTING"]
            assert [request.offering.name for request in farm.launches()] == ["machine", "other"]
            poll_until(lambda: farm.store.job(job).state == "WAITING", 20)
            farm.scaler.tick()
            assert len(farm.launches()) == 2, "what boots is enough"
    shown = farm.store.job(job)
    assert shown.errors == 0
    (notice,) = farm.texts("notice")
    assert "its cloud takes the machine back, as the machine was told; it ends in 1" in notice
    kinds = [event["kind"] for event in farm.store.events({}, 0.0, 100)]
    assert kinds.count("instance.notice") == 1
    assert farm.store.blocks()[0].offering == "machine"


# ---------------------------------------------------------------- in the store


def a_busy_world(folder: Path) -> tuple[World, str]:
    offers = (LINUX, replace(LINUX, name="other", price_micro=2 * LINUX.price_micro))
    world = World(folder, settings(folder, [pool(max=5)], [budget()]), offers)
    world.submit(2)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id, 2)
    return world, id


def test_a_providers_notice_has_a_replacement_planned_in_the_same_tick_too(tmp_path: Path) -> None:
    world, id = a_busy_world(tmp_path)
    world.fake.pending_notices.append(Notice(id, world.clock() + 120, "wanted back"))
    world.tick()
    assert world.states() == ["DRAINING", "STARTING"]
    assert world.requests()[-1].offering.name == "other"
    assert world.requests()[-1].count == 1
    world.tick(3, seconds=1)
    assert len(world.requests()) == 2


def test_one_that_drains_for_want_of_work_and_is_taken_away_is_not_wanted_back(tmp_path: Path) -> None:
    world, id = a_busy_world(tmp_path)
    world.finish(id)
    world.clock.wait(100)
    world.beat(id)
    (row,) = world.store.machines()
    fence = world.scaler._fence
    assert fence is not None
    world.store.drain_instances([row.id], "idle", fence)
    world.fake.pending_notices += [Notice(id, world.clock() + 120, "wanted back")] * 2
    world.submit(1)
    world.tick(2, seconds=2)
    assert world.states() == ["TERMINATING", "STARTING"], "its drain is not ended, though a job waits that fits"
    assert world.requests()[-1].offering.name == "other"
    assert len(world.reasons("notice")) == 1


def test_a_notice_is_kept_once_and_not_for_what_ends_already(tmp_path: Path) -> None:
    world, _ = a_busy_world(tmp_path)
    (row,) = world.store.machines()
    assert world.store.announce(row.id, world.clock() + 120, "w", "first")
    assert not world.store.announce(row.id, world.clock() + 30, "w", "second")
    assert world.store.machines()[0].taken_at == world.clock() + 120
    world.submit(8)
    world.tick()
    last = world.store.machines()[-1]
    world.store.end_instances([last.id], "by hand", world.scaler._fence or 0)
    assert not world.store.announce(last.id, world.clock() + 30, "w", "it ends")
