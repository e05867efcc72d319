"""The wheel in an empty environment: server, worker, page and job, with nothing of the sources at hand."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import Distribution
from pathlib import Path

from scripts.licences import needed

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return done.stdout


def _lend(library: Distribution, place: Path) -> None:
    """A library that is installed here is installed there, too: what the wheel asks for and nothing else."""
    for name in {file.parts[0] for file in library.files or () if ".." not in file.parts}:
        source = Path(str(library.locate_file(name)))
        if source.exists() and name != "__pycache__":
            (place / name).symlink_to(source)


def test_the_wheel_with_the_server_s_libraries_runs_a_farm(tmp_path: Path) -> None:
    into = {name: str(tmp_path / name) for name in ("egg", "build", "bdist", "dist")}  # other tests build here as well
    (tmp_path / "egg").mkdir()
    words = ["egg_info", "--egg-base", into["egg"], "build", "--build-base", into["build"]]
    words += ["bdist_wheel", "--bdist-dir", into["bdist"], "--dist-dir", into["dist"]]
    run(sys.executable, "setup.py", "-q", *words, cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, str(wheel), cwd=tmp_path)
    (place,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    for one in needed("server"):
        _lend(one, place)
    assert "a job was run on Python" in run(python, str(ROOT / "scripts" / "smoke.py"), cwd=tmp_path)
