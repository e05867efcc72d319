"""Changing fields of jobs, and moving them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from coalition import matching
from coalition.errors import BadInput
from coalition.frames import filler
from coalition.matching import Requirement
from coalition.model import Dependency, JobChanges, to_dict
from coalition.schema import dependency, frame_rule, job, spec, watch
from coalition.store.base import HotIn, chunks, writes
from coalition.store.dependencies import FRAMES_BY_ID, NEED_ANY, RECOUNT, Frame
from coalition.store.sets import AMOUNTS, NEEDS, Sets, group_limit, requirement_of
from coalition.store.submit import OF_GROUPS, RULES, Submit, Template, rules_json
from coalition.store.tree import IDS, Chains, Changes, Node

FILLED = ("title", "command", "url")  # of a range: what its frames' are made of
SPEC_FIELDS = (*FILLED, "dir", "environment", "user", "timeout_s", "progress_pattern", "note")
JOB_FIELDS = {"priority": "prio", "retries": "retries", "max_running": "max_running", "decrease_priority_after": "sink_after"}
PASSED_ON = ("dir", "environment", "user", "timeout_s", "progress_pattern", "retries", *RULES)  # by a range to its frames

SET_OWN = HotIn(lambda ids: update(job).where(job.c.id.in_(ids)).values(own_set=bindparam("b_set")), "b_set")
SET_FIELD = {
    column.name: HotIn(
        lambda ids, column=column: (  # type: ignore[misc]
            update(column.table).where(next(iter(column.table.primary_key)).in_(ids)).values({column.name: bindparam("b_value")})
        ),
        "b_value",
    )
    for column in (*(spec.c[name] for name in SPEC_FIELDS), *(job.c[name] for name in JOB_FIELDS.values()))
}
SET_PARENT = (
    HotIn(lambda ids: update(job).where(job.c.id.in_(ids)).values(parent=bindparam("b_parent")), "b_parent"),
    HotIn(lambda ids: update(spec).where(spec.c.job_id.in_(ids)).values(parent=bindparam("b_parent")), "b_parent"),
)
RULES_OF = HotIn(lambda ids: select(spec.c.job_id, spec.c.rules).where(spec.c.job_id.in_(ids)))
SET_RULES = HotIn(lambda ids: update(spec).where(spec.c.job_id.in_(ids)).values(rules=bindparam("b_rules")), "b_rules")
OWNERS = HotIn(
    lambda ids: (
        select(job.c.id, job.c.own_set, job.c.is_group, spec.c.user, spec.c.title)
        .join(spec, spec.c.job_id == job.c.id)
        .where(job.c.id.in_(ids))
    )
)
SUNK = HotIn(lambda ids: select(job.c.id).where(job.c.id.in_(ids), job.c.sunk_from.is_not(None)))
RISE = HotIn(lambda ids: update(job).where(job.c.id.in_(ids), job.c.sunk_from.is_not(None)).values(prio=job.c.sunk_from))
UNSINK = HotIn(lambda ids: update(job).where(job.c.id.in_(ids), job.c.is_group).values(sunk_from=None, errors=0))
RANGES = HotIn(
    lambda ids: (
        select(spec.c.job_id, *(spec.c[name] for name in Template._fields))
        .where(spec.c.job_id.in_(ids), spec.c.chunk.is_not(None))
        .order_by(spec.c.job_id)
    )
)
FRAMES_OF = HotIn(
    lambda ids: (
        select(job.c.parent, job.c.id, job.c.first_frame, job.c.last_frame)
        .where(job.c.parent.in_(ids), job.c.first_frame.is_not(None))
        .order_by(job.c.parent, job.c.id)
    )
)


BEFORE_FIELDS = ("id", "parent", "own_set", "needs_any", *JOB_FIELDS.values(), *SPEC_FIELDS, "rules")
BEFORE = HotIn(
    lambda ids: (
        select(*(job.c[name] if name in job.c else spec.c[name] for name in BEFORE_FIELDS))
        .join(spec, spec.c.job_id == job.c.id)
        .where(job.c.id.in_(ids))
        .order_by(job.c.id)
    )
)
NOTHING: Mapping[int, Mapping[str, tuple[Any, Any]]] = {}
TOLD = 20  # values before, of many jobs
LOOKED_AT = 1_000  # jobs for that


class Edits(Submit):
    """How jobs change by hand."""

    @writes
    def edit(self, db: Connection, ids: Sequence[int], changed: JobChanges, who: str = "") -> int:
        """Changes fields of jobs; `parent` moves them. All or none.

        What a frame range was submitted with is its frames' as well: command, title and url are filled again.
        """
        ids = self._existing(db, ids)
        changes = Changes()
        given = {name: value for name, value in vars(changed).items() if value is not None}
        ranges = {row[0]: Template(*row[1:]) for row in RANGES.all(db, ids)}
        self._check_edit(IDS.all(db, ids), ranges, given)
        self._check_commands(db, ids, ranges, given)
        before = self._before(db, ids[:LOOKED_AT], given)
        self._edit_fields(db, ids, given)
        self._edit_frames(db, ranges, given)
        if given.keys() & {*NEEDS, "user", "title"}:
            self._edit_requirements(db, ids, given)
        if "priority" in given:
            self._lift(db, ids, "priority given by hand", who, keep=True)
        if "notify" in given:
            self._watch(db, ids, given["notify"])
        if "max_running" in given:
            self._limit_groups(db, ids, given["max_running"])
        if "parent" in given:
            self._move(db, ids, given["parent"], changes)
        if "depends_any" in given:
            NEED_ANY.run(db, ids, given["depends_any"])
        if "depends_on" in given:
            self._depend(db, ids, given["depends_on"])
        elif "depends_any" in given:
            RECOUNT.run(db, ids)
        if given.keys() & {"parent", "depends_on"}:
            self._refuse_cycle(db, ids)
        self._finish(db, ids, changes)
        self._tell(db, ids, "job.edit", who, "changed " + ", ".join(sorted(given)), _changes(before, given))
        return len(ids)

    def _before(self, db: Connection, ids: Sequence[int], given: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """What the fields of an edit are now."""
        found: dict[int, dict[str, Any]] = {}
        for row in (dict(zip(BEFORE_FIELDS, one, strict=True)) for one in BEFORE.all(db, ids)):
            old = {**row, **{name: row[column] for name, column in JOB_FIELDS.items()}, "depends_any": row["needs_any"]}
            old |= {"environment": json.loads(row["environment"]), **json.loads(row["rules"] or "{}")}
            if given.keys() & {*NEEDS}:
                old |= _needs_of(self._requirement(db, row["own_set"]))
            found[row["id"]] = {name: old[name] for name in given if name in old}
        for name, lists in (("depends_on", self._named_before), ("notify", self._notify_before)):
            if name in given:
                there = lists(db, ids)
                for one, old in found.items():
                    old[name] = there.get(one, [])
        return found

    def _named_before(self, db: Connection, ids: Sequence[int]) -> dict[int, list[int]]:
        """The jobs that each of these names to wait for, frame by frame or whole."""
        named: dict[int, list[int]] = {}
        whole = select(dependency.c.job_id, dependency.c.on_id).where(dependency.c.by_rule.is_(False))
        ruled = select(frame_rule.c.job_id, frame_rule.c.on_id)
        for query, table in ((whole, dependency), (ruled, frame_rule)):
            for row in db.execute(query.where(table.c.job_id.in_(ids)).order_by(table.c.job_id, table.c.on_id)):
                named.setdefault(row.job_id, []).append(row.on_id)
        return named

    def _notify_before(self, db: Connection, ids: Sequence[int]) -> dict[int, list[str]]:
        """What each of these asks to be told."""
        rows = db.execute(select(watch.c.job_id, watch.c.notify).where(watch.c.job_id.in_(ids)))
        return {row.job_id: json.loads(row.notify) for row in rows}

    def _check_edit(self, jobs: Sequence[tuple[Any, ...]], ranges: Mapping[int, Template], given: Mapping[str, Any]) -> None:
        problems: dict[str, str] = {}
        for job_id, is_group in jobs:
            problems = {**unfit(job_id, is_group, job_id in ranges, given), **problems}
        if given.get("command") == "":
            problems["changes.command"] = "is empty; a job needs a command"
        if problems:
            raise BadInput(fields=problems)

    def _check_commands(
        self, db: Connection, ids: Sequence[int], ranges: Mapping[int, Template], given: Mapping[str, Any]
    ) -> None:
        """NotAllowed where a job would get what its user may not run, or a user what he may not: of frames, too."""
        if self.commands.is_open or not given.keys() & {"command", "environment", "user"}:
            return
        commands: dict[str, set[str]] = {}
        columns = (spec.c.user, spec.c.command, spec.c.environment, job.c.first_frame, job.c.last_frame)
        jobs = select(*columns).join(job, job.c.id == spec.c.job_id)
        for where, those in ((job.c.id, [one for one in ids if one not in ranges]), (job.c.parent, sorted(ranges))):
            some = jobs if where is job.c.id else jobs.where(job.c.first_frame.is_not(None))
            for row in (row for chunk in chunks(those) for row in db.execute(some.where(where.in_(chunk)))):
                user, command = given.get("user", row.user), given.get("command", row.command if "user" in given else None)
                if where is job.c.parent and "command" in given:
                    command = filler(given["command"])(row.first_frame, row.last_frame)
                commands.setdefault(user, set()).update([command] if command else [])
                environment = given.get("environment", json.loads(row.environment) if "user" in given else {})
                self.commands.check(user, (), environment)
        for user, those_of_user in commands.items():
            self.commands.check(user, those_of_user, {})

    def _edit_fields(self, db: Connection, ids: Sequence[int], given: Mapping[str, Any]) -> None:
        """The columns of the jobs themselves."""
        values = {name: given[name] for name in SPEC_FIELDS if name in given}
        if "environment" in values:
            values["environment"] = json.dumps(dict(values["environment"]))
        numbers = {column: given[name] for name, column in JOB_FIELDS.items() if name in given}
        for name, value in values.items():
            SET_FIELD[name].run(db, ids, value)
        for name, value in numbers.items():
            SET_FIELD[name].run(db, ids, value)
        rules = {name: given[name] for name in RULES if name in given}
        if rules:
            self._edit_rules(db, ids, rules)

    def _edit_rules(self, db: Connection, ids: Sequence[int], rules: Mapping[str, Any]) -> None:
        by_old: dict[str | None, list[int]] = {}
        for job_id, old in RULES_OF.all(db, ids):
            by_old.setdefault(old, []).append(job_id)
        for old, those in by_old.items():
            SET_RULES.run(db, those, rules_json({**json.loads(old or "{}"), **rules}))

    def _edit_frames(self, db: Connection, ranges: Mapping[int, Template], given: Mapping[str, Any]) -> None:
        """Passes on to the frames of ranges what these were submitted with."""
        passed = {name: given[name] for name in PASSED_ON if name in given}
        filled = [name for name in FILLED if name in given]
        if not ranges or not (passed or filled):
            return
        frames: dict[int, list[tuple[int, int, int]]] = {}
        for group, *frame in FRAMES_OF.all(db, sorted(ranges)):
            frames.setdefault(group, []).append((frame[0], frame[1], frame[2]))
        ids = [one for rows in frames.values() for one, _, _ in rows]
        self._edit_fields(db, ids, passed)
        if "user" in passed:
            self._edit_requirements(db, ids, {"user": passed["user"]})
        if filled:
            self._fill_again(db, ranges, frames, {name: given[name] for name in filled})

    def _fill_again(
        self,
        db: Connection,
        ranges: Mapping[int, Template],
        frames: Mapping[int, Sequence[tuple[int, int, int]]],
        given: Mapping[str, Any],
    ) -> None:
        rows = []
        for group, those in frames.items():
            template = ranges[group]._replace(**given)
            for (one, _, _), texts in zip(those, template.texts([(first, last) for _, first, last in those]), strict=True):
                filled = dict(zip(FILLED, texts, strict=True))
                rows.append({"b_id": one, **{name: filled[name] for name in given}})
        if rows:
            db.execute(update(spec).where(spec.c.job_id == bindparam("b_id")), rows)

    def _edit_requirements(self, db: Connection, ids: Sequence[int], given: Mapping[str, Any]) -> None:
        sets = Sets(self, db)
        made: dict[tuple[int, str], int] = {}
        become: dict[int, list[int]] = {}
        for one, own_set, is_group, user, title in OWNERS.all(db, ids):
            key = (own_set, f"g{title}" if is_group else f"u{user}")
            if key not in made:
                old = self._requirement(db, own_set)
                needs = {**_needs_of(old), **{name: given[name] for name in NEEDS if name in given}}
                users, titles = ("", [title]) if is_group else (user, [])
                payers = matching.payers(sets.budgets, users, titles, needs["affinity"])
                made[key] = sets.id_of(requirement_of(needs, payers))
            become.setdefault(made[key], []).append(one)
        for set_id, those in become.items():
            SET_OWN.run(db, those, set_id)

    def _limit_groups(self, db: Connection, groups: Sequence[int], maximum: int) -> None:
        """The limits that stand for the groups' max_running."""
        for name in map(group_limit, groups):
            if maximum:
                self._define_limit(db, name, maximum)
            else:
                self._drop_limit(db, name)

    def _move(self, db: Connection, ids: Sequence[int], parent: int, changes: Changes) -> None:
        self._above(db, parent, "changes.parent")
        new_chain = self._ancestors(db, parent)
        inside = set(new_chain) & set(ids)
        if inside:
            raise BadInput(fields={"changes.parent": f"{parent} lies in job {min(inside)}, which would be moved into itself"})
        tops = self._outermost(db, ids)
        chains = Chains(db)
        for old_parent, values in self._counted(db, tops, changes).items():
            changes.count(chains[old_parent], **{name: -value for name, value in values.items()})
            changes.count(new_chain, **values)
        times = self._leave(db, [row.id for row in tops], changes)
        for statement in SET_PARENT:
            statement.run(db, [row.id for row in tops], parent)
        self._arrive(db, new_chain, times)
        self._move_frames(db, tops, parent, changes)

    def _move_frames(self, db: Connection, tops: Sequence[Node], parent: int, changes: Changes) -> None:
        """Rules frame by frame are between those that stand in the ranges now."""
        leaves = [row.id for row in tops if not row.is_group]
        ranges = {row.parent for row in tops if not row.is_group} | {parent}
        if leaves and self._rules_at(db, sorted(ranges)):
            moved = [Frame.of(*row) for row in FRAMES_BY_ID.all(db, leaves)]
            ids = [frame.id for frame in moved]
            self._unlink(db, ids, changes)
            self._link(db, {parent: moved}, changes)
            RECOUNT.run(db, ids)

    def _lift(self, db: Connection, groups: Sequence[int], why: str, who: str, *, keep: bool = False) -> None:
        """Groups that sank get back the priority that they had (`keep`: not the one they have now), and count errors anew."""
        sunk = [row[0] for row in SUNK.all(db, groups)]
        if not keep:
            RISE.run(db, groups)
        UNSINK.run(db, groups if not keep else sunk)
        if sunk:
            self._tell(db, sunk, "job.lift", who, f"is sunk no longer: {why}")

    def _done(self, db: Connection, ids: Sequence[int], changes: Changes, kind: str, who: str, words: str) -> int:
        self._finish(db, ids, changes)
        self._tell(db, ids, kind, who, words)
        return len(ids)

    def _finish(self, db: Connection, ids: Sequence[int], changes: Changes) -> None:
        """What follows for others from an action."""
        self._refresh(db, ids, changes)
        self._settle(db, changes)
        self._bump(db, "backlog")

    def _tell(
        self,
        db: Connection,
        ids: Sequence[int],
        kind: str,
        who: str,
        words: str,
        changed: Mapping[int, Mapping[str, tuple[Any, Any]]] = NOTHING,
    ) -> None:
        """One event row for each of a few, one for all of many."""
        if len(ids) > 100:
            text = f"{words}: {len(ids):,} jobs, #{min(ids)} to #{max(ids)}"
            self._event(db, kind, who, text, changes=_of_many(changed.values()))
            return
        for job_id in ids:
            self._event(db, kind, who, words, job_id=job_id, changes=changed.get(job_id))


