"""Which worker may run which job, why not, and in which order jobs go out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalition.matching import Capacity, Requirement, extend_path, line, mismatch, order_key, payer, strip_path
from tests.builders import a_budget

GIB = 2**30


def needs(*tags: str, **fields: object) -> Requirement:
    return Requirement(tags=tags, **fields)  # type: ignore[arg-type]


def offers(*lines: tuple[str, ...], **fields: object) -> Capacity:
    return Capacity(**{"lines": lines, "cpus": 8, "memory_bytes": 16 * GIB, "gpus": 1, **fields})  # type: ignore[arg-type]


def test_the_best_line_that_has_all_tags_counts() -> None:
    worker = offers(("a", "b"), ("a",), ("c", "a"))
    assert [line(needs(*tags), worker) for tags in (("a",), ("b", "a"), ("c",), ("d",))] == [0, 0, 2, None]


def test_a_job_without_tags_comes_after_all_lines() -> None:
    assert line(needs(), offers(("a",), ("b",))) == 2
    assert line(needs(), offers()) == 0


def test_tags_of_different_lines_are_not_added_up() -> None:
    assert line(needs("a", "b"), offers(("a",), ("b",))) is None


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        (needs(cpus=9), "has 8 cpus of 9"),
        (needs(memory_bytes=32 * GIB), "has 16.0 GiB of memory of 32.0"),
        (needs(gpus=2), "has 1 gpus of 2"),
        (needs("gpu", "linux", "x"), "lacks x"),
        (needs("a"), "lacks a"),
        (needs("gpu", cpus=8, memory_bytes=16 * GIB, gpus=1), None),
    ],
)
def test_a_mismatch_names_what_is_missing_most_nearly(requirement: Requirement, words: str | None) -> None:
    worker = offers(("gpu", "linux"), ("cpu",))
    assert mismatch(requirement, worker) == words
    assert (line(requirement, worker) is None) == (words is not None)


def test_a_paid_machine_works_only_for_those_who_pay_for_it() -> None:
    assert line(needs(payer="alpha"), offers(payer="alpha")) == 0
    assert line(needs(payer="alpha"), offers(payer=None)) == 0
    assert mismatch(needs(), offers(payer="alpha")) == "is paid for by alpha, the job by the farm"
    assert mismatch(needs(payer="alpha"), offers(payer="")) == "is paid for by the farm, the job by alpha"


def test_what_is_inherited_adds_tags_and_payers_and_raises_resources() -> None:
    below = Requirement(("b",), cpus=1, memory_bytes=8, gpus=0, payer="x|z").under(Requirement(("a", "b"), 4, 2, 1, "y|x"))
    assert below == Requirement(("a", "b"), 4, 8, 1, "x|y|z")


def test_equal_requirements_have_one_hash_and_are_read_back() -> None:
    one = Requirement(("a",), 1, 2, 3, "p")
    assert Requirement.from_json(one.to_json()) == one
    assert one.hash == Requirement(("a",), 1, 2, 3, "p").hash != Requirement(("a",), 1, 2, 3, "q").hash


def test_hard_budgets_of_the_user_the_groups_and_the_tags_pay() -> None:
    budgets = [
        a_budget("u", "user:ann"),
        a_budget("g", "group:film"),
        a_budget("a", "affinity:gpu"),
        a_budget("soft", "user:ann", hard=False),
        a_budget("farm", "farm"),
    ]
    assert payer(budgets, "ann", ["film"], ["gpu"]) == "a|g|u"
    assert payer(budgets, "ben", ["other"], []) == ""


def test_paths_grow_by_a_level_and_lose_levels_of_0_at_the_end() -> None:
    assert extend_path("7f", 255) == "7fff"
    assert [strip_path(path) for path in ("7f0000", "00", "", "7f007f00", "70")] == ["7f", "", "", "7f007f", "70"]


levels = st.lists(st.sampled_from([0, 0, 0, 1, 127, 255]), max_size=8)


@given(levels, levels)
def test_the_order_is_that_of_the_levels_with_missing_ones_as_0(one: list[int], two: list[int]) -> None:
    size = max(len(one), len(two))
    first, second = (values + [0] * (size - len(values)) for values in (one, two))
    keys = [order_key(strip_path("".join(f"{level:02x}" for level in values))) for values in (one, two)]
    assert (keys[0] < keys[1], keys[0] == keys[1]) == (first > second, first == second)
