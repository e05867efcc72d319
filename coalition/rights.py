"""What people may do, by name, and what each role may. The server's table of routes names one of these rights for each route.

Of jobs there are two rights of each kind: for one's own jobs, and (`..._all`) for everybody's. The others are of the whole farm.
"""

from __future__ import annotations

from collections.abc import Iterable

OF_JOBS = ("create", "view", "edit", "delete")
OTHERS = ("workers", "cloud", "budgets", "admin")
ALL = frozenset((*OF_JOBS, *(f"{right}_all" for right in OF_JOBS), *OTHERS))
NAMES = (*OF_JOBS, *(f"{right}_all" for right in OF_JOBS), "workers", "cloud", "budgets", "admin")
SCOPES = (*OF_JOBS, *OTHERS)  # what a token may be narrowed to

OWN_JOBS = frozenset((*OF_JOBS, "view_all"))
EVERY_JOB = ALL - {*OTHERS}
ROLES: dict[str, frozenset[str]] = {
    "guest": frozenset(OF_JOBS),  # sees and changes what is his own
    "user": OWN_JOBS,  # an artist: sees all, changes what is his own
    "wrangler": EVERY_JOB | {"workers", "cloud"},
    "budget": OWN_JOBS | {"cloud", "budgets"},  # who answers for the money
    "admin": ALL,
}


def within(may: Iterable[str], bound: Iterable[str] | None) -> frozenset[str]:
    """The rights that are also in a bound; all of them without one."""
    return frozenset(may) if bound is None else frozenset(may) & frozenset(bound)


def narrowed(rights: Iterable[str], scope: Iterable[str]) -> frozenset[str]:
    """The rights that are within a scope; all of them where the scope is empty."""
    names = frozenset(scope)
    return frozenset(right for right in rights if not names or right.removesuffix("_all") in names)


def roles_with(right: str) -> frozenset[str]:
    """The roles that have a right, for their own jobs at least."""
    return frozenset(role for role, rights in ROLES.items() if right in rights)
