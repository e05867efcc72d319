"""Errors: their problem bodies, and what a client makes of these."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from coalition import errors
from coalition.errors import BadInput, CoalitionError, Conflict, LogGap, NotFound, Unavailable, from_problem, nearest

LOCAL = (errors.ConfigError, errors.WrongSchema, errors.ServerUnreachable)


def tree(kind: type[CoalitionError] = CoalitionError) -> Iterator[type[CoalitionError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def make(kind: type[CoalitionError]) -> CoalitionError:
    return LogGap(42) if kind is LogGap else kind("what happened")


@pytest.mark.parametrize("kind", [kind for kind in tree() if kind not in LOCAL], ids=lambda kind: kind.__name__)
def test_a_client_raises_what_the_server_raised(kind: type[CoalitionError]) -> None:
    error = make(kind)
    read = from_problem(error.status, json.loads(json.dumps(error.to_problem())))
    assert type(read) is kind
    assert str(read) == str(error)


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for kind in tree():
        line = next((line for line in drawn.splitlines() if f" {kind.__name__} " in line), "")
        assert f"  {kind.status if kind not in LOCAL else '---'}  " in line, kind.__name__


def test_fields_and_offsets_and_times_travel() -> None:
    assert from_problem(422, BadInput(fields={"title": "is too long"}).to_problem()).fields == {"title": "is too long"}
    gap = from_problem(409, LogGap(42).to_problem())
    assert isinstance(gap, LogGap)
    assert gap.offset == 42
    away = from_problem(503, Unavailable("come again", 7.5).to_problem())
    assert isinstance(away, Unavailable)
    assert away.retry_after_s == 7.5


def test_bad_input_says_its_fields_when_it_says_nothing_else() -> None:
    assert str(BadInput(fields={"a": "is wrong", "b": "is missing"})) == "a: is wrong; b: is missing"


@pytest.mark.parametrize(
    ("status", "problem", "kind"),
    [
        (404, {}, NotFound),
        (418, {}, BadInput),
        (500, {}, CoalitionError),
        (599, {"detail": None}, CoalitionError),
        (409, {"title": "Log gap", "offset": "x"}, Conflict),
        (409, {"title": "something newer"}, Conflict),
        (422, {"fields": ["no", "mapping"]}, BadInput),
        (503, {"retry_after_s": "soon"}, Unavailable),
    ],
)
def test_odd_problem_bodies_still_become_an_error_of_that_status(status: int, problem: dict[str, object], kind: type) -> None:
    read = from_problem(status, problem)
    assert type(read) is kind
    assert str(read)


def test_the_nearest_name_is_proposed_else_all_of_them() -> None:
    assert nearest("titel", ["title", "dir"]) == 'did you mean "title"?'
    assert nearest("zzz", ["title", "dir"]) == "allowed: dir, title"
