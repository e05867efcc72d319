"""Each failure that an autoscaler must survive has tests, and each provider is put to those of the contracts that apply to it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.contract_faults import ROWS, NetworkFaults, ProviderFaults
from tests.contract_provider import ProviderContract

HERE = Path(__file__).parent
PROVIDERS = {**dict.fromkeys(("aws", "gce", "libcloud", "fake"), NetworkFaults), "local": ProviderFaults}


def parsed(module: str) -> ast.Module:
    return ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8"))


def names_in(module: str) -> set[str]:
    return {node.name for node in ast.walk(parsed(module)) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("row", ROWS)
def test_each_failure_has_its_tests(row: str) -> None:
    for name in ROWS[row]:
        module, _, test = name.partition("::")
        assert test in names_in(module), name


def test_each_test_of_the_contract_of_faults_is_of_a_failure() -> None:
    named = {name.partition("::")[2] for names in ROWS.values() for name in names}
    assert names_in("contract_faults") - named == {"test_a_request_that_is_wrong_says_what_the_cloud_said"}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_each_provider_is_put_to_both_contracts(provider: str) -> None:
    classes = (node for node in parsed(f"test_{provider}_provider").body if isinstance(node, ast.ClassDef))
    bases = {ast.unparse(base) for node in classes for base in node.bases}
    assert {ProviderContract.__name__, PROVIDERS[provider].__name__} <= bases
