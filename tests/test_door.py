"""The loop that answers workers' syncs itself: what it takes, what it leaves to the threads, and that both answer alike."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlencode

import pytest

from coalition.model import Sync, SyncReply
from coalition.server.dispatcher import Turn
from coalition.server.door import Door, Flight, Kept
from coalition.server.requests import request
from tests.e2e.farm import RealFarm
from tests.polling import poll_until

BODY = b'{"epoch":1,"seq":2,"free":1}'


def raw(body: bytes = BODY, *lines: str, first: str = "POST /api/v1/workers/7/sync HTTP/1.1") -> bytes:
    head = [first, "Host: farm", "Authorization: Bearer w7.secret", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


class TestWhatIsTaken:
    def test_a_whole_sync(self) -> None:
        read = request(raw(BODY, "X-Any: thing ", "accept:*/*"))
        assert read is not None
        assert (read.path, read.body) == ("/api/v1/workers/7/sync", BODY)
        assert (read.fields["authorization"], read.fields["x-any"], read.fields["accept"]) == ("Bearer w7.secret", "thing", "*/*")
        assert request(raw(b"")) is not None

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\r\n\r\n",
            raw()[:-1],  # the rest comes later
            raw()[:40],
            raw() + b"POST ",  # the next one, already
            raw(first="GET /api/v1/workers/7/sync HTTP/1.1"),
            raw(first="POST /api/v1/workers/7/sync HTTP/1.0"),
            raw(first="POST http://farm/api/v1/workers/7/sync HTTP/1.1"),
            raw().replace(b"Host: farm", b"X-Host: farm"),
            raw(BODY, "Connection: close"),
            raw(BODY, "Transfer-Encoding: chunked"),
            raw(BODY, "Expect: 100-continue"),
            raw(BODY, f"Content-Length: {len(BODY)}"),  # twice
            raw(BODY, "Authorization: Bearer w8.other"),
            raw(BODY, " folded"),
            raw(BODY, "No colon"),
            raw(BODY, "X-Name: \x00"),
            raw(BODY, "X-Name: caf\u00e9"),
            raw(BODY).replace(b"Content-Length: 28", b"Content-Length: +28"),
            raw(BODY).replace(b"\r\n", b"\n"),
        ],
    )
    def test_anything_else_is_left_to_the_threads(self, data: bytes) -> None:
        assert request(data) is None

    def test_connections_are_kept_in_order_and_taken_from_the_middle(self) -> None:
        kept = Kept()
        for name in "abc":
            kept.append(name)
        kept.remove("b")
        assert (kept[0], list(kept), len(kept)) == ("a", ["a", "c"], 2)
        assert (kept.popleft(), kept.popleft(), bool(kept)) == ("a", "c", False)


@dataclass
class Agent:
    """A worker at the level of bytes."""

    port: int
    name: str
    seq: int = 0
    who: dict[str, Any] = field(default_factory=dict)
    buffer: bytes = b""

    def __post_init__(self) -> None:
        self.connect()
        facts = {"name": self.name, "session": f"door-{self.name}-0123456789", "slots": 2, "facts": {"cpus": 2}}
        self.send("/api/v1/workers/enrol", facts)
        status, _, self.who = self.answer()
        assert status == 201, self.who

    def connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def bytes_of(self, path: str, value: object, *lines: str) -> bytes:
        body = json.dumps(value).encode()
        head = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        if self.who:
            head.append(f"Authorization: Bearer {self.who['credential']}")
        return "\r\n".join([*head, *lines, "", ""]).encode() + body

    def send(self, path: str, value: object, *lines: str) -> None:
        self.socket.sendall(self.bytes_of(path, value, *lines))

    def call(self, **fields: Any) -> bytes:
        self.seq += 1
        return self.bytes_of(self.path, {"epoch": self.who["epoch"], "seq": self.seq, "free": 2, **fields})

    @property
    def path(self) -> str:
        return f"/api/v1/workers/{self.who['worker']}/sync"

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """(status, headers, body) of the next answer."""
        while b"\r\n\r\n" not in self.buffer:
            self.read()
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(rest) < int(headers["content-length"]):
            self.read()
            rest = self.buffer.partition(b"\r\n\r\n")[2]
        length = int(headers["content-length"])
        self.buffer = rest[length:]
        return int(first.split()[1]), headers, self.parsed(rest[:length])

    def parsed(self, body: bytes) -> Any:
        return json.loads(body)

    def read(self) -> None:
        data = self.socket.recv(1 << 16)
        assert data, f"the server closed the connection after {self.buffer!r}"
        self.buffer += data

    def sync(self, **fields: Any) -> Any:
        """The reply of the loop; a first call is served by a thread, because the worker is not known before."""
        self.socket.sendall(self.call(**fields))
        status, headers, body = self.answer()
        assert status == 200, body
        assert ("server" in headers) == (self.seq == 1), headers  # gunicorn's own answers name it
        return body

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFarm]:
    made = RealFarm(
        tmp_path_factory.mktemp("door"),
        server="threads = 16\nlegacy = yes",
        worker="lease = 60s\nwait = 15s\nenvironment = SHOW=a b",
        autoscaler="enabled = no",
    )
    made.serve()
    yield made
    made.close()


@pytest.fixture
def agent(farm: RealFarm, request: pytest.FixtureRequest) -> Iterator[Agent]:
    with contextlib.closing(Agent(farm.port, f"w-{request.node.name[:30]}")) as made:
        made.sync()
        yield made


def a_result(lease: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"attempt": lease["attempt"], "state": "FINISHED", "run_s": 5.0, "exit_code": 0, **fields}


class TestAnswers:
    def test_a_job_is_leased_reported_and_counted(self, farm: RealFarm, agent: Agent) -> None:
        job = farm.client.submit(title="a", command="true", workers=[agent.who["name"]])
        (lease,) = agent.sync(wait_s=10)["leases"]
        assert (lease["title"], lease["job"]) == ("a", job)
        assert agent.sync(running=[{"attempt": lease["attempt"], "started": True}], takes=False)["stop"] == []
        assert agent.sync(finished=[a_result(lease)], takes=False)["refused"] == []
        assert farm.client.job(job).state == "FINISHED"

    def test_the_loop_s_answers_are_counted_as_those_of_threads(self, farm: RealFarm, agent: Agent) -> None:
        route = 'route="/api/v1/workers/{worker_id}/sync"'

        def counted() -> tuple[float, float]:
            with urllib.request.urlopen(f"{farm.address}/metrics", timeout=10) as page:
                text = page.read().decode()
            asked = sum(float(line.split()[-1]) for line in text.splitlines() if "requests_total{" in line and route in line)
            timed = next(line for line in text.splitlines() if "duration_seconds_count{" in line and route in line)
            return asked, float(timed.split()[-1])

        before = counted()
        agent.sync()
        agent.sync()
        agent.send(agent.path, {"epoch": 99, "seq": 99})  # refused
        assert agent.answer()[0] == 409
        assert poll_until(lambda: counted() == (before[0] + 3, before[1] + 3), 10, counted)

    def test_the_loop_s_answers_carry_the_request_s_id(self, agent: Agent) -> None:
        ids = []
        for given in ("from-the-caller", "", "b a d", "x" * 65):
            agent.socket.sendall(agent.call().replace(b"\r\n\r\n", f"\r\nX-Request-Id: {given}\r\n\r\n".encode(), 1))
            status, headers, _ = agent.answer()
            assert status == 200
            ids.append(headers["x-request-id"])
        assert ids[0] == "from-the-caller"
        assert all(re.fullmatch(r"[0-9a-f]{8}", one) for one in ids[1:])
        agent.send(agent.path, {"epoch": 99, "seq": 99}, "X-Request-Id: refused-one")
        assert agent.answer()[:2][1]["x-request-id"] == "refused-one"

    def test_a_log_that_rides_in_the_report_is_kept(self, farm: RealFarm, agent: Agent) -> None:
        job = farm.client.submit(title="a", command="true", workers=[agent.who["name"]])
        (lease,) = agent.sync(wait_s=10)["leases"]
        agent.sync(finished=[a_result(lease, log=base64.b64encode(b"said\n").decode(), log_offset=0)], takes=False)
        assert (farm.client.job(job).state, farm.client.log(lease["attempt"]).data) == ("FINISHED", b"said\n")

    def test_a_log_that_is_none_is_refused_and_the_call_can_be_made_again(self, farm: RealFarm, agent: Agent) -> None:
        farm.client.submit(title="a", command="true", workers=[agent.who["name"]])
        (lease,) = agent.sync(wait_s=10)["leases"]
        agent.socket.sendall(agent.call(finished=[a_result(lease, log="?", log_offset=0)], takes=False))
        status, headers, body = agent.answer()
        assert (status, headers["content-type"]) == (422, "application/problem+json")
        assert body["fields"] == {"finished.log": "is not base64"}
        assert agent.sync(finished=[a_result(lease)], takes=False)["refused"] == []

    def test_a_call_that_waits_does_not_hold_up_others(self, farm: RealFarm, agent: Agent) -> None:
        with contextlib.closing(Agent(farm.port, "another")) as other:
            agent.socket.sendall(agent.call(wait_s=15))
            for _ in range(5):
                assert other.sync()["leases"] == []
            farm.client.submit(title="late", command="true", workers=[agent.who["name"]])
            assert [lease["title"] for lease in agent.answer()[2]["leases"]] == ["late"]

    def test_what_is_refused_is_refused_as_by_a_thread(self, agent: Agent) -> None:
        bad = [
            ({"epoch": agent.who["epoch"], "seq": 1}, 409),
            ({"epoch": 99, "seq": 99}, 409),
            ({"epoch": agent.who["epoch"], "seq": 99, "free": "two"}, 422),
            ([], 422),
        ]
        for value, status in bad:
            agent.send(agent.path, value)
            assert agent.answer()[0] == status, value
        agent.who["credential"] = "w1.guess"
        agent.send(agent.path, {"epoch": 1, "seq": 100})
        assert agent.answer()[0] == 401


@dataclass
class OldAgent(Agent):
    """A worker of Coalition 3.x at the level of bytes."""

    def __post_init__(self) -> None:
        self.connect()

    def form(self, call: str, *lines: str, **fields: str) -> bytes:
        body = urlencode({"hostname": self.name, "load": "[5.0, 1.0]", "free_memory": "10", "total_memory": "40", **fields})
        head = [f"POST /workers/{call} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/x-www-form-urlencoded"]
        return "\r\n".join([*head, f"Content-Length: {len(body)}", *lines, "", body]).encode()

    def ask(self, call: str, *lines: str, **fields: str) -> tuple[int, bool, str]:
        """(status, answered by the loop, body)"""
        self.socket.sendall(self.form(call, *lines, **fields))
        status, headers, body = self.answer()
        return status, "server" not in headers, body

    def parsed(self, body: bytes) -> Any:
        return body.decode()


class TestOldWorkers:
    def test_the_loop_answers_in_the_same_bytes_as_a_thread(self, farm: RealFarm) -> None:
        with contextlib.closing(OldAgent(farm.port, "old1")) as old:
            assert old.ask("pickjob") == (200, False, '(-1,"","","",None)')  # it is not known before
            assert old.ask("pickjob") == (200, True, '(-1,"","","",None)')
            first, second = (farm.client.submit(title="a", command="it's", dir="/d", workers=["old1"]) for _ in range(2))
            told = f"({first}, \"it's\", '/d', 'root', 'SHOW=a b')"
            assert old.ask("pickjob") == (200, True, told.replace("root", farm.client.job(first).user))
            assert old.ask("pickjob", "Cookie: a=b; c")[:2] == (200, True)  # it did not hear of it
            assert old.ask("endjob", jobId=str(first), errorCode="0") == (200, True, "true")
            assert old.ask("pickjob", "Connection: keep-alive")[:2] == (200, False)
            assert old.ask("endjob", jobId=str(second), errorCode="7") == (200, True, "true")
            assert old.ask("endjob", jobId=str(second), errorCode="0") == (200, False, "true")  # it is over: looked up
            assert [farm.client.job(job).state for job in (first, second)] == ["FINISHED", "ERROR"]

    @pytest.mark.parametrize(
        ("lines", "status"),
        [
            (["Origin: http://elsewhere"], 403),
            (["User-Agent: Mozilla/5.0"], 403),
            (["Sec-Fetch-Site: none"], 403),
            (["Authorization: Basic eDp5"], 200),  # without log-in nobody asks
        ],
    )
    def test_who_must_be_looked_at_is_left_to_a_thread(self, farm: RealFarm, lines: list[str], status: int) -> None:
        with contextlib.closing(OldAgent(farm.port, "old2")) as old:
            old.ask("pickjob")
            assert old.ask("pickjob", *lines)[:2] == (status, False)

    def test_a_strange_host_is_refused(self, farm: RealFarm) -> None:
        with contextlib.closing(OldAgent(farm.port, "old2")) as old:
            old.ask("pickjob")
            old.socket.sendall(old.form("pickjob").replace(b"Host: 127.0.0.1", b"Host: elsewhere"))
            assert old.answer()[0] == 403


class TestConnections:
    def test_half_a_request_is_served_when_the_rest_comes(self, agent: Agent) -> None:
        data = agent.call()
        agent.socket.sendall(data[:60])
        with contextlib.closing(Agent(agent.port, "meanwhile")) as other:  # the loop goes on
            other.sync()
            other.sync()
        agent.socket.sendall(data[60:])
        assert agent.answer()[0] == 200
        agent.sync()

    def test_calls_that_come_in_one_piece_are_answered_in_order(self, agent: Agent) -> None:
        agent.socket.sendall(agent.call() + agent.call() + agent.call())
        assert [agent.answer()[0] for _ in range(3)] == [200, 200, 200]
        agent.sync()

    def test_a_call_that_comes_before_the_answer_waits_for_its_turn(self, farm: RealFarm, agent: Agent) -> None:
        agent.socket.sendall(agent.call(wait_s=1))
        poll_until(lambda: farm.client.workers(), 5, list)  # the first is read by now, and waits
        agent.socket.sendall(agent.call())
        assert [agent.answer()[0] for _ in range(2)] == [200, 200]
        agent.sync()

    def test_other_requests_on_the_same_connection_are_served(self, agent: Agent) -> None:
        agent.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        status, headers, _ = agent.answer()
        assert (status, "server" in headers) == (200, True)
        agent.sync()

    def test_a_worker_that_leaves_in_mid_call_leaves_no_connection(self, farm: RealFarm, agent: Agent) -> None:
        (server,) = farm.server_workers()
        before = len(server.net_connections())
        with contextlib.closing(Agent(agent.port, "gone")) as gone:
            gone.sync()
            gone.socket.sendall(gone.call(wait_s=1))
        poll_until(lambda: len(server.net_connections()) <= before, 20, server.net_connections)
        agent.sync()

    def test_a_stopping_server_answers_what_it_has_read(self, farm: RealFarm, tmp_path_factory: pytest.TempPathFactory) -> None:
        made = RealFarm(tmp_path_factory.mktemp("stopping"), worker="lease = 60s\nwait = 15s", autoscaler="enabled = no")
        process = made.serve()
        with contextlib.closing(Agent(made.port, "waits")) as waits:
            waits.sync()
            waits.socket.sendall(waits.call(wait_s=15))
            urllib.request.urlopen(f"{made.address}/healthz", timeout=10).close()
            process.terminate()
            assert waits.answer()[2]["leases"] == [], "at once: the server does not wait that long for its end"
        made.close()


def test_an_answer_that_cannot_be_written_is_a_500_and_not_the_end_of_the_loop() -> None:
    def render(reply: SyncReply) -> bytes:
        raise ValueError(f"cannot write {reply}")

    door = Door.__new__(Door)  # it needs no server for this
    turn = Turn(cast(Any, None), Sync(epoch=1, seq=1, free=0), 0, 0, None)
    answer = door._rendered(Flight(door, None, turn, render, "/", "id", 0.0), SyncReply([], [], [], "run", None, 5.0))
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"cannot write" not in answer
