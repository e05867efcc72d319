"""coalition top: one look at the farm, on a terminal of any height, and while the server is away."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from coalition.cli.top import Facts, drawn, look
from coalition.client import Client
from tests.commands import coalition, document
from tests.fakes.server import HandWorker, RealServer
from tests.polling import poll_until


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealServer]:
    with RealServer(tmp_path / "farm") as running:
        monkeypatch.setenv("COALITION_SERVER", running.url)
        yield running


def shown(facts: Facts, height: int, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height or None, color_system=None, highlight=False)
    console.print(drawn(facts, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_it_shows_what_is_open_and_who_works(server: RealServer) -> None:
    client = Client(server.url)
    client.submit(title="shot [bold]7[/]", command="true", frames="1-3", priority=200)
    client.submit(title="needs a gpu", command="true", affinity=["gpu"])
    worker = HandWorker(server.url, "node1", slots=1)
    worker.take()
    text = " ".join(coalition("top", "--once").output.split())
    assert "shot [bold]7[/]" in text
    assert "0/3" in text
    assert "needs a gpu" in text
    assert "node1" in text
    assert "slots 1 of 1 busy" in text


def test_machines_get_the_same_facts(server: RealServer) -> None:
    job = Client(server.url).submit(title="one", command="true")
    facts = document("top")
    assert [one["id"] for one in facts["jobs"]] == [job]
    assert facts["farm"]["jobs"]["waiting"] == 1
    assert facts["workers"] == []


def test_a_frame_fits_the_terminal_however_much_there_is(server: RealServer) -> None:
    client = Client(server.url)
    client.submit_many([{"title": f"job {n}", "command": "true"} for n in range(150)])
    for number in range(30):
        HandWorker(server.url, f"node{number}")
    lines = shown(look(client), height=40)
    assert len(lines) <= 40
    assert any("and 1" in line and "more" in line for line in lines)
    assert len(shown(look(client), height=0)) > 150


def test_control_characters_of_others_never_reach_the_terminal(server: RealServer) -> None:
    Client(server.url).submit(title="evil \x1b[2J title", command="true")
    assert "\x1b[2J" not in "\n".join(shown(look(Client(server.url)), height=30))


def test_on_a_terminal_it_goes_on_and_says_that_it_is_stale_while_the_server_is_away(tmp_path: Path) -> None:
    near, far = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with RealServer(tmp_path / "farm") as running:
        words = [sys.executable, "-m", "coalition", "--server", running.url, "top", "--interval", "0.2"]
        process = subprocess.Popen(words, stdin=far, stdout=far, stderr=far, env=environment, start_new_session=True)
        screen = _Screen(near)
        poll_until(lambda: "no job is open" in screen.text, 20, lambda: screen.text)
    try:
        poll_until(lambda: "stale since" in screen.text, 20, lambda: screen.text[-500:])
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(timeout=10)
        screen.close()
        os.close(far)


class _Screen:
    """Reads what a process writes to its terminal."""

    def __init__(self, handle: int) -> None:
        self.text, self._handle, self._stop = "", handle, threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            if select.select([self._handle], [], [], 0.1)[0]:
                self.text += os.read(self._handle, 65_536).decode(errors="replace")

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._handle)
