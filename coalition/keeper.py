"""Ends the jobs of an agent that died without a word. A program of its own: standard library only, imports nothing of ours.

The agent starts it with the mark that its jobs carry in their environment, and writes `+PID` and `-PID` lines into its
standard input for process groups that last. When the agent dies, by SIGKILL too, the pipe ends: then every group still
noted is killed, and, where /proc shows environments, every process with the mark. It has a session of its own, so that
what ends the agent's process group does not end it first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator

ROUNDS = 20  # a process may fork while it is being killed


def follow(lines: Iterable[bytes]) -> set[int]:
    """The groups that are open when the lines end."""
    groups: set[int] = set()
    for line in lines:
        if line[:1] == b"+" and line.endswith(b"\n"):
            groups.add(int(line[1:]))
        elif line[:1] == b"-" and line.endswith(b"\n"):
            groups.discard(int(line[1:]))
    return groups


def marked(mark: bytes) -> Iterator[int]:
    """Processes whose environment holds a value that begins with `mark` (NAME=value...)."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc") else []
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if any(entry.startswith(mark) for entry in file.read().split(b"\0")):
                yield pid


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mark = os.fsencode(sys.argv[1])
    for group in follow(sys.stdin.buffer):
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    for _ in range(ROUNDS):
        left = list(marked(mark))
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break


if __name__ == "__main__":
    main()
