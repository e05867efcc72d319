"""Server and workers on two VLANs with a router in between: who finds whom, and what a cut cable and a move of the server do."""

from __future__ import annotations

import hashlib
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from coalition.client import Client
from coalition.cloud_tags import PLACE
from coalition.config import ServerSettings, Settings
from coalition.discovery import DEFAULT_PORT, Responder, find
from coalition.errors import ServerUnreachable, Unavailable
from coalition.model import Attempt
from tests.e2e.lan import Lan, hindrance
from tests.fakes.cloud_tags import Service, running
from tests.polling import poll_until

WHY_NOT = hindrance()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
LEASE_S = 3.0
TOKEN = "site1.a-secret"
KEYS = {"site1": hashlib.sha256(b"a-secret").digest()}


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """`near` and `far` are workers' machines on two VLANs; `one` and `two` on the first are there to serve."""
    made = Lan(tmp_path_factory.mktemp("lan"))
    for name, vlan, number in (("one", 10, 2), ("two", 10, 3), ("near", 10, 11), ("far", 20, 11)):
        made.machine(name, vlan, number)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="coalition")


KeyOf = Callable[[str], bytes | None]


@contextmanager
def answering(lan: Lan, machine: str, farm: str = "show", key_of: KeyOf = KEYS.get) -> Iterator[None]:
    """Something on that machine answers who looks for a server, as servers do."""
    knobs = ServerSettings(farm=farm, listen=f"0.0.0.0:{DEFAULT_PORT}")
    with lan.inside(machine):
        responder = Responder(replace(Settings(), server=knobs), key_of)
        assert responder.start()
    try:
        yield
    finally:
        responder.stop()


# ---------------------------------------------------------------- who finds whom


def test_a_broadcast_finds_the_server_of_its_own_vlan_and_none_beyond_the_router(lan: Lan) -> None:
    with answering(lan, "one"):
        with lan.inside("near"):
            assert find(token=TOKEN) == "http://10.77.10.2:19211"
        with lan.inside("far"), pytest.raises(ServerUnreachable):
            find(token=TOKEN, timeout_s=1.0)
    with lan.inside("far"), pytest.raises(ConnectionRefusedError):  # the way is there: the machine itself says no
        socket.create_connection(("10.77.10.2", 9), timeout=10)


def test_of_two_servers_on_one_vlan_each_worker_finds_the_one_that_knows_its_token(lan: Lan) -> None:
    others = {"site2": hashlib.sha256(b"other").digest()}
    with answering(lan, "one"), answering(lan, "two", key_of=others.get), lan.inside("near"):
        assert {find(token=TOKEN) for _ in range(3)} == {"http://10.77.10.2:19211"}
        assert {find(token="site2.other") for _ in range(3)} == {"http://10.77.10.3:19211"}
    with answering(lan, "one"), answering(lan, "two", farm="demo"), lan.inside("near"):
        assert {find(farm="demo", token=TOKEN) for _ in range(3)} == {"http://10.77.10.3:19211"}


def test_a_stranger_that_answers_without_the_token_is_not_believed(lan: Lan, caplog: pytest.LogCaptureFixture) -> None:
    with answering(lan, "two", key_of=lambda _: b"a guess"), lan.inside("near"), pytest.raises(ServerUnreachable):
        find(token=TOKEN, timeout_s=1.0)
    assert "10.77.10.3 says it is farm show at http://10.77.10.3:19211, but does not know this token" in caplog.text


def test_a_question_whose_answer_was_lost_is_asked_again(lan: Lan) -> None:
    heard = threading.Event()

    def hears(token: str) -> bytes | None:
        heard.set()
        return KEYS.get(token)

    found: list[str] = []
    with answering(lan, "one", key_of=hears):
        lan.lose_answers("one", "10.77.10.11")
        with lan.inside("near"):
            seeking = threading.Thread(target=lambda: found.append(find(token=TOKEN, timeout_s=20.0)))
            seeking.start()
        assert heard.wait(10)
        assert not found
        lan.lose_answers("one", "10.77.10.11", lost=False)
        seeking.join(20)
    assert found == ["http://10.77.10.2:19211"]


# ---------------------------------------------------------------- a farm


