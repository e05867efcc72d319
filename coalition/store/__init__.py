"""The store: every query and every transaction. One method is one transaction, and one sentence of the domain.

base.py          engine, transactions, retries          dispatch.py  results, leases, heartbeats, loss
tree.py          handed down, counted up, order         workers.py   enrolment, tokens, fleet
dependencies.py  who waits for whom, no cycles          cloud.py     instances, intents, money
submit.py        new jobs, groups and frame ranges      views.py     what people look at: lists, events (lists.py)
jobs.py          edit, move, pause, reset, delete       explain.py   why jobs wait (explain_*.py, moment.py)
archive.py       finished trees that have left              bulk.py      one action on many jobs, or only its rehearsal
notices.py       who is told of what, and what is on its way     history.py   how the farm did, minute by minute
"""

from __future__ import annotations

from coalition.store.accounts import Accounts
from coalition.store.bulk import Bulk
from coalition.store.history import History


class Store(Bulk, Accounts, History):
    """All of it. Thread-safe: any thread may call any method."""
