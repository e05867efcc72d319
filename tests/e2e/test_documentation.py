"""What the documentation shows is run: its commands, programs and configurations, page by page on one farm.

What cannot be run has its reason above it: `<!-- not run: WHY -->`. A block that is neither fails.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from coalition import config
from coalition.cli import cli
from tests.e2e.farm import RealFarm
from tests.polling import poll_until

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "submitters/README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>.+) -->\n\n?)?"
    r"(?:^```(?!\{)\w*\n(?P<fenced>[\s\S]*?)^```$|(?P<indented>^    \S.*\n(?:    .*\n|\n(?=    ))*))",
    re.MULTILINE,
)
# What is indented in a list, and what a directive makes, is no block.
NO_BLOCK = re.compile(r"^(?:- |\d+\. ).*\n(?:\s+\S.*\n|\n(?= ))*|^```\{[\s\S]*?^```$", re.MULTILINE)


class Block(NamedTuple):
    page: str
    line: int
    text: str
    why_not: str


def blocks(page: Path) -> Iterator[Block]:
    """What a page shows, in its order."""
    text = NO_BLOCK.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), page.read_text(encoding="utf-8"))
    for match in BLOCK.finditer(text):
        shown = match["fenced"] or re.sub(r"^    ", "", match["indented"] or "", flags=re.MULTILINE)
        yield Block(page.relative_to(ROOT).as_posix(), text.count("\n", 0, match.start()) + 1, shown, match["why"] or "")


BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFarm]:
    """With a worker, and the pools, budgets and files that pages speak of. README is first: its jobs are those of all pages."""
    folder = tmp_path_factory.mktemp("farm")
    pool = "provider = fake\nmax = 1\nprice = 0.40\naffinity = cloud"
    made = RealFarm(folder, pool_render=pool, budget_studio="amount = 200\nhard = yes", scheduler="sick_after = 0")
    work = folder / "work"
    shutil.copytree(ROOT / "examples", work)
    shutil.copy(made.ini, work / "cloud.ini")
    (work / "farm.ini").write_text("[pool local]\nprovider = local\nmax = 2\n")
    (work / "new.ini").write_text(f"[server]\ndata_dir = {folder / 'new'}\n")
    try:
        made.serve()
        made.worker("worker-3", "--affinity", "linux", slots=16)
        poll_until(made.client.workers)
        yield made
    finally:
        made.close()


@pytest.fixture
def here(farm: RealFarm, monkeypatch: pytest.MonkeyPatch) -> RealFarm:
    monkeypatch.chdir(farm.folder / "work")
    Path("farm.backup.gz").unlink(missing_ok=True)  # backups write over no file
    monkeypatch.setenv("COALITION_SERVER", farm.address)
    monkeypatch.setenv("PWD", str(farm.folder / "work"))
    return farm


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_what_is_shown_runs_or_says_why_it_does_not(block: Block, here: RealFarm) -> None:
    if block.why_not:
        assert len(block.why_not.split()) >= 3, "a reason is a sentence"
    elif block.text.startswith("["):
        config.parse(block.text)
    elif re.match(r"(?:from|import|farm\.|with |class )\b", block.text):
        exec(compile(block.text, block.page, "exec"), {})
    else:
        for line in filter(None, block.text.splitlines()):
            run(line)


def run(line: str) -> None:
    """A line of a shell: a verb of coalition, or a target of make, which tests of their own run."""
    words = [word.replace("$PWD", str(Path.cwd())) for word in shlex.split(line, comments=True) if word != "--watch"]
    if words[0] == "make":
        assert words[1] in TARGETS, f"{line}: there is no such target"
        return
    assert words[0] == "coalition", f"{line}: it is no command, and no reason says why it is not run"
    if words[1] in ("serve", "worker"):  # the farm's own processes
        return
    words, target = (words[: words.index(">")], words[-1]) if ">" in words else (words, "")
    done = CliRunner().invoke(cli, words[1:], prog_name="coalition")
    assert done.exit_code == 0, f"{line}: {done.output} {done.exception}"
    if target:
        Path(target).write_text(done.stdout, encoding="utf-8")


def test_blocks_are_found_and_most_of_them_run() -> None:
    assert len(BLOCKS) > 60
    assert sum(not block.why_not for block in BLOCKS) > 0.6 * len(BLOCKS)
