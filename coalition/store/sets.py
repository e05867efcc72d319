"""Requirement sets and classes: what a job needs of a worker, and where it stands in the order of dispatch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Table, bindparam, insert, select

from coalition import matching
from coalition.config import BudgetSettings
from coalition.matching import Requirement
from coalition.model import JobSpec
from coalition.schema import klass, reqset
from coalition.store import overrides
from coalition.store.base import Base, Hot

AMOUNTS = ("cpus", "memory_bytes", "gpus", "gpu_memory_bytes", "exclusive")
AMOUNTS_OF = attrgetter(*AMOUNTS)
NEEDS = ("affinity", *AMOUNTS, "workers", "not_workers", "limits")  # the fields of a job that its requirement is made of

SET_OF = Hot(select(reqset.c.id).where(reqset.c.hash == bindparam("b_hash")), "b_hash")
SET_JSON = Hot(select(reqset.c.json).where(reqset.c.id == bindparam("b_id")), "b_id")
CLASS_OF = Hot(select(klass.c.id).where(klass.c.hash == bindparam("b_hash")), "b_hash")


def group_limit(group_id: int) -> str:
    """The name of the limit that stands for a group's max_running."""
    return f"group#{group_id}"


def user_limit(user: str) -> str:
    """The name of the limit that stands for the knob max_running_per_user."""
    return f"user#{user}"


def requirement_of(needs: Mapping[str, Any], payers: tuple[str, str]) -> Requirement:
    """What a job asks for by itself, of its fields that NEEDS names, with its hard and its soft budgets."""
    return Requirement(
        tags=tuple(sorted(set(needs["affinity"]))),
        payer=payers[0],
        soft=payers[1],
        workers=tuple(sorted(set(needs["workers"]))),
        not_workers=tuple(sorted(set(needs["not_workers"]))),
        limits=tuple(sorted(dict(needs["limits"]).items())),
        **{name: needs[name] for name in AMOUNTS},
    )


class Sets:
    """Requirement sets and classes of one transaction, each looked up once."""

    def __init__(self, store: Base, db: Connection) -> None:
        self.store, self.db = store, db
        self.rules = store.settings.scheduler
        self._own: dict[tuple[Any, ...], int] = {}
        self._handed: dict[tuple[int, int, str], int] = {}
        self._classes: dict[tuple[int, str, str], int] = {}
        self._known: dict[int, Requirement] = {}

    @cached_property
    def budgets(self) -> tuple[BudgetSettings, ...]:
        """Those in force."""
        return overrides.in_force(self.db, self.store.settings).budgets

    def own(self, spec: JobSpec, is_group: bool) -> int:
        """The set of what a job itself asks for. A group pays by its title, a leaf by its user, both by their tags."""
        who = spec.title if is_group else spec.user
        lists = (tuple(spec.affinity), tuple(spec.workers), tuple(spec.not_workers), tuple(spec.limits.items()))
        key = (is_group, who, lists, AMOUNTS_OF(spec))
        if key not in self._own:
            user, titles = ("", [spec.title]) if is_group else (spec.user, [])
            payers = matching.payers(self.budgets, user, titles, spec.affinity)
            self._own[key] = self.id_of(requirement_of(vars(spec), payers))
        return self._own[key]

    def handed(self, own: int, above: int, token: str = "") -> int:
        """The set with what is inherited, and one token of a further limit."""
        if not above and not token:
            return own
        key = (own, above, token)
        if key not in self._handed:
            whole = self.requirement(own)
            if above:
                whole = whole.under(self.requirement(above))
            if token:
                whole = replace(whole, limits=tuple(sorted({token: 1, **dict(whole.limits)}.items())))
            self._handed[key] = self.id_of(whole)
        return self._handed[key]

    def leaf_class(self, own: int, above: int, path: str, user: str, root: int) -> int:
        """The class of a leaf: its requirements, its priority, and who shares the farm."""
        token = user_limit(user) if self.rules.max_running_per_user and user else ""
        fair = user if self.rules.fair == "user" else str(root) if self.rules.fair == "group" and root else ""
        return self.class_of(self.handed(own, above, token), path, fair)

    def id_of(self, requirement: Requirement) -> int:
        digest = requirement.hash
        found = SET_OF.all(self.db, digest)
        if found:
            return int(found[0][0])
        return self._add(reqset, {"hash": digest, "json": requirement.to_json()})

    def _add(self, table: Table, values: Mapping[str, Any]) -> int:
        made = self.db.execute(insert(table).values(values)).inserted_primary_key
        assert made is not None
        return int(made[0])

    def requirement(self, set_id: int) -> Requirement:
        if set_id not in self._known:
            self._known[set_id] = Requirement.from_json(SET_JSON.all(self.db, set_id)[0][0])
        return self._known[set_id]

    def class_of(self, set_id: int, path: str, fair_key: str) -> int:
        path = matching.strip_path(path)
        key = (set_id, path, fair_key)
        if key not in self._classes:
            digest = hashlib.sha256("/".join([str(set_id), path, *filter(None, [fair_key])]).encode()).hexdigest()
            found = CLASS_OF.all(self.db, digest)
            self._classes[key] = int(found[0][0]) if found else self._new_class(digest, key)
        return self._classes[key]

    def _new_class(self, digest: str, key: tuple[int, str, str]) -> int:
        set_id, path, fair_key = key
        values = {"set_id": set_id, "prio_path": path, "fair_key": fair_key, "hash": digest, "nonempty": False}
        return self._add(klass, values)
