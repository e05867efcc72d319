"""The database: one engine, transactions, retries at one place, and the few statements that run straight through the driver.

Write transactions take turns, in the whole farm: SQLite has no other way, and on MariaDB and PostgreSQL each begins by locking
one row. What a transaction has read is true until it commits, no two can deadlock, and the rules of the store need no thought
about what else may run: they are the same on all three. It costs little: a transaction combines many syncs, and those of
different processes would wait for the counters of the groups above their jobs anyway. Reads see one moment and wait for nobody.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import operator
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import compress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    Insert,
    String,
    Table,
    Text,
    bindparam,
    column,
    create_engine,
    event,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy import cast as cast_to
from sqlalchemy.dialects.mysql import dialect as mysql_dialect
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as NoneFree
from sqlalchemy.sql import ClauseElement, visitors
from sqlalchemy.types import TypeEngine

from coalition import schema
from coalition.config import Settings
from coalition.errors import ConfigError, Unavailable
from coalition.store import faults
from coalition.store.commands import CommandRules, Fit, Unmatched, found_now

log = logging.getLogger("coalition.store")
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Base")

caller_address: ContextVar[str] = ContextVar("caller_address", default="")  # from where the call came that this thread serves

ATTEMPTS = 6
STALLED_S = 120  # a connection silent for so long, in a transaction or not, is ended by the database
IN_CHUNK = 1_024
DRIVERS = {"sqlite": "sqlite", "mysql": "mysql+pymysql", "mariadb": "mysql+pymysql", "postgresql": "postgresql+psycopg"}


class Base:
    """Engine and transactions. `clock` gives seconds since 1970; tests give their own."""

    wait_s = 30  # for a lock, or for a connection that is free
    patience_s = 45.0  # after so long nothing is tried again

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.clock = clock
        self.commands = CommandRules(settings)
        self.url = address_of(settings)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._turn = threading.Lock()  # of this process's writers: a fair queue, and one connection for all of them
        self._away = False
        self.committed: Callable[[str], None] = lambda method: None  # told after each transaction that may have changed something
        if self.sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = create_engine(self.url, **_engine_options(self.url, self.wait_s))
        self._reader = self.engine
        durable = settings.server.durability == "power"
        if self.sqlite:
            event.listen(self.engine, "connect", functools.partial(_prepare_sqlite, durable))
            event.listen(self.engine, "begin", _begin_sqlite)
        elif self.url.get_backend_name() == "postgresql":
            event.listen(self.engine, "connect", functools.partial(_prepare_postgresql, self.wait_s, durable))
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def close(self) -> None:
        self.engine.dispose()

    def twin(self: S) -> S:
        """The same store, with memories of its own."""
        return copy.copy(self)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in a transaction that sees one moment and changes nothing. Prefer @reads, which also tries again."""
        with self._connected(self._reader) as db, db.begin():
            yield db

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection in a transaction that commits at its end, when it is our turn. Prefer @writes, which also tries again."""
        with self._turn, self._connected(self.engine) as db:
            db = db.execution_options(coalition_write=True)
            transaction = db.begin()
            try:
                if not self.sqlite:
                    self._take_turn(db)
                yield db
            except BaseException:
                transaction.rollback()
                raise
            self._commit_once(transaction)

    def _take_turn(self, db: Connection) -> None:
        """Waits for the farm's other processes."""
        if not TURN.all(db, "turn"):
            db.execute(self._insert_new(schema.counter).values(name="turn", value=0))
            TURN.all(db, "turn")

    def _commit_once(self, transaction: Any) -> None:
        try:
            transaction.commit()
        except DBAPIError as error:
            if faults.lost(error):  # it may have been made: to do it again might do it twice
                raise Unavailable(
                    "the connection to the database broke in mid-commit; see whether it was done", lost=True
                ) from error
            raise

    @contextmanager
    def _connected(self, engine: Engine) -> Iterator[Connection]:
        """A connection; Unavailable when the database is away, which is logged when it goes and when it is back."""
        with self._connect(engine) as db:
            if self._away:
                self._away = False
                log.warning("the database is back")
            try:
                yield db
            except DBAPIError as error:
                if faults.lost(error):
                    self.engine.dispose()  # whatever broke this connection has most likely broken the others too
                elif not faults.busy(error) and faults.away(error):
                    raise self._gone(error) from error
                raise

    def _connect(self, engine: Engine) -> Connection:
        try:
            return engine.connect()
        except NoneFree as error:
            raise Unavailable("all connections to the database are in use; try again") from error
        except DBAPIError as error:
            if not faults.no_connection(error):
                raise
            raise self._gone(error) from error

    def _gone(self, error: DBAPIError) -> Unavailable:
        if not self._away:
            self._away = True
            log.error("the database is away: %s", error.orig)
        return Unavailable("the database is away; try again")

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
        changes: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        """Writes what happened, who or what caused it and from where, and why, in the transaction that does it.

        `changes`: fields with what they were before, and after.
        """
        values = {"at": self.clock(), "kind": kind, "who": who[:128], "text": text, "address": caller_address.get()[:64]}
        values["changes"] = json.dumps(changes, default=list) if changes else None
        db.execute(insert(schema.event).values(**values, job_id=job_id, worker_id=worker_id, instance_id=instance_id))


