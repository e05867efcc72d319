"""The database: one engine, transactions, retries at one place, and the few statements that run straight through the driver."""

from __future__ import annotations

import functools
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, Table, bindparam, create_engine, event, insert, select, text, update
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.sql import ClauseElement

from coalition import schema
from coalition.config import Settings
from coalition.errors import ConfigError, Unavailable

log = logging.getLogger("coalition.store")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Base")

ATTEMPTS = 6
# Busy and locked (SQLite), deadlock, lock wait and lost connections (MariaDB), serialization failure and deadlock (PostgreSQL).
TRANSIENT_TEXT = ("database is locked", "database is busy", "database table is locked")
TRANSIENT_CODES = {1205, 1213, 2006, 2013, 1020, "40001", "40P01", "55P03"}
AWAY_TEXT = ("unable to open", "disk I/O error", "disk is full", "readonly")
AWAY_CODES = {1040, 1053, 2002, 2003, 2006, 2013, 2055}  # MariaDB: too many connections, shutting down, cannot connect, lost
IN_CHUNK = 1_024


class Base:
    """Engine and transactions. `clock` gives seconds since 1970; tests give their own."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.clock = clock
        self.url = make_url(settings.database_url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        # SQLite has one writer at a time: a fair queue here beats its own busy loop.
        self._write_lock = threading.Lock()
        if self.sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = create_engine(self.url, **_engine_options(self.url, settings))
        if self.sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in a transaction that sees one moment and changes nothing."""
        with self._connected(), self.engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in a transaction that commits at its end. Prefer @writes, which also tries again."""
        guard = self._write_lock if self.sqlite else nullcontext()
        with self._connected(), guard, self.engine.connect() as db:
            db = db.execution_options(coalition_write=True)
            with db.begin():
                yield db

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            if transient(error) or not away(error):
                raise
            log.error("the database is away: %s", error)
            raise Unavailable("the database is away; try again") from error

    def _many(self, db: Connection, statement: Hot, rows: Sequence[tuple[Any, ...]]) -> int:
        """Runs a hot statement for every row; the number of rows it touched."""
        return statement.many(db, rows) if rows else 0

    def _insert_new(self, table: Table) -> Any:
        """An INSERT that leaves an existing row alone."""
        backend = self.url.get_backend_name()
        if backend == "sqlite":
            return sqlite_insert(table).on_conflict_do_nothing()
        if backend == "postgresql":
            return postgresql_insert(table).on_conflict_do_nothing()
        return mysql_insert(table).prefix_with("IGNORE")

    def _allocate(self, db: Connection, name: str, count: int) -> int:
        """The first of `count` new numbers of a sequence."""
        end = self._bump(db, name, count)
        return end - count + 1

    def _bump(self, db: Connection, name: str, by: int = 1) -> int:
        """Raises a shared number and returns it."""
        if (by and RAISE_COUNTER.many(db, [(by, name)]) == 0) or not READ_COUNTER.all(db, name):
            db.execute(self._insert_new(schema.counter).values(name=name, value=0))
            RAISE_COUNTER.many(db, [(by, name)])
        return int(READ_COUNTER.all(db, name)[0][0])

    def _event(
        self,
        db: Connection,
        kind: str,
        who: str,
        text: str,
        *,
        job_id: int | None = None,
        worker_id: int | None = None,
        instance_id: int | None = None,
    ) -> None:
        """Writes what happened, who or what caused it, and why, in the transaction that does it."""
        values = {"at": self.clock(), "kind": kind, "who": who[:128], "text": text}
        db.execute(insert(schema.event).values(**values, job_id=job_id, worker_id=worker_id, instance_id=instance_id))


def writes(method: Callable[Concatenate[S, Connection, P], R]) -> Callable[Concatenate[S, P], R]:
    """The method is one transaction; it gets the connection, and runs again after a transient conflict."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self.write() as db:
                    return method(self, db, *args, **kwargs)
            except DBAPIError as error:
                if not transient(error) or attempt == ATTEMPTS:
                    raise _given_up(error) from error
                log.info("%s: %s; trying again", method.__name__, error)
                time.sleep(random.uniform(0.5, 1.5) * 0.01 * 2**attempt)  # noqa: S311 - jitter, no secret
        raise AssertionError("unreachable")

    return cast(Callable[Concatenate[S, P], R], run)


def reads(method: Callable[Concatenate[S, Connection, P], R]) -> Callable[Concatenate[S, P], R]:
    """The method reads one moment; it gets the connection."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with self.read() as db:
                return method(self, db, *args, **kwargs)
        except DBAPIError as error:
            raise _given_up(error) from error

    return cast(Callable[Concatenate[S, P], R], run)


def _given_up(error: Exception) -> Exception:
    return Unavailable("the database is busy; try again") if transient(error) else error


def transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is tried again."""
    origin = getattr(error, "orig", None) or error
    code = getattr(origin, "sqlstate", None) or (origin.args[0] if origin.args else None)
    return code in TRANSIENT_CODES or any(words in str(origin) for words in TRANSIENT_TEXT)


