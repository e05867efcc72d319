"""Compares commands with regular expressions. A program of its own: standard library only, imports nothing of ours.

A regular expression can take for ever and holds the interpreter meanwhile; here it delays one comparison, and not for long.
Standard input is {"patterns": [...], "texts": [...]}; the answer is a list: the numbers of the texts that no pattern fits whole.
A pattern that takes too long fits nothing.
"""

from __future__ import annotations

import json
import re
import signal
import sys

PATTERN_S = 0.25  # of processor time for one pattern and one text


def fits(pattern: str, text: str) -> bool:
    """Whether a pattern fits all of a text, as far as it can be told in time."""

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, late)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, PATTERN_S)
        return re.fullmatch(pattern, text, re.DOTALL) is not None
    except TimeoutError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def refused(patterns: list[str], texts: list[str]) -> list[int]:
    """The numbers of the texts that no pattern fits."""
    return [number for number, text in enumerate(texts) if not any(fits(pattern, text) for pattern in patterns)]


if __name__ == "__main__":
    print(json.dumps(refused(**json.load(sys.stdin))))
