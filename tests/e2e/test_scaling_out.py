"""Three servers behind one address, one database, logs in a bucket: one of them is killed, and nothing is lost or paid twice."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from coalition import schema
from coalition.client import Client
from coalition.config import ServerSettings, Settings
from coalition.errors import ServerUnreachable, Unavailable
from coalition.store import Store
from scripts import packages
from tests.e2e.crowd import Crowd
from tests.e2e.farm import RealFarm, free_port
from tests.e2e.test_databases import assert_each_counted_once
from tests.fakes.s3 import new_bucket, object_store
from tests.polling import poll_until

JOBS, WORKERS = 20_000, 200
CAP = 200_000  # micro-units: seven minutes of one machine, so that boots on a busy machine do not use it up
POOL = "provider = local\nprice = 1.80\nslots = 1\nmax = 3\nidle = 2s\nboot_timeout = 30s\nfunding = 20s\naffinity = cloud"
NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    client_max_body_size 64m; client_body_buffer_size 64m;  # in memory: nginx may write into no folder of ours
    upstream servers {{ {servers} keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host:$server_port;
            proxy_read_timeout 90s; proxy_buffering off;
        }}
    }}
}}
"""


class Row(RealFarm):
    """Several servers of one farm, on one data folder, behind a proxy at `address`."""

    def __init__(self, folder: Path, servers: int, **sections: str) -> None:
        super().__init__(folder, **sections)
        self.ports = [free_port() for _ in range(servers)]
        for port in self.ports:
            own = f"listen = 127.0.0.1:{port}\nurl = {self.address}"
            (folder / f"{port}.ini").write_text(self.ini.read_text().replace(f"listen = 127.0.0.1:{self.port}", own))

    def serve_all(self) -> dict[int, subprocess.Popen[bytes]]:
        """Starts the servers one after the other, and the proxy; by port."""
        started = {port: self._serve_one(port) for port in self.ports}
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=1s;" for port in self.ports)
        configuration = self.folder / "nginx.conf"
        configuration.write_text(NGINX.format(folder=self.folder, servers=servers, port=self.port))
        command = [str(packages.find("nginx")), "-c", str(configuration), "-e", str(self.folder / "nginx.log")]
        proxy = self.start_process("nginx", command)
        poll_until(lambda: self.answers(proxy, "nginx", self.address), 30, lambda: self.log_of("nginx"))
        return started

    def _serve_one(self, port: int) -> subprocess.Popen[bytes]:
        name = f"server-{port}"
        process = self._start(name, "serve", "--config", str(self.folder / f"{port}.ini"))
        poll_until(lambda: self.answers(process, name, f"http://127.0.0.1:{port}"), 90, lambda: self.log_of(name))
        return process


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The section of an empty bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with object_store() as endpoint:
        made = new_bucket(endpoint)
        yield f"kind = s3\nbucket = {made.bucket}\nendpoint = {made.endpoint}\nregion = {made.region}"


def through_a_change(call: Callable[[], object]) -> object:
    """The answer of a call that the proxy may refuse in the moment in which it has not noticed that a server is gone."""
    return poll_until(lambda: _unless_away(call), 100)


def _unless_away(call: Callable[[], object]) -> object:
    try:
        return call()
    except (Unavailable, ServerUnreachable):
        return None


@pytest.mark.timeout(1_200)  # a minute and a half on a machine that is quiet
@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
def test_one_of_three_servers_is_killed_and_all_jobs_end_once_within_the_budget(
    kind: str, database: str, bucket: str, tmp_path: Path
) -> None:
    if why := packages.ensure(["nginx-light"]):
        pytest.skip(why)
    farm = Row(
        tmp_path,
        3,
        server=f"threads = 32\ndatabase = {database}",
        scheduler="retry_delay = 0\nsick_after = 0\nstop_after_workers = 0",
        worker="sync = 1\nlease = 10s\nwait = 1s",
        log_store=bucket,
        autoscaler="interval = 0.5",
        pool_burst=POOL,
        budget_day=f"amount = {CAP / 1e6}\nwindow = total\nhard = yes",
    )
    try:
        _run(farm, database)
    finally:
        farm.close()


def _run(farm: Row, database: str) -> None:
    started = farm.serve_all()
    client = Client(farm.address, timeout_s=60)
    shots = [{"title": f"shot {n}", "frames": "1-50", "command": "true", "retries": 20} for n in range(JOBS // 50)]
    # First in line for the machines of the pool, which then go on with shots until the money is used up.
    burst = {"title": "burst", "frames": "1-12", "command": "echo frame {frame}; sleep 0.3", "affinity": ["cloud"]}
    burst |= {"retries": 20, "priority": 200}
    made = client.submit_many([*shots, burst])
    total = JOBS + 12
    crowd = Crowd(farm.address, WORKERS, silence_s=15, logs=True, proxied=True)
    try:
        poll_until(lambda: _finished(client) >= total // 4, 400, lambda: _state(farm, client))
        farm.kill(started[farm.ports[0]])
        poll_until(lambda: _finished(client) == total, 600, lambda: _state(farm, client))
    finally:
        crowd.close()
    assert not crowd.refused
    store = Store(Settings(server=ServerSettings(database=database, data_dir=str(farm.folder / "data"))))
    try:
        assert_each_counted_once(store)
        _assert_within_the_cap(store)
        with store.read() as db:
            runs = list(db.execute(select(schema.attempt.c.id).where(schema.attempt.c.state == "FINISHED").limit(40)).scalars())
    finally:
        store.close()
    told = [client.attempt_log(run).data for run in runs]
    assert all(log == f"log of {run}\n".encode() or log.startswith(b"frame ") for run, log in zip(runs, told, strict=True))
    assert sum(log.startswith(b"log of") for log in told) > 10
    burst_leaves = list(client.jobs(parent=made.ids[-1]))
    assert {client.log(leaf.id).data for leaf in burst_leaves} == {f"frame {n}\n".encode() for n in range(1, 13)}
    for port in farm.ports:
        assert "Traceback" not in farm.log_of(f"server-{port}")
    client.close()


def _finished(client: Client) -> int:
    return int(through_a_change(client.farm)["jobs"]["finished"])  # type: ignore[index]


def _state(farm: Row, client: Client) -> object:
    return client.farm()["jobs"], [farm.log_of(f"server-{port}") for port in farm.ports]


def _assert_within_the_cap(store: Store) -> None:
    with store.read() as db:
        windows = db.execute(select(schema.budget_window.c.cap_micro, schema.budget_window.c.committed_micro)).all()
        launched = db.execute(select(schema.instance.c.id).where(schema.instance.c.launched_at.is_not(None))).all()
    assert launched, "the burst was run by machines of the pool"
    assert windows
    assert all(committed <= cap == CAP for cap, committed in windows)
