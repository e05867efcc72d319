"""Packs the sweepers of providers/ for AWS Lambda and Cloud Functions. The same file makes the same archive."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# source: (archive, its name in it)
SWEEPERS = {
    ROOT / "providers" / "aws_sweeper.py": (ROOT / "terraform" / "aws" / "sweeper.zip", "aws_sweeper.py"),
    ROOT / "providers" / "gce_sweeper.py": (ROOT / "terraform" / "gcp" / "sweeper.zip", "main.py"),
}


def packed(source: Path) -> bytes:
    info = zipfile.ZipInfo(SWEEPERS[source][1], (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16  # the function reads it as another user
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:  # not compressed: no two versions of zlib need agree
        file.writestr(info, source.read_bytes())
    return archive.getvalue()


if __name__ == "__main__":
    for source, (target, _) in SWEEPERS.items():
        target.write_bytes(packed(source))
