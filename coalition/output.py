"""What the command line prints: tables on a terminal, plain columns elsewhere, one JSON document, or ids only.

Whatever comes from a server is text of other people: control characters in it never reach the terminal (logs excepted).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

from coalition.model import Job, Rehearsal

MICRO = 1_000_000
GAP = 2
MIN_WIDE = 12
STYLES = {
    "WORKING": "cyan",
    "RUNNING": "cyan",
    "FINISHED": "green",
    "ERROR": "bold red",
    "FAILED": "bold red",
    "LOST": "red",
    "SICK": "red",
    "TIMEOUT": "red",
    "PENDING": "dim",
    "PAUSED": "yellow",
    "DRAINING": "yellow",
    "TERMINATING": "yellow",
    "TERMINATED": "dim",
    "GONE": "dim",
}


# ---------------------------------------------------------------- words for values


def clean(text: object) -> str:
    """`text` on one line, with ? for what a terminal would obey instead of showing."""
    shown = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "?" for character in shown)


def duration(seconds: float | None) -> str:
    """Two units at most: 0.4s, 12s, 3m 20s, 2h 05m, 3d 4h; empty for None."""
    if seconds is None:
        return ""
    if seconds < 10 and round(seconds, 1) != round(seconds):
        return f"{max(0.0, seconds):.1f}s"
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3_600, whole // 86_400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{minutes}m {whole % 60:02d}s" if minutes else f"{whole}s"


def age(at: float | None) -> str:
    """How long ago; its larger unit only."""
    return "" if at is None else duration(max(0.0, round(time.time() - at))).split(" ")[0]


def moment(at: float | None) -> str:
    """Local date and time."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def money(micro: int | None, currency: str) -> str:
    """12.34 USD; more decimals where two would show too little of it."""
    if micro is None:
        return ""
    places = "0.01" if micro == 0 or abs(micro) >= MICRO // 10 else "0.000001" if abs(micro) < 100 else "0.0001"
    return f"{(Decimal(micro) / MICRO).quantize(Decimal(places), ROUND_HALF_UP):,f} {currency}"


def size(count: int | None) -> str:
    """Bytes with a binary unit: 512B, 1.5G, 64G."""
    if count is None:
        return ""
    amount, unit = float(count), "B"
    for unit in "BKMGTP":
        if amount < 1_024 or unit == "P":
            break
        amount /= 1_024
    return f"{amount:.1f}".removesuffix(".0") + unit if amount < 10 else f"{amount:.0f}{unit}"


def state_of(job: Job) -> str:
    return "PAUSED" if job.paused and job.state in ("WAITING", "PENDING") else job.state


def progress(job: Job) -> str:
    """48/100 and the errors of a group; the percentage of a job that tells it."""
    if job.counts is not None:
        errors = f" {job.counts.error} err" if job.counts.error else ""
        return f"{job.counts.finished}/{job.counts.total}{errors}"
    return f"{job.progress:.0%}" if job.progress else ""


def rehearsal(told: Rehearsal) -> Iterable[str]:
    """What would happen, a line each: the states whose number of jobs would be another, and the first events."""
    before, after = vars(told.before), vars(told.after)
    moved = [f"{name} {before[name]:,} -> {after[name]:,}" for name in before if before[name] != after[name]]
    yield "all jobs of the farm: " + (", ".join(moved) or "as many in each state as before")
    for one in told.events:
        yield f"{one.kind}{'' if one.job is None else f' {one.job}'}: {one.text}"


# ---------------------------------------------------------------- where it goes


@dataclass(frozen=True)
class Column:
    """A table's column; `right` for numbers, `wide` for the text that gives way when the terminal is narrow."""

    name: str
    right: bool = False
    wide: bool = False


def columns(text: str) -> list[Column]:
    """Columns of a line such as "ID> STATE TITLE*": > for numbers, * for the wide text, _ for a space."""
    return [Column(word.rstrip(">*").replace("_", " "), word.endswith(">"), word.endswith("*")) for word in text.split()]


