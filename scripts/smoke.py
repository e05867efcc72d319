"""A farm from an installed wheel, for real: a server, a worker, a job, its log. Ends with 0 when all of it worked."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path


def main() -> None:
    """Runs it in a folder of its own, where the sources are not found."""
    program = shutil.which("coalition", path=str(Path(sys.executable).parent))
    if program is None:
        sys.exit("smoke: coalition is not installed in this environment")
    with tempfile.TemporaryDirectory(prefix="coalition-smoke-") as folder:
        os.chdir(folder)
        with _running(program, *_server_options(Path(folder))) as server:
            address = f"http://127.0.0.1:{_port}"
            _wait_for(address, server)
            with urllib.request.urlopen(address, timeout=10) as page:
                if b"<script" not in page.read():
                    sys.exit("smoke: there is no page in the wheel")
            with _running(program, "--server", address, "worker", "--state-dir", str(Path(folder, "worker"))):
                said = subprocess.run(
                    [program, "--server", address, "submit", "--wait", "--title", "smoke", "--", "echo", "it works"],
                    check=True,
                    timeout=60,
                    capture_output=True,
                    text=True,
                )
                print(said.stdout.strip())
                log = subprocess.run([program, "--server", address, "log", "1"], check=True, timeout=30, capture_output=True)
    if log.stdout.strip() != b"it works":
        sys.exit(f"smoke: the log says {log.stdout!r}")
    print(f"smoke: a job was run on Python {sys.version.split()[0]}")


_port = 0


def _server_options(folder: Path) -> list[str]:
    global _port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        _port = probe.getsockname()[1]
    (folder / "cloud.ini").write_text(
        f"[server]\nlisten = 127.0.0.1:{_port}\ndata_dir = {folder / 'data'}\ndiscovery = no\n[autoscaler]\nenabled = no\n",
        encoding="utf-8",
    )
    return ["serve", "--config", str(folder / "cloud.ini")]


@contextlib.contextmanager
def _running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    from coalition.client import Client
    from coalition.errors import ServerUnreachable

    until = time.monotonic() + 60
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(ServerUnreachable):
            Client(address).info()
            return
        time.sleep(0.1)
    sys.exit(f"smoke: no server at {address}; it ended with {server.poll()}")


if __name__ == "__main__":
    main()
