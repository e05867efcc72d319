"""Finished trees leave the tables that the farm works on, and can be looked at; on each kind of database."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

import coalition
from coalition.config import KeepSettings
from coalition.errors import NotFound
from coalition.model import Dependency, JobChanges
from coalition.schema import archive, attempt, job, spec
from coalition.server import housekeeping
from coalition.server.housekeeping import Housekeeper
from coalition.store.archive import ArchiveQuery
from coalition.store.check import problems
from coalition.store.lists import JobQuery
from tests.builders import Caller, Clock, Hand, WatchedStore, a_group, a_job, a_range
from tests.databases import KINDS

DAY_S = 86_400.0


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hand(store: WatchedStore) -> Hand:
    return Hand(store)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "PIECE", 2)
    monkeypatch.setattr(housekeeping, "ARCHIVED", 2)


def keeper(store: WatchedStore, days: float = 30) -> Housekeeper:
    return Housekeeper(replace(store.settings, keep=KeepSettings(finished_s=days * DAY_S)), store)


def titles(store: WatchedStore, **query: object) -> list[str]:
    return [entry["title"] for entry in store.archived(ArchiveQuery(**query))]  # type: ignore[arg-type]


def whole(store: WatchedStore) -> list[str]:
    with store.read() as db:
        return list(problems(db))


def rows_of(store: WatchedStore) -> dict[str, int]:
    with store.read() as db:
        return {t.name: db.execute(select(func.count()).select_from(t)).scalar_one() for t in (job, spec, archive, attempt)}


@pytest.mark.usefixtures("small_pieces")
class TestArchiving:
    def test_a_finished_tree_goes_whole_and_can_be_looked_at(self, store: WatchedStore, hand: Hand, clock: Clock) -> None:
        inner = a_group("in", a_job("a", user="ann"), a_job("b", user="bob"))
        (tree, other) = store.submit(
            [a_group("tree", inner, a_range("1-5", "shot", max_running=9)), a_job("loose", user="ann")]
        ).ids
        hand.finish_all()
        before = store.job(tree)
        clock.advance(31 * DAY_S)
        assert keeper(store).archive() == 11
        assert rows_of(store) == {"job": 0, "spec": 0, "archive": 11, "attempt": 8}
        assert (titles(store), titles(store, parent=tree), titles(store, user="ann")) == (
            ["loose", "tree"],
            ["shot", "in"],
            ["loose", "a"],
        )
        kept = store.archived_job(tree)
        assert (kept["counts"]["finished"], kept["run_s"], kept["archived_at"]) == (7, before.run_s, clock())
        assert store.farm_jobs() == {"waiting": 0, "pending": 0, "working": 0, "finished": 0, "error": 0}
        assert [event["text"] for event in store.events({"job": tree, "kind": "job.archive"}, 0, 9)] == ["archived with 7 jobs"]
        assert len(store.attempts(other)) == 1
        assert whole(store) == []
        with pytest.raises(NotFound, match="is archived; ask for /archive"):
            store.job(tree)

    def test_what_is_young_open_in_error_or_part_of_an_open_tree_stays(
        self, store: WatchedStore, hand: Hand, clock: Clock
    ) -> None:
        store.submit([a_job("error", priority=255), a_group("open", a_job("done"), a_job("held", paused=True)), a_group("empty")])
        hand.fail(hand.take_one())
        hand.finish_all()
        clock.advance(31 * DAY_S)
        store.submit([a_job("young")])
        hand.finish_all()
        assert keeper(store).archive() == 0
        assert {one.title for one in store.jobs(JobQuery(parent=0))[0]} == {"error", "open", "empty", "young"}

    def test_with_0_nothing_is_archived(self, store: WatchedStore, hand: Hand, clock: Clock) -> None:
        store.submit([a_job()])
        hand.finish_all()
        clock.advance(10_000 * DAY_S)
        assert keeper(store, days=0).archive() == 0

    def test_dependencies_on_what_is_archived_stay_satisfied(self, store: WatchedStore, hand: Hand, clock: Clock) -> None:
        (target,) = store.submit([a_group("target", a_job("t"))]).ids
        (waiter, held) = store.submit(
            [a_job("waiter", depends_on=(target,)), a_job("held", paused=True, depends_on=(target + 1,))]
        ).ids
        hand.finish_all()
        clock.advance(DAY_S)
        store.reset([waiter])
        clock.advance(29.5 * DAY_S)
        assert keeper(store).archive() == 2
        store.start([held])
        assert sorted(hand.titles()) == ["held", "waiter"]
        (later,) = store.submit([a_job("later", depends_on=(target,))]).ids
        store.edit([later], JobChanges(depends_on=(target + 1,)))
        assert (store.job(later).state, store.job(later).depends_on) == ("WAITING", (target + 1,))
        assert whole(store) == []

    def test_frames_that_waited_for_archived_frames_go_on_without_them(self, store: WatchedStore, hand: Hand) -> None:
        (first,) = store.submit([a_range("1-4", "first")]).ids
        (then,) = store.submit([a_range("1-4", "then", depends_on=(Dependency(first, frames=True),))]).ids
        hand.finish_all()
        assert store.archive_some(first, 2) == 2
        store.reset([then])
        assert store.job(then).counts.waiting == 4  # type: ignore[union-attr]
        assert (store.archive_some(first, 2), store.archive_some(first, 2)) == (2, 1)
        assert (hand.finish_all(), whole(store)) == (4, [])

    def test_half_a_tree_is_counted_as_a_whole_and_may_run_again(self, store: WatchedStore, hand: Hand, clock: Clock) -> None:
        (tree,) = store.submit([a_group("tree", a_range("1-3", "first"), a_group("in", a_job("b"), a_job("c")))]).ids
        (waiter,) = store.submit([a_job("waiter", depends_on=(tree,), paused=True)]).ids
        hand.finish_all()
        assert (store.archive_some(tree, 2), store.archive_some(tree, 2)) == (2, 2)
        assert (store.job(tree).state, store.job(tree).counts.finished) == ("FINISHED", 5)  # type: ignore[union-attr]
        assert whole(store) == []
        store.reset([tree])
        assert store.job(tree).state == "WAITING"
        assert store.archive_some(tree, 2) == 0
        assert hand.finish_all() == 1
        assert store.job(waiter).state == "WAITING"
        store.delete([tree])
        assert (store.job(waiter).depends_on, whole(store)) == ((), [])

    def test_another_tree_with_a_moved_half_stays_whole(self, store: WatchedStore, hand: Hand) -> None:
        (tree, other) = store.submit([a_group("tree", a_group("in", a_job("a"), a_job("b"))), a_group("other", a_job("c"))]).ids
        hand.finish_all()
        assert store.archive_some(tree, 1) == 1
        store.edit([tree + 1], JobChanges(parent=other))
        store.delete([tree])
        assert (store.job(other).counts.finished, whole(store)) == (3, [])  # type: ignore[union-attr]


def test_every_kind_of_event_is_documented() -> None:
    sources = (Path(coalition.__file__).parent / "store").glob("*.py")
    nouns = "job|worker|instance|limit|token|budget|pool|server|farm"
    kinds = {kind for source in sources for kind in re.findall(rf'"((?:{nouns})[.][a-z_]+)"', source.read_text())} - {"farm.key"}
    page = (Path(__file__).parents[1] / "docs" / "history.md").read_text()
    assert len(kinds) > 30
    assert [kind for kind in sorted(kinds) if kind not in page and not re.search(rf"\b{kind.partition('.')[2]}\b", page)] == []


def test_lists_of_the_archive_go_page_by_page(store: WatchedStore, hand: Hand) -> None:
    store.submit([a_job(title) for title in "abcA"])
    hand.finish_all()
    for number in (1, 2, 3, 4):
        store.archive_some(number, 9)
    assert titles(store, limit=2) == ["A", "c"]
    assert titles(store, limit=2, before=3) == ["b", "a"]
    assert titles(store, title="a") == ["A", "a"]


class TestHistory:
    def test_a_timeline_has_the_attempts_of_a_job_among_its_events(self, store: WatchedStore, hand: Hand, clock: Clock) -> None:
        (job_id,) = store.submit([a_job(retries=1)], "ann").ids
        clock.advance(10)
        hand.fail(hand.take_one(), reason="no disk")
        clock.advance(10)
        store.pause([job_id], "bob")
        told = [(entry["kind"], entry["who"], entry["text"]) for entry in store.timeline(job_id, 100)]
        assert told == [
            ("job.pause", "bob", "paused"),
            ("attempt.fail", "w1", "no disk"),
            ("attempt.lease", "w1", "leased to w1"),
            ("attempt.start", "w1", "started"),
            ("job.submit", "ann", "submitted"),
        ]
        assert [entry["kind"] for entry in store.timeline(job_id, 1)] == ["job.pause"]
        assert [entry["kind"] for entry in store.timeline(job_id, 9, until=clock() - 15)] == ["job.submit"]

    def test_events_of_all_that_is_below_a_job_are_found_also_of_archived_ones(self, store: WatchedStore, hand: Hand) -> None:
        (group, other) = store.submit([a_group("g", a_group("in", a_job("a"), a_job("b"))), a_job("x")]).ids
        store.pause([group + 2, other])
        store.start([group + 2, other], "ann")
        hand.finish_all()
        store.archive_some(group, 1)

        def kinds(**filters: int | str) -> list[tuple[str, int]]:
            return [(event["kind"], event["job"]) for event in store.events(filters, 0, 9, below=True)]

        assert kinds(job=group) == [("job.start", group + 2), ("job.pause", group + 2), ("job.submit", group)]
        assert kinds(job=group + 1, user="ann") == [("job.start", group + 2)]
        assert kinds(job=other) == [("job.start", other), ("job.pause", other)]

    def test_whoever_goes_on_or_waits_again_is_told_with_its_cause(self, store: WatchedStore, hand: Hand) -> None:
        (target, waiter, many) = store.submit(
            [a_job("t", ref="t"), a_job("w", depends_on=("t",)), a_range("1-30", depends_on=("t",))]
        ).ids
        hand.finish(hand.take_one())
        store.reset([target], who="ann")
        told = [(event["kind"], event["job"], event["text"]) for event in store.events({"job": waiter}, 0, 9)]
        assert told == [("job.block", waiter, f"#{target} is open again"), ("job.unblock", waiter, f"#{target} has ended")]
        assert [event["kind"] for event in store.events({"job": many}, 0, 9)] == ["job.block", "job.unblock"]

    def test_many_that_go_on_at_once_are_one_event(self, store: WatchedStore, hand: Hand) -> None:
        target = a_job("t", ref="t")
        store.submit([target, *[a_job(depends_on=("t",)) for _ in range(30)]])
        hand.finish(hand.take_one())
        (event,) = store.events({"kind": "job.unblock"}, 0, 9)
        assert (event["job"], event["text"]) == (None, "30 jobs, #2 to #31: #1 has ended")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_the_archive_is_asked_over_http(app: Flask, store: WatchedStore, hand: Hand) -> None:
    call = Caller(app)
    (job_id,) = call.submit({"command": "true", "title": "old", "note": "keep"})
    hand.finish_all()
    store.archive_some(job_id, 1)
    (entry,) = call.ok("GET", "/archive?title=OL")["jobs"]
    assert (entry["id"], entry["note"], entry["allowed_actions"]) == (job_id, "keep", [])
    assert len(call.ok("GET", f"/archive/{job_id}")["attempts"]) == 1
    assert "archive" in call("GET", f"/jobs/{job_id}")[1]["detail"]
    assert "job.archive" in {entry["kind"] for entry in call.ok("GET", f"/jobs/{job_id}/timeline?limit=9")["timeline"]}
    assert call.ok("GET", f"/events?job={job_id}&below=1")["events"][0]["kind"] == "job.archive"
    assert call("GET", "/events?below=1")[0] == 422
    assert [call("GET", f"/archive/{one}")[0] for one in (99, 2**70)] == [404, 404]
    assert call("GET", "/archive?limit=0")[0] == 422
