"""What machines fetch when they start: the wheel of the running version, and the studio's own packages.

It is made of the files that this server runs, so that a farm does not mix versions by accident. It needs what the base install
needs; the page is not in it. Everybody may have it: it is the program, and nothing of this farm. The packages in
`data_dir`/packages are for whoever may enrol.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

from flask import Blueprint, Response, request, send_file

import coalition
from coalition.errors import NotFound
from coalition.server import web
from coalition.server.auth import bearer
from coalition.store.workers import in_networks
from coalition.values import PACKAGE_NAME

blueprint = Blueprint("package", __name__)

ROOT = Path(coalition.__file__).resolve().parent.parent
PACKAGES = ("coalition", "autoscaler", "providers")
NAME = f"coalition-{coalition.__version__}-py3-none-any.whl"
BORN = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel


@blueprint.get("/worker-package")
def worker_package() -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{NAME}"', "Cache-Control": "no-cache"}
    return Response(wheel(), mimetype="application/zip", headers=headers)


@blueprint.get("/packages/<name>")
def studio_package(name: str) -> Response:
    """A file of `data_dir`/packages. Without a good enrolment token there is none, so that no stranger learns what there is."""
    farm = web.farm()
    row = farm.store.check_token(bearer(request.headers.get("Authorization", "")))
    path = farm.settings.data_dir / "packages" / name
    if row is not None and row.networks and not in_networks(request.remote_addr, row.networks):
        row = None
    if row is None or row.kind not in ("enrol", "site") or not re.fullmatch(PACKAGE_NAME, name) or not path.is_file():
        raise NotFound(f"there is no package {name[:80]} for this caller")
    return send_file(path.resolve(), mimetype="application/octet-stream")


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
