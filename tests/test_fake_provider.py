"""The provider in memory: it keeps the contract, bills, and fails on request."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from providers.base import Life, Notice, Reason, Rejected, Scope, Unknown
from providers.fake import FakeProvider
from tests.contract_faults import FaultRig, NetworkFaults
from tests.contract_provider import ProviderContract, Rig


class Clock:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class TestFakeContract(ProviderContract):
    @pytest.fixture
    def rig(self) -> Rig:
        clock = Clock()
        return Rig(FakeProvider(clock=clock), clock, clock.wait)


REFUSALS = {
    "capacity": (Reason.CAPACITY, Scope.OFFERING),
    "quota": (Reason.QUOTA, Scope.REGION),
    "throttle": (Reason.THROTTLE, Scope.REGION),
    "auth": (Reason.AUTH, Scope.PROVIDER),
    "invalid": (Reason.INVALID, Scope.OFFERING),
}


@dataclass
class Scripted:
    """What a cloud's fault layer does, in the words of the provider in memory."""

    fake: FakeProvider

    def script(self, verb: str, *faults: str) -> None:
        for fault in faults:
            kind, _, value = fault.partition(":")
            if kind == "lost_after":
                self.fake.faults.lost_answers[verb] += 1
            elif kind == "partial":
                self.fake.faults.partial.append(int(value))
            elif kind in REFUSALS:
                reason, scope = REFUSALS[kind]
                wait_s = 5.0 if reason is Reason.THROTTLE else None
                self.fake.faults.errors[verb].append(Rejected(reason, "by the script", scope, wait_s))
            else:
                self.fake.faults.errors[verb].append(Unknown(kind))

    def hide(self, lists: int) -> None:
        self.fake.faults.hidden_lists = lists

    def bare(self, lists: int) -> None:
        self.fake.faults.bare_lists = lists

    def count(self, verb: str) -> int:
        return sum(call == verb for call, _ in self.fake.calls)


class TestFakeFaults(NetworkFaults):
    @pytest.fixture
    def rig(self) -> FaultRig:
        clock = Clock()
        fake = FakeProvider(clock=clock)

        def announce(id: str) -> None:
            fake.pending_notices.append(Notice(id, clock() + 120, "wanted back"))

        rig = FaultRig(fake, clock, clock.wait, faults=Scripted(fake), reclaim=fake.lose, announce=announce)
        rig.plant = lambda farm: fake.plant(farm, "x" * 32)
        return rig


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fake(clock: Clock) -> FakeProvider:
    return FakeProvider(clock=clock)


@pytest.fixture
def rig(fake: FakeProvider, clock: Clock) -> Rig:
    return Rig(fake, clock, clock.wait)


def test_it_raises_the_next_error_once_and_records_every_call(fake: FakeProvider, rig: Rig) -> None:
    fake.faults.errors["launch"].append(Rejected(Reason.CAPACITY, "none left"))
    request = rig.request()
    with pytest.raises(Rejected):
        fake.launch(request)
    assert fake.launch(request).instances
    assert [verb for verb, _ in fake.calls] == ["launch", "launch"]


def test_a_lost_answer_comes_after_the_effect(fake: FakeProvider, rig: Rig) -> None:
    fake.faults.lost_answers["launch"] = 1
    request = rig.request()
    with pytest.raises(Unknown):
        fake.launch(request)
    assert len(rig.find(request.token)) == 1


def test_a_partial_fill_says_so_and_stays_so(fake: FakeProvider, rig: Rig) -> None:
    fake.faults.partial.append(2)
    request = rig.request(count=5)
    started = fake.launch(request)
    assert len(started.instances) == 2
    assert started.shortfall == "2 of 5 were to be had"
    assert len(fake.launch(request).instances) == 2


def test_new_instances_are_hidden_from_lists_on_request(fake: FakeProvider, rig: Rig) -> None:
    fake.faults.hidden_lists = 2
    request = rig.request()
    fake.launch(request)
    assert [len(rig.find(request.token)) for _ in range(3)] == [0, 0, 1]


def test_the_bill_is_the_price_of_the_time_until_the_end(fake: FakeProvider, rig: Rig, clock: Clock) -> None:
    (started,) = fake.launch(rig.request(lasts_s=7_200)).instances
    clock.wait(1_800)
    assert fake.bill() == 50_000
    fake.lose(started.id)
    clock.wait(1_800)
    assert fake.bill() == 50_000


def test_nothing_is_billed_after_the_deadline(fake: FakeProvider, rig: Rig, clock: Clock) -> None:
    request = rig.request(lasts_s=3_600)
    fake.launch(request)
    clock.wait(86_400)
    assert fake.bill() == 100_000
    assert rig.lives(request.token) == [Life.GONE]
