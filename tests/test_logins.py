"""Users with passwords: logging in and out, what a cookie is good for, and what guessing costs."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from coalition.config import AuthSettings
from coalition.errors import BadInput, Conflict, NotAuthenticated, NotFound
from coalition.rights import ROLES
from coalition.server.app import create_app
from coalition.server.auth import COOKIE, CSRF
from coalition.server.housekeeping import Housekeeper
from coalition.store.accounts import hash_password, proves
from tests.builders import Caller, Clock, WatchedStore
from tests.databases import KINDS

SECRET = "correct horse battery"
API = "/api/v1"


@pytest.fixture
def local(store: WatchedStore) -> Iterator[Flask]:
    """The server in local mode, with two users."""
    store.settings = replace(store.settings, auth=AuthSettings(mode="local"))
    made = create_app(store.settings, store, store.clock)
    made.extensions["coalition"].dispatcher.start()
    store.create_account("ann", SECRET, "user")
    store.create_account("root", SECRET + "!", "admin")
    yield made
    made.extensions["coalition"].dispatcher.stop()


class Browser:
    """Keeps cookies, and sends what a page of ours would."""

    def __init__(self, app: Flask) -> None:
        self.client: FlaskClient = app.test_client()
        self.csrf = ""

    def log_in(self, user: str = "ann", password: str = SECRET, **options: Any) -> Any:
        answer = self.client.post(f"{API}/login", json={"user": user, "password": password}, **options)
        if answer.status_code == 200:
            self.csrf = answer.get_json()["csrf"]
        return answer

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        given = {CSRF: self.csrf, **headers} if method != "GET" else headers
        return self.client.open(API + path, method=method, json=body if method != "GET" else None, headers=given)


def test_a_log_in_sets_a_cookie_that_no_script_can_read_and_no_other_site_sends(local: Flask) -> None:
    answer = Browser(local).log_in()
    assert (answer.status_code, answer.get_json()["role"]) == (200, "user")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/api", "Max-Age=43200"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie


def test_over_https_the_cookie_is_for_https_only(local: Flask) -> None:
    assert "; Secure" in Browser(local).log_in(base_url="https://localhost").headers["Set-Cookie"]


def test_who_is_logged_in_may_what_the_role_says_and_owns_what_is_submitted(local: Flask) -> None:
    ann = Browser(local)
    ann.log_in()
    assert ann("GET", "/server").get_json()["user"] == "ann"
    assert ann("POST", "/jobs", {"jobs": [{"title": "t", "command": "c"}]}).status_code == 201
    assert ann("GET", "/jobs").get_json()["jobs"][0]["user"] == "ann"
    assert ann("GET", "/users").status_code == 403


def test_a_change_without_the_csrf_token_is_refused(local: Flask) -> None:
    ann, ben = Browser(local), Browser(local)
    ann.log_in()
    ben.log_in("root", SECRET + "!")
    for forged in ("", "x", "é", ben.csrf):
        ann.csrf = forged
        answer = ann("POST", "/jobs", {"jobs": [{"title": "t", "command": "c"}]})
        assert (answer.status_code, CSRF in answer.get_json()["detail"]) == (403, True)
    ann.csrf = ann("GET", "/server").get_json()["csrf"]
    assert ann("POST", "/jobs", {"jobs": [{"title": "t", "command": "c"}]}).status_code == 201


def test_pages_of_other_sites_cannot_log_a_browser_in(local: Flask) -> None:
    for site in ("cross-site", "same-site"):
        assert Browser(local).log_in(headers={"Sec-Fetch-Site": site}).status_code == 403
    form = local.test_client().post(f"{API}/login", data='{"user": "ann", "password": "x"}', content_type="text/plain")
    assert form.status_code == 422


def test_a_session_is_new_at_each_log_in_whatever_cookie_came_with_it(local: Flask) -> None:
    browser = Browser(local)
    browser.client.set_cookie(COOKIE, "chosen.by-somebody-else", path="/api")
    browser.log_in()
    first = browser.client.get_cookie(COOKIE, path="/api")
    browser.log_in()
    second = browser.client.get_cookie(COOKIE, path="/api")
    assert first
    assert second
    assert len({"chosen.by-somebody-else", first.value, second.value}) == 3


def test_log_out_ends_the_session_also_for_who_kept_the_cookie(local: Flask) -> None:
    browser = Browser(local)
    browser.log_in()
    kept = browser.client.get_cookie(COOKIE, path="/api")
    assert kept
    assert browser("POST", "/logout", {}).get_json() == {"changed": 1}
    assert browser.client.get_cookie(COOKIE, path="/api") is None
    thief = local.test_client()
    thief.set_cookie(COOKIE, kept.value, path="/api")
    assert thief.get(f"{API}/jobs").status_code == 401


def test_a_session_ends_by_itself_and_is_forgotten(local: Flask, store: WatchedStore, clock: Clock) -> None:
    browser = Browser(local)
    browser.log_in()
    clock.advance(12 * 3_600 - 1)
    assert browser("GET", "/jobs").status_code == 200
    clock.advance(2)
    assert browser("GET", "/jobs").status_code == 401
    assert [token["kind"] for token in store.tokens()] == ["session"]
    clock.advance(120)
    Housekeeper(store.settings, store).tidy()
    assert store.tokens() == []


def test_a_session_is_no_api_token_and_an_api_token_no_session(local: Flask, store: WatchedStore) -> None:
    browser = Browser(local)
    browser.log_in()
    cookie = browser.client.get_cookie(COOKIE, path="/api")
    assert cookie
    assert Caller(local, cookie.value)("GET", "/jobs")[0] == 401
    browser.client.set_cookie(COOKIE, store.create_token("user", user="root", role="admin"), path="/api")
    assert browser("GET", "/jobs").status_code == 401


@pytest.mark.parametrize(
    ("user", "password"), [("ann", "wrong"), ("nobody", SECRET), ("ann", ""), ("", ""), ("ann\0", SECRET), ("ANN", SECRET)]
)
def test_a_wrong_name_or_password_is_told_apart_by_nobody(local: Flask, user: str, password: str) -> None:
    answer = Browser(local).log_in(user, password)
    assert (answer.status_code, answer.get_json()["detail"]) == (401, "the name or the password is wrong")
    assert "Set-Cookie" not in answer.headers


def test_guessing_gets_slower_and_slower_for_one_name_and_the_right_password_waits_too(local: Flask, clock: Clock) -> None:
    browser = Browser(local)
    assert [browser.log_in(password="wrong").status_code for _ in range(6)] == [401] * 5 + [429]
    refused = browser.log_in()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert browser.log_in("root", SECRET + "!").status_code == 200
    clock.advance(1.5)
    assert browser.log_in(password="wrong").status_code == 401
    clock.advance(1.5)
    assert browser.log_in(password="wrong").status_code == 429
    clock.advance(1.0)
    assert browser.log_in().status_code == 200
    assert [browser.log_in(password="wrong").status_code for _ in range(5)] == [401] * 5, "forgiven"


def test_guessing_names_from_one_address_gets_slower_too(local: Flask, store: WatchedStore) -> None:
    for _ in range(50):
        assert store.count_try({"log-in @127.0.0.1": 50}) == 0
    assert Browser(local).log_in().status_code == 429
    assert Browser(local).log_in(environ_base={"REMOTE_ADDR": "10.0.0.7"}).status_code == 200


def test_a_token_that_has_ended_is_no_guess_at_a_password(local: Flask, store: WatchedStore) -> None:
    site = store.create_token("site")
    store.delete_token(site.partition(".")[0])
    header = {"Authorization": "Basic " + b64encode(f"node:{site}".encode()).decode()}
    for _ in range(60):
        assert local.test_client().get("/api/jobs", headers=header).status_code in (401, 404)
    assert Browser(local).log_in().status_code == 200


def test_changing_the_password_needs_the_old_one_and_ends_all_log_ins(local: Flask) -> None:
    browser, other = Browser(local), Browser(local)
    browser.log_in()
    other.log_in()
    assert browser("POST", "/password", {"old": "wrong", "new": "another secret"}).status_code == 401
    assert (
        browser("POST", "/password", {"old": SECRET, "new": "short"}).get_json()["fields"]["password"].startswith("is too short")
    )
    assert browser("POST", "/password", {"old": SECRET, "new": "another secret"}).status_code == 200
    assert other("GET", "/jobs").status_code == 401
    assert Browser(local).log_in().status_code == 401
    assert Browser(local).log_in(password="another secret").status_code == 200


def test_a_deleted_user_is_out_at_once_with_all_tokens(local: Flask, store: WatchedStore) -> None:
    browser, root = Browser(local), Caller(local, store.create_token("user", user="root", role="admin"))
    browser.log_in()
    token = Caller(local, store.create_token("user", user="ann", role="user"))
    assert token("GET", "/jobs")[0] == 200
    root.ok("DELETE", "/users/ann")
    assert (browser("GET", "/jobs").status_code, token("GET", "/jobs")[0], root("GET", "/jobs")[0]) == (401, 401, 200)
    assert root("DELETE", "/users/ann")[0] == 404


def test_a_new_role_holds_from_the_next_log_in_and_the_old_log_ins_end(local: Flask, store: WatchedStore) -> None:
    browser = Browser(local)
    browser.log_in()
    body = {"user": "ann", "password": SECRET, "token": True}
    script = Caller(local, local.test_client().post(f"{API}/login", json=body).get_json()["token"])
    own = Caller(local, store.create_token("user", user="ann", role="user"))
    assert script("GET", "/jobs")[0] == 200
    Caller(local, store.create_token("user", user="root", role="admin")).ok("PATCH", "/users/ann", {"role": "wrangler"})
    assert (browser("GET", "/jobs").status_code, script("GET", "/jobs")[0], own("GET", "/jobs")[0]) == (401, 401, 200)
    browser.log_in()
    assert browser("GET", "/server").get_json()["role"] == "wrangler"


def test_a_token_never_has_more_rights_than_its_user_has_now(local: Flask, store: WatchedStore) -> None:
    store.edit_account("ann", role="wrangler")
    own = Caller(local, store.create_token("user", user="ann", role="admin"))
    assert set(own.ok("GET", "/server")["rights"]) == ROLES["wrangler"]
    store.edit_account("ann", role="guest")
    assert set(own.ok("GET", "/server")["rights"]) == ROLES["guest"]
    assert own("PATCH", "/workers", {"ids": [1], "changes": {"slots": 1}})[0] == 403
    store.edit_account("ann", role="admin")
    assert set(own.ok("GET", "/server")["rights"]) == ROLES["admin"]


def test_a_script_gets_a_token_for_a_password_and_no_cookie(local: Flask, clock: Clock) -> None:
    answer = local.test_client().post(f"{API}/login", json={"user": "ann", "password": SECRET, "token": True})
    assert "Set-Cookie" not in answer.headers
    caller = Caller(local, answer.get_json()["token"])
    assert caller.ok("GET", "/server")["user"] == "ann"
    clock.advance(12 * 3_600 + 1)
    assert caller("GET", "/server")[0] == 401


def test_a_log_in_of_a_user_who_is_changed_meanwhile_does_not_hold(local: Flask, store: WatchedStore) -> None:
    role, stored = "user", store.account("ann")
    assert stored is not None
    proved = {"kind": "session", "proved": lambda now: now == stored[0]}
    assert store.begin_session("ann", role, (), 60, "here", **proved)
    store.edit_account("ann", role="wrangler")
    with pytest.raises(NotAuthenticated, match="was changed meanwhile"):
        store.begin_session("ann", role, (), 60, "here", **proved)
    store.edit_account("ann", role=role, password="another secret")
    with pytest.raises(NotAuthenticated, match="was changed meanwhile"):
        store.begin_session("ann", role, (), 60, "here", **proved)
    store.delete_account("ann")
    with pytest.raises(NotAuthenticated, match="was changed meanwhile"):
        store.begin_session("ann", role, (), 60, "here", **proved)


@pytest.mark.parametrize("mode", ["none", "token"])
def test_where_there_are_no_passwords_nobody_logs_in_with_one(store: WatchedStore, mode: str) -> None:
    store.create_account("ann", SECRET, "user")
    store.settings = replace(store.settings, auth=AuthSettings(mode=mode))
    assert Browser(create_app(store.settings, store, store.clock)).log_in().status_code == 409


def test_basic_authentication_is_for_the_old_wire_only(store: WatchedStore) -> None:
    store.create_account("ann", SECRET, "user")
    server = replace(store.settings.server, legacy=True)
    store.settings = replace(store.settings, server=server, auth=AuthSettings(mode="local"))
    app = create_app(store.settings, store, store.clock)
    headers = {"Authorization": f"Basic {b64encode(f'ann:{SECRET}'.encode()).decode()}"}
    assert app.test_client().get("/api/jobs", headers=headers).status_code == 200
    assert app.test_client().get("/api/v1/jobs", headers=headers).status_code == 401
    wrong = {"Authorization": f"Basic {b64encode(b'ann:wrong').decode()}"}
    assert [app.test_client().get("/api/jobs", headers=wrong).status_code for _ in range(6)] == [401] * 5 + [429]


def test_a_token_is_narrowed_to_its_scope(local: Flask, store: WatchedStore) -> None:
    text = store.create_token("user", user="root", role="admin", name="watcher", scope=("view", "create"))
    caller = Caller(local, text)
    job_id = caller.submit({"command": "c", "user": "ann"})[0]
    assert caller.ok("GET", f"/jobs/{job_id}")["allowed_actions"] == []
    status, problem = caller("POST", "/jobs/pause", {"ids": [job_id]})
    assert (status, problem["detail"]) == (403, "root is admin; the token's scope is without edit")
    assert caller("GET", "/users")[0] == 403
    assert caller.ok("GET", "/server")["rights"] == ["create", "create_all", "view", "view_all"]
    (listed,) = store.tokens()
    assert (listed["name"], listed["scope"]) == ("watcher", "view,create")


def test_passwords_are_kept_as_scrypt_with_a_salt_of_their_own() -> None:
    first, second = hash_password(SECRET), hash_password(SECRET)
    assert first.startswith("scrypt$32768$8$1$")
    assert first != second
    assert SECRET not in first
    assert (proves(SECRET, first), proves(SECRET, second), proves(SECRET + " ", first)) == (True, True, False)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_users_are_kept_by_every_database(store: WatchedStore) -> None:
    store.create_account("änn", "pässwörter sind länger", "user", "root")
    for call, error in (
        (lambda: store.create_account("änn", SECRET, "user"), Conflict),
        (lambda: store.create_account("ben", "short", "user"), BadInput),
        (lambda: store.create_account("ben", SECRET, "king"), BadInput),
        (lambda: store.edit_account("ben", role="admin"), NotFound),
        (lambda: store.delete_account("ben"), NotFound),
    ):
        with pytest.raises(error):
            call()
    session = store.begin_session("änn", "user", ("view",), 60, "10.0.0.1")
    row = store.check_token(session)
    assert row
    assert (row.kind, row.user, row.scope) == ("session", "änn", ("view",))
    store.edit_account("änn", role="wrangler", who="root")
    assert store.check_token(session) is None
    assert [(one["name"], one["role"]) for one in store.accounts()] == [("änn", "wrangler")]
    assert [store.count_try({"b": 1, "a": 2}) for _ in range(2)] == [0, 1]
    store.forgive_try("b", "a")
    assert store.count_try({"b": 1, "a": 2}) == 0
    store.delete_account("änn", "root")
    assert store.accounts() == []
    assert [one["kind"] for one in store.events({}, 0, 10)] == ["user.delete", "user.edit", "user.log_in", "user.create"]
