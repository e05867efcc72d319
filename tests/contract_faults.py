"""What a provider must survive, and where each failure of a cloud autoscaler is tested (ROWS, held by test_failure_rows.py).

Derive from ProviderFaults and give a `rig`; from NetworkFaults where there is something between us and the machines that may
refuse, delay or lose a call: every provider but `local`, whose own tests show the same on processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import pytest

from providers.base import Fate, Instance, Life, ProviderError, Reason, Rejected, Scope, TooLate, Unknown
from tests.contract_provider import Rig
from tests.polling import poll_until

# What goes wrong -> the tests that show what happens then. A test of a contract is run with every provider that it applies to.
ROWS: Mapping[str, Sequence[str]] = {
    "crash after the create call, before its answer is stored": (
        "contract_faults::test_an_answer_that_was_lost_after_the_start_is_had_again_with_the_token",
        "contract_provider::test_the_same_token_again_starts_nothing_more",
        "test_apply::test_wherever_it_stops_nothing_is_overspent_started_twice_or_leaked",
    ),
    "answer lost on the network": (
        "contract_faults::test_an_answer_that_was_lost_after_the_start_is_had_again_with_the_token",
        "contract_faults::test_a_request_that_was_lost_on_its_way_is_sent_again_with_the_token",
        "contract_faults::test_an_error_of_the_cloud_leaves_the_outcome_unknown_and_is_not_repeated",
        "test_apply::test_after_launch_by_an_open_intent_is_looked_for_and_never_sent",
    ),
    "replay with changed settings": (
        "contract_faults::test_settings_that_changed_since_start_nothing_twice",
        "test_apply::test_a_replay_sends_what_was_frozen_whatever_cloud_ini_says_now",
    ),
    "boot fails before the guest can tag itself": (
        "contract_faults::test_whose_it_is_and_its_deadline_are_set_by_the_launch_itself",
    ),
    "list lags behind create": (
        "contract_faults::test_a_list_that_lags_behind_starts_nothing_twice",
        "test_apply::test_a_list_that_lags_starts_nothing_twice_and_ends_nothing",
        "test_reaper::test_a_stray_is_ended_at_its_second_sighting_and_past_an_age",
    ),
    "fields missing in a listing": ("contract_faults::test_fields_that_are_missing_in_a_list_are_tolerated_and_told_once",),
    "no capacity in a zone": (
        "contract_faults::test_no_capacity_blocks_only_the_offering_after_one_call",
        "test_apply::test_no_capacity_blocks_the_offer_for_minutes_and_the_next_is_tried_at_the_next_tick",
    ),
    "partial fill": (
        "contract_faults::test_what_came_of_an_order_that_was_filled_in_part_is_kept",
        "test_apply::test_of_a_partial_fill_what_came_is_kept_and_the_rest_is_planned_again",
    ),
    "quota reached": (
        "contract_faults::test_a_quota_that_is_reached_blocks_the_region",
        "test_apply::test_a_quota_blocks_the_region_and_wrong_credentials_the_provider",
    ),
    "throttled": (
        "contract_faults::test_throttling_says_when_to_come_back_and_is_not_met_with_more_calls",
        "test_pacing::test_a_burst_goes_at_once_and_the_rest_at_the_rate",
        "test_pacing::test_delays_double_up_to_a_limit_are_spread_and_begin_anew",
    ),
    "credentials expired": (
        "contract_faults::test_credentials_that_expired_block_the_provider_after_one_call",
        "test_apply::test_a_quota_blocks_the_region_and_wrong_credentials_the_provider",
    ),
    "an instance never enrols": (
        "contract_provider::test_the_console_of_nobody_is_empty_and_nothing_is_announced",
        "test_aws_provider::test_the_console_is_what_ec2_kept",
        "test_gce_provider::test_the_console_is_the_end_of_what_the_machine_wrote",
        "test_local_provider::test_the_end_of_the_worker_is_the_end_of_the_instance",
        "test_apply::test_an_instance_that_never_enrols_is_ended_with_its_console_kept",
    ),
    "all boots fail (bad image)": ("test_apply::test_after_failed_boots_in_a_row_the_pool_stops_until_somebody_allows_it",),
    "terminate fails": (
        "contract_faults::test_an_instance_that_cannot_be_ended_now_is_still_there_and_ends_when_asked_again",
        "contract_faults::test_an_end_whose_answer_was_lost_is_an_end",
        "test_local_provider::test_terminate_ends_the_whole_tree_though_it_ignores_signals_and_left_the_group",
        "test_apply::test_an_instance_that_will_not_end_is_asked_again_and_still_counted",
    ),
    "the server dies for hours": (
        "contract_provider::test_an_instance_ends_by_itself_at_its_deadline",
        "test_local_provider::test_an_instance_survives_the_process_that_started_it",
        "test_aws_provider::test_the_sweeper_ends_what_is_past_its_deadline_and_nothing_else",
        "test_bootstrap::test_the_machine_ends_when_its_first_money_is_used_up",
    ),
    "the guest hangs and the server is dead": (
        "contract_provider::test_an_instance_ends_by_itself_at_its_deadline",
        "test_local_provider::test_a_worker_that_hangs_is_ended_at_the_deadline",
        "test_bootstrap::test_the_worker_moves_the_deadline_and_a_hung_worker_does_not",
        "test_decide::test_a_deadline_that_only_the_guest_keeps_must_be_accepted",
    ),
    "a stalled leader wakes up after its successor acted": (
        "contract_faults::test_a_leader_that_wakes_up_too_late_sends_nothing",
        "test_apply::test_a_leader_that_was_replaced_does_not_call_the_provider",
        "test_apply::test_a_leader_that_is_replaced_while_several_are_under_way_starts_nothing_twice",
    ),
    "spot interruption notice": (
        "contract_faults::test_what_will_be_taken_away_is_announced_with_its_time",
        "test_notices::test_a_notice_on_the_machine_drains_it_and_its_replacement_is_asked_for_in_the_same_tick",
        "test_notices::test_a_providers_notice_has_a_replacement_planned_in_the_same_tick_too",
    ),
    "silent reclaim": (
        "contract_faults::test_what_was_taken_away_without_a_word_is_gone_in_the_list",
        "test_apply::test_a_reclaimed_instance_is_seen_in_the_list_and_its_job_waits_again_at_once",
    ),
    "someone else's instance in the account": (
        "contract_faults::test_instances_of_others_in_the_account_are_not_listed",
        "test_reaper::test_somebody_elses_instance_is_never_touched",
    ),
    "two servers scale at once": ("test_loop::test_the_loser_of_the_lease_does_nothing",),
    "a job is leased while its instance is drained": (
        "test_store_cloud::test_only_an_instance_that_holds_nothing_and_drained_long_enough_ends_as_idle",
    ),
    "thrash": (
        "test_decide::test_an_idle_instance_stays_while_a_job_waits_that_fits_or_the_pool_keeps_it",
        "test_decide::test_a_drain_is_undone_when_jobs_come_unless_somebody_asked_for_it",
    ),
    "a job no offering can run": ("test_decide::test_what_no_pool_can_run_is_said_with_the_reason",),
    "fifty launches race for the last money": (
        "test_store_cloud::test_fifty_reservations_race_for_the_last_money_and_never_pass_the_cap",
    ),
    "the provider's list is down": (
        "contract_faults::test_a_list_that_cannot_be_had_raises",
        "test_local_provider::test_a_list_that_is_not_complete_raises",
        "test_aws_provider::test_a_list_whose_second_page_fails_is_no_list",
        "test_apply::test_while_the_list_is_down_nothing_is_ended_or_lost",
    ),
    "the clock jumps": ("test_bootstrap::test_a_wall_clock_that_is_wrong_gives_no_more_than_was_paid",),
    "price unknown, zero or old": (
        "test_decide::test_an_unknown_price_cannot_be_bought_under_a_hard_budget",
        "test_prices::test_a_price_of_0_or_one_that_is_too_old_is_none",
        "test_prices::test_an_old_price_is_not_spent_and_the_decision_says_how_old_it_is",
    ),
}


class Faults(Protocol):
    """cloud_faults.CloudFaults, or what does the same to a provider without a network."""

    def script(self, verb: str, *faults: str) -> None: ...
    def hide(self, lists: int) -> None: ...
    def bare(self, lists: int) -> None: ...
    def count(self, verb: str) -> int: ...


@dataclass
class FaultRig(Rig):
    """`reclaim` takes an instance away, `plant` starts one for another farm (its id): both behind the provider's back.

    `announce` says that an instance will be taken away; None for a cloud that does no such thing.
    """

    faults: Faults = None  # type: ignore[assignment]
    reclaim: Callable[[str], None] = lambda id: None
    plant: Callable[[str], str] = lambda farm: ""
    announce: Callable[[str], object] | None = None

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

    def test_what_was_taken_away_without_a_word_is_gone_in_the_list(self, rig: FaultRig) -> None:
        token, (first,) = rig.started()
        rig.reclaim(first.id)
        (seen,) = rig.until_gone(token)
        assert seen.reason

    def test_instances_of_others_in_the_account_are_not_listed(self, rig: FaultRig) -> None:
        stranger = rig.plant("another-farm")
        assert stranger not in {one.id for one in rig.provider.list() if one.farm == "coalition"}

    def test_what_will_be_taken_away_is_announced_with_its_time(self, rig: FaultRig) -> None:
        if rig.announce is None:  # this provider takes nothing away
            assert rig.provider.notices() == []
            return
        _, (first,) = rig.started()
        assert rig.provider.notices() == []
        rig.announce(first.id)
        (notice,) = poll_until(rig.provider.notices)
        assert notice.id == first.id
        assert rig.clock() - 1 <= notice.at <= rig.clock() + 150
        assert notice.reason


class NetworkFaults(ProviderFaults):
    """What besides may go wrong between us and a cloud."""

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

    def test_a_list_that_lags_behind_starts_nothing_twice(self, rig: FaultRig) -> None:
        rig.faults.hide(2)
        request = rig.request()
        (first,) = rig.provider.launch(request).instances
        assert rig.find(request.token) == []
        assert [one.id for one in rig.provider.launch(request).instances] == [first.id]
        poll_until(lambda: len(rig.find(request.token)) == 1)

    def test_fields_that_are_missing_in_a_list_are_tolerated_and_told_once(
        self, rig: FaultRig, caplog: pytest.LogCaptureFixture
    ) -> None:
        token, (first,) = rig.started()
        rig.faults.bare(2)
        for _ in range(2):
            (seen,) = rig.find(token)
            assert (seen.id, seen.life, seen.farm) == (first.id, Life.RUNNING, "coalition")
        assert len([record for record in caplog.records if "is listed without" in record.message]) <= 1

    @pytest.mark.parametrize("fault", ["error", "throttle", "auth", "lost_after"])
    def test_a_list_that_cannot_be_had_raises(self, rig: FaultRig, fault: str) -> None:
        rig.started()
        rig.faults.script("list", fault)
        with pytest.raises(ProviderError):
            rig.provider.list()

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
