"""What the agent keeps on disk: its identity, the logs of its jobs, and the results that the server has not taken."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coalition.errors import BadInput
from coalition.system import of_this_machine

DISK_LOW_BYTES = 32 << 20  # with less room for logs, no job is taken
FINISHED_PER_SYNC = 1_000
COMPACT_BYTES = 4 << 20  # an outbox file beyond this is written anew
logger = logging.getLogger("coalition.worker")


class Outbox:
    """Results that the server has not taken, in a file of JSON lines: {"result": {...}, "spool": bool} and {"taken": [ids]}.

    Every line is in the file before `add` and `strike` return, so a result outlives the agent. `spool` says that the log is in
    the spool and goes first. `waiting` are the attempts whose log is still on its way. On a full disk, results are
    kept in memory and written as soon as there is room.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[int, dict[str, Any]] = {}
        self._earlier: set[int] = set()  # of the agents before this one
        self.waiting: set[int] = set()
        self._bytes = 0
        self._broken = False
        self._load()
        self._earlier.update(self._entries)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the agent
        self._rewrite()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, attempt: int) -> bool:
        return attempt in self._entries

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def ready(self, limit: int = FINISHED_PER_SYNC) -> list[dict[str, Any]]:
        """The results that can be told, oldest first."""
        chosen = (entry["result"] for attempt, entry in self._entries.items() if attempt not in self.waiting)
        return list(itertools.islice(chosen, limit))

    @property
    def is_ready(self) -> bool:
        """Whether there is a result that can be told."""
        return len(self._entries) > len(self.waiting)

    def untold(self, told: Container[int]) -> list[int]:
        """This agent's attempts here, without those in `told`."""
        return [attempt for attempt in self._entries if attempt not in told and attempt not in self._earlier]

    def has_log(self, attempt: int) -> bool:
        """Whether its log is in the spool."""
        return attempt in self._entries and bool(self._entries[attempt]["spool"])

    def add(self, result: dict[str, Any], *, spool: bool) -> None:
        self._entries[result["attempt"]] = {"result": result, "spool": spool}
        if spool:
            self.waiting.add(result["attempt"])
        self._append(self._entries[result["attempt"]])

    def strike(self, attempts: Sequence[int]) -> None:
        """They are the server's now."""
        gone = [attempt for attempt in attempts if self._entries.pop(attempt, None)]
        self.waiting.difference_update(gone)
        if not self._entries or self._broken:
            self._rewrite()
        elif gone:
            self._append({"taken": gone})

    def close(self) -> None:
        self._file.close()

    def _load(self) -> None:
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, KeyError, TypeError):  # the last line of a killed agent may be half
                    self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        if "taken" in entry:
            for attempt in entry["taken"]:
                self._entries.pop(attempt, None)
                self.waiting.discard(attempt)
        else:
            attempt = entry["result"]["attempt"]
            self._entries[attempt] = entry
            if entry["spool"]:
                self.waiting.add(attempt)

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._broken or self._bytes > COMPACT_BYTES:
            self._rewrite()  # has it in
            return
        try:
            self._write(self._file, [entry])
        except OSError as error:
            self._broken = True
            logger.error("results cannot be written to %s (%s); they are kept in memory", self._path, error)

    def _rewrite(self) -> None:
        """The file anew, with what is left. It stays small by that: mostly nothing is left."""
        try:
            if self._entries:
                fresh = self._path.with_suffix(".new")
                with open(fresh, "wb", buffering=0) as file:
                    self._write(file, self._entries.values())
                fresh.replace(self._path)
                self._file.close()
                self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
            else:
                self._file.truncate(0)
            self._bytes = self._path.stat().st_size
            self._broken = False
        except OSError:
            self._broken = True

    def _write(self, file: io.FileIO, entries: Iterable[Mapping[str, Any]]) -> None:
        data = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        if file.write(data) != len(data):
            raise OSError("no room")
        self._bytes += len(data)


class StateDir:
    """The agent's folder: lock, credential, outbox and spool. One agent at a time has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        try:
            self.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = open(path / "lock", "ab")  # noqa: SIM115 - held as long as the agent lives
            of_this_machine().lock(self._lock)
        except BlockingIOError:
            self._lock.close()
            raise BadInput(f"another worker uses {path}; give this one a --name of its own") from None
        except OSError as error:
            raise BadInput(f"the worker cannot use its folder {path}: {error.strerror}; give another --state-dir") from None

    def close(self) -> None:
        self._lock.close()

    def log(self, attempt: int) -> Path:
        return self.spool / f"{attempt}.log"

    def keep_only(self, attempts: Iterable[int]) -> None:
        """Remove the logs of all other attempts."""
        kept = {self.log(attempt) for attempt in attempts}
        for path in self.spool.iterdir():
            if path not in kept:
                path.unlink(missing_ok=True)

    def read(self, name: str) -> dict[str, Any]:
        """What `write` kept; empty if there is nothing, or nothing that can be read."""
        try:
            data = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Whole or not at all, for this user's eyes only."""
        fresh = self.path / f"{name}.new"
        try:
            with open(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
                json.dump(data, file)
            fresh.replace(self.path / name)
        except OSError as error:
            logger.error("%s cannot be written: %s", self.path / name, error.strerror)

    @property
    def is_full(self) -> bool:
        """Whether there is too little room for more logs."""
        try:
            return shutil.disk_usage(self.spool).free < DISK_LOW_BYTES
        except OSError:
            return True
