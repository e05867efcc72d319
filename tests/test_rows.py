"""Lists: pages that stay whole while rows come and go, some of the fields, ETags, and one answer for all who ask the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from coalition.server import rows
from coalition.server.app import create_app
from coalition.server.rows import Answers
from tests.builders import Agent, Caller, Hand, WatchedStore, a_job, done
from tests.cloud_world import World, budget, pool, settings

SECOND = {"headers": {"Cache-Control": "max-age=10"}}


@pytest.fixture
def call(app: Flask) -> Caller:
    return Caller(app)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Caller]:
    """A farm with two pools, two budgets, and some machines of each."""
    made = World(tmp_path, settings(tmp_path, [pool(max=3), pool(name="q", max=2)], [budget(), budget("second")]))
    made.submit(4)
    made.tick()
    yield Caller(create_app(made.settings, made.store, made.clock))
    made.store.close()


def followed(call: Caller, path: str, name: str, **query: Any) -> list[Any]:
    """All rows of a list, two at a time."""
    rows: list[Any] = []
    cursor = ""
    while True:
        text = "&".join(f"{key}={value}" for key, value in {**query, "limit": 2, "cursor": cursor}.items())
        answer = call.ok("GET", f"{path}?{text}")
        assert len(answer[name]) <= 2
        rows += answer[name]
        cursor = answer["next"]
        if cursor is None:
            return rows


def test_every_list_of_the_farm_is_followed_to_its_end(call: Caller, app: Flask, store: WatchedStore) -> None:
    store.submit([a_job(f"j{n}", retries=9, limits={f"l{n}": 1}) for n in range(5)])
    for n in range(5):
        store.set_limit(f"l{n}", 9)
        Hand(store, f"w{n}", (f"t{n}",))
    hand = Hand(store, "busy")
    for _ in range(3):
        hand.fail(*hand.take(1))
    for path, name in (
        ("/attempts", "attempts"),
        ("/events", "events"),
        ("/workers", "workers"),
        ("/limits", "limits"),
        ("/affinities", "affinities"),
        ("/jobs", "jobs"),
    ):
        rows = followed(call, path, name)
        whole = call.ok("GET", f"{path}?limit=1000")
        assert (rows, whole["next"]) == (whole[name], None)
        assert len(rows) >= 3, path
    assert [row["id"] for row in followed(call, "/attempts", "attempts")] == [3, 2, 1]


def test_every_list_of_the_cloud_is_followed_to_its_end(cloud: Caller) -> None:
    for path, name in (
        ("/pools", "pools"),
        ("/instances", "instances"),
        ("/budgets", "budgets"),
        ("/decisions", "decisions"),
        ("/ledger", "entries"),
    ):
        rows = followed(cloud, path, name)
        assert rows == cloud.ok("GET", path)[name], path
    assert [row["name"] for row in followed(cloud, "/pools", "pools", sort="-name")] == ["q", "p"]
    (first, *_) = cloud.ok("GET", "/instances")["instances"]
    assert cloud.ok("GET", f"/instances/{first['id']}") == first
    assert cloud("GET", "/instances/99")[0] == 404
    assert cloud("GET", f"/instances/{2**70}")[0] == 404


def test_a_page_goes_on_where_it_was_whatever_comes_and_goes(call: Caller, store: WatchedStore) -> None:
    hands = [Hand(store, f"w{n}") for n in range(6)]
    first = call.ok("GET", "/workers?limit=2&sort=-name")
    assert [row["name"] for row in first["workers"]] == ["w5", "w4"]
    Hand(store, "w9")
    store.delete_workers([hands[4].id, hands[3].id])
    second = call.ok("GET", f"/workers?limit=2&sort=-name&cursor={first['next']}")
    assert [row["name"] for row in second["workers"]] == ["w2", "w1"]


@pytest.mark.parametrize(
    "cursor", ["x", "zz", "5b5d", "6e756c6c", "5b312c322c335d", "5b747275652c22612c335d", "5b747275652c312c315d", "[]"]
)
@pytest.mark.parametrize("path", ["/workers", "/events", "/attempts", "/instances"])
def test_a_cursor_of_another_list_is_refused(call: Caller, store: WatchedStore, path: str, cursor: str) -> None:
    Hand(store, "w1")
    if path == "/workers" or not cursor.isdecimal():
        status, problem = call("GET", f"{path}?cursor={cursor}")
        assert (status, list(problem["fields"])) == (422, ["cursor"])


def test_a_cursor_of_another_order_is_refused(call: Caller, store: WatchedStore) -> None:
    store.submit([a_job(limits={"undefined": 1}), a_job(limits={"defined": 1})])
    store.set_limit("defined", 3)
    of_name = call.ok("GET", "/limits?limit=1&sort=name")["next"]
    for sort in ("maximum", "-maximum"):
        status, problem = call("GET", f"/limits?sort={sort}&cursor={of_name}")
        assert (status, list(problem["fields"])) == (422, ["cursor"])
    assert [row["name"] for row in followed(call, "/limits", "limits", sort="maximum")] == ["undefined", "defined"]


def test_rows_have_the_fields_that_were_asked_for(call: Caller, store: WatchedStore) -> None:
    store.submit([a_job("a"), a_job("b")])
    answer = call.ok("GET", "/jobs?fields=id,title,state")
    assert answer["jobs"] == [{"id": 1, "title": "a", "state": "WAITING"}, {"id": 2, "title": "b", "state": "WAITING"}]
    assert answer["counts"]["waiting"] == 2
    status, problem = call("GET", "/jobs?fields=id,titel")
    assert (status, problem["fields"]) == (422, {"fields": "'titel' is no field; did you mean \"title\"?"})


def test_attempts_are_listed_of_all_jobs_or_of_one_worker(call: Caller, app: Flask) -> None:
    jobs = call.submit({"command": "a"}, {"command": "b"})
    for name in ("w1", "w2"):
        agent = Agent(app, name)
        agent.sync(done(agent.take(free=1)[0]), free=0)
    assert [row["job"] for row in call.ok("GET", "/attempts")["attempts"]] == jobs[::-1]
    (row,) = call.ok("GET", "/attempts?worker=w1")["attempts"]
    assert call.ok("GET", f"/attempts/{row['id']}") == row
    assert call.ok("GET", f"/attempts?job={jobs[1]}")["attempts"][0]["worker"] == "w2"
    assert call("GET", "/attempts/99")[0] == 404
    worker = call.ok("GET", "/workers?sort=id")["workers"][0]
    assert call.ok("GET", f"/workers/{worker['id']}") == worker
    assert call("GET", "/workers/99")[0] == 404


# ---------------------------------------------------------------- what need not be sent, or made, again


def test_who_has_an_answer_already_gets_304(call: Caller, store: WatchedStore) -> None:
    store.submit([a_job("a")])
    first = call.raw("GET", "/jobs")
    has = {"headers": {"If-None-Match": first.headers["ETag"]}}
    again = call.raw("GET", "/jobs", **has)
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    store.pause([1])
    assert call.raw("GET", "/jobs", **has).status_code == 200
    assert call.raw("GET", "/farm", headers={"If-None-Match": '"x"'}).status_code == 200


def test_an_answer_may_be_old_only_if_the_call_says_so_and_nothing_was_done_since(call: Caller, store: WatchedStore) -> None:
    store.submit([a_job("a")])
    first = call.raw("GET", "/jobs", **SECOND)
    store.submit([a_job("b")])  # elsewhere
    assert call.raw("GET", "/jobs", **SECOND).data == first.data
    has = {"headers": {**SECOND["headers"], "If-None-Match": first.headers["ETag"]}}
    assert call.raw("GET", "/jobs", **has).status_code == 304
    assert len(call.ok("GET", "/jobs")["jobs"]) == 2
    assert len(call.ok("GET", "/jobs?limit=9", **SECOND)["jobs"]) == 2
    call.ok("POST", "/jobs/pause", {"ids": [1]})
    assert [job["paused"] for job in call.ok("GET", "/jobs", **SECOND)["jobs"]] == [True, False]


def test_what_was_refused_is_not_remembered(call: Caller, store: WatchedStore) -> None:
    assert call("GET", "/jobs/1/attempts", **SECOND)[0] == 404
    store.submit([a_job("a")])
    assert call("GET", "/jobs/1/attempts", **SECOND)[0] == 200


def test_of_many_who_ask_at_a_time_one_makes_the_answer() -> None:
    answers, made, all_there = Answers(), list[int](), threading.Barrier(8)

    def make() -> bytes:
        made.append(1)
        return b"x"

    def ask(_: int) -> bytes:
        all_there.wait(timeout=30)
        return answers.get("key", 60.0, make).body

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {b"x"}
    assert made == [1]
    answers.forget()
    answers.get("key", 60.0, make)
    assert made == [1, 1]


def test_while_an_answer_is_made_others_do_not_get_one_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_AGE_S", 0.0)
    answers, begun, go_on = Answers(), threading.Event(), threading.Event()
    answers.get("key", 0.0, lambda: b"old")

    def slowly() -> bytes:
        begun.set()
        assert go_on.wait(30)
        return b"new"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(answers.get, "key", 0.0, slowly)
        assert begun.wait(30)
        second = pool.submit(answers.get, "key", 0.0, lambda: b"newest")
        go_on.set()
        assert (first.result(30).body, second.result(30).body) == (b"new", b"newest")


def test_answers_are_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "KEPT", 3)
    monkeypatch.setattr(rows, "KEPT_BYTES", 100)
    answers, made = Answers(), list[str]()

    def ask(key: str, body: bytes) -> None:
        def make() -> bytes:
            made.append(key)
            return body

        answers.get(key, 60.0, make)

    for key in ("a", "b", "c", "a", "d", "a", "b"):
        ask(key, b"x")
    assert made == ["a", "b", "c", "d", "b"]
    ask("large", b"x" * 101)
    assert (len(answers._kept), len(answers._making), answers._bytes) == (0, 0, 0)
    with pytest.raises(ZeroDivisionError):
        answers.get("refused", 60.0, lambda: b"" * (1 // 0))
    assert answers._making == {}
