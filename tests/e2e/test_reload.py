"""A changed cloud.ini is applied to a server that runs, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from coalition.config import parse
from coalition.errors import ConfigError, Unavailable
from coalition.server import reload, run
from tests.e2e.farm import RealFarm
from tests.polling import poll_until

MakeFarm = Callable[..., RealFarm]
BUDGET = "amount = 20\nwindow = day"


def reloaded(farm: RealFarm, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "coalition", *options, "config", "reload", str(farm.ini)]
    return subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)


def amounts(farm: RealFarm) -> dict[str, float]:
    return {budget["name"]: budget["cap_micro"] / 1e6 for budget in farm.client.budgets()}


def change(farm: RealFarm, before: str, after: str) -> None:
    text = farm.ini.read_text()
    assert before in text
    farm.ini.write_text(text.replace(before, after))


def test_a_budget_and_a_rule_change_while_a_job_runs(make_farm: MakeFarm) -> None:
    farm = make_farm(budget_studio=BUDGET)
    master = farm.serve()
    serving = farm.server_workers()
    farm.worker("w1")
    gate = farm.folder / "gate"
    running = farm.client.submit(title="long", command=f"until [ -e {gate} ]; do sleep 0.1; done")
    poll_until(lambda: farm.client.job(running).state == "WORKING", 30, lambda: farm.state(running))
    change(farm, "amount = 20", "amount = 5")
    change(farm, "lease = 3s", "lease = 4s")
    done = reloaded(farm, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)["changes"]
    assert told == {"[budget studio] amount": ["20", "5"], "[worker] lease": ["3s", "4s"]}
    assert amounts(farm) == {"studio": 5.0}
    assert master.poll() is None
    assert not {one.pid for one in serving} & {one.pid for one in farm.server_workers()}
    (event,) = farm.client.events(kind="server.configure")
    assert event["text"] == "cloud.ini was read again: [worker] lease 3s -> 4s; [budget studio] amount 20 -> 5"
    assert farm.client.job(running).state == "WORKING"
    gate.touch()
    farm.finished(running)
    assert len(farm.client.attempts(running)) == 1
    farm.finished(farm.client.submit(title="next", command="true"))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("amount = 20", "amount = much", "amount"),
        ("[budget studio]", "[bugdet studio]", "budget NAME"),
        ("threads = 16", "threads = 8", r"[server] threads: changes by a restart only; nothing was applied"),
    ],
)
def test_what_cannot_be_applied_changes_nothing(make_farm: MakeFarm, before: str, after: str, words: str) -> None:
    farm = make_farm(budget_studio=BUDGET)
    farm.serve()
    serving = [one.pid for one in farm.server_workers()]
    change(farm, before, after)
    change(farm, "lease = 3s", "lease = 4s")
    done = reloaded(farm)
    assert done.returncode == 2
    assert words in done.stderr
    assert [one.pid for one in farm.server_workers()] == serving
    assert amounts(farm) == {"studio": 20.0}
    assert farm.client.events(kind="server.configure") == []


def test_a_signal_with_a_file_that_is_wrong_is_told_in_the_log(make_farm: MakeFarm) -> None:
    farm = make_farm(budget_studio=BUDGET)
    master = farm.serve()
    serving = [one.pid for one in farm.server_workers()]
    change(farm, "window = day", "window = daily")
    os.kill(master.pid, signal.SIGHUP)
    poll_until(lambda: "cloud.ini was not read again" in farm.log_of("server"), 30, lambda: farm.log_of("server"))
    assert "daily" in farm.log_of("server")
    assert [one.pid for one in farm.server_workers()] == serving


def test_nobody_to_ask(make_farm: MakeFarm) -> None:
    farm = make_farm()
    master = farm.serve()
    farm.kill(master)
    done = reloaded(farm)
    assert done.returncode == 3
    assert "no server runs with data_dir" in done.stderr


def test_a_file_that_says_the_same_restarts_nothing(make_farm: MakeFarm) -> None:
    farm = make_farm()
    farm.serve()
    serving = [one.pid for one in farm.server_workers()]
    farm.ini.write_text(f"# a word\n{farm.ini.read_text()}")
    done = reloaded(farm)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing has changed\n")
    assert [one.pid for one in farm.server_workers()] == serving


def test_a_secret_that_changes_is_a_change_and_is_not_shown() -> None:
    text = "[webhook chat]\nurl = https://chat.example/hooks/{}\n"
    changes = reload.differences(parse(text.format("first-secret")), parse(text.format("other-secret")))
    assert list(changes) == ["[webhook chat] url"]
    assert "secret" not in str(changes)


def test_a_process_that_took_the_number_of_an_earlier_server_is_not_asked(tmp_path: Path) -> None:
    here = reload.Serving.here()
    here._replace(since=here.since - 3_600).write(tmp_path)
    assert reload.serving(tmp_path) is None
    here.write(tmp_path)
    assert reload.serving(tmp_path) == here


def test_a_database_that_is_away_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (parse(f"[server]\ndata_dir = {tmp_path}\n[worker]\nwait = {wait}s\n") for wait in (2, 3))
    first = object.__new__(run._Arbiter)
    first.app = SimpleNamespace(settings=old, reloader=reload.Reloader(old, lambda: new))
    first.WORKERS, first.kill_workers = {}, lambda number: None
    served: list[object] = []
    first.spawn_workers = lambda: served.append(first.app.settings)

    def away(*_: object) -> None:
        raise Unavailable("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(run, "_adopt_rules", away)
        first.reload()
    said = reload.serving(tmp_path)
    assert said
    assert (said.asked, said.refused, served) == (1, "the database is away", [old])


def test_what_needs_a_restart_is_named() -> None:
    old, new = parse(""), parse("[server]\nthreads = 9\n[autoscaler]\nenabled = no\n[worker]\nwait = 3s\n")
    with pytest.raises(ConfigError, match=r"\[server\] threads, \[autoscaler\] enabled: changes by a restart only"):
        reload.check(reload.differences(old, new))
