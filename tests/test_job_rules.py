"""The rules that a job may carry, on each kind of database: what is stored and shown, what is inherited, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from coalition.errors import BadInput
from coalition.model import Job, JobChanges, JobSpec
from coalition.store import Store
from coalition.store.views import JobQuery
from tests.builders import Clock, Hand, WatchedStore, a_group, a_job, a_range
from tests.databases import KINDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hand(store: Store) -> Hand:
    return Hand(store)


def submit(store: Store, *specs: JobSpec) -> tuple[int, ...]:
    return store.submit(specs, "ann").ids


def children(store: Store, parent: int) -> list[Job]:
    return store.jobs(JobQuery(parent=parent, limit=1_000))[0]


def needs(store: Store) -> dict[str, Any]:
    """What the one kind of job that waits asks for, whose limits have tokens."""
    for name in ("maya", "nuke"):
        store.set_limit(name, 9)
    (demand,) = store.backlog()
    return vars(demand.requirement)


OF_ANY_JOB: dict[str, Any] = {
    "gpu_memory_bytes": 2**33,
    "exclusive": True,
    "workers": ("n1", "n2"),
    "not_workers": ("n3",),
    "limits": {"maya": 2, "nuke": 1},
    "timeout_output_s": 60.0,
    "timeout_progress_s": 600.0,
    "error_patterns": ("^Error:", "out of memory"),
    "licence_patterns": ("no licen[cs]e",),
    "licence_codes": (3, 113),
    "note": "asked for by Zoë",
}
OF_A_GROUP: dict[str, Any] = {"max_running": 3}


def shown(job: Job, names: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value := getattr(job, name), list) else value for name in names}


class TestFields:
    def test_all_that_was_given_is_shown(self, store: Store) -> None:
        job_id, group = submit(store, a_job(**OF_ANY_JOB), a_group(**OF_ANY_JOB, **OF_A_GROUP))
        assert shown(store.job(job_id), OF_ANY_JOB) == OF_ANY_JOB
        assert shown(store.job(group), OF_ANY_JOB | OF_A_GROUP) == OF_ANY_JOB | OF_A_GROUP

    def test_all_may_be_edited_and_taken_off_again(self, store: Store) -> None:
        job_id, group = submit(store, a_job(), a_group())
        store.edit([job_id, group], JobChanges(**OF_ANY_JOB))
        store.edit([group], JobChanges(**OF_A_GROUP))
        assert shown(store.job(job_id), OF_ANY_JOB) == OF_ANY_JOB
        assert shown(store.job(group), OF_ANY_JOB | OF_A_GROUP) == OF_ANY_JOB | OF_A_GROUP
        nothing = {name: type(value)() for name, value in (OF_ANY_JOB | OF_A_GROUP).items()}
        store.edit([group], JobChanges(**nothing))
        assert shown(store.job(group), nothing) == nothing

    def test_an_edit_of_one_rule_leaves_the_others(self, store: Store) -> None:
        (job_id,) = submit(store, a_job(**OF_ANY_JOB))
        store.edit([job_id], JobChanges(timeout_output_s=0.0, limits={"houdini": 1}))
        assert shown(store.job(job_id), OF_ANY_JOB) == {**OF_ANY_JOB, "timeout_output_s": 0.0, "limits": {"houdini": 1}}

    def test_jobs_with_different_rules_may_be_edited_together(self, store: Store) -> None:
        a, b = submit(store, a_job(timeout_output_s=5.0, cpus=2), a_job(licence_codes=(1,), affinity=("x",)))
        store.edit([a, b], JobChanges(timeout_progress_s=9.0, exclusive=True))
        assert (store.job(a).timeout_output_s, store.job(a).timeout_progress_s, store.job(a).cpus) == (5.0, 9.0, 2)
        assert (tuple(store.job(b).licence_codes), store.job(b).timeout_progress_s, store.job(b).affinity) == ((1,), 9.0, ("x",))
        assert store.job(a).exclusive
        assert store.job(b).exclusive

    @pytest.mark.parametrize("field", OF_A_GROUP)
    def test_what_is_for_groups_is_refused_for_a_job(self, store: Store, field: str) -> None:
        with pytest.raises(BadInput) as refused:
            submit(store, a_group("g", a_job(**{field: 1})))
        assert list(refused.value.fields) == [f"jobs[0].children[0].{field}"]
        (job_id,) = submit(store, a_job())
        with pytest.raises(BadInput) as refused:
            store.edit([job_id], JobChanges(**{field: 1}))
        assert list(refused.value.fields) == [f"changes.{field}"]

    def test_a_chunk_without_frames_is_refused(self, store: Store) -> None:
        with pytest.raises(BadInput) as refused:
            submit(store, a_job(chunk=5))
        assert list(refused.value.fields) == ["jobs[0].chunk"]


class TestInheritance:
    def test_a_job_asks_for_all_that_its_groups_ask_for(self, store: Store) -> None:
        leaf = a_job(limits={"nuke": 1, "maya": 1}, not_workers=("c",), workers=("b", "x"), gpu_memory_bytes=5)
        upper = {"limits": {"nuke": 2}, "exclusive": True, "not_workers": ("a",), "workers": ("a", "b"), "gpu_memory_bytes": 3}
        submit(store, a_group("g", a_group("h", leaf), **upper))
        wanted = needs(store)
        assert wanted["limits"] == (("maya", 1), ("nuke", 2))
        assert (wanted["exclusive"], wanted["gpu_memory_bytes"]) == (True, 5)
        assert (wanted["workers"], wanted["not_workers"]) == (("b",), ("a", "c"))

    def test_max_running_of_groups_is_a_limit_of_all_below_them(self, store: Store) -> None:
        (upper,) = submit(store, a_group("g", a_group("h", a_job(), max_running=1), max_running=2))
        (lower,) = children(store, upper)
        assert needs(store)["limits"] == ((f"group#{upper}", 1), (f"group#{lower.id}", 1))
        assert store.job(upper).limits == {}

    def test_max_running_follows_edits_moves_and_deletes(self, store: Store) -> None:
        one, other = submit(store, a_group("g", a_job()), a_group("h"))
        (job,) = children(store, one)
        assert needs(store)["limits"] == ()
        store.edit([one, other], JobChanges(max_running=4))
        assert needs(store)["limits"] == ((f"group#{one}", 1),)
        store.edit([job.id], JobChanges(parent=other))
        assert needs(store)["limits"] == ((f"group#{other}", 1),)
        store.edit([other], JobChanges(max_running=0))
        assert needs(store)["limits"] == ()
        store.edit([other], JobChanges(max_running=1))
        store.delete([other])
        assert store.backlog() == []


class TestLimitsOfWhatRuns:
    def test_max_running_counts_what_ran_before_it_was_set(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_range("1-5"))
        leases = hand.take(2)
        store.edit([group], JobChanges(max_running=3))
        assert len(hand.take(9)) == 1
        hand.finish(*leases)
        assert len(hand.take(9)) == 2

    def test_a_running_job_that_is_moved_counts_in_its_new_group_only(self, store: Store, hand: Hand) -> None:
        _, other = submit(store, a_range("1-4", max_running=1), a_group("h", max_running=1))
        (lease,) = hand.take(9)
        store.edit([lease.job], JobChanges(parent=other))
        submit(store, a_job("waits", parent=other))
        assert hand.titles() == ["shot 2"]
        hand.finish(lease)
        assert hand.titles() == ["waits"]

    def test_tokens_of_a_running_job_follow_an_edit_of_its_limits(self, store: WatchedStore, hand: Hand) -> None:
        store.set_limit("nuke", 2)
        (job_id,) = submit(store, a_job(limits={"nuke": 1}))
        lease = hand.take_one()
        store.edit([job_id], JobChanges(limits={"nuke": 2}))
        assert [limit.used for limit in store.limits()] == [2]
        store.edit([job_id], JobChanges(limits={}))
        assert [limit.used for limit in store.limits()] == [0]
        hand.finish(lease)
        assert [limit.used for limit in store.limits()] == [0]


@pytest.fixture
def again(store: WatchedStore, clock: Clock) -> Iterator[Any]:
    """A function that opens the store's database with other knobs of the scheduler, as after a new start of the server."""
    opened: list[Store] = []

    def open_again(**scheduler: Any) -> WatchedStore:
        settings = replace(store.settings, scheduler=replace(store.settings.scheduler, **scheduler))
        opened.append(WatchedStore(settings, clock))
        opened[-1].adopt_rules()
        return opened[-1]  # type: ignore[return-value]

    yield open_again
    for one in opened:
        one.close()