def writes(method: Callable[Concatenate[S, Connection, P], R]) -> Callable[Concatenate[S, P], R]:
    """The method is one transaction; it gets the connection, and runs again after what another attempt may mend."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        def once() -> R:
            with self.write() as db:
                return method(self, db, *args, **kwargs)

        answer = _tried(method.__name__, once, self.patience_s)
        self.committed(method.__name__)
        return answer

    return cast(Callable[Concatenate[S, P], R], run)


def reads(method: Callable[Concatenate[S, Connection, P], R]) -> Callable[Concatenate[S, P], R]:
    """The method reads one moment; it gets the connection, and runs again after what another attempt may mend."""

    @functools.wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        def once() -> R:
            with self.read() as db:
                return method(self, db, *args, **kwargs)

        return _tried(method.__name__, once, self.patience_s)

    return cast(Callable[Concatenate[S, P], R], run)


def inside(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, Connection, P], R]:
    """What a @writes method does, to be a part of another transaction: it takes the connection first."""
    return cast(Callable[Concatenate[S, Connection, P], R], method.__wrapped__)  # type: ignore[attr-defined]


class _Undone(Exception):
    """Carries what a rehearsal answers out of the transaction, which it undoes."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


def rehearse(store: S, act: Callable[[S, Connection], R]) -> R:
    """What a transaction would answer. It is made, and undone; `act` gets a store that keeps nothing of it in memory."""

    def once() -> R:
        try:
            with store.write() as db:
                raise _Undone(act(store.twin(), db))
        except _Undone as undone:
            return cast(R, undone.answer)

    return _tried("rehearse", once, store.patience_s)


def _tried(name: str, once: Callable[[], R], patience_s: float) -> R:
    """The one place where transactions are tried again: after a conflict with another one, or on a new connection.

    And when they found commands that had to be compared with the rules first.
    """
    until = time.monotonic() + patience_s
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _compared(once)
        except DBAPIError as error:
            if not (faults.busy(error) or faults.lost(error)):
                raise
            if attempt == ATTEMPTS or time.monotonic() > until:
                raise Unavailable("the database is busy; try again") from error
            log.info("%s: %s; trying again", name, error.orig)
            time.sleep(random.uniform(0.5, 1.5) * 0.01 * 2**attempt)  # noqa: S311 - jitter, no secret
    raise AssertionError("unreachable")


def _compared(once: Callable[[], R]) -> R:
    found: set[Fit] = set()
    token = found_now.set(found)
    try:
        while True:
            try:
                return once()
            except Unmatched as unmatched:
                found |= unmatched.match()
    finally:
        found_now.reset(token)


def address_of(settings: Settings) -> URL:
    """The database's address, with the driver that is used here; ConfigError for one that cannot be used."""
    try:
        url = make_url(settings.database_url)
        return url.set(drivername=DRIVERS[url.get_backend_name()])
    except ArgumentError:
        raise ConfigError("[server] database: is no address such as postgresql://user:password@host/name") from None
    except KeyError as error:
        raise ConfigError(f"[server] database: {error.args[0]} is not supported; allowed: {', '.join(DRIVERS)}") from None


