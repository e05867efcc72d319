"""Who pays for an instance, and what a plan may still commit. Pure; the guard itself is one UPDATE in the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoscaler.snapshot import Budget, Instance
from coalition import ledger
from coalition.config import BudgetSettings

Part = tuple[tuple[str, float], int]  # ((budget, start of its window), amount)


@dataclass(frozen=True)
class Short:
    """A budget that cannot pay."""

    budget: BudgetSettings
    left_micro: int
    need_micro: int

    def __str__(self) -> str:
        money = [ledger.money(x, self.budget.currency) for x in (self.left_micro, self.budget.amount_micro, self.need_micro)]
        return f"budget {self.budget.name} has {money[0]} of {money[1]} left{when(self.budget)}, {money[2]} would be needed"


def when(budget: BudgetSettings) -> str:
    """A budget's present window in words, to stand after "left"."""
    return {"total": "", "day": " today"}.get(budget.window, f" this {budget.window}")


class Purse:
    """What the hard budgets have left while one plan is made."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self.budgets = {budget.settings.name: budget for budget in budgets}
        self._left = {
            (budget.settings.name, start): budget.settings.amount_micro - committed
            for budget in budgets
            for start, _, committed in budget.windows
        }

    def hard(self, names: Iterable[str]) -> list[BudgetSettings]:
        """Those of these budgets that can stop machines."""
        known = [self.budgets[name].settings for name in names if name in self.budgets]
        return [budget for budget in known if budget.hard]

    def cost(self, names: Iterable[str], price_micro: int, start: float, end: float) -> list[Part]:
        """What an instance from `start` to `end` commits of each hard budget's windows."""
        parts: list[Part] = []
        for budget in self.hard(names):
            cuts = ledger.windows(budget.window, budget.timezone, start, end)
            amounts = ledger.commit(price_micro, start, end, cuts)
            parts += [((budget.name, window_start), amount) for (window_start, _), amount in zip(cuts, amounts, strict=True)]
        return parts

    def extension(self, instance: Instance, until: float, slack_s: float) -> list[Part]:
        """What funding an instance up to `until` commits beyond what it has."""
        terms = (instance.launch_by, slack_s, instance.minimum_s, instance.granularity_s)
        old = ledger.committed_end(instance.committed_until, *terms)
        new = ledger.committed_end(until, *terms)
        if new <= old:
            return []
        parts: list[Part] = []
        for budget in self.hard(instance.sponsors):
            cuts = ledger.windows(budget.window, budget.timezone, max(instance.created_at, old - 1), new)
            had = ledger.commit(instance.price_micro, instance.created_at, old, cuts)
            will = ledger.commit(instance.price_micro, instance.created_at, new, cuts)
            parts += [((budget.name, cut[0]), b - a) for cut, a, b in zip(cuts, had, will, strict=True)]
        return parts

    def room(self, parts: Sequence[Part], count: int) -> tuple[int, Short | None]:
        """How many of `count` times these parts can be paid, and which budget is in the way of the next."""
        fits, short = count, None
        for key, amount in parts:
            left = max(0, self._left.get(key, 0))
            if amount > 0 and left // amount < fits:
                fits, short = left // amount, Short(self.budgets[key[0]].settings, left, amount)
        if short is not None and fits > 0:
            left = short.left_micro - fits * short.need_micro
            short = Short(short.budget, left, short.need_micro)
        return fits, short

    def lacking(self, parts: Sequence[Part]) -> Short | None:
        """The first budget that could not pay these parts and may not end what it began; later windows are taken as whole."""
        for key, amount in parts:
            budget = self.budgets[key[0]].settings
            left = max(0, self._left.get(key, budget.amount_micro))
            if amount > left and not budget.kill:
                return Short(budget, left, amount)
        return None

    def take(self, parts: Sequence[Part], count: int = 1) -> None:
        """Commits it within this plan."""
        for key, amount in parts:
            self._left[key] = self._left.get(key, 0) - amount * count
