"""Rows say why: the reason of a waiting job and of an idle worker, in the words of `explain`, and the actions on each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coalition.config import AuthSettings
from coalition.model import Job, WorkerChanges
from coalition.server.app import create_app
from coalition.store import Store, reasons
from coalition.store.lists import JobQuery
from tests.builders import Caller, Clock, Hand, WatchedStore, a_group, a_job, a_range
from tests.contract_store import beat
from tests.databases import KINDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def rows(store: Store) -> dict[str, Job]:
    return {job.title: job for job in store.jobs(JobQuery(limit=1_000))[0]}


def first(store: Store, job: Job) -> str:
    """The first reason of the whole explanation."""
    return store.explain(job.id)[0]["text"]


def test_a_waiting_job_says_what_explain_says_first(store: WatchedStore) -> None:
    store.submit([a_job("nobody's", affinity=("gpu",)), a_job("licence", limits={"nuke": 1}), a_job("tried", retries=1)])
    assert rows(store)["nobody's"].reason.startswith("no worker is up")
    hand = Hand(store, "w1", slots=1)
    lease = next(lease for lease in hand.take(3) if lease.title == "tried")
    seen = rows(store)
    for title in ("nobody's", "licence"):
        assert seen[title].reason == first(store, seen[title]) != ""
    assert "no active worker has 'gpu'" in seen["nobody's"].reason
    assert "limit nuke is not defined" in seen["licence"].reason
    hand.fail(lease)
    tried = rows(store)["tried"]
    assert tried.reason == first(store, tried)
    assert "is tried again in" in tried.reason


def test_a_job_that_waits_for_busy_workers_says_so_and_its_group_says_what_its_first_one_does(store: WatchedStore) -> None:
    hand = Hand(store, "w1", slots=1)
    store.submit([a_job("runs", priority=200), a_range("1-3", title="shot"), a_group("all", a_job("below", paused=True))])
    assert [lease.title for lease in hand.take(1)] == ["runs"]
    seen = rows(store)
    assert seen["shot 2"].reason == first(store, seen["shot 2"]) == "the 1 worker that matches is busy"
    assert (seen["shot"].reason, seen["runs"].reason, seen["all"].reason) == ("the 1 worker that matches is busy", "", "")
    store.pause([seen["shot"].id])
    seen = rows(store)
    assert (seen["shot"].reason, seen["shot 1"].reason, seen["below"].reason) == ("paused", "its group is paused", "paused")


def test_a_job_whose_turn_comes_says_how_many_could_take_it(store: WatchedStore) -> None:
    Hand(store, "w1")
    store.submit([a_job("next")])
    assert rows(store)["next"].reason == "waits its turn on the 1 worker that matches"


def test_an_idle_worker_says_what_explain_says_first(store: WatchedStore, clock: Clock) -> None:
    linux, mac, off = Hand(store, "w1", ("linux",)), Hand(store, "w2", ("mac",)), Hand(store, "w3", ("linux",))
    store.edit_workers([off.id], WorkerChanges(active=False), "ann")
    for hand in (linux, mac, off):
        store.flush_beats([beat(hand, clock())])
    seen = {one.name: one.reason for one in store.workers()}
    assert seen == {"w1": "no job could start now; nothing waits", "w2": seen["w1"], "w3": "is switched off"}
    store.submit([a_job("j", affinity=("linux", "gpu"))])
    for one in store.workers()[:2]:
        assert one.reason == store.explain_worker(one.id)[1][0]["text"]
    assert "gpu" in store.workers()[0].reason


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_words_are_remembered_for_a_moment_and_few_kinds_are_asked_at_a_time(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "remember_s", 3_600.0)
    store.submit([a_job(f"j{n}", affinity=(f"tag{n}",)) for n in range(reasons.ASKED + 3)])
    assert sum(bool(job.reason) for job in rows(store).values()) == reasons.ASKED
    assert all(job.reason for job in rows(store).values())
    Hand(store, "w1", ("tag0",))
    assert "no worker is up" in rows(store)["j0"].reason
    monkeypatch.setattr(store, "remember_s", 0.0)
    assert rows(store)["j0"].reason == "waits its turn on the 1 worker that matches"


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_machine_that_came_up_this_moment_says_why_too(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasons.time, "monotonic", lambda: store.remember_s / 2)
    store.submit([a_job("j")])
    assert "no worker is up" in rows(store)["j"].reason


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_rows_allow_only_what_the_caller_may_do(store: WatchedStore) -> None:
    store.settings = replace(store.settings, auth=AuthSettings(mode="token"))
    app = create_app(store.settings, store, store.clock)
    ann, root = (
        Caller(app, store.create_token("user", user=user, role=role)) for user, role in (("ann", "user"), ("root", "admin"))
    )
    store.submit([a_job("mine", user="ann"), a_job("other", user="bob", limits={"nuke": 1})])
    store.set_limit("nuke", 2)
    Hand(store, "w1")
    seen = {job["title"]: job["allowed_actions"] for job in ann.ok("GET", "/jobs")["jobs"]}
    assert seen == {"mine": ["pause", "skip", "edit", "delete"], "other": []}
    assert ann.ok("GET", "/jobs/2")["allowed_actions"] == []
    for path, name, actions in (("/workers", "workers", ["edit", "drain", "delete"]), ("/limits", "limits", ["set", "delete"])):
        assert ann.ok("GET", path)[name][0]["allowed_actions"] == []
        assert root.ok("GET", path)[name][0]["allowed_actions"] == actions
