"""Users of an LDAP directory, for `[auth] mode = ldap`: who proves a password, and what the directory says they may do.

A name is found by search, with the service's own bind or none, and then bound with the password; or it is bound by a template at
once. What comes from a caller is escaped, in filters as in names. Each question has a connection of its own, and a limit of time.
"""

from __future__ import annotations

import functools
import logging
import ssl
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coalition import rights
from coalition.config import LdapSettings
from coalition.errors import ConfigError, Unavailable
from coalition.values import filled

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # ldap3 asks pyasn1 by an old name
    import ldap3
    from ldap3.core.exceptions import LDAPException
    from ldap3.operation.search import parse_filter
    from ldap3.protocol.sasl.sasl import validate_simple_password
    from ldap3.utils.conv import escape_filter_chars
    from ldap3.utils.dn import escape_rdn

log = logging.getLogger("coalition.directory")

NOT_THERE = 32  # what a directory answers
WRONG = (49, NOT_THERE, 34, 48)  # a wrong name or password, also a name that is none, or has no password
WRONG_OF_USER = (*WRONG, 19, 53)  # also an account that is locked or not in use
MEMBER = "(|(member={dn})(uniqueMember={dn})(memberUid={user}))"
BEST_FIRST = ("admin", "wrangler", "budget", "user", "guest")
ASK_AGAIN_S = 10.0
LONGEST_NAME = 64
PORTS = {"ldap": 389, "ldaps": 636}


@dataclass(frozen=True)
class Person:
    """A user as the directory has them: `name` as it is written there, the best of their roles, all that they may."""

    name: str
    role: str
    may: frozenset[str]


class _Tls(ldap3.Tls):  # type: ignore[misc]
    """The standard library's own checks of certificate and name, within a limit of time."""

    def __init__(self, ca: str, timeout_s: float) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self.context, self.timeout_s = ssl.create_default_context(cafile=ca or None), timeout_s

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        connection.socket.settimeout(self.timeout_s)
        connection.socket = self.context.wrap_socket(connection.socket, server_hostname=connection.server.host)


