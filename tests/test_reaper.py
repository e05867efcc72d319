"""Our rows against the provider's list: what is gone, found, nobody's, or not known."""

from __future__ import annotations

from dataclasses import dataclass

from autoscaler.reaper import Findings, reap
from providers.base import Instance, Life

NOW = 10_000.0


@dataclass(frozen=True)
class Row:
    id: int = 1
    intent_id: int = 1
    token: str = "t"
    k: int = 0
    provider: str = "fake"
    provider_id: str = "i-1"
    state: str = "RUNNING"
    committed_until: float = NOW + 100
    launched_at: float | None = NOW - 1_000
    launch_by: float = NOW - 940
    minimum_s: float = 0.0
    granularity_s: float = 1.0


def listed(id: str = "i-1", life: Life = Life.RUNNING, **changes: object) -> Instance:
    values: dict[str, object] = {"token": "t", "k": 0, "farm": "ours", "pool": "p", "life": life, "launched_at": NOW - 1_000}
    return Instance(id=id, **{**values, **changes})  # type: ignore[arg-type]


def look(
    rows: list[Row], instances: list[Instance] | None, seen: dict[tuple[str, str], float] | None = None, now: float = NOW
) -> Findings:
    lists = {} if instances is None else {"fake": instances}
    return reap(rows, lists, seen or {}, "ours", now, slack_s=60, stray_age_s=120)


def test_what_is_listed_as_it_should_be_needs_nothing() -> None:
    assert look([Row()], [listed()]) == Findings(alive={1: NOW})


def test_what_is_listed_as_gone_is_gone_at_its_own_time() -> None:
    (gone,) = look([Row()], [listed(life=Life.GONE, ended_at=NOW - 5, reason="reclaimed")]).gone
    assert (gone.id, gone.ended_at, gone.reason) == (1, NOW - 5, "reclaimed")


def test_what_is_no_longer_listed_is_gone_now_but_lists_lag_behind_launches() -> None:
    assert [gone.ended_at for gone in look([Row()], []).gone] == [NOW]
    assert look([Row(launched_at=NOW - 100)], []).gone == []
    assert look([Row(launched_at=NOW - 100, state="TERMINATING")], []).gone == []
    assert [gone.id for gone in look([Row(state="TERMINATING")], []).gone] == [1]


def test_a_list_that_failed_declares_nothing_lost_and_forgets_no_stray() -> None:
    findings = look([Row()], None, {("fake", "i-9"): 5.0})
    assert (findings.gone, findings.strays) == ([], {})
    assert findings.sightings == {("fake", "i-9"): 5.0}


def test_what_should_end_and_still_runs_is_asked_again() -> None:
    assert look([Row(state="TERMINATING")], [listed()]).lingering == {"fake": ["i-1"]}
    assert look([Row(state="TERMINATING")], [listed(life=Life.GONE, ended_at=NOW)]).lingering == {}


def test_an_unknown_launch_is_found_by_its_token_and_number() -> None:
    rows = [Row(1, provider_id="", state="INTENDED"), Row(2, k=1, provider_id="", state="INTENDED")]
    findings = look(rows, [listed("i-7", k=1)])
    assert {intent: [one.id for one in found] for intent, found in findings.adopted.items()} == {1: ["i-7"]}
    assert findings.sightings == {}


def test_instances_without_a_number_are_dealt_one_to_each_row() -> None:
    rows = [Row(1, provider_id="", state="INTENDED"), Row(2, k=1, provider_id="", state="INTENDED")]
    findings = look(rows, [listed("i-7", k=None), listed("i-8", k=None), listed("i-9", k=None)])
    assert [one.id for one in findings.adopted[1]] == ["i-7", "i-8"]
    assert set(findings.sightings) == {("fake", "i-9")}


def test_what_is_never_found_is_spent_when_its_paid_time_and_slack_are_over() -> None:
    row = Row(provider_id="", state="INTENDED", launched_at=None)
    assert look([row], [], now=NOW + 160).gone == []
    (gone,) = look([row], [], now=NOW + 162).gone
    assert gone.ended_at == NOW + 161
    assert "counts as spent" in gone.reason
    assert look([row], None, now=NOW + 162).gone == [gone]  # also when no list can be had


def test_a_stray_is_ended_at_its_second_sighting_and_past_an_age() -> None:
    first = look([], [listed("i-9")])
    assert first.strays == {}
    second = look([], [listed("i-9")], first.sightings, NOW + 10)
    assert [one.id for one in second.strays["fake"]] == ["i-9"]
    young = look([], [listed("i-9", launched_at=NOW - 10)], first.sightings, NOW + 10)
    assert young.strays == {}


def test_a_stray_without_a_start_time_ages_from_its_first_sighting() -> None:
    first = look([], [listed("i-9", launched_at=None)])
    assert look([], [listed("i-9", launched_at=None)], first.sightings, NOW + 100).strays == {}
    assert set(look([], [listed("i-9", launched_at=None)], first.sightings, NOW + 120).strays) == {"fake"}


def test_somebody_elses_instance_is_never_touched() -> None:
    theirs = [listed("i-9", farm="theirs")]
    assert look([], theirs) == Findings()
    assert look([], theirs, {("fake", "i-9"): 0.0}) == Findings()


def test_ended_strays_are_forgotten() -> None:
    assert look([], [listed("i-9", life=Life.GONE)], {("fake", "i-9"): 0.0}).sightings == {}
