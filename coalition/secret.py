"""Secrets of cloud.ini: they stand in a file for its owner only, or in the environment, never in cloud.ini itself."""

from __future__ import annotations

import os
from pathlib import Path

from coalition.errors import ConfigError


def secret(where: str, name: str, variable: str) -> str:
    """The first line of a file, or what the environment says where there is none. ConfigError, after `where`, for a bad file."""
    if not name:
        return os.environ.get(variable, "")
    path = Path(name).expanduser()
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{where}: {path} may be read by others: chmod 600 {path}")
        return path.read_text(encoding="utf-8").strip().partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: {path} cannot be read: {error}") from None
