"""The documentation: it builds without a warning, names everything that there is, and its commands are commands."""

from __future__ import annotations

import html
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from coalition import cli, client, config, errors, metrics
from coalition.server.openapi import OPERATIONS
from scripts import reference

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:    |)(?:\$ )?(coalition [^`\n]*?)(?:\s{2,}#.*)?$", re.MULTILINE)
NOT_A_COMMAND = re.compile(r"[\[\]…]|\.\.\.")  # a form with parts to fill in


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of each page, by its name."""
    folder = tmp_path_factory.mktemp("docs")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        str(folder / "trees"),
        "docs",
        str(folder / "html"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    pages = (folder / "html").rglob("*.html")
    return {page.relative_to(folder / "html").with_suffix("").as_posix(): _text(page) for page in pages}


def _text(page: Path) -> str:
    body = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", "", body[0])) if body else ""


def test_it_builds_without_a_warning_and_is_all_there(built: dict[str, str]) -> None:
    assert {"index", "getting-started", "reference/command-line", "reference/python"} <= built.keys()
    assert all(len(text) > 200 for name, text in built.items() if name not in ("search", "genindex", "py-modindex"))


def test_every_knob_is_in_it(built: dict[str, str]) -> None:
    text = built["reference/cloud-ini"]
    for section, kind in {**config.SINGLE, **config.NAMED}.items():
        assert f"[{section}" in text
        assert [key for key in config.knobs(kind) if not re.search(rf"^{re.escape(key)}$", text, re.MULTILINE)] == []


def test_every_verb_is_in_it_with_its_options(built: dict[str, str]) -> None:
    text = re.sub(r"\s+", " ", built["reference/command-line"])
    for name, verb in _verbs(cli.cli, "coalition"):
        assert f"{name} " in text
        options = [
            flag for one in verb.params for flag in one.opts if flag.startswith("--") and not getattr(one, "hidden", False)
        ]
        assert [flag for flag in options if flag not in text] == []


def _verbs(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    for verb, command in group.commands.items():
        if not command.hidden:
            yield f"{name} {verb}", command
            if isinstance(command, click.Group):
                yield from _verbs(command, f"{name} {verb}")


def test_every_error_and_state_is_in_it(built: dict[str, str]) -> None:
    kinds = [name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.CoalitionError)]
    assert [name for name in kinds if name not in built["reference/errors"]] == []
    for states in reference.KINDS.values():
        assert [str(state) for state in states if str(state) not in built["reference/states"]] == []


def test_every_route_metric_and_method_is_in_it(built: dict[str, str]) -> None:
    routes = _letters(built["reference/rest"])  # quotes and dots are set as a typesetter would
    assert [one.summary for one in OPERATIONS.values() if _letters(one.summary) not in routes] == []
    assert [one.name for one in metrics.ALL if one.name not in built["reference/metrics"]] == []
    methods = {name for name in vars(client.Client) if not name.startswith("_")}
    assert methods - set(re.findall(r"^\s*(?:property )?(\w+)", built["reference/python"], re.MULTILINE)) == set()


def _letters(text: str) -> str:
    return re.sub(r"[^A-Za-z]+", "", text)


def test_the_picture_of_states_has_every_step() -> None:
    for name, table in reference.TABLES.items():
        shown = reference.picture(list(map(str, reference.KINDS[name])), table)
        assert [event for _, event in table if event not in shown] == []
        assert shown.count("<rect") == len(reference.KINDS[name])


def test_events_are_found_in_the_code() -> None:
    assert {"job.submit", "job.edit", "worker.drain", "instance.drain"} <= set(
        re.findall(r"`([a-z_.]+)`", reference.event_kinds())
    )


def test_what_is_no_markup_stays_text() -> None:
    assert reference._cell("a | b <c> *d*\n e_f") == r"a \| b \<c\> \*d\* e\_f"


COMMANDS = [
    pytest.param(line, id=f"{page.stem}: {line[:60]}")
    for page in PAGES
    for line in dict.fromkeys(COMMAND.findall(page.read_text(encoding="utf-8")))
    if not NOT_A_COMMAND.search(line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_in_the_text_is_one_that_coalition_takes(line: str) -> None:
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0].partition(" &&")[0].rstrip("&; "), comments=True)[1:]
    command: click.Command = cli.cli
    context = click.Context(command, info_name="coalition")
    while isinstance(command, click.Group):
        with command.make_context(context.info_name, list(words), parent=context.parent, resilient_parsing=False) as made:
            rest = [*made._protected_args, *made.args]
            if not rest and command.invoke_without_command:
                return
            assert rest, f"{line}: a verb is missing"
            found = command.get_command(made, rest[0])
            assert found is not None, f"{line}: there is no {rest[0]}"
            context, command, words = click.Context(found, parent=made, info_name=rest[0]), found, rest[1:]
    command.make_parser(context).parse_args(list(words))


def test_commands_are_found_in_the_text() -> None:
    assert len(COMMANDS) > 20
