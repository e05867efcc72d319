"""The demo, small: it renders, tells what it cost and leaves nothing; and it cleans up when something goes wrong."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from coalition.client import Client
from scripts import demo
from tests.polling import poll_until


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[demo.Demo]:
    """A demo of six tiny frames on a free port, in a folder of its own, on a machine whose POV-Ray does not work."""
    broken = tmp_path / "bin" / "povray"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("KEEP", raising=False)
    for name, value in {"ROOT": tmp_path, "PORT": 0, "FRAMES": 6, "WIDTH": 64, "HEIGHT": 36}.items():
        monkeypatch.setattr(demo, name, value)
    made = demo.prepare()
    yield made
    left = demo.remaining(made)
    demo.end(left)
    assert left == []


def test_the_demo_renders_counts_its_cost_and_leaves_no_process(small: demo.Demo) -> None:
    told = io.StringIO()
    demo.run(small, Console(file=told, width=200))
    assert demo.remaining(small) == []
    with Image.open(small.pictures / "film.gif") as film:
        assert getattr(film, "n_frames", 1) == 6
    assert (small.pictures / "strip.png").is_file()
    assert "6 of 6" in told.getvalue()
    assert "Cost          0.0" in told.getvalue()
    assert "the ray tracer" in told.getvalue()


def test_when_the_server_is_killed_the_demo_says_so_and_ends_the_machines(small: demo.Demo) -> None:
    def kill_server_at_work() -> None:
        client = Client(small.url)
        poll_until(lambda: (small.folder / "data" / "local").exists(), 60)
        poll_until(lambda: any(one["state"] == "RUNNING" for one in client.instances()), 60)
        poll_until(lambda: {"serve", "worker"} <= {word for process in demo.remaining(small) for word in process.cmdline()}, 60)
        poll_until(lambda: any("raytracer.py" in " ".join(process.cmdline()) for process in demo.remaining(small)), 60)
        for process in demo.remaining(small):
            if "serve" in process.cmdline():
                process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_server_at_work)
    killer.start()
    with pytest.raises(demo.Failed, match="server"):
        demo.run(small, Console(file=io.StringIO(), width=200))
    killer.join(60)
    assert demo.remaining(small) == []


def test_an_interrupted_demo_ends_all_that_it_started(small: demo.Demo) -> None:
    def interrupted() -> None:
        with demo.served(small) as server:
            demo.healthy(Client(small.url), server)
            assert demo.remaining(small)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert demo.remaining(small) == []