class TestKnobs:
    """The store of each test checks, after every transaction, that all classes are those of its knobs."""

    def test_new_knobs_are_adopted_once(self, store: Store, again: Any) -> None:
        submit(store, a_range("1-3", user="ann"), a_job(user="bob", paused=True), a_job(user="ann"))
        changed = again(fair="user")
        assert [changed.adopt_rules(), again(fair="group").adopt_rules()] == [False, False]
        kinds = [event["kind"] for event in store.events({}, 0, 10)]
        assert kinds == ["server.rules", "server.rules", "job.submit"]

    def test_max_running_per_user_is_a_limit_of_each_job(self, store: Store, again: Any) -> None:
        submit(store, a_group("g", a_job(user="ann"), a_job(user=""), user="ann"))
        knobs = again(max_running_per_user=2)
        assert sorted(demand.requirement.limits for demand in knobs.backlog()) == [(), (("user#ann", 1),)]
        (job_id,) = submit(knobs, a_job(user="bob"))
        knobs.edit([job_id], JobChanges(user="cleo"))
        assert (("user#cleo", 1),) in [demand.requirement.limits for demand in knobs.backlog()]

    @pytest.mark.parametrize("fair", ["user", "group"])
    def test_shares_follow_submits_edits_moves_and_ends(self, again: Any, fair: str) -> None:
        knobs = again(fair=fair, max_running_per_user=3)
        one, other, loose = submit(knobs, a_range("1-2", user="ann"), a_group("h", user="bob"), a_job(user="ann"))
        knobs.edit([one], JobChanges(user="bob"))
        knobs.edit([loose], JobChanges(parent=other))
        knobs.edit([other], JobChanges(parent=one))
        hand = Hand(knobs)
        hand.fail(*hand.take(9))
        knobs.reset([one])
        knobs.edit([other], JobChanges(parent=0))
        assert hand.finish_all() == 3
