"""Values of cloud.ini: a function reads a text, its ValueError says what is allowed. `knob` makes a field of settings of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, ip_network
from typing import Any, TypeVar
from urllib.parse import urlsplit

from coalition import wishes
from coalition.errors import nearest
from coalition.model import NAME, TAG
from coalition.run_as import words_of

MICRO = 1_000_000
SWEPT_SLACK_S = 120.0  # a minute between two looks of the sweeper, and as long for its own delays
CLOUDS = ("aws", "gce", "libcloud")  # providers whose machines start from an image
PROVIDERS = ("local", "fake", *CLOUDS)
OWN = "module:Class"  # how cloud.ini names a provider that is not ours
BOOTED = (*CLOUDS, OWN)
PACKAGE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}"  # of a file that the server itself gives out
PACKAGE_ENDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
PLATFORMS = ("linux", "macos", "windows")
LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
ORIGIN = re.compile(rf"(https?)://({LABEL}(?:\.{LABEL})*)(?::([1-9][0-9]{{0,4}}))?", re.ASCII)
DEFAULT_PORTS = (("http", "80"), ("https", "443"))
SCRIPTING = ("javascript", "vbscript", "data", "blob")  # addresses that a browser runs, or draws as a page of ours
NAME_OF_SECTION = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}\Z")
T = TypeVar("T")


def a_text(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise ValueError("one line of text; an indented line goes on with the key above it")
    return text


def a_word(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_\-]*", text):
        raise ValueError("a word of small letters, digits and _ -")
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
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


def a_money(text: str) -> int:
    try:
        amount = Decimal(text) * MICRO
    except InvalidOperation:
        raise ValueError("an amount of money such as 200 or 0.25") from None
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value() or amount >= 2**62:
        raise ValueError("an amount of money, 0 or more, with at most six decimals")
    return int(amount)


def a_list(text: str) -> tuple[str, ...]:
    return tuple(a_text(part.strip()) for part in text.split(",") if part.strip())


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
    match = re.fullmatch(r"(?:[\w.\-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", text)
    if not match or int(match[1]) > 65_535:
        raise ValueError("host:port, for example 127.0.0.1:19211 or [::]:19211")
    return text


def a_url(text: str) -> str:
    parts = urlsplit(a_text(text))
    if text and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("an http:// or https:// address, or nothing")
    return text.rstrip("/")


def a_scheme_list(text: str) -> tuple[str, ...]:
    schemes = tuple(scheme.lower() for scheme in a_list(text))
    if any(not re.fullmatch(r"[a-z][a-z0-9+.\-]*", scheme) or scheme in SCRIPTING for scheme in schemes):
        raise ValueError(f"schemes such as https, rvlink, with commas between them, and none of {', '.join(SCRIPTING)}")
    return schemes


def an_origin_list(text: str) -> tuple[str, ...]:
    """Origins, written as browsers write them: what is read here stands in a header, so nothing but names and numbers is."""
    return tuple(dict.fromkeys(_origin(part) for part in a_list(text)))


def _origin(text: str) -> str:
    match = ORIGIN.fullmatch(text)
    if not match or not _is_host(match[2]) or int(match[3] or 1) > 65_535:
        allowed = "http:// or https:// with a host's name or IPv4 address, and :PORT if need be, and nothing after it"
        raise ValueError(f'"{text[:80]}": {allowed}; with commas between them')
    scheme, host, port = match.groups()
    return f"{scheme}://{host.lower()}" + (f":{port}" if port and (scheme, port) not in DEFAULT_PORTS else "")


def _is_host(name: str) -> bool:
    """Whether a browser leaves a name as it is: what ends in a number is an address to it, and written in one way."""
    if not re.fullmatch(r"[0-9]+|0[xX][0-9A-Fa-f]*", name.rpartition(".")[2]):
        return len(name) <= 253
    try:
        return bool(IPv4Address(name))
    except ValueError:
        return False


def a_directory_list(text: str) -> tuple[str, ...]:
    for address in a_list(text):
        parts = urlsplit(address)
        if parts.scheme not in ("ldap", "ldaps") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("ldaps://host, ldap://host or ldaps://host:port, with commas between them")
        parts.port  # noqa: B018 - ValueError for what is none
    return a_list(text)


def a_filter(text: str) -> str:
    """An LDAP filter; whether its parts are known is for the directory to say."""
    if text and not (a_text(text).startswith("(") and text.endswith(")") and text.count("(") == text.count(")")):
        raise ValueError("a filter in parentheses such as (uid={user}), or nothing")
    return text


def filled(text: str, user: str, dn: str) -> str:
    """A filter with the places of its user, whose names are escaped already, filled in."""
    return re.sub(r"\{user\}|__login__|\{dn\}", lambda match: dn if match[0] == "{dn}" else user, text)


def a_command_list(text: str) -> tuple[str, ...]:
    """One regular expression a line."""
    patterns = tuple(line.strip() for line in text.split("\n") if line.strip())
    for pattern in patterns:
        try:
            re.compile(a_text(pattern))
        except re.error as error:
            raise ValueError(f"{pattern[:80]!r} is no regular expression: {error}") from None
    return patterns


def a_name_list(text: str) -> tuple[str, ...]:
    for name in a_list(text):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", name):
            raise ValueError(f"{name!r}: names of variables, or what they begin with and a *, with commas between them")
    return a_list(text)


def a_run_as(text: str) -> str:
    """A template of words; ValueError says what it lacks."""
    words_of(a_text(text))
    return text


def an_attribute(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", text):
        raise ValueError("the name of an attribute, such as uid or sAMAccountName")
    return text


def an_id_list(*kinds: str) -> Callable[[str], tuple[str, ...]]:
    """Names that a provider gave, such as subnet-0a1b2c3d."""

    def read(text: str) -> tuple[str, ...]:
        for part in a_list(text):
            if not re.fullmatch(rf"({'|'.join(kinds)})-[0-9a-f]{{8,17}}", part):
                raise ValueError(f'"{part}": ids such as {kinds[0]}-0a1b2c3d4e5f67890, with commas between them')
        return a_list(text)

    return read


def a_path_of(pattern: str, allowed: str) -> Callable[[str], str]:
    """A name or path as a provider writes them; nothing is allowed, too."""

    def read(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            raise ValueError(allowed)
        return text

    return read


def a_list_of(pattern: str, allowed: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        for part in a_list(text):
            if not re.fullmatch(pattern, part):
                raise ValueError(f'"{part}": {allowed}')
        return a_list(text)

    return read


def a_share(text: str) -> float:
    if not re.fullmatch(r"\d{1,4}%", text):
        raise ValueError("a share such as 20%")
    return int(text[:-1]) / 100


def an_octal(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError("three octal digits, for example 002")
    return int(text, 8)


def a_currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise ValueError("a currency's three capital letters, for example USD")
    return text


def a_timezone(text: str) -> str:
    if text == "UTC":  # known also where the machine has no table of time zones
        return text
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(text).key
    except (KeyError, ValueError, OSError):  # not there, not a name, a folder of zones
        hint = nearest(text, zoneinfo.available_timezones())
        raise ValueError(f"a time zone such as UTC or Europe/Paris; {hint[:200]}") from None


def a_pair_list(text: str) -> tuple[str, ...]:
    for pair in a_list(text):
        name, equals, _ = pair.partition("=")
        if not equals or not NAME.match(name):
            raise ValueError(f'"{pair}": NAME=value pairs, with commas between them')
    return a_list(text)


def a_package_list(text: str) -> tuple[str, ...]:
    for url in a_list(text):
        if not re.fullmatch(rf"(s3|gs|https?)://[^\s/]+/\S+|{PACKAGE_NAME}", url) or not url.endswith(PACKAGE_ENDS):
            ends = ", ".join(PACKAGE_ENDS)
            raise ValueError(f'"{url}": s3://, gs:// or https:// addresses, or names in data_dir/packages, of {ends} files')
    return a_list(text)


def a_mount_list(text: str) -> tuple[str, ...]:
    for mount in a_list(text):
        if not re.fullmatch(r"(s3|gs)://[a-z0-9][a-z0-9._-]+(/[^\s=]*)?=/\S+", mount):
            raise ValueError(f'"{mount}": write s3://bucket=/folder or gs://bucket/prefix=/folder')
    return a_list(text)


def a_target(text: str) -> str:
    pattern = rf"farm|pool:{NAME_OF_SECTION.pattern[1:-2]}|affinity:{TAG.pattern[1:-2]}|(offering|user|group):\S.*"
    if not re.fullmatch(pattern, text):
        raise ValueError("farm, pool:NAME, offering:TYPE, user:NAME, group:TITLE or affinity:TAG")
    return text


def an_address_list(text: str) -> tuple[str, ...]:
    for address in a_list(text):
        if not wishes.ADDRESS.match(address):
            raise ValueError(f'"{address}": addresses such as ann@studio.example, with commas between them')
    return a_list(text)


def a_domain_list(text: str) -> tuple[str, ...]:
    for domain in a_list(text):
        if not wishes.ADDRESS.match(f"a@{domain}"):
            raise ValueError(f'"{domain}": domains such as studio.example, with commas between them')
    return a_list(text)


def one_of(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError(nearest(text, names))
        return text

    return read


def a_provider(text: str) -> str:
    """One of ours, or a class of the studio's own."""
    if text in PROVIDERS or (re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) and len(text) <= 32):
        return text
    raise ValueError(f"{nearest(text, PROVIDERS)}; or a class of your own as {OWN}, of 32 characters at most")


