"""All verbs together: each route has one, exit codes tell what became of it, lists are watched, words are completed."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from flask import Flask

from coalition.cli import cli
from coalition.client import Client
from coalition.errors import BadInput, CoalitionError, Conflict, NotAllowed, NotAuthenticated, Unavailable
from coalition.server.openapi import OPERATIONS
from tests.commands import coalition, document, verbs
from tests.fakes.api import Answer, Api, refusal
from tests.fakes.server import HandWorker, RealServer
from tests.polling import poll_until
from tests.terminal import on_terminal

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("farm")) as running:
        yield running


@pytest.fixture
def farm(server: RealServer, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("COALITION_SERVER", server.url)
    monkeypatch.delenv("COALITION_TOKEN", raising=False)
    return Client(server.url)


# ---------------------------------------------------------------- a verb for each route

BY_MACHINES = {
    "measures.healthz": "load balancers ask",
    "measures.readyz": "load balancers ask",
    "measures.scrape": "Prometheus asks",
    "openapi.spec": "programs that make clients read it",
    "docs.page": "a page for a browser",
    "docs.style": "a page for a browser",
    "cloud.cost_csv": "a browser saves it; `coalition cost --csv` prints the same",
    "package.worker_package": "machines of clouds fetch their worker",
    "package.studio_package": "machines of clouds fetch what their pool names",
    "logins.log_out": "ends a browser's cookie; the command line has tokens",
    "jobs.append_log": "a worker's call",
    "workers.discover": "a worker's call, and any client's that looks for its server",
    "workers.enrol": "a worker's call",
    "workers.sync": "a worker's call",
}
CLI_TEXT = "\n".join(path.read_text() for path in sorted((ROOT / "coalition/cli").glob("*.py")))


def methods_of_routes() -> dict[tuple[str, str], list[str]]:
    """The client's methods by the route that their documentation names; a route's places have no names here."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        for verb, path in re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) (/[\w/{}-]*)", inspect.getdoc(method) or ""):
            found.setdefault((verb, re.sub(r"\{\w+\}", "{}", path)), []).append(name)
    return found


def test_every_route_has_a_verb_that_calls_it_or_a_reason_for_none(app: Flask) -> None:
    methods, without = methods_of_routes(), set()
    for rule in app.url_map.iter_rules():
        if rule.endpoint in OPERATIONS:
            path = re.sub(r"<[^>]*>", "{}", rule.rule.removeprefix("/api/v1"))
            names = [name for verb in rule.methods or () for name in methods.get((verb, path), ())]
            if not any(re.search(rf"\.{name}\(", CLI_TEXT) for name in names):
                without.add(rule.endpoint)
    assert without == BY_MACHINES.keys() & OPERATIONS.keys()
    assert all(BY_MACHINES.values())


# ---------------------------------------------------------------- exit codes

HERE = {
    "serve", "worker", "completion", "config check", "config reload", "config show", "db upgrade", "db check", "db backup",
    "db restore", "init", "simulate", "terminate-all", "cloud check", "cloud list", "prices refresh", "user password",
    "notify test", "notify list",
}  # fmt: skip  # without a server, or asking for more than words
NEEDED = {
    "submit": "true",
    "edits": "FILE",
    "edit": "1 --priority 3",
    "append": "1 1-3",
    "wait": "1 --timeout 0.1",
    "explain": "1",
    "prices import": "FILE",
    "user create": "ann --password-file FILE",
    "user edit": "ann --role user",
    "login": "--password-file FILE",
    "workers edit": "1 --slots 2",
}  # what a call needs besides a number
CALLING = sorted(" ".join(words) for words, verb in verbs() if not isinstance(verb, click.Group) or verb.invoke_without_command)
CALLING = [verb for verb in CALLING if verb not in HERE]


def call_of(verb: str, file: Path) -> list[str]:
    """The words of a good call of a verb."""
    command: click.Command = cli
    for word in verb.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    given = NEEDED[verb].split() if verb in NEEDED else [word for one in command.params for word in _needed(one)]
    return [*verb.split(), *(word.replace("FILE", str(file)) for word in given)]


def _needed(one: click.Parameter) -> list[str]:
    """The words without which an argument or an option is missing: any number, or a choice."""
    value = one.type.choices[0] if isinstance(one.type, click.Choice) else "1"
    if isinstance(one, click.Argument):
        return [value] if one.required or one.nargs == -1 else []
    return [one.opts[0], value] if one.required else []


