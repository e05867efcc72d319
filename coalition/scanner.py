"""Looks for patterns in the logs of jobs while they grow. A program of its own: standard library only, imports nothing of ours.

A regular expression can take for ever, and holds the interpreter meanwhile; here it delays nobody's end. The agent writes
JSON lines into standard input, and reads answers as JSON lines:

    {"watch": ATTEMPT, "path": LOG, "error": [PATTERNS], "licence": [PATTERNS]}
    {"finish": ATTEMPT, "size": BYTES}      the log is complete; no more of it than that is looked at
    {"forget": ATTEMPT}
    -> {"attempt": ATTEMPT, "kind": "error" or "licence", "pattern": PATTERN, "line": LINE}   the first match of each kind
    -> {"attempt": ATTEMPT, "kind": "slow", "pattern": PATTERN}     it takes too long and is not tried again
    -> {"attempt": ATTEMPT, "kind": "done"}                         the answer to finish

Lines end with newline or carriage return. A log is read in pieces; of a line without end, LINE_BYTES are looked at at a time, the
last OVERLAP_BYTES of them again with what follows. Bytes that are no UTF-8 are looked at as U+FFFD. When standard input ends, so
does this.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

PIECE_BYTES = 262_144
LINE_BYTES = 65_536
OVERLAP_BYTES = 4_096
PATTERN_S = 0.25  # of processor time for one pattern and one piece
HOPELESS_S = 10.0  # the same where this process must end by it
PAUSE_S = 0.2  # between two looks at logs that grow
SHOWN = 400  # characters of a matching line that are told
LINE_END = re.compile(rb"[\r\n]+")


class Log:
    """A log that is looked through. `patterns` are (kind, pattern) that may still be found."""

    def __init__(self, path: str, patterns: list[tuple[str, re.Pattern[str]]]) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - open until it is forgotten
        self.patterns = patterns
        self.position = 0
        self.carry = b""
        self.size: int | None = None  # once it is complete

    def read(self) -> bytes:
        """The next piece; empty when there is none now."""
        size = os.fstat(self.file.fileno()).st_size
        if size < self.position:  # the job has cut its own output
            self.position, self.carry = 0, b""
        end = size if self.size is None else min(size, self.size)
        self.file.seek(self.position)
        data = self.file.read(max(0, min(PIECE_BYTES, end - self.position)))
        self.position += len(data)
        return data

    def lines(self, data: bytes, *, last: bool = False) -> list[str]:
        """The lines that `data` completes; with `last` also the one that has no end."""
        *whole, rest = LINE_END.split(self.carry + data)
        if last:
            whole, rest = [*whole, rest], b""
        if len(rest) > LINE_BYTES:
            whole, rest = [*whole, rest], rest[-OVERLAP_BYTES:]
        self.carry = rest
        return [piece.decode("utf-8", "replace") for line in whole if line for piece in pieces(line)]


def pieces(line: bytes) -> Iterator[bytes]:
    """A line in pieces of LINE_BYTES that overlap."""
    yield line[:LINE_BYTES]
    for start in range(LINE_BYTES - OVERLAP_BYTES, len(line) - OVERLAP_BYTES, LINE_BYTES - OVERLAP_BYTES):
        yield line[start : start + LINE_BYTES]


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """TimeoutError when the block takes more processor time; `re` looks for signals, so even a hopeless pattern ends.

    Windows has no such signal: this process ends there, and the agent says that the log was not looked at to its end.
    """
    if not hasattr(signal, "setitimer"):
        timer = threading.Timer(HOPELESS_S, os._exit, (1,))
        timer.start()
        yield
        timer.cancel()
        return

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, late)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def compiled(kind: str, texts: list[str]) -> list[tuple[str, re.Pattern[str]]]:
    """The patterns; those that are none are left out, the server has checked them."""
    found = []
    for text in texts:
        with contextlib.suppress(re.error, OverflowError, RecursionError):
            found.append((kind, re.compile(text)))
    return found


class Scanner:
    """All logs that are looked through, and what was asked and is to be said."""

    def __init__(self, answers: int) -> None:
        self.logs: dict[int, Log] = {}
        self._answers = answers

    def say(self, attempt: int, kind: str, **more: str) -> None:
        data = json.dumps({"attempt": attempt, "kind": kind, **more}).encode() + b"\n"
        while data:
            data = data[os.write(self._answers, data) :]

    def obey(self, order: dict[str, Any]) -> None:
        if "watch" in order:
            patterns = compiled("licence", order["licence"]) + compiled("error", order["error"])
            with contextlib.suppress(OSError):  # it is gone already: finish answers that
                self.logs[order["watch"]] = Log(order["path"], patterns)
        elif "finish" in order:
            if order["finish"] in self.logs:
                self.logs[order["finish"]].size = order["size"]
            else:
                self.say(order["finish"], "done")
        elif "forget" in order:
            self.forget(order["forget"])

    def forget(self, attempt: int) -> None:
        log = self.logs.pop(attempt, None)
        if log:
            log.file.close()

    def round(self) -> bool:
        """Look at one piece of each log; whether there is more at once."""
        more = False
        for attempt, log in list(self.logs.items()):
            data = log.read() if log.patterns else b""
            complete = not data and log.size is not None
            self._search(attempt, log, log.lines(data, last=complete))
            if complete:
                self.say(attempt, "done")
                self.forget(attempt)
            more = more or bool(data)
        return more

    def _search(self, attempt: int, log: Log, lines: list[str]) -> None:
        for one in list(log.patterns):
            if one in log.patterns:  # it may have gone with a match of its kind
                self._search_one(attempt, log, one, lines)

    def _search_one(self, attempt: int, log: Log, one: tuple[str, re.Pattern[str]], lines: list[str]) -> None:
        kind, pattern = one
        try:
            with at_most(PATTERN_S):
                match = next((match for line in lines if (match := pattern.search(line))), None)
        except TimeoutError:
            log.patterns.remove(one)
            self.say(attempt, "slow", pattern=pattern.pattern)
            return
        if match:
            # A licence says all there is to say; behind an error a licence may still be found.
            log.patterns = [] if kind == "licence" else [other for other in log.patterns if other[0] != kind]
            start = max(0, match.start() - SHOWN // 2) if len(match.string) > SHOWN else 0
            self.say(attempt, kind, pattern=pattern.pattern, line=match.string[start : start + SHOWN].strip())


def main() -> None:
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    scanner = Scanner(sys.stdout.fileno())
    came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=hear, args=(came,), daemon=True).start()
    orders = b""
    busy = False
    while True:
        pause = 0.0 if busy else PAUSE_S if scanner.logs else None
        with contextlib.suppress(queue.Empty):
            data = came.get(timeout=pause) if pause != 0.0 else came.get_nowait()
            if not data:
                return
            *whole, orders = (orders + data).split(b"\n")
            for line in whole:
                scanner.obey(json.loads(line))
        busy = scanner.round()


def hear(came: queue.SimpleQueue[bytes]) -> None:
    """Standard input piece by piece, the end as an empty one: not every system can wait for a pipe and a clock at once."""
    while data := os.read(0, PIECE_BYTES):
        came.put(data)
    came.put(b"")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
