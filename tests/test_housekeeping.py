"""What is older than it need be is forgotten, by one process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coalition.config import KeepSettings
from coalition.server import housekeeping
from coalition.server.housekeeping import Housekeeper
from coalition.store.history import COLUMNS
from coalition.store.submit import Once
from tests.builders import Clock, WatchedStore, a_job
from tests.databases import KINDS

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


def test_each_minute_of_the_farm_is_kept_once_and_forgotten_after_a_quarter_of_a_year(store: WatchedStore, clock: Clock) -> None:
    keeper = Housekeeper(store.settings, store)
    keeper.tidy()
    store.submit([a_job()], "ann")
    keeper.tidy()
    (point,) = store.history(clock() - 60, clock())["points"]
    assert (point["waiting"], point["working"], point["slots"], point["burn_micro"]) == (1, 0, 0, 0)
    clock.advance(93 * DAY_S)
    keeper.tidy()
    assert len(store.history(0, clock())["points"]) == 1


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_a_long_time_is_told_in_averages_over_longer_steps(store: WatchedStore, clock: Clock) -> None:
    clock.advance(-clock() % 3_600)
    zeros = dict.fromkeys(COLUMNS, 0)
    for waiting in (10, 20, 60):
        store.note_minute({**zeros, "waiting": waiting, "burn_micro": 1_000_000 + waiting})
        clock.advance(60)
    hour = store.history(clock() - 3_600, clock())
    assert (hour["step_s"], [point["waiting"] for point in hour["points"]]) == (60, [10, 20, 60])
    month = store.history(clock() - 15 * DAY_S, clock())
    assert (month["step_s"], [(point["waiting"], point["burn_micro"]) for point in month["points"]]) == (3_600, [(30, 1_000_030)])
