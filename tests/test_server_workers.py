"""Routes of workers, tokens and the farm as a whole."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import pytest
from flask import Flask

from coalition.model import PROTOCOL
from tests.builders import Agent, Caller, Clock, WatchedStore, done


@pytest.fixture
def call(app: Flask) -> Caller:
    return Caller(app)


def test_enrolment_tells_a_worker_all_it_needs(app: Flask, store: WatchedStore) -> None:
    welcome = Agent(app).welcome
    rules = store.settings.worker
    assert (welcome["epoch"], welcome["protocol"], welcome["farm"]) == (1, PROTOCOL, "coalition")
    assert (welcome["sync_s"], welcome["lease_s"], welcome["grace_s"]) == (rules.sync_s, rules.lease_s, rules.grace_s)
    assert welcome["credential"].startswith(f"w{welcome['worker']}.")


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"session": "short"}, "session"),
        ({"slots": 0}, "slots"),
        ({"affinity": [["a b"]]}, "affinity"),
        ({"facts": {"cpus": 0}}, "facts.cpus"),
        ({"protocol": 0}, "protocol"),
    ],
)
def test_a_bad_enrolment_is_refused_by_its_field(call: Caller, fields: dict[str, Any], place: str) -> None:
    status, problem = call("POST", "/workers/enrol", {"name": "w1", "session": secrets.token_hex(16), **fields})
    assert (status, list(problem["fields"])) == (422, [place])
    assert call.ok("GET", "/workers")["workers"] == []


def test_only_loopback_enrols_without_a_token(call: Caller) -> None:
    body = {"name": "w1", "session": secrets.token_hex(16)}
    away = {"REMOTE_ADDR": "10.1.2.3"}
    assert call("POST", "/workers/enrol", body, environ_base=away)[0] == 401
    assert call("POST", "/workers/enrol", body, environ_base={"REMOTE_ADDR": "::ffff:127.0.0.1"})[0] == 201


def test_a_name_in_use_is_409(app: Flask, call: Caller) -> None:
    Agent(app)
    assert call("POST", "/workers/enrol", {"name": "w1", "session": secrets.token_hex(16)})[0] == 409


def test_workers_are_listed_by_state(app: Flask, call: Caller) -> None:
    drained, _ = Agent(app, "w1"), Agent(app, "w2")
    call.ok("POST", "/workers/drain", {"ids": [drained.id]})

    def named(states: str) -> list[str]:
        return [worker["name"] for worker in call.ok("GET", f"/workers?state={states}&fields=name")["workers"]]

    assert named("DRAINING") == ["w1"]
    assert named("DRAINING,STARTING") == ["w1", "w2"]
    assert named("SICK") == []
    status, problem = call("GET", "/workers?state=DRAINED")
    assert (status, problem["fields"]["state"]) == (422, "'DRAINED' is not allowed; did you mean \"DRAINING\"?")


def test_a_worker_is_listed_with_what_it_runs(app: Flask, call: Caller) -> None:
    (job_id,) = call.submit({"command": "a"})
    agent = Agent(app, affinity=[["b", "a"]], facts={"cpus": 4, "memory_bytes": 1, "gpus": 0})
    agent.take()
    (shown,) = call.ok("GET", "/workers")["workers"]
    assert (shown["name"], shown["state"], shown["running"], shown["jobs"]) == ("w1", "WORKING", 1, [job_id])
    assert (shown["affinity"], shown["facts"]["cpus"]) == ([["a", "b"]], 4)


def test_a_drained_worker_finishes_what_it_runs_and_gets_nothing_more(app: Flask, call: Caller) -> None:
    call.submit({"command": "a"}, {"command": "b"}, {"command": "c"})
    agent = Agent(app)
    held = agent.take()
    assert call.ok("POST", "/workers/drain", {"ids": [agent.id]})["ids"] == [agent.id]
    app.extensions["coalition"].dispatcher._versions = app.extensions["coalition"].store.counters()
    reply = agent.sync(*map(done, held))
    assert (reply["desired"], reply["leases"], reply["refused"]) == ("drain", [], [])
    call.ok("POST", "/workers/resume", {"ids": [agent.id]})
    assert call.ok("GET", "/workers")["workers"][0]["allowed_actions"] == ["edit", "drain", "delete"]


def test_an_edit_of_workers_is_checked_and_seen(app: Flask, call: Caller) -> None:
    agent = Agent(app)
    assert call("PATCH", "/workers", {"ids": [agent.id], "changes": {"affinity": [["a", "?"]]}})[0] == 422
    assert call("PATCH", "/workers", {"ids": [99], "changes": {"active": False}})[0] == 404
    assert list(call("PATCH", "/workers", {"ids": [agent.id], "changes": {}})[1]["fields"]) == ["changes"]
    call.ok("PATCH", "/workers", {"ids": [agent.id], "changes": {"affinity": [["gpu"]], "active": False}})
    (shown,) = call.ok("GET", "/workers")["workers"]
    assert (shown["affinity"], shown["active"]) == ([["gpu"]], False)
    assert call.ok("GET", "/affinities") == {"affinities": [{"tag": "gpu", "workers": 1, "jobs": 0}], "next": None}


def test_a_deleted_worker_must_enrol_again(app: Flask, call: Caller) -> None:
    agent = Agent(app)
    agent.sync()
    call.ok("POST", "/workers/delete", {"ids": [agent.id]})
    app.extensions["coalition"].dispatcher._versions = app.extensions["coalition"].store.counters()
    assert agent.try_sync()[0] == 401


def test_a_worker_syncs_for_itself_only(app: Flask) -> None:
    one, two = Agent(app, "w1"), Agent(app, "w2")
    one.id = two.id
    assert one.try_sync()[0] == 422


@pytest.mark.parametrize(
    "field", [{"epoch": -1}, {"seq": -1}, {"free": -1}, {"wait_s": 61}, {"finished": [{"attempt": 1}]}, {"more": 1}]
)
def test_a_bad_sync_is_refused_by_its_field(app: Flask, field: dict[str, Any]) -> None:
    status, problem = Agent(app).try_sync(**{"free": 1, **field})
    assert (status, next(iter(problem["fields"])).partition("[")[0]) == (422, next(iter(field)))


def test_absurd_results_are_refused_before_they_reach_the_store(app: Flask, call: Caller) -> None:
    call.submit({"command": "a"})
    agent = Agent(app)
    (lease,) = agent.take()
    for fields in ({"run_s": 1e300}, {"exit_code": 2**40}, {"run_s": -1}, {"state": "LOST"}):
        assert agent.try_sync(done(lease, **fields))[0] == 422


def test_the_farm_in_numbers(app: Flask, call: Caller, clock: Clock) -> None:
    call.submit({"command": "a"}, {"command": "b"}, {"command": "c"})
    Agent(app).take()
    shown = call.ok("GET", "/farm")
    assert shown["now"] == clock()
    assert shown["jobs"] == {"waiting": 1, "pending": 0, "working": 2, "finished": 0, "error": 0}
    assert (shown["workers"], shown["slots"]) == ({"WORKING": 1}, {"total": 2, "busy": 2})


def test_the_server_says_who_it_is(call: Caller) -> None:
    shown = call.ok("GET", "/server")
    assert (shown["farm"], shown["protocol"], shown["auth"]) == ("coalition", PROTOCOL, "none")
    assert call.ok("GET", "/healthz") == {"ok": True}


def test_events_are_found_by_job_and_worker_newest_first(app: Flask, call: Caller) -> None:
    first, second = call.submit({"command": "a"}), call.submit({"command": "b"})
    call.ok("POST", "/jobs/pause", {"ids": first})
    assert [event["kind"] for event in call.ok("GET", f"/events?job={first[0]}")["events"]] == ["job.pause", "job.submit"]
    assert [event["job"] for event in call.ok("GET", "/events?limit=2")["events"]] == [first[0], second[0]]
    assert call("GET", "/events?jobs=1")[0] == 422


def test_events_are_found_by_kind_user_and_time_and_go_on_from_the_last_seen(app: Flask, call: Caller, clock: Clock) -> None:
    (job_id,) = call.submit({"command": "a"})
    clock.advance(100)
    call.ok("POST", "/jobs/pause", {"ids": [job_id]})
    Agent(app)
    newest, *others = call.ok("GET", "/events")["events"]
    assert (newest["kind"], newest["who"]) == ("worker.enrol", "w1")
    assert call.ok("GET", f"/events?before={newest['id']}")["events"] == others
    assert [event["kind"] for event in call.ok("GET", "/events?user=w1")["events"]] == ["worker.enrol"]
    assert [event["kind"] for event in call.ok("GET", "/events?kind=job.pause")["events"]] == ["job.pause"]
    assert [event["kind"] for event in call.ok("GET", f"/events?until={int(clock())}")["events"]] == ["job.submit"]


def test_a_token_is_shown_once(call: Caller) -> None:
    status, made = call("POST", "/tokens", {"kind": "enrol"})
    assert (status, made["token"].partition(".")[0]) == (201, made["id"])
    (listed,) = call.ok("GET", "/tokens")["tokens"]
    assert (listed["id"], listed["uses_left"]) == (made["id"], 1)
    assert made["token"].partition(".")[2] not in str(listed)
    call.ok("DELETE", f"/tokens/{made['id']}")
    assert call("DELETE", f"/tokens/{made['id']}")[0] == 404
    assert call("DELETE", "/tokens/%00")[0] == 404


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"kind": "root"}, "kind"),
        ({"kind": "user", "role": "king"}, "role"),
        ({"kind": "user", "role": "user", "user": "a\0"}, "user"),
        ({"kind": "site", "uses": 0}, "uses"),
        ({"kind": "site", "expires_s": -1}, "expires_s"),
        ({}, "kind"),
    ],
)
def test_a_bad_token_is_refused_by_its_field(call: Caller, body: dict[str, Any], place: str) -> None:
    status, problem = call("POST", "/tokens", body)
    assert (status, list(problem["fields"])) == (422, [place])
    assert call.ok("GET", "/tokens")["tokens"] == []


# ---------------------------------------------------------------- limits


def test_limits_are_put_listed_and_deleted(call: Caller) -> None:
    assert call.ok("PUT", "/limits/maya", {"maximum": 3}) == {"changed": 1}
    shown = {"name": "maya", "maximum": 3, "per_host": False, "used": 0, "waiting": 0, "allowed_actions": ["set", "delete"]}
    assert call.ok("GET", "/limits") == {"limits": [shown], "next": None}
    assert call.ok("GET", "/limits/maya") == shown
    assert call("GET", "/limits/nuke")[0] == 404
    call.ok("DELETE", "/limits/maya")
    assert [call("DELETE", f"/limits/{name}")[0] for name in ("maya", "a%00b", "group%231")] == [404] * 3


@pytest.mark.parametrize(
    ("name", "body", "place"),
    [
        ("maya", {}, "maximum"),
        ("maya", {"maximum": -1}, "maximum"),
        ("maya", {"maximum": 1, "per_hots": True}, "per_hots"),
        ("group%231", {"maximum": 1}, "name"),
        ("a%20b", {"maximum": 1}, "name"),
        ("x" * 200, {"maximum": 1}, "name"),
    ],
)
def test_a_bad_limit_is_refused_by_its_field(call: Caller, name: str, body: dict[str, Any], place: str) -> None:
    status, problem = call("PUT", f"/limits/{name}", body)
    assert (status, list(problem["fields"])) == (422, [place])
    assert call.ok("GET", "/limits")["limits"] == []


# ---------------------------------------------------------------- loss


@pytest.mark.parametrize("action", ["pause", "delete", "reset"])
def test_what_runs_is_stopped_by_the_very_next_sync(app: Flask, call: Caller, action: str) -> None:
    agent = Agent(app)
    (job,) = call.submit({"command": "true"})
    (lease,) = agent.take()
    call.ok("POST", f"/jobs/{action}", {"ids": [job]})
    assert agent.sync(free=0)["stop"] == [lease["attempt"]]


def test_the_log_of_a_late_result_that_is_refused_is_kept_aside(app: Flask, call: Caller) -> None:
    late, other = Agent(app, "w1"), Agent(app, "w2")
    (job,) = call.submit({"command": "true"})
    (old,) = late.take()
    call.ok("POST", "/jobs/reset", {"ids": [job]})
    (new,) = other.take()
    text = base64.b64encode(b"forty hours of light\n").decode()
    reply = late.sync(done(old, log=text), free=0)
    assert [refusal["attempt"] for refusal in reply["refused"]] == [old["attempt"]]
    other.sync(done(new), free=0)
    assert [one["id"] for one in call.ok("GET", f"/jobs/{job}/attempts")["attempts"]] == [new["attempt"], old["attempt"]]
    assert call.raw("GET", f"/attempts/{old['attempt']}/log").data == b"forty hours of light\n"
    assert call.raw("GET", f"/jobs/{job}/log").data == b""
