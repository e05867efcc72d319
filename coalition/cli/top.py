"""coalition top: the farm, its jobs, workers and money, live on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from coalition.cli.frame import DURATION, Call, cli

if TYPE_CHECKING:
    from rich.console import RenderableType

    from coalition.client import Client
    from coalition.model import Job, Worker

MOST = 200  # rows asked for; a terminal shows what fits
BUSY_FIRST = ("WORKING", "SICK", "TIMEOUT", "DRAINING", "WAITING", "STARTING", "TERMINATED")
OPEN_JOBS = "WORKING,ERROR,WAITING,PENDING"
BAR = 24


@dataclass(frozen=True)
class Facts:
    """What one frame shows."""

    farm: Mapping[str, Any]
    jobs: Sequence[Job]
    workers: Sequence[Worker]
    decisions: Sequence[Mapping[str, Any]]


@cli.command()
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="How often it looks.")
@click.option("--once", is_flag=True, help="Show it once, then end.")
@click.pass_obj
def top(call: Call, interval: float, once: bool) -> None:
    """Watch the farm: jobs, workers, money and what the autoscaler does. Ctrl-C ends it.

    Without a terminal it is shown once.
    """
    client = call.client()
    if call.json:
        call.screen.document(_document(look(client)))
    elif once or not call.screen.terminal:
        from rich.console import Console

        Console(highlight=False).print(drawn(look(client), height=0))
    else:
        _watch(client, max(0.2, interval))


def look(client: Client) -> Facts:
    """The facts of one frame, of a farm of any size."""
    jobs = client.page(parent=0, state=OPEN_JOBS, sort="-priority", limit=MOST).jobs
    workers = sorted(client.workers(), key=lambda one: (BUSY_FIRST.index(one.state), one.name))[:MOST]
    return Facts(client.farm(), jobs, workers, client.decisions(limit=10))


def _document(facts: Facts) -> dict[str, Any]:
    from coalition.model import to_dict

    return {"farm": facts.farm, **{name: to_dict(list(getattr(facts, name))) for name in ("jobs", "workers", "decisions")}}


def _watch(client: Client, interval_s: float) -> None:
    """Draws until Ctrl-C; while the server is away the last frame stays, and says so."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from coalition.errors import ServerUnreachable, Unavailable

    frame: RenderableType = Text("looking ...")
    with Live(frame, screen=True, auto_refresh=False) as live:
        while True:
            try:
                frame = drawn(look(client), live.console.height)
                live.update(frame, refresh=True)
            except (ServerUnreachable, Unavailable) as error:
                words = Text(f"stale since {time.strftime('%H:%M:%S')}, trying again: {error}", style="bold red")
                live.update(Group(words, frame), refresh=True)
            time.sleep(interval_s)


# ---------------------------------------------------------------- drawing


def drawn(facts: Facts, height: int) -> RenderableType:
    """One frame for a terminal of so many lines; 0: as long as it is."""
    from rich.console import Group

    money = _money(facts.farm)
    notes = [*_decisions(facts.decisions[: 3 if height else MOST])]
    left = max(4, height - 9 - len(money) - len(notes)) if height else 2 * MOST
    jobs, workers = _shares(left, len(facts.jobs), len(facts.workers))
    return Group(
        _summary(facts.farm),
        *money,
        "",
        _table(JOB_COLUMNS, facts.jobs, jobs, "no job is open"),
        "",
        _table(WORKER_COLUMNS, facts.workers, workers, "no worker"),
        *(["", *notes] if notes else []),
    )


