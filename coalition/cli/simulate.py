"""The verb that plays a trace of jobs through the autoscaler, on a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coalition.cli.frame import DURATION, Call, cli

if TYPE_CHECKING:
    from autoscaler.simulate import Report, Sample
    from coalition.config import Settings

FILE = click.Path(dir_okay=False, path_type=Path)
PERCENT = click.FloatRange(0, 100)


@cli.command()
@click.argument("trace", type=FILE)
@click.option("--prices", type=FILE, required=True, help="A table: zone, type, product, dollars per hour, time; tabs between.")
@click.option("--config", "file", metavar="FILE", help="A cloud.ini with pools and budgets; else one pool without a limit.")
@click.option("--types", type=FILE, help="A table: type, vCPUs, MiB, GPUs. Else aws-instance-types.tsv beside the prices.")
@click.option("--cap", metavar="AMOUNT", help="A hard budget for all of it, beside those of the configuration.")
@click.option("--boot", "boot_s", type=DURATION, default="120s", show_default=True, help="How long a machine takes to start.")
@click.option("--interruptions", type=PERCENT, default=0.0, help="Spot machines that are taken away each hour, in percent.")
@click.option("--refusals", type=PERCENT, default=0.0, help="Requests that find no capacity, in percent.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is random.")
@click.option("--plot", type=FILE, help="Draw queue, fleet and spend: a file .svg or .png (needs matplotlib).")
@click.pass_obj
def simulate(call: Call, /, trace: Path, plot: Path | None, **options: Any) -> None:
    """Play a trace of jobs (SWF, .gz too) through the autoscaler and print what it would cost, and how long jobs would wait.

    Decisions, budgets and money are those of the real thing; only the clock and the cloud are made up. Without --config it has
    one pool of all sizes of c5, c5a, c6i, m5 and m5a in every zone, spot, one slot for each cpu.
    """
    if plot is not None and plot.suffix not in (".svg", ".png"):
        raise click.BadParameter(f"{plot}: a file .svg or .png", param_hint="--plot")
    report = _run(trace, **options)
    call.screen.details(report.to_dict(), list(_words(report).items()))
    if plot is not None:
        _draw(report.samples, plot)


def _run(trace: Path, prices: Path, types: Path | None, boot_s: float, **options: Any) -> Report:
    from autoscaler import simulate as simulation
    from autoscaler.trace import TYPES_FILE, read_jobs, read_offers, read_types

    beside = prices.with_name(TYPES_FILE)
    types = types or (beside if beside.is_file() else None)
    offers = read_offers(prices, read_types(types) if types else {})
    weather = simulation.Weather(boot_s, options["interruptions"] / 100, options["refusals"] / 100, options["seed"])
    return simulation.simulate(read_jobs(trace), _settings(options["file"], options["cap"]), offers, weather)


def _settings(file: str | None, cap: str | None) -> Settings:
    from dataclasses import replace

    from autoscaler.simulate import default_pool, default_settings
    from coalition.config import BudgetSettings, load
    from coalition.values import a_money

    settings = load(file) if file else default_settings()
    pools = settings.pools or (default_pool(),)
    if cap is None:
        return replace(settings, pools=pools)
    try:
        amount = a_money(cap)
    except ValueError as error:
        raise click.BadParameter(f'"{cap}": {error}', param_hint="--cap") from None
    budget = BudgetSettings("cap", 0, amount_micro=amount, window="total", currency=pools[0].currency)
    return replace(settings, pools=pools, budgets=(*settings.budgets, budget))


def _words(report: Report) -> dict[str, str]:
    """The figures for people."""
    from coalition.output import duration

    data = report.to_dict()
    return {
        "jobs": f"{report.finished:,} of {report.jobs:,} finished",
        "work": duration(report.work_s),
        "cost": f"{data['cost']:,.2f}",
        "cost over bound": f"{report.cost_over_bound:.3f} x {data['lower_bound']:,.2f}, all of the work on the cheapest slots",
        "wait p50, p95": f"{duration(report.wait_s(0.5))}, {duration(report.wait_s(0.95))}",
        "launches": f"{report.launches:,} ({data['launches_per_busy_instance_hour']:.2f} per busy instance-hour)",
        "interruptions": f"{report.interruptions:,}",
        "refusals": f"{report.refusals:,}",
        "utilisation": f"{data['utilisation']:.1%} of the slot time that was paid",
        "overshoot": f"{data['overshoot']:,.2f}",
    }


def _draw(samples: Sequence[Sample], file: Path) -> None:
    try:
        from autoscaler.plot import draw

        draw(samples, file)
    except ModuleNotFoundError as error:
        raise click.UsageError(f"--plot needs {error.name}: pip install 'coalition[plot]'") from None
    except OSError as error:
        raise click.UsageError(f"--plot: {error}") from None
