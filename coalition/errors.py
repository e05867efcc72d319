"""Every error that Coalition raises on purpose.

    CoalitionError                  500  something is wrong inside
    ├── BadInput                    422  a field's value is not allowed; `fields` names each
    │   ├── BadFilter               422  a filter or a cursor cannot be read
    │   └── TooLarge                413  a body, a text or a list is over its limit
    ├── NotAuthenticated            401  no credential, or a wrong one
    ├── NotAllowed                  403  a good credential without the right
    ├── TooManyTries                429  too many failed log-ins; come again after `retry_after_s`
    ├── NotFound                    404  no such job, worker, instance ...
    ├── Conflict                    409  the thing is not in a state that allows this
    │   ├── IllegalTransition       409  not in the table of states.py; nothing was changed
    │   ├── StaleCall               409  a newer call of the same worker was seen
    │   ├── LogGap                  409  a log write that would leave a hole; `offset` is what is there
    │   ├── OverBudget              409  a hard budget's cap would be exceeded; nothing was reserved
    │   └── Fenced                  409  another server leads the autoscaler now; nothing was written
    ├── Unavailable                 503  the database is away; come again after `retry_after_s`
    ├── ConfigError                 ---  cloud.ini cannot be used: file, line, nearest valid name (exit 2)
    ├── WrongSchema                 ---  the database is not at this version's schema (exit 2)
    └── ServerUnreachable           ---  the client or worker found no server (exit 3)

Errors of cloud providers live in providers/base.py: they are named by what the autoscaler does next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar


class CoalitionError(Exception):
    """The root; `str(error)` says what happened and what to do."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str = "", *, fields: Mapping[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.fields = dict(fields or {})
        self.extra = extra

    def to_problem(self) -> dict[str, Any]:
        """The problem body of RFC 9457: type, title, status, detail, and `fields` where input was wrong."""
        problem: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        if self.fields:
            problem["fields"] = self.fields
        return problem


class BadInput(CoalitionError):
    status = 422
    title = "Input not allowed"

    def __init__(self, detail: str = "", *, fields: Mapping[str, str] | None = None, **extra: Any) -> None:
        if not detail and fields:
            detail = "; ".join(f"{name}: {message}" for name, message in fields.items())
        super().__init__(detail, fields=fields, **extra)


class BadFilter(BadInput):
    title = "Filter cannot be read"


class TooLarge(BadInput):
    status = 413
    title = "Too large"


class NotAuthenticated(CoalitionError):
    status = 401
    title = "Not authenticated"


class NotAllowed(CoalitionError):
    status = 403
    title = "Not allowed"


class TooManyTries(CoalitionError):
    status = 429
    title = "Too many tries"

    def __init__(self, detail: str = "", retry_after_s: float = 60.0) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class NotFound(CoalitionError):
    status = 404
    title = "Not found"


class Conflict(CoalitionError):
    status = 409
    title = "Not possible now"


class IllegalTransition(Conflict):
    title = "Not possible in this state"


class StaleCall(Conflict):
    title = "A newer call was seen"


class LogGap(Conflict):
    title = "Log gap"

    def __init__(self, offset: int) -> None:
        super().__init__(f"the log ends at byte {offset}; send from there", offset=offset)
        self.offset = offset


class OverBudget(Conflict):
    title = "Over budget"


class Fenced(Conflict):
    title = "Another server leads"


class Unavailable(CoalitionError):
    status = 503
    title = "Unavailable"

    def __init__(self, detail: str = "", retry_after_s: float = 2.0, *, lost: bool = False) -> None:
        """`lost`: it may have been done, and nobody knows."""
        super().__init__(detail, retry_after_s=retry_after_s)
        if lost:
            self.extra["lost"] = True
        self.retry_after_s = retry_after_s


class ConfigError(CoalitionError):
    title = "Configuration error"


class WrongSchema(CoalitionError):
    title = "Wrong database schema"


class ServerUnreachable(CoalitionError):
    title = "No server"


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for a misspelt name: ' (did you mean "x"?)', else the list of what is valid."""
    from difflib import get_close_matches  # not at the top: who makes no mistake does not wait for it

    names = sorted(valid)
    close = get_close_matches(name, names, n=1)
    return f'did you mean "{close[0]}"?' if close else f"allowed: {', '.join(names)}" if names else "there is none"


BY_STATUS: dict[int, type[CoalitionError]] = {
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: BadInput,
    429: TooManyTries,
    503: Unavailable,
}


def from_problem(status: int, problem: Mapping[str, Any]) -> CoalitionError:
    """The error a server's problem body stands for, to raise in the client: of the server's type where that is known."""
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    fields = problem.get("fields")
    kind = BY_STATUS.get(status, BadInput if 400 <= status < 500 else CoalitionError)
    kind = next((k for k in (kind, *_below(kind)) if k.status == status and k.title == problem.get("title")), kind)
    if kind is LogGap and type(problem.get("offset")) is int:
        return LogGap(problem["offset"])
    if kind is Unavailable or kind is TooManyTries:
        after = problem.get("retry_after_s")
        made = kind(detail, float(after)) if isinstance(after, (int, float)) else kind(detail)
        made.extra |= {"lost": True} if problem.get("lost") is True else {}
        return made
    kind = Conflict if kind is LogGap else kind
    return kind(detail, fields=fields if isinstance(fields, Mapping) else {})


def _below(kind: type[CoalitionError]) -> Iterator[type[CoalitionError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)
