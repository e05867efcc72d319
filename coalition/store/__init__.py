"""The store: every query and every transaction. One method is one transaction, and one sentence of the domain.

base.py      engine, transactions, retries        dispatch.py  results, leases, heartbeats, loss
jobs.py      submit, edit, pause, reset, delete   workers.py   enrolment, tokens, fleet
cloud.py     instances, intents, money            views.py     what people look at: lists, reasons, events
"""

from __future__ import annotations

from coalition.store.views import Views


class Store(Views):
    """All of it. Thread-safe: any thread may call any method."""
