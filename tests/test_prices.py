"""What a machine costs: tables that people bring, which source goes first, and prices that are none."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from coalition.errors import BadInput
from coalition.model import Price
from coalition.store.prices import PRICES
from providers.base import Offering
from providers.prices import SEED_AS_OF, SEED_PRICES, Book, moment, read_table, region_of, said, seed
from tests.builders import WatchedStore
from tests.cloud_world import DOLLAR, START, World, budget, pool, settings
from tests.databases import KINDS

DAY_S = 86_400.0
NOW = moment("2026-03-10")
SPOT = """\
use1-az2\tm5n.xlarge\tLinux/UNIX\t0.068000\t2026-03-09T18:47:05+00:00
use1-az4\tm5n.xlarge\tLinux/UNIX\t0.071000\t2026-03-09T18:50:45+00:00
use1-az4\tm5n.xlarge\tWindows\t0.171000\t2026-03-09T18:50:45+00:00
"""
TABLE = """\
provider,region,zone,type,market,price_per_hour,currency,vcpus,memory,gpu,as_of
aws,eu-west-1,,c5.large,on-demand,0.096,USD,2,4G,0,2026-03-01
"""


def written(folder: Path, text: str, name: str = "prices.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


# ---------------------------------------------------------------- tables


def test_a_table_of_ones_own_is_read(tmp_path: Path) -> None:
    wanted = Price("aws", "eu-west-1", "", "c5.large", "on-demand", "studio", 96_000, "USD", 2, 4 << 30, 0, moment("2026-03-01"))
    assert read_table(written(tmp_path, TABLE)) == [wanted]
    assert read_table(written(tmp_path, TABLE.replace(",", "\t"), "prices.tsv.gz")) == [wanted]


def test_columns_that_a_table_lacks_are_given_for_all_of_it(tmp_path: Path) -> None:
    given = {"provider": "gce", "region": "europe-west1", "market": "spot", "currency": "EUR", "as_of": "2026-03-01T12:00:00Z"}
    (one,) = read_table(written(tmp_path, "type,price\nn2-standard-4,0.05\n"), given)
    assert (one.provider, one.region, one.market, one.currency) == ("gce", "europe-west1", "spot", "EUR")
    assert one.as_of == moment("2026-03-01") + DAY_S / 2


def test_the_public_list_of_spot_prices_is_read_as_it_is(tmp_path: Path) -> None:
    found = read_table(written(tmp_path, SPOT, "aws-spot-use1-2026-03-09.tsv.gz"))
    assert [(one.region, one.zone, one.type, one.market, one.price_micro) for one in found] == [
        ("us-east-1", "use1-az2", "m5n.xlarge", "spot", 68_000),
        ("us-east-1", "use1-az4", "m5n.xlarge", "spot", 71_000),
    ]
    assert found[0].as_of == moment("2026-03-09T18:47:05+00:00")


@pytest.mark.parametrize(
    ("zone", "region"), [("usw2-az1", "us-west-2"), ("apne1-az4", "ap-northeast-1"), ("euc1-az3", "eu-central-1")]
)
def test_the_region_of_a_zone(zone: str, region: str) -> None:
    assert region_of(zone) == region


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("type,prize\n", "line 1", '"prize" is no column; did you mean "price"?'),
        (TABLE + "aws,eu-west-1,,c5.large\n", "line 3", "11 values, as in the first line"),
        (TABLE.replace("0.096", "-1"), "line 2", 'price "-1" is not allowed: an amount of money'),
        (TABLE.replace("0.096", "nan"), "line 2", 'price "nan"'),
        (TABLE.replace("0.096", ""), "line 2", "has no `price`"),
        (TABLE.replace("on-demand", "reserved"), "line 2", 'market "reserved" is not allowed: spot or on-demand'),
        (TABLE.replace("USD", "dollars"), "line 2", 'currency "dollars"'),
        (TABLE.replace("4G", "4 gigs"), "line 2", 'memory "4 gigs"'),
        (TABLE.replace("2026-03-01", "March"), "line 2", 'as_of "March" is not allowed: a date such as 2026-01-31'),
        (SPOT.replace("0.068000", "cheap"), "line 1", 'price "cheap"'),
        (SPOT + "use1-az2\tm5n.xlarge\n", "line 4", "zone id, type, product, dollars per hour and time"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_nothing_is_taken(tmp_path: Path, text: str, field: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_table(written(tmp_path, text))
    assert words in caught.value.fields[field]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(b"no gzip")
    for path in (tmp_path / "nowhere", tmp_path / "x.gz"):
        with pytest.raises(BadInput, match=path.name):
            read_table(path)


# ---------------------------------------------------------------- which price holds

OFFER = Offering("c5.large/a/on-demand", "c5.large", "a", price_micro=100_000, price_source="aws", price_as_of=NOW)


def price(source: str = "studio", micro: int = 90_000, zone: str = "", as_of: float = NOW - DAY_S, **more: object) -> Price:
    values = {"provider": "aws", "region": "r", "zone": zone, "type": "c5.large", "market": "on-demand", "source": source}
    return Price(**{**values, "price_micro": micro, "currency": "USD", "as_of": as_of, **more})  # type: ignore[arg-type]


def held(*prices: Price, offer: Offering = OFFER, max_age_s: float = 7 * DAY_S) -> Offering:
    return Book(prices, max_age_s).priced("aws", "r", offer, NOW)


def test_the_studios_own_price_goes_before_the_providers() -> None:
    assert held() == OFFER
    found = held(price())
    assert (found.price_micro, found.price_source, found.price_as_of) == (90_000, "studio", NOW - DAY_S)


def test_the_providers_word_goes_before_what_it_said_earlier_and_that_before_others() -> None:
    assert held(price("aws"), price("libcloud", 1)) == OFFER
    silent = replace(OFFER, price_micro=0, price_as_of=0.0)
    assert held(price("aws"), price("libcloud", 1), offer=silent).price_source == "aws"
    assert held(price("libcloud", 1), offer=silent).price_source == "libcloud"


def test_what_a_provider_said_before_is_no_price_of_a_machine_with_gpus_nor_beside_what_it_says_now() -> None:
    silent = replace(OFFER, price_micro=0, price_as_of=0.0)
    assert held(price("aws", gpus=1), offer=replace(silent, gpus=1)).price_micro == 0, "it may be of another accelerator"
    assert held(price("aws", gpus=1), offer=silent).price_micro == 0
    assert held(price("studio", gpus=1), offer=replace(silent, gpus=1)).price_source == "studio", "people know what they say"
    stale = replace(OFFER, price_as_of=NOW - 8 * DAY_S)
    assert held(price("aws", 5), offer=stale).price_micro == 0, "it is of the same machine, and dated by the offer"


def test_a_price_of_0_or_one_that_is_too_old_is_none() -> None:
    assert held(price(micro=0)) == OFFER
    assert held(price(as_of=NOW - 8 * DAY_S)) == OFFER
    stale = held(price(as_of=NOW - 8 * DAY_S), offer=replace(OFFER, price_micro=0))
    assert (stale.price_micro, stale.bid_micro) == (0, 0)
    assert stale.price_source == "that of studio is of 2026-03-02, and price_max_age is 7 days"
    assert held(offer=replace(OFFER, price_as_of=NOW - 8 * DAY_S)).price_micro == 0


def test_a_price_of_the_zone_goes_first_then_that_of_all_zones_then_the_highest() -> None:
    here, everywhere, dear, cheap = price(micro=3, zone="a"), price(micro=2), price(micro=9, zone="b"), price(micro=1, zone="c")
    assert held(here, everywhere, dear, cheap).price_micro == 3
    assert held(everywhere, dear, cheap).price_micro == 2
    assert held(dear, cheap).price_micro == 9


def test_the_maximum_price_of_a_spot_machine_is_the_price_that_holds() -> None:
    spot = replace(OFFER, market="spot", bid_micro=100_000)
    assert held(price(market="spot"), offer=spot).bid_micro == 90_000


def test_the_short_list_is_the_last_of_the_dated_ones_and_says_how_old_it_is() -> None:
    offer = Offering("c5.large", "c5.large", "us-east-1a")
    book = Book([], 7 * DAY_S)
    assert "seed is of 2024-06-01" in book.priced("aws", "us-east-1", offer, NOW).price_source
    young = Book([], 10_000 * DAY_S).priced("aws", "us-east-1", offer, NOW)
    assert (young.price_micro, young.price_source, young.price_as_of) == (85_000, "seed", SEED_AS_OF)
    assert len(seed()) == len(SEED_PRICES)


def test_what_a_provider_dated_is_kept_and_nothing_else() -> None:
    offers = [OFFER, replace(OFFER, price_micro=0), replace(OFFER, price_as_of=0.0)]
    assert [(one.source, one.price_micro, one.as_of) for one in said("aws", "r", offers)] == [("aws", 100_000, NOW)]


# ---------------------------------------------------------------- in the database


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_each_source_keeps_its_last_word(store: WatchedStore) -> None:
    assert store.put_prices([price(), price("aws"), price(zone="b")], "ann") == 3
    before = store.counters()[PRICES]
    assert store.put_prices([price(micro=5)]) == 1
    assert [(one.source, one.zone, one.price_micro) for one in store.prices("aws", "r", "c5.large")] == [
        ("aws", "", 90_000),
        ("studio", "", 5),
        ("studio", "b", 90_000),
    ]
    assert store.prices("gce") == []
    assert store.counters()[PRICES] == before + 1
    assert store.put_prices([]) == 0


# ---------------------------------------------------------------- what the autoscaler does with them


def priced_world(folder: Path, *, as_of: float, micro: int = DOLLAR, **rules: float) -> World:
    offers = [Offering("machine", "machine", slots=2, cpus=8, memory_bytes=16 << 30)]
    world = World(folder, settings(folder, [pool()], [budget()], **rules), offers)
    world.store.put_prices([Price("fake", "", "", "machine", "on-demand", "studio", micro, "USD", as_of=as_of)])
    world.submit(2)
    return world


def test_an_offer_without_a_price_is_bought_at_the_studios(tmp_path: Path) -> None:
    world = priced_world(tmp_path, as_of=START)
    world.tick()
    assert [request.offering.price_micro for request in world.requests()] == [DOLLAR]


def test_an_old_price_is_not_spent_and_the_decision_says_how_old_it_is(tmp_path: Path) -> None:
    world = priced_world(tmp_path, as_of=START - 8 * DAY_S)
    world.tick()
    assert world.requests() == []
    (reason,) = world.reasons("hold")
    assert "the price of machine is not known (that of studio is of 2023-11-06, and price_max_age is 7 days)" in reason
    world.store.put_prices([Price("fake", "", "", "machine", "on-demand", "studio", DOLLAR, "USD", as_of=START)])
    world.tick()
    assert len(world.requests()) == 1, "a new price is seen by the next tick"


def test_a_price_in_another_currency_is_not_spent(tmp_path: Path) -> None:
    world = priced_world(tmp_path, as_of=START)
    world.store.put_prices([Price("fake", "", "", "machine", "on-demand", "studio", DOLLAR, "EUR", as_of=START)])
    world.tick()
    assert world.requests() == []
    assert "costs EUR, and budget studio is in USD" in world.reasons("hold")[0]
