"""A wrangler's rules from the submission to the lease, over HTTP: what was asked for is what a worker gets."""

from __future__ import annotations

from flask import Flask

from tests.builders import Agent, Caller, done

TRUE = {"command": "true"}


def titles(agent: Agent) -> list[str]:
    return [lease["title"] for lease in agent.take()]


def test_a_job_waits_for_a_limit_until_it_is_defined_and_free_and_never_errs(app: Flask) -> None:
    call, agent = Caller(app), Agent(app, slots=4)
    first, second = call.submit({**TRUE, "title": "one", "limits": {"nuke": 1}}, {**TRUE, "title": "two", "limits": {"nuke": 1}})
    assert titles(agent) == []
    call.ok("PUT", "/limits/nuke", {"maximum": 1})
    (lease,) = agent.take()
    assert lease["title"] == "one"
    assert titles(agent) == []
    reasons = call.ok("GET", f"/jobs/{second}/explain")["reasons"]
    assert any("nuke" in reason["text"] for reason in reasons), reasons
    assert [given["title"] for given in agent.sync(done(lease))["leases"]] == ["two"]
    assert call.ok("GET", f"/jobs/{first}")["state"] == "FINISHED"


def test_an_exclusive_job_is_alone_on_its_worker(app: Flask) -> None:
    call, agent = Caller(app), Agent(app, slots=4)
    call.submit({**TRUE, "title": "alone", "exclusive": True, "priority": 200}, {**TRUE, "title": "other"})
    (lease,) = agent.take()
    assert lease["title"] == "alone"
    assert [given["title"] for given in agent.sync(done(lease))["leases"]] == ["other"]


def test_a_group_runs_no_more_of_its_jobs_than_its_maximum(app: Flask) -> None:
    call, agent = Caller(app), Agent(app, slots=4)
    call.submit({"title": "shot", "command": "render {frame}", "frames": "1-3", "max_running": 2})
    held = agent.take()
    assert [lease["command"] for lease in held] == ["render 1", "render 2"]
    assert [given["command"] for given in agent.sync(done(held[0]))["leases"]] == ["render 3"]


def test_a_job_goes_only_to_workers_that_it_allows(app: Flask) -> None:
    call = Caller(app)
    call.submit(
        {**TRUE, "title": "theirs", "workers": ["w2"]},
        {**TRUE, "title": "not w1", "not_workers": ["w1"]},
        {**TRUE, "title": "any"},
    )
    assert titles(Agent(app, "w1")) == ["any"]
    assert titles(Agent(app, "w2")) == ["theirs", "not w1"]


def test_what_the_worker_must_know_of_a_job_comes_with_its_lease(app: Flask) -> None:
    rules = {"timeout_output_s": 60.0, "timeout_progress_s": 90.0, "error_patterns": ["Error"], "licence_codes": [9]}
    Caller(app).submit({**TRUE, "title": "strict", **rules})
    (lease,) = Agent(app).take()
    assert {name: lease[name] for name in rules} == rules


def test_frames_are_appended_by_who_owns_the_range_and_those_there_are_named(app: Flask) -> None:
    call = Caller(app)
    (group,) = call.submit({"title": "shot", "command": "render {frame}", "frames": "1-2"})
    status, made = call("POST", f"/jobs/{group}/frames", {"frames": "3-4"})
    assert (status, made["group"], made["count"]) == (201, group, 2)
    status, problem = call("POST", f"/jobs/{group}/frames", {"frames": "4-5"})
    assert (status, problem["fields"]) == (422, {"frames": "4: there already; reset them to run them again"})
    assert call("POST", "/jobs/999/frames", {"frames": "1"})[0] == 404
    assert call("POST", f"/jobs/{group}/frames", {"frames": "9", "priority": 3})[1]["fields"].keys() == {"priority"}
    assert [lease["command"] for lease in Agent(app, slots=9).take()] == [f"render {n}" for n in (1, 2, 3, 4)]


def test_a_skipped_job_is_stopped_and_frees_who_waits_frame_by_frame(app: Flask) -> None:
    call, agent = Caller(app), Agent(app, slots=4)
    sim, render = call.submit(
        {"title": "sim", "command": "sim {frame}", "frames": "1-2", "ref": "sim"},
        {"title": "render", "command": "render {frame}", "frames": "1-2", "depends_on": [{"on": "sim", "frames": True}]},
    )
    first = agent.take()[0]
    assert call.ok("POST", "/jobs/skip", {"ids": [first["job"]], "why": "simulated before"})["changed"] == 1
    reply = agent.sync()
    assert reply["stop"] == [first["attempt"]]
    assert [lease["command"] for lease in reply["leases"]] == ["render 1"]
    assert call.ok("GET", f"/jobs/{first['job']}")["skipped"]
    reasons = call.ok("GET", f"/jobs/{render + 2}/explain")["reasons"]
    assert reasons[0] == {"code": "dependencies", "text": f"waits for frame 2 of #{sim} (#{sim + 2} WORKING)"}
