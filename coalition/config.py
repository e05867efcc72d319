"""cloud.ini -> Settings. The dataclasses below are the one table of knobs: name, type, default, bounds, help.

An unknown section or key, or a value that is not allowed, raises ConfigError with file, line and the nearest valid name.
A field's unit (`idle_s`, `log_max_bytes`, `amount_micro`) is not part of its key (`idle`, `log_max`, `amount`).
Durations are written 30, 30s, 5m, 2h, 7d; sizes 512, 64K, 10M, 2G, 1T; money 12.50; lists with commas.
"""

from __future__ import annotations

import configparser
import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from coalition.errors import ConfigError, nearest
from coalition.model import NAME, TAG

MICRO = 1_000_000
PLATFORMS = ("linux", "macos", "windows")
NAME_OF_SECTION = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}$")
T = TypeVar("T")


# ---------------------------------------------------------------- values: text -> value, ValueError says what is allowed


def a_text(text: str) -> str:
    return text


def a_flag(text: str) -> bool:
    known = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
    if text.lower() not in known:
        raise ValueError("yes or no")
    return known[text.lower()]


def a_count(text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text):
        raise ValueError("a whole number, 0 or more")
    return int(text)


def a_duration(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)\s*(s|m|h|d)?", text)
    if not match:
        raise ValueError("a duration such as 30, 30s, 5m, 2h or 7d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2] or "s"]


def a_size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15})\s*([KMGT])?", text)
    if not match:
        raise ValueError("a size such as 512, 64K, 10M or 2G")
    return int(match[1]) * 1_024 ** " KMGT".index(match[2] or " ")


def a_money(text: str) -> int:
    try:
        amount = Decimal(text) * MICRO
    except InvalidOperation:
        raise ValueError("an amount of money such as 200 or 0.25") from None
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value() or amount >= 2**62:
        raise ValueError("an amount of money, 0 or more, with at most six decimals")
    return int(amount)


def a_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def a_tag_list(text: str) -> tuple[str, ...]:
    tags = a_list(text)
    if any(not TAG.match(tag) for tag in tags):
        raise ValueError("tags of letters, digits and _ . # : + - with commas between them")
    return tags


def a_network_list(text: str) -> tuple[str, ...]:
    for network in a_list(text):
        try:
            ip_network(network)
        except ValueError:
            raise ValueError("networks such as 10.0.0.0/8, with commas between them") from None
    return a_list(text)


def a_share_list(text: str) -> tuple[float, ...]:
    if not all(re.fullmatch(r"\d{1,3}%", part) for part in a_list(text)):
        raise ValueError("shares such as 50%, 80%, 100%")
    return tuple(int(part[:-1]) / 100 for part in a_list(text))


def an_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65_535:
        raise ValueError("host:port, for example 127.0.0.1:19211 or [::]:19211")
    return text


def a_url(text: str) -> str:
    if text and urlsplit(text).scheme not in ("http", "https"):
        raise ValueError("an http:// or https:// address, or nothing")
    return text.rstrip("/")


def an_octal(text: str) -> int:
    if not re.fullmatch(r"[0-7]{3,4}", text):
        raise ValueError("three or four octal digits, for example 002")
    return int(text, 8)


def a_currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise ValueError("a currency's three capital letters, for example USD")
    return text


