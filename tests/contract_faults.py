"""What a provider must survive of its cloud: a row of docs/clouds.md each. Derive from ProviderFaults and give a `rig`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pytest

from providers.base import Fate, Instance, Life, ProviderError, Reason, Rejected, Scope, TooLate, Unknown
from tests.contract_provider import Rig
from tests.polling import poll_until


class Faults(Protocol):
    """cloud_faults.CloudFaults, or what does the same to a provider without a network."""

    def script(self, verb: str, *faults: str) -> None: ...
    def hide(self, lists: int) -> None: ...
    def bare(self, lists: int) -> None: ...
    def count(self, verb: str) -> int: ...


@dataclass
class FaultRig(Rig):
    """`reclaim` takes an instance away, `plant` starts one for another farm (its id): both behind the provider's back."""

    faults: Faults = None  # type: ignore[assignment]
    reclaim: Callable[[str], None] = lambda id: None
    plant: Callable[[str], str] = lambda farm: ""

    def started(self, count: int = 1) -> tuple[str, Sequence[Instance]]:
        """(token, instances) that run."""
        request = self.request(count=count)
        found = self.provider.launch(request).instances
        poll_until(lambda: self.lives(request.token) == [Life.RUNNING] * count, state=lambda: self.find(request.token))
        return request.token, found

    def refused(self, fault: str) -> Rejected:
        """What a launch says that the cloud refused, after one call and no more."""
        before = self.faults.count("launch")
        self.faults.script("launch", fault)
        request = self.request()
        with pytest.raises(Rejected) as caught:
            self.provider.launch(request)
        assert self.faults.count("launch") == before + 1
        assert self.find(request.token) == []
        return caught.value