class VlanFarm:
    """A server and a stranger's on VLAN 10, with `coalition worker` on both VLANs. The test itself is on the server's machine."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.lan = folder, Lan(folder)
        stack.callback(self.lan.close)
        for name, vlan, number, dns in MACHINES:
            self.lan.machine(name, vlan, number, dns)
        self.lan.names(coalition="10.77.10.2")
        self.server = self.serve("server")
        self.serve("stranger")
        stack.enter_context(self.lan.inside("server"))
        token = poll_until(lambda: self._token("server"), 30, lambda: self.lan.log_of("server"))
        self.client = Client("http://127.0.0.1:19211", token)
        poll_until(self.answers, 30, lambda: self.lan.log_of("server"))
        self.site = folder / "site.token"
        self.site.write_text(self.client.create_token("site")["token"])

    def serve(self, machine: str) -> subprocess.Popen[bytes]:
        """Starts a server there, of one and the same name but with tokens of its own."""
        data, ini = self.folder / machine, self.folder / f"{machine}.ini"
        server = f"[server]\nfarm = show\nlisten = 0.0.0.0:19211\ndata_dir = {data}\nthreads = 16\n"
        ini.write_text(f"{server}[auth]\nmode = token\n[worker]\nsync = 0.5\nlease = {LEASE_S:g}s\ngrace = 1s\n{QUIET}")
        return self.lan.coalition(machine, "serve", "--config", str(ini))

    def _token(self, machine: str) -> str:
        file = self.folder / machine / "admin.token"
        return file.read_text().strip() if file.exists() else ""

    def answers(self) -> bool:
        try:
            return bool(self.client.info())
        except (ServerUnreachable, Unavailable):
            return False

    def worker(self, name: str) -> None:
        state = ("--state-dir", str(self.folder / f"{name}.state"), "--token-file", str(self.site))
        tags = f"{name},{'near' if name.startswith('w') else 'far'}"
        self.lan.coalition(name, "worker", "--name", name, "--slots", "1", "--affinity", tags, *state)

    def joined(self, *names: str) -> None:
        """Waits until these workers are there and well."""
        poll_until(lambda: self._well() >= set(names), 60, lambda: [self.lan.log_of(name) for name in names])

    def _well(self) -> set[str]:
        return {worker.name for worker in self.client.workers() if worker.state in ("WAITING", "WORKING")}

    def finished(self, job: int) -> list[Attempt]:
        """The attempts of a job once it is FINISHED."""
        look = self.client
        poll_until(lambda: look.job(job).state == "FINISHED", 60, lambda: (look.explain(job), look.workers()))
        return self.client.attempts(job)

    def ran_by(self, tag: str) -> str:
        """Which worker a job with that tag went to."""
        (attempt,) = self.finished(self.client.submit(title=tag, command="true", affinity=[tag]))
        return attempt.worker


MACHINES = (
    ("server", 10, 2, False),
    ("stranger", 10, 3, False),
    *((f"w{number}", 10, 10 + number, False) for number in (1, 2, 3)),
    ("by-dns", 20, 14, True),
    ("by-tag", 20, 15, False),
)
WORKERS = ("w1", "w2", "w3", "by-dns", "by-tag")
QUIET = "[autoscaler]\nenabled = no\n"


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[VlanFarm]:
    with ExitStack() as stack:
        yield VlanFarm(tmp_path, stack)


def test_workers_on_two_vlans_find_the_server_match_tags_survive_a_cut_cable_and_follow_the_server(farm: VlanFarm) -> None:
    farm.lan.cut("server")
    farm.worker("w1")
    poll_until(lambda: "does not know this token; not believed" in farm.lan.log_of("w1"), 30, lambda: farm.lan.log_of("w1"))
    farm.lan.mend("server")
    with farm.lan.inside("by-tag"):
        farm.lan.address("by-tag", PLACE[0], "lo")
        service = Service("ec2", {"coalition:server": "10.77.10.2"}, PLACE)
    with running(service):
        for name in WORKERS[1:]:
            farm.worker(name)
        farm.joined(*WORKERS)
        _each_was_found_in_its_way(farm)
        assert [farm.ran_by(name) for name in WORKERS] == list(WORKERS)
        _a_cut_cable_costs_no_job(farm)
        service.tags["coalition:server"] = "http://10.77.10.9:19211"
        _the_server_moves(farm)
        assert [farm.ran_by(name) for name in WORKERS] == list(WORKERS)


def _each_was_found_in_its_way(farm: VlanFarm) -> None:
    """The steps stand in each worker's log, in their order, up to the one that found the server; the stranger has no worker."""
    found = "found farm show at http://10.77.10.2:19211"
    steps = ["looking for it", "cloud metadata: this machine has none", "DNS: ", "broadcast: asking 10.77.10.255", found]
    told = {name: farm.lan.log_of(name) for name in WORKERS}
    for name in ("w1", "w2", "w3"):
        assert _in_order(told[name], steps), told[name]
    assert _in_order(told["by-dns"], [*steps[:2], "DNS: coalition is 10.77.10.2", found]), told["by-dns"]
    assert _in_order(told["by-tag"], [steps[0], "EC2's tag coalition:server is '10.77.10.2'", found]), told["by-tag"]
    assert "broadcast: " not in told["by-dns"] + told["by-tag"]
    with farm.lan.inside("stranger"):
        assert Client("http://127.0.0.1:19211", farm._token("stranger")).workers() == []


def _in_order(text: str, parts: list[str]) -> bool:
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def _a_cut_cable_costs_no_job(farm: VlanFarm) -> None:
    """A worker that is away for twice the lease loses its job to another, its late result is refused, and it goes on."""
    client, folder = farm.client, farm.folder
    command = f"mkdir {folder}/first || exit 0; while [ ! -e {folder}/go ]; do sleep 0.1; done"
    job = client.submit(title="cut", command=command, affinity=["near"], retries=0)
    poll_until((folder / "first").exists, 30, lambda: client.explain(job))
    (victim,) = (worker.name for worker in client.workers() if job in worker.jobs)
    farm.lan.cut(victim)
    begun = time.monotonic()
    winner, *_ = farm.finished(job)
    poll_until(lambda: time.monotonic() - begun >= 2 * LEASE_S)
    (folder / "go").touch()
    poll_until(lambda: "(cut): FINISHED" in farm.lan.log_of(victim), 30, lambda: farm.lan.log_of(victim))
    farm.lan.mend(victim)
    farm.joined(victim)
    assert farm.ran_by(victim) == victim, "with one slot, it has told the end of the first run by now"
    last, first = client.attempts(job)
    assert (first.worker, first.state, last.worker, last.state) == (victim, "LOST", winner.worker, "FINISHED")
    assert (winner.worker != victim, client.job(job).attempt, client.job(job).errors) == (True, last.id, 0)


def _the_server_moves(farm: VlanFarm) -> None:
    farm.server.terminate()
    farm.server.wait(timeout=20)
    farm.lan.move("server", "10.77.10.2", "10.77.10.9")
    farm.lan.names(coalition="10.77.10.9")
    farm.serve("server")
    poll_until(farm.answers, 30, lambda: farm.lan.log_of("server"))
