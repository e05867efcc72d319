"""Rule M in the store: money is reserved before a machine may start, never beyond a cap, and settled to the micro-unit."""

from __future__ import annotations

import dataclasses
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from coalition import ledger, schema
from coalition.config import Settings
from coalition.errors import Fenced, NotAuthenticated, NotFound, OverBudget
from coalition.model import Enrol, JobSpec
from coalition.states import InstanceState
from coalition.store import Store
from coalition.store.cloud import ROLE, Blocked, Decided, Found, Order
from coalition.store.dispatch import Call
from coalition.store.workers import hash_secret
from tests.cloud_world import DOLLAR, START, Clock, budget, make_store, pool, settings
from tests.databases import KINDS

TOKEN = "ab" * 16


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store_of(tmp_path: Path, clock: Clock, database: str) -> Iterator[Callable[..., Store]]:
    """Makes stores on one database."""
    stores: list[Store] = []

    def make(*budgets: object, **changes: object) -> Store:
        wanted = settings(tmp_path, [pool(**changes)], budgets, database=database)  # type: ignore[arg-type]
        stores.append(make_store(wanted, clock))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def lead(store: Store) -> int:
    fence = store.claim_leader(ROLE, "me", 1e9)
    assert fence is not None
    return fence


def order(count: int = 1, *, dollars: float = 1.0, sponsors: tuple[str, ...] = ("studio",), **changes: object) -> Order:
    values: dict[str, object] = {
        "token": TOKEN,
        "pool": "p",
        "provider": "fake",
        "offering": "machine",
        "slots": 2,
        "count": count,
        "price_micro": round(dollars * DOLLAR),
        "currency": "USD",
        "sponsors": sponsors,
        "payer": "",
        "request": "{}",
        "reason": "a test",
        "launch_by": START + 60,
        "funded_until": START + 600,
        "boot_timeout_s": 600.0,
    }
    return Order(**{**values, **changes})  # type: ignore[arg-type]


def committed(store: Store) -> dict[str, list[int]]:
    table = schema.budget_window
    with store.read() as db:
        rows = db.execute(select(table.c.budget, table.c.committed_micro).order_by(table.c.budget, table.c.starts_at)).all()
    found: dict[str, list[int]] = {}
    for name, amount in rows:
        found.setdefault(name, []).append(amount)
    return found


def launch(store: Store, wanted: Order, fence: int) -> list[int]:
    """The ids of its instances, all started."""
    intent_id = store.reserve(wanted, fence)
    store.launched(intent_id, [Found(k, f"i-{wanted.token[:4]}-{k}") for k in range(wanted.count)], fence, shortfall="")
    return [machine.id for machine in store.machines() if machine.intent_id == intent_id]


