"""The wire of Coalition 3.x and 4.0, held by a script and a worker that know nothing else. See docs/migration.md."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from coalition.config import ServerSettings, Settings
from coalition.discovery import Responder
from coalition.server.app import create_app
from coalition.server.old_workers import Agents, _is_cheap
from tests.builders import Caller, Clock, WatchedStore
from tests.fakes.legacy import FORM, OldClient, OldWire, OldWorker
from tests.fakes.server import HandWorker, RealServer
from tests.polling import poll_until

ON = {("server", "legacy"): "yes"}
NOBODY = b'(-1,"","","",None)'
AWAY = {("auth", "legacy_networks"): "10.0.0.0/8"}
OLD_JOB = frozenset(
    (
        *("id", "parent", "title", "command", "dir", "environment", "state", "paused", "worker", "start_time", "duration"),
        *("run_done", "timeout", "priority", "affinity", "affinity_bits", "user", "finished", "errors", "working", "total"),
        *("total_finished", "total_errors", "total_working", "url", "progress", "progress_pattern", "dependencies"),
        *("ping_time", "h_affinity", "h_priority", "h_paused", "h_depth"),
    )
)
HERE = {("auth", "legacy_networks"): "127.0.0.0/8"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealServer]:
    with RealServer(tmp_path, knobs=ON) as running:
        yield running


@pytest.fixture
def client(server: RealServer) -> OldClient:
    return OldClient(server.url)


@pytest.fixture
def worker(server: RealServer) -> OldWorker:
    return OldWorker(server.url)


@pytest.fixture
def old_app(store: WatchedStore) -> Iterator[Flask]:
    """The server without a network, on the clock that is moved by hand."""
    store.settings = replace(store.settings, server=replace(store.settings.server, legacy=True))
    made = create_app(store.settings, store, store.clock)
    made.extensions["coalition"].dispatcher.start()
    yield made
    made.extensions["coalition"].dispatcher.stop()


# ---------------------------------------------------------------- workers


def test_a_worker_appears_by_its_first_call_and_is_told_in_these_bytes_that_there_is_nothing(
    client: OldClient, worker: OldWorker
) -> None:
    assert worker.pick() == NOBODY
    (shown,) = poll_until(lambda: [one for one in client.json("GET", "/api/workers") if one["state"] == "WAITING"], 10)
    assert (shown["name"], shown["active"], shown["total_memory"]) == ("old1", 1, 4000)
    assert len(json.loads(shown["cpu"])) == 2


def test_a_job_comes_as_the_text_of_a_tuple(client: OldClient, worker: OldWorker) -> None:
    fields = {"command": "render 'é' \"x\"", "dir": "/mnt/$(SHOW)", "user": "ann", "environment": "SHOW=a b\\nMODE=1"}
    job_id = client.new_job(**fields)
    assert worker.pick() == (f"({job_id}, 'render \\'é\\' \"x\"', '/mnt/$(SHOW)', 'ann', 'SHOW=a b\\\\nMODE=1')".encode())
    assert worker.take() == (job_id, "render 'é' \"x\"", "/mnt/$(SHOW)", "ann", "SHOW=a b\\nMODE=1")


def test_a_job_without_an_environment_has_none(client: OldClient, worker: OldWorker) -> None:
    job_id = client.new_job(command="true")
    assert worker.pick() == f"({job_id}, 'true', '', '', None)".encode()


def test_a_job_runs_tells_of_its_progress_and_ends(client: OldClient, worker: OldWorker) -> None:
    job_id = client.new_job(command="true")
    assert worker.take()[0] == job_id
    assert worker.beat(job_id, b"one\nPROGRESS:25\n")
    assert worker.beat(job_id, b"PROGRESS:50\ntwo \xff\n")
    shown = client.job(job_id)
    assert (shown["state"], shown["worker"]) == ("WORKING", "old1")
    worker.end(job_id)
    shown = client.job(job_id)
    assert (shown["state"], shown["progress"], shown["run_done"]) == ("FINISHED", 1.0, 1)
    assert client.json("GET", f"/api/jobs/{job_id}/log") == "one\nPROGRESS:25\nPROGRESS:50\ntwo �\n"
    assert worker.pick() == NOBODY


def test_much_output_at_once_is_kept_whole(client: OldClient, worker: OldWorker) -> None:
    job_id = client.new_job(command="true")
    worker.take()
    output = "".join(f"line {number}\n" for number in range(200_000))
    assert worker.beat(job_id, output.encode())
    assert client.json("GET", f"/api/jobs/{job_id}/log") == output


def test_what_the_log_tells_of_progress_is_shown_while_the_job_runs(
    server: RealServer, client: OldClient, worker: OldWorker
) -> None:
    job_id = client.new_job(command="true", progress_pattern="frame %one.*")
    worker.take()
    assert worker.beat(job_id, b"frame 0.2 done\nframe 0.7 done\n")
    server.app.extensions["coalition"].dispatcher.flush()
    assert client.job(job_id)["progress"] == pytest.approx(0.7)


@pytest.mark.parametrize("code", [1, -9, 4_000_000_000])
def test_a_job_that_fails_is_in_error(client: OldClient, worker: OldWorker, code: int) -> None:
    job_id = client.new_job(command="false")
    worker.take()
    worker.end(job_id, code)
    assert client.job(job_id)["state"] == "ERROR"


def test_an_error_is_run_again_as_often_as_retry_says(client: OldClient, worker: OldWorker) -> None:
    job_id = client.new_job(command="false", retry=1)
    worker.take()
    worker.end(job_id, 1)
    assert client.job(job_id)["state"] == "WAITING"


@pytest.mark.parametrize("verb", ["pausejobs", "resetjobs"])
def test_a_job_that_is_no_longer_wanted_is_killed_and_its_end_counts_for_nothing(
    client: OldClient, worker: OldWorker, verb: str
) -> None:
    job_id = client.new_job(command="true")
    worker.take()
    assert worker.beat(job_id)
    assert client.json("POST", f"/api/{verb}", [job_id]) == 1
    assert not worker.beat(job_id, b"late\n")
    worker.end(job_id, 1)
    assert client.job(job_id)["state"] == {"pausejobs": "PAUSED", "resetjobs": "WAITING"}[verb]


def test_a_deleted_job_is_killed(client: OldClient, worker: OldWorker) -> None:
    job_id = client.new_job(command="true")
    worker.take()
    assert client.json("DELETE", "/api/jobs", [job_id]) == 1
    assert not worker.beat(job_id)
    worker.end(job_id)
    assert client.send("GET", f"/api/jobs/{job_id}")[0] == 404


def test_a_job_that_a_worker_did_not_hear_of_is_given_to_it_again(client: OldClient, worker: OldWorker) -> None:
    job_id = client.new_job(command="true")
    assert worker.take()[0] == job_id
    assert worker.take()[0] == job_id
    worker.end(job_id)
    assert client.job(job_id)["state"] == "FINISHED"


def test_a_worker_holds_one_job_at_a_time_however_short_jobs_are(client: OldClient, worker: OldWorker) -> None:
    for _ in range(4):
        client.new_job(command="true")
    for _ in range(2):
        worker.end(worker.take()[0])
    worker.take()
    assert [job["state"] for job in client.json("GET", "/api/jobs")] == ["FINISHED", "FINISHED", "WORKING", "WAITING"]


def test_what_runs_goes_on_when_the_server_was_started_anew(tmp_path: Path) -> None:
    with RealServer(tmp_path, knobs=ON) as first:
        job_id = OldClient(first.url).new_job(command="true")
        OldWorker(first.url).take()
    with RealServer(tmp_path, knobs=ON) as second:
        worker = OldWorker(second.url)
        assert worker.beat(job_id, b"still here\n")
        worker.end(job_id)
        assert OldClient(second.url).job(job_id)["state"] == "FINISHED"


def test_a_job_that_runs_longer_than_its_timeout_is_killed_and_in_error(clock: Clock, old_app: Flask) -> None:
    caller = Caller(old_app)
    (job_id,) = caller.submit({"command": "sleep 99", "timeout_s": 60})
    post = old_app.test_client().post
    assert post("/workers/pickjob", data={"hostname": "old1"}).data.startswith(b"(%d," % job_id)
    assert post("/workers/heartbeat", data={"hostname": "old1", "jobId": job_id, "log": ""}).data == b"true"
    clock.advance(61)
    assert post("/workers/heartbeat", data={"hostname": "old1", "jobId": job_id, "log": ""}).data == b"false"
    job = caller.ok("GET", f"/jobs/{job_id}")
    assert (job["state"], job["reason"]) == ("ERROR", "timeout: ran longer than 60 s")


def test_old_and_new_workers_share_one_farm(server: RealServer, client: OldClient, worker: OldWorker) -> None:
    ids = [client.new_job(command="true") for _ in range(4)]
    ours = HandWorker(server.url, "new1", slots=2)
    got = [worker.take()[0], *(lease["job"] for lease in ours.take())]
    assert sorted(got) == ids[:3]
    assert {row["name"]: row["state"] for row in client.json("GET", "/api/workers")} == {"new1": "WORKING", "old1": "WORKING"}


def test_an_old_worker_does_not_take_the_name_of_a_live_one_of_ours(server: RealServer) -> None:
    HandWorker(server.url, "node1")
    body = b"hostname=node1&load=[0]&free_memory=1&total_memory=1"
    status, problem = OldWire(server.url).send("POST", "/workers/pickjob", body, **{"Content-Type": FORM})
    assert (status, b"a live worker is named node1" in problem) == (409, True)


def test_a_worker_takes_its_first_line_of_tags_first_and_jobs_without_any_last(client: OldClient, worker: OldWorker) -> None:
    worker.pick()
    assert client.json("POST", "/api/workers", {"old1": {"affinity": "LINUX,24GB\nMAYA"}}) == 1
    plain, second, first, no = (client.new_job(command="c", affinity=tags) for tags in ("", "MAYA", "24GB", "MAYA,24GB"))
    assert [worker.end(job_id) or job_id for job_id in (worker.take()[0] for _ in range(3))] == [first, second, plain]
    assert worker.pick() == NOBODY
    assert client.json("GET", "/api/workers")[0]["affinity"] == "24GB,LINUX\nMAYA"
    assert client.job(no)["affinity"] == "24GB,MAYA"


def test_workers_are_stopped_started_and_deleted_by_name(client: OldClient, worker: OldWorker) -> None:
    job_id = client.new_job(command="true")
    worker.take()
    assert client.json("POST", "/api/stopworkers", ["old1"]) == 1
    assert not worker.beat(job_id)
    assert worker.pick() == NOBODY
    assert client.json("POST", "/api/startworkers", ["old1"]) == 1
    assert worker.take()[0] == job_id
    assert client.json("DELETE", "/api/workers", ["old1"]) == 1
    assert client.json("GET", "/api/workers") == []
    assert worker.take()[0] == job_id, "it appears anew by its next call"
    assert client.json("POST", "/api/terminateworkers", ["old1"]) == 1
    assert client.json("GET", "/api/workers")[0]["state"] == "DRAINING"
    assert client.send("DELETE", "/api/workers", b'["nobody"]')[0] == 404


# ---------------------------------------------------------------- jobs


def test_a_tree_is_built_shown_and_changed(client: OldClient) -> None:
    group = client.new_job(title="shot 10", priority=900, affinity="LINUX")
    first = client.new_job(parent=group, title="sim", command="sim", environment="A=1\\nB=2", timeout=0)
    second = client.new_job(parent=group, command="render", dependencies=[first], state="PAUSED", url="http://x/")
    (top,) = client.json("GET", "/api/jobs")
    assert {name: top[name] for name in ("id", "parent", "title", "command", "state", "priority", "total", "timeout")} == {
        **{"id": group, "parent": 0, "title": "shot 10", "command": "", "state": "WAITING", "priority": 255},
        **{"total": 2, "timeout": 1000},
    }
    below = client.json("GET", f"/api/jobs/{group}/children")
    assert [(job["id"], job["state"], job["paused"], job["h_depth"]) for job in below] == [
        (first, "WAITING", 0, 1),
        (second, "PAUSED", 1, 1),
    ]
    assert (below[0]["environment"], below[0]["timeout"]) == ("A=1\\nB=2", 0)
    assert below[1]["dependencies"] == [first]
    assert [job["id"] for job in client.json("GET", f"/api/jobs/{second}/dependencies")] == [first]
    assert client.json("GET", f"/api/jobs/{group}/childrendependencies") == [{"id": second, "dependency": first}]
    changes = {second: {"title": "new", "state": "WAITING", "priority": 3}, first: {"parent": 0, "timeout": 5, "start_time": 7}}
    assert client.json("POST", "/api/jobs", changes) == 1
    assert (client.job(second)["title"], client.job(second)["state"], client.job(second)["priority"]) == ("new", "PENDING", 3)
    assert (client.job(first)["parent"], client.job(first)["timeout"], client.job(first)["start_time"]) == (0, 5, 0)
    assert client.json("POST", f"/api/jobs/{second}/dependencies", []) == 1
    assert client.job(second)["state"] == "WAITING"
    assert client.json("DELETE", "/api/jobs", [group]) == 1
    assert [job["id"] for job in client.json("GET", "/api/jobs")] == [first]


def test_a_new_jobs_id_is_a_bare_number(client: OldClient) -> None:
    status, answer = client.send("PUT", "/api/jobs", b'{"title": "a", "command": "b"}')
    assert (status, answer.isdigit()) == (200, True)


def test_a_job_shows_exactly_the_old_attributes(client: OldClient) -> None:
    assert client.job(client.new_job(command="c")).keys() == OLD_JOB


def test_a_job_goes_into_error_and_is_started_again_by_each_verb(client: OldClient, worker: OldWorker) -> None:
    job_id = client.new_job(command="c")
    for call in (
        ("POST", "/api/reseterrorjobs", [job_id]),
        ("POST", "/api/resetjobs", [job_id]),
        ("POST", "/api/jobs", {str(job_id): {"state": "WAITING"}}),
        ("POST", "/api/webfrontend/resetjobs", [job_id]),
    ):
        worker.take()
        worker.end(job_id, 1)
        assert client.job(job_id)["state"] == "ERROR"
        assert client.json(*call) == 1
        assert client.job(job_id)["state"] == "WAITING"
        client.json("POST", "/api/startworkers", ["old1"])


def test_a_job_is_finished_by_hand(client: OldClient) -> None:
    job_id = client.new_job(command="c")
    assert client.json("POST", "/api/jobs", {job_id: {"state": "FINISHED"}}) == 1
    assert client.job(job_id)["state"] == "FINISHED"
    assert client.send("POST", "/api/jobs", b'{"%d": {"state": "ERROR"}}' % job_id)[0] == 422


def test_affinities_have_numbers_that_stay(client: OldClient) -> None:
    assert client.json("POST", "/api/affinities", {"1": "linux", "5": "maya"}) == 1
    job_id = client.new_job(command="c", affinity="#5,gpu,linux")
    assert client.json("GET", "/api/affinities") == {"1": "linux", "2": "gpu", "5": "maya"}
    shown = client.job(job_id)
    assert (sorted(shown["affinity"].split(",")), shown["affinity_bits"]) == (["gpu", "linux", "maya"], 1 | 2 | 16)
    client.json("DELETE", "/api/jobs", [job_id])
    assert client.json("GET", "/api/affinities") == {"1": "linux", "2": "gpu", "5": "maya"}


def test_the_values_that_jobs_have_are_listed(client: OldClient, worker: OldWorker) -> None:
    client.new_job(command="c", user="ann", priority=5, affinity="maya")
    client.new_job(command="c", user="ben", priority=5)
    worker.pick()
    told = {kind: client.json("GET", f"/api/jobs/{kind}/") for kind in ("users", "states", "workers", "priorities", "affinities")}
    assert told == {
        "users": [{"user": "ann"}, {"user": "ben"}],
        "states": [{"state": "WAITING"}, {"state": "WORKING"}],
        "workers": [{"worker": "old1"}],
        "priorities": [{"priority": 5}],
        "affinities": [{"affinity": "maya"}],
    }


def test_events_are_the_runs_of_a_job_or_a_worker(client: OldClient, worker: OldWorker) -> None:
    ids = [client.new_job(command="c", title=title) for title in ("one", "two")]
    for code in (0, 1):
        worker.end(worker.take()[0], code)
    events = client.json("GET", "/api/events?worker=old1&howlong=1000&job=")
    assert [(event["job_title"], event["state"], event["worker"]) for event in events] == [
        ("two", "ERROR", "old1"),
        ("one", "FINISHED", "old1"),
    ]
    assert [event["job_id"] for event in client.json("GET", f"/api/events?job={ids[0]}")] == [ids[0]]
    assert client.json("GET", "/api/events?worker=nobody") == []


# ---------------------------------------------------------------- control.py, and submitters of 3.x


def test_control_adds_lists_and_clears(client: OldClient) -> None:
    group, first = (client.json("GET", f"/json/addjob?title={title}&parent=0") for title in ("shot", "other"))
    below = client.json("GET", "/json/addjob?title=sub&parent=shot")
    fields = (
        "title=a&cmd=echo%20hi&dir=.&env=A%3D1%5CnB%3D2&priority=999&retry=3&timeout=60&affinity=&localprogress=&globalprogress="
    )
    job_id = client.json("GET", f"/json/addjob?{fields}&parent=shot%7Csub&dependencies={first}")
    shown = client.job(job_id)
    assert (shown["parent"], shown["command"], shown["environment"], shown["priority"]) == (below, "echo hi", "A=1\\nB=2", 255)
    answer = client.json("GET", f"/json/getjobs?id={below}")
    assert answer["Parents"] == [{"ID": 0, "Title": "Root"}, {"ID": group, "Title": "shot"}, {"ID": below, "Title": "sub"}]
    (row,) = [dict(zip(answer["Vars"], values, strict=True)) for values in answer["Jobs"]]
    assert (row["ID"], row["Title"], row["Command"], row["TimeOut"]) == (job_id, "a", "echo hi", 60)
    assert client.json("GET", f"/json/clearjobs?id={group}") == 1
    assert [row[:2] for row in client.json("GET", "/json/getjobs?id=0")["Jobs"]] == [[first, "other"]]


def test_addjob_by_form_answers_the_id_as_text_and_minus_one_when_refused(client: OldClient) -> None:
    first = int(client.send("GET", "/xmlrpc/addjob?title=a&cmd=true")[1])
    form = f"title=b&command=true&parent=0&dependencies=%5B{first}%5D&user=ann&state=PAUSED".encode()
    status, answer = client.send("POST", "/xmlrpc/addjob", form, **{"Content-Type": FORM})
    shown = client.job(int(answer))
    assert (status, shown["dependencies"], shown["user"], shown["state"]) == (200, [first], "ann", "PAUSED")
    for wrong in ("parent=nowhere", "affinity=a%20b", "dependencies=99", "state=DONE", "colour=red", "parent=99"):
        assert client.send("GET", f"/xmlrpc/addjob?title=c&cmd=true&{wrong}") == (200, b"-1"), wrong


# ---------------------------------------------------------------- wrong calls, and who may


WRONG = [
    ("PUT", "/api/jobs", b"[]"),
    ("PUT", "/api/jobs", b"nonsense"),
    ("PUT", "/api/jobs", b'{"title": "a", "priority": "high"}'),
    ("PUT", "/api/jobs", b'{"title": "a", "priority": 1e400}'),
    ("PUT", "/api/jobs", b'{"title": ["a"]}'),
    ("PUT", "/api/jobs", b'{"title": "\\u0000"}'),
    ("PUT", "/api/jobs", b'{"title": "\\ud800"}'),
    ("PUT", "/api/jobs", b'{"title": "a", "dependencies": [{}]}'),
    ("PUT", "/api/jobs", b'{"title": "a", "dependencies": {"a": 1}}'),
    ("PUT", "/api/jobs", b'{"title": "a", "environment": "no pair at all"}'),
    ("PUT", "/api/jobs", b'{"title": "a", "environment": [1]}'),
    ("PUT", "/api/jobs", b'{"title": "a", "timeout": -1}'),
    ("PUT", "/api/jobs", b'{"title": "a", "state": "WORKING"}'),
    ("PUT", "/api/jobs", b'{"title": "a", "paused": "perhaps"}'),
    ("PUT", "/api/jobs", b'{"title": "a", "colour": "red"}'),
    ("POST", "/api/jobs", b'{"x": {}}'),
    ("POST", "/api/jobs", b'{"1": []}'),
    ("POST", "/api/jobs", b'{"1": {"priority": []}}'),
    ("POST", "/api/jobs", b'{"1e999": {}}'),
    ("POST", "/api/jobs/1/dependencies", b"{}"),
    ("DELETE", "/api/jobs", b'["x"]'),
    ("POST", "/api/resetjobs", b'{"ids": [1]}'),
    ("POST", "/api/pausejobs", b"[99999999999999999999999]"),
    ("POST", "/api/workers", b'{"old1": {"affinity": "a b"}}'),
    ("POST", "/api/workers", b'{"old1": 3}'),
    ("POST", "/api/startworkers", b"[[]]"),
    ("POST", "/api/affinities", b'{"64": "a"}'),
    ("POST", "/api/affinities", b'{"1": "a b"}'),
    ("GET", "/json/addjob?parent=%00&title=a", None),
    ("GET", "/json/getjobs?id=x", None),
    ("GET", "/json/clearjobs", None),
    ("GET", "/api/events?howlong=-1", None),
    ("GET", "/api/events?worker=%00", None),
]


@pytest.mark.parametrize(("method", "path", "body"), WRONG)
def test_what_is_wrong_is_refused_and_named(client: OldClient, method: str, path: str, body: bytes | None) -> None:
    client.new_job(command="c")
    before = client.json("GET", "/api/jobs")
    status, answer = client.send(method, path, body)
    assert (status, bool(json.loads(answer)["fields"])) == (422, True), answer
    assert client.json("GET", "/api/jobs") == before


@pytest.mark.parametrize(
    "path", ["/api/jobs/99", "/api/jobs/99/log", "/api/jobs/99/children", "/api/jobs/" + "9" * 30, "/api/nothing"]
)
def test_what_is_not_there_is_404(client: OldClient, path: str) -> None:
    assert client.send("GET", path)[0] == 404


WORKER_FIELDS = ["", "hostname=", "hostname=a%20b", "hostname=x%00", "hostname=" + "x" * 200]


@pytest.mark.parametrize("path", ["/workers/pickjob", "/workers/heartbeat", "/workers/endjob"])
@pytest.mark.parametrize("fields", WORKER_FIELDS)
def test_a_worker_without_a_proper_name_is_refused(client: OldClient, path: str, fields: str) -> None:
    assert client.send("POST", path, fields.encode(), **{"Content-Type": FORM})[0] == 422
    assert client.json("GET", "/api/workers") == []


@pytest.mark.parametrize("told", ["load=&free_memory=x", "load=[x,y]&total_memory=-3", "load=[nan,1e999]&total_memory=1e9"])
def test_what_a_worker_says_badly_of_its_machine_is_taken_as_not_said(client: OldClient, told: str) -> None:
    assert client.send("POST", "/workers/pickjob", f"hostname=old1&{told}".encode(), **{"Content-Type": FORM}) == (200, NOBODY)


@pytest.mark.parametrize("fields", ["jobId=x", "jobId=1&log=%FF%FF%FF", "jobId=1&log=a", "jobId=" + "9" * 40])
def test_a_heartbeat_that_cannot_be_read_is_refused(client: OldClient, fields: str) -> None:
    status, _ = client.send("POST", "/workers/heartbeat", f"hostname=old1&{fields}".encode(), **{"Content-Type": FORM})
    assert status == 422


def test_the_old_routes_are_there_only_when_they_are_switched_on(tmp_path: Path) -> None:
    with RealServer(tmp_path) as running:
        assert OldClient(running.url).send("GET", "/api/jobs")[0] == 404
        assert OldWire(running.url).send("POST", "/workers/pickjob", b"hostname=a", **{"Content-Type": FORM})[0] == 404


def test_with_log_in_scripts_and_workers_send_user_and_token(tmp_path: Path) -> None:
    with RealServer(tmp_path, "token", ON) as running:
        store = running.store
        ann = ("ann", store.create_token("user", user="ann", role="user"))
        root = ("root", store.create_token("user", user="root", role="admin"))
        site = ("any", store.create_token("site"))
        assert OldClient(running.url).send("GET", "/api/jobs")[0] == 401
        assert OldClient(running.url, ("ben", ann[1])).send("GET", "/api/jobs")[0] == 401
        assert OldClient(running.url, ("ann", "x" + ann[1])).send("GET", "/api/jobs")[0] == 401
        mine = OldClient(running.url, ann).new_job(command="c")
        others = OldClient(running.url, root).new_job(command="c", user="ben")
        assert OldClient(running.url, root).job(mine)["user"] == "ann"
        for call in (("DELETE", "/api/jobs", b"[%d]" % others), ("POST", "/api/jobs", b'{"%d": {"title": "x"}}' % others)):
            assert OldClient(running.url, ann).send(*call)[0] == 403
        assert OldClient(running.url, ann).send("POST", "/api/stopworkers", b"[]")[0] == 403
        assert OldClient(running.url, ann).send("GET", f"/json/clearjobs?id={others}")[0] == 403
        body, form = b"hostname=old1", {"Content-Type": FORM}
        assert OldWire(running.url, ann).send("POST", "/workers/pickjob", body, **form)[0] == 403
        assert OldWorker(running.url, login=site).take()[0] == mine
        assert OldWorker(running.url, "old2", root).take()[0] == others


@pytest.mark.parametrize(("role", "theirs"), [("user", 403), ("admin", 200)])
def test_a_named_network_needs_no_log_in_and_is_the_configured_user(tmp_path: Path, role: str, theirs: int) -> None:
    knobs = {**ON, **HERE, ("auth", "legacy_user"): "pipeline", ("auth", "legacy_role"): role}
    with RealServer(tmp_path, "token", knobs) as running:
        client = OldClient(running.url)
        job_id = client.new_job(command="c")
        assert client.job(job_id)["user"] == "pipeline"
        assert client.send("PUT", "/api/jobs", b'{"command": "c", "user": "ann"}')[0] == theirs
        assert client.send("POST", "/api/stopworkers", b"[]")[0] == theirs
        assert OldWorker(running.url).take()[0] == job_id


def test_other_networks_do_need_it(tmp_path: Path) -> None:
    with RealServer(tmp_path, "token", {**ON, **AWAY}) as running:
        assert OldClient(running.url).send("GET", "/api/jobs")[0] == 401
        assert OldWire(running.url).send("POST", "/workers/pickjob", b"hostname=a", **{"Content-Type": FORM})[0] == 401


@pytest.mark.parametrize(
    "header", [{"User-Agent": "Mozilla/5.0"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}]
)
def test_a_page_in_a_browser_cannot_make_the_calls(client: OldClient, header: dict[str, str]) -> None:
    assert client.send("GET", "/json/addjob?title=a&cmd=evil", **header)[0] == 403
    assert client.json("GET", "/api/jobs") == []


def test_a_login_that_is_missing_is_asked_for_as_old_programs_expect_it(tmp_path: Path) -> None:
    with RealServer(tmp_path, "token", ON) as running:
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"))
        with closing(connection):
            connection.request("GET", "/api/jobs")
            assert connection.getresponse().getheader("WWW-Authenticate") == 'Basic realm="coalition"'


# ---------------------------------------------------------------- discovery, and what is pure


@pytest.mark.parametrize(("legacy", "answer"), [(True, b"roxor"), (False, None)])
def test_a_worker_that_calls_for_the_server_is_answered_when_old_ones_are_served(legacy: bool, answer: bytes | None) -> None:
    settings = replace(Settings(), server=ServerSettings(legacy=legacy))
    responder = Responder(settings, lambda _: None)
    assert responder.answer(b"coalition", "127.0.0.1") == answer
    assert responder.answer(b"coalition", "10.0.0.1") is None, "it is served on this machine only"
    responder.stop()


@pytest.mark.parametrize("pattern", ["PROGRESS:%percent", "frame [0-9.] %one.*", r"\(%percent\)"])
def test_a_pattern_that_is_quick_is_looked_for(pattern: str) -> None:
    assert _is_cheap(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+%percent", "a*a*%one", "(a|aa)%one", "a{1,9}%one"])
def test_a_pattern_that_may_hold_up_the_server_is_not(pattern: str) -> None:
    assert not _is_cheap(pattern)


def test_an_old_workers_calls_may_come_to_any_process_of_the_server(store: WatchedStore, old_app: Flask) -> None:
    other = create_app(store.settings, store, store.clock)
    other.extensions["coalition"].dispatcher.start()
    for process in (old_app, other):
        process.extensions["coalition.legacy"] = Agents(process.extensions["coalition"], alone=False)
    here, there = old_app.test_client().post, other.test_client().post
    caller = Caller(old_app)
    for post_first, post_then in ((here, there), (there, here)):
        (job_id,) = caller.submit({"command": "c"})
        me = {"hostname": "old1", "total_memory": "4000"}
        assert post_first("/workers/pickjob", data=me).data.startswith(b"(%d," % job_id)
        assert post_then("/workers/heartbeat", data={**me, "jobId": job_id, "log": ""}).data == b"true"
        assert post_first("/workers/heartbeat", data={**me, "jobId": job_id, "log": ""}).data == b"true"
        assert post_then("/workers/endjob", data={"hostname": "old1", "jobId": job_id, "errorCode": "0"}).data == b"true"
        assert caller.ok("GET", f"/jobs/{job_id}")["state"] == "FINISHED"
    other.extensions["coalition"].dispatcher.stop()
