"""What was spent: seconds times the price of the time, booked on whose it was, to the cent of the provider's invoice."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event

from coalition import ledger
from coalition.errors import NotFound
from coalition.model import JobSpec
from coalition.server.app import create_app
from coalition.store.costs import CostQuery
from coalition.store.lists import JobQuery
from providers.base import Unknown
from tests.builders import Caller
from tests.cloud_world import DOLLAR, LINUX, START, World, budget, pool, settings
from tests.databases import KINDS

WorldOf = Callable[..., World]
SPOT = replace(LINUX, name="m/z/spot", type="m", market="spot", bid_micro=DOLLAR, rate_micro=400_000)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world_of(tmp_path: Path, database: str) -> Iterator[WorldOf]:
    worlds: list[World] = []

    def make(*offers: object, **changes: object) -> World:
        wanted = settings(tmp_path, [pool(**changes)], [budget(amount=1_000)], database=database)
        worlds.append(World(tmp_path, wanted, offers or (LINUX,)))  # type: ignore[arg-type]
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.close()


def spent(world: World, group_by: str = "day", **query: object) -> dict[str, int]:
    return {line["key"]: line["amount_micro"] for line in world.store.costs(group_by, CostQuery(**query))}  # type: ignore[arg-type]


def play(world: World, hours: int, seed: int = 1, step_s: float = 7_200.0) -> dict[str, tuple[str, ...]]:
    """Life: jobs of three users and two shows come, run, fail; machines are taken away, prices move. The tags of each job."""
    dice, tags_of = random.Random(seed), {}
    for turn in range(round(hours * 3_600 / step_s)):
        if dice.random() < 0.6:
            user = dice.choice(["ann", "bob", "cid"])
            tags = dice.choice([("linux",), ("linux", "alpha"), ("beta",)])
            tags_of.update({str(id): tags for id in world.submit(dice.randint(1, 6), user=user, affinity=tags, retries=100)})
        if turn % 3 == 0:
            world.fake.reprice(SPOT.name, dice.randint(200_000, 950_000))
            world.clock.wait(1.0)  # what falls in the moment of an end has a test of its own
        world.tick()
        world.boot()
        live = {one.id for one in world.fake.live()}
        for id in [id for id in world.workers if id not in live]:
            del world.workers[id]
        for id in list(world.workers):
            world.work(id, want=2)
            if dice.random() < 0.7:
                world.clock.wait(dice.random())
                world.finish(id, dice.random() * step_s / 2)
            if dice.random() < 0.25:
                world.fake.lose(id)
                del world.workers[id]
        world.clock.wait(step_s)
    world.store.pause_scaling()
    for one in world.fake.live():
        world.fake.lose(one.id)
    world.clock.wait(1_000.0)
    world.tick()
    return tags_of


def agree(world: World) -> int:
    """The books and the provider's invoice agree to the micro-unit, whatever they are grouped by. The invoice."""
    invoice = world.fake.bill()
    for group_by in ("day", "pool", "type", "instance", "user", "group", "job", "attempt"):
        assert sum(spent(world, group_by).values()) == invoice, group_by
    by_instance = spent(world, "instance")
    assert by_instance == {str(row["id"]): row["spent_micro"] for row in world.store.instances(ended=True) if row["spent_micro"]}
    return invoice


def test_a_month_of_life_with_interruptions_and_moving_prices_is_booked_to_the_cent(tmp_path: Path) -> None:
    tags = ("linux", "alpha", "beta")
    wanted = settings(tmp_path, [pool(funding_s=100_000.0, max=4, affinity=tags)], [budget(amount=1e6, window="total")])
    world = World(tmp_path, wanted, (SPOT,))
    tags_of = play(world, 30 * 24, step_s=43_200.0)
    assert world.clock() - START >= 30 * ledger.DAY_S
    invoice = agree(world)
    assert invoice > 10 * DOLLAR
    kinds = {kind: sum(line[f"{kind}_micro"] for line in world.store.costs()) for kind in ("run", "waste", "idle", "boot")}
    assert sum(kinds.values()) == invoice
    assert kinds["run"] > 0
    assert kinds["waste"] > 0
    assert world.committed() == invoice, "what the budget has spent is what was billed"
    assert set(spent(world, "user")) == {"", "ann", "bob", "cid"}
    by_tag: Counter[str] = Counter()
    for job, amount in spent(world, "job").items():
        by_tag.update(dict.fromkeys(tags_of.get(job, ("",)), amount))
    assert set(by_tag) == {"", *tags}
    assert spent(world, "tag") == by_tag


def test_on_each_database_the_books_agree_with_the_invoice(world_of: WorldOf) -> None:
    world = world_of(SPOT, funding_s=30_000.0, max=3, affinity=("linux", "alpha", "beta"))
    play(world, 24, seed=3)
    assert agree(world) > 0


