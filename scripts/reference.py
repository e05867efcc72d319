"""The reference part of the documentation, drawn from the code: cloud.ini, the command line, REST, states, errors, events.

docs/conf.py writes these pages before Sphinx reads them; they are not committed.
"""

from __future__ import annotations

import html
import inspect
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from coalition import cli, config, errors, metrics, states
from coalition.config import ServerSettings, Settings
from coalition.server.app import create_app
from coalition.server.openapi import document
from coalition.store import Store
from scripts.licences import found

ROOT = Path(__file__).resolve().parent.parent
EVENT = re.compile(
    r"""["']((?:job|worker|instance|pool|budget|limit|token|user|group|farm|offering|server|log|notice|prices)\.[a-z_]+)["']"""
)


def pages() -> dict[str, str]:
    """Each page's name and its text."""
    makers: dict[str, Callable[[], str]] = {
        "cloud-ini.md": cloud_ini,
        "command-line.md": command_line,
        "rest.md": rest,
        "states.md": state_tables,
        "errors.md": error_tree,
        "events.md": event_kinds,
        "python.md": python_api,
        "metrics.md": what_is_measured,
        "licences.md": library_licences,
    }
    return {name: make() for name, make in makers.items()}


def write(folder: Path) -> None:
    """Writes the pages whose text has changed; each appears whole, since another build may read it."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        page = folder / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".new", encoding="utf-8", delete=False) as file:
                file.write(text)
            os.replace(file.name, page)


# ---------------------------------------------------------------- cloud.ini


def cloud_ini() -> str:
    """Every section with its knobs."""
    parts = ["# cloud.ini\n", "Every knob, with its default. The file in the project's root has the same as comments.\n"]
    for section, kind in {**config.SINGLE, **config.NAMED}.items():
        name = f"{section} NAME" if section in config.NAMED else section
        parts += [f"## [{name}]\n", f"{_section(section)}\n", "| key | default | what it is |", "|---|---|---|"]
        for key, one in config.knobs(kind).items():
            needed = "required" if one.metadata["required"] else _code(one.metadata["default"])
            only = f" (only {', '.join(one.metadata['only'])})" if one.metadata["only"] else ""
            parts.append(f"| `{key}` | {needed} | {_cell(one.metadata['help'])}{only} |")
        parts.append("")
    parts += ["## [paths]\n", f"{_section('paths')}\n", "```ini", "[paths]", config.PATHS_EXAMPLE.strip(), "```"]
    return "\n".join(parts) + "\n"


def _section(name: str) -> str:
    return _cell(config.SECTIONS[name].replace("\n#", "\n"))


# ---------------------------------------------------------------- command line


def command_line() -> str:
    """Every verb with its options."""
    parts = ["# Command line\n", *_verbs(cli.cli, "coalition")]
    return "\n".join(parts) + "\n"


def _verbs(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    level = min(6, len(name.split()))
    if name != "coalition":
        yield f"{'#' * level} {name}\n"
    yield f"```text\n{command.get_usage(context)}\n```\n"
    yield f"{_prose(inspect.cleandoc(command.help or ''))}\n"
    rows = [one.get_help_record(context) for one in command.get_params(context)]
    shown = [row for row in rows if row]
    if shown:
        yield from ("| option | |", "|---|---|")
        yield from (f"| {_code(option)} | {_cell(text)} |" for option, text in shown)
        yield ""
    if isinstance(command, click.Group):
        for verb in command.list_commands(context):
            below = command.get_command(context, verb)
            if below and not below.hidden:
                yield from _verbs(below, f"{name} {verb}")


# ---------------------------------------------------------------- REST


def rest() -> str:
    """Every route."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(server=ServerSettings(data_dir=folder))
        store = Store(settings)
        whole = document(create_app(settings, store))
        store.close()
    groups: dict[str, list[str]] = {}
    for path, methods in whole["paths"].items():
        for method, one in methods.items():
            taken = ", ".join(f"`{it['name']}`" for it in one.get("parameters", []) if it["in"] == "query")
            row = f"| `{method.upper()} {path}` | {_cell(one['summary'])} | {taken} | {', '.join(one.get('x-who', []))} |"
            groups.setdefault(one["tags"][0], []).append(row)
    intro = (
        "JSON over HTTP. A running server has the same with all objects at `/api/docs`, and for machines at `/api/openapi.json`."
    )
    parts = ["# REST API\n", intro + "\n"]
    for tag, rows in sorted(groups.items()):
        parts += [f"## {tag}\n", "| route | | query | who |", "|---|---|---|---|", *rows, ""]
    return "\n".join(parts) + "\n"


# ---------------------------------------------------------------- states

TABLES = {"job": states.JOB, "attempt": states.ATTEMPT, "worker": states.WORKER, "instance": states.INSTANCE}
KINDS = {"job": states.JobState, "attempt": states.AttemptState, "worker": states.WorkerState, "instance": states.InstanceState}


def state_tables() -> str:
    """The four tables, each as a picture and as a table."""
    parts = [
        "# States\n",
        "What may become what; anything else is refused and changes nothing.\n",
    ]
    for name, table in TABLES.items():
        parts += [f"## {name.capitalize()}\n", f"```{{raw}} html\n{picture(list(map(str, KINDS[name])), table)}\n```\n"]
        parts += ["| from | event | to |", "|---|---|---|"]
        parts += [f"| {origin} | {event} | {target} |" for (origin, event), target in table.items()]
        parts.append("")
    return "\n".join(parts) + "\n"


