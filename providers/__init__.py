"""Providers of instances. `make` is the only way to one; each SDK is loaded when its provider is asked for.

A studio's own provider is a class that keeps the promises of base.py. A pool's `provider = module:Class` names it; it is called
with the pool's region and the settings, once for all pools of a region.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from coalition.errors import ConfigError, nearest

if TYPE_CHECKING:
    from coalition.config import Settings
    from providers.base import Provider

EXTRAS = {"aws": "aws", "gce": "gcp", "libcloud": "libcloud"}  # the pip extra of each
SDKS = ("boto3", "botocore", "google", "libcloud")


def check_pools(settings: Settings) -> None:
    """ConfigError, with its line, for a pool whose provider cannot be had here."""
    for pool in settings.pools:
        try:
            make(pool.provider, pool.region, settings)
        except ConfigError as error:
            raise ConfigError(f"line {pool.line}: [pool {pool.name}] {error}", line=pool.line) from None


def make(name: str, region: str, settings: Settings) -> Provider:
    """The provider of that name; ConfigError, with the pip command, if what it needs is not installed."""
    try:
        return _make(name, region, settings)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in SDKS:
            raise
        extra = EXTRAS[name]
        raise ConfigError(f"provider {name} needs {missing}, which is not installed: pip install 'coalition[{extra}]'") from None


def _make(name: str, region: str, settings: Settings) -> Provider:
    if name == "local":
        from providers.local import LocalProvider

        return LocalProvider(settings.data_dir / "local")
    if name == "fake":
        from providers.fake import FakeProvider

        return FakeProvider(settings.server.farm)
    if name == "aws":
        from providers.aws import AwsProvider

        here = [pool for pool in settings.pools if (pool.provider, pool.region) == (name, region)]
        queues = dict.fromkeys(pool.notices_queue for pool in here if pool.notices_queue)
        return AwsProvider(region, settings.server.farm, list(queues))
    if name == "gce":
        return _gce(region, settings)
    if name == "libcloud":
        return _libcloud(region, settings)
    if ":" in name:
        return _own(name, region, settings)
    raise ConfigError(f"there is no provider {name}; {nearest(name, ['local', 'fake', *EXTRAS])}")


def _own(name: str, region: str, settings: Settings) -> Provider:
    """A provider of the studio's own; ConfigError for a class that is not there, or that is no provider."""
    from providers.base import Deadline, promised

    place, _, kind = name.partition(":")
    try:
        module = importlib.import_module(place)
    except ImportError as error:
        raise ConfigError(f"provider {name}: {error}; is the module installed, or its folder in PYTHONPATH?") from None
    if not isinstance(vars(module).get(kind), type):
        known = [word for word, one in vars(module).items() if isinstance(one, type) and one.__module__ == place]
        raise ConfigError(f"provider {name}: {place} has no class {kind}; {nearest(kind, known)}")
    made: Provider = vars(module)[kind](region, settings)
    if lacking := [word for word in promised() if not hasattr(made, word)]:
        raise ConfigError(f"provider {name} lacks {', '.join(lacking)}: providers/base.py says what each is")
    if not isinstance(made.deadline, Deadline):
        raise ConfigError(f"provider {name}: its deadline is {made.deadline!r}; one of providers.base.Deadline is wanted")
    return made


def _gce(region: str, settings: Settings) -> Provider:
    from providers.gce import GceProvider
    from providers.gce_order import label

    here = [pool for pool in settings.pools if (pool.provider, pool.region) == ("gce", region)]
    projects = sorted({pool.project for pool in here})
    if len(projects) > 1:
        names = ", ".join(project or "that of the credentials" for project in projects)
        raise ConfigError(f"its region {region} has pools of several projects ({names}); a farm has one in each region")
    try:
        for text in (settings.server.farm, *(pool.name for pool in here)):
            label(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return GceProvider(region, settings.server.farm, projects[0] if projects else "", folder=settings.data_dir / "prices")


def _libcloud(account: str, settings: Settings) -> Provider:
    from providers.libcloud import LibcloudProvider
    from providers.libcloud_driver import driver_class, pairs

    found = next((one for one in settings.accounts if one.name == account), None)
    if found is None:
        raise ConfigError(f"there is no [libcloud {account}]; {nearest(account, [one.name for one in settings.accounts])}")
    try:
        driver_class(found.driver)
        arguments = {**pairs(found.arguments), **_secrets(found.credentials)}
    except ConfigError as error:
        raise ConfigError(f"[libcloud {account}] {error}") from None
    return LibcloudProvider(found.driver, arguments, settings.server.farm, found.lag_s)


def _secrets(name: str) -> dict[str, Any]:
    """What a file of credentials holds; ConfigError if it cannot be used, or others may read it."""
    import json
    from pathlib import Path

    if not name:
        return {}
    path = Path(name).expanduser()
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"credentials: {path} may be read by others: chmod 600 {path}")
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"credentials: {path} cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise ConfigError(f'credentials: {path} must hold an object such as {{"key": "...", "secret": "..."}}')
    return said
