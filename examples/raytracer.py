"""A small ray tracer: the renderer of the demo where POV-Ray is not installed, called as POV-Ray is.

    python examples/raytracer.py +Oframe_0001.png +W320 +H180 +K1

+O is the picture to write, +W and +H its size, +K the frame (1 to 48; the film joins end to start), +A0 switches
anti-aliasing off. Other options of POV-Ray are accepted and ignored, so that one command line fits both.
The scene is that of scene/orbits.pov, simplified: spheres of metal and glass circle a lamp above water at dusk.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]

FRAMES = 48
DEPTH = 4
FAR = 1e9
BAND_ROWS = 20
CAMERA = np.array([0.0, 2.6, -9.0])
TARGET = np.array([0.0, 0.95, 0.0])
VIEW = math.tan(math.radians(42) / 2)
SUN = np.array([-14.0, 9.0, 12.0]) / math.sqrt(14**2 + 9**2 + 12**2)
LAMP = np.array([0.0, 1.3, 0.0])
COLOURS = ((1.0, 0.72, 0.26), (0.92, 0.34, 0.26), (0.36, 0.62, 1.0))
HEIGHTS = (0.0, 0.10, 0.30, 1.0)
SKY = ((0.95, 0.52, 0.26), (0.78, 0.36, 0.34), (0.24, 0.20, 0.42), (0.02, 0.03, 0.12))


@dataclass(frozen=True)
class Sphere:
    centre: Array
    radius: float
    colour: Array
    glass: bool = False
    glow: float = 0.0


@dataclass(frozen=True)
class Shot:
    """What POV-Ray's options say of a picture."""

    output: Path = Path("frame.png")
    width: int = 320
    height: int = 180
    clock: float = 1.0
    samples: int = 2


@dataclass
class Hits:
    """Where rays end: the distance, and which sphere (-1 the water, -2 the sky)."""

    distance: Array
    thing: NDArray[np.int64] = field(repr=False)


