"""How long jobs are expected to run, and how soon their slots are free. Pure: what was seen in, seconds out."""

from __future__ import annotations

import pytest

from coalition.estimates import HORIZON_S, History, Seen, soon_free, stem


def test_a_title_stem_is_what_stands_before_the_numbers_at_its_end() -> None:
    assert {stem(title) for title in ("sh010 beauty 0017", "sh010 beauty 1-20", "sh010 beauty_v003.0017", "sh010 beauty")} == {
        "sh010 beauty",
        "sh010 beauty_v",
    }
    assert stem("0017") == "0017"


def test_the_same_group_goes_before_the_same_stem_and_that_before_the_pools_default() -> None:
    history = History()
    for _ in range(99):
        history.add(1, "beauty 1", 100.0, ended=True)
        history.add(2, "beauty 1", 300.0, ended=True)
    assert history.estimate_s(1, "beauty 7", 1_000.0) == pytest.approx(100, rel=0.05)
    assert history.estimate_s(2, "beauty 7", 1_000.0) == pytest.approx(300, rel=0.05)
    assert history.estimate_s(9, "beauty 7", 1_000.0) == pytest.approx(200, rel=0.05)
    assert history.estimate_s(9, "other", 1_000.0) == 1_000.0
    assert history.estimate_s(9, "other", None) is None


def test_jobs_in_no_group_are_no_likes_for_that() -> None:
    history = History()
    history.add(0, "short 1", 10.0, ended=True)
    assert history.estimate_s(0, "long 1", 500.0) == 500.0


def test_many_that_run_and_do_not_end_are_long_before_one_has_ended() -> None:
    history = History()
    assert history.estimate_s(1, "frame 1", 60.0) == 60.0
    for _ in range(50):
        history.add(1, "frame 1", 60.0, ended=False)
    estimate_s = history.estimate_s(1, "frame 2", 60.0)
    assert estimate_s is not None
    assert estimate_s > 3_000


def test_what_runs_longer_than_all_before_is_believed() -> None:
    assert Seen(1_000, 10_000.0, 10, 6_000.0).estimate_s(60.0) == 600.0


def test_a_slot_is_soon_free_if_its_job_is_short_and_not_if_it_hangs() -> None:
    assert soon_free(10.0, 0.0) > 0.9
    assert soon_free(HORIZON_S, 0.0) == pytest.approx(0.368, abs=0.001)
    assert soon_free(36_000.0, 0.0) < 0.01
    assert soon_free(10.0, 36_000.0) == soon_free(36_000.0, 10.0)
    assert soon_free(None, 10.0) == 0.0


def test_one_that_hangs_tells_nothing_of_its_likes() -> None:
    assert Seen(900, 9_000.0, 1, 36_000.0).estimate_s(60.0) == pytest.approx(50, rel=0.01)
