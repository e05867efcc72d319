"""What only SQLite has: a file, one writer, a disk that may be full."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from coalition.config import ServerSettings
from coalition.errors import ConfigError, Unavailable
from coalition.store import Store
from tests.builders import Clock, Hand, WatchedStore, a_job, settings


def test_what_was_acknowledged_is_there_after_a_new_start(store: WatchedStore, tmp_path: Path, clock: Clock) -> None:
    ids = store.submit([a_job()]).ids
    again = Store(settings(tmp_path), clock)
    assert again.job(ids[0]).state == "WAITING"
    again.close()


def test_the_database_is_durable_and_keeps_foreign_keys(store: WatchedStore) -> None:
    with store.engine.connect() as db:
        found = [db.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == ["wal", 2, 1]


def test_without_pools_a_farm_may_do_without_a_write_through_to_the_disk(tmp_path: Path) -> None:
    store = Store(replace(settings(tmp_path), server=ServerSettings(data_dir=str(tmp_path), durability="process")))
    with store.engine.connect() as db:
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 1
    store.close()


def test_a_call_in_the_midst_of_anothers_transaction_waits_for_its_turn(store: WatchedStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "coalition.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    made: list[int] = []
    thread = threading.Thread(target=lambda: made.extend(store.submit([a_job()]).ids))
    thread.start()
    thread.join(0.2)
    assert made == []
    other.execute("COMMIT")
    other.close()
    thread.join(10)
    assert len(made) == 1


@pytest.mark.parametrize("method", ["submit", "counters", "exchange", "sweep"])
def test_a_database_that_is_away_is_said_to_be_away(store: WatchedStore, tmp_path: Path, method: str) -> None:
    hand = Hand(store)
    store.engine.dispose()
    for name in ("coalition.db", "coalition.db-wal", "coalition.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "coalition.db").mkdir()
    given = {"submit": ([a_job()],), "exchange": ([hand.call(want=1)],)}
    with pytest.raises(Unavailable):
        getattr(store, method)(*given.get(method, ()))


def test_a_full_disk_is_said_and_leaves_the_store_as_it_was(store: WatchedStore) -> None:
    hand = Hand(store)
    (job_id,) = store.submit([a_job()]).ids
    (lease,) = hand.take(1)
    store.engine.dispose()
    plain = Store(store.settings, store.clock)
    with plain.engine.connect() as db:
        pages = db.exec_driver_sql("PRAGMA page_count").scalar()
        db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable):
        plain.submit([a_job(command="x" * 60_000)] * 200)
    plain.close()
    hand.finish(lease)
    assert store.job(job_id).state == "FINISHED"


def test_an_unknown_kind_of_database_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="oracle is not supported"):
        Store(settings(tmp_path).__class__(server=ServerSettings(data_dir=str(tmp_path), database="oracle://x/y")))
