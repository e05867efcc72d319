"""What people do to jobs that are there: skip them, append frames, sink groups and lift them; on each kind of database."""

from __future__ import annotations

import pytest

from coalition.errors import BadInput, NotFound
from coalition.model import Dependency, Job, JobChanges, JobSpec, MoreFrames
from coalition.store import Store
from coalition.store.views import JobQuery
from tests.builders import Clock, Hand, a_group, a_job, a_range, a_result
from tests.databases import KINDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hand(store: Store) -> Hand:
    return Hand(store, slots=50)


def submit(store: Store, *specs: JobSpec) -> tuple[int, ...]:
    return store.submit(specs, "ann").ids


def jobs_of(store: Store, group: int) -> list[Job]:
    return store.jobs(JobQuery(parent=group, limit=1_000))[0]


def states(store: Store, group: int) -> dict[str, str]:
    """title -> state of the jobs in a group."""
    return {job.title: job.state for job in jobs_of(store, group)}


def told(store: Store, job_id: int, kind: str) -> list[tuple[str, str]]:
    return [(event["who"], event["text"]) for event in store.events({"job": job_id, "kind": kind}, 0, 10)]


class TestSkip:
    def test_what_is_skipped_counts_as_finished_and_frees_who_waits(self, store: Store) -> None:
        group, after = submit(store, a_group("g", a_job("a"), a_job("b"), ref="g"), a_job("after", depends_on=("g",)))
        store.skip([group], "not needed", "ann")
        assert [(job.state, job.skipped, job.reason) for job in jobs_of(store, group)] == [("FINISHED", True, "skipped")] * 2
        assert (store.job(group).state, store.job(after).state) == ("FINISHED", "WAITING")
        assert told(store, group, "job.skip") == [("ann", "skipped, 2 jobs taken as finished: not needed")]
        assert store.explain(jobs_of(store, group)[0].id)[0]["text"] == "skipped"

    def test_a_running_job_is_stopped_by_the_next_sync_and_its_result_is_refused(self, store: Store, hand: Hand) -> None:
        (job_id,) = submit(store, a_job())
        lease = hand.take_one()
        store.skip([job_id], who="ann")
        assert hand.exchange().stop == [lease.attempt]
        (refused,) = hand.finish(lease).refused
        assert refused.reason == "the attempt was stopped"
        assert (store.job(job_id).state, store.attempt(lease.attempt).reason) == ("FINISHED", "skipped by ann")

    def test_errors_and_what_waits_for_others_may_be_skipped_and_what_is_finished_stays_as_it_is(
        self, store: Store, hand: Hand
    ) -> None:
        (group,) = submit(store, a_group("g", a_job("good"), a_job("bad", ref="bad"), a_job("held", depends_on=("bad",))))
        hand.fail(*[lease for lease in hand.take(2) if lease.title == "bad" or hand.finish(lease) is None])
        assert states(store, group) == {"good": "FINISHED", "bad": "ERROR", "held": "PENDING"}
        store.skip([group])
        assert [(job.title, job.state, job.skipped) for job in jobs_of(store, group)] == [
            ("good", "FINISHED", False),
            ("bad", "FINISHED", True),
            ("held", "FINISHED", True),
        ]

    def test_a_reset_takes_it_back(self, store: Store, hand: Hand) -> None:
        (job_id,) = submit(store, a_job())
        store.skip([job_id])
        assert hand.take() == []
        store.reset([job_id])
        assert (store.job(job_id).state, store.job(job_id).skipped) == ("WAITING", False)
        assert hand.finish_all() == 1

    def test_the_late_result_of_a_lost_attempt_does_not_count_any_more(self, store: Store, hand: Hand, clock: Clock) -> None:
        (job_id,) = submit(store, a_job())
        lease = hand.take_one()
        for _ in range(3):
            store.sweep()
            clock.advance(25)
        store.sweep()
        assert store.attempt(lease.attempt).state == "LOST"
        store.skip([job_id])
        (refused,) = hand.fail(lease).refused
        assert (refused.reason, store.job(job_id).state) == ("the job is FINISHED", "FINISHED")

    def test_what_may_be_skipped_says_so(self, store: Store) -> None:
        job_id, empty = submit(store, a_job(), a_group())
        assert "skip" in store.job(job_id).allowed_actions
        assert "skip" not in store.job(empty).allowed_actions
        store.skip([job_id])
        assert "skip" not in store.job(job_id).allowed_actions