def test_the_price_of_the_time_is_booked_and_the_ceiling_only_reserved(world_of: WorldOf) -> None:
    world = world_of(SPOT)
    world.submit(2)
    world.tick()
    reserved = world.committed()
    world.boot()
    world.clock.wait(360)
    world.fake.reprice(SPOT.name, 800_000)
    world.tick()
    world.clock.wait(180)
    assert spent(world) == {"2023-11-14": 40_000 + 40_000}
    world.fake.lose(world.fake.live()[0].id)
    world.store.pause_scaling()
    world.tick()
    assert spent(world) == {"2023-11-14": 80_000}
    assert world.committed() == 80_000 < reserved


@pytest.mark.parametrize("last", ["the price falls", "the machine ends"])
def test_a_price_that_falls_in_the_moment_of_an_end_is_not_counted_on(tmp_path: Path, last: str) -> None:
    world = World(tmp_path, settings(tmp_path, [pool()], [budget(amount=1_000)]), (replace(SPOT, minimum_s=60.0),))
    world.submit(2)
    world.tick()
    world.clock.wait(21)
    fall, end = (lambda: world.fake.reprice(SPOT.name, 200_000)), (lambda: world.fake.lose(world.fake.live()[0].id))
    for step in (end, fall) if last == "the price falls" else (fall, end):
        step()
    world.store.pause_scaling()
    world.clock.wait(90)
    world.tick()
    assert world.fake.bill() <= world.committed() == round(400_000 * 60 / 3_600 + 0.5)


def gone(world: World) -> int:
    """The only machine goes, and its bill is booked: that bill."""
    world.store.pause_scaling()
    for one in world.fake.live():
        world.fake.lose(one.id)
    world.tick()
    return world.committed()


def test_a_price_that_moves_twice_between_looks_is_booked_as_it_moved(world_of: WorldOf) -> None:
    world = world_of(SPOT)
    world.submit(2)
    world.tick()
    for price, seconds in ((400_000, 36), (900_000, 72), (400_000, 36)):
        world.fake.reprice(SPOT.name, price)
        world.clock.wait(seconds)
    assert gone(world) == world.fake.bill() == 4_000 + 18_000 + 4_000


def test_a_price_that_is_raised_above_what_was_reserved_is_for_machines_that_start_from_then_on(tmp_path: Path) -> None:
    world = World(tmp_path, settings(tmp_path, [pool(price_micro=DOLLAR)], [budget(amount=0.2)]))
    world.submit(1)
    world.tick()
    world.reconfigure(pools=(pool(price_micro=50 * DOLLAR),))
    world.clock.wait(360)
    world.tick()
    world.clock.wait(100)
    assert gone(world) == 460 * DOLLAR // 3_600 + 1


def test_while_prices_cannot_be_asked_for_what_goes_is_booked_at_the_most_that_it_may_have_cost(world_of: WorldOf) -> None:
    world = world_of(SPOT)
    world.submit(1)
    world.tick()
    world.clock.wait(36)
    world.tick()
    world.fake.faults.errors["offerings"] += [Unknown("500")] * 3
    world.fake.reprice(SPOT.name, 900_000)
    world.clock.wait(36)
    assert 4_000 + 9_000 == world.fake.bill() < gone(world) == 4_000 + 10_000


def test_what_its_deadline_ended_while_nobody_looked_is_booked_up_to_there_though_no_list_has_it(
    world_of: WorldOf,
) -> None:
    world = world_of()
    world.submit(1)
    world.tick()
    billed_s = 600
    world.clock.wait(86_400)
    assert world.fake.bill() == DOLLAR * billed_s // 3_600 + 1
    del world.fake.machines["f-1"]  # as clouds forget in an hour what ended
    world.store.pause_scaling()
    world.tick()
    (row,) = world.store.instances(ended=True)
    assert (row["state"], row["ended_at"] - START) == ("GONE", 600 + 60)
    assert not [one for one in world.store.events({}, 0.0, 100) if one["kind"] == "budget.overrun"]


def test_an_answer_that_was_lost_is_found_by_a_list_that_says_when_the_machine_ended(world_of: WorldOf) -> None:
    world = world_of()
    world.fake.faults.lost_answers["launch"] = 1
    world.submit(1)
    world.tick()
    world.store.pause_scaling()
    world.clock.wait(86_400)
    world.tick()
    assert world.states() == ["GONE"]
    assert sum(spent(world).values()) == world.fake.bill() == DOLLAR * 600 // 3_600 + 1


