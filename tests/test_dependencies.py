"""Who waits for whom, on each kind of database: any or all, until it is finished or has ended, frame by frame."""

from __future__ import annotations

from typing import Any

import pytest

from coalition.errors import BadInput
from coalition.model import Dependency, Job, JobChanges, JobSpec
from coalition.store import Store
from coalition.store.views import JobQuery
from tests.builders import Hand, a_group, a_job, a_range
from tests.databases import KINDS


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hand(store: Store) -> Hand:
    return Hand(store, slots=50)


def submit(store: Store, *specs: JobSpec) -> tuple[int, ...]:
    return store.submit(specs, "ann").ids


def frames(on: int | str, **how: Any) -> Dependency:
    return Dependency(on, frames=True, **how)


def jobs_of(store: Store, group: int) -> list[Job]:
    return store.jobs(JobQuery(parent=group, limit=1_000))[0]


def states(store: Store, group: int) -> dict[str, str]:
    """title -> state of the jobs in a group."""
    return {job.title: job.state for job in jobs_of(store, group)}


def waiting(store: Store, group: int) -> set[int | None]:
    """The first frames of those that may start."""
    return {job.first_frame for job in jobs_of(store, group) if job.state == "WAITING"}


def why(store: Store, job_id: int) -> list[str]:
    return [reason["text"] for reason in store.explain(job_id)]


def finish(hand: Hand, *titles: str) -> None:
    """Runs these jobs and puts back whatever else it got."""
    for lease in hand.take(100):
        (hand.finish if lease.title in titles else hand.stop)(lease)


def fail(hand: Hand, *titles: str) -> None:
    for lease in hand.take(100):
        (hand.fail if lease.title in titles else hand.stop)(lease)


class TestAnyAndDone:
    def test_one_of_several_is_enough(self, store: Store, hand: Hand) -> None:
        a, b = submit(store, a_job("a"), a_job("b"))
        (job_id,) = submit(store, a_job("c", depends_on=(a, b), depends_any=True))
        assert store.job(job_id).state == "PENDING"
        assert why(store, job_id)[0] == f"waits for any of 2 dependencies: #{a} WAITING, #{b} WAITING"
        finish(hand, "b")
        assert store.job(job_id).state == "WAITING"
        store.reset([b])
        assert store.job(job_id).state == "PENDING"
        finish(hand, "a")
        store.delete([b])
        assert store.job(job_id).state == "WAITING"

    def test_without_a_target_left_nobody_waits_for_any(self, store: Store, hand: Hand) -> None:
        a, b = submit(store, a_job("a"), a_job("b"))
        (job_id,) = submit(store, a_job("c", depends_on=(a, b), depends_any=True))
        store.delete([a])
        assert (store.job(job_id).state, store.job(job_id).depends_on) == ("PENDING", (b,))
        store.delete([b])
        assert (store.job(job_id).state, store.job(job_id).depends_on) == ("WAITING", ())

    def test_any_and_all_are_changed_by_an_edit(self, store: Store, hand: Hand) -> None:
        a, b = submit(store, a_job("a"), a_job("b"))
        (job_id,) = submit(store, a_job("c", depends_on=(a, b)))
        finish(hand, "a")
        assert store.job(job_id).state == "PENDING"
        store.edit([job_id], JobChanges(depends_any=True))
        assert (store.job(job_id).state, store.job(job_id).depends_any) == ("WAITING", True)
        store.edit([job_id], JobChanges(depends_any=False))
        assert store.job(job_id).state == "PENDING"

    def test_done_is_also_met_by_an_error_and_finished_is_not(self, store: Store, hand: Hand) -> None:
        (a,) = submit(store, a_job("a"))
        strict, loose = submit(store, a_job("s", depends_on=(a,)), a_job("l", depends_on=(Dependency(a, "done"),)))
        assert why(store, loose)[0] == f"waits for 1 of 1 dependencies: #{a} WAITING, until it has ended"
        fail(hand, "a")
        assert [store.job(one).state for one in (strict, loose)] == ["PENDING", "WAITING"]
        assert why(store, strict)[0] == f"waits for 1 of 1 dependencies: #{a} ERROR"
        assert store.job(loose).dependencies == (Dependency(a, "done"),)
        store.reset([a])
        assert [store.job(one).state for one in (strict, loose)] == ["PENDING", "PENDING"]
        finish(hand, "a")
        assert [store.job(one).state for one in (strict, loose)] == ["WAITING", "WAITING"]

    def test_a_group_is_done_when_all_below_it_have_ended(self, store: Store, hand: Hand) -> None:
        (group,) = submit(store, a_group("g", a_job("x"), a_group("h", a_job("y"))))
        (job_id,) = submit(store, a_job("after", depends_on=(Dependency(group, "done"),)))
        fail(hand, "x")
        assert (store.job(group).state, store.job(job_id).state) == ("ERROR", "PENDING")
        finish(hand, "y")
        assert (store.job(group).state, store.job(job_id).state) == ("ERROR", "WAITING")
        submit(store, a_job("z", parent=group))
        assert store.job(job_id).state == "PENDING"

    def test_of_two_on_the_same_job_the_stricter_holds(self, store: Store, hand: Hand) -> None:
        (a,) = submit(store, a_job("a"))
        (job_id,) = submit(store, a_job("b", depends_on=(Dependency(a, "done"), a)))
        assert store.job(job_id).dependencies == (Dependency(a, "finished"),)


