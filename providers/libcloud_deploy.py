"""Brings the start-up script to machines whose driver gives them no user data: by ssh, each in a thread of its own.

A machine that cannot be reached never enrols, and is ended like any whose boot fails; so is one whose server ends meanwhile.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from providers.bootstrap import SCRIPT

log = logging.getLogger("providers.libcloud")

REMOTE = f"umask 077; mkdir -p {PurePosixPath(SCRIPT).parent} && cat >{SCRIPT} && chmod 700 {SCRIPT} && {SCRIPT}"
NOT_REACHED = 255  # what ssh itself ends with; any other code is the script's
CALL_S = 60.0


class Deployer:
    """`program` is ssh."""

    def __init__(self, program: str = "ssh", pause_s: float = 5.0) -> None:
        self.program, self.pause_s = program, pause_s

    def start(self, name: str, addresses: Callable[[], Sequence[str]], script: str, key: str, user: str, lasts_s: float) -> None:
        """Tries for `lasts_s`, and returns at once. `addresses` is asked again each time: a new machine has none yet.

        `key` is the path of a private key that lets `user` in.
        """
        until = time.monotonic() + lasts_s
        bring = threading.Thread(target=self._bring, args=(name, addresses, script, key, user, until), name=name, daemon=True)
        bring.start()

    def _bring(
        self, name: str, addresses: Callable[[], Sequence[str]], script: str, key: str, user: str, until: float
    ) -> None:  # fmt: skip
        said = "it has no address"
        while time.monotonic() < until:
            for address in addresses():
                code, said = self._try(address, script, key, user)
                if code == 0:
                    log.info("%s got its start-up script at %s", name, address)
                    return
                if code != NOT_REACHED:
                    log.warning("the start-up script of %s ended with %d: %s", name, code, said)
                    return
            time.sleep(self.pause_s)
        log.warning("%s did not get its start-up script: %s", name, said)

    def _try(self, address: str, script: str, key: str, user: str) -> tuple[int, str]:
        """(exit code, last words). A new machine's host key is nobody's yet, so it is not compared with any."""
        command = [self.program, "-i", key, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10"]
        command += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", f"{user}@{address}"]
        remote = REMOTE if user == "root" else f"sudo sh -c '{REMOTE}'"
        try:
            done = subprocess.run(
                [*command, remote], input=script, capture_output=True, text=True, timeout=CALL_S, check=False
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return NOT_REACHED, str(error)
        return done.returncode, done.stderr.strip()[-200:]
