"""How a worker finds its server, and no other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from coalition import cloud_tags
from coalition.config import ServerSettings, Settings
from coalition.discovery import (
    Responder,
    _resolved,
    _Search,
    broadcast_addresses,
    find,
    key_of_token,
    mac,
    open_port,
    search,
    url_for,
)
from coalition.errors import ServerUnreachable, Unavailable
from tests.builders import Caller
from tests.fakes.cloud_tags import Service, running
from tests.fakes.server import RealServer
from tests.polling import poll_until

TOKEN = "site1.a-secret"
KEYS = {"site1": hashlib.sha256(b"a-secret").digest()}
STRANGERS = {"site1": hashlib.sha256(b"a guess").digest()}


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def settings(farm: str, port: int, **server: Any) -> Settings:
    given = {"farm": farm, "discovery_port": port, "listen": "127.0.0.1:8000", **server}
    return replace(Settings(), server=ServerSettings(**given))


Serve = Callable[..., Responder]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def serve(port: int) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def begin(farm: str, keys: dict[str, bytes] | None = None, **server: Any) -> Responder:
            responder = Responder(settings(farm, port, **server), (keys or {}).get)
            assert responder.start()
            stack.callback(responder.stop)
            return responder

        yield begin


def test_a_worker_without_a_token_finds_the_server_and_says_that_it_is_not_proven(
    serve: Serve, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    serve("show")
    assert find(port=port, loopback_only=True) == "http://127.0.0.1:8000"
    assert "is not signed" in caplog.text


def test_a_worker_with_a_token_believes_a_server_that_knows_it(serve: Serve, port: int, caplog: pytest.LogCaptureFixture) -> None:
    serve("show", KEYS)
    assert find(token=TOKEN, port=port, loopback_only=True) == "http://127.0.0.1:8000"
    assert "is not signed" not in caplog.text


@pytest.mark.parametrize("keys", [{}, STRANGERS], ids=["unsigned", "wrongly signed"])
def test_a_server_that_does_not_know_the_token_is_not_believed_and_mentioned_once(
    serve: Serve, port: int, caplog: pytest.LogCaptureFixture, keys: dict[str, bytes]
) -> None:
    serve("show", keys)
    with pytest.raises(ServerUnreachable, match=r"--server"):
        find(token=TOKEN, port=port, loopback_only=True, timeout_s=1.0)
    assert len([record for record in caplog.records if "not believed" in record.message]) == 1


def test_who_looks_again_and_again_is_told_of_a_stranger_once(serve: Serve, port: int, caplog: pytest.LogCaptureFixture) -> None:
    serve("show", STRANGERS)
    doubted: set[str] = set()

    def look() -> set[str]:
        with pytest.raises(ServerUnreachable):
            find(token=TOKEN, port=port, loopback_only=True, timeout_s=0.5, doubted=doubted)
        return doubted

    assert poll_until(look) == {"127.0.0.1"}
    look()
    assert len([record for record in caplog.records if "not believed" in record.message]) == 1


def test_two_servers_of_one_machine_share_a_port_and_each_worker_finds_its_own(serve: Serve, port: int) -> None:
    serve("demo", STRANGERS, listen="127.0.0.1:8001")
    serve("show", KEYS, listen="127.0.0.1:8002")
    for _ in range(3):
        assert find("demo", port=port, loopback_only=True) == "http://127.0.0.1:8001"
        assert find("show", port=port, loopback_only=True) == "http://127.0.0.1:8002"
        assert find(token=TOKEN, port=port, loopback_only=True) == "http://127.0.0.1:8002"


def test_of_processes_that_share_a_socket_one_answers_each_question(port: int) -> None:
    shared = open_port(settings("show", port))
    assert shared
    responders = [Responder(settings("show", port), {}.get, shared.dup()) for _ in range(4)]
    with contextlib.ExitStack() as stack, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        stack.callback(shared.close)
        for responder in responders:
            assert responder.start()
            stack.callback(responder.stop)
        asker.bind(("127.0.0.1", 0))
        for number in range(50):
            asker.sendto(question(nonce=f"{number:032x}"), ("127.0.0.1", port))
        asker.settimeout(0.5)
        nonces = []
        with contextlib.suppress(TimeoutError):
            while True:
                nonces.append(json.loads(asker.recv(1_024))["nonce"])
    assert sorted(nonces) == [f"{number:032x}" for number in range(50)]


def test_the_answer_of_another_farm_is_not_taken(serve: Serve, port: int) -> None:
    serve("demo")
    with pytest.raises(ServerUnreachable, match="of farm show"):
        find("show", port=port, loopback_only=True, timeout_s=0.5)


def test_a_worker_that_asks_everywhere_finds_a_server_on_its_own_machine(serve: Serve, port: int) -> None:
    serve("show", KEYS)
    assert find("show", TOKEN, port) == "http://127.0.0.1:8000"


def test_a_server_that_starts_later_is_found(serve: Serve, port: int) -> None:
    with pytest.raises(ServerUnreachable):
        find("show", port=port, loopback_only=True, timeout_s=0.2)
    serve("show")
    assert find("show", port=port, loopback_only=True) == "http://127.0.0.1:8000"


def test_no_answer_ends_the_search_in_time(port: int) -> None:
    begun = time.monotonic()
    with pytest.raises(ServerUnreachable):
        find(port=port, loopback_only=True, timeout_s=0.5)
    assert 0.4 < time.monotonic() - begun < 5


def test_every_interface_is_asked_and_the_loopback() -> None:
    addresses = broadcast_addresses(loopback_only=False)
    assert {"255.255.255.255", "127.255.255.255"} <= set(addresses)
    known = {a.broadcast for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET and a.broadcast}
    assert known <= set(addresses)
    assert broadcast_addresses(loopback_only=True) == ["127.255.255.255"]


# ---------------------------------------------------------------- an address that a cloud or DNS tells


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("farm"), auth="token", knobs={("server", "url"): "http://farm.studio:80"}) as running:
        yield running


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, server: RealServer) -> Callable[..., None]:
    """Says what a machine hears from its cloud and from DNS, without asking the real ones."""
    real = server.url.rpartition("/")[2]

    def say(tag: str = "", *names: str) -> None:
        monkeypatch.setattr("coalition.cloud_tags.server", lambda: (tag.replace("SERVER", real), f"the tag is {tag!r}"))
        monkeypatch.setattr("coalition.discovery._resolved", lambda _: [name.replace("SERVER", real) for name in names])

    return say


@pytest.mark.parametrize("told", [("SERVER",), ("http://SERVER",), ("", "SERVER"), ("127.0.0.1:9", "127.0.0.1:9", "SERVER")])
def test_an_address_that_a_cloud_or_dns_tells_is_asked_for_the_farm_and_for_a_proof(
    server: RealServer, tell: Callable[..., None], port: int, told: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    tell(*told)
    token = server.store.create_token("site")
    assert search("coalition", token, port) == "http://farm.studio:80"
    assert "broadcast" not in caplog.text


@pytest.mark.parametrize(("farm", "token"), [("", "0123456789ab.a-guess"), ("other", "")])
def test_who_answers_there_without_the_token_or_for_another_farm_is_not_taken(
    tell: Callable[..., None], serve: Serve, port: int, farm: str, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    tell("SERVER", "SERVER")
    serve(farm or "show", {token.partition(".")[0]: hashlib.sha256(b"a-guess").digest()})
    assert search(farm, token, port) == "http://127.0.0.1:8000", "the last step finds the right one"
    assert "is not taken" in caplog.text


@pytest.mark.parametrize("tag", ["", "ftp://farm", "http://[", "no such name", "http://127.0.0.1:9", "\u2028", "x" * 900])
def test_what_is_no_server_is_passed_over_and_each_step_is_logged_once(
    tell: Callable[..., None], serve: Serve, port: int, tag: str, caplog: pytest.LogCaptureFixture
) -> None:
    tell(tag)
    serve("show")
    told: set[str] = set()
    assert {search("show", "", port, told=told) for _ in range(2)} == {"http://127.0.0.1:8000"}
    steps = [line for line in caplog.messages if line.startswith(("cloud metadata: ", "DNS: ", "broadcast: "))]
    assert [step.partition(":")[0] for step in steps] == ["cloud metadata", "DNS", "broadcast"]


def test_a_resolver_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        stuck.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr("coalition.discovery.DNS_S", 0.1)
    begun = time.monotonic()
    assert _resolved("coalition") == []
    assert time.monotonic() - begun < 10
    stuck.set()


def test_a_name_may_have_several_addresses() -> None:
    assert "127.0.0.1" in _resolved("localhost")
    assert _resolved("no-such-name.invalid") == []


@pytest.mark.parametrize("asked", [{}, {"nonce": "short"}, {"nonce": "F" * 32}, {"nonce": "0" * 32, "coalition": 2}])
def test_a_malformed_question_over_http_is_refused_by_its_field(server: RealServer, asked: dict[str, Any]) -> None:
    call = Caller(server.app)
    status, problem = call("POST", "/discovery", asked)
    assert (status, list(problem["fields"])) == (422, ["coalition" if "coalition" in asked else "nonce"])


@pytest.mark.parametrize(
    ("cloud", "tags", "address", "words"),
    [
        ("ec2", {"coalition:server": "http://farm:80"}, "http://farm:80", "EC2's tag coalition:server"),
        ("ec2", {"Name": "worker"}, "", "EC2 shows no tag coalition:server"),
        ("gce", {"instance/attributes/coalition-server": "farm"}, "farm", "the instance's attribute"),
        ("gce", {"project/attributes/coalition-server": "farm"}, "farm", "the project's attribute"),
        ("gce", {}, "", "no attribute coalition-server"),
        ("none", {}, "", "neither EC2's nor Compute Engine's"),
    ],
)
def test_a_clouds_metadata_tell_the_address(cloud: str, tags: dict[str, str], address: str, words: str) -> None:
    with running(Service(cloud, tags)) as service:
        found, told = cloud_tags.server(service.place)
    assert (found, words in told) == (address, True), told


def test_a_machine_without_metadata_is_told_so_in_time(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    assert cloud_tags.server(("127.0.0.1", port)) == ("", "this machine has none")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        assert cloud_tags.server(silent.getsockname()) == ("", "this machine has none")
        assert time.monotonic() - begun < 10
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert "switched off" in cloud_tags.server(("127.0.0.1", port))[1]


# ---------------------------------------------------------------- the answer by itself


def question(**changes: Any) -> bytes:
    return json.dumps({"coalition": 1, "farm": "", "nonce": "0" * 32, "token": "", **changes}).encode()


def test_an_answer_carries_the_nonce_and_its_signature() -> None:
    responder = Responder(settings("show", 1), KEYS.get)
    answer = json.loads(responder.answer(question(token="site1"), "127.0.0.1") or b"")
    expected = mac(key_of_token(TOKEN), "0" * 32, "show", "http://127.0.0.1:8000")
    assert answer == {"coalition": 1, "farm": "show", "url": "http://127.0.0.1:8000", "nonce": "0" * 32, "mac": expected}
    responder.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[1]",
        b"[" * 1_000,
        question(coalition=2),
        question(farm="other"),
        question(nonce="short"),
        question(nonce=7),
        question(nonce="\ud800" * 32, token="site1"),
        question(token=None),
        question(farm=["show"]),
        question(padding="x" * 1_024),
    ],
)
def test_what_is_malformed_or_for_another_farm_is_not_answered(data: bytes) -> None:
    responder = Responder(settings("show", 1), KEYS.get)
    assert responder.answer(data, "127.0.0.1") is None
    responder.stop()


@pytest.mark.parametrize(
    ("server", "peer", "url"),
    [
        ({"listen": "127.0.0.1:8000"}, "10.1.2.3", None),
        ({"listen": "127.0.0.1:8000", "url": "https://farm.studio"}, "10.1.2.3", "https://farm.studio"),
        ({"listen": "10.1.2.1:8000"}, "10.1.2.3", "http://10.1.2.1:8000"),
        ({"listen": "0.0.0.0:8000"}, "127.0.0.1", "http://127.0.0.1:8000"),
    ],
)
def test_the_answer_holds_an_address_that_the_worker_can_use(server: dict[str, str], peer: str, url: str | None) -> None:
    responder = Responder(settings("show", 1, **server), KEYS.get)
    answer = responder.answer(question(), peer)
    assert (json.loads(answer)["url"] if answer else None) == url
    responder.stop()


@pytest.mark.parametrize("peer", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_who_calls_over_ipv6_is_told_an_address_too(peer: str) -> None:
    assert url_for(settings("show", 1, listen="0.0.0.0:8000"), peer) == "http://127.0.0.1:8000"
    assert url_for(settings("show", 1, listen="127.0.0.1:8000"), peer) == "http://127.0.0.1:8000"


def test_a_server_with_a_certificate_tells_an_https_address() -> None:
    secured = settings("show", 1, listen="0.0.0.0:8000", tls_cert="farm.pem", tls_key="farm.key")
    assert url_for(secured, "127.0.0.1") == "https://127.0.0.1:8000"


@pytest.mark.parametrize("token", ["\ud800", "a\0b", "x" * 65, "a b"])
def test_what_cannot_be_a_tokens_id_is_never_looked_up(token: str) -> None:
    asked: list[str] = []
    responder = Responder(settings("show", 1), lambda one: asked.append(one))
    assert json.loads(responder.answer(question(token=token), "127.0.0.1") or b"")["mac"] == ""
    assert asked == []
    responder.stop()


def test_an_answer_with_half_a_character_for_a_signature_is_not_believed() -> None:
    search = _Search("", TOKEN, set())
    answer = {"coalition": 1, "farm": "show", "url": "http://10.0.0.9:1", "nonce": search.nonce, "mac": "\ud800"}
    assert search.read(json.dumps(answer).encode(), "10.0.0.9") == ""


@pytest.mark.parametrize("trouble", [Unavailable("the database is away"), RuntimeError("something else")])
def test_while_the_database_is_away_a_question_is_not_answered(trouble: Exception) -> None:
    def away(_: str) -> bytes | None:
        raise trouble

    responder = Responder(settings("show", 1), away)
    assert responder.answer(question(token="site1"), "127.0.0.1") is None
    responder.stop()


def test_a_port_that_is_taken_is_said_and_the_server_lives_without(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", port))
        responder = Responder(settings("show", port), KEYS.get)
        assert not responder.start()
        responder.stop()
    assert "cannot find this server by themselves" in caplog.text


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="coalition")
