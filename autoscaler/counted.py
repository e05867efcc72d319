"""A provider whose calls are counted by their outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from coalition import metrics
from providers.base import (
    Fate,
    Instance,
    Launched,
    Notice,
    Offering,
    Provider,
    ProviderError,
    Rejected,
    Request,
    TooLate,
    Unknown,
)

if TYPE_CHECKING:
    from coalition.config import PoolSettings


P = ParamSpec("P")
R = TypeVar("R")


class Counted:
    """Keeps a provider's promises by passing every call on; what else it knows is the provider's own."""

    def __init__(self, key: str, provider: Provider) -> None:
        self.key, self.provider, self.name = key, provider, provider.name
        self.deadline, self.renewable, self.settle_s = provider.deadline, provider.renewable, provider.settle_s
        self.concurrent = provider.concurrent

    def check(self, pool: PoolSettings) -> Sequence[str]:
        return self._call("check", self.provider.check, pool)

    def offerings(self, pool: PoolSettings) -> Sequence[Offering]:
        return self._call("offerings", self.provider.offerings, pool)

    def launch(self, request: Request) -> Launched:
        return self._call("launch", self.provider.launch, request)

    def list(self) -> Sequence[Instance]:
        return self._call("list", self.provider.list)

    def terminate(self, ids: Sequence[str]) -> Mapping[str, Fate]:
        return self._call("terminate", self.provider.terminate, ids)

    def renew(self, ids: Sequence[str], until: float) -> Mapping[str, float]:
        return self._call("renew", self.provider.renew, ids, until)

    def notices(self) -> Sequence[Notice]:
        return self._call("notices", self.provider.notices)

    def console(self, id: str) -> str:
        return self._call("console", self.provider.console, id)

    def _call(self, call: str, act: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
        try:
            answer = act(*given, **named)
        except ProviderError as error:
            metrics.add(metrics.PROVIDER_CALLS, self.key, call, _outcome(error))
            raise
        metrics.add(metrics.PROVIDER_CALLS, self.key, call, "ok")
        return answer


def _outcome(error: ProviderError) -> str:
    if isinstance(error, Rejected):
        return str(error.kind)
    return "unknown" if isinstance(error, Unknown) else "late" if isinstance(error, TooLate) else "error"
