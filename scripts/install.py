"""make install: the environment in .venv with the server and the development tools, and the built web page.

A second call finds the stamp of the first and does nothing. An environment whose making was cut off, or whose Python
is gone, is made again. Two calls at a time wait for each other. Standard library only; run by install.sh, first with the
environment's own Python (quick, but it cannot make itself: exit code 3), then with one from PATH.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "coalition.stamp"
UNFINISHED = VENV / "coalition.unfinished"
LOCK = ROOT / "build" / "install.lock"
OUT_OF_DATE = 3
EXTRAS = "server,mysql,postgresql,ldap,aws,gcp,libcloud,dev,demo"
DEFINED_BY = ("setup.py", "pyproject.toml", "coalition/__init__.py")


class Failed(Exception):
    """The installation cannot go on; the message says why and what to do."""


def wanted_stamp() -> str:
    """What the environment is made from: another text means that it is out of date."""
    digest = hashlib.sha256(f"{EXTRAS} {ROOT}".encode())
    for name in DEFINED_BY:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def up_to_date() -> bool:
    return STAMP.is_file() and STAMP.read_text() == wanted_stamp() and os.access(PYTHON, os.X_OK)


def run(words: list[str], trouble: str) -> None:
    try:
        code = subprocess.run(words, cwd=ROOT, check=False).returncode
    except OSError as error:
        raise Failed(f"{trouble}: {error}") from None
    if code:
        raise Failed(f"{trouble} (exit code {code}: {' '.join(words)})")


def need_venv_module() -> None:
    """Debian's own Python comes without ensurepip: its package is installed as root, else named."""
    if importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv"):
        return
    package = f"python3.{sys.version_info.minor}-venv"
    run([sys.executable, "scripts/packages.py", package], f"this Python cannot make environments; install {package}")


def sound(python: Path) -> bool:
    """Whether an environment is whole: its Python starts, and its pip too."""
    if UNFINISHED.exists() or not os.access(python, os.X_OK):
        return False
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def build_requirements() -> list[str]:
    """What setup.py is run with. Installed once, in the environment: pip would unpack all of it a second time elsewhere."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return list(tomllib.load(file)["build-system"]["requires"])


def make_environment() -> None:
    """Makes .venv, or brings one that is whole up to date."""
    if not sound(PYTHON):
        shutil.rmtree(VENV, ignore_errors=True)
        need_venv_module()
        VENV.mkdir()
        UNFINISHED.touch()
        print(f"Making .venv with Python {sys.version.split()[0]} ...", flush=True)
        run([sys.executable, "-m", "venv", str(VENV)], "the environment cannot be made")
    STAMP.unlink(missing_ok=True)
    UNFINISHED.touch()
    print(f"Installing coalition[{EXTRAS}] ...", flush=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    trouble = "pip could not install the packages; is a package index within reach?"
    try:
        run([*pip, *build_requirements()], trouble)
        run([*pip, "--no-build-isolation", "-e", f".[{EXTRAS}]"], trouble)
    finally:
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):  # pip takes back what fails, but not what is cut off
            UNFINISHED.unlink()
    STAMP.write_text(wanted_stamp())


def main() -> int:
    try:
        LOCK.parent.mkdir(exist_ok=True)
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not up_to_date():
                if Path(sys.prefix).resolve() == VENV.resolve():
                    return OUT_OF_DATE
                make_environment()
            run([str(PYTHON), "scripts/build_page.py"], "the web page cannot be built")
    except Failed as error:
        print(f"make install: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
