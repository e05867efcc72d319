"""A trace played through decide() on a clock of its own: what it costs, how long jobs wait, and what never happens."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autoscaler.simulate import Report, Weather, default_pool, default_settings, offers_of, simulate
from autoscaler.trace import Job, Type, read_jobs, read_offers, read_types
from coalition import ledger
from coalition.config import BudgetSettings, PoolSettings
from coalition.errors import ConfigError
from providers.base import Offering
from tests.bench.traces import TRACES, market

START = 1_700_000_000.0
SMALL = Offering("c5.large a spot", "c5.large", "a", "spot", slots=2, cpus=2, price_micro=36_000, minimum_s=60.0)
BIG = Offering("c5.4xlarge a spot", "c5.4xlarge", "a", "spot", slots=16, cpus=16, price_micro=272_000, minimum_s=60.0)
PRICES = """\
a\tc5.large\tLinux/UNIX\t0.036\t2022-05-31T18:00:00+00:00
a\tc5.large\tLinux/UNIX\t0.050\t2022-05-31T17:00:00+00:00
a\tc5.large\tWindows\t0.001\t2022-05-31T18:00:00+00:00
b\tm5.2xlarge\tLinux/UNIX\t0.160\t2022-05-31T18:00:00+00:00
b\tc5.metal\tLinux/UNIX\t1.000\t2022-05-31T18:00:00+00:00
"""


def some_jobs(count: int, run_s: float, every_s: float = 60.0, seed: int = 1) -> list[Job]:
    chance = random.Random(seed)
    return [Job(START + number * every_s, run_s * chance.uniform(0.5, 1.5), 1, "u/1") for number in range(count)]


def play(
    jobs: Sequence[Job],
    offers: Sequence[Offering] = (SMALL, BIG),
    budgets: Sequence[BudgetSettings] = (),
    pool: PoolSettings | None = None,
    **weather: float,
) -> Report:
    settings = replace(default_settings(budgets), pools=(pool or default_pool(),))
    return simulate(jobs, settings, offers, Weather(**weather))  # type: ignore[arg-type]


def cap(dollars: float, window: str = "total") -> BudgetSettings:
    return BudgetSettings("cap", 1, amount_micro=round(dollars * ledger.US), window=window)


def test_one_job_waits_for_the_boot_and_pays_boot_run_and_idle_time() -> None:
    report = play([Job(START, 1_000.0)], [SMALL])
    assert (report.jobs, report.finished, report.launches) == (1, 1, 1)
    assert report.waits_s == [120.0]
    paid_s = report.paid_slot_s / 2
    assert 1_150.0 <= paid_s <= 1_180.0, "boot 120 s, run 1,000 s, idle 30 s, then a decision to drain and one to end it"
    assert report.cost_micro == ledger.cost(36_000, 0, paid_s)
    assert report.bound_micro == pytest.approx(1_000 / 3_600 * 18_000)
    assert report.busy_instance_s == 1_000.0


def test_all_work_is_done_once_and_equal_arguments_give_equal_reports() -> None:
    jobs = some_jobs(200, 900)
    report = play(jobs, interruptions_per_h=0.5, refusals=0.3)
    assert report.finished == 200
    assert report.work_s == pytest.approx(sum(job.run_s for job in jobs))
    assert report.run_slot_s > report.work_s, "work that was taken away is done again, and was paid"
    assert report.interruptions > 0
    assert report.refusals > 0
    assert report == play(jobs, interruptions_per_h=0.5, refusals=0.3)
    assert report != play(jobs, interruptions_per_h=0.5, refusals=0.3, seed=1)


def test_the_books_agree_with_what_was_paid_by_the_second() -> None:
    report = play(some_jobs(50, 600), [SMALL])
    assert report.cost_micro == pytest.approx(report.paid_slot_s / 2 / 3_600 * 36_000, abs=report.launches)
    assert report.samples[-1].spent_micro == pytest.approx(report.cost_micro, rel=0.05)


def test_a_hard_cap_is_never_exceeded_whatever_is_taken_away() -> None:
    jobs = some_jobs(150, 1_800)
    free = play(jobs)
    capped = play(jobs, budgets=[cap(free.cost_micro / 2 / ledger.US)], interruptions_per_h=0.2)
    assert capped.overshoot_micro == 0
    assert 0 < capped.finished < 150
    assert capped.cost_micro <= free.cost_micro / 2


def test_what_half_the_money_buys_is_nearly_half_of_the_work() -> None:
    jobs = some_jobs(800, 600, every_s=30.0)
    free = play(jobs, market())
    capped = play(jobs, market(), [cap(free.cost_micro / 2 / ledger.US)])
    assert capped.overshoot_micro == 0
    assert capped.work_s / capped.cost_micro >= 0.95 * free.work_s / free.cost_micro


@pytest.mark.parametrize("name", TRACES)
def test_whatever_the_trace_it_costs_little_more_than_the_work_and_nothing_starts_in_vain(name: str) -> None:
    trace = TRACES[name]
    report = play(trace.jobs(1), market())
    assert report.finished == report.jobs
    assert report.cost_over_bound <= trace.cost_over_bound
    assert report.to_dict()["launches_per_busy_instance_hour"] <= trace.launches_per_busy_instance_hour


def test_no_more_slots_start_between_two_decisions_than_the_pool_allows() -> None:
    jobs = [Job(START, 600.0) for _ in range(2_200)]
    report = play(jobs, market(), pool=replace(default_pool(), job_estimate_s=36_000.0))
    slots = [sample.slots for sample in report.samples]
    assert max(after - before for before, after in zip([0, *slots], slots, strict=False)) == 1_000
    assert max(slots) >= 2_200


def test_a_new_window_has_money_again() -> None:
    jobs = [Job(START, 600.0), Job(START, 600.0), Job(START, 600.0), Job(START, 600.0)]
    report = play(jobs, [SMALL], [cap(0.015, "hour")])
    assert report.overshoot_micro == 0
    assert report.finished == 4
    assert report.waits_s[-1] > 600, "an hour's money pays one machine at a time"


def test_slots_that_free_up_are_waited_for_before_more_is_bought() -> None:
    jobs = some_jobs(400, 120, every_s=2.0)
    report = play(jobs, [SMALL])
    assert report.wait_s(0.95) < 600
    assert report.launches < 25, "at most 60 jobs would run at a time, on 30 machines"
    assert report.cost_over_bound < 1.18


def test_a_job_of_several_cpus_takes_as_many_slots() -> None:
    report = play([Job(START, 600.0, 16), Job(START, 600.0, 1)])
    assert report.finished == 2
    assert report.paid_slot_s >= 17 * 600


def test_what_no_machine_can_run_is_given_up() -> None:
    report = play([Job(START, 600.0, 64), Job(START, 600.0, 1)])
    assert report.finished == 1


def test_refused_requests_are_tried_elsewhere() -> None:
    other = replace(SMALL, name="c5.large b spot", zone="b", price_micro=37_000)
    report = play(some_jobs(60, 600), [SMALL, other], refusals=0.5)
    assert report.refusals > 0
    assert report.finished == 60


def test_a_pool_takes_types_or_families_zones_and_markets() -> None:
    other = replace(SMALL, name="m5.large b", type="m5.large", zone="b", market="on-demand")
    pool = replace(default_pool(), types=("c5",), purchase=("spot",), slots=1)
    assert [(offer.name, offer.slots) for offer in offers_of(pool, [SMALL, BIG, other])] == [(SMALL.name, 1), (BIG.name, 1)]
    assert offers_of(replace(pool, types=("m5.large",)), [SMALL, other]) == []
    assert len(offers_of(replace(pool, types=(), zones=("b",), purchase=("spot", "on-demand")), [SMALL, other])) == 1


# ---------------------------------------------------------------- files


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A trace and a table of prices."""
    lines = ["; UnixStartTime: 1000", ";"]
    lines += [f"{n} {n * 30} -1 {600 + n} 1 -1 -1 1 -1 -1 1 7 16 -1 1 1 -1 -1" for n in range(40)]
    lines += ["41 9000 -1 -1 1 -1 -1 1 -1 -1 0 7 16 -1 1 1 -1 -1"]  # it never ran
    trace, prices = tmp_path / "trace.swf.gz", tmp_path / "prices.tsv"
    trace.write_bytes(gzip.compress("\n".join(lines).encode()))
    prices.write_text(PRICES)
    return trace, prices


