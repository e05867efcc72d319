"""The command line on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def on_terminal(words: list[str], until: str, then: signal.Signals | None) -> tuple[int, str]:
    """Runs the command on a terminal of 80 columns, with a signal once it has shown `until`; its code and all it showed."""
    outer, inner = pty.openpty()
    variables = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    running = subprocess.Popen(
        [sys.executable, "-m", "coalition", *words], cwd=ROOT, env=variables, stdin=inner, stdout=inner, stderr=inner
    )
    os.close(inner)
    shown = ""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([outer], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(outer, 65_536).decode()
        except OSError:  # the other side is closed
            break
        if then and until in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown):
            running.send_signal(then)
            then = None
    os.close(outer)
    return running.wait(20), shown
