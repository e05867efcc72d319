"""Frame ranges and the placeholders of arrays. Pure."""

from __future__ import annotations

import re

from coalition.errors import BadInput
from coalition.model import MAX_FRAMES

PART = re.compile(r"^(-?\d{1,9})(?:-(-?\d{1,9})(?:x(\d{1,9}))?)?$")
PLACEHOLDER = re.compile(r"\{(frame|start|end)(?::(0?\d{1,2})d)?\}")
ALLOWED = 'write for example "1-100", "1-100x2" or "1,5,9-12"'


def parse(text: str) -> list[int]:
    """The frames of a range in the order given, each once. BadInput names the part that is wrong."""
    frames: dict[int, None] = {}
    for part in text.replace(" ", "").split(","):
        match = PART.match(part)
        if not match:
            raise BadInput(fields={"frames": f'"{part[:80]}" is not a frame range; {ALLOWED}'})
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or step < 1:
            raise BadInput(fields={"frames": f'"{part[:80]}" is empty: the first frame comes first and a step is 1 or more'})
        if (last - first) // step + 1 + len(frames) > MAX_FRAMES:
            raise BadInput(fields={"frames": f"more than {MAX_FRAMES:,} frames"})
        frames.update(dict.fromkeys(range(first, last + 1, step)))
    return list(frames)


def fill(text: str, frame: int, start: int, end: int) -> str:
    """`text` with {frame}, {start} and {end} replaced, also as {frame:04d}; every other brace stays as it is."""
    values = {"frame": frame, "start": start, "end": end}
    return PLACEHOLDER.sub(lambda match: format(values[match[1]], f"{match[2]}d" if match[2] else "d"), text)
