"""A copy of this machine's files to change as one likes: an overlay in a mount namespace of its own, on a RAM disk. For root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MAKE = """
set -eu
mount -t tmpfs box "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" box "$1/root"
mount -t proc proc "$1/root/proc"
mount -t tmpfs run "$1/root/run"
mount --rbind /dev "$1/root/dev"
echo ready
exec cat
"""


class Box:
    """`root` is the copy, as seen from here; `run` starts a command in it. It is gone when closed, or when this process ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        words = ["unshare", "--mount", "sh", "-c", MAKE, "sh", str(folder)]
        self._holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout
        assert self._holder.stdout.readline() == "ready\n", "no overlay could be mounted"
        self.root = Path(f"/proc/{self._holder.pid}/root{folder}/root")

    def run(self, *command: str, code: int = 0, **environment: str) -> str:
        """What a command in the copy prints; it must end with this exit code."""
        words = ["nsenter", "-t", str(self._holder.pid), "-m", "chroot", f"{self._folder}/root", *command]
        done = subprocess.run(
            words, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout[-4_000:]
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def close(self) -> None:
        self._holder.communicate()