def test_what_a_call_needs_is_said_of_verbs_that_are_there() -> None:
    known = {" ".join(words) for words, _ in verbs()}
    assert HERE | NEEDED.keys() <= known


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Good for every verb that reads one: a password, prices, edits."""
    made = tmp_path / "file.csv"
    made.write_text("[]\n")
    return made


REFUSALS = [
    (NotAuthenticated("who?"), 4),
    (NotAllowed("not you"), 4),
    (BadInput("not so"), 2),
    (Conflict("not now"), 1),
    (CoalitionError("it broke"), 1),
    (Unavailable("the database is away"), 3),
]


@pytest.mark.parametrize("verb", CALLING)
def test_what_the_server_says_to_a_verb_is_its_exit_code(verb: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COALITION_TOKEN", raising=False)
    if verb == "prices import":
        file.write_text("provider,region,type,market,price,as_of\naws,r,t,spot,1,2026-01-01\n")
    words = call_of(verb, file)
    with Api() as api:
        for error, code in REFUSALS:
            api.otherwise = refusal(error)
            told = coalition("--server", api.url, *words, code=code)
            assert (told.stdout, error.detail in told.stderr) == ("", True), (verb, told.stderr)
        assert api.requests
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert "no server at" in coalition("--server", address, *words, code=3).stderr


@pytest.mark.parametrize("verb", [*CALLING, *sorted(HERE)])
def test_a_wrong_option_is_wrong_usage(verb: str) -> None:
    assert "No such option" in coalition(*verb.split(), "--no-such-option", code=2).stderr


def test_one_thing_is_shown_of_each_kind(farm: Client, server: RealServer) -> None:
    worker = HandWorker(server.url, "shown", affinity=[["only-shown"]])
    job = farm.submit(title="one", command="true", affinity=["only-shown"])
    (lease,) = poll_until(worker.take)
    worker.end(lease["attempt"], 3)
    farm.set_limit("nuke", 2)
    assert re.search(r"^affinity +only-shown$", coalition("workers", "show", "shown").stdout, re.MULTILINE)
    assert document("workers", "show", str(worker.enrolled["worker"]))["name"] == "shown"
    assert re.search(r"^maximum +2$", coalition("limits", "show", "nuke").stdout, re.MULTILINE)
    assert document("limits", "show", "nuke")["used"] == 0
    assert re.search(r"^exit_code +3$", coalition("attempt", str(lease["attempt"])).stdout, re.MULTILINE)
    listed = document("attempts", "--worker", "shown", "--since", "1h")["attempts"]
    assert [(one["id"], one["job"], one["state"]) for one in listed] == [(lease["attempt"], job, "ERROR")]
    assert document("attempts", "--job", str(job), "--worker", "other")["attempts"] == []
    assert coalition("attempts", "--job", str(job), "-q").stdout == f"{lease['attempt']}\n"
    assert document("server")["address"] == farm.url
    assert "csrf" not in document("server")
    assert "there is no archived job" in coalition("archived", str(job), code=1).stderr


def test_jobs_are_changed_in_different_ways_by_one_file(farm: Client, tmp_path: Path) -> None:
    first, second = (farm.submit(command="true", title=f"each {n}", user="eve") for n in range(2))
    file = tmp_path / "edits.json"

    def write(*edits: object) -> str:
        file.write_text(json.dumps(edits))
        return str(file)

    good = {"ids": [first], "changes": {"priority": 9}}
    assert coalition("edits", write(good, {"filter": "user:eve", "changes": {"note": "n"}})).stdout == "2 jobs changed\n"
    assert [(farm.job(one).priority, farm.job(one).note) for one in (first, second)] == [(9, "n"), (127, "n")]
    wrong = coalition("edits", write({**good, "changes": {"priority": 8}}, {"ids": [first], "changes": {"titel": "x"}}), code=2)
    assert 'did you mean "title"' in wrong.stderr
    assert farm.job(first).priority == 9
    coalition("edits", write({**good, "changes": {"priority": 8}}, {"ids": [987_654], "changes": {"note": ""}}), code=1)
    assert farm.job(first).priority == 9, "all or none"
    file.write_text("{")
    assert "is not JSON" in coalition("edits", str(file), code=2).stderr
    file.write_text("{}")
    assert "is no list" in coalition("edits", str(file), code=2).stderr


# ---------------------------------------------------------------- watching


def watching(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "coalition", *words, "--watch"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def lines_until(running: subprocess.Popen[bytes], text: str) -> list[str]:
    """What it prints up to the line that holds the text; the process is ended after a time if that does not come."""
    lines: list[str] = []
    assert running.stdout
    while text not in "".join(lines[-1:]):
        line = running.stdout.readline()
        assert line, (lines, running.stderr and running.stderr.read())
        lines.append(line.decode())
    return lines


def ended_by_ctrl_c(running: subprocess.Popen[bytes]) -> int:
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=20)
    assert b"Traceback" not in told
    return running.returncode


def test_a_watched_list_prints_what_is_new_and_ctrl_c_ends_it(farm: Client) -> None:
    old, other = farm.submit(title="watched", command="x", paused=True), farm.submit(title="unwatched", command="x", paused=True)
    with watching("jobs", "--title", "watched", "--sort", "id") as running:
        first = lines_until(running, "unwatched")
        assert [line.split()[0] for line in first][-2:] == [str(old), str(other)]
        farm.edit(old, priority=3)
        (changed, *_) = lines_until(running, f"{old} ")[-1:]
        assert " 3 " in changed
        new = farm.submit(title="watched too", command="x", paused=True)
        assert all(str(other) not in line.split()[:1] for line in lines_until(running, "watched too")), "what is as it was"
        assert ended_by_ctrl_c(running) == 130
    with watching("jobs", "--title", "watched", "-q") as quiet:
        lines_until(quiet, str(old))
        assert ended_by_ctrl_c(quiet) == 130
    assert farm.delete([old, other, new]) == 3


def test_a_watched_list_is_a_document_on_a_line_each_time(farm: Client) -> None:
    with watching("limits", "--json") as running:
        lines_until(running, "limits")
        farm.set_limit("watched", 7)
        (last, *_) = lines_until(running, '"watched"')[-1:]
        assert [limit["maximum"] for limit in json.loads(last)["limits"] if limit["name"] == "watched"] == [7]
        assert ended_by_ctrl_c(running) == 130


@pytest.mark.parametrize(("exit_code", "expected"), [(0, 0), (2, 1)])
def test_a_watched_job_ends_with_it(farm: Client, server: RealServer, exit_code: int, expected: int) -> None:
    worker = HandWorker(server.url, f"watcher-{exit_code}", affinity=[["watched"]])
    job = farm.submit(title="short", command="true", affinity=["watched"])
    with watching("job", str(job)) as running:
        lines_until(running, "WAITING")
        (lease,) = poll_until(worker.take)
        lines_until(running, "WORKING")
        worker.end(lease["attempt"], exit_code)
        told, _ = running.communicate(timeout=30)
    assert ("ERROR" if exit_code else "FINISHED").encode() in told
    assert running.returncode == expected


def test_on_a_terminal_a_watched_list_is_drawn_again_over_itself(farm: Client) -> None:
    job = farm.submit(title="drawn", command="x", paused=True)
    code, shown = on_terminal(["jobs", "--title", "drawn", "--watch"], until="drawn", then=signal.SIGINT)
    assert code == 130
    assert "\x1b[2J" in shown
    assert "Traceback" not in shown
    farm.delete(job)


def test_a_watched_list_waits_for_a_server_that_goes_away_and_says_so_once() -> None:
    with Api() as api:
        api.tell("GET", "/changes", Answer({"cursor": "x.1", "changed": ["limits"], "poll_s": 0.1}))
        away = refusal(Unavailable("the database is away"))
        api.tell("GET", "/limits", away, away, Answer({"limits": []}))
        with watching("--server", api.url, "limits", "--json") as running:
            lines_until(running, "limits")
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=20)
    assert told.decode().count("the database is away; trying again") == 1
    assert running.returncode == 130


def test_watching_a_server_that_is_not_there_exits_3_and_a_verb_of_a_list_is_not_watched() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        coalition("--server", f"127.0.0.1:{unused.getsockname()[1]}", "jobs", "--watch", code=3)
    assert "--watch is for the list" in coalition("workers", "--watch", "drain", "1", code=2).stderr


# ---------------------------------------------------------------- completion


def completed(words: str, **environment: str) -> list[str]:
    """What Tab offers in bash at the end of a line."""
    variables = {**os.environ, "_COALITION_COMPLETE": "bash_complete", "COMP_WORDS": words, **environment}
    variables["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    done = subprocess.run(
        [sys.executable, "-c", "from coalition.cli import main; main()"],
        capture_output=True, text=True, env=variables, cwd=ROOT, check=True, timeout=30,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_tab_completes_verbs_options_and_what_the_farm_knows(farm: Client, server: RealServer) -> None:
    HandWorker(server.url, "completer")
    job = farm.submit(title="tab", command="x", paused=True)
    farm.set_limit("tablimit", 1)
    assert {"jobs", "job"} <= set(completed("coalition jo"))
    assert "--watch" in completed("coalition jobs --w")
    assert str(job) in completed(f"coalition pause {str(job)[0]}")
    assert completed("coalition workers drain compl") == ["completer"]
    assert completed("coalition limits delete tabl") == ["tablimit"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert completed("coalition pause 1", COALITION_SERVER=f"127.0.0.1:{unused.getsockname()[1]}") == [""]
