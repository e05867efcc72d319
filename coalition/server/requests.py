"""HTTP as far as the loop of door.py speaks it: one whole POST with a body, in the form that workers send."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import NamedTuple

from gunicorn.util import http_date

FIRST_LINE = re.compile(r"POST (/[!-~]*) HTTP/1\.1\Z")
FIELD = re.compile(r"([A-Za-z-]+):[ \t]*([ -~]*)\Z")
UNUSUAL = {"connection", "transfer-encoding", "expect", "upgrade", "trailer", "te", "content-encoding"}


class Request(NamedTuple):
    """A POST."""

    path: str  # with the query, if there is one
    fields: dict[str, str]  # by name in small letters
    body: bytes


def request(data: bytes) -> Request | None:
    """One whole POST; None for anything else, half a one, and whatever is unusual in it, which gunicorn is to judge."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end or not head.startswith(b"POST ") or not head.isascii():
        return None
    first, *lines = head.decode("ascii").split("\r\n")
    match = FIRST_LINE.match(first)
    fields: dict[str, str] = {}
    for line in lines:
        parts = FIELD.match(line)
        name = parts[1].lower() if parts else ""
        if parts is None or name in fields or name in UNUSUAL:
            return None
        fields[name] = parts[2].rstrip()
    if match is None or "host" not in fields or fields.get("content-length") != str(len(body)):
        return None
    return Request(match[1], fields, body)


def answer(body: bytes, kind: bytes) -> bytes:
    """200 with this body."""
    head = b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (_date(int(time.time())), kind, len(body)) + body


def with_id(data: bytes, id: str) -> bytes:
    """An answer, with the id of its request in front of its other fields."""
    first, _, rest = data.partition(b"\r\n")
    return b"%b\r\nX-Request-Id: %b\r\n%b" % (first, id.encode("ascii"), rest)


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return str(http_date(second)).encode()
