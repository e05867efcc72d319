"""What is older than it need be is forgotten, by one process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coalition.config import KeepSettings
from coalition.server import housekeeping
from coalition.server.housekeeping import Housekeeper
from coalition.store.submit import Once
from tests.builders import Clock, WatchedStore, a_job

DAY_S = 86_400.0


def kinds(store: WatchedStore) -> list[str]:
    return [event["text"] for event in store.events({}, 0, 100)]


def write_events(store: WatchedStore, clock: Clock, count: int) -> None:
    """An event a day."""
    for number in range(count):
        clock.advance(DAY_S)
        with store.write() as db:
            store._event(db, "test.event", "", str(number))


def test_old_events_are_forgotten_in_pieces_by_one_process(
    store: WatchedStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "PIECE", 2)
    write_events(store, clock, 10)
    settings = replace(store.settings, keep=KeepSettings(events_s=3.5 * DAY_S))
    first, second = (Housekeeper(settings, store) for _ in range(2))
    assert first.tidy() == 6
    assert kinds(store) == ["9", "8", "7", "6"]
    clock.advance(100)
    assert second.tidy() == 0  # the first one has the role still
    clock.advance(DAY_S)
    assert second.tidy() == 1


def test_keys_of_submissions_are_known_for_a_day(store: WatchedStore, clock: Clock) -> None:
    once = Once("k", "digest")
    first = store.submit([a_job()], "ann", once)
    clock.advance(0.99 * DAY_S)
    Housekeeper(store.settings, store).tidy()
    assert store.submit([a_job()], "ann", once).ids == first.ids
    clock.advance(0.02 * DAY_S)
    Housekeeper(store.settings, store).tidy()
    assert store.submit([a_job()], "ann", once).ids != first.ids


def test_with_0_nothing_is_forgotten(store: WatchedStore, clock: Clock) -> None:
    write_events(store, clock, 3)
    clock.advance(10_000 * DAY_S)
    assert Housekeeper(replace(store.settings, keep=KeepSettings(events_s=0.0)), store).tidy() == 0
    assert len(kinds(store)) == 3
