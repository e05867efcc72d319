"""Builds a release: refuses one whose tag, version and change log do not agree, or that is not what is committed.

python scripts/release.py v5.0.0
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def complaints(root: Path, tag: str) -> Iterator[str]:
    """What stands in the way of a release under this tag."""
    found = re.search(r'^__version__ = "(.+)"$', (root / "coalition" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    version = found[1] if found else "?"
    if tag != f"v{version}":
        yield f"the tag is {tag}, and the version in coalition/__init__.py is {version}: v{version} is wanted"
    if ".dev" in version:
        yield f"{version} is a version in the making; take the .dev part away"
    if f"\n## {version}" not in (root / "CHANGELOG.md").read_text(encoding="utf-8"):
        yield f"CHANGELOG.md has no heading '## {version}'"
    if _git(root, "status", "--porcelain"):
        yield "there are changes that are not committed"
    if tag not in _git(root, "tag", "--points-at", "HEAD").split():
        yield f"the tag {tag} is not at this commit: git tag {tag}"


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Builds sdist and wheel into dist/."""
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/release.py vVERSION")
    found = list(complaints(ROOT, sys.argv[1]))
    if found:
        sys.exit("\n".join(f"release: {one}" for one in found))
    subprocess.run([sys.executable, "-m", "build", "--outdir", "dist"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