def test_what_runs_is_told_in_so_many_queries_however_many_machines_there_are(tmp_path: Path) -> None:
    def queries(machines: int) -> int:
        folder = tmp_path / str(machines)
        world = World(folder, settings(folder, [pool(max=machines)]))
        world.submit(2 * machines)
        world.tick()
        world.boot()
        for id in world.workers:
            world.work(id, 2)
        world.clock.wait(100)
        asked: list[str] = []
        event.listen(world.store.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
        assert sum(spent(world, "job").values()) > 0
        world.store.close()
        return len(asked)

    assert queries(1) == queries(12)


def test_a_jobs_cost_goes_to_its_user_its_groups_tree_and_its_tags(world_of: WorldOf) -> None:
    world = world_of()
    jobs = tuple(JobSpec(title=f"f{n}", command="true", user="ann") for n in range(2))
    world.store.submit([JobSpec(title="show", affinity=("linux",), children=(JobSpec(title="shot", children=jobs),))])
    (show, *_), _ = world.store.jobs(JobQuery(parent=0))
    top = show.id
    world.tick()
    world.boot()
    (id,) = world.workers
    world.clock.wait(36)
    world.work(id, want=2)
    world.clock.wait(360)
    world.finish(id, 360.0)
    world.fake.lose(id)
    world.tick()
    by_user = {line["key"]: line for line in world.store.costs("user")}
    assert (by_user["ann"]["run_micro"], by_user["ann"]["idle_micro"]) == (100_000, 0)
    assert (by_user[""]["idle_micro"], by_user[""]["run_micro"]) == (10_000, 0)
    (group,) = [line for line in world.store.costs("group") if line["key"]]
    assert (group["key"], group["name"], group["amount_micro"]) == (str(top), "show", 100_000)
    assert spent(world, "tag") == {"": 10_000, "linux": 100_000}
    by_job = spent(world, "job", user="ann")
    assert list(by_job.values()) == [50_000, 50_000]
    first = next(iter(by_job))
    assert spent(world, "job", job=int(first)) == {first: 50_000}
    assert spent(world, "pool", tag="linux", group=top) == {"p": 100_000}
    assert spent(world, tag="lin") == {}
    assert spent(world, tag="Linux") == {}, "on all databases"
    assert spent(world, since=START + 86_400) == {}
    assert spent(world, until=START) == {}


def test_work_that_did_not_count_is_waste(world_of: WorldOf) -> None:
    world = world_of()
    world.submit(1)
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    world.clock.wait(360)
    world.fake.lose(id)
    world.store.pause_scaling()
    world.tick()
    (line,) = world.store.costs("pool")
    assert (line["waste_micro"], line["run_micro"], line["idle_micro"]) == (50_000, 0, 50_000)


def test_a_groups_end_and_cost_are_foretold_by_its_finished_frames(world_of: WorldOf) -> None:
    world = world_of()
    frames = tuple(JobSpec(title=f"f{n}", command="true") for n in range(6))
    world.store.submit([JobSpec(title="shot", affinity=("linux",), children=frames)])
    (shot, *_), _ = world.store.jobs(JobQuery(parent=0))
    world.tick()
    world.boot()
    id = next(iter(world.workers))
    before = world.store.forecast(shot.id)
    assert (before["jobs"], before["unknown"], before["ends_at"]) == (6, 6, None)
    world.work(id, want=2)
    world.clock.wait(100)
    world.finish(id, 100.0)
    world.work(id, want=2)
    told = world.store.forecast(shot.id)
    assert (told["jobs"], told["unknown"], told["running"], told["work_s"]) == (4, 0, 2, 400.0)
    assert told["ends_at"] == world.clock() + 200
    assert told["ends_early"] <= told["ends_at"] <= told["ends_late"]
    assert world.store.forecast() == told
    with pytest.raises(NotFound, match="there is no job 999999"):
        world.store.forecast(999_999)


def test_costs_are_asked_for_over_http_as_lines_and_as_csv(tmp_path: Path) -> None:
    world = World(tmp_path, settings(tmp_path))
    world.submit(1, title="=1+1", user="ann")
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id)
    world.clock.wait(360)
    call = Caller(create_app(world.settings, world.store, world.clock))
    (line, nobody) = call("GET", "/api/v1/cost?group_by=user&sort=-key")[1]["entries"]
    assert (line["key"], line["amount_micro"], nobody["key"], nobody["idle_micro"]) == ("ann", 50_000, "", 50_000)
    answer = call.raw("GET", "/api/v1/cost.csv?group_by=job&user=ann")
    assert answer.mimetype == "text/csv"
    (row,) = csv.DictReader(io.StringIO(answer.get_data(as_text=True)))
    assert (row["name"], row["amount"], row["hours"], row["currency"]) == ("'=1+1", "0.05", "0.0500", "USD")
    for path, field in (("cost?group_by=colour", "group_by"), ("cost?since=x", "since"), ("cost.csv?sort=key", "sort")):
        status, refused = call("GET", f"/api/v1/{path}")
        assert (status, list(refused["fields"])) == (422, [field])