def away(error: DBAPIError) -> bool:
    """Whether the database cannot be reached or cannot write, which may pass; not a mistake in our own SQL."""
    words = str(error.orig)
    if isinstance(error.orig, sqlite3.Error):
        return any(text in words for text in AWAY_TEXT)
    code = getattr(error.orig, "sqlstate", None) or (error.orig.args[0] if error.orig and error.orig.args else None)
    return error.connection_invalidated or code in AWAY_CODES or (code is None or str(code)[:2] in ("08", "57"))


def _engine_options(url: URL, settings: Settings) -> dict[str, Any]:
    pool = {"pool_size": settings.server.threads + 8, "max_overflow": 8, "pool_timeout": 30}
    if url.get_backend_name() == "sqlite":
        return {**pool, "connect_args": {"timeout": 30, "check_same_thread": False, "cached_statements": 512}}
    if url.get_backend_name() in ("mysql", "mariadb", "postgresql"):
        return {**pool, "pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
    raise ConfigError(
        f"[server] database: {url.get_backend_name()} is not supported; allowed: sqlite, mysql, mariadb, postgresql"
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, never by the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-65536", "temp_store=MEMORY"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(db: Connection) -> None:
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("coalition_write") else "BEGIN")


class Hot:
    """A statement that is compiled once per dialect and run straight through the driver, for the few that dispatch lives on.

    `names` are its parameters in the order in which rows give them.
    """

    def __init__(self, statement: ClauseElement, *names: str) -> None:
        self.statement = statement
        self.names = names
        self._compiled: dict[str, tuple[str, Callable[[tuple[Any, ...]], Any] | None]] = {}

    def _for(self, db: Connection) -> tuple[str, Callable[[tuple[Any, ...]], Any] | None]:
        """The text, and what turns a row into the driver's parameters (None: as it is)."""
        dialect = db.dialect
        if dialect.name not in self._compiled:
            compiled: Any = self.statement.compile(dialect=dialect)
            places = compiled.positiontup
            fixed = {name: value for name, value in compiled.params.items() if name not in self.names}
            self._compiled[dialect.name] = (str(compiled), _arranger(self.names, places, fixed))
        return self._compiled[dialect.name]

    def many(self, db: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Runs it for every row; how many rows it touched."""
        sql, arrange = self._for(db)
        cursor = db.connection.cursor()
        try:
            cursor.executemany(sql, rows if arrange is None else [arrange(row) for row in rows])
            return int(cursor.rowcount)
        except db.dialect.loaded_dbapi.Error as error:
            raise _wrapped(db, sql, error) from error
        finally:
            cursor.close()

    def all(self, db: Connection, *row: Any) -> list[tuple[Any, ...]]:
        """Its result rows."""
        sql, arrange = self._for(db)
        cursor = db.connection.cursor()
        try:
            cursor.execute(sql, row if arrange is None else arrange(row))
            return list(cursor.fetchall())
        except db.dialect.loaded_dbapi.Error as error:
            raise _wrapped(db, sql, error) from error
        finally:
            cursor.close()


def _wrapped(db: Connection, sql: str, error: Exception) -> Exception:
    """The driver's error as SQLAlchemy would have raised it, so that it is retried and told like all others."""
    base: type[Exception] = db.dialect.loaded_dbapi.Error
    return DBAPIError.instance(sql, None, error, base, dialect=db.dialect)


def _arranger(
    names: Sequence[str], places: Sequence[str] | None, fixed: dict[str, Any]
) -> Callable[[tuple[Any, ...]], Any] | None:
    if places is None:
        return lambda row: {**fixed, **dict(zip(names, row, strict=True))}
    if list(places) == list(names):
        return None
    index = {name: position for position, name in enumerate(names)}
    picks = [(index.get(name), fixed.get(name)) for name in places]
    return lambda row: tuple(value if position is None else row[position] for position, value in picks)


class HotIn:
    """A hot SELECT ... WHERE column IN (...), compiled for list lengths of powers of two and padded to them."""

    def __init__(self, make: Callable[[list[Any]], ClauseElement]) -> None:
        self.make = make
        self._by_size: dict[int, Hot] = {}

    def all(self, db: Connection, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(ids), IN_CHUNK):
            chunk = list(ids[start : start + IN_CHUNK])
            size = 1 << (len(chunk) - 1).bit_length()
            found += self._of(size).all(db, *chunk, *[chunk[-1]] * (size - len(chunk)))
        return found

    def _of(self, size: int) -> Hot:
        if size not in self._by_size:
            names = [f"p{number}" for number in range(size)]
            self._by_size[size] = Hot(self.make([bindparam(name) for name in names]), *names)
        return self._by_size[size]


RAISE_COUNTER = Hot(
    update(schema.counter)
    .where(schema.counter.c.name == bindparam("b_name"))
    .values(value=schema.counter.c.value + bindparam("b_by")),
    *("b_by", "b_name"),
)
READ_COUNTER = Hot(select(schema.counter.c.value).where(schema.counter.c.name == bindparam("b_name")), "b_name")
ALL_COUNTERS = Hot(select(schema.counter.c.name, schema.counter.c.value))


def chunks(values: Sequence[R], size: int = IN_CHUNK) -> Iterator[Sequence[R]]:
    """The values in pieces that fit an IN list."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def probe(store: Base) -> bool:
    """Whether the database answers."""
    with store.read() as db:
        return bool(db.execute(text("SELECT 1")).scalar_one() == 1)
