"""Who may do what: every route of the server x every kind of caller, by the table below. A route without a line fails."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from coalition.config import AuthSettings, parse
from coalition.errors import ConfigError
from coalition.server.app import create_app
from coalition.store.workers import in_networks
from tests.builders import Agent, Caller, Clock, WatchedStore, settings

IN = "in"  # let in: whatever the route then says, it is neither 401 nor 403
CALLERS = ("nobody", "guest", "user", "wrangler", "budget", "admin", "worker", "wrong", "expired", "revoked")


def row(*let_in: str) -> tuple[Any, ...]:
    """What each caller gets: users without the right 403, who proves nothing 401."""
    users = ("guest", "user", "wrangler", "budget", "admin")
    return tuple(IN if caller in let_in else 403 if caller in users and AGENTS not in let_in else 401 for caller in CALLERS)


AGENTS = "worker"
OPEN = row(*CALLERS)
SEE = row("guest", "user", "wrangler", "budget", "admin")
SEE_ALL = row("user", "wrangler", "budget", "admin")
WORKERS = row("wrangler", "admin")
CLOUD = row("wrangler", "budget", "admin")
BUDGETS = row("budget", "admin")
ADMINS = row("admin")
METRICS = row("nobody", "user", "wrangler", "budget", "admin")  # nobody: by the network it calls from
AGENT = row(AGENTS)

TABLE: dict[str, tuple[Any, ...]] = {
    "GET /": OPEN,
    "GET /assets/<path:asset>": OPEN,
    "GET /<any('favicon.svg', 'licences.txt'):name>": OPEN,
    "GET /healthz": OPEN,
    "GET /readyz": OPEN,
    "GET /metrics": METRICS,
    "GET /api/openapi.json": OPEN,
    "GET /api/docs": OPEN,
    "GET /api/docs.css": OPEN,
    "GET /api/v1/worker-package": OPEN,
    "GET /api/v1/packages/<name>": OPEN,  # proves itself; what it refuses is tested in test_package.py
    "POST /api/v1/login": OPEN,  # proves itself; what it refuses is tested in test_logins.py
    "POST /api/v1/logout": SEE,
    "POST /api/v1/password": SEE,
    "GET /api/v1/users": ADMINS,
    "POST /api/v1/users": ADMINS,
    "PATCH /api/v1/users/<name>": ADMINS,
    "DELETE /api/v1/users/<name>": ADMINS,
    "GET /api/v1/server": SEE,
    "GET /api/v1/farm": SEE,
    "GET /api/v1/history": SEE_ALL,
    "GET /api/v1/events": SEE,
    "GET /api/v1/audit": ADMINS,
    "GET /api/v1/tokens": ADMINS,
    "POST /api/v1/tokens": ADMINS,
    "DELETE /api/v1/tokens/<token_id>": ADMINS,
    "GET /api/v1/changes": SEE,
    "GET /api/v1/jobs": SEE,
    "POST /api/v1/jobs": SEE,
    "PATCH /api/v1/jobs": SEE,
    "POST /api/v1/jobs/pause": SEE,
    "POST /api/v1/jobs/start": SEE,
    "POST /api/v1/jobs/reset": SEE,
    "POST /api/v1/jobs/delete": SEE,
    "POST /api/v1/jobs/skip": SEE,
    "POST /api/v1/jobs/edits": SEE,
    "POST /api/v1/jobs/<int:job_id>/frames": SEE,
    "GET /api/v1/jobs/<int:job_id>": SEE,
    "GET /api/v1/jobs/<int:job_id>/attempts": SEE,
    "GET /api/v1/jobs/<int:job_id>/explain": SEE,
    "GET /api/v1/workers/<int:worker_id>/explain": SEE_ALL,
    "GET /api/v1/jobs/<int:job_id>/timeline": SEE,
    "GET /api/v1/archive": SEE,
    "GET /api/v1/archive/<int:job_id>": SEE,
    "GET /api/v1/jobs/<int:job_id>/log": SEE,
    "GET /api/v1/attempts": SEE,
    "GET /api/v1/attempts/<int:attempt_id>": SEE,
    "GET /api/v1/attempts/<int:attempt_id>/log": SEE,
    "PUT /api/v1/attempts/<int:attempt_id>/log": AGENT,
    "GET /api/v1/workers": SEE,
    "GET /api/v1/workers/<int:worker_id>": SEE,
    "PATCH /api/v1/workers": WORKERS,
    "POST /api/v1/workers/drain": WORKERS,
    "POST /api/v1/workers/resume": WORKERS,
    "POST /api/v1/workers/delete": WORKERS,
    "POST /api/v1/discovery": OPEN,
    "POST /api/v1/workers/enrol": OPEN,
    "POST /api/v1/workers/<int:worker_id>/sync": AGENT,
    "GET /api/v1/affinities": SEE,
    "GET /api/v1/limits": SEE,
    "GET /api/v1/limits/<name>": SEE,
    "PUT /api/v1/limits/<name>": WORKERS,
    "DELETE /api/v1/limits/<name>": WORKERS,
    "GET /api/v1/pools": SEE_ALL,
    "POST /api/v1/pools/resume": CLOUD,
    "POST /api/v1/pools/drain": CLOUD,
    "POST /api/v1/scaling/pause": CLOUD,
    "POST /api/v1/scaling/resume": CLOUD,
    "POST /api/v1/pools/launch": CLOUD,
    "GET /api/v1/prices": SEE_ALL,
    "POST /api/v1/prices": BUDGETS,
    "GET /api/v1/instances": SEE_ALL,
    "GET /api/v1/instances/<int:instance_id>": SEE_ALL,
    "POST /api/v1/instances/drain": CLOUD,
    "POST /api/v1/instances/terminate": CLOUD,
    "GET /api/v1/budgets": SEE_ALL,
    "POST /api/v1/budgets": BUDGETS,
    "GET /api/v1/budgets/<name>": SEE_ALL,
    "PATCH /api/v1/budgets/<name>": BUDGETS,
    "DELETE /api/v1/budgets/<name>": BUDGETS,
    "GET /api/v1/ledger": SEE_ALL,
    "GET /api/v1/cost": SEE_ALL,
    "GET /api/v1/cost.csv": SEE_ALL,
    "GET /api/v1/forecast": SEE_ALL,
    "GET /api/v1/decisions": SEE_ALL,
}
# The predecessor's wire, served on request; all but the last three also below /api/webfrontend.
OLD_API: dict[str, tuple[Any, ...]] = {
    "GET /jobs": SEE,
    "GET /jobs/<int:job_id>": SEE,
    "GET /jobs/<int:job_id>/children": SEE,
    "GET /jobs/<int:job_id>/dependencies": SEE,
    "GET /jobs/<int:job_id>/childrendependencies": SEE,
    "GET /jobs/<int:job_id>/log": SEE,
    "GET /jobs/<any(users, states, workers, priorities, affinities):kind>/": SEE,
    "PUT /jobs": SEE,
    "POST /jobs": SEE,
    "DELETE /jobs": SEE,
    "POST /jobs/<int:job_id>/dependencies": SEE,
    "POST /resetjobs": SEE,
    "POST /reseterrorjobs": SEE,
    "POST /startjobs": SEE,
    "POST /pausejobs": SEE,
    "GET /workers": SEE,
    "POST /workers": WORKERS,
    "DELETE /workers": WORKERS,
    "POST /startworkers": WORKERS,
    "POST /stopworkers": WORKERS,
    "POST /terminateworkers": WORKERS,
    "GET /events": SEE,
    "GET /affinities": SEE,
    "POST /affinities": WORKERS,
}
OLD_TABLE: dict[str, tuple[Any, ...]] = {
    **{line.replace(" ", f" {prefix}", 1): row for line, row in OLD_API.items() for prefix in ("/api", "/api/webfrontend")},
    "GET /json/addjob": SEE,
    "GET /json/getjobs": SEE,
    "GET /json/clearjobs": SEE,
    "GET /xmlrpc/addjob": SEE,
    "POST /xmlrpc/addjob": SEE,
    "POST /workers/pickjob": ADMINS,
    "POST /workers/heartbeat": ADMINS,
    "POST /workers/endjob": ADMINS,
}
REFUSED = {line: 401 if outcomes is AGENT else 403 for line, outcomes in TABLE.items()}  # agents prove themselves anyway
NAMES = {"guest": "gus", "user": "ann", "wrangler": "wim", "budget": "bea", "admin": "root"}
PLACES = {
    "<int:job_id>": "1",
    "<int:attempt_id>": "1",
    "<int:worker_id>": "1",
    "<int:instance_id>": "1",
    "<token_id>": "x",
    "<name>": "x",
    "<path:asset>": "x.js",
    "<any(users, states, workers, priorities, affinities):kind>": "users",
}
PLACES["<any('favicon.svg', 'licences.txt'):name>"] = "favicon.svg"
LINES = [(line, caller, outcome) for line, outcomes in TABLE.items() for caller, outcome in zip(CALLERS, outcomes, strict=True)]


@pytest.fixture
def locked(store: WatchedStore) -> Iterator[Flask]:
    """The server in token mode."""
    store.settings = replace(store.settings, auth=AuthSettings(mode="token"))
    made = create_app(store.settings, store, store.clock)
    made.extensions["coalition"].dispatcher.start()
    yield made
    made.extensions["coalition"].dispatcher.stop()


@pytest.fixture
def tokens(locked: Flask, store: WatchedStore, clock: Clock) -> dict[str, str]:
    expired = store.create_token("user", user="ann", role="admin", expires_s=1)
    clock.advance(2)
    admin = store.create_token("user", user="root", role="admin")
    agent = Agent(locked, token=store.create_token("enrol", uses=1))
    users = {role: store.create_token("user", user=NAMES[role], role=role) for role in ("guest", "user", "wrangler", "budget")}
    revoked = store.create_token("user", user="root", role="admin")
    store.delete_token(revoked.partition(".")[0])
    bad = {"nobody": "", "wrong": admin.partition(".")[0] + ".wrong", "expired": expired, "revoked": revoked}
    return {**bad, **users, "admin": admin, "worker": agent.call.token}


def knock(app: Flask, line: str, token: str = "", **options: Any) -> Any:
    """Calls the route of a line with an empty body."""
    method, _, path = line.partition(" ")
    for name, value in PLACES.items():
        path = path.replace(name, value)
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
    body = {"json": {}} if method != "GET" and not options else {}
    with app.test_client().open(path, method=method, headers=headers, **body, **options) as response:
        status = response.status_code
    assert status != 500
    return status if status in (401, 403) else IN


def routes(app: Flask) -> set[str]:
    rules = app.url_map.iter_rules()
    return {f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}


def test_every_route_has_a_line_and_every_line_a_route(locked: Flask) -> None:
    assert routes(locked) == TABLE.keys()


@pytest.mark.parametrize("caller", CALLERS)
def test_each_route_lets_in_whom_the_table_names(locked: Flask, tokens: dict[str, str], caller: str) -> None:
    expected = {line: outcome for line, one, outcome in LINES if one == caller}
    assert {line: knock(locked, line, tokens[caller]) for line in TABLE} == expected


@pytest.mark.parametrize("mode", ["none", "token"])
def test_the_old_routes_have_a_line_each_and_let_in_whom_it_names(
    store: WatchedStore, locked: Flask, tokens: dict[str, str], mode: str
) -> None:
    settings = replace(store.settings, server=replace(store.settings.server, legacy=True), auth=AuthSettings(mode=mode))
    old = create_app(settings, store, store.clock)
    old.extensions["coalition"].dispatcher.start()
    assert routes(old) == TABLE.keys() | OLD_TABLE.keys()
    for caller, position in zip(CALLERS, range(len(CALLERS)), strict=True):
        login = b64encode(f"{NAMES.get(caller, 'x')}:{tokens[caller]}".encode()).decode()
        headers = {"Authorization": f"Basic {login}"} if tokens[caller] else {}
        expected = {line: row[position] if mode == "token" else IN for line, row in OLD_TABLE.items()}
        assert {line: knock(old, line, headers=headers, json={}) for line in OLD_TABLE} == expected, caller
    old.extensions["coalition"].dispatcher.stop()


@pytest.mark.parametrize("purpose", ["enrol", "site"])
def test_an_enrolment_token_opens_no_route(locked: Flask, store: WatchedStore, purpose: str) -> None:
    token = store.create_token(purpose)
    expected = {line: OPEN[0] if outcomes is OPEN else 401 for line, outcomes in TABLE.items()}
    assert {line: knock(locked, line, token) for line in TABLE} == expected


@pytest.mark.parametrize(
    "text", ["w", "w.", "w1", "w1.", "w1.x", "w².x", "w0.x", "w" + "9" * 30 + ".x", "x1.y", ".", "é.é", "a" * 5_000]
)
def test_malformed_credentials_are_nobody(locked: Flask, tokens: dict[str, str], text: str) -> None:
    assert knock(locked, "GET /api/v1/jobs", text) == 401
    assert knock(locked, "POST /api/v1/workers/<int:worker_id>/sync", text) == 401


def test_a_401_says_how_to_log_in(locked: Flask) -> None:
    response = Caller(locked).raw("GET", "/jobs")
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "Authorization: Bearer" in response.get_json(force=True)["detail"]


def test_a_deleted_token_is_refused_at_once(locked: Flask, store: WatchedStore, tokens: dict[str, str]) -> None:
    store.delete_token(tokens["user"].partition(".")[0])
    assert knock(locked, "GET /api/v1/jobs", tokens["user"]) == 401


def test_a_wrong_enrolment_token_is_401_also_from_a_network_with_an_open_door(locked: Flask, store: WatchedStore) -> None:
    locked.extensions["coalition"] = replace(
        locked.extensions["coalition"], settings=replace(store.settings, auth=AuthSettings("token", ("127.0.0.0/8",)))
    )
    body = {"name": "w1", "session": "s" * 16}
    assert Caller(locked)("POST", "/workers/enrol", {**body, "token": "a.b"})[0] == 401
    assert Caller(locked)("POST", "/workers/enrol", body, environ_base={"REMOTE_ADDR": "10.0.0.1"})[0] == 401
    assert Caller(locked)("POST", "/workers/enrol", body)[0] == 201


# ---------------------------------------------------------------- own and others'


@pytest.fixture
def ann(locked: Flask, tokens: dict[str, str]) -> Caller:
    return Caller(locked, tokens["user"])


@pytest.fixture
def root(locked: Flask, tokens: dict[str, str]) -> Caller:
    return Caller(locked, tokens["admin"])


def test_whoever_submits_owns_the_job_and_only_an_admin_submits_for_others(ann: Caller, root: Caller) -> None:
    (job_id,) = ann.submit({"group": True, "children": [{"command": "c"}]})
    assert {job["user"] for job in ann.ok("GET", "/jobs")["jobs"]} == {"ann"}
    for spec in ({"command": "c", "user": "ben"}, {"group": True, "children": [{"command": "c", "user": "ben"}]}):
        assert ann("POST", "/jobs", {"jobs": [{"title": "t", **spec}]})[0] == 403
    root.submit({"command": "c", "user": "ben", "parent": job_id})
    assert len(ann.ok("GET", "/jobs?user=ben")["jobs"]) == 1


def test_a_user_may_change_own_jobs_only_and_see_all(ann: Caller, root: Caller) -> None:
    (mine,), (others,) = ann.submit({"command": "c"}), root.submit({"command": "c"})
    for action in ("pause", "start", "reset", "delete"):
        assert ann("POST", f"/jobs/{action}", {"ids": [mine, others]})[0] == 403
    assert ann("PATCH", "/jobs", {"ids": [others], "changes": {"title": "x"}})[0] == 403
    assert ann("GET", f"/jobs/{others}")[0] == 200
    assert ann("POST", "/jobs/delete", {"ids": [mine]})[0] == 200
    (shared,) = ann.submit({"title": "shared", "group": True})
    root.submit({"command": "c", "parent": shared})
    assert ann("POST", "/jobs/delete", {"ids": [shared]})[0] == 403, "a job of somebody else lies in it"
    assert root("POST", "/jobs/pause", {"ids": [others]})[0] == 200


def test_nobody_gets_into_anothers_group_by_submit_or_move_nor_gives_jobs_away(ann: Caller, root: Caller) -> None:
    (mine,), (group,) = ann.submit({"command": "c"}), root.submit({"group": True})
    assert ann("POST", "/jobs", {"jobs": [{"title": "t", "command": "c", "parent": group}]})[0] == 403
    assert ann("PATCH", "/jobs", {"ids": [mine], "changes": {"parent": group}})[0] == 403
    assert ann("PATCH", "/jobs", {"ids": [mine], "changes": {"user": "root"}})[0] == 403


# ---------------------------------------------------------------- without log-in


def test_without_authentication_all_but_the_workers_routes_are_open_on_loopback(app: Flask) -> None:
    expected = {line: 401 if outcomes is AGENT else IN for line, outcomes in TABLE.items()}
    assert {line: knock(app, line) for line in TABLE} == expected


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "[::2]", "["]
)
def test_without_authentication_a_foreign_host_name_is_refused_everywhere(app: Flask, host: str) -> None:
    assert {line: knock(app, line, headers={"Host": host}) for line in TABLE} == REFUSED


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:19211", "127.1.2.3", "[::1]:19211", "LOCALHOST"])
def test_every_name_of_loopback_is_served(app: Flask, host: str) -> None:
    assert knock(app, "GET /api/v1/jobs", headers={"Host": host}) == IN


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "https://localhost"])
def test_without_authentication_pages_of_other_sites_are_refused_everywhere(app: Flask, origin: str) -> None:
    assert {line: knock(app, line, headers={"Origin": origin}) for line in TABLE} == REFUSED
    assert knock(app, "GET /api/v1/jobs", headers={"Origin": "http://localhost"}) == IN


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_without_authentication_a_write_that_a_form_could_send_is_refused(app: Flask, content_type: str) -> None:
    call = Caller(app)
    for line in TABLE:
        method, _, path = line.partition(" ")
        if method not in ("GET", "PUT") and "<" not in path:
            status, problem = call(method, path, data=b"{}", content_type=content_type)
            assert (status, list(problem["fields"])) == (422, ["Content-Type"]), line
    assert call("POST", "/tokens", data=b'{"kind": "site"}', content_type="application/json; charset=utf-8")[0] == 201


@pytest.mark.parametrize("listen", ["0.0.0.0:19211", "[::]:19211", "192.168.1.5:80", "farm.example:80"])
def test_listening_beyond_loopback_without_authentication_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"beyond loopback.*set `mode` in .auth. to token, local or ldap"):
        parse(f"[server]\nlisten = {listen}\n")
    parse(f"[server]\nlisten = {listen}\n[auth]\nmode = token\n")


def test_a_route_without_a_line_in_the_rights_stops_the_start(
    store: WatchedStore, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(__import__("coalition.server.auth", fromlist=["RIGHTS"]).RIGHTS, "jobs.delete")
    with pytest.raises(RuntimeError, match=r"jobs\.delete"):
        create_app(settings(tmp_path), store)


def test_networks_are_matched_also_through_mapped_addresses() -> None:
    assert in_networks("10.1.2.3", ["10.0.0.0/8"])
    assert in_networks("::ffff:10.1.2.3", ["10.0.0.0/8"])
    assert in_networks("fe80::1%eth0", ["fe80::/10"])
    assert not any(in_networks(address, ["10.0.0.0/8"]) for address in ("11.0.0.1", "::1", "", None, "x"))
