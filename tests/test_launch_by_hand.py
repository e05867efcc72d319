"""Machines asked for by hand: through the same intents, limits and budgets as all others, and in the audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from coalition.errors import BadInput, Fenced, NotFound
from coalition.server.app import create_app
from providers.base import Offering
from tests.builders import Caller, WatchedStore
from tests.cloud_world import DOLLAR, LINUX, World, budget, pool, settings

BIG = Offering("big", "big", slots=16, cpus=32, memory_bytes=64 << 30, price_micro=20 * DOLLAR)


def test_what_is_asked_for_starts_with_the_next_tick_and_only_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.store.ask_launch("p", 2, "", "ann") == 2
    world.tick(3)
    assert [request.count for request in world.requests()] == [2]
    assert "2 asked for by ann" in world.reasons("launch")[0]
    assert world.store.launch_wishes() == []
    assert [event["who"] for event in world.store.events({"kind": "pool.ask_launch"}, 0.0, 10)] == ["ann"]


def test_it_is_reserved_from_the_budgets_and_what_they_cannot_pay_is_said(tmp_path: Path) -> None:
    world = World(tmp_path, settings(tmp_path, [pool()], [budget(amount=0.5)]))
    world.store.ask_launch("p", 10, "", "ann")
    world.tick()
    assert sum(request.count for request in world.requests()) == 2
    assert 0 < world.committed() <= 500_000
    assert any("10 asked for by ann; budget studio has" in reason for reason in world.reasons("hold"))
    world.tick()
    assert world.live() == 2, "it is not asked for again"


def test_an_offer_can_be_named(tmp_path: Path) -> None:
    world = World(tmp_path, offers=(LINUX, BIG))
    world.store.ask_launch("p", 1, "big", "ann")
    world.store.ask_launch("p", 1, "bigger", "ann")
    world.tick()
    assert [request.offering.name for request in world.requests()] == ["big"]
    assert any("no offer is named bigger" in reason for reason in world.reasons("hold"))


def test_a_pool_that_is_blocked_or_off_starts_nothing_by_hand_either(tmp_path: Path) -> None:
    world = World(tmp_path, settings(tmp_path, [pool(enabled=False)]))
    world.store.ask_launch("p", 1, "", "ann")
    world.tick()
    assert world.requests() == []
    assert "1 asked for by ann; pool p is switched off" in world.reasons("hold")[0]


def test_while_scaling_is_paused_it_waits(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.pause_scaling("bea")
    world.store.ask_launch("p", 1, "", "ann")
    world.tick(2)
    assert world.requests() == []
    assert "1 asked for by ann wait: scaling is paused by bea" in world.reasons("hold")[0]
    world.store.resume_scaling("bea")
    world.tick()
    assert [request.count for request in world.requests()] == [1]


def test_it_is_ended_when_it_is_idle_like_all_others(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.ask_launch("p", 1, "", "ann")
    world.tick()
    world.boot()
    (id,) = world.workers
    world.beat(id)
    world.clock.wait(61)
    world.beat(id)
    world.tick(3, 2.0)
    assert world.live() == 0


def test_what_no_pool_can_do_is_refused_at_once(store: WatchedStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no pool q"):
        World(tmp_path).store.ask_launch("q", 1, "", "ann")
    with pytest.raises(BadInput) as caught:
        World(tmp_path / "2").store.ask_launch("p", 11, "", "ann")
    assert caught.value.fields == {"count": "11 is more than `max` of pool p, which is 10"}


@pytest.mark.parametrize(
    ("terms", "offering", "words"),
    [
        ({"provider": "local"}, "nonsense", 'pool p has no "nonsense"; allowed: local'),
        ({"provider": "local", "types": ("small", "big")}, "smal", 'pool p has no "smal"; did you mean "small"?'),
        ({"provider": "local", "types": ("small",)}, "small/here/spot", 'pool p has no "small/here/spot"; allowed: small'),
        ({"provider": "aws", "types": ("c5.large",)}, "c5.larg", 'pool p has no "c5.larg"; did you mean "c5.large"?'),
        ({"provider": "aws", "types": ("c5.large",)}, "m5.big/a/spot", 'pool p has no "m5.big/a/spot"; allowed: c5.large'),
        (
            {"provider": "gce", "types": ("n2",), "purchase": ("spot",), "zones": ("r-a",)},
            "n2/r-b/spot",
            'pool p has no "n2/r-b/spot"; allowed: n2, or n2/ZONE/MARKET with MARKET of spot and ZONE of r-a',
        ),
        (
            {"provider": "aws", "types": ("c5.large",)},
            "c5.large/cheap",
            'pool p has no "c5.large/cheap"; allowed: c5.large, or c5.large/ZONE/MARKET with MARKET of spot, on-demand',
        ),
        (
            {"provider": "aws", "types": ("c5.large",), "purchase": ("on-demand",)},
            "c5.large/us-east-1a/spot",
            'pool p has no "c5.large/us-east-1a/spot"; allowed: c5.large, or c5.large/ZONE/MARKET with MARKET of on-demand',
        ),
        (
            {"provider": "aws", "types": ("c5.large",)},
            "c5.large/a/b/spot",
            'pool p has no "c5.large/a/b/spot"; allowed: c5.large, or c5.large/ZONE/MARKET with MARKET of spot, on-demand',
        ),
    ],
)
def test_an_offering_that_the_pool_cannot_have_is_refused_with_what_it_has_and_nothing_is_asked_for(
    tmp_path: Path, terms: dict[str, object], offering: str, words: str
) -> None:
    world = World(tmp_path, settings(tmp_path, [pool(**terms)]))
    call = Caller(create_app(world.settings, world.store, world.clock))
    status, problem = call("POST", "/api/v1/pools/launch", {"pool": "p", "count": 1, "offering": offering})
    assert (status, problem["fields"]) == (422, {"offering": words})
    assert world.store.launch_wishes() == []
    assert world.store.events({"kind": "pool.ask_launch"}, 0.0, 10) == []


@pytest.mark.parametrize(
    ("terms", "offering", "is_sure"),
    [
        ({}, "", True),
        ({"provider": "local"}, "local", True),
        ({"provider": "aws", "types": ("c5.large",)}, "c5.large", True),
        ({"provider": "aws", "types": ("c5.large",)}, "c5.large/us-east-1a/spot", False),
        ({"provider": "gce", "types": ("n2",), "zones": ("r-a",)}, "n2/r-a/on-demand", False),
        ({"provider": "libcloud", "types": ("small",)}, "size-7", False),
        ({"provider": "own.module:Provider"}, "nonsense", False),
    ],
)
def test_where_only_the_provider_knows_an_offering_the_answer_says_so(
    tmp_path: Path, terms: dict[str, object], offering: str, is_sure: bool
) -> None:
    world = World(tmp_path, settings(tmp_path, [pool(**terms)]))
    call = Caller(create_app(world.settings, world.store, world.clock))
    status, told = call("POST", "/api/v1/pools/launch", {"pool": "p", "count": 1, "offering": offering})
    words = f"only its provider knows whether pool p has an offering {offering}; the pool's decisions tell what comes of it"
    assert (status, told) == (200, {"changed": 1, "note": "" if is_sure else words})
    assert [wish.offering for wish in world.store.launch_wishes()] == [offering]


def test_a_leader_that_was_replaced_takes_no_wish(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.ask_launch("p", 1, "", "ann")
    with pytest.raises(Fenced):
        world.store.forget_wishes([1], 99)
    assert len(world.store.launch_wishes()) == 1
