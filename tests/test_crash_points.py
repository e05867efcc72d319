"""The autoscaler stopped anywhere and started again: nothing is overspent, started twice or left running."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from coalition.store.cloud import ROLE
from tests.cloud_world import LINUX, budget, pool, settings
from tests.kill_points import POINTS, serve, tick_and_die
from tests.mortal import Mortal, Stop, a_farm, empty_database, moments

LONG = bool(os.environ.get("COALITION_TEST_LONG"))
SEEDS = 2_000 if LONG else 50
BATCH = 100 if LONG else 25  # which calls were made is asked of a whole batch, and a few farms may renew nothing
STEPS = 5
CHANCE = 1 / 300  # of a moment of a kind at which somebody has stopped before


class Reaper:
    """Stops the autoscaler at the first moment of each kind, and at others by chance; or lets it hang there."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.stopped: Counter[str] = Counter()

    def watch(self, world: Mortal, dice: random.Random) -> None:
        def watch(kind: str) -> None:
            self.seen[kind] += 1
            if self.stopped[kind] == 0 or dice.random() < CHANCE:
                self.stopped[kind] += 1
                raise Stop
            if kind.startswith(("call ", "after ")) and not world.fake.concurrent and dice.random() < 1 / 60:
                world.stall()

        moments.watch = watch


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_database(tmp_path_factory.mktemp("empty") / "coalition.db")


@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_wherever_it_is_stopped_nothing_is_overspent_started_twice_or_leaked(tmp_path: Path, empty: Path, first: int) -> None:
    reaper = Reaper()
    for seed in range(first, first + BATCH):
        world = a_farm(tmp_path, empty, seed)
        reaper.watch(world, random.Random(f"reaper {seed}"))
        world.come()
        for _ in range(STEPS):
            world.tick(seconds=1.0)
            world.run()
            for _ in range(2):
                world.happen()
        world.end()
        moments.watch = lambda kind: None
        world.close()
    assert set(reaper.seen) == set(reaper.stopped)
    calls = {f"call {verb}" for verb in ("launch", "launch answered", "list", "list answered", "terminate", "renew")}
    assert calls <= set(reaper.stopped)


# ---------------------------------------------------------------- kill -9


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes are forked from one that has read the modules already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.kill_points"])
    return context


def lead_up_to(world: Mortal, point: str) -> None:
    """The next tick comes by the point."""
    world.submit(2)
    where = POINTS[point][0]
    if where in ("reserve", "launch", "launched"):
        return
    world.tick()
    world.boot()
    (id,) = world.workers
    world.work(id, 2)
    if where in ("fund", "renew"):
        world.clock.wait(350)
        return
    if where == "settle":
        world.clock.wait(150)
        world.fake.lose(id)
        return
    world.store.mark_instances([1], "terminate", "ann")
    world.clock.wait(150)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_named_point_it_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, empty: Path, processes: Any, point: str
) -> None:
    budgets = [budget("all", 50.0, window="total"), budget("day", 1.0)]
    world = Mortal(tmp_path / "farm", empty, settings(tmp_path / "farm", [pool(max=1)], budgets), (LINUX,))
    lead_up_to(world, point)
    world.scaler.stop()
    line, theirs = processes.Pipe()
    child = processes.Process(target=tick_and_die, args=(theirs, world.settings, world.clock(), point))
    child.start()
    theirs.close()
    heard = serve(line, world.fake)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL, heard
    world.check()
    world.clock.wait(11.0)
    world.store.release_leader(ROLE, world.store.leader_of(ROLE)[0])  # type: ignore[index]
    world.clock.wait(0.01)
    world.scaler = world.new_scaler()
    world.tick(2, seconds=5.0)
    assert len(world.fake.orders) == len({request.token for request in world.requests()}) <= 2
    world.end()
    world.close()
