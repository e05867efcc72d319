"""The Python API: what it sends, what it makes of the answers, and how it meets a network that fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coalition import client as module
from coalition import wire
from coalition.client import Client, _Pace, ended
from coalition.errors import (
    BadInput,
    CoalitionError,
    Conflict,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    ServerUnreachable,
    TooLarge,
    Unavailable,
)
from coalition.model import Job, JobSpec, from_dict
from tests.fakes.api import Answer, Api, Request, a_group, a_job, a_worker, an_attempt, log_of, log_piece, refusal
from tests.polling import poll_until

FAST = 0.01


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as fake:
        yield fake


@pytest.fixture
def client(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.delenv("COALITION_TOKEN", raising=False)
    monkeypatch.setenv("LOGNAME", "ann")
    with Client(api.url, timeout_s=5) as made:
        yield made


def submitted(*ids: int) -> Answer:
    return Answer({"ids": list(ids), "count": len(ids), "refs": {}}, 201)


# ---------------------------------------------------------------- submitting


def test_submit_sends_what_was_given_and_the_users_name_and_returns_the_id(api: Api, client: Client) -> None:
    api.tell("POST", "/jobs", submitted(7))
    assert client.submit(title="shot", command="render {frame}", frames="1-100x2", affinity=["linux"]) == 7
    (request,) = api.requests
    sent = {"user": "ann", "title": "shot", "command": "render {frame}", "frames": "1-100x2", "affinity": ["linux"]}
    assert request.body == {"jobs": [sent]}
    assert request.headers["Content-Type"] == "application/json"
    assert "Authorization" not in request.headers


@pytest.mark.parametrize(("role", "owner"), [("user", "bob"), ("admin", "ann")])
def test_with_a_token_a_job_is_the_tokens_users_but_an_admin_submits_for_who_runs_this(
    api: Api, client: Client, role: str, owner: str
) -> None:
    api.tell("GET", "/server", Answer({"user": "bob", "role": role}))
    api.tell("POST", "/jobs", submitted(7))
    with Client(api.url, token="id.secret", timeout_s=5) as farm:
        farm.submit(command="true")
        farm.submit_many([{"command": "true"}, {"command": "true", "user": "eve"}])
    users = [job["user"] for request in api.asked("POST", "/jobs") for job in request.body["jobs"]]
    assert users == [owner, owner, "eve"]
    assert len(api.asked("GET", "/server")) == 1, "it is asked once"


def test_a_tree_and_dependencies_by_ref_are_sent_as_written(api: Api, client: Client) -> None:
    api.tell("POST", "/jobs", Answer({"ids": [1, 5], "count": 5, "refs": {"frames": 1}}, 201))
    frames = JobSpec(title="frames", ref="frames", children=(JobSpec(command="a"), JobSpec(command="b", priority=9)))
    made = client.submit_many([frames, {"title": "film", "command": "ffmpeg", "depends_on": ["frames"], "user": "bob"}])
    assert (made.ids, made.count, made.refs) == ((1, 5), 5, {"frames": 1})
    children = [{"command": "a"}, {"command": "b", "priority": 9}]
    assert api.requests[0].body["jobs"] == [
        {"user": "ann", "title": "frames", "ref": "frames", "children": children},
        {"user": "bob", "title": "film", "command": "ffmpeg", "depends_on": ["frames"]},
    ]


def test_a_mistake_in_a_keyword_is_caught_before_any_call_with_the_nearest_name(api: Api, client: Client) -> None:
    with pytest.raises(BadInput, match='titel: unknown field; did you mean "title"'):
        client.submit(titel="x", command="true")
    with pytest.raises(BadInput, match=r"jobs\[1\].priority: 999 is not allowed; 0 to 255"):
        client.submit_many([{"command": "a"}, {"command": "b", "priority": 999}])
    with pytest.raises(BadInput, match="jobs: is empty"):
        client.submit_many([])
    with pytest.raises(BadInput, match='prioritty: unknown field; did you mean "priority"'):
        client.edit(1, prioritty=3)
    with pytest.raises(BadInput, match="changes: is empty"):
        client.edit(1)
    with pytest.raises(BadInput, match="ids: is empty"):
        client.pause([])
    assert api.requests == []


def test_a_tree_of_dataclasses_that_is_far_too_deep_is_refused(client: Client) -> None:
    tree = JobSpec(command="true")
    for _ in range(10_000):
        tree = JobSpec(children=(tree,))
    with pytest.raises(BadInput, match="children"):
        client.submit_many([tree])


# ---------------------------------------------------------------- routes


def test_each_method_calls_its_route(api: Api, client: Client) -> None:
    calls: list[tuple[Any, str, str, Any, dict[str, str], Any]] = [
        (client.info, "GET", "/server", {"farm": "lab"}, {}, None),
        (client.farm, "GET", "/farm", {"jobs": {}}, {}, None),
        (lambda: client.changes("x.1", wait_s=5), "GET", "/changes", {"cursor": "x.2"}, {"since": "x.1", "wait": "5"}, None),
        (lambda: client.edit([1, 2], priority=9, affinity=[]), "PATCH", "/jobs", {"changed": 2}, {},
         {"ids": [1, 2], "changes": {"priority": 9, "affinity": []}}),
        (lambda: client.move(1, 0), "PATCH", "/jobs", {"changed": 1}, {}, {"ids": [1], "changes": {"parent": 0}}),
        (lambda: client.pause(1), "POST", "/jobs/pause", {"changed": 1}, {}, {"ids": [1]}),
        (lambda: client.start([1]), "POST", "/jobs/start", {"changed": 1}, {}, {"ids": [1]}),
        (lambda: client.start(filter="user:ann", partial=True, dry_run=True), "POST", "/jobs/start", {"changed": 1},
         {"partial": "1", "dry_run": "1"}, {"filter": "user:ann"}),
        (lambda: client.reset(1, errors_only=True), "POST", "/jobs/reset", {"changed": 1}, {}, {"ids": [1], "errors_only": True}),
        (lambda: client.skip(1, why="old"), "POST", "/jobs/skip", {"changed": 1}, {}, {"ids": [1], "why": "old"}),
        (lambda: client.append(7, "1-4", chunk=2).first, "POST", "/jobs/7/frames", {"group": 7, "first": 9, "count": 2}, {},
         {"frames": "1-4", "chunk": 2}),
        (lambda: client.delete({1}), "POST", "/jobs/delete", {"changed": 1}, {}, {"ids": [1]}),
        (lambda: client.explain(1), "GET", "/jobs/1/explain", {"reasons": []}, {}, None),
        (lambda: client.explain_worker(3), "GET", "/workers/3/explain", {"reasons": []}, {}, None),
        (lambda: client.edit_workers(3, active=False), "PATCH", "/workers", {"changed": 1}, {},
         {"ids": [3], "changes": {"active": False}}),
        (lambda: client.drain_workers(3), "POST", "/workers/drain", {"changed": 1}, {}, {"ids": [3]}),
        (lambda: client.edit_workers(3, active=False, partial=True), "PATCH", "/workers", {"changed": 1}, {"partial": "1"},
         {"ids": [3], "changes": {"active": False}}),
        (lambda: client.drain_instances(5, dry_run=True), "POST", "/instances/drain", {"changed": 1}, {"dry_run": "1"},
         {"ids": [5]}),
        (lambda: client.resume_workers(3), "POST", "/workers/resume", {"changed": 1}, {}, {"ids": [3]}),
        (lambda: client.delete_workers(3), "POST", "/workers/delete", {"changed": 1}, {}, {"ids": [3]}),
        (lambda: client.archive(user="ann", before=9), "GET", "/archive", {"jobs": []}, {"user": "ann", "before": "9"}, None),
        (lambda: client.timeline(4, limit=5), "GET", "/jobs/4/timeline", {"timeline": []}, {"limit": "5"}, None),
        (lambda: client.events(job=4, below=True), "GET", "/events", {"events": []}, {"job": "4", "below": "1"}, None),
        (lambda: client.archived(4), "GET", "/archive/4", {"attempts": []}, {}, None),
        (client.affinities, "GET", "/affinities", {"affinities": []}, {}, None),
        (lambda: client.events(job=4, since=12.9), "GET", "/events", {"events": []}, {"job": "4", "since": "12"}, None),
        (client.limits, "GET", "/limits", {"limits": []}, {}, None),
        (lambda: client.instance(4), "GET", "/instances/4", {"id": 4}, {}, None),
        (lambda: client.set_limit("a#1", 3, per_host=True), "PUT", "/limits/a%231", {"changed": 1}, {},
         {"maximum": 3, "per_host": True}),
        (lambda: client.delete_limit("maya"), "DELETE", "/limits/maya", {"changed": 1}, {}, {}),
        (client.pools, "GET", "/pools", {"pools": []}, {}, None),
        (lambda: client.instances(pool="a b"), "GET", "/instances", {"instances": []}, {"pool": "a b", "all": "0"}, None),
        (lambda: client.launch("p", 2), "POST", "/pools/launch", {"changed": 2}, {}, {"pool": "p", "count": 2, "offering": ""}),
        (lambda: client.prices(provider="aws"), "GET", "/prices", {"prices": []}, {"provider": "aws"}, None),
        (lambda: client.put_prices([]), "POST", "/prices", {"changed": 0}, {}, {"prices": []}),
        (lambda: client.drain_instances(5), "POST", "/instances/drain", {"changed": 1}, {}, {"ids": [5]}),
        (lambda: client.terminate_instances(5), "POST", "/instances/terminate", {"changed": 1}, {}, {"ids": [5]}),
        (lambda: client.drain_pools(["p"]), "POST", "/pools/drain", {"changed": 2}, {}, {"names": ["p"]}),
        (client.pause_scaling, "POST", "/scaling/pause", {"changed": 1}, {}, {}),
        (client.resume_scaling, "POST", "/scaling/resume", {"changed": 1}, {}, {}),
        (client.budgets, "GET", "/budgets", {"budgets": []}, {}, None),
        (lambda: client.budget("a b"), "GET", "/budgets/a%20b", {"name": "a b"}, {}, None),
        (lambda: client.create_budget("x", 5, window="day", dry_run=True), "POST", "/budgets", {"effect": {}}, {"dry_run": "1"},
         {"name": "x", "amount_micro": 5, "window": "day"}),
        (lambda: client.edit_budget("x", hard=False), "PATCH", "/budgets/x", {"effect": {}}, {}, {"hard": False}),
        (lambda: client.delete_budget("x"), "DELETE", "/budgets/x", {"effect": {}}, {}, {}),
        (lambda: client.ledger(group_by="pool"), "GET", "/ledger", {"entries": []}, {"group_by": "pool"}, None),
        (lambda: client.cost(group_by="user", since=3.5, job=4), "GET", "/cost", {"entries": []},
         {"group_by": "user", "since": "3", "job": "4"}, None),
        (lambda: client.forecast(4), "GET", "/forecast", {"jobs": 1}, {"job": "4"}, None),
        (lambda: client.history(since=3.5), "GET", "/history", {"step_s": 60, "points": []}, {"since": "3"}, None),
        (lambda: client.decisions(limit=3), "GET", "/decisions", {"decisions": []}, {"limit": "3"}, None),
        (client.tokens, "GET", "/tokens", {"tokens": []}, {}, None),
        (lambda: client.create_token("enrol", uses=4), "POST", "/tokens", {"id": "x", "token": "x.y"}, {},
         {"kind": "enrol", "uses": 4}),
        (lambda: client.create_token("user", user="a", role="user", name="n", scope=["view"]), "POST", "/tokens",
         {"id": "x", "token": "x.y"}, {}, {"kind": "user", "user": "a", "role": "user", "name": "n", "scope": ["view"]}),
        (lambda: client.log_in("ann", "secret"), "POST", "/login", {"token": "x.y"}, {},
         {"user": "ann", "password": "secret", "token": True}),
        (lambda: client.change_password("a", "b"), "POST", "/password", {"changed": 1}, {}, {"old": "a", "new": "b"}),
        (client.users, "GET", "/users", {"users": []}, {}, None),
        (lambda: client.create_user("ann", "secret", role="admin"), "POST", "/users", {"name": "ann"}, {},
         {"name": "ann", "password": "secret", "role": "admin"}),
        (lambda: client.edit_user("a b", role="user"), "PATCH", "/users/a%20b", {"changed": 1}, {}, {"role": "user"}),
        (lambda: client.delete_user("ann"), "DELETE", "/users/ann", {"changed": 1}, {}, {}),
        (lambda: client.delete_token("abc.secret"), "DELETE", "/tokens/abc", {"changed": 1}, {}, {}),
    ]  # fmt: skip
    for call, method, path, answer, query, body in calls:
        api.tell(method, path, Answer(answer))
        given = call()
        request = api.requests[-1]
        assert (request.method, request.path, request.query, request.body) == (method, path, query, body)
        assert given in (answer, answer.get("changed"), *answer.values())


def test_answers_are_objects_with_attributes(api: Api, client: Client) -> None:
    api.tell("GET", "/jobs/3", Answer(a_group(3, counts={"finished": 2, "error": 1})))
    api.tell("GET", "/jobs/3/attempts", Answer({"attempts": [an_attempt(9, exit_code=1)]}))
    api.tell("GET", "/workers", Answer({"workers": [a_worker(4)]}))
    counts = client.job(3).counts
    assert counts is not None
    assert (counts.total, counts.error) == (3, 1)
    assert client.attempts(3)[0].exit_code == 1
    assert client.workers()[0].affinity == (("linux",),)


def test_fields_of_a_newer_server_are_passed_over_and_an_answer_that_does_not_fit_is_no_fault_of_the_caller(
    api: Api, client: Client
) -> None:
    api.tell("GET", "/jobs/1", Answer({**a_job(1), "mood": "fine"}), Answer({**a_job(1), "title": 7}))
    assert client.job(1).id == 1
    with pytest.raises(CoalitionError, match="does not fit this client") as caught:
        client.job(1)
    assert not isinstance(caught.value, BadInput)


def test_rows_of_any_list_are_fetched_page_by_page_with_the_fields_wanted(api: Api, client: Client) -> None:
    api.tell(
        "GET",
        "/attempts",
        Answer({"attempts": [{"id": 3}, {"id": 2}], "next": "2"}),
        Answer({"attempts": [{"id": 1}], "next": None}),
    )
    assert list(client.rows("attempts", fields=["id"], worker="w1")) == [{"id": 3}, {"id": 2}, {"id": 1}]
    assert [request.query for request in api.requests] == [
        {"fields": "id", "worker": "w1"},
        {"fields": "id", "worker": "w1", "cursor": "2"},
    ]


def test_one_row_is_an_object(api: Api, client: Client) -> None:
    api.tell("GET", "/attempts/4", Answer(an_attempt(4)))
    api.tell("GET", "/workers/3", Answer(a_worker(3)))
    api.tell("GET", "/limits/nuke", Answer({"name": "nuke", "maximum": 2, "per_host": False, "used": 1, "waiting": 0}))
    assert (client.attempt(4).worker, client.worker(3).name, client.limit("nuke").used) == ("node1", "node3", 1)


def test_jobs_are_fetched_page_by_page_as_they_are_consumed(api: Api, client: Client) -> None:
    def page(request: Request) -> Answer:
        first = int(request.query.get("cursor", 1))
        limit = int(request.query["limit"])
        jobs = [a_job(number) for number in range(first, min(first + limit, 2_501))]
        return Answer({"jobs": jobs, "next": str(first + limit) if first + limit <= 2_500 else None})

    api.tell("GET", "/jobs", page)
    assert [job.id for job in client.jobs(state=["WAITING", "ERROR"], paused=False)] == list(range(1, 2_501))
    assert [request.query.get("cursor") for request in api.requests] == [None, "1001", "2001"]
    assert api.requests[0].query == {"state": "WAITING,ERROR", "paused": "0", "sort": "id", "limit": "1000"}
    assert len(list(client.jobs(limit=1_200))) == 1_200
    assert [request.query["limit"] for request in api.requests[3:]] == ["1000", "200"]


def test_a_page_far_down_a_list_has_a_cursor_of_its_own(api: Api, client: Client) -> None:
    api.tell("GET", "/jobs", Answer({"jobs": [a_job(9)], "next": None, "offset": 50, "cursor": "8.8"}))
    page = client.page(parent=3, offset=50)
    assert (page.jobs[0].id, page.offset, page.cursor, page.next) == (9, 50, "8.8", None)
    assert api.requests[0].query == {"parent": "3", "sort": "id", "limit": "100", "offset": "50"}


def test_an_offset_leaves_out_jobs_once(api: Api, client: Client) -> None:
    answers = [Answer({"jobs": [a_job(number)], "next": following}) for number, following in ((51, "51"), (52, None))]
    api.tell("GET", "/jobs", lambda request: answers.pop(0))
    assert [job.id for job in client.jobs(offset=50)] == [51, 52]
    assert [request.query.get("offset") for request in api.requests] == ["50", None]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("kind", [NotAuthenticated, NotAllowed, NotFound, Conflict, TooLarge, Unavailable])
def test_a_problem_is_raised_as_the_error_it_stands_for(api: Api, client: Client, kind: type[CoalitionError]) -> None:
    api.tell("GET", "/jobs/1", refusal(kind("what to do")))
    with pytest.raises(kind, match="what to do"):
        client.job(1)


def test_the_fields_of_bad_input_are_told(api: Api, client: Client) -> None:
    api.tell("POST", "/jobs", refusal(BadInput(fields={"jobs[0].parent": "there is no job 77"})))
    with pytest.raises(BadInput) as caught:
        client.submit(command="true", parent=77)
    assert caught.value.fields == {"jobs[0].parent": "there is no job 77"}


def test_no_server_is_said_with_its_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ServerUnreachable, match=f"no server at http://127.0.0.1:{port}: Connection refused"):
            Client(f"127.0.0.1:{port}").info()


def test_something_else_on_the_port_is_not_taken_for_a_server(api: Api, client: Client) -> None:
    api.tell("GET", "/server", Answer(b"<h1>hello</h1>"), Answer(b"gone", 404), Answer(b"", 301, {"Location": "https://x/"}))
    with pytest.raises(ServerUnreachable, match="is not a Coalition server: its answer is no JSON object"):
        client.info()
    with pytest.raises(ServerUnreachable, match="is not a Coalition server: it answered 404"):
        client.info()
    with pytest.raises(ServerUnreachable, match="it answered 301 and points to https://x/"):
        client.info()


def test_a_proxy_without_its_server_is_a_server_that_is_away(api: Api, client: Client) -> None:
    api.tell("GET", "/server", Answer(b"<h1>Bad gateway</h1>", 502))
    with pytest.raises(Unavailable, match="a proxy answered 502"):
        client.info()


def test_a_server_that_does_not_answer_in_time_is_unreachable(api: Api) -> None:
    go = threading.Event()

    def slow(request: Request) -> Answer:
        go.wait(10)
        return Answer({})

    api.tell("GET", "/server", slow)
    with Client(api.url, timeout_s=0.1) as client, pytest.raises(ServerUnreachable, match=r"did not answer within 0\.1 s"):
        client.info()
    go.set()


@pytest.mark.parametrize("address", ["ftp://farm", "http://", "http://farm:port", "http://ann@farm", "a b", "http://[::1", ":80"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match=r"server: .* is not an address such as"):
        Client(address)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("farm", "http://farm:19211"),
        ("farm:80", "http://farm:80"),
        ("http://farm", "http://farm"),
        ("https://farm:8443/coalition/", "https://farm:8443/coalition"),
        ("http://[::1]:19211", "http://[::1]:19211"),
        (" farm\n", "http://farm:19211"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert Client(address).url == url


def test_a_token_with_a_line_break_is_refused_here() -> None:
    with pytest.raises(BadInput, match="token"):
        Client("farm", "abc\r\nX-Other: 1")


def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"ca: .*none\.pem cannot be used: No such file"):
        Client("https://127.0.0.1:1", ca=tmp_path / "none.pem").info()


# ---------------------------------------------------------------- who and where


def test_the_token_is_sent_and_comes_from_the_environment_when_none_is_given(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.tell("GET", "/server", Answer({}))
    monkeypatch.setenv("COALITION_TOKEN", "from.environment\n")
    Client(api.url).info()
    Client(api.url, "by.argument").info()
    Client(api.url, "").info()
    sent = [request.headers.get("Authorization") for request in api.requests]
    assert sent == ["Bearer from.environment", "Bearer by.argument", None]


def test_the_server_comes_from_the_environment_then_from_this_machine_then_from_the_network(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coalition import discovery

    api.tell("GET", "/server", Answer({"farm": "lab"}))
    monkeypatch.setenv("COALITION_SERVER", api.url)
    assert Client().info() == {"farm": "lab"}
    monkeypatch.delenv("COALITION_SERVER")
    monkeypatch.setattr(wire, "DEFAULT_SERVER", api.url)
    assert Client().url == api.url
    api.stop()
    monkeypatch.setattr(discovery, "search", lambda token: f"http://found-with-{token}:1")
    assert Client(token="a.b").url == "http://found-with-a.b:1"


# ---------------------------------------------------------------- connections


def test_a_thread_keeps_its_connection_and_each_thread_has_its_own(api: Api, client: Client) -> None:
    api.tell("GET", "/server", Answer({}))
    threads = [threading.Thread(target=lambda: [client.info() for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used: dict[int, int] = {}
    for request in api.requests:
        used[request.connection] = used.get(request.connection, 0) + 1
    assert sorted(used.values()) == [20, 20, 20, 20]


def test_a_connection_closed_while_idle_is_opened_anew_also_for_a_submission(api: Api, client: Client) -> None:
    api.tell("GET", "/server", Answer({}, hang_up=True))
    api.tell("POST", "/jobs", submitted(1))
    client.info()
    poll_until(lambda: not client._wire._local.kept.usable())
    assert client.submit(command="true") == 1
    assert len(api.asked("POST", "/jobs")) == 1


def test_an_action_whose_answer_is_lost_is_not_sent_twice(api: Api, client: Client) -> None:
    api.tell("GET", "/server", Answer({}))
    api.tell("POST", "/jobs/reset", Answer(status=0))
    client.info()
    with pytest.raises(ServerUnreachable, match="broke the connection"):
        client.reset(1)
    assert len(api.asked("POST", "/jobs/reset")) == 1


def test_a_submission_whose_answer_is_lost_is_sent_again_with_its_key(
    api: Api, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESEND_PAUSE_S", FAST)
    api.tell("POST", "/jobs", Answer(status=0), refusal(Unavailable("the database is away")), Answer(status=0), submitted(7))
    assert client.submit(command="true") == 7
    calls = api.asked("POST", "/jobs")
    assert len({call.headers["Idempotency-Key"] for call in calls}) == 1
    assert len({json.dumps(call.body) for call in calls}) == 1
    assert len(calls) == 4
    client.submit(command="true")
    assert api.requests[-1].headers["Idempotency-Key"] != calls[0].headers["Idempotency-Key"]
    client.submit_many([{"command": "true"}], key="night-12")
    assert api.requests[-1].headers["Idempotency-Key"] == "night-12"


def test_a_submission_that_is_never_answered_is_given_up(api: Api, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESEND_S", 0.05)
    monkeypatch.setattr(module, "RESEND_PAUSE_S", FAST)
    api.tell("POST", "/jobs", Answer(status=0))
    with pytest.raises(ServerUnreachable, match="broke the connection"):
        client.submit(command="true")
    api.tell("POST", "/jobs", refusal(Unavailable("the database is away")))
    with pytest.raises(Unavailable):  # it was not lost
        client.submit(command="true")


def test_a_question_whose_answer_is_lost_on_a_kept_connection_is_asked_again(api: Api, client: Client) -> None:
    api.tell("GET", "/server", Answer({}), Answer(status=0), Answer({"farm": "lab"}))
    client.info()
    assert client.info() == {"farm": "lab"}
    assert len(api.requests) == 3


def test_after_a_call_that_was_broken_off_by_a_signal_the_next_gets_its_own_answer(api: Api, client: Client) -> None:
    def interrupt(request: Request) -> Answer:
        os.kill(os.getpid(), signal.SIGUSR1)
        interrupted.wait(10)
        return Answer({"farm": "old"})

    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    interrupted = threading.Event()
    api.tell("GET", "/farm", Answer({"farm": "new"}))
    api.tell("GET", "/server", interrupt)
    client.farm()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            client.info()
    finally:
        signal.signal(signal.SIGUSR1, before)
        interrupted.set()
    assert client.farm() == {"farm": "new"}


def test_a_server_that_refuses_a_body_before_it_has_read_it_is_heard() -> None:
    def answer_and_hang_up() -> None:
        connection, _ = listener.accept()
        with connection:
            while b"\r\n\r\n" not in connection.recv(4_096):
                pass
            problem = json.dumps(TooLarge("the body is larger than 1 byte").to_problem()).encode()
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n%s" % (len(problem), problem))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_and_hang_up)
        server.start()
        farm = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=10)
        with pytest.raises(TooLarge, match="larger than 1 byte"):
            farm.submit_many({"command": "x" * 60_000, "user": "ann"} for _ in range(200))
        server.join()


# ---------------------------------------------------------------- waiting and following


def job_of(data: dict[str, Any]) -> Job:
    return from_dict(Job, data)


@pytest.mark.parametrize(
    ("job", "over"),
    [
        (a_job(1, state="WAITING"), False),
        (a_job(1, state="PENDING"), False),
        (a_job(1, state="FINISHED"), True),
        (a_job(1, state="ERROR"), True),
        (a_group(1, "FINISHED", {"finished": 2}), True),
        (a_group(1, "ERROR", {"error": 1, "working": 1}), False),
        (a_group(1, "ERROR", {"error": 1, "waiting": 1}), False),
        (a_group(1, "ERROR", {"error": 1, "pending": 1}), True),
        (a_group(1, "WAITING", {}), False),
    ],
)
def test_a_group_is_over_when_nothing_below_it_runs_or_will(job: dict[str, Any], over: bool) -> None:
    assert ended(job_of(job)) is over


def test_wait_tells_progress_when_something_changes_and_returns_the_jobs_in_order(api: Api, client: Client) -> None:
    working, done = a_group(2, "WORKING", {"working": 1}), a_group(2, "FINISHED", {"finished": 1})
    api.tell("GET", "/jobs/1", Answer(a_job(1, state="ERROR")))
    api.tell("GET", "/jobs/2", Answer(working), Answer(working), Answer(working), Answer(done))
    told: list[list[str]] = []
    over = client.wait([2, 1], lambda jobs: told.append([job.state for job in jobs]), poll_s=FAST)
    assert [(job.id, job.state) for job in over] == [(2, "FINISHED"), (1, "ERROR")]
    assert told == [["WORKING", "ERROR"], ["FINISHED", "ERROR"]]
    assert len(api.asked("GET", "/jobs/1")) == 1


def test_wait_gives_up_in_time_and_says_so(api: Api, client: Client) -> None:
    api.tell("GET", "/jobs/1", Answer(a_job(1)))
    with pytest.raises(TimeoutError, match=r"1 job is not over after 0\.05 s"):
        client.wait(1, timeout_s=0.05, poll_s=FAST)


def test_jobs_that_are_waited_for_are_looked_at_more_often_while_young_or_nearly_over() -> None:
    pace = _Pace(0.5)
    begun = time.monotonic()
    assert pace.pause_s(begun, {1: 0.0}) == 0.02  # it may be over at once
    assert pace.pause_s(begun + 1, {1: 0.0}) == pytest.approx(0.25, abs=0.01)
    assert pace.pause_s(begun + 100, {1: 0.5, 2: 0.0}) == 0.5
    assert pace.pause_s(begun + 101, {1: 0.8, 2: 0.0}) == 0.5  # of the second nothing is known
    assert pace.pause_s(begun + 102, {1: 0.9, 2: 0.9}) == pytest.approx(0.5)  # the first needs a second more
    assert pace.pause_s(begun + 103, {1: 0.975, 2: 0.99}) == pytest.approx(1 / 6, abs=0.01)
    assert pace.pause_s(begun + 104, {1: 0.975}) == 0.5  # it came to nothing: who knows when it goes on


def test_wait_outlives_a_server_that_is_away_for_a_while(api: Api, client: Client) -> None:
    away = refusal(Unavailable("starting", 0.01))
    api.tell("GET", "/jobs/1", away, Answer(a_job(1)), away, Answer(a_job(1, state="FINISHED")))
    assert client.wait(1, poll_s=FAST)[0].state == "FINISHED"
    api.tell("GET", "/jobs/1", away)
    with pytest.raises(Unavailable):
        client.wait(1, poll_s=FAST, patience_s=0)


def test_wait_ends_when_a_job_is_deleted(api: Api, client: Client) -> None:
    api.tell("GET", "/jobs/1", Answer(a_job(1)), refusal(NotFound("there is no job 1")))
    with pytest.raises(NotFound):
        client.wait(1, poll_s=FAST)


def test_a_log_is_read_in_pieces_from_either_end(api: Api, client: Client) -> None:
    api.tell("GET", "/jobs/1/log", log_of(b"hello \xff world", attempt=6))
    piece = client.log(1, offset=-5)
    assert (piece.data, piece.attempt, piece.offset, piece.size, piece.open) == (b"world", 6, 8, 13, False)
    assert client.log(1, offset=6, limit=1).data == b"\xff"


def test_follow_yields_bytes_as_they_come_until_the_job_is_over(api: Api, client: Client) -> None:
    text = b"frame 1\nframe 2 \xff\ndone\n"
    grown = [0, 8, 8, 18, len(text)]

    def log(request: Request) -> Answer:
        end = grown.pop(0) if len(grown) > 1 else grown[0]
        start = min(int(request.query["offset"]), end)
        return log_piece(text[start:end], offset=start, size=end, open=end < len(text))

    def job(request: Request) -> Answer:
        return Answer(a_job(1, state="WORKING" if len(grown) > 1 else "FINISHED"))

    api.tell("GET", "/jobs/1", job)
    api.tell("GET", "/jobs/1/log", log)
    pieces = list(client.follow(1, poll_s=FAST))
    assert b"".join(pieces) == text
    assert len(pieces) == 3


def test_follow_waits_for_the_first_attempt_and_goes_on_with_the_next(api: Api, client: Client) -> None:
    api.tell("GET", "/jobs/1", Answer(a_job(1)), *[Answer(a_job(1, state="WORKING"))] * 2, Answer(a_job(1, state="FINISHED")))
    api.tell(
        "GET",
        "/jobs/1/log",
        log_piece(b"", attempt=0, open=True),
        log_piece(b"first", attempt=8, open=True),
        log_piece(b"", attempt=8, offset=5, open=True),
        log_piece(b"cond", attempt=9, offset=5, size=9),
        log_of(b"the second", attempt=9),
    )
    assert b"|".join(client.follow(1, poll_s=FAST)) == b"first|the second"
    assert [request.query["offset"] for request in api.asked("GET", "/jobs/1/log")][:6] == ["0", "0", "5", "5", "0", "10"]


def test_follow_from_near_the_end(api: Api, client: Client) -> None:
    api.tell("GET", "/jobs/1", Answer(a_job(1, state="FINISHED")))
    api.tell("GET", "/jobs/1/log", log_of(b"a long log"))
    assert list(client.follow(1, offset=-3, poll_s=FAST)) == [b"log"]


def test_a_group_has_no_log_to_follow(api: Api, client: Client) -> None:
    api.tell("GET", "/jobs/1", Answer(a_group(1)))
    with pytest.raises(BadInput, match="1 is a group"):
        next(client.follow(1))


def test_a_log_in_binary_survives_byte_by_byte(api: Api, client: Client) -> None:
    every = bytes(range(256)) * 3_000
    api.tell("GET", "/jobs/1", Answer(a_job(1, state="ERROR")))
    api.tell("GET", "/jobs/1/log", log_of(every))
    assert b"".join(client.follow(1, poll_s=FAST)) == every


# ---------------------------------------------------------------- what it may import


def test_the_client_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; known = set(sys.modules); import coalition.client; "
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - known} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['coalition']"
