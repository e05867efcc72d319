"""Budgets and commitments in memory, by Rule M, as the store keeps them in the database: for the simulator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from autoscaler.snapshot import Budget
from coalition import ledger
from coalition.config import BudgetSettings

Window = tuple[str, float]  # (budget, start)


@dataclass
class Commitment:
    """What one instance counts in each window, and the terms by which it is reckoned."""

    price_micro: int
    sponsors: tuple[str, ...]
    created_at: float
    launch_by: float
    minimum_s: float
    granularity_s: float
    until: float = 0.0
    parts: dict[Window, int] = field(default_factory=dict)


class Books:
    """`committed <= cap` for each hard budget's window; `reserve` and `extend` answer False where it would be exceeded."""

    def __init__(self, budgets: Sequence[BudgetSettings], slack_s: float) -> None:
        self.budgets = {budget.name: budget for budget in budgets}
        self.slack_s = slack_s
        self.committed: dict[Window, int] = defaultdict(int)
        self.overshoot = 0  # the most that a hard window was ever beyond its cap

    def fund(self, account: Commitment, until: float) -> bool:
        """Reserves an instance's time up to `until`, in all windows of all its sponsors or in none."""
        terms = (account.launch_by, self.slack_s, account.minimum_s, account.granularity_s)
        wanted = self._parts(account, ledger.committed_end(until, *terms))
        for key, amount in wanted.items():
            budget = self.budgets[key[0]]
            if budget.hard and self.committed[key] + amount - account.parts.get(key, 0) > budget.amount_micro:
                return False
        self._set(account, wanted)
        account.until = until
        return True

    def settle(self, account: Commitment, start: float, end: float) -> int:
        """What it cost takes the place of what was reserved; the bill."""
        stop = ledger.billed_end(start, end, account.minimum_s, account.granularity_s)
        bill = {}
        for name in account.sponsors:
            budget = self.budgets[name]
            cuts = ledger.windows(budget.window, budget.timezone, start, stop)
            for cut, amount in zip(cuts, ledger.split(account.price_micro, start, stop, cuts), strict=True):
                bill[name, cut[0]] = amount
        self._set(account, bill)
        return ledger.cost(account.price_micro, start, stop)

    def _parts(self, account: Commitment, end: float) -> dict[Window, int]:
        parts = {}
        for name in account.sponsors:
            budget = self.budgets[name]
            cuts = ledger.windows(budget.window, budget.timezone, account.created_at, end)
            for cut, amount in zip(cuts, ledger.commit(account.price_micro, account.created_at, end, cuts), strict=True):
                parts[name, cut[0]] = amount
        return parts

    def _set(self, account: Commitment, parts: dict[Window, int]) -> None:
        for key in parts.keys() | account.parts.keys():
            self.committed[key] += parts.get(key, 0) - account.parts.get(key, 0)
            budget = self.budgets[key[0]]
            if budget.hard:
                self.overshoot = max(self.overshoot, self.committed[key] - budget.amount_micro)
        account.parts = parts

    def snapshot(self, start: float, end: float) -> tuple[Budget, ...]:
        """The budgets with the windows that [start, end) touches."""
        found = []
        for budget in self.budgets.values():
            bounds = ledger.windows(budget.window, budget.timezone, start, end)
            found.append(Budget(budget, tuple((*window, self.committed[budget.name, window[0]]) for window in bounds)))
        return tuple(found)

    def next_window(self, now: float) -> float:
        """When a budget's next window begins: there is money again."""
        ends = [ledger.window_at(b.window, b.timezone, now)[1] for b in self.budgets.values() if b.window != "total"]
        return min(ends, default=ledger.ENDLESS)
