"""Waiting in tests: for a condition, with a deadline, and what was seen when it passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll_until(condition: Callable[[], T], timeout_s: float = 30.0, state: Callable[[], object] | None = None) -> T:
    """The first true answer of `condition`; fails after `timeout_s` with its last answer, and with what `state` then says."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            seen = f"; then: {state()}" if state else ""
            raise AssertionError(f"not true within {timeout_s:g} s, last {answer!r}{seen}")
        time.sleep(0.02)
