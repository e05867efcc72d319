"""Progress of a job, read from its log."""

from __future__ import annotations

import re
from functools import lru_cache

from coalition.system import of_this_machine

DEFAULT_PATTERN = "PROGRESS:%percent"
CARRY_BYTES = 4_096  # of an unfinished line are looked at again with what follows
SCAN_S = 0.25  # a pattern that needs longer is given up
SYSTEM = of_this_machine()


class Progress:
    """The last progress that a log tells, 0 to 1.

    The pattern is a regular expression in which `%percent` (0 to 100) and `%one` (0 to 1) stand for a number.
    """

    def __init__(self, pattern: str | None) -> None:
        self.value = 0.0
        self._carry = b""
        self._text = DEFAULT_PATTERN if pattern is None else pattern
        self._pattern: re.Pattern[bytes] | None = None
        self._scales: tuple[float, ...] | None = None  # None until there is something to look at: most runs end before

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the log. TimeoutError if the pattern takes too long; it is not tried again."""
        if self._scales is None:
            self._pattern, self._scales = _compile(self._text)
        if not self._pattern or not data:
            return
        data = self._carry + data
        try:
            with SYSTEM.at_most(SCAN_S):
                for match in self._pattern.finditer(data):
                    self._take(match)
        except TimeoutError:
            self._pattern = None
            raise TimeoutError("the progress pattern takes too long") from None
        self._carry = data[max(data.rfind(b"\n") + 1, data.rfind(b"\r") + 1, len(data) - CARRY_BYTES) :]

    def _take(self, match: re.Match[bytes]) -> None:
        for index, scale in enumerate(self._scales or ()):
            number = match[f"number{index}"]
            if number is not None:
                self.value = min(1.0, float(number) * scale)


@lru_cache(maxsize=64)
def _compile(text: str) -> tuple[re.Pattern[bytes] | None, tuple[float, ...]]:
    """The pattern with a group for each placeholder's number, and what each is multiplied by."""
    scales: list[float] = []

    def number(match: re.Match[str]) -> str:
        scales.append(0.01 if match[1] == "percent" else 1.0)
        return rf"(?P<number{len(scales) - 1}>\d{{1,9}}(?:\.\d{{0,9}})?|\.\d{{1,9}})"

    text = re.sub(r"%(percent|one)\b", number, text)
    try:
        return (re.compile(text.encode()) if scales else None), tuple(scales)
    except re.error:  # the server has checked it; as bytes it may still be none
        return None, ()
