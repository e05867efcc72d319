"""Frame ranges, their chunks, and the placeholders of arrays. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from coalition.errors import BadInput
from coalition.model import MAX_FRAMES

PART = re.compile(r"^(-?\d{1,9})(?:-(-?\d{1,9})(?:x(\d{1,9}))?)?$")
PLACEHOLDER = re.compile(r"\{(frame|start|end)(?::(0?\d{1,2})d)?\}")
ALLOWED = 'write for example "1-100", "1-100x2" or "1,5,9-12"'


def parse(text: str) -> list[int]:
    """The frames of a range in the order given, each once. BadInput names the part that is wrong."""
    frames: dict[int, None] = {}
    for part in _parts(text):
        if len(part) + len(frames) > MAX_FRAMES:
            raise BadInput(fields={"frames": f"more than {MAX_FRAMES:,} frames"})
        frames.update(dict.fromkeys(part))
    return list(frames)


def chunks(text: str, size: int = 1) -> list[tuple[int, int]]:
    """The first and last frame of each job of a range, `size` frames a job. BadInput as `parse`.

    The frames of a job follow each other at the step of one part of the range, so that first and last say all of it:
    "1,5,9-12" by 10 makes three jobs.
    """
    frames = parse(text)
    if size == 1:
        return [(frame, frame) for frame in frames]
    left = set(frames)
    pieces: list[tuple[int, int]] = []
    for part in _parts(text):
        for row in _unbroken(part, left):
            pieces += [(row[at], row[min(at + size, len(row)) - 1]) for at in range(0, len(row), size)]
        left.difference_update(part)
    return pieces


def _unbroken(part: range, left: set[int]) -> Iterator[list[int]]:
    """The frames of a part that are still to be dealt, in rows without holes."""
    row: list[int] = []
    for frame in part:
        if frame in left:
            row.append(frame)
        elif row:
            yield row
            row = []
    if row:
        yield row


def _parts(text: str) -> Iterator[range]:
    """The parts between commas."""
    for part in text.replace(" ", "").split(","):
        match = PART.match(part)
        if not match:
            raise BadInput(fields={"frames": f'"{part[:80]}" is not a frame range; {ALLOWED}'})
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or step < 1:
            raise BadInput(fields={"frames": f'"{part[:80]}" is empty: the first frame comes first and a step is 1 or more'})
        yield range(first, last + 1, step)


def filler(text: str) -> Callable[[int, int], str]:
    """A function (first, last) that gives `text` for a job's frames: {frame} and {start} are its first one, {end} its last.

    Each also with a width, as {frame:04d}; every other brace stays as it is.
    """
    names = {"frame": "start"}
    pattern = PLACEHOLDER.sub(lambda m: f"%({names.get(m[1], m[1])}){m[2] or ''}d", text.replace("%", "%%"))
    if pattern == text.replace("%", "%%"):
        return lambda first, last: text
    return lambda first, last: pattern % {"start": first, "end": last}
