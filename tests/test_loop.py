"""Who leads, what wakes it, and the whole of it with real threads and a real clock."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection

from autoscaler.loop import Autoscaler, make_providers
from coalition.backup import back_up, restore
from coalition.config import Settings
from coalition.errors import ConfigError
from coalition.model import JobSpec
from coalition.schema import metadata
from coalition.schema_version import prepare
from coalition.store import Store
from providers.base import ProviderError, Request
from providers.fake import FakeProvider
from tests.cloud_world import LINUX, World, budget, pool, settings
from tests.polling import poll_until


def test_the_loser_of_the_lease_does_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    other = Autoscaler(world.settings, Store(world.settings, world.clock), {"fake": world.fake})
    world.scaler.lease_s = 10
    world.submit(4)
    world.tick()
    calls = len(world.fake.calls)
    assert other.tick() is False
    assert len(world.fake.calls) == calls
    world.clock.wait(11)
    other.tick()
    assert len(world.fake.calls) > calls
    assert world.live() == 2  # the successor starts nothing twice
    other.store.close()


class WritesCounted(Store):
    writes = 0

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.writes += 1
        with super().write() as db:
            yield db


def test_who_waits_for_the_lease_writes_nothing_until_it_is_free(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = WritesCounted(world.settings, world.clock)
    other = Autoscaler(world.settings, store, {"fake": world.fake})
    world.scaler.lease_s = 10
    world.tick()
    assert [other.tick() for _ in range(3)] == [False] * 3
    assert store.writes == 0
    world.clock.wait(11)
    other.tick()
    assert store.writes > 0
    assert store.leader_of("autoscaler") is not None
    store.close()


def test_a_leader_that_stops_hands_over_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.tick()
    world.scaler.stop()
    world.clock.wait(0.01)
    other = world.new_scaler()
    other.tick()
    assert world.store.farm_money()["scaling"]["leader"] == other.holder


def test_time_without_a_leader_does_not_end_what_boots(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.submit(2)
    world.tick()
    world.fake.machines["f-1"].until += 1e6
    world.clock.wait(700)
    world.scaler = world.new_scaler()
    world.tick()
    assert world.states() == ["STARTING"]


def test_what_comes_or_goes_is_looked_at_soon(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.scaler.tick() is False
    world.submit(1)
    assert world.scaler.tick() is False  # it boots: the worker's enrolment is the next step
    world.store.mark_instances([1], "terminate")
    world.fake.faults.stubborn = 1
    assert world.scaler.tick() is True


def test_a_provider_that_is_not_installed_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "providers.aws", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)  # as where it is not installed
    with pytest.raises(ConfigError, match=r"provider aws .* pip install 'coalition\[aws\]'"):
        Autoscaler(settings(tmp_path, [pool(provider="aws")]), Store(settings(tmp_path)))
    assert set(make_providers(settings(tmp_path, [pool(provider="local"), pool(name="q")]))) == {"local", "fake"}


def test_instances_of_a_pool_that_was_taken_out_are_still_looked_after(tmp_path: Path) -> None:
    world = World(tmp_path, settings(tmp_path, [pool()]))
    world.submit(1)
    world.tick()
    world.reconfigure(pools=())
    world.tick(3, seconds=1)
    assert world.live() == 0
    assert world.states() == ["GONE"]


def restored(tmp_path: Path, ran: int) -> World:
    """A farm whose backup was given back, and jobs for it; `ran` jobs had an instance started since the backup."""
    rules = [settings(tmp_path / name, [pool(max=5)], [budget()]) for name in ("old", "new")]
    prepare(rules[0])
    back_up(rules[0], tmp_path / "before.gz")
    old = World(tmp_path, rules[0])
    old.submit(ran)
    old.tick()
    restore(rules[1], tmp_path / "before.gz")
    new = World(tmp_path, rules[1])
    new.clock = new.store.clock = old.clock
    new.fake = old.fake
    new.scaler = new.new_scaler()
    new.submit(2)
    return new


def test_after_a_restored_backup_nothing_starts_before_what_was_started_since_is_ended(tmp_path: Path) -> None:
    world = restored(tmp_path, ran=2)
    world.fake.faults.errors["list"].append(ProviderError("for once"))
    for why in ("fake cannot list the instances", "1 instances that have no record", "1 instances that have no record"):
        world.tick()
        assert why in world.reasons("hold")[0]
        world.clock.wait(125)
    assert len(world.fake.orders) == 1
    assert world.live() == 0
    world.tick()
    assert len(world.fake.orders) == 2


def test_after_a_restored_backup_nothing_starts_while_lists_may_lag(tmp_path: Path) -> None:
    world = restored(tmp_path, ran=0)
    world.tick()
    assert "nothing starts for 120 s, as lists may lag" in world.reasons("hold")[0]
    world.clock.wait(121)
    assert world.fake.orders == {}
    world.tick(2)
    assert len(world.fake.orders) == 1
    assert "farm.reconcile" in {event["kind"] for event in world.store.events({}, 0.0, 50)}


# ---------------------------------------------------------------- with threads


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Settings, Store, FakeProvider, Autoscaler]]:
    wanted = settings(tmp_path, [pool(max=3)], [budget()], interval_s=60.0)
    store = Store(wanted)
    metadata.create_all(store.engine)
    fake = FakeProvider(offers=(LINUX,))
    scaler = Autoscaler(wanted, store, {"fake": fake})
    scaler.start()
    yield wanted, store, fake, scaler
    scaler.stop()
    store.close()


def test_a_job_from_another_process_is_answered_by_a_start_within_two_seconds(
    running: tuple[Settings, Store, FakeProvider, Autoscaler],
) -> None:
    wanted, store, fake, _ = running
    poll_until(lambda: store.decisions())
    elsewhere = Store(wanted)
    begin = time.monotonic()
    elsewhere.submit([JobSpec(command="true", affinity=("linux",))])
    elsewhere.close()
    poll_until(lambda: fake.orders, timeout_s=5)
    assert time.monotonic() - begin < 2.0


def test_a_tick_that_fails_is_followed_by_the_next(running: tuple[Settings, Store, FakeProvider, Autoscaler]) -> None:
    _, store, fake, _ = running
    poll_until(lambda: store.decisions())
    failed: list[Request] = []

    def fail(point: str) -> None:
        if point == "launch" and not failed:
            failed.append(fake.calls[-1][1])
            raise ConfigError("for once")

    fake.before = fail
    store.submit([JobSpec(command="true", affinity=("linux",))])
    poll_until(lambda: failed)
    store.submit([JobSpec(command="true", affinity=("linux",))])
    poll_until(lambda: fake.orders)
    assert replace(failed[0], enrol_token="").token in fake.orders
