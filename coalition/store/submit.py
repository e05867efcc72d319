"""Submitting jobs, groups and frame ranges, and appending frames to a range."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select

from coalition import frames
from coalition.errors import BadInput, TooLarge
from coalition.frames import Piece
from coalition.model import DEFAULT_PRIORITY, MAX_CHILDREN, MAX_TITLE, Dependency, JobSpec
from coalition.schema import farm_limit, group_count, group_inherited, job, ready, spec, submission, watch
from coalition.states import JobState
from coalition.store.base import Hot, writes
from coalition.store.dependencies import Dependencies, Edge, Frame, Waits, cannot_be, holds_of
from coalition.store.notices import Notices
from coalition.store.sets import Sets, group_limit
from coalition.store.tree import COLUMN_OF, FARM, MAX_DEPTH, Above, Chains, Changes, path_below

PIECE = 20_000  # rows that are made before they are written
MAX_NODES = 2 * MAX_CHILDREN  # jobs and groups of one call
RULES = ("timeout_output_s", "timeout_progress_s", "error_patterns", "licence_patterns", "licence_codes")
OF_GROUPS = ("max_running", "decrease_priority_after")

JOB_COLUMNS = (
    *("id", "parent", "is_group", "prio", "own_set", "class_id", "state", "paused", "holds", "retries"),
    *("first_frame", "last_frame", "frame_step", "max_running", "needs_any", "sink_after"),
)
INSERT_JOB = Hot(insert(job).values({c: bindparam(c) for c in JOB_COLUMNS}), *JOB_COLUMNS)
SPEC_COLUMNS = (
    *("job_id", "parent", "title", "command", "dir", "environment", "user", "timeout_s", "url", "progress_pattern", "created_at"),
    *("rules", "note", "chunk"),  # in the table's order, in which no row need be rearranged
)
INSERT_SPEC = Hot(insert(spec).values({c: bindparam(c) for c in SPEC_COLUMNS}), *SPEC_COLUMNS)
INSERT_READY = Hot(insert(ready).values(class_id=bindparam("class_id"), job_id=bindparam("job_id")), "class_id", "job_id")

FORGET = Hot(
    delete(submission).where(submission.c.who == bindparam("b_who"), submission.c.key == bindparam("b_key")), "b_who", "b_key"
)


@dataclass
class Entry:
    """A job of a submission on its way into the tables; `frames` are the jobs that a range is made of, and follow its id."""

    spec: JobSpec
    parent: int  # index of the parent entry, or -1
    path: str  # where it stands in the call, for messages
    is_group: bool
    frames: Sequence[Piece] = ()
    id: int = 0


@dataclass
class Rows:
    """What is to be inserted."""

    jobs: list[tuple[Any, ...]] = field(default_factory=list)
    specs: list[tuple[Any, ...]] = field(default_factory=list)
    ready: list[tuple[int, int]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    limits: list[dict[str, Any]] = field(default_factory=list)
    watches: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Submitted:
    ids: tuple[int, ...]
    count: int
    refs: Mapping[str, int]
    repeated: bool = False  # what was answered to the same call before


@dataclass(frozen=True)
class Once:
    """A call that may come again: by its key it is known, and by the digest of its body that it is the same."""

    key: str
    digest: str


def commands_of(command: str, pieces: Sequence[Piece]) -> Iterable[str]:
    """What is run: the command, or that of the first and last frames, between which only numbers differ."""
    fill = frames.filler(command)
    return [fill(piece[0], piece[1]) for piece in (pieces[0], pieces[-1])] if pieces else [command]


class Submit(Dependencies, Notices):
    """How jobs come in."""

    @writes
    def submit(self, db: Connection, specs: Sequence[JobSpec], who: str = "", once: Once | None = None) -> Submitted:
        """Adds jobs, groups and frame ranges, all or none. BadInput names the field that is wrong.

        With `once`, a call of `who` with the same key was answered before, or is now, and this one gets that answer.
        """
        if once is None:
            return self._submit(db, specs, who)
        made = self._answered(db, who, once)
        if made is None:
            made = self._submit(db, specs, who)
            answer = json.dumps({"ids": made.ids, "count": made.count, "refs": dict(made.refs)})
            row = {"who": who, "key": once.key, "digest": once.digest, "answer": answer, "created_at": self.clock()}
            db.execute(insert(submission).values(row))
        return made

    def _answered(self, db: Connection, who: str, once: Once) -> Submitted | None:
        """What this call was answered; None if it was not made before. BadInput for the key of another one."""
        query = select(submission.c.digest, submission.c.answer).where(submission.c.who == who, submission.c.key == once.key)
        row = db.execute(query).first()
        if row is None:
            return None
        if row.digest != once.digest:
            words = f"{once.key!r} was given with another body before; a new call needs a new key"
            raise BadInput(fields={"Idempotency-Key": words})
        answer = json.loads(row.answer)
        return Submitted(tuple(answer["ids"]), answer["count"], answer["refs"], repeated=True)

    @writes
    def forget_submissions(self, db: Connection, before: float, limit: int) -> int:
        """Deletes up to `limit` answers that are older; how many."""
        at = submission.c.created_at
        old = select(submission.c.who, submission.c.key).where(at < before).order_by(at).limit(limit)
        rows = [tuple(row) for row in db.execute(old)]
        return self._many(db, FORGET, rows)

    def _submit(self, db: Connection, specs: Sequence[JobSpec], who: str) -> Submitted:
        entries = _flatten(specs)
        for entry in entries:
            if entry.spec.command is not None:
                self.commands.check(entry.spec.user, commands_of(entry.spec.command, entry.frames), entry.spec.environment)
        count = sum(1 + len(entry.frames) for entry in entries)
        following = self._allocate(db, "job", count) if entries else 0
        for entry in entries:
            entry.id = following
            following += 1 + len(entry.frames)
        refs = _refs(entries)
        waits = self._waits(db, entries, refs)
        edges = self._edges_of(db, waits, _new_frames(entries, waits))
        changes = Changes()
        self._insert(db, entries, edges, changes)
        self._write_waits(db, waits, edges)
        if waits.whole or waits.rules:
            self._refuse_cycle(db, sorted({job_id for job_id, *_ in (*waits.whole, *waits.rules)}))
        self._settle(db, changes)
        tops = tuple(entry.id for entry in entries if entry.parent < 0)
        words = f"{count:,} jobs submitted" if count > 1 else "submitted"
        self._event(db, "job.submit", who, words, job_id=tops[0] if tops else None)
        self._bump(db, "backlog")
        return Submitted(tops, count, refs)

    def _waits(self, db: Connection, entries: Sequence[Entry], refs: Mapping[str, int]) -> Waits:
        """What the jobs of a call are to wait for; BadInput names all that cannot be."""
        asked = [
            (entry, f"{entry.path}.depends_on[{index}]", one, one.on if isinstance(one, Dependency) else one)
            for entry in entries
            for index, one in enumerate(entry.spec.depends_on)
        ]
        if not asked:
            return Waits()
        new = {entry.id for entry in entries}
        old = sorted({target for *_, target in asked if isinstance(target, int)} - new)
        there = self._states(db, old).keys() | new
        ranges = self._ranges(db, old) | {entry.id for entry in entries if entry.spec.frames is not None}
        problems: dict[str, str] = {}
        waits = Waits()
        for entry, place, one, target in asked:
            on = refs.get(target, 0) if isinstance(target, str) else target
            if on not in there:
                words = f"no job in this call has ref {target!r}" if isinstance(target, str) else f"there is no job {target}"
                problems[place] = words
            elif problem := cannot_be(entry.id, on, one, ranges):
                problems[place] = problem
            waits.add(entry.id, on, one)
        if problems:
            raise BadInput(fields=problems)
        return waits

    def _insert(self, db: Connection, entries: list[Entry], edges: Sequence[Edge], changes: Changes) -> None:
        holds = holds_of(edges, {entry.id for entry in entries if entry.spec.depends_any})
        adding = Adding(self, db, entries, changes)
        for entry in entries:
            adding.add(entry, holds)
            adding.write_if_many()
        adding.count_up()
        self._add(db, adding.rows)

    def _add(self, db: Connection, rows: Rows) -> None:
        """Writes what was made."""
        INSERT_JOB.many(db, rows.jobs)
        INSERT_SPEC.many(db, rows.specs)
        self._many(db, INSERT_READY, rows.ready)
        db.execute(self._insert_new(group_count).values(group_id=FARM))
        if rows.groups:
            db.execute(insert(group_inherited), rows.groups)
            db.execute(insert(group_count), [{"group_id": group["group_id"]} for group in rows.groups])
        if rows.limits:
            db.execute(insert(farm_limit), rows.limits)
        if rows.watches:
            db.execute(insert(watch), rows.watches)


class Adding:
    """Makes the rows of new jobs, parents before children."""

    def __init__(self, store: Submit, db: Connection, entries: Sequence[Entry], changes: Changes) -> None:
        self.store, self.db, self.entries, self.changes = store, db, entries, changes
        self.rows = Rows()
        self.sets, self.chains = Sets(store, db), Chains(db)
        self.now = store.clock()
        self._above: dict[int, Above] = {}
        self._classes: dict[tuple[int, int, int, str], int] = {}
        self._new: Counter[tuple[int, JobState]] = Counter()

    def know(self, group: int, above: Above) -> None:
        """A group that is there already, with what it hands down."""
        self._above[group] = above

    def add(self, entry: Entry, all_holds: Mapping[int, int]) -> None:
        one, holds = entry.spec, all_holds.get(entry.id, 0)
        parent = self.entries[entry.parent].id if entry.parent >= 0 else one.parent
        if parent not in self._above:
            self._above[parent] = self.store._above(self.db, parent, f"{entry.path}.parent")
        up = self._above[parent]
        own = self.sets.own(one, entry.is_group)
        if entry.is_group:
            class_id, state = 0, JobState.WAITING  # it is empty yet; what it gets below it is counted up
            self._add_group(entry, parent, own, holds)
        else:
            class_id = self._class(parent, own, one.priority, one.user, entry.path)
            state = JobState.PENDING if holds + up.holds else JobState.WAITING
            self.count(parent, class_id, state, (entry.id,), up.paused or one.paused)
        order = (one.priority, own, class_id, str(state), one.paused, holds, one.retries)
        rules = (one.max_running, one.depends_any, one.decrease_priority_after)
        self.rows.jobs.append((entry.id, parent, entry.is_group, *order, None, None, None, *rules))
        template = Template.of(one)
        self.rows.specs.append(template.row(entry.id, parent, self.now, one.note, one.chunk if entry.frames else None))
        if row := self.store.watch_row(entry.id, one, parent):
            self.rows.watches.append(row)
        if entry.frames:
            leaf = JobSpec(user=one.user)
            own = self.sets.own(leaf, is_group=False)
            self.add_frames(entry.id, entry.id + 1, entry.frames, template, own, one.retries, all_holds)

    def _class(self, parent: int, own: int, priority: int, user: str, place: str) -> int:
        key = (parent, own, priority, user)
        if key not in self._classes:
            up = self._above[parent]
            path = path_below(up, priority, place)
            self._classes[key] = self.sets.leaf_class(own, up.set_id, path, user, self.chains.root(parent))
        return self._classes[key]

    def _add_group(self, entry: Entry, parent: int, own: int, holds: int) -> None:
        up = self._above[parent]
        token = group_limit(entry.id) if entry.spec.max_running else ""
        path = path_below(up, entry.spec.priority, entry.path)
        paused = up.paused or entry.spec.paused
        mine = self._above[entry.id] = Above(path, self.sets.handed(own, up.set_id, token), paused, holds + up.holds)
        self.chains.add(entry.id, parent)
        values = {"prio_path": mine.path, "set_id": mine.set_id, "paused": mine.paused, "holds": mine.holds}
        self.rows.groups.append({"group_id": entry.id, **values})
        if entry.spec.max_running:
            limit = {"name": group_limit(entry.id), "maximum": entry.spec.max_running, "per_host": False}
            self.rows.limits.append(limit)

    def add_frames(
        self,
        group: int,
        first_id: int,
        pieces: Sequence[Piece],
        template: Template,
        own: int,
        retries: int,
        holds: Mapping[int, int],
    ) -> None:
        """The jobs of a range; all they need of a worker is their range's."""
        up = self._above[group]
        class_id = self._class(group, own, DEFAULT_PRIORITY, template.user, "frames")
        for start in range(0, len(pieces), PIECE):
            some = pieces[start : start + PIECE]
            by_state: dict[JobState, list[int]] = {}
            for one, (first, last, step) in enumerate(some, first_id + start):
                held = holds.get(one, 0)
                state = JobState.PENDING if held or up.holds else JobState.WAITING
                by_state.setdefault(state, []).append(one)
                order = (DEFAULT_PRIORITY, own, class_id, str(state), False, held, retries)
                self.rows.jobs.append((one, group, False, *order, first, last, step if step > 1 else None, 0, False, 0))
            self.rows.specs += template.filled(group, first_id + start, some, self.now)
            for state, those in by_state.items():
                self.count(group, class_id, state, those, up.paused)
            self.write_if_many()

    def write_if_many(self) -> None:
        """Writes what was made so far once it is much: a million rows at a time would fill the memory."""
        if len(self.rows.jobs) >= PIECE:
            self.store._add(self.db, self.rows)
            self.rows = Rows()

    def count(self, parent: int, class_id: int, state: JobState, ids: Sequence[int], paused: bool) -> None:
        if state == JobState.WAITING and not paused:
            self.rows.ready += [(class_id, one) for one in ids]
            self.changes.fed.add(class_id)
        self._new[parent, state] += len(ids)

    def count_up(self) -> None:
        """Adds what was added to the counters above, once all is there."""
        for (parent, state), jobs in self._new.items():
            self.changes.count(self.chains[parent], total=jobs, **{COLUMN_OF[state]: jobs})


