"""The archive of the sources, and its wheel in an empty environment: server, worker, page and job, with no sources at hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

import coalition
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
        if source.exists() and name != "__pycache__" and not (place / name).exists():
            (place / name).symlink_to(source)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel that is made of it; in copies, as other tests read and build in the sources."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "tree", ignore=_no_part, symlinks=True)
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(folder), cwd=folder / "tree")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    assert not (unpacked / "webui" / "node_modules").exists()
    run(sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(folder), cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return archive, wheel


def _no_part(folder: str, names: list[str]) -> set[str]:
    """What no archive has, and what takes long to copy."""
    if Path(folder) != ROOT:
        return {"node_modules", "__pycache__"} & set(names)
    return set(names) - {
        "coalition",
        "providers",
        "autoscaler",
        "scripts",
        "webui",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }


def test_archive_and_wheel_have_the_one_version_and_the_page(built: tuple[Path, Path]) -> None:
    archive, wheel = built
    assert archive.name == f"coalition-{coalition.__version__}.tar.gz"
    assert wheel.name == f"coalition-{coalition.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert "coalition/server/static/index.html" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"coalition", "providers", "autoscaler"}


def test_the_wheel_runs_a_farm_with_the_server_s_libraries_and_names_the_extra_without(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = str(tmp_path / "env" / "bin" / "python")
    (place,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    run(*pip, "--no-index", str(built[1]), cwd=tmp_path)
    for one in needed():
        _lend(one, place)
    bare = subprocess.run(
        [python, "-m", "coalition", "serve"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert bare.returncode == 2
    assert "pip install 'coalition[server]'" in bare.stderr
    for one in needed("server"):
        _lend(one, place)
    assert "a job was run on Python" in run(python, str(ROOT / "scripts" / "smoke.py"), cwd=tmp_path)
