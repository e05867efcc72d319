"""Assembles rendered frames: a film (animated GIF) and a strip (a contact sheet).

    python examples/assemble.py frame_%04d.png 1-48 --film film.gif --strip strip.png

It names every frame that is missing or cannot be read, and then writes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from PIL import Image, UnidentifiedImageError

COLUMNS = 8
THUMB_WIDTH = 160
GAP = 4
BACKGROUND = (24, 26, 32)


class MissingFrames(Exception):
    """Frames that are not there or are no pictures; the message names them."""


def load(pattern: str, first: int, last: int) -> list[Image.Image]:
    """The frames in order, or MissingFrames."""
    frames, bad = [], []
    for number in range(first, last + 1):
        path = Path(pattern % number)
        try:
            with Image.open(path) as picture:
                frames.append(picture.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            bad.append(f"{path} ({type(error).__name__})")
    if bad:
        raise MissingFrames(f"{len(bad)} of {last - first + 1} frames cannot be used: {', '.join(bad[:5])}")
    return frames


def strip(frames: list[Image.Image]) -> Image.Image:
    """All frames, small, in rows of COLUMNS."""
    width = THUMB_WIDTH
    height = max(1, round(frames[0].height * width / frames[0].width))
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), BACKGROUND)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        place = (GAP + column * (width + GAP), GAP + row * (height + GAP))
        sheet.paste(frame.resize((width, height), Image.Resampling.LANCZOS), place)
    return sheet


def write_film(frames: list[Image.Image], path: Path, per_second: int) -> None:
    """One palette for the whole film, taken from its strip, so that colours do not flicker."""
    palette = strip(frames).quantize(256)
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
    part = path.with_name(path.name + ".part")
    drawn[0].save(part, "GIF", save_all=True, append_images=drawn[1:], duration=1000 // per_second, loop=0)
    os.replace(part, path)


def write_strip(frames: list[Image.Image], path: Path) -> None:
    part = path.with_name(path.name + ".part")
    strip(frames).save(part, "PNG", optimize=True)
    os.replace(part, path)


def main() -> int:
    parser = argparse.ArgumentParser(description="Assembles rendered frames into a film and a strip.")
    parser.add_argument("pattern", help="the frames' names, for example frame_%%04d.png")
    parser.add_argument("frames", help="the range of frames, for example 1-48")
    parser.add_argument("--film", type=Path, default=Path("film.gif"))
    parser.add_argument("--strip", type=Path, default=Path("strip.png"))
    parser.add_argument("--fps", type=int, default=20)
    given = parser.parse_args()
    first, _, last = given.frames.partition("-")
    try:
        frames = load(given.pattern, int(first), int(last or first))
    except MissingFrames as error:
        print(f"assemble: {error}", file=sys.stderr)
        return 1
    write_film(frames, given.film, given.fps)
    print("Assembled 50%", flush=True)
    write_strip(frames, given.strip)
    print(f"Assembled 100%: {len(frames)} frames in {given.film} and {given.strip}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
