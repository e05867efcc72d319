"""What an enemy sends: nothing gets in, and nothing falls over. One named test for each way; others stand with their subjects:

markup in the page              test_page.py::test_hostile_text_is_shown_as_text, test_the_policy_stops_inline_script
every field, on every view      test_page_hostile.py::test_on_every_view_and_at_every_width_it_is_text
control characters on terminals test_top.py::test_control_characters_of_others_never_reach_the_terminal
headers and markup in mail      test_notify.py::test_in_headers_there_is_one_line_and_in_html_no_markup_of_others
guessed passwords               test_logins.py::test_guessing_gets_slower_and_slower_for_one_name_and_the_right_password_waits_too
forged changes from a browser   test_logins.py::test_a_change_without_the_csrf_token_is_refused
boot scripts                    test_bootstrap.py::test_hostile_values_are_only_values
"""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from coalition.config import AuthSettings
from coalition.frames import filler
from coalition.output import clean
from coalition.server import door
from coalition.server.app import create_app
from tests.builders import Agent, Caller, WatchedStore, a_job
from tests.commands import coalition
from tests.e2e.farm import RealFarm
from tests.fakes.server import RealServer

SQL = [
    "' OR '1'='1",
    "'; DROP TABLE job; --",
    '" OR ""="',
    "1; DELETE FROM job",
    "%' UNION SELECT hash FROM token --",
    "\\'; SELECT pg_sleep(10); --",
    "`job`",
    "{{7*7}}",
]
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
ANSI = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
PLACES = ["..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//etc/passwd", "%00"]


@pytest.fixture
def call(app: Flask) -> Caller:
    return Caller(app)


@pytest.fixture
def locked(store: WatchedStore) -> Iterator[Flask]:
    store.settings = replace(store.settings, auth=AuthSettings(mode="local"))
    made = create_app(store.settings, store, store.clock)
    made.extensions["coalition"].dispatcher.start()
    yield made
    made.extensions["coalition"].dispatcher.stop()


def test_the_ways_that_are_tested_elsewhere_are() -> None:
    here = Path(__file__).resolve().parent
    named = re.findall(r"(test_\w+\.py)::(test_\w+)(?:, (test_\w+))?", __doc__ or "")
    assert len(named) == 7
    for module, *tests in named:
        text = (here / module).read_text(encoding="utf-8")
        assert all(f"def {test}(" in text for test in tests if test), module