class Template(NamedTuple):  # made for each of 100,000 jobs, in a third of what a frozen dataclass takes
    """What the wide table has of a job; of a range, what its frames are made of."""

    title: str
    command: str | None
    url: str
    dir: str
    environment: str  # JSON
    user: str
    timeout_s: float
    progress_pattern: str | None
    rules: str | None  # JSON

    @classmethod
    def of(cls, one: JobSpec) -> Template:
        environment = json.dumps(dict(one.environment)) if one.environment else "{}"
        texts = (one.title, one.command, one.url, one.dir, environment)
        return cls(*texts, one.user, one.timeout_s, one.progress_pattern, rules_json(vars(one)))

    def row(self, job_id: int, parent: int, now: float, note: str, chunk: int | None) -> tuple[Any, ...]:
        texts = (self.title, self.command, self.dir, self.environment, self.user, self.timeout_s, self.url)
        return (job_id, parent, *texts, self.progress_pattern, now, self.rules, note, chunk)

    def texts(self, pieces: Iterable[Sequence[int]]) -> Iterator[tuple[str, str, str]]:
        """Title, command and url of the job for each of these frames."""
        title, command, url = (frames.filler(text or "") for text in (self.title, self.command, self.url))
        if title(0, 0) == self.title:
            title = _numbered(self.title)
        for first, last, *_ in pieces:
            yield title(first, last)[:MAX_TITLE], command(first, last), url(first, last)

    def filled(self, parent: int, first_id: int, pieces: Sequence[Piece], now: float) -> list[tuple[Any, ...]]:
        alike = (self.dir, self.environment, self.user, self.timeout_s)
        rest = (self.progress_pattern, now, self.rules, "", None)
        of_frames = enumerate(self.texts(pieces), first_id)
        return [(one, parent, title, command, *alike, url, *rest) for one, (title, command, url) in of_frames]


