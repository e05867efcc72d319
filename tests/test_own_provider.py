"""A provider that is not ours: the example keeps the contract, and what is no provider is told at the start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coalition.config import ServerSettings, Settings, parse
from coalition.errors import ConfigError
from providers import check_pools, make
from providers.base import Life
from tests.contract_provider import POOL, ProviderContract, Rig
from tests.polling import poll_until

NAME = "examples.own_provider:Desks"
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "own_provider.py"


class TestExampleContract(ProviderContract):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        provider = make(NAME, "", Settings(server=ServerSettings(data_dir=str(tmp_path))))
        yield Rig(provider, time.time, pool=replace(POOL, provider=NAME, startup="sh -c 'exec sleep 600'"))
        provider.terminate([one.id for one in provider.list()])
        poll_until(lambda: all(one.life is Life.GONE for one in provider.list()), state=provider.list)


def test_the_example_is_of_sixty_lines() -> None:
    code = EXAMPLE.read_text(encoding="utf-8").split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 60


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of a module `studio` in which no class is a provider; PYTHONPATH holds it."""
    monkeypatch.syspath_prepend(tmp_path)
    lacking = "class Lacking:\n    def __init__(self, region, settings): pass\n    def list(self): return []\n"
    wrong = "class Wrong(Desks):\n    deadline = 'guest'\n"
    (tmp_path / "studio_rack.py").write_text(f"from examples.own_provider import Desks\n{lacking}{wrong}")
    return "studio_rack"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("Rack", "studio_rack has no class Rack; allowed: Lacking, Wrong"),
        ("Lacking", "lacks name, deadline, renewable, settle_s, concurrent, check, offerings, launch, terminate, renew,"),
        ("Wrong", "its deadline is 'guest'; one of providers.base.Deadline is wanted"),
    ],
)
def test_what_is_no_provider_stops_the_start_with_its_line_and_what_is_missing(refused: str, kind: str, why: str) -> None:
    settings = parse(f"[pool a]\nprovider = {refused}:{kind}\nmax = 1\n")
    with pytest.raises(ConfigError) as caught:
        check_pools(settings)
    assert str(caught.value).startswith("line 1: [pool a] provider studio_rack:")
    assert why in str(caught.value)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"line 1: \[pool a\] provider no_such:Rack: No module named 'no_such'; .*PYTHONPATH"):
        check_pools(parse("[pool a]\nprovider = no_such:Rack\n"))


@pytest.mark.parametrize("name", ["rack:", ":Rack", "my-rack:Rack", "rack:Rack:x", "rack:" + "R" * 28])
def test_a_name_that_no_class_has_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a class of your own as module:Class, of 32 characters at most"):
        parse(f"[pool a]\nprovider = {name}\n")


def test_its_pool_has_the_knobs_of_machines_and_no_cloud_s_own() -> None:
    text = "[pool a]\nprovider = rack:Rack\nstartup = wake\nextra = rack=7\n"
    assert parse(text).pools[0].extra == ("rack=7",)
    with pytest.raises(ConfigError, match="subnets: is for provider aws, and this pool's is rack:Rack"):
        parse(text + "subnets = subnet-12345678\n")
