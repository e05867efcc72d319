"""Real database servers for the tests, started when the first test asks for one, and databases that tests take and give back.

A server lives in a temporary folder, on a free port, and ends with the tests, also when those are killed. Unless it is `durable`
(for benchmarks) it does not wait for the disk: what is committed survives the server's end, not the machine's. A database that
is given back is emptied and taken again, because to make all tables anew costs ten times as much.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Column, MetaData, create_engine, inspect
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from coalition.config import ServerSettings, Settings
from coalition.schema import metadata
from coalition.schema_version import upgrade
from coalition.store.base import Base
from scripts.packages import find
from tests.polling import poll_until

KINDS = ("sqlite", "mariadb", "postgresql")
START_S = 30.0


class Server(ABC):
    """A database server on this machine. It may be stopped and started again: its data and its port stay."""

    driver = ""
    first = ""  # the database that is there from the beginning
    needs: tuple[str, ...] = ()
    stop_signal = signal.SIGTERM
    impatient: dict[str, str] = {}  # connect arguments of who does not wait for locks

    def __init__(self, durable: bool = False) -> None:
        self.durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="coalition-db-"))
        self.folder.chmod(0o755)
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._free: list[str] = []
        self._made = 0
        self.admin: Engine = create_engine(self.url(self.first), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        self.prepare()
        self.start()

    @abstractmethod
    def prepare(self) -> None:
        """Makes the data folder."""

    @abstractmethod
    def command(self) -> list[str]:
        """What serves."""

    def url(self, database: str) -> str:
        return f"{self.driver}://coalition@127.0.0.1:{self.port}/{database}"

    # ------------------------------------------------------------ the process

    @property
    def as_user(self) -> list[str]:
        """What comes before a command; a server ends with us, whatever ends us."""
        return ["setpriv", "--pdeathsig", self.stop_signal.name.removeprefix("SIG"), "--"]

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*self.as_user, *self.command()], stdout=log, stderr=log, start_new_session=True)
        poll_until(self.answers, START_S, self.log)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.driver} ended with {self.process.returncode}: {self.log()}"
        try:
            with self.admin.connect():
                return True
        except DBAPIError:
            return False

    def stop(self, how: signal.Signals | None = None) -> None:
        """Ends it in an orderly way, or by the signal given; every connection breaks."""
        if self.process is None:
            return
        self.process.send_signal(how or self.stop_signal)
        self.process.wait(timeout=START_S)
        self.process = None

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3_000:]

    def close(self) -> None:
        self.admin.dispose()
        with suppress(subprocess.TimeoutExpired):
            self.stop()
        if self.process is not None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, words: Sequence[str]) -> None:
        done = subprocess.run([*self.as_user, *words], capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, f"{words[0]}: {done.stdout[-1_000:]}{done.stderr[-1_000:]}"

    # ------------------------------------------------------------ databases

    def blank(self) -> str:
        """The address of a new database without tables."""
        self._made += 1
        name = f"test{self._made}"
        with self.admin.connect() as db:
            db.exec_driver_sql(f"CREATE DATABASE {name}")
        return self.url(name)

    @abstractmethod
    def break_connections(self, url: str) -> int:
        """Ends every connection to a database, whatever it does; how many there were."""

    @abstractmethod
    def waiting(self, url: str) -> bool:
        """Whether somebody waits for a lock in a database."""

    def drop(self, url: str) -> None:
        with self.admin.connect() as db:
            db.exec_driver_sql(f"DROP DATABASE {url.rpartition('/')[2]}")

    def take(self) -> str:
        """The address of a database with all tables and nothing in them."""
        if self._free:
            return self._free.pop()
        url = self.blank()
        base = Base(Settings(server=ServerSettings(database=url)))
        upgrade(base)
        base.close()
        return url

    def give_back(self, url: str) -> None:
        """Empties a database for the next test; one with other tables, or that somebody still locks, is not used again."""
        engine = create_engine(url, connect_args=self.impatient)
        with suppress(OperationalError), engine.begin() as db:
            if set(inspect(db).get_table_names()) == {*metadata.tables, "alembic_version"}:
                for table in reversed(metadata.sorted_tables):
                    db.execute(table.delete())
                self._free.append(url)
        engine.dispose()


class MariaDB(Server):
    driver = "mariadb+pymysql"
    needs = ("mariadbd", "mariadb-install-db", "setpriv")
    first = "mysql"
    impatient = {"init_command": "SET innodb_lock_wait_timeout = 2"}

    def url(self, database: str) -> str:
        return f"{self.driver}://root@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        self.run(
            [
                str(find("mariadb-install-db")),
                *("--no-defaults", f"--datadir={self.folder / 'data'}", f"--user={_me()}"),
                *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
                f"--tmpdir={self.folder}",  # a server that starts deletes what others have in a folder that they share
            ]
        )

    def break_connections(self, url: str) -> int:
        name = url.rpartition("/")[2]
        with self.admin.connect() as db:
            found = list(db.exec_driver_sql(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'").scalars())
            for one in found:
                db.exec_driver_sql(f"KILL CONNECTION {one}")
        return len(found)

    def waiting(self, url: str) -> bool:
        with self.admin.connect() as db:
            # Not from information_schema.innodb_lock_waits: that shows an old state to whoever asks more than ten times a second.
            return db.exec_driver_sql("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'").one()[1] != "0"

    def command(self) -> list[str]:
        return [
            str(find("mariadbd")),
            *("--no-defaults", f"--user={_me()}", f"--datadir={self.folder / 'data'}", f"--socket={self.folder / 'socket'}"),
            *("--bind-address=127.0.0.1", f"--port={self.port}", f"--pid-file={self.folder / 'pid'}", "--skip-name-resolve"),
            f"--tmpdir={self.folder}",
            *(
                "--innodb-log-file-size=64M",
                "--innodb-buffer-pool-size=128M",
                "--performance-schema=off",
                "--max-connections=300",
            ),
            # A write to the log at each commit, but no wait for the disk.
            *(() if self.durable else ("--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync")),
        ]


class PostgreSQL(Server):
    driver = "postgresql+psycopg"
    needs = ("initdb", "postgres", "setpriv")
    stop_signal = signal.SIGINT  # SIGTERM would wait until the last client has gone
    first = "postgres"
    impatient = {"options": "-c lock_timeout=2000"}

    @property
    def as_user(self) -> list[str]:
        """PostgreSQL refuses to run as root."""
        first, *others = super().as_user
        other = [f"--reuid={_other()}", f"--regid={_other()}", "--clear-groups"] if os.geteuid() == 0 else []
        return [first, *other, *others]

    def prepare(self) -> None:
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(data, _other())
        self.run(
            [str(find("initdb")), "-D", str(data), "-U", "coalition", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        )

    def break_connections(self, url: str) -> int:
        name = url.rpartition("/")[2]
        with self.admin.connect() as db:
            found = db.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            return len(found.all())

    def waiting(self, url: str) -> bool:
        with self.admin.connect() as db:
            return bool(db.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar())

    def command(self) -> list[str]:
        given = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **({} if self.durable else {"fsync": "off", "full_page_writes": "off"}),
            "shared_buffers": "64MB",
            "max_connections": "150",
        }
        options = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
        return [str(find("postgres")), "-D", str(self.folder / "data"), *options]


SERVERS: dict[str, type[Server]] = {"mariadb": MariaDB, "postgresql": PostgreSQL}


class Databases:
    """The servers of a test session; each is started by the first who asks for it."""

    def __init__(self) -> None:
        self._running: dict[str, Server] = {}

    def server(self, kind: str) -> Server:
        if kind not in self._running:
            self._running[kind] = SERVERS[kind]()
        return self._running[kind]

    @contextmanager
    def taken(self, kind: str) -> Iterator[str]:
        """The address of an empty database with all tables, for one test."""
        url = self.server(kind).take()
        yield url
        self.server(kind).give_back(url)

    @contextmanager
    def blank(self, kind: str, folder: Path) -> Iterator[str]:
        """The address of a database without tables, for one test; SQLite's is in the folder."""
        if kind == "sqlite":
            yield f"sqlite:///{folder / 'blank.db'}"
            return
        url = self.server(kind).blank()
        yield url
        self.server(kind).drop(url)

    def close(self) -> None:
        for server in self._running.values():
            server.close()


def a_value(column: Column[Any]) -> Any:
    """Something that fits a column; all ids are 1, but counters are of no job: what is derived from them stays as it is."""
    kind = column.type.python_type
    return "x" if issubclass(kind, str) else kind(2 if column.name == "group_id" else 1)


def filled(base: Base) -> dict[str, dict[str, Any]]:
    """Puts one row into each table that has none; what is in each now."""
    tables = MetaData()
    tables.reflect(base.engine)
    rows = {}
    with base.engine.begin() as db:
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                if db.execute(table.select()).first() is None:
                    db.execute(table.insert().values({column.name: a_value(column) for column in table.columns}))
                rows[table.name] = dict(db.execute(table.select().order_by(*table.primary_key.columns)).mappings().all()[-1])
    return rows


def missing(kind: str) -> str:
    """What keeps a kind of database from being started here; empty if nothing does."""
    return ", ".join(command for command in (SERVERS[kind].needs if kind in SERVERS else ()) if find(command) is None)


def _me() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _other() -> str:
    """Whom PostgreSQL runs as when we are root."""
    return next(name for name in ("postgres", "nobody") if any(one.pw_name == name for one in pwd.getpwall()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
