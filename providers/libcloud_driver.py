"""One of libcloud's drivers, asked in the same way as any other: what its create_node takes is read from its signature.

Drivers raise what they like. What is known to be a refusal becomes one (base.py); of anything else the outcome is not known.
"""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import requests
from libcloud.common.exceptions import BaseHTTPError, RateLimitReachedError
from libcloud.common.types import InvalidCredsError
from libcloud.compute.base import Node, NodeAuthSSHKey, NodeImage, NodeLocation, NodeSize
from libcloud.compute.providers import DRIVERS, get_driver

from coalition.errors import ConfigError, nearest
from providers.base import ProviderError, Reason, Rejected, Scope, Unknown

USER_DATA = ("ex_userdata", "ex_user_data", "ex_customdata", "cloud_init")
ZONES = ("location", "ex_availability_zone", "region")
TAGS = ("ex_metadata", "ex_labels", "ex_tags", "ex_tag")
DICTS = ("ex_metadata", "ex_labels")
DICT_TAGS = ("azure_arm",)  # the drivers whose ex_tags is a dictionary
KEYS = ("ex_keyname", "ex_keypair_name", "ex_ssh_key_ids", "ex_authorized_keys", "auth")
NETWORKS = ("networks", "ex_networks", "ex_private_network_ids", "ex_network")
GROUPS = ("ex_security_groups", "ex_security_group_ids", "ex_firewall_group_id")
DEFAULTS: Mapping[str, Mapping[str, str]] = {  # of arguments: libcloud's own are for what these clouds no longer have
    "openstack": {"api_version": "2.2", "ex_force_auth_version": "3.x_password"},
    "vultr": {"api_version": "2"},
}
SCOPES = {Reason.QUOTA: Scope.REGION, Reason.THROTTLE: Scope.REGION, Reason.AUTH: Scope.PROVIDER}
FULL = re.compile(r"quota|limit (?:reached|exceeded)|exceeds? .*limit|maximum number", re.IGNORECASE)
NONE_LEFT = re.compile(r"no valid host|out of stock|sold out|insufficient|not enough|capacity|unavailable in", re.IGNORECASE)


def known_drivers() -> Sequence[str]:
    return sorted({str(name) for name in DRIVERS})


def driver_class(name: str) -> Callable[..., Any]:
    """ConfigError, with the nearest name, for a driver that libcloud does not have."""
    known = known_drivers()
    if name not in known:
        raise ConfigError(f'driver "{name}" is not one of libcloud: {nearest(name, known)}')
    return get_driver(name)  # type: ignore[no-any-return]