def _shares(lines: int, some: int, others: int) -> tuple[int, int]:
    """Half of the lines for each of two tables; what one does not need is the other's."""
    first = min(some, max(lines // 2, lines - others))
    return first, min(others, lines - first)


def _summary(farm: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    from coalition.output import STYLES, money

    line = Text()
    for name in ("jobs", "workers", "instances"):
        counts = {state: count for state, count in farm.get(name, {}).items() if count and state != "total"}
        line.append(f"{name} ", style="bold")
        for state, count in counts.items():
            line.append(f"{count:,} {state.lower()}  ", style=STYLES.get(state.upper(), ""))
        line.append("  " if counts else "none    ")
    slots = farm.get("slots", {})
    line.append("slots ", style="bold")
    line.append(f"{slots.get('busy', 0):,} of {slots.get('total', 0):,} busy    ")
    line.append("cost now ", style="bold")
    line.append(f"{money(farm.get('burn_micro_per_hour'), farm.get('currency', ''))} per hour")
    return line


def _money(farm: Mapping[str, Any]) -> list[RenderableType]:
    """A line for each budget: spent, reserved and left of its cap."""
    from rich.text import Text

    from coalition.output import clean, money

    lines: list[RenderableType] = []
    for budget in farm.get("budgets", ()):
        cap = max(1, budget["cap_micro"])
        spent = round(BAR * min(1.0, budget["spent_micro"] / cap))
        reserved = min(BAR - spent, round(BAR * budget["reserved_micro"] / cap))
        amounts = [money(budget[f"{name}_micro"], budget["currency"]) for name in ("spent", "reserved", "cap")]
        line = Text(f"budget {clean(budget['name'])} ", style="bold")
        line.append("#" * spent, style="cyan").append("=" * reserved, style="yellow").append("." * (BAR - spent - reserved))
        line.append(f" {amounts[0]} spent, {amounts[1]} reserved of {amounts[2]} a {budget['window']}", style="not bold")
        lines.append(line)
    return lines


def _decisions(decisions: Iterable[Mapping[str, Any]]) -> list[RenderableType]:
    from rich.text import Text

    from coalition.output import age, clean

    return [
        Text(f"{age(one.get('last_at')):>4} ago  {clean(one.get('pool') or 'farm')}: {clean(one.get('reason', ''))}", style="dim")
        for one in decisions
    ]


Columns = Sequence[tuple[str, Callable[[Any], object]]]


def _table(columns: Columns, rows: Sequence[Any], most: int, none: str) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from coalition.output import STYLES, clean

    if not rows:
        return Text(none, style="dim")
    cells = [[clean("" if cell is None else cell) for cell in (show(row) for _, show in columns)] for row in rows[:most]]
    used = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=True)
    for head in (columns[index][0] for index in used):
        table.add_column(head.rstrip("*"), no_wrap=True, overflow="ellipsis", ratio=1 if head.endswith("*") else None)
    for row in cells:
        table.add_row(*(Text(row[index], style=STYLES.get(row[index], "")) for index in used))
    if len(rows) > most:
        table.add_row(Text(f"and {len(rows) - most:,} more", style="dim"))
    return table


def _progress(job: Job) -> str:
    from coalition.output import progress

    return progress(job)


def _job_state(job: Job) -> str:
    from coalition.output import state_of

    return state_of(job)


def _age(at: float | None) -> str:
    from coalition.output import age

    return age(at)


JOB_COLUMNS: Columns = (
    ("JOB", lambda job: job.id),
    ("STATE", _job_state),
    ("PROGRESS", _progress),
    ("PRIORITY", lambda job: job.priority),
    ("USER", lambda job: job.user),
    ("TITLE*", lambda job: job.title),
    ("WHY*", lambda job: job.reason),
)
WORKER_COLUMNS: Columns = (
    ("WORKER", lambda worker: worker.name),
    ("STATE", lambda worker: worker.state),
    ("SLOTS", lambda worker: f"{worker.running}/{worker.slots}"),
    ("LOAD", lambda worker: f"{worker.load:.1f}"),
    ("SEEN", lambda worker: _age(worker.seen_at)),
    ("JOBS*", lambda worker: ", ".join(f"#{job}" for job in worker.jobs)),
    ("WHY*", lambda worker: worker.reason),
)
