"""The database's schema: migrated equals declared, and another version's is never used."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from coalition.errors import WrongSchema
from coalition.schema import metadata
from coalition.schema_version import _alembic, current, head, prepare, upgrade
from coalition.store import Store
from coalition.store.base import Base
from tests.builders import settings


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Base]:
    base = Base(settings(tmp_path))
    yield base
    base.close()


def test_the_migrations_lead_to_the_declared_tables(empty: Base) -> None:
    upgrade(empty)
    with empty.engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert {*inspect(db).get_table_names()} == {*metadata.tables, "alembic_version"}
    assert current(empty) == head()


def test_migrated_tables_are_made_by_the_same_words_as_declared_ones(empty: Base, tmp_path: Path) -> None:
    upgrade(empty)
    declared = Base(settings(tmp_path / "declared"))
    metadata.create_all(declared.engine)
    words = [_statements(base) for base in (empty, declared)]
    declared.close()
    assert words[0] == words[1]


def _statements(base: Base) -> dict[str, list[str]]:
    """What the database says of each table and index, without the order of columns and blanks: added ones come last."""
    with base.engine.connect() as db:
        rows = db.execute(text("SELECT name, sql FROM sqlite_master WHERE name != 'alembic_version' AND sql IS NOT NULL"))
        pieces = {name: ["".join(piece.split()).strip("()") for piece in re.split("[,\n]", sql)] for name, sql in rows}
    return {name: sorted(filter(None, words)) for name, words in pieces.items()}


def test_a_new_database_gets_its_tables_and_a_second_start_finds_them(tmp_path: Path) -> None:
    prepare(settings(tmp_path))
    store = Store(settings(tmp_path))
    store.create_token("site")
    prepare(settings(tmp_path))
    assert len(store.tokens()) == 1
    store.close()


@pytest.mark.parametrize("version", ["9999", None])
def test_another_versions_database_is_refused_with_the_command(tmp_path: Path, empty: Base, version: str | None) -> None:
    upgrade(empty)
    with empty.engine.begin() as db:
        db.execute(
            text("UPDATE alembic_version SET version_num = :v") if version else text("DROP TABLE alembic_version"),
            {"v": version} if version else {},
        )
    with pytest.raises(WrongSchema, match=rf"schema {version or 'unknown'}.*needs {head()}; run: coalition db upgrade"):
        prepare(settings(tmp_path))


def test_what_was_there_before_is_counted_and_found_by_state_and_parent(empty: Base) -> None:
    command.upgrade(_alembic(empty), "0001")
    jobs = [(1, 0, 1, "WAITING"), (2, 1, 0, "FINISHED"), (3, 1, 0, "ERROR"), (4, 0, 0, "WORKING"), (5, 0, 1, "PENDING")]
    with empty.engine.begin() as db:
        for id, parent, is_group, state in jobs:
            values = f"({id}, {parent}, {is_group}, 127, 1, '{state}', 0)"
            db.execute(text(f"INSERT INTO job (id, parent, is_group, prio, own_set, state, paused) VALUES {values}"))
            columns = "(job_id, dir, environment, timeout_s, url, created_at)"
            db.execute(text(f"INSERT INTO spec {columns} VALUES ({id}, '', '{{}}', 0, '', 0)"))
        db.execute(text("INSERT INTO group_count (group_id, total, finished, error, run_ms) VALUES (1, 2, 1, 1, 70)"))
        db.execute(text("INSERT INTO group_count (group_id) VALUES (5)"))
        attempt = "(id, job_id, worker_id, epoch, state, deadline, leased_at, run_ms)"
        db.execute(text(f"INSERT INTO attempt {attempt} VALUES (1, 4, 1, 1, 'LOST', 0, 0, 5), (2, 4, 1, 1, 'RUNNING', 0, 0, 0)"))
    upgrade(empty)
    with empty.engine.connect() as db:
        assert list(db.execute(text("SELECT job_id, parent FROM spec ORDER BY job_id"))) == [(id, up) for id, up, *_ in jobs]
        assert db.execute(text("SELECT state FROM job ORDER BY id")).scalars().all() == [
            *("ERROR", "FINISHED", "ERROR", "WORKING", "WAITING"),
        ]
        farm = db.execute(text("SELECT total, waiting, working, finished, error, run_ms FROM group_count WHERE group_id = 0"))
        assert list(farm) == [(3, 0, 1, 1, 1, 75)]


def test_upgrading_twice_and_down_again_works(empty: Base) -> None:
    from alembic import command

    from coalition.schema_version import _alembic

    upgrade(empty)
    upgrade(empty)
    command.downgrade(_alembic(empty), "base")
    with empty.engine.connect() as db:
        assert inspect(db).get_table_names() == ["alembic_version"]
    upgrade(empty)
    assert current(empty) == head()


def test_migrating_leaves_the_programs_logging_alone(empty: Base) -> None:
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    upgrade(empty)
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)
