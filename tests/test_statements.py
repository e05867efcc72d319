"""The statements that dispatch lives on, as they are given to servers for many rows at once."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from sqlalchemy import Delete, Insert, Update
from sqlalchemy.types import NullType

import coalition.store
from coalition.store.base import GIVEN, Hot, Together

CHANGES = {
    f"{module.name}.{name}": hot
    for module in pkgutil.iter_modules(coalition.store.__path__, "coalition.store.")
    for name, hot in vars(importlib.import_module(module.name)).items()
    if isinstance(hot, Hot) and isinstance(hot.statement, (Insert, Update, Delete))
}


@pytest.mark.parametrize("name", sorted(CHANGES))
@pytest.mark.parametrize("dialect", sorted(GIVEN))
def test_every_parameter_has_the_type_of_its_column(name: str, dialect: str) -> None:
    together = Together(CHANGES[name].statement, CHANGES[name].names, dialect)
    assert len(together.types) == len(CHANGES[name].names)
    assert not any(isinstance(kind, NullType) for kind in together.types)
