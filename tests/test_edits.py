"""Different changes of different jobs, collected by the client and made in one call, all or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coalition.client import Client
from coalition.errors import BadInput, NotAllowed, NotFound
from tests.fakes.server import RealServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("farm")) as running:
        yield running


@pytest.fixture
def farm(server: RealServer) -> Client:
    return Client(server.url)


def edit(farm: Client, *changes: tuple[int, str, object]) -> None:
    with farm.edits() as edits:
        for job, name, value in changes:
            setattr(edits[job], name, value)


def test_changes_are_sent_at_the_end_all_together(farm: Client, server: RealServer) -> None:
    first, second, third = (farm.submit(command="true", title="before") for _ in range(3))
    with farm.edits() as edits:
        edits[first].priority = 200
        edits[farm.job(second)].priority = 200
        edits[third].title = "after"
        edits[third].note = "mine"
        assert edits[third].title == "after"
        assert farm.job(first).priority == 127
    assert edits.changed == 3
    assert [farm.job(job).priority for job in (first, second, third)] == [200, 200, 127]
    assert (farm.job(third).title, farm.job(third).note) == ("after", "mine")
    kinds = [event["kind"] for job in (first, second, third) for event in farm.events(job=job)]
    assert kinds.count("job.edit") >= 1


def test_one_that_is_refused_refuses_all(farm: Client) -> None:
    job = farm.submit(command="true")
    with pytest.raises(NotFound):
        edit(farm, (job, "priority", 200), (10**9, "priority", 1))
    assert farm.job(job).priority == 127


def test_a_mistake_is_caught_where_it_is_made_and_nothing_is_sent(farm: Client) -> None:
    job = farm.submit(command="true")
    with pytest.raises(BadInput, match='did you mean "priority"'):
        edit(farm, (job, "title", "sent?"), (job, "prority", 200))
    with pytest.raises(BadInput, match="priority"):
        edit(farm, (job, "priority", 300))
    assert farm.job(job).title != "sent?"


def test_without_a_change_nothing_is_sent(farm: Client) -> None:
    with farm.edits() as edits:
        edits[12]
    assert edits.changed == 0
    with pytest.raises(AttributeError, match="title was not changed"):
        _ = edits[12].title
    with pytest.raises(BadInput, match="edits"):
        farm._send("POST", "/jobs/edits", {"edits": []})


def test_jobs_of_others_are_not_changed(tmp_path: Path) -> None:
    with RealServer(tmp_path, auth="token") as server:
        tokens = [server.store.create_token("user", user=user, role="user", who="test") for user in ("ann", "bob")]
        ann, bob = (Client(server.url, token) for token in tokens)
        hers, his = ann.submit(command="true"), bob.submit(command="true")
        with pytest.raises(NotAllowed):
            edit(ann, (hers, "priority", 200), (his, "priority", 200))
        assert (ann.job(hers).priority, ann.job(his).priority) == (127, 127)