class TestFrames:
    def test_each_frame_waits_for_its_own(self, store: Store, hand: Hand) -> None:
        sim, render = submit(store, a_range("1-3", "sim", ref="sim"), a_range("1-3", "render", depends_on=(frames("sim"),)))
        assert set(states(store, render).values()) == {"PENDING"}
        finish(hand, "sim 2")
        assert states(store, render) == {"render 1": "PENDING", "render 2": "WAITING", "render 3": "PENDING"}
        one, _, three = jobs_of(store, render)
        target = jobs_of(store, sim)[2].id
        assert why(store, three.id)[0] == f"waits for frame 3 of #{sim} (#{target} WAITING)"
        words = f"2 jobs: waiting for other jobs; #{one.id} waits for frame 1 of #{sim} (#{target - 2} WAITING)"
        assert words in why(store, render)
        assert store.job(render).dependencies == (frames(sim),)
        assert (store.job(render).depends_on, one.depends_on) == ((sim,), ())
        assert hand.finish_all() == 5

    def test_step_and_shift_say_which_frame_is_waited_for(self, store: Store) -> None:
        sim = submit(store, a_range("1-6", "sim"))[0]
        cases = {
            (1, 1): {6},  # 7 is not there
            (1, -1): {1},
            (2, 0): {4, 5, 6},
            (3, -2): {3, 4, 5, 6},
        }
        for (step, shift), free in cases.items():
            (render,) = submit(store, a_range("1-6", depends_on=(frames(sim, step=step, shift=shift),)))
            assert waiting(store, render) == free, (step, shift)

    def test_chunks_wait_for_every_job_that_has_one_of_their_frames(self, store: Store, hand: Hand) -> None:
        (sim,) = submit(store, a_range("1-10", "sim", chunk=3))
        (render,) = submit(store, a_range("1-10", "render", chunk=5, depends_on=(frames(sim),)))
        assert why(store, jobs_of(store, render)[0].id)[0].startswith(f"waits for 2 of 2 jobs: frames 1-3 of #{sim} (#")
        finish(hand, "sim 1-3")
        assert waiting(store, render) == set()
        finish(hand, "sim 4-6")
        assert waiting(store, render) == {1}
        finish(hand, "sim 7-9", "sim 10")
        assert waiting(store, render) == {1, 6}

    def test_chunks_of_every_second_frame_do_not_wait_for_the_others(self, store: Store, hand: Hand) -> None:
        (sim,) = submit(store, a_range("1-9x2,2-10x2", "sim", chunk=5))
        (render,) = submit(store, a_range("2-10x2", "render", chunk=5, depends_on=(frames(sim),)))
        finish(hand, "sim 2-10")
        assert waiting(store, render) == {2}

    def test_an_error_frees_frames_that_wait_until_it_is_done(self, store: Store, hand: Hand) -> None:
        (sim,) = submit(store, a_range("1-2", "sim"))
        strict, loose = submit(
            store, a_range("1-2", depends_on=(frames(sim),)), a_range("1-2", depends_on=(frames(sim, until="done"),))
        )
        fail(hand, "sim 1")
        assert (waiting(store, strict), waiting(store, loose)) == (set(), {1})

    def test_two_rules_between_the_same_ranges_hold_together(self, store: Store, hand: Hand) -> None:
        (sim,) = submit(store, a_range("1-3", "sim"))
        (render,) = submit(store, a_range("1-3", depends_on=(frames(sim), frames(sim, shift=1, until="done"))))
        fail(hand, "sim 2")
        finish(hand, "sim 1")
        assert waiting(store, render) == {1}

    def test_an_edit_replaces_the_rule_and_all_that_followed(self, store: Store, hand: Hand) -> None:
        sim, other = submit(store, a_range("1-3", "sim"), a_range("1-2", "other"))
        (render,) = submit(store, a_range("1-3", depends_on=(frames(sim),)))
        store.edit([render], JobChanges(depends_on=(frames(other),)))
        assert waiting(store, render) == {3}
        store.edit([render], JobChanges(depends_on=()))
        assert waiting(store, render) == {1, 2, 3}

    def test_deleted_targets_are_not_waited_for_and_it_is_told(self, store: Store, hand: Hand) -> None:
        (sim,) = submit(store, a_range("1-3", "sim"))
        (render,) = submit(store, a_range("1-3", depends_on=(frames(sim),)))
        one = jobs_of(store, sim)[0].id
        store.delete([one], "ann")
        assert waiting(store, render) == {1}
        (told,) = store.events({"job": jobs_of(store, render)[0].id, "kind": "job.freed"}, 0, 10)
        assert told["text"] == f"dependency on #{one} dropped: it was deleted"
        store.delete([sim], "ann")
        assert (waiting(store, render), store.job(render).depends_on) == ({1, 2, 3}, ())
        (told,) = store.events({"job": render, "kind": "job.freed"}, 0, 10)
        assert told["text"] == f"dependency frame by frame on #{sim} dropped: it was deleted"

    def test_a_frame_that_is_moved_follows_the_rules_of_where_it_stands(self, store: Store, hand: Hand) -> None:
        (sim,) = submit(store, a_range("1-3", "sim"))
        (render,) = submit(store, a_range("1-3", "render", depends_on=(frames(sim),)))
        first, third = jobs_of(store, render)[0].id, jobs_of(store, sim)[2].id
        store.edit([first], JobChanges(parent=0))
        assert store.job(first).state == "WAITING"
        store.edit([third], JobChanges(parent=0))
        assert waiting(store, render) == {3}
        store.edit([first], JobChanges(parent=render))
        store.edit([third], JobChanges(parent=sim))
        assert waiting(store, render) == set()


