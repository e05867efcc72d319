"""cloud.ini: the shipped file is the table of knobs, and what cannot be used is refused with its line."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalition import config, values
from coalition.config import (
    NAMED,
    SINGLE,
    BudgetSettings,
    PathRule,
    PoolSettings,
    Settings,
    describe,
    documented,
    knobs,
    load,
    parse,
)
from coalition.errors import ConfigError

SHIPPED = Path(__file__).resolve().parent.parent / "cloud.ini"
POOL = "[pool a]\nprovider = local\nmax = 4\n"

GCE = "[pool a]\nprovider = gce\nregion = europe-west1\ntypes = n2-standard-8\nimage = worker-1\n"
AWS = "[pool a]\nprovider = aws\nregion = eu-west-1\ntypes = c5.large\nimage = ami-12345678\n"


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


# ---------------------------------------------------------------- the shipped file


def test_the_shipped_file_is_what_the_table_documents() -> None:
    wanted = documented()
    assert SHIPPED.read_text(encoding="utf-8") == wanted, "write config.documented() to cloud.ini"


def test_the_shipped_file_gives_the_defaults() -> None:
    assert load(SHIPPED) == Settings() == load(None)


def test_every_knob_is_in_the_shipped_file_with_its_help() -> None:
    text = documented()
    for kind in (*SINGLE.values(), *NAMED.values()):
        for key, field in knobs(kind).items():
            assert f"# {field.metadata['help']}" in text
            assert re.search(rf"^#{key} = ?{re.escape(field.metadata['default'])}$", text, re.MULTILINE), key


def test_uncommenting_everything_gives_the_defaults_too() -> None:
    text = re.sub(r"^#(?=[\w\[])", "", documented(), flags=re.MULTILINE)
    read = parse(text)
    assert dataclasses.replace(read, paths=(), accounts=(), pools=(), budgets=(), webhooks=()) == Settings()
    assert read.paths == (PathRule("SHOWS", "/mnt/shows", "/Volumes/shows", "S:\\shows"),)
    assert read.pools == (PoolSettings(name="example", line=read.pools[0].line, provider="local"),)
    assert read.budgets == (BudgetSettings(name="example", line=read.budgets[0].line, amount_micro=200_000_000),)


def test_a_comment_may_follow_a_value_and_a_tag_may_begin_with_a_number_sign() -> None:
    (pool,) = parse("[pool a]\nprovider = local ; at hand\naffinity = #big, linux # two tags\nregion=a#b\n").pools
    assert pool.provider == "local"
    assert pool.affinity == ("#big", "linux")
    assert pool.region == "a#b"


def test_windows_line_ends_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    file = tmp_path / "cloud.ini"
    file.write_bytes("\ufeff[server]\r\nfarm = caf\u00e9\r\n".encode())
    assert load(file).server.farm == "caf\u00e9"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[serverr]\n", 'cloud.ini:1: unknown section [serverr]; did you mean "server"?'),
        ("\n[pol x]\n", 'cloud.ini:2: unknown section [pol x]; did you mean "pool NAME"?'),
        ("[pool]\n", "cloud.ini:1: [pool NAME] needs a name"),
        ("[pool a/b]\n", "cloud.ini:1: [pool NAME] needs a name"),
        ("[server]\n\nlisen = x\n", 'cloud.ini:3: [server] lisen: unknown key; did you mean "listen"?'),
        ("[server]\nidle_s = 3\n", "cloud.ini:2: [server] idle_s: unknown key"),
        ("[pool a]\nmax = 4\n", "cloud.ini:1: [pool a] needs `provider`"),
        ("[budget b]\n", "cloud.ini:1: [budget b] needs `amount`"),
        ("farm = x\n", "cloud.ini:1: does not stand under a [section]"),
        ("[server\n", "cloud.ini:1: does not stand under a [section]"),
        ("[server]\nfarm\n", "cloud.ini:2: is neither a [section] nor `key = value`"),
        ("[server]\nfarm = a\n\nfarm = b\n", "cloud.ini:4: [server] farm: is there already, in line 2"),
        (POOL + POOL, "cloud.ini:4: [pool a] is there already, in line 1"),
        (POOL + "[pool  a]\nprovider = fake\n", "cloud.ini:4: [pool a] is there already, in line 1"),
        ("[budget b]\namount = 1\napplies_to = pool:x\n", "cloud.ini:3: [budget b] applies_to: no [pool x]; there is none"),
        ("[pool a]\nprovider = local\n max = 4\n", 'cloud.ini:2: [pool a] provider: "local\\nmax = 4" is not allowed'),
        ("[server]\nfarm = x\n data_dir = y\n", "cloud.ini:2: [server] farm: "),
        ("[server]\nthreads = 3\n", 'cloud.ini:2: [server] threads: "3" is not allowed: 4 or more'),
        ("[server]\nthreads = -1\n", 'cloud.ini:2: [server] threads: "-1" is not allowed: a whole number'),
        ("[server]\nprocesses = 0\n", 'cloud.ini:2: [server] processes: "0" is not allowed: 1 or more'),
        (
            "[server]\nprocesses = 2\n",
            'cloud.ini:2: [server] processes: "2" is not allowed; allowed: 1, as the database is SQLite',
        ),
        ("[server]\ndatabase = sqlite:///x\nprocesses = 2\n", 'cloud.ini:3: [server] processes: "2" is not allowed; allowed: 1'),
        ("[server]\ndurability = no\n", 'cloud.ini:2: [server] durability: "no" is not allowed'),
        (
            "[server]\ndatabase = mariadb://h/x\ndurability = process\n",
            'cloud.ini:3: [server] durability: "process" is not allowed; allowed: power: MariaDB',
        ),
        (
            "[server]\ndurability = process\n[pool p]\nprovider = local\n",
            'cloud.ini:2: [server] durability: "process" is not allowed; allowed: power: there are pools',
        ),
        ("[server]\ndiscovery_port = 65536\n", "cloud.ini:2: [server] discovery_port: "),
        ("[worker]\nwait = 2m\n", 'cloud.ini:2: [worker] wait: "2m" is not allowed: 60 or less'),
        ("[worker]\nlease = 5s\n", "cloud.ini:2: [worker] lease: must be longer than `sync`"),
        ("[worker]\nsync = 2m\n", "cloud.ini:1: [worker] lease: must be longer than `sync`"),
        ("[worker]\nenvironment = A=b, 1C=d\n", 'cloud.ini:2: [worker] environment: "A=b, 1C=d" is not allowed: "1C=d"'),
        ("[worker]\numask = 9\n", "cloud.ini:2: [worker] umask: "),
        ("[server]\nlisten = 0.0.0.0:19211\n", "cloud.ini:2: [server] listen: 0.0.0.0:19211 is beyond loopback"),
        ("[server]\nlisten = 127.0.0.1\n", "cloud.ini:2: [server] listen: "),
        ("[server]\nlisten = http://127.0.0.1:80\n", "cloud.ini:2: [server] listen: "),
        ("[server]\nlisten = 127.0.0.1:65536\n", "cloud.ini:2: [server] listen: "),
        ("[server]\nurl = farm\n", "cloud.ini:2: [server] url: "),
        ("[server]\nurl = https://\n", "cloud.ini:2: [server] url: "),
        ("[server]\nurl_schemes = https, JavaScript\n", "cloud.ini:2: [server] url_schemes: "),
        ("[server]\nurl_schemes = https:\n", "cloud.ini:2: [server] url_schemes: "),
        (
            "[server]\n\npictures_from = https://a, nas:8080\n",
            'cloud.ini:3: [server] pictures_from: "https://a, nas:8080" is not allowed: "nas:8080": http:// or https:// with a',
        ),
        ("[auth]\nmode = tokens\n", 'cloud.ini:2: [auth] mode: "tokens" is not allowed: did you mean "token"?'),
        ("[auth]\nenrol_from = 10.0.0.1/8\n", "cloud.ini:2: [auth] enrol_from: "),
        ("[pool a]\nprovider = locl\n", 'cloud.ini:2: [pool a] provider: "locl" is not allowed: did you mean "local"?'),
        (POOL + "min = 5\n", "cloud.ini:4: [pool a] min: 5 is more than `max`, which is 4"),
        (POOL + "affinity = a b\n", "cloud.ini:4: [pool a] affinity: "),
        (POOL + "purchase = spots\n", "cloud.ini:4: [pool a] purchase: "),
        (POOL + "purchase =\n", "cloud.ini:4: [pool a] purchase: "),
        (POOL + "price = -1\n", "cloud.ini:4: [pool a] price: "),
        (POOL + "price = 0.0000001\n", "cloud.ini:4: [pool a] price: "),
        (POOL + "price = NaN\n", "cloud.ini:4: [pool a] price: "),
        (POOL + "currency = usd\n", "cloud.ini:4: [pool a] currency: "),
        (POOL + "subnets = subnet-12345678\n", "cloud.ini:4: [pool a] subnets: is for provider aws, and this pool's is local"),
        (POOL + "root_volume = 50G\n", "cloud.ini:4: [pool a] root_volume: is for provider "),
        ("[pool a]\nprovider = aws\n", "cloud.ini:1: [pool a] needs `region`, as its provider is aws"),
        (
            AWS + "[autoscaler]\nslack = 119s\n",
            "cloud.ini:7: [autoscaler] slack: 119 s is not allowed with a pool of aws: 2m or more; the sweeper that ends",
        ),
        (AWS.replace("types = c5.large\n", ""), "cloud.ini:1: [pool a] needs `types`, as its provider is aws"),
        (AWS.replace("image = ami-12345678\n", ""), "cloud.ini:1: [pool a] needs `image`, as its provider is aws"),
        (AWS.replace("ami-12345678", "debian"), 'cloud.ini:5: [pool a] image: "debian" is not allowed: ami-..., ssm:/PARAMETER'),
        (AWS.replace("ami-12345678", "tag:farm"), "cloud.ini:5: [pool a] image: "),
        (AWS + "subnets = 10.0.0.0/24\n", 'cloud.ini:6: [pool a] subnets: "10.0.0.0/24" is not allowed: "10.0.0.0/24": ids'),
        (AWS + "security_groups = default\n", "cloud.ini:6: [pool a] security_groups: "),
        (AWS + "spot_headroom = 0.2\n", 'cloud.ini:6: [pool a] spot_headroom: "0.2" is not allowed: a share such as 20%'),
        (AWS + "notices_queue = farm\n", "cloud.ini:6: [pool a] notices_queue: "),
        (AWS + "subnet = subnet-12345678\n", 'cloud.ini:6: [pool a] subnet: unknown key; did you mean "subnets"?'),
        (GCE + "instance_profile = farm\n", "cloud.ini:6: [pool a] instance_profile: is for provider aws, and this"),
        (GCE.replace("worker-1", "Worker"), 'cloud.ini:5: [pool a] image: "Worker" is not allowed: NAME, family:NAME'),
        (GCE + "zones = europe-west4-a\n", 'cloud.ini:6: [pool a] zones: "europe-west4-a" is not allowed: zones of europe-west1'),
        (GCE + "project = My Project\n", 'cloud.ini:6: [pool a] project: "My Project" is not allowed: the id of a project'),
        (GCE + "subnetwork = a b\n", "cloud.ini:6: [pool a] subnetwork: "),
        (GCE + "network_tags = worker, Big\n", 'cloud.ini:6: [pool a] network_tags: "worker, Big" is not allowed: "Big": names'),
        (GCE + "service_account = farm\n", "cloud.ini:6: [pool a] service_account: "),
        (GCE + "accelerator = nvidia-l4:0\n", 'cloud.ini:6: [pool a] accelerator: "nvidia-l4:0" is not allowed: TYPE:COUNT'),
        (GCE + "accelerators = nvidia-l4\n", 'cloud.ini:6: [pool a] accelerators: unknown key; did you mean "accelerator"?'),
        ("[budget b]\namount = 5\nwindow = year\n", "cloud.ini:3: [budget b] window: "),
        ("[budget b]\namount = 5\ntimezone = Europe/Pari\n", 'cloud.ini:3: [budget b] timezone: "Europe/Pari" is not allowed'),
        ("[budget b]\namount = 5\ntimezone = Europe\n", "cloud.ini:3: [budget b] timezone: "),
        ("[budget b]\namount = 5\ntimezone = ../etc/passwd\n", "cloud.ini:3: [budget b] timezone: "),
        ("[budget b]\namount = 5\napplies_to = everything\n", "cloud.ini:3: [budget b] applies_to: "),
        ("[budget b]\namount = 5\napplies_to = farm:x\n", "cloud.ini:3: [budget b] applies_to: "),
        ("[budget b]\namount = 5\napplies_to = user:\n", "cloud.ini:3: [budget b] applies_to: "),
        ("[budget b]\namount = 5\napplies_to = pool:b\n" + POOL, "cloud.ini:3: [budget b] applies_to: no [pool b]"),
        ("[budget b]\namount = 5\ncurrency = EUR\n" + POOL, "cloud.ini:3: [budget b] currency: EUR cannot pay for [pool a]"),
        ("[budget b]\namount = 5\nalert = half\n", "cloud.ini:3: [budget b] alert: "),
        ("[paths]\nshows = /mnt/shows\n", "cloud.ini:2: [paths] shows: "),
        ("[paths]\na-b = linux:/mnt\n", "cloud.ini:2: [paths] a-b: "),
    ],
)
def test_what_cannot_be_used_is_refused_with_file_and_line(text: str, told: str) -> None:
    assert refused(text).startswith(told)
    assert "\n" not in refused(text)


@pytest.mark.parametrize(
    "origin",
    [
        "nas",
        "//nas",
        "ftp://nas",
        "https:",
        "data:",
        "*",
        "https://*",
        "https://*.studio.example",
        "https://nas:*",
        "'self'",
        "'unsafe-inline'",
        "https://nas/",
        "https://nas/renders",
        "https://nas?a",
        "https://nas#a",
        "https://ann:word@nas",
        "https://nas; script-src https://evil",
        "https://nas;script-src",
        "https://nas https://evil",
        "https://nas\n script-src",
        "https://nas\tb",
        "https://nas'",
        'https://nas"',
        "https://na\\s",
        "https://-nas",
        "https://nas-",
        "https://nas.",
        "https://a..b",
        "https://render_nas",
        "https://n\u00e4s",
        "https://na\u212a",
        "https://nas:\u0661",
        "https://nas:",
        "https://nas:0",
        "https://nas:080",
        "https://nas:65536",
        "https://[::1]:80",
        "https://10.1",
        "https://10.0.0.256",
        "https://010.0.0.1",
        "https://0x7f000001",
        f"https://{'a' * 64}",
        f"https://{'a.' * 126}bb",
    ],
)
def test_pictures_are_from_origins_and_nothing_that_a_header_could_take_for_more(origin: str) -> None:
    told = refused(f"[server]\npictures_from = http://nas:8080, {origin}\n")
    assert told.startswith("cloud.ini:2: [server] pictures_from: "), told
    assert "http:// or https:// with a host's name or IPv4 address" in told or "is not allowed: one line of text" in told


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", ()),
        ("https://renders.studio.example, http://nas:8080", ("https://renders.studio.example", "http://nas:8080")),
        ("https://NAS-2.Studio.example:443, http://nas:80", ("https://nas-2.studio.example", "http://nas")),
        ("http://nas:443,http://nas:443 , https://nas:80", ("http://nas:443", "https://nas:80")),
        ("http://10.0.0.7:65535, https://xn--nas-qla.example", ("http://10.0.0.7:65535", "https://xn--nas-qla.example")),
        ("http://a,\n  http://b", ("http://a", "http://b")),
    ],
)
def test_origins_of_pictures_are_kept_as_browsers_write_them(text: str, read: tuple[str, ...]) -> None:
    assert parse(f"[server]\npictures_from = {text}\n").server.pictures_from == read


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
def test_no_text_gets_out_of_its_place_in_the_header(text: str) -> None:
    for given_text in (text, f"https://{text}", f"https://nas{text}"):
        try:
            origins = values.an_origin_list(given_text)
        except ValueError:
            continue
        assert all(re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]+)?", origin) for origin in origins)


def test_a_budget_in_another_currency_may_pay_for_its_own_pool() -> None:
    text = POOL + "[pool b]\nprovider = local\ncurrency = EUR\n[budget b]\namount = 5\ncurrency = EUR\napplies_to = pool:b\n"
    assert parse(text).budgets[0].currency == "EUR"


def test_a_cap_of_nothing_is_a_cap() -> None:
    assert parse("[budget b]\namount = 0\n").budgets[0].amount_micro == 0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.ini: cannot be read"):
        load(tmp_path / "nowhere.ini")
    binary = tmp_path / "binary.ini"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.ini: cannot be read"):
        load(binary)


# ---------------------------------------------------------------- the command line's values


def test_values_of_the_command_line_go_before_the_files_and_are_checked_alike(tmp_path: Path) -> None:
    file = tmp_path / "cloud.ini"
    file.write_text("[server]\nlisten = 127.0.0.1:1\nfarm = lab\n")
    read = load(file, {("server", "listen"): "127.0.0.1:2"})
    assert (read.port, read.server.farm) == (2, "lab")
    with pytest.raises(ConfigError, match=r"^command line: \[server\] listen: 0\.0\.0\.0:2 is beyond loopback"):
        load(None, {("server", "listen"): "0.0.0.0:2"})


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (values.a_duration, "90", 90.0),
        (values.a_duration, "1.5h", 5_400.0),
        (values.a_duration, "7d", 604_800.0),
        (values.a_size, "512", 512),
        (values.a_size, "2G", 2**31),
        (values.a_money, "12.50", 12_500_000),
        (values.a_money, "0.000001", 1),
        (values.an_octal, "027", 0o27),
        (values.a_flag, "No", False),
        (values.a_share_list, "50%, 100%", (0.5, 1.0)),
        (values.a_list, " a,, b ", ("a", "b")),
    ],
)
def test_notation(read: config.Callable[[str], object], text: str, value: object) -> None:
    assert read(text) == value


@given(st.integers(0, 10**9 - 1).map(float) | st.integers(0, 10**6).map(lambda n: n / 1_000))
def test_durations_are_written_as_they_are_read(seconds: float) -> None:
    assert values.a_duration(config.write(seconds, config.a_duration)) == seconds


@given(st.integers(0, 10**15))
def test_sizes_and_money_are_written_as_they_are_read(number: int) -> None:
    assert values.a_size(config.write(number, config.a_size)) == number
    assert values.a_money(config.write(number, config.a_money)) == number


def test_settings_written_as_described_are_read_back() -> None:
    text = re.sub(r"^#(?=[\w\[])", "", documented(), flags=re.MULTILINE)
    read = parse(text.replace("umask = 002", "umask = 077").replace("idle = 5m", "idle = 90s").replace("max = 0", "max = 7"))
    lines: list[str] = []
    for knob in describe(read):
        header = f"[{knob.section}]"
        lines += [] if header in lines else [header]
        lines.append(f"{knob.key} = {knob.value}")
    again = parse("\n".join(lines))
    named = {"accounts": (), "pools": (), "budgets": (), "webhooks": ()}
    assert dataclasses.replace(again, **named) == dataclasses.replace(read, **named)
    assert dataclasses.replace(again.accounts[0], line=0) == dataclasses.replace(read.accounts[0], line=0)
    assert dataclasses.replace(again.pools[0], line=0) == dataclasses.replace(read.pools[0], line=0)
    assert {knob.key for knob in describe(read) if knob.changed and knob.default is not None} == {"umask", "idle", "max"}


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("localhost:8000", "http://localhost:8000"),
    ],
)
def test_the_url_follows_the_address(listen: str, url: str) -> None:
    assert load(None, {("server", "listen"): listen}).url == url


def test_the_url_of_a_server_on_every_interface_can_be_called_from_this_machine() -> None:
    for listen, url in (("0.0.0.0:8000", "http://127.0.0.1:8000"), ("[::]:8000", "http://[::1]:8000")):
        assert parse(f"[server]\nlisten = {listen}\n[auth]\nmode = token\n").url == url


# ---------------------------------------------------------------- passwords


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://farm:hunter2@db/coalition", "postgresql://farm:***@db/coalition"),
        ("mariadb+pymysql://farm:hunter2:x@y/z@db:3306/coalition", "mariadb+pymysql://farm:***@db:3306/coalition"),
        ("postgresql://db/coalition?user=farm&password=hunter2", "postgresql://db/coalition?user=farm&password=***"),
        ("mariadb://db/c?ssl_key_PASSWORD=hunter2&charset=utf8", "mariadb://db/c?ssl_key_PASSWORD=***&charset=utf8"),
        ("postgresql://farm@db/coalition", "postgresql://farm@db/coalition"),
        ("sqlite:////farm/a:b.db", "sqlite:////farm/a:b.db"),
        ("", ""),
    ],
)
def test_passwords_in_a_databases_address_are_not_shown(address: str, shown: str) -> None:
    settings = parse(f"[server]\ndatabase = {address}\n")
    assert {knob.key: knob.value for knob in describe(settings)}["database"] == shown
    assert settings.database_url == (address or settings.database_url)
    assert "hunter2" not in repr(settings)


def test_an_address_that_is_refused_is_told_without_its_password() -> None:
    told = refused("[server]\ndatabase = postgresql://farm:hunter2@db/c\n  and more\n")
    assert told.startswith('cloud.ini:2: [server] database: "postgresql://farm:***@db/c\\nand more" is not allowed')


def test_what_the_sweeper_of_ec2_may_be_late_is_paid_for() -> None:
    assert parse(AWS).autoscaler.slack_s == 120
    assert parse(AWS + "[autoscaler]\nslack = 5m\n").autoscaler.slack_s == 300
    assert parse(POOL).autoscaler.slack_s == 60
    assert parse(POOL + "[autoscaler]\nslack = 10s\n").autoscaler.slack_s == 10