def test_each_exception_from_the_static_rules_says_why() -> None:
    root = Path(__file__).resolve().parent.parent
    files = [path for name in ("coalition", "autoscaler", "providers") for path in sorted((root / name).rglob("*.py"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    lines = [line.strip() for line in text.splitlines() if re.search(r"noqa: S\d", line)]
    assert lines
    assert [line for line in lines if not re.search(r"noqa: S\d+(, S\d+)*[ -]+\w.{3,}", line)] == []


# ---------------------------------------------------------------- texts


def questions(call: Caller) -> Iterator[tuple[str, str]]:
    """(address, parameter) of everything that can be asked for by a text: all of the specification."""
    for path, methods in call.ok("GET", "/api/openapi.json")["paths"].items():
        if "get" in methods and path.startswith("/api/v1/"):
            for one in methods["get"].get("parameters", ()):
                if one["in"] == "query":
                    yield re.sub(r"\{\w+\}", "1", path.removeprefix("/api/v1")), one["name"]


def test_sql_in_a_filter_finds_nothing_and_does_nothing(call: Caller, store: WatchedStore) -> None:
    store.submit([a_job("kept")])
    before = call.ok("GET", "/jobs")["jobs"]
    asked = list(questions(call))
    assert len(asked) > 80
    texts = cycle(SQL)
    for path, name in asked:
        for text in islice(texts, 3 if path != "/jobs" else len(SQL)):
            answer = call.raw("GET", path, query_string={name: text})
            assert answer.status_code in (200, 404, 422), (path, name, text, answer.get_data())
            if answer.status_code == 200 and path == "/jobs":
                assert answer.get_json()["jobs"] == [], (name, text)
    for text in SQL:
        assert call("POST", "/jobs/delete", {"filter": f"title:{json.dumps(text)}"})[0] in (200, 422)
    assert call.ok("GET", "/jobs")["jobs"] == before


def test_sql_in_what_is_stored_is_only_text(call: Caller) -> None:
    ids = call.submit(*({"title": text, "command": text, "user": text[:60], "note": text} for text in SQL))
    shown = [call.ok("GET", f"/jobs/{one}") for one in ids]
    assert [(job["title"], job["command"], job["note"]) for job in shown] == [(text, text, text) for text in SQL]


def test_markup_comes_back_as_json_that_no_browser_takes_for_a_page(call: Caller) -> None:
    (job,) = call.submit({"title": MARKUP, "command": MARKUP})
    for path in (f"/jobs/{job}", f"/jobs?title={MARKUP[:8]}", "/events", f"/jobs?sort={MARKUP[:8]}", f"/{MARKUP[:8]}"):
        answer = call.raw("GET", path)
        assert answer.mimetype in ("application/json", "application/problem+json"), path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "<script" not in answer.headers.get("Location", "")


def test_no_text_of_others_commands_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\n", "\r"} & {*clean(f"a{ANSI}\r\nb")}
    with RealServer(tmp_path) as server:
        monkeypatch.setenv("COALITION_SERVER", server.url)
        monkeypatch.delenv("COALITION_TOKEN", raising=False)
        server.store.submit([a_job(f"t{ANSI}", user=f"u{ANSI}", note=f"n{ANSI}", url=f"x{ANSI}")])
        for words in (["jobs"], ["job", "1"], ["events"], ["explain", "1"], ["timeline", "1"], ["audit", "--csv"]):
            told = coalition(*words).output
            assert not {"\x1b", "\x07", "\x9b", "\u202e"} & {*told}, words


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("place", PLACES)
def test_no_route_leads_out_of_its_folder(call: Caller, place: str) -> None:
    for path in (f"/assets/{place}", *(f"/api/v1/{one}" for one in (f"attempts/{place}/log", f"worker-package/{place}"))):
        answer = call.app.test_client().open(path)
        assert answer.status_code in (400, 404, 405), path
        assert b"root:" not in answer.get_data()
        answer.close()


@pytest.mark.parametrize("attempt", ["0", "-1", "99999999999999999999", "1/../../x"])
def test_a_worker_writes_no_log_beside_its_own(app: Flask, attempt: str) -> None:
    agent = Agent(app)
    status, _ = agent.call("PUT", f"/attempts/{attempt}/log?offset=0", data=b"x")
    assert status in (400, 403, 404, 405, 409, 422)
    logs = app.extensions["coalition"].settings.data_dir / "logs"
    assert not [path for path in logs.rglob("*") if path.is_file()]


# ---------------------------------------------------------------- who calls


def test_guessed_tokens_and_credentials_are_nobody_s(locked: Flask, store: WatchedStore) -> None:
    token = store.create_token("user", user="ann", role="admin")
    name, _, secret = token.partition(".")
    guesses = [f"{name}.", f"{name}.{secret[:-1]}", f"{name}.{secret}x", f".{secret}", f"{name}.{secret.swapcase()}"]
    guesses += ["a.b" * 4_000, "' OR 1=1 --", f"{name}.%", f"{name}._", "null", "true"]
    for guess in guesses:
        assert Caller(locked, guess)("GET", "/tokens")[0] == 401, guess
    assert Caller(locked, token)("GET", "/tokens")[0] == 200


def test_a_cookie_that_was_there_before_is_not_the_one_that_is_logged_in(locked: Flask, store: WatchedStore) -> None:
    store.create_account("ann", "a long secret", "user")
    client = locked.test_client()
    planted = "0123456789ab." + "x" * 43
    client.set_cookie("coalition_session", planted, path="/api")
    answer = client.post("/api/v1/login", json={"user": "ann", "password": "a long secret"})
    assert answer.status_code == 200
    given = next(value for value in answer.headers.getlist("Set-Cookie"))
    assert planted not in given
    fresh = locked.test_client()
    fresh.set_cookie("coalition_session", planted, path="/api")
    assert fresh.get("/api/v1/server").status_code == 401


def test_a_page_of_another_site_changes_nothing(call: Caller, store: WatchedStore) -> None:
    store.submit([a_job()])
    foreign: list[dict[str, Any]] = [
        {"headers": {"Origin": "https://evil.example"}},
        {"headers": {"Host": "evil.example"}},
        {"headers": {"Origin": "null"}},
        {"data": "ids=1", "content_type": "application/x-www-form-urlencoded"},
        {"data": '{"ids":[1]}', "content_type": "text/plain"},
    ]
    for options in foreign:
        body = None if "data" in options else {"ids": [1]}
        assert call("POST", "/jobs/delete", body, **options)[0] in (403, 422), options
    assert store.job(1).id == 1


# ---------------------------------------------------------------- a worker that lies


def test_a_worker_reports_and_writes_for_its_own_leases_only(app: Flask, store: WatchedStore) -> None:
    store.submit([a_job("a"), a_job("b")])
    honest, liar = Agent(app, "honest"), Agent(app, "liar")
    (lease,) = honest.sync(free=1)["leases"]
    stolen = {"attempt": lease["attempt"], "state": "FINISHED", "run_s": 1.0, "exit_code": 0}
    assert liar.sync(stolen, free=0)["refused"] == [{"attempt": lease["attempt"], "reason": "no such attempt of this worker"}]
    assert liar.call("PUT", f"/attempts/{lease['attempt']}/log?offset=0", data=b"forged")[0] in (403, 404, 409)
    assert liar.call("POST", f"/workers/{honest.id}/sync", {"epoch": 1, "seq": 99, "free": 1})[0] in (401, 403, 422)
    assert store.job(1).state == "WORKING"
    assert honest.sync(stolen, free=0)["refused"] == []
    assert store.job(1).state == "FINISHED"


@pytest.mark.parametrize(
    "fields",
    [
        {"free": 10**18},
        {"free": -1},
        {"seq": 2**70},
        {"running": [{"attempt": 1}] * 20_000},
        {"finished": [{"attempt": 1, "state": "WAITING"}]},
        {"finished": [{"attempt": 1, "state": "FINISHED", "run_s": -5}]},
        {"finished": [{"attempt": 1, "state": "FINISHED", "run_s": 1e308}]},
        {"finished": [{"attempt": 1, "state": "ERROR", "reason": "x" * 2_000_000}]},
        {"load": float("nan")},
        {"user": "root"},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_impossible_numbers_from_a_worker_are_refused_or_do_nothing(
    app: Flask, store: WatchedStore, fields: dict[str, Any]
) -> None:
    agent = Agent(app)
    store.submit([a_job()])
    body = {"epoch": agent.epoch, "seq": 2, "free": 0, **fields}
    status, _ = agent.call("POST", f"/workers/{agent.id}/sync", body)
    assert status in (200, 409, 413, 422)
    assert store.job(1).state in ("WAITING", "WORKING")
    assert Caller(app).ok("GET", "/farm")["jobs"]["error"] == 0


# ---------------------------------------------------------------- frames

FRAMES = ["1; rm -rf /", "$(touch x)", "1-3`id`", "1-3\n4", "{frame}", "-", "1-99999999999", "1-3x0", "1-3x-1", "1e3"]


@pytest.mark.parametrize("frames", FRAMES)
def test_what_is_no_range_of_frames_makes_no_job(call: Caller, store: WatchedStore, frames: str) -> None:
    spec = {"title": "t", "command": "render {frame}", "frames": frames}
    assert call("POST", "/jobs", {"jobs": [spec]})[0] in (413, 422)
    assert call.ok("GET", "/jobs")["jobs"] == []


def test_a_frame_in_a_command_is_a_number_whatever_its_form(tmp_path: Path) -> None:
    for text in ("{frame:99999999999d}", "{frame!r}", "{frame.__class__}", "{frame[0]}", "{0}", "%(frame)s", "%s%n"):
        assert len(filler(text)(1, 1)) < 1_000, text
    filled = filler("echo '{frame:04d}' > {start}")(-7, 9)
    subprocess.run(filled, shell=True, cwd=tmp_path, check=True, timeout=20)
    assert [(path.name, path.read_text().strip()) for path in tmp_path.iterdir()] == [("-7", "-007")]


# ---------------------------------------------------------------- bodies, to a real server


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFarm]:
    made = RealFarm(tmp_path_factory.mktemp("hostile"), server="threads = 4\nmax_body = 64K", autoscaler="enabled = no")
    made.serve()
    yield made
    made.close()


def said(farm: RealFarm, data: bytes) -> bytes:
    """The first line of the answer to these bytes."""
    with closing(socket.create_connection(("127.0.0.1", farm.port), timeout=30)) as line:
        line.sendall(data)
        return line.recv(4_096).partition(b"\r\n")[0]


def is_well(farm: RealFarm) -> bool:
    with urllib.request.urlopen(f"{farm.address}/healthz", timeout=60) as answer:
        return bool(answer.status == 200)


HEAD = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def test_bodies_beyond_the_limit_and_nonsense_are_refused(farm: RealFarm) -> None:
    assert b" 413 " in said(farm, HEAD + b"Content-Length: 99999999999\r\n\r\n")
    deep = b"[" * 60_000
    assert b" 422 " in said(farm, HEAD + b"Content-Length: %d\r\n\r\n" % len(deep) + deep)
    assert b" 400 " in said(farm, b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n")
    assert b" 400 " in said(farm, HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}")
    assert is_well(farm)


def test_who_sends_slowly_holds_nobody_up_for_long(farm: RealFarm) -> None:
    with ExitStack() as lines:
        for start in (HEAD[:40], HEAD + b"Content-Length: 1000\r\n\r\n{"):
            for _ in range(2):
                line = lines.enter_context(closing(socket.create_connection(("127.0.0.1", farm.port), timeout=30)))
                line.sendall(start)
        assert is_well(farm), "all four threads were taken, for some seconds"


def test_who_reads_no_answer_is_left_alone_with_it(farm: RealFarm) -> None:
    group = farm.client.submit(title="g", frames="1-1000", command="true " + "x" * 8_000, paused=True)
    ask = b"GET /api/v1/jobs?parent=%d&limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % group
    with ExitStack() as lines:
        for _ in range(4):
            line = socket.socket()
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            line.settimeout(30)
            lines.enter_context(closing(line)).connect(("127.0.0.1", farm.port))
            line.sendall(ask)
        assert is_well(farm), "all four threads wrote to them, for some seconds"


def test_the_time_for_an_answer_is_that_of_its_bytes_however_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "GRACE_S", 0.2)
    monkeypatch.setattr(door, "SLOWEST_READER", 1 << 24)
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        slow = door.Unhurried(ours)
        slow.sendall(b"read")
        assert theirs.recv(10) == b"read"
        with pytest.raises(BrokenPipeError):
            slow.sendall(b"x" * 4_000_000)
        with pytest.raises(BrokenPipeError):
            slow.sendfile(io.BytesIO(b"x" * 10))
        assert ours.gettimeout() is None


def test_the_time_for_a_request_grows_with_what_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "GRACE_S", 0.05)
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        paced = door.Paced(ours)
        theirs.sendall(base64.b64encode(b"x" * 3_000))
        assert paced.recv(10_000) == base64.b64encode(b"x" * 3_000)
        paced.begun -= 0.9  # of the second that they were worth
        theirs.sendall(b"more")
        assert paced.recv(10) == b"more"
        paced.begun -= 10
        assert paced.recv(10) == b"", "too late, and taken for gone"
