"""What every provider must do. A test module derives from ProviderContract and gives a `rig`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from coalition.config import PoolSettings, options_of
from providers.base import Deadline, Fate, Instance, Life, Offering, Provider, Request, TooLate
from tests.polling import poll_until

POOL = PoolSettings("p", 1, provider="local", affinity=("linux",), slots=2, max=4, price_micro=100_000)
MACHINE = Offering("machine", "machine", slots=2, price_micro=100_000)


@dataclass
class Rig:
    """A provider under test, its clock, and a way to let time pass on it."""

    provider: Provider
    clock: Callable[[], float]
    wait: Callable[[float], None] = lambda seconds: None
    pool: PoolSettings = POOL
    offering: Offering = MACHINE

    def request(self, count: int = 1, *, lasts_s: float = 600.0, launch_by_s: float = 60.0, token: str = "") -> Request:
        return Request(
            token=token or secrets.token_hex(16),
            farm="coalition",
            pool="p",
            provider=self.provider.name,
            region=self.pool.region,
            offering=self.offering,
            count=count,
            affinity=("linux",),
            image="",
            server_url="",
            discovery_port=19211,
            launch_by=self.clock() + launch_by_s,
            until=self.clock() + lasts_s,
            options=options_of(self.pool),
            enrol_token="id.secret",
        )

    def find(self, token: str) -> Sequence[Instance]:
        return [instance for instance in self.provider.list() if instance.token == token]

    def lives(self, token: str) -> list[Life]:
        return [instance.life for instance in self.find(token)]

    def until_gone(self, token: str) -> Sequence[Instance]:
        def gone() -> Sequence[Instance]:
            found = self.find(token)
            return found if all(instance.life is Life.GONE for instance in found) else ()

        return poll_until(gone, state=lambda: self.find(token))


class ProviderContract:
    @pytest.fixture
    def rig(self) -> Rig:
        raise NotImplementedError

    def test_a_pool_that_can_work_has_no_problems_and_offers_with_a_price(self, rig: Rig) -> None:
        assert list(rig.provider.check(rig.pool)) == []
        offers = rig.provider.offerings(rig.pool)
        assert offers
        assert all(offer.slots == 2 and offer.price_micro == 100_000 for offer in offers)

    def test_launch_starts_count_instances_tagged_with_token_and_number(self, rig: Rig) -> None:
        request = rig.request(count=3)
        started = rig.provider.launch(request)
        assert not started.shortfall
        assert sorted(instance.k for instance in started.instances if instance.k is not None) == [0, 1, 2]
        assert {(i.token, i.farm, i.pool) for i in rig.find(request.token)} == {(request.token, "coalition", "p")}
        assert len(rig.find(request.token)) == 3

    def test_the_same_token_again_starts_nothing_more(self, rig: Rig) -> None:
        request = rig.request(count=2)
        first = rig.provider.launch(request)
        again = rig.provider.launch(replace(request, offering=replace(request.offering, type="other")))
        assert {instance.id for instance in again.instances} == {instance.id for instance in first.instances}
        assert len(rig.find(request.token)) == 2

    def test_the_same_token_starts_nothing_more_after_the_instances_ended(self, rig: Rig) -> None:
        request = rig.request()
        (started,) = rig.provider.launch(request).instances
        poll_until(lambda: rig.lives(request.token) == [Life.RUNNING])
        rig.provider.terminate([started.id])
        rig.until_gone(request.token)
        again = rig.provider.launch(request)
        assert [instance.life for instance in again.instances] == [Life.GONE]

    def test_a_request_past_its_launch_by_is_not_sent(self, rig: Rig) -> None:
        request = rig.request(launch_by_s=-1.0)
        with pytest.raises(TooLate):
            rig.provider.launch(request)
        assert rig.find(request.token) == []

    def test_an_instance_is_seen_running_then_gone_with_its_end_after_terminate(self, rig: Rig) -> None:
        request = rig.request()
        (started,) = rig.provider.launch(request).instances
        poll_until(lambda: rig.lives(request.token) == [Life.RUNNING], state=lambda: rig.find(request.token))
        before = rig.clock()
        assert rig.provider.terminate([started.id])[started.id] in (Fate.GOING, Fate.GONE)
        (seen,) = rig.until_gone(request.token)
        assert seen.ended_at is not None
        assert before - 1 <= seen.ended_at <= rig.clock() + 1
        assert seen.reason

    def test_terminate_again_is_harmless_and_strangers_are_gone(self, rig: Rig) -> None:
        request = rig.request()
        (started,) = rig.provider.launch(request).instances
        rig.provider.terminate([started.id])
        rig.until_gone(request.token)
        assert rig.provider.terminate([started.id, "nobody-0"]) == {started.id: Fate.GONE, "nobody-0": Fate.GONE}

    def test_an_instance_ends_by_itself_at_its_deadline(self, rig: Rig) -> None:
        request = rig.request(lasts_s=1.0)
        rig.provider.launch(request)
        rig.wait(1.0)
        if rig.provider.deadline is Deadline.GUEST:  # nobody else does
            assert Life.GONE not in rig.lives(request.token)
            return
        (seen,) = rig.until_gone(request.token)
        assert seen.ended_at is not None
        assert seen.ended_at <= request.until + 30
        assert "time" in seen.reason

    def test_renew_moves_the_deadline_and_tells_it(self, rig: Rig) -> None:
        request = rig.request(lasts_s=1.5)
        (started,) = rig.provider.launch(request).instances
        later = rig.clock() + 600
        told = rig.provider.renew([started.id, "nobody-0"], later)
        if not rig.provider.renewable:  # the deadline in force is the launch's
            assert told.keys() == {started.id}
            assert rig.clock() <= told[started.id] <= request.until + 60
            return
        assert told == {started.id: later}
        rig.wait(2.5)
        poll_until(lambda: rig.clock() > request.until + 0.7)
        assert Life.GONE not in rig.lives(request.token)

    def test_an_instance_that_is_gone_cannot_be_renewed(self, rig: Rig) -> None:
        request = rig.request()
        (started,) = rig.provider.launch(request).instances
        rig.provider.terminate([started.id])
        rig.until_gone(request.token)
        assert rig.provider.renew([started.id], rig.clock() + 600) == {}

    def test_the_console_of_nobody_is_empty_and_nothing_is_announced(self, rig: Rig) -> None:
        assert rig.provider.console("nobody-0") == ""
        assert list(rig.provider.notices()) == []
