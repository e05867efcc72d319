"""The proof in docs/money.md names the test of each of its steps: they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PROOF = (HERE.parent / "docs" / "money.md").read_text(encoding="utf-8").partition("## Why a hard budget is never exceeded")[2]


def names_in(module: str) -> set[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} | {
        target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)
    }


def test_each_step_of_the_proof_names_tests_that_exist() -> None:
    steps = re.split(r"(?m)^\d+\. ", PROOF)[1:]
    assert len(steps) == 10
    for step in steps:
        named = re.findall(r"`(test_\w+)\.(test_\w+)`", step)
        assert named, step
        for module, name in named:
            assert name in names_in(module), f"{module}.{name}"
