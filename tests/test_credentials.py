"""What lets a worker in and keeps it in: enrolment tokens, and credentials that are changed, revoked, for own leases only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from coalition.config import AuthSettings
from coalition.errors import BadInput, NotAuthenticated
from coalition.server.app import create_app
from coalition.store.dispatch import Beat
from tests.builders import Agent, Caller, Clock, WatchedStore, an_enrol, done
from tests.databases import KINDS
from tests.e2e.farm import RealFarm
from tests.polling import poll_until

DAY_S = 86_400


@pytest.fixture
def locked(store: WatchedStore) -> Iterator[Flask]:
    store.settings = replace(store.settings, auth=AuthSettings(mode="token"))
    made = create_app(store.settings, store, store.clock)
    made.extensions["coalition"].dispatcher.start()
    yield made
    made.extensions["coalition"].dispatcher.stop()


@pytest.fixture
def root(locked: Flask, store: WatchedStore) -> Caller:
    return Caller(locked, store.create_token("user", user="root", role="admin"))


def an_agent(app: Flask, store: WatchedStore, name: str = "w1") -> Agent:
    made = Agent(app, name, store.create_token("enrol", uses=1))
    made.sync()
    return made


def enrol(app: Flask, token: str = "", address: str = "127.0.0.1", **fields: Any) -> tuple[int, Any]:
    body = {"name": "w1", "session": "s" * 32, "token": token, **fields}
    return Caller(app)("POST", "/workers/enrol", body, environ_base={"REMOTE_ADDR": address})


# ---------------------------------------------------------------- enrolment tokens


def test_an_enrolment_token_is_for_one_worker_and_ends_after_a_week_unless_it_says_otherwise(
    locked: Flask, root: Caller, clock: Clock
) -> None:
    once, late, long = (
        root.ok("POST", "/tokens", {"kind": "enrol", **more})["token"] for more in ({}, {}, {"expires_s": 30 * DAY_S})
    )
    assert enrol(locked, once)[0] == 201
    assert enrol(locked, once, name="w2")[0] == 401
    clock.advance(7 * DAY_S + 1)
    assert (enrol(locked, late, name="w2")[0], enrol(locked, long, name="w2")[0]) == (401, 201)


@pytest.mark.parametrize("purpose", ["enrol", "site"])
def test_a_token_bound_to_networks_lets_in_from_there_only_and_is_not_spent_elsewhere(
    locked: Flask, root: Caller, purpose: str
) -> None:
    token = root.ok("POST", "/tokens", {"kind": purpose, "networks": ["10.1.0.0/16", "fd00::/8"]})["token"]
    for stranger in ("10.2.0.1", "127.0.0.1", "::1"):
        status, problem = enrol(locked, token, stranger)
        assert (status, "10.1.0.0/16" in problem["detail"]) == (401, True)
    assert enrol(locked, token, "::ffff:10.1.2.3")[0] == 201
    assert [one["networks"] for one in root.ok("GET", "/tokens")["tokens"] if one["kind"] == purpose] == ["10.1.0.0/16,fd00::/8"]


@pytest.mark.parametrize(
    "wrong",
    [{"networks": ["10.1"]}, {"networks": ["x"]}, {"networks": ["10.0.0.0/8"], "kind": "user", "user": "a", "role": "user"}],
)
def test_networks_that_are_none_or_of_no_use_are_refused(root: Caller, wrong: dict[str, Any]) -> None:
    status, problem = root("POST", "/tokens", {"kind": "enrol", **wrong})
    assert (status, list(problem["fields"])) == (422, ["networks"])


def test_wrong_enrolments_from_an_address_get_slower_and_known_workers_are_not_kept_out(
    locked: Flask, store: WatchedStore, clock: Clock
) -> None:
    agent = an_agent(locked, store)
    token = store.create_token("site")
    assert {enrol(locked, "wrong.token", name="w2")[0] for _ in range(50)} == {401}
    status, _ = enrol(locked, token, name="w2")
    assert status == 429
    assert enrol(locked, token, "10.0.0.1", name="w3")[0] == 201
    assert enrol(locked, session="t" * 32, credential=agent.call.token)[0] == 201
    clock.advance(2)
    assert enrol(locked, token, name="w2")[0] == 201


# ---------------------------------------------------------------- replays


def test_an_enrolment_that_somebody_sends_again_does_nothing(locked: Flask, store: WatchedStore, clock: Clock) -> None:
    agent = an_agent(locked, store)
    clock.advance(10)
    agent.sync()
    locked.extensions["coalition"].dispatcher.flush()
    before = store.worker_row(agent.id)
    assert Caller(locked)("POST", "/workers/enrol", agent.enrolment)[0] == 401
    assert store.worker_row(agent.id) == before
    agent.sync()


def test_an_enrolment_whose_answer_was_lost_is_repeated_without_another_token(locked: Flask, store: WatchedStore) -> None:
    first = {"name": "w1", "session": "s" * 32, "token": store.create_token("enrol", uses=1)}
    answers = [Caller(locked).ok("POST", "/workers/enrol", first) for _ in range(2)]
    assert [answer["epoch"] for answer in answers] == [1, 1]


def test_a_call_that_somebody_sends_again_does_nothing(locked: Flask, store: WatchedStore) -> None:
    agent = an_agent(locked, store)
    Caller(locked, store.create_token("user", user="ann", role="user")).submit({"command": "c"}, {"command": "d"})
    old = {"epoch": agent.epoch, "seq": agent.seq + 1, "free": 1}
    (lease,) = agent.take(free=1)
    assert agent.call("POST", f"/workers/{agent.id}/sync", old)[0] == 409
    agent.sync(done(lease), free=0)
    report = {"epoch": agent.epoch, "seq": agent.seq, "finished": [done(lease, "ERROR")]}
    assert agent.call("POST", f"/workers/{agent.id}/sync", report)[0] == 409
    assert store.job(lease["job"]).state == "FINISHED"


# ---------------------------------------------------------------- own leases, bounded bodies


def test_a_worker_touches_no_lease_of_another(locked: Flask, store: WatchedStore) -> None:
    honest, other = an_agent(locked, store), an_agent(locked, store, "w2")
    Caller(locked, store.create_token("user", user="ann", role="user")).submit({"command": "c"})
    (lease,) = honest.take(free=1)
    told = other.sync(done(lease), running=[{"attempt": lease["attempt"], "started": True}], takes=False)
    assert (told["leases"], store.job(lease["job"]).state) == ([], "WORKING")
    for path in (f"/attempts/{lease['attempt']}/log?offset=0", f"/attempts/{lease['attempt'] + 1}/log?offset=0"):
        assert other.call("PUT", path, data=b"x", content_type="application/octet-stream")[0] == 404
    assert other.call("POST", f"/workers/{honest.id}/sync", {"epoch": 1, "seq": 99})[0] == 422
    honest.sync(done(lease))
    assert store.job(lease["job"]).state == "FINISHED"


def test_a_body_beyond_the_bound_is_refused_before_it_is_read(locked: Flask, store: WatchedStore) -> None:
    agent = an_agent(locked, store)
    locked.config["MAX_CONTENT_LENGTH"] = 2_000
    assert agent.call("POST", f"/workers/{agent.id}/sync", data=b" " * 2_001, content_type="application/json")[0] == 413
    assert agent.call("PUT", "/attempts/1/log?offset=0", data=b" " * 2_001)[0] in (404, 413)
    many = [{"attempt": 1, "started": True}] * 20_001
    locked.config["MAX_CONTENT_LENGTH"] = 1 << 24
    assert agent.call("POST", f"/workers/{agent.id}/sync", {"epoch": 1, "seq": 9, "running": many})[0] in (413, 422)


# ---------------------------------------------------------------- credentials are changed


def renewed(agent: Agent, **fields: Any) -> str:
    """What a sync gives the worker to be used from now on."""
    return str(agent.sync(**fields)["credential"])


def proves(app: Flask, agent: Agent, credential: str) -> bool:
    """Whether a call with this credential is let in (an old call is refused by its number, later)."""
    return Caller(app, credential)("POST", f"/workers/{agent.id}/sync", {"epoch": agent.epoch, "seq": 0})[0] == 409


def test_a_credential_is_changed_after_a_day_and_the_old_one_holds_until_the_new_one_was_used(
    locked: Flask, store: WatchedStore, clock: Clock
) -> None:
    agent = an_agent(locked, store)
    first = agent.call.token
    clock.advance(DAY_S + 1)
    second = renewed(agent, wait_s=30)
    assert second.startswith(f"w{agent.id}.")
    assert second != first
    assert renewed(agent) == "", "it is on its way"
    assert proves(locked, agent, first)
    agent.call.token = second
    agent.sync()
    assert proves(locked, agent, first), "a call may be on its way"
    clock.advance(61)
    agent.sync()
    assert (proves(locked, agent, first), proves(locked, agent, second)) == (False, True)


def test_a_worker_that_never_got_the_new_credential_gets_another(locked: Flask, store: WatchedStore, clock: Clock) -> None:
    agent = an_agent(locked, store)
    clock.advance(DAY_S + 1)
    lost = renewed(agent)
    clock.advance(11)
    again = renewed(agent)
    assert again not in ("", lost)
    assert not proves(locked, agent, lost)
    clock.advance(30 * DAY_S)
    assert proves(locked, agent, agent.call.token), "it was switched off for a month"
    agent.call.token = again
    assert enrol(locked, session="t" * 32, credential=again)[0] == 201


def test_another_server_process_takes_both_credentials(locked: Flask, store: WatchedStore, clock: Clock) -> None:
    other = create_app(store.settings, store, store.clock)
    other.extensions["coalition"].dispatcher.start()
    agent = an_agent(locked, store)
    agent.call.app = other
    agent.sync()
    clock.advance(DAY_S + 1)
    agent.call.app = locked
    old, agent.call.token = agent.call.token, renewed(agent)
    assert proves(other, agent, old)
    agent.call.app = other
    agent.sync()
    agent.call.app = locked
    agent.sync()
    other.extensions["coalition"].dispatcher.stop()


def test_a_deleted_workers_credential_is_good_for_nothing_at_once(locked: Flask, store: WatchedStore, root: Caller) -> None:
    agent = an_agent(locked, store)
    root.ok("POST", "/workers/delete", {"ids": [agent.id]})
    assert agent.try_sync()[0] == 401
    assert enrol(locked, session="t" * 32, credential=agent.call.token)[0] == 401


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_every_database_keeps_both_credentials_until_the_new_one_is_used(store: WatchedStore, clock: Clock) -> None:
    admission = store.enrol(an_enrol("w1", session="s" * 32), open_door=True)
    found = store.worker_row(admission.worker_id)
    assert found
    second = store.change_credential(admission.worker_id, found[1])
    assert second
    assert store.change_credential(admission.worker_id, found[1]) is None, "within ten seconds"
    row, key = store.worker_row(admission.worker_id) or (None, "")
    assert row
    assert (row.old_key, row.old_until, key != found[1]) == (found[1], None, True)
    assert store.confirm_credential(admission.worker_id, found[1]) is None, "that is not the new one: a stale process asks"
    assert store.confirm_credential(admission.worker_id, key) == clock.now + 60
    clock.advance(61)
    store.flush_beats([Beat(admission.worker_id, clock.now, 0.0, 0, None, 0, 0, ())])
    with pytest.raises(NotAuthenticated):
        store.enrol(an_enrol("w1", session="t" * 32, credential=admission.credential))
    assert store.enrol(an_enrol("w1", session="t" * 32, credential=second)).epoch == 2
    with pytest.raises(BadInput):
        store.create_token("site", networks=["nowhere"])
    token = store.create_token("site", networks=["10.0.0.0/8"])
    with pytest.raises(NotAuthenticated):
        store.enrol(an_enrol("w2", token=token), address="11.0.0.1")
    store.enrol(an_enrol("w2", token=token), address="10.0.0.1")


def test_a_real_worker_takes_each_new_credential_and_goes_on(tmp_path: Path) -> None:
    farm = RealFarm(tmp_path, worker="sync = 0.2\nlease = 3s\nwait = 0\ncredential = 1s", autoscaler="enabled = no")
    with contextlib.closing(farm):
        farm.serve()
        farm.worker("w1")
        poll_until(lambda: len(list(farm.client.events(kind="worker.credential"))) >= 3, 60, lambda: farm.log_of("w1"))
        job = farm.client.submit(title="a", command="true")
        poll_until(lambda: farm.client.job(job).state == "FINISHED", 30, lambda: farm.log_of("w1"))
        assert len(list(farm.client.events(kind="worker.enrol"))) == 1