class TestAppend:
    def test_frames_are_added_as_the_range_was_submitted(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_range("1-2", "shot", user="bob", retries=2, max_running=1, timeout_s=5.0))
        assert hand.titles() == ["shot 1"]
        made = store.append(group, MoreFrames("3-4"), "ann")
        assert (made.group, made.count, [job.id for job in jobs_of(store, group)][2:]) == (group, 2, [made.first, made.first + 1])
        job = store.job(made.first)
        assert (job.title, job.command, job.user, job.retries, job.timeout_s) == ("shot 3", "render 3", "bob", 2, 5.0)
        assert hand.take(5) == []
        assert told(store, group, "job.append") == [("ann", "frames 3-4 appended: 2 jobs")]

    def test_a_finished_group_opens_again_and_who_waits_for_it_waits_again(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_range("1-2"))
        (after,) = submit(store, a_job(depends_on=(group,), priority=0))
        hand.finish(*hand.take(2))
        assert (store.job(group).state, store.job(after).state) == ("FINISHED", "WAITING")
        store.append(group, MoreFrames("3"))
        assert (store.job(group).state, store.job(after).state) == ("WAITING", "PENDING")
        assert hand.finish_all() == 2
        assert store.job(after).state == "FINISHED"

    @pytest.mark.parametrize("paused", [True, False])
    def test_what_holds_the_group_holds_the_new_ones(self, store: Store, hand: Hand, paused: bool) -> None:
        before, group = submit(store, a_job(ref="b", priority=0), a_range("1", "x", depends_on=("b",), paused=paused))
        store.append(group, MoreFrames("2"))
        assert set(states(store, group).values()) == {"PENDING"}
        assert hand.titles() == ["job"]
        hand.finish(*hand.held.values())
        assert (store.job(before).state, hand.titles()) == ("FINISHED", [] if paused else ["x 1", "x 2"])

    def test_frames_that_are_there_are_refused_by_name_and_nothing_changes(self, store: Store) -> None:
        (group,) = submit(store, a_range("1-30"))
        with pytest.raises(BadInput) as refused:
            store.append(group, MoreFrames("29-40"))
        assert refused.value.fields == {"frames": "29, 30: there already; reset them to run them again"}
        with pytest.raises(BadInput, match="10 and 20 more: there already"):
            store.append(group, MoreFrames("1-100"))
        assert len(jobs_of(store, group)) == 30

    def test_the_frames_between_those_of_chunks_are_not_there_yet(self, store: Store) -> None:
        (group,) = submit(store, a_range("1-9x2", "x", chunk=5))
        store.append(group, MoreFrames("2-10x2"))
        assert states(store, group).keys() == {"x 1-9", "x 2-10"}
        with pytest.raises(BadInput, match="4: there already"):
            store.append(group, MoreFrames("4,11", chunk=1))

    def test_a_deleted_frame_may_be_appended_again(self, store: Store) -> None:
        (group,) = submit(store, a_range("1-2", "x"))
        store.delete([job.id for job in jobs_of(store, group) if job.title == "x 2"])
        store.append(group, MoreFrames("2"))
        assert states(store, group).keys() == {"x 1", "x 2"}

    def test_what_is_given_is_for_these_frames_only(self, store: Store) -> None:
        (group,) = submit(store, a_range("1", "x"))
        store.append(group, MoreFrames("2", title="best", command="render --fine {frame}"))
        store.append(group, MoreFrames("3"))
        assert {job.title: job.command for job in jobs_of(store, group)} == {
            "x 1": "render 1",
            "best 2": "render --fine 2",
            "x 3": "render 3",
        }

    def test_a_group_becomes_a_range_if_it_is_given_a_command(self, store: Store) -> None:
        (group,) = submit(store, a_group("shot", a_job("other")))
        with pytest.raises(BadInput) as refused:
            store.append(group, MoreFrames("1-2"))
        assert list(refused.value.fields) == ["command"]
        store.append(group, MoreFrames("1-2", command="render {frame}"))
        store.append(group, MoreFrames("3"))
        assert states(store, group).keys() == {"other", "shot 1", "shot 2", "shot 3"}

    def test_who_is_no_group_and_what_is_no_range_is_refused(self, store: Store) -> None:
        (job_id,) = submit(store, a_job())
        with pytest.raises(BadInput, match="no group"):
            store.append(job_id, MoreFrames("1", command="x"))
        with pytest.raises(NotFound):
            store.append(99, MoreFrames("1"))
        (group,) = submit(store, a_range("1"))
        with pytest.raises(BadInput, match="is not a frame range"):
            store.append(group, MoreFrames("1-"))

    def test_new_frames_on_either_side_follow_the_rules_frame_by_frame(self, store: Store, hand: Hand) -> None:
        (sim,) = submit(store, a_range("1", "sim"))
        (render,) = submit(store, a_range("1-2", "render", depends_on=(Dependency(sim, frames=True),)))
        assert states(store, render) == {"render 1": "PENDING", "render 2": "WAITING"}
        store.append(sim, MoreFrames("2-3"))
        assert states(store, render) == {"render 1": "PENDING", "render 2": "PENDING"}
        hand.finish(*hand.take(3))
        store.append(render, MoreFrames("3-4"))
        store.append(sim, MoreFrames("4"))
        assert states(store, render) == {
            "render 1": "WAITING",
            "render 2": "WAITING",
            "render 3": "WAITING",
            "render 4": "PENDING",
        }
        assert hand.finish_all() == 5


