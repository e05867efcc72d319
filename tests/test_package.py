"""The wheel that machines fetch: it is the running version, and pip installs it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from flask import Flask

import coalition
from coalition.server import package
from coalition.store import Store


def test_the_wheel_of_the_running_version_installs_and_runs(app: Flask, tmp_path: Path) -> None:
    answer = app.test_client().get("/api/v1/worker-package")
    assert answer.status_code == 200
    name = answer.headers["Content-Disposition"].partition("filename=")[2].strip('"')
    assert name == f"coalition-{coalition.__version__}-py3-none-any.whl"
    (tmp_path / name).write_bytes(answer.data)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", tmp_path / "site"]
    subprocess.run([*pip, tmp_path / name], check=True, timeout=60)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def printed(*words: object) -> str:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
        return str(done.stdout)

    assert "--deadline-file" in printed(tmp_path / "site/bin/coalition", "worker", "--help")
    where = printed(sys.executable, "-c", "import coalition; print(coalition.__file__)")
    assert where.startswith(str(tmp_path))


def test_the_same_files_make_the_same_wheel_and_it_holds_no_more_than_the_program() -> None:
    with zipfile.ZipFile(io.BytesIO(package.wheel())) as archive:
        names = archive.namelist()
        needed = archive.read(f"coalition-{coalition.__version__}.dist-info/METADATA").decode()
    assert package.wheel.__wrapped__() == package.wheel()
    assert {name.partition("/")[0] for name in names} == {*package.PACKAGES, f"coalition-{coalition.__version__}.dist-info"}
    assert "coalition/worker.py" in names
    assert "Requires-Dist: psutil" in needed
    assert "flask" not in needed.lower()


def test_a_package_of_the_studio_is_for_whoever_may_enrol(app: Flask, store: Store) -> None:
    folder = store.settings.data_dir / "packages"
    folder.mkdir(parents=True)
    (folder / "renderer.tar.gz").write_bytes(b"packed")
    (folder.parent / "secret.tar.gz").write_bytes(b"no package")
    enrol, user = store.create_token("enrol"), store.create_token("user", user="ann", role="admin")
    asked = app.test_client()

    def ask(name: str, token: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with asked.get(f"/api/v1/packages/{name}", headers=headers) as answer:
            return answer.status_code, answer.data if answer.status_code == 200 else b""

    assert ask("renderer.tar.gz", enrol) == (200, b"packed")
    for name, token in (
        ("renderer.tar.gz", ""),
        ("renderer.tar.gz", user),
        ("renderer.tar.gz", f"{enrol}x"),
        ("other.tar.gz", enrol),
        ("..%2Fsecret.tar.gz", enrol),
        ("%2E%2E", enrol),
    ):
        assert ask(name, token)[0] == 404, name