def one_of(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError(nearest(text, names))
        return text

    return read


def some_of(*names: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        for part in a_list(text):
            if part not in names:
                raise ValueError(f'"{part}": {nearest(part, names)}')
        return a_list(text)

    return read


def knob(default: str, read: Callable[[str], Any], help: str, *, low: float | None = None, required: bool = False) -> Any:
    """A key of cloud.ini: its default as it would be written there, how it is read, and what it is for."""
    metadata = {"default": default, "read": read, "help": help, "low": low, "required": required}
    value = read(default) if not required else dataclasses.MISSING
    return dataclasses.field(default=value, metadata=metadata)


# ---------------------------------------------------------------- the knobs


@dataclass(frozen=True)
class ServerSettings:
    farm: str = knob("coalition", a_text, "this farm's name; discovery and cloud tags carry it")
    listen: str = knob("127.0.0.1:19211", an_address, "address and port; beyond loopback needs authentication")
    url: str = knob("", a_url, "the address workers and people use, if it is not the one above")
    data_dir: str = knob("~/.coalition", a_text, "logs, the SQLite file and secrets live here")
    database: str = knob("", a_text, "an SQLAlchemy address; empty: SQLite in data_dir")
    threads: int = knob("64", a_count, "requests served at a time; half of them may wait in long polls", low=4)
    discovery: bool = knob("yes", a_flag, "answer workers that look for the server by UDP broadcast")
    discovery_port: int = knob("0", a_count, "UDP port of discovery; 0: the port of `listen`")
    max_body_bytes: int = knob("64M", a_size, "the largest request body")
    log_max_bytes: int = knob("1G", a_size, "the largest log kept of one attempt; what is beyond is cut and marked")


@dataclass(frozen=True)
class AuthSettings:
    mode: str = knob("none", one_of("none", "token"), "none: loopback only, everybody may do everything; token: API tokens")
    enrol_from: tuple[str, ...] = knob("", a_network_list, "networks from which workers may enrol without a token")


@dataclass(frozen=True)
class WorkerSettings:
    sync_s: float = knob("5s", a_duration, "how often a worker calls when nothing happens", low=0.1)
    lease_s: float = knob("60s", a_duration, "a worker silent for so long loses its jobs", low=0.5)
    wait_s: float = knob("10s", a_duration, "how long an idle worker's call may wait for a job")
    grace_s: float = knob("10s", a_duration, "between SIGTERM and SIGKILL of a job that is stopped")
    umask: int = knob("002", an_octal, "umask of jobs")
    environment: tuple[str, ...] = knob("", a_list, "NAME=value pairs given to every job")


@dataclass(frozen=True)
class AutoscalerSettings:
    enabled: bool = knob("yes", a_flag, "start and end instances of the pools")
    interval_s: float = knob("10s", a_duration, "between two decisions when nothing wakes it", low=0.2)
    slot_target_s: float = knob("180s", a_duration, "run time a new slot should find; fewer slots start for shorter work", low=1)
    slack_s: float = knob("60s", a_duration, "paid time reserved beyond the deadline of an instance")
    stray_age_s: float = knob("120s", a_duration, "an instance of this farm without a record is ended at its second sighting past this age")
    boot_failures: int = knob("3", a_count, "failed boots in a row that stop a pool's launches", low=1)


@dataclass(frozen=True)
class PoolSettings:
    name: str
    line: int
    provider: str = knob("", one_of("local", "fake", "aws", "gce", "libcloud"), "who starts the instances", required=True)
    enabled: bool = knob("yes", a_flag, "no: nothing is started, what runs is drained")
    region: str = knob("", a_text, "the provider's region")
    zones: tuple[str, ...] = knob("", a_list, "zones to use; empty: all")
    types: tuple[str, ...] = knob("", a_list, "instance types to choose from; local: any names")
    purchase: tuple[str, ...] = knob("spot, on-demand", some_of("spot", "on-demand"), "markets, preferred first")
    image: str = knob("", a_text, "the prepared image")
    affinity: tuple[str, ...] = knob("", a_tag_list, "tags of its workers")
    slots: int = knob("0", a_count, "slots of one instance; 0: one per cpu")
    min: int = knob("0", a_count, "instances kept though idle")
    max: int = knob("0", a_count, "instances at most; 0: none are started")
    idle_s: float = knob("5m", a_duration, "an instance idle for so long is drained and ended")
    boot_timeout_s: float = knob("10m", a_duration, "an instance that has not enrolled by then is ended", low=1)
    funding_s: float = knob("15m", a_duration, "how far ahead an instance's time is paid from the budgets", low=10)
    price_micro: int = knob("0", a_money, "price per hour of one instance; 0: ask the provider")
    currency: str = knob("USD", a_currency, "currency of `price`")
    overhead_per_hour_micro: int = knob("0", a_money, "disk, public address and the like, per instance and hour")
    accept_guest_deadline: bool = knob("no", a_flag, "allow hard budgets though only the instance itself ends its time")


@dataclass(frozen=True)
class BudgetSettings:
    name: str
    line: int
    amount_micro: int = knob("", a_money, "the cap", required=True)
    currency: str = knob("USD", a_currency, "the cap's currency")
    window: str = knob("month", one_of("hour", "day", "week", "month", "total"), "the time the cap is for")
    timezone: str = knob("UTC", a_text, "where the window's days begin")
    hard: bool = knob("yes", a_flag, "yes: nothing is started or extended beyond it; no: it only warns")
    applies_to: str = knob("farm", a_text, "farm, pool:NAME, user:NAME, group:TITLE or affinity:TAG")
    alert: tuple[float, ...] = knob("50%, 80%, 100%", a_share_list, "shares of the cap that are told")


@dataclass(frozen=True)
class PathRule:
    """One place under its name on each platform; a worker replaces the others' prefix by its own, and $(NAME) too."""

    name: str
    linux: str = ""
    macos: str = ""
    windows: str = ""


@dataclass(frozen=True)
class Settings:
    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    worker: WorkerSettings = WorkerSettings()
    autoscaler: AutoscalerSettings = AutoscalerSettings()
    paths: tuple[PathRule, ...] = ()
    pools: tuple[PoolSettings, ...] = ()
    budgets: tuple[BudgetSettings, ...] = ()

    @property
    def data_dir(self) -> Path:
        return Path(self.server.data_dir).expanduser()

    @property
    def database_url(self) -> str:
        return self.server.database or f"sqlite:///{self.data_dir / 'coalition.db'}"

    @property
    def host(self) -> str:
        return self.server.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.server.listen.rpartition(":")[2])

    @property
    def url(self) -> str:
        """The address that workers and people are told."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return self.server.url or f"http://{host}:{self.port}"


SINGLE: dict[str, type] = {
    "server": ServerSettings,
    "auth": AuthSettings,
    "worker": WorkerSettings,
    "autoscaler": AutoscalerSettings,
}
NAMED: dict[str, type] = {"pool": PoolSettings, "budget": BudgetSettings}
LOOPBACK = re.compile(r"^(127\.\d+\.\d+\.\d+|::1|localhost)$")


def knobs(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """The keys a section of this kind may hold: the fields' names without their units."""
    return {re.sub(r"_(s|bytes|micro)$", "", f.name): f for f in dataclasses.fields(kind) if "read" in f.metadata}


# ---------------------------------------------------------------- reading


def load(path: str | os.PathLike[str] | None) -> Settings:
    """Settings of a cloud.ini; the defaults if `path` is None. ConfigError says file, line and what is allowed."""
    if path is None:
        return Settings()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "cloud.ini") -> Settings:
    """Settings of the text of a cloud.ini; `name` is what messages call it."""
    reader = _Reader(name, text)
    parts: dict[str, Any] = {}
    pools: list[PoolSettings] = []
    budgets: list[BudgetSettings] = []
    for section in reader.sections():
        kind, _, label = section.partition(" ")
        label = label.strip()
        if section in SINGLE:
            parts[section] = reader.read(section, SINGLE[section], {})
        elif section == "paths":
            parts["paths"] = reader.read_paths(section)
        elif kind in NAMED and NAME_OF_SECTION.match(label):
            entry = reader.read(section, NAMED[kind], {"name": label, "line": reader.line_of(section)})
            (pools if kind == "pool" else budgets).append(entry)
        elif kind in NAMED:
            raise reader.error(section, None, f"[{kind} NAME] needs a name of letters, digits and _ . -")
        else:
            valid = [*SINGLE, "paths", *(f"{k} NAME" for k in NAMED)]
            raise reader.error(section, None, f"unknown section [{section}]; {nearest(section, valid)}")
    settings = Settings(**parts, pools=tuple(pools), budgets=tuple(budgets))
    _check_together(settings, reader)
    return settings


