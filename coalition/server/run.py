"""serve(settings): gunicorn with its worker processes, and the threads that run beside the requests in each.

Each process has its own store and dispatcher. What must be done once in a farm (autoscaler, sweeping, forgetting) is done by the
process that holds the row of that role in the database; questions of discovery come to one socket that all share.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from coalition import discovery, journal, metrics
from coalition.config import Settings
from coalition.errors import CoalitionError, ConfigError
from coalition.schema_version import prepare
from coalition.server import log_keeping, notifier
from coalition.server.app import create_app
from coalition.server.housekeeping import Housekeeper
from coalition.server.reload import Differences, Reloader
from coalition.server.tls import Certificate
from coalition.store import Store

log = logging.getLogger("coalition.server")

KEEPALIVE_S = 75  # gunicorn's own 2 s equals common polling intervals and breaks them
GRACE_S = 5
SHARED_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - files there get names of their own
MANY_FILES = 100_000
FILES_OF_OURS = 256  # databases, logs, listening sockets; the other files that may be open are connections


class Background(Protocol):
    """Something that runs beside the requests, such as the autoscaler."""

    def start(self) -> object: ...

    def stop(self) -> None: ...


Extra = Callable[[Settings, Store], Background]


def serve(settings: Settings, extras: Sequence[Extra] = (), read: Callable[[], Settings] | None = None) -> int:
    """Serves until SIGTERM or Ctrl-C. ConfigError when the address or the database cannot be used.

    `read` gives the settings of the file as it is now; SIGHUP asks for it.
    """
    _begin_journal(settings)
    _must_be_free(settings)
    make_data_dir(settings)
    if settings.server.tls_cert:
        Certificate(settings.server)  # complains now
    _check(settings)
    prepare(settings)
    if path := first_token(settings):
        print(f"the first admin's token is in {path}", flush=True)
    _adopt_rules(settings)
    print(f"coalition serves farm {settings.server.farm} at {settings.url}", flush=True)
    with _counting(settings):
        _Gunicorn(settings, extras, read or (lambda: settings)).run()
    return 0


def _check(settings: Settings) -> None:
    """ConfigError for what is told by looking beyond the file."""
    log_keeping.check(settings)
    notifier.check(settings)


@contextmanager
def _counting(settings: Settings) -> Iterator[None]:
    """Several processes count together in a folder, which is new each time: the counters begin at 0 with the server."""
    if settings.server.processes == 1:
        yield
        return
    folder, owner = tempfile.mkdtemp(prefix="coalition-metrics-", dir=SHARED_MEMORY), os.getpid()
    try:
        metrics.share(Path(folder))
        yield
    finally:
        if os.getpid() == owner:  # a process of gunicorn's that ends comes through here, too
            shutil.rmtree(folder, ignore_errors=True)


def _begin_journal(settings: Settings) -> None:
    try:
        journal.begin(settings.log.journal)
    except OSError as error:
        raise ConfigError(f"[log] file: {settings.log.file} cannot be written: {error.strerror}") from None


def _must_be_free(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            reason = f"{settings.server.listen} cannot be used: {error.strerror or error}"
            raise ConfigError(f"{reason}; is a server running there? Choose another with --listen") from None


def make_data_dir(settings: Settings) -> None:
    try:
        settings.data_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"data_dir {settings.data_dir} cannot be made: {error.strerror}"
        raise ConfigError(f"{reason}; choose another with --data-dir") from None


def first_token(settings: Settings) -> Path | None:
    """Somebody must be able to log in: the first admin's token is written to data_dir, for its owner's eyes.

    The file, if it was written now.
    """
    path = settings.data_dir / "admin.token"
    if settings.auth.mode == "none" or path.exists():
        return None
    store = Store(settings)
    try:
        text = store.create_token("user", user="admin", role="admin", who="server")
    finally:
        store.close()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
    return path


def _adopt_rules(settings: Settings, changes: Differences | None = None) -> None:
    """What cloud.ini says of the order of jobs, and of who pays for them, holds for those that are there, too."""
    store = Store(settings)
    try:
        store.adopt_rules()
        store.adopt_budgets()
        if changes:
            store.configured(changes)
    finally:
        store.close()


def _open_files() -> int:
    """How many files this process and its children may have open: as many as they may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return max(soft, wanted)


