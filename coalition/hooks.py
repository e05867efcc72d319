"""Webhooks: a POST of JSON, signed with a key that both sides know, so that nobody else can send it, nor send it again later.

    Coalition-Signature: t=SECONDS,v1=HEX      HEX is HMAC-SHA256 over "SECONDS." and the body, with the hook's key

Whoever receives it computes the same, compares, and refuses what is older than some minutes (`verify`).
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import coalition
from coalition.config import WebhookSettings
from coalition.secret import secret

PATIENCE_S = 15.0
HEADER = "Coalition-Signature"
TOLERANCE_S = 300.0
SIGNATURE = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})\Z")


class Failed(Exception):
    """It was not taken; whether it was understood is not known."""


def signature(key: str, body: bytes, at: float) -> str:
    """What stands in the header."""
    return f"t={int(at)},v1={_mac(key, body, int(at))}"


def _mac(key: str, body: bytes, at: int) -> str:
    return hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def verify(key: str, body: bytes, header: str, now: float, tolerance_s: float = TOLERANCE_S) -> bool:
    """Whether this body was signed with the key, lately: for whoever receives it."""
    match = SIGNATURE.match(header)
    if not match or abs(now - int(match[1])) > tolerance_s:
        return False
    return hmac.compare_digest(match[2], _mac(key, body, int(match[1])))


def key_of(hook: WebhookSettings) -> str:
    """The key that signs; ConfigError if its file cannot be used. Empty: nothing is signed."""
    return secret(f"[webhook {hook.name}] secret_file", hook.secret_file, "COALITION_WEBHOOK_SECRET")


def call(hook: WebhookSettings, told: Mapping[str, Any], id: str, at: float) -> None:
    """Tells the hook's address; Failed unless it answers 2xx. An answer that leads elsewhere is not followed."""
    body, parts = json.dumps(told).encode(), urlsplit(hook.url)
    headers = {"Content-Type": "application/json", "User-Agent": f"coalition/{coalition.__version__}", "Idempotency-Key": id}
    if key := key_of(hook):
        headers[HEADER] = signature(key, body, at)
    try:
        line = _connection(hook)
    except (http.client.InvalidURL, ValueError):  # whose words repeat the address, which may be a secret
        raise Failed(f"{hook.name}: its url is none that can be called") from None
    try:
        line.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers)
        answer = line.getresponse()
        answer.read(1)
    except (http.client.InvalidURL, ValueError):  # as above
        raise Failed(f"{hook.name}: its url is none that can be called") from None
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{parts.hostname}: {error or type(error).__name__}") from error
    finally:
        line.close()
    if not 200 <= answer.status < 300:
        raise Failed(f"{parts.hostname} answered {answer.status}")


def _connection(hook: WebhookSettings) -> http.client.HTTPConnection:
    parts = urlsplit(hook.url)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=PATIENCE_S)
    try:
        context = ssl.create_default_context(cafile=hook.ca or None)
    except OSError as error:
        raise Failed(f"{hook.ca}: {error}") from error
    return http.client.HTTPSConnection(host, parts.port, timeout=PATIENCE_S, context=context)
