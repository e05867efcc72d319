"""A simulation as a picture: queue, fleet and spend over time. matplotlib is an extra ('coalition[plot]'), imported here only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoscaler.simulate import Sample
from coalition import ledger

HOUR_S = 3_600.0


def draw(samples: Sequence[Sample], file: Path) -> None:
    """Writes the picture; the file's ending says which kind it is (.svg, .png). ModuleNotFoundError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    start = samples[0].at if samples else 0.0
    hours = [(sample.at - start) / HOUR_S for sample in samples]
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    queue, fleet, spend = figure.subplots(3, 1, sharex=True)
    queue.step(hours, [sample.waiting for sample in samples], where="post", color="tab:orange")
    queue.set_ylabel("jobs that wait")
    fleet.step(hours, [sample.slots for sample in samples], where="post", color="tab:gray", label="paid")
    fleet.step(hours, [sample.busy for sample in samples], where="post", color="tab:blue", label="busy")
    fleet.set_ylabel("slots")
    fleet.legend(loc="upper right")
    spend.plot(hours, [sample.spent_micro / ledger.US for sample in samples], color="tab:green")
    spend.set_ylabel("spent")
    spend.set_xlabel("hours")
    figure.savefig(file)
