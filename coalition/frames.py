"""Frame ranges, their chunks, and the placeholders of arrays. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from math import gcd

from coalition.errors import BadInput, TooLarge
from coalition.model import MAX_FRAMES

Piece = tuple[int, int, int]  # the frames of one job: first, last, and the distance from one to the next
MAX_PAIRS = 4_000_000
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


def chunks(text: str, size: int = 1) -> list[Piece]:
    """The frames of each job of a range, `size` frames a job. BadInput as `parse`.

    The frames of a job follow each other at the step of one part of the range: "1,5,9-12" by 10 makes three jobs.
    """
    frames = parse(text)
    if size == 1:
        return [(frame, frame, 1) for frame in frames]
    left = set(frames)
    pieces: list[Piece] = []
    for part in _parts(text):
        for row in _unbroken(part, left):
            pieces += [_piece(row[at : at + size]) for at in range(0, len(row), size)]
        left.difference_update(part)
    return pieces


def _piece(row: Sequence[int]) -> Piece:
    return row[0], row[-1], row[1] - row[0] if len(row) > 1 else 1


def overlaps(waiting: Sequence[Piece], there: Sequence[Piece], step: int = 1, shift: int = 0) -> Iterator[tuple[int, int]]:
    """The places (in `waiting`, in `there`) of pieces of which frame n of the one is frame n * step + shift of the other.

    TooLarge where they cross each other too often to be looked at.
    """
    order = sorted(range(len(there)), key=lambda at: there[at][0])
    firsts = [there[at][0] for at in order]
    widest = max((last - first for first, last, _ in there), default=0)
    asked = [range(first * step + shift, last * step + shift + 1, by * step) for first, last, by in waiting]
    near = [(bisect_left(firsts, wanted[0] - widest), bisect_right(firsts, wanted[-1])) for wanted in asked]
    if sum(high - low for low, high in near) > MAX_PAIRS:
        raise TooLarge(f"two frame ranges cross each other in more than {MAX_PAIRS:,} places; give them another chunk")
    for place, (wanted, (low, high)) in enumerate(zip(asked, near, strict=True)):
        yield from ((place, at) for at in order[low:high] if _meet(wanted, there[at]))


def _meet(wanted: range, piece: Piece) -> bool:
    """Whether a frame is in both: the first common one of two arithmetic progressions lies before the end of either."""
    first, last, by = piece
    common = gcd(wanted.step, by)
    apart = first - wanted.start
    if apart % common:
        return False
    turns = apart // common * pow(wanted.step // common, -1, by // common) % (by // common)
    met, every = wanted.start + turns * wanted.step, wanted.step // common * by
    late = max(wanted.start, first) - met
    if late > 0:
        met += -(-late // every) * every
    return met <= min(wanted[-1], last)


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
