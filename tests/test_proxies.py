"""The address of who calls through a proxy is believed from the named proxies only."""

from __future__ import annotations

from typing import Any

import pytest

from coalition.server.proxies import Forwarded

PROXIES = ("10.0.0.0/24", "127.0.0.1/32")


def seen(peer: str, told: str | None) -> str:
    """Whom the application takes the caller for."""
    environ: dict[str, Any] = {"REMOTE_ADDR": peer, **({} if told is None else {"HTTP_X_FORWARDED_FOR": told})}
    return str(Forwarded(lambda given, _: given["REMOTE_ADDR"], PROXIES)(environ, None))


@pytest.mark.parametrize(
    ("peer", "told", "who"),
    [
        ("10.0.0.7", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.7", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.7", "203.0.113.9, 10.0.0.8", "203.0.113.9"),
        ("10.0.0.7", "2001:db8::9", "2001:db8::9"),
        ("10.0.0.7", None, "10.0.0.7"),
        ("10.0.0.7", "nonsense", "10.0.0.7"),
        ("10.0.0.7", "203.0.113.9, nonsense", "10.0.0.7"),
        ("203.0.113.50", "127.0.0.1", "203.0.113.50"),
    ],
)
def test_the_last_address_that_is_no_proxys_counts(peer: str, told: str | None, who: str) -> None:
    assert seen(peer, told) == who
