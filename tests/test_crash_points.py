"""The autoscaler stopped anywhere and started again: nothing is overspent, started twice or left running."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.mortal import Mortal, Stop, a_farm, empty_database, moments

LONG = bool(os.environ.get("COALITION_TEST_LONG"))
SEEDS = 2_000 if LONG else 50
BATCH = 25
STEPS = 6
CHANCE = 1 / 120  # of a moment of a kind at which somebody has stopped before


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
            for _ in range(2):
                world.happen()
        moments.watch = lambda kind: None
        world.end()
        world.close()
    assert set(reaper.seen) == set(reaper.stopped)
    calls = {f"call {verb}" for verb in ("launch", "launch answered", "list", "list answered", "terminate", "renew")}
    assert calls <= set(reaper.stopped)
