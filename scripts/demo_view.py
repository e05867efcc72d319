"""What `make demo` shows: one frozen Status, as a live picture on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coalition.client import Client
from coalition.model import Job

PLAIN_EVERY_S = 5.0
BUSY = ("STARTING", "RUNNING", "DRAINING", "TERMINATING")


@dataclass(frozen=True)
class Status:
    """The farm at one moment, as the API tells it."""

    frames: Job
    film: Job
    instances: Sequence[Mapping[str, Any]]
    budget: Mapping[str, Any]
    decision: str
    action: str
    elapsed_s: float

    @property
    def counts(self) -> tuple[int, int, int]:
        """Frames finished, being rendered, in all."""
        counts = self.frames.counts
        return (counts.finished, counts.working, counts.total) if counts else (0, 0, 0)


def look(client: Client, frames: int, film: int, started: float) -> Status:
    """Asks the farm for its status; `started` is of time.monotonic()."""
    decisions = [(one["action"], f"{one['action']}: {one['reason']}") for one in client.decisions(limit=20)]
    return Status(
        frames=client.job(frames),
        film=client.job(film),
        instances=client.instances(all=True),
        budget=client.budgets()[0],
        decision=next((text for _, text in decisions), "none yet"),
        action=next((text for name, text in decisions if name != "hold"), "none yet"),
        elapsed_s=time.monotonic() - started,
    )


def money(micro: int, currency: str) -> str:
    return f"{micro / 1e6:.4f} {currency}"


def live(instances: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that are paid for."""
    return [one for one in instances if one["state"] not in ("GONE", "FAILED")]


def spend_line(status: Status) -> str:
    budget = status.budget
    currency = str(budget["currency"])
    parts = [money(int(budget[f"{name}_micro"]), currency) for name in ("spent", "reserved", "cap")]
    return f"spent {parts[0]}, reserved {parts[1]}, of at most {parts[2]}"


def plain(status: Status) -> str:
    """One line for a log."""
    finished, working, total = status.counts
    states = [str(one["state"]) for one in live(status.instances)]
    machines = ", ".join(f"{states.count(state)} {state}" for state in BUSY if state in states) or "none"
    return (
        f"{status.elapsed_s:5.0f} s  frames {finished}/{total}, {working} working; film {status.film.state}; "
        f"machines: {machines}; {spend_line(status)}; last action {status.action}; now {status.decision}"
    )


def picture(status: Status, address: str) -> RenderableType:
    """The same for a terminal."""
    finished, working, total = status.counts
    bars = Table.grid(padding=(0, 1))
    bars.add_row("Frames", ProgressBar(max(total, 1), finished, width=40), f"{finished}/{total}, {working} working")
    bars.add_row("Film", ProgressBar(1, status.film.progress, width=40), status.film.state)
    machines = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for title, width in (("Machine", 8), ("State", 11), ("Worker", 16), ("Spent", 10)):
        machines.add_column(title, no_wrap=True, min_width=width)
    machines.add_column("Why", overflow="ellipsis", no_wrap=True, ratio=1)
    for one in sorted(status.instances, key=lambda one: int(one["id"]))[-8:]:
        spent = money(int(one["spent_micro"]), str(one["currency"]))
        machines.add_row(f"{one['pool']} {one['id']}", one["state"], one["worker_name"] or "", spent, Text(one["reason"] or ""))
    facts = Table.grid(padding=(0, 2))
    told = {"Page": address, "Money": spend_line(status), "Last action": status.action, "Now": status.decision}
    for name, text in told.items():
        facts.add_row(Text(name, style="dim"), Text(text))
    return Group(Text(f"Coalition demo, {status.elapsed_s:.0f} s", style="bold"), bars, machines, facts)


class View:
    """Shows each Status: in place on a terminal; elsewhere a line every few seconds and when something is new."""

    def __init__(self, console: Console, address: str) -> None:
        self.console = console
        self.address = address
        self.live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self.told_at = float("-inf")
        self.told = ""

    def __enter__(self) -> View:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def show(self, status: Status) -> None:
        if self.live:
            self.live.update(picture(status, self.address))
            return
        news = f"{status.action} {[one['state'] for one in status.instances]} {status.film.state}"
        if news != self.told or status.elapsed_s - self.told_at >= PLAIN_EVERY_S:
            self.told, self.told_at = news, status.elapsed_s
            self.console.print(plain(status), soft_wrap=True, markup=False, highlight=False)
