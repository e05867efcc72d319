"""A snapshot of a large farm: what decide() has to look at in one tick."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from autoscaler.snapshot import Demand, Instance, Pool, Snapshot, Worker, pool_of
from coalition.config import AutoscalerSettings, PoolSettings
from coalition.matching import Capacity, Requirement
from coalition.schema_version import prepare
from coalition.store import Store
from providers.base import Deadline, Offering
from tests.cloud_world import LINUX, World, pool, settings

GIB = 1 << 30
NOW = 1_700_000_000.0
Filled = tuple[Store, list[Pool]]
SIZES = (2, 4, 8, 16, 32, 48, 64, 96)


def large(jobs: int = 100_000, sets: int = 200, instances: int = 2_000, offers: int = 1_500) -> Snapshot:
    """That many waiting jobs in that many requirement sets; half of the instances are busy, a tenth is idle, the rest boots."""
    per_pool = offers // 3
    pools = [
        pool_of(
            PoolSettings(f"p{pool}", 1, provider="fake", affinity=("linux", f"zone{pool}"), max=5_000, idle_s=300.0),
            [_offer(pool, number) for number in range(per_pool)],
            Deadline.PROVIDER,
        )
        for pool in range(3)
    ]
    demands = [_demand(number, jobs // sets) for number in range(sets)]
    fleet = [_instance(number, pools[number % 3].offers[number % per_pool]) for number in range(instances)]
    workers = [_worker(one) for one in fleet if one.worker_id is not None]
    return Snapshot(NOW, AutoscalerSettings(), tuple(pools), tuple(demands), tuple(workers), tuple(fleet))


@contextmanager
def filled(folder: Path, jobs: int = 100_000, sets: int = 200, instances: int = 2_000, offers: int = 1_500) -> Iterator[Filled]:
    """The same in a database, and pools with such offers: the instances' workers run two jobs each."""
    wares = [replace(LINUX, name=f"m{n}", type=f"m{n}", price_micro=1_000_000 + n, memory_bytes=64 * GIB) for n in range(offers)]
    world = World(folder, settings(folder, [pool(max=instances)]), wares)
    for number in range(sets):
        world.submit(jobs // sets, memory_bytes=(number + 1) << 20)
    world.tick()
    world.boot()
    for id in world.workers:
        world.work(id, 2)
    world.submit(2 * instances)
    try:
        yield world.store, [pool_of(replace(world.settings.pools[0], max=2 * instances), wares, Deadline.PROVIDER)]
    finally:
        world.scaler.stop()
        world.store.close()


def a_fleet(folder: Path, machines: int) -> None:
    """Puts so many machines with their workers into the database of a server that is started in this folder afterwards."""
    wanted = settings(folder, [pool(max=machines)])
    folder.mkdir(parents=True)
    prepare(wanted)  # as a server does it, which looks for the schema's version
    world = World(folder, wanted)
    world.submit(LINUX.slots * machines)
    world.tick()
    world.boot()
    world.scaler.stop()
    world.store.close()


def _offer(pool: int, number: int) -> Offering:
    cpus = SIZES[number % len(SIZES)]
    gpus = 1 if number % 5 == 0 else 0
    market = "spot" if number % 2 else "on-demand"
    price = int(cpus * (12_000 + 37 * (number % 101)) * (1.0 if market == "spot" else 2.5)) + gpus * 400_000
    return Offering(
        name=f"t{number}.{cpus}-{market}",
        type=f"t{number}.{cpus}",
        zone=f"zone{pool}{number % 3}",
        market=market,
        price_micro=price,
        currency="USD",
        slots=cpus,
        cpus=cpus,
        memory_bytes=cpus * (2 + 2 * (number % 3)) * GIB,
        gpus=gpus,
    )


def _demand(number: int, waiting: int) -> Demand:
    tags = ("linux",) if number % 3 else ("linux", f"zone{number % 2}")
    memory = (number % 7) * 4 * GIB if number % 2 else 0
    need = Requirement(
        tags=tags, cpus=number % 9, memory_bytes=memory, gpus=1 if number % 20 == 0 else 0, limits=(("l", number),)
    )
    return Demand(need, "7f", waiting, 60.0 + 30 * (number % 40))


def _instance(number: int, offer: Offering) -> Instance:
    boots = number % 10 in (0, 1, 2, 3)
    lines = (("linux", f"zone{number % 3}"),)
    return Instance(
        id=number + 1,
        pool=f"p{number % 3}",
        offering=offer.name,
        provider_id=f"i-{number}",
        state="STARTING" if boots else "RUNNING",
        slots=offer.slots,
        price_micro=offer.price_micro,
        capacity=Capacity(lines, offer.cpus, offer.memory_bytes, offer.gpus),
        sponsors=(),
        worker_id=None if boots else number + 1,
        committed_until=NOW + 900,
        funded_until=NOW + 840,
        created_at=NOW - 60,
        launched_at=NOW - 50,
        wish="",
        wished_by="",
        reason="",
        launch_by=NOW - 30,
        minimum_s=60.0,
        granularity_s=1.0,
    )


def _worker(one: Instance) -> Worker:
    idle = one.id % 10 == 5
    running = 0 if idle else one.slots
    return Worker(
        id=one.id,
        name=f"w{one.id}",
        state="WAITING" if idle else "WORKING",
        active=True,
        slots=one.slots,
        running=running,
        capacity=one.capacity,
        idle_since=NOW - 400 if idle else None,
        seen_at=NOW - 1,
        instance_id=one.id,
    )
