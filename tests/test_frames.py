"""Frame ranges and what is filled into commands."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies

from coalition.errors import BadInput, TooLarge
from coalition.frames import MAX_PAIRS, chunks, filler, overlaps, parse


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


@pytest.mark.parametrize(
    ("text", "size", "jobs"),
    [
        ("1-10", 5, [(1, 5, 1), (6, 10, 1)]),
        ("1-11", 5, [(1, 5, 1), (6, 10, 1), (11, 11, 1)]),
        ("1-3", 10, [(1, 3, 1)]),
        ("1-9x2", 3, [(1, 5, 2), (7, 9, 2)]),
        ("1,5,9-12", 10, [(1, 1, 1), (5, 5, 1), (9, 12, 1)]),
        ("3,1-6", 10, [(3, 3, 1), (1, 2, 1), (4, 6, 1)]),
        ("-5-2", 4, [(-5, -2, 1), (-1, 2, 1)]),
        ("1-4,1-4", 2, [(1, 2, 1), (3, 4, 1)]),
        ("1-3", 1, [(1, 1, 1), (2, 2, 1), (3, 3, 1)]),
    ],
)
def test_a_chunk_holds_frames_that_follow_each_other_at_the_ranges_step(
    text: str, size: int, jobs: list[tuple[int, int, int]]
) -> None:
    assert chunks(text, size) == jobs


@given(
    strategies.lists(
        strategies.tuples(strategies.integers(-30, 30), strategies.integers(0, 20), strategies.integers(1, 4)),
        min_size=1,
        max_size=4,
    ),
    strategies.integers(1, 7),
)
def test_chunks_hold_each_frame_once_and_no_other(parts: list[tuple[int, int, int]], size: int) -> None:
    text = ",".join(f"{first}-{first + more}x{step}" for first, more, step in parts)
    frames = parse(text)
    jobs = chunks(text, size)
    held = [frame for first, last, by in jobs for frame in range(first, last + 1, by)]
    assert sorted(held) == sorted(frames)
    assert all((last - first) % by == 0 and (last - first) // by < size for first, last, by in jobs)


pieces = strategies.lists(
    strategies.tuples(strategies.integers(-20, 20), strategies.integers(0, 6), strategies.integers(1, 4)).map(
        lambda drawn: (drawn[0], drawn[0] + drawn[1] * drawn[2], drawn[2])
    ),
    max_size=6,
)


@given(pieces, pieces, strategies.integers(1, 3), strategies.integers(-5, 5))
def test_pieces_overlap_where_a_frame_of_one_is_a_mapped_frame_of_the_other(
    ours: list[tuple[int, int, int]], theirs: list[tuple[int, int, int]], step: int, shift: int
) -> None:
    def frames(piece: tuple[int, int, int], step: int = 1, shift: int = 0) -> set[int]:
        return {frame * step + shift for frame in range(piece[0], piece[1] + 1, piece[2])}

    expected = {
        (a, b) for a, one in enumerate(ours) for b, other in enumerate(theirs) if frames(one, step, shift) & frames(other)
    }
    found = list(overlaps(ours, theirs, step, shift))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_ranges_that_cross_each_other_everywhere_are_refused() -> None:
    wide = [(at, at + 10_000_000, 1) for at in range(3_000)]
    with pytest.raises(TooLarge, match=f"more than {MAX_PAIRS:,} places"):
        list(overlaps(wide, wide))


def fill(text: str, first: int, last: int) -> str:
    return filler(text)(first, last)


def test_the_three_names_are_filled_also_with_a_width() -> None:
    assert fill("{frame} {frame:04d} {frame:3d} {start}-{end:02d}", 7, 9) == "7 0007   7 7-09"
    assert fill("{frame:04d}..{end:d}", -7, -5) == "-007..{end:d}"


@pytest.mark.parametrize(
    "text",
    [
        "awk '{print $1}'",
        "${frame}x{}",
        "{Frame}",
        "{frame:x}",
        "{frame!r}",
        "{frame.real}",
        "{0}",
        "{{x}}",
        "100% %d %(frame)s %%",
    ],
)
def test_every_other_brace_and_percent_sign_stays(text: str) -> None:
    assert fill(text, 7, 9) == text.replace("{frame}", "7")
