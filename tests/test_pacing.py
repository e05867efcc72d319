"""Staying below a rate limit, and staying away after a refusal."""

from __future__ import annotations

import threading

import pytest

from providers.pacing import LONGEST_DELAY_S, Backoff, Bucket
from tests.builders import Clock


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    clock = Clock(0.0)
    bucket = Bucket(2.0, 3, clock, lambda seconds: None)
    assert [bucket.take() for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]
    clock.now += 2.0  # by now the two that waited have gone, and one more may
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.5]


def test_it_never_saves_more_than_a_burst() -> None:
    clock = Clock(0.0)
    bucket = Bucket(1.0, 2, clock, lambda seconds: None)
    clock.now += 1_000.0
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 1.0]


def test_threads_share_the_rate() -> None:
    waited: list[float] = []
    bucket = Bucket(10.0, 1, lambda: 0.0, waited.append)
    threads = [threading.Thread(target=bucket.take) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waited) == pytest.approx([number / 10 for number in range(1, 20)])


def test_delays_double_up_to_a_limit_are_spread_and_begin_anew() -> None:
    longest, shortest = Backoff(lambda: 1.0), Backoff(lambda: 0.0)
    assert [longest.refused() for _ in range(4)] == [5.0, 10.0, 20.0, 40.0]
    assert [shortest.refused() for _ in range(2)] == [2.5, 5.0]
    assert [longest.refused() for _ in range(100)][-1] == LONGEST_DELAY_S
    longest.worked()
    assert longest.refused() == 5.0
