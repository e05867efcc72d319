"""Wheels of what is installed here, for tests that install where no package index is asked."""

from __future__ import annotations

import re
import zipfile
from importlib import metadata
from pathlib import Path

from coalition.server.package import NAME, wheel

NEEDED = ("psutil", "click", "rich", "markdown-it-py", "mdurl", "pygments")


def pack(name: str, folder: Path) -> Path:
    """The wheel of an installed distribution, made of its files."""
    found = metadata.distribution(name)
    tag = re.search(r"^Tag: (\S+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    assert tag, f"{name} was not installed from a wheel"
    path = folder / f"{re.sub(r'[-.]+', '_', found.metadata['Name'])}-{found.version}-{tag[1]}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts and file.name not in ("INSTALLER", "REQUESTED"):
                archive.write(file.locate(), str(file))
    return path


def worker_wheels(folder: Path) -> Path:
    """The worker's wheel, beside those that it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NEEDED:
        pack(name, folder)
    (folder / NAME).write_bytes(wheel())
    return folder / NAME
