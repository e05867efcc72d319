"""What a process of ours says of itself: lines for people or JSON lines, levels per part, rotation, and nothing secret.

    2026-01-31 12:30:05,123 WARNING coalition.store: a text [4f2a91c0]      for people; in [] the id of the request, if any
{"time": ..., "level": ..., "part": ..., "request": ..., "text": ..., "trace": ...}          `format = json`
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from coalition.system import of_this_machine

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("text", "json")
OURS = ("coalition", "autoscaler", "providers")  # the names of our parts begin so
CHATTY = ("alembic", "apscheduler", "botocore", "boto3", "s3transfer", "urllib3")
request_id: ContextVar[str] = ContextVar("request_id", default="")
SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic) +[\w.~+/=\-]{8,}"), r"\1 ***"),
    (re.compile(r"(\w[\w+.\-]*://[^:/@\s]*):[^@\s]*@"), r"\1:***@"),
    (re.compile(r"\b(\w{4,32})\.[\w\-]{40,}"), r"\1.***"),  # a token, a credential: ID.SECRET
)


@dataclass(frozen=True)
class Journal:
    """`level` is that of all parts, or with commas also those of some: "info, store:debug". `file` empty: stderr.

    A file of more than `max_bytes` becomes FILE.1, the one before FILE.2, up to `files` of them.
    """

    format: str = "text"
    level: str = "info"
    file: str = ""
    max_bytes: int = 10 << 20
    files: int = 5


def a_level_list(text: str) -> str:
    """The text itself; ValueError if it is no list of levels."""
    levels = [part.rpartition(":")[2].strip() for part in text.split(",")]
    if any(level not in LEVELS for level in levels) or ":" in text.partition(",")[0]:
        raise ValueError("one of " + ", ".join(LEVELS) + ", then with commas PART:LEVEL, such as info, store:debug")
    return text


def begin(journal: Journal) -> None:
    """All that this process logs goes there from now on. OSError when the file cannot be written."""
    handler: logging.Handler = _Rotating(journal) if journal.file else logging.StreamHandler()
    handler.setFormatter(_Json() if journal.format == "json" else _Text())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    first, *others = (part.strip() for part in journal.level.split(","))
    root.setLevel(first.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for part in others:
        name, _, level = part.rpartition(":")
        name = name.strip()
        logging.getLogger(name if name.startswith(OURS) else f"coalition.{name}").setLevel(level.strip().upper())


def without_secrets(text: str) -> str:
    """The text with `***` for what may be a token, a credential or a password in an address."""
    for pattern, shown in SECRETS:
        text = pattern.sub(shown, text)
    return text


class _Text(logging.Formatter):
    """Lines for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        id = request_id.get()
        return super().formatMessage(record) if not id else f"{super().formatMessage(record)} [{id}]"

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _Json(logging.Formatter):
    """A JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "part": record.name,
            "text": without_secrets(record.getMessage()),
        }
        if request_id.get():
            facts["request"] = request_id.get()
        if record.exc_info:
            facts["trace"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(facts)


class _Rotating(logging.Handler):
    """A file that several processes write to, and that begins anew when it is large."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._path = Path(journal.file)
        self._file = -1
        self._system = of_this_machine()
        self._open()
        # Processes that share one opened file also share its lock, and would not wait for one another.
        self._system.after_fork(self._open_again)

    def _open(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def _open_again(self) -> None:
        if self._file >= 0:  # else it was closed
            self._open()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "replace") + b"\n"
            with self._alone():
                os.write(self._file, line)
        except Exception:  # noqa: BLE001 - as every handler: what cannot be logged stops nobody
            self.handleError(record)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """With the file that bears the name now, and room in it; no other process writes meanwhile."""
        try:
            while True:
                self._system.lock(self._file, wait=True)
                facts = os.fstat(self._file)
                if not self._is_named(facts):  # another process has begun a new one
                    self._open()
                elif facts.st_size < self._journal.max_bytes or not self._shift():
                    break
            yield
        finally:
            self._system.unlock(self._file)

    def _is_named(self, facts: os.stat_result) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(facts, os.stat(self._path))
        return False

    def _shift(self) -> bool:
        """Makes room for a new file; where the folder does not let us, the old one grows on."""
        try:
            self._rename()
        except OSError:
            return False
        return True

    def _rename(self) -> None:
        for number in range(self._journal.files - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        if self._journal.files:
            os.replace(self._path, f"{self._path}.1")
        else:
            self._path.unlink()

    def close(self) -> None:
        os.close(self._file)
        self._file = -1
        super().close()
