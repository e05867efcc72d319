"""Whether somebody sits at this machine: how long ago keyboard, mouse or a terminal were used. Linux only.

Keyboards and mice are watched for whether something could be read from them, and what was typed is never read: a device that
became readable was used, and is then opened anew, which forgets it. That needs the right to open them (root, or the group
`input`). Terminals tell by the time of their last read, which the kernel keeps to 8 s.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

LOOK_S = 5.0  # between two looks


class Presence:
    """Call `idle_s` from one thread. `devices` are the folders of input devices by name; `terminals` tells those in use."""

    def __init__(
        self,
        devices: tuple[Path, ...] = (Path("/dev/input/by-path"), Path("/dev/input/by-id")),
        terminals: Callable[[], list[str]] | None = None,
    ) -> None:
        self._folders = devices if sys.platform == "linux" else ()
        self._terminals = terminals or _terminals
        self._open: dict[str, int] = {}
        self._used_at = self._looked_at = time.monotonic()  # nobody knows what was before
        self._idle_s: float | None = None
        self._look()

    def idle_s(self) -> float | None:
        """Seconds since the last use, as far back as this object knows; None where it cannot be told."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return self._idle_s

    def _look(self) -> None:
        now = time.monotonic()
        if self._was_used():
            self._used_at = now
        known = [now - self._used_at] if self._open else []
        for name in self._terminals():
            with contextlib.suppress(OSError):
                known.append(max(0.0, time.time() - os.stat(name).st_atime))
        self._idle_s = min(known, default=None)

    def _was_used(self) -> bool:
        if sys.platform != "linux":
            return False
        poll = select.poll()
        for handle in self._open.values():
            poll.register(handle, select.POLLIN)
        events = dict(poll.poll(0))
        for name, handle in list(self._open.items()):
            if handle in events:  # used, or unplugged
                os.close(self._open.pop(name))
        for name in self._names() - self._open.keys():
            with contextlib.suppress(OSError):
                self._open[name] = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return any(event & select.POLLIN for event in events.values())

    def _names(self) -> set[str]:
        found = (path for folder in self._folders for kind in ("kbd", "mouse") for path in folder.glob(f"*-event-{kind}"))
        return {os.path.realpath(path) for path in found}

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def _terminals() -> list[str]:
    """The terminals at which somebody is logged in, and all of windows and remote logins."""
    if sys.platform != "linux":
        return []
    import psutil

    logged_in = [f"/dev/{user.terminal}" for user in psutil.users() if user.terminal]
    return [*logged_in, *(str(path) for path in Path("/dev/pts").glob("[0-9]*"))]
