"""What a release needs: one version everywhere, a script that refuses what does not agree, licences that may be shipped with."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import licences
from scripts.release import complaints

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that may be released as v7.1.0."""
    (tmp_path / "coalition").mkdir()
    (tmp_path / "coalition" / "__init__.py").write_text('__version__ = "7.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 7.1.0\n")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    git(tmp_path, "tag", "v7.1.0")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")


def test_what_agrees_may_be_released(project: Path) -> None:
    assert list(complaints(project, "v7.1.0")) == []


def test_another_tag_is_refused(project: Path) -> None:
    git(project, "tag", "v7.2.0")
    wanted = "the tag is v7.2.0, and the version in coalition/__init__.py is 7.1.0: v7.1.0 is wanted"
    assert list(complaints(project, "v7.2.0")) == [wanted]


def test_a_version_in_the_making_is_refused(project: Path) -> None:
    (project / "coalition" / "__init__.py").write_text('__version__ = "7.2.0.dev0"\n')
    commit(project)
    git(project, "tag", "v7.2.0.dev0")
    assert [line.partition(";")[0] for line in complaints(project, "v7.2.0.dev0")] == [
        "7.2.0.dev0 is a version in the making",
        "CHANGELOG.md has no heading '## 7.2.0.dev0'",
    ]


def test_what_is_not_committed_or_not_tagged_is_refused(project: Path) -> None:
    (project / "new.txt").write_text("x")
    assert list(complaints(project, "v7.1.0")) == ["there are changes that are not committed"]
    commit(project)
    assert list(complaints(project, "v7.1.0")) == ["the tag v7.1.0 is not at this commit: git tag v7.1.0"]


def test_every_library_that_we_need_has_a_licence_that_we_know() -> None:
    found = licences.found()
    assert {"flask", "sqlalchemy", "click", "gunicorn"} <= {one.name.lower() for one in found}
    assert [f"{one.name}: {one.licence}" for one in found if not one.known] == []


def test_a_licence_that_nobody_has_looked_at_is_not_known() -> None:
    assert not licences.Library("x", "1", "Business Source License 1.1").known
    assert not licences.Library("x", "1", "").known


WITHOUT = """
import sys
sys.modules |= dict.fromkeys(("flask", "sqlalchemy", "gunicorn", "apscheduler", "boto3"))
import pytest
sys.exit(pytest.main(["--noconftest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--collect-only", *sys.argv[1:]]))
"""


def test_what_nox_runs_on_every_python_needs_no_servers_library() -> None:
    line = re.search(r"^TESTS = (\[.*\])$", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    assert line
    tests = [f"tests/{name}" for name in ast.literal_eval(line[1])]
    words = [sys.executable, "-c", WITHOUT, *tests]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
