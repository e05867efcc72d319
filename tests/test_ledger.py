"""Seconds x price: rounding, windows, splits and bookings add up."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalition import ledger

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Asia/Beirut", "Pacific/Apia"]
KINDS = ["hour", "day", "week", "month", "total"]
times = st.floats(0, 4_000_000_000, allow_nan=False)
prices = st.integers(1, 50_000_000)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_cost_is_rounded_up_to_the_micro_unit() -> None:
    assert ledger.cost(1_000_000, 0, 3_600) == 1_000_000
    assert ledger.cost(1_000_000, 0, 0.001) == 1
    assert ledger.cost(1_000_000, 10, 5) == 0


@pytest.mark.parametrize(
    ("length", "minimum", "step", "billed"),
    [(10, 60, 1, 60), (61, 60, 60, 120), (61.5, 0, 1, 62), (0, 0, 1, 0), (7_200, 60, 3_600, 7_200)],
)
def test_billed_time_has_a_minimum_and_whole_steps(length: float, minimum: float, step: float, billed: float) -> None:
    assert ledger.billed_end(1_000, 1_000 + length, minimum, step) == 1_000 + billed


def test_a_day_of_a_time_zone_begins_at_its_midnight_and_is_as_long_as_it_is() -> None:
    start, end = ledger.window_at("day", "Europe/Berlin", at("2024-03-31T12:00", "Europe/Berlin"))
    assert start == at("2024-03-30T23:00")
    assert end - start == 23 * 3_600


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    now = at("2024-02-29T12:00")
    assert ledger.window_at("week", "UTC", now) == (at("2024-02-26T00:00"), at("2024-03-04T00:00"))
    assert ledger.window_at("month", "UTC", now) == (at("2024-02-01T00:00"), at("2024-03-01T00:00"))


@given(st.sampled_from(KINDS), st.sampled_from(ZONES), times, st.floats(0, 3_000_000))
def test_windows_tile_the_time_they_are_asked_for(kind: str, zone: str, start: float, length: float) -> None:
    length = min(length, 1e6 if kind != "hour" else 1e5)
    found = ledger.windows(kind, zone, start, start + length)
    assert found[0][0] <= start < found[0][1]
    assert found[-1][1] >= start + length
    for (_, end), (next_start, next_end) in pairwise(found):
        assert next_start <= end < next_end


@given(st.sampled_from(KINDS), st.sampled_from(ZONES), times, st.floats(0, 2e5), prices)
def test_parts_add_up_and_never_exceed_what_was_committed(kind: str, zone: str, start: float, length: float, price: int) -> None:
    end = start + length
    cuts = ledger.windows(kind, zone, start, end)
    parts, committed = ledger.split(price, start, end, cuts), ledger.commit(price, start, end, cuts)
    assert sum(parts) == ledger.cost(price, start, end)
    assert all(0 <= part <= limit for part, limit in zip(parts, committed, strict=True))


@given(
    times,
    st.floats(0, 1e4),
    st.floats(0, 120),
    prices,
    st.sampled_from([0.0, 60.0, 3_600.0]),
    st.sampled_from([1.0, 60.0, 3_600.0]),
)
def test_no_bill_exceeds_its_commitment(
    created: float, funding: float, delay: float, price: int, minimum: float, step: float
) -> None:
    launch_by, funded_until, slack = created + 60, created + funding, 5.0
    start = created + min(delay, 60)
    end = max(start, funded_until + slack)
    committed = ledger.cost(price, created, ledger.committed_end(funded_until, launch_by, slack, minimum, step))
    assert ledger.cost(price, start, ledger.billed_end(start, end, minimum, step)) <= committed


@given(
    times,
    st.floats(0, 400_000),
    st.none() | st.floats(-10, 500_000),
    prices,
    st.integers(1, 64),
    st.lists(st.tuples(st.floats(-100, 500_000), st.floats(0, 100_000)), max_size=8),
    st.lists(st.tuples(st.floats(0, 500_000), prices), max_size=4),
)
def test_a_booked_bill_adds_up_to_the_micro_unit_and_the_second(
    start: float,
    length: float,
    boot: float | None,
    price: int,
    slots: int,
    runs: list[tuple[float, float]],
    moves: list[tuple[float, int]],
) -> None:
    end, enrolled = start + length, None if boot is None else start + boot
    spans = [ledger.Span(start + a, start + a + b, n, waste=n % 2 == 1) for n, (a, b) in enumerate(runs, 1)]
    rates = [(start, price), *sorted((start + at, other) for at, other in moves)]
    entries = ledger.book(rates, slots, start, enrolled, end, spans)
    assert sum(entry.amount_micro for entry in entries) == ledger.bill(rates, start, end)
    assert sum(entry.seconds for entry in entries) == pytest.approx(length, abs=1e-3)
    assert all(entry.amount_micro >= 0 and entry.seconds >= -1e-6 for entry in entries)
    assert all(entry.kind == ("waste" if entry.attempt % 2 else "run" if entry.attempt else entry.kind) for entry in entries)
    assert {entry.kind for entry in entries if not entry.attempt} <= {"boot", "idle"}


@given(times, st.floats(0, 400_000), prices)
def test_at_one_price_a_bill_is_seconds_times_price(start: float, length: float, price: int) -> None:
    assert ledger.bill([(start, price)], start, start + length) == ledger.cost(price, start, start + length)


def test_a_bill_follows_the_price_and_a_price_before_its_time_is_the_first_ones() -> None:
    rates = [(0.0, 3_600_000), (1_800.0, 1_800_000), (5_400.0, 7_200_000)]
    assert ledger.bill(rates, 0.0, 3_600.0) == 1_800_000 + 900_000
    assert ledger.bill(rates, 3_600.0, 7_200.0) == 900_000 + 3_600_000
    assert ledger.bill(rates, -3_600.0, 0.0) == 3_600_000
    assert ledger.bill(rates, 9_000.0, 9_000.0) == 0


def test_who_ran_at_a_dear_time_pays_more_and_work_that_did_not_count_is_waste() -> None:
    start = at("2024-01-01T00:00")
    rates = [(start, 3_600_000), (start + 3_600, 7_200_000)]
    spans = [ledger.Span(start, start + 3_600, 1), ledger.Span(start + 3_600, start + 7_200, 2, waste=True)]
    entries = ledger.book(rates, 2, start, start, start + 7_200, spans)
    told = {(entry.kind, entry.attempt): entry.amount_micro for entry in entries}
    assert told == {("run", 1): 1_800_000, ("waste", 2): 3_600_000, ("idle", 0): 5_400_000}


def test_boot_run_and_idle_are_told_apart_by_day() -> None:
    start = at("2024-01-01T23:00")
    spans = [ledger.Span(start + 1_800, start + 3_600), ledger.Span(start + 5_400, start + 7_200)]
    entries = ledger.book([(start, 3_600_000)], 2, start, start + 1_800, start + 7_200, spans)
    told = [
        (entry.kind, datetime.fromtimestamp(entry.at, timezone.utc).day, entry.seconds, entry.amount_micro) for entry in entries
    ]
    assert told == [
        ("boot", 1, 1_800, 1_800_000),
        ("run", 1, 900, 900_000),
        ("idle", 1, 900, 900_000),
        ("run", 2, 900, 900_000),
        ("idle", 2, 2_700, 2_700_000),
    ]


def test_money_is_written_for_people() -> None:
    assert [ledger.money(micro) for micro in (0, 12, 3_100, 1_500_000, -2_000_000)] == [
        "$0.00",
        "$0.000012",
        "$0.0031",
        "$1.50",
        "-$2.00",
    ]
    assert ledger.money(1_500_000, "EUR") == "1.50 EUR"


def test_a_forecast_is_the_mean_of_what_finished_with_a_range_that_shrinks_as_more_is_known() -> None:
    few = ledger.forecast([ledger.Likes(10, 2, 200.0, 25_000.0, 4_000)])  # 50 s and 150 s
    many = ledger.forecast([ledger.Likes(10, 200, 20_000.0, 2_500_000.0, 400_000)])
    assert (few.jobs, few.unknown, few.seconds[1], few.cost_micro[1]) == (10, 0, 1_000.0, 20_000)
    assert few.seconds[0] < many.seconds[0] < 1_000 < many.seconds[2] < few.seconds[2]
    assert few.cost_micro[0] < many.cost_micro[0] < 20_000 < many.cost_micro[2] < few.cost_micro[2]
    alike = [ledger.forecast([ledger.Likes(10, n, 100.0 * n, 10_000.0 * n, 40 * n)]).seconds for n in (2, 20)]
    assert alike[0][0] < alike[1][0] < 1_000 < alike[1][2] < alike[0][2]
    begun = ledger.forecast([ledger.Likes(10, 2, 200.0, 25_000.0, 4_000, ages=(30.0, 500.0))])
    assert (begun.seconds[1], begun.cost_micro[1]) == (1_000 - 30 - 100, 17_400)
    mixed = ledger.forecast([ledger.Likes(10, 2, 200.0, 25_000.0, 4_000), ledger.Likes(5, 0)])
    assert (mixed.unknown, mixed.seconds[1], mixed.cost_micro[1]) == (5, 1_500.0, 30_000)
    assert mixed.seconds[2] - mixed.seconds[0] > 1.2 * (few.seconds[2] - few.seconds[0])
    nothing = ledger.forecast([ledger.Likes(3, 0)])
    assert (nothing.jobs, nothing.unknown, nothing.seconds, nothing.cost_micro) == (3, 3, (0.0, 0.0, 0.0), (0, 0, 0))
