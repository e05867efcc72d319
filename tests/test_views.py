"""What people see of the farm, on each kind of database: lists, reasons, history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from coalition.errors import BadInput
from coalition.filters import parse
from coalition.model import Worker, WorkerChanges, from_dict
from coalition.store import Store, lists
from coalition.store.lists import JobQuery
from tests.builders import Clock, Hand, a_group, a_job
from tests.contract_store import beat
from tests.databases import KINDS

NIGHTS = "mon-fri 19:00-07:00, sat-sun 00:00-24:00"  # the tests' clock starts on a Tuesday at 22:13 UTC


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hand(store: Store) -> Hand:
    return Hand(store)


def worker(store: Store, hand: Hand) -> Worker:
    """A worker as it is shown."""
    (found,) = [one for one in store.workers() if one.id == hand.id]
    return found


def edit_worker(store: Store, hand: Hand, **changes: object) -> None:
    store.edit_workers([hand.id], from_dict(WorkerChanges, changes), "ann")


def pages(store: Store, query: JobQuery) -> list[str]:
    """The titles of all that a query finds, page by page."""
    found: list[str] = []
    while True:
        jobs, cursor = store.jobs(query)
        found += [job.title for job in jobs]
        if cursor is None:
            return found
        query = replace(query, after=cursor)


class TestLists:
    @pytest.fixture
    def group(self, store: Store, hand: Hand) -> int:
        """b, c and a in a group, in this order of ids: one FINISHED, one in ERROR, one WAITING; and another job at the top."""
        jobs = [a_job("b", user="ann"), a_job("c", user="bob", priority=200), a_job("a", user="ann"), a_job("a", user="ann")]
        (group, _) = store.submit([a_group("g", *jobs), a_job("x", user="ann")]).ids
        hand.finish(hand.take_one())
        hand.fail(hand.take_one())
        return group

    FOUND: ClassVar[list[tuple[dict[str, Any], str]]] = [
        ({}, "bcaa"),
        ({"descending": True}, "aacb"),
        ({"sort": "title"}, "aabc"),
        ({"sort": "title", "descending": True}, "cbaa"),
        ({"sort": "priority", "descending": True}, "caab"),
        ({"user": "ann"}, "baa"),
        ({"states": ("ERROR", "WAITING")}, "baa"),
        ({"states": ("ERROR", "FINISHED", "WAITING"), "descending": True}, "aacb"),
        ({"states": ("WAITING",), "sort": "title", "user": "ann"}, "aa"),
        ({"states": ("ERROR",), "user": "bob"}, ""),
        ({"title": "C"}, "c"),
        ({"title": "%"}, ""),
    ]

    def test_every_order_and_filter_gives_each_job_once(self, store: Store, group: int) -> None:
        for fields, titles in self.FOUND:
            for limit in (1, 2, 100):
                assert "".join(pages(store, JobQuery(parent=group, limit=limit, **fields))) == titles, (fields, limit)

    def test_an_offset_leaves_out_so_many_of_any_list_that_is_counted(self, store: Store, group: int) -> None:
        for fields, titles in self.FOUND:
            query = JobQuery(parent=group, limit=1, **fields)
            if store.count_jobs(query)["total"] is None:
                with pytest.raises(BadInput, match="offset: needs a list whose `total` is told"):
                    store.jobs_after(query, 1)
                continue
            first = store.jobs(query)[1]
            for offset in range(1, len(titles) + 3):
                after, passed = store.jobs_after(query, offset)
                rest = "".join(pages(store, replace(query, after=after)))
                assert (passed, rest) == (min(offset, len(titles)), titles[offset:]), (fields, offset)
                if first is not None:
                    after, passed = store.jobs_after(replace(query, after=first), offset)
                    rest = "".join(pages(store, replace(query, after=after)))
                    assert (passed, rest) == (min(offset, len(titles) - 1), titles[1 + offset :]), (fields, offset)

    def test_jobs_are_sorted_by_when_they_began_and_ended_and_by_progress(self, store: Store, hand: Hand, clock: Clock) -> None:
        """b began first and ended last; a runs, half is a group of which one of two is finished, loose failed."""
        tops = [a_job("loose", priority=255), a_job("b", priority=254), a_job("a", priority=253)]
        half = a_group("half", a_job("x"), a_job("y", paused=True), priority=9)
        store.submit([*tops, half, a_job("waits", paused=True), a_group("empty")])
        leases = []
        for _ in range(4):
            clock.advance(10)
            leases.append(hand.take_one())
        loose, b, a, x = leases
        clock.advance(10)
        hand.exchange(started=[b.attempt, a.attempt, x.attempt])
        hand.finish(x)
        hand.fail(loose)
        clock.advance(10)
        hand.finish(b)
        store.flush_beats([replace(beat(hand, clock()), holds=((a.attempt, 0.7),))])
        shown = store.jobs(JobQuery(parent=0))[0]
        order = [one.title for one in shown]
        for sort in ("started", "ended", "progress"):
            value = {one.title: getattr(one, sort if sort == "progress" else f"{sort}_at") or 0 for one in shown}
            wanted = sorted(value, key=lambda title: (round(value[title] * 1_000), order.index(title)))
            for limit in (1, 2, 100):
                assert pages(store, JobQuery(parent=0, sort=sort, limit=limit)) == wanted, (sort, limit)
                assert pages(store, JobQuery(parent=0, sort=sort, limit=limit, descending=True)) == wanted[::-1], (sort, limit)
            after, passed = store.jobs_after(JobQuery(parent=0, sort=sort), 2)
            assert (passed, pages(store, JobQuery(parent=0, sort=sort, after=after))) == (2, wanted[2:])

    def test_more_than_can_be_sorted_by_what_no_index_has_is_refused(
        self, store: Store, group: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lists, "SORTED", 3)
        with pytest.raises(BadInput) as caught:
            store.jobs(JobQuery(parent=group, sort="ended"))
        assert "by ended sorts up to 3 jobs" in caught.value.fields["sort"]
        assert pages(store, JobQuery(parent=group, sort="ended", states=("FINISHED",))) == ["c"]

    def test_groups_are_found_by_the_state_of_what_is_in_them(self, store: Store, group: int) -> None:
        assert pages(store, JobQuery(parent=0, states=("ERROR",))) == ["g"]
        assert pages(store, JobQuery(states=("ERROR",))) == ["g", "b"]

    def test_a_list_is_counted(self, store: Store, group: int) -> None:
        below = {"total": 4, "waiting": 2, "pending": 0, "working": 0, "finished": 1, "error": 1}
        assert store.count_jobs(JobQuery(parent=group, user="ann")) == {"counts": below, "total": 3, "more": False}
        told = store.count_jobs(JobQuery(parent=group, title="a"))
        assert (told["total"], told["counts"]) == (None, below)
        assert store.count_jobs(JobQuery(parent=0))["counts"]["total"] == 5

    def test_what_ended_lately_is_counted_and_listed_whatever_ended_before(
        self, store: Store, hand: Hand, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.submit([a_group("g", *[a_job(f"j{n}", user="ann" if n % 2 else "bob") for n in range(8)])])
        for _ in range(3):
            hand.finish(hand.take_one())
        clock.advance(3_600)
        hand.fail(hand.take_one())
        for _ in range(2):
            hand.finish(hand.take_one())
        query = JobQuery(terms=parse("state:FINISHED group:no ended>-30m", clock()), limit=1)
        monkeypatch.setattr(lists, "PATIENCE_S", 0.0)
        assert store.count_jobs(query) | {"counts": {}} == {"counts": {}, "total": 2, "more": False}
        assert pages(store, query) == ["j4", "j5"]
        assert pages(store, replace(query, descending=True)) == ["j5", "j4"]
        after, passed = store.jobs_after(replace(query, descending=True), 1)
        assert (passed, pages(store, replace(query, descending=True, after=after))) == (1, ["j4"])
        assert pages(store, replace(query, terms=(*query.terms, *parse("user:ann -title:j4", clock())))) == ["j5"]
        assert store.count_jobs(replace(query, terms=parse("ended>-30m", clock())))["total"] is None
        assert pages(store, replace(query, terms=parse("ended>-30m", clock()))) == ["g", "j3", "j4", "j5"]
        by_end = replace(query, sort="ended", descending=True)
        monkeypatch.setattr(lists, "SORTED", 3)
        assert pages(store, by_end) == ["j5", "j4"]
        monkeypatch.setattr(lists, "COUNTED", 1)
        assert store.count_jobs(query) | {"counts": {}} == {"counts": {}, "total": 1, "more": True}
        assert store.jobs_after(replace(query, after=store.jobs_after(query, 2)[0]), 1)[1] == 0
        monkeypatch.setattr(lists, "LATELY", 1)  # of more the list goes its usual way
        assert pages(store, query) == ["j4", "j5"]
        after, passed = store.jobs_after(query, 1)
        assert (passed, pages(store, replace(query, after=after))) == (1, ["j5"])
        after, passed = store.jobs_after(replace(query, after=after), 5)
        assert (passed, pages(store, replace(query, after=after))) == (1, [])
        errors = replace(query, terms=parse("state:ERROR group:no ended>-30m", clock()))
        assert store.count_jobs(errors) | {"counts": {}} == {"counts": {}, "total": 1, "more": False}
        with pytest.raises(BadInput, match="sorts up to 3"):
            store.jobs(by_end)


class TestWorkersThatAreGone:
    def test_they_stay_in_the_list_for_a_while_and_say_why(self, store: Store, hand: Hand, clock: Clock) -> None:
        with store.write() as db:
            store._lose_worker(db, hand.id, "its machine was reclaimed", clock())
        gone = worker(store, hand)
        assert (gone.state, gone.reason, gone.allowed_actions) == ("TERMINATED", "is gone, with its machine", ("delete",))
        (reason,) = store.explain_worker(hand.id)[1]
        assert reason["text"] == "is gone, with its machine, since 0 s by server: its machine was reclaimed"
        clock.advance(store.settings.keep.workers_s + 1)
        assert store.workers() == []


class TestWhyAWorkerIsIdle:
    def test_what_was_edited_is_shown(self, store: Store, hand: Hand) -> None:
        given = {"hours": NIGHTS, "timezone": "Europe/Paris", "hours_end": "requeue", "idle_user_s": 600.0, "note": "ann's"}
        edit_worker(store, hand, **given, idle_load=2)
        assert {name: getattr(worker(store, hand), name) for name in given} == given
        assert worker(store, hand).idle_load == 2
        edit_worker(store, hand, hours="", note="")
        assert (worker(store, hand).hours, worker(store, hand).note, worker(store, hand).hours_end) == ("", "", "requeue")

    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("hours", "mon-fri 19:00", "is not understood"),
            ("timezone", "Europe/Pariss", 'did you mean "Europe/Paris"'),
            ("hours_end", "kill", "finish, requeue"),
            ("idle_user_s", -1, "0 to"),
            ("note", "x" * 1_001, "at most 1,000"),
        ],
    )
    def test_what_cannot_be_is_refused_by_its_field(
        self, store: Store, hand: Hand, field: str, value: object, words: str
    ) -> None:
        with pytest.raises(BadInput) as caught:
            edit_worker(store, hand, **{field: value})
        assert words in caught.value.fields[field]

    def test_hours_are_told_with_when_it_opens(self, store: Store, hand: Hand, clock: Clock) -> None:
        store.flush_beats([beat(hand, clock())])
        edit_worker(store, hand, hours=NIGHTS)
        assert worker(store, hand).reason == "no job could start now; nothing waits"
        clock.advance(12 * 3_600)
        store.flush_beats([beat(hand, clock())])
        assert worker(store, hand).reason == "is outside its hours; opens Wed 19:00"

    def test_a_user_and_a_load_are_told_with_their_numbers(self, store: Store, hand: Hand, clock: Clock) -> None:
        edit_worker(store, hand, idle_user_s=600, idle_load=1.5)
        store.flush_beats([replace(beat(hand, clock()), used_at=clock() - 60)])
        assert worker(store, hand).reason == "was used 60 s ago; takes jobs 600 s after its user"
        store.flush_beats([replace(beat(hand, clock()), load=1.75)])
        assert worker(store, hand).reason == "has a load of 1.8; takes jobs below 1.5"

    def test_a_switch_a_drain_and_a_silence_are_told(self, store: Store, hand: Hand, clock: Clock) -> None:
        assert worker(store, hand).reason == "has enrolled and not called yet"
        store.sweep()
        for _ in range(4):
            clock.advance(20)
            store.sweep()
        assert worker(store, hand).reason == "has not been heard of for 80 s"
        store.drain_workers([hand.id])
        assert worker(store, hand).reason == "finishes what it runs and takes no more"
        edit_worker(store, hand, active=False)
        assert worker(store, hand).reason == "is switched off"
