"""The command line, against the real server: what each verb does and prints, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from coalition.cli import cli
from coalition.client import Client
from coalition.errors import Conflict, Unavailable
from coalition.model import Dependency
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
    """A client of the server, and the environment in which the command finds it."""
    monkeypatch.setenv("COALITION_SERVER", server.url)
    monkeypatch.delenv("COALITION_TOKEN", raising=False)
    monkeypatch.setenv("LOGNAME", "ann")
    return Client(server.url)


def process(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "coalition", *words]
    variables = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_one(url: str, job: int, exit_code: int = 0, log: bytes = b"") -> None:
    """Runs jobs by hand until this one has ended."""
    worker = HandWorker(url, name=f"hand-{time.monotonic_ns()}")
    done: list[int] = []

    def step() -> bool:
        for lease in worker.take():
            worker.end(lease["attempt"], exit_code if lease["job"] == job else 0, log)  # a worker where all fails is set aside
            done.append(lease["job"])
        return job in done

    poll_until(step, state=lambda: Client(url).job(job))


# ---------------------------------------------------------------- submit


def test_several_words_are_a_program_whose_arguments_are_kept_and_frames_go_inside_quotes(farm: Client) -> None:
    words = ("--frames", "1-5x2", "--title", "shot", "--", "povray", "+K{frame}", "my scene.pov", "it's")
    group = int(coalition("submit", *words).output)
    commands = [job.command for job in farm.jobs(parent=group)]
    assert commands == [f"""povray '+K{n}' 'my scene.pov' 'it'"'"'s'""" for n in (1, 3, 5)]


def test_chunks_limits_and_a_maximum_are_options_of_a_submission(farm: Client) -> None:
    words = (
        "--frames",
        "1-5",
        "--chunk",
        "2",
        "--max-running",
        "1",
        "--limit",
        "nuke=2",
        "--limit",
        "vray",
        "--exclusive",
        "--note",
        "mine",
    )
    group = int(coalition("submit", *words, "render {start} {end}").output)
    shown = farm.job(group)
    assert [job.command for job in farm.jobs(parent=group)] == ["render 1 2", "render 3 4", "render 5 5"]
    assert (shown.limits, shown.exclusive, shown.max_running, shown.note) == ({"nuke": 2, "vray": 1}, True, 1, "mine")
    coalition("edit", str(group), "--shared", "--limit", "nuke")
    assert (farm.job(group).limits, farm.job(group).exclusive) == ({"nuke": 1}, False)
    assert "write NAME=COUNT" in coalition("submit", "--limit", "nuke=two", "true", code=2).output


def test_one_word_is_a_shell_line_as_it_is(farm: Client) -> None:
    job = int(coalition("submit", "echo a > b && echo 'c d'").output)
    assert farm.job(job).command == "echo a > b && echo 'c d'"
    assert farm.job(job).user == "ann"


def test_options_after_the_command_are_the_commands(farm: Client) -> None:
    job = int(coalition("submit", "ls", "--title", "-l").output)
    assert farm.job(job).command == "ls --title -l"


def test_every_field_has_its_option(farm: Client) -> None:
    group = document("submit", "--group", "--title", "film")["id"]
    before = int(coalition("submit", "true").output)
    words = shlex.split(
        "--title t --dir /shows --env A=1 --env B=x=y --user bob --priority 9 --affinity linux,big --timeout 30m --retries 2 "
        "--url http://x/{frame} --progress-pattern %percent --cpus 4 --memory 8G --gpus 1 --paused --json"
    )
    related = ("--parent", str(group), "--depends-on", str(before))
    answer = json.loads(coalition("submit", *words, *related, "render").stdout)
    job = farm.job(answer["id"])
    assert answer["count"] == 1
    assert (job.title, job.dir, job.user, job.priority, job.parent, job.paused) == ("t", "/shows", "bob", 9, group, True)
    assert job.environment == {"A": "1", "B": "x=y"}
    assert (sorted(job.affinity), job.timeout_s, job.retries) == (["big", "linux"], 1_800, 2)
    assert (job.cpus, job.memory_bytes, job.gpus, job.depends_on) == (4, 8 * 2**30, 1, (before,))
    assert (job.url, job.progress_pattern) == ("http://x/{frame}", "%percent")


def test_dependencies_of_every_kind_are_given_and_replaced(farm: Client) -> None:
    sim = int(coalition("submit", "--frames", "1-3", "sim {frame}").output)
    one, two = (int(coalition("submit", "true").output) for _ in range(2))
    frames = ("--depends-frames", f"{sim},{sim}x2-1:done")
    words = (*frames, "--depends-on", str(one), "--depends-done", str(two), "--depends-any", "--decrease-priority-after", "3")
    job = farm.job(int(coalition("submit", *words, "--frames", "1-3", "true").output))
    assert job.dependencies == (
        Dependency(one),
        Dependency(two, "done"),
        Dependency(sim, frames=True),
        Dependency(sim, "done", frames=True, step=2, shift=-1),
    )
    assert (job.depends_any, job.decrease_priority_after) == (True, 3)
    coalition("edit", str(job.id), "--depends-done", str(one), "--depends-all")
    assert (farm.job(job.id).dependencies, farm.job(job.id).depends_any) == ((Dependency(one, "done"),), False)


def test_frames_are_appended_and_jobs_skipped(farm: Client) -> None:
    group = int(coalition("submit", "--frames", "1-3", "sim {frame}").output)
    assert coalition("append", str(group), "4-7", "--chunk", "2").output == f"2 jobs appended to {group}\n"
    assert "4, 7: there already" in coalition("append", str(group), "4,7", code=2).output
    assert coalition("skip", str(group), "--why", "made before").output == "1 job changed\n"
    assert (farm.job(group).state, farm.job(group).counts.finished) == ("FINISHED", 5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["submit", "--depends-frames", "12x", "x"], "ID[xSTEP][+SHIFT][:done]"),
        (["submit"], "give a command, or --group"),
        (["submit", "--priority", "256", "x"], "priority: 256 is not allowed; 0 to 255"),
        (["submit", "--frames", "1-x", "x"], "frames"),
        (["submit", "--affinity", "a b", "x"], "affinity: tag 'a b' is not allowed"),
        (["submit", "--env", "A", "x"], '"A" is not NAME=VALUE'),
        (["submit", "--timeout", "soon", "x"], '"soon" is not a duration such as'),
        (["submit", "--memory", "8GB", "x"], '"8GB" is not a size such as'),
        (["submit", "--depends-on", "a", "x"], "job ids with commas between them"),
        (["submit", "--depends-on", "999999999", "x"], "depends_on"),
        (["submit", "--parent", "999999999", "x"], "parent"),
        (["submit", "--group", "x"], "command"),
        (["submit", "--titel", "x"], "No such option"),
        (["edit", "1"], "name at least one field"),
        (["move", "1"], "--to"),
        (["jobs", "--state", "BUSY"], "BUSY"),
        (["log", "-f", "--json", "1"], "--follow"),
        (["nonsense"], "No such command"),
        (["pause"], "name at least one, or give a `filter`"),
        (["wait"], "Missing argument"),
        (["--server", "a b", "jobs"], "is not an address"),
        (["--token-file", "/nowhere", "jobs"], "--token-file: /nowhere cannot be read"),
    ],
)
def test_bad_input_exits_2_with_a_line_that_names_it(farm: Client, words: list[str], told: str) -> None:
    result = coalition(*words, code=2)
    assert told in result.stderr
    assert result.stdout == ""


# ---------------------------------------------------------------- look


def test_jobs_lists_the_top_newest_first_or_a_group(farm: Client) -> None:
    group = farm.submit(title="the group", frames="1-3", command="true")
    listed = coalition("jobs").stdout.splitlines()
    assert listed[0].split() == ["ID", "STATE", "TITLE", "USER", "DONE", "PRIO", "AGE", "RUN", "COST"]
    assert listed[1].split()[:6] == [str(group), "WAITING", "the", "group", "ann", "0/3"]
    inside = document("jobs", str(group))["jobs"]
    assert [job["id"] for job in inside] == [group + 3, group + 2, group + 1]
    assert coalition("jobs", str(group), "--sort", "id", "-q").stdout.split() == [str(group + n) for n in (1, 2, 3)]


def test_jobs_are_filtered(farm: Client) -> None:
    job = farm.submit(title="needle", command="true", user="zoe", paused=True)
    for words in ("--user zoe", "--title needl", "--all --title needle --state waiting,error", "--paused"):
        assert job in [entry["id"] for entry in document("jobs", *words.split())["jobs"]], words
    assert job not in [entry["id"] for entry in document("jobs", "--not-paused")["jobs"]]
    assert coalition("jobs", "--user", "zoe").stdout.splitlines()[1].split()[1] == "PAUSED"


def test_job_shows_one_job_with_its_attempts(farm: Client, server: RealServer) -> None:
    job = farm.submit(title="one", command="false", memory_bytes=2**20, cpus=1, environment={"A": "b c"}, affinity=["one"])
    farm.edit(job, affinity=[], memory_bytes=0)
    run_one(server.url, job, exit_code=3)
    shown = coalition("job", str(job)).stdout
    assert re.search(r"^state +ERROR$", shown, re.MULTILINE)
    assert re.search(r"^environment +A='b c'$", shown, re.MULTILINE)
    assert re.search(r"^needs +1 cpus$", shown, re.MULTILINE)
    assert re.search(r"^ +\d+ +ERROR +hand-\d+ +1\.5s +3", shown, re.MULTILINE)
    facts = document("job", str(job))
    assert (facts["state"], facts["attempts"][0]["exit_code"]) == ("ERROR", 3)


def test_explain_says_why(farm: Client) -> None:
    job = farm.submit(command="true", paused=True)
    assert "paused" in coalition("explain", str(job)).stdout
    assert document("explain", str(job))["reasons"][0]["code"]
    HandWorker(farm.url, name="idler")
    worker = next(one for one in farm.workers() if one.name == "idler")
    assert worker.name in coalition("explain", "--worker", worker.name).stdout
    assert document("explain", "--worker", str(worker.id))["reasons"][0]["text"]
    assert "name a job, or a worker" in coalition("explain", code=2).stderr


LISTS = [
    "workers",
    "affinities",
    "limits",
    "instances",
    "pools",
    "budget",
    "ledger",
    "cost",
    "forecast",
    "history",
    "decisions",
    "events",
    "archive",
    "attempts",
    "server",
    "token list",
    "user list",
    "status",
    "jobs",
]


@pytest.mark.parametrize("verb", LISTS)
def test_every_list_is_one_document_when_asked(farm: Client, verb: str) -> None:
    assert isinstance(document(*verb.split()), dict)
    coalition(*verb.split())
    coalition(*verb.split(), "-q")


def test_lists_of_workers_and_events_and_tags(farm: Client, server: RealServer) -> None:
    worker = HandWorker(server.url, "lister", slots=3, affinity=[["maya", "big"], ["linux"]]).enrolled["worker"]
    row = next(line for line in coalition("workers").stdout.splitlines() if "lister" in line)
    assert row.split()[:2] == [str(worker), "lister"]
    assert "0/3" in row
    assert "maya" in coalition("affinities").stdout
    assert "lister" in coalition("events", "--worker", str(worker)).stdout
    assert coalition("workers", "drain", "lister").stdout == "1 worker changed\n"
    assert "lister" in coalition("workers", "--state", "draining,sick").stdout
    assert coalition("workers", "--state", "sick").stderr == "no workers in these states\n"
    assert "--state is for the list" in coalition("workers", "--state", "sick", "drain", "lister", code=2).stderr
    assert "'GONE' is not allowed" in coalition("workers", "--state", "gone", code=2).stderr
    assert coalition("workers", "resume", str(worker), "-q").stdout == ""
    coalition("workers", "edit", "lister", "--inactive", "--slots", "2", "--affinity", "b,c")
    (changed,) = [known for known in farm.workers() if known.id == worker]
    assert (changed.active, changed.slots, [sorted(line) for line in changed.affinity]) == (False, 2, [["b", "c"]])
    hours = ["--hours", "mon-fri 19:00-07:00", "--timezone", "Europe/Paris", "--hours-end", "requeue", "--idle-user", "10m"]
    coalition("workers", "edit", "lister", *hours, "--idle-load", "1.5", "--note", "ann's desktop")
    (changed,) = [known for known in farm.workers() if known.id == worker]
    assert (changed.hours, changed.timezone, changed.hours_end) == ("mon-fri 19:00-07:00", "Europe/Paris", "requeue")
    assert (changed.idle_user_s, changed.idle_load, changed.note) == (600, 1.5, "ann's desktop")
    assert "'mon-fri' is not understood" in coalition("workers", "edit", "lister", "--hours", "mon-fri", code=2).stderr
    assert 'no worker listr; did you mean "lister"?' in coalition("workers", "delete", "listr", code=2).stderr
    assert coalition("workers", "delete", "lister").stdout == "1 worker changed\n"


def test_limits_are_set_listed_and_deleted(farm: Client) -> None:
    assert coalition("limits", "set", "nuke", "3", "--per-host").stdout == "1 limit changed\n"
    assert "nuke" in coalition("limits").stdout
    assert [(limit.name, limit.maximum, limit.per_host) for limit in farm.limits()] == [("nuke", 3, True)]
    assert "kept by the farm itself" in coalition("limits", "set", "group#1", "3", code=2).stderr
    assert coalition("limits", "delete", "nuke").stdout == "1 limit changed\n"
    assert "there is no limit nuke" in coalition("limits", "delete", "nuke", code=1).stderr


# ---------------------------------------------------------------- change


def test_jobs_are_paused_started_edited_moved_reset_and_deleted(farm: Client) -> None:
    group = farm.submit(group=True, title="g")
    job = str(farm.submit(command="true", title="j"))
    assert coalition("pause", job).stdout == "1 job changed\n"
    assert farm.job(int(job)).paused
    assert document("start", job) == {"changed": 1, "ids": [int(job)], "refused": [], "dry_run": None}
    coalition("edit", job, "--title", "new", "--priority", "3", "--env", "A=1", "--command", "false", "-q")
    changed = farm.job(int(job))
    assert (changed.title, changed.priority, changed.environment, changed.command) == ("new", 3, {"A": "1"}, "false")
    coalition("move", job, "--to", str(group))
    assert farm.job(int(job)).parent == group
    coalition("reset", job)
    coalition("reset", str(group), "--errors")
    coalition("delete", str(group))
    assert "there is no job" in coalition("job", job, code=1).stderr


def test_jobs_are_listed_with_the_fields_wanted(farm: Client) -> None:
    job = farm.submit(command="true", title="narrow", user="cyd")
    assert coalition("jobs", "--filter", "user:cyd", "--fields", "id,title,state").stdout.split() == [
        *("ID", "TITLE", "STATE"),
        *(str(job), "narrow", "WAITING"),
    ]
    assert document("jobs", "--filter", "user:cyd", "--fields", "title") == {"jobs": [{"title": "narrow"}]}
    assert "did you mean" in coalition("jobs", "--fields", "titel", code=2).stderr


def test_a_submission_with_a_key_is_made_once(farm: Client) -> None:
    first = coalition("submit", "--key", "nightly-7", "true").stdout
    assert coalition("submit", "--key", "nightly-7", "true").stdout == first
    assert "another body" in coalition("submit", "--key", "nightly-7", "false", code=2).stderr


def test_what_fits_a_filter_is_told_in_a_rehearsal_then_changed(farm: Client) -> None:
    jobs = [farm.submit(command="true", title=f"bulk {n}", user="bea") for n in range(3)]
    told = coalition("pause", "--filter", "user:bea bulk", "--dry-run").stdout.splitlines()
    assert told[:2] == ["3 jobs would be changed", "all jobs of the farm: as many in each state as before"]
    assert told[2:] == [f"job.pause {job}: paused" for job in jobs]
    assert not farm.job(jobs[0]).paused
    assert coalition("pause", "--filter", "user:bea bulk").stdout == "3 jobs changed\n"
    assert farm.job(jobs[2]).paused
    told = coalition("delete", "--filter", "user:bea", "--dry-run").stdout
    assert "waiting" in told
    assert "job.delete" in told
    assert coalition("submit", "--frames", "1-9", "--dry-run", "true").stdout.startswith("10 jobs would be made\n")
    assert coalition("delete", "--filter", "user:bea", "-q").stdout == ""
    assert list(farm.jobs(user="bea")) == []


def test_what_is_refused_refuses_all_unless_it_may_be_left_out(farm: Client) -> None:
    job = farm.submit(command="true", title="there")
    assert "and 1 more are refused" in coalition("pause", "98", str(job), "99", code=1).stderr
    assert not farm.job(job).paused
    done = coalition("pause", "98", str(job), "99", "--partial", code=1)
    assert (done.stdout, done.stderr) == ("1 job changed\n", "refused: there is no job 98\nrefused: there is no job 99\n")
    assert farm.job(job).paused
    assert "give one of the two" in coalition("pause", str(job), "--filter", "user:ann", code=2).stderr


# ---------------------------------------------------------------- logs and waiting


def test_log_prints_bytes_as_they_were_written(farm: Client, server: RealServer) -> None:
    every = bytes(range(256)) * 8
    job = farm.submit(command="noise", priority=255)
    run_one(server.url, job, log=every)
    assert coalition("log", str(job)).stdout_bytes == every
    assert coalition("log", "--tail", "3", str(job)).stdout_bytes == every[-3:]
    group = coalition("submit", "--frames", "1-2", "--", "true").stdout.strip()
    assert f"{group} is a group, which has no log" in coalition("log", group, code=2).stderr
    attempt = farm.job(job).attempt
    assert coalition("log", "--attempt", str(attempt), str(job)).stdout_bytes == every
    facts = document("log", str(job))
    assert (facts["attempt"], facts["size"], facts["open"]) == (attempt, len(every), False)
    assert facts["log"].startswith("\0\x01\x02")


def test_log_f_follows_to_the_end_and_tells_by_its_exit_code(farm: Client, server: RealServer) -> None:
    job = farm.submit(command="slow", priority=255)
    worker = HandWorker(server.url, "follower")
    (lease,) = poll_until(worker.take)
    worker.write(lease["attempt"], b"first\n")
    with process("log", "-f", str(job)) as following:
        assert following.stdout
        assert following.stdout.readline() == b"first\n"
        worker.write(lease["attempt"], b"second\n", 6)
        worker.end(lease["attempt"], 1)
        assert following.stdout.read() == b"second\n"
        assert following.wait(20) == 1


def test_wait_exits_0_when_done_and_1_when_one_failed(farm: Client, server: RealServer) -> None:
    good, bad = farm.submit(command="good", priority=255), farm.submit(command="bad", priority=254)
    run_one(server.url, good)
    run_one(server.url, bad, exit_code=1)
    assert "FINISHED" in coalition("wait", str(good)).stdout
    assert [job["state"] for job in document("wait", str(bad), str(good), code=1)["jobs"]] == ["ERROR", "FINISHED"]
    assert coalition("wait", str(bad), "-q", code=1).output == ""
    paused = str(farm.submit(command="x", paused=True))
    assert "1 job is not over after 0.1 s" in coalition("wait", paused, "--timeout", "0.1", code=1).stderr


def test_submit_wait_prints_the_id_at_once_and_waits(farm: Client, server: RealServer) -> None:
    with process("submit", "--priority", "255", "--wait", "x") as waiting:
        assert waiting.stdout
        job = int(waiting.stdout.readline())
        run_one(server.url, job, exit_code=2)
        assert waiting.wait(20) == 1


def test_wait_shows_a_bar_on_a_terminal_and_restores_it_on_ctrl_c(farm: Client) -> None:
    job = farm.submit(title="slow [b]shot[/b]", frames="1-4", command="true", paused=True)
    code, shown = on_terminal(["wait", str(job)], until="0/4 PAUSED", then=signal.SIGINT)
    assert code == 130
    assert "slow [b]shot[/b]" in shown
    assert shown.rstrip().endswith("\x1b[?25h")
    assert "Traceback" not in shown


def test_jobs_are_a_table_that_fits_a_terminal_of_80_columns(farm: Client) -> None:
    farm.submit(title="a title " * 20, command="true")
    code, shown = on_terminal(["jobs"], until="", then=None)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "…" in plain
    assert max(len(line) for line in plain.splitlines()) <= 80


# ---------------------------------------------------------------- exit codes


def test_no_server_exits_3() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        told = coalition("--server", f"127.0.0.1:{unused.getsockname()[1]}", "jobs", code=3).stderr
    assert re.fullmatch(r"coalition: no server at http://127\.0\.0\.1:\d+: Connection refused\n", told)


def test_what_the_server_refuses_exits_1_and_a_server_that_is_away_3() -> None:
    with Api() as api:
        api.tell("POST", "/jobs/reset", refusal(Conflict("job 1 runs\x1b[2J")), refusal(Unavailable("the database is away")))
        assert coalition("--server", api.url, "reset", "1", code=1).stderr == "coalition: job 1 runs?[2J\n"
        assert coalition("--server", api.url, "reset", "1", code=3).stderr == "coalition: the database is away\n"


def test_an_answer_of_another_version_is_told_without_a_traceback() -> None:
    with Api() as api:
        api.tell("GET", "/jobs", Answer({"items": []}))
        assert "the server's answer lacks `jobs`" in coalition("--server", api.url, "jobs", code=1).stderr


def test_lists_of_sparse_entries_are_shown_all_the_same() -> None:
    with Api() as api:
        for path, name in (("/pools", "pools"), ("/instances", "instances"), ("/budgets", "budgets"), ("/ledger", "entries")):
            api.tell("GET", path, Answer({name: [{"name": "x", "instances": {"GONE": 2, "RUNNING": 1}}]}))
        for verb in ("pools", "instances", "budget", "ledger"):
            assert len(coalition("--server", api.url, verb).stdout.splitlines()) == 2


def test_tokens_decide_who_may_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COALITION_TOKEN", raising=False)
    with RealServer(tmp_path, auth="token") as server:
        monkeypatch.setenv("COALITION_SERVER", server.url)
        file = tmp_path / "admin.token"
        file.write_text(server.store.create_token("user", user="root", role="admin") + "\n")
        assert "the token is missing, unknown or expired" in (told := coalition("jobs", code=4).stderr)
        assert "--token-file" in told
        coalition("jobs", "--token", "wrong.token", code=4)
        create = ("token", "create", "--user", "ann", "--role", "user", "--expires", "1d")
        made = coalition("--token-file", str(file), *create).stdout
        monkeypatch.setenv("COALITION_TOKEN", made.strip())
        coalition("jobs")
        monkeypatch.setenv("LOGNAME", "somebody")
        job = coalition("submit", "true").stdout.strip()
        assert document("job", job)["user"] == "ann", "whoever runs the command, the token says whose job it is"
        assert "ann is user; this needs admin" in coalition("token", "list", code=4).stderr
        listed = document("token", "list", "--token-file", str(file))["tokens"]
        (mine,) = [token for token in listed if token["user"] == "ann"]
        coalition("token", "delete", mine["id"], "--token-file", str(file))
        coalition("jobs", code=4)


def test_users_with_passwords_log_in_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COALITION_TOKEN", raising=False)
    with RealServer(tmp_path, auth="local") as server:
        monkeypatch.setenv("COALITION_SERVER", server.url)
        root, secret = tmp_path / "root", tmp_path / "secret"
        root.write_text(server.store.create_token("user", user="root", role="admin"))
        secret.write_text("correct horse battery\nanother long secret\n")
        as_root, given = ("--token-file", str(root)), ("--password-file", str(secret))
        coalition("user", "create", "ann", "--role", "wrangler", *given, *as_root)
        assert coalition("user", "list", *as_root).stdout.splitlines()[1].split()[:2] == ["ann", "wrangler"]
        monkeypatch.setenv("COALITION_TOKEN", coalition("login", "--user", "ann", *given).stdout.strip())
        coalition("jobs")
        assert coalition("user", "password", *given).stdout == "1 password changed\n"
        assert "wrong" in coalition("login", "--user", "ann", *given, code=4).stderr
        coalition("user", "edit", "ann", "--role", "user", *as_root)
        coalition("user", "delete", "ann", *as_root)
        coalition("jobs", code=4)


def test_ctrl_c_exits_130_without_a_word(farm: Client) -> None:
    job = farm.submit(command="x", paused=True)
    with process("log", "-f", str(job)) as following:
        poll_until(lambda: b"coalition" in Path(f"/proc/{following.pid}/cmdline").read_bytes())
        poll_until(lambda: sockets_of(following.pid) > 0)
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130
        assert following.stderr
        assert b"Traceback" not in following.stderr.read()


def sockets_of(pid: int) -> int:
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += link.readlink().name.startswith("socket:")
        except OSError:  # closed meanwhile
            continue
    return found


# ---------------------------------------------------------------- configuration, help, the server


def test_config_check_tells_file_line_and_the_nearest_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cloud.ini"
    file.write_text("[server]\nlisen = 127.0.0.1:1\n")
    told = coalition("config", "check", str(file), code=2).stderr
    assert told == f'coalition: {file}:2: [server] lisen: unknown key; did you mean "listen"?\n'
    file.write_text("[pool local]\nprovider = local\n")
    assert coalition("config", "check", str(file)).stdout == f"{file}: good; pools: local; budgets: none\n"
    assert document("config", "check", str(file))["pools"] == ["local"]
    file.write_text("\n[pool cloud]\nprovider = aws\nregion = eu-west-1\ntypes = c5.large\nimage = ami-12345678\n")
    monkeypatch.delitem(sys.modules, "providers.aws", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)  # as where it is not installed
    missing = "line 2: [pool cloud] provider aws needs boto3, which is not installed: pip install 'coalition[aws]'"
    for words in (("config", "check", str(file)), ("serve", "--config", str(file), "--data-dir", str(tmp_path))):
        assert missing in coalition(*words, code=2).stderr


@pytest.mark.parametrize(("provider", "sdk", "extra"), [("gce", "google", "gcp"), ("libcloud", "libcloud", "libcloud")])
def test_a_provider_whose_sdk_is_not_installed_names_its_extra(
    provider: str, sdk: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = f"[pool cloud]\nprovider = {provider}\nregion = europe-west1\ntypes = n2-standard-2\nimage = worker\n"
    (tmp_path / "cloud.ini").write_text(f"[libcloud europe-west1]\ndriver = openstack\n{pool}")
    for module in [name for name in sys.modules if name.startswith((f"providers.{provider}", f"{sdk}."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, sdk, None)  # as where it is not installed
    told = coalition("config", "check", str(tmp_path / "cloud.ini"), code=2).stderr
    assert f"[pool cloud] provider {provider} needs {sdk}, which is not installed: pip install 'coalition[{extra}]'" in told


def test_config_show_prints_every_setting_with_its_default_where_it_differs(tmp_path: Path) -> None:
    file = tmp_path / "cloud.ini"
    file.write_text("[worker]\nsync = 2s\n")
    shown = coalition("config", "show", str(file)).stdout
    assert re.search(r"^\[worker\] sync +2s +5s +how often", shown, re.MULTILINE)
    settings = document("config", "show", str(file))["settings"]
    assert [(entry["section"], entry["key"]) for entry in settings if entry["changed"]] == [("worker", "sync")]


def test_the_configuration_is_found_in_the_environment_then_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COALITION_CONFIG", raising=False)
    assert document("config", "check")["file"] is None
    (tmp_path / "cloud.ini").write_text("")
    assert document("config", "check")["file"] == "cloud.ini"
    monkeypatch.setenv("COALITION_CONFIG", "other.ini")
    assert "other.ini: cannot be read" in coalition("config", "check", code=2).stderr


def test_serve_refuses_what_is_not_safe_or_not_free(tmp_path: Path) -> None:
    folder = str(tmp_path)
    told = coalition("serve", "--data-dir", folder, "--listen", "0.0.0.0:19999", code=2).stderr
    assert "command line: [server] listen: 0.0.0.0:19999 is beyond loopback" in told
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"{address} cannot be used" in coalition("serve", "--data-dir", folder, "--listen", address, code=2).stderr
    (tmp_path / "file").write_text("")
    told = coalition("serve", "--data-dir", f"{folder}/file/data", "--listen", "127.0.0.1:0", code=2).stderr
    assert "file/data cannot be made: Not a directory" in told


def test_serve_without_the_server_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "flask.py").write_text("raise ModuleNotFoundError(\"No module named 'flask'\", name='flask')\n")
    with process("serve", "--data-dir", str(tmp_path), PYTHONPATH=str(tmp_path)) as serving:
        assert serving.stderr
        told = serving.stderr.read().decode()
        assert serving.wait(20) == 2
    assert "the server needs flask, which is not installed: pip install 'coalition[server]'" in told
    assert "Traceback" not in told


def test_the_help_names_every_verb_and_loads_nothing_heavy() -> None:
    shown = coalition("--help").stdout
    for name in cli.commands:
        assert f"  {name} " in shown
    heavy = "('rich', 'http.client', 'coalition.client', 'coalition.config', 'flask')"
    code = f"import sys, coalition.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_verb_and_every_option_has_its_help_and_takes_the_common_options() -> None:
    for name, verb in verbs():
        assert verb.help, name
        options = [option for option in verb.params if isinstance(option, click.Option)]
        assert [option.name for option in options if not option.help] == [], name
        assert {"--json", "--server", "--token-file", "--quiet"} <= {text for option in options for text in option.opts}, name
