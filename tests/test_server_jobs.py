"""Routes of jobs and logs: what they take, what they refuse, and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from tests.builders import Agent, Caller, done

MANY = 10_485_760


@pytest.fixture
def call(app: Flask) -> Caller:
    return Caller(app)


def a_log(agent: Agent, attempt: int, offset: int, data: bytes) -> tuple[int, Any]:
    return agent.call("PUT", f"/attempts/{attempt}/log?offset={offset}", data=data, content_type="application/octet-stream")


# ---------------------------------------------------------------- submit


def test_a_submission_answers_with_ids_refs_and_their_number(call: Caller) -> None:
    jobs = [
        {"title": "shot", "command": "r {frame}", "frames": "1-3", "ref": "s"},
        {"title": "film", "command": "f", "depends_on": ["s"]},
    ]
    status, body = call("POST", "/jobs", {"jobs": jobs})
    assert (status, body["count"], body["refs"]) == (201, 5, {"s": body["ids"][0]})
    film = call.ok("GET", f"/jobs/{body['ids'][1]}")
    assert (film["state"], film["depends_on"]) == ("PENDING", [body["ids"][0]])


BAD: dict[str, tuple[Any, str]] = {
    "an unknown parent": ({"parent": 99}, "jobs[0].parent"),
    "an unknown dependency": ({"depends_on": [99]}, "jobs[0].depends_on[0]"),
    "itself": ({"ref": "a", "depends_on": ["a"]}, "jobs[0].depends_on[0]"),
    "a bad frame range": ({"frames": "9-1"}, "jobs[0].frames"),
    "a negative priority": ({"priority": -1}, "jobs[0].priority"),
    "a priority above 255": ({"priority": 256}, "jobs[0].priority"),
    "a command on a group": ({"group": True}, "jobs[0].command"),
    "an odd affinity": ({"affinity": ["a b"]}, "jobs[0].affinity"),
    "a title of 10 MB": ({"title": "x" * MANY}, "jobs[0].title"),
    "a lone surrogate": ({"title": "\ud800"}, "jobs[0].title"),
    "a zero byte": ({"command": "a\0b"}, "jobs[0].command"),
    "an unknown field": ({"colour": 1}, "jobs[0].colour"),
    "a number too large": ({"memory_bytes": 2**70}, "jobs[0].memory_bytes"),
    "no number": ({"timeout_s": "soon"}, "jobs[0].timeout_s"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_problem_body_that_names_the_field_and_nothing_changes(call: Caller, case: str) -> None:
    fields, place = BAD[case]
    good = {"title": "good", "command": "true"}
    response = call.raw("POST", "/jobs", {"jobs": [{**good, **fields}, good]})
    problem = response.get_json(force=True)
    assert (response.status_code, response.mimetype) == (422, "application/problem+json")
    assert list(problem["fields"]) == [place]
    assert len(response.data) < 10_000
    assert call.ok("GET", "/jobs")["jobs"] == []


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'{"jobs": {}}', b'{"jobs": []}', b"\xff\xfe", b"[" * 100_000, b'{"jobs": [{"title": NaN}]}'],
)
def test_a_body_that_is_no_submission_is_refused(call: Caller, data: bytes) -> None:
    status, problem = call("POST", "/jobs", data=data, content_type="application/json")
    assert (status, bool(problem["fields"])) == (422, True)


def test_a_body_that_is_too_large_is_refused_unread(app: Flask, call: Caller) -> None:
    app.config["MAX_CONTENT_LENGTH"] = 1_000
    status, problem = call("POST", "/jobs", {"jobs": [{"title": "x" * 2_000}]})
    assert (status, problem["title"], problem["fields"]) == (413, "Too large", {"body": "is too large"})


def test_nesting_beyond_reason_is_refused(call: Caller) -> None:
    data = '{"jobs":[' + '{"title":"g","children":[' * 200 + "]}" * 200 + "]}"
    assert call("POST", "/jobs", data=data, content_type="application/json")[0] == 422


# ---------------------------------------------------------------- lists


def test_pages_follow_their_cursor(call: Caller) -> None:
    ids = call.submit(*[{"command": "true", "title": str(n)} for n in range(5)])
    first = call.ok("GET", "/jobs?limit=2&sort=-id")
    second = call.ok("GET", f"/jobs?limit=9&sort=-id&cursor={first['next']}")
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]
    assert second["next"] is None


def test_an_offset_leaves_jobs_out_and_gives_its_page_a_cursor(call: Caller) -> None:
    ids = call.submit(*[{"command": "true", "title": str(n)} for n in range(5)])[::-1]
    first = call.ok("GET", "/jobs?limit=1&sort=-id&parent=0")
    second = call.ok("GET", f"/jobs?limit=1&sort=-id&parent=0&cursor={first['next']}&offset=2")
    assert ([job["id"] for job in second["jobs"]], second["offset"], "total" in second) == (ids[3:4], 2, False)
    call.submit({"command": "true", "title": "a newer one moves nothing"})
    again = call.ok("GET", f"/jobs?limit=1&sort=-id&parent=0&cursor={second['cursor']}")
    assert (again["jobs"], again["next"]) == (second["jobs"], second["next"])
    beyond = call.ok("GET", "/jobs?sort=-id&parent=0&offset=9")
    assert (beyond["jobs"], beyond["next"], beyond["offset"], beyond["cursor"]) == ([], None, 6, f"{ids[4]}.{ids[4]}")
    nothing = call.ok("GET", f"/jobs?parent={10**6}&offset=9")
    assert (nothing["jobs"], nothing["offset"], nothing["cursor"]) == ([], 0, None)


@pytest.mark.parametrize(
    "query",
    [
        "state=DONE",
        "limit=0",
        "limit=1001",
        "limit=x",
        "offset=-1",
        "offset=1&title=x",
        "sort=title",
        "parent=-1",
        "parent=x",
        "paused=yes",
        "colour=1",
        "title=%00",
        "user=a%00",
    ]
    + [f"cursor={text}" for text in ("x", "1", "1.", "1.2.3", "-1.2", "²." + "1", "9" * 19 + ".1", "1.٣")],
)
def test_a_filter_that_cannot_be_read_is_refused_by_name(call: Caller, query: str) -> None:
    status, problem = call("GET", f"/jobs?{query}")
    assert (status, list(problem["fields"])) == (422, [query.partition("=")[0]])


def test_filters_narrow_the_list(call: Caller) -> None:
    call.submit(
        {"group": True, "title": "g", "children": [{"command": "c", "title": "in"}]},
        {"command": "c", "title": "out", "user": "ann"},
    )
    assert [job["title"] for job in call.ok("GET", "/jobs?parent=0")["jobs"]] == ["g", "out"]
    assert [job["title"] for job in call.ok("GET", "/jobs?user=ann&state=WAITING,ERROR")["jobs"]] == ["out"]
    assert [job["title"] for job in call.ok("GET", "/jobs?title=i&state=FINISHED&state=WAITING")["jobs"]] == ["in"]


@pytest.mark.parametrize(
    "path", ["/jobs/99", "/jobs/99/attempts", "/jobs/99/explain", "/jobs/99/log", "/attempts/99/log", f"/jobs/{2**70}"]
)
def test_what_is_not_there_is_404_with_words(call: Caller, path: str) -> None:
    status, problem = call("GET", path)
    assert (status, problem["title"]) == (404, "Not found")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/jobs", 405), ("GET", "/jobs/-1", 404)]
)
def test_unknown_addresses_and_methods_are_problem_bodies_too(call: Caller, method: str, path: str, status: int) -> None:
    response = call.raw(method, path)
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")


# ---------------------------------------------------------------- actions


def test_actions_answer_with_the_number_of_jobs(call: Caller) -> None:
    ids = call.submit({"command": "a"}, {"command": "b"})
    for action in ("pause", "start", "reset", "delete"):
        answer = {"changed": 2, "ids": ids, "refused": [], "dry_run": None}
        assert call("POST", f"/jobs/{action}", {"ids": ids}) == (200, answer)


@pytest.mark.parametrize("action", ["pause", "start", "reset", "delete"])
def test_an_empty_or_unknown_selection_is_refused(call: Caller, action: str) -> None:
    assert call("POST", f"/jobs/{action}", {"ids": []})[0] == 422
    assert call("POST", f"/jobs/{action}", {})[0] == 422
    assert call("POST", f"/jobs/{action}", {"ids": [1, 2**63 - 1, -5]})[0] == 404


def test_an_edit_changes_what_is_given(call: Caller) -> None:
    (job_id,) = call.submit({"command": "a", "retries": 2})
    assert call.ok("PATCH", "/jobs", {"ids": [job_id], "changes": {"title": "new", "priority": 9}})["changed"] == 1
    shown = call.ok("GET", f"/jobs/{job_id}")
    assert (shown["title"], shown["priority"], shown["retries"], shown["command"]) == ("new", 9, 2, "a")


@pytest.mark.parametrize("body", [{"changes": {}}, {}, {"changes": {"title": None}}])
def test_an_edit_of_nothing_is_refused_and_leaves_no_event(call: Caller, body: dict[str, Any]) -> None:
    (job_id,) = call.submit({"command": "a"})
    status, problem = call("PATCH", "/jobs", {"ids": [job_id], **body})
    assert (status, list(problem["fields"])) == (422, ["changes"])
    assert [event["kind"] for event in call.ok("GET", f"/events?job={job_id}")["events"]] == ["job.submit"]


def test_what_a_job_allows_is_sent_with_it(call: Caller, app: Flask) -> None:
    (job_id,) = call.submit({"command": "a"})
    assert call.ok("GET", f"/jobs/{job_id}")["allowed_actions"] == ["pause", "skip", "edit", "delete"]
    Agent(app).take()
    assert call.ok("GET", f"/jobs/{job_id}")["allowed_actions"] == ["pause", "reset", "skip", "edit", "delete"]
    assert [reason["code"] for reason in call.ok("GET", f"/jobs/{job_id}/explain")["reasons"]] == ["running"]


# ---------------------------------------------------------------- logs


def test_a_log_is_read_while_it_grows_and_after_its_end(call: Caller, app: Flask) -> None:
    (job_id,) = call.submit({"command": "a"})
    agent = Agent(app)
    (lease,) = agent.take()
    assert a_log(agent, lease["attempt"], 0, b"frame \xff1\n") == (200, {"size": 9})
    seen = call.raw("GET", f"/jobs/{job_id}/log?offset=-3")
    assert (seen.data, seen.headers["X-Log-Offset"], seen.headers["X-Log-Size"]) == (b"\xff1\n", "6", "9")
    assert (seen.headers["X-Log-Open"], seen.headers["X-Log-Attempt"]) == ("1", str(lease["attempt"]))
    agent.sync(done(lease))
    assert call.raw("GET", f"/attempts/{lease['attempt']}/log").headers["X-Log-Open"] == "0"


def test_a_gap_in_a_log_tells_where_to_go_on(call: Caller, app: Flask) -> None:
    call.submit({"command": "a"})
    agent = Agent(app)
    (lease,) = agent.take()
    status, problem = a_log(agent, lease["attempt"], 5, b"x")
    assert (status, problem["title"], problem["offset"]) == (409, "Log gap", 0)


def test_a_short_log_rides_in_the_report(call: Caller, app: Flask) -> None:
    (job_id,) = call.submit({"command": "a"})
    agent = Agent(app)
    agent.sync(done(agent.take()[0], log="aGVsbG8="))
    assert call.raw("GET", f"/jobs/{job_id}/log").data == b"hello"


@pytest.mark.parametrize("log", ["%", "aGVsbG8", "aGVsbÖ8="])
def test_a_log_that_is_not_base64_is_refused_and_the_result_not_taken(call: Caller, app: Flask, log: str) -> None:
    (job_id,) = call.submit({"command": "a"})
    agent = Agent(app)
    (lease,) = agent.take()
    assert agent.try_sync(done(lease, log=log))[0] == 422
    assert call.ok("GET", f"/jobs/{job_id}")["state"] == "WORKING"


def test_another_workers_log_cannot_be_written(call: Caller, app: Flask) -> None:
    (job_id,) = call.submit({"command": "a"})
    (lease,) = Agent(app).take()
    thief = Agent(app, "thief")
    assert a_log(thief, lease["attempt"], 0, b"x")[0] == 404
    thief.sync(done(lease, log="aGVsbG8="))
    assert call.raw("GET", f"/jobs/{job_id}/log").data == b""


def test_a_piece_of_log_that_is_too_large_is_refused(call: Caller, app: Flask) -> None:
    call.submit({"command": "a"})
    agent = Agent(app)
    (lease,) = agent.take()
    assert a_log(agent, lease["attempt"], 0, b"x" * (2**20 + 1))[0] == 413


def test_an_answer_is_plain_json(call: Caller) -> None:
    response = call.raw("GET", "/affinities")
    assert (response.mimetype, json.loads(response.data)) == ("application/json", {"affinities": [], "next": None})


def test_a_list_goes_on_from_its_cursor_and_tells_how_many_there_are(call: Caller) -> None:
    call.submit(*({"command": "true", "title": title} for title in ("b", "ä", "a")))
    first = call.ok("GET", "/jobs?parent=0&sort=title&limit=2")
    assert [job["title"] for job in first["jobs"]] == ["a", "b"]
    assert (first["total"], first["more"], first["counts"]["waiting"]) == (3, False, 3)
    following = call.ok("GET", f"/jobs?parent=0&sort=title&limit=2&cursor={first['next']}")
    assert ([job["title"] for job in following["jobs"]], following["next"]) == (["ä"], None)
    assert "counts" not in following
    assert call("GET", "/jobs?sort=title")[1]["fields"] == {"sort": "by title needs a `parent`; 0 is the top"}
    assert call("GET", "/jobs?parent=0&sort=title&cursor=ff.1")[0] == 422