def _check_together(settings: Settings, reader: _Reader) -> None:
    if settings.auth.mode == "none" and not LOOPBACK.match(settings.host):
        line = "set `mode = token` in [auth], or `listen` to 127.0.0.1"
        raise reader.error("server", "listen", f"{settings.server.listen} is beyond loopback and [auth] mode is none; {line}")
    pools = {pool.name for pool in settings.pools}
    for budget in settings.budgets:
        kind, _, target = budget.applies_to.partition(":")
        section = f"budget {budget.name}"
        if kind not in ("farm", "pool", "user", "group", "affinity") or bool(target) == (kind == "farm"):
            raise reader.error(section, "applies_to", f'"{budget.applies_to}": farm, pool:NAME, user:NAME, group:TITLE or affinity:TAG')
        if kind == "pool" and target not in pools:
            raise reader.error(section, "applies_to", f'no [pool {target}]; {nearest(target, pools)}')
    if settings.worker.lease_s <= settings.worker.sync_s:
        raise reader.error("worker", "lease", "must be longer than `sync`")


class _Reader:
    """configparser, with the line of every section and key for the messages."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines: dict[tuple[str, str | None], int] = {}
        self.parser = configparser.ConfigParser(interpolation=None, default_section="\0", inline_comment_prefixes=("#", ";"))
        self._index(text)
        try:
            self.parser.read_string(text, name)
        except configparser.Error as error:
            number = getattr(error, "lineno", None) or (getattr(error, "errors", None) or [(0, "")])[0][0]
            reason = str(getattr(error, "message", error)).splitlines()[0]
            raise ConfigError(f"{name}:{number}: {reason}", file=name, line=number) from None

    def _index(self, text: str) -> None:
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            if match := re.match(r"\[([^\]]+)\]", line):
                section = match[1]
                self.lines.setdefault((section, None), number)
            elif match := re.match(r"([^\s#;=:][^=:]*?)\s*[=:]", line):
                self.lines.setdefault((section, match[1].lower()), number)

    def sections(self) -> list[str]:
        return self.parser.sections()

    def line_of(self, section: str, key: str | None = None) -> int:
        return self.lines.get((section, key)) or self.lines.get((section, None), 0)

    def error(self, section: str, key: str | None, message: str) -> ConfigError:
        line = self.line_of(section, key)
        where = f"[{section}] {key}: " if key else ""
        return ConfigError(f"{self.name}:{line}: {where}{message}", file=self.name, line=line)

    def read(self, section: str, kind: type[T], given: Mapping[str, Any]) -> T:
        valid = knobs(kind)
        values = dict(given)
        for key, text in self.parser.items(section):
            if key not in valid:
                raise self.error(section, key, f"unknown key; {nearest(key, valid)}")
            values[valid[key].name] = self._value(section, key, text.strip(), valid[key].metadata)
        for key, field in valid.items():
            if field.metadata["required"] and field.name not in values:
                raise self.error(section, None, f"[{section}] needs `{key}`: {field.metadata['help']}")
        return kind(**values)

    def _value(self, section: str, key: str, text: str, rules: Mapping[str, Any]) -> Any:
        try:
            value = rules["read"](text)
        except ValueError as error:
            raise self.error(section, key, f'"{text[:80]}" is not allowed: {error}') from None
        if rules["low"] is not None and value < rules["low"]:
            raise self.error(section, key, f'"{text[:80]}" is not allowed: {rules["low"]:g} or more')
        return value

    def read_paths(self, section: str) -> tuple[PathRule, ...]:
        rules = []
        for key, text in self.parser.items(section):
            places: dict[str, str] = {}
            for part in filter(None, (part.strip() for part in text.split("|"))):
                platform, _, place = part.partition(":")
                if platform.strip() not in PLATFORMS or not place.strip():
                    raise self.error(section, key, f'"{part}": write `linux:/mnt/show | macos:/Volumes/show | windows:X:\\show`')
                places[platform.strip()] = place.strip()
            if not NAME.match(key):
                raise self.error(section, key, "a rule's name has letters, digits and _ only")
            rules.append(PathRule(key.upper(), **places))
        return tuple(rules)
