"""Who calls through a proxy: the address that it tells, believed from the proxies that cloud.ini names only."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from coalition.store.workers import in_networks


class Forwarded:
    """WSGI middleware: REMOTE_ADDR becomes the last address of X-Forwarded-For that is none of the proxies' own."""

    def __init__(self, app: Any, proxies: Iterable[str]) -> None:
        self.app, self.proxies = app, tuple(proxies)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        told = [word.strip() for word in environ.get("HTTP_X_FORWARDED_FOR", "").split(",")]
        while told and in_networks(environ.get("REMOTE_ADDR"), self.proxies) and _is_address(told[-1]):
            environ["REMOTE_ADDR"] = told.pop()
        return self.app(environ, start_response)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
