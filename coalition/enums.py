"""An enumeration of words, for all who have one. A module of its own, because the contract of providers loads little else."""

from __future__ import annotations

from enum import Enum


class StrEnum(str, Enum):  # the standard one needs Python 3.11; workers and clients run on 3.10
    """Members are plain strings, also when formatted."""

    __str__ = str.__str__

    def __format__(self, form: str) -> str:
        return str.__format__(self, form)
