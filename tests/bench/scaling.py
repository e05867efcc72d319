"""The simulated autoscaler on a group of the LCG grid log of 2005, with EC2's spot prices of an evening of 2022."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from autoscaler.simulate import Report, Weather, default_settings, simulate
from autoscaler.trace import TYPES_FILE, Job, read_jobs, read_offers, read_types
from coalition import ledger
from coalition.config import BudgetSettings
from providers.base import Offering
from tests.bench.figures import Figure

GRID, PRICES = "lcg-2005-vo16.swf.gz", "aws-spot-use1-2022-05-31.tsv.gz"


def on_the_grid(folder: Path, seeds: int) -> Iterator[Figure]:
    """Without a cap and calm, with half of that money, and with machines that are taken away."""
    jobs, offers = read_jobs(folder / GRID), read_offers(folder / PRICES, read_types(folder / TYPES_FILE))
    begun = time.process_time()
    free = play(jobs, offers)
    took_s = time.process_time() - begun
    yield Figure("cost over bound, LCG grid log", free.cost_over_bound, "x", "1.17")
    yield Figure("  wait p95", free.wait_s(0.95), "s", "300 s", f"p50 {free.wait_s(0.5):.0f} s")
    yield Figure("  CPU time of the simulation", took_s, "s", "30 s", f"{free.decisions:,} decisions")
    capped = play(jobs, offers, cap_micro=free.cost_micro // 2)
    yield Figure("  with half of the money: beyond the cap", capped.overshoot_micro / ledger.US, "$", "0")
    per_dollar = capped.work_s / capped.cost_micro / (free.work_s / free.cost_micro)
    yield Figure("  with half of the money: work per dollar", per_dollar, "x", "0.95 or more", "of that without a cap")
    stormy = [play(jobs, offers, Weather(interruptions_per_h=0.05, seed=seed)).cost_over_bound for seed in range(seeds)]
    note = f"{min(stormy):.3f} to {max(stormy):.3f} in {seeds} seeds"
    yield Figure("  5 % of the machines taken away each hour", fmean(stormy), "x", "1.32", note)


def play(jobs: Sequence[Job], offers: Sequence[Offering], weather: Weather | None = None, cap_micro: int = 0) -> Report:
    caps = (BudgetSettings("cap", 0, amount_micro=cap_micro, window="total"),) if cap_micro else ()
    return simulate(jobs, default_settings(caps), offers, weather or Weather())
