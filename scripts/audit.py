"""Known faults of the libraries that are installed, as far as PyPI's list of them can be reached. Standard library only.

    python3 scripts/audit.py [--must]      exit 0: none is known, or nothing could be looked up, which is said; 1: some are

With --must that nothing could be looked up is a failure, too: for CI, which has the network. The tool that asks (pip-audit) has
an environment of its own in build/audit, so that nothing of it is taken for a library of ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "audit"
LIMIT_S = 300


def judged(document: Mapping[str, Any], must: bool) -> tuple[int, list[str]]:
    """The exit code for what pip-audit found, and what to say."""
    asked = [one for one in document["dependencies"] if "vulns" in one]
    faults = [
        f"{one['name']} {one['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for one in asked
        for fault in one["vulns"]
    ]
    if faults:
        return 1, faults
    if not asked:
        return int(must), ["PyPI's list of faults cannot be reached from here; nothing was looked up"]
    return 0, [f"no fault is known of {len(asked)} libraries; {len(document['dependencies']) - len(asked)} are not on PyPI"]


def look_up() -> Mapping[str, Any]:
    """What pip-audit says of this Python's libraries; nothing where it cannot be had."""
    python = PLACE / "bin" / "python"
    nothing: Mapping[str, Any] = {"dependencies": []}
    try:
        if not python.exists():
            venv.create(PLACE, with_pip=True)
        run = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "pip-audit"]
        subprocess.run(run, check=True, capture_output=True, timeout=LIMIT_S)
        here = ["--path", sysconfig.get_path("purelib"), "--skip-editable", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(
            [str(python), "-m", "pip_audit", *here], capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
        found: Mapping[str, Any] = json.loads(done.stdout or "null") or nothing
        return found
    except (OSError, subprocess.SubprocessError, ValueError):
        return nothing


def main() -> int:
    code, words = judged(look_up(), "--must" in sys.argv[1:])
    for line in words:
        print(f"audit: {line}", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
