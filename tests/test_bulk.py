"""One action on many jobs: by ids or by filter, all or none or in part, or only its rehearsal, which changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from coalition import schema
from coalition.config import AuthSettings
from coalition.errors import BadInput, NotAllowed, NotFound
from coalition.filters import parse
from coalition.model import Counts, JobChanges, WorkerChanges
from coalition.server.app import create_app
from coalition.store.bulk import Action
from coalition.store.lists import JobQuery
from tests.builders import Caller, Hand, WatchedStore, a_group, a_job, a_range
from tests.databases import KINDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fitting(text: str) -> Any:
    return parse(text, 0.0)


def everything(store: WatchedStore) -> dict[str, Any]:
    """All that the tables hold, but for numbers that were handed out."""
    with store.read() as db:
        return {name: sorted(map(repr, db.execute(select(table)))) for name, table in schema.metadata.tables.items()}


def states(store: WatchedStore) -> dict[str, str]:
    return {job.title: f"{job.state}{' paused' if job.paused else ''}" for job in store.jobs(JobQuery(limit=1_000))[0]}


@pytest.fixture
def mixed(store: WatchedStore) -> dict[str, int]:
    """A range of ann's with one frame in ERROR and one that runs, a job of bob's that waits for it, a group of both; by title."""
    (shot,) = store.submit([a_range("1-3", user="ann")], "ann").ids
    hand = Hand(store)
    hand.fail(hand.take_one())
    hand.take_one()
    store.submit([a_job("film", user="bob", depends_on=(shot,)), a_group("both", a_job("a", user="ann"), a_job("b", user="bob"))])
    return {job.title: job.id for job in store.jobs(JobQuery(limit=1_000))[0]}


# ---------------------------------------------------------------- the store


def test_a_filter_takes_the_whole_match_and_not_a_page(store: WatchedStore) -> None:
    store.submit([a_range("1-150"), a_job("other", user="bob")])
    done = store.act(Action("pause", terms=fitting("group:no shot")))
    assert (done.changed, len(done.ids)) == (150, 150)
    assert set(states(store).values()) == {"WAITING", "WAITING paused"}
    assert store.act(Action("pause", terms=fitting("user:nobody"))).changed == 0


def test_only_what_fits_is_run_again_and_not_its_whole_group(store: WatchedStore, mixed: dict[str, int]) -> None:
    hand = Hand(store, "w2")
    hand.finish(hand.take_one())
    done = store.act(Action("reset", terms=fitting("state:ERROR group:no"), values=(False,)))
    assert done.ids == (mixed["shot 1"],)
    assert states(store)["shot 3"] == "FINISHED"


ACTIONS: dict[str, tuple[Any, ...]] = {
    "pause": (),
    "start": (),
    "reset": (False,),
    "skip": ("old",),
    "delete": (),
    "edit": (JobChanges(priority=9, affinity=("linux",)),),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_a_rehearsal_says_what_then_happens_and_changes_nothing(store: WatchedStore, mixed: dict[str, int], name: str) -> None:
    action = Action(name, ids=(mixed["shot"], mixed["b"]), values=ACTIONS[name])
    before = everything(store)
    told = store.rehearse(action, "ann")
    assert everything(store) == before
    done = store.act(action, "ann")
    assert told.dry_run
    assert (told.changed, told.ids) == (done.changed, done.ids)
    assert told.dry_run.after == Counts(**store.count_jobs(JobQuery())["counts"])
    newest = store.events({}, 0, len(told.dry_run.events))[::-1]
    assert [(one.kind, one.job, one.text) for one in told.dry_run.events] == [(e["kind"], e["job"], e["text"]) for e in newest]


def test_a_rehearsal_leaves_nothing_in_memory(store: WatchedStore) -> None:
    (job_id,) = store.submit([a_job()]).ids
    for tag in ("linux", "mac"):
        store.rehearse(Action("edit", ids=(job_id,), values=(JobChanges(affinity=(tag,)),)))
    store.edit([job_id], JobChanges(affinity=("windows",)))
    assert store.job(job_id).affinity == ("windows",)
    assert not Hand(store, "w1", ("linux",)).take()
    assert Hand(store, "w2", ("windows",)).take()


def test_a_rehearsed_submission_counts_and_makes_nothing(store: WatchedStore) -> None:
    before = everything(store)
    count, told = store.rehearse_submit([a_group("g", a_job(), paused=True), a_range("1-3", depends_on=())], "ann")
    assert everything(store) == before
    assert (count, told.before.total, told.after.total, told.after.waiting) == (6, 0, 4, 4)
    assert [one.text for one in told.events] == ["6 jobs submitted"]
    with pytest.raises(BadInput):
        store.rehearse_submit([a_job(parent=99)])


def test_one_refusal_refuses_all_and_partial_leaves_it_out(store: WatchedStore, mixed: dict[str, int]) -> None:
    ids = (mixed["shot"], 98, mixed["film"], 99)
    before = everything(store)
    with pytest.raises(NotFound) as error:
        store.act(Action("pause", ids=ids))
    assert [one["id"] for one in error.value.extra["refused"]] == [98, 99]
    assert everything(store) == before
    done = store.act(Action("pause", ids=ids, partial=True))
    assert (done.ids, [(one.id, one.status) for one in done.refused]) == ((ids[0], ids[2]), [(98, 404), (99, 404)])


def test_an_owner_changes_own_jobs_only_and_what_holds_others_is_not_own(store: WatchedStore, mixed: dict[str, int]) -> None:
    ids = (mixed["shot"], mixed["film"], mixed["both"], mixed["a"])
    with pytest.raises(NotAllowed, match="bob's"):
        store.act(Action("delete", ids=ids, owner="ann"))
    done = store.act(Action("delete", ids=ids, owner="ann", partial=True))
    assert (set(done.ids), {one.id for one in done.refused}) == ({ids[0], ids[3]}, {ids[1], ids[2]})
    assert set(states(store)) == {"film", "both", "b"}


def test_an_edit_is_refused_to_the_kinds_it_is_not_for(store: WatchedStore, mixed: dict[str, int]) -> None:
    ids = (mixed["both"], mixed["a"], mixed["shot"])
    with pytest.raises(BadInput) as error:
        store.act(Action("edit", ids=ids, values=(JobChanges(command="x"),)))
    assert list(error.value.fields) == ["changes.command"]
    done = store.act(Action("edit", ids=ids, values=(JobChanges(command="x"),), partial=True))
    assert done.ids == (mixed["a"], mixed["shot"])
    done = store.act(Action("edit", ids=ids, values=(JobChanges(parent=mixed["both"]),), partial=True))
    assert [one.id for one in done.refused] == [mixed["both"]]
    assert {store.job(one).parent for one in done.ids} == {mixed["both"]}


def test_workers_are_changed_one_by_one_all_or_none_or_in_part(store: WatchedStore) -> None:
    here, gone = Hand(store, "w1"), Hand(store, "w2")
    store.delete_workers([gone.id])
    ids = (here.id, gone.id)
    with pytest.raises(NotFound) as error:
        store.act_on_each(Action("drain_workers", ids=ids))
    assert [one["id"] for one in error.value.extra["refused"]] == [gone.id]
    assert store.worker(here.id).state == "STARTING"
    before = everything(store)
    told = store.rehearse(Action("drain_workers", ids=ids, partial=True))
    assert everything(store) == before
    done = store.act_on_each(Action("drain_workers", ids=ids, partial=True))
    assert (told.ids, told.refused) == (done.ids, done.refused)
    assert (done.ids, [one.status for one in done.refused]) == ((here.id,), [404])
    assert told.dry_run
    assert [one.kind for one in told.dry_run.events] == ["worker.drain"]
    assert store.worker(here.id).state == "DRAINING"
    edit = Action("edit_workers", ids=ids, values=(WorkerChanges(note="loud"),), partial=True)
    assert store.act_on_each(edit).ids == (here.id,)
    assert store.worker(here.id).note == "loud"


# ---------------------------------------------------------------- the API


@pytest.fixture
def locked(store: WatchedStore) -> Iterator[Flask]:
    store.settings = replace(store.settings, auth=AuthSettings(mode="token"))
    made = create_app(store.settings, store, store.clock)
    made.extensions["coalition"].dispatcher.start()
    yield made
    made.extensions["coalition"].dispatcher.stop()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_rights_hold_for_each_job_of_a_filter(locked: Flask, store: WatchedStore, mixed: dict[str, int]) -> None:
    ann = Caller(locked, store.create_token("user", user="ann", role="user"))
    status, problem = ann("POST", "/jobs/pause", {"filter": "parent:0"})
    assert (status, {one["status"] for one in problem["refused"]}) == (403, {403})
    answer = ann.ok("POST", "/jobs/pause?partial=true", {"filter": "parent:0"})
    assert (answer["ids"], len(answer["refused"])) == ([mixed["shot"]], 2)
    assert ann("PATCH", "/jobs?partial=true", {"filter": "parent:0", "changes": {"user": "bob"}})[0] == 403
    assert ann.ok("POST", "/jobs/delete?dry_run=1", {"filter": "user:ann shot"})["dry_run"]["after"]["total"] == 3


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_call_that_says_too_much_or_too_little_is_refused_by_name(app: Flask, store: WatchedStore) -> None:
    call = Caller(app)
    store.submit([a_job()])
    for path, body, field in (
        ("/jobs/delete", {}, "ids"),
        ("/jobs/delete", {"filter": " "}, "ids"),
        ("/jobs/delete", {"ids": [1], "filter": "user:ann"}, "filter"),
        ("/jobs/delete", {"filter": "usr:ann"}, "filter"),
        ("/jobs/delete?dryrun=true", {"ids": [1]}, "dryrun"),
        ("/jobs/delete?dry_run=yes", {"ids": [1]}, "dry_run"),
        ("/jobs?dryrun=true", {"jobs": [{"command": "true"}]}, "dryrun"),
    ):
        status, problem = call("POST", path, body)
        assert (status, list(problem["fields"])) == (422, [field]), path
    assert len(states(store)) == 1


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_rehearsed_submission_has_no_ids(app: Flask, store: WatchedStore) -> None:
    status, answer = Caller(app)("POST", "/jobs?dry_run=true", {"jobs": [{"command": "true", "frames": "1-4", "ref": "s"}]})
    assert (status, answer["ids"], answer["count"], answer["refs"]) == (200, [], 5, {})
    assert answer["dry_run"]["after"]["waiting"] == 4
    assert states(store) == {}
