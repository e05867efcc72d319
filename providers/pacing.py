"""Keeping below a provider's rate limits: a token bucket before calls, and a jittered delay after refusals."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

FIRST_DELAY_S = 5.0
LONGEST_DELAY_S = 300.0


class Bucket:
    """`burst` calls at once, then `per_s` a second. Safe for threads; whoever comes too soon waits."""

    def __init__(
        self,
        per_s: float,
        burst: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.per_s, self.burst, self.clock, self.wait = per_s, burst, clock, wait
        self._left, self._at = burst, clock()
        self._lock = threading.Lock()

    def take(self) -> float:
        """Waits until a call may be made; how long that took in seconds."""
        with self._lock:
            now = self.clock()
            self._left = min(self.burst, self._left + (now - self._at) * self.per_s) - 1
            self._at = now
            wait_s = max(0.0, -self._left / self.per_s)
        if wait_s:
            self.wait(wait_s)
        return wait_s


class Backoff:
    """How long to stay away: doubled for each refusal in a row, and spread, so that many do not come back together."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self.chance = chance
        self._refusals = 0

    def refused(self) -> float:
        """Seconds until the next try."""
        longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._refusals, 16))
        self._refusals += 1
        return longest * (0.5 + self.chance() / 2)

    def worked(self) -> None:
        self._refusals = 0