def kind_of(provider: str) -> str:
    """The name by which knobs say whose they are."""
    return OWN if ":" in provider else provider


def some_of(*names: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        if not a_list(text):
            raise ValueError(f"at least one of {', '.join(names)}")
        for part in a_list(text):
            if part not in names:
                raise ValueError(f'"{part}": {nearest(part, names)}')
        return a_list(text)

    return read


def any_of(*names: str) -> Callable[[str], tuple[str, ...]]:
    """Some of the names, or none."""

    def read(text: str) -> tuple[str, ...]:
        return some_of(*names)(text) if a_list(text) else ()

    return read


def knob(
    default: str,
    read: Callable[[str], Any],
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    required: bool = False,
    hide: Callable[[str], str] | None = None,
    only: tuple[str, ...] = (),
) -> Any:
    """A key of cloud.ini: its default as it would be written there (an example, if required), how it is read, what it is for.

    What may hold a secret is shown as `hide` leaves it, and is not part of the settings' repr. `only` names the
    providers whose pools may have it; what it says is frozen into their requests.
    """
    rules = {"default": default, "read": read, "help": help, "low": low, "high": high, "required": required, "hide": hide}
    rules["only"] = only
    value = read(default) if not required else dataclasses.MISSING
    return dataclasses.field(default=value, metadata=rules, repr=hide is None)


def without_path(address: str) -> str:
    """An address whose path or query may be what proves a caller: only where it leads to."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/***" if parts.netloc else "***"


def without_password(address: str) -> str:
    """A database's address as it may be shown: `***` for its passwords, those among its options too."""
    shown = re.sub(r"(?s)^(\w[\w+.\-]*://[^:/@]*):.*@", r"\1:***@", address)
    return re.sub(r"(?i)([?&][^=&]*(?:passw|pwd|secret)[^=&]*=)[^&]*", r"\1***", shown)
