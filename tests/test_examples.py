"""The examples: the scene renders, its frames differ, and the film and the strip hold all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run_example(name: str, *words: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def test_the_ray_tracer_takes_the_options_of_povray_and_tells_its_progress(tmp_path: Path) -> None:
    done = run_example("raytracer.py", "+Iscene.pov", "+Oa.png", "+W48", "+H27", "+K5", "+A0.3", "+WT1", "-D", folder=tmp_path)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (48, 27)
    assert done.stdout.splitlines()[-1] == "Rendered 1296 of 1296 pixels (100%)"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_ray_traced_frames_differ_and_the_film_joins_end_to_start(tmp_path: Path) -> None:
    for frame in (0, 5, 48):
        run_example("raytracer.py", f"+O{frame}.png", "+W48", "+H27", f"+K{frame}", "+A0", folder=tmp_path)
    assert pixels(tmp_path / "0.png") != pixels(tmp_path / "5.png")
    first, last = pixels(tmp_path / "0.png"), pixels(tmp_path / "48.png")
    assert max(abs(a - b) for a, b in zip(first, last, strict=True)) <= 1


def test_the_ray_tracer_refuses_a_size_that_is_no_number(tmp_path: Path) -> None:
    done = run_example("raytracer.py", "+Wwide", folder=tmp_path, code=2)
    assert "wide" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("povray") is None and os.environ.get("CI") != "true", reason="POV-Ray is not installed")
def test_the_scene_renders_with_povray_and_moves(tmp_path: Path) -> None:
    scene = EXAMPLES / "scene" / "orbits.pov"
    for frame in (1, 9):
        options = [f"+I{scene}", f"+O{frame}.png", "+W48", "+H27", f"+K{frame}", "-D", "+WT1"]
        done = subprocess.run(["povray", *options], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "Parse Warning" not in done.stderr
    assert pixels(tmp_path / "1.png") != pixels(tmp_path / "9.png")


def make_frames(folder: Path, count: int) -> None:
    for number in range(1, count + 1):
        Image.new("RGB", (32, 18), (number * 20, 90, 200 - number * 10)).save(folder / f"frame_{number:04d}.png")


def test_assemble_makes_a_film_of_all_frames_and_a_strip(tmp_path: Path) -> None:
    make_frames(tmp_path, 10)
    run_example("assemble.py", "frame_%04d.png", "1-10", folder=tmp_path)
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (10, (32, 18), 0)
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (8 * 164 + 4, 2 * 94 + 4)


def test_assemble_names_missing_and_broken_frames_and_writes_nothing(tmp_path: Path) -> None:
    make_frames(tmp_path, 3)
    (tmp_path / "frame_0002.png").write_bytes(b"not a picture")
    done = run_example("assemble.py", "frame_%04d.png", "1-4", folder=tmp_path, code=1)
    assert "2 of 4 frames" in done.stderr
    assert "frame_0002.png" in done.stderr
    assert "frame_0004.png" in done.stderr
    assert not (tmp_path / "film.gif").exists()
