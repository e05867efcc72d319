"""The command line, called in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from click.testing import CliRunner, Result

from coalition.cli import cli


def coalition(*words: str, code: int = 0) -> Result:
    """What a command prints; it must end with this exit code, and not with a trace."""
    result = CliRunner().invoke(cli, words, prog_name="coalition")
    assert result.exit_code == code, (words, result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def verbs(group: click.Group = cli, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every verb, groups too, with the words that call it."""
    for name, verb in group.commands.items():
        yield (*before, name), verb
        if isinstance(verb, click.Group):
            yield from verbs(verb, (*before, name))


def document(*words: str, code: int = 0) -> Any:
    """The JSON document that a command prints."""
    return json.loads(coalition(*words, "--json", code=code).stdout)
