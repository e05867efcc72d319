"""What is used of a list of instances, read without the SDK's parser.

EC2 tells a hundred things of each instance, and the SDK makes objects of Python of them all: a second's work for a thousand
instances. Eight are used. They are read here, in the SDK's own form, through the event that it has for this.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

EVENT = "before-parse.ec2.DescribeInstances"
Element = ElementTree.Element


def read(response_dict: MutableMapping[str, Any], customized_response_dict: MutableMapping[str, Any], **_: object) -> None:
    """For `EVENT`. What is no list, or cannot be read, is left to the SDK, which says what is wrong with it."""
    if response_dict["status_code"] != 200:
        return
    try:
        root = ElementTree.fromstring(response_dict["body"])  # noqa: S314 - the SDK would give it to the same parser
        groups = root.find("{*}reservationSet")
        if groups is None:
            return
        found = [_instance(one) for instances in groups.iterfind("{*}item/{*}instancesSet") for one in instances]
    except (ElementTree.ParseError, ValueError):
        return
    customized_response_dict["Reservations"] = [{"Instances": found}]
    groups.clear()
    response_dict["body"] = ElementTree.tostring(root)


def _instance(item: Element) -> dict[str, Any]:
    found = {}
    for part in item:
        if (use := USED.get(_name(part))) is not None:
            name, value_of = use
            found[name] = value_of(part)
    return found


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: Element) -> str:
    return element.text or ""


def _number(element: Element) -> int:
    return int(element.text or "")


def _time(element: Element) -> datetime:
    return datetime.fromisoformat(_text(element).replace("Z", "+00:00"))


def _state(element: Element) -> dict[str, str]:
    return {"Name": element.findtext("{*}name", "")}


def _texts(element: Element) -> dict[str, str]:
    """Such as {"Key": "Name", "Value": "farm-1"}."""
    return {_name(part).capitalize(): _text(part) for part in element}


def _list(element: Element) -> list[dict[str, str]]:
    return [_texts(item) for item in element]


USED: dict[str, tuple[str, Callable[[Element], Any]]] = {
    "instanceId": ("InstanceId", _text),
    "clientToken": ("ClientToken", _text),
    "amiLaunchIndex": ("AmiLaunchIndex", _number),
    "launchTime": ("LaunchTime", _time),
    "instanceState": ("State", _state),
    "stateReason": ("StateReason", _texts),
    "reason": ("StateTransitionReason", _text),
    "tagSet": ("Tags", _list),
}
