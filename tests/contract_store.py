"""What every store must do. A test module imports all of it and gives a `store` and its `clock`.

The store of the fixture recomputes all its invariants after each transaction (invariants.py), so a test says only what is
special about its case.
"""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import replace

import pytest
from sqlalchemy import update

from coalition import schema
from coalition.discovery import key_of_token
from coalition.errors import BadInput, CoalitionError, Conflict, IllegalTransition, NotAuthenticated, NotFound, TooLarge
from coalition.model import Counts, Facts, Job, JobChanges, JobSpec, WorkerChanges
from coalition.store import Store
from coalition.store.cloud import Order
from coalition.store.dispatch import Beat
from coalition.store.lists import JobQuery
from coalition.store.tree import MAX_DEPTH
from tests.builders import LEASE_S, Clock, Hand, WatchedStore, a_budget, a_group, a_job, a_range, a_result, an_enrol
from tests.invariants import check_invariants


@pytest.fixture
def hand(store: Store) -> Hand:
    return Hand(store)


def submit(store: Store, *specs: JobSpec) -> tuple[int, ...]:
    return store.submit(specs, "ann").ids


def one(store: Store, **fields: object) -> int:
    """The id of one job with these fields."""
    return submit(store, a_job(**fields))[0]


def everything(store: Store) -> list[Job]:
    return store.jobs(JobQuery(limit=1_000))[0]


def children(store: Store, parent: int) -> list[Job]:
    return store.jobs(JobQuery(parent=parent, limit=1_000))[0]


def ids_of(store: Store, title: str) -> int:
    (found,) = [job.id for job in everything(store) if job.title == title]
    return found


def state(store: Store, *ids: int) -> str | list[str]:
    states = [str(store.job(job_id).state) for job_id in ids]
    return states if len(ids) > 1 else states[0]


def depends(store: Store, job_id: int, *on: int) -> None:
    store.edit([job_id], JobChanges(depends_on=on))


def beat(hand: Hand, seen_at: float, *attempts: int) -> Beat:
    return Beat(hand.id, seen_at, 0.5, 1_000, None, 0, 0, tuple((attempt, 0.25) for attempt in attempts))


# ---------------------------------------------------------------- submit


class TestSubmitting:
    def test_one_job_waits_and_shows_all_that_was_given(self, store: Store) -> None:
        given = {"dir": "/shots", "environment": {"A": "1"}, "user": "ann", "priority": 200, "affinity": ("linux",), "cpus": 2}
        shown = store.job(one(store, title="Äpfel 🍏", command="echo 'hi'", timeout_s=5.0, retries=3, url="http://x", **given))
        assert (shown.title, shown.command, shown.state, shown.group) == ("Äpfel 🍏", "echo 'hi'", "WAITING", False)
        assert {name: getattr(shown, name) for name in given} == given
        assert (shown.timeout_s, shown.retries, shown.url, shown.counts) == (5.0, 3, "http://x", None)

    def test_a_list_gets_ids_in_order(self, store: Store) -> None:
        made = store.submit([a_job("a"), a_job("b"), a_job("c")])
        assert [store.job(job_id).title for job_id in made.ids] == ["a", "b", "c"]
        assert made.ids == tuple(sorted(made.ids))
        assert made.count == 3

    def test_a_frame_range_becomes_a_group_of_one_job_per_frame(self, store: Store) -> None:
        command = "render +K{frame:03d} of {start} to {end}, not {other}"
        (group,) = submit(store, a_range("1-9x4", command=command))
        assert [(job.title, job.command) for job in children(store, group)] == [
            ("shot 1", "render +K001 of 1 to 1, not {other}"),
            ("shot 5", "render +K005 of 5 to 5, not {other}"),
            ("shot 9", "render +K009 of 9 to 9, not {other}"),
        ]
        assert store.job(group).command == command
        assert store.job(group).counts == Counts(total=3, waiting=3)

    def test_with_a_chunk_a_job_has_so_many_frames_and_start_and_end_are_its_own(self, store: Store) -> None:
        texts = {"command": "render {start}..{end:02d} from {frame}", "url": "/see/{frame:04d}"}
        (group,) = submit(store, a_range("-3-4", chunk=5, **texts))
        shown = [(job.title, job.command, job.url, job.first_frame, job.last_frame) for job in children(store, group)]
        assert shown == [
            ("shot -3-1", "render -3..01 from -3", "/see/-003", -3, 1),
            ("shot 2-4", "render 2..04 from 2", "/see/0002", 2, 4),
        ]
        assert (store.job(group).counts, store.job(group).chunk) == (Counts(total=2, waiting=2), 5)

    def test_frames_need_what_their_range_needs_and_ask_for_it_once(self, store: Store) -> None:
        needs = {"cpus": 2, "limits": {"nuke": 2}, "affinity": ("linux",), "exclusive": True}
        (group,) = submit(store, a_range("1-2", **needs))
        assert {name: getattr(store.job(group), name) for name in needs} == needs
        store.set_limit("nuke", 4)
        assert [(demand.requirement.limits, demand.requirement.cpus, demand.waiting) for demand in store.backlog()] == [
            ((("nuke", 2),), 2, 2)
        ]

    def test_filled_titles_are_cut_to_what_the_column_takes(self, store: Store) -> None:
        (group,) = submit(store, a_range("1", title="{frame:90d}" * 5))
        assert len(children(store, group)[0].title) <= 255

    def test_a_tree_is_made_in_one_call_and_counted_at_every_level(self, store: Store) -> None:
        tree = a_group("film", a_group("seq", a_job(), a_range("1-2")), a_job())
        made = store.submit([tree])
        assert made.count == 7
        assert store.job(made.ids[0]).counts == Counts(total=4, waiting=4)

    def test_jobs_may_be_added_to_an_existing_group(self, store: Store) -> None:
        (group,) = submit(store, a_group())
        one(store, parent=group)
        assert store.job(group).counts == Counts(total=1, waiting=1)

    def test_refs_name_jobs_of_the_same_call(self, store: Store) -> None:
        made = store.submit([a_range("1-2", ref="frames"), a_job("film", depends_on=("frames",))])
        assert made.refs == {"frames": made.ids[0]}
        assert store.job(made.ids[1]).depends_on == (made.ids[0],)

    def test_a_paused_job_or_group_is_not_leased(self, store: Store, hand: Hand) -> None:
        submit(store, a_job(paused=True), a_group("g", a_job(), paused=True))
        assert hand.take(10) == []

    def test_a_submission_is_one_event(self, store: Store) -> None:
        (group,) = submit(store, a_range("1-50"))
        told = store.events({"job": group}, 0, 10)
        assert [(event["kind"], event["who"], event["text"]) for event in told] == [("job.submit", "ann", "51 jobs submitted")]