def _engine_options(url: URL, wait_s: int) -> dict[str, Any]:
    # Writers need one connection together; a read holds one for milliseconds.
    # The connection used last is used next: each has a cache of its own, and few of them are enough for most.
    pool: dict[str, Any] = {"pool_size": 8, "max_overflow": 12, "pool_timeout": wait_s, "pool_use_lifo": True}
    if url.get_backend_name() == "sqlite":
        return {**pool, "connect_args": {"timeout": wait_s, "check_same_thread": False, "cached_statements": 512}}
    pool["pool_recycle"] = STALLED_S - 30
    if url.get_backend_name() == "postgresql":
        return {**pool, "isolation_level": "READ COMMITTED", "connect_args": {"connect_timeout": 10}}
    # The moment that a transaction sees begins with its first plain read, which is after the turn was taken.
    pool["pool_reset_on_return"] = None  # every transaction has ended by then; to make sure would be one more journey
    return {**pool, "isolation_level": "REPEATABLE READ", "connect_args": {"init_command": _mysql_session(wait_s)}}


def _mysql_session(wait_s: int) -> str:
    """What a connection is told, whatever the server's own configuration says."""
    modes = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
    return f"SET SESSION innodb_lock_wait_timeout = {wait_s}, wait_timeout = {STALLED_S}, sql_mode = '{modes}'"


def _prepare_postgresql(wait_s: int, durable: bool, connection: Any, _record: Any) -> None:
    connection.execute(f"SET lock_timeout = '{wait_s}s'; SET idle_in_transaction_session_timeout = '{STALLED_S}s'")
    connection.execute(f"SET synchronous_commit = {'on' if durable else 'off'}")
    connection.commit()


