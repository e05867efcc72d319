"""What was changed while the server ran: rows that go before cloud.ini, each with who wrote it and when.

A section is "budget NAME", "pool NAME" or "autoscaler"; its JSON has the fields that it sets. A budget that cloud.ini does not
have stands there whole, with `made`. What is not for cloud.ini as it is now (a budget that was taken out of it) has no effect.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, insert, select

from coalition.config import BudgetSettings, PoolSettings, Settings
from coalition.schema import setting_override

SCALING = "autoscaler"
MADE = "made"
T = TypeVar("T", PoolSettings, BudgetSettings)


@dataclass(frozen=True)
class Override:
    fields: Mapping[str, Any]
    who: str
    at: float

    @property
    def made(self) -> bool:
        """Whether it is a budget of its own, and not a change of one of cloud.ini."""
        return bool(self.fields.get(MADE))


@dataclass(frozen=True)
class InForce:
    """cloud.ini with what was changed since."""

    pools: tuple[PoolSettings, ...]
    budgets: tuple[BudgetSettings, ...]
    paused: Override | None  # nothing new is started while it is there
    overrides: Mapping[str, Override]


def in_force(db: Connection, settings: Settings) -> InForce:
    """What holds now."""
    rows = db.execute(select(setting_override).order_by(setting_override.c.section))
    found = {row.section: Override(json.loads(row.json), row.who, row.at) for row in rows}
    pools = tuple(_changed(pool, found.get(f"pool {pool.name}")) for pool in settings.pools)
    budgets = [_changed(budget, found.get(f"budget {budget.name}")) for budget in settings.budgets]
    known = {budget.name for budget in settings.budgets}
    for section, one in found.items():
        kind, _, name = section.partition(" ")
        if kind == "budget" and one.made and name not in known:
            budgets.append(_changed(BudgetSettings(name, 0, 0), one))
    return InForce(pools, tuple(budgets), found.get(SCALING), found)


def _changed(settings: T, override: Override | None) -> T:
    if override is None:
        return settings
    known = {one.name for one in dataclasses.fields(settings)}
    fields = override.fields.items()
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields if name in known}
    return replace(settings, **given)


def write(db: Connection, section: str, fields: Mapping[str, Any], who: str, at: float) -> None:
    """Sets what a section's row holds; without fields there is none."""
    db.execute(delete(setting_override).where(setting_override.c.section == section))
    if fields:
        text = json.dumps(fields, sort_keys=True)
        db.execute(insert(setting_override).values(section=section, json=text, who=who[:128], at=at))