def count_rows(store: Store) -> list[int]:
    with store.read() as db:
        tables = (schema.intent, schema.instance, schema.commitment, schema.token, schema.budget_window)
        return [db.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


# ---------------------------------------------------------------- reserve


def test_a_reservation_is_price_times_the_longest_time_that_can_be_billed(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    store.reserve(order(3), lead(store))
    until = START + 600 + 60 + 1  # funded, slack, granularity
    assert committed(store) == {"studio": [3 * ledger.cost(DOLLAR, START, until)]}


def test_nothing_at_all_is_written_when_one_budget_cannot_pay(store_of: Callable[..., Store]) -> None:
    store = store_of(budget("a", 100), budget("b", 0.5))
    with pytest.raises(OverBudget, match=r"budget b has \$0.50 left of \$0.50, and \$0.55"):
        store.reserve(order(3, sponsors=("a", "b")), lead(store))
    assert count_rows(store) == [0, 0, 0, 0, 0]


def test_a_soft_budget_counts_and_warns_but_does_not_stop(store_of: Callable[..., Store]) -> None:
    store = store_of(budget(amount=0.3, hard=False))
    store.reserve(order(3), lead(store))
    assert committed(store)["studio"][0] > 0.3 * DOLLAR
    (alert,) = [event for event in store.events({}, 0.0, 50) if event["kind"] == "budget.alert"]
    assert "budget studio has reached 100%" in alert["text"]


def test_each_share_of_a_cap_is_told_once(store_of: Callable[..., Store]) -> None:
    store = store_of(budget(amount=1.0))
    fence = lead(store)
    for number in range(5):
        store.reserve(order(token=f"{number:016x}" * 2), fence)
    told = [event["text"] for event in store.events({}, 0.0, 50) if event["kind"] == "budget.alert"]
    assert [text.split(":")[0] for text in reversed(told)] == [
        "budget studio has reached 50%",
        "budget studio has reached 80%",
    ]


def test_a_reservation_over_midnight_is_split_over_both_days(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget(amount=1.0))
    midnight = ledger.window_at("day", "UTC", START)[1]
    clock.now = midnight - 100
    store.reserve(order(launch_by=clock.now + 60, funded_until=clock.now + 600), lead(store))
    assert committed(store)["studio"] == [ledger.cost(DOLLAR, 0, 100), ledger.cost(DOLLAR, 0, 561)]


def test_the_enrolment_token_can_be_made_again_and_is_not_in_the_database(store_of: Callable[..., Store], tmp_path: Path) -> None:
    store = store_of(budget())
    store.reserve(order(2), lead(store))
    text = store.enrol_token(TOKEN)
    assert store_of(budget()).enrol_token(TOKEN) == text
    assert store.enrol_token("cd" * 16) != text
    row = store.check_token(text)
    assert row is not None
    assert (row.kind, row.uses_left, row.expires_at) == ("enrol", 2, START + 60 + 600)
    secret = text.partition(".")[2]
    assert row.key == hash_secret(secret)
    with store.read() as db:
        dump = "".join(str(row) for table in schema.metadata.sorted_tables for row in db.execute(table.select()))
    assert secret not in dump
    assert stat.S_IMODE((tmp_path / "farm.key").stat().st_mode) == 0o600


def test_fifty_reservations_race_for_the_last_money_and_never_pass_the_cap(store_of: Callable[..., Store]) -> None:
    stores = [store_of(budget("a", 2.0), budget("b", 1.5, window="hour")) for _ in range(5)]  # as five processes would
    fence = lead(stores[0])
    won: list[int] = []

    def race(number: int) -> None:
        for turn in range(10):
            with suppress(OverBudget):
                won.append(stores[number].reserve(order(token=f"{number}{turn}".zfill(16) * 2, sponsors=("a", "b")), fence))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    each = ledger.cost(DOLLAR, START, START + 661)
    assert len(won) == 1.5 * DOLLAR // each
    assert committed(stores[0]) == {"a": [len(won) * each], "b": [len(won) * each]}
    assert count_rows(stores[0])[1] == len(won)


# ---------------------------------------------------------------- who leads


def test_one_leads_until_its_lease_is_over_and_the_number_grows(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of()
    assert store.claim_leader(ROLE, "a", 10) == 1
    assert store.claim_leader(ROLE, "b", 10) is None
    clock.wait(9)
    assert store.claim_leader(ROLE, "a", 10) == 1
    clock.wait(11)
    assert store.claim_leader(ROLE, "b", 10) == 2
    store.release_leader(ROLE, "b")
    clock.wait(0.001)
    assert store.claim_leader(ROLE, "a", 10) == 3


def test_a_leader_that_was_replaced_writes_nothing(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget())
    old = store.claim_leader(ROLE, "a", 10)
    assert old is not None
    (machine,) = launch(store, order(), old)
    clock.wait(11)
    new = store.claim_leader(ROLE, "b", 10)
    writes: list[Callable[[], object]] = [
        lambda: store.reserve(order(token="cd" * 16), old),
        lambda: store.launched(1, [], old, shortfall=""),
        lambda: store.refused(1, "no", old),
        lambda: store.fund([machine], START + 900, old),
        lambda: store.funded({machine: START + 900}, old),
        lambda: store.drain_instances([machine], "no", old),
        lambda: store.keep_instances([machine], "no", old),
        lambda: store.end_instances([machine], "no", old),
        lambda: store.settle(machine, START, "no", old),
        lambda: store.record_decisions([Decided("p", "hold", 0, "no")], old),
        lambda: store.block_offering(Blocked("p", "", "auth", START, None, "", "no"), old),
        lambda: store.keep_console(machine, "no", old),
        lambda: store.check_leader(old),
    ]
    before = count_rows(store), store.machines(), store.events({}, 0.0, 100)
    for write in writes:
        with pytest.raises(Fenced):
            write()
    assert (count_rows(store), store.machines(), store.events({}, 0.0, 100)) == before
    store.check_leader(new or 0)


# ---------------------------------------------------------------- outcomes


def test_a_refusal_gives_all_money_back_and_ends_the_token(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    intent_id = store.reserve(order(3), fence)
    store.refused(intent_id, "capacity: none left", fence)
    assert committed(store) == {"studio": [0]}
    assert [row["state"] for row in store.instances(ended=True)] == ["FAILED"] * 3
    assert store.open_intents() == []
    assert store.check_token(store.enrol_token(TOKEN)) is None


def test_of_a_partial_fill_what_came_is_kept_and_the_rest_is_refunded(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    intent_id = store.reserve(order(5), fence)
    store.launched(intent_id, [Found(None, "i-1"), Found(None, "i-2")], fence, shortfall="2 of 5")
    assert sorted(row["state"] for row in store.instances(ended=True)) == ["FAILED"] * 3 + ["STARTING"] * 2
    assert committed(store)["studio"] == [2 * ledger.cost(DOLLAR, START, START + 661)]
    assert store.open_intents() == []


def test_an_unknown_outcome_keeps_its_money_until_each_instance_is_found(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    intent_id = store.reserve(order(2), fence)
    full = committed(store)
    store.launched(intent_id, [Found(1, "i-1")], fence, shortfall=None)
    assert [(machine.k, machine.state) for machine in store.machines()] == [(0, "INTENDED"), (1, "STARTING")]
    assert committed(store) == full
    assert [intent.id for intent in store.open_intents()] == [intent_id]
    store.launched(intent_id, [Found(1, "i-1"), Found(0, "i-0")], fence, shortfall=None)
    assert store.open_intents() == []


def test_storing_an_outcome_twice_changes_nothing(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    intent_id = store.reserve(order(2), fence)
    found = [Found(0, "i-0"), Found(1, "i-1")]
    store.launched(intent_id, found, fence, shortfall="")
    once = store.machines(), committed(store)
    store.launched(intent_id, found, fence, shortfall="")
    assert (store.machines(), committed(store)) == once


# ---------------------------------------------------------------- enrolment


def enrol(store: Store, name: str, identity: str, token: str = TOKEN) -> int:
    call = Enrol(name=name, session=name * 8, token=store.enrol_token(token), identity=identity, affinity=(("linux",),), slots=2)
    return store.enrol(call).worker_id


def test_a_worker_that_enrols_is_bound_to_its_instance_which_then_runs(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget())
    launch(store, order(2), lead(store))
    clock.wait(30)
    worker_id = enrol(store, "w1", "i-abab-1")
    (bound,) = [machine for machine in store.machines() if machine.state == InstanceState.RUNNING]
    assert (bound.k, bound.worker_id, bound.enrolled_at) == (1, worker_id, START + 30)
    assert store.instance_of(worker_id).id == bound.id


def test_each_use_of_the_token_is_for_one_identity(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    launch(store, order(1), lead(store))
    enrol(store, "w1", "i-abab-0")
    with pytest.raises(NotAuthenticated):
        enrol(store, "w2", "stranger")
    with pytest.raises(NotAuthenticated):
        enrol(store, "w3", "")


def test_a_worker_may_enrol_before_the_answer_to_launch_is_stored(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget())
    fence = lead(store)
    intent_id = store.reserve(order(2), fence)
    clock.wait(20)
    enrol(store, "w1", "i-1")
    store.launched(intent_id, [Found(None, "i-0", START + 5), Found(None, "i-1", START + 5)], fence, shortfall="")
    assert {(machine.provider_id, machine.state) for machine in store.machines()} == {("i-0", "STARTING"), ("i-1", "RUNNING")}


def test_a_worker_of_an_instance_that_is_to_end_is_not_let_in(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    store.end_instances(launch(store, order(), fence), "too late", fence)
    with pytest.raises(NotAuthenticated):
        enrol(store, "w1", "i-abab-0")


# ---------------------------------------------------------------- paying on


def test_paying_on_adds_only_the_difference_and_moves_no_deadline(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    ids = launch(store, order(2), fence)
    store.fund(ids, START + 1_200, fence)
    assert committed(store)["studio"] == [2 * ledger.cost(DOLLAR, START, START + 1_261)]
    assert {machine.funded_until for machine in store.machines()} == {START + 600}
    before = store.counters().get("fleet", 0)
    store.funded(dict.fromkeys(ids, START + 5000), fence)
    assert {machine.funded_until for machine in store.machines()} == {START + 1_200}  # never beyond the money
    assert store.counters()["fleet"] > before


def test_paying_on_is_for_all_or_none(store_of: Callable[..., Store]) -> None:
    store = store_of(budget(amount=0.5))
    fence = lead(store)
    ids = launch(store, order(2), fence)
    before = committed(store), store.machines()
    with pytest.raises(OverBudget):
        store.fund(ids, START + 1_200, fence)
    assert (committed(store), store.machines()) == before
    store.fund(ids[:1], START + 1_000, fence)


def test_paying_on_over_midnight_opens_the_next_day(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget())
    clock.now = ledger.window_at("day", "UTC", START)[1] - 700
    fence = lead(store)
    ids = launch(store, order(launch_by=clock.now + 60, funded_until=clock.now + 600), fence)
    assert len(committed(store)["studio"]) == 1
    store.fund(ids, clock.now + 1_000, fence)
    assert committed(store)["studio"] == [ledger.cost(DOLLAR, 0, 700), ledger.cost(DOLLAR, 0, 361)]


def test_a_lowered_cap_stops_new_money_at_once(store_of: Callable[..., Store], tmp_path: Path) -> None:
    store = store_of(budget(amount=10))
    fence = lead(store)
    launch(store, order(3), fence)
    store.settings = dataclasses.replace(store.settings, budgets=(budget(amount=0.6),))
    with pytest.raises(OverBudget):
        store.reserve(order(token="cd" * 16), fence)


# ---------------------------------------------------------------- the end


def test_settling_books_the_bill_and_frees_the_rest(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget("a"), budget("b", window="total"))
    fence = lead(store)
    (machine,) = launch(store, order(sponsors=("a", "b")), fence)
    clock.wait(60)
    enrol(store, "w1", "i-abab-0")
    spent = store.settle(machine, START + 333.3, "reclaimed", fence)
    assert spent == ledger.cost(DOLLAR, START, ledger.billed_end(START, START + 333.3, 0, 1))
    assert committed(store) == {"a": [spent], "b": [spent]}
    (entry,) = store.ledger_report()
    assert entry["amount_micro"] == spent == entry["boot_micro"] + entry["run_micro"] + entry["idle_micro"]
    assert store.settle(machine, START + 999, "again", fence) == 0
    assert committed(store) == {"a": [spent], "b": [spent]}


def test_what_ran_on_a_reclaimed_instance_waits_again_at_once(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    (machine,) = launch(store, order(), fence)
    worker_id = enrol(store, "w1", "i-abab-0")
    (job_id,) = store.submit([JobSpec(command="true", affinity=("linux",))]).ids
    row, _ = store.worker_row(worker_id) or (None, "")
    assert row is not None
    store.exchange([Call(worker_id, row.epoch, row.capacity, (), (), 1, frozenset())])
    assert store.job(job_id).state == "WORKING"
    store.settle(machine, START + 5, "reclaimed", fence)
    assert store.job(job_id).state == "WAITING"
    assert store.open_attempts(worker_id) == {}
    assert store.fleet() == []


def test_what_is_never_found_becomes_spend_within_what_was_reserved(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget())
    fence = lead(store)
    store.reserve(order(), fence)
    reserved = committed(store)["studio"][0]
    clock.wait(3_600)
    (machine,) = store.machines()
    spent = store.settle(machine.id, START + 661, "never found", fence)
    assert spent == reserved == committed(store)["studio"][0]
    assert store.open_intents() == []


def test_an_instance_that_outlived_its_money_is_told_and_counted_in_full(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    (machine,) = launch(store, order(), fence)
    spent = store.settle(machine, START + 2 * 86_400, "found late", fence)
    assert sum(committed(store)["studio"]) == spent == 48 * DOLLAR
    assert [event["kind"] for event in store.events({}, 0.0, 20)].count("budget.overrun") == 1


def test_only_an_instance_that_holds_nothing_and_drained_long_enough_ends_as_idle(
    store_of: Callable[..., Store], clock: Clock
) -> None:
    store = store_of(budget())
    fence = lead(store)
    (machine,) = launch(store, order(), fence)
    worker_id = enrol(store, "w1", "i-abab-0")
    store.submit([JobSpec(command="true", affinity=("linux",))] * 2)
    row, _ = store.worker_row(worker_id) or (None, "")
    assert row is not None
    call = Call(worker_id, row.epoch, row.capacity, (), (), 1, frozenset())
    (before,) = store.exchange([call])
    assert len(before.leases) == 1
    assert store.drain_instances([machine], "idle", fence) == [machine]
    assert store.end_instances([machine], "idle", fence, idle_only=True) == []  # another process may not know yet
    (after,) = store.exchange([replace(call, held=frozenset(before.open))])
    assert after.leases == [], "the lease transaction sees the drain that was committed before it"
    clock.wait(5)
    assert store.end_instances([machine], "idle", fence, idle_only=True) == []
    with store.write() as db:
        db.execute(update(schema.attempt).values(open_worker=None))
    assert store.end_instances([machine], "idle", fence, idle_only=True) == [machine]


def test_a_drained_instance_gives_its_worker_no_more_until_it_is_kept(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    (machine,) = launch(store, order(), fence)
    enrol(store, "w1", "i-abab-0")
    store.drain_instances([machine], "idle", fence)
    assert [row.state for row in store.fleet()] == ["DRAINING"]
    assert store.keep_instances([machine], "needed", fence) == [machine]
    assert [row.state for row in store.fleet()] == ["STARTING"]


# ---------------------------------------------------------------- announced ends


def test_what_runs_on_an_instance_that_is_announced_to_be_taken_away_is_demand(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    here, there = launch(store, order(2), fence)
    workers = [enrol(store, f"w{k}", f"i-abab-{k}") for k in range(2)]
    store.submit([JobSpec(title="x", command="true", affinity=("linux",)) for _ in range(3)])
    for worker_id, want in zip(workers, (2, 1), strict=True):
        row, _ = store.worker_row(worker_id) or (None, "")
        assert row is not None
        store.exchange([Call(worker_id, row.epoch, row.capacity, (), (), want, frozenset())])
    assert (store.backlog(), store.stranded()) == ([], [])
    before = store.counters()
    assert store.announce(here, START + 120, "w0", "it is wanted back")
    assert not store.announce(here, START + 30, "fake", "it is wanted back")
    assert [(demand.requirement.tags, demand.waiting) for demand in store.stranded()] == [(("linux",), 2)]
    assert store.instance_of(workers[0]).taken_at == START + 120
    assert store.instance_of(workers[1]).taken_at is None
    assert {name for name, value in store.counters().items() if value != before.get(name)} == {"fleet", "backlog"}
    assert [(one.id, one.wish) for one in store.heed(fence)] == [(here, "")]
    assert {one.id: (one.wish, one.wished_by) for one in store.machines()} == {
        here: ("drain", "fake, which takes it back"),
        there: ("", ""),
    }
    assert store.heed(fence) == []
    with pytest.raises(Fenced):
        store.heed(fence - 1)


# ---------------------------------------------------------------- by hand, blocks, decisions, views


def test_instances_are_marked_by_hand_and_the_autoscaler_is_woken(store_of: Callable[..., Store]) -> None:
    store = store_of(budget())
    fence = lead(store)
    ids = launch(store, order(2), fence)
    before = store.counters().get("backlog", 0)
    assert store.mark_instances(ids, "terminate", "alice") == 2
    assert store.counters()["backlog"] > before
    assert {(machine.wish, machine.wished_by) for machine in store.machines()} == {("terminate", "alice")}
    store.end_instances(ids[:1], "asked for", fence)
    assert store.mark_instances(ids, "drain", "bob") == 1  # the other one is ending already
    with pytest.raises(NotFound):
        store.mark_instances([*ids, 99], "drain", "bob")


def test_a_block_ends_by_time_by_hand_or_by_another_image(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(image="one")
    fence = lead(store)
    store.block_offering(Blocked("p", "big", "capacity", START, START + 180, "one", "none left"), fence)
    store.block_offering(Blocked("p", "", "boot", START, None, "one", "3 boots failed"), fence)
    assert [(block.offering, block.kind) for block in store.blocks()] == [("", "boot"), ("big", "capacity")]
    shown = store.pools()[0]
    assert shown["blocked"] == "3 boots failed"
    assert shown["blocks"] == [{"offering": "big", "kind": "capacity", "reason": "none left", "until": START + 180}]
    clock.wait(200)
    assert [block.kind for block in store.blocks()] == ["boot"]
    store.settings = dataclasses.replace(store.settings, pools=(pool(image="two"),))
    assert store.blocks() == []
    store.settings = dataclasses.replace(store.settings, pools=(pool(image="one"),))
    assert store.unblock_pools(["p"], "alice") == 1
    assert store.blocks() == []
    with pytest.raises(NotFound):
        store.unblock_pools(["q"])


def test_failed_boots_are_counted_in_a_row_and_anew_after_a_resume(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget())
    fence = lead(store)
    tokens = [f"{number:016x}" * 2 for number in range(4)]

    def fail(number: int) -> None:
        wanted = order(token=tokens[number], launch_by=clock.now + 60, funded_until=clock.now + 600)
        ids = launch(store, wanted, fence)
        store.end_instances(ids, f"boot {number} failed", fence)
        clock.wait(10)

    fail(0)
    fail(1)
    assert store.boots()["p"] == dataclasses.replace(store.boots()["p"], failures=2, reason="boot 1 failed")
    store.block_offering(Blocked("p", "", "boot", clock.now, None, "", "2 boots failed"), fence)
    store.unblock_pools(["p"])
    clock.wait(1)
    fail(2)
    assert store.boots()["p"].failures == 1
    (machine,) = launch(store, order(token=tokens[3], launch_by=clock.now + 60, funded_until=clock.now + 600), fence)
    enrol(store, "w1", next(m.provider_id for m in store.machines() if m.id == machine), tokens[3])
    assert store.boots()["p"].failures == 0


def test_the_same_reason_to_wait_moves_one_row_and_a_launch_is_always_a_new_one(
    store_of: Callable[..., Store], clock: Clock
) -> None:
    store = store_of()
    fence = lead(store)
    for decided in [
        ("hold", "2 jobs wait"),
        ("hold", "3 jobs wait"),
        ("launch", "1 x a"),
        ("launch", "1 x a"),
        ("hold", "2 jobs wait"),
    ]:
        store.record_decisions([Decided("p", decided[0], 0, decided[1])], fence)
        clock.wait(10)
    rows = [(row["action"], row["reason"], row["last_at"] - row["at"]) for row in reversed(store.decisions())]
    assert rows == [
        ("hold", "3 jobs wait", 10),
        ("launch", "1 x a", 0),
        ("launch", "1 x a", 0),
        ("hold", "2 jobs wait", 0),
    ]


def test_a_budget_shows_what_is_spent_so_far_and_what_is_only_reserved(store_of: Callable[..., Store], clock: Clock) -> None:
    store = store_of(budget(amount=1.0))
    launch(store, order(), lead(store))
    clock.wait(360)
    (shown,) = store.budgets()
    assert shown["spent_micro"] == 100_000
    assert shown["spent_micro"] + shown["reserved_micro"] == shown["committed_micro"]
    assert shown["left_micro"] == DOLLAR - shown["committed_micro"]
    assert shown["forecast_micro"] == DOLLAR  # a dollar an hour until the day is over is more, but the cap is hard
    money = store.farm_money()
    assert money["instances"] == {"STARTING": 1}
    assert money["burn_micro_per_hour"] == DOLLAR
    (instance,) = store.instances()
    assert instance["spent_micro"] == 100_000
    assert instance["allowed_actions"] == ["drain", "terminate"]


def test_settings_without_pools_or_budgets_show_empty_lists(tmp_path: Path, clock: Clock) -> None:
    store = make_store(dataclasses.replace(Settings(), server=settings(tmp_path).server), clock)
    assert (store.pools(), store.budgets(), store.instances(), store.ledger_report()) == ([], [], [], [])


def test_a_worker_drained_by_hand_takes_its_instance_with_it_and_resume_takes_that_back(
    store_of: Callable[..., Store],
) -> None:
    store = store_of(budget())
    fence = lead(store)
    launch(store, order(), fence)
    worker_id = enrol(store, "w1", "i-abab-0")
    store.drain_workers([worker_id], "ann")
    assert [(one.wish, one.wished_by) for one in store.machines()] == [("drain", "ann")]
    store.resume_workers([worker_id], "ann")
    assert [one.wish for one in store.machines()] == [""]
