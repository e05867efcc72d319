"""Conflicts, broken connections and databases that are away, provoked on the real ones: tried again, or told as such."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event, insert, update
from sqlalchemy.exc import DBAPIError

from coalition import schema
from coalition.errors import Unavailable
from coalition.store import Store, faults
from coalition.store.views import JobQuery
from tests.builders import Clock, Hand, a_job, settings
from tests.databases import KINDS, Databases, Server
from tests.polling import poll_until

each = pytest.mark.parametrize("kind", KINDS, indirect=True)
servers = pytest.mark.parametrize("kind", KINDS[1:], indirect=True)


class Impatient(Store):
    wait_s = 1
    patience_s = 1.5


@pytest.fixture
def store(database: str, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    made = Impatient(settings(tmp_path, database=database), clock)
    yield made
    made.close()


@pytest.fixture
def server(kind: str, databases: Databases) -> Server:
    return databases.server(kind)


@pytest.fixture
def stranger(store: Store) -> Iterator[Connection]:
    """A connection of another program, which may be broken in the test."""
    engine = create_engine(store.url)
    with suppress(DBAPIError), engine.connect() as db:
        yield db
    engine.dispose()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def block(db: Connection) -> None:
    """Locks what a drain of workers needs: on SQLite everything, else the workers' rows."""
    if db.dialect.name == "sqlite":
        db.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        db.execute(update(schema.worker).values(version="blocked"))


def drained(store: Store) -> list[str]:
    return [row["kind"] for row in store.events({}, 0.0, 50)].count("worker.drain") * ["drained"]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "coalition.store")
    return caplog


# ---------------------------------------------------------------- conflicts


@each
def test_who_waits_too_long_for_a_lock_tries_again(
    store: Store, stranger: Connection, threads: ThreadPoolExecutor, heard: pytest.LogCaptureFixture
) -> None:
    hand = Hand(store)
    block(stranger)
    drain = threads.submit(store.drain_workers, [hand.id])
    poll_until(lambda: told(heard))
    stranger.commit()
    assert drain.result(30) == 1
    assert drained(store) == ["drained"]
    assert told(heard)[0].startswith("drain_workers: ")


@servers
def test_the_victim_of_a_deadlock_tries_again(
    store: Store,
    stranger: Connection,
    threads: ThreadPoolExecutor,
    server: Server,
    database: str,
    heard: pytest.LogCaptureFixture,
) -> None:
    hand = Hand(store)
    patient = Store(store.settings, store.clock)
    block(stranger)
    many = [{"at": 0.0, "kind": "x", "who": "", "text": ""}] * 200
    stranger.execute(insert(schema.event), many)  # MariaDB undoes the transaction that has done less
    drain = threads.submit(patient.drain_workers, [hand.id])
    poll_until(lambda: server.waiting(database))
    crossing = threads.submit(stranger.execute, update(schema.counter).values(value=schema.counter.c.value))
    poll_until(lambda: told(heard))
    crossing.result(30)
    stranger.commit()
    assert drain.result(30) == 1
    assert drained(store) == ["drained"]
    assert "deadlock" in told(heard)[0].lower()
    patient.close()


@each
def test_a_lock_that_is_never_given_back_is_a_busy_database(store: Store, stranger: Connection) -> None:
    hand = Hand(store)
    block(stranger)
    with pytest.raises(Unavailable, match="the database is busy; try again"):
        store.drain_workers([hand.id])
    stranger.rollback()
    assert drained(store) == []


@servers
def test_a_row_that_changed_since_it_was_read_is_a_conflict(store: Store, stranger: Connection) -> None:
    """Servers may be set to refuse this; we never are the ones who do it, but know the error."""
    hand = Hand(store)
    stranger = stranger.execution_options(isolation_level="REPEATABLE READ")
    if stranger.dialect.name == "mysql":
        stranger.exec_driver_sql("SET innodb_snapshot_isolation = ON")
    stranger.execute(schema.worker.select()).all()
    store.drain_workers([hand.id])
    with pytest.raises(DBAPIError) as caught:
        stranger.execute(update(schema.worker).values(version="theirs"))
    assert faults.busy(caught.value)
    assert not faults.away(caught.value)


# ---------------------------------------------------------------- broken connections


@servers
def test_connections_that_broke_while_nobody_used_them_are_replaced(store: Store, server: Server, database: str) -> None:
    hand = Hand(store)
    assert store.job(store.submit([a_job()]).ids[0]).state == "WAITING"
    for use in (lambda: store.counters(), lambda: hand.take(1), lambda: store.jobs(JobQuery()), lambda: store.sweep()):
        assert server.break_connections(database)
        use()
    assert [job.state for job in store.jobs(JobQuery())[0]] == ["WORKING"]


@servers
def test_a_transaction_whose_connection_breaks_is_made_once_on_another(
    store: Store,
    stranger: Connection,
    threads: ThreadPoolExecutor,
    server: Server,
    database: str,
    heard: pytest.LogCaptureFixture,
) -> None:
    hand = Hand(store)
    patient = Store(store.settings, store.clock)
    block(stranger)
    drain = threads.submit(patient.drain_workers, [hand.id])
    poll_until(lambda: server.waiting(database))
    server.break_connections(database)
    assert drain.result(30) == 1
    assert drained(store) == ["drained"]
    assert told(heard)
    patient.close()


@servers
def test_a_commit_whose_answer_is_lost_is_not_made_again(store: Store, server: Server, database: str) -> None:
    calls = []

    def break_all(_: Connection) -> None:
        calls.append(server.break_connections(database))

    event.listen(store.engine, "commit", break_all)
    with pytest.raises(Unavailable, match="broke in mid-commit; see whether it was done"):
        store.submit([a_job()])
    event.remove(store.engine, "commit", break_all)
    assert len(calls) == 1
    assert store.jobs(JobQuery())[0] == []


# ---------------------------------------------------------------- away


@servers
def test_a_server_that_is_down_is_said_to_be_away_once_and_found_again(
    store: Store, server: Server, heard: pytest.LogCaptureFixture
) -> None:
    store.submit([a_job()])
    server.stop()
    try:
        for call in (store.counters, store.sweep, lambda: store.submit([a_job()]), lambda: store.jobs(JobQuery())):
            with pytest.raises(Unavailable, match="the database is away; try again"):
                call()
    finally:
        server.start()
    assert len(store.jobs(JobQuery())[0]) == 1
    assert [r.getMessage().partition(":")[0] for r in heard.records if r.levelname != "INFO"] == [
        "the database is away",
        "the database is back",
    ]


@servers
def test_who_finds_no_free_connection_is_told_to_come_again(store: Store) -> None:
    with ExitStack() as held:
        for _ in range(20):
            held.enter_context(store.read())
        with pytest.raises(Unavailable, match="all connections to the database are in use; try again"):
            store.counters()
    assert store.counters() == {}