def scene(clock: float) -> list[Sphere]:
    """The lamp and the nine spheres at frame `clock`."""
    turn = 2 * math.pi * clock / FRAMES
    spheres = [Sphere(LAMP, 0.55, np.array([1.0, 0.75, 0.42]), glow=1.5)]
    for i in range(9):
        angle = turn + 2 * math.pi * i / 9
        centre = np.array([3.2 * math.cos(angle), 1.15 + 0.35 * math.sin(2 * angle + i), 2.2 * math.sin(angle)])
        spheres.append(Sphere(centre, 0.46, np.array(COLOURS[(i + i // 3) % 3]), glass=i % 3 == 2))
    return spheres


def unit(vectors: Array) -> Array:
    scaled: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def dot(a: Array, b: Array) -> Array:
    products: Array = np.einsum("...i,...i->...", a, b)
    return products


def sky(directions: Array) -> Array:
    height = np.clip(directions[:, 1], 0, 1)
    colours = np.stack([np.interp(height, HEIGHTS, channel) for channel in zip(*SKY, strict=True)], axis=1)
    sun = np.clip(dot(directions, SUN), 0, 1)
    colours += (sun**400)[:, None] * np.array([3.0, 2.2, 1.3])
    return colours


def nearest(origins: Array, directions: Array, spheres: list[Sphere]) -> Hits:
    """The first thing each ray meets."""
    with np.errstate(divide="ignore", invalid="ignore"):
        water = np.where(directions[:, 1] < 0, -origins[:, 1] / directions[:, 1], FAR)
    distance = np.where(water > 1e-4, water, FAR)
    thing = np.where(distance < FAR, -1, -2)
    for number, sphere in enumerate(spheres):
        offset = origins - sphere.centre
        half = dot(offset, directions)
        root = half**2 - dot(offset, offset) + sphere.radius**2
        depth = np.sqrt(np.maximum(root, 0))
        near = np.where(-half - depth > 1e-4, -half - depth, -half + depth)
        hit = (root > 0) & (near > 1e-4) & (near < distance)
        distance = np.where(hit, near, distance)
        thing = np.where(hit, number, thing)
    return Hits(distance, thing)


def fresnel(cosine: Array, ior: float) -> Array:
    """Schlick's approximation: how much is reflected."""
    low = ((1 - ior) / (1 + ior)) ** 2
    return low + (1 - low) * (1 - np.clip(np.abs(cosine), 0, 1)) ** 5


def reflect(directions: Array, normals: Array) -> Array:
    return directions - 2 * dot(directions, normals)[:, None] * normals


def refract(directions: Array, normals: Array, ior: float) -> Array:
    """Rays bent at the surface, or reflected where none gets through; `normals` point outwards."""
    cosine = dot(directions, normals)
    ratio = np.where(cosine < 0, 1 / ior, ior)
    facing = np.where((cosine < 0)[:, None], normals, -normals)
    cosine = np.abs(cosine)
    through = 1 - ratio**2 * (1 - cosine**2)
    bent = ratio[:, None] * directions + (ratio * cosine - np.sqrt(np.maximum(through, 0)))[:, None] * facing
    return np.where((through > 0)[:, None], bent, reflect(directions, facing))


def waves(points: Array, clock: float) -> Array:
    """The water's normals: two sets of rings that come round with the film, calmer with distance."""
    slope = np.zeros((len(points), 2))
    for centre, length, height, rounds in (((6.0, 9.0), 0.66, 0.07, 2), ((-5.0, 4.0), 0.5, 0.05, 1)):
        away = points[:, [0, 2]] - np.array(centre)
        reach = np.linalg.norm(away, axis=1, keepdims=True) + 1e-9
        slope += away / reach * height * np.sin(2 * math.pi * (reach / length - rounds * clock / FRAMES))
    slope /= 1 + 0.004 * dot(points, points)[:, None]
    return unit(np.stack([slope[:, 0], np.ones(len(points)), slope[:, 1]], axis=1))


def lit(points: Array, normals: Array, spheres: list[Sphere]) -> Array:
    """Light that falls on points: the sun with its shadows, the lamp, a little from the sky."""
    start = points + 1e-3 * normals
    shadow = nearest(start, np.broadcast_to(SUN, points.shape), spheres).thing
    sun = np.clip(dot(normals, SUN), 0, None) * np.where(shadow == -2, 1.0, 0.25)
    to_lamp = LAMP - points
    range2 = dot(to_lamp, to_lamp)
    lamp = np.clip(dot(normals, unit(to_lamp)), 0, None) / (0.5 + 0.16 * range2)
    colour: Array = np.outer(sun, [1.3, 1.02, 0.78]) + np.outer(lamp, [1.0, 0.72, 0.40]) + np.array([0.06, 0.07, 0.11])
    return colour


def trace(origins: Array, directions: Array, spheres: list[Sphere], clock: float, depth: int = DEPTH) -> Array:
    """The colours that rays see."""
    colours = sky(directions)
    if depth == 0 or not len(origins):
        return colours
    hits = nearest(origins, directions, spheres)
    points = origins + hits.distance[:, None] * directions
    for number in np.unique(hits.thing):
        rays = hits.thing == number
        if number == -1:
            colours[rays] = shade_water(points[rays], directions[rays], spheres, clock, depth)
        elif number >= 0:
            colours[rays] = shade_sphere(points[rays], directions[rays], spheres[number], spheres, clock, depth)
    return colours


def shade_water(points: Array, directions: Array, spheres: list[Sphere], clock: float, depth: int) -> Array:
    normals = waves(points, clock)
    mirrored = reflect(directions, normals)
    mirrored[:, 1] = np.abs(mirrored[:, 1]) + 1e-3
    seen = trace(points + 1e-3 * normals, unit(mirrored), spheres, clock, depth - 1)
    share = (0.06 + 0.80 * fresnel(dot(directions, normals), 1.33))[:, None]
    colour = share * seen + lit(points, normals, spheres) * np.array([0.010, 0.025, 0.045])
    haze = (1 - np.exp(-np.maximum(0, np.linalg.norm(points - CAMERA, axis=1) - 8) / 28))[:, None]
    hazy: Array = (1 - haze) * colour + haze * np.array(SKY[0]) * 0.85
    return hazy


def shade_sphere(points: Array, directions: Array, sphere: Sphere, spheres: list[Sphere], clock: float, depth: int) -> Array:
    if sphere.glow:
        return np.broadcast_to(sphere.colour * sphere.glow, points.shape)
    normals = (points - sphere.centre) / sphere.radius
    inside = dot(directions, normals) > 0
    facing = np.where(inside[:, None], -normals, normals)
    mirrored = trace(points + 1e-3 * facing, unit(reflect(directions, facing)), spheres, clock, depth - 1)
    share = fresnel(dot(directions, normals), 1.5)[:, None]
    if sphere.glass:
        bent = unit(refract(directions, normals, 1.5))
        behind = trace(points + 1e-3 * bent, bent, spheres, clock, depth - 1)
        colour: Array = share * mirrored + (1 - share) * behind * np.array([0.95, 0.99, 1.0])
        return colour
    metal: Array = sphere.colour * (0.41 + 0.34 * share) * mirrored
    metal += 0.3 * sphere.colour * lit(points, normals, spheres)
    return metal


def rays_of(shot: Shot, rows: range) -> Array:
    """Unit directions through the middles of `samples` x `samples` parts of each pixel of these rows."""
    forward = unit(TARGET - CAMERA)
    right = unit(np.cross(np.array([0.0, 1.0, 0.0]), forward))
    up = np.cross(forward, right)
    n = shot.samples
    x = (np.arange(shot.width * n) + 0.5) / (shot.width * n) * 2 - 1
    y = (np.arange(rows.start * n, rows.stop * n) + 0.5) / (shot.height * n) * 2 - 1
    across, down = np.meshgrid(x * VIEW, y * VIEW * shot.height / shot.width)
    return unit((forward + across[..., None] * right - down[..., None] * up).reshape(-1, 3))


def render(shot: Shot, quiet: bool = True) -> NDArray[np.uint8]:
    """The picture as height x width x 3 bytes; tells its progress in POV-Ray's words unless `quiet`."""
    spheres, n = scene(shot.clock), shot.samples
    bands = []
    for top in range(0, shot.height, BAND_ROWS):
        rows = range(top, min(top + BAND_ROWS, shot.height))
        directions = rays_of(shot, rows)
        colours = trace(np.broadcast_to(CAMERA, directions.shape), directions, spheres, shot.clock)
        bands.append(colours.reshape(len(rows), n, shot.width, n, 3).mean(axis=(1, 3)))
        if not quiet:
            done, total = rows.stop * shot.width, shot.height * shot.width
            print(f"Rendered {done} of {total} pixels ({done * 100 // total}%)", flush=True)
    linear = np.clip(np.concatenate(bands), 0, 1)
    return np.asarray(np.round(255 * linear ** (1 / 2.2)), dtype=np.uint8)


def options(words: list[str]) -> Shot:
    """Reads POV-Ray's options; ValueError names one that cannot be read."""
    values: dict[str, object] = {}
    for word in words:
        key, text = word[:2].upper(), word[2:]
        if key == "+O":
            values["output"] = Path(text)
        elif key in ("+W", "+H") and word[:3].upper() != "+WT":
            values["width" if key == "+W" else "height"] = max(1, int(text))
        elif key == "+K":
            values["clock"] = float(text)
        elif key == "+A":
            values["samples"] = 1 if text and float(text) == 0 else 2
    return Shot(**values)  # type: ignore[arg-type]


def main() -> int:
    try:
        shot = options(sys.argv[1:])
    except ValueError as error:
        print(f"raytracer: {error}", file=sys.stderr)
        return 2
    picture = Image.fromarray(render(shot, quiet=False))
    part = shot.output.with_name(shot.output.name + ".part")
    picture.save(part, "PNG")
    os.replace(part, shot.output)  # a picture is there whole or not at all
    return 0


if __name__ == "__main__":
    sys.exit(main())
