"""Debian packages that make use of: present, or installed as root, or said to be missing. Standard library only.

    python3 scripts/packages.py povray shellcheck      exit 0: all are there; 3: some are not, and which is said

Nothing here is ever needed for a farm to run: who calls has another way, or says what is left out.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# package: the command that shows it is there
COMMANDS = {
    "blender": "blender",
    "caddy": "caddy",
    "ffmpeg": "ffmpeg",
    "nginx-light": "nginx",
    "povray": "povray",
    "packer": "packer",
    "cloud-init": "cloud-init",
    "systemd": "systemd-analyze",
    "shellcheck": "shellcheck",
    "iproute2": "ip",
    "dnsmasq-base": "dnsmasq",
    "chromium": "chromium",
    "mariadb-client-core": "my_print_defaults",
    "mariadb-server-core": "mariadbd",
    "postgresql": "initdb",
    "slapd": "slapd",
    "sudo": "sudo",
}
BEYOND_PATH = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/postgresql/*/bin")  # where database servers are, for who is not root
UPDATE_LIMIT_S = 120
FETCH_LIMIT_S = 300
INSTALL_LIMIT_S = 600
POLICY = Path("/usr/sbin/policy-rc.d")
APT_OPTIONS = ("-y", "-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20")


def missing(names: Sequence[str]) -> list[str]:
    """Those of the packages that are not there."""
    return [name for name in names if not _present(name)]


def _present(name: str) -> bool:
    if name in COMMANDS:
        return find(COMMANDS[name]) is not None
    if shutil.which("dpkg-query") is None:
        return False
    asked = subprocess.run(["dpkg-query", "-W", "-f", "${Status}", name], capture_output=True, text=True, check=False)
    return asked.stdout.strip() == "install ok installed"


def find(command: str) -> str | None:
    """Where a command is, looked for on PATH and where Debian keeps database servers."""
    beyond = [folder for pattern in BEYOND_PATH for folder in sorted(glob.glob(pattern), reverse=True)]
    return shutil.which(command, path=os.pathsep.join([os.environ.get("PATH", ""), *beyond]))


def ensure(names: Sequence[str]) -> str | None:
    """Sees to it that the packages are there; None, or why some are not: one line for people."""
    wanted = missing(names)
    if not wanted:
        return None
    listed = " ".join(wanted)
    if shutil.which("apt-get") is None:
        return f"missing: {listed} (no apt-get here to install them)"
    if os.geteuid() != 0:
        return f"missing: {listed} (as root: apt-get install --no-install-recommends {listed})"
    print(f"Debian packages: {listed} ...", flush=True)
    trouble = _install(wanted)
    still = missing(wanted)
    return f"missing: {' '.join(still)} ({trouble or 'apt-get gave no error'})" if still else None


def _install(wanted: Sequence[str]) -> str | None:
    """Update once, then all together, and one by one where that fails; the last trouble, if any."""
    with _no_services():
        trouble = _apt(["update"], UPDATE_LIMIT_S)
        if trouble is None and _fetch_and_install(wanted) is None:
            return None
        for name in wanted:
            trouble = _fetch_and_install([name]) or trouble
    return trouble


def _fetch_and_install(names: Sequence[str]) -> str | None:
    """Only the download has a short limit: an installation that is cut off leaves dpkg in the middle."""
    install = ["install", "--no-install-recommends", *names]
    return _apt([*install, "--download-only"], FETCH_LIMIT_S) or _apt(install, INSTALL_LIMIT_S)


def _apt(words: Sequence[str], limit_s: float) -> str | None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"}
    command = ["apt-get", *APT_OPTIONS, *words]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"apt-get {words[0]} took more than {limit_s:.0f} s"
    except OSError as error:
        return f"apt-get {words[0]}: {error}"
    if done.returncode == 0:
        return None
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return f"apt-get {words[0]}: {lines[-1].strip() if lines else f'exit code {done.returncode}'}"


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """While packages are installed, none of them may start a service; a policy that is there already stays."""
    try:
        with POLICY.open("x") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except OSError:
        yield
        return
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def main() -> int:
    trouble = ensure(sys.argv[1:])
    if trouble:
        print(f"Debian packages: {trouble}", file=sys.stderr, flush=True)
    return 3 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
