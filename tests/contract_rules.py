"""What every store must do about retries, sick workers, room, shares and limits. test_store.py imports all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from coalition import schema
from coalition.errors import BadInput, NotFound
from coalition.model import Facts, JobChanges, Lease, Limit, WorkerChanges
from coalition.store import Store
from coalition.store.results import Call
from tests.builders import Clock, Hand, WatchedStore, a_group, a_job, a_result

GIB = 2**30


@pytest.fixture
def hand(store: Store) -> Hand:
    return Hand(store)


def knobs(store: Store, **changes: Any) -> None:
    store.settings = replace(store.settings, scheduler=replace(store.settings.scheduler, **changes))
    store.adopt_rules()


def one(store: Store, title: str = "job", **fields: Any) -> int:
    return store.submit([a_job(title, **fields)]).ids[0]


def needing(store: Store, title: str = "job", **needs: Any) -> int:
    """A job that asks for this, in the names of a requirement."""
    tags, limits = needs.pop("tags", ()), needs.pop("limits", ())
    return one(store, title, affinity=tags, limits=dict(limits), **needs)


def state(store: Store, job_id: int) -> str:
    return str(store.job(job_id).state)


def after_backoff(store: Store, clock: Clock, seconds: float = 61.0) -> None:
    for _ in range(4):
        clock.advance(seconds / 4)
        store.sweep()
        with store.write() as db:
            db.execute(update(schema.worker).values(seen_at=clock()))


def fail(hand: Hand, lease: Lease, **fields: Any) -> None:
    hand.exchange(a_result(lease, "ERROR", **{"reason": "exit code 1", **fields}))


# ---------------------------------------------------------------- retries


class TestRetries:
    def test_delays_double_from_the_knob_up_to_the_other(self, store: Store, hand: Hand, clock: Clock) -> None:
        knobs(store, retry_delay_s=10.0, retry_delay_max_s=25.0, stop_after_workers=0)
        one(store, retries=9)
        waited = []
        for _ in range(3):
            fail(hand, hand.take_one())
            with store.read() as db:
                waited.append(db.execute(select(schema.job.c.not_before)).scalar_one() - clock())
            after_backoff(store, clock)
        assert waited == [10.0, 20.0, 25.0]

    def test_no_delay_means_at_once(self, store: Store, hand: Hand) -> None:
        knobs(store, retry_delay_s=0.0)
        job_id = one(store, retries=1)
        fail(hand, hand.take_one())
        assert hand.take_one().job == job_id

    def test_a_job_that_failed_on_several_workers_is_not_run_again_and_says_where(self, store: Store, clock: Clock) -> None:
        job_id = one(store, retries=9)
        for name in ("w1", "w2"):
            hand = Hand(store, name)
            fail(hand, hand.take_one())
            after_backoff(store, clock)
            assert state(store, job_id) == "WAITING"
        hand = Hand(store, "w3")
        fail(hand, hand.take_one())
        words = "exit code 1; it failed on 3 workers (w1, w2, w3) and is not run again"
        assert (state(store, job_id), store.job(job_id).reason) == ("ERROR", words)

    def test_workers_are_counted_anew_after_a_reset(self, store: Store, clock: Clock) -> None:
        knobs(store, stop_after_workers=2)
        job_id = one(store, retries=9)
        for name, expected in (("w1", "WAITING"), ("w2", "ERROR"), ("w3", "WAITING")):
            hand = Hand(store, name)
            if name == "w3":
                store.reset([job_id])
            fail(hand, hand.take_one())
            assert state(store, job_id) == expected
            after_backoff(store, clock)

    def test_no_licence_puts_it_back_later_and_counts_as_no_error(self, store: Store, hand: Hand, clock: Clock) -> None:
        knobs(store, licence_delay_s=30.0, sick_after=1)
        job_id = one(store)
        lease = hand.take_one()
        outcome = hand.exchange(a_result(lease, "ERROR", reason="no licence", no_licence=True))
        shown = store.job(job_id)
        assert (shown.state, shown.errors, outcome.errors, hand.take()) == ("WAITING", 0, 0, [])
        assert (store.attempt(lease.attempt).state, store.attempt(lease.attempt).reason) == ("ERROR", "no licence")
        after_backoff(store, clock, 29.0)
        assert hand.take() == []
        after_backoff(store, clock, 1.0)
        assert hand.take_one().job == job_id

    def test_a_job_avoids_the_worker_it_failed_on_while_another_one_can_take_it(self, store: Store, clock: Clock) -> None:
        first, second = Hand(store, "w1"), Hand(store, "w2")
        job_id = one(store, retries=1)
        fail(first, first.take_one())
        after_backoff(store, clock)
        outcome = first.exchange(want=1)
        assert (outcome.leases, outcome.kept_back) == ([], True)
        assert second.take_one().job == job_id

    def test_others_pass_a_job_that_avoids_the_worker(self, store: Store, clock: Clock) -> None:
        first, _ = Hand(store, "w1"), Hand(store, "w2")
        one(store, "bad", retries=1)
        fail(first, first.take_one())
        after_backoff(store, clock)
        one(store, "good")
        assert first.titles() == ["good"]

    @pytest.mark.parametrize("how", ["alone", "no match", "drained", "silent"])
    def test_the_worker_gets_it_again_when_nobody_else_can(self, store: Store, clock: Clock, how: str) -> None:
        first = Hand(store, "w1", ("gpu",))
        if how != "alone":
            other = Hand(store, "w2", ("cpu",) if how == "no match" else ("gpu",))
        job_id = one(store, retries=1, affinity=("gpu",))
        fail(first, first.take_one())
        after_backoff(store, clock)
        if how == "drained":
            store.drain_workers([other.id])
        elif how == "silent":
            with store.write() as db:
                db.execute(update(schema.worker).where(schema.worker.c.id == other.id).values(seen_at=0))
            clock.advance(1)
        assert first.take_one().job == job_id

    def test_the_workers_rules_ride_in_the_lease(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        given = {"timeout_output_s": 5.0, "error_patterns": ["^Fatal"], "licence_codes": [7]}
        with store.write() as db:
            db.execute(update(schema.spec).where(schema.spec.c.job_id == job_id).values(rules=json.dumps(given)))
        lease = hand.take_one()
        assert (lease.timeout_output_s, lease.error_patterns, lease.licence_codes) == (5.0, ["^Fatal"], [7])


# ---------------------------------------------------------------- sick workers


class TestSickWorkers:
    def make_sick(self, store: Store, hand: Hand) -> None:
        for number in range(3):
            one(store, f"bad {number}")
            fail(hand, hand.take_one())

    def test_errors_of_different_jobs_in_a_row_set_a_worker_aside_with_the_reason(self, store: Store, hand: Hand) -> None:
        self.make_sick(store, hand)
        one(store)
        assert (store.workers()[0].state, hand.take()) == ("SICK", [])
        assert "3 errors in a row of different jobs, the last one of job 3: exit code 1" in store.workers()[0].reason
        assert store.events({"worker": hand.id}, 0, 1)[0]["kind"] == "worker.sicken"

    def test_the_jobs_of_one_group_count_once(self, store: Store, hand: Hand) -> None:
        store.submit([a_group("shot", *[a_job()] * 5)])
        for lease in hand.take(4):
            fail(hand, lease)
        assert store.workers()[0].state != "SICK"

    def test_a_finish_ends_the_streak_and_a_stop_does_not_count(self, store: Store, hand: Hand) -> None:
        store.submit([a_job(str(number)) for number in range(6)])
        first, second, good, third, fourth, stopped = hand.take(6)
        for lease in (first, second):
            fail(hand, lease)
        hand.finish(good)
        for lease in (third, fourth):
            fail(hand, lease)
        hand.stop(stopped)
        assert store.workers()[0].state != "SICK"

    def test_it_is_forgiven_by_time(self, store: Store, hand: Hand, clock: Clock) -> None:
        knobs(store, sick_for_s=60.0)
        self.make_sick(store, hand)
        after_backoff(store, clock, 59.0)
        assert hand.take() == []
        job_id = one(store)
        after_backoff(store, clock, 1.0)
        assert hand.take_one().job == job_id
        assert store.events({"worker": hand.id}, 0, 1)[0]["kind"] == "worker.forgive"

    def test_it_is_forgiven_by_hand_and_starts_anew(self, store: Store, hand: Hand) -> None:
        self.make_sick(store, hand)
        store.resume_workers([hand.id], "ann")
        one(store)
        fail(hand, hand.take_one())
        assert store.workers()[0].state != "SICK"

    def test_a_restart_does_not_make_it_healthy(self, store: Store, hand: Hand) -> None:
        self.make_sick(store, hand)
        Hand(store, "w1", credential=hand.admission.credential)
        assert store.workers()[0].state == "SICK"


# ---------------------------------------------------------------- hours


class TestHours:
    def test_outside_its_hours_a_worker_gets_nothing(self, store: Store, hand: Hand, clock: Clock) -> None:
        clock.now = 1_700_049_600.0  # a Wednesday, 12:00
        store.edit_workers([hand.id], WorkerChanges(hours="19:00-07:00"))
        job_id = one(store)
        assert hand.take() == []
        clock.advance(7 * 3_600)
        assert hand.take_one().job == job_id


# ---------------------------------------------------------------- room


class TestRoom:
    def test_jobs_of_one_worker_share_its_machine(self, store: Store) -> None:
        for title in "abc":
            needing(store, title, cpus=3)
        hand = Hand(store, facts=Facts(8, 16 * GIB, 1))
        assert hand.titles() == ["a", "b"]
        hand.finish(next(iter(hand.held)))
        assert hand.titles() == ["c"]

    @pytest.mark.parametrize("needs", [{"memory_bytes": 9 * GIB}, {"gpus": 1}, {"cpus": 5}])
    def test_each_resource_is_counted(self, store: Store, needs: dict[str, int]) -> None:
        for title in "ab":
            needing(store, title, **needs)
        assert Hand(store, facts=Facts(8, 16 * GIB, 1)).titles() == ["a"]

    def test_an_exclusive_job_is_alone(self, store: Store, hand: Hand) -> None:
        needing(store, "alone", exclusive=True)
        one(store, "other")
        assert hand.titles() == ["alone"]
        assert hand.titles() == []
        hand.finish(*hand.held)
        assert hand.titles() == ["other"]

    def test_workers_may_be_allowed_and_denied_by_name(self, store: Store) -> None:
        needing(store, "only w2", workers=("w2",))
        needing(store, "not w2", not_workers=("w2",))
        assert Hand(store, "w1").titles() == ["not w2"]
        assert Hand(store, "w2").titles() == ["only w2"]

    @pytest.mark.parametrize("needs", [{"cpus": 8}, {"exclusive": True}])
    def test_a_big_job_is_not_passed_by_small_ones_for_ever(self, store: Store, needs: dict[str, Any]) -> None:
        hand = Hand(store, facts=Facts(8, 16 * GIB, 1))
        for title in ("small 1", "small 2"):
            needing(store, title, cpus=4)
        assert len(hand.take(2)) == 2
        big = needing(store, "big", **needs)
        for _ in range(5):
            needing(store, "later", cpus=4)
        hand.finish(next(iter(hand.held)))
        assert hand.titles() == [], "its room is kept"
        hand.finish(*hand.held)
        assert hand.take(1)[0].job == big

    def test_one_worker_keeps_its_room_for_a_job_and_the_others_go_on(self, store: Store) -> None:
        hands = [Hand(store, name, facts=Facts(8, 16 * GIB, 1)) for name in ("w1", "w2")]
        for title in ("a", "b"):
            needing(store, title, cpus=6)
        assert [hand.titles(1) for hand in hands] == [["a"], ["b"]]
        needing(store, "big", cpus=8)
        for _ in range(2):
            needing(store, "small", cpus=2)
        assert [hand.titles() for hand in hands] == [[], ["small"]]

    def test_what_the_kept_room_does_not_need_is_used(self, store: Store) -> None:
        hand = Hand(store, facts=Facts(8, 16 * GIB, 1))
        needing(store, "a", cpus=4)
        hand.take_one()
        needing(store, "big", cpus=6)
        needing(store, "cpu", cpus=3)
        one(store, "light")
        assert hand.titles(3) == ["light"]

    @pytest.mark.parametrize("how", ["job paused", "worker drained"])
    def test_room_is_kept_no_longer_than_it_makes_sense(self, store: Store, clock: Clock, how: str) -> None:
        first = Hand(store, "w1", facts=Facts(8, 16 * GIB, 1))
        second = Hand(store, "w2", facts=Facts(8, 16 * GIB, 1))
        for title in "ab":
            needing(store, title, cpus=6)
        first.take_one()
        second.take_one()
        big = needing(store, "big", cpus=8)
        needing(store, "small", cpus=2)
        assert first.titles(1) == []
        if how == "job paused":
            store.pause([big])
            assert first.titles() == ["small"]
        else:
            store.drain_workers([first.id])
            store.sweep()
            assert second.titles() == [], "now the other one waits for it"

    def test_nothing_is_queued_before_a_job_that_may_not_be_queued(self, store: Store, hand: Hand) -> None:
        needing(store, "alone", exclusive=True)
        one(store, "light")
        call = Call(hand.id, hand.row.epoch, hand.row.capacity, (), (), 5, frozenset(), ahead=5)
        assert store.exchange([call])[0].leases == []


# ---------------------------------------------------------------- shares


class TestShares:
    def test_within_a_priority_those_go_first_who_used_least(self, store: Store, hand: Hand) -> None:
        knobs(store, fair="user")
        for number in range(4):
            one(store, f"ann {number}", user="ann")
        one(store, "ben 0", user="ben")
        assert hand.titles(3) == ["ann 0", "ben 0", "ann 1"]

    def test_use_is_remembered_and_fades(self, store: Store, hand: Hand, clock: Clock) -> None:
        knobs(store, fair="user", fair_half_life_s=3_600.0)
        self.share_of(store, hand, "ann", run_s=1_000.0)
        clock.advance(3_600)
        self.share_of(store, hand, "ben", run_s=600.0)
        one(store, "ben 1", user="ben")
        one(store, "ann 1", user="ann")
        assert hand.titles(2) == ["ann 1", "ben 1"]

    def test_priority_goes_before_shares_and_without_fair_the_lowest_id_counts(self, store: Store, hand: Hand) -> None:
        knobs(store, fair="user")
        self.share_of(store, hand, "ann", run_s=1_000.0)
        for title, priority in (("ann high", 200), ("ann 1", 127), ("ben 0", 127)):
            one(store, title, priority=priority, user=title.partition(" ")[0])
        assert hand.titles(1) == ["ann high"]
        knobs(store, fair="no")
        assert hand.titles(1) == ["ann 1"]

    def share_of(self, store: Store, hand: Hand, user: str, run_s: float) -> None:
        one(store, f"{user} 0", user=user)
        hand.finish(hand.take_one(), run_s=run_s)


# ---------------------------------------------------------------- limits


class TestLimits:
    def licensed(self, store: Store, count: int, each: int = 1, name: str = "maya") -> list[int]:
        return [needing(store, str(number), limits=((name, each),)) for number in range(count)]

    def used(self, store: Store, name: str = "maya") -> int:
        return next(limit.used for limit in store.limits() if limit.name == name)

    def test_no_more_run_than_there_are_tokens(self, store: Store, hand: Hand) -> None:
        store.set_limit("maya", 3)
        self.licensed(store, 3, each=2)
        assert (hand.titles(), self.used(store)) == (["0"], 2)

    @pytest.mark.parametrize("end", ["finish", "fail", "stop", "pause", "delete", "reset", "lose"])
    def test_every_end_gives_the_tokens_back(self, store: Store, hand: Hand, end: str) -> None:
        store.set_limit("maya", 1)
        first, second = self.licensed(store, 2)
        lease = hand.take_one()
        assert hand.take() == []
        if end in ("finish", "fail", "stop"):
            getattr(hand, end)(lease)
        elif end == "lose":
            store.delete_workers([hand.id])
            hand = Hand(store, "w2")
        else:
            store.pause([second])
            getattr(store, end)([first])
        assert self.used(store) == 0

    def test_a_late_result_gives_nothing_back_twice(self, store: Store, hand: Hand, clock: Clock) -> None:
        store.set_limit("maya", 1)
        self.licensed(store, 1)
        lease = hand.take_one()
        for _ in range(6):
            store.sweep()
            clock.advance(15)
        assert self.used(store) == 0
        hand.finish(lease)
        assert self.used(store) == 0

    @pytest.mark.parametrize("per_host", [False, True])
    def test_what_several_workers_give_back_at_once_is_counted_of_each(self, store: Store, per_host: bool) -> None:
        store.set_limit("maya", 9, per_host=per_host)
        self.licensed(store, 6)
        hands = [Hand(store, f"w{number}") for number in range(3)]
        leases = [hand.take(2) for hand in hands]
        assert self.used(store) == 6
        store.exchange([hand.call(*map(a_result, given)) for hand, given in zip(hands, leases, strict=True)])
        assert self.used(store) == 0

    def test_a_limit_per_host_counts_on_each_machine(self, store: Store) -> None:
        store.set_limit("usb", 1, per_host=True)
        self.licensed(store, 3, name="usb")
        assert [Hand(store, name).titles() for name in ("w1", "w2")] == [["0"], ["1"]]
        assert self.used(store, "usb") == 2

    def test_a_limit_that_nobody_defined_has_no_tokens_and_is_listed(self, store: Store, hand: Hand) -> None:
        self.licensed(store, 2)
        assert hand.take() == []
        assert store.limits() == [Limit("maya", None, False, 0, 2, ("set",))]
        store.set_limit("maya", 9)
        assert len(hand.take(9)) == 2

    def test_the_next_ones_in_rank_go_past_jobs_that_find_no_token(self, store: Store, hand: Hand) -> None:
        store.set_limit("maya", 0)
        self.licensed(store, 1)
        one(store, "plain")
        assert hand.titles() == ["plain"]

    def test_a_lower_maximum_lets_what_runs_go_on(self, store: Store, hand: Hand) -> None:
        store.set_limit("maya", 3)
        self.licensed(store, 4)
        leases = hand.take(9)
        store.set_limit("maya", 1, who="ann")
        hand.finish(leases[0])
        assert (self.used(store), hand.take()) == (2, [])
        assert store.events({}, 0, 1)[0]["text"] == "maya: 1"

    def test_a_change_of_kind_recounts_what_runs(self, store: Store, hand: Hand) -> None:
        store.set_limit("maya", 2)
        self.licensed(store, 3)
        hand.take(2)
        store.set_limit("maya", 2, per_host=True)
        assert (self.used(store), hand.take()) == (2, [])
        store.delete_limit("maya")
        store.set_limit("maya", 3)
        assert len(hand.take(9)) == 1

    def test_tokens_are_not_held_by_what_waits_on_the_worker(self, store: Store, hand: Hand) -> None:
        store.set_limit("maya", 9)
        self.licensed(store, 3)
        call = Call(hand.id, hand.row.epoch, hand.row.capacity, (), (), 3, frozenset(), ahead=2)
        assert len(store.exchange([call])[0].leases) == 1

    def test_the_running_jobs_of_a_user_are_counted_by_the_knob(self, store: Store, hand: Hand) -> None:
        knobs(store, max_running_per_user=1)
        for title, user in (("a0", "ann"), ("a1", "ann"), ("b0", "ben")):
            one(store, title, user=user)
        assert hand.titles() == ["a0", "b0"]
        assert store.limits() == []

    def test_whoever_found_no_token_is_told_when_one_is_back(self, store: Store, hand: Hand) -> None:
        store.set_limit("maya", 1)
        self.licensed(store, 2)
        lease = hand.take_one()
        before = store.counters()["ready"]
        hand.exchange(want=1)
        assert store.counters()["ready"] == before, "nothing came back"
        hand.exchange(a_result(lease), want=1)
        assert store.counters()["ready"] == before, "it was taken at once"
        hand.finish(*hand.held)
        self.licensed(store, 1)
        before = store.counters()["ready"]
        lease = hand.take_one()
        self.licensed(store, 1)
        before = store.counters()["ready"]
        hand.finish(lease)
        assert store.counters()["ready"] > before

    def test_jobs_that_only_wait_for_a_limit_wake_nobody_and_are_no_demand(self, store: Store, hand: Hand) -> None:
        store.set_limit("maya", 2)
        self.licensed(store, 5)
        assert [count for _, count in store.waiting_classes(100)] == [2]
        assert [demand.waiting for demand in store.backlog()] == [2]
        hand.take(2)
        assert (store.waiting_classes(100), store.backlog()) == ([], [])

    def test_the_farms_own_limits_are_not_to_be_set(self, store: Store) -> None:
        for name in ("group#1", "user#ann", "a b", ""):
            with pytest.raises(BadInput):
                store.set_limit(name, 1)
        for name in ("group#1", "nobody"):
            with pytest.raises(NotFound):
                store.delete_limit(name)


class TestLostAttemptsThatGoOn:
    def test_they_take_room_on_their_worker(self, store: Store, clock: Clock) -> None:
        hand = Hand(store, facts=Facts(cpus=4, memory_bytes=8 * GIB, gpus=0))
        needing(store, "long", cpus=3)
        lease = hand.take_one()
        clock.advance(200)
        for _ in range(6):
            store.sweep()
            clock.advance(15)
        assert store.attempt(lease.attempt).state == "LOST"
        store.pause([lease.job])
        needing(store, "other", cpus=3)
        outcome = hand.exchange(want=1)
        assert ([lease.title for lease in outcome.leases], outcome.stop) == ([], [])
        hand.finish(lease)
        assert hand.titles() == ["other"]


class TestRulesOnTheWay:
    def test_a_moved_running_job_is_not_disturbed(self, store: WatchedStore, hand: Hand) -> None:
        job_id = one(store)
        (group,) = store.submit([a_group("g")]).ids
        lease = hand.take_one()
        store.edit([job_id], JobChanges(parent=group))
        assert hand.exchange().stop == []
        assert hand.finish(lease).refused == []
        assert store.job(group).state == "FINISHED"
