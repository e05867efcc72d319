"""Traces of jobs made up by a seed, and a small market to play them against: not one is what the autoscaler was made for."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from autoscaler.trace import Job
from providers.base import Offering

START = 1_700_000_000.0
HOUR_S = 3_600.0
FAMILIES = (("c5", 2, 0.0180), ("c5a", 2, 0.0177), ("m5", 4, 0.0186))  # GiB and dollars per cpu
SIZES = (("large", 2, 1.0), ("xlarge", 4, 0.995), ("2xlarge", 8, 1.01), ("4xlarge", 16, 0.99), ("12xlarge", 48, 0.96))


class Trace(NamedTuple):
    """How jobs come, and what holds there: cost over the bound, launches per hour in which an instance is busy.

    The aim is 1.25. Two minutes of boot are paid for each slot, so it is out of reach where nobody knows at first that jobs are
    short, where the last of a burst are few, or where a machine has more slots than there are jobs.
    """

    jobs: Callable[[int], list[Job]]
    cost_over_bound: float = 1.25
    launches_per_busy_instance_hour: float = math.inf


def market() -> list[Offering]:
    """Spot machines of three families in two zones; the largest are the cheapest by 4 %."""
    return [
        Offering(
            name=f"{family}.{size} {zone} spot",
            type=f"{family}.{size}",
            zone=zone,
            market="spot",
            slots=cpus,
            cpus=cpus,
            memory_bytes=cpus * gib << 30,
            price_micro=round(cpus * dollars * factor * dearer * 1_000_000),
            minimum_s=60.0,
        )
        for family, gib, dollars in FAMILIES
        for size, cpus, factor in SIZES
        for zone, dearer in (("a", 1.0), ("b", 1.03))
    ]


def _arrivals(chance: random.Random, count: int, gap_s: float) -> Iterator[float]:
    at = START
    for _ in range(count):
        at += chance.expovariate(1 / gap_s)
        yield at


def steady(count: int, gap_s: float, low_s: float, high_s: float) -> Callable[[int], list[Job]]:
    """Jobs that come by chance, one each `gap_s` seconds in the mean."""

    def jobs(seed: int) -> list[Job]:
        chance = random.Random(seed)
        return [Job(at, chance.uniform(low_s, high_s), 1, "u/1") for at in _arrivals(chance, count, gap_s)]

    return jobs


def bursts(times: int, count: int, gap_s: float, low_s: float, high_s: float) -> Callable[[int], list[Job]]:
    """So many jobs at a time, so many times."""

    def jobs(seed: int) -> list[Job]:
        chance = random.Random(seed)
        begins = [START + number * gap_s * chance.uniform(0.9, 1.1) for number in range(times)]
        return [Job(begin, chance.uniform(low_s, high_s), 1, "u/1") for begin in sorted(begins) for _ in range(count)]

    return jobs


def days(count: int, per_day: int, run_s: float) -> Callable[[int], list[Job]]:
    """Many jobs at noon and few at midnight, their run times spread as widely as on a grid."""

    def jobs(seed: int) -> list[Job]:
        chance = random.Random(seed)
        found = []
        for day in range(count):
            hours = [chance.gauss(12, 4) % 24 for _ in range(per_day)]
            found += [Job(START + day * 86_400 + hour * HOUR_S, chance.expovariate(1 / run_s), 1, "u/1") for hour in hours]
        return sorted(found, key=lambda job: job.submit)

    return jobs


def one(hours: float) -> Callable[[int], list[Job]]:
    return lambda _seed: [Job(START, hours * HOUR_S, 1, "u/1")]


TRACES = {
    "a job of a minute each second": Trace(steady(8_000, 1, 30, 90), 1.25, 1.2),
    "a job of a minute each 6 s": Trace(steady(4_000, 6, 30, 90), 1.25, 1.2),
    "a job of a minute each 30 s": Trace(steady(2_000, 30, 30, 90), 1.25, 1.2),
    "a job of 10 min each minute": Trace(steady(1_000, 60, 300, 900)),
    "800 jobs of 20 min a day, most at noon": Trace(days(2, 800, 1_200)),
    "20 jobs of an hour each 6 h": Trace(bursts(6, 20, 20_000, 1_800, 5_400), 1.30),
    "a job of half an hour each 5 min": Trace(steady(400, 300, 900, 2_700), 1.35),
    "100 jobs of a minute each half hour": Trace(bursts(20, 100, 1_800, 30, 90)),
    "200 frames of 10 min each 2 h": Trace(bursts(8, 200, 7_200, 300, 900), 1.40),
    "200 jobs of a minute, once": Trace(bursts(1, 200, 0, 30, 90), 1.60),
    "five jobs of a second each second": Trace(steady(20_000, 0.2, 0.5, 1.5), 2.50),
    "one job of 100 h": Trace(one(100), 2.10),
}
