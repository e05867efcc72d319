"""Who sees own jobs only: nothing of others' jobs is in any answer, and what is of own jobs is all there."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from flask import Flask

from coalition.config import AuthSettings
from coalition.errors import BadInput, NotFound
from coalition.model import JobChanges
from coalition.server.app import create_app
from coalition.store import sight
from coalition.store.archive import ArchiveQuery
from coalition.store.bulk import Action
from coalition.store.lists import JobQuery
from tests.builders import Caller, Hand, WatchedStore, a_group, a_job
from tests.databases import KINDS
from tests.test_auth import OLD_TABLE, PLACES, TABLE

HIDDEN = "zebra"  # a word of everything of ben's
API = "/api/v1"


@dataclass
class World:
    """gus has a job in a group of ben's, a group with a job of ben's in it, and a job of his own; all have run, or run."""

    app: Flask
    store: WatchedStore
    bens: int  # a job of ben's that runs
    bens_attempt: int
    outer: int  # ben's group, in which gus has `inner`
    inner: int  # gus's
    sibling: int  # ben's, beside `inner`
    mixed: int  # gus's group, with one job of gus's and one of ben's
    alone: int  # gus's job at the top, which failed
    gus_attempt: int

    def caller(self, role: str = "guest") -> Caller:
        return Caller(self.app, self.store.create_token("user", user="gus" if role == "guest" else "root", role=role))


def a_world(store: WatchedStore, app: Flask) -> World:
    bens = {"user": "ben", "command": f"render {HIDDEN}", "environment": {"WORD": HIDDEN}, "dir": f"/{HIDDEN}"}
    outer_spec = a_group("shared", a_job("inner", user="gus"), a_job(HIDDEN, **bens), user="ben", url=f"http://{HIDDEN}")
    outer = store.submit([outer_spec], "ben").ids[0]
    inner, sibling = (one.id for one in store.jobs(JobQuery(parent=outer))[0])
    mixed = store.submit([a_group("mixed", a_job("own", user="gus"), a_job(HIDDEN, **bens), user="gus")], "gus").ids[0]
    alone, ben = (
        store.submit([a_job("alone", user="gus")], "gus").ids[0],
        store.submit([a_job(HIDDEN, **bens, note=HIDDEN)], "ben").ids[0],
    )
    hand = Hand(store, "w1")
    leases = {lease.job: lease for lease in hand.take(4)}  # all but one at the top fit
    hand.fail(leases[inner], reason="exit code 1")
    hand.finish(leases[sibling])
    leases |= {lease.job: lease for lease in hand.take(4)}
    return World(app, store, ben, leases[ben].attempt, outer, inner, sibling, mixed, alone, leases[inner].attempt)


@pytest.fixture
def world(store: WatchedStore) -> Iterator[World]:
    server = replace(store.settings.server, legacy=True)
    store.settings = replace(store.settings, server=server, auth=AuthSettings(mode="token"))
    app = create_app(store.settings, store, store.clock)
    app.extensions["coalition"].dispatcher.start()
    yield a_world(store, app)
    app.extensions["coalition"].dispatcher.stop()


def reads(table: dict[str, Any]) -> list[str]:
    return [line.partition(" ")[2] for line in table if line.startswith("GET ")]


def filled(path: str, places: dict[str, int]) -> str:
    for name, value in {**PLACES, **places}.items():
        path = path.replace(name, str(value))
    return path


def test_no_route_that_reads_tells_a_guest_anything_of_others_jobs(world: World) -> None:
    """New routes are looked at, too: whatever the table of test_auth.py names is called here."""
    world.store.edit([world.bens], JobChanges(priority=200), "ben")
    token = world.caller().token
    basic = {"Authorization": f"Basic {b64encode(f'gus:{token}'.encode()).decode()}"}
    for table, headers in ((TABLE, {"Authorization": f"Bearer {token}"}), (OLD_TABLE, basic)):
        for path in reads(table):
            if "addjob" in path or "clearjobs" in path:
                continue
            for job_id in (world.bens, world.sibling, world.outer, world.mixed):
                places = {"<int:job_id>": job_id, "<int:attempt_id>": world.bens_attempt}
                address = filled(path, places)
                with world.app.test_client().get(address, headers=headers) as answer:
                    assert answer.status_code != 500, address
                    assert HIDDEN.encode() not in answer.get_data(), address


@pytest.mark.parametrize(
    "query",
    [
        "/jobs?user=ben",
        f"/jobs?title={HIDDEN}",
        "/jobs?filter=user:ben",
        f"/jobs?filter={HIDDEN}",
        "/jobs?filter=-user:gus",
        "/jobs?sort=priority",
        "/jobs?parent=0&sort=title",
        "/jobs?parent=0&sort=-priority",
        "/jobs?state=WORKING,FINISHED,ERROR",
        "/jobs?parent={outer}&state=FINISHED",
        "/jobs?parent={mixed}",
        "/attempts?job={bens}",
        "/attempts?worker=w1",
        "/events?job={bens}",
        "/events?job={outer}&below=1",
        "/events?user=ben",
        "/archive?user=ben",
    ],
)
def test_no_filter_and_no_order_tells_a_guest_of_others_jobs(world: World, query: str) -> None:
    names = {name: getattr(world, name) for name in ("bens", "outer", "mixed")}
    answer = world.caller().ok("GET", query.format(**names))
    assert HIDDEN not in json.dumps(answer)
    for row in (*answer.get("jobs", ()), *answer.get("attempts", ())):
        assert row.get("job", row["id"]) not in (world.bens, world.sibling)


def test_a_guest_sees_own_jobs_and_of_the_groups_above_the_sums_of_them(world: World) -> None:
    gus = world.caller()
    top = gus.ok("GET", "/jobs?parent=0")
    assert [row["id"] for row in top["jobs"]] == [world.outer, world.mixed, world.alone]
    assert (top["total"], top["counts"]["total"], top["counts"]["error"]) == (3, 3, 1)
    outer = top["jobs"][0]
    assert (outer["title"], outer["user"], outer["url"], outer["allowed_actions"]) == ("shared", "ben", "", [])
    assert (outer["counts"]["total"], outer["counts"]["error"], outer["state"]) == (1, 1, "ERROR")
    assert [row["id"] for row in gus.ok("GET", f"/jobs?parent={world.outer}")["jobs"]] == [world.inner]
    mixed = gus.ok("GET", f"/jobs/{world.mixed}")
    assert (mixed["counts"]["total"], "edit" in mixed["allowed_actions"]) == (1, True)
    assert [row["id"] for row in gus.ok("GET", "/jobs?filter=state:ERROR")["jobs"]] == [world.inner]
    assert world.caller("admin").ok("GET", f"/jobs/{world.outer}")["counts"]["total"] == 2


def test_a_guest_sees_the_runs_logs_events_and_reasons_of_own_jobs(world: World) -> None:
    gus = world.caller()
    assert {row["job"] for row in gus.ok("GET", "/attempts")["attempts"]} >= {world.inner}
    assert gus.ok("GET", f"/attempts/{world.gus_attempt}")["job"] == world.inner
    assert gus.raw("GET", f"/attempts/{world.gus_attempt}/log").status_code == 200
    assert gus.ok("GET", f"/jobs/{world.inner}/explain")["reasons"][0]["code"] == "error"
    assert gus.ok("GET", f"/jobs/{world.inner}/timeline")["timeline"]
    assert {row["job"] for row in gus.ok("GET", "/events")["events"]} >= {world.mixed, world.alone}
    (worker,) = gus.ok("GET", "/workers")["workers"]
    assert world.bens not in worker["jobs"]
    assert gus.ok("GET", "/farm")["jobs"]["error"] == 1


@pytest.mark.parametrize("path", ["/jobs/{0}", "/jobs/{0}/attempts", "/jobs/{0}/explain", "/jobs/{0}/timeline", "/jobs/{0}/log"])
def test_a_job_of_somebody_else_is_not_there_for_a_guest(world: World, path: str) -> None:
    there, never = (world.caller()("GET", path.format(one)) for one in (world.bens, 999_999))
    assert (there[0], never[0]) == (404, 404)
    assert there[1]["detail"] == never[1]["detail"].replace("999999", str(world.bens))


def test_an_attempt_of_somebody_else_is_not_there_for_a_guest(world: World) -> None:
    for path in (f"/attempts/{world.bens_attempt}", f"/attempts/{world.bens_attempt}/log"):
        assert world.caller()("GET", path)[0] == 404


def test_an_action_of_a_guest_reaches_own_jobs_only_and_says_nothing_of_others(world: World) -> None:
    gus = world.caller()
    for action in ("pause", "start", "reset", "delete"):
        status, problem = gus("POST", f"/jobs/{action}", {"ids": [world.bens]})
        assert (status, "ben" in problem["detail"]) == (404, False)
        status, problem = gus("POST", f"/jobs/{action}", {"ids": [world.mixed]})
        assert (status, "ben" in problem["detail"]) == (403, False)
    told = gus.ok("POST", "/jobs/pause?dry_run=true", {"filter": "priority>0 group:no"})
    assert set(told["ids"]) == {
        world.inner,
        world.alone,
        *(row["id"] for row in gus.ok("GET", f"/jobs?parent={world.mixed}")["jobs"]),
    }
    assert told["dry_run"]["before"]["total"] == 3
    assert gus("POST", f"/jobs/{world.outer}/frames", {"frames": "1"})[0] == 403
    assert gus("POST", "/jobs", {"jobs": [{"title": "t", "command": "c", "parent": world.outer}]})[0] == 403


def test_what_is_of_everybody_is_not_for_a_guest(world: World) -> None:
    for path in ("/budgets", "/ledger", "/decisions", "/instances", "/pools", "/prices", "/workers/1/explain"):
        assert world.caller()("GET", path)[0] == 403, path
    assert world.caller().ok("GET", "/farm")["budgets"] == []


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_every_database_tells_own_jobs_from_others(store: WatchedStore, kind: str) -> None:
    deep = a_group("a", a_group("b", a_job("own", user="gus"), user="ben"), a_job("not", user="ben"), user="ben")
    top, alone, bens = store.submit([deep, a_job("x", user="gus"), a_job("y", user="ben")], "root").ids
    found, _ = store.jobs(JobQuery(parent=0, viewer="gus"))
    assert [(one.id, one.counts.total if one.counts else 0) for one in found] == [(top, 1), (alone, 0)]
    pages = [store.jobs(JobQuery(parent=0, viewer="gus", limit=1, sort=sort))[0][0].title for sort in ("id", "title", "priority")]
    assert pages == ["a", "a", "a"]
    _, cursor = store.jobs(JobQuery(parent=0, viewer="gus", limit=1))
    assert store.jobs(JobQuery(parent=0, viewer="gus", after=cursor))[0][0].id == alone
    after, passed = store.jobs_after(JobQuery(parent=0, viewer="gus"), 1)
    assert (after, passed) == (cursor, 1)
    assert {one.title for one in store.jobs(JobQuery(viewer="gus"))[0]} == {"own", "x"}
    assert store.farm_jobs("gus")["waiting"] == 2
    assert (store.count_jobs(JobQuery(parent=top, viewer="gus"))["counts"]["total"], store.users("gus")) == (1, ["gus"])
    with pytest.raises(NotFound):
        store.job(bens, "gus")
    with pytest.raises(NotFound):
        store.act(Action("pause", ids=[bens], owner="gus", viewer="gus"), "gus")
    hand = Hand(store)
    hand.finish_all()
    assert {run.job_title for run in store.runs(None, None, 0.0, 10, viewer="gus")} == {"own", "x"}
    assert store.job(top, "gus").run_s == 1.0
    assert {one["job"] for one in store.events({}, 0, 100, viewer="gus")} <= {alone}
    while store.archive_some(alone, 10) or store.archive_some(bens, 10):
        pass
    assert [one["id"] for one in store.archived(ArchiveQuery(viewer="gus"))] == [alone]
    with pytest.raises(NotFound):
        store.archived_job(bens, "gus")
    assert {run.job for run in store.runs(None, None, 0.0, 10, viewer="gus")} >= {alone}


def test_a_guest_is_told_of_limits_what_own_jobs_wait_for(store: WatchedStore) -> None:
    bens, own = a_job("not", user="ben", limits={"licence": 1, "secret": 1}), a_job("own", user="gus", limits={"licence": 1})
    store.submit([bens, own], "root")
    assert {one.name: one.waiting for one in store.limits()} == {"licence": 2, "secret": 1}
    assert {one.name: one.waiting for one in store.limits("gus")} == {"licence": 1}


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_events_of_few_jobs_are_looked_up_and_the_same_as_those_of_many(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, own, bens = store.submit([a_job("a", user="gus"), a_job("b", user="gus"), a_job("c", user="ben")], "root").ids
    Hand(store).finish_all()
    while store.archive_some(gone, 10):
        pass
    for one in (own, bens):
        store.edit([one], JobChanges(title="x"), "ben")
    store.edit([bens], JobChanges(title="y"), "gus")

    def told() -> list[list[int]]:
        ask = partial(store.events, since=0, viewer="gus")
        asked: tuple[dict[str, int | str], ...] = ({}, {"kind": "job.edit"}, {"job": own})
        return [[one["id"] for one in ask(filters, limit=n)] for filters in asked for n in (2, 99)]

    few = told()
    assert [len(ids) for ids in few] == [2, 4, 2, 2, 1, 1]
    monkeypatch.setattr(sight, "FEW", 1)
    assert told() == few


def test_what_is_of_everybodys_jobs_in_a_group_sorts_nothing_for_a_guest(store: WatchedStore) -> None:
    with pytest.raises(BadInput, match="needs the right to view all jobs"):
        store.jobs(JobQuery(parent=0, viewer="gus", sort="progress"))
