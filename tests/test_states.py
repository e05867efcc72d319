"""The tables of states: what is in them happens, what is not raises."""

from __future__ import annotations

import pytest

from coalition import states
from coalition.errors import IllegalTransition
from coalition.states import ATTEMPT, INSTANCE, JOB, WORKER, AttemptState, InstanceState, JobState, WorkerState, after, allows

TABLES = [
    (JOB, JobState, "WAITING"),
    (ATTEMPT, AttemptState, "LEASED"),
    (WORKER, WorkerState, "STARTING"),
    (INSTANCE, InstanceState, "INTENDED"),
]
EACH = pytest.mark.parametrize(("table", "kind", "first"), TABLES, ids=["job", "attempt", "worker", "instance"])


@EACH
def test_tables_hold_known_states_only(table: states.Table, kind: type[states.StrEnum], first: str) -> None:
    names = {str(state) for state in kind}
    assert {origin for origin, _ in table} | set(table.values()) <= names


@EACH
def test_every_state_can_be_reached_from_the_first(table: states.Table, kind: type[states.StrEnum], first: str) -> None:
    reached = {first}
    while more := {target for (origin, _), target in table.items() if origin in reached} - reached:
        reached |= more
    assert reached == {str(state) for state in kind}


@EACH
def test_what_is_not_in_the_table_raises_and_says_what_is_possible(
    table: states.Table, kind: type[states.StrEnum], first: str
) -> None:
    events = {event for _, event in table}
    for state in kind:
        for event in events:
            if allows(table, state, event):
                assert after(table, state, event) in {str(name) for name in kind}
            else:
                with pytest.raises(IllegalTransition, match=f"{event} is not possible in state {state}; possible: "):
                    after(table, state, event)


@pytest.mark.parametrize("state", ["GONE", "FAILED"])
def test_an_instance_that_is_over_stays_over(state: str) -> None:
    assert [event for origin, event in INSTANCE if origin == state] == []
    assert state not in states.PAID_INSTANCES


@pytest.mark.parametrize("state", ["FINISHED", "ERROR", "STOPPED"])
def test_the_result_of_an_attempt_is_final(state: str) -> None:
    assert [event for origin, event in ATTEMPT if origin == state] == []


def test_a_late_result_counts_until_the_job_is_leased_again() -> None:
    assert after(ATTEMPT, "LOST", "finish") == "FINISHED"
    assert after(JOB, "WAITING", "finish") == "FINISHED"
    assert not allows(JOB, "FINISHED", "finish")


def test_members_are_their_names_also_when_formatted_and_as_json_keys() -> None:
    assert f"{JobState.WORKING:>8}|{JobState.WORKING}" == " WORKING|WORKING"
    assert {JobState.WORKING: 1}["WORKING"] == 1
    assert isinstance(JobState.WORKING, str)
