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


def _versions() -> list[str]:
    return [one.revision for one in _script().walk_revisions()]


def _unknown(found: str | None) -> str:
    what = f"the database has schema {found}, which this version does not know: it needs {head()}"
    return f"{what}; use the version of Coalition that made it, or another database"


def current(store: Base) -> str | None:
    """The schema version of the database; None for an empty one."""
    with store.engine.connect() as db:
        if not {*inspect(db).get_table_names()} - {"alembic_version"}:
            return None
        return MigrationContext.configure(db).get_current_revision() or "unknown"


def upgrade(store: Base, to: str = "head") -> None:
    """Brings the database to a schema version, by default this program's. WrongSchema for a database of a newer program."""
    found = current(store)
    if found not in (None, *_versions()):
        raise WrongSchema(_unknown(found))
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
    if found == head():
        return
    if found not in (None, *_versions()):
        raise WrongSchema(_unknown(found))
    raise WrongSchema(f"the database has schema {found or 'none'}, this program needs {head()}; run: coalition db upgrade")
