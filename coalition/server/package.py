"""The wheel of the running version, for machines that start: GET /api/v1/worker-package.

It is made of the files that this server runs, so that a farm does not mix versions by accident. It needs what the base install
needs; the page is not in it. Everybody may have it: it is the program, and nothing of this farm.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

from flask import Blueprint, Response

import coalition

blueprint = Blueprint("package", __name__)

ROOT = Path(coalition.__file__).resolve().parent.parent
PACKAGES = ("coalition", "autoscaler", "providers")
NAME = f"coalition-{coalition.__version__}-py3-none-any.whl"
BORN = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel


@blueprint.get("/worker-package")
def worker_package() -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{NAME}"', "Cache-Control": "no-cache"}
    return Response(wheel(), mimetype="application/zip", headers=headers)


@cache
def wheel() -> bytes:
    """The wheel's bytes; its layout: the binary distribution format of the Python Packaging User Guide."""
    files = {str(path.relative_to(ROOT)): path.read_bytes() for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))}
    info = f"coalition-{coalition.__version__}.dist-info"
    files[f"{info}/METADATA"] = _metadata().encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: coalition\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\ncoalition = coalition.cli:main\n"
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, BORN), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _metadata() -> str:
    """What the base install needs; the extras are for servers."""
    needed = [line for line in metadata.requires("coalition") or () if "extra ==" not in line]
    lines = ["Metadata-Version: 2.1", "Name: coalition", f"Version: {coalition.__version__}"]
    return "\n".join([*lines, *(f"Requires-Dist: {line}" for line in needed)]) + "\n"


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
