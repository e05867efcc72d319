"""Users of an LDAP directory, on a real slapd: who gets in, with which rights, and what happens while it is away."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from coalition.config import AuthSettings, LdapSettings, parse
from coalition.errors import ConfigError, Unavailable
from coalition.rights import ROLES
from coalition.server.app import create_app
from coalition.server.directory import Directory, Person
from tests.builders import Agent, Caller, Clock, WatchedStore
from tests.certificates import Authority
from tests.directory import GROUPS, MEMBERS, PASSWORD, PEOPLE, SERVICE, SERVICE_PASSWORD, USERS, Slapd, dn_of
from tests.test_logins import Browser

Made = Callable[..., LdapSettings]


@pytest.fixture
def made(slapd: Slapd, tmp_path: Path) -> Made:
    """Settings for the directory: searched by the service over TLS, artists are users, leads are wranglers."""
    secret = tmp_path / "ldap.password"
    secret.write_text(SERVICE_PASSWORD + "\n")

    def make(**changes: Any) -> LdapSettings:
        given: dict[str, Any] = {
            "servers": (slapd.over_tls,),
            "ca": str(slapd.authority.file),
            "base": PEOPLE,
            "bind_dn": SERVICE,
            "bind_password_file": str(secret),
            "role_user": f"cn=artists,{GROUPS}",
            "role_wrangler": f"cn=leads,{GROUPS}",
            "role_budget": f"cn=money,{GROUPS}",
            "role_guest": f"cn=render,{GROUPS}",
            "timeout_s": 2.0,
        }
        return LdapSettings(**{**given, **changes})

    return make


def proved(settings: LdapSettings, user: str, password: str | None = None) -> Person | None:
    return Directory(settings).prove(user, PASSWORD.format(user) if password is None else password)


BY_TEMPLATE = {"bind_template": f"uid={{user}},{PEOPLE}", "bind_dn": "", "bind_password_file": ""}


# ---------------------------------------------------------------- who gets in


@pytest.mark.parametrize("way", [{}, BY_TEMPLATE], ids=["search then bind", "bind by template"])
def test_each_user_is_proved_by_the_own_password_and_no_other(made: Made, way: dict[str, str]) -> None:
    settings = made(default_role="user", **way)
    for user in USERS:
        person = proved(settings, user)
        assert person is not None, user
        assert person.name == user
        assert proved(settings, user, PASSWORD.format("somebody else")) is None
    assert proved(settings, "nobody", "x") is None


@pytest.mark.parametrize("way", [{}, BY_TEMPLATE], ids=["search then bind", "bind by template"])
def test_an_empty_password_is_nobodys_though_the_directory_would_take_it(made: Made, way: dict[str, str]) -> None:
    assert proved(made(**way), "ann", "") is None
    assert proved(made(**way), "", "") is None


@pytest.mark.parametrize(
    "user", ["*", "a*", "ann)(uid=*", "*)(|(uid=*", "ann\0", "ann,ou=people", "{dn}", "{user}", "\\2a", "(uid=ann)"]
)
@pytest.mark.parametrize("way", [{}, BY_TEMPLATE], ids=["search then bind", "bind by template"])
def test_what_is_written_into_a_name_is_part_of_no_filter_and_no_other_name(made: Made, way: dict[str, str], user: str) -> None:
    assert proved(made(**way), user, PASSWORD.format("ann")) is None


def test_a_name_that_finds_two_users_is_nobodys(made: Made) -> None:
    assert proved(made(user_filter="(mail={user})"), "all@studio.example", PASSWORD.format("ann")) is None


@pytest.mark.parametrize("password", ["x\x07", "\ue000", "\u00ad", "a\u0000b"])
@pytest.mark.parametrize("user", ["ann", "nobody"])
def test_a_password_that_no_directory_can_have_is_a_wrong_one_whoever_is_named(made: Made, user: str, password: str) -> None:
    assert proved(made(), user, password) is None


def test_who_logged_in_by_another_attribute_is_looked_up_by_the_name(made: Made) -> None:
    by_surname = Directory(made(user_filter="(sn={user})", name_attribute="mail"))
    assert by_surname.look("ann") is None, "a surname is no name here"
    person = Directory(made(user_filter="(cn={user})")).look("ann")
    assert person is not None
    assert person.name == "ann"


def test_a_template_lets_nobody_in_as_another_entry_that_the_filter_finds(made: Made) -> None:
    """Who was bound is who is logged in, though the filter finds somebody else by what was typed."""
    crossed = made(**BY_TEMPLATE, user_filter="(&(uid=ben)(!(uid={user})))")
    assert proved(crossed, "ann") is None


def test_the_name_is_the_one_that_the_directory_writes(made: Made) -> None:
    person = proved(made(), "ANN", PASSWORD.format("ann"))
    assert person is not None
    assert (person.name, person.role) == ("ann", "user")


# ---------------------------------------------------------------- rights


def test_groups_give_roles_and_several_give_all_of_their_rights(made: Made) -> None:
    told = {user: proved(made(), user) for user in ("ann", "ben", "cara", "dora", "änn")}
    roles = {user: person.role for user, person in told.items() if person}
    assert roles == {"ann": "user", "ben": "wrangler", "cara": "budget", "dora": "guest", "änn": "custom"}
    rights = {user: person.may for user, person in told.items() if person}
    assert (rights["ann"], rights["ben"]) == (ROLES["user"], ROLES["wrangler"] | ROLES["budget"])
    assert rights["änn"] == frozenset()
    assert "ben" in MEMBERS["money"]


ONLY = {f"role_{role}": "" for role in ("user", "wrangler", "budget", "guest")}
RIGHTS = [f"{right}{whose}" for right in ("create", "view", "edit", "delete") for whose in ("", "_all")]


@pytest.mark.parametrize("right", [*RIGHTS, "workers", "cloud", "budgets", "admin"])
def test_each_right_is_a_filter_that_must_find_the_user(made: Made, right: str) -> None:
    directory = Directory(made(**ONLY, **{f"right_{right}": "(employeeType=contractor)"}))
    dora, ann = directory.look("dora"), directory.look("ann")
    assert dora
    assert ann
    assert (dora.may, ann.may) == ({right, right.removesuffix("_all")}, frozenset())


@pytest.mark.parametrize("text", ["(&(uid=__login__)(employeeType=contractor))", "(&(uid={user})(employeeType=contractor))"])
def test_a_filter_of_the_predecessor_holds_as_it_was(made: Made, text: str) -> None:
    directory = Directory(made(**ONLY, right_view=text))
    assert [bool(person and person.may) for person in map(directory.look, ("dora", "ann"))] == [True, False]


def test_a_filter_that_names_the_user_may_find_a_group(made: Made) -> None:
    directory = Directory(made(**ONLY, base="dc=studio,dc=example", right_edit="(&(cn=leads)(member={dn}))"))
    assert [bool(person and person.may) for person in map(directory.look, ("ben", "ann", "a(b)*c"))] == [True, False, False]


# ---------------------------------------------------------------- encryption and silence


def test_a_plain_address_is_encrypted_by_starttls(made: Made, slapd: Slapd) -> None:
    assert proved(made(servers=(slapd.plain,)), "ann") is not None


@pytest.mark.parametrize("plain", [True, False])
def test_a_directory_whose_certificate_is_not_known_gets_no_password(
    made: Made, slapd: Slapd, tmp_path: Path, plain: bool
) -> None:
    stranger = Authority(tmp_path, "stranger")
    settings = made(servers=(slapd.plain if plain else slapd.over_tls,), ca=str(stranger.file))
    with pytest.raises(Unavailable, match="does not answer"):
        proved(settings, "ann")


@pytest.mark.parametrize("plain", [True, False])
def test_a_certificate_of_another_name_is_refused(made: Made, slapd: Slapd, plain: bool) -> None:
    address = (slapd.plain if plain else slapd.over_tls).replace("localhost", "127.0.0.1")
    with pytest.raises(Unavailable, match="does not answer"):
        proved(made(servers=(address,)), "ann")


def test_the_next_server_is_asked_when_one_does_not_answer(made: Made, slapd: Slapd) -> None:
    assert proved(made(servers=("ldaps://localhost:1", slapd.over_tls)), "ann") is not None


def test_a_directory_that_hangs_is_waited_for_no_longer_than_said(made: Made, slapd: Slapd) -> None:
    settings = made(timeout_s=0.3)
    slapd.stall()
    try:
        for address in (slapd.plain, slapd.over_tls):
            with pytest.raises(Unavailable):
                proved(replace(settings, servers=(address,)), "ann")
    finally:
        slapd.go_on()
    assert proved(made(), "ann") is not None


def test_a_service_with_a_wrong_password_is_a_fault_of_the_farm_and_not_of_who_logs_in(made: Made, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    with pytest.raises(Unavailable):
        proved(made(bind_password_file=str(wrong)), "ann")


# ---------------------------------------------------------------- the server


@contextmanager
def serving(store: WatchedStore, ldap: LdapSettings, mode: str = "ldap", **server: Any) -> Iterator[Flask]:
    store.settings = replace(
        store.settings, auth=AuthSettings(mode=mode), ldap=ldap, server=replace(store.settings.server, **server)
    )
    app = create_app(store.settings, store, store.clock)
    app.extensions["coalition"].dispatcher.start()
    yield app
    app.extensions["coalition"].dispatcher.stop()


@pytest.fixture
def server(store: WatchedStore, made: Made) -> Iterator[Flask]:
    with serving(store, made()) as app:
        yield app


@contextmanager
def away(slapd: Slapd, app: Flask) -> Iterator[None]:
    """The directory does not answer this server for a while."""
    directory = app.extensions["coalition"].logins.directory
    there = directory.settings
    directory.settings = replace(there, servers=("ldaps://localhost:1",))
    yield
    directory.settings = there


def test_a_user_of_the_directory_logs_in_and_owns_what_is_submitted(server: Flask) -> None:
    ann = Browser(server)
    answer = ann.log_in("Ann", PASSWORD.format("ann"))
    assert (answer.status_code, answer.get_json()["user"], answer.get_json()["role"]) == (200, "ann", "user")
    assert ann("POST", "/jobs", {"jobs": [{"title": "t", "command": "c"}]}).status_code == 201
    assert ann("GET", "/jobs").get_json()["jobs"][0]["user"] == "ann"
    assert ann("GET", "/users").status_code == 403
    assert set(ann("GET", "/server").get_json()["rights"]) == ROLES["user"]


def test_who_is_known_and_has_no_right_is_told_so(server: Flask) -> None:
    answer = Browser(server).log_in("änn", PASSWORD.format("änn"))
    assert (answer.status_code, "[ldap]" in answer.get_json()["detail"]) == (403, True)


def test_guessing_gets_slower_whatever_way_the_name_is_written(server: Flask) -> None:
    names = ("ann", "ANN", " ann", "Ann", "a\uff4en", "aNN")  # one of them with a wide n
    assert [Browser(server).log_in(name, "wrong").status_code for name in names] == [401] * 5 + [429]


def test_a_try_of_which_nobody_knows_whether_it_was_right_takes_no_other_back(server: Flask, slapd: Slapd, clock: Clock) -> None:
    assert [Browser(server).log_in("ann", "wrong").status_code for _ in range(5)] == [401] * 5
    clock.advance(2)
    with away(slapd, server):
        assert Browser(server).log_in("ann", "wrong").status_code == 503
    clock.advance(2)
    assert Browser(server).log_in("ann", "wrong").status_code == 401
    assert Browser(server).log_in("ann", "wrong").status_code == 429


def test_while_the_directory_is_away_log_ins_say_so_and_all_else_goes_on(
    server: Flask, store: WatchedStore, slapd: Slapd, clock: Clock
) -> None:
    ann, agent = Browser(server), Agent(server, token=store.create_token("enrol", uses=1))
    ann.log_in("ann", PASSWORD.format("ann"))
    with away(slapd, server):
        for _ in range(8):
            answer = Browser(server).log_in("ben", PASSWORD.format("ben"))
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
            assert "directory" in answer.get_json()["detail"]
        clock.advance(3_600)
        assert ann("GET", "/jobs").status_code == 200
        assert ann("POST", "/jobs", {"jobs": [{"title": "t", "command": "c"}]}).status_code == 201
        assert agent.sync()["leases"]
    assert Browser(server).log_in("ben", PASSWORD.format("ben")).status_code == 200, "what failed was not counted as a guess"


def test_what_the_directory_takes_from_a_user_is_gone_from_log_ins_and_tokens_soon(
    server: Flask, store: WatchedStore, clock: Clock
) -> None:
    ben = Browser(server)
    ben.log_in("ben", PASSWORD.format("ben"))
    token = Caller(server, store.create_token("user", user="ben", role="admin"))
    assert (ben("GET", "/server").get_json()["role"], token("GET", "/users")[0]) == ("wrangler", 403), "no admin there"
    directory = server.extensions["coalition"].logins.directory
    directory.groups = {"guest": f"cn=leads,{GROUPS}"}
    assert set(ben("GET", "/server").get_json()["rights"]) == ROLES["wrangler"] | ROLES["budget"]
    clock.advance(61)
    assert set(ben("GET", "/server").get_json()["rights"]) == ROLES["guest"]
    assert set(token.ok("GET", "/server")["rights"]) == ROLES["guest"]
    directory.settings = replace(directory.settings, base=f"ou=nowhere,{PEOPLE}")
    clock.advance(61)
    assert (ben("GET", "/jobs").status_code, token("GET", "/jobs")[0]) == (401, 403)
    told = store.events({"kind": "user.edit"}, 0, 10)
    assert [event["text"].partition(":")[0] for event in told] == ["user ben is not there any more", "user ben", "user ben"]


def test_the_old_wire_takes_the_directorys_passwords_and_asks_once_for_many_calls(
    store: WatchedStore, made: Made, slapd: Slapd
) -> None:
    with serving(store, made(), legacy=True) as app:
        headers = {"Authorization": f"Basic {b64encode(('ann:' + PASSWORD.format('ann')).encode()).decode()}"}
        assert app.test_client().get("/api/jobs", headers=headers).status_code == 200
        with away(slapd, app):
            assert app.test_client().get("/api/jobs", headers=headers).status_code == 200
            empty = {"Authorization": f"Basic {b64encode(b'ann:').decode()}"}
            assert app.test_client().get("/api/jobs", headers=empty).status_code == 401


def test_a_local_password_is_none_of_the_directorys(server: Flask, store: WatchedStore) -> None:
    store.create_account("zoe", "correct horse battery", "admin")
    assert Browser(server).log_in("zoe", "correct horse battery").status_code == 401


# ---------------------------------------------------------------- configuration

GOOD = "[auth]\nmode = ldap\n[ldap]\nservers = ldaps://a, ldap://b:3890\nbase = dc=x\ndefault_role = user\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("servers = ldaps://a, ldap://b:3890", ""), "servers"),
        (("ldaps://a", "http://a"), "servers"),
        (("ldaps://a", "ldaps://a:x"), "servers"),
        (("base = dc=x", ""), "base"),
        (("default_role = user", ""), "default_role"),
        (("default_role = user", "default_role = king"), "default_role"),
        (("base = dc=x", "base = dc=x\nuser_filter = (uid=ann)"), "user_filter"),
        (("base = dc=x", "base = dc=x\nuser_filter = uid={user}"), "user_filter"),
        (("base = dc=x", "base = dc=x\nright_edit = (uid={user}"), "right_edit"),
        (("base = dc=x", "base = dc=x\nbind_template = uid=x"), "bind_template"),
        (("base = dc=x", "base = dc=x\nbind_dn = cn=x"), "bind_dn"),
        (("base = dc=x", "base = dc=x\nstart_tls = no"), "start_tls"),
        (("base = dc=x", "base = dc=x\nname_attribute = a b"), "name_attribute"),
    ],
)
def test_a_configuration_that_could_not_work_is_refused_by_name(change: tuple[str, str], told: str) -> None:
    parse(GOOD)
    with pytest.raises(ConfigError, match=rf"\[ldap\] {told}: "):
        parse(GOOD.replace(*change))


@pytest.mark.parametrize(
    ("key", "value"),
    [("ca", "/nowhere"), ("ca", "not-a-certificate"), ("bind_password_file", "/nowhere"), ("right_edit", "(&(uid={user})(x))")],
)
def test_a_file_or_filter_that_cannot_be_used_stops_the_start(made: Made, tmp_path: Path, key: str, value: str) -> None:
    if value == "not-a-certificate":
        value = str(tmp_path / value)
        Path(value).write_text("x")
    with pytest.raises(ConfigError, match=rf"\[ldap\] {key}: "):
        Directory(made(**{key: value}))


def test_names_with_signs_are_entries_of_the_directory() -> None:
    assert dn_of("x,y=z") == f"uid=x\\,y\\=z,{PEOPLE}"
