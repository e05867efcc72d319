"""Backups: the whole database as one file, written while servers run, and given back into an empty database.

The file is gzip'ed JSON lines: a head; then each table's name and columns, and one line for each of its rows; at last how many
rows there were. It is read in one moment, and fits every kind of database: it is also the way from SQLite to a server. SQLite can
be copied faster, as it is, by its own online backup: a file whose name ends in .db.

A database that was given back has forgotten what happened since. So numbers of jobs and attempts go on far beyond what was
given out in that time, and the autoscaler starts nothing until it knows what the providers run (`reconcile`).
"""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import Boolean, Connection, Float, MetaData, Table, func, insert, select

import coalition
from coalition import schema
from coalition.config import Settings
from coalition.errors import BadInput
from coalition.schema_version import current, must_know, upgrade
from coalition.store import Store

ROWS = 1_000  # inserted at a time
BY_ITSELF = ("counter", "group_count", "leader")  # may have rows though nobody has used the database
SQLITE_HEAD = b"SQLite format 3\0"


@dataclass(frozen=True)
class Summary:
    """What was written, or given back."""

    schema: str
    rows: int


# ---------------------------------------------------------------- writing


def back_up(settings: Settings, path: Path) -> Summary:
    """Writes the database to a new file that only its owner may read, whole or not at all. BadInput if the file is there."""
    with _store(settings) as store, _new_file(path) as partial:
        if path.suffix == ".db":
            if not store.sqlite:
                raise BadInput(fields={"file": "only SQLite can be copied as a .db; choose a name such as farm.backup.gz"})
            return _copy(store, partial)
        with gzip.open(partial, "wt", encoding="utf-8", compresslevel=3) as file:
            return _write(store, file)


@contextmanager
def _store(settings: Settings) -> Iterator[Store]:
    store = Store(settings)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file to write, which takes its name when it is complete."""
    if path.exists():
        raise BadInput(fields={"file": f"{path} is there already; choose another name"})
    partial = path.with_name(f"{path.name}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        yield partial
        os.rename(partial, path)
    except OSError as error:
        raise BadInput(fields={"file": f"{path} cannot be written: {error.strerror or error}"}) from None
    finally:
        partial.unlink(missing_ok=True)


def _copy(store: Store, path: Path) -> Summary:
    version = _version(store)
    with store.read() as db, closing(sqlite3.connect(path)) as target:
        rows = _count(db)  # the first look: from here on this transaction sees one moment, and the copy is of it
        db.connection.driver_connection.backup(target)  # type: ignore[union-attr]
    return Summary(version, rows)


def _count(db: Connection) -> int:
    return sum(db.execute(select(func.count()).select_from(table)).scalar_one() for table in _tables(db).values())


def _version(store: Store) -> str:
    version = current(store)
    if version is None:
        raise BadInput("the database is empty: there is nothing to back up")
    must_know(version)
    return version


def _tables(db: Connection) -> dict[str, Table]:
    """The tables that are there, each after those it refers to: of an older schema, too."""
    found = MetaData()
    found.reflect(db, only=lambda name, _: name in schema.metadata.tables)
    for table in found.sorted_tables:
        for column in table.columns:
            if isinstance(column.type, Float):
                column.type.asdecimal = False  # MariaDB's would lose digits
    return {table.name: table for table in found.sorted_tables}


def _write(store: Store, file: TextIO) -> Summary:
    version, total = _version(store), 0
    with store.read() as db:
        tables = _tables(db)
        _line(file, {"coalition": coalition.__version__, "schema": version, "tables": list(tables), "at": store.clock()})
        for table in tables.values():
            count = db.execute(select(func.count()).select_from(table)).scalar_one()
            _line(file, {"table": table.name, "columns": [column.name for column in table.columns], "rows": count})
            query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=ROWS)
            for row in db.execute(query):
                _line(file, list(row))
            total += count
        _line(file, {"end": total})
    return Summary(version, total)


def _line(file: TextIO, value: object) -> None:
    file.write(json.dumps(value, separators=(",", ":")) + "\n")


# ---------------------------------------------------------------- giving back


def restore(settings: Settings, path: Path) -> Summary:
    """Gives a backup back into an empty database, of any kind, and brings it to this program's schema; all rows or none.

    BadInput if the database holds anything, or the file is no whole backup; WrongSchema for one of a later version.
    """
    with _store(settings) as store, _readable(path):
        _must_be_empty(store)
        summary = _copy_back(store, path) if _is_sqlite(path) else _read(store, path)
        upgrade(store)
        store.begin_anew(f"restored from {path.name}: {summary.rows:,} rows")
        return summary


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What a file that is no whole backup can raise becomes BadInput."""
    try:
        yield
    except (OSError, EOFError, StopIteration, zlib.error, sqlite3.DatabaseError, ValueError, TypeError, LookupError) as error:
        words = f"{path} is no whole backup: {type(error).__name__}: {error}"
        raise BadInput(fields={"file": words}) from error


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE_HEAD)) == SQLITE_HEAD


