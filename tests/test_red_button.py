"""The red button ends every machine of the farm by the providers' lists, and says what is left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from coalition.cli.red_button import Account, end_all
from providers.base import Life, Offering, ProviderError, Rejected, Request
from providers.base import Reason as Why
from providers.fake import FakeProvider
from providers.local import LocalProvider
from tests.cloud_world import Clock
from tests.commands import coalition, document
from tests.fakes.api import Answer, Api
from tests.polling import poll_until


def sleeper(request: Request, id: str, folder: Path) -> Sequence[str]:
    return ["sh", "-c", "exec sleep 600"]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalProvider]:
    provider = LocalProvider(tmp_path / "local", command=sleeper)
    yield provider
    provider.terminate([one.id for one in provider.list()])
    poll_until(lambda: all(one.life is Life.GONE for one in provider.list()), state=provider.list)


def start(provider: LocalProvider, farm: str, token: str) -> str:
    now = time.time()
    offering = Offering("local", "local")
    request = Request(token, farm, "render", "local", "", offering, 1, (), "", "http://127.0.0.1:9", 0, now + 60, now + 600)
    return provider.launch(request).instances[0].id


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cloud.ini"
    path.write_text(f"[server]\nfarm = ours\nlisten = 127.0.0.1:9\ndata_dir = {tmp_path}\n[pool render]\nprovider = local\n")
    return path


def alive(provider: LocalProvider) -> set[str]:
    return {one.id for one in provider.list() if one.life is not Life.GONE}


def test_all_machines_of_this_farm_end_without_server_and_database_and_no_other(local: LocalProvider, file: Path) -> None:
    mine, theirs = {start(local, "ours", "a" * 16), start(local, "ours", "b" * 16)}, start(local, "theirs", "c" * 16)
    told = document("terminate-all", "--yes", "--wait", "2s", "--config", str(file))
    assert {(one["id"], one["fate"]) for one in told["machines"]} == {(id, "ended") for id in mine}
    assert (told["left"], told["problems"]) == (0, {})
    assert "scaling could not be paused" in told["said"]
    assert alive(local) == {theirs}
    assert not list(file.parent.glob("*.db"))


def test_without_yes_it_only_tells(local: LocalProvider, file: Path) -> None:
    mine = start(local, "ours", "a" * 16)
    told = coalition("terminate-all", "--config", str(file), code=2).stdout
    assert mine in told
    assert "nothing was ended: repeat it with --yes" in told
    assert alive(local) == {mine}


def test_a_server_that_answers_is_asked_to_start_no_more_first(file: Path) -> None:
    with Api() as api:
        api.tell("POST", "/scaling/pause", Answer({"changed": 1}))
        told = coalition("--server", api.url, "terminate-all", "--yes", "--wait", "0s", "--config", str(file)).stdout
        assert "scaling is paused" in told
        assert [(one.method, one.path) for one in api.requests] == [("POST", "/scaling/pause")]


def accounts(*fakes: FakeProvider) -> list[Account]:
    return [Account(f"fake/{number}", fake, "ours") for number, fake in enumerate(fakes)]


def refusal() -> ProviderError:
    return Rejected(Why.AUTH, "expired")


def test_a_machine_that_will_not_end_is_asked_again_and_in_the_end_told_as_left() -> None:
    fake, quick = FakeProvider("ours", Clock()), FakeProvider("ours", Clock())
    stubborn, _ = fake.plant("ours", "t"), quick.plant("ours", "u")
    fake.faults.stubborn = 2
    waits: list[float] = []
    assert end_all(accounts(fake, quick), 60.0, waits.append, 0.0)
    assert len(waits) == 2
    fake.plant("ours", "v")
    fake.faults.stubborn = 1_000
    asked = accounts(fake, quick)
    assert not end_all(asked, 0.0, waits.append)
    assert [row["fate"] for one in asked for row in one.rows(done=True)] == ["still there"]
    assert stubborn not in {one.id for one in fake.live()}


def test_an_account_that_cannot_be_listed_is_a_problem_and_the_others_are_ended_all_the_same() -> None:
    broken, good = FakeProvider("ours", Clock()), FakeProvider("ours", Clock())
    broken.faults.errors["list"] += [refusal() for _ in range(3)]
    good.plant("ours", "t")
    asked = accounts(broken, good)
    assert not end_all(asked, 0.0, lambda _: None)
    assert [one.problem for one in asked] == ["cannot be listed: expired", ""]
    assert list(good.live()) == []


def test_a_call_that_fails_in_between_is_made_again() -> None:
    fake = FakeProvider("ours", Clock())
    fake.plant("ours", "t")
    fake.faults.errors["terminate"].append(refusal())
    assert end_all(accounts(fake), 60.0, lambda _: None, 0.0)
    assert list(fake.live()) == []


def test_machines_that_come_while_it_looks_are_ended_too() -> None:
    fake = FakeProvider("ours", Clock())
    late = iter(["t", "u"])

    def meanwhile(_: float) -> None:
        if token := next(late, ""):
            fake.plant("ours", token)

    asked = accounts(fake)
    assert end_all(asked, 60.0, meanwhile, 0.05)
    assert [row["fate"] for row in asked[0].rows(done=True)] == ["ended", "ended"]
    assert list(fake.live()) == []


def test_an_account_that_cannot_be_used_keeps_no_other_from_being_ended(local: LocalProvider, file: Path) -> None:
    mine = start(local, "ours", "a" * 16)
    gone = f"{file.parent}/gone"
    account = f"[libcloud gone]\ndriver = dummy\ncredentials = {gone}\n"
    file.write_text(f"{file.read_text()}max = 1\n{account}[pool far]\nprovider = libcloud\nregion = gone\nimage = i\ntypes = t\n")
    told = document("terminate-all", "--yes", "--wait", "2s", "--config", str(file), code=1)
    assert [(one["id"], one["fate"]) for one in told["machines"]] == [(mine, "ended")]
    assert told["problems"].keys() == {"libcloud/gone"}
    assert gone in told["problems"]["libcloud/gone"]


def test_a_token_that_cannot_be_read_keeps_nothing_from_being_ended(local: LocalProvider, file: Path) -> None:
    start(local, "ours", "a" * 16)
    told = document("--token-file", "/no/such", "terminate-all", "--yes", "--wait", "2s", "--config", str(file))
    assert [one["fate"] for one in told["machines"]] == ["ended"]
    assert "scaling could not be paused" in told["said"]