class Driver:
    """`arguments` make the driver, one for each thread: they are not made to be shared."""

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name, self.arguments = name, {**DEFAULTS.get(name, {}), **arguments}
        self._local = threading.local()

    @property
    def own(self) -> Any:
        """libcloud's driver of this thread."""
        if not hasattr(self._local, "driver"):
            with translated(self.name, "driver"):
                arguments = dict(self.arguments)
                key = [arguments.pop("key")] if "key" in arguments else []
                self._local.driver = driver_class(self.name)(*key, **arguments)
        return self._local.driver

    def call(self, verb: str, **arguments: Any) -> Any:
        with translated(self.name, verb):
            return getattr(self.own, verb)(**arguments)

    @functools.cached_property
    def takes(self) -> Mapping[str, inspect.Parameter]:
        """What create_node takes."""
        return inspect.signature(self.own.create_node).parameters

    def first_of(self, names: Sequence[str]) -> str:
        """The first of these that create_node takes; empty if none."""
        return next((name for name in names if name in self.takes), "")

    def needs(self, name: str) -> bool:
        return name in self.takes and self.takes[name].default is inspect.Parameter.empty

    # ------------------------------------------------------------ what create_node is given

    def order(
        self,
        name: str,
        size: NodeSize,
        image: NodeImage,
        zone: NodeLocation | str,
        user_data: str,
        tags: Mapping[str, str],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The arguments of create_node, as far as this driver takes them; `options` are the pool's own knobs."""
        given: dict[str, Any] = {"name": name, "size": size, "image": image}
        if place := self.first_of(ZONES) if zone else "":
            given[place] = str(getattr(zone, "name", zone)) if place == "ex_availability_zone" else zone
        if data := self.first_of(USER_DATA):
            given[data] = user_data
        if labels := self.first_of(TAGS):
            given[labels] = self._tags(labels, tags)
        if options.get("key") and (keys := self.first_of(KEYS)):
            given[keys] = self._key(keys, options["key"])
        if options.get("networks") and (networks := self.first_of(NETWORKS)):
            given[networks] = self._networks(networks, options["networks"])
        if options.get("groups") and (groups := self.first_of(GROUPS)):
            given[groups] = self._groups(groups, options["groups"])
        return {**given, **pairs(options.get("extra", ()))}

    def _tags(self, place: str, tags: Mapping[str, str]) -> Any:
        if place in DICTS or self.name in DICT_TAGS:
            return dict(tags)
        words = [f"{key}={value}" for key, value in tags.items()]
        return words if place == "ex_tags" else words[0]

    def _key(self, place: str, key: str) -> Any:
        """A key by its name, or the text of one."""
        if place == "auth":
            return NodeAuthSSHKey(key)
        if place in ("ex_keyname", "ex_keypair_name"):
            return key
        if key.startswith("ssh-"):
            return [key]
        found = find(self.call("list_key_pairs"), key, "key")
        return [found.public_key if place == "ex_authorized_keys" else found.extra.get("id", found.fingerprint)]

    def _networks(self, place: str, names: Sequence[str]) -> Any:
        if place == "ex_network":
            return names[0]
        if place == "ex_private_network_ids" or not hasattr(self.own, "ex_list_networks"):
            return list(names)
        known = self.call("ex_list_networks")
        return [find(known, name, "network") for name in names]

    def _groups(self, place: str, names: Sequence[str]) -> Any:
        if place == "ex_firewall_group_id":
            return names[0]
        if self.name != "openstack":
            return list(names)
        known = self.call("ex_list_security_groups")
        return [find(known, name, "security group") for name in names]

    # ------------------------------------------------------------ what is read

    def console(self, node: Node) -> str:
        if not hasattr(self.own, "ex_get_console_output"):
            return ""
        answer = self.call("ex_get_console_output", node=node)
        return str(answer.get("output") or "") if isinstance(answer, Mapping) else str(answer or "")

    def tags_of(self, node: Node) -> Mapping[str, str]:
        """What `order` gave it, as far as the driver tells it again."""
        for key in ("metadata", "tags", "labels"):
            said = node.extra.get(key)
            if isinstance(said, Mapping):
                return {str(name): str(value) for name, value in said.items()}
            if isinstance(said, (list, tuple)):
                return dict(str(one).split("=", 1) for one in said if "=" in str(one))
        return {}


def find(some: Sequence[Any], name: str, what: str) -> Any:
    """The one of that id or name; Rejected says what there is."""
    for one in some:
        if name in (str(getattr(one, "id", "")), one.name):
            return one
    known = ", ".join(sorted(str(one.name) for one in some)[:20]) or "none"
    raise Rejected(Reason.INVALID, f'there is no {what} "{name}"; there are: {known}')


def pairs(texts: Sequence[str]) -> dict[str, Any]:
    """NAME=value texts as arguments: yes and no, and whole numbers, are what they look like."""
    return {name: text if name == "api_version" else _value(text) for name, _, text in (pair.partition("=") for pair in texts)}


def _value(text: str) -> Any:
    if text.lower() in ("yes", "true", "no", "false"):
        return text.lower() in ("yes", "true")
    return int(text) if re.fullmatch(r"\d{1,9}", text) else text


# ---------------------------------------------------------------- errors


@contextmanager
def translated(driver: str, verb: str) -> Iterator[None]:
    """Nothing of libcloud gets out of here."""
    try:
        yield
    except (ProviderError, ConfigError):
        raise
    except InvalidCredsError as error:
        raise rejected(Reason.AUTH, f"{driver} {verb}: {error.value}") from error
    except RateLimitReachedError as error:
        refused = rejected(Reason.THROTTLE, f"{driver} {verb}: {error}")
        refused.retry_after_s = error.retry_after or None
        raise refused from error
    except BaseHTTPError as error:
        raise answered(driver, verb, error) from error
    except (requests.ConnectTimeout, TypeError) as error:  # TypeError: of an argument that it does not take
        raise rejected(Reason.INVALID, f"{driver} {verb}: nothing was sent: {_without_query(str(error))}") from error
    except Exception as error:  # drivers raise anything, plain Exceptions too; what came of the call is not known
        raise Unknown(f"{driver} {verb}: {type(error).__name__}: {_without_query(str(error))}") from error


def answered(driver: str, verb: str, error: BaseHTTPError) -> ProviderError:
    """The error for a refusal that came as an answer. A fault on their side says nothing about what was done."""
    words, status = f"{driver} {verb}: {_without_query(str(error.message))}", int(error.code or 500)
    kinds = {401: Reason.AUTH, 403: Reason.AUTH, 413: Reason.THROTTLE, 429: Reason.THROTTLE}
    if NONE_LEFT.search(words):
        return rejected(Reason.CAPACITY, words)
    if status >= 500 or (status == 404 and verb == "create_node"):  # a driver looks at what it has made: it may not be there yet
        return Unknown(words)
    if FULL.search(words) and status not in (401, 429):
        return rejected(Reason.QUOTA, words)
    return rejected(kinds.get(status, Reason.INVALID), words)


def _without_query(words: str) -> str:
    """Some drivers put keys and user data into addresses."""
    return re.sub(r"\?\S+", "?...", words)


def rejected(kind: Reason, words: str) -> Rejected:
    return Rejected(kind, words, SCOPES.get(kind, Scope.OFFERING))
