"""Budgets, pools and the pause of scaling as people change them while the farm runs: from the next tick on, and in the audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from coalition import ledger
from coalition.config import BudgetSettings
from coalition.errors import BadInput, Conflict, NotFound
from coalition.model import JobSpec
from coalition.server.app import create_app
from coalition.store import Store
from tests.builders import Caller
from tests.cloud_world import DOLLAR, LINUX, World, budget, pool, settings
from tests.commands import coalition
from tests.databases import KINDS
from tests.fakes.api import Answer, Api

WorldOf = Callable[..., World]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world_of(tmp_path: Path, database: str) -> Iterator[WorldOf]:
    """Makes a farm with these budgets."""
    worlds: list[World] = []

    def make(*budgets: BudgetSettings, **changes: object) -> World:
        worlds.append(World(tmp_path, settings(tmp_path, [pool(**changes)], budgets, database=database)))
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.close()


def told(world: World, kind: str) -> list[str]:
    return [event["text"] for event in world.store.events({"kind": kind}, 0.0, 10)]


# ---------------------------------------------------------------- a budget of cloud.ini, changed


def test_a_raised_cap_starts_more_with_the_next_tick_and_the_change_is_told_with_both_values(world_of: WorldOf) -> None:
    world = world_of(budget(amount=0.5))
    world.submit(20)
    world.tick()
    assert world.live() == 2, "$0.50 pay for 660 s of two machines at $1 an hour"
    answer = world.store.edit_budget("studio", {"amount_micro": 2 * DOLLAR}, "bea")
    (more,) = answer.effect["starts"]
    assert (more["pool"], more["at_most"]) == ("p", 8)
    assert "budget studio has" in more["waits"]
    world.tick()
    assert world.live() == 10
    assert told(world, "budget.edit") == ["budget studio: amount 0.5 -> 2"]
    shown = world.store.budget("studio")
    assert (shown["source"], shown["in_file"], shown["changed_by"]) == ("cloud.ini", {"amount_micro": 500_000}, "bea")


def test_a_cap_lowered_below_what_is_committed_starts_nothing_and_ends_what_runs_within_what_is_paid(world_of: WorldOf) -> None:
    world = world_of(budget(amount=10))
    world.submit(4)
    world.tick()
    world.boot()
    for id in world.workers:
        world.work(id, want=2)
    before = world.committed()
    answer = world.store.edit_budget("studio", {"amount_micro": 1}, "bea")
    assert [one["instance"] for one in answer.effect["stops"]] == [machine.id for machine in world.store.machines()]
    assert "more are spent or reserved than the cap" in answer.effect["forbids"]
    world.submit(10)
    world.tick()
    assert (world.live(), world.committed()) == (2, before)
    world.clock.wait(400)  # more than half of the 600 s that are paid: time to pay on
    for id in world.workers:
        world.beat(id)
    world.tick()
    assert world.states() == ["DRAINING", "DRAINING"]
    assert "budget studio has $0.00 of $0.000001 left" in world.reasons("drain")[0]
    assert [len(world.store.open_attempts(one)) for one in world.workers.values()] == [2, 2], "what runs goes on"
    for id in world.workers:
        world.finish(id)
    world.tick(3, 2.0)
    assert world.live() == 0
    assert world.committed() <= before


def test_a_dry_run_tells_the_effect_and_changes_nothing(world_of: WorldOf) -> None:
    world = world_of(budget(amount=10))
    world.submit(4)
    world.tick()
    answer = world.store.edit_budget("studio", {"amount_micro": 1}, "bea", dry_run=True)
    assert answer.dry_run
    assert (answer.before or {})["cap_micro"] == 10 * DOLLAR
    assert (answer.after or {})["cap_micro"] == 1
    assert [one["instance"] for one in answer.effect["stops"]] == [machine.id for machine in world.store.machines()]
    assert world.store.budget("studio")["cap_micro"] == 10 * DOLLAR
    assert told(world, "budget.edit") == []


def test_taking_a_change_back_gives_the_files_values_and_so_does_setting_them_again(world_of: WorldOf) -> None:
    world = world_of(budget(amount=10))
    world.store.edit_budget("studio", {"amount_micro": 1, "alert": (0.25,)}, "bea")
    assert world.store.budget("studio")["alert"] == [0.25]
    assert "delete" in world.store.budget("studio")["allowed_actions"]
    world.store.delete_budget("studio", "bea")
    shown = world.store.budget("studio")
    assert (shown["cap_micro"], shown["in_file"], shown["changed_by"]) == (10 * DOLLAR, {}, "")
    world.store.edit_budget("studio", {"amount_micro": 1})
    world.store.edit_budget("studio", {"amount_micro": 10 * DOLLAR})
    with pytest.raises(Conflict, match=r"stands in cloud\.ini"):
        world.store.delete_budget("studio")
    assert told(world, "budget.delete") == ["budget studio: amount 0.000001 -> 10, alert 25% -> 50%, 80%, 100%"]


def test_a_soft_budget_made_hard_stops_what_it_only_counted(world_of: WorldOf) -> None:
    world = world_of(budget(amount=0.2, hard=False))
    world.submit(20)
    world.tick()
    assert world.live() == 10
    answer = world.store.edit_budget("studio", {"hard": True}, "bea")
    assert len(answer.effect["stops"]) == 10
    assert told(world, "budget.edit") == ["budget studio: hard no -> yes"]


def test_a_lowered_cap_tells_the_share_that_is_reached_at_once_and_a_raised_one_lets_it_be_told_again(world_of: WorldOf) -> None:
    world = world_of(budget(amount=10))
    world.submit(4)
    world.tick()
    assert told(world, "budget.alert") == []
    world.store.edit_budget("studio", {"amount_micro": 400_000})
    assert [text.split(":")[0] for text in told(world, "budget.alert")] == ["budget studio has reached 80%"]
    world.store.edit_budget("studio", {"amount_micro": 10 * DOLLAR})
    world.store.edit_budget("studio", {"amount_micro": 400_000})
    assert len(told(world, "budget.alert")) == 2


# ---------------------------------------------------------------- a budget of run time


def test_a_budget_made_at_run_time_counts_what_starts_from_then_on_and_is_removed_again(world_of: WorldOf) -> None:
    world = world_of()
    world.store.create_budget(replace(budget("extra", 0.5), line=0), "bea")
    world.submit(20)
    world.tick()
    assert (world.live(), world.committed("extra") > 0) == (2, True)
    assert world.store.budget("extra")["source"] == "run time"
    answer = world.store.delete_budget("extra", "bea")
    assert answer.after is None
    world.tick()
    assert world.live() == 10
    assert "is no more" in told(world, "budget.delete")[0]
    with pytest.raises(NotFound, match="there is no budget 'extra'"):
        world.store.budget("extra")


def test_a_name_that_is_taken_a_strange_pool_and_another_currency_are_refused(world_of: WorldOf) -> None:
    world = world_of(budget())
    with pytest.raises(Conflict, match="there is a budget studio already"):
        world.store.create_budget(budget())
    for changes, field in (({"applies_to": "pool:q"}, "applies_to"), ({"currency": "EUR"}, "currency")):
        with pytest.raises(BadInput) as caught:
            world.store.create_budget(budget("new", **changes))
        assert list(caught.value.fields) == [field]
    assert [one["name"] for one in world.store.budgets()] == ["studio"]


def test_a_users_budget_of_run_time_pays_for_jobs_that_were_waiting_already(world_of: WorldOf) -> None:
    world = world_of()
    world.submit(20, user="ann")
    world.submit(1, user="bob")
    world.store.create_budget(budget("anns", 0.5, applies_to="user:ann"), "bea")
    world.tick()
    payers = [machine.payer for machine in world.store.machines()]
    assert sorted(payers) == ["", "anns", "anns"]
    world.store.delete_budget("anns", "bea")
    world.tick()
    assert [machine.payer for machine in world.store.machines()].count("") > 1
    assert {reqs.requirement.payer for reqs in world.store.backlog()} == {""}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("target", ["farm", "pool:p", "offering:machine", "user:ann", "group:film", "affinity:linux"])
def test_a_machine_counts_against_the_budgets_of_its_jobs_when_it_starts_is_paid_on_and_is_gone(
    world_of: WorldOf, target: str, hard: bool
) -> None:
    world = world_of(budget("own", 10, applies_to=target, hard=hard))
    (film,) = world.store.submit([JobSpec(title="film", group=True)]).ids
    world.submit(2, user="ann", parent=film)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id, want=2)
    reserved = world.committed("own")
    assert reserved > 0
    world.clock.wait(400)
    world.beat(id)
    world.tick()
    assert world.committed("own") > reserved, "it was paid on"
    assert world.store.budget("own")["spent_micro"] > 0, "while it runs"
    world.finish(id)
    world.clock.wait(61)
    world.beat(id)
    world.tick(3, 2.0)
    (gone,) = world.store.instances(ended=True)
    assert (gone["state"], world.committed("own")) == ("GONE", gone["spent_micro"])
    assert world.store.budget("own")["spent_micro"] == gone["spent_micro"] > 0


def test_a_soft_budget_of_a_user_counts_the_machines_for_the_users_jobs_and_keeps_no_job_from_any_machine(
    world_of: WorldOf,
) -> None:
    world = world_of(budget("anns", 0.1, applies_to="user:ann", hard=False))
    world.submit(8, user="bob")
    world.submit(2, user="ann")
    world.tick()
    counted = {machine.sponsors: machine.payer for machine in world.store.machines()}
    assert counted == {(): "", ("anns",): ""}
    assert world.live() == 5
    (anns,) = (machine for machine in world.store.machines() if machine.sponsors)
    assert 1 <= world.committed("anns") / ledger.cost(anns.price_micro, 0.0, 660.0) < 1.1, "one machine of five"
    assert told(world, "budget.alert")[0].startswith("budget anns has reached 100%"), "it warns, and stops nothing"
    world.boot()
    taken = 0
    for _ in range(5):
        taken += len(world.work(anns.provider_id, want=2))
        world.finish(anns.provider_id)
    assert taken == 10, "all jobs of both"


def test_a_users_budget_counts_what_starts_from_its_change_to_hard_or_soft_on(world_of: WorldOf) -> None:
    world = world_of()
    world.submit(2, user="ann")
    world.store.create_budget(budget("anns", 10, applies_to="user:ann", hard=False), "bea")
    assert {(one.requirement.payer, one.requirement.soft) for one in world.store.backlog()} == {("", "anns")}
    world.store.edit_budget("anns", {"hard": True})
    assert {(one.requirement.payer, one.requirement.soft) for one in world.store.backlog()} == {("anns", "")}
    world.store.edit_budget("anns", {"hard": False})
    world.tick()
    assert world.committed("anns") > 0
    world.store.delete_budget("anns")
    assert {(one.requirement.payer, one.requirement.soft) for one in world.store.backlog()} == {("", "")}


def test_a_budget_of_an_offering_bounds_that_offering_only(tmp_path: Path) -> None:
    dear = replace(LINUX, name="other", type="other", price_micro=round(1.05 * DOLLAR))
    wanted = settings(tmp_path, [pool()], [budget("m", 0.5, applies_to="offering:machine")])
    world = World(tmp_path, wanted, (LINUX, dear))
    world.submit(8)
    world.tick()
    bought = sorted(request.offering.name for request in world.requests() for _ in range(request.count))
    assert bought == ["machine", "machine", "other", "other"]
    assert world.committed("m") <= 500_000


def test_other_users_in_cloud_ini_pay_for_what_waits_from_the_servers_start_on(world_of: WorldOf) -> None:
    world = world_of()
    world.submit(2, user="ann")
    world.reconfigure(budgets=(budget("anns", applies_to="user:ann"),))
    assert world.store.adopt_budgets()
    assert {demand.requirement.payer for demand in world.store.backlog()} == {"anns"}
    assert not world.store.adopt_budgets()
    world.reconfigure(budgets=(budget("anns", applies_to="user:ann", hard=False),))
    assert world.store.adopt_budgets()
    assert {(one.requirement.payer, one.requirement.soft) for one in world.store.backlog()} == {("", "anns")}
    assert not world.store.adopt_budgets()


# ---------------------------------------------------------------- pause, resume, drain


def test_paused_scaling_starts_nothing_but_pays_on_and_says_who_paused_it(world_of: WorldOf) -> None:
    world = world_of(budget(amount=10))
    world.submit(2)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    assert world.store.pause_scaling("wim") == 1
    assert world.store.pause_scaling("wim") == 0
    world.submit(10)
    world.clock.wait(400)
    world.beat(id)
    committed = world.committed()
    world.tick()
    assert (world.live(), world.committed() > committed) == (1, True), "what runs is paid on"
    assert "scaling is paused by wim: nothing new is started" in world.reasons("hold")
    assert world.store.farm_money()["scaling"]["paused"] is True
    assert world.store.resume_scaling("wim") == 1
    assert world.store.resume_scaling("wim") == 0
    world.tick()
    assert world.live() > 1
    assert [told(world, kind) != [] for kind in ("scaling.pause", "scaling.resume")] == [True, True]


def test_a_drained_pool_starts_nothing_and_ends_what_it_has_until_it_is_resumed(world_of: WorldOf) -> None:
    world = world_of()
    world.submit(4)
    world.tick()
    world.boot()
    first, _ = world.workers
    world.work(first)
    assert world.store.drain_pools(["p"], "wim") == 2
    world.tick(3, 2.0)
    assert world.states() == ["DRAINING", "GONE"], "the one with a job may finish it"
    assert (world.store.pools()[0]["enabled"], world.store.pools()[0]["drained_by"]) == (False, "wim")
    world.finish(first)
    world.tick(3, 2.0)
    assert world.live() == 0
    assert world.store.resume_pools(["p"], "wim") == 1
    world.tick()
    assert world.live() > 0
    assert [told(world, kind) != [] for kind in ("pool.drain", "pool.resume")] == [True, True]


def test_a_pool_that_is_not_there_is_named_and_nothing_is_drained(world_of: WorldOf) -> None:
    world = world_of()
    for act in (world.store.drain_pools, world.store.resume_pools):
        with pytest.raises(NotFound, match="there is no pool q"):
            act(["p", "q"])
    assert world.store.pools()[0]["allowed_actions"] == ["drain"]


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def call(tmp_path: Path) -> Caller:
    world = World(tmp_path, settings(tmp_path, [pool()], [budget()]))
    app: Flask = create_app(world.settings, world.store, world.clock)
    return Caller(app)


def test_budgets_are_made_changed_and_removed_over_http(call: Caller) -> None:
    status, made = call(
        "POST", "/api/v1/budgets", {"name": "new", "amount_micro": 5 * DOLLAR, "window": "day", "timezone": "UTC"}
    )
    assert (status, made["before"], made["after"]["cap_micro"]) == (201, None, 5 * DOLLAR)
    status, tried = call("PATCH", "/api/v1/budgets/new?dry_run=true", {"amount_micro": 7})
    assert (status, tried["dry_run"], tried["after"]["cap_micro"]) == (200, True, 7)
    assert call("GET", "/api/v1/budgets/new")[1]["cap_micro"] == 5 * DOLLAR
    assert call("PATCH", "/api/v1/budgets/new", {"alert": [0.9], "hard": False})[1]["after"]["alert"] == [0.9]
    assert call("DELETE", "/api/v1/budgets/new", {})[0] == 200
    assert call("GET", "/api/v1/budgets/new")[0] == 404
    assert call("DELETE", "/api/v1/budgets/studio", {})[0] == 409


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "budgets", {"name": "a b", "amount_micro": 1}, "name"),
        ("POST", "budgets", {"name": "a", "amount_micro": -1}, "amount_micro"),
        ("POST", "budgets", {"name": "a", "amount_micro": 1, "window": "year"}, "window"),
        ("POST", "budgets", {"name": "a", "amount_micro": 1, "timezone": "Mars/One"}, "timezone"),
        ("POST", "budgets", {"name": "a", "amount_micro": 1, "applies_to": "all"}, "applies_to"),
        ("POST", "budgets", {"name": "a", "amount_micro": 1, "applies_to": "pool:q"}, "applies_to"),
        ("POST", "budgets", {"name": "a", "amount_micro": 1, "alert": [0.333]}, "alert"),
        ("POST", "budgets", {"name": "a", "amount_micro": 1, "currency": "dollar"}, "currency"),
        ("PATCH", "budgets/studio", {}, "changes"),
        ("PATCH", "budgets/studio", {"window": "day"}, "window"),
        ("PATCH", "budgets/studio?x=1", {"hard": True}, "x"),
    ],
)
def test_what_a_budget_cannot_be_is_named_and_changes_nothing(
    call: Caller, method: str, path: str, body: object, field: str
) -> None:
    before = call("GET", "/api/v1/budgets")[1]
    status, answer = call(method, f"/api/v1/{path}", body)
    assert (status, list(answer["fields"])) == (422, [field])
    assert call("GET", "/api/v1/budgets")[1] == before


def test_scaling_is_paused_and_pools_drained_over_http(call: Caller) -> None:
    assert call("POST", "/api/v1/scaling/pause", {})[1] == {"changed": 1}
    assert call("GET", "/api/v1/farm")[1]["scaling"]["paused"] is True
    assert call("POST", "/api/v1/scaling/resume", {})[1] == {"changed": 1}
    assert call("POST", "/api/v1/pools/drain", {"names": ["p"]})[1] == {"changed": 0}
    assert call("GET", "/api/v1/pools")[1]["pools"][0]["enabled"] is False
    assert call("POST", "/api/v1/pools/resume", {"names": ["p"]})[1] == {"changed": 1}


# ---------------------------------------------------------------- on the command line


EFFECT = {
    "starts": [{"pool": "p", "at_most": 3, "waits": "2 jobs wait"}],
    "stops": [{"instance": 7, "pool": "q"}],
    "forbids": "no more",
}


def test_the_verbs_of_budgets_send_what_was_said_and_tell_the_effect() -> None:
    shown = {"name": "x", "cap_micro": 5 * DOLLAR, "currency": "USD", "window": "day"}
    with Api() as api:
        for method, path in (("POST", "/budgets"), ("PATCH", "/budgets/x"), ("DELETE", "/budgets/x")):
            api.tell(method, path, Answer({"before": shown, "after": shown, "effect": EFFECT, "dry_run": True}))
        server = ("--server", api.url, "budget")
        told = coalition(*server, "add", "x", "5", "--window", "day", "--for", "user:ann", "--soft", "--dry-run").stdout
        assert told.splitlines() == [
            "budget x would be 5.00 USD (day)",
            "pool p may start up to 3 machines: 2 jobs wait",
            "instance 7 (q) is not paid on, and ends as its jobs end",
            "no more",
        ]
        fields = {"window": "day", "timezone": "UTC", "currency": "USD", "applies_to": "user:ann", "hard": False}
        assert api.requests[-1].body == {"name": "x", "amount_micro": 5 * DOLLAR, **fields}
        coalition(*server, "set", "x", "--amount", "0.5", "--alert", "50%, 90%", "--hard")
        assert api.requests[-1].body == {"amount_micro": 500_000, "alert": [0.5, 0.9], "hard": True}
        coalition(*server, "delete", "x")
        assert (api.requests[-1].method, api.requests[-1].path) == ("DELETE", "/budgets/x")


def test_the_verbs_of_scaling_tell_what_they_changed() -> None:
    with Api() as api:
        for path, changed in (("/scaling/pause", 1), ("/scaling/resume", 0), ("/pools/resume", 1), ("/pools/drain", 2)):
            api.tell("POST", path, Answer({"changed": changed}))
        verbs = (("pause-scaling",), ("resume",), ("resume", "p"), ("drain", "p"))
        assert [coalition("--server", api.url, *verb).stdout.strip() for verb in verbs] == [
            "scaling is paused",
            "scaling was not paused",
            "1 pool changed",
            "p: 2 machines will end",
        ]


def test_a_store_without_changes_is_as_cloud_ini_says(world_of: WorldOf) -> None:
    store: Store = world_of(budget()).store
    current = store.in_force()
    assert (current.pools, current.budgets, current.paused) == (store.settings.pools, store.settings.budgets, None)


def test_a_pools_budget_that_pays_for_none_of_its_machines_says_so_whatever_other_pools_cost(tmp_path: Path) -> None:
    dear, cheap = pool(name="dear", price_micro=100 * DOLLAR), pool(name="cheap", price_micro=DOLLAR)
    world = World(tmp_path, settings(tmp_path, [dear, cheap], []))
    wanted = BudgetSettings("small", 0, DOLLAR, applies_to="pool:dear")
    assert "do not pay for another machine" in world.store.create_budget(wanted, dry_run=True).effect["forbids"]
    world.store.close()


def test_the_money_of_a_budget_is_not_taken_over_in_another_currency(world_of: WorldOf) -> None:
    world = world_of()
    world.store.create_budget(BudgetSettings("x", 0, 5 * DOLLAR))
    world.store.delete_budget("x")
    euros = world_of(currency="EUR")
    with pytest.raises(Conflict, match="there was a budget x in USD"):
        euros.store.create_budget(BudgetSettings("x", 0, 5 * DOLLAR, currency="EUR"))
    assert euros.store.create_budget(BudgetSettings("y", 0, 5 * DOLLAR, currency="EUR")).after is not None
