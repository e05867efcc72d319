"""Submitting jobs, groups and frame ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert

from coalition import frames
from coalition.errors import BadInput, TooLarge
from coalition.model import MAX_CHILDREN, MAX_TITLE, Dependency, JobSpec
from coalition.schema import group_count, group_inherited, job, spec
from coalition.states import JobState
from coalition.store.base import Hot, writes
from coalition.store.dependencies import INSERT_DEPENDENCY, Dependencies
from coalition.store.tree import COLUMN_OF, FARM, INSERT_READY, MAX_DEPTH, Above, Changes, Sets, path_below

MAX_NODES = 2 * MAX_CHILDREN  # jobs and groups of one call  # jobs and groups of one call

INSERT_JOB = Hot(
    insert(job).values(
        {
            c: bindparam(c)
            for c in ("id", "parent", "is_group", "prio", "own_set", "class_id", "state", "paused", "holds", "retries")
        }
    ),
    *("id", "parent", "is_group", "prio", "own_set", "class_id", "state", "paused", "holds", "retries"),
)
SPEC_COLUMNS = (
    *("job_id", "parent", "title", "command", "dir", "environment", "user", "timeout_s", "url", "progress_pattern", "created_at"),
)
INSERT_SPEC = Hot(insert(spec).values({c: bindparam(c) for c in SPEC_COLUMNS}), *SPEC_COLUMNS)


@dataclass
class Node:
    """A job of a submission on its way into the tables."""

    spec: JobSpec
    parent: int  # index of the parent node, or -1
    path: str  # where it stands in the call, for messages
    is_group: bool
    frame: tuple[int, int, int] | None = None
    id: int = 0


@dataclass(frozen=True)
class Submitted:
    ids: tuple[int, ...]
    count: int
    refs: Mapping[str, int]


class Submit(Dependencies):
    """How jobs come in."""

    @writes
    def submit(self, db: Connection, specs: Sequence[JobSpec], who: str = "") -> Submitted:
        """Adds jobs, groups and frame ranges, all or none. BadInput names the field that is wrong."""
        nodes = _flatten(specs)
        first = self._allocate(db, "job", len(nodes)) if nodes else 0
        for offset, node in enumerate(nodes):
            node.id = first + offset
        refs = _refs(nodes)
        edges = self._edges(db, nodes, refs)
        changes = Changes()
        self._insert(db, nodes, edges, changes)
        if edges:
            self._refuse_cycle(db, sorted({job_id for job_id, _ in edges}))
        self._settle(db, changes)
        tops = tuple(node.id for node in nodes if node.parent < 0)
        words = f"{len(nodes):,} jobs submitted" if len(nodes) > 1 else "submitted"
        self._event(db, "job.submit", who, words, job_id=tops[0] if tops else None)
        self._bump(db, "backlog")
        return Submitted(tops, len(nodes), refs)

    def _edges(self, db: Connection, nodes: list[Node], refs: Mapping[str, int]) -> dict[tuple[int, int], bool]:
        """(job, target) -> met, of all dependencies in the call."""
        edges: dict[tuple[int, int], bool] = {}
        problems: dict[str, str] = {}
        new = {node.id for node in nodes}
        for node in nodes:
            if node.frame is not None:
                continue  # a frame waits through its group
            for index, target in enumerate(node.spec.depends_on):
                target = target.on if isinstance(target, Dependency) else target
                on = refs.get(target, 0) if isinstance(target, str) else target
                place = f"{node.path}.depends_on[{index}]"
                if not on:
                    problems[place] = f"no job in this call has ref {target!r}"
                elif on == node.id:
                    problems[place] = "a job cannot depend on itself"
                edges[node.id, on] = False
        old = sorted({on for _, on in edges if on not in new and on})
        states = self._states(db, old)
        for node in nodes:
            for index, target in enumerate(node.spec.depends_on if node.frame is None else ()):
                target = target.on if isinstance(target, Dependency) else target
                if isinstance(target, int) and target not in new and target not in states:
                    problems[f"{node.path}.depends_on[{index}]"] = f"there is no job {target}"
        if problems:
            raise BadInput(fields=problems)
        return {(one, on): states.get(on) == JobState.FINISHED for one, on in edges}

    def _insert(self, db: Connection, nodes: list[Node], edges: Mapping[tuple[int, int], bool], changes: Changes) -> None:
        now = self.clock()
        holds: dict[int, int] = {}
        for (one, _), met in edges.items():
            holds[one] = holds.get(one, 0) + (not met)
        sets = Sets(self, db)
        above: dict[int, Above] = {}
        jobs, specs, readies, groups = [], [], [], []
        chains: dict[int, tuple[int, ...]] = {}
        by_id = {node.id: node for node in nodes}
        for node in nodes:
            parent_id = nodes[node.parent].id if node.parent >= 0 else node.spec.parent
            if parent_id not in above:
                above[parent_id] = self._above(db, parent_id, f"{node.path}.parent")
            up = above[parent_id]
            own, effective = sets.of(node.spec, up.set_id, node.is_group)
            held = holds.get(node.id, 0)
            path = path_below(up, node.spec.priority, node.path)
            paused = up.paused or node.spec.paused
            state = JobState.PENDING if held + up.holds else JobState.WAITING
            class_id = 0
            if node.is_group:
                state = JobState.WAITING  # it is empty yet; what it gets below it is counted up
                above[node.id] = Above(path, effective, paused, held + up.holds)
                groups.append(
                    {"group_id": node.id, "prio_path": path, "set_id": effective, "paused": paused, "holds": held + up.holds}
                )
            else:
                class_id = sets.class_of(effective, path)
                if parent_id not in chains:
                    chains[parent_id] = self._chain(db, parent_id, by_id, nodes)
                if state == JobState.WAITING and not paused:
                    readies.append((class_id, node.id, 0))
                    changes.fed.add(class_id)
                changes.count(chains[parent_id], total=1, **{COLUMN_OF[state]: 1})
            retries = node.spec.retries
            jobs.append(
                (
                    node.id,
                    parent_id,
                    node.is_group,
                    node.spec.priority,
                    own,
                    class_id,
                    str(state),
                    node.spec.paused,
                    held,
                    retries,
                )
            )
            specs.append(_spec_row(node, parent_id, now))
        INSERT_JOB.many(db, jobs)
        INSERT_SPEC.many(db, specs)
        self._many(db, INSERT_READY, readies)
        changes.fed_jobs += len(readies)
        self._many(db, INSERT_DEPENDENCY, [(one, on, met) for (one, on), met in edges.items()])
        db.execute(self._insert_new(group_count).values(group_id=FARM))
        if groups:
            db.execute(insert(group_inherited), groups)
            db.execute(insert(group_count), [{"group_id": group["group_id"]} for group in groups])

    def _chain(self, db: Connection, parent: int, new: Mapping[int, Node], nodes: list[Node]) -> tuple[int, ...]:
        """The groups above, nearest first, also through groups of this very call."""
        chain = []
        while parent in new:
            chain.append(parent)
            node = new[parent]
            parent = nodes[node.parent].id if node.parent >= 0 else node.spec.parent
        return (*chain, *self._ancestors(db, parent))


def _flatten(specs: Sequence[JobSpec]) -> list[Node]:
    """All nodes of a submission, parents before children, frame ranges expanded. BadInput for what cannot be."""
    nodes: list[Node] = []
    stack = [(spec, -1, f"jobs[{index}]", 1) for index, spec in reversed(list(enumerate(specs)))]
    while stack:
        one, parent, path, depth = stack.pop()
        is_group = bool(one.group or one.children or one.frames is not None)
        _check_node(one, parent, path, depth, is_group)
        _check_size(len(nodes) + 1, path)
        nodes.append(Node(one, parent, path, is_group))
        here = len(nodes) - 1
        if one.frames is not None:
            try:
                numbers = frames.parse(one.frames)
            except BadInput as error:
                raise BadInput(fields={f"{path}.frames": error.fields["frames"]}) from None
            span = (min(numbers), max(numbers))
            leaf = JobSpec(
                **{**vars(one), "frames": None, "ref": None, "paused": False, "depends_on": (), "affinity": (), "priority": 127}
            )
            _check_size(len(nodes) + len(numbers), path)
            nodes += [Node(leaf, here, path, False, (number, *span)) for number in numbers]
        stack += [(child, here, f"{path}.children[{i}]", depth + 1) for i, child in reversed(list(enumerate(one.children)))]
    return nodes


def _check_node(one: JobSpec, parent: int, path: str, depth: int, is_group: bool) -> None:
    problems = {}
    if is_group and one.command and one.frames is None:
        problems[f"{path}.command"] = "a group has no command; give it to its children, or give `frames`"
    if one.frames is not None and one.children:
        problems[f"{path}.frames"] = "give either `frames` or `children`"
    if (not is_group or one.frames is not None) and not one.command:
        problems[f"{path}.command"] = "is missing; a job needs a command (or is a group)"
    if parent >= 0 and one.parent:
        problems[f"{path}.parent"] = "a child's parent is the group it stands in"
    if depth > MAX_DEPTH:
        problems[path] = f"is more than {MAX_DEPTH} levels deep"
    if problems:
        raise BadInput(fields=problems)


def _check_size(count: int, path: str) -> None:
    if count > MAX_NODES:
        raise TooLarge(fields={path: f"is beyond {MAX_NODES:,} jobs; submit the rest in further calls"})


def _refs(nodes: Sequence[Node]) -> dict[str, int]:
    refs: dict[str, int] = {}
    for node in nodes:
        ref = node.spec.ref
        if ref is not None and node.frame is None:
            if ref in refs:
                raise BadInput(fields={f"{node.path}.ref": f"{ref!r} is used twice"})
            refs[ref] = node.id
    return refs


def _spec_row(node: Node, parent: int, now: float) -> tuple[Any, ...]:
    one = node.spec
    title, command, url = one.title, one.command, one.url
    if node.frame is not None:
        title, command, url = (frames.fill(text or "", *node.frame) for text in (title, command, url))
        if title == one.title:
            title = f"{title} {node.frame[0]}".strip()
        title = title[:MAX_TITLE]
    elif node.is_group:
        command = None
    environment = json.dumps(dict(one.environment)) if one.environment else "{}"
    return (node.id, parent, title, command, one.dir, environment, one.user, one.timeout_s, url, one.progress_pattern, now)
