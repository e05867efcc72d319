"""What a database's error means for whoever asked: try again, come again later, or a mistake of ours."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

# SQLite has no codes that tell these apart in Python 3.10.
BUSY_TEXT = ("database is locked", "database is busy", "database table is locked")
AWAY_TEXT = ("unable to open", "disk I/O error", "disk is full", "readonly")
# MariaDB: changed since read, waited too long for a lock, deadlock. PostgreSQL: the same as SQLSTATE.
BUSY_CODES = {1020, 1205, 1213, "40001", "40P01", "55P03"}
# MariaDB: disk full, too many connections, shutting down, table full, read only; PostgreSQL: read only.
AWAY_CODES = {3, 1021, 1040, 1053, 1114, 1290, 1836, 3100, "25006"}
AWAY_CLASSES = ("53", "57", "58", "08")  # PostgreSQL: no resources, somebody's intervention, the system, the connection


def busy(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed when it is tried again: it met another one."""
    return code_of(error) in BUSY_CODES or any(words in str(error.orig) for words in BUSY_TEXT)


def lost(error: DBAPIError) -> bool:
    """Whether the connection broke, and with it the transaction: another connection may do."""
    return error.connection_invalidated


def away(error: DBAPIError) -> bool:
    """Whether the database cannot be reached or cannot write, which may pass; not a mistake in our own SQL."""
    if isinstance(error.orig, sqlite3.Error):
        return any(words in str(error.orig) for words in AWAY_TEXT)
    code = code_of(error)
    return lost(error) or code in AWAY_CODES or (isinstance(code, str) and code.startswith(AWAY_CLASSES))


def no_connection(error: DBAPIError) -> bool:
    """Whether an error of connecting is the database's, and no mistake of ours."""
    return isinstance(error, (OperationalError, InterfaceError))


def code_of(error: DBAPIError) -> int | str | None:
    """MariaDB's number, which says more than the SQLSTATE beside it, or PostgreSQL's SQLSTATE; None where there is neither."""
    arguments = error.orig.args if error.orig else ()
    if arguments and isinstance(arguments[0], int):
        return arguments[0]
    return getattr(error.orig, "sqlstate", None)
