"""Numbers in words."""

from __future__ import annotations

import pytest

from coalition.words import rough


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (119, "119 s"),
        (119.7, "2 min"),
        (120, "2 min"),
        (7_199, "119 min"),
        (7_200, "2 h"),
        (172_800, "2 days"),
    ],
)
def test_how_long_in_one_unit(seconds: float, words: str) -> None:
    assert rough(seconds) == words