class TestSink:
    def test_after_so_many_errors_a_group_comes_after_its_siblings(self, store: Store, hand: Hand) -> None:
        bad = a_group("bad", *[a_job(f"b{n}", retries=5) for n in range(3)], priority=200, decrease_priority_after=2)
        group, other = submit(store, bad, a_group("good", a_job("g"), priority=1))
        hand.fail(hand.take_one())
        assert (store.job(group).errors, store.job(group).priority) == (1, 200)
        hand.fail(hand.take_one())
        shown = store.job(group)
        assert (shown.errors, shown.priority, shown.sunk_from, shown.decrease_priority_after) == (2, 0, 200, 2)
        words = "sank from priority 200 to 0 after 2 errors of its jobs; a reset, or a priority by hand, lifts it"
        assert told(store, group, "job.sink") == [("server", words)]
        assert "sank from priority 200 to 0 after 2 errors; reset it, or give it a priority, to lift it" in [
            reason["text"] for reason in store.explain(group)
        ]
        assert any(reason["code"] == "sunk" for reason in store.explain(jobs_of(store, group)[0].id))
        assert hand.titles(1) == ["g"]
        assert store.job(other).sunk_from is None

    def test_a_reset_gives_it_its_priority_back(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_group("g", a_group("h", a_job("x")), priority=9, decrease_priority_after=1))
        hand.fail(hand.take_one())
        assert store.job(group).sunk_from == 9
        store.reset([group], who="ann")
        assert (store.job(group).priority, store.job(group).sunk_from, store.job(group).errors) == (9, None, 0)
        assert told(store, group, "job.lift") == [("ann", "is sunk no longer: reset by ann")]

    def test_a_priority_by_hand_lifts_it(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_group("g", a_job("x"), a_job("y"), decrease_priority_after=1))
        hand.fail(hand.take_one())
        store.edit([group], JobChanges(priority=50))
        assert (store.job(group).priority, store.job(group).sunk_from, store.job(group).errors) == (50, None, 0)
        hand.fail(hand.take_one())
        assert store.job(group).sunk_from == 50

    def test_an_edit_gives_a_group_the_rule_and_missing_licences_are_no_errors(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_group("g", a_job("x", retries=9)))
        store.edit([group], JobChanges(decrease_priority_after=1))
        lease = hand.take_one()
        hand.exchange(a_result(lease, "ERROR", exit_code=9, no_licence=True))
        assert (store.job(group).errors, store.job(group).sunk_from) == (0, None)


class TestStopped:
    def test_a_reset_lets_a_job_that_waits_after_an_error_start_at_once(self, store: Store, hand: Hand, clock: Clock) -> None:
        other = Hand(store, "w2")
        (job_id,) = submit(store, a_job(retries=3))
        hand.fail(hand.take_one())
        assert hand.take() == []
        store.reset([job_id])
        assert store.job(job_id).errors == 0
        assert [lease.job for lease in hand.take()] == [job_id]
        hand.fail(*hand.held.values())
        clock.advance(20)
        store.sweep()
        store.reset([job_id])  # it is ready again, and the worker it failed on need not be avoided any more
        assert [lease.job for lease in hand.take()] == [job_id]
        assert other.take() == []

    def test_what_is_stopped_by_hand_ran_as_long_as_it_did(self, store: Store, hand: Hand, clock: Clock) -> None:
        (group,) = submit(store, a_group("g", a_job(), a_job()))
        first, second = hand.take(2)
        hand.exchange(started=[first.attempt])
        clock.advance(7.5)
        store.pause([group])
        assert [store.attempt(lease.attempt).run_s for lease in (first, second)] == [7.5, 0.0]
        assert store.job(group).run_s == 7.5


class TestTimes:
    def test_a_group_began_and_ended_with_the_jobs_that_are_below_it_now(self, store: Store, hand: Hand, clock: Clock) -> None:
        outer, other = submit(store, a_group("o", a_group("i", a_job("a"), a_job("b"), a_job("c"))), a_group("other"))
        inner = outer + 1
        begun = clock()
        for lease in hand.take(3):
            clock.advance(10)
            hand.finish(lease)

        def times(group: int) -> tuple[float | None, float | None]:
            job = store.job(group)
            return job.started_at and job.started_at - begun, job.ended_at and job.ended_at - begun

        assert times(outer) == times(inner) == (0, 30)
        a, b, c = (job.id for job in jobs_of(store, inner))
        store.edit([c], JobChanges(parent=other))
        assert (times(outer), times(inner), times(other)) == ((0, 20), (0, 20), (0, 30))
        store.delete([b])
        assert times(outer) == times(inner) == (0, 10)
        store.reset([a])
        assert times(outer) == times(inner) == (None, None)
        assert (store.job(a).started_at, store.job(a).ended_at) == (None, None)
        clock.advance(60)
        store.skip([a])
        assert times(outer) == (None, 90)
        store.edit([inner], JobChanges(parent=other))
        assert (times(outer), times(other)) == ((None, None), (0, 90))
