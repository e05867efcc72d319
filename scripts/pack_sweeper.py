"""Packs providers/aws_sweeper.py for AWS Lambda, into terraform/aws/sweeper.zip. The same file makes the same archive."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "providers" / "aws_sweeper.py"
TARGET = ROOT / "terraform" / "aws" / "sweeper.zip"


def packed() -> bytes:
    info = zipfile.ZipInfo(SOURCE.name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16  # Lambda reads it as another user
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:  # not compressed: no two versions of zlib need agree
        file.writestr(info, SOURCE.read_bytes())
    return archive.getvalue()


if __name__ == "__main__":
    TARGET.write_bytes(packed())
