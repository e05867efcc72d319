"""Weekly hours: what a text means, when they open and close, and what happens when clocks are put forward or back."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalition.errors import BadInput
from coalition.hours import DAYS, WEEK, Availability, hours_complaint, parse, zone_complaint

NIGHTS = "mon-fri 19:00-07:00, sat-sun 00:00-24:00"


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    """A time of the week of Monday 2024-01-01, "wed 12:30", or of a date, "2024-03-31 02:30"."""
    day, _, clock = text.partition(" ")
    date = f"2024-01-0{DAYS.index(day) + 1}" if day in DAYS else day
    return datetime.fromisoformat(f"{date} {clock}").replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("mon 06:59", False),  # Sunday's span ends at its midnight
        ("mon 18:59", False),
        ("mon 19:00", True),
        ("tue 00:00", True),
        ("tue 06:59", True),
        ("tue 07:00", False),
        ("sat 06:59", True),
        ("sat 12:00", True),
        ("sun 23:59", True),
    ],
)
def test_a_span_may_run_over_midnight(moment: str, is_open: bool) -> None:
    assert parse(NIGHTS).is_open(at(moment)) == is_open


def test_no_hours_and_the_whole_week_are_always_open() -> None:
    for text in (
        "",
        " , ",
        "00:00-24:00",
        "mon-sun 00:00-24:00",
        "mon-wed 0:00-24:00,thu-sun 00:00-24:00",
        "06:00-18:00,18:00-6:00",
    ):
        assert parse(text).is_open(at("wed 12:00"))
        assert parse(text).changes_at(at("wed 12:00")) is None


def test_it_says_when_it_opens_and_closes_next() -> None:
    hours = parse(NIGHTS)
    assert (hours.opens_at(at("tue 12:00")), hours.closes_at(at("tue 12:00"))) == (at("tue 19:00"), None)
    assert (hours.opens_at(at("tue 20:00")), hours.closes_at(at("tue 20:00"))) == (None, at("wed 07:00"))
    assert hours.closes_at(at("fri 20:00")) == at("sun 23:59") + 60  # Friday night and the weekend touch
    assert hours.moment(at("mon 19:00")) == "Mon 19:00"


def test_the_week_is_a_circle() -> None:
    hours = parse("sun 22:00-02:00, fri-mon 04:00-05:00")
    assert [hours.is_open(at(moment)) for moment in ("mon 01:59", "mon 02:00", "mon 04:30", "tue 04:30", "fri 04:30")] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert parse("tue 10:00-11:00").opens_at(at("tue 11:00")) == at("tue 10:00") + WEEK * 60


def test_days_may_be_left_out_and_case_and_blanks_do_not_matter() -> None:
    assert parse("9:00-17:00").spans == parse(" Mon-Sun  09:00 - 17:00 ").spans
    assert parse("wed 09:00-17:00").spans == ((2 * 1_440 + 540, 2 * 1_440 + 1_020),)


def test_hours_are_those_of_the_time_zone() -> None:
    assert parse("mon 09:00-10:00", "America/New_York").is_open(at("mon 14:30"))
    assert parse("mon 09:00-10:00", "America/New_York").moment(at("mon 14:00")) == "Mon 09:00"


@pytest.mark.parametrize(
    ("text", "named", "allowed"),
    [
        ("mon-fri 19:00-07:00, sut 10:00-11:00", "'sut 10:00-11:00' has no day in 'sut'", "mon, tue, wed, thu, fri, sat, sun"),
        ("mon 25:00-26:00", "no time of day in 25:00", "00:00 to 24:00"),
        ("mon 10:60-11:00", "no time of day in 10:60", "00:00 to 24:00"),
        ("mon 10:00-24:01", "no time of day in 24:01", "00:00 to 24:00"),
        ("mon 10:00-10:00", "'mon 10:00-10:00' is empty", "00:00-24:00"),
        ("mon 24:00-07:00", "is empty", "00:00-24:00"),
        ("mon", "'mon' is not understood", "mon-fri 19:00-07:00"),
        ("mon 10:00", "'mon 10:00' is not understood", "mon-fri 19:00-07:00"),
        ("weekdays", "'weekdays' is not understood", "mon-fri 19:00-07:00"),
    ],
)
def test_an_error_names_the_wrong_part_and_what_is_allowed(text: str, named: str, allowed: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert named in caught.value.fields["hours"]
    assert allowed in caught.value.fields["hours"]
    assert hours_complaint(text) == caught.value.fields["hours"]


@pytest.mark.parametrize(
    ("name", "hint"), [("Europe/Berlim", "Europe/Berlin"), ("", "IANA"), ("Europe", "did you mean"), ("../x", "IANA")]
)
def test_an_unknown_time_zone_is_said_with_the_nearest(name: str, hint: str) -> None:
    assert hint in (zone_complaint(name) or "")
    assert zone_complaint("Europe/Berlin") is None


# ---------------------------------------------------------------- clocks put forward and back


def test_a_night_is_an_hour_shorter_when_clocks_go_forward() -> None:
    hours = parse("19:00-07:00", "Europe/Berlin")
    opened = at("2024-03-30 19:00", "Europe/Berlin")
    assert hours.opens_at(at("2024-03-30 12:00", "Europe/Berlin")) == opened
    assert hours.closes_at(opened) == opened + 11 * 3_600


def test_a_night_is_an_hour_longer_when_clocks_go_back() -> None:
    hours = parse("19:00-07:00", "Europe/Berlin")
    opened = at("2024-10-26 19:00", "Europe/Berlin")
    assert hours.closes_at(opened) == opened + 13 * 3_600


def test_an_edge_in_the_hour_that_is_left_out_is_at_the_jump() -> None:
    jump = at("2024-03-31 03:00", "Europe/Berlin")
    assert parse("00:00-02:30", "Europe/Berlin").closes_at(jump - 3_600) == jump
    assert parse("02:30-06:00", "Europe/Berlin").opens_at(jump - 3_600) == jump


def test_what_the_clock_shows_twice_counts_twice() -> None:
    hours = parse("00:00-02:30", "Europe/Berlin")
    first, again = (at("2024-10-27 02:30", "Europe/Berlin", fold) for fold in (0, 1))
    back = at("2024-10-27 02:00", "Europe/Berlin", 1)
    assert hours.closes_at(first - 3_600) == first
    assert hours.opens_at(first) == back
    assert hours.closes_at(back) == again


SPANS = st.builds(
    lambda day, start, length: (
        f"{day} {start // 60:02d}:{start % 60:02d}-{(e := (start + length) % 1_440) // 60:02d}:{e % 60:02d}"
    ),
    st.sampled_from([*DAYS, "mon-fri", "sat-sun", "fri-tue"]),
    st.integers(0, 1_439),
    st.integers(1, 1_439),
)


@given(
    st.lists(SPANS, min_size=1, max_size=3),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]),
    st.integers(0, 365 * 1_440),
)
def test_nothing_changes_before_the_next_change(spans: list[str], zone: str, minute: int) -> None:
    hours = parse(",".join(spans), zone)
    now = at("2024-01-01 00:00") + minute * 60
    change = hours.changes_at(now)
    if change is None:
        assert hours.spans == ()
        return
    assert hours.is_open(change) != hours.is_open(now)
    step = max(60, int(change - now) // 200 // 60 * 60)
    assert {hours.is_open(t) for t in range(int(now), int(change), step)} == {hours.is_open(now)}
    assert hours.is_open(change - 1) == hours.is_open(now)


# ---------------------------------------------------------------- desktops


def test_a_desktop_takes_jobs_when_nobody_used_it_for_a_while() -> None:
    rule = Availability(user_s=600)
    assert rule.refusal(0, 9.0, 599, 0) == "was used 599 s ago; takes jobs 600 s after its user"
    assert rule.refusal(0, 9.0, 600, 0) is None
    assert rule.refusal(0, 9.0, None, 0) is None  # it cannot be told


def test_a_desktop_takes_jobs_while_others_load_it_little() -> None:
    rule = Availability(load=2.0)
    assert rule.refusal(0, 2.0, None, 0) == "has a load of 2.0; takes jobs below 2"
    assert rule.refusal(0, 5.9, None, 4) is None  # four of it are our own
    assert rule.refusal(0, 6.0, None, 4) is not None


def test_outside_its_hours_it_takes_none_and_says_when_it_opens() -> None:
    rule = Availability(parse(NIGHTS), user_s=600)
    assert rule.refusal(at("mon 12:00"), 0.0, 0, 0) == "is outside its hours; opens Mon 19:00"
    assert Availability().refusal(at("mon 12:00"), 99.0, 0, 0) is None
