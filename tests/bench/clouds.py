"""What the benchmark of clouds does: EC2's stand-in runs in another process, so that its work is not counted as ours."""

from __future__ import annotations

import multiprocessing
import resource
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import pytest

from autoscaler.crew import Crew, Task
from coalition.config import PoolSettings
from providers.aws import LAUNCH_BURST, LAUNCHES_PER_S, AwsProvider
from providers.base import Request
from providers.pacing import Bucket

REGION = "us-east-1"
LATE_S = 5.0  # so long EC2 may think about a launch
FILL = 100  # machines a call, while the list is filled


@dataclass
class Stage:
    """A provider, the request that starts `count` machines, and how many launches the cloud saw."""

    provider: AwsProvider
    pool: PoolSettings
    link: Connection

    def request(self, count: int) -> Request:
        (offer,) = self.provider.offerings(self.pool)
        now = time.time()
        named = (secrets.token_hex(16), "coalition", "p", "aws", REGION)
        return Request(*named, offer, count, (), "", "https://farm.example.com", 0, now + 600, now + 900)

    def launches(self) -> int:
        self.link.send("launches")
        return int(self.link.recv())

    def worked(self) -> float:
        """Seconds of processor time that the stand-in has used."""
        self.link.send("worked")
        return float(self.link.recv())


def _serve(link: Connection) -> None:
    """The other process."""
    from tests.fakes.aws_cloud import aws_here

    with aws_here() as cloud:
        cloud.gaps.prices.on_demand["c5.large"] = 0.1
        link.send((cloud.url, cloud.image()))
        while (word := link.recv()) != "end":
            if word.startswith("late "):
                cloud.faults.script("launch", *[f"slow:{LATE_S}"] * int(word[5:]))
            link.send(time.process_time() if word == "worked" else cloud.faults.count("launch"))


@contextmanager
def ec2_here() -> Iterator[Stage]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    url, image = ours.recv()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        pool = PoolSettings("p", 1, provider="aws", region=REGION, zones=("us-east-1a",), types=("c5.large",), image=image,
                            purchase=("on-demand",))  # fmt: skip
        yield Stage(AwsProvider(REGION, "coalition", endpoint=url), pool, ours)
    ours.send("end")
    process.join(10)


def launch_many(stage: Stage, count: int) -> tuple[int, float]:
    """(calls, seconds) for so many machines of one plan."""
    request, before = stage.request(count), stage.launches()
    start = time.perf_counter()
    started = stage.provider.launch(request)
    seconds = time.perf_counter() - start
    assert len(started.instances) == count
    return stage.launches() - before, seconds


def launch_several(stage: Stage, count: int, offers: int) -> tuple[int, float, float]:
    """(calls, seconds, the least that the rate allows) for so many machines of one plan, over so many offers, each answered late.

    As the autoscaler sends them: by its crew, below the rate that the provider keeps.
    """
    requests = [stage.request(count // offers) for _ in range(offers)]
    stage.provider.bucket = Bucket(LAUNCHES_PER_S, LAUNCH_BURST)
    stage.link.send(f"late {offers}")
    stage.link.recv()
    before, crew, started = stage.launches(), Crew(), []
    start = time.perf_counter()
    crew.run(
        [Task(number, partial(stage.provider.launch, request), True) for number, request in enumerate(requests)],
        lambda _, launched: started.extend(launched.instances),
    )
    seconds = time.perf_counter() - start
    crew.close()
    assert len(started) == count
    return stage.launches() - before, seconds, (offers - LAUNCH_BURST) / LAUNCHES_PER_S + LATE_S


def fill(stage: Stage, count: int) -> None:
    stage.provider.bucket.per_s = stage.provider.bucket.burst = 1e6  # EC2's limit is none of moto's
    have = len(stage.provider.list())
    while have < count:
        more = min(FILL, count - have)
        stage.provider.launch(stage.request(more))
        have += more


def list_s(stage: Stage, count: int) -> tuple[float, float, float]:
    """(seconds, of which this process worked, and the stand-in): the rest is other work on the machine."""
    start, ours, theirs = time.perf_counter(), time.process_time(), stage.worked()
    assert len(stage.provider.list()) == count
    return time.perf_counter() - start, time.process_time() - ours, stage.worked() - theirs


def import_s(program: str) -> float:
    """The least of some runs of a new Python, in seconds of processor time: others on the machine do not count."""
    times = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times)