def test_a_trace_is_read_with_its_begin_and_without_what_never_ran(files: tuple[Path, Path]) -> None:
    jobs = read_jobs(files[0])
    assert len(jobs) == 40
    assert jobs[1] == Job(1_030.0, 601.0, 1, "7/-1")


def test_prices_are_the_newest_of_linux_and_sizes_come_from_the_table_or_the_name(files: tuple[Path, Path]) -> None:
    offers = {offer.type: offer for offer in read_offers(files[1], {"c5.metal": Type(96, 1 << 30)})}
    assert {name: (offer.slots, offer.price_micro) for name, offer in offers.items()} == {
        "c5.large": (2, 36_000),
        "m5.2xlarge": (8, 160_000),
        "c5.metal": (96, 1_000_000),
    }
    assert "c5.metal" not in {offer.type for offer in read_offers(files[1], {})}


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("t.swf", "1 2 three", read_jobs),
        ("t.swf", "; nothing\n", read_jobs),
        ("p.tsv", "zone\ttype\nx\ty\tz\n", lambda path: read_offers(path, {})),
        ("p.tsv", "a\tc5.odd\tLinux/UNIX\t1\t\n", lambda path: read_offers(path, {})),
        ("k.tsv", "type\tvcpus\nx\ty\n", read_types),
        ("t.swf.gz", "not packed", read_jobs),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, name: str, text: str, read: object) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=name):
        read(path)  # type: ignore[operator]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "coalition", "simulate", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


