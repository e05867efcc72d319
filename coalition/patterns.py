"""The agent's side of the process that looks for patterns in logs (scanner.py): orders out, answers in, never waiting."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coalition.system import System


class Patterns:
    """Starts the process, and ends it with `close`. Broken: the process has ended, and what it was asked stays unanswered."""

    def __init__(self, system: System) -> None:
        program = Path(__file__).with_name("scanner.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            bufsize=0,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._orders = self._process.stdin
        system.unblock(self._orders)
        self._answers = system.source(self._process.stdout)
        self._unsent = self._unread = b""
        self.broken = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when there are answers."""
        return self._answers.fileno()

    def watch(self, attempt: int, path: Path, error: Sequence[str], licence: Sequence[str]) -> None:
        """Look for these in the log from now on."""
        self._order({"watch": attempt, "path": str(path), "error": list(error), "licence": list(licence)})

    def finish(self, attempt: int, size: int) -> None:
        """The log is complete with so many bytes; "done" is answered once they were looked at."""
        self._order({"finish": attempt, "size": size})

    def forget(self, attempt: int) -> None:
        self._order({"forget": attempt})

    def _order(self, order: Mapping[str, Any]) -> None:
        self._unsent += json.dumps(order).encode() + b"\n"
        self.push()

    def push(self) -> None:
        """Send what the pipe had no room for; call it now and then."""
        try:
            while self._unsent and (sent := self._orders.write(self._unsent)):
                self._unsent = self._unsent[sent:]
        except OSError:
            self.broken = True

    def read(self) -> list[dict[str, Any]]:
        """The answers that came."""
        data = self._answers.receive()
        if data is None:
            return []
        self.broken = self.broken or not data
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._orders.close()
        self._answers.close()
