"""Which program renders the demo's frames: POV-Ray where it is or can be installed, else the ray tracer in examples/."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts import packages

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCENE = EXAMPLES / "scene" / "orbits.pov"
PROBE_LIMIT_S = 30


@dataclass(frozen=True)
class Renderer:
    """A program that takes POV-Ray's options; `program` is its command line up to them."""

    name: str
    program: tuple[str, ...]

    def command(self, width: int, height: int, frame: str = "{frame}", output: str = "frame_{frame:04d}.png") -> str:
        """The shell command of one frame, or of a frame array while `frame` is the placeholder. One thread: a slot is one cpu."""
        fixed = shlex.join([*self.program, f"+I{SCENE}", f"+W{width}", f"+H{height}", "+A0.3", "+WT1", "-D", "-P"])
        return f"{fixed} +K{frame} +O{output}"


POVRAY = Renderer("POV-Ray", ("povray",))
RAYTRACER = Renderer("the ray tracer of examples/", (sys.executable, str(EXAMPLES / "raytracer.py")))


def choose() -> tuple[Renderer, str | None]:
    """The renderer, and why it is not POV-Ray, if so. A package that cannot be installed is never a failure."""
    trouble = packages.ensure(["povray"])
    if trouble is None and not works(POVRAY):
        trouble = f"{shutil.which('povray')} does not render the scene"
    return (POVRAY, None) if trouble is None else (RAYTRACER, trouble)


def works(renderer: Renderer) -> bool:
    """Whether it renders a tiny frame: a program of that name may be something else, or be kept from our files."""
    with tempfile.TemporaryDirectory() as folder:
        command = shlex.split(renderer.command(16, 9, "1", "probe.png"))
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=PROBE_LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0 and (Path(folder) / "probe.png").is_file()
