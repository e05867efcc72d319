"""What is started, paid on, drained and ended, and the words that say why. Pure: values in, a plan out."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.decide import Plan, decide
from autoscaler.snapshot import Block, Budget, Demand, Instance, Pool, Snapshot, Worker, pool_of
from coalition import ledger
from coalition.config import AutoscalerSettings, BudgetSettings, PoolSettings
from coalition.matching import Capacity, Requirement
from providers.base import Deadline, Offering
from tests.cloud_world import DOLLAR, LINUX, START, budget, pool

RULES = AutoscalerSettings(slot_target_s=180.0)
TAGGED = Requirement(("linux",))
ROOM = Capacity((("linux",),), 8, 16 << 30, 0, "")
WIDE = replace(LINUX, name="wide", memory_bytes=ROOM.memory_bytes)


def a_pool(offers: tuple[Offering, ...] = (LINUX,), deadline: Deadline = Deadline.PROVIDER, **changes: object) -> Pool:
    return pool_of(pool(**changes), offers, deadline)


def fixed_pool(**changes: object) -> Pool:
    """A pool whose provider moves no deadline."""
    return replace(a_pool(**changes), renewable=False)  # type: ignore[arg-type]


def jobs(waiting: int = 1, estimate_s: float | None = None, path: str = "7f", **requirement: object) -> Demand:
    return Demand(replace(TAGGED, **requirement), path, waiting, estimate_s)  # type: ignore[arg-type]


def machine(id: int = 1, **changes: object) -> Instance:
    values: dict[str, object] = {
        "pool": "p",
        "offering": "machine",
        "provider_id": f"i-{id}",
        "state": "RUNNING",
        "slots": 2,
        "price_micro": DOLLAR,
        "capacity": ROOM,
        "sponsors": (),
        "worker_id": id,
        "committed_until": START + 600,
        "funded_until": START + 600,
        "created_at": START - 600,
        "launched_at": START - 600,
        "wish": "",
        "wished_by": "",
        "reason": "",
        "launch_by": START - 540,
        "minimum_s": 0.0,
        "granularity_s": 1.0,
    }
    return Instance(id=id, **{**values, **changes})  # type: ignore[arg-type]


def booting(id: int = 1, **changes: object) -> Instance:
    return machine(id, **{"state": "STARTING", "worker_id": None, "launched_at": START - 30, **changes})


def worker(id: int = 1, running: int = 0, **changes: object) -> Worker:
    values: dict[str, object] = {
        "name": f"w{id}",
        "state": "WORKING" if running else "WAITING",
        "active": True,
        "slots": 2,
        "capacity": ROOM,
        "idle_since": None if running else START - 10,
        "seen_at": START,
        "instance_id": id,
    }
    return Worker(id=id, running=running, **{**values, **changes})  # type: ignore[arg-type]


def money(settings: BudgetSettings, committed: int = 0, until: float = START + 10_000) -> Budget:
    bounds = ledger.windows(settings.window, settings.timezone, START, until)
    return Budget(settings, tuple((*window, committed if number == 0 else 0) for number, window in enumerate(bounds)))


def plan(*demands: Demand, **parts: object) -> Plan:
    values: dict[str, object] = {"pools": (a_pool(),), "demands": demands}
    return decide(Snapshot(START, RULES, **{**values, **parts}))  # type: ignore[arg-type]


def started(made: Plan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for launch in made.launches:
        counts[launch.offering.name] = counts.get(launch.offering.name, 0) + launch.count
    return counts


def hold(made: Plan, name: str = "p") -> str:
    return next(one.reason for one in made.holds if one.pool == name)


# ---------------------------------------------------------------- how many


def test_nothing_waits_and_nothing_is_started() -> None:
    made = plan()
    assert made.launches == []
    assert hold(made) == "no job waits"


def test_jobs_of_unknown_length_want_a_slot_each() -> None:
    assert started(plan(jobs(5))) == {"machine": 3}


def test_jobs_that_fill_a_machine_get_one_each_whatever_its_slots() -> None:
    assert started(plan(jobs(3, memory_bytes=LINUX.memory_bytes))) == {"machine": 3}
    assert started(plan(jobs(3, exclusive=True))) == {"machine": 3}
    assert started(plan(jobs(4, memory_bytes=LINUX.memory_bytes // 2))) == {"machine": 2}


def test_a_machine_that_boots_counts_for_as_many_jobs_as_fit_it() -> None:
    boots = (booting(), booting(2))
    assert started(plan(jobs(3, memory_bytes=ROOM.memory_bytes), instances=boots, pools=(a_pool((WIDE,)),))) == {"wide": 1}
    assert started(plan(jobs(4), instances=boots, pools=(a_pool((WIDE,)),))) == {}


def test_heavy_jobs_are_bought_the_cheapest_place_for_a_job_not_the_cheapest_slot() -> None:
    many = replace(LINUX, name="many", slots=16, price_micro=4 * DOLLAR)  # a quarter of a dollar for a slot
    few = replace(LINUX, name="few", slots=2, price_micro=DOLLAR)  # half a dollar for a slot, and a dollar for one of these jobs
    offers = (a_pool((many, few)),)
    assert started(plan(jobs(2, memory_bytes=LINUX.memory_bytes), pools=offers)) == {"few": 2}
    assert started(plan(jobs(16), pools=offers)) == {"many": 1}


def test_short_jobs_share_slots() -> None:
    assert started(plan(jobs(100, estimate_s=10))) == {"machine": math.ceil(100 * 10 / 180 / 2)}


def test_long_jobs_want_no_more_than_a_slot_each() -> None:
    assert started(plan(jobs(4, estimate_s=36_000))) == {"machine": 2}


def test_fractions_of_several_requirements_add_up_before_they_are_rounded() -> None:
    assert started(plan(jobs(1, estimate_s=18), jobs(1, estimate_s=18, cpus=2), jobs(1, estimate_s=18, cpus=4))) == {"machine": 1}


def test_free_slots_and_those_that_boot_come_off() -> None:
    made = plan(jobs(6), instances=(machine(1), booting(2)), workers=(worker(1),))
    assert started(made) == {"machine": 1}
    made = plan(jobs(4), instances=(machine(1), booting(2)), workers=(worker(1),))
    assert started(made) == {}
    assert hold(made) == "4 jobs wait, and the slots at hand or booting are enough for them"


def test_slots_that_are_likely_free_before_a_machine_could_boot_come_off_and_jobs_that_hang_do_not() -> None:
    fleet = {"instances": (machine(1), machine(2)), "workers": tuple(worker(id, 2, ending=0.5) for id in (1, 2))}
    assert started(plan(jobs(1), **fleet)) == {}
    assert started(plan(jobs(2), **fleet)) == {"machine": 1}
    assert started(plan(jobs(10, estimate_s=18), **fleet)) == {}, "short jobs share what frees up"


def test_parts_of_slots_that_are_soon_free_add_up_but_nobody_waits_for_a_part() -> None:
    machines, busy = [machine(n) for n in (1, 2, 3)], [worker(n, 2, ending=0.4) for n in (1, 2, 3)]
    short = jobs(1, estimate_s=1.0)
    assert started(plan(short, workers=tuple(busy[:2]), instances=tuple(machines[:2]))) == {"machine": 1}
    assert started(plan(short, workers=tuple(busy), instances=tuple(machines))) == {}


def test_short_jobs_wait_for_slots_that_are_free_by_the_target_and_longer_ones_do_not() -> None:
    fleet = {"instances": (machine(1), machine(2)), "workers": tuple(worker(id, 2, ending_by_target=0.5) for id in (1, 2))}
    assert started(plan(jobs(10, estimate_s=18), **fleet)) == {}
    assert started(plan(jobs(11, estimate_s=18), **fleet)) == {"machine": 1}, "what they were promised is gone"
    assert started(plan(jobs(2, estimate_s=90), **fleet)) == {"machine": 1}, "half a slot each"


def test_two_hundred_machines_are_asked_for_in_one_plan_by_one_launch() -> None:
    (launch,) = plan(jobs(400), pools=(a_pool(max=500),)).launches
    assert launch.count == 200


def test_workers_without_an_instance_are_supply_too() -> None:
    own = worker(9, instance_id=None, slots=8, capacity=replace(ROOM, payer=None))
    assert started(plan(jobs(8), workers=(own,))) == {}


def test_drained_switched_off_or_silent_workers_are_no_supply() -> None:
    for state in ("DRAINING", "TIMEOUT", "SICK"):
        assert started(plan(jobs(2), workers=(worker(9, instance_id=None, state=state),))) == {"machine": 1}
    assert started(plan(jobs(2), workers=(worker(9, instance_id=None, active=False),))) == {"machine": 1}


def test_all_of_the_backlog_is_asked_for_at_once_up_to_the_pools_maximum() -> None:
    assert started(plan(jobs(1_000))) == {"machine": 10}
    made = plan(jobs(1_000), instances=(booting(1), machine(2, state="TERMINATING")), pools=(a_pool(max=5),))
    assert started(made) == {"machine": 3}
    assert "pool p is at its maximum of 5 instances" in hold(made)


def test_min_instances_are_kept_though_nothing_waits() -> None:
    made = plan(pools=(a_pool(min=3),), instances=(booting(1),))
    assert started(made) == {"machine": 2}
    assert "min = 3" in made.launches[0].reason


def test_the_reason_has_the_numbers() -> None:
    made = plan(jobs(5, cpus=2), budgets=(money(budget(amount=200), committed=52 * DOLLAR),))
    assert made.launches[0].reason == (
        "3 x machine (2 slots, $1.00/h each): 5 jobs wait for linux,2 cpus, 0 slots are left over; "
        "budget studio has $148.00 of $200.00 left today"
    )
    spot = replace(WIDE, name="c5.4xlarge spot", zone="use1-az2", price_micro=270_000)
    made = plan(jobs(3, memory_bytes=6 << 30), *(jobs(1, cpus=cpus) for cpus in (2, 3, 4)), pools=(a_pool((spot,)),))
    assert made.launches[0].reason == (
        "3 x c5.4xlarge spot (use1-az2, 2 slots, $0.27/h each): "
        "6 jobs wait for linux,2 cpus; linux,3 cpus; linux,4 cpus and 1 more, 0 slots are left over"
    )


def test_one_slot_is_not_several() -> None:
    one = replace(LINUX, slots=1)
    made = plan(jobs(1), pools=(a_pool((one,)),))
    assert made.launches[0].reason.startswith("1 x machine (1 slot, $1.00/h each): 1 job waits for linux, 0 slots are left over")


# ---------------------------------------------------------------- what


def offer(name: str, slots: int, dollars: float, **changes: object) -> Offering:
    return replace(LINUX, name=name, slots=slots, price_micro=round(dollars * DOLLAR), **changes)  # type: ignore[arg-type]


def test_the_smallest_size_within_ten_percent_of_the_cheapest_slot_wins() -> None:
    offers = (offer("big", 16, 1.60), offer("small", 2, 0.21), offer("tiny", 1, 0.12))
    assert started(plan(jobs(4), pools=(a_pool(offers),))) == {"small": 2}


def test_a_job_that_needs_more_gets_a_machine_that_has_it() -> None:
    offers = (offer("small", 2, 0.2), offer("wide", 2, 0.9, cpus=64))
    assert started(plan(jobs(2), jobs(2, cpus=32), pools=(a_pool(offers),))) == {"small": 1, "wide": 1}


def test_only_pools_whose_tags_fit_are_used() -> None:
    pools = (a_pool(name="p"), a_pool((offer("blend", 2, 2.0),), name="q", affinity=("linux", "blender")))
    made = plan(jobs(2, tags=("blender",)), pools=pools)
    assert started(made) == {"blend": 1}
    assert hold(made, "p") == "2 jobs wait, none of them for this pool"


def test_what_no_pool_can_run_is_said_with_the_reason() -> None:
    made = plan(jobs(7, tags=("windows",)), jobs(1, gpus=1))
    assert made.launches == []
    assert hold(made, "").startswith("7 jobs wait for windows, and no pool can run them: pool p lacks windows")


def test_what_a_busy_worker_can_run_is_not_called_impossible() -> None:
    own = worker(9, 2, instance_id=None, capacity=Capacity((("windows",),), 8, 0, 0, None))
    assert all(one.pool for one in plan(jobs(7, tags=("windows",)), workers=(own,)).holds)


def test_a_job_that_names_workers_counts_on_those_only() -> None:
    fleet = tuple(worker(number, instance_id=None, capacity=replace(ROOM, name=f"w{number}")) for number in (1, 2))
    there = {"workers": fleet, "pools": (a_pool(),)}
    assert plan(jobs(2, not_workers=("w1",)), **there).launches == []
    assert plan(jobs(3, not_workers=("w1",)), **there).launches[0].count == 1
    assert plan(jobs(9, workers=("w2",)), **there).launches == [], "no pool can start a worker of that name"


def test_the_preferred_market_goes_first_and_the_other_is_for_what_it_cannot_give() -> None:
    spot, demand = offer("spot", 2, 0.5, market="spot"), offer("certain", 2, 0.4, market="on-demand")
    offers = (spot, demand)
    first = a_pool(offers, purchase=("spot", "on-demand"))
    assert started(plan(jobs(4), pools=(first,))) == {"spot": 2}
    assert started(plan(jobs(4), pools=(a_pool(offers, purchase=("on-demand", "spot")),))) == {"certain": 2}
    made = plan(jobs(4), pools=(replace(first, blocks=(Block("spot", "no capacity"),)),))
    assert started(made) == {"certain": 2}
    assert "spot is blocked: no capacity" in hold(made)


def test_a_pool_starts_no_more_slots_at_a_time_than_it_may() -> None:
    made = plan(jobs(100), jobs(3, cpus=2), pools=(a_pool(max=500, max_start_slots=9),))
    assert started(made) == {"machine": 4}
    assert "103 jobs" not in hold(made)
    assert "100 jobs wait for linux; pool p starts 9 slots at a time at most" in hold(made)
    big = a_pool((replace(LINUX, slots=16),), max_start_slots=9)
    assert started(plan(jobs(100), pools=(big,))) == {"machine": 1}, "one at least, or it would never start"


def test_few_start_at_once_in_a_pool_whose_last_boot_failed() -> None:
    doubted = replace(a_pool(max=500), boot_failures=1, boot_reason="it has not enrolled within 600 s")
    made = plan(jobs(80), jobs(20, cpus=2), pools=(doubted,))
    assert started(made) == {"machine": 10}
    assert "80 jobs wait for linux; only 25% of them start at once, for the last boot failed: it has not enrolled" in hold(made)
    assert started(plan(jobs(2), pools=(doubted,))) == {"machine": 1}


def test_a_full_pool_hands_over_to_the_next() -> None:
    pools = (a_pool((offer("cheap", 2, 0.1),), name="a", max=1), a_pool((offer("dear", 2, 0.5),), name="b"))
    assert started(plan(jobs(6), pools=pools)) == {"cheap": 1, "dear": 2}


def test_what_is_blocked_is_passed_over_and_said() -> None:
    offers = (offer("cheap", 2, 0.1), offer("dear", 2, 0.5))
    blocked = replace(a_pool(offers), blocks=(Block("cheap", "none left in the zone"),))
    made = plan(jobs(2), pools=(blocked,))
    assert started(made) == {"dear": 1}
    assert "cheap is blocked: none left in the zone" in hold(made)
    assert started(plan(jobs(2), pools=(replace(blocked, blocks=(Block("", "quota"),)),))) == {}


def test_a_pool_that_is_switched_off_starts_nothing() -> None:
    made = plan(jobs(2), pools=(a_pool(enabled=False),))
    assert made.launches == []
    assert "pool p is switched off" in hold(made)


def test_failed_boots_in_a_row_stop_the_pool_until_somebody_allows_it() -> None:
    failing = replace(a_pool(), boot_failures=3, boot_reason="it has not enrolled within 600 s")
    made = plan(jobs(2), pools=(failing,))
    assert made.launches == []
    assert [block.pool for block in made.blocks] == ["p"]
    assert "3 boots in a row failed, the last one because it has not enrolled within 600 s" in hold(made)


def test_boots_that_this_plan_gives_up_count_unless_a_newer_one_enrolled() -> None:
    late = [booting(id, launched_at=START - 700) for id in (1, 2, 3)]
    made = plan(jobs(2), instances=tuple(late))
    assert made.launches == []
    assert [block.reason for block in made.blocks] == [
        "3 boots in a row failed, the last one because it has not enrolled within 600 s"
    ]
    made = plan(jobs(2), instances=(*late, machine(4)), workers=(worker(4, 2),))
    assert started(made) == {"machine": 1}


# ---------------------------------------------------------------- money


def test_a_budget_bounds_how_many_are_started_and_says_so() -> None:
    made = plan(jobs(20), budgets=(money(budget(amount=1.0)),))
    # one needs 600 s + 60 s slack + 1 s at $1/h: $0.183612
    assert started(made) == {"machine": 5}
    assert "budget studio has $0.082 of $1.00 left today, $0.18 would be needed for the first 600 s of a machine" in hold(made)
    assert "maximum" not in hold(plan(jobs(1_000), budgets=(money(budget(amount=1.0)),)))


def test_a_job_longer_than_its_budgets_can_pay_for_waits_and_says_so_unless_one_may_end_it() -> None:
    long = replace(jobs(1), estimate_s=7_200.0)
    made = plan(long, budgets=(money(budget(amount=1.0)),))
    assert made.launches == []
    assert "of about 7200 s each; budget studio has $1.00 of $1.00 left today, $1.78 would be needed for one of them" in hold(
        made
    )
    assert started(plan(long, budgets=(money(budget(amount=3.0)),))) == {"machine": 1}
    assert started(plan(long, budgets=(money(budget(amount=1.0, kill=True)),))) == {"machine": 1}
    assert started(plan(long, budgets=(money(budget(amount=1.0, hard=False)),))) == {"machine": 1}


def test_every_sponsor_must_be_able_to_pay() -> None:
    budgets = (
        money(budget("a", 100)),
        money(budget("b", 0.4, applies_to="pool:p")),
        money(budget("c", 0.01, applies_to="pool:q")),
    )
    made = plan(jobs(20), budgets=budgets)
    assert started(made) == {"machine": 2}
    assert made.launches[0].sponsors == ("a", "b")


def test_a_soft_budget_does_not_stop_anything() -> None:
    made = plan(jobs(20), budgets=(money(budget(amount=0.01, hard=False)),))
    assert started(made) == {"machine": 10}
    assert made.launches[0].sponsors == ("studio",)


def test_the_payers_budget_pays_and_machines_are_not_shared_between_payers() -> None:
    budgets = (money(budget("ann", 100, applies_to="user:ann")),)
    made = plan(jobs(1, payer="ann"), jobs(1), budgets=budgets)
    assert sorted((launch.payer, launch.count, launch.sponsors) for launch in made.launches) == [
        ("", 1, ()),
        ("ann", 1, ("ann",)),
    ]


def test_the_payers_money_is_not_spent_on_others_jobs() -> None:
    anns = machine(1, capacity=replace(ROOM, payer="ann"))
    made = plan(jobs(2), instances=(anns,), workers=(worker(1, capacity=anns.capacity),))
    assert started(made) == {"machine": 1}


def test_an_unknown_price_cannot_be_bought_under_a_hard_budget() -> None:
    pools = (a_pool((offer("odd", 2, 0),)),)
    made = plan(jobs(2), pools=pools, budgets=(money(budget()),))
    assert "the price of odd is not known, and budget studio is hard" in hold(made)
    assert started(plan(jobs(2), pools=pools)) == {"odd": 1}


def test_currencies_are_not_mixed() -> None:
    made = plan(jobs(2), budgets=(money(budget(currency="EUR")),))
    assert "machine costs USD, and budget studio is in EUR" in hold(made)


def test_overhead_is_part_of_the_ceiling_and_a_pools_own_price_goes_first() -> None:
    made = plan(jobs(2), pools=(a_pool(price_micro=300_000, overhead_per_hour_micro=20_000),))
    assert made.launches[0].offering.price_micro == 320_000


def test_a_deadline_that_only_the_guest_keeps_must_be_accepted() -> None:
    made = plan(jobs(2), pools=(a_pool(deadline=Deadline.GUEST),), budgets=(money(budget()),))
    assert "only the instance itself would end its time" in hold(made)
    made = plan(jobs(2), pools=(a_pool(deadline=Deadline.GUEST, accept_guest_deadline=True),), budgets=(money(budget()),))
    assert started(made) == {"machine": 1}


# ---------------------------------------------------------------- paying on


def test_a_busy_instance_is_paid_on_when_half_its_time_is_over() -> None:
    busy = {"workers": (worker(1, 1),)}
    assert plan(instances=(machine(1, funded_until=START + 301),), **busy).renewals == []
    (renewal,) = plan(instances=(machine(1, funded_until=START + 299, committed_until=START + 299),), **busy).renewals
    assert (renewal.id, renewal.until) == (1, START + 600)


def test_money_that_was_committed_before_a_crash_is_used() -> None:
    late = machine(1, funded_until=START + 100, committed_until=START + 700, sponsors=("studio",))
    made = plan(instances=(late,), workers=(worker(1, 1),), budgets=(money(budget(amount=0.001), committed=1_000),))
    assert [renewal.until for renewal in made.renewals] == [START + 700]


def test_what_cannot_be_paid_on_is_drained_in_time_and_says_why() -> None:
    late = machine(1, funded_until=START + 200, committed_until=START + 200, sponsors=("studio",))
    made = plan(instances=(late,), workers=(worker(1, 1),), budgets=(money(budget(amount=0.05)),))
    assert made.renewals == []
    (drain,) = made.drains
    words = "budget studio has $0.050 of $0.050 left today, $0.11 would be needed to pay for 600 s more"
    assert drain.reason.startswith(words)
    assert "ends in 200 s" in drain.reason


def test_running_jobs_are_paid_for_before_new_machines() -> None:
    late = machine(1, funded_until=START + 200, committed_until=START + 200, sponsors=("studio",))
    made = plan(jobs(10), instances=(late,), workers=(worker(1, 2),), budgets=(money(budget(amount=0.12)),))
    assert len(made.renewals) == 1
    assert made.launches == []


def test_an_instance_that_is_drained_and_empty_is_not_paid_on() -> None:
    late = machine(1, state="DRAINING", funded_until=START + 200, committed_until=START + 200)
    assert plan(instances=(late,), workers=(worker(1, state="DRAINING"),)).renewals == []
    busy = (worker(1, 1, state="DRAINING"),)
    assert len(plan(instances=(late,), workers=busy).renewals) == 1


def test_where_nobody_moves_a_deadline_nothing_is_paid_on_and_the_last_tenth_takes_no_new_jobs() -> None:
    pools, busy = (fixed_pool(),), (worker(1, 1),)
    early = machine(1, created_at=START - 890, funded_until=START + 110)
    made = plan(pools=pools, instances=(early,), workers=busy)
    assert (made.renewals, made.drains) == ([], [])
    late = machine(1, created_at=START - 910, funded_until=START + 90)
    made = plan(pools=pools, instances=(late,), workers=busy)
    assert made.renewals == []
    (drain,) = made.drains
    assert drain.reason == "its time was fixed when it was started, and ends in 90 s"


def test_what_was_drained_for_being_idle_is_wanted_back_while_its_fixed_time_lasts() -> None:
    drained = machine(1, state="DRAINING", created_at=START - 800, funded_until=START + 200)
    made = plan(jobs(1), pools=(fixed_pool(),), instances=(drained,), workers=(worker(1, state="DRAINING"),))
    assert [keep.id for keep in made.keeps] == [1]
    late = replace(drained, created_at=START - 2_000)
    made = plan(jobs(1), pools=(fixed_pool(),), instances=(late,), workers=(worker(1, state="DRAINING"),))
    assert made.keeps == []


def test_offers_of_equal_price_are_bought_in_the_order_of_the_provider() -> None:
    offers = tuple(replace(LINUX, name=name) for name in ("m/spot", "m/on-demand"))
    assert started(plan(jobs(2), pools=(a_pool(offers),))) == {"m/spot": 1}


# ---------------------------------------------------------------- ends


def test_an_idle_instance_is_drained_and_then_ended() -> None:
    made = plan(instances=(machine(1),), workers=(worker(1, idle_since=START - 61),))
    assert [(drain.id, drain.reason) for drain in made.drains] == [(1, "idle for 61 s (idle = 60 s), and no waiting job fits it")]
    assert made.terminations == []
    drained = machine(1, state="DRAINING", reason="idle for 61 s")
    made = plan(instances=(drained,), workers=(worker(1, state="DRAINING"),))
    assert [(one.id, one.idle) for one in made.terminations] == [(1, True)]


def test_a_drained_instance_with_a_job_is_left_to_finish_it() -> None:
    made = plan(instances=(machine(1, state="DRAINING"),), workers=(worker(1, 1, state="DRAINING"),))
    assert made.terminations == []


def test_time_that_is_billed_by_the_hour_is_used_until_it_nearly_ends() -> None:
    hourly = machine(1, granularity_s=3_600.0, minimum_s=3_600.0, launched_at=START - 1_800)
    idle = {"workers": (worker(1, idle_since=START - 1_000),)}
    assert plan(instances=(hourly,), **idle).drains == []
    assert [one.id for one in plan(instances=(replace(hourly, launched_at=START - 3_540),), **idle).drains] == [1]
    assert [one.id for one in plan(instances=(machine(1, minimum_s=60.0),), **idle).drains] == [1]


def test_an_idle_instance_stays_while_a_job_waits_that_fits_or_the_pool_keeps_it() -> None:
    idle = {"instances": (machine(1),), "workers": (worker(1, idle_since=START - 999),)}
    assert plan(jobs(1), **idle).drains == []
    assert plan(pools=(a_pool(min=1),), **idle).drains == []
    assert len(plan(jobs(1, tags=("windows",)), **idle).drains) == 1


def test_an_instance_whose_worker_is_switched_off_is_not_kept_for_jobs_it_will_not_take() -> None:
    off = worker(1, idle_since=START - 61, active=False)
    waiting = jobs(5, tags=("linux",))
    assert [drain.id for drain in plan(waiting, instances=(machine(1),), workers=(off,)).drains] == [1]
    made = plan(waiting, instances=(machine(1, state="DRAINING"),), workers=(off,))
    assert made.keeps == []
    assert [one.id for one in made.terminations] == [1]


def test_the_dearest_and_longest_idle_ends_first() -> None:
    instances = tuple(machine(id, price_micro=price) for id, price in ((1, 100), (2, 900), (3, 100)))
    workers = tuple(worker(id, idle_since=START - since) for id, since in ((1, 100), (2, 70), (3, 200)))
    made = plan(instances=instances, workers=workers, pools=(a_pool(min=1),))
    assert [drain.id for drain in made.drains] == [2, 3]


def test_a_drain_is_undone_when_jobs_come_unless_somebody_asked_for_it() -> None:
    drained = machine(1, state="DRAINING")
    empty = (worker(1, state="DRAINING"),)
    made = plan(jobs(2), instances=(drained,), workers=empty)
    assert [keep.id for keep in made.keeps] == [1]
    assert (made.terminations, made.launches) == ([], [])
    made = plan(jobs(2), instances=(replace(drained, wish="drain"),), workers=empty)
    assert made.keeps == []
    assert started(made) == {"machine": 1}


def test_machines_on_the_studios_floor_are_never_touched() -> None:
    own = worker(9, instance_id=None, idle_since=START - 1e6)
    made = plan(workers=(own,))
    assert (made.drains, made.terminations) == ([], [])


def test_an_instance_that_never_enrols_is_ended_after_its_time_to_boot() -> None:
    made = plan(instances=(booting(1, launched_at=START - 601),))
    assert [(one.id, one.failed_boot, one.reason) for one in made.terminations] == [(1, True, "it has not enrolled within 600 s")]
    assert plan(instances=(booting(1, launched_at=START - 599),)).terminations == []


def test_time_in_which_nobody_watched_does_not_count_against_a_boot_or_a_silent_worker() -> None:
    assert plan(instances=(booting(1, launched_at=START - 9_999),), leading_since=START - 10).terminations == []
    quiet = worker(1, state="TIMEOUT", seen_at=START - 9_999)
    assert plan(instances=(machine(1),), workers=(quiet,), leading_since=START - 10).terminations == []
    (ended,) = plan(instances=(machine(1),), workers=(quiet,)).terminations
    assert ended.reason == "its worker has been silent for 9999 s"


def test_an_instance_whose_paid_time_is_over_is_ended_whatever_it_does() -> None:
    over = {"funded_until": START, "committed_until": START}
    for one, workers in (
        (machine(**over), [worker(running=1)]),
        (machine(state="DRAINING", **over), [worker(running=1, state="DRAINING")]),
        (booting(provider_id="i-1", **over), []),
    ):
        made = plan(jobs(), instances=(one,), workers=tuple(workers))
        assert [(end.id, end.reason, end.idle) for end in made.terminations] == [(1, "its paid time is over", False)]
        assert made.renewals == []
    assert not plan(jobs(), instances=(machine(funded_until=START + 1),), workers=(worker(running=1),)).terminations
    assert not plan(instances=(machine(state="TERMINATING", **over),)).terminations, "it was asked for before"


def test_an_instance_whose_worker_is_no_more_is_ended() -> None:
    assert [one.reason for one in plan(instances=(machine(1),)).terminations] == ["its worker is no more"]


def test_a_wish_is_carried_out_with_the_name_of_who_had_it() -> None:
    wishes = (machine(1, wish="drain", wished_by="ann"), machine(2, wish="terminate", wished_by="bob"), booting(3, wish="drain"))
    made = plan(instances=wishes, workers=(worker(1, 1), worker(2, 1)))
    assert [(drain.id, drain.reason) for drain in made.drains] == [(1, "asked for by ann")]
    assert [(one.id, one.reason) for one in made.terminations] == [(2, "asked for by bob"), (3, "asked for by hand")]


def test_a_pool_that_is_switched_off_or_taken_out_is_drained() -> None:
    running = {"instances": (machine(1),), "workers": (worker(1, 1),)}
    assert [drain.reason for drain in plan(pools=(a_pool(enabled=False),), **running).drains] == ["pool p is switched off"]
    assert [drain.reason for drain in plan(pools=(), **running).drains] == ["pool p is no longer in cloud.ini"]


# ---------------------------------------------------------------- for any farm


requirements = st.builds(
    Requirement,
    st.sampled_from([(), ("linux",), ("linux", "big"), ("windows",)]),
    st.integers(0, 16),
    st.just(0),
    st.integers(0, 1),
    st.sampled_from(["", "ann", "ann|bob"]),
)
demands = st.builds(
    Demand,
    requirements,
    st.sampled_from(["", "7f", "ff01"]),
    st.integers(0, 5_000),
    st.none() | st.floats(0, 1e5, allow_nan=False),
)
offers = st.builds(
    lambda name, slots, price, cpus, gpus: replace(LINUX, name=name, slots=slots, price_micro=price, cpus=cpus, gpus=gpus),
    st.sampled_from("abcdef"),
    st.integers(1, 64),
    st.integers(0, 20 * DOLLAR),
    st.integers(1, 16),
    st.integers(0, 1),
)


def some_pool(name: str, goods: list[Offering], top: int, bottom: int, tags: tuple[str, ...]) -> Pool:
    settings = PoolSettings(name, 1, provider="fake", max=top, min=min(top, bottom), affinity=tags)
    return pool_of(settings, list({one.name: one for one in goods}.values()), Deadline.PROVIDER)


pools = st.lists(
    st.builds(
        some_pool,
        st.sampled_from("pqr"),
        st.lists(offers, max_size=4),
        st.integers(0, 50),
        st.integers(0, 3),
        st.sampled_from([("linux",), ("linux", "big"), ()]),
    ),
    max_size=3,
    unique_by=lambda one: one.settings.name,
)
caps = st.builds(
    lambda name, amount, window, hard, applies_to, share: money(
        BudgetSettings(name, 1, amount_micro=amount, window=window, hard=hard, applies_to=applies_to), int(amount * share)
    ),
    st.sampled_from(["ann", "bob", "farm", "pool"]),
    st.integers(0, 50 * DOLLAR),
    st.sampled_from(["hour", "day", "week", "month", "total"]),
    st.booleans(),
    st.sampled_from(["farm", "pool:p", "user:ann", "user:bob"]),
    st.floats(0, 1.5),
)
instances = st.lists(
    st.builds(
        lambda id, state, pool, left, running: (
            machine(id, state=state, pool=pool, funded_until=START + left, committed_until=START + left, sponsors=("farm",)),
            worker(id, running),
        ),
        st.integers(1, 30),
        st.sampled_from(["INTENDED", "STARTING", "RUNNING", "DRAINING", "TERMINATING"]),
        st.sampled_from("pqz"),
        st.floats(-100, 900),
        st.integers(0, 2),
    ),
    max_size=12,
    unique_by=lambda pair: pair[0].id,
)


@given(st.lists(demands, max_size=6), pools, st.lists(caps, max_size=3, unique_by=lambda one: one.settings.name), instances)
def test_no_plan_exceeds_a_cap_or_a_maximum_and_every_pool_is_explained(
    wanted: list[Demand], some: list[Pool], budgets: list[Budget], fleet: list[tuple[Instance, Worker]]
) -> None:
    snapshot = Snapshot(
        START,
        RULES,
        tuple(some),
        tuple(wanted),
        tuple(one for _, one in fleet),
        tuple(one for one, _ in fleet),
        tuple(budgets),
    )
    made = decide(snapshot)
    assert decide(snapshot) == made
    added: dict[tuple[str, float], int] = {}
    for launch in made.launches:
        end = ledger.committed_end(launch.funded_until, launch.launch_by, RULES.slack_s, 0.0, 1.0)
        for entry in budgets:
            if entry.settings.name in launch.sponsors and entry.settings.hard:
                cuts = ledger.windows(entry.settings.window, "UTC", START, end)
                for window, part in zip(cuts, ledger.commit(launch.offering.price_micro, START, end, cuts), strict=True):
                    key = (entry.settings.name, window[0])
                    added[key] = added.get(key, 0) + part * launch.count
    for entry in budgets:
        for start, _, committed in entry.windows:
            if added.get((entry.settings.name, start)):
                assert committed + added[entry.settings.name, start] <= entry.settings.amount_micro
    for one in some:
        name = one.settings.name
        have = sum(entry.pool == name for entry, _ in fleet)
        new = sum(launch.count for launch in made.launches if launch.pool == name)
        assert new == 0 or have + new <= one.settings.max
        assert new or any(entry.pool == name and entry.reason for entry in made.holds)
    for launch in made.launches:
        assert launch.reason
        assert launch.offering.price_micro or not any(b.settings.hard and b.settings.name in launch.sponsors for b in budgets)
    touched = [entry.id for entry in (*made.drains, *made.terminations, *made.keeps)]
    assert len(touched) == len(set(touched))
