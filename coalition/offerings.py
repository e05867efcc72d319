"""What a pool's offerings may be called, as far as cloud.ini tells; the rest only its provider knows."""

from __future__ import annotations

from coalition.config import PoolSettings
from coalition.errors import nearest

BY_PLACE = ("aws", "gce")  # their offerings are called TYPE/ZONE/MARKET


def wrong_offering(pool: PoolSettings, wanted: str) -> str | None:
    """Why the pool cannot have an offering or a type of this name, and what it may have; None if it may, or nobody can tell."""
    types = _types(pool)
    if not wanted or types is None or wanted in types:
        return None
    no = f'pool {pool.name} has no "{wanted[:80]}"'
    type, slash, place = wanted.partition("/")
    if pool.provider not in BY_PLACE or not slash or type not in types:
        return f"{no}; {nearest(wanted, types)}"
    zone, _, market = place.rpartition("/")
    if zone and "/" not in zone and market in pool.purchase and (not pool.zones or zone in pool.zones):
        return None
    zones = f" and ZONE of {', '.join(pool.zones)}" if pool.zones else ""
    return f"{no}; allowed: {type}, or {type}/ZONE/MARKET with MARKET of {', '.join(pool.purchase)}{zones}"


def doubt(pool: PoolSettings, wanted: str) -> str:
    """What is to be said of a name that `wrong_offering` lets pass though the pool may not have it; empty if it has it."""
    types = _types(pool)
    if not wanted or (types is not None and wanted in types):
        return ""
    rest = "the pool's decisions tell what comes of it"
    return f"only its provider knows whether pool {pool.name} has an offering {wanted}; {rest}"


def _types(pool: PoolSettings) -> tuple[str, ...] | None:
    """The names of all types that a pool has; None where its provider has its own names for them."""
    if pool.provider == "local":
        return pool.types or ("local",)
    return pool.types if pool.provider in BY_PLACE else None
