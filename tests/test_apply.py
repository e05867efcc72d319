"""The loop's hands against a real database and a provider that bills: what goes wrong, and every place where it may stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from autoscaler.snapshot import take
from coalition import schema
from coalition.config import PoolSettings
from coalition.errors import Fenced
from coalition.estimates import soon_free
from coalition.store import Store
from coalition.store.cloud import ROLE, Blocked
from providers.base import Fate, Life, Notice, Reason, Rejected, Scope, Unknown
from providers.fake import FakeProvider
from tests.cloud_world import DOLLAR, LINUX, START, Clock, World, budget, pool, settings


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, settings(tmp_path, [pool(max=5)], [budget()]))


def verbs(world: World, verb: str) -> int:
    return sum(1 for name, _ in world.fake.calls if name == verb)


# ---------------------------------------------------------------- launching


def test_money_is_committed_before_the_provider_is_called(world: World) -> None:
    committed: list[int] = []
    world.fake.before = lambda point: committed.append(world.committed()) if point == "launch" else None
    world.submit(4)
    world.tick()
    assert committed == [2 * 183_612]
    assert world.states() == ["STARTING", "STARTING"]


def test_one_call_asks_for_all_the_machines_of_an_offer(world: World) -> None:
    world.submit(10)
    world.tick()
    assert [request.count for request in world.requests()] == [5]


def test_two_hundred_machines_are_asked_for_within_one_tick(tmp_path: Path) -> None:
    world = World(tmp_path, settings(tmp_path, [pool(max=300)], [budget(amount=1_000)]))
    world.submit(400)
    world.tick()
    assert [request.count for request in world.requests()] == [200]
    assert world.states() == ["STARTING"] * 200


def test_no_capacity_blocks_the_offer_for_minutes_and_the_next_is_tried_at_the_next_tick(tmp_path: Path) -> None:
    offers = (LINUX, replace(LINUX, name="other", price_micro=3 * DOLLAR))
    world = World(tmp_path, settings(tmp_path, [pool()], [budget()]), offers)
    world.fake.faults.errors["launch"].append(Rejected(Reason.CAPACITY, "none left in the zone"))
    world.submit(2)
    world.tick(2, seconds=1)
    assert [request.offering.name for request in world.requests()] == ["machine", "other"]
    assert world.states() == ["FAILED", "STARTING"]
    world.clock.wait(200)
    world.submit(2)
    world.tick()
    assert world.requests()[-1].offering.name == "machine"


def test_a_quota_blocks_the_region_and_wrong_credentials_the_provider(tmp_path: Path) -> None:
    pools = [pool(name="a", region="x"), pool(name="b", region="x"), pool(name="c", region="y")]
    world = World(tmp_path, settings(tmp_path, pools))
    world.scaler.providers = {"fake/x": world.fake, "fake/y": FakeProvider(clock=world.clock, offers=())}
    world.fake.faults.errors["launch"].append(Rejected(Reason.QUOTA, "VcpuLimitExceeded", Scope.REGION))
    world.submit(2)
    world.tick()
    assert [entry["blocked"] for entry in world.store.pools()] == ["VcpuLimitExceeded", "VcpuLimitExceeded", None]
    world.clock.wait(1_000)
    world.fake.faults.errors["launch"].append(Rejected(Reason.AUTH, "key expired", Scope.PROVIDER))
    world.scaler.providers["fake/y"] = world.fake
    world.submit(2)
    world.tick()
    assert [entry["blocked"] for entry in world.store.pools()] == ["key expired"] * 3
    calls = verbs(world, "launch")
    world.tick(5, seconds=10)
    assert verbs(world, "launch") == calls  # no loop


def test_of_a_partial_fill_what_came_is_kept_and_the_rest_is_planned_again(world: World) -> None:
    world.fake.faults.partial.append(2)
    world.submit(8)
    world.tick()
    assert sorted(world.states()) == ["FAILED", "FAILED", "STARTING", "STARTING"]
    world.tick()
    assert world.live() == 4


def test_a_lost_answer_is_asked_for_again_with_the_same_token(world: World) -> None:
    world.fake.faults.lost_answers["launch"] = 1
    world.submit(4)
    world.tick()
    assert world.states() == ["INTENDED", "INTENDED"]
    world.tick(seconds=5)
    assert world.states() == ["STARTING", "STARTING"]
    assert len({request.token for request in world.requests()}) == 1
    assert world.live() == 2


def test_a_replay_sends_what_was_frozen_whatever_cloud_ini_says_now(world: World) -> None:
    world.fake.faults.errors["launch"].append(Unknown("timeout"))
    world.submit(4)
    world.tick()
    world.reconfigure(pools=(pool(max=5, affinity=("linux", "new"), image="other"),))
    world.clock.wait(15)
    world.tick()
    first, again = world.requests()[:2]
    assert replace(again, enrol_token="") == replace(first, enrol_token="")
    assert again.enrol_token == first.enrol_token


def test_after_launch_by_an_open_intent_is_looked_for_and_never_sent(world: World) -> None:
    world.fake.faults.lost_answers["launch"] = 1
    world.submit(4)
    world.tick()
    world.clock.wait(61)
    world.tick()
    assert verbs(world, "launch") == 1
    assert world.states() == ["STARTING", "STARTING"]


def test_an_intent_that_is_never_found_keeps_its_money_and_then_counts_as_spent(world: World) -> None:
    world.fake.faults.errors["launch"] += [Unknown("timeout")] * 2
    (job,) = world.submit(1)
    world.tick()
    world.store.delete([job])
    world.clock.wait(61)
    world.tick()
    assert world.states() == ["INTENDED"]
    reserved = world.committed()
    world.clock.wait(700)
    world.tick()
    assert world.states() == ["GONE"]
    assert world.committed() == reserved


def test_a_refusal_of_a_replay_keeps_the_money_of_what_the_lost_call_may_have_started(world: World) -> None:
    world.fake.faults.lost_answers["launch"] = 1
    world.fake.faults.hidden_lists = 3
    world.submit(4)
    world.tick(seconds=5)
    world.fake.faults.errors["launch"].append(Rejected(Reason.THROTTLE, "slow down", Scope.PROVIDER))
    reserved = world.committed()
    world.tick(seconds=5)
    assert (world.states(), world.live(), world.committed()) == (["INTENDED", "INTENDED"], 2, reserved)
    world.tick(seconds=5)
    assert world.states() == ["STARTING", "STARTING"]


def test_guests_that_enrol_out_of_order_before_the_answer_is_stored_leave_nobody_unpaid(world: World) -> None:
    def enrol_the_second(point: str) -> None:
        if point == "launch answered":
            world.enrol("f-2", world.requests()[0])

    world.fake.before = enrol_the_second
    world.submit(4)
    world.tick()
    world.fake.before = lambda _: None
    assert sorted(world.states()) == ["RUNNING", "STARTING"]
    assert (world.live(), world.committed()) == (2, 2 * 183_612)


def test_one_that_should_end_and_is_hidden_by_a_lagging_list_keeps_its_money(world: World) -> None:
    world.fake.faults.hidden_lists = 3
    world.fake.faults.stubborn = 1
    world.submit(2)
    world.tick(seconds=2)
    (row,) = world.store.instances()
    world.store.mark_instances([row["id"]], "terminate", "ann")
    world.tick(2, seconds=1)
    assert world.states()[0] == "TERMINATING"
    assert world.live() == 2
    assert world.committed() == 2 * 183_612


def test_a_list_that_lags_starts_nothing_twice_and_ends_nothing(world: World) -> None:
    world.fake.faults.hidden_lists = 3
    world.submit(4)
    world.tick(5, seconds=5)
    assert world.live() == 2
    assert world.states() == ["STARTING", "STARTING"]


# ---------------------------------------------------------------- several launches at once


def pools(count: int) -> list[PoolSettings]:
    return [pool(name=f"p{number}", max=1) for number in range(count)]


def a_wide_world(folder: Path, count: int) -> World:
    """Each pool may have one machine, so that the first plan has a launch for each; the provider takes them all at once."""
    world = World(folder, settings(folder, pools(count), [budget()]))
    world.fake.concurrent = True
    world.submit(2 * count)
    return world


def test_launches_of_one_plan_are_under_way_together_when_all_of_them_are_paid_for(tmp_path: Path) -> None:
    world, together, seen = a_wide_world(tmp_path, 3), threading.Barrier(3, timeout=20), []

    def meet(point: str) -> None:
        if point == "launch":
            seen.append((len(world.store.open_intents()), world.committed()))
            together.wait()  # breaks, if one waits for another's answer

    world.fake.before = meet
    world.tick()
    assert seen == [(3, 3 * 183_612)] * 3
    assert world.states() == ["STARTING"] * 3


def test_of_launches_at_once_each_has_its_own_outcome(tmp_path: Path) -> None:
    world = a_wide_world(tmp_path, 3)
    world.fake.faults.errors["launch"] += [Rejected(Reason.CAPACITY, "none left"), Unknown("timeout")]
    world.tick()
    assert sorted(world.states()) == ["FAILED", "INTENDED", "STARTING"]
    assert world.committed() == 2 * 183_612
    assert [block.kind for block in world.store.blocks()] == ["capacity"]
    world.tick(2, seconds=5)
    assert world.live() == 2


def test_a_leader_that_is_replaced_while_several_are_under_way_starts_nothing_twice(tmp_path: Path) -> None:
    world, together = a_wide_world(tmp_path, 3), threading.Barrier(3, timeout=20)

    def lose_the_lease(point: str) -> None:
        if point == "launch answered":
            if together.wait() == 0:
                world.clock.wait(20)
                assert world.store.claim_leader(ROLE, "another", 0.0)
            together.wait()

    world.fake.before, world.scaler.lease_s = lose_the_lease, 10
    with pytest.raises(Fenced):
        world.scaler.tick()
    assert world.states() == ["INTENDED"] * 3
    assert world.live() == 3
    world.fake.before = lambda _: None
    world.clock.wait(1)
    world.scaler = world.new_scaler()
    world.tick()
    assert world.states() == ["STARTING"] * 3
    assert world.live() == 3
    assert len({request.token for request in world.requests()}) == 3


# ---------------------------------------------------------------- notices


def test_what_will_be_taken_away_takes_no_more_jobs_and_no_other_like_it_is_bought_for_a_while(world: World) -> None:
    world.submit(3)
    world.tick()
    world.boot()
    first = next(iter(world.workers))
    for id in world.workers:
        world.work(id)
        world.beat(id)
    world.fake.pending_notices.append(Notice(first, world.clock() + 120, "it is wanted back"))
    world.tick()
    assert sorted(world.states()) == ["DRAINING", "RUNNING"]
    assert any("it is wanted back; it ends in 120 s" in reason for reason in world.reasons("notice"))
    assert any("asked for by fake, which takes it back" in reason for reason in world.reasons("drain"))
    world.submit(6)
    world.tick()
    assert any("is blocked: one was taken back: it is wanted back" in reason for reason in world.reasons("hold"))
    launches = len(world.requests())
    world.clock.wait(181)
    for id in world.workers:
        world.beat(id)
    world.tick()
    assert len(world.requests()) > launches


def test_the_tick_that_hears_of_it_starts_what_takes_its_place_elsewhere(tmp_path: Path) -> None:
    offers = (LINUX, replace(LINUX, name="other", price_micro=3 * DOLLAR))
    world = World(tmp_path, settings(tmp_path, [pool()], [budget()]), offers)
    world.submit(2)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id, 2)
    world.fake.pending_notices.append(Notice(id, world.clock() + 120, "it is wanted back"))
    world.tick()
    assert [request.offering.name for request in world.requests()] == ["machine", "other"]
    assert world.states() == ["DRAINING", "STARTING"]


def test_a_notice_that_comes_again_or_is_for_a_stranger_changes_nothing(world: World) -> None:
    world.submit(1)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    for _ in range(2):
        world.fake.pending_notices += [Notice(id, world.clock() + 120, "why"), Notice("stranger", world.clock(), "why")]
        world.tick()
    assert len(world.reasons("notice")) == 1
    assert world.states() == ["DRAINING"]


def test_a_provider_that_cannot_tell_its_notices_is_no_reason_to_stop(world: World) -> None:
    world.fake.faults.errors["notices"].append(Unknown("500"))
    world.submit(1)
    world.tick()
    assert len(world.requests()) == 1


# ---------------------------------------------------------------- living


def test_a_busy_instance_is_paid_on_money_first_then_the_provider_then_the_guest(world: World) -> None:
    world.submit(1)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    seen: list[tuple[int, float]] = []
    world.fake.before = lambda point: seen.append((world.committed(), told())) if point == "renew" else None

    def told() -> float:
        return float(world.store.instance_of(world.workers[id]).funded_until)

    world.clock.wait(350)
    world.beat(id)
    world.tick()
    assert seen == [(-(-DOLLAR * (350 + 661) // 3_600), START + 600)]
    assert told() == START + 950
    assert world.fake.machines[id].until == START + 950


def test_a_renewal_that_failed_at_the_provider_is_tried_again_without_new_money(world: World) -> None:
    world.submit(1)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    world.clock.wait(350)
    world.fake.faults.errors["renew"].append(Unknown("500"))
    world.tick()
    committed = world.committed()
    world.tick()
    assert world.committed() == committed
    assert world.store.instance_of(world.workers[id]).funded_until == START + 950


def test_an_instance_whose_deadline_nobody_moves_is_paid_once_and_drained_at_its_end(world: World) -> None:
    world.fake.renewable = False
    world.submit(1)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    committed = world.committed()
    world.tick(8, 70.0)
    world.beat(id)
    world.tick()
    assert world.committed() == committed
    assert "renew" not in [verb for verb, _ in world.fake.calls]
    assert world.states() == ["DRAINING"]
    assert "its time was fixed when it was started" in world.reasons("drain")[0]


def test_what_cannot_be_paid_on_finishes_its_job_and_ends_within_its_money(tmp_path: Path) -> None:
    world = World(tmp_path, settings(tmp_path, [pool(max=5)], [budget(amount=0.2)]))
    world.submit(1)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    world.clock.wait(350)
    world.tick()
    assert world.states() == ["DRAINING"]
    assert "budget studio has $0.016 of $0.20 left today" in world.reasons("drain")[0]
    world.clock.wait(20)
    world.finish(id, 370)
    world.tick(3, seconds=2)
    assert world.states() == ["GONE"]
    assert world.fake.bill() == world.committed() <= 0.2 * DOLLAR


def test_a_reclaimed_instance_is_seen_in_the_list_and_its_job_waits_again_at_once(world: World) -> None:
    (job,) = world.submit(1)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    world.clock.wait(100)
    world.fake.lose(id)
    world.tick()
    assert world.store.job(job).state == "WAITING"
    assert world.states() == ["GONE", "STARTING"]


def test_jobs_that_come_while_an_instance_drains_keep_it(world: World) -> None:
    world.submit(1)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    world.finish(id)
    world.clock.wait(100)
    world.tick()
    assert world.states() == ["DRAINING"]
    world.submit(1)
    world.tick()
    assert world.states() == ["RUNNING"]
    assert world.work(id)


def test_a_slot_that_is_about_to_be_free_is_waited_for(world: World) -> None:
    world.submit(2)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id, 2)
    world.clock.wait(200)
    world.finish(id, 200)
    world.submit(2)
    world.work(id, 2)
    world.clock.wait(190)
    world.beat(id)
    world.submit(1)
    snapshot = take(world.store, [], world.clock(), START)
    estimate_s = (200 + 200 + 190 + 190) / 2  # two ended, two have not yet
    (shown,) = snapshot.workers
    assert shown.ending == pytest.approx(2 * soon_free(estimate_s, 190))
    assert shown.ending_by_target == pytest.approx(2 * soon_free(estimate_s, 190, snapshot.rules.slot_target_s))


# ---------------------------------------------------------------- ending


def test_an_instance_that_never_enrols_is_ended_with_its_console_kept(world: World) -> None:
    (job,) = world.submit(1)
    world.tick()
    world.fake.machines["f-1"].console = "kernel panic"
    world.clock.wait(599)
    world.tick()
    world.store.delete([job])
    world.clock.wait(2)
    world.tick(2)
    assert world.states() == ["GONE"]
    assert world.store.instances(ended=True)[0]["failed_boot"]
    events = {event["kind"]: event["text"] for event in world.store.events({}, 0.0, 100)}
    assert events["instance.console"] == "kernel panic"
    assert events["instance.terminate"] == "it has not enrolled within 600 s"


def test_after_failed_boots_in_a_row_the_pool_stops_until_somebody_allows_it(world: World) -> None:
    world.submit(1)
    world.tick(12, seconds=301)
    assert world.states() == ["GONE"] * 3
    assert "3 boots in a row failed" in str(world.store.pools()[0]["blocked"])
    world.store.unblock_pools(["p"], "ann")
    world.clock.wait(1)
    world.tick()
    assert world.states() == ["GONE"] * 3 + ["STARTING"]


def test_a_pool_whose_boots_failed_tries_again_by_itself_after_a_while_and_a_refusal_does_not_shorten_that(world: World) -> None:
    world.submit(1)
    world.tick(12, seconds=301)
    (shown,) = world.store.pools()
    assert shown["blocked_until"] is not None
    quota = Blocked("p", "", "quota", world.clock(), world.clock() + 600, "", "full")
    world.store.block_offering(quota, world.store.leader_of(ROLE)[1])  # type: ignore[index]
    assert world.store.pools()[0]["blocked_until"] == shown["blocked_until"]
    world.clock.now = shown["blocked_until"] + 1
    world.tick()
    assert world.states() == ["GONE"] * 3 + ["STARTING"]


def test_an_instance_that_will_not_end_is_asked_again_and_still_counted(world: World) -> None:
    world.submit(1)
    world.tick()
    world.store.mark_instances([1], "terminate", "ann")
    world.fake.faults.stubborn = 2
    world.tick(2, seconds=10)
    assert world.states()[0] == "TERMINATING"
    assert world.live() >= 1
    world.tick(2, seconds=10)
    assert world.states()[0] == "GONE"
    assert world.store.instances(ended=True)[-1]["reason"] == "asked for by ann"


def test_terminate_that_answers_gone_settles_at_once(world: World) -> None:
    world.submit(1)
    world.tick()
    world.store.mark_instances([1], "terminate", "ann")
    world.fake.lose("f-1")
    assert world.fake.terminate(["f-1"]) == {"f-1": Fate.GONE}
    world.tick()
    assert world.states()[0] == "GONE"


def test_a_young_one_that_its_provider_does_not_know_yet_keeps_its_money(world: World) -> None:
    world.submit(1)
    world.tick()
    world.store.mark_instances([1], "terminate", "ann")
    unknown = world.fake.machines.pop("f-1")  # as where a list, and what ends machines, lag behind a launch
    reserved = world.committed()
    world.tick(2, seconds=10)
    assert [verb for verb, _ in world.fake.calls].count("terminate") >= 1
    assert world.states()[0] == "TERMINATING"
    assert world.committed() >= reserved
    world.fake.machines["f-1"] = unknown
    world.tick(2, seconds=10)
    assert world.states()[0] == "GONE"


def test_a_stray_of_this_farm_is_ended_and_a_foreign_one_is_not(world: World) -> None:
    ours, theirs = world.fake.plant("coalition", "x" * 32), world.fake.plant("other", "y" * 32)
    world.tick()
    world.clock.wait(121)
    world.tick()
    assert world.fake.machines[ours].instance.life is Life.GONE
    assert world.fake.machines[theirs].instance.life is Life.RUNNING
    assert "has no record" in world.reasons("terminate")[0]


def test_while_the_list_is_down_nothing_is_ended_or_lost(world: World) -> None:
    world.submit(4)
    world.tick()
    world.boot()
    world.fake.faults.errors["list"] += [Unknown("500")] * 3
    world.tick(3, seconds=10)
    assert world.states() == ["RUNNING", "RUNNING"]
    assert verbs(world, "terminate") == 0


def test_a_leader_that_was_replaced_does_not_call_the_provider(world: World) -> None:
    def stall(point: str) -> None:
        if point == "offerings":
            world.clock.wait(20)
            assert world.store.claim_leader("autoscaler", "another", 1_000)

    world.fake.before = stall
    world.scaler.lease_s = 10
    world.submit(2)
    with pytest.raises(Fenced):
        world.scaler.tick()
    assert verbs(world, "launch") == 0
    assert world.states() == []


# ---------------------------------------------------------------- every place to stop


class Stop(BaseException):
    """The process dies here."""


class StoppingStore(Store):
    """Counts the moments before, in and after each transaction, and dies at one of them."""

    moment: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.moment()
        with super().write() as db:
            yield db
            self.moment()
        self.moment()


class StoppingWorld(World):
    """A farm that dies at the n-th moment of its autoscaler and is started again."""

    def __init__(self, folder: Path, stop_at: int, restart_after_s: float, pools: Sequence[PoolSettings] = ()) -> None:
        self.stop_at, self.restart_after_s, self.moments, self.stopped = stop_at, restart_after_s, 0, False
        self.counting = threading.Lock()
        budgets = [budget("day", 0.75), budget("all", 3.0, window="total")]
        super().__init__(folder, settings(folder, pools or [pool(max=3)], budgets), store=StoppingStore)
        self.fake.before = lambda point: self._moment()

    def _moment(self) -> None:
        with self.counting:
            self.moments += 1
            if self.moments != self.stop_at:
                return
        self.stopped = True
        raise Stop

    def tick(self, count: int = 1, seconds: float = 0.0) -> None:
        for _ in range(count):
            self.store.moment = self._moment  # type: ignore[attr-defined]
            try:
                self.scaler.tick()
            except Stop:
                self.store.moment = lambda: None  # type: ignore[attr-defined]
                self.clock.wait(self.restart_after_s)
                self.store.release_leader(ROLE, self.scaler.holder)  # it has run out
                self.clock.wait(0.01)
                self.scaler = self.new_scaler()
            self.store.moment = lambda: None  # type: ignore[attr-defined]
            self.check()
            self.clock.wait(seconds)

    def check(self) -> None:
        """What must hold at every moment: bill <= committed <= cap, and no token starts more than was asked for."""
        for shown in self.store.budgets():
            assert self.fake.bill() <= shown["committed_micro"] <= shown["cap_micro"]
        wanted = {request.token: request.count for request in self.requests()}
        for token, ids in self.fake.orders.items():
            assert len(ids) <= wanted[token]

    def live_day(self) -> None:
        """Backlog, boot, work, a lost answer, a reclaim, paying on, idleness, the end."""
        self.submit(4)
        self.tick(2, seconds=5)
        self.boot()
        for id in list(self.workers):
            if self.fake.machines[id].instance.life is not Life.GONE:
                self.work(id, 2)
        self.tick(2, seconds=160)
        self.fake.faults.lost_answers["launch"] = 1
        if live := list(self.fake.live()):
            self.fake.lose(live[0].id)
        self.tick(2, seconds=15)
        for _ in range(4):
            self.boot()
            for id in self.workers:
                if self.fake.machines[id].instance.life is not Life.GONE and self.store.instance_of(self.workers[id]):
                    self.finish(id, 100)
                    self.work(id, 2)
            self.tick(2, seconds=11)
        for _ in range(25):
            self.tick(seconds=70)
            if self.live() == 0 and set(self.states()) <= {"GONE", "FAILED"}:
                break


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("restart_after_s", [11.0, 100.0], ids=["restarted at once", "restarted after launch_by"])
def test_wherever_it_stops_nothing_is_overspent_started_twice_or_leaked(tmp_path: Path, restart_after_s: float) -> None:
    whole = StoppingWorld(tmp_path / "whole", 0, restart_after_s)
    whole.live_day()
    assert whole.moments > 200
    step = 1 if os.environ.get("COALITION_TEST_LONG") else 80
    for stop_at in range(1, whole.moments + 1, step):
        world = StoppingWorld(tmp_path / str(stop_at), stop_at, restart_after_s)
        world.live_day()
        assert world.stopped
        assert world.live() == 0, f"stopped at {stop_at}: {world.states()}"
        assert set(world.states()) <= {"GONE", "FAILED"}, f"stopped at {stop_at}"
        with world.store.read() as db:
            booked = db.execute(select(func.sum(schema.ledger.c.amount_micro))).scalar_one()
        spent = sum(row["spent_micro"] for row in world.store.instances(ended=True))
        assert world.fake.bill() <= booked == spent == world.committed("all"), f"stopped at {stop_at}"
        world.store.close()


def test_wherever_launches_at_once_stop_nothing_is_started_twice_or_leaked(tmp_path: Path) -> None:
    def live(folder: Path, stop_at: int) -> StoppingWorld:
        world = StoppingWorld(folder, stop_at, 11.0, pools(3))
        world.fake.concurrent = True
        world.submit(6)
        world.tick(4, seconds=5)
        return world

    whole = live(tmp_path / "whole", 0)
    for stop_at in range(1, whole.moments + 1, 1 if os.environ.get("COALITION_TEST_LONG") else 20):
        world = live(tmp_path / str(stop_at), stop_at)
        assert world.stopped
        assert world.states().count("STARTING") == 3 == world.live(), f"stopped at {stop_at}: {world.states()}"
        world.store.close()


def test_the_clock_of_the_tests_moves_only_when_told(world: World) -> None:
    assert isinstance(world.clock, Clock)
    assert world.clock() == START
