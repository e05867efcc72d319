"""What a new machine is told: its user data, as cloud-init reads it."""

from __future__ import annotations

import json

from coalition.config import PoolSettings, options_of
from providers.base import Offering, Request

LIFE_S = 900.0


def user_data(request: Request) -> str:
    """The text for cloud-init. The same request makes the same text."""
    return "#cloud-config\n" + json.dumps({"runcmd": [["true", request.token]]}, sort_keys=True)


def sample_request(pool: PoolSettings, farm: str, offering: Offering, now: float) -> Request:
    """A request as one of this pool would be, for a provider to look at and never to send."""
    return Request(
        token="0" * 32,
        farm=farm,
        pool=pool.name,
        provider=pool.provider,
        region=pool.region,
        offering=offering,
        count=1,
        affinity=pool.affinity,
        image=pool.image,
        server_url="https://coalition.example.com",
        discovery_port=0,
        launch_by=now,
        until=now + LIFE_S,
        options=options_of(pool),
        enrol_token=f"{'0' * 16}.{'0' * 43}",
    )
