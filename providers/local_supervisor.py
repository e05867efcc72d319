"""Keeps one local instance: runs its worker, and ends everything when its time is over. Standard library only.

    python local_supervisor.py FOLDER

FOLDER holds `instance.json` (command, environment, fault), `until` (the deadline) and `console.log`. Whoever holds the lock on
FOLDER/lock is the instance: a second supervisor ends at once, and a free lock means that it is over. It leaves `ended`.
The deadline is counted on a clock that goes on in suspend and that nobody sets; it is read again whenever `until` is replaced.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TICK_S = 0.5
GRACE_S = 2.0  # from SIGTERM to SIGKILL of the worker
KILL_S = 5.0
WARNING_S = 30.0  # between a spot notice and the end, if the fault does not say
LOCK_S = 2.0
MAX_CONSOLE_BYTES = 8 << 20
PR_SET_CHILD_SUBREAPER = 36


def boot_time() -> float:
    """Seconds on a clock that no one sets and that goes on in suspend, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def write_atomically(path: Path, text: str) -> None:
    """The file holds the old or the new text, at every moment."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def lock(folder: Path, wait_s: float = 0.0) -> int | None:
    """The instance's lock, held until the descriptor is closed; None if somebody holds it."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                os.close(handle)
                return None
            time.sleep(0.02)
        else:
            return handle


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, where /proc tells."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            with (
                suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file,
            ):
                parent = int(file.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found, look = [], [pid]
    while look:
        below = children.get(look.pop(), [])
        found += below
        look += below
    return found


class Supervisor:
    """One instance, from the worker's start to the last process's end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = json.loads((folder / "instance.json").read_text(encoding="utf-8"))
        self.asked_to_end = False
        self.worker: int | None = None
        self.status: int | None = None
        self._until: tuple[int, float] = (-1, 0.0)
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(wake)
        _adopt_orphans()

    def _on_term(self, *_: object) -> None:
        self.asked_to_end = True

    def run(self) -> str:
        """Keeps the instance until it is over; why it is."""
        fault, *seconds = str(self.spec.get("fault", "")).split(":")
        now, first_s = time.monotonic(), float(seconds[0]) if seconds else 0.0
        dies_at = now + first_s if fault == "dies" else None
        starts_at = now + first_s if fault == "slow_boot" else 0.0
        if fault == "spot_notice":
            dies_at = now + first_s + float(seconds[1] if len(seconds) > 1 else WARNING_S)
        while True:
            if fault == "spot_notice" and time.monotonic() >= now + first_s:
                self._announce(float(dies_at or 0.0) - time.monotonic())
            if reason := self._over(dies_at):
                self._end_all(0.0 if dies_at else GRACE_S)
                return reason
            if self.worker is None and fault != "never_boots" and time.monotonic() >= starts_at:
                self._start()
            self._rest(lambda: self.asked_to_end or self.status is not None)

    def _over(self, dies_at: float | None) -> str:
        # The mark is the request; the signal, which may have come before anybody could hear it, only hurries.
        if self.asked_to_end or (self.folder / "terminate").exists():
            return "it was terminated"
        if boot_time() >= self._deadline():
            return "its paid time was over"
        if self.status is not None:
            return f"its worker ended with {_words(self.status)}"
        if dies_at is not None and time.monotonic() >= dies_at:
            return "it was taken back, as was announced" if (self.folder / "notice").exists() else "it died, as was asked for"
        return ""

    def _announce(self, left_s: float) -> None:
        """Says, once, when this instance will be taken away."""
        if not (self.folder / "notice").exists():
            write_atomically(self.folder / "notice", repr(time.time() + left_s))

    def _deadline(self) -> float:
        try:
            stamp = os.stat(self.folder / "until").st_mtime_ns
            if stamp != self._until[0]:
                self._until = (stamp, float((self.folder / "until").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return 0.0  # a folder that was taken away pays for nothing
        return self._until[1]

    def _start(self) -> None:
        with (self.folder / "console.log").open("ab") as console:
            process = subprocess.Popen(
                self.spec["command"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=self.folder,
                env={**os.environ, **self.spec["environment"]},
                start_new_session=True,
            )
        self.worker = process.pid
        process.returncode = 0  # it is waited for below, with all the others

    def _rest(self, done: Callable[[], bool]) -> None:
        self._reap()
        if not done():
            select.select([self._wake], [], [], TICK_S)
            with suppress(BlockingIOError):
                os.read(self._wake, 4_096)
            self._reap()
        with suppress(OSError):
            if os.stat(self.folder / "console.log").st_size > MAX_CONSOLE_BYTES:
                os.truncate(self.folder / "console.log", 0)

    def _reap(self) -> None:
        """Takes the exit status of the worker, and of orphans that became our children."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.worker:
                    self.status = status

    def _end_all(self, grace_s: float) -> None:
        """Ends the worker and all that it started, also what left its process group."""
        until = time.monotonic() + grace_s
        if self.worker is not None and self.status is None:
            with suppress(OSError):
                os.kill(self.worker, signal.SIGTERM)
            while self.status is None and time.monotonic() < until:
                self._rest(lambda: self.status is not None)
        until = time.monotonic() + KILL_S
        while time.monotonic() < until:
            left = descendants(os.getpid())
            if self.worker is not None:
                with suppress(OSError):
                    os.killpg(self.worker, signal.SIGKILL)
            for pid in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                return
            time.sleep(0.02)
            self._reap()


def _adopt_orphans() -> None:
    """Processes whose parent ended become our children, on Linux, so that none is lost from sight."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _leave_parent() -> None:
    """Becomes nobody's child, in a session of its own: the server may end, and need not wait for us."""
    if os.fork():
        os._exit(0)
    os.setsid()


def main() -> None:
    folder = Path(sys.argv[1])
    _leave_parent()
    handle = lock(folder, LOCK_S)
    if handle is None or (folder / "ended").exists():
        return
    write_atomically(folder / "pid", str(os.getpid()))
    reason = Supervisor(folder).run()
    with suppress(OSError):  # the folder may have been taken away
        (folder / "token").unlink(missing_ok=True)
        write_atomically(folder / "ended", json.dumps({"at": time.time(), "reason": reason}))


if __name__ == "__main__":
    main()
