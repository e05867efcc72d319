"""Any order of events: a machine of states drives a farm with a cloud that bills and fails, and the server stops now and then."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tests.mortal import HAPPENINGS, Mortal, Stop, a_farm, empty_database, moments

EXAMPLES, STEPS = 12, 15


class MoneyMachine(RuleBasedStateMachine):
    """`Mortal.check` holds after each step, and at the end of each life nothing runs that nobody knows of."""

    folder: ClassVar[Path]
    world: Mortal | None = None

    @initialize(seed=st.integers(0, 10_000))
    def found(self, seed: int) -> None:
        self.world = a_farm(self.folder / "farm", self.folder / "empty.db", seed)
        self.world.come()

    @rule(seconds=st.sampled_from([1.0, 30.0, 300.0, 3_600.0]))
    def tick(self, seconds: float) -> None:
        assert self.world is not None
        self.world.tick(seconds=seconds)

    @rule(number=st.integers(1, 150))
    def stop_at_a_moment(self, number: int) -> None:
        """The next tick is stopped at its n-th moment, if it has so many, and then another one comes to its end."""
        assert self.world is not None
        at = moments.seen + number

        def watch(kind: str) -> None:
            if moments.seen == at:
                raise Stop

        moments.watch = watch
        self.world.tick()
        moments.watch = lambda kind: None

    @rule(happening=st.sampled_from(sorted(set(HAPPENINGS), key=lambda one: one.__name__)))
    def something_happens(self, happening: object) -> None:
        assert self.world is not None
        happening(self.world)  # type: ignore[operator]

    @precondition(lambda self: self.world is not None)
    @invariant()
    def the_books_hold(self) -> None:
        assert self.world is not None
        self.world.check()

    def teardown(self) -> None:
        moments.watch = lambda kind: None
        if self.world is not None:
            try:
                self.world.end()
            finally:
                self.world.close()


@pytest.mark.timeout(600)
def test_no_order_of_events_overspends() -> None:
    with tempfile.TemporaryDirectory() as folder:
        MoneyMachine.folder = Path(folder)
        empty_database(MoneyMachine.folder / "empty.db")
        run_state_machine_as_test(
            MoneyMachine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
