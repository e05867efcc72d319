"""What the server does with logs beside the requests, and when it cannot keep them."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from coalition.bucket import Bucket
from coalition.config import KeepSettings, LogStoreSettings, Settings, load
from coalition.errors import ConfigError
from coalition.server.app import create_app
from coalition.server.log_keeping import LogKeeper, open_logs
from coalition.shelves import Folder
from tests.builders import Agent, Caller, Clock, WatchedStore, done

DAY_S = 86_400.0
TEXT = b"frame 1 of 10\n" * 1_000


@pytest.fixture
def call(app: Flask) -> Caller:
    return Caller(app)


def put(agent: Agent, attempt: int, offset: int, data: bytes) -> int:
    answer = agent.call.raw("PUT", f"/attempts/{attempt}/log?offset={offset}", data=data, content_type="application/octet-stream")
    return int(answer.status_code)


def keeper(app: Flask, store: WatchedStore, **keep: float) -> LogKeeper:
    settings = replace(store.settings, keep=KeepSettings(**keep), log_store=LogStoreSettings(compress_after_s=0.0))
    return LogKeeper(settings, store, app.extensions["coalition"].logs)


def kinds(store: WatchedStore, job_id: int) -> list[str]:
    return [event["kind"] for event in store.events({"job": job_id}, 0, 100) if event["kind"].startswith("log.")]


def closed(app: Flask) -> list[tuple[int, bool]]:
    return sorted((entry.attempt, entry.closed) for entry in app.extensions["coalition"].logs.shelf.entries())


def test_a_log_is_compressed_after_the_end_of_its_attempt_and_not_before(call: Caller, app: Flask, store: WatchedStore) -> None:
    (job_id,) = call.submit({"command": "a"})
    agent = Agent(app)
    (lease,) = agent.take()
    put(agent, lease["attempt"], 0, TEXT)
    tidy = keeper(app, store)
    assert (tidy.compress(), closed(app)) == (0, [(lease["attempt"], False)])
    agent.sync(done(lease))
    assert (tidy.compress(), closed(app)) == (1, [(lease["attempt"], True)])
    seen = call.raw("GET", f"/jobs/{job_id}/log?offset=-14")
    assert (seen.data, seen.headers["X-Log-Size"]) == (TEXT[-14:], str(len(TEXT)))


def test_what_a_process_left_behind_is_compressed_by_another(call: Caller, app: Flask, store: WatchedStore, clock: Clock) -> None:
    call.submit({"command": "a"}, {"command": "b"})
    agent = Agent(app)
    ended, runs = agent.take()
    for lease in (ended, runs):
        put(agent, lease["attempt"], 0, TEXT)
    agent.sync(done(ended))
    clock.now = 4e9  # files have the time of the machine
    restarted = LogKeeper(replace(store.settings, keep=KeepSettings(logs_s=0.0)), store, open_logs(store.settings))
    assert restarted.compress() == 0
    assert restarted.scan() == (1, 0)
    assert closed(app) == sorted([(ended["attempt"], True), (runs["attempt"], False)])


def test_old_logs_are_deleted_except_those_of_attempts_that_run(
    call: Caller, app: Flask, store: WatchedStore, clock: Clock
) -> None:
    call.submit({"command": "a"}, {"command": "b"})
    agent = Agent(app)
    ended, runs = agent.take()
    for lease in (ended, runs):
        put(agent, lease["attempt"], 0, b"short")
    agent.sync(done(ended))
    now = os.stat(next((store.settings.data_dir / "logs").rglob("*.log"))).st_mtime
    clock.now = now + 9 * DAY_S
    assert keeper(app, store, logs_s=10 * DAY_S).scan() == (0, 0)
    assert keeper(app, store, logs_s=0.0).scan() == (0, 0)
    clock.now = now + 11 * DAY_S
    assert keeper(app, store, logs_s=10 * DAY_S).scan() == (0, 1)
    assert closed(app) == [(runs["attempt"], False)]


def test_one_process_at_a_time_looks_at_all_logs(call: Caller, app: Flask, store: WatchedStore, clock: Clock) -> None:
    folder = store.settings.data_dir / "logs" / "000000"
    folder.mkdir(parents=True)
    first, second = keeper(app, store, logs_s=DAY_S), keeper(app, store, logs_s=DAY_S)
    first.tidy()
    (folder / "1.log").write_bytes(b"old")
    clock.now = 4e9
    store.claim_leader("logs", first._holder, 90.0)
    second.tidy()
    assert closed(app) == [(1, False)]
    clock.advance(100)
    second.tidy()
    assert closed(app) == []


def test_a_cut_log_tells_where_in_its_answer_and_to_the_worker(store: WatchedStore, clock: Clock) -> None:
    settings = replace(store.settings, server=replace(store.settings.server, log_max_bytes=1_000))
    app = create_app(settings, store, clock)
    app.extensions["coalition"].dispatcher.start()
    try:
        call = Caller(app)
        (job_id,) = call.submit({"command": "a"})
        agent = Agent(app)
        (lease,) = agent.take()
        path = f"/attempts/{lease['attempt']}/log?offset=0"
        answer = agent.call.raw("PUT", path, data=TEXT, content_type="application/octet-stream")
        assert answer.get_json() == {"size": 1_000}
        assert call.raw("GET", f"/jobs/{job_id}/log?limit=1").headers["X-Log-Cut"] == "1000"
    finally:
        app.extensions["coalition"].dispatcher.stop()


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def full(store: WatchedStore) -> Iterator[Path]:
    """The logs have a disk of their own, with 8 KB; its folder."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    folder = store.settings.data_dir / "logs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_on_a_full_disk_the_job_goes_on_and_the_worker_is_told_to_send_its_log_later(
    full: Path, call: Caller, app: Flask, store: WatchedStore
) -> None:
    (job_id,) = call.submit({"command": "a"})
    agent = Agent(app)
    (lease,) = agent.take()
    assert [put(agent, lease["attempt"], 0, TEXT) for _ in range(3)] == [503] * 3
    agent.sync(done(lease))
    assert call.ok("GET", f"/jobs/{job_id}")["state"] == "FINISHED"
    assert b"* the log stops here, at byte " in call.raw("GET", f"/jobs/{job_id}/log").data
    assert kinds(store, job_id) == ["log.stop"]  # one event, however often it is tried
    subprocess.run(["mount", "-o", "remount,size=1m", full], check=True)
    assert put(agent, lease["attempt"], 0, TEXT) == 200
    assert call.raw("GET", f"/jobs/{job_id}/log").data == TEXT