class Directory:
    """Asks the directory. Thread-safe: it keeps no connection."""

    def __init__(self, settings: LdapSettings) -> None:
        """ConfigError for files that cannot be read and filters that are none."""
        self.settings = settings
        self.groups = {role: name for role in rights.ROLES if (name := getattr(settings, f"role_{role}"))}
        self.filters = {one: text for one in rights.NAMES if (text := getattr(settings, f"right_{one}"))}
        self._tls = self._read("ca", lambda: _Tls(str(_path(settings.ca)) if settings.ca else "", settings.timeout_s))
        secret = settings.bind_password_file
        self._password = self._read("bind_password_file", lambda: _path(secret).read_text().strip()) if secret else ""
        for key, text in {
            "user_filter": settings.user_filter,
            **{f"right_{one}": text for one, text in self.filters.items()},
        }.items():
            self._read(key, functools.partial(parse_filter, filled(text, "x", "cn=x"), None, False, None, None, False))

    @staticmethod
    def _read(key: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (OSError, ValueError, LDAPException) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"[ldap] {key}: cannot be used: {getattr(error, 'strerror', None) or error}") from None

    @property
    def can_look(self) -> bool:
        """Whether it can say what somebody may do without a password of theirs."""
        return not self.settings.bind_template

    def prove(self, user: str, password: str) -> Person | None:
        """Who this is; None if name or password is wrong. Unavailable when no server of the directory answers."""
        if not password or not user or not user.isprintable():  # a directory takes an empty password for nobody's, and says yes
            return None
        try:
            validate_simple_password(password)
        except LDAPException:  # no directory has such a password
            return None
        return self._asked(lambda address: self._prove(address, user, password))

    def look(self, user: str) -> Person | None:
        """What somebody may do now, whom a log-in named so; None if the directory does not have them. Unavailable as above."""
        named = f"({self.settings.name_attribute}={{user}})"

        def ask(address: str) -> Person | None:
            with self._service(address) as link:
                entry = self._find(link, user, named)
                return self._person(link, *entry) if entry else None

        return self._asked(ask)

    def _asked(self, ask: Callable[[str], Person | None]) -> Person | None:
        """What the first server says that answers."""
        for address in self.settings.servers:
            try:
                return ask(address)
            except (LDAPException, OSError, _Refused) as error:
                log.warning("the directory at %s does not answer: %s", address, error)
        raise Unavailable("the directory of users does not answer; log in again later", retry_after_s=ASK_AGAIN_S)

    # ------------------------------------------------------------ connections

    @contextmanager
    def _connected(self, address: str, user: str, password: str) -> Iterator[Any]:
        """A connection that is encrypted, and not bound yet."""
        parts, limit_s = urlsplit(address), self.settings.timeout_s
        port, host = parts.port or PORTS[parts.scheme], parts.hostname
        over_tls = parts.scheme == "ldaps"
        server = ldap3.Server(host, port, use_ssl=over_tls, tls=self._tls, get_info=ldap3.NONE, connect_timeout=limit_s)
        credentials = (user, password) if user else (None, None)
        kind = ldap3.SIMPLE if user else ldap3.ANONYMOUS
        link = ldap3.Connection(server, *credentials, authentication=kind, auto_referrals=False)
        try:
            link.open(read_server_info=False)
            link.socket.settimeout(limit_s)
            if self.settings.start_tls and not over_tls and not link.start_tls(read_server_info=False):
                raise _Refused("no encryption: StartTLS was refused")
            yield link
        finally:
            if link.socket is not None:
                link.socket.close()

    @contextmanager
    def _service(self, address: str) -> Iterator[Any]:
        with self._connected(address, self.settings.bind_dn, self._password) as link:
            if not _bind(link):
                raise _Refused("it refuses [ldap] bind_dn with its password")
            yield link

    def _prove(self, address: str, user: str, password: str) -> Person | None:
        if self.settings.bind_template:
            return self._prove_by_template(address, user, password)
        with self._service(address) as link:
            entry = self._find(link, user)
            if entry is None:
                return None
            with self._connected(address, entry[0], password) as own:
                return self._person(link, *entry) if _bind(own, WRONG_OF_USER) else None

    def _prove_by_template(self, address: str, user: str, password: str) -> Person | None:
        name = self.settings.bind_template.replace("{user}", escape_rdn(user)).replace("__login__", escape_rdn(user))
        with self._connected(address, name, password) as link:
            entry = self._find(link, user) if _bind(link, WRONG_OF_USER) else None
            if entry is None:
                return None
            with self._connected(address, entry[0], password) as own:  # that entry is who was bound, and nobody of a like name
                return self._person(link, *entry) if _bind(own, WRONG_OF_USER) else None

    # ------------------------------------------------------------ questions

    def _find(self, link: Any, user: str, by: str = "") -> tuple[str, str] | None:
        """(DN, name as it is written there) of the one entry with this name; None if there is none, or more."""
        wanted, attribute = self._filled(by or self.settings.user_filter, user), self.settings.name_attribute
        found = _search(link, self.settings.base, wanted, ldap3.SUBTREE, [attribute])
        if len(found) != 1:
            if found:
                log.warning("the directory has %d entries for one name; nobody is logged in by it", len(found))
            return None
        values = found[0]["attributes"].get(attribute) or []
        names = [values] if isinstance(values, str) else [str(one) for one in values]
        name = next((one for one in names if one.casefold() == user.casefold()), names[0] if names else "")
        return (found[0]["dn"], name) if name and name.isprintable() and len(name) <= LONGEST_NAME else None

    def _person(self, link: Any, dn: str, name: str) -> Person:
        roles = [role for role, group in self.groups.items() if self._finds(link, group, MEMBER, name, dn, ldap3.BASE)]
        if not roles and self.settings.default_role != "none":
            roles = [self.settings.default_role]
        may = {right for role in roles for right in rights.ROLES[role]}
        may |= {one for one, text in self.filters.items() if self._has_right(link, text, name, dn)}
        may |= {one.removesuffix("_all") for one in may}  # everybody's jobs are also one's own
        return Person(name, next((role for role in BEST_FIRST if role in roles), "custom"), frozenset(may))

    def _has_right(self, link: Any, text: str, name: str, dn: str) -> bool:
        """A filter that names the user may find anything, such as a group; any other must find the user's own entry."""
        of_user = filled(text, "", "") != text
        return self._finds(link, self.settings.base if of_user else dn, text, name, dn, ldap3.SUBTREE if of_user else ldap3.BASE)

    def _finds(self, link: Any, base: str, text: str, name: str, dn: str, scope: str) -> bool:
        return bool(_search(link, base, self._filled(text, name, dn), scope, ["1.1"], 1))

    def _filled(self, text: str, user: str, dn: str = "") -> str:
        return filled(text, escape_filter_chars(user), escape_filter_chars(dn))


class _Refused(Exception):
    """The directory answers, and does not do what is asked of it."""


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _bind(link: Any, wrong: Sequence[int] = WRONG) -> bool:
    """Whether the name and password are right."""
    if link.bind(read_server_info=False):
        return True
    if link.result["result"] in wrong:
        return False
    raise _Refused(f"a bind was answered {link.result['description']}")


def _search(link: Any, base: str, wanted: str, scope: str, attributes: Sequence[str], limit: int = 2) -> list[Any]:
    """The entries that a filter finds, `limit` of them at most."""
    link.search(
        base, wanted, scope, attributes=list(attributes), size_limit=limit, time_limit=max(1, int(link.server.connect_timeout))
    )
    if link.result["result"] not in (0, 4, NOT_THERE):  # 4: there are more
        raise _Refused(f"a search was answered {link.result['description']}")
    return [one for one in link.response or () if one.get("type") == "searchResEntry"]