class ProviderFaults:
    @pytest.fixture
    def rig(self) -> FaultRig:
        raise NotImplementedError

    # ------------------------------------------------------------ launch

    def test_an_answer_that_was_lost_after_the_start_is_had_again_with_the_token(self, rig: FaultRig) -> None:
        rig.faults.script("launch", "lost_after")
        request = rig.request(count=2)
        with pytest.raises(Unknown):
            rig.provider.launch(request)
        again = rig.provider.launch(request)
        assert len(again.instances) == 2
        assert {one.id for one in rig.find(request.token)} == {one.id for one in again.instances}

    def test_a_request_that_was_lost_on_its_way_is_sent_again_with_the_token(self, rig: FaultRig) -> None:
        rig.faults.script("launch", "lost_before")
        request = rig.request()
        with pytest.raises(Unknown):
            rig.provider.launch(request)
        assert rig.find(request.token) == []
        assert len(rig.provider.launch(request).instances) == 1
        assert len(rig.find(request.token)) == 1

    def test_an_error_of_the_cloud_leaves_the_outcome_unknown_and_is_not_repeated(self, rig: FaultRig) -> None:
        rig.faults.script("launch", "error")
        before = rig.faults.count("launch")
        with pytest.raises(Unknown):
            rig.provider.launch(rig.request())
        assert rig.faults.count("launch") == before + 1

    def test_no_capacity_blocks_only_the_offering_after_one_call(self, rig: FaultRig) -> None:
        error = rig.refused("capacity")
        assert (error.kind, error.scope) == (Reason.CAPACITY, Scope.OFFERING)
        assert str(error)

    def test_a_quota_that_is_reached_blocks_the_region(self, rig: FaultRig) -> None:
        error = rig.refused("quota")
        assert (error.kind, error.scope) == (Reason.QUOTA, Scope.REGION)

    def test_throttling_says_when_to_come_back_and_is_not_met_with_more_calls(self, rig: FaultRig) -> None:
        error = rig.refused("throttle")
        assert (error.kind, error.scope) == (Reason.THROTTLE, Scope.REGION)
        assert error.retry_after_s is not None
        assert error.retry_after_s > 0

    def test_credentials_that_expired_block_the_provider_after_one_call(self, rig: FaultRig) -> None:
        error = rig.refused("auth")
        assert (error.kind, error.scope) == (Reason.AUTH, Scope.PROVIDER)

    def test_a_request_that_is_wrong_says_what_the_cloud_said(self, rig: FaultRig) -> None:
        assert rig.refused("invalid").kind is Reason.INVALID

    def test_what_came_of_an_order_that_was_filled_in_part_is_kept(self, rig: FaultRig) -> None:
        rig.faults.script("launch", "partial:2")
        request = rig.request(count=5)
        started = rig.provider.launch(request)
        assert len(started.instances) == 2
        assert "2 of 5" in started.shortfall
        assert {one.id for one in rig.provider.launch(request).instances} == {one.id for one in started.instances}
        assert len(rig.find(request.token)) == 2

    def test_whose_it_is_and_its_deadline_are_set_by_the_launch_itself(self, rig: FaultRig) -> None:
        before = rig.faults.count("renew")
        token, _ = rig.started()
        assert [(one.farm, one.pool, one.token) for one in rig.find(token)] == [("coalition", "p", token)]
        assert rig.faults.count("renew") == before

    def test_a_leader_that_wakes_up_too_late_sends_nothing(self, rig: FaultRig) -> None:
        request = rig.request(launch_by_s=-0.001)
        before = rig.faults.count("launch")
        with pytest.raises(TooLate):
            rig.provider.launch(request)
        assert rig.faults.count("launch") == before

    def test_settings_that_changed_since_start_nothing_twice(self, rig: FaultRig) -> None:
        request = rig.request()
        (first,) = rig.provider.launch(request).instances
        (again,) = rig.provider.launch(replace(request, affinity=("other",), server_url="https://other.example.com")).instances
        assert again.id == first.id
        assert len(rig.find(request.token)) == 1

    # ------------------------------------------------------------ lists

    def test_a_list_that_lags_behind_starts_nothing_twice(self, rig: FaultRig) -> None:
        rig.faults.hide(2)
        request = rig.request()
        (first,) = rig.provider.launch(request).instances
        assert rig.find(request.token) == []
        assert [one.id for one in rig.provider.launch(request).instances] == [first.id]
        poll_until(lambda: len(rig.find(request.token)) == 1)

    def test_fields_that_are_missing_in_a_list_are_tolerated(self, rig: FaultRig) -> None:
        token, (first,) = rig.started()
        rig.faults.bare(1)
        (seen,) = rig.find(token)
        assert (seen.id, seen.life, seen.farm) == (first.id, Life.RUNNING, "coalition")

    @pytest.mark.parametrize("fault", ["error", "throttle", "auth", "lost_after"])
    def test_a_list_that_cannot_be_had_raises(self, rig: FaultRig, fault: str) -> None:
        rig.started()
        rig.faults.script("list", fault)
        with pytest.raises(ProviderError):
            rig.provider.list()

    def test_what_was_taken_away_without_a_word_is_gone_in_the_list(self, rig: FaultRig) -> None:
        token, (first,) = rig.started()
        rig.reclaim(first.id)
        (seen,) = rig.until_gone(token)
        assert seen.reason

    def test_instances_of_others_in_the_account_are_not_listed(self, rig: FaultRig) -> None:
        stranger = rig.plant("another-farm")
        assert stranger not in {one.id for one in rig.provider.list() if one.farm == "coalition"}

    # ------------------------------------------------------------ end, renew

    def test_an_instance_that_cannot_be_ended_now_is_still_there_and_ends_when_asked_again(self, rig: FaultRig) -> None:
        token, (first,) = rig.started()
        rig.faults.script("terminate", "error", "error")
        for _ in range(2):
            with contextlib.suppress(ProviderError):
                assert rig.provider.terminate([first.id]) == {first.id: Fate.FAILED}
            assert rig.lives(token) == [Life.RUNNING]
        assert rig.provider.terminate([first.id])[first.id] in (Fate.GOING, Fate.GONE)
        rig.until_gone(token)

    def test_an_end_whose_answer_was_lost_is_an_end(self, rig: FaultRig) -> None:
        token, (first,) = rig.started()
        rig.faults.script("terminate", "lost_after")
        with pytest.raises(Unknown):
            rig.provider.terminate([first.id])
        rig.until_gone(token)
        assert rig.provider.terminate([first.id])[first.id] in (Fate.GOING, Fate.GONE)
