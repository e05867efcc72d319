"""What a job's texts mean on this machine: $(NAME) replaced by values, the farm's places by their names on this platform."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

from coalition.errors import BadInput
from coalition.values import PLATFORMS

PLATFORM = {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")
MAX_TEXT = 131_072  # characters of a command or a value once substituted; Linux takes no longer argument
REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


# ---------------------------------------------------------------- $(NAME)


def expand(text: str, layers: Sequence[Mapping[str, str]]) -> str:
    """`text` with each $(NAME) replaced by its value in the first layer that has it, and so on in the values.

    A value that names itself means the next layer's: PATH="$(HOME)/bin:$(PATH)". What no layer has stays as it is, as
    $(date) is the shell's. BadInput when the text grows beyond MAX_TEXT characters.
    """
    return _expand(text, layers, {}, [MAX_TEXT]) if "$(" in text else text


def _expand(text: str, layers: Sequence[Mapping[str, str]], inside: Mapping[str, int], left: list[int]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        for depth in range(inside.get(name, -1) + 1, len(layers)):
            if name in layers[depth]:
                found = layers[depth][name]
                left[0] -= len(found) + 1
                if left[0] < 0:
                    raise BadInput(f"$({name}) grows beyond {MAX_TEXT:,} characters")
                return _expand(found, layers, {**inside, name: depth}, left) if "$(" in found else found
        return match[0]

    return REFERENCE.sub(value, text)


# ---------------------------------------------------------------- places on other platforms


class PathRules:
    """The farm's places under their names on each platform, as seen from this one.

    `map(text)` replaces another platform's name of a place by this one's, where it begins a word and is followed by a
    separator or the word's end. A word begins at the start, after white space, a quote, or one of = : ; , | & < > (.
    Windows places are found whatever their case and slashes, and the rest of their word gets this platform's slashes; a
    quoted word ends at its quote, another at white space. The longest place wins. `places` serves $(NAME).
    """

    def __init__(self, rules: Sequence[Mapping[str, str]] = (), platform: str = PLATFORM) -> None:
        self.places = {rule["name"]: rule[platform] for rule in rules if rule.get(platform)}
        # A place that is here already is "replaced" by itself, so that a shorter foreign one does not match in it.
        known = {rule[other]: rule[platform] for rule in rules if rule.get(platform) for other in PLATFORMS if rule.get(other)}
        found = sorted((place for place in known if place.strip("/\\")), key=len, reverse=True)
        posix = platform != "windows"
        self._own = [(known[place].rstrip("/\\") or known[place], posix and self._is_windows(place)) for place in found]
        places = "|".join(f"({self._regex(place.rstrip(chr(92) + '/'))})" for place in found)
        self._pattern = re.compile(rf"""(?<![^\s"'`=:;,|&<>(])(?:{places})(?=[\\/\s"'`:;,|&<>)]|$)""") if found else None

    @staticmethod
    def _is_windows(place: str) -> bool:
        return "\\" in place or re.match(r"[A-Za-z]:", place) is not None

    def _regex(self, place: str) -> str:
        if not self._is_windows(place):
            return re.escape(place)
        return "(?i:" + r"[\\/]+".join(re.escape(part) for part in re.split(r"[\\/]", place)) + ")"

    def map(self, text: str) -> str:
        matches = list(self._pattern.finditer(text)) if self._pattern else []
        if not matches:
            return text
        parts = []
        at = 0
        for match, following in zip(matches, [*(m.start() for m in matches[1:]), len(text)], strict=True):
            own, turn = self._own[(match.lastindex or 1) - 1]
            end = min(following, self._end_of_word(text, match)) if turn else match.end()
            parts += [text[at : match.start()], own, text[match.end() : end].replace("\\\\", "/").replace("\\", "/")]
            at = end
        return "".join([*parts, text[at:]])

    @staticmethod
    def _end_of_word(text: str, match: re.Match[str]) -> int:
        opened = text[match.start() - 1 : match.start()]
        end = re.compile(re.escape(opened) if opened in ('"', "'") else r"""[\s"'`;|&<>()]""").search(text, match.end())
        return end.start() if end else len(text)