class _GunicornsLog(Logger):  # type: ignore[misc]
    """What gunicorn says goes where our own lines go."""

    def setup(self, cfg: Any) -> None:
        self.error_log.setLevel(logging.WARNING)
        self.error_log.propagate = True
        self.access_log.setLevel(logging.CRITICAL)


class _Arbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's first process. Its own reload has old and new processes serve side by side, by different rules."""

    def reload(self) -> None:
        reloader = self.app.reloader
        try:
            new, changes = reloader.look()
            _check(new)
            if changes:
                self._apply(new, changes)
        except CoalitionError as error:
            log.error("cloud.ini was not read again: %s", error)
            reloader.say(refused=str(error))
        else:
            reloader.say(changes=changes)

    def _apply(self, new: Settings, changes: Differences) -> None:
        self._end_processes()
        try:
            _adopt_rules(new, changes)
            self.app.settings = self.app.reloader.settings = new
            log.info("cloud.ini was read again; changed: %s", ", ".join(changes))
        finally:
            self.spawn_workers()

    def _end_processes(self) -> None:
        for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
            self.kill_workers(number)
            until = time.monotonic() + patience_s
            while self.WORKERS and time.monotonic() < until:
                self.reap_workers()
                time.sleep(0.05)


class _Gunicorn(BaseApplication):  # type: ignore[misc]
    """gthread workers: the threads of each share one dispatcher. SQLite, which has one writer, has one worker."""

    def __init__(self, settings: Settings, extras: Sequence[Extra], read: Callable[[], Settings]) -> None:
        self.settings, self.extras = settings, extras
        self.reloader = Reloader(settings, read)
        self.running: list[Background] = []
        self.store: Store | None = None
        self.questions = discovery.open_port(settings) if settings.server.discovery else None
        super().__init__()

    def load_config(self) -> None:
        settings = self.settings
        options: dict[str, Any] = {
            "bind": settings.server.listen,
            "workers": settings.server.processes,
            "worker_class": "coalition.server.door.Door",
            "threads": settings.server.threads,
            "worker_connections": max(settings.server.threads * 2, _open_files() - FILES_OF_OURS),
            "keepalive": KEEPALIVE_S,
            "timeout": 120,
            "graceful_timeout": GRACE_S,
            "worker_tmp_dir": SHARED_MEMORY,  # a heartbeat file
            "proc_name": f"coalition {settings.server.farm}",
            "loglevel": "warning",
            "logger_class": _GunicornsLog,
            "control_socket_disable": True,
            "post_worker_init": lambda worker: self.start_background(),
            "worker_exit": lambda server, worker: self.stop_background(),
        }
        if settings.server.tls_cert:
            certificate = Certificate(settings.server)
            options |= {"certfile": str(certificate.files[0]), "keyfile": str(certificate.files[1])}
            options["ssl_context"] = certificate.for_gunicorn
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def run(self) -> None:
        _Arbiter(self).run()

    def load(self) -> Flask:
        self.store = Store(self.settings)
        self.app = create_app(self.settings, self.store)
        return self.app

    def start_background(self) -> None:
        # A list of 100,000 jobs is millions of objects, none of them garbage: to look at them again and again costs a third.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        assert self.store is not None
        farm = self.app.extensions["coalition"]
        logs = log_keeping.LogKeeper(self.settings, self.store, farm.logs)
        self.running = [farm.dispatcher, farm.changes, Housekeeper(self.settings, self.store), logs]
        if self.questions:
            self.running.append(discovery.Responder(self.settings, self._key_of, self.questions))
        self.running += notifier.notifiers(self.settings, self.store)
        self.running += [make(self.settings, self.store) for make in self.extras]
        for one in self.running:
            one.start()

    def stop_background(self) -> None:
        for one in reversed(self.running):
            one.stop()
        if self.store:
            self.store.close()

    def _key_of(self, token_id: str) -> bytes | None:
        return self.store.discovery_key(token_id) if self.store else None