def test_a_report_counts_though_the_log_in_it_is_lost_which_the_log_and_an_event_tell(
    full: Path, call: Caller, app: Flask, store: WatchedStore
) -> None:
    (full / "ballast").write_bytes(bytes(8_192))
    (job_id,) = call.submit({"command": "a"})
    agent = Agent(app)
    agent.sync(done(agent.take()[0], log=base64.b64encode(b"done\n").decode()))
    assert call.ok("GET", f"/jobs/{job_id}")["state"] == "FINISHED"
    assert kinds(store, job_id) == ["log.lost"]
    assert b"* the end of the log is lost: " in call.raw("GET", f"/jobs/{job_id}/log").data
    (full / "ballast").unlink()
    keeper(app, store).tidy()
    assert b"* the end of the log is lost: " in call.raw("GET", f"/jobs/{job_id}/log").data
    assert call.raw("GET", "/healthz", headers={}).status_code == 200


def test_the_configuration_says_where_logs_are() -> None:
    assert isinstance(open_logs(Settings()).shelf, Folder)
    settings = load(None, {("log_store", "kind"): "s3", ("log_store", "bucket"): "b", ("log_store", "region"): "us-east-1"})
    assert isinstance(open_logs(settings).shelf, Bucket)
    with pytest.raises(ConfigError, match=r"\[log_store\] bucket: is needed"):
        load(None, {("log_store", "kind"): "s3"})