def _numbered(title: str) -> Callable[[int, int], str]:
    """A title without placeholders gets the frames at its end."""
    one, several = (frames.filler(f"{title} {names}".strip()) for names in ("{frame}", "{start}-{end}"))
    return lambda first, last: one(first, last) if first == last else several(first, last)


def rules_json(given: Mapping[str, Any]) -> str | None:
    """The column for the fields that only the worker needs; None if none of them is set."""
    if not any(map(given.get, RULES)):
        return None
    return json.dumps({name: given[name] for name in RULES if given.get(name)})


def _flatten(specs: Sequence[JobSpec]) -> list[Entry]:
    """All entries of a submission, parents before children, frame ranges cut into jobs. BadInput for what cannot be."""
    entries: list[Entry] = []
    count = 0
    stack = [(spec, -1, f"jobs[{index}]", 1) for index, spec in reversed(list(enumerate(specs)))]
    while stack:
        one, parent, path, depth = stack.pop()
        is_group = bool(one.group or one.children or one.frames is not None)
        _check_entry(one, parent, path, depth, is_group)
        pieces = pieces_of(one.frames, one.chunk, f"{path}.frames") if one.frames is not None else ()
        count += 1 + len(pieces)
        if count > MAX_NODES:
            raise TooLarge(fields={path: f"is beyond {MAX_NODES:,} jobs; submit the rest in further calls"})
        here = len(entries)
        entries.append(Entry(one, parent, path, is_group, pieces))
        stack += [(child, here, f"{path}.children[{i}]", depth + 1) for i, child in reversed(list(enumerate(one.children)))]
    return entries


