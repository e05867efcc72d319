"""What is done every now and then goes on, whatever fails in a round, and gives its role back at the end."""

from __future__ import annotations

import logging
import threading

import pytest

from coalition.server.rounds import Rounds
from coalition.store import Store
from tests.polling import poll_until


class Counting(Rounds):
    role, interval_s, log = "counting", 0.01, logging.getLogger("coalition.test")

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.rounds = 0
        self.led = threading.Event()

    def tidy(self) -> None:
        self.rounds += 1
        if self.rounds == 1:
            raise ValueError("a fault")
        if self.rounds == 2:
            raise OSError("a full disk")
        if self.leads():
            self.led.set()


def test_rounds_go_on_after_what_was_not_expected_and_the_role_is_free_at_the_end(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Counting(store)
    rounds.start()
    assert rounds.led.wait(20)
    assert store.leader_of("counting") is not None
    rounds.stop()
    assert store.leader_of("counting") is None
    told = [record.getMessage() for record in caplog.records if record.name == "coalition.test"]
    assert told[:2] == ["a round of counting failed", "put off for 0 s: a full disk"]
    assert poll_until(lambda: not rounds._thread.is_alive(), 10)
