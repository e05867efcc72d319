"""The schema on each kind of database: migrated equals declared, also with rows in it, and another version's is never used."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, inspect, select, text

from coalition.backup import follow_ids
from coalition.config import Settings
from coalition.errors import WrongSchema
from coalition.schema import metadata
from coalition.schema_version import bring_up, current, head, prepare, upgrade
from coalition.store import Store
from coalition.store.base import Base
from tests.builders import Clock, Hand, WatchedStore, a_group, a_job, settings
from tests.databases import KINDS, filled

each = pytest.mark.parametrize("kind", KINDS, indirect=True)


@pytest.fixture
def farm(tmp_path: Path, blank_database: str) -> Settings:
    return settings(tmp_path, database=blank_database)


@pytest.fixture
def empty(farm: Settings) -> Iterator[Base]:
    base = Base(farm)
    yield base
    base.close()


def differences(base: Base) -> list[Any]:
    """What would have to be migrated for the tables to be as declared."""
    with base.engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True, "compare_server_default": defaults_differ})
        return list(compare_metadata(context, metadata))


def defaults_differ(_context: Any, _found: Any, _column: Any, found: str | None, _declared: Any, declared: str | None) -> bool:
    return plain(found) != plain(declared)


def plain(default: str | None) -> str | None:
    """A default without quotes and type: Alembic itself takes '' for none."""
    text = None if default is None else default.partition("::")[0].strip("()'")
    return {"false": "0", "true": "1"}.get(text, text) if text else text


@each
def test_the_migrations_lead_to_the_declared_tables(empty: Base) -> None:
    upgrade(empty)
    assert differences(empty) == []
    with empty.engine.connect() as db:
        assert {*inspect(db).get_table_names()} == {*metadata.tables, "alembic_version"}
    assert current(empty) == head()


@each
def test_each_migration_keeps_the_rows_that_are_there(empty: Base) -> None:
    upgrade(empty, "0001")
    rows: dict[str, dict[str, Any]] = {}
    while True:
        found = filled(empty)
        kept = {name: {column: found[name][column] for column in row} for name, row in rows.items()}
        assert kept == rows
        if current(empty) == head():
            break
        rows = found
        upgrade(empty, "+1")
    assert differences(empty) == []


# A job, a group with another, as the first version wrote them.
NOTHING = '{"cpus":0,"gpus":0,"memory_bytes":0,"payer":"","tags":[]}'
OLD_JOB = {"is_group": False, "prio": 127, "own_set": 1, "class_id": 1, "state": "WAITING", "paused": False}
OLD_SPEC = {"title": "old", "command": "true", "dir": "", "environment": "{}", "timeout_s": 0.0, "url": "", "created_at": 1.0}
OLD_FARM: dict[str, list[dict[str, Any]]] = {
    "reqset": [{"id": 1, "hash": hashlib.sha256(NOTHING.encode()).hexdigest(), "json": NOTHING}],
    "class": [
        {"id": 1, "set_id": 1, "prio_path": "7f", "hash": "1", "nonempty": True},
        {"id": 2, "set_id": 1, "prio_path": "7f7f", "hash": "2", "nonempty": True},
    ],
    "job": [
        {"id": 1, **OLD_JOB},
        {"id": 2, **OLD_JOB, "is_group": True, "class_id": 0},
        {"id": 3, **OLD_JOB, "parent": 2, "class_id": 2},
    ],
    "spec": [{"job_id": 1, **OLD_SPEC}, {"job_id": 2, **OLD_SPEC, "command": None}, {"job_id": 3, **OLD_SPEC, "title": "member"}],
    "group_inherited": [{"group_id": 2, "prio_path": "7f", "set_id": 1, "paused": False, "holds": 0}],
    "group_count": [{"group_id": 2, "total": 1, "waiting": 1}],
    "ready": [{"class_id": 1, "job_id": 1}, {"class_id": 2, "job_id": 3}],
    "counter": [{"name": "job", "value": 3}],
}


@each
def test_jobs_of_the_first_version_are_run_by_this_one(empty: Base, farm: Settings, clock: Clock) -> None:
    upgrade(empty, "0001")
    tables = MetaData()
    tables.reflect(empty.engine)
    with empty.engine.begin() as db:
        for name, rows in OLD_FARM.items():
            for row in rows:
                db.execute(tables.tables[name].insert().values(row))
        follow_ids(db, tables.sorted_tables)
    upgrade(empty)
    store = WatchedStore(farm, clock)
    hand = Hand(store)
    assert hand.titles() == ["member", "old"]
    hand.finish(*hand.held.values())
    assert [store.job(job_id).state for job_id in (1, 2, 3)] == ["FINISHED"] * 3
    store.submit([a_group("new", a_job())])
    assert hand.finish_all() == 1
    store.close()


def test_on_sqlite_migrated_tables_are_made_by_the_same_words_as_declared_ones(empty: Base, tmp_path: Path) -> None:
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


@each
def test_an_earlier_versions_database_is_refused_with_the_command(farm: Settings, empty: Base) -> None:
    upgrade(empty, "0001")
    with pytest.raises(WrongSchema, match=rf"has schema 0001, this program needs {head()}; run: coalition db upgrade"):
        prepare(farm)
    assert current(empty) == "0001"


@pytest.mark.parametrize("change", ["UPDATE alembic_version SET version_num = '9999'", "DROP TABLE alembic_version"])
@pytest.mark.parametrize("use", [prepare, bring_up])
def test_a_later_versions_or_a_strangers_database_is_left_alone(farm: Settings, empty: Base, change: str, use: Any) -> None:
    upgrade(empty)
    with empty.engine.begin() as db:
        db.execute(text(change))
    with pytest.raises(WrongSchema, match=rf"has schema (9999|unknown), which this version does not know: it needs {head()}"):
        use(farm)


def test_what_was_there_before_is_counted_and_found_by_state_and_parent(empty: Base) -> None:
    upgrade(empty, "0001")
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


@each
def test_dependencies_stay_and_jobs_know_when_they_began_and_ended(empty: Base) -> None:
    upgrade(empty, "0002")
    tables = MetaData()
    tables.reflect(empty.engine)
    rows: dict[str, list[dict[str, Any]]] = {
        "job": [
            {"id": 1, **OLD_JOB, "state": "FINISHED", "attempt_id": 2},
            {"id": 2, **OLD_JOB, "state": "PENDING", "holds": 1},
            {"id": 3, **OLD_JOB, "is_group": True, "class_id": 0},
        ],
        "dependency": [{"job_id": 2, "on_id": 1, "met": True}, {"job_id": 2, "on_id": 3, "met": False}],
        "attempt": [
            {
                "id": number,
                "job_id": 1,
                "worker_id": 1,
                "epoch": 1,
                "state": state,
                "deadline": 0.0,
                "leased_at": at,
                "ended_at": at + 5,
            }
            for number, state, at in ((1, "LOST", 10.0), (2, "FINISHED", 20.0))
        ],
    }
    with empty.engine.begin() as db:
        for name, values in rows.items():
            for row in values:
                db.execute(tables.tables[name].insert().values(row))
    upgrade(empty)
    with empty.engine.connect() as db:
        edges = select(*(metadata.tables["dependency"].c[name] for name in ("job_id", "by_rule", "on_id", "met", "done")))
        assert [tuple(row) for row in db.execute(edges.order_by("on_id"))] == [
            (2, False, 1, True, False),
            (2, False, 3, False, False),
        ]
        jobs = metadata.tables["job"].c
        times = db.execute(select(jobs.started_at, jobs.ended_at).order_by(jobs.id))
        assert [tuple(row) for row in times] == [(10.0, 25.0), (None, None), (None, None)]


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
