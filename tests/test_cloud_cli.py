"""`coalition cloud` and `coalition prices`: asked of a cloud over HTTP, and of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coalition.model import ShownPrice, to_dict
from tests.commands import coalition, document
from tests.fakes.api import Answer, Api
from tests.fakes.aws_cloud import REGION, AwsCloud, aws_here
from tests.fakes.server import RealServer


@pytest.fixture(scope="module")
def cloud() -> Iterator[AwsCloud]:
    with aws_here() as made:
        yield made


@pytest.fixture
def file(cloud: AwsCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.url)
    cloud.gaps.prices.on_demand["c5.large"] = 0.1
    path = tmp_path / "cloud.ini"
    path.write_text(
        f"[server]\nurl = https://farm.example.com\ndata_dir = {tmp_path}\n[pool render]\nprovider = aws\nregion = {REGION}\n"
        f"zones = us-east-1a\ntypes = c5.large\npurchase = on-demand\nimage = {cloud.image()}\nfunding = 29m\nmax = 2\n"
    )
    yield path
    cloud.reset()


def test_cloud_check_says_what_a_launch_would_cost(file: Path) -> None:
    report = document("cloud", "check", "--config", str(file))["pools"][0]
    assert report["problems"] == []
    assert report["deadline"] == "sweeper"
    (offer,) = report["offers"]
    assert (offer["name"], offer["price_micro"], offer["launch_micro"]) == ("c5.large/us-east-1a/on-demand", 100_000, 51_667)
    told = coalition("cloud", "check", "render", "--config", str(file)).stdout
    assert "0.10 USD  0.0517 USD" in told
    assert "the sweeper ends its machines when nobody else does" in told


def test_cloud_check_fails_with_each_problem_named(file: Path, cloud: AwsCloud) -> None:
    text = file.read_text().replace("url = https://farm.example.com\n", "").replace("types = c5.large", "types = m5.large")
    file.write_text(text)
    told = document("cloud", "check", "--config", str(file), code=1)["pools"][0]["problems"]
    assert "the price of m5.large/us-east-1a/on-demand is not known" in told
    assert any("set `url` in [server]" in problem for problem in told)
    cloud.faults.script("GetCallerIdentity", "auth")
    assert "AuthFailure" in coalition("cloud", "check", "--config", str(file), code=1).stdout


def test_cloud_check_of_a_pool_that_is_not_there_names_the_nearest(file: Path) -> None:
    assert 'did you mean "render"?' in coalition("cloud", "check", "rendr", "--config", str(file), code=1).stderr


def test_cloud_list_shows_what_the_provider_has(file: Path, cloud: AwsCloud) -> None:
    assert document("cloud", "list", "--config", str(file))["instances"] == []
    image = cloud.image("other")
    mine = cloud.plant({"coalition:farm": "coalition", "coalition:pool": "render", "coalition:token": "t"}, image)
    cloud.plant({"coalition:farm": "other"}, image)
    (seen,) = document("cloud", "list", "--config", str(file))["instances"]
    assert (seen["id"], seen["pool"], seen["provider"]) == (mine, "render", "aws")
    assert mine in coalition("cloud", "list", "--pool", "render", "--config", str(file)).stdout


def test_machines_are_started_and_ended_by_hand_through_the_server() -> None:
    with Api() as api:
        api.tell("POST", "/pools/launch", Answer({"changed": 2}))
        told = coalition("--server", api.url, "cloud", "launch", "--pool", "p", "--count", "2").stdout
        assert told == "asked for: 2 in pool p\n"
        assert api.requests[-1].body == {"pool": "p", "count": 2, "offering": ""}
        api.tell("POST", "/pools/launch", Answer({"changed": 1, "note": "nobody knows of big"}))
        told = coalition("--server", api.url, "cloud", "launch", "--pool", "p", "--offering", "big").stdout
        assert told == "asked for: 1 in pool p\nnobody knows of big\n"
        api.tell("POST", "/instances/terminate", Answer({"changed": 1}))
        coalition("--server", api.url, "cloud", "terminate", "7")
        assert api.requests[-1].body == {"ids": [7]}


def test_prices_are_imported_listed_and_refreshed(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RealServer(tmp_path / "farm") as server:
        monkeypatch.setenv("COALITION_SERVER", server.url)
        table = tmp_path / "prices.csv"
        table.write_text("type,price,as_of\nc5.large,0.09,2026-03-01\nm5.large,0.11,2026-03-01\n")
        coalition("prices", "import", str(table), "--provider", "aws", "--region", REGION)
        coalition("prices", "refresh", "--config", str(file))
        listed = [ShownPrice(**one) for one in document("prices", "list", "--type", "c5.large")["prices"]]
        assert [(one.source, one.price_micro) for one in listed] == [("studio", 90_000), ("aws", 100_000)]
        assert ("older than 7 days" in listed[0].unknown, listed[1].unknown) == (True, "")
        told = coalition("prices").stdout
        assert told.count("not known: it is older than 7 days (price_max_age)") == 2
        assert "m5.large" in told
        assert "studio" in told
        table.write_text("type,price,as_of\nc5.large,cheap,2026-03-01\n")
        assert "line 2" in coalition("prices", "import", str(table), "--provider", "aws", code=2).stderr
        assert to_dict(server.store.prices("aws", REGION, "m5.large"))[0]["price_micro"] == 110_000