REFUSED: dict[str, tuple[list[JobSpec], str]] = {
    "a job, not a range": ([a_job(ref="a"), a_range("1-2", depends_on=(frames("a"),))], "jobs[1].depends_on[0]"),
    "a job that wants frames": ([a_range("1-2", ref="a"), a_job(depends_on=(frames("a"),))], "jobs[1].depends_on[0]"),
    "itself": ([a_range("1-2", ref="a", depends_on=(frames("a", shift=-1),))], "jobs[0].depends_on[0]"),
    "a ref that is not there": ([a_range("1-2", depends_on=(frames("x"),))], "jobs[0].depends_on[0]"),
    "a cycle of two rules": (
        [a_range("1-2", ref="a", depends_on=(frames("b", shift=1),)), a_range("1-2", ref="b", depends_on=(frames("a"),))],
        "depends_on",
    ),
    "a cycle of a rule and a whole job": (
        [
            a_range("1-2", ref="a", depends_on=(frames("b"),)),
            a_range("1-2", ref="b", depends_on=("c",)),
            a_job(ref="c", depends_on=(Dependency("a", "done"),)),
        ],
        "depends_on",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_whole(store: Store, what: str) -> None:
    specs, field = REFUSED[what]
    with pytest.raises(BadInput) as refused:
        submit(store, *specs)
    assert list(refused.value.fields) == [field]
    assert store.jobs(JobQuery())[0] == []


def test_a_cycle_by_an_edit_is_refused_with_its_path(store: Store) -> None:
    sim, render = submit(store, a_range("1-2", ref="sim"), a_range("1-2", depends_on=(frames("sim"),)))
    with pytest.raises(BadInput, match=f"#{sim} -> #{render} -> #{sim}"):
        store.edit([sim], JobChanges(depends_on=(frames(render, shift=5),)))
    assert waiting(store, sim) == {1, 2}


def test_an_edit_names_what_cannot_be(store: Store) -> None:
    sim, job_id = submit(store, a_range("1-2"), a_job())
    wrong: dict[str, tuple[int | str | Dependency, ...]] = {
        "a ref": (sim, "ref"),
        "nobody": (sim, 999),
        "no range": (sim, frames(sim)),
        "itself": (sim, job_id),
    }
    for what, on in wrong.items():
        with pytest.raises(BadInput) as refused:
            store.edit([job_id], JobChanges(depends_on=on))  # type: ignore[arg-type]
        assert list(refused.value.fields) == ["changes.depends_on[1]"], what
