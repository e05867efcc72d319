"""The database's schema: made when the database is new, upgraded on request, and never used when it is another version's."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from coalition.config import Settings
from coalition.errors import WrongSchema
from coalition.store.base import Base
from coalition.store.check import problems


def _alembic(store: Base) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["engine"] = store.engine
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory(str(Path(__file__).parent / "migrations"))


def head() -> str:
    """The schema version that this program is written for."""
    return _script().get_current_head() or ""


def must_know(version: str, what: str = "database") -> None:
    """WrongSchema for a version that is none of this program's: of a later one, or a stranger's."""
    if version not in {one.revision for one in _script().walk_revisions()}:
        words = f"the {what} has schema {version}, which this version does not know: it needs {head()}"
        raise WrongSchema(f"{words}; use the version of Coalition that made it, or another {what}")


def current(store: Base) -> str | None:
    """The schema version of the database; None for an empty one."""
    with store.read() as db:
        if not {*inspect(db).get_table_names()} - {"alembic_version"}:
            return None
        return MigrationContext.configure(db).get_current_revision() or "unknown"


def upgrade(store: Base, to: str = "head") -> None:
    """Brings the database to a schema version, by default this program's. WrongSchema for a database of a newer program."""
    found = current(store)
    if found is not None:
        must_know(found)
    command.upgrade(_alembic(store), to)


def bring_up(settings: Settings) -> tuple[str | None, str]:
    """Upgrades the database of a configuration; the schema version before, and now."""
    store = Base(settings)
    try:
        before = current(store)
        upgrade(store)
        return before, head()
    finally:
        store.close()


def checked(settings: Settings) -> tuple[str, list[str]]:
    """The schema version of a configuration's database, and what is wrong in it. WrongSchema unless it is this program's."""
    store = Base(settings)
    try:
        require(current(store))
        with store.read() as db:
            return head(), list(problems(db))
    finally:
        store.close()


def prepare(settings: Settings) -> None:
    """Makes the tables of a new database; WrongSchema, with what to do, if it is another version's."""
    store = Base(settings)
    try:
        found = current(store)
        if found is None:
            upgrade(store)
        else:
            require(found)
    finally:
        store.close()


def require(found: str | None) -> None:
    """WrongSchema, with what to do, unless the database's schema is this program's."""
    if found is not None:
        must_know(found)
    if found != head():
        raise WrongSchema(f"the database has schema {found or 'none'}, this program needs {head()}; run: coalition db upgrade")
