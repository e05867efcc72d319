"""The words of `explain` on each kind of database: why a job waits, why those of a group do, why a worker is idle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from coalition.config import BudgetSettings, PoolSettings, SchedulerSettings
from coalition.errors import NotFound
from coalition.model import WorkerChanges, from_dict
from coalition.store import Store, explain_groups
from coalition.store.cloud import Blocked, Decided
from tests.builders import (
    Agent,
    Caller,
    Clock,
    Hand,
    WatchedStore,
    a_budget,
    a_group,
    a_job,
    a_range,
    a_result,
    settings,
)
from tests.contract_rules import needing
from tests.contract_store import beat
from tests.databases import KINDS

DOLLAR = 1_000_000


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hand(store: Store) -> Hand:
    return Hand(store)


def why(store: Store, job_id: int) -> list[str]:
    return [reason["text"] for reason in store.explain(job_id)]


def idle(store: Store, hand: Hand) -> list[str]:
    return [reason["text"] for reason in store.explain_worker(hand.id)[1]]


def seen(store: Store, *hands: Hand) -> None:
    """The workers have called, as far as the store knows."""
    store.flush_beats([beat(hand, store.clock()) for hand in hands])


def edit_worker(store: Store, hand: Hand, **changes: object) -> None:
    store.edit_workers([hand.id], from_dict(WorkerChanges, changes), "ann")


class TestWhyAJobWaits:
    def test_a_limit_is_told_with_what_is_used_of_it(self, store: Store, hand: Hand) -> None:
        store.set_limit("nuke", 1)
        first, second = (needing(store, title, limits=(("nuke", 1),)) for title in "ab")
        other = needing(store, "c", limits=(("x", 1),))
        hand.take_one()
        assert why(store, second)[0] == "limit nuke is exhausted: 1 of 1 used"
        assert why(store, other)[0] == "limit x is not defined, so that nobody gets its tokens"
        assert "is running on w1" in why(store, first)[0]

    def test_workers_that_match_and_take_nothing_now_are_named_with_why(self, store: Store, hand: Hand, clock: Clock) -> None:
        other = Hand(store, "w2")
        (job_id,) = store.submit([a_job()]).ids
        store.drain_workers([other.id])
        edit_worker(store, hand, hours="mon 10:00-11:00")
        words = "w1 is outside its hours; opens Mon 10:00; w2 is draining"
        assert why(store, job_id) == [f"none of the 2 workers that match takes jobs now: {words}"]
        edit_worker(store, other, active=False)
        words = "w1 is outside its hours; opens Mon 10:00"
        assert why(store, job_id) == [f"the 1 worker that matches takes no jobs now: {words}"]

    def test_busy_workers_and_the_order_are_told_with_numbers(self, store: Store, hand: Hand) -> None:
        store.submit([a_job() for _ in range(6)])
        (last,) = store.submit([a_job()]).ids
        hand.take(4)
        assert why(store, last) == ["the 1 worker that matches is busy", "2 jobs before it on the 1 worker that matches"]
        other = Hand(store, "w2")
        other.take(1)
        assert why(store, last) == ["1 job before it on the 2 workers that match"]

    def test_jobs_that_its_workers_cannot_run_are_not_before_it(self, store: Store, hand: Hand) -> None:
        Hand(store, "gpu", ("gpu",))
        store.submit([a_job(affinity=("gpu",), priority=200), a_job(priority=200, limits={"gone": 1}), a_job(priority=200)])
        (job_id,) = store.submit([a_job(workers=("w1",))]).ids
        assert why(store, job_id) == ["1 job before it on the 1 worker that matches"]

    def test_a_tag_that_nobody_has_is_named_else_what_the_nearest_lacks(self, store: Store, hand: Hand) -> None:
        (gpu, big) = store.submit([a_job(affinity=("gpu", "moon")), a_job(cpus=64)]).ids
        assert why(store, gpu) == ["no active worker has 'gpu' or 'moon'"]
        assert why(store, big) == ["the 1 active worker does not fit: w1 has 8 cpus of 64"]
        Hand(store, "w2", ("gpu",))
        Hand(store, "w3", ("moon",))
        assert why(store, gpu) == ["none of the 3 active workers fits: for example w3 lacks gpu"]
        store.edit_workers([1, 2, 3], WorkerChanges(active=False))
        assert why(store, big) == ["no worker is up: 3 are switched off"]

    def test_no_room_beside_what_runs_is_told_and_who_keeps_it(self, store: Store, hand: Hand) -> None:
        store.submit([a_job("small", cpus=6)])
        hand.take_one()
        (big, later) = store.submit([a_job("big", cpus=8), a_job("later", cpus=2)]).ids
        assert why(store, big)[0] == "the 1 worker that matches has no room now: w1 has 2 cpus free of 8"
        assert hand.take() == []
        assert why(store, big)[:2] == [
            "worker w1 keeps its room for it as others end",
            "the 1 worker that matches has no room now: w1 has 2 cpus free of 8",
        ]
        assert why(store, later) == [
            f"the 1 worker that matches has no room now: w1 keeps its room for job #{big}",
            "1 job before it on the 1 worker that matches",
        ]

    def test_dependencies_that_failed_are_named_first(self, store: Store, hand: Hand) -> None:
        jobs = store.submit([a_job(str(number)) for number in range(7)]).ids
        hand.finish(hand.take_one())
        *_, failed = hand.take(4)
        hand.fail(failed)
        (after,) = store.submit([a_job(depends_on=tuple(jobs))]).ids
        names = f"#{jobs[4]} ERROR, #{jobs[1]} WORKING, #{jobs[2]} WORKING, #{jobs[3]} WORKING, #{jobs[5]} WAITING, ..."
        assert why(store, after)[0] == f"waits for 6 of 7 dependencies: {names}"

    def test_a_retry_and_a_licence_are_told_apart(self, store: Store, hand: Hand) -> None:
        (first, second) = store.submit([a_job(retries=1), a_job()]).ids
        one, two = hand.take(2)
        hand.fail(one)
        hand.exchange(a_result(two, "ERROR", exit_code=1, no_licence=True))
        assert why(store, first)[0] == "is tried again in 1 s, after 1 error"
        assert why(store, second)[0] == "found no licence; is tried again in 60 s"


class TestFairShares:
    @pytest.mark.parametrize("fair", ["user", "group"])
    def test_its_place_among_those_who_share_is_told_with_the_use(
        self, database: str, tmp_path: Path, clock: Clock, fair: str
    ) -> None:
        rules = SchedulerSettings(fair=fair)
        store = WatchedStore(replace(settings(tmp_path, database=database), scheduler=rules), clock)
        hand = Hand(store)
        groups = [a_group(user, a_job(user=user), a_job(user=user), a_job(user=user)) for user in ("ann", "bob")]
        ann, bob = store.submit(groups).ids
        hand.finish(hand.take_one(), run_s=7_200)
        names = ("user ann", "user bob") if fair == "user" else (f"group #{ann}", f"group #{bob}")
        assert why(store, ann + 3) == [
            "1 job before it on the 1 worker that matches",
            f"by fair share {names[0]} is 2 of 2 at this priority, with 2.0 slot-hours used lately; "
            f"first is {names[1]} with 0.0 slot-hours",
        ]
        assert why(store, bob + 1)[-1] == f"by fair share {names[1]} is 1 of 2 at this priority, with 0.0 slot-hours used lately"
        store.close()


class TestPools:
    def store_of(self, store: Store, pool: PoolSettings, *budgets: BudgetSettings) -> Store:
        """The same database with a pool and budgets in cloud.ini."""
        return Store(replace(store.settings, pools=(pool,), budgets=budgets), store.clock)

    @pytest.fixture
    def job_id(self, store: Store, hand: Hand) -> int:
        return store.submit([a_job(affinity=("gpu",), user="ann")]).ids[0]

    def pool(self, **fields: object) -> PoolSettings:
        return PoolSettings("aws-gpu", 1, **{"provider": "fake", "affinity": ("gpu",), "max": 2, "price_micro": DOLLAR, **fields})

    def says(self, store: Store, job_id: int) -> str:
        first, second = why(store, job_id)
        assert first == "no active worker has 'gpu'"
        return second.removeprefix("pool aws-gpu could start one: ")

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({}, "nothing is decided yet"),
            ({"enabled": False}, "it is switched off"),
            ({"max": 0}, "not with its max, which is 0"),
        ],
    )
    def test_a_pool_that_has_the_tags_says_what_keeps_it(
        self, store: Store, job_id: int, fields: dict[str, object], words: str
    ) -> None:
        made = self.store_of(store, self.pool(**fields))
        assert self.says(made, job_id) == words
        made.close()

    def test_a_pool_without_the_tags_is_not_told(self, store: Store, job_id: int) -> None:
        made = self.store_of(store, self.pool(affinity=("cpu",)))
        assert why(made, job_id) == ["no active worker has 'gpu'"]
        made.close()

    @pytest.mark.parametrize(
        ("applies_to", "told"),
        [("farm", True), ("pool:aws-gpu", True), ("pool:other", False), ("user:bob", False)],
    )
    def test_a_hard_budget_of_the_pool_that_is_short_is_told_with_what_is_left(
        self, store: Store, job_id: int, applies_to: str, told: bool
    ) -> None:
        made = self.store_of(store, self.pool(), a_budget("alpha", applies_to, amount_micro=DOLLAR // 10, window="total"))
        short = "blocked, budget alpha has $0.10 of $0.10 left"
        assert self.says(made, job_id) == (short if told else "nothing is decided yet")
        made.close()

    def test_a_budget_that_only_warns_blocks_nothing(self, store: Store, job_id: int) -> None:
        made = self.store_of(store, self.pool(), a_budget("alpha", "farm", amount_micro=1, hard=False))
        assert self.says(made, job_id) == "nothing is decided yet"
        made.close()

    def test_a_block_and_a_decision_are_told(self, store: Store, job_id: int) -> None:
        made = self.store_of(store, self.pool(), a_budget("alpha", "farm", amount_micro=10 * DOLLAR))
        fence = made.claim_leader("autoscaler", "me", 60.0)
        assert fence is not None
        made.record_decisions(
            [Decided("aws-gpu", "hold", 0, "budget alpha has $1.00 of $10.00 left, $2.00 would be needed")], fence
        )
        assert self.says(made, job_id).startswith("blocked, budget alpha has $1.00 of $10.00 left")
        made.block_offering(Blocked("aws-gpu", "", "boot", made.clock(), None, "", "3 boots failed in a row"), fence)
        assert self.says(made, job_id) == "blocked, 3 boots failed in a row"
        made.close()


class TestWhyAGroupWaits:
    def test_the_reasons_of_its_jobs_are_counted(self, store: Store, hand: Hand) -> None:
        inner = a_group("in", a_job(affinity=("gpu",)), a_job(affinity=("gpu",), priority=3))
        jobs = [a_job("a"), a_job("b", paused=True), a_job("c", affinity=("gpu",))]
        (group,) = store.submit([a_group("g", *jobs, inner)]).ids
        assert why(store, group) == [
            "of 5 jobs: 5 wait",
            "3 jobs: no active worker has 'gpu'",
            "1 job: paused",
            "1 job: 0 jobs before it on the 1 worker that matches",
        ]

    def test_groups_in_it_that_are_held_are_counted_whole(self, store: Store, hand: Hand) -> None:
        first = a_group("first", a_job(), a_job(), ref="first", paused=True)
        (group,) = store.submit([a_group("g", first, a_range("1-3", depends_on=("first",)))]).ids
        assert why(store, group) == [
            "of 5 jobs: 2 wait, 3 are held by dependencies",
            f"3 jobs: group #{group + 4} waits for 1 of 1 dependencies: #{group + 1} WAITING",
            f"2 jobs: group #{group + 1} is paused",
        ]

    def test_what_ended_and_runs_is_told_too(self, store: Store, hand: Hand) -> None:
        (group,) = store.submit([a_group("g", *[a_job() for _ in range(8)])]).ids
        first, second, third, _ = hand.take(4)
        hand.finish(first)
        hand.fail(second, third, reason="no disk")
        assert why(store, group) == [
            "of 8 jobs: 2 are in error, 1 is running, 4 wait, 1 is finished",
            "4 jobs: 0 jobs before it on the 1 worker that matches",
            "2 jobs: in error, no disk",
        ]

    def test_a_group_that_is_held_or_empty_says_so_first(self, store: Store, hand: Hand) -> None:
        (group, empty) = store.submit([a_group("g", a_job(), paused=True), a_group("e")]).ids
        assert why(store, group) == ["is paused", "of 1 job: 1 waits"]
        assert why(store, empty) == ["is an empty group: submit jobs into it, or delete it"]

    def test_of_a_large_group_a_sample_is_counted_and_that_is_said(
        self, store: Store, hand: Hand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(explain_groups, "LOOKED", 4)
        (group,) = store.submit([a_range("1-100")]).ids
        told = why(store, group)
        assert (told[0], told[2]) == ("of 100 jobs: 100 wait", "counted among 4 jobs of those that are not finished")
        assert told[1].startswith("4 jobs: ")


class TestWhyAWorkerIsIdle:
    def test_nothing_waits(self, store: Store, hand: Hand) -> None:
        seen(store, hand)
        assert idle(store, hand) == ["no job could start now; nothing waits"]
        store.submit([a_job("a", paused=True), a_job("b"), a_job("c", paused=True)])
        hand.finish(hand.take_one())
        store.submit([a_job(depends_on=(1,))])
        words = "2 jobs are paused or tried again later, 1 job waits for dependencies"
        assert idle(store, hand) == [f"no job could start now: {words}"]

    def test_what_the_nearest_jobs_need_that_it_lacks(self, store: Store, hand: Hand) -> None:
        seen(store, hand)
        store.submit([a_range("1-3", affinity=("gpu",)), a_job(cpus=64), a_job(affinity=("gpu", "moon"))])
        assert idle(store, hand) == [
            "lacks gpu, for 3 jobs that could start",
            "has 8 cpus of 64, for 1 job that could start",
            "lacks gpu, moon, for 1 job that could start",
        ]

    def test_what_matches_waits_for_a_limit_or_for_room(self, store: Store, hand: Hand) -> None:
        seen(store, hand)
        store.set_limit("nuke", 1)
        store.submit([a_job("a", limits={"nuke": 1}), a_job("b", limits={"nuke": 1}), a_job("c", cpus=6), a_job("d", cpus=8)])
        hand.take(2)
        assert idle(store, hand)[1:] == [
            "limit nuke is exhausted: 1 of 1 used, for 1 job that could start",
            "has 2 cpus free of 8, for 1 job that could start",
        ]

    def test_what_failed_here_is_left_to_others_and_the_rest_comes_when_it_calls(self, store: Store, hand: Hand) -> None:
        seen(store, hand, Hand(store, "w2"))
        store.submit([a_job("a", retries=3)])
        hand.fail(hand.take_one())
        store.clock.advance(5)  # type: ignore[attr-defined]
        store.sweep()
        assert idle(store, hand) == ["leaves 1 job that could start to others, for they failed here last"]
        store.submit([a_job("b", priority=1)])
        assert idle(store, hand)[0] == "gets the next of 1 job that could start when it calls"

    def test_full_reserved_drained_sick_and_off_are_told(self, store: Store, hand: Hand, clock: Clock) -> None:
        seen(store, hand)
        store.submit([a_job("small", cpus=6), a_job("big", cpus=8), *[a_job("more") for _ in range(3)]])
        hand.take(1)
        hand.take(1)
        assert idle(store, hand)[0] == "keeps its room for job #2, which needs more than is free"
        store.delete([2])
        hand.take(9)
        assert idle(store, hand) == ["runs 4 jobs on 4 slots, and has none free"]
        clock.advance(5)
        store.drain_workers([hand.id], "ann")
        clock.advance(7)
        assert idle(store, hand)[0] == "finishes what it runs and takes no more, since 7 s by ann"
        edit_worker(store, hand, active=False)
        assert idle(store, hand)[0] == "is switched off, since 0 s by ann"
        with pytest.raises(NotFound):
            store.explain_worker(99)

    def test_a_sick_worker_says_since_when_and_why(self, store: Store, hand: Hand, clock: Clock) -> None:
        seen(store, hand)
        store.submit([a_job(str(number)) for number in range(3)])
        for lease in hand.take(3):
            hand.fail(lease, reason="no disk")
        clock.advance(60)
        (reason,) = idle(store, hand)
        assert reason.startswith("is set aside: 3 errors in a row of different jobs, the last one of job 3: no disk")
        assert reason.endswith("since 60 s by server")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_worker_is_explained_over_http_and_an_unknown_one_is_refused(app: Flask) -> None:
    agent, call = Agent(app), Caller(app)
    agent.sync()
    told = call.ok("GET", f"/workers/{agent.id}/explain")
    assert (told["worker"], told["name"]) == (agent.id, "w1")
    assert told["reasons"]
    assert call("GET", "/workers/99/explain")[0] == 404
    assert call("GET", f"/workers/{2**70}/explain")[0] == 404