PASSING = {"AGE", "SEEN", "LOAD", "FREE"}  # columns whose change alone is no news


class News:
    """What was shown at the look before, of a list that is watched: where there is no terminal, only what is new is printed."""

    def __init__(self) -> None:
        self._shown: set[object] = set()

    def of(self, keys: Sequence[object]) -> list[int]:
        """The places of those that were not there at the look before."""
        fresh = [index for index, key in enumerate(keys) if key not in self._shown]
        self._shown = set(keys)
        return fresh


@dataclass(frozen=True)
class Screen:
    """Standard output in the form that was asked for; of a list that is watched, `news` keeps what was shown."""

    json: bool = False
    quiet: bool = False
    news: News | None = None

    @property
    def terminal(self) -> bool:
        return sys.stdout.isatty()

    def table(self, facts: Any, heads: str, rows: Iterable[Sequence[object]], none: str) -> None:
        """`facts` as JSON, or rows under `heads` (see `columns`), or the words `none`. Quiet: the first column only."""
        cells = [[clean("" if cell is None else cell) for cell in row] for row in rows]
        if self.news and not self.json and (self.quiet or not self.terminal):
            lasting = [index for index, head in enumerate(columns(heads)) if head.name not in PASSING]
            keys = [row[0] if self.quiet else tuple(row[index] for index in lasting) for row in cells]
            cells = [cells[index] for index in self.news.of(keys)]
            none = ""
        if self.json:
            self.document(facts)
        elif self.quiet:
            self._write(row[0] for row in cells)
        elif not cells:
            if none:
                print(none, file=sys.stderr)
        elif self.terminal:
            _rich_table(columns(heads), cells)
        else:
            self._write(_plain_table(columns(heads), cells))

    def details(self, facts: Any, pairs: Iterable[tuple[str, object]]) -> None:
        """`facts` as JSON, or a line for each pair whose value is not empty. Quiet: the first value only."""
        shown = [(name, clean(value)) for name, value in pairs if value not in (None, "", ())]
        if self.json:
            self.document(facts)
        elif self.quiet:
            self._write(value for _, value in shown[:1])
        else:
            width = max(len(name) for name, _ in shown)
            lines = [f"{name:<{width}}  {value}" for name, value in shown]
            self._write([lines[index] for index in self.news.of(lines)] if self.news and not self.terminal else lines)

    def said(self, facts: Any, *lines: str) -> None:
        """`facts` as JSON, or lines of text; nothing when quiet."""
        if self.json:
            self.document(facts)
        elif not self.quiet:
            self._write([clean(line) for line in lines])

    def document(self, facts: Any) -> None:
        """JSON, on many lines; of what is watched a line each time that it differs."""
        if self.news is None:
            print(json.dumps(facts, indent=2))
        else:
            text = json.dumps(facts)
            self._write([text] if self.news.of([text]) else [])

    def _write(self, lines: Iterable[str]) -> None:
        for line in lines:
            print(line, flush=self.news is not None)


def _plain_table(heads: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    lines = [[head.name for head in heads], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    for line in lines:
        sized = zip(heads, line, widths, strict=True)
        yield "  ".join(f"{cell:>{width}}" if head.right else f"{cell:<{width}}" for head, cell, width in sized).rstrip()


def _rich_table(heads: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Columns without any value are left out; the wide one takes what the others leave of the terminal's width."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    used = [index for index, head in enumerate(heads) if head.wide or any(row[index] for row in rows)]
    widths = {index: max(cell_len(text) for text in (heads[index].name, *(row[index] for row in rows))) for index in used}
    spare = console.width - sum(width + GAP for index, width in widths.items() if not heads[index].wide)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for index in used:
        head, width = heads[index], widths[index]
        width = min(width, max(MIN_WIDE, spare - GAP)) if head.wide else width
        justify: Literal["left", "right"] = "right" if head.right else "left"
        table.add_column(head.name, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*(Text(row[index], style=STYLES.get(row[index], "")) for index in used))
    console.print(table)