def test_the_verb_prints_one_object_and_draws(files: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    done = command(files[0], "--prices", files[1], "--interruptions", 5, "--plot", picture, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    named = ["jobs", "work_s", "cost", "cost_over_bound", "wait_p50_s", "wait_p95_s", "launches", "interruptions", "overshoot"]
    assert [name for name in named if name not in report] == []
    assert (report["jobs"], report["finished"], report["overshoot"]) == (40, 40, 0)
    assert picture.read_text().startswith("<?xml")


def test_the_verb_takes_pools_and_budgets_of_a_configuration_and_a_cap(files: tuple[Path, Path], tmp_path: Path) -> None:
    config = tmp_path / "cloud.ini"
    config.write_text("[pool p]\nprovider = fake\ntypes = c5.large\nmax = 3\n[budget b]\namount = 5\nwindow = day\n")
    shown = command(files[0], "--prices", files[1], "--config", config)
    assert shown.returncode == 0, shown.stderr
    assert "40 of 40 finished" in shown.stdout
    capped = command(files[0], "--prices", files[1], "--config", config, "--cap", "0.05", "--json")
    assert 0 < json.loads(capped.stdout)["cost"] <= 0.05


def test_what_the_verb_cannot_use_is_said(files: tuple[Path, Path], tmp_path: Path) -> None:
    missing = command(tmp_path / "none.swf", "--prices", files[1])
    assert missing.returncode == 2
    assert "none.swf: cannot be read" in missing.stderr
    assert "--cap" in command(files[0], "--prices", files[1], "--cap", "much").stderr
    assert ".svg or .png" in command(files[0], "--prices", files[1], "--plot", "x.txt").stderr
