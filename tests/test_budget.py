"""Who pays, and what a plan may still commit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from test_decide import machine, money

from autoscaler.budget import Purse
from coalition import ledger
from coalition.matching import sponsors
from tests.cloud_world import DOLLAR, START, budget


def test_sponsors_are_the_budgets_of_farm_pool_and_payer_sorted_soft_ones_too() -> None:
    budgets = [
        budget("z"),
        budget("p", applies_to="pool:p", hard=False),
        budget("q", applies_to="pool:q"),
        budget("ann", applies_to="user:ann"),
        budget("bob", applies_to="user:bob"),
    ]
    assert sponsors("p", "", budgets) == ("p", "z")
    assert sponsors("p", "ann|bob", budgets) == ("ann", "bob", "p", "z")
    assert sponsors("q", "gone", budgets) == ("q", "z")


def test_a_soft_budget_of_the_jobs_is_a_sponsor_too_unless_it_became_hard_meanwhile() -> None:
    budgets = [budget("ann", applies_to="user:ann", hard=False), budget("bob", applies_to="user:bob"), budget("z")]
    assert sponsors("p", "", budgets, soft="ann|bob") == ("ann", "z")
    assert sponsors("p", "bob", budgets, soft="ann") == ("ann", "bob", "z")


def test_only_hard_budgets_have_a_cost() -> None:
    purse = Purse([money(budget("a")), money(budget("b", hard=False))])
    assert [key[0] for key, _ in purse.cost(("a", "b", "c"), DOLLAR, START, START + 60)] == ["a"]


def test_room_is_what_the_poorest_window_can_pay_and_says_which() -> None:
    purse = Purse([money(budget("a", 100)), money(budget("b", 1.0), committed=400_000)])
    parts = purse.cost(("a", "b"), DOLLAR, START, START + 900)
    count, short = purse.room(parts, 10)
    assert count == 2
    assert str(short) == "budget b has $0.10 of $1.00 left today, $0.25 would be needed"
    purse.take(parts, 2)
    assert purse.room(parts, 1)[0] == 0
    assert purse.room(parts, 0) == (0, None)


def test_a_funding_over_midnight_needs_room_in_both_days() -> None:
    midnight = ledger.window_at("day", "UTC", START)[1]
    purse = Purse([money(budget("a", 1.0), committed=DOLLAR, until=midnight + 10_000)])
    tomorrow = purse.cost(("a",), DOLLAR, midnight, midnight + 900)
    over = purse.cost(("a",), DOLLAR, midnight - 10, midnight + 900)
    assert purse.room(tomorrow, 1)[0] == 1
    assert purse.room(over, 1)[0] == 0


@given(
    st.floats(1, 100_000),
    st.floats(0, 100_000),
    st.sampled_from(["hour", "day", "week", "month", "total"]),
    st.integers(1, 10 * DOLLAR),
)
def test_the_first_funding_and_its_extensions_cost_as_much_as_one_long_funding_would(
    first: float, more: float, window: str, price: int
) -> None:
    until = START + first
    purse = Purse([money(budget("a", window=window), until=until + more + 1_000)])
    one = machine(1, created_at=START, launch_by=START + 60, committed_until=until, sponsors=("a",), price_micro=price)

    def total(parts: list[tuple[tuple[str, float], int]]) -> dict[float, int]:
        sums: dict[float, int] = {}
        for (_, start), amount in parts:
            sums[start] = sums.get(start, 0) + amount
        return {start: amount for start, amount in sums.items() if amount}

    def funding(end: float) -> list[tuple[tuple[str, float], int]]:
        return purse.cost(("a",), price, START, ledger.committed_end(end, START + 60, 60, 0, 1))

    assert total(funding(until) + purse.extension(one, until + more, 60)) == total(funding(until + more))
