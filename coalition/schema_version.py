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


def head() -> str:
    """The schema version that this program is written for."""
    script = ScriptDirectory(str(Path(__file__).parent / "migrations"))
    return script.get_current_head() or ""


def current(store: Base) -> str | None:
    """The schema version of the database; None for an empty one."""
    with store.engine.connect() as db:
        if not inspect(db).get_table_names():
            return None
        return MigrationContext.configure(db).get_current_revision() or "unknown"


def upgrade(store: Base) -> None:
    """Brings the database to this program's schema."""
    command.upgrade(_alembic(store), "head")


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
    """Makes the tables of a new database; WrongSchema if it is another version's."""
    store = Base(settings)
    try:
        found = current(store)
        if found is None:
            upgrade(store)
        elif found != head():
            raise WrongSchema(f"the database has schema {found}, this program needs {head()}; run: coalition db upgrade")
    finally:
        store.close()