def _changes(before: Mapping[int, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[int, dict[str, tuple[Any, Any]]]:
    """The fields that an edit changed of each job, with both values."""
    after = {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()}
    if "depends_on" in given:
        after["depends_on"] = [to_dict(one) if isinstance(one, Dependency) else one for one in given["depends_on"]]
    return {
        one: {name: (was, after[name]) for name, was in old.items() if _plain(was) != _plain(after[name])}
        for one, old in before.items()
    }


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (list, tuple)) and not any(isinstance(one, Mapping) for one in value) else value


def _of_many(changed: Iterable[Mapping[str, tuple[Any, Any]]]) -> dict[str, tuple[Any, Any]]:
    """The same of many jobs together: of each field some of the values before."""
    found: dict[str, tuple[list[Any], Any]] = {}
    for one in changed:
        for name, (was, now) in one.items():
            values = found.setdefault(name, ([], now))[0]
            if len(values) < TOLD and was not in values:
                values.append(was)
    return dict(found)


def unfit(job_id: int, is_group: bool, is_range: bool, given: Mapping[str, Any]) -> dict[str, str]:
    """The fields of an edit that are not for this kind of job, each with its words."""
    if is_group:
        words = f"job {job_id} is a group; a group has no command"
        return {"changes.command": words} if "command" in given and not is_range else {}
    words = f"job {job_id} is no group; this is for groups and frame ranges"
    return {f"changes.{name}": words for name in OF_GROUPS if name in given}


def _needs_of(old: Requirement) -> dict[str, Any]:
    """A requirement as the fields of a job."""
    lists = {"affinity": old.tags, "workers": old.workers, "not_workers": old.not_workers, "limits": old.limits}
    return {**lists, **{name: getattr(old, name) for name in AMOUNTS}}
