"""The filter grammar: what it reads, what it refuses, and that whatever comes in it neither fails nor guesses."""

from __future__ import annotations

import pytest
from flask import Flask
from hypothesis import given, strategies

from coalition.errors import BadInput
from coalition.filters import FIELDS, Term, parse
from coalition.store.lists import JobQuery
from tests.builders import Caller, Clock, Hand, WatchedStore, a_job, a_range
from tests.databases import KINDS

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", ()),
        ("   ", ()),
        ("state:error", (Term("state", ":", ("ERROR",)),)),
        ("state:ERROR,WORKING user:ann", (Term("state", ":", ("ERROR", "WORKING")), Term("user", ":", ("ann",)))),
        ('"shot 10"', (Term("title", ":", ("shot 10",)),)),
        ('user:"ann lee",bob', (Term("user", ":", ("ann lee", "bob")),)),
        ("-paused:yes", (Term("paused", ":", (True,), True),)),
        ("priority>=200", (Term("priority", ">=", (200,)),)),
        ("created>-2h", (Term("created", ">", (NOW - 7_200,)),)),
        ("created<2023-11-14", (Term("created", "<", (1_699_920_000.0,)),)),
        ("created<2023-11-14T01:00+01:00", (Term("created", "<", (1_699_920_000.0,)),)),
        ("shot frame:10", (Term("title", ":", ("shot",)), Term("frame", ":", (10,)))),
        ("a:b", None),
    ],
)
def test_it_reads(text: str, terms: tuple[Term, ...] | None) -> None:
    if terms is None:
        with pytest.raises(BadInput):
            parse(text, NOW)
    else:
        assert parse(text, NOW) == terms


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stat:ERROR", 'did you mean "state"?'),
        ("state:ERORR", 'did you mean "ERROR"?'),
        ("state>ERROR", "allowed: state:"),
        ("paused:maybe", "yes or no"),
        ("priority>high", "a whole number"),
        ("priority>1,2", "takes one value"),
        ("created>yesterday", "a time such as"),
        ("created:2023-11-14", "allowed: created>"),
        ("parent>3", "allowed: parent:"),
        ('user:"ann', "quotes come in pairs"),
        ("a " * 40, "at most 32"),
        ("a" * 3_000, "at most 2,000"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(text, NOW)
    assert words in refused.value.fields["filter"]


@given(strategies.text(max_size=60))
def test_whatever_comes_in_is_terms_or_refused(text: str) -> None:
    try:
        terms = parse(text, NOW)
    except BadInput:
        return
    assert all(term.field in FIELDS for term in terms)


# ---------------------------------------------------------------- in lists


@pytest.fixture
def farm(store: WatchedStore, clock: Clock) -> dict[str, int]:
    """Jobs of two users, one of them in error, and a range of frames; by title."""
    store.submit([a_job("old", user="ann", priority=200), a_job("new shot 10", user="bob")])
    hand = Hand(store)
    hand.fail(hand.take_one())
    clock.advance(7_200)
    store.submit([a_range("8-12", title="range", user="ann lee"), a_job("100%", user="ann", paused=True)])
    return {job.title: job.id for job in store.jobs(JobQuery(limit=1_000))[0]}


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("state:ERROR", {"old"}),
        ("state:ERROR,WAITING user:ann", {"old", "100%"}),
        ("-state:WAITING", {"old"}),
        ('user:"ann lee" frame:10', {"range 10"}),
        ("frame>=11", {"range 11", "range 12"}),
        ("-frame>0 -range", {"old", "new shot 10", "100%"}),
        ('"shot 10"', {"new shot 10"}),
        ("100%", {"100%"}),
        ("priority>=200", {"old"}),
        ("errors>0", {"old"}),
        ("created<-1h", {"old", "new shot 10"}),
        ("created>-1h -frame:8,9,10,11,12 -paused:yes", {"range"}),
        ("user:ann user:bob", set()),
        ("group:yes", {"range"}),
        ("group:no frame:10", {"range 10"}),
        ("parent:0 -state:ERROR", {"new shot 10", "range", "100%"}),
        ("started<-1h", {"old"}),
        ("-started>-9d user:ann", {"100%"}),
        ("ended<-1h", {"old"}),
        ("user:'; drop table job; --", set()),
    ],
)
@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_a_list_holds_what_fits_every_term(
    store: WatchedStore, clock: Clock, farm: dict[str, int], text: str, titles: set[str]
) -> None:
    found = store.jobs(JobQuery(terms=parse(text, clock()), limit=1_000))[0]
    assert {job.title for job in found} == titles


def test_the_api_and_the_client_take_a_filter(app: Flask, farm: dict[str, int]) -> None:
    call = Caller(app)
    status, answer = call("GET", "/api/v1/jobs?filter=state:ERROR+user:ann")
    assert (status, [job["title"] for job in answer["jobs"]]) == (200, ["old"])
    status, answer = call("GET", "/api/v1/jobs?filter=stat:ERROR")
    assert (status, answer["fields"]) == (422, {"filter": "'stat' is no field; did you mean \"state\"?"})
