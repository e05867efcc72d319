"""A submission that comes again makes nothing and gets the first one's answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from coalition.config import AuthSettings
from coalition.errors import BadInput
from coalition.server.app import create_app
from coalition.store import Store
from coalition.store.lists import JobQuery
from coalition.store.submit import Once
from tests.builders import Caller, WatchedStore, a_job, a_range
from tests.databases import KINDS

KEY = {"headers": {"Idempotency-Key": "night-7"}}
BODY = {"jobs": [{"title": "a", "command": "true", "ref": "a"}, {"title": "b", "command": "true", "frames": "1-3"}]}


def titles(store: Store) -> list[str]:
    return [job.title for job in store.jobs(JobQuery(limit=1_000))[0]]


def test_a_repeat_gets_the_same_ids_count_and_refs(app: Flask, store: WatchedStore) -> None:
    call = Caller(app)
    first = call.raw("POST", "/jobs", BODY, **KEY)
    again = call.raw("POST", "/jobs", BODY, **KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json == first.json
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")
    assert sorted(titles(store)) == ["a", "b", "b 1", "b 2", "b 3"]
    assert call.ok("POST", "/jobs", BODY)["ids"] != first.json["ids"]


def test_another_body_with_the_key_is_refused_and_a_refused_call_leaves_none(app: Flask, store: WatchedStore) -> None:
    call = Caller(app)
    assert call("POST", "/jobs", {"jobs": [{"title": "a"}]}, **KEY)[0] == 422
    assert call("POST", "/jobs?dry_run=true", BODY, **KEY)[0] == 200
    call.ok("POST", "/jobs", BODY, **KEY)
    status, problem = call("POST", "/jobs", {"jobs": BODY["jobs"][:1]}, **KEY)
    assert (status, list(problem["fields"])) == (422, ["Idempotency-Key"])
    assert "another body" in problem["detail"]
    assert len(titles(store)) == 5


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 129])
def test_a_key_that_is_none_is_refused(app: Flask, store: WatchedStore, key: str) -> None:
    status, problem = Caller(app)("POST", "/jobs", BODY, headers={"Idempotency-Key": key})
    assert (status, list(problem["fields"]), titles(store)) == (422, ["Idempotency-Key"], [])


def test_keys_of_different_callers_are_different(store: WatchedStore) -> None:
    store.settings = replace(store.settings, auth=AuthSettings(mode="token"))
    app = create_app(store.settings, store, store.clock)
    ids: list[Any] = []
    for user in ("ann", "bob", "ann"):
        ids += Caller(app, store.create_token("user", user=user, role="user")).ok("POST", "/jobs", BODY, **KEY)["ids"][:1]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_one_of_many_at_a_time_makes_the_jobs_also_from_another_process(store: WatchedStore) -> None:
    once = Once("k", "digest")
    others = [Store(store.settings, store.clock) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: others[n % 4].submit([a_range("1-3")], "ann", once), range(16)))
    assert len({one.ids for one in made}) == 1
    assert sorted(one.repeated for one in made) == [False] + [True] * 15
    assert len(titles(store)) == 4
    later = Store(store.settings, store.clock)  # as after a restart
    assert later.submit([a_range("1-3")], "ann", once).ids == made[0].ids
    with pytest.raises(BadInput, match="another body"):
        later.submit([a_job()], "ann", Once("k", "other"))
    for one in (*others, later):
        one.close()