def _must_be_empty(store: Store) -> None:
    with store.read() as db:
        for table in _tables(db).values():
            if table.name not in BY_ITSELF and db.execute(select(table).limit(1)).first() is not None:
                raise BadInput(f"the database is not empty, {table.name} has rows; give a backup back into a new one")


def _copy_back(store: Store, path: Path) -> Summary:
    if not store.sqlite:
        raise BadInput(fields={"file": f"{path} is an SQLite file; make a backup that is none, such as farm.backup.gz, from it"})
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source, store.engine.connect() as db:
        if (words := source.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise ValueError(words)
        source.backup(db.connection.driver_connection)  # type: ignore[arg-type]
    version = _version(store)
    with store.read() as db:
        return Summary(version, _count(db))


def _read(store: Store, path: Path) -> Summary:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = (json.loads(line) for line in file)
        version = str(next(lines)["schema"])
        _make_tables(store, version)
        with store.write() as db:
            return Summary(version, _fill(db, lines))


def _make_tables(store: Store, version: str) -> None:
    """The tables of the backup's own schema, which may be an earlier one."""
    must_know(version, "backup")
    if current(store) not in (None, version):
        with store.engine.begin() as db:
            for table in [*reversed(_tables(db).values()), Table("alembic_version", MetaData())]:
                table.drop(db)
    upgrade(store, version)


def _fill(db: Connection, lines: Iterator[Any]) -> int:
    """Puts the backup's rows into the tables; how many. ValueError if some are missing."""
    tables, total = _tables(db), 0
    for name in BY_ITSELF:
        db.execute(tables[name].delete())
    for line in lines:
        if "end" in line:
            if line["end"] != total:
                raise ValueError(f"it has {total:,} rows of {line['end']:,}")
            follow_ids(db, tables.values())
            return total
        total += _fill_table(db, tables[line["table"]], line["columns"], line["rows"], lines)
    raise EOFError("its end is missing")


def _fill_table(db: Connection, table: Table, columns: Sequence[str], count: int, lines: Iterator[Any]) -> int:
    flags = {name for name in columns if isinstance(table.columns[name].type, Boolean)}
    left = count
    while left:
        rows = [dict(zip(columns, line, strict=True)) for line in islice(lines, min(left, ROWS))]
        for row in rows:
            row.update((name, bool(row[name])) for name in flags if row[name] is not None)  # MariaDB's are numbers
        if not rows:
            raise EOFError("its end is missing")
        db.execute(insert(table), rows)
        left -= len(rows)
    return count


def follow_ids(db: Connection, tables: Iterable[Table]) -> None:
    """PostgreSQL numbers new rows by sequences, which do not see rows that bring their own number."""
    if db.dialect.name != "postgresql":
        return
    for table in tables:
        for column in table.primary_key.columns:
            sequence = db.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar()
            highest = db.execute(select(func.max(column))).scalar() if sequence is not None else None
            if highest is not None:
                db.execute(select(func.setval(sequence, highest)))