def pieces_of(text: str, chunk: int, place: str) -> list[Piece]:
    """The frames of each job of a range; BadInput names the place in the call."""
    try:
        return frames.chunks(text, chunk)
    except BadInput as error:
        raise BadInput(fields={place: error.fields["frames"]}) from None


def _check_entry(one: JobSpec, parent: int, path: str, depth: int, is_group: bool) -> None:
    problems = {}
    if is_group and one.command and one.frames is None:
        problems[f"{path}.command"] = "a group has no command; give it to its children, or give `frames`"
    if one.frames is not None and one.children:
        problems[f"{path}.frames"] = "give either `frames` or `children`"
    if (not is_group or one.frames is not None) and not one.command:
        problems[f"{path}.command"] = "is missing; a job needs a command (or is a group)"
    if one.chunk != 1 and one.frames is None:
        problems[f"{path}.chunk"] = "is for frame ranges; give `frames`"
    if parent >= 0 and one.parent:
        problems[f"{path}.parent"] = "a child's parent is the group it stands in"
    if depth > MAX_DEPTH:
        problems[path] = f"is more than {MAX_DEPTH} levels deep"
    for name in () if is_group else OF_GROUPS:
        if getattr(one, name):
            problems[f"{path}.{name}"] = "is for groups and frame ranges"
    if problems:
        raise BadInput(fields=problems)


def _new_frames(entries: Sequence[Entry], waits: Waits) -> dict[int, list[Frame]]:
    """The frames of a call's ranges that rules are about."""
    ruled = {one for rule in waits.rules for one in rule[:2]}
    return {
        entry.id: [Frame(entry.id + 1 + at, entry.id, piece, "") for at, piece in enumerate(entry.frames)]
        for entry in entries
        if entry.id in ruled and entry.frames
    }


def _refs(entries: Sequence[Entry]) -> dict[str, int]:
    refs: dict[str, int] = {}
    for entry in entries:
        ref = entry.spec.ref
        if ref is not None:
            if ref in refs:
                raise BadInput(fields={f"{entry.path}.ref": f"{ref!r} is used twice"})
            refs[ref] = entry.id
    return refs
