"""https: the farm's own certificate, checked by workers and clients, and renewed while jobs run."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from coalition.client import Client
from coalition.config import ServerSettings, parse
from coalition.discovery import search
from coalition.errors import ConfigError, ServerUnreachable
from coalition.server.tls import Certificate
from tests.certificates import Authority
from tests.e2e.farm import RealFarm
from tests.polling import poll_until


def renew(place: tuple[Path, Path], made: tuple[Path, Path]) -> None:
    """Puts a new certificate and its key where the old ones are, as who renews them does: each at once."""
    for new, old in zip(made, place, strict=True):
        os.replace(new, old)


class TlsFarm(RealFarm):
    """A farm behind its own certificate."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.files = self.authority.certificate("first", "localhost")
        self.context = ssl.create_default_context(cafile=str(self.authority.file))
        server = f"threads = 16\ntls_cert = {self.files[0]}\ntls_key = {self.files[1]}"
        super().__init__(folder, server=server, autoscaler="enabled = no")
        self.address = f"https://localhost:{self.port}"
        self.client = Client(self.address, ca=self.authority.file)

    def answers(self, process: object, name: str, address: str) -> bool:
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=10, context=self.context) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def serial(self) -> int:
        """The number of the certificate that a new connection gets."""
        plain = socket.create_connection(("localhost", self.port), timeout=20)
        with self.context.wrap_socket(plain, server_hostname="localhost") as secured:
            told = secured.getpeercert()
        assert told
        return int(str(told["serialNumber"]), 16)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsFarm]:
    with contextlib.closing(TlsFarm(tmp_path_factory.mktemp("tls"))) as made:
        made.serve()
        yield made


def test_a_renewed_certificate_is_served_and_no_lease_is_lost(
    farm: TlsFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COALITION_CA", str(farm.authority.file))
    farm.worker("w1")
    gate = tmp_path / "gate"
    job = farm.client.submit(title="a", command=f"while [ ! -e {gate} ]; do sleep 0.1; done")
    poll_until(lambda: farm.client.job(job).state == "WORKING", 60, lambda: farm.log_of("w1"))
    first = farm.serial()
    renew(farm.files, farm.authority.certificate("second", "localhost"))
    assert farm.serial() != first
    gate.touch()
    poll_until(lambda: farm.client.job(job).state == "FINISHED", 60, lambda: farm.log_of("w1"))
    assert len(list(farm.client.attempts(job))) == 1
    assert Client(farm.address).job(job).state == "FINISHED", "COALITION_CA is where the option is not"


def test_who_does_not_know_the_authority_gives_nothing_away(
    farm: TlsFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COALITION_CA", raising=False)
    stranger = Authority(tmp_path, "stranger")
    for ca in (None, stranger.file):
        with pytest.raises(ServerUnreachable, match="certificate"):
            Client(farm.address, "token", ca=ca).workers()
    with pytest.raises(ServerUnreachable, match=r"certificate|match"):
        Client(farm.address.replace("localhost", "127.0.0.1"), "token", ca=farm.authority.file).workers()
    monkeypatch.setenv("COALITION_CA", str(stranger.file))
    farm.worker("w2")
    poll_until(lambda: "certificate" in farm.log_of("w2").lower(), 60, lambda: farm.log_of("w2"))
    assert "w2" not in {worker.name for worker in farm.client.workers()}


def test_https_says_that_it_stays_https(farm: TlsFarm) -> None:
    with urllib.request.urlopen(f"{farm.address}/", timeout=20, context=farm.context) as page:
        assert page.headers["Strict-Transport-Security"].startswith("max-age=")
        assert "script-src" in page.headers["Content-Security-Policy"] or "default-src" in page.headers["Content-Security-Policy"]
        assert "unsafe-inline" not in page.headers["Content-Security-Policy"].partition("style-src")[0]


def test_a_certificate_whose_key_is_still_to_come_is_left_aside(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    place = authority.certificate("place", "localhost")
    held = Certificate(ServerSettings(tls_cert=str(place[0]), tls_key=str(place[1])))
    first = held.context()
    made = authority.certificate("new", "localhost")
    os.replace(made[0], place[0])
    assert held.context() is first
    os.replace(made[1], place[1])
    second = held.context()
    assert second is not first
    assert held.context() is second
    place[0].unlink()
    assert held.context() is second


@pytest.mark.parametrize("wrong", ["missing", "no certificate", "another's key"])
def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path, wrong: str) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.certificate("a", "localhost")
    if wrong == "missing":
        certificate = tmp_path / "nowhere"
    elif wrong == "no certificate":
        certificate.write_text("x")
    else:
        key = authority.certificate("b", "localhost")[1]
    with pytest.raises(ConfigError, match=r"\[server\] tls_cert: "):
        Certificate(ServerSettings(tls_cert=str(certificate), tls_key=str(key)))


def test_a_certificate_goes_with_its_key_and_makes_the_address_https() -> None:
    with pytest.raises(ConfigError, match=r"\[server\] tls_key: is needed"):
        parse("[server]\ntls_cert = /x\n")
    with pytest.raises(ConfigError, match=r"\[server\] tls_cert: is needed"):
        parse("[server]\ntls_key = /x\n")
    assert parse("[server]\ntls_cert = /x\ntls_key = /y\n").url == "https://127.0.0.1:19211"
    assert parse("").url == "http://127.0.0.1:19211"


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/nothing", "/healthz", "/api/docs", "/api/openapi.json"])
def test_every_answer_forbids_to_be_taken_for_something_else(app: Flask, path: str) -> None:
    headers = app.test_client().get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]
    assert "Strict-Transport-Security" not in headers


def test_a_server_that_dns_tells_without_a_scheme_is_found_though_it_speaks_https_only(
    farm: TlsFarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coalition.cloud_tags.server", lambda: ("", "none here"))
    monkeypatch.setattr("coalition.discovery._resolved", lambda _: ["127.0.0.1"])
    assert search(farm.mark, port=farm.port) == f"https://127.0.0.1:{farm.port}"
