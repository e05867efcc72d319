"""Providers of instances. `make` is the only way to one; each SDK is loaded when its provider is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coalition.config import Settings
from coalition.errors import ConfigError

if TYPE_CHECKING:
    from providers.base import Provider

LATER = {"aws": "aws", "gce": "gcp", "libcloud": "libcloud"}  # the pip extra of each


def check_pools(settings: Settings) -> None:
    """ConfigError, with its line, for a pool whose provider this version does not have."""
    for pool in settings.pools:
        try:
            make(pool.provider, pool.region, settings)
        except ConfigError as error:
            raise ConfigError(f"line {pool.line}: [pool {pool.name}] {error}", line=pool.line) from None


def make(name: str, region: str, settings: Settings) -> Provider:
    """The provider of that name; ConfigError if this version does not have it."""
    if name == "local":
        from providers.local import LocalProvider

        return LocalProvider(settings.data_dir / "local")
    if name == "fake":
        from providers.fake import FakeProvider

        return FakeProvider(settings.server.farm)
    extra = LATER.get(name, name)
    raise ConfigError(
        f"provider {name}: this version does not have it; "
        f"one that does comes with pip install 'coalition[{extra}]'. Use `provider = local` until then"
    )
