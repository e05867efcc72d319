"""Frame ranges and what is filled into commands."""

from __future__ import annotations

import pytest

from coalition.errors import BadInput
from coalition.frames import fill, parse


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("7", [7]),
        ("1-4", [1, 2, 3, 4]),
        ("1-10x4", [1, 5, 9]),
        ("1,5,9-12", [1, 5, 9, 10, 11, 12]),
        ("3, 1-3 ,2", [3, 1, 2]),
        ("-5--3", [-5, -4, -3]),
        ("-1-1", [-1, 0, 1]),
        ("007", [7]),
    ],
)
def test_a_range_gives_its_frames_in_order_each_once(text: str, frames: list[int]) -> None:
    assert parse(text) == frames


@pytest.mark.parametrize(
    "text", ["", ",", "a", "1-", "-", "1--", "1-3x", "1-3x0", "3-1", "1..3", "1-3x-1", "1,,2", "1.5", "9" * 10]
)
def test_what_is_no_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(text)
    assert list(refused.value.fields) == ["frames"]


@pytest.mark.parametrize("text", ["1-1000001", "-999999999-999999999", "1-600000,600001-1200000"])
def test_more_than_a_million_frames_are_refused_before_they_are_made(text: str) -> None:
    with pytest.raises(BadInput, match="more than 1,000,000 frames"):
        parse(text)


def test_the_three_names_are_filled_also_with_a_width() -> None:
    assert fill("{frame} {frame:04d} {frame:3d} {start}-{end:02d}", 7, 1, 9) == "7 0007   7 1-09"
    assert fill("{frame:04d}", -7, 1, 9) == "-007"


@pytest.mark.parametrize(
    "text", ["awk '{print $1}'", "${frame}x{}", "{Frame}", "{frame:x}", "{frame!r}", "{frame.real}", "{0}", "{{x}}"]
)
def test_every_other_brace_stays(text: str) -> None:
    assert fill(text, 7, 1, 9) == text.replace("{frame}", "7")