def _prepare_sqlite(durable: bool, connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, never by the driver
    cursor = connection.cursor()
    synchronous = f"synchronous={'FULL' if durable else 'NORMAL'}"
    for pragma in ("journal_mode=WAL", synchronous, "foreign_keys=ON", "cache_size=-65536", "temp_store=MEMORY"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(db: Connection) -> None:
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("coalition_write") else "BEGIN")


class _Cursor:
    """A cursor of the driver, whose errors come as SQLAlchemy's: also when there is none, since the connection has broken."""

    def __init__(self, db: Connection, sql: str) -> None:
        self.db, self.sql = db, sql

    def __enter__(self) -> Any:
        try:
            self.cursor = self.db.connection.cursor()
        except self.db.dialect.loaded_dbapi.Error as error:
            raise _wrapped(self.db, self.sql, error) from error
        return self.cursor

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> None:
        self.cursor.close()
        if isinstance(error, self.db.dialect.loaded_dbapi.Error):
            raise _wrapped(self.db, self.sql, error) from error


class Hot:
    """A statement that is compiled once per dialect and run straight through the driver, for the few that dispatch lives on.

    `names` are its parameters in the order in which rows give them.
    """

    def __init__(self, statement: ClauseElement, *names: str) -> None:
        self.statement = statement
        self.names = names
        self._compiled: dict[str, tuple[str, Callable[[tuple[Any, ...]], Any] | None]] = {}
        self._together: dict[str, Together] = {}
        self._inserts = isinstance(statement, Insert)  # of which MariaDB's driver makes one statement by itself, in bounds

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
        """Runs it for every row; how many rows it touched. No two rows may be for the same row of the table."""
        kind = db.dialect.name
        if len(rows) > 1 and kind in GIVEN and not (self._inserts and kind != "postgresql"):
            if kind not in self._together:
                self._together[kind] = Together(self.statement, self.names, kind)
            return self._together[kind].run(db, rows)
        sql, arrange = self._for(db)
        with _Cursor(db, sql) as cursor:
            given = rows if arrange is None else [arrange(row) for row in rows]
            if len(given) == 1:
                cursor.execute(sql, given[0])
            else:
                cursor.executemany(sql, given)
            return int(cursor.rowcount)

    def all(self, db: Connection, *row: Any) -> list[tuple[Any, ...]]:
        """Its result rows."""
        sql, arrange = self._for(db)
        with _Cursor(db, sql) as cursor:
            cursor.execute(sql, row if arrange is None else arrange(row))
            return list(cursor.fetchall())


class Together:
    """A hot statement for many rows at once: they are given to the server as a table, and joined to the one that is changed.

    To a server over a network each statement is a journey there and back, and drivers run an UPDATE once for every row. MariaDB
    reads the table from a text, in which each column costs: those in which all rows are alike are given once.
    """

    def __init__(self, statement: Any, names: Sequence[str], dialect: str) -> None:
        self.statement, self.dialect = statement, dialect
        self.types = _types_of(statement, names)
        self._by_columns: dict[tuple[bool, ...], Hot] = {}

    def run(self, db: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        return sum(self._piece(db, piece) for piece in chunks(rows))

    def _piece(self, db: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        given = tuple(len(rows) == 1 or len(set(column)) > 1 for column in zip(*rows, strict=True))
        if self.dialect == "postgresql":
            given = (True,) * len(given)
        if given not in self._by_columns:
            self._by_columns[given] = self._compiled(given)
        alike = [value for value, differs in zip(rows[0], given, strict=True) if not differs]
        if alike:
            rows = [tuple(compress(row, given)) for row in rows]
        pack = GIVEN[self.dialect][1]
        return self._by_columns[given].many(db, [(*alike, *pack(rows, list(compress(self.types.values(), given))))])

    def _compiled(self, given: Sequence[bool]) -> Hot:
        types = dict(compress(self.types.items(), given))
        rows = GIVEN[self.dialect][0](types)

        def column_of(element: Any, **_: Any) -> Any:
            return rows.c[element.key] if isinstance(element, BindParameter) and element.key in types else None

        joined = visitors.replacement_traverse(self.statement, {}, column_of)
        if isinstance(self.statement, Insert):
            columns, values = zip(*joined._values.items(), strict=True)
            joined = insert(self.statement.table).from_select(list(columns), select(*values).select_from(rows))
        packed = [f"all_{name}" for name in types] if self.dialect == "postgresql" else ["all_rows"]
        return Hot(joined, *(name for name in self.types if name not in types), *packed)


def _types_of(statement: Any, names: Sequence[str]) -> dict[str, TypeEngine[Any]]:
    """The type of each parameter: of the column it is compared with, or written to."""
    types = {one.key: one.type for one in visitors.iterate(statement) if isinstance(one, BindParameter) and one.key in names}
    for written, value in (getattr(statement, "_values", None) or {}).items():
        if isinstance(value, BindParameter) and value.key in names:
            types[value.key] = statement.table.c[getattr(written, "name", written)].type
    return {name: types[name] for name in names}


def _postgresql_rows(types: Mapping[str, TypeEngine[Any]]) -> FromClause:
    arrays = [cast_to(bindparam(f"all_{name}"), ARRAY(kind)) for name, kind in types.items()]
    return func.unnest(*arrays).table_valued(*map(column, types), name="given").render_derived()


def _postgresql_pack(rows: Sequence[tuple[Any, ...]], types: Sequence[TypeEngine[Any]]) -> tuple[Any, ...]:
    """A list for each column, in which all have one type, as the driver wants it."""
    makers = [kind.python_type for kind in types]
    columns = zip(*rows, strict=True)
    return tuple(
        [None if value is None else make(value) for value in values] for values, make in zip(columns, makers, strict=True)
    )


def _mysql_rows(types: Mapping[str, TypeEngine[Any]]) -> FromClause:
    parts = [f"{name} {_mysql_type(kind)} PATH '$[{place}]'" for place, (name, kind) in enumerate(types.items())]
    path: ColumnElement[str] = literal_column(f"'$[*]' COLUMNS ({', '.join(parts)})")
    return func.json_table(bindparam("all_rows"), path).table_valued(*map(column, types), name="given")


def _mysql_type(kind: TypeEngine[Any]) -> str:
    text = kind.compile(dialect=mysql_dialect())
    return text + " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if isinstance(kind, String) else text


def _mysql_pack(rows: Sequence[tuple[Any, ...]], _: Sequence[TypeEngine[Any]]) -> tuple[Any, ...]:
    return (json.dumps([[int(value) if value is True or value is False else value for value in row] for row in rows]),)


GIVEN = {
    "postgresql": (_postgresql_rows, _postgresql_pack),
    "mysql": (_mysql_rows, _mysql_pack),
    "mariadb": (_mysql_rows, _mysql_pack),
}


def _wrapped(db: Connection, sql: str, error: Exception) -> Exception:
    """The driver's error as SQLAlchemy would have raised it, so that it is retried and told like all others."""
    dialect: Any = db.dialect
    lost = dialect.is_disconnect(error, db.connection.dbapi_connection, None)
    if lost:
        db.invalidate(error)
    return DBAPIError.instance(sql, None, error, dialect.loaded_dbapi.Error, connection_invalidated=lost, dialect=dialect)


def _arranger(
    names: Sequence[str], places: Sequence[str] | None, fixed: dict[str, Any]
) -> Callable[[tuple[Any, ...]], Any] | None:
    if places is None:
        return lambda row: {**fixed, **dict(zip(names, row, strict=True))}
    if list(places) == list(names):
        return None
    index = {name: position for position, name in enumerate(names)}
    if len(places) > 1 and not set(places) - set(names):
        return operator.itemgetter(*(index[name] for name in places))
    picks = [(index.get(name), fixed.get(name)) for name in places]
    return lambda row: tuple(value if position is None else row[position] for position, value in picks)


class HotIn:
    """A hot statement with WHERE column IN (...), compiled for list lengths of powers of two and padded to them.

    PostgreSQL is given an array, because it plans a list of 500 parameters anew each time, which takes longer than to run it.
    `names` are its further parameters, in the order in which they are given after the ids.
    """

    def __init__(self, make: Callable[[Any], ClauseElement], *names: str) -> None:
        self.make = make
        self.names = names
        self._by_size: dict[int, Hot] = {}
        self._of_array: dict[type, Hot] = {}

    def all(self, db: Connection, ids: Sequence[Any], *values: Any) -> list[tuple[Any, ...]]:
        """The result rows for all the ids."""
        found: list[tuple[Any, ...]] = []
        for hot, row in self._pieces(db, ids, values):
            found += hot.all(db, *row)
        return found

    def run(self, db: Connection, ids: Sequence[Any], *values: Any) -> int:
        """Changes what the ids name; how many rows it touched."""
        return sum(hot.many(db, [row]) for hot, row in self._pieces(db, ids, values))

    def _pieces(self, db: Connection, ids: Sequence[Any], values: tuple[Any, ...]) -> Iterator[tuple[Hot, tuple[Any, ...]]]:
        for chunk in chunks(ids):
            if db.dialect.name == "postgresql":
                yield self._with_array(type(chunk[0])), (*values, list(chunk))
                continue
            size = 1 << (len(chunk) - 1).bit_length()
            yield self._of(size), (*values, *chunk, *[chunk[-1]] * (size - len(chunk)))

    def _with_array(self, kind: type) -> Hot:
        if kind not in self._of_array:
            array = cast_to(bindparam("p_all"), ARRAY(BigInteger() if issubclass(kind, int) else Text()))
            self._of_array[kind] = Hot(self.make(select(func.unnest(array))), *self.names, "p_all")
        return self._of_array[kind]

    def _of(self, size: int) -> Hot:
        if size not in self._by_size:
            names = [f"p{number}" for number in range(size)]
            self._by_size[size] = Hot(self.make([bindparam(name) for name in names]), *self.names, *names)
        return self._by_size[size]


RAISE_COUNTER = Hot(
    update(schema.counter)
    .where(schema.counter.c.name == bindparam("b_name"))
    .values(value=schema.counter.c.value + bindparam("b_by")),
    *("b_by", "b_name"),
)
READ_COUNTER = Hot(select(schema.counter.c.value).where(schema.counter.c.name == bindparam("b_name")), "b_name")
TURN = Hot(select(schema.counter.c.value).where(schema.counter.c.name == bindparam("b_name")).with_for_update(), "b_name")
ALL_COUNTERS = Hot(select(schema.counter.c.name, schema.counter.c.value))


def chunks(values: Sequence[R], size: int = IN_CHUNK) -> Iterator[Sequence[R]]:
    """The values in pieces that fit an IN list."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def probe(store: Base) -> bool:
    """Whether the database answers; Unavailable when it is away."""

    def once() -> bool:
        with store.read() as db:
            return bool(db.execute(text("SELECT 1")).scalar_one() == 1)

    return _tried("probe", once, store.patience_s)
