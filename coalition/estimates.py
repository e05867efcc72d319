"""How long jobs will run, judged by their likes: those of the same group first, then those of the same title stem. Pure.

Each estimate is (guess + time seen) / (1 + ends seen): the mean of an exponential time of which some runs are not over yet, with
a guess that counts as one run. The guess of a group is what its stem says, that of a stem is told by the caller. So no job has to
end before jobs are known to be long: many that run for a minute and do not end say so. It is at least the mean age of those that
run, which may differ from all before.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

SEVERAL = 5  # that run tell of their likes; a single one may hang
HORIZON_S = 240.0  # slots that free up by then are counted on: a new machine has to boot first
PATIENCE_S = 600.0  # and by then, or `slot_target` if that is sooner, by short jobs
TAIL = re.compile(r"[\d\W_]+$")  # of a title: numbers and what stands before them


@dataclass
class Seen:
    """Runs of jobs that are alike: how many ended after how long in all, how many still run, and for how long in all."""

    ended: int = 0
    ended_s: float = 0.0
    running: int = 0
    running_s: float = 0.0

    def estimate_s(self, guess_s: float | None) -> float | None:
        """Their mean run time; without a guess, None until one has ended."""
        total_s = self.ended_s + self.running_s
        if guess_s is None and not self.ended:
            return None
        mean_s = total_s / self.ended if guess_s is None else (guess_s + total_s) / (1 + self.ended)
        return max(mean_s, self.running_s / self.running) if self.running >= SEVERAL else mean_s


NOTHING = Seen()


@dataclass
class History:
    """What was seen lately, by group (0: in none) and by title stem."""

    groups: Mapping[int, Seen] = field(default_factory=lambda: defaultdict(Seen))
    stems: Mapping[str, Seen] = field(default_factory=lambda: defaultdict(Seen))

    def add(self, group: int, title: str, seconds: float, *, ended: bool) -> None:
        for seen in (self.stems[stem(title)], *([self.groups[group]] if group else [])):
            if ended:
                seen.ended, seen.ended_s = seen.ended + 1, seen.ended_s + seconds
            else:
                seen.running, seen.running_s = seen.running + 1, seen.running_s + seconds

    def estimate_s(self, group: int, title: str, guess_s: float | None) -> float | None:
        """The run time of a job of this group and title."""
        guess_s = self.stems.get(stem(title), NOTHING).estimate_s(guess_s)
        return self.groups.get(group, NOTHING).estimate_s(guess_s)


@lru_cache(65_536)
def stem(title: str) -> str:
    """What titles of likes have in common: "sh010 beauty" of "sh010 beauty 0017"."""
    return TAIL.sub("", title) or title


def soon_free(estimate_s: float | None, age_s: float, horizon_s: float = HORIZON_S) -> float:
    """What share of the next `horizon_s` the slot of a job that has run for `age_s` may be expected to be free.

    The older a job is beyond its estimate, the longer it is taken to go on, so that nobody waits for one that hangs.
    """
    if estimate_s is None:
        return 0.0
    left = max(estimate_s, age_s, 1.0) / horizon_s
    return 1.0 - left * (1.0 - math.exp(-1.0 / left))
