"""The routes of instances and money."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from coalition.server.app import create_app
from tests.cloud_world import World, budget, pool, settings


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, settings(tmp_path, [pool(max=3)], [budget()]))
    world.submit(4)
    world.tick()
    return world


@pytest.fixture
def client(world: World) -> FlaskClient:
    return create_app(world.settings, world.store, world.clock).test_client()


def test_pools_instances_budgets_and_decisions_are_shown(client: FlaskClient) -> None:
    (shown,) = client.get("/api/v1/pools").json["pools"]
    assert (shown["name"], shown["instances"], shown["blocked"]) == ("p", {"STARTING": 2}, None)
    instances = client.get("/api/v1/instances?state=STARTING&pool=p").json["instances"]
    assert [one["allowed_actions"] for one in instances] == [["drain", "terminate"]] * 2
    (paying,) = client.get("/api/v1/budgets").json["budgets"]
    assert paying["committed_micro"] == paying["spent_micro"] + paying["reserved_micro"]
    (decided,) = client.get("/api/v1/decisions?pool=p&limit=5").json["decisions"]
    assert decided["action"] == "launch"
    assert client.get("/api/v1/farm").json["scaling"]["leader"]


def test_instances_are_drained_and_terminated_by_hand(client: FlaskClient, world: World) -> None:
    assert client.post("/api/v1/instances/terminate", json={"ids": [1]}).json["ids"] == [1]
    assert client.post("/api/v1/instances/drain", json={"ids": [2]}).json["ids"] == [2]
    world.tick(2, seconds=1)
    assert world.states()[:2] == ["GONE", "GONE"]
    refused = client.post("/api/v1/instances/drain", json={"ids": [1, 3]})
    assert (refused.status_code, [one["id"] for one in refused.json["refused"]]) == (409, [1])
    every = client.get("/api/v1/instances?all=1").json["instances"]
    assert {1, 2} <= {one["id"] for one in every}
    assert not any(one["failed_boot"] for one in every)


def test_costs_are_shown_by_day_and_by_pool(client: FlaskClient, world: World) -> None:
    world.clock.wait(360)
    (day,) = client.get("/api/v1/ledger").json["entries"]
    (by_pool,) = client.get("/api/v1/ledger?group_by=pool").json["entries"]
    assert day["amount_micro"] == by_pool["amount_micro"] == 200_000
    assert (day["key"], by_pool["key"]) == ("2023-11-14", "p")


def test_a_blocked_pool_is_allowed_to_go_on(client: FlaskClient) -> None:
    assert client.post("/api/v1/pools/resume", json={"names": ["p"]}).json == {"changed": 0}
    assert client.post("/api/v1/pools/resume", json={"names": ["q"]}).status_code == 404


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("instances?state=RUNING", "state"),
        ("instances?all=maybe", "all"),
        ("ledger?group_by=user", "group_by"),
        ("decisions?limit=0", "limit"),
        ("pools?x=1", "x"),
    ],
)
def test_wrong_parameters_are_named(client: FlaskClient, path: str, field: str) -> None:
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == 422
    assert list(answer.json["fields"]) == [field]


def test_an_instance_that_is_not_there_is_named_and_nothing_is_marked(client: FlaskClient, world: World) -> None:
    assert client.post("/api/v1/instances/drain", json={"ids": [1, 99]}).status_code == 404
    assert {machine.wish for machine in world.store.machines()} == {""}
