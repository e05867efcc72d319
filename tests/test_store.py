"""The store's contract on SQLite (the `store` of conftest.py), what only SQLite has, and random walks over everything."""

from __future__ import annotations

from contract_store import *  # noqa: F403