BAD_SUBMISSIONS = {
    "an unknown parent": ([a_job(parent=99)], "jobs[0].parent"),
    "a parent that is a job": ([a_job(parent=1)], "jobs[0].parent"),
    "a child that names a parent": ([a_group("g", a_job(parent=2))], "jobs[0].children[0].parent"),
    "an unknown dependency": ([a_job(), a_job(depends_on=(99,))], "jobs[1].depends_on[0]"),
    "an unknown ref": ([a_job(depends_on=("nobody",))], "jobs[0].depends_on[0]"),
    "a dependency on itself": ([a_job(ref="me", depends_on=("me",))], "jobs[0].depends_on[0]"),
    "a ref used twice": ([a_job(ref="me"), a_job(ref="me")], "jobs[1].ref"),
    "a cycle": ([a_job(ref="a", depends_on=("b",)), a_job(ref="b", depends_on=("a",))], "depends_on"),
    "a cycle through a group": ([a_group("g", a_job(depends_on=("g",)), ref="g")], "depends_on"),
    "a cycle of groups": (
        [a_group("a", a_job(depends_on=("b",)), ref="a"), a_group("b", a_job(depends_on=("a",)), ref="b")],
        "depends_on",
    ),
    "a cycle through an inherited dependency": (
        [a_group("a", a_job(ref="x"), depends_on=("y",)), a_job(ref="y", depends_on=("x",))],
        "depends_on",
    ),
    "a bad frame range": ([a_range("1-")], "jobs[0].frames"),
    "an empty frame range": ([a_range("")], "jobs[0].frames"),
    "a backward frame range": ([a_range("9-1")], "jobs[0].frames"),
    "a frame range that is too long": ([a_range("1-9999999")], "jobs[0].frames"),
    "a command on a group": ([a_group(command="true")], "jobs[0].command"),
    "a job without a command": ([a_job(command=None)], "jobs[0].command"),
    "a range without a command": ([a_range(command=None)], "jobs[0].command"),
    "frames and children": ([a_range(children=(a_job(),))], "jobs[0].frames"),
}


