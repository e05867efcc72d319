"""`coalition db check | backup | restore` on each kind of database, and from each kind to each other."""

from __future__ import annotations

import gzip
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, delete, insert, update

from coalition import schema
from coalition.backup import BY_ITSELF, back_up, restore
from coalition.config import Settings
from coalition.errors import BadInput, WrongSchema
from coalition.schema_version import checked, head, prepare, upgrade
from coalition.store import Store
from coalition.store.base import Base
from coalition.store.check import problems
from coalition.store.cloud import FORGOTTEN, ROLE, Order
from tests.builders import Clock, Hand, WatchedStore, a_group, a_job, a_range, settings
from tests.commands import coalition, document
from tests.databases import KINDS, Databases, filled, missing

Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def farm(database: str, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """A farm in the middle of its work, with something in most tables, and strange characters."""
    store = Store(settings(tmp_path, database=database), clock)
    hand = Hand(store, "w1", ("linux",), price=1_000)
    tree = a_group("Äpfel 🍏", a_range("1-20"), a_job("it's", command='echo "a\\b\n\tc" %s {x}', environment={"A": "ü"}))
    first = store.submit([tree], "ann").ids[0]
    store.submit([a_job("after", depends_on=(first,), paused=True)], "ann")
    leases = hand.take(6)
    hand.finish(*leases[:2], run_s=0.1 + 0.2)
    hand.fail(leases[2])
    store.create_token("site")
    store.set_limit("maya", 2)
    store.submit([a_job("licensed", limits={"maya": 1}, affinity=("maya",), priority=200)])
    assert Hand(store, "licensed", ("maya",)).titles(1) == ["licensed"]
    money = {"price_micro": 1_000_000, "currency": "USD", "sponsors": (), "payer": ""}
    times = {"launch_by": clock() + 60, "funded_until": clock() + 600, "boot_timeout_s": 60.0}
    texts = {"token": "ab" * 16, "pool": "p", "provider": "fake", "offering": "machine", "request": "{}", "reason": "why"}
    fence = store.claim_leader(ROLE, "me", 60)
    assert fence
    store.reserve(Order(**texts, **money, **times, slots=2, count=2), fence)
    store.sweep()
    yield store
    store.close()


@pytest.fixture
def new(blank_database: str, tmp_path: Path) -> Settings:
    """A farm whose database has no tables yet."""
    return settings(tmp_path / "new", database=blank_database)


def rows_of(where: Settings, but: tuple[str, ...] = ("counter", "leader")) -> Rows:
    store = Store(where)
    with store.read() as db:
        tables = [table for table in schema.metadata.sorted_tables if table.name not in but]
        rows = {table.name: [tuple(row) for row in db.execute(in_order(table))] for table in tables}
    store.close()
    return rows


def in_order(table: Table) -> Any:
    return table.select().order_by(*table.primary_key.columns)


def nothing_in(where: Settings) -> bool:
    prepare(where)
    return not any(rows_of(where, but=BY_ITSELF).values())


# ---------------------------------------------------------------- backup and restore


@pytest.mark.parametrize("target", KINDS)
def test_a_backup_of_each_kind_is_given_back_into_each_kind(
    farm: Store, target: str, tmp_path: Path, databases: Databases, clock: Clock
) -> None:
    if absent := missing(target):
        pytest.skip(f"not installed: {absent}")
    made = back_up(farm.settings, tmp_path / "backup.gz")
    with databases.blank(target, tmp_path) as url:
        there = settings(tmp_path / "new", database=url)
        assert restore(there, tmp_path / "backup.gz") == made
        before, after = rows_of(farm.settings), rows_of(there)
        assert after.pop("event")[:-1] == before.pop("event")
        assert after == before
        assert checked(there) == (head(), [])
        it_goes_on(there, clock)


def it_goes_on(there: Settings, clock: Clock) -> None:
    """New rows get new numbers, and what was leased since the backup is not mistaken for what is leased now."""
    store = WatchedStore(there, clock)
    (job_id,) = store.submit([a_job("new")]).ids
    assert job_id > FORGOTTEN
    hand = Hand(store, "w2")
    (lease, *_) = hand.take(100)
    assert lease.attempt > FORGOTTEN
    hand.finish(lease)
    assert store.events({}, 0.0, 100)[-1]["kind"] == "worker.enrol"
    assert "farm.restore" in {row["kind"] for row in store.events({}, 0.0, 100)}
    store.close()


def test_a_backup_is_of_one_moment_though_servers_write(farm: Store, new: Settings, tmp_path: Path) -> None:
    enough = threading.Event()

    def go_on() -> None:
        writer = Store(farm.settings, farm.clock)
        while not enough.is_set():
            group = writer.submit([a_group("g", a_range("1-50"))]).ids[0]
            writer.delete([group])
        writer.close()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        for number in range(3):
            back_up(farm.settings, tmp_path / f"{number}.gz")
    finally:
        enough.set()
        thread.join()
    restore(new, tmp_path / "2.gz")
    assert checked(new) == (head(), [])


def test_a_backup_of_the_first_version_is_given_back_and_upgraded(new: Settings, tmp_path: Path) -> None:
    old = Base(settings(tmp_path / "old"))
    upgrade(old, "0001")
    rows = filled(old)
    old.close()
    back_up(old.settings, tmp_path / "old.gz")
    prepare(new)
    assert restore(new, tmp_path / "old.gz").schema == "0001"
    base = Base(new)
    found = filled(base)
    base.close()
    for name in rows.keys() - {*BY_ITSELF, "event"}:
        assert rows[name].items() <= found[name].items()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_sqlite_is_copied_as_it_is_and_given_back(farm: Store, tmp_path: Path, clock: Clock) -> None:
    made = back_up(farm.settings, tmp_path / "copy.db")
    there = settings(tmp_path / "new")
    assert restore(there, tmp_path / "copy.db") == made
    before, after = rows_of(farm.settings), rows_of(there)
    assert after.pop("event")[:-1] == before.pop("event")
    assert after == before
    it_goes_on(there, clock)


# ---------------------------------------------------------------- refusals


def test_a_database_that_holds_anything_is_left_alone(farm: Store, tmp_path: Path) -> None:
    back_up(farm.settings, tmp_path / "backup.gz")
    before = rows_of(farm.settings, but=())
    with pytest.raises(BadInput, match=r"the database is not empty, [a-z]+ has rows; give a backup back into a new one"):
        restore(farm.settings, tmp_path / "backup.gz")
    assert rows_of(farm.settings, but=()) == before


def shortened(text: list[str]) -> list[str]:
    return text[:-3]


def without_a_row(text: list[str]) -> list[str]:
    last = max(index for index, line in enumerate(text) if line.startswith("["))
    return text[:last] + text[last + 1 :]


def with_a_wrong_number(text: list[str]) -> list[str]:
    return [*text[:-1], json.dumps({"end": 7})]


def of_another_table(text: list[str]) -> list[str]:
    return [line.replace('"table":"job"', '"table":"jobs"') for line in text]


def of_rows_that_do_not_fit(text: list[str]) -> list[str]:
    return [line.replace('"columns":["id",', '"columns":["number",') for line in text]


def test_a_file_that_is_no_whole_backup_leaves_the_database_empty(farm: Store, new: Settings, tmp_path: Path) -> None:
    back_up(farm.settings, tmp_path / "good.gz")
    text = gzip.decompress((tmp_path / "good.gz").read_bytes()).decode().splitlines()
    changes = (shortened, without_a_row, with_a_wrong_number, of_another_table, of_rows_that_do_not_fit, lambda text: ["[]", "x"])
    for change in changes:
        (tmp_path / "bad.gz").write_bytes(gzip.compress("\n".join(change(text)).encode()))
        with pytest.raises(BadInput, match=r"bad\.gz is no whole backup"):
            restore(new, tmp_path / "bad.gz")
        assert nothing_in(new), change
    restore(new, tmp_path / "good.gz")


@pytest.mark.parametrize("content", [b"", b"text", b"\x1f\x8b\x08 cut", None])
@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_what_is_no_backup_at_all_is_said(new: Settings, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.gz").write_bytes(content)
    with pytest.raises(BadInput, match=r"bad\.gz is no whole backup"):
        restore(new, tmp_path / "bad.gz")


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_backup_of_a_later_version_is_refused(farm: Store, new: Settings, tmp_path: Path) -> None:
    back_up(farm.settings, tmp_path / "backup.gz")
    text = gzip.decompress((tmp_path / "backup.gz").read_bytes()).decode()
    later = text.replace(f'"schema":"{head()}"', '"schema":"9999"', 1)
    (tmp_path / "later.gz").write_bytes(gzip.compress(later.encode()))
    with pytest.raises(WrongSchema, match="the backup has schema 9999, which this version does not know"):
        restore(new, tmp_path / "later.gz")


def test_an_sqlite_file_is_for_sqlite_only(farm: Store, new: Settings, tmp_path: Path, kind: str) -> None:
    if kind == "sqlite":
        back_up(farm.settings, tmp_path / "copy.db")
        content = (tmp_path / "copy.db").read_bytes()
        (tmp_path / "cut.db").write_bytes(content[: len(content) // 2])
        with pytest.raises(BadInput, match=r"cut\.db is no whole backup"):
            restore(new, tmp_path / "cut.db")
        return
    with pytest.raises(BadInput, match="only SQLite can be copied as a"):
        back_up(farm.settings, tmp_path / "copy.db")
    (tmp_path / "other.db").write_bytes(b"SQLite format 3\0")
    with pytest.raises(BadInput, match="is an SQLite file; make a backup that is none"):
        restore(new, tmp_path / "other.db")


# ---------------------------------------------------------------- the verbs


def ini(where: Settings, path: Path) -> str:
    path.write_text(f"[server]\ndata_dir = {where.server.data_dir}\ndatabase = {where.server.database}\n")
    return str(path)


def test_the_verbs_make_a_private_file_check_it_and_give_it_back(farm: Store, new: Settings, tmp_path: Path) -> None:
    path = str(tmp_path / "backup.gz")
    old_ini, new_ini = ini(farm.settings, tmp_path / "old.ini"), ini(new, tmp_path / "new.ini")
    assert f"{path}: " in coalition("db", "backup", "--config", old_ini, path).stdout
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert not list(tmp_path.glob("*.partial"))
    assert "is there already; choose another name" in coalition("db", "backup", "--config", old_ini, path, code=2).stderr
    assert "run: coalition db upgrade" in coalition("db", "check", "--config", new_ini, code=2).stderr
    rows = document("db", "restore", "--config", new_ini, path)["rows"]
    assert rows == sum(map(len, rows_of(farm.settings, but=()).values()))
    assert document("db", "check", "--config", new_ini) == {"schema": head(), "problems": []}
    assert f"schema {head()}: good" in coalition("db", "check", "--config", new_ini).stdout


WRONG: dict[str, tuple[Any, str]] = {
    "a counter": (update(schema.group_count).values(waiting=3), "counts 3 jobs as waiting; there are 15"),
    "a state": (
        update(schema.job).where(schema.job.c.id == 1).values(state="PENDING"),
        "group #1 is shown as PENDING; its counters",
    ),
    "lost counters": (delete(schema.group_count), "group #1 has no counters"),
    "an orphan": (
        update(schema.job).where(schema.job.c.id == 3).values(parent=99),
        "1 jobs are in group #99, which is not there",
    ),
    "a circle": (update(schema.job).where(schema.job.c.id == 1).values(parent=2), "2 groups hang below no root"),
    "no holder": (update(schema.attempt).values(open_worker=None), "is WORKING, but no worker holds it"),
    "a second holder": (update(schema.job).values(attempt_id=99), "is open, but job #"),
    "a wrong queue": (update(schema.ready).values(class_id=99), "is in a queue, where it does not belong"),
    "no queue": (delete(schema.ready), "15 jobs could start and are in no queue"),
    "a dependency": (update(schema.dependency).values(met=True), "has its dependency on #1 marked as met, which is not so"),
    "holds": (update(schema.job).values(holds=2), "counts 2 dependencies as not met; there are 1"),
    "holds handed down": (update(schema.group_inherited).values(holds=7), "group #1 hands down 7 holds; there are 0"),
    "a limit": (update(schema.limit_use).values(used=9), "limit maya counts 9 as used; 1 are"),
    "a lost limit": (delete(schema.limit_use), "limit maya counts 0 as used; 1 are"),
    "a share": (
        insert(schema.fair_use).values(fair_key="ann", used_s=-1, at=0),
        "the share of ann counts -1.000 s as used; its newest jobs took 0.000 s",
    ),
    "money": (
        insert(schema.budget_window).values(budget="b", starts_at=0, ends_at=1, cap_micro=9, committed_micro=5),
        "budget b counts 5 micro-units as committed; its instances have 0",
    ),
}


def test_a_check_finds_what_is_wrong(farm: Store) -> None:
    for change, words in WRONG.values():
        with farm.engine.connect() as db, db.begin() as transaction:
            db.execute(change)
            assert any(words in problem for problem in problems(db)), words
            transaction.rollback()
    with farm.read() as db:
        assert list(problems(db)) == []


def test_a_check_that_finds_something_exits_with_1(farm: Store, tmp_path: Path) -> None:
    change, words = WRONG["a counter"]
    with farm.write() as db:
        db.execute(change)
    assert words in coalition("db", "check", "--config", ini(farm.settings, tmp_path / "farm.ini"), code=1).stdout
