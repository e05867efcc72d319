"""How a command is run as its job's user: a template, such as sudo's, whose words are filled in whole and seen by no shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from coalition.errors import BadInput

USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}\Z")  # of no other form, and so no option and no number
OWN = {"HOME", "USER", "LOGNAME", "MAIL", "SHELL"}  # of the worker's user, and not of the job's
PLACES = re.compile(r"\{user\}|__user__|\{dir\}|__dir__|\{command\}|__cmd__")


def words_of(template: str) -> list[str]:
    """The words of a template; ValueError says what it lacks."""
    words = shlex.split(template)
    if words and not any(re.search(r"\{command\}|__cmd__", word) for word in words):
        raise ValueError("needs {command} in it")
    if words and not any(re.search(r"\{user\}|__user__", word) for word in words):
        raise ValueError("needs {user} in it")
    if words and words[0] != PLACES.sub("", words[0]):
        raise ValueError("begins with a program, such as sudo")
    return words


def filled(template: str, user: str, place: str, command: str, environment: Mapping[str, str]) -> list[str]:
    """The words to start. BadInput for a user whose commands are not run: one of an odd name, and root."""
    if not USER.match(user) or user == "root":
        raise BadInput(f"the worker runs no commands as {user[:80]!r}")
    given = {"{user}": user, "__user__": user, "{dir}": place, "__dir__": place, "{command}": command, "__cmd__": command}
    words: list[str] = []
    for word in words_of(template):
        if word == "{environment}":
            words += [f"{name}={text}" for name, text in sorted(environment.items()) if name not in OWN]
        else:
            words.append(PLACES.sub(lambda match: given[match[0]], word))
    return words


def signal_to(mark: str, number: int) -> str:
    """A shell command that signals whatever carries a mark, NAME=value, in its environment; it needs /proc and GNU's grep."""
    found = f"grep -lszxF -- {shlex.quote(mark)} /proc/[0-9]*/environ"
    return f'for one in $({found}); do one=${{one#/proc/}}; kill -{int(number)} "${{one%/environ}}" 2>/dev/null; done; true'