COLUMN, BOX, LEVEL = 150, 104, 30


def picture(names: list[str], table: Mapping[tuple[str, str], str]) -> str:
    """SVG: the states in a row, steps to the right as arcs above them, steps back as arcs below."""
    arcs: dict[tuple[int, int], list[str]] = {}
    for (origin, event), target in table.items():
        arcs.setdefault((names.index(str(origin)), names.index(str(target))), []).append(event)
    high = max((j - i for i, j in arcs if j > i), default=0)
    deep = max((i - j for i, j in arcs if j < i), default=0)
    middle = 30 + high * LEVEL
    width, height = COLUMN * len(names), middle + 60 + deep * LEVEL
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" style="max-width:{width}px;width:100%;font:11px sans-serif">']
    parts += [_arc(i, j, ", ".join(sorted(set(events))), middle) for (i, j), events in arcs.items()]
    for index, name in enumerate(names):
        x = COLUMN * index + COLUMN // 2
        parts.append(
            f'<rect x="{x - BOX // 2}" y="{middle - 14}" width="{BOX}" height="28" rx="14" fill="none" stroke="currentColor"/>'
            f'<text x="{x}" y="{middle + 4}" text-anchor="middle" fill="currentColor" font-weight="600">{name}</text>'
        )
    return "".join([*parts, "</svg>"])


def _arc(i: int, j: int, words: str, middle: int) -> str:
    if i == j:
        x = COLUMN * i + COLUMN // 2
        return f'<text x="{x}" y="{middle + 26}" text-anchor="middle" fill="currentColor">({html.escape(words)})</text>'
    side = -1 if j > i else 1
    start, end = (COLUMN * k + COLUMN // 2 + (12 if k == i else -12) * -side for k in (i, j))
    edge, top = middle + 14 * side, middle + side * (14 + LEVEL * abs(j - i))
    label = edge + side * (0.75 * LEVEL * abs(j - i) + (4 if side < 0 else 12))  # a cubic curve goes three quarters of the way
    return (
        f'<path d="M{start} {edge} C{start} {top} {end} {top} {end} {edge}" fill="none" stroke="currentColor" opacity=".45"/>'
        f'<path d="M{end - 4} {edge + 7 * side} L{end} {edge} L{end + 4} {edge + 7 * side}" fill="none" stroke="currentColor"/>'
        f'<text x="{(start + end) / 2}" y="{label}" text-anchor="middle" fill="currentColor">{html.escape(words)}</text>'
    )


# ---------------------------------------------------------------- errors and events


def error_tree() -> str:
    """The tree of errors, with the status of each."""
    rows = ["| error | status | what it says |", "|---|---|---|"]
    for name, one in vars(errors).items():
        if inspect.isclass(one) and issubclass(one, errors.CoalitionError):
            rows.append(f"| `{name}` | {one.status} | {_cell(one.title)} |")
    return f"# Errors\n\n```text\n{inspect.getdoc(errors)}\n```\n\n" + "\n".join(rows) + "\n"


def event_kinds() -> str:
    """The kinds of events that the code writes."""
    files = [path for folder in ("coalition", "autoscaler") for path in sorted((ROOT / folder).rglob("*.py"))]
    written = {kind for path in files for kind in EVENT.findall(path.read_text(encoding="utf-8"))}
    kinds = sorted(written - {"instance.id", "farm.key"})  # a column and a file
    lines = ["# Events\n", "Each transition is kept with its time, who or what caused it, and why: `coalition events`.\n"]
    return "\n".join([*lines, *(f"- `{kind}`" for kind in kinds)]) + "\n"


def what_is_measured() -> str:
    """Every metric."""
    rows = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for one in metrics.ALL:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.name}` | {one.kind} | {labels} | {_cell(one.help)} |")
    intro = "What `GET /metrics` tells Prometheus; who may ask, and what to watch, is in [metrics](../metrics.md).\n"
    return "\n".join(["# Metrics\n", intro, *rows]) + "\n"


def python_api() -> str:
    """The client, by its docstrings."""
    return "# Python API\n\n```{eval-rst}\n.. automodule:: coalition.client\n   :members:\n```\n"


def library_licences() -> str:
    """What an installation with all extras brings with it."""
    rows = [f"| {_cell(one.name)} | {_cell(one.licence)} |" for one in found()]
    intro = "Coalition is under the MIT licence. An installation with all extras, `coalition[all]`, brings these with it:\n"
    return "\n".join(["# Licences of libraries\n", intro, "| library | licence |", "|---|---|", *rows]) + "\n"


# ---------------------------------------------------------------- Markdown


def _cell(text: Any) -> str:
    """Text in a cell of a table: nothing in it is markup."""
    plain = re.sub(r"\s+", " ", str(text)).strip()
    return re.sub(r"([\\|<>*_\[\]{}$~])", r"\\\1", plain) if "`" not in plain else plain.replace("|", "\\|").replace("<", "\\<")


def _code(text: Any) -> str:
    return f"`{str(text).replace('|', '/')}`" if str(text) else ""


def _prose(text: str) -> str:
    """A docstring: lines that are indented stay as they are, the rest is text."""
    return "\n".join(line if line.startswith("    ") else re.sub(r"([<>*_{}$])", r"\\\1", line) for line in text.splitlines())
