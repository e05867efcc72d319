"""What cloud machines cost lately, as text for a mail: by pool, with what stood idle, and what each budget has left.

    python examples/cost_report.py --days 1        # in cron, each night: its output is the mail

Needs the base install only, and a token that may see all jobs where the farm has a log-in (COALITION_TOKEN).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coalition.client import Client
from coalition.errors import CoalitionError

MICRO = 1_000_000


def amount(micro: int, currency: str) -> str:
    return f"{micro / MICRO:,.2f} {currency}"


def spent(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for entry in sorted(entries, key=lambda entry: -entry["amount_micro"]):
        idle = entry["idle_micro"] / entry["amount_micro"] if entry["amount_micro"] else 0.0
        hours = entry["seconds"] / 3_600
        yield f"  {entry['key']:<20} {amount(entry['amount_micro'], entry['currency']):>14}  {hours:8.1f} h  {idle:4.0%} idle"


def left(budgets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for budget in budgets:
        of = f"of {amount(budget['cap_micro'], budget['currency'])} a {budget['window']}"
        yield f"  {budget['name']:<20} {amount(budget['left_micro'], budget['currency']):>14}  {of}"


def main() -> int:
    parser = argparse.ArgumentParser(description="What cloud machines cost lately.")
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--server", help="the server's address; found by itself when left out")
    given = parser.parse_args()
    try:
        client = Client(given.server)
        entries = client.ledger(since=time.time() - 86_400 * given.days, group_by="pool")
        budgets = client.budgets()
    except CoalitionError as error:
        print(f"cost_report: {error}", file=sys.stderr)
        return 1
    print(f"Cloud machines, the last {given.days:g} days")
    print("\n".join(spent(entries)) or "  nothing was spent")
    print("\nLeft in the budgets")
    print("\n".join(left(budgets)) or "  there are no budgets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
