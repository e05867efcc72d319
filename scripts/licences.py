"""The libraries that an installation with all extras brings with it, and their licences."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
BASE = ("psutil", "click", "rich")
EXTRAS = ("server", "aws", "gcp", "libcloud", "mysql", "postgresql", "ldap")
WORDS = ("MIT", "BSD", "0BSD", "Apache", "ISC", "PSF", "Python Software Foundation", "MPL", "Mozilla Public License", "LGPL")
KNOWN = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)


class Library(NamedTuple):
    name: str
    version: str
    licence: str

    @property
    def known(self) -> bool:
        """Whether its licence lets a studio install it beside Coalition, which is under the MIT licence."""
        return bool(KNOWN.search(self.licence))


def found() -> list[Library]:
    """All of them, as far as they are installed here, by name."""
    return [_library(one) for one in needed(*EXTRAS)]


def needed(*extras: str) -> list[Distribution]:
    """What an installation with these extras brings with it, as far as it is installed here, by name."""
    known: dict[str, Distribution] = {}
    waiting = [*BASE, *(one for extra in extras for one in _extra(extra))]
    while waiting:
        requirement = Requirement(waiting.pop())
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        if name in known:
            continue
        try:
            known[name] = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        wanted = map(Requirement, known[name].requires or ())
        parts = requirement.extras or {""}
        waiting += [str(one) for one in wanted if one.marker is None or any(one.marker.evaluate({"extra": it}) for it in parts)]
    return [known[name] for name in sorted(known)]


def _extra(name: str) -> list[str]:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    match = re.search(rf'^    "{name}": (\[.*?\]),\n', text, re.MULTILINE | re.DOTALL)
    assert match, f"setup.py has no extra {name}"
    return [one[0] or one[1] for one in re.findall(r'"([^"]+)"|\'([^\']+)\'', match[1])]


def _library(one: Distribution) -> Library:
    facts = one.metadata
    classifiers = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or () if line.startswith("License ::")]
    short = [text for text in (facts["License-Expression"], facts["License"]) if text and len(text) < 80]
    return Library(facts["Name"], one.version, ", ".join(dict.fromkeys(short + classifiers)))
