"""Which commands and variables jobs may have: at submission, on an edit, with further frames, by every way there is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask

from coalition.config import CommandSettings, parse
from coalition.errors import ConfigError, NotAllowed
from coalition.model import JobChanges, MoreFrames
from coalition.server.app import create_app
from coalition.store import commands
from coalition.store.bulk import Action
from coalition.store.commands import CommandRules
from tests.builders import Caller, WatchedStore, a_group, a_job, a_range

RULES = r"""
[commands]
allow = render -f \d+ [\w./]+
    true
environment = SHOT, NUKE_*

[commands ann]
allow = python3 /tools/[\w]+\.py
environment = DEBUG
"""


@pytest.fixture
def ruled(store: WatchedStore) -> WatchedStore:
    told = parse(RULES)
    store.settings = replace(store.settings, commands=told.commands, commands_of=told.commands_of)
    store.commands = CommandRules(store.settings)
    return store


def test_without_a_rule_everything_may_be_run(store: WatchedStore) -> None:
    store.submit([a_job(command="rm -rf / ; curl x | sh", user="ben", environment={"LD_PRELOAD": "x"})], "ben")


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /",
        "render -f 1 x.scn; rm -rf /",
        "xrender -f 1 a",
        "render -f 1 a\nrm b",
        "python3 /tools/a.py",
        " true",
        "true ",
        "$(true)",
    ],
)
def test_a_command_must_fit_a_rule_as_a_whole(ruled: WatchedStore, command: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        ruled.submit([a_job(command=command, user="ben")], "ben")
    assert list(refused.value.fields) == ["command"]
    assert ruled.farm_jobs()["waiting"] == 0


def test_a_users_own_rules_come_beside_those_for_all(ruled: WatchedStore) -> None:
    ruled.submit([a_job(command="python3 /tools/a.py", user="ann"), a_job(command="true", user="ann")], "ann")
    with pytest.raises(NotAllowed):
        ruled.submit([a_group("g", a_job(command="python3 /tools/a.py", user="ben"), user="ann")], "ann")


def test_frames_are_compared_as_they_will_be_run(ruled: WatchedStore) -> None:
    (group,) = ruled.submit([a_range("1-3", command="render -f {frame} a.scn", user="ben")], "ben").ids
    with pytest.raises(NotAllowed):
        ruled.submit([a_range("1-3", command="render -f x{frame} a.scn", user="ben")], "ben")
    ruled.append(group, MoreFrames("4-5"), "ben")
    ruled.commands = CommandRules(replace(ruled.settings, commands=CommandSettings(allow=(r"render -f \d a.scn",))))
    ruled.append(group, MoreFrames("6-9"), "ben")
    with pytest.raises(NotAllowed):
        ruled.append(group, MoreFrames("10"), "ben")
    with pytest.raises(NotAllowed):
        ruled.edit([group], JobChanges(command="render -f {frame}0 a.scn"), "ben")
    ruled.edit([group], JobChanges(command="render -f {frame:01d} a.scn"), "ben")


def test_an_edit_and_a_new_owner_are_held_to_the_rules(ruled: WatchedStore) -> None:
    ben, ann = ruled.submit([a_job(user="ben"), a_job(command="python3 /tools/a.py", user="ann")], "root").ids
    for changes in (JobChanges(command="rm b"), JobChanges(environment={"PATH": "/tmp"})):
        with pytest.raises(NotAllowed):
            ruled.edit([ben], changes, "ben")
    with pytest.raises(NotAllowed):
        ruled.edit([ann], JobChanges(user="ben"), "root")
    with pytest.raises(NotAllowed):
        ruled.act(Action("edit", [ben, ann], values=(JobChanges(command="python3 /tools/b.py"),)), "root")
    ruled.edit([ann], JobChanges(command="python3 /tools/b.py"), "ann")
    ruled.edit([ben], JobChanges(title="another", priority=1), "ben")
    assert (ruled.job(ben).command, ruled.job(ann).command) == ("true", "python3 /tools/b.py")


@pytest.mark.parametrize(
    ("user", "name", "may"),
    [
        ("ben", "SHOT", True),
        ("ben", "NUKE_PATH", True),
        ("ben", "NUKE", False),
        ("ben", "LD_PRELOAD", False),
        ("ann", "DEBUG", True),
        ("ben", "DEBUG", False),
        ("ben", "shot", False),
    ],
)
def test_variables_are_those_that_are_named(ruled: WatchedStore, user: str, name: str, may: bool) -> None:
    job = a_job(user=user, environment={name: "x"})
    if may:
        ruled.submit([job], user)
        return
    with pytest.raises(NotAllowed) as refused:
        ruled.submit([job], user)
    assert list(refused.value.fields) == ["environment"]


def test_an_expression_that_takes_for_ever_fits_nothing_and_holds_nobody_up(ruled: WatchedStore) -> None:
    ruled.commands = CommandRules(replace(ruled.settings, commands=CommandSettings(allow=("(a+)+b", "true"))))
    began = time.monotonic()
    with pytest.raises(NotAllowed):
        ruled.submit([a_job(command="a" * 60, user="ben")], "ben")
    assert time.monotonic() - began < 30
    ruled.submit([a_job(user="ben")], "ben")


def test_no_transaction_waits_for_a_comparison(ruled: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    compare, asked = commands._refused, []

    def watched(patterns: list[str], texts: list[str]) -> list[int]:
        assert not ruled._turn.locked(), "a writer holds it"
        asked.append(texts)
        return compare(patterns, texts)

    monkeypatch.setattr(commands, "_refused", watched)
    (group,) = ruled.submit([a_range("1-3", command="render -f {frame} a.scn", user="ben")], "ben").ids
    ruled.append(group, MoreFrames("4-5"), "ben")
    ruled.edit([group], JobChanges(command="render -f {frame}0 a.scn"), "ben")
    ruled.rehearse_submit([a_job(command="render -f 7 a.scn", user="ben")], "ben")
    assert [len(texts) for texts in asked] == [2, 2, 5, 1]
    assert ruled.farm_jobs()["waiting"] == 5, "each was made once"


def test_more_commands_than_are_remembered_are_compared_once_each(ruled: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "REMEMBERED", 2)
    jobs = [a_job(command=f"render -f {n} {user}", user=user) for user in ("ann", "ben", "cleo") for n in range(3)]
    assert len(ruled.submit(jobs, "root").ids) == 9


@pytest.fixture
def app(ruled: WatchedStore) -> Iterator[Flask]:
    ruled.settings = replace(ruled.settings, server=replace(ruled.settings.server, legacy=True))
    made = create_app(ruled.settings, ruled, ruled.clock)
    made.extensions["coalition"].dispatcher.start()
    yield made
    made.extensions["coalition"].dispatcher.stop()


def test_every_way_to_submit_is_held_to_the_rules(app: Flask) -> None:
    call = Caller(app)
    bad = {"title": "t", "command": "rm b"}
    status, problem = call("POST", "/jobs", {"jobs": [bad]})
    assert (status, "[commands]" in problem["fields"]["command"]) == (403, True)
    assert call("POST", "/jobs?dry_run=true", {"jobs": [bad]})[0] == 403
    assert call("PUT", "/api/jobs", bad)[0] == 403
    assert call("GET", "/api/../json/addjob?title=t&cmd=rm%20b")[0] in (403, 404)
    assert app.test_client().get("/json/addjob?title=t&cmd=rm+b").status_code == 403
    (job,) = call.submit({"command": "true"})
    assert call("POST", "/api/jobs", {str(job): {"command": "rm b"}})[0] == 403
    assert call("PATCH", "/jobs", {"filter": "id>0", "changes": {"command": "rm b"}})[0] == 403


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[commands]\nallow = (", "allow"),
        ("[commands]\nenvironment = A-B", "environment"),
        ("[commands ann]\nallow = [", "allow"),
        ("[commands ann]\nnothing = x", "nothing"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text)
