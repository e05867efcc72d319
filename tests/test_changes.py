"""Changes: a call that waits is answered when something was committed, wherever, and waiting costs the database nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event

from coalition.server.app import create_app
from coalition.server.changes import CALLS_PER_S, MAX_WAIT_S, OF_METHOD, POLL_S, QUIET, TOPICS, Changes
from coalition.store import Store
from tests.builders import Agent, Caller, WatchedStore, a_job, done
from tests.databases import KINDS
from tests.polling import poll_until

LONG = 30


@pytest.fixture
def live(store: WatchedStore) -> Iterator[Flask]:
    """The server without what runs beside its calls and might commit by itself."""
    app = create_app(store.settings, store, store.clock)
    changes = app.extensions["coalition"].changes
    changes.start()
    yield app
    changes.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def quiet(app: Flask) -> str:
    """A cursor after which nothing happens by itself for a while."""
    hub = app.extensions["coalition"].changes
    poll_until(lambda: not hub._noted and not hub._pending.is_set())
    return str(hub.cursor)


def waiting(pool: ThreadPoolExecutor, app: Flask, path: str) -> Future[Any]:
    """A call that waits by now."""
    hub = app.extensions["coalition"].changes
    before = hub._may_wait._value
    call = pool.submit(Caller(app).raw, "GET", path)
    poll_until(lambda: hub._may_wait._value < before or call.done())
    assert not call.done()
    return call


def test_without_a_cursor_everything_has_changed(app: Flask) -> None:
    answer = Caller(app).ok("GET", "/changes")
    assert (answer["changed"], answer["poll_s"]) == (list(TOPICS), 0.0)
    again = Caller(app).ok("GET", f"/changes?since={answer['cursor']}&wait=0")
    assert (again["cursor"], again["changed"]) == (answer["cursor"], [])


@pytest.mark.parametrize("query", ["since=x", "since=1.2", "since=a.1.2.3.4.5.6.x", "wait=31", "wait=-1", "wiat=3"])
def test_what_is_no_cursor_is_refused(app: Flask, query: str) -> None:
    status, problem = Caller(app)("GET", f"/changes?{query}")
    assert (status, list(problem["fields"])) == (422, [query.partition("=")[0]])


def test_a_call_that_waits_is_told_what_changed(live: Flask, pool: ThreadPoolExecutor) -> None:
    call = waiting(pool, live, f"/changes?since={quiet(live)}&wait={LONG}")
    Caller(live).submit({"command": "true"})
    answer = call.result(timeout=LONG).json
    assert set(answer["changed"]) >= {"jobs"}
    assert "money" not in answer["changed"]
    assert Caller(live).ok("GET", f"/changes?since={answer['cursor']}&wait=0")["changed"] == []


def test_the_cursor_of_a_server_of_before_means_that_everything_may_have_changed(live: Flask) -> None:
    answer = Caller(live).ok("GET", f"/changes?since=old{'.9' * len(TOPICS)}&wait={LONG}")
    assert answer["changed"] == list(TOPICS)


def test_those_beyond_what_may_wait_are_answered_at_once_and_told_to_poll(store: WatchedStore, pool: ThreadPoolExecutor) -> None:
    small = create_app(replace(store.settings, server=replace(store.settings.server, threads=8)), store, store.clock)
    hub = small.extensions["coalition"].changes
    path = f"/changes?since={hub.cursor}&wait={LONG}"
    calls = [waiting(pool, small, path) for _ in range(2)]
    answer = Caller(small).ok("GET", path)
    assert (answer["changed"], answer["poll_s"]) == ([], POLL_S)
    store.submit([a_job()])
    hub.tell()
    assert all("jobs" in call.result(timeout=LONG).json["changed"] for call in calls)


def test_those_told_to_poll_get_moments_apart_however_many_come(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("coalition.server.changes.time", SimpleNamespace(monotonic=lambda: now))
    hub = Changes(store.settings, store)

    def moment() -> float:
        return now + hub.since(hub.cursor, 0)[2]

    assert [moment() for _ in range(3)] == pytest.approx([1000 + POLL_S, 1000.02 + POLL_S, 1000.04 + POLL_S])
    now = 1000.5  # time that goes by moves none of them
    moments = [moment() for _ in range(CALLS_PER_S * 4)]
    assert moments[:2] == pytest.approx([1000.5 + POLL_S, 1000.52 + POLL_S])
    now = 1001.5
    moments += [moment() for _ in range(CALLS_PER_S)]
    assert all(later - earlier == pytest.approx(1 / CALLS_PER_S) for earlier, later in pairwise(moments))
    for _ in range(CALLS_PER_S * MAX_WAIT_S):
        last = moment()
    assert last == now + MAX_WAIT_S


def test_waiting_runs_no_sql(store: WatchedStore, pool: ThreadPoolExecutor) -> None:
    app = create_app(store.settings, store, store.clock)
    hub, statements = app.extensions["coalition"].changes, list[str]()
    event.listen(store.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    calls = [waiting(pool, app, f"/changes?since={hub.cursor}&wait=1") for _ in range(3)]
    assert [call.result(timeout=LONG).json["changed"] for call in calls] == [[], [], []]
    assert statements == []


@pytest.mark.parametrize("kind", KINDS[1:], indirect=True)
def test_what_another_process_commits_is_told(store: WatchedStore, pool: ThreadPoolExecutor) -> None:
    one, other = (create_app(store.settings, Store(store.settings, store.clock), store.clock) for _ in range(2))
    farms = [app.extensions["coalition"] for app in (one, other)]
    call = waiting(pool, one, f"/changes?since={farms[0].changes.cursor}&wait={LONG}")
    Caller(other).submit({"command": "true"})
    farms[1].changes.tell()
    farms[0].dispatcher.kick()  # as its watcher does ten times a second
    answer = call.result(timeout=LONG).json
    assert "jobs" in answer["changed"]
    assert Caller(other).ok("GET", f"/changes?since={answer['cursor']}&wait=0")["cursor"] == answer["cursor"]
    for farm in farms:
        farm.store.close()


def test_every_method_that_is_named_is_one_of_the_store() -> None:
    assert {name for name in (*QUIET, *OF_METHOD) if not hasattr(Store, name)} == set()
    assert all(topics <= set(TOPICS) for topics in OF_METHOD.values())


def test_who_waits_is_answered_when_the_server_stops(store: WatchedStore, pool: ThreadPoolExecutor) -> None:
    app = create_app(store.settings, store, store.clock)
    hub = app.extensions["coalition"].changes
    hub.start()
    call = waiting(pool, app, f"/changes?since={hub.cursor}&wait={LONG}")
    hub.stop()
    assert call.result(timeout=LONG).json["changed"] == []


# ---------------------------------------------------------------- logs


def a_log(agent: Agent, attempt: int, offset: int, data: bytes) -> None:
    path = f"/attempts/{attempt}/log?offset={offset}"
    assert agent.call("PUT", path, data=data, content_type="application/octet-stream")[0] == 200


def test_an_open_log_is_answered_when_it_grows_and_when_it_ends(app: Flask, pool: ThreadPoolExecutor) -> None:
    app.extensions["coalition"].changes.start()
    (job_id,) = Caller(app).submit({"command": "true"})
    first = waiting(pool, app, f"/jobs/{job_id}/log?offset=0&wait={LONG}")  # there is no attempt yet
    agent = Agent(app)
    (lease,) = agent.take()
    a_log(agent, lease["attempt"], 0, b"one")
    assert first.result(timeout=LONG).data in (b"", b"one")
    second = waiting(pool, app, f"/attempts/{lease['attempt']}/log?offset=3&wait={LONG}")
    a_log(agent, lease["attempt"], 3, b" two")
    assert second.result(timeout=LONG).data == b" two"
    third = waiting(pool, app, f"/attempts/{lease['attempt']}/log?offset=7&wait={LONG}")
    agent.sync(done(lease))
    ended = third.result(timeout=LONG)
    assert (ended.data, ended.headers["X-Log-Open"]) == (b"", "0")
    at_once = Caller(app).raw("GET", f"/attempts/{lease['attempt']}/log?offset=7&wait={LONG}")
    assert at_once.headers["X-Log-Open"] == "0"
    app.extensions["coalition"].changes.stop()
