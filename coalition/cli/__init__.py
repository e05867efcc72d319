"""The command `coalition`: a module of verbs for each noun. What is not needed to print the help is imported inside the verbs."""

from __future__ import annotations

from typing import NoReturn

from coalition.cli import (
    cloud,
    database,
    farm,
    init,
    jobs,
    limits,
    notify,
    prices,
    providers,
    red_button,
    simulate,
    top,
    users,
    workers,
)
from coalition.cli.frame import cli

__all__ = [
    "cli",
    "cloud",
    "database",
    "farm",
    "init",
    "jobs",
    "limits",
    "main",
    "notify",
    "prices",
    "providers",
    "red_button",
    "simulate",
    "top",
    "users",
    "workers",
]


def main() -> NoReturn:
    """What the console script runs."""
    cli.main(prog_name="coalition")
    raise AssertionError("main exits")
