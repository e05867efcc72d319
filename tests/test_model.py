"""The wire form: what is read is what was written, and what is wrong is refused by name."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coalition import model
from coalition.errors import BadInput
from coalition.model import MAX_INT, Dependency, Facts, JobSpec, from_dict, to_dict

KINDS = [kind for kind in vars(model).values() if dataclasses.is_dataclass(kind)]
TAGS = st.lists(st.from_regex(r"[A-Za-z0-9_#][A-Za-z0-9_.#:+\-]{0,10}", fullmatch=True), max_size=3).map(tuple)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
WORKERS = st.lists(st.from_regex(r"[\w.\-]{1,20}", fullmatch=True), max_size=3).map(tuple)
PATTERNS = st.lists(st.sampled_from(["Error", "no (licence|license)", "^Fatal: "]), max_size=2).map(tuple)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "environment": st.dictionaries(NAMES, TEXT, max_size=3),
    "depends_on": st.lists(
        st.integers(1, MAX_INT) | st.builds(Dependency, st.integers(1, MAX_INT), until=st.sampled_from(["finished", "done"])),
        max_size=3,
    ).map(tuple),
    "on": st.integers(1, MAX_INT) | TEXT.filter(bool),
    "until": st.sampled_from(["finished", "done"]),
    "limits": st.dictionaries(NAMES, st.integers(1, 9), max_size=3),
    "workers": WORKERS,
    "not_workers": WORKERS,
    "notify": st.sampled_from([(), ("none",), ("error", "first:3"), ("ann@studio.example",)]),
    "error_patterns": PATTERNS,
    "licence_patterns": PATTERNS,
    "progress_pattern": st.none() | st.sampled_from(["", "%percent", "frame (%one)"]),
    "hours": st.sampled_from(["", "mon-fri 19:00-07:00"]),
    "timezone": st.sampled_from(["UTC", "Europe/Paris"]),
    "hours_end": st.sampled_from(["finish", "requeue"]),
    "ids": st.lists(st.integers(-MAX_INT, MAX_INT), min_size=1, max_size=3).map(tuple),
    "currency": st.from_regex(r"[A-Z]{3}", fullmatch=True),
    "market": st.sampled_from(["spot", "on-demand"]),
    "nonce": st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    "session": st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    "name": st.from_regex(r"[\w.\-]{1,20}", fullmatch=True),
}


def values(kind: type, depth: int = 0) -> st.SearchStrategy[Any]:
    """Any allowed value of a dataclass of the model."""
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        if field.name == "affinity":
            nested = "Sequence[typing.Sequence" in str(hints["affinity"]).replace("collections.abc", "typing")
            fields[field.name] = st.lists(TAGS, max_size=3).map(tuple) if nested else TAGS
        elif kind is model.Job and field.name == "depends_on":
            fields[field.name] = st.lists(st.integers(1, MAX_INT), max_size=3).map(tuple)
        elif kind is model.Result and field.name == "state":
            fields[field.name] = st.sampled_from(["FINISHED", "ERROR", "STOPPED"])
        else:
            known = field.name in SPECIAL
            fields[field.name] = SPECIAL[field.name] if known else of_hint(hints[field.name], field.metadata, depth)
    return st.builds(kind, **fields)


def of_hint(hint: Any, rules: Mapping[str, Any], depth: int) -> st.SearchStrategy[Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    low, high = rules.get("low"), rules.get("high")
    if origin in (typing.Union, types.UnionType):
        return st.one_of([of_hint(arg, rules, depth) for arg in args])
    if dataclasses.is_dataclass(hint):
        return values(hint, depth + 1) if depth < 2 else st.builds(hint)  # type: ignore[arg-type]
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(TEXT, of_hint(args[1], {}, depth), max_size=2)
    if origin is not None and issubclass(origin, Sequence):
        return st.lists(of_hint(args[0], {}, depth + 1), max_size=2).map(tuple)
    if hint is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    if hint is int:
        return st.integers(-MAX_INT if low is None else low, MAX_INT if high is None else high)
    return {str: TEXT, bool: st.booleans(), Any: st.none() | st.booleans() | TEXT, type(None): st.none()}[hint]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_is_written_as_json_is_read_back_equal(kind: type, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    assert from_dict(kind, json.loads(json.dumps(to_dict(value)))) == value


JUNK = [None, True, 7, -7, 1.5, float("nan"), "text", "", [], [7], [[7]], [None], {}, {"x": 7}, 2**70, object()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_any_value_is_taken_as_it_is_or_refused_with_the_fields_name(kind: type) -> None:
    base = base_of(kind)
    from_dict(kind, base)
    for field in dataclasses.fields(kind):
        for junk in JUNK:
            told, taken = outcome(kind, {**base, field.name: junk}, field.name)
            if told:
                assert {name.partition("[")[0].partition(".")[0] for name in told} == {field.name}, junk
            elif not isinstance(junk, dict):  # an object's fields have defaults
                assert taken == junk, field.name
                assert isinstance(taken, bool) == isinstance(junk, bool), field.name


def outcome(kind: type, data: Any, name: str) -> tuple[dict[str, str], Any]:
    """What was refused, or what the field was read as."""
    try:
        return {}, to_dict(getattr(from_dict(kind, data), name))
    except BadInput as error:
        return error.fields, None


def base_of(kind: type) -> dict[str, Any]:
    """A small allowed object: the shortest texts, the lowest numbers."""
    hints = typing.get_type_hints(kind)
    by_type = {str: "x" * 16, int: 1, float: 1.0, bool: False}
    base: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if type(None) in args:
            base[field.name] = None
        elif origin in (typing.Union, types.UnionType):
            base[field.name] = by_type[args[0]]
        elif dataclasses.is_dataclass(hint):
            base[field.name] = base_of(hint)  # type: ignore[arg-type]
        elif origin is not None:
            base[field.name] = {} if issubclass(origin, Mapping) else [1] if field.name == "ids" else []
        else:
            base[field.name] = by_type[hint]
    special = {
        model.Result: {"state": "FINISHED"},
        model.Dependency: {"on": 1, "until": "finished"},
        model.Price: {"currency": "USD"},
        model.ShownPrice: {"currency": "USD"},
        model.Challenge: {"nonce": "0" * 32},
    }
    return {**base, **special.get(kind, {})}


def fields_of(data: Any, kind: type = JobSpec) -> dict[str, str]:
    with pytest.raises(BadInput) as caught:
        from_dict(kind, data)
    return caught.value.fields


def test_every_wrong_field_is_named_at_once_and_the_place_in_the_tree() -> None:
    wrong = {"titel": "x", "priority": 256, "retries": -1, "children": [{"title": "fine"}, {"timeout_s": "1h"}]}
    told = fields_of(wrong)
    assert told == {
        "titel": 'unknown field; did you mean "title"?',
        "priority": "256 is not allowed; 0 to 255",
        "retries": "-1 is not allowed; 0 to 1000",
        "children[1].timeout_s": "'1h' is not a number",
    }


@pytest.mark.parametrize("name", ["session", "version", "token", "credential", "identity"])
def test_a_workers_texts_hold_no_nul_which_not_every_database_takes(name: str) -> None:
    told = fields_of({"name": "node1", "session": "x" * 16, name: "x" * 16 + "\0"}, model.Enrol)
    assert told == {name: "holds a NUL byte"}


def test_a_missing_field_is_named() -> None:
    assert fields_of({"name": "node1"}, model.Enrol) == {"session": "is missing"}
    assert fields_of({}, model.Selection) == {"ids": "is missing"}


def test_a_body_that_is_no_object_is_refused() -> None:
    for body in (None, [], "x", 7):
        assert list(fields_of(body)) == ["body"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("affinity", ["a b"]),
        ("affinity", ["a\n"]),
        ("affinity", ["-x"]),
        ("affinity", ["x" * 65]),
        ("affinity", [""]),
        ("environment", {"A B": "x"}),
        ("environment", {"A\n": "x"}),
        ("environment", {"A": "x\0"}),
        ("title", "x\0"),
        ("title", "x" * 256),
        ("title", "x" * 10_000_000),
        ("title", "\ud800"),
        ("command", "x" * 65_537),
        ("progress_pattern", "("),
        ("depends_on", [0]),
        ("depends_on", [""]),
        ("limits", {"group#1": 1}),
        ("limits", {"user#ann": 1}),
        ("limits", {"a b": 1}),
        ("limits", {"maya": 0}),
        ("priority", True),
        ("priority", -1),
        ("timeout_s", float("inf")),
        ("timeout_s", -1),
        ("parent", 2**63),
        ("parent", 10**5_000),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, int) else str(value.bit_length() if value > 99 else value),
)
def test_bad_input_is_refused_by_its_name_in_a_short_message(name: str, value: Any) -> None:
    told = fields_of({name: value})
    assert list(told) == [name]
    assert len(told[name]) < 300


def nested(levels: int) -> dict[str, Any]:
    tree: dict[str, Any] = {"title": "leaf"}
    for _ in range(levels):
        tree = {"children": [tree]}
    return tree


def test_a_tree_may_be_64_levels_deep_and_no_deeper() -> None:
    from_dict(JobSpec, nested(model.MAX_DEPTH))
    assert fields_of(nested(model.MAX_DEPTH + 1)) == {"children": "is nested deeper than 64 levels"}
    assert fields_of(nested(10_000)) == {"children": "is nested deeper than 64 levels"}


def test_a_deep_value_where_a_text_belongs_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert list(fields_of({"title": deep})) == ["title"]


def test_thousands_of_unknown_fields_do_not_make_thousands_of_messages() -> None:
    assert len(fields_of({f"x{number}": 1 for number in range(10_000)})) == model.MAX_PROBLEMS


def test_whole_numbers_are_taken_where_numbers_belong_and_not_the_other_way() -> None:
    assert from_dict(JobSpec, {"timeout_s": 3}).timeout_s == 3.0
    assert isinstance(from_dict(JobSpec, {"timeout_s": 3}).timeout_s, float)
    assert fields_of({"retries": 3.0}) == {"retries": "3.0 is not a whole number"}


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Facts().cpus = 3  # type: ignore[misc]
