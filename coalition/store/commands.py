"""Which commands and variables jobs may have: `[commands]` and `[commands NAME]` of cloud.ini, looked at when a job gets one.

A regular expression may take its time, which no transaction waits for: `check`, inside of one, knows what was compared before,
and raises Unmatched for the rest. The transaction is undone, they are compared, and it runs again (store/base.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path

from coalition.config import CommandSettings, Settings
from coalition.errors import NotAllowed

MATCHER = Path(__file__).parent.parent / "matcher.py"
LONGEST_S = 10.0  # of one comparison, whatever the patterns
REMEMBERED = 10_000


Fit = tuple[str, str]  # a user, and a command that a rule of his fits
found_now: ContextVar[Collection[Fit]] = ContextVar("found_now", default=())  # for the transaction that runs again


class Unmatched(Exception):
    """Commands that have yet to be compared with the rules. `match` does it: those that fit; NotAllowed if one does not."""

    def __init__(self, match: Callable[[], set[Fit]]) -> None:
        super().__init__("commands are compared before")
        self.match = match


class CommandRules:
    """Thread-safe. Without a rule everything may be run; else a command must fit one that is for all, or one of its user's."""

    def __init__(self, settings: Settings) -> None:
        self.common = settings.commands
        self.of = {rules.name: rules for rules in settings.commands_of}
        self._fit: set[Fit] = set()

    @property
    def is_open(self) -> bool:
        """Whether there is no rule at all."""
        return not any(rules.allow or rules.environment for rules in (self.common, *self.of.values()))

    def check(self, user: str, commands: Iterable[str], environment: Mapping[str, str]) -> None:
        """NotAllowed for what this user's jobs may not run, or set. Unmatched where that is not known yet."""
        own = self.of.get(user, CommandSettings())
        if names := (*self.common.environment, *own.environment):
            wrong = sorted(name for name in environment if not any(_is_named(name, one) for one in names))
            if wrong:
                words = f"{wrong[0]} may not be set; allowed: {', '.join(names)[:500]}"
                raise NotAllowed(f"environment: {words}; see [commands] in cloud.ini", fields={"environment": words})
        if patterns := (*self.common.allow, *own.allow):
            known = (self._fit, found_now.get())
            if asked := sorted(one for one in set(commands) if not any((user, one) in some for some in known)):
                raise Unmatched(lambda: self._match(user, patterns, asked))

    def _match(self, user: str, patterns: Iterable[str], asked: list[str]) -> set[Fit]:
        wrong = _refused(list(patterns), asked)
        if wrong:
            words = f"{asked[wrong[0]][:200]!r} may not be run by {user or 'nobody'}: no rule of [commands] in cloud.ini fits it"
            raise NotAllowed(words, fields={"command": words})
        if len(self._fit) + len(asked) > REMEMBERED:
            self._fit = set()
        found = {(user, command) for command in asked}
        self._fit |= found
        return found


def _is_named(name: str, rule: str) -> bool:
    return name.startswith(rule[:-1]) if rule.endswith("*") else name == rule


def _refused(patterns: list[str], texts: list[str]) -> list[int]:
    """The numbers of the texts that no pattern fits; all of them if that cannot be told."""
    question = json.dumps({"patterns": patterns, "texts": texts})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(MATCHER)],
            input=question,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=True,
        )
        return [int(number) for number in json.loads(done.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):
        return list(range(len(texts)))