class TestBadSubmissions:
    @pytest.mark.parametrize("case", BAD_SUBMISSIONS)
    def test_is_refused_by_the_fields_name_and_nothing_changes(self, store: Store, case: str) -> None:
        specs, field = BAD_SUBMISSIONS[case]
        submit(store, a_job("there"), a_group("here"))
        before, events = everything(store), store.events({}, 0, 100)
        with pytest.raises(BadInput) as refused:
            store.submit(specs)
        assert list(refused.value.fields) == [field]
        assert (everything(store), store.events({}, 0, 100)) == (before, events)

    def test_a_cycle_is_told_with_its_path(self, store: Store) -> None:
        with pytest.raises(BadInput, match=r"cycle: #1 -> #2 -> #3 -> #1"):
            store.submit([a_job(ref=a, depends_on=(b,)) for a, b in (("a", "b"), ("b", "c"), ("c", "a"))])

    @pytest.mark.parametrize("how", ["submitted", "moved"])
    def test_a_tree_does_not_grow_too_deep(self, store: Store, how: str) -> None:
        chain = a_job()
        for _ in range(MAX_DEPTH // 2):
            chain = a_group("g", chain)
        upper, lower = (store.submit([chain]) for _ in range(2))
        lowest = upper.ids[0] + MAX_DEPTH // 2 - 1
        deeper = {
            "submitted": lambda: store.submit([replace(chain, parent=lowest)]),
            "moved": lambda: store.edit(lower.ids, JobChanges(parent=lowest)),
        }[how]
        with pytest.raises(BadInput, match=f"more than {MAX_DEPTH} levels"):
            deeper()

    def test_one_call_may_not_hold_more_jobs_than_the_server_can(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("coalition.store.submit.MAX_NODES", 100)
        submit(store, a_range("1-99"))
        for specs, place in (([a_job(), a_range("1-99")], "jobs[1]"), ([a_job()] * 101, "jobs[100]")):
            with pytest.raises(TooLarge) as refused:
                store.submit(specs)
            assert list(refused.value.fields) == [place]


# ---------------------------------------------------------------- dispatch order


class TestOrder:
    def test_equal_jobs_go_out_by_the_lowest_id(self, store: Store, hand: Hand) -> None:
        submit(store, *(a_job(title) for title in "abc"))
        assert hand.titles() == ["a", "b", "c"]

    def test_a_higher_priority_goes_first(self, store: Store, hand: Hand) -> None:
        submit(store, a_job("low", priority=1), a_job("high", priority=200), a_job("middle"))
        assert hand.titles() == ["high", "middle", "low"]

    def test_priorities_are_compared_level_by_level_from_the_root(self, store: Store, hand: Hand) -> None:
        submit(
            store,
            a_group("low", a_job("urgent in low", priority=255), priority=10),
            a_group("high", a_job("lazy in high", priority=0), priority=20),
        )
        assert hand.titles() == ["lazy in high", "urgent in low"]

    def test_levels_of_0_at_the_end_do_not_count(self, store: Store, hand: Hand) -> None:
        submit(
            store,
            a_group("g", a_group("h", a_job("a", priority=0), priority=0)),
            a_job("b"),
            a_group("k", a_job("c", priority=0)),
        )
        assert hand.titles() == ["a", "b", "c"]

    def test_a_level_above_0_counts_however_deep_it_lies(self, store: Store, hand: Hand) -> None:
        deep = a_job("deep", priority=1)
        for _ in range(4):
            deep = a_group("g", deep, priority=0)
        submit(store, a_job("first", priority=0), deep)
        assert hand.titles() == ["deep", "first"]

    def test_a_worker_takes_jobs_only_whose_tags_it_has_all(self, store: Store) -> None:
        submit(store, a_job("gpu", affinity=("linux", "gpu")), a_job("linux", affinity=("linux",)), a_job("any"))
        assert Hand(store, "w1", ("linux",)).titles() == ["linux", "any"]
        assert Hand(store, "w2", ("gpu", "linux", "more")).titles() == ["gpu"]

    def test_tags_are_inherited_and_add_up(self, store: Store) -> None:
        submit(store, a_group("g", a_job("job", affinity=("b",)), affinity=("a",)))
        assert Hand(store, "w1", ("b",)).titles() == []
        assert Hand(store, "w2", ("a", "b")).titles() == ["job"]

    def test_the_first_tag_line_goes_before_priority_and_jobs_without_tags_come_last(self, store: Store) -> None:
        submit(store, a_job("any", priority=255), a_job("second", affinity=("b",), priority=200), a_job("first", affinity=("a",)))
        assert Hand(store, "w1", ("a",), ("b",)).titles() == ["first", "second", "any"]

    def test_tags_of_two_lines_are_not_one_set(self, store: Store) -> None:
        one(store, affinity=("a", "b"))
        assert Hand(store, "w1", ("a",), ("b",)).titles() == []

    @pytest.mark.parametrize("needs", [{"cpus": 9}, {"memory_bytes": 2**40}, {"gpus": 2}])
    def test_a_job_waits_for_a_worker_with_its_resources(self, store: Store, needs: dict[str, int]) -> None:
        one(store, **needs)
        assert Hand(store, "small").titles() == []
        assert Hand(store, "big", facts=Facts(64, 2**41, 4)).titles() == ["job"]

    def test_a_worker_gets_no_more_than_it_wants_and_no_job_twice(self, store: Store) -> None:
        submit(store, *(a_job(str(number)) for number in range(5)))
        one_, two = Hand(store, "w1"), Hand(store, "w2")
        first, second = store.exchange([one_.call(want=2), two.call(want=10)])
        assert [lease.title for lease in first.leases] == ["0", "1"]
        assert [lease.title for lease in second.leases] == ["2", "3", "4"]

    def test_a_lease_carries_what_the_worker_needs_to_run_it(self, store: Store, hand: Hand) -> None:
        job_id = one(
            store, command="render", dir="/shots", environment={"A": "1"}, user="ann", timeout_s=9.0, progress_pattern="%p"
        )
        lease = hand.take_one()
        assert (lease.job, lease.command, lease.dir, lease.environment) == (job_id, "render", "/shots", {"A": "1"})
        assert (lease.user, lease.timeout_s, lease.progress_pattern) == ("ann", 9.0, "%p")


# ---------------------------------------------------------------- results


class TestResults:
    def test_a_finished_job_counts_in_all_groups_above_with_its_time_and_cost(self, store: Store) -> None:
        hand = Hand(store, price=3_600_000)
        (group,) = submit(store, a_group("g", a_group("h", a_job(), a_job())))
        lease = hand.take_one()
        hand.exchange(a_result(lease, run_s=2.5, memory_bytes=5 << 30))
        assert store.job(lease.job).used_memory_bytes == store.attempts(lease.job)[0].memory_bytes == 5 << 30
        shown = store.job(group)
        assert (shown.counts, shown.state, shown.progress) == (Counts(total=2, waiting=1, finished=1), "WAITING", 0.5)
        assert (shown.run_s, shown.cost_micro) == (2.5, 2_500)

    def test_a_groups_state_is_error_then_working_then_waiting_then_finished(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_group("g", *[a_job()] * 3))
        assert state(store, group) == "WAITING"
        first, second, third = hand.take(3)
        assert state(store, group) == "WORKING"
        hand.finish(first, second)
        hand.fail(third)
        assert state(store, group) == "ERROR"
        store.reset([group], errors_only=True)
        hand.finish_all()
        assert state(store, group) == "FINISHED"

    def test_a_failed_job_is_error_and_says_why(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        hand.fail(hand.take_one(), reason="no such file")
        assert (state(store, job_id), store.job(job_id).reason) == ("ERROR", "no such file")

    def test_retries_run_it_again_after_a_growing_backoff(self, store: Store, hand: Hand, clock: Clock) -> None:
        job_id = one(store, retries=2)
        for wait_s in (1.0, 2.0):
            hand.fail(hand.take_one())
            assert (state(store, job_id), hand.take()) == ("WAITING", [])
            clock.advance(wait_s - 0.1)
            store.sweep()
            assert hand.take() == []
            clock.advance(0.1)
            store.sweep()
        hand.fail(hand.take_one())
        assert (state(store, job_id), store.job(job_id).errors) == ("ERROR", 3)

    def test_a_job_in_backoff_that_waits_for_another_too_starts_when_both_are_over(
        self, store: Store, hand: Hand, clock: Clock
    ) -> None:
        other, job_id = one(store, paused=True), one(store, retries=1)
        hand.fail(hand.take_one())
        depends(store, job_id, other)
        clock.advance(5)
        store.sweep()
        assert (state(store, job_id), hand.take()) == ("PENDING", [])
        store.start([other])
        hand.finish(hand.take_one())
        store.sweep()
        assert hand.take_one().job == job_id

    def test_what_the_worker_stopped_is_put_back_without_spending_a_retry(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        hand.stop(hand.take_one())
        assert (store.job(job_id).state, store.job(job_id).errors) == ("WAITING", 0)
        assert hand.take_one().job == job_id

    def test_a_reason_that_holds_a_nul_holds_nothing_back(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        hand.fail(hand.take_one(), reason="its log says: \0")
        assert store.attempts(job_id)[0].reason == "its log says: \N{REPLACEMENT CHARACTER}"

    def test_a_repeated_stop_is_answered_as_before(self, store: Store, hand: Hand) -> None:
        one(store)
        lease = hand.take_one()
        assert hand.stop(lease).refused == []
        assert hand.stop(lease).refused == []

    def test_a_leaf_costs_what_all_its_attempts_cost_as_its_group_counts_it(self, store: Store) -> None:
        hand = Hand(store, price=3_600_000)
        (group,) = submit(store, a_group("g", a_job()))
        hand.stop(lease := hand.take_one())
        hand.finish(hand.take_one(), run_s=2.0)
        assert store.job(lease.job).cost_micro == store.job(group).cost_micro == 3_000

    def test_a_repeated_report_is_answered_as_before_and_counts_once(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_group("g", a_job(), a_job()))
        good, bad = hand.take(2)
        for _ in range(3):
            outcome = hand.exchange(a_result(good), a_result(bad, "ERROR"))
            assert (outcome.refused, outcome.leases, outcome.stop) == ([], [], [])
        assert store.job(group).counts == Counts(total=2, finished=1, error=1)

    def test_the_same_result_twice_in_one_call_counts_once(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_group("g", a_job()))
        lease = hand.take_one()
        assert hand.exchange(a_result(lease), a_result(lease)).finished == 1
        assert store.job(group).run_s == 1.0

    def test_a_repeat_that_says_otherwise_changes_nothing(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        lease = hand.take_one()
        hand.finish(lease)
        hand.fail(lease)
        assert state(store, job_id) == "FINISHED"

    def test_another_workers_attempt_or_an_unknown_one_is_refused(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        lease = hand.take_one()
        outcome = Hand(store, "thief").finish(lease, 999)
        assert [refusal.attempt for refusal in outcome.refused] == [lease.attempt, 999]
        assert state(store, job_id) == "WORKING"

    def test_a_started_attempt_runs_from_the_moment_it_was_reported(self, store: Store, hand: Hand, clock: Clock) -> None:
        job_id = one(store)
        lease = hand.take_one()
        clock.advance(3)
        hand.exchange(started=[lease.attempt])
        assert (store.attempt(lease.attempt).state, store.job(job_id).started_at) == ("RUNNING", clock())

    def test_the_attempts_tell_the_whole_story(self, store: Store, hand: Hand) -> None:
        job_id = one(store, retries=1)
        hand.stop(hand.take_one())
        hand.fail(hand.take_one(), reason="exit code 3")
        told = [(attempt.state, attempt.worker, attempt.exit_code, attempt.reason) for attempt in store.attempts(job_id)]
        assert told == [("ERROR", "w1", 1, "exit code 3"), ("STOPPED", "w1", None, "")]


# ---------------------------------------------------------------- loss


class TestLoss:
    def test_a_lease_that_expires_puts_the_job_back_without_spending_a_retry(
        self, store: Store, hand: Hand, clock: Clock
    ) -> None:
        job_id = one(store)
        lease = hand.take_one()
        for _ in range(3):
            store.sweep()
            clock.advance(LEASE_S / 3 + 1)
        assert store.sweep() == 1
        assert (store.job(job_id).state, store.job(job_id).errors) == ("WAITING", 0)
        assert store.attempt(lease.attempt).state == "LOST"
        assert [event["kind"] for event in store.events({"worker": hand.id}, 0, 10)][:2] == ["worker.timeout", "worker.silent"]

    def test_a_heartbeat_renews_what_the_worker_holds(self, store: Store, hand: Hand, clock: Clock) -> None:
        one(store)
        lease = hand.take_one()
        for _ in range(10):
            clock.advance(LEASE_S / 3)
            store.flush_beats([beat(hand, clock(), lease.attempt)])
            assert store.sweep() == 0
        assert store.attempt(lease.attempt).progress == 0.25

    def test_a_lost_attempt_goes_on_until_somebody_replaces_it(self, store: Store, hand: Hand, clock: Clock) -> None:
        one(store)
        lease = hand.take_one()
        lose(store, clock)
        assert store.attempt(lease.attempt).state == "LOST"
        assert hand.exchange().stop == [], "its late result would count, so the render is not thrown away"
        Hand(store, "w2").take_one()
        assert hand.exchange().stop == [lease.attempt]

    @pytest.mark.parametrize("how", ["drained", "sick"])
    def test_a_silence_does_not_undo_a_drain_or_forgive_a_sick_worker(
        self, store: Store, hand: Hand, clock: Clock, how: str
    ) -> None:
        kept = "DRAINING" if how == "drained" else "SICK"
        with store.engine.begin() as db:  # by nobody, so that no event tells of it
            db.execute(update(schema.worker).values(state=kept))
        lose(store, clock)
        store.flush_beats([beat(hand, clock())])
        assert store.workers()[0].state == kept
        one(store)
        assert hand.take() == [], "and the lease transaction itself gives it nothing"

    def test_a_late_result_counts_until_the_job_is_leased_again(self, store: Store, hand: Hand, clock: Clock) -> None:
        job_id = one(store)
        lease = hand.take_one()
        lose(store, clock)
        assert hand.finish(lease).refused == []
        assert state(store, job_id) == "FINISHED"

    @pytest.mark.parametrize("ended", [False, True])
    def test_a_late_result_is_refused_once_the_job_was_leased_again(
        self, store: Store, hand: Hand, clock: Clock, ended: bool
    ) -> None:
        job_id = one(store)
        late = hand.take_one()
        lose(store, clock)
        other = Hand(store, "w2")
        newer = other.take_one()
        if ended:
            other.finish(newer)
        assert [refusal.attempt for refusal in hand.fail(late).refused] == [late.attempt]
        assert state(store, job_id) == ("FINISHED" if ended else "WORKING")

    def test_a_late_result_counts_though_the_job_waits_for_others_now(self, store: Store, hand: Hand, clock: Clock) -> None:
        other, job_id = one(store, paused=True), one(store)
        lease = hand.take_one()
        depends(store, job_id, other)
        lose(store, clock)
        assert state(store, job_id) == "PENDING"
        assert hand.finish(lease).refused == []
        assert state(store, job_id) == "FINISHED"

    def test_a_late_error_spends_a_retry_and_waits(self, store: Store, hand: Hand, clock: Clock) -> None:
        job_id = one(store, retries=1)
        lease = hand.take_one()
        lose(store, clock)
        hand.fail(lease)
        assert (store.job(job_id).state, store.job(job_id).errors, hand.take()) == ("WAITING", 1, [])

    def test_an_outage_of_the_server_shifts_all_deadlines_by_it(self, store: Store, hand: Hand, clock: Clock) -> None:
        job_id = one(store)
        hand.take_one()
        store.sweep()
        clock.advance(8 * 3_600)
        assert store.sweep() == 0
        clock.advance(LEASE_S / 3)
        assert store.sweep() == 0
        assert state(store, job_id) == "WORKING"
        assert store.workers()[0].state != "TIMEOUT"

    def test_an_outage_never_extends_a_lease_beyond_a_whole_one(self, store: Store, hand: Hand, clock: Clock) -> None:
        job_id = one(store)
        store.sweep()
        clock.advance(8 * 3_600)
        hand.take_one()  # before the first sweep of the new server
        store.sweep()
        for _ in range(4):
            clock.advance(LEASE_S / 3)
            store.sweep()
        assert state(store, job_id) == "WAITING"
        assert store.workers()[0].state == "TIMEOUT"

    def test_a_silent_worker_times_out_and_is_back_with_its_next_heartbeat(self, store: Store, hand: Hand, clock: Clock) -> None:
        lose(store, clock)
        assert store.workers()[0].state == "TIMEOUT"
        store.flush_beats([beat(hand, clock())])
        assert store.workers()[0].state == "WAITING"

    def test_leases_the_worker_does_not_list_are_given_again(self, store: Store, hand: Hand) -> None:
        submit(store, a_job("a"), a_job("b"))
        given = hand.take(2)
        hand.held.clear()  # the answer was lost
        assert hand.take(0) == given
        assert hand.take(0) == []

    def test_what_is_given_again_counts_as_what_the_worker_wants(self, store: Store, hand: Hand) -> None:
        submit(store, *[a_job()] * 10)
        given = hand.take(2)
        for _ in range(3):
            hand.held.clear()
            assert hand.take(2) == given

    def test_two_calls_of_one_worker_in_one_exchange_share_what_it_wants(self, store: Store, hand: Hand) -> None:
        submit(store, *[a_job()] * 10)
        outcomes = store.exchange([hand.call(want=2), hand.call(want=2)])
        assert len({lease.attempt for outcome in outcomes for lease in outcome.leases}) == 2

    def test_an_attempt_the_worker_should_not_hold_is_stopped(self, store: Store, hand: Hand, clock: Clock) -> None:
        one(store)
        lease = hand.take_one()
        lose(store, clock)
        Hand(store, "w2").take_one()
        assert hand.exchange().stop == [lease.attempt]


def lose(store: Store, clock: Clock) -> None:
    """Every worker falls silent until its leases are over."""
    for _ in range(5):
        store.sweep()
        clock.advance(LEASE_S / 4)
    store.sweep()


# ---------------------------------------------------------------- dependencies


class TestDependencies:
    def test_a_job_is_pending_until_all_it_depends_on_is_finished(self, store: Store, hand: Hand) -> None:
        a, b = submit(store, a_job("a"), a_job("b"))
        job_id = one(store, title="c", depends_on=(a, b))
        first, second = hand.take(9)
        hand.finish(first)
        assert state(store, job_id) == "PENDING"
        hand.finish(second)
        assert (state(store, job_id), hand.titles()) == ("WAITING", ["c"])

    def test_a_dependency_that_is_finished_already_holds_nothing(self, store: Store, hand: Hand) -> None:
        a = one(store)
        hand.finish_all()
        assert state(store, one(store, depends_on=(a,))) == "WAITING"

    def test_an_error_goes_on_blocking(self, store: Store, hand: Hand) -> None:
        a = one(store)
        job_id = one(store, depends_on=(a,))
        hand.fail(hand.take_one())
        assert (state(store, job_id), hand.take()) == ("PENDING", [])

    def test_a_group_is_waited_for_until_its_last_leaf(self, store: Store, hand: Hand) -> None:
        (frames,) = submit(store, a_range("1-2"))
        film = one(store, title="film", depends_on=(frames,))
        first, second = hand.take(9)
        hand.finish(first)
        assert state(store, film) == "PENDING"
        hand.finish(second)
        assert hand.titles() == ["film"]

    def test_an_empty_group_is_not_finished(self, store: Store) -> None:
        (group,) = submit(store, a_group())
        assert state(store, one(store, depends_on=(group,))) == "PENDING"

    def test_a_group_that_waits_holds_all_below_it(self, store: Store, hand: Hand) -> None:
        a = one(store, title="a")
        (group,) = submit(store, a_group("g", a_group("h", a_job("b")), depends_on=(a,)))
        assert store.job(group).counts == Counts(total=1, pending=1)
        assert hand.titles() == ["a"]
        hand.finish(*hand.held)
        assert hand.titles() == ["b"]

    def test_chains_of_groups_complete_in_one_report(self, store: Store, hand: Hand) -> None:
        made = store.submit(
            [
                a_group(name, a_job(name), ref=name, depends_on=(before,) if before else ())
                for before, name in (("", "a"), ("a", "b"), ("b", "c"))
            ]
        )
        assert [hand.titles(), hand.finish(*hand.held)][0] == ["a"]
        assert [hand.titles(), hand.finish(*hand.held)][0] == ["b"]
        assert hand.titles() == ["c"]
        assert state(store, *made.ids) == ["FINISHED", "FINISHED", "WORKING"]

    def test_a_reset_of_the_target_blocks_again(self, store: Store, hand: Hand) -> None:
        a = one(store)
        job_id = one(store, depends_on=(a,))
        hand.finish(hand.take_one())
        store.reset([a])
        assert (state(store, job_id), store.job(job_id).reason) == ("PENDING", "waits for 1 dependencies")

    def test_a_new_job_in_a_finished_group_blocks_again(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_range("1"))
        hand.finish_all()
        job_id = one(store, depends_on=(group,))
        assert state(store, job_id) == "WAITING"
        one(store, parent=group)
        assert state(store, job_id) == "PENDING"

    def test_a_running_job_goes_on_when_its_target_is_reset(self, store: Store, hand: Hand) -> None:
        a = one(store)
        job_id = one(store, depends_on=(a,))
        hand.finish(hand.take_one())
        lease = hand.take_one()
        store.reset([a])
        assert state(store, job_id) == "WORKING"
        hand.finish(lease)
        assert state(store, job_id) == "FINISHED"

    def test_deleting_the_target_frees_whoever_waited_and_says_so(self, store: Store, hand: Hand) -> None:
        a = one(store, title="a")
        job_id = one(store, title="b", depends_on=(a,))
        store.delete([a], "ann")
        assert hand.titles() == ["b"]
        freed = [event for event in store.events({"job": job_id}, 0, 10) if event["kind"] == "job.freed"]
        assert [(event["who"], event["text"]) for event in freed] == [("ann", f"dependency on #{a} dropped: it was deleted")]

    def test_dependencies_may_be_replaced_and_taken_off(self, store: Store, hand: Hand) -> None:
        a, b, c = submit(store, *[a_job()] * 3)
        depends(store, c, a, b, b)
        assert store.job(c).depends_on == (a, b)
        depends(store, c, b)
        assert (store.job(c).depends_on, state(store, c)) == ((b,), "PENDING")
        depends(store, c)
        assert state(store, c) == "WAITING"

    def test_one_edit_may_give_several_jobs_their_dependencies(self, store: Store) -> None:
        a, b, c = submit(store, *[a_job()] * 3)
        store.edit([b, c, b], JobChanges(depends_on=(a,)))
        assert state(store, a, b, c) == ["WAITING", "PENDING", "PENDING"]

    @pytest.mark.parametrize("how", ["itself", "direct", "three", "own group", "through a group", "by a move"])
    def test_a_cycle_through_jobs_that_are_there_is_refused_whole(self, store: Store, how: str) -> None:
        a, b, c, g = submit(store, a_job(), a_job(), a_job(), a_group("g", a_job("inside")))
        inside = ids_of(store, "inside")
        depends(store, b, a)
        depends(store, c, b)
        depends(store, g, c)
        edits = {
            "itself": (a, JobChanges(depends_on=(a,))),
            "direct": (a, JobChanges(depends_on=(b,))),
            "three": (a, JobChanges(title="changed", depends_on=(c,))),
            "own group": (inside, JobChanges(depends_on=(g,))),
            "through a group": (b, JobChanges(depends_on=(g,))),
            "by a move": (c, JobChanges(parent=g)),
        }
        before = everything(store)
        job_id, changes = edits[how]
        with pytest.raises(BadInput):
            store.edit([job_id], changes)
        assert everything(store) == before

    def test_a_diamond_is_no_cycle(self, store: Store, hand: Hand) -> None:
        store.submit(
            [
                a_job("a", ref="a"),
                a_job("b", ref="b", depends_on=("a",)),
                a_job("c", ref="c", depends_on=("a",)),
                a_job("d", depends_on=("b", "c", "a")),
            ]
        )
        assert hand.finish_all() == 4


# ---------------------------------------------------------------- what people do to trees


@pytest.fixture
def tree(store: Store) -> dict[str, int]:
    """film > (seq > (a, b, c), d), and `after`, which waits for seq; a FINISHED, b WORKING, c ERROR."""
    store.submit(
        [a_group("film", a_group("seq", *map(a_job, "abc"), ref="seq"), a_job("d")), a_job("after", depends_on=("seq",))]
    )
    hand = Hand(store, "tree-worker")
    a, _, c = hand.take(3)
    hand.finish(a)
    hand.fail(c)
    return {job.title: job.id for job in everything(store)}


class TestActions:
    def test_pause_stops_what_runs_and_start_lets_it_go_on(self, store: Store, hand: Hand, tree: dict[str, int]) -> None:
        (working,) = store.attempts(tree["b"])
        assert store.pause([tree["film"]], "ann") == 1
        assert (state(store, tree["b"]), hand.take(9)) == ("WAITING", [])
        assert store.attempt(working.id).reason == "paused by ann"
        store.start([tree["film"]])
        assert hand.titles() == ["b", "d"]

    def test_a_child_that_was_paused_itself_stays_paused(self, store: Store, hand: Hand, tree: dict[str, int]) -> None:
        store.pause([tree["d"]])
        store.pause([tree["film"]])
        store.start([tree["film"]])
        assert hand.titles() == ["b"]

    def test_the_result_of_a_stopped_attempt_is_refused(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        lease = hand.take_one()
        store.pause([job_id])
        assert [refusal.reason for refusal in hand.finish(lease).refused] == ["the attempt was stopped"]
        assert state(store, job_id) == "WAITING"

    def test_the_worker_is_told_to_stop_what_was_paused(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        lease = hand.take_one()
        store.pause([job_id])
        assert hand.exchange().stop == [lease.attempt]

    def test_reset_runs_ended_and_running_jobs_again(self, store: Store, tree: dict[str, int]) -> None:
        store.reset([tree["film"]])
        assert store.job(tree["film"]).counts == Counts(total=4, waiting=4)

    def test_reset_of_errors_leaves_the_rest_alone(self, store: Store, tree: dict[str, int]) -> None:
        store.reset([tree["film"]], errors_only=True)
        assert state(store, *(tree[name] for name in "abcd")) == ["FINISHED", "WORKING", "WAITING", "WAITING"]

    def test_reset_gives_all_retries_back(self, store: Store, hand: Hand, clock: Clock) -> None:
        job_id = one(store, retries=1)
        hand.fail(hand.take_one())
        clock.advance(1)
        store.sweep()
        hand.fail(hand.take_one())
        store.reset([job_id])
        hand.fail(hand.take_one())
        assert (store.job(job_id).state, store.job(job_id).errors) == ("WAITING", 1)

    def test_delete_removes_the_tree_stops_what_runs_and_frees_who_waited(
        self, store: Store, hand: Hand, tree: dict[str, int]
    ) -> None:
        (working,) = store.attempts(tree["b"])
        store.delete([tree["seq"]])
        assert {job.title for job in everything(store)} == {"film", "d", "after"}
        assert store.job(tree["film"]).counts == Counts(total=1, waiting=1)
        assert (store.attempt(working.id).state, hand.titles()) == ("STOPPED", ["d", "after"])

    def test_a_group_and_jobs_in_it_may_be_deleted_together(self, store: Store, tree: dict[str, int]) -> None:
        store.delete([tree["a"], tree["seq"], tree["a"], tree["film"]])
        assert {job.title for job in everything(store)} == {"after"}

    def test_a_target_and_part_of_a_group_that_waits_for_it_may_be_deleted_together(self, store: Store) -> None:
        target = one(store)
        (group,) = submit(store, a_group("g", a_job("x"), a_job("y"), depends_on=(target,)))
        store.delete([target, ids_of(store, "x")])
        assert store.job(group).counts == Counts(total=1, waiting=1)

    def test_what_deleted_jobs_cost_stays_with_their_groups(self, store: Store) -> None:
        hand = Hand(store, price=3_600_000)
        (group,) = submit(store, a_group("g", a_job("x"), a_job("y")))
        hand.finish_all()
        store.delete([ids_of(store, "x")])
        assert (store.job(group).run_s, store.job(group).cost_micro) == (2.0, 2_000)

    def test_a_result_for_a_deleted_job_is_refused(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        lease = hand.take_one()
        store.delete([job_id])
        assert [refusal.reason for refusal in hand.finish(lease).refused] == ["the job was deleted"]

    @pytest.mark.parametrize("action", ["pause", "start", "reset", "delete"])
    def test_an_unknown_job_stops_the_whole_action(self, store: Store, tree: dict[str, int], action: str) -> None:
        before = everything(store)
        with pytest.raises(NotFound, match="no job 999"):
            getattr(store, action)([tree["film"], 999])
        assert everything(store) == before

    @pytest.mark.parametrize("action", ["pause", "start", "reset", "delete"])
    def test_every_action_is_an_event_of_its_job(self, store: Store, action: str) -> None:
        job_id = one(store)
        getattr(store, action)([job_id], who="ann")
        newest = store.events({"job": job_id}, 0, 1)[0]
        assert (newest["kind"], newest["who"]) == (f"job.{action}", "ann")

    def test_an_action_on_many_jobs_is_one_event(self, store: Store) -> None:
        ids = submit(store, *[a_job()] * 150)
        store.pause(ids)
        assert [event["kind"] for event in store.events({}, 0, 10)] == ["job.pause", "job.submit"]


class TestEditing:
    def test_fields_change_and_the_rest_stays(self, store: Store) -> None:
        job_id = one(store, url="http://x", retries=2)
        store.edit([job_id], JobChanges(title="new", command="false", environment={"B": "2"}, timeout_s=3.0))
        shown = store.job(job_id)
        assert (shown.title, shown.command, shown.environment, shown.timeout_s) == ("new", "false", {"B": "2"}, 3.0)
        assert (shown.url, shown.retries) == ("http://x", 2)

    def test_a_new_priority_of_a_group_moves_all_below_it(self, store: Store, hand: Hand, tree: dict[str, int]) -> None:
        one(store, title="other")
        store.edit([tree["film"]], JobChanges(priority=1))
        assert hand.titles() == ["other", "d"]

    def test_a_new_affinity_of_a_group_is_inherited(self, store: Store, hand: Hand, tree: dict[str, int]) -> None:
        store.edit([tree["film"]], JobChanges(affinity=("gpu",)))
        assert hand.titles() == []
        assert Hand(store, "w2", ("gpu",)).titles() == ["d"]

    def test_a_running_job_is_not_disturbed_by_an_edit(self, store: Store, tree: dict[str, int]) -> None:
        store.edit([tree["b"], tree["film"]], JobChanges(priority=9, affinity=("gpu",), retries=5))
        assert state(store, tree["b"]) == "WORKING"

    @pytest.mark.parametrize("command", ["", "true"])
    def test_a_group_gets_no_command_and_a_job_keeps_one(self, store: Store, tree: dict[str, int], command: str) -> None:
        with pytest.raises(BadInput, match="command"):
            store.edit([tree["film" if command else "d"]], JobChanges(command=command))

    def test_a_moved_tree_brings_its_counters_cost_and_running_jobs(self, store: Store, tree: dict[str, int]) -> None:
        (other,) = submit(store, a_group("other"))
        spent = store.job(tree["film"]).run_s
        store.edit([tree["seq"]], JobChanges(parent=other))
        assert store.job(tree["film"]).counts == Counts(total=1, waiting=1)
        assert store.job(other).counts == Counts(total=3, working=1, finished=1, error=1)
        assert (store.job(other).run_s, store.job(tree["film"]).run_s) == (spent, 0.0)

    def test_a_moved_job_brings_what_it_spent(self, store: Store, tree: dict[str, int]) -> None:
        (other,) = submit(store, a_group("other"))
        store.edit([tree["a"]], JobChanges(parent=other))
        assert (store.job(other).run_s, store.job(tree["film"]).run_s) == (1.0, 1.0)

    def test_a_moved_job_takes_what_its_new_groups_hand_down(self, store: Store, hand: Hand) -> None:
        job_id = one(store, title="job")
        (group,) = submit(store, a_group("g", a_group("h", affinity=("gpu",)), paused=True))
        store.edit([job_id], JobChanges(parent=ids_of(store, "h")))
        assert hand.titles() == []
        store.start([group])
        assert Hand(store, "w2", ("gpu",)).titles() == ["job"]
        store.edit([job_id], JobChanges(parent=0))
        assert store.job(job_id).state == "WORKING"

    def test_a_move_that_completes_a_group_frees_whoever_waits_for_it(self, store: Store, tree: dict[str, int]) -> None:
        store.edit([tree["b"], tree["c"]], JobChanges(parent=0))
        assert (state(store, tree["seq"]), state(store, tree["after"])) == ("FINISHED", "WAITING")

    def test_a_group_does_not_move_into_itself(self, store: Store, tree: dict[str, int]) -> None:
        for target in ("film", "seq"):
            with pytest.raises(BadInput, match="itself"):
                store.edit([tree["film"]], JobChanges(parent=tree[target]))

    def test_a_move_into_a_job_or_nowhere_is_refused(self, store: Store, tree: dict[str, int]) -> None:
        for target in (tree["d"], 999):
            with pytest.raises(BadInput, match="group"):
                store.edit([tree["seq"]], JobChanges(parent=target, title="changed"))
        assert store.job(tree["seq"]).title == "seq"

    def test_the_same_id_twice_is_one_job(self, store: Store, tree: dict[str, int]) -> None:
        store.edit([tree["d"]] * 3_000, JobChanges(priority=3))
        store.edit([tree["seq"], tree["seq"]], JobChanges(parent=0))
        assert (store.job(tree["seq"]).parent, store.job(tree["film"]).counts) == (0, Counts(total=1, waiting=1))


class TestPayers:
    def test_a_cloud_workers_payer_must_be_the_jobs(self, store: Store) -> None:
        budgets = (a_budget("ann-money", "user:ann"), a_budget("gpu-money", "affinity:gpu"), a_budget("all", "farm"))
        store.settings = replace(store.settings, budgets=budgets)
        submit(store, a_job("hers", user="ann"), a_job("both", user="ann", affinity=("gpu",)), a_job("free", user="ben"))
        titles = {}
        for payer in ("ann-money", "ann-money|gpu-money", "", None):
            hand = Hand(store, f"w-{payer or 'none' if payer is None else payer.replace('|', '-') or 'farm'}", ("gpu",))
            hand.row = replace(hand.row, capacity=replace(hand.row.capacity, payer=payer))
            titles[payer] = hand.titles(1)
        assert titles == {"ann-money": ["hers"], "ann-money|gpu-money": ["both"], "": ["free"], None: []}


# ---------------------------------------------------------------- workers and tokens


class TestEnrolment:
    def test_without_a_token_only_an_open_door_lets_a_worker_in(self, store: Store) -> None:
        with pytest.raises(NotAuthenticated, match="token"):
            store.enrol(an_enrol())
        assert store.enrol(an_enrol(), open_door=True).epoch == 1

    def test_an_enrolment_token_is_good_once(self, store: Store) -> None:
        token = store.create_token("enrol", uses=1)
        store.enrol(an_enrol("w1", token=token))
        with pytest.raises(NotAuthenticated):
            store.enrol(an_enrol("w2", token=token))

    def test_a_site_token_is_good_for_any_number(self, store: Store) -> None:
        token = store.create_token("site")
        assert len({store.enrol(an_enrol(name, token=token)).worker_id for name in ("w1", "w2", "w3")}) == 3

    def test_the_repeat_after_a_lost_answer_spends_no_second_token(self, store: Store) -> None:
        request = an_enrol(token=store.create_token("enrol", uses=1))
        first, again = store.enrol(request), store.enrol(request)
        assert (again.worker_id, again.epoch) == (first.worker_id, first.epoch)
        assert again.credential != first.credential

    @pytest.mark.parametrize("text", ["", ".", "nobody.secret", "{id}.wrong", "{id}", "{id}.", "{id}.ü", "w1.x"])
    def test_a_wrong_token_is_refused_whatever_the_door(self, store: Store, text: str) -> None:
        token_id = store.create_token("enrol", uses=1).partition(".")[0]
        text = text.replace("{id}", token_id)
        with pytest.raises(NotAuthenticated):
            store.enrol(an_enrol(token=text), open_door=bool(text))
        assert store.tokens()[0]["uses_left"] == 1

    def test_an_expired_token_and_a_users_token_are_refused(self, store: Store, clock: Clock) -> None:
        expired = store.create_token("enrol", uses=1, expires_s=10)
        clock.advance(11)
        for token in (expired, store.create_token("user", user="ann", role="admin")):
            with pytest.raises(NotAuthenticated):
                store.enrol(an_enrol(token=token))

    def test_two_workers_of_one_name_are_not_let_in_and_the_token_is_kept(self, store: Store) -> None:
        token = store.create_token("enrol", uses=2)
        store.enrol(an_enrol(token=token))
        with pytest.raises(Conflict, match="live worker is named w1"):
            store.enrol(an_enrol(token=token))
        assert store.tokens()[0]["uses_left"] == 1

    def test_the_name_of_a_silent_worker_may_be_taken_over(self, store: Store, clock: Clock) -> None:
        first = store.enrol(an_enrol(), open_door=True)
        lose(store, clock)
        second = store.enrol(an_enrol(), open_door=True)
        assert (second.worker_id, second.epoch) == (first.worker_id, first.epoch + 1)

    def test_a_restarted_worker_comes_back_by_its_credential_and_its_jobs_are_put_back(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        lease = hand.take_one()
        again = store.enrol(an_enrol(credential=hand.admission.credential))
        assert (again.worker_id, again.epoch) == (hand.id, 2)
        assert (state(store, job_id), store.attempt(lease.attempt).reason) == ("WAITING", "the worker started anew")

    def test_a_wrong_credential_or_session_does_not_bring_a_worker_back(self, store: Store, hand: Hand) -> None:
        for wrong in ({"credential": f"w{hand.id}.wrong"}, {"credential": "w"}, {"session": "ü" * 16}):
            with pytest.raises(NotAuthenticated):
                store.enrol(an_enrol(**wrong))

    def test_whoever_repeats_an_enrolment_keeps_what_it_holds(self, store: Store) -> None:
        request = an_enrol()
        hand = Hand(store, session=request.session)
        job_id = one(store)
        hand.take_one()
        store.enrol(replace(request, token=""))
        assert state(store, job_id) == "WORKING"

    def test_a_drain_outlives_the_workers_restart(self, store: Store, hand: Hand) -> None:
        store.drain_workers([hand.id])
        store.enrol(an_enrol(credential=hand.admission.credential))
        assert store.workers()[0].state == "DRAINING"

    def test_a_cloud_machine_that_lost_its_credential_comes_back_by_its_identity(self, store: Store, clock: Clock) -> None:
        token = reserved(store)
        request = an_enrol(token=token, identity="m-1")
        first = store.enrol(request)
        with pytest.raises(NotAuthenticated):
            store.enrol(an_enrol("w2", token=token, identity="m-2"))
        lose(store, clock)
        again = store.enrol(replace(request, session="s" * 32))
        assert (again.worker_id, again.epoch) == (first.worker_id, 2)
        assert store.workers()[0].instance is not None

    def test_whoever_takes_the_name_of_a_machine_that_is_gone_is_not_on_it(self, store: Store, clock: Clock) -> None:
        store.enrol(an_enrol(token=reserved(store), identity="m-1"))
        lose(store, clock)
        store.enrol(an_enrol(token=store.create_token("site")))
        assert store.workers()[0].instance is None

    def test_only_hashes_of_secrets_are_kept(self, store: Store, hand: Hand) -> None:
        token = store.create_token("site")
        secrets = {token.partition(".")[2], hand.admission.credential.partition(".")[2]}
        with store.read() as db:
            dump = "".join(str(row) for table in schema.metadata.sorted_tables for row in db.execute(table.select()))
        assert not [secret for secret in secrets if secret in dump]
        assert "hash" not in store.tokens()[0]


def reserved(store: Store) -> str:
    """The enrolment token of an intent for one instance."""
    fence = store.claim_leader("autoscaler", "me", 60)
    assert fence is not None
    now = store.clock()
    money = {"price_micro": 1_000_000, "currency": "USD", "sponsors": (), "payer": ""}
    times = {"launch_by": now + 60, "funded_until": now + 9_000, "boot_timeout_s": 9_000}
    order = Order("t" * 32, "p", "fake", "machine", slots=1, count=1, request="{}", reason="test", **money, **times)
    store.reserve(order, fence)
    return store.enrol_token(order.token)


class TestTokens:
    def test_a_users_token_tells_who_it_is(self, store: Store) -> None:
        row = store.check_token(store.create_token("user", user="ann", role="user"))
        assert row
        assert (row.kind, row.user, row.role) == ("user", "ann", "user")

    def test_a_deleted_expired_or_altered_token_is_nobody(self, store: Store, clock: Clock) -> None:
        deleted, expired = (
            store.create_token("user", user="a", role="user"),
            store.create_token("user", user="b", role="user", expires_s=5),
        )
        store.delete_token(deleted.partition(".")[0])
        clock.advance(6)
        good = store.create_token("user", user="c", role="user")
        assert [store.check_token(text) for text in (deleted, expired, good + "x", good.upper(), "")] == [None] * 5

    def test_bad_kinds_and_roles_are_refused(self, store: Store) -> None:
        for kind, role, field in (("root", "", "kind"), ("user", "king", "role")):
            with pytest.raises(BadInput) as refused:
                store.create_token(kind, user="ann", role=role)
            assert list(refused.value.fields) == [field]

    def test_a_token_that_is_used_up_or_over_still_signs_for_the_worker_that_looks_for_its_server_again(
        self, store: Store, clock: Clock
    ) -> None:
        token = store.create_token("enrol", uses=1, expires_s=10)
        store.enrol(an_enrol(token=token))
        clock.advance(11)
        assert store.discovery_key(token.partition(".")[0]) == key_of_token(token)
        assert store.discovery_key("nobody") is None

    def test_deleting_an_unknown_token_says_so(self, store: Store) -> None:
        with pytest.raises(NotFound):
            store.delete_token("nobody")


class TestFleet:
    def test_an_edit_changes_lines_slots_and_the_switch(self, store: Store, hand: Hand) -> None:
        store.edit_workers([hand.id], WorkerChanges(affinity=(("b", "a"),), active=False, slots=7), "ann")
        shown = store.workers()[0]
        assert (shown.affinity, shown.active, shown.slots, shown.reason) == ((("a", "b"),), False, 7, "is switched off")

    def test_drain_and_resume_and_their_events(self, store: Store, hand: Hand) -> None:
        store.drain_workers([hand.id], "ann")
        store.drain_workers([hand.id], "ann")
        assert store.workers()[0].state == "DRAINING"
        store.resume_workers([hand.id], "ann")
        kinds = [event["kind"] for event in store.events({"worker": hand.id}, 0, 10)]
        assert kinds == ["worker.resume", "worker.drain", "worker.enrol"]

    def test_what_is_not_possible_changes_nothing(self, store: Store, hand: Hand) -> None:
        other = Hand(store, "w2")
        store.drain_workers([other.id])
        with pytest.raises(IllegalTransition):
            store.resume_workers([other.id, hand.id])
        with pytest.raises(NotFound):
            store.drain_workers([hand.id, 999])
        assert [worker.state for worker in store.workers()] == ["STARTING", "DRAINING"]

    def test_a_deleted_workers_jobs_are_put_back_and_its_number_is_never_given_again(self, store: Store, hand: Hand) -> None:
        job_id = one(store)
        hand.take_one()
        store.delete_workers([hand.id])
        assert (state(store, job_id), store.workers()) == ("WAITING", [])
        assert Hand(store, "w2").id != hand.id

    def test_affinities_count_workers_and_open_jobs(self, store: Store) -> None:
        Hand(store, "w1", ("a", "b"), ("a",))
        hand = Hand(store, "w2", ("a",))
        submit(store, a_job(affinity=("a",)), a_job(affinity=("a", "c")), a_job(affinity=("a",)))
        hand.finish(hand.take_one())
        assert store.affinities() == [
            {"tag": "a", "workers": 2, "jobs": 2},
            {"tag": "b", "workers": 1, "jobs": 0},
            {"tag": "c", "workers": 0, "jobs": 1},
        ]


# ---------------------------------------------------------------- what people see


class TestLists:
    def test_pages_follow_one_another_without_gap_or_repeat(self, store: Store) -> None:
        submit(store, *(a_job(str(n), priority=n % 3) for n in range(25)))
        for sort, descending in itertools.product(("id", "priority"), (False, True)):
            seen: list[Job] = []
            query = JobQuery(sort=sort, descending=descending, limit=10)
            while True:
                page, cursor = store.jobs(query)
                seen += page
                if cursor is None:
                    break
                query = replace(query, after=cursor)
            keys = [(job.priority if sort == "priority" else 0, job.id) for job in seen]
            assert keys == sorted(keys, reverse=descending)
            assert len({job.id for job in seen}) == 25

    def test_lists_are_filtered_by_what_the_job_shows(self, store: Store, tree: dict[str, int]) -> None:
        def titles(**query: object) -> set[str]:
            return {job.title for job in store.jobs(JobQuery(**query))[0]}  # type: ignore[arg-type]

        assert titles(states=("ERROR",)) == {"film", "seq", "c"}
        assert titles(states=("WORKING", "FINISHED")) == {"a", "b"}
        assert titles(parent=0) == {"film", "after"}
        assert titles(title="E") == titles(title="e") == {"seq", "after"}
        assert titles(title="%") == set()
        store.pause([tree["d"]])
        assert titles(paused=True) == {"d"}

    def test_the_farm_in_one_line(self, store: Store, tree: dict[str, int]) -> None:
        assert store.farm_jobs() == {"waiting": 1, "pending": 1, "working": 1, "finished": 1, "error": 1}
        assert store.farm_workers() == {"workers": {"WORKING": 1}, "slots": {"total": 4, "busy": 1}}


class TestReasons:
    def codes(self, store: Store, job_id: int) -> list[str]:
        return [reason["code"] for reason in store.explain(job_id)]

    def test_every_state_has_its_reason(self, store: Store, tree: dict[str, int]) -> None:
        expected = {"a": ["finished"], "b": ["running"], "c": ["error"], "d": ["queue"], "after": ["dependencies", "no_match"]}
        store.edit([tree["after"]], JobChanges(affinity=("moon",)))
        assert {name: self.codes(store, tree[name]) for name in expected} == expected

    def test_all_that_holds_a_job_is_told_with_the_group_it_comes_from(self, store: Store, hand: Hand) -> None:
        a = one(store)
        (group,) = submit(store, a_group("g", a_job("x", paused=True), paused=True, depends_on=(a,)))
        job_id = ids_of(store, "x")
        assert [reason["text"] for reason in store.explain(job_id)] == [
            "is paused",
            f"group #{group} is paused",
            f"group #{group} waits for 1 of 1 dependencies: #{a} WAITING",
        ]

    def test_backoff_no_worker_and_an_empty_group_are_told(self, store: Store, hand: Hand) -> None:
        job_id = one(store, retries=1)
        (group,) = submit(store, a_group())
        hand.fail(hand.take_one())
        assert (self.codes(store, job_id), self.codes(store, group)) == (["backoff", "avoids"], ["empty"])
        store.delete_workers([hand.id])
        assert self.codes(store, job_id) == ["backoff", "no_workers"]

    def test_the_queue_is_counted_by_the_order_of_dispatch(self, store: Store, hand: Hand) -> None:
        submit(store, a_job(), a_job(priority=200))
        job_id = one(store)
        one(store)
        assert store.explain(job_id)[0]["text"] == "2 jobs before it on the 1 worker that matches"


class TestBacklog:
    def test_demand_is_counted_by_requirement_and_priority(self, store: Store, hand: Hand) -> None:
        submit(store, *[a_job(affinity=("gpu",))] * 3, a_job(paused=True), a_job(priority=1), a_job(depends_on=(1,)))
        demand = {(d.requirement.tags, d.prio_path): d.waiting for d in store.backlog()}
        assert demand == {(("gpu",), "7f"): 3, ((), "01"): 1}

    def test_it_tells_the_likes_of_what_waits_and_how_long_those_ran(self, store: Store, hand: Hand) -> None:
        submit(store, *[a_job()] * 3)
        first, second = hand.take(2)
        hand.finish(first, run_s=2)
        hand.finish(second, run_s=4)
        finished, _ = store.run_times()
        assert sorted(seconds for _, _, seconds in finished) == [2.0, 4.0]
        assert [d.likes for d in store.backlog()] == [((0, "job", 1),)]

    def test_a_submission_wakes_whoever_watches_the_backlog(self, store: Store) -> None:
        before = store.counters().get("backlog", 0)
        one(store)
        assert store.counters()["backlog"] > before


# ---------------------------------------------------------------- all at once


class TestConcurrency:
    def test_servers_that_do_everything_at_once_leave_the_store_consistent(self, store: WatchedStore) -> None:
        servers = [Store(store.settings, store.clock) for _ in range(4)]
        hands = [Hand(server, f"w{number}", ("a",)) for number, server in enumerate(servers)]
        servers[0].submit([a_group("g", *[a_job(affinity=("a",), retries=1)] * 20, ref="g"), a_job(depends_on=("g",))])
        failures: list[Exception] = []

        def guarded(body: object, seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(25):
                try:
                    body(chance)  # type: ignore[operator]
                except CoalitionError as error:
                    if error.status >= 500:
                        failures.append(error)
                except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
                    failures.append(error)

        def work(hand: Hand) -> object:
            return lambda chance: work_a_while(hand, chance)

        def meddler(server: Store) -> object:
            return lambda chance: meddle(server, chance)

        bodies = [work(hand) for hand in hands] + [meddler(server) for server in servers]
        threads = [threading.Thread(target=guarded, args=(body, seed)) for seed, body in enumerate(bodies)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for server in servers:
            server.close()
        assert failures == []
        check_invariants(store)


def work_a_while(hand: Hand, chance: random.Random) -> None:
    hand.take(3)
    for attempt in list(hand.held):
        chance.choice((hand.finish, hand.fail, hand.stop))(attempt)


def meddle(store: Store, chance: random.Random) -> None:
    """One random thing that somebody may do to a random job."""
    ids = [job.id for job in everything(store)]
    some = chance.sample(ids, min(len(ids), chance.randint(1, 4)))
    actions = (
        lambda: store.submit([a_range("1-3", parent=0), a_job(depends_on=some)]),
        lambda: store.pause(some),
        lambda: store.start(some),
        lambda: store.reset(some),
        lambda: store.delete(some[:1]),
        lambda: store.edit(some[:1], JobChanges(priority=chance.randint(0, 3), depends_on=some[1:])),
        lambda: store.sweep(),
    )
    chance.choice(actions)()
