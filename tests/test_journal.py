"""What server and worker say of themselves: its form, its levels, its files, and that nothing secret is in it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
from flask import Flask

from coalition.client import Client
from coalition.config import parse
from coalition.errors import ConfigError, NotAuthenticated
from coalition.journal import Journal, _Rotating, begin, request_id, without_secrets
from tests.builders import Caller
from tests.e2e.farm import RealFarm
from tests.polling import poll_until

Process = get_context("spawn").Process


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [one for one in root.handlers if one not in handlers]:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("coalition.store", "coalition.access", "autoscaler"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_lines_are_for_people_or_json_and_carry_the_requests_id(tmp_path: Path) -> None:
    token = request_id.set("req-1")
    for form in ("text", "json"):
        begin(Journal(form, file=str(tmp_path / form)))
        logging.getLogger("coalition.store").warning("it is %s", "so")
    request_id.reset(token)
    assert re.fullmatch(r"\S+ \S+ WARNING coalition.store: it is so \[req-1\]\n", (tmp_path / "text").read_text())
    facts = json.loads((tmp_path / "json").read_text())
    assert facts.pop("time") > 0
    assert facts == {"level": "warning", "part": "coalition.store", "text": "it is so", "request": "req-1"}


def test_a_trace_stays_in_its_line(tmp_path: Path) -> None:
    begin(Journal("json", file=str(tmp_path / "log")))
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("coalition").exception("failed")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "ValueError: two\nlines" in json.loads(line)["trace"]


def test_each_part_has_its_level(tmp_path: Path) -> None:
    begin(Journal(level="warning, store:debug, autoscaler:error", file=str(tmp_path / "log")))
    for part in ("coalition.store", "coalition.access", "autoscaler"):
        for level in (logging.DEBUG, logging.WARNING, logging.ERROR):
            logging.getLogger(part).log(level, "%s", level)
    told = re.findall(r"(\S+): (\d+)", (tmp_path / "log").read_text())
    store, others = [("coalition.store", n) for n in ("10", "30", "40")], [("coalition.access", "30"), ("coalition.access", "40")]
    assert told == [*store, *others, ("autoscaler", "40")]


@pytest.mark.parametrize("level", ["loud", "info, store", "store:debug", "info, store:loud"])
def test_a_level_that_is_none_is_refused(level: str) -> None:
    with pytest.raises(ConfigError, match=r"cloud.ini:2: \[log\] level: .*one of debug"):
        parse(f"[log]\nlevel = {level}\n")


def write_lines(path: str, name: str) -> None:
    begin(Journal(file=path, max_bytes=2_000, files=500))
    for number in range(200):
        logging.getLogger("coalition").warning("%s-%03d", name, number)


def test_files_begin_anew_when_large_and_no_line_is_lost_though_several_processes_write(tmp_path: Path) -> None:
    processes = [Process(target=write_lines, args=(str(tmp_path / "log"), name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    files = list(tmp_path.iterdir())
    assert all(file.stat().st_size < 2_100 for file in files)
    lines = [line.rpartition(" ")[2] for file in files for line in file.read_text().splitlines()]
    assert sorted(lines) == [f"{name}-{number:03d}" for name in "abc" for number in range(200)]


def test_a_file_that_cannot_be_renamed_grows_on_and_holds_up_nobody(tmp_path: Path) -> None:
    (tmp_path / "log.1" / "full").mkdir(parents=True)
    handlers = [_Rotating(Journal(file=str(tmp_path / "log"), max_bytes=100, files=1)) for _ in range(2)]  # as two processes do
    for number in range(20):
        handlers[number % 2].emit(logging.makeLogRecord({"msg": f"line {number:02d}", "levelno": 20}))
    for handler in handlers:
        handler.close()
    assert (tmp_path / "log").read_text().splitlines() == [f"line {number:02d}" for number in range(20)]


def test_old_files_are_deleted(tmp_path: Path) -> None:
    begin(Journal(file=str(tmp_path / "log"), max_bytes=1_024, files=2))
    for number in range(100):
        logging.getLogger("coalition").warning("%s %d", "x" * 100, number)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert (tmp_path / "log").read_text().endswith(" 99\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdef123456.xyz", "Authorization: Bearer ***"),
        ("mysql://farm:s3cret@db/farm", "mysql://farm:***@db/farm"),
        (f"token a1b2c3d4e5f6.{'x' * 43} is wrong", "token a1b2c3d4e5f6.*** is wrong"),
        ("the basic idea of frame.0001.exr", "the basic idea of frame.0001.exr"),
    ],
)
def test_what_is_secret_is_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_every_answer_has_the_callers_id_or_one_of_ours(app: Flask) -> None:
    call = Caller(app)
    assert call.raw("GET", "/jobs", headers={"X-Request-Id": "shot-10.a"}).headers["X-Request-Id"] == "shot-10.a"
    for bad in ("", "a b", "x" * 65):
        assert re.fullmatch("[0-9a-f]{8}", call.raw("GET", "/nowhere", headers={"X-Request-Id": bad}).headers["X-Request-Id"])


def test_requests_are_logged_with_who_and_how_they_ended(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "coalition.access")
    call = Caller(app)
    call.submit({"command": "true"})
    call("GET", "/jobs/999?offset=1")
    told = [(record.levelname, re.sub(r"\d+ ms", "N ms", record.message)) for record in caplog.records]
    assert told == [("INFO", "POST /api/v1/jobs 201 N ms"), ("DEBUG", "GET /api/v1/jobs/999 404 N ms")]


def test_nothing_secret_is_in_the_logs_of_a_whole_run(tmp_path: Path) -> None:
    level = "level = debug"
    farm = RealFarm(tmp_path, auth="mode = token", log=f"format = json\n{level}\nfile = {tmp_path / 'server.json'}")
    try:
        farm.serve()
        admin = (tmp_path / "data" / "admin.token").read_text().strip()
        client = Client(farm.address, admin)
        site = client.create_token("site")["token"]
        (tmp_path / "site.token").write_text(site)
        with pytest.raises(NotAuthenticated):
            Client(farm.address, "a1b2c3d4e5f6." + "w" * 43).jobs().__next__()
        job = client.submit(command="echo hello")
        options = ["--log-level", "debug", "--log-format", "json", "--log-file", str(tmp_path / "worker.json")]
        farm.worker("node1", "--token-file", str(tmp_path / "site.token"), *options)
        poll_until(lambda: client.job(job).state == "FINISHED", 30, lambda: client.job(job))
        credentials = re.findall(
            rb"w\d+\.[\w\-]{20,}", b"".join(f.read_bytes() for f in (tmp_path / "node1").iterdir() if f.is_file())
        )
    finally:
        farm.close()
    secrets = [text.partition(b".")[2] for text in (admin.encode(), site.encode(), *credentials)]
    assert len(secrets) >= 3
    logs = [path.read_bytes() for path in (*tmp_path.glob("*.log"), tmp_path / "server.json", tmp_path / "worker.json")]
    parts = {json.loads(line)["part"] for line in (tmp_path / "server.json").read_text().splitlines()}
    assert {"coalition.access"} <= parts
    assert [secret for secret in [*secrets, b"w" * 43] for text in logs if secret in text] == []


def test_a_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "cloud.ini").write_text(
        f"[server]\ndata_dir = {tmp_path}\nlisten = 127.0.0.1:0\n[log]\nfile = {tmp_path}/no/log\n"
    )
    command = [sys.executable, "-m", "coalition", "serve", "--config", str(tmp_path / "cloud.ini")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "[log] file: " in done.stderr) == (2, True)
