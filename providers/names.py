"""Names of instances where a provider takes any: made of farm, token and number, and read again."""

from __future__ import annotations

import hashlib
import re


class Names:
    """They begin with a letter, are of small letters, digits and -, and 63 letters long at most."""

    def __init__(self, farm: str) -> None:
        self.prefix = f"coalition-{hashlib.sha256(farm.encode()).hexdigest()[:6]}"
        self._pattern = re.compile(rf"^{self.prefix}-([0-9a-z]+)-(\d+)\Z")

    def of(self, token: str, k: int) -> str:
        return f"{self.prefix}-{token}-{k}"

    def read(self, name: str) -> tuple[str, int] | None:
        """(token, k) of a name of this farm's, else None."""
        match = self._pattern.match(name)
        return (match[1], int(match[2])) if match else None
