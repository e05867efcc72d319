"""Jobs that a file describes, and the completion of a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coalition.cli.job_file import read
from coalition.client import Client
from coalition.errors import BadInput
from tests.commands import coalition
from tests.fakes.server import RealServer

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = str(ROOT / "examples" / "shot.toml")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("farm")) as running:
        yield running


@pytest.fixture
def farm(server: RealServer, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv("COALITION_SERVER", server.url)
    return Client(server.url)


def test_the_example_makes_its_whole_tree(farm: Client) -> None:
    group = json.loads(coalition("submit", "--json", EXAMPLE).output)["ids"][0]
    children = {job.title: job for job in farm.jobs(parent=group)}
    assert (farm.job(group).priority, sorted(children)) == (150, ["film", "render", "simulate"])
    simulate = children["simulate"]
    assert (simulate.memory_bytes, simulate.timeout_s, simulate.retries) == (512 << 20, 7_200.0, 1)
    assert len(list(farm.jobs(parent=children["render"].id))) == 4
    assert [job.id for job in (simulate,)] == list(children["render"].depends_on)
    assert list(children["film"].depends_on) == [children["render"].id]


def test_the_ids_at_the_top_are_printed_or_what_would_be_made(farm: Client, tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text("".join(f'[[jobs]]\ntitle = "{n}"\ncommand = "true"\n' for n in "ab"))
    ids = [int(line) for line in coalition("submit", str(path)).output.split()]
    assert [farm.job(job).title for job in ids] == ["a", "b"]
    assert "2 jobs would be made" in coalition("submit", "--dry-run", str(path)).output
    assert "options before it" in coalition("submit", str(path), "--dry-run", code=2).output
    assert "say it in the file" in coalition("submit", "--title", "x", str(path), code=2).output
    mistyped = coalition("submit", str(tmp_path / "tow.toml"), code=2).output
    assert "tow.toml: cannot be read: No such file or directory\n" in mistyped
    line = coalition("submit", "cp.toml two.toml three.toml").output
    assert farm.job(int(line)).command == "cp.toml two.toml three.toml"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[jobs]]\ntitel = "x"\n', 'jobs[0].titel: unknown field; did you mean "title"?'),
        (
            '[[jobs]]\ngroup = true\n[[jobs.children]]\ncomand = "x"\n',
            'jobs[0].children[0].comand: unknown field; did you mean "command"?',
        ),
        ('[[jobs]]\ntimeout = "soon"\n', 'jobs[0].timeout: "soon" is not a duration such as 30'),
        ('[[jobs]]\nmemory_bytes = "8X"\n', 'jobs[0].memory_bytes: "8X" is not a size such as'),
        ('[[job]]\ntitle = "x"\n', 'job: unknown key; did you mean "jobs"?'),
        ("", "jobs: is missing"),
        ("jobs = 1\n", "jobs: is missing"),
        ("[[jobs]\n", "is not TOML: "),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert told in str(refused.value)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_what_completes_the_command(shell: str) -> None:
    assert f"_COALITION_COMPLETE={shell}_complete" in coalition("completion", shell).output


def test_verbs_are_completed() -> None:
    asked = {**os.environ, "_COALITION_COMPLETE": "bash_complete", "COMP_WORDS": "coalition sub", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from coalition.cli import main; main()"], cwd=ROOT, env=asked, capture_output=True
    )
    assert done.stdout.decode().split() == ["plain,submit"]
