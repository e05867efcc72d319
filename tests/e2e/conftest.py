"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.farm import RealFarm

collect_ignore = [] if os.environ.get("COALITION_TEST_LONG") == "yes" else ["test_scaling_out.py"]  # make test-long


@pytest.fixture
def make_farm(tmp_path: Path) -> Iterator[Callable[..., RealFarm]]:
    """Makes farms; each is ended after the test, and must leave nothing running."""
    farms: list[RealFarm] = []

    def make(**sections: str) -> RealFarm:
        folder = tmp_path / f"farm{len(farms)}"
        folder.mkdir()
        farms.append(RealFarm(folder, **sections))
        return farms[-1]

    yield make
    for farm in farms:
        farm.close()
