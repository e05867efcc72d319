"""When somebody sits at a machine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coalition.presence import Presence
from tests.polling import poll_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="input devices as files are Linux's")


@pytest.fixture
def keyboard(tmp_path: Path) -> Path:
    """A pipe in the place of an input device."""
    device = tmp_path / "usb-event-kbd"
    os.mkfifo(device)
    return device


@pytest.fixture
def presence(keyboard: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Presence]:
    monkeypatch.setattr("coalition.presence.LOOK_S", 0.0)
    one = Presence((keyboard.parent,), lambda: [])
    yield one
    one.close()


def press(keyboard: Path) -> None:
    with keyboard.open("wb", buffering=0) as device:
        device.write(b"key")


def test_a_keyboard_that_is_not_touched_is_idle_longer_and_longer(presence: Presence) -> None:
    first = presence.idle_s()
    assert first is not None
    poll_until(lambda: (presence.idle_s() or 0) > first + 0.3)


def test_a_key_ends_idleness_once_and_is_not_read(presence: Presence, keyboard: Path) -> None:
    poll_until(lambda: (presence.idle_s() or 0) > 0.5)
    press(keyboard)
    assert (presence.idle_s() or 0) < 0.3
    poll_until(lambda: (presence.idle_s() or 0) > 0.5)


def test_a_device_that_is_plugged_in_later_is_watched(presence: Presence, tmp_path: Path) -> None:
    mouse = tmp_path / "usb-event-mouse"
    os.mkfifo(mouse)
    poll_until(lambda: (presence.idle_s() or 0) > 0.5)
    press(mouse)
    assert (presence.idle_s() or 0) < 0.3


def test_a_terminal_tells_by_its_last_read(tmp_path: Path) -> None:
    old, fresh = tmp_path / "tty1", tmp_path / "tty2"
    for path, age_s in ((old, 5_000), (fresh, 100)):
        path.touch()
        os.utime(path, (time.time() - age_s, time.time()))
    idle_s = Presence((), lambda: [str(old), str(fresh), "/dev/gone"]).idle_s()
    assert idle_s == pytest.approx(100, abs=20)


def test_without_devices_and_terminals_it_cannot_be_told(tmp_path: Path) -> None:
    assert Presence((tmp_path,), lambda: []).idle_s() is None


def test_looks_are_not_repeated_within_seconds() -> None:
    looks = []
    one = Presence((), lambda: looks.append(1) or [])  # type: ignore[func-returns-value]
    for _ in range(50):
        one.idle_s()
    assert len(looks) == 1
