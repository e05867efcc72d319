"""What all tests share."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

pytest.register_assert_rewrite(
    "tests.audit",
    "tests.builders",
    "tests.contract_faults",
    "tests.contract_provider",
    "tests.contract_rules",
    "tests.contract_store",
    "tests.databases",
    "tests.invariants",
)

from flask import Flask  # noqa: E402

from coalition.schema_version import upgrade  # noqa: E402
from coalition.server.app import create_app  # noqa: E402
from coalition.store.base import Base  # noqa: E402
from scripts.packages import find  # noqa: E402
from tests.builders import Clock, WatchedStore, settings  # noqa: E402
from tests.databases import Databases, missing  # noqa: E402
from tests.directory import Slapd  # noqa: E402

# A shell has what it runs in the background ignore Ctrl-C, and so would every process that a test starts and ends with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

T = TypeVar("T")
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _no_skips(report: Report, what: str) -> Report:
    """With CI=true what is skipped has failed: there, everything that a test needs is installed."""
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{what} was skipped, and CI=true allows none: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _no_skips((yield), item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _no_skips((yield), collector.nodeid)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """MariaDB and PostgreSQL, each started when it is first asked for."""
    made = Databases()
    yield made
    made.close()


@pytest.fixture(scope="session")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    """A directory with users and groups."""
    if find("slapd") is None:
        pytest.skip("not installed: slapd")
    made = Slapd(tmp_path_factory.mktemp("slapd"))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the schema and nothing in it, to copy: to migrate for every test takes too long."""
    folder = tmp_path_factory.mktemp("new")
    base = Base(settings(folder))
    upgrade(base)
    base.close()
    return folder / "coalition.db"


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database of `store`: SQLite, unless a test is parametrised with others (indirect)."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture
def blank_database(kind: str, databases: Databases, tmp_path: Path) -> Iterator[str]:
    """The address of a database without tables."""
    if absent := missing(kind):
        pytest.skip(f"not installed: {absent}")
    with databases.blank(kind, tmp_path) as url:
        yield url


@pytest.fixture
def database(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database with all tables and nothing in them."""
    if absent := missing(kind):
        pytest.skip(f"not installed: {absent}")
    if kind == "sqlite":
        shutil.copy(request.getfixturevalue("new_database"), tmp_path / "coalition.db")
        yield f"sqlite:///{tmp_path / 'coalition.db'}"
    else:
        with request.getfixturevalue("databases").taken(kind) as url:
            yield url


@pytest.fixture
def store(database: str, tmp_path: Path, clock: Clock) -> Iterator[WatchedStore]:
    """A store that checks its invariants after every transaction."""
    made = WatchedStore(settings(tmp_path, database=database), clock)
    yield made
    made.close()


@pytest.fixture
def app(store: WatchedStore) -> Iterator[Flask]:
    """The server without a network, in mode none; its dispatcher runs."""
    made = create_app(store.settings, store, store.clock)
    made.extensions["coalition"].dispatcher.start()
    yield made
    made.extensions["coalition"].dispatcher.stop()
