"""Who did what from where: each call of a person is in the audit with its address, edits with before and after, and it stays."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from coalition.config import AuthSettings, KeepSettings
from coalition.server.app import create_app
from coalition.server.housekeeping import Housekeeper
from tests.builders import Agent, Caller, Clock, Hand, WatchedStore, a_job, a_range
from tests.cloud_world import DOLLAR, World, budget, pool, settings
from tests.commands import coalition
from tests.databases import KINDS
from tests.fakes.server import RealServer

ROOT = Path(__file__).resolve().parent.parent
FAR = {"environ_base": {"REMOTE_ADDR": "10.0.0.7"}}
PASSWORD = "a long secret"


class Admin:
    """Calls as an administrator from another machine, and reads what was told of it."""

    def __init__(self, app: Flask, store: WatchedStore) -> None:
        self.call = Caller(app, store.create_token("user", user="root", role="admin"))

    def do(self, method: str, path: str, body: Any = None) -> Any:
        return self.call.ok(method, path, body, **FAR)

    def audit(self, query: str = "") -> list[dict[str, Any]]:
        return list(self.call.ok("GET", f"/audit?{query}")["audit"])

    def last(self) -> dict[str, Any]:
        return self.audit("limit=1")[0]


@pytest.fixture
def locked(store: WatchedStore) -> Iterator[Flask]:
    store.settings = replace(store.settings, auth=AuthSettings(mode="local"))
    made = create_app(store.settings, store, store.clock)
    made.extensions["coalition"].dispatcher.start()
    yield made
    made.extensions["coalition"].dispatcher.stop()


@pytest.fixture
def admin(locked: Flask, store: WatchedStore) -> Admin:
    return Admin(locked, store)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_an_edit_of_jobs_tells_what_was_before_and_after(admin: Admin, store: WatchedStore) -> None:
    job, other = store.submit([a_job("old", affinity=("linux",), priority=10, environment={"A": "1"}, retries=1), a_job("b")]).ids
    changes = {"title": "new", "priority": 20, "affinity": ["linux"], "environment": {"A": "2"}, "cpus": 3, "timeout_output_s": 9}
    admin.do("PATCH", "/jobs", {"ids": [job, other], "changes": changes})
    told = {entry["job"]: entry for entry in admin.audit("kind=job.edit")}
    assert (told[job]["who"], told[job]["address"]) == ("root", "10.0.0.7")
    before = {"title": "old", "priority": 10, "environment": {"A": "1"}, "cpus": 0}
    assert {name: told[job]["before"][name] for name in before} == before
    assert "affinity" not in told[job]["before"], "it is as it was"
    assert told[other]["before"]["affinity"] == []
    assert told[job]["after"] == {name: value for name, value in changes.items() if name in told[job]["before"]}


def test_of_many_jobs_one_line_tells_some_of_what_was(admin: Admin, store: WatchedStore) -> None:
    ids = store.submit([a_job(str(n), priority=n % 3) for n in range(120)]).ids
    admin.do("PATCH", "/jobs", {"ids": list(ids), "changes": {"priority": 9}})
    (entry,) = admin.audit("kind=job.edit")
    assert (entry["before"], entry["after"]) == ({"priority": [0, 1, 2]}, {"priority": 9})
    assert "120 jobs" in entry["text"]


def test_workers_limits_and_users_are_told_with_before_and_after(admin: Admin, store: WatchedStore) -> None:
    hand = Hand(store)
    admin.do("PATCH", "/workers", {"ids": [hand.id], "changes": {"slots": 7, "note": ""}})
    assert (admin.last()["before"], admin.last()["after"], admin.last()["worker"]) == ({"slots": 4}, {"slots": 7}, hand.id)
    admin.do("PUT", "/limits/nuke", {"maximum": 2})
    admin.do("PUT", "/limits/nuke", {"maximum": 5})
    assert (admin.last()["before"], admin.last()["after"]) == ({"maximum": 2}, {"maximum": 5})
    admin.do("POST", "/users", {"name": "ann", "password": PASSWORD, "role": "user"})
    admin.do("PATCH", "/users/ann", {"role": "wrangler", "password": PASSWORD + "!"})
    assert (admin.last()["before"], admin.last()["after"]) == ({"role": "user"}, {"role": "wrangler"})
    assert PASSWORD not in str(admin.audit())
    admin.do("PUT", "/limits/nuke", {"maximum": 5, "per_host": True})
    assert (admin.last()["before"], admin.last()["after"]) == (
        {"maximum": 5, "per_host": False}, {"maximum": 5, "per_host": True}
    )  # fmt: skip
    admin.do("DELETE", "/limits/nuke")
    assert (admin.last()["before"], admin.last()["after"]) == ({"maximum": 5}, {"maximum": None})


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_dependencies_and_who_is_told_have_a_before_and_after_too(admin: Admin, store: WatchedStore) -> None:
    first, other = store.submit([a_job("a"), a_job("b")]).ids
    (last,) = store.submit([a_job("c", depends_on=(first,), notify=("error",))]).ids
    admin.do("PATCH", "/jobs", {"ids": [last], "changes": {"depends_on": [other], "notify": ["finished"]}})
    assert admin.last()["before"] == {"depends_on": [first], "notify": ["error"]}
    assert admin.last()["after"] == {"depends_on": [other], "notify": ["finished"]}
    one, two = store.submit([a_range("1-3"), a_range("1-3")]).ids
    admin.do("PATCH", "/jobs", {"ids": [two], "changes": {"depends_on": [{"on": one, "frames": True}]}})
    assert admin.last()["before"] == {"depends_on": []}
    assert admin.last()["after"]["depends_on"][0]["on"] == one
    admin.do("PATCH", "/jobs", {"ids": [two], "changes": {"depends_on": []}})
    assert admin.last()["before"] == {"depends_on": [one]}


def test_money_pools_and_scaling_are_told_with_before_and_after(tmp_path: Path) -> None:
    world = World(tmp_path, replace(settings(tmp_path, [pool()], [budget(amount=1)]), auth=AuthSettings(mode="local")))
    admin = Admin(create_app(world.store.settings, world.store, world.store.clock), world.store)
    admin.do("PATCH", "/budgets/studio", {"amount_micro": 2 * DOLLAR, "hard": False})
    assert admin.last()["before"] == {"amount_micro": DOLLAR, "hard": True}
    assert admin.last()["after"] == {"amount_micro": 2 * DOLLAR, "hard": False}
    admin.do("POST", "/pools/drain", {"names": ["p"]})
    assert (admin.last()["before"], admin.last()["after"]) == ({"enabled": True}, {"enabled": False})
    admin.do("POST", "/pools/resume", {"names": ["p"]})
    assert (admin.last()["before"], admin.last()["after"]) == ({"enabled": False}, {"enabled": None})
    for verb, was in (("pause", False), ("resume", True)):
        admin.do("POST", f"/scaling/{verb}")
        assert (admin.last()["before"], admin.last()["after"]) == ({"paused": was}, {"paused": not was})
    world.store.close()


def test_log_ins_wrong_ones_tokens_and_launches_are_in_it(admin: Admin, locked: Flask, store: WatchedStore) -> None:
    store.create_account("ann", PASSWORD, "user")
    call = Caller(locked)
    call("POST", "/login", {"user": "ann\x1b[2J", "password": "guess"}, **FAR)
    call("POST", "/login", {"user": "ann", "password": PASSWORD}, **FAR)
    made = admin.do("POST", "/tokens", {"kind": "user", "user": "ann", "role": "user"})
    admin.do("DELETE", f"/tokens/{made['id']}")
    told = [(entry["kind"], entry["who"]) for entry in reversed(admin.audit())]
    assert told == [("user.refused", "ann?[2J"), ("user.log_in", "ann"), ("token.create", "root"), ("token.delete", "root")]
    assert {entry["address"] for entry in admin.audit()} == {"10.0.0.7"}


def test_what_the_farm_does_by_itself_is_no_part_of_it(admin: Admin, locked: Flask, store: WatchedStore, clock: Clock) -> None:
    store.submit([a_job()])
    agent = Agent(locked, token=store.create_token("enrol"))
    agent.sync(free=1)
    before = len(admin.audit())
    clock.advance(1_000)
    store.sweep()
    store.sweep()
    assert len(admin.audit()) == before


def test_it_is_filtered_by_who_where_what_and_when_and_read_page_by_page(admin: Admin, store: WatchedStore, clock: Clock) -> None:
    for number in range(5):
        clock.advance(100)
        admin.do("PUT", f"/limits/l{number}", {"maximum": number})
    admin.do("DELETE", "/limits/l0")
    now = int(clock())
    counts = {query: len(admin.audit(query)) for query in (
        "user=root", "user=nobody", "address=10.0.0.7", "address=10.0.0.8", "kind=limit", "kind=limit.delete", "kind=lim",
        f"since={now}", f"until={now}",
    )}  # fmt: skip
    assert list(counts.values()) == [6, 0, 6, 0, 6, 1, 0, 2, 4]
    page = admin.call.ok("GET", "/audit?limit=4")
    rest = admin.call.ok("GET", f"/audit?limit=4&cursor={page['next']}")
    assert [len(page["audit"]), len(rest["audit"]), rest["next"]] == [4, 2, None]
    assert admin.call("GET", "/audit?who=root")[0] == 422


def test_only_who_administers_reads_it(locked: Flask, store: WatchedStore) -> None:
    for role, status in (("user", 403), ("wrangler", 403), ("admin", 200)):
        token = store.create_token("user", user="x", role=role)
        assert Caller(locked, token)("GET", "/audit")[0] == status


def test_what_somebody_did_is_kept_longer_than_other_events(admin: Admin, store: WatchedStore, clock: Clock) -> None:
    store.submit([a_job()])
    admin.do("PUT", "/limits/nuke", {"maximum": 2})
    store.settings = replace(store.settings, keep=KeepSettings(events_s=10.0, audit_s=100.0))
    keeper = Housekeeper(store.settings, store)
    clock.advance(50)
    keeper.tidy()
    assert [event["kind"] for event in store.events({}, 0, 10)] == ["limit.set"]
    clock.advance(60)
    keeper.tidy()
    assert store.events({}, 0, 10) == []


def test_nothing_changes_an_event_and_only_time_deletes_one() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "coalition").rglob("*.py")))
    assert re.findall(r"\bupdate\((?:schema\.)?event\)", text) == []
    (place,) = re.finditer(r"\bdelete\((?:schema\.)?event\)", text)
    assert re.findall(r"def (\w+)", text[: place.start()])[-1] == "forget_events"


def test_the_command_exports_a_table_in_which_nothing_is_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RealServer(tmp_path) as server:
        monkeypatch.setenv("COALITION_SERVER", server.url)
        monkeypatch.delenv("COALITION_TOKEN", raising=False)
        job = coalition("submit", "--title", "a", "true").stdout.strip()
        coalition("edit", job, "--title", "=1+1")
        rows = list(csv.DictReader(io.StringIO(coalition("audit", "--csv", "--kind", "job.edit").stdout)))
        assert [(row["kind"], row["address"], row["before"], row["after"]) for row in rows] == [
            ("job.edit", "127.0.0.1", '{"title": "a"}', '{"title": "=1+1"}')
        ]
        assert "job.submit" in coalition("audit", "--since", "1h").stdout
