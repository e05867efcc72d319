"""Which worker may run which job, why not, and in which order jobs go out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalition.config import BudgetSettings
from coalition.matching import Capacity, Requirement, Room, extend_path, line, mismatch, order_key, payers, room, strip_path

GIB = 2**30


def needs(*tags: str, **fields: object) -> Requirement:
    return Requirement(tags=tags, **fields)  # type: ignore[arg-type]


def a_budget(name: str, applies_to: str, **fields: object) -> BudgetSettings:
    return BudgetSettings(name, 1, amount_micro=1_000_000, applies_to=applies_to, **fields)  # type: ignore[arg-type]


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
        (needs(gpu_memory_bytes=24 * GIB), "has 8.0 GiB of memory a gpu of 24.0"),
        (needs(not_workers=("w1",)), "is one that the job does not allow"),
        (needs(workers=("w2", "w3")), "is none of those that the job allows: w2, w3"),
        (needs(workers=("w2", "w1"), not_workers=("w2",)), None),
        (needs("gpu", "linux", "x"), "lacks x"),
        (needs("a"), "lacks a"),
        (needs("gpu", cpus=8, memory_bytes=16 * GIB, gpus=1), None),
    ],
)
def test_a_mismatch_names_what_is_missing_most_nearly(requirement: Requirement, words: str | None) -> None:
    worker = offers(("gpu", "linux"), ("cpu",), gpu_memory_bytes=8 * GIB, name="w1")
    assert mismatch(requirement, worker) == words
    assert (line(requirement, worker) is None) == (words is not None)


def test_a_paid_machine_works_only_for_those_who_pay_for_it() -> None:
    assert line(needs(payer="alpha"), offers(payer="alpha")) == 0
    assert line(needs(payer="alpha"), offers(payer=None)) == 0
    assert mismatch(needs(), offers(payer="alpha")) == "is paid for by alpha, the job by the farm"
    assert mismatch(needs(payer="alpha"), offers(payer="")) == "is paid for by the farm, the job by alpha"


def test_any_worker_will_do_for_a_job_that_a_soft_budget_counts() -> None:
    assert line(needs(payer="alpha", soft="anns"), offers(payer="alpha")) == 0
    assert line(needs(soft="anns"), offers(payer="")) == 0
    assert needs(soft="anns").under(needs(soft="film|anns", payer="p")) == needs(soft="anns|film", payer="p")


def test_what_is_inherited_adds_tags_and_payers_and_raises_resources() -> None:
    below = Requirement(("b",), cpus=1, memory_bytes=8, gpus=0, payer="x|z").under(Requirement(("a", "b"), 4, 2, 1, "y|x"))
    assert below == Requirement(("a", "b"), 4, 8, 1, "x|y|z")


def test_what_is_inherited_goes_for_every_kind_of_requirement() -> None:
    group = needs(gpu_memory_bytes=8, exclusive=True, workers=("a", "b"), not_workers=("x",), limits=(("maya", 1), ("nuke", 3)))
    job = needs(gpu_memory_bytes=4, workers=("b", "c"), not_workers=("y",), limits=(("maya", 2), ("arnold", 1)))
    assert job.under(group) == needs(
        gpu_memory_bytes=8,
        exclusive=True,
        workers=("b",),
        not_workers=("x", "y"),
        limits=(("arnold", 1), ("maya", 2), ("nuke", 3)),
    )


def test_lists_of_workers_without_a_common_name_allow_nobody() -> None:
    nobody = needs(workers=("a",)).under(needs(workers=("b",)))
    words = "is not allowed by the job and its groups: their lists have no worker in common"
    assert [mismatch(nobody, offers(name=name)) for name in ("a", "b", "")] == [words] * 3
    assert needs(workers=("a",)).under(needs()).workers == needs().under(needs(workers=("a",))).workers == ("a",)


def test_equal_machines_are_equal_whatever_their_names() -> None:
    one, two = offers(name="w1"), offers(name="w2")
    assert (one == two, hash(one) == hash(two)) == (True, True)
    assert [needs(workers=("w1",)).named, needs(not_workers=("w1",)).named, needs("a", cpus=2).named] == [True, True, False]


# ---------------------------------------------------------------- room


def left(*held: Requirement) -> Room:
    return room(offers(), held)


def test_jobs_take_what_they_ask_for_until_nothing_is_left() -> None:
    assert left() == Room(8, 16 * GIB, 1)
    assert left(needs(cpus=3, memory_bytes=GIB), needs(cpus=3, gpus=1)) == Room(2, 15 * GIB, 0, running=2)
    assert left(needs(cpus=6)).fits(needs(cpus=2))


@pytest.mark.parametrize(
    ("held", "wanted", "words"),
    [
        (needs(cpus=6), needs(cpus=3), "has 2 cpus free of 3"),
        (needs(memory_bytes=12 * GIB), needs(memory_bytes=5 * GIB), "has 4.0 GiB of memory free of 5.0"),
        (needs(gpus=1), needs(gpus=1), "has 0 gpus free of 1"),
        (needs(), needs(exclusive=True), "runs 1 jobs, and this one wants it alone"),
        (needs(exclusive=True), needs(), "runs an exclusive job"),
    ],
)
def test_what_is_in_the_way_is_said(held: Requirement, wanted: Requirement, words: str) -> None:
    assert left(held).lack(wanted) == words
    assert (left(held).fits(wanted), left().fits(wanted)) == (False, True)


def test_a_job_that_asks_for_nothing_runs_beside_whatever_is_overdrawn() -> None:
    assert left(needs(cpus=8), needs(cpus=8)).fits(needs())
    assert left(needs(cpus=8), needs(cpus=8)).lack(needs(cpus=1)) == "has 0 cpus free of 1"


# ---------------------------------------------------------------- the wire form, payers, paths


def test_equal_requirements_have_one_hash_and_are_read_back() -> None:
    one = Requirement(("a",), 1, 2, 3, "p")
    assert Requirement.from_json(one.to_json()) == one
    full = needs("a", gpu_memory_bytes=1, exclusive=True, workers=("w",), not_workers=("v",), limits=(("maya", 2),), soft="s")
    assert Requirement.from_json(full.to_json()) == full
    assert one.hash == Requirement(("a",), 1, 2, 3, "p").hash != Requirement(("a",), 1, 2, 3, "q").hash


def test_hard_budgets_of_the_user_the_groups_and_the_tags_pay_and_soft_ones_count() -> None:
    budgets = [
        a_budget("u", "user:ann"),
        a_budget("g", "group:film"),
        a_budget("a", "affinity:gpu"),
        a_budget("soft", "user:ann", hard=False),
        a_budget("farm", "farm"),
    ]
    assert payers(budgets, "ann", ["film"], ["gpu"]) == ("a|g|u", "soft")
    assert payers(budgets, "ben", ["other"], []) == ("", "")


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
