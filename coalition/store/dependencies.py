"""Dependencies: who waits for whom, what follows when a target has ended, is reset or deleted, and no cycles.

What a job names itself is a row in `dependency`. Frame by frame, two ranges have a row in `frame_rule`, which holds nothing; from
it follow rows in `dependency` between their frames (`by_rule`), always those of the frames that stand in the two ranges now.
A job's `holds` is how many of its rows are not met; of those that it names itself, with `needs_any`, 1 while none is met.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, case, delete, exists, func, insert, or_, select, update

from coalition import frames
from coalition.errors import BadInput
from coalition.frames import Piece
from coalition.model import Dependency
from coalition.schema import dependency, frame_rule, job, spec
from coalition.store.base import Hot, HotIn, chunks
from coalition.store.limits import Limits
from coalition.store.tree import FEED_CLASS, Changes, over

INSERT_DEPENDENCY = Hot(
    insert(dependency).values({c.name: bindparam(c.name) for c in dependency.c}), *(c.name for c in dependency.c)
)
NAMES_ANY = exists().where(dependency.c.job_id == job.c.id, dependency.c.by_rule.is_(False))
WAITS_OR_GROUP = or_(job.c.is_group, NAMES_ANY)
WAITING_OF = HotIn(lambda ids: select(job.c.id).where(job.c.id.in_(ids), WAITS_OR_GROUP))
PARENTS_OF = HotIn(lambda ids: select(job.c.id, job.c.parent).where(job.c.id.in_(ids)))
INSERT_RULE = Hot(insert(frame_rule).values({c.name: bindparam(c.name) for c in frame_rule.c}), *(c.name for c in frame_rule.c))
WAITERS = HotIn(
    lambda ids: (
        select(*dependency.c, job.c.needs_any).join(job, job.c.id == dependency.c.job_id).where(dependency.c.on_id.in_(ids))
    )
)
MEET = HotIn(
    lambda ids: (
        update(dependency)
        .where(dependency.c.on_id.in_(ids), dependency.c.done == bindparam("b_done"), dependency.c.met != bindparam("b_was"))
        .values(met=bindparam("b_met"))
    ),
    *("b_met", "b_done", "b_was"),
)
HOLD = HotIn(lambda ids: update(job).where(job.c.id.in_(ids)).values(holds=job.c.holds + bindparam("b_by")), "b_by")
RULES_AT = HotIn(lambda ids: select(*frame_rule.c).where(or_(frame_rule.c.job_id.in_(ids), frame_rule.c.on_id.in_(ids))))
DROP_OWN = HotIn(lambda ids: delete(dependency).where(dependency.c.job_id.in_(ids), dependency.c.by_rule.is_(False)))
DROP_BY_RULE = HotIn(lambda ids: delete(dependency).where(dependency.c.job_id.in_(ids), dependency.c.by_rule))
DROP_ON_BY_RULE = HotIn(lambda ids: delete(dependency).where(dependency.c.on_id.in_(ids), dependency.c.by_rule))
DROP_ON = HotIn(lambda ids: delete(dependency).where(dependency.c.on_id.in_(ids)))
DROP_RULES = HotIn(lambda ids: delete(frame_rule).where(frame_rule.c.job_id.in_(ids)))
DROP_RULES_ON = HotIn(lambda ids: delete(frame_rule).where(frame_rule.c.on_id.in_(ids)))
NEED_ANY = HotIn(lambda ids: update(job).where(job.c.id.in_(ids)).values(needs_any=bindparam("b_any")), "b_any")
RANGES_OF = HotIn(lambda ids: select(spec.c.job_id).where(spec.c.job_id.in_(ids), spec.c.chunk.is_not(None)))


def _recount(ids: Sequence[Any]) -> Any:
    """Counts the holds of jobs again."""
    mine, own = dependency.c.job_id == job.c.id, dependency.c.by_rule.is_(False)
    count = select(func.count()).select_from(dependency)
    ruled = count.where(mine, dependency.c.by_rule, dependency.c.met.is_(False)).scalar_subquery()
    unmet = count.where(mine, own, dependency.c.met.is_(False)).scalar_subquery()
    met = count.where(mine, own, dependency.c.met).scalar_subquery()
    any_unmet = case((and_(unmet > 0, met == 0), 1), else_=0)
    return update(job).where(job.c.id.in_(ids)).values(holds=ruled + case((job.c.needs_any, any_unmet), else_=unmet))


RECOUNT = HotIn(_recount)
HOLDS_OF = HotIn(lambda ids: select(job.c.id, job.c.holds).where(job.c.id.in_(ids)))
TOLD = 20  # jobs that go on in one transaction, each with an event of its own
FRAME_COLUMNS = [job.c[name] for name in ("id", "parent", "first_frame", "last_frame", "frame_step", "state")]
FRAMES_IN = HotIn(lambda ids: select(*FRAME_COLUMNS).where(job.c.parent.in_(ids), job.c.first_frame.is_not(None)))
FRAMES_BY_ID = HotIn(lambda ids: select(*FRAME_COLUMNS).where(job.c.id.in_(ids), job.c.first_frame.is_not(None)))

Edge = tuple[int, bool, int, bool, bool]  # a row of `dependency`: job, by rule, target, met, done


class Rule(NamedTuple):
    """A row of `frame_rule`."""

    job_id: int
    on_id: int
    step: int
    shift: int
    done: bool


class Frame(NamedTuple):
    """A job of a frame range."""

    id: int
    parent: int
    piece: Piece
    state: str

    @classmethod
    def of(cls, job_id: int, parent: int, first: int, last: int, step: int | None, state: str) -> Frame:
        return cls(job_id, parent, (first, last, step or 1), state)


Frames = Mapping[int, Sequence[Frame]]  # by range


@dataclass
class Waits:
    """What jobs of a call are to wait for."""

    whole: dict[tuple[int, int], bool] = field(default_factory=dict)  # (job, target) -> also when it ended in ERROR
    rules: dict[Rule, None] = field(default_factory=dict)

    def add(self, job_id: int, on_id: int, asked: int | str | Dependency) -> None:
        """Of two dependencies on the same the stricter one holds."""
        one = asked if isinstance(asked, Dependency) else Dependency(on_id)
        done = one.until == "done"
        if one.frames:
            self.rules[Rule(job_id, on_id, one.step, one.shift, done)] = None
        else:
            self.whole[job_id, on_id] = self.whole.get((job_id, on_id), True) and done

    def strict(self) -> list[Rule]:
        """The rules, each once."""
        kept: dict[tuple[int, int, int, int], bool] = {}
        for rule in self.rules:
            key = (rule.job_id, rule.on_id, rule.step, rule.shift)
            kept[key] = kept.get(key, True) and rule.done
        return [Rule(*key, done) for key, done in kept.items()]


def edges_between(rules: Iterable[Rule], waiting: Frames, there: Frames) -> list[Edge]:
    """The rows that follow from rules for these frames."""
    found: dict[tuple[int, int], tuple[bool, str]] = {}
    for rule in rules:
        ours, theirs = waiting.get(rule.job_id, ()), there.get(rule.on_id, ())
        pieces = [one.piece for one in ours], [one.piece for one in theirs]
        for at, on in frames.overlaps(*pieces, rule.step, rule.shift):
            key = ours[at].id, theirs[on].id
            found[key] = (found.get(key, (True, ""))[0] and rule.done, theirs[on].state)
    return [(one, True, on, over(state)[done], done) for (one, on), (done, state) in found.items()]


def holds_of(edges: Iterable[Edge], needs_any: set[int]) -> dict[int, int]:
    """How many holds the jobs of new rows have."""
    holds: dict[int, int] = {}
    relieved = {one for one, by_rule, _, met, _ in edges if met and not by_rule and one in needs_any}
    for one, by_rule, _, met, _ in edges:
        if by_rule or one not in needs_any:
            holds[one] = holds.get(one, 0) + (not met)
    for one in {one for one, by_rule, *_ in edges if not by_rule} & needs_any - relieved:
        holds[one] = holds.get(one, 0) + 1
    return holds


class Dependencies(Limits):
    """What follows from a job's end."""

    def _settle(self, db: Connection, changes: Changes) -> None:
        """Carries a transaction's changes upwards and across dependencies until nothing follows any more."""
        while changes.counts or changes.flips:
            self._apply_counts(db, changes)
            flips, changes.flips = changes.flips, {}
            self._flip(db, flips, changes)
        self._retime(db, changes)
        for class_id in sorted(changes.fed):
            FEED_CLASS.many(db, [(class_id,)])
        returned = self._return_tokens(db, changes)
        if changes.reclassed:
            self._hold_again(db, changes)
        if changes.fed or returned:
            self._bump(db, "ready")  # whoever knows that nothing is ready looks again

    def _flip(self, db: Connection, flips: Mapping[int, tuple[bool, bool]], changes: Changes) -> None:
        """Targets have ended, or are open again: whoever depends on them loses or gains a hold."""
        by: dict[int, int] = {}
        recount: set[int] = set()
        turned: dict[tuple[bool, bool], set[int]] = {}
        cause: dict[int, int] = {}
        for one, by_rule, on, met, done, needs_any in WAITERS.all(db, sorted(flips)):
            now = flips[on][bool(done)]
            if bool(met) == now:
                continue
            turned.setdefault((now, bool(done)), set()).add(on)
            cause[one] = on
            if needs_any and not by_rule:
                recount.add(one)
            else:
                by[one] = by.get(one, 0) + (-1 if now else 1)
        for (now, done), targets in turned.items():
            MEET.run(db, sorted(targets), now, done, now)
        before = dict(HOLDS_OF.all(db, sorted(cause)))
        self._hold(db, by, recount, changes)
        self._tell_held(db, before, cause, "is open again", "has ended")

    def _tell_held(self, db: Connection, before: Mapping[int, int], cause: Mapping[int, int], opened: str, ended: str) -> None:
        """An event for each of a few jobs that go on or wait again, one for all of many, with what their targets did."""
        told: dict[bool, list[int]] = {False: [], True: []}
        for job_id, holds in HOLDS_OF.all(db, sorted(before)):
            if bool(holds) != bool(before[job_id]):
                told[bool(holds)].append(job_id)
        for waits, ids in told.items():
            kind, words = ("job.block", opened) if waits else ("job.unblock", ended)
            for one in ids if len(ids) <= TOLD else ():
                self._event(db, kind, "server", f"#{cause[one]} {words}", job_id=one)
            if len(ids) > TOLD:
                targets = sorted({cause[one] for one in ids})
                text = f"{len(ids):,} jobs, #{min(ids)} to #{max(ids)}: #{targets[0]}{' and others' * (len(targets) > 1)} {words}"
                self._event(db, kind, "server", text)

    def _hold(self, db: Connection, by: Mapping[int, int], recount: Iterable[int], changes: Changes) -> None:
        """Jobs gain or lose holds."""
        alike: dict[int, list[int]] = {}
        for job_id, delta in sorted(by.items()):
            alike.setdefault(delta, []).append(job_id)
        for delta, ids in alike.items():
            if delta:
                HOLD.run(db, ids, delta)
        again = sorted(recount)
        RECOUNT.run(db, again)
        if affected := sorted({*by, *again}):
            self._refresh(db, affected, changes)

    def _free_waiters(self, db: Connection, ids: Sequence[int], changes: Changes, who: str) -> None:
        """The stated rule: a dependency on a deleted job is dropped, and whoever waited for nothing else goes on."""
        by: dict[int, int] = {}
        recount: set[int] = set()
        told = {(rule.job_id, rule.on_id): "dependency frame by frame" for rule in self._rules_at(db, ids)}
        gone = set(ids)
        DROP_RULES.run(db, ids)
        DROP_RULES_ON.run(db, ids)
        for one, by_rule, on, met, _, needs_any in WAITERS.all(db, ids):
            if needs_any and not by_rule:
                recount.add(one)
            else:
                by[one] = by.get(one, 0) - (not met)
            told[one, on] = "dependency"
        DROP_ON.run(db, ids)
        told = {(one, on): words for (one, on), words in told.items() if one not in gone}
        if len(told) > 100:
            self._event(db, "job.freed", who, f"{len(told):,} dependencies dropped: what they were on was deleted")
        for (one, on), words in sorted(told.items()) if len(told) <= 100 else ():
            self._event(db, "job.freed", who, f"{words} on #{on} dropped: it was deleted", job_id=one)
        self._hold(db, by, recount, changes)

    # ------------------------------------------------------------ new ones

    def _rules_at(self, db: Connection, ids: Sequence[int]) -> list[Rule]:
        """The rules of and on these ranges."""
        return list(dict.fromkeys(Rule._make(row) for row in RULES_AT.all(db, ids)))

    def _frames_in(self, db: Connection, ranges: Iterable[int]) -> dict[int, list[Frame]]:
        found: dict[int, list[Frame]] = {}
        for row in FRAMES_IN.all(db, sorted(set(ranges))):
            found.setdefault(row[1], []).append(Frame.of(*row))
        return found

    def _edges_of(self, db: Connection, waits: Waits, new: Frames) -> list[Edge]:
        """The rows for what jobs are to wait for; `new` are frames that the tables do not have yet."""
        now = self._over(db, sorted({on for _, on in waits.whole}))
        edges: list[Edge] = [(one, False, on, now.get(on, (False, False))[done], done) for (one, on), done in waits.whole.items()]
        if waits.rules:
            there = self._frames_in(db, {one for rule in waits.rules for one in rule[:2]} - new.keys())
            all_frames = {**there, **new}
            edges += edges_between(waits.strict(), all_frames, all_frames)
        return edges

    def _write_waits(self, db: Connection, waits: Waits, edges: Sequence[Edge]) -> None:
        self._many(db, INSERT_RULE, waits.strict())
        self._many(db, INSERT_DEPENDENCY, edges)

    def _depend(self, db: Connection, ids: Sequence[int], asked: Sequence[int | str | Dependency]) -> None:
        """Gives jobs other dependencies, instead of all that they name now."""
        waits = self._asked(db, ids, asked)
        old = {rule.job_id for rule in self._rules_at(db, ids)} & set(ids)
        ranges = sorted(old | {rule.job_id for rule in waits.rules})
        framed = [frame.id for those in self._frames_in(db, ranges).values() for frame in those]
        DROP_OWN.run(db, ids)
        DROP_RULES.run(db, ids)
        DROP_BY_RULE.run(db, framed)
        self._write_waits(db, waits, self._edges_of(db, waits, {}))
        RECOUNT.run(db, [*ids, *framed])

    def _asked(self, db: Connection, ids: Sequence[int], asked: Sequence[int | str | Dependency]) -> Waits:
        """What an edit asks for; BadInput names the first that cannot be."""
        targets = [one.on if isinstance(one, Dependency) else one for one in asked]
        numbers = [target for target in targets if isinstance(target, int)]
        there = self._over(db, sorted(set(numbers)))
        ranges = self._ranges(db, [*ids, *numbers])
        waits = Waits()
        for index, (target, one) in enumerate(zip(targets, asked, strict=True)):
            place = f"changes.depends_on[{index}]"
            if not isinstance(target, int):
                raise BadInput(fields={place: f"{target!r} is not a job; a `ref` is for jobs of one submission"})
            if target not in there:
                raise BadInput(fields={place: f"there is no job {target}"})
            for job_id in ids:
                if problem := cannot_be(job_id, target, one, ranges):
                    raise BadInput(fields={place: problem})
                waits.add(job_id, target, one)
        return waits

    def _ranges(self, db: Connection, ids: Iterable[int]) -> set[int]:
        """Which of them are frame ranges."""
        return {row[0] for row in RANGES_OF.all(db, sorted(set(ids)))}

    def _link(self, db: Connection, frames_of: Frames, changes: Changes) -> list[Edge]:
        """The rows for frames that are added to ranges; whoever waits there for them now, too, is held."""
        rules = self._rules_at(db, sorted(frames_of))
        others = {rule.on_id for rule in rules} | {rule.job_id for rule in rules}
        there = self._frames_in(db, others) if rules else {}
        mine = edges_between(rules, frames_of, there)
        theirs = edges_between(rules, there, frames_of)
        edges = list({(edge[0], edge[2]): edge for edge in (*mine, *theirs)}.values())
        self._many(db, INSERT_DEPENDENCY, edges)
        own = {frame.id for those in frames_of.values() for frame in those}
        by = {one: holds for one, holds in holds_of(edges, set()).items() if one not in own}
        before = dict(HOLDS_OF.all(db, sorted(by)))
        self._hold(db, by, (), changes)
        self._tell_held(db, before, {edge[0]: edge[2] for edge in edges}, "came to the range", "")
        return edges

    def _unlink(self, db: Connection, ids: Sequence[int], changes: Changes) -> None:
        """Frames leave their ranges: what followed from rules for them is dropped."""
        moved = set(ids)
        by: dict[int, int] = {}
        cause: dict[int, int] = {}
        for one, by_rule, on, met, *_ in WAITERS.all(db, ids):
            if by_rule and one not in moved:
                by[one] = by.get(one, 0) - (not met)
                cause[one] = on
        before = dict(HOLDS_OF.all(db, sorted(by)))
        DROP_ON_BY_RULE.run(db, ids)
        DROP_BY_RULE.run(db, ids)
        RECOUNT.run(db, ids)
        self._hold(db, by, (), changes)
        self._tell_held(db, before, cause, "", "left the range")

    # ------------------------------------------------------------ cycles

    def _refuse_cycle(self, db: Connection, ids: Sequence[int]) -> None:
        """BadInput with the path, if the end of one of these jobs would have to wait for itself.

        A job has a start and an end. An end waits for its own start and, in a group, for the ends of the children; a start
        waits for the parent's start and for the ends of what the job depends on.
        """
        origins = self._origins(db, ids)
        graph = self._waits_for(db, origins)
        done: set[tuple[str, int]] = set()
        for origin in origins:
            path = _find_cycle(graph, origin, done)
            if path:
                words = " -> ".join(f"#{one}" for one in path)
                raise BadInput(f"the dependencies would form a cycle: {words}", fields={"depends_on": f"cycle: {words}"})

    def _origins(self, db: Connection, ids: Sequence[int]) -> list[tuple[str, int]]:
        """Where a cycle through these jobs is looked for: of leaves that wait for nothing themselves, at their groups."""
        waiting = {row[0] for row in WAITING_OF.all(db, ids)}
        groups = {row[1] for row in PARENTS_OF.all(db, ids) if row[0] not in waiting}
        return [*(("end", one) for one in sorted(waiting)), *(("start", one) for one in sorted(groups - {0}))]

    def _waits_for(self, db: Connection, origins: Iterable[tuple[str, int]]) -> dict[tuple[str, int], list[tuple[str, int]]]:
        graph: dict[tuple[str, int], list[tuple[str, int]]] = {}
        frontier = set(origins)
        while frontier:
            for one in frontier:
                graph[one] = [("start", one[1])] if one[0] == "end" else []
            starts = sorted(job_id for kind, job_id in frontier if kind == "start")
            ends = sorted(job_id for kind, job_id in frontier if kind == "end")
            for chunk in chunks(starts):
                own = select(dependency.c.job_id, dependency.c.on_id).where(dependency.c.by_rule.is_(False))
                for row in db.execute(own.where(dependency.c.job_id.in_(chunk))):
                    graph["start", row.job_id].append(("end", row.on_id))
                ruled = select(frame_rule.c.job_id, frame_rule.c.on_id).where(frame_rule.c.job_id.in_(chunk)).distinct()
                for row in db.execute(ruled):
                    graph["start", row.job_id].append(("end", row.on_id))
                for row in db.execute(select(job.c.id, job.c.parent).where(job.c.id.in_(chunk), job.c.parent != 0)):
                    graph["start", row.id].append(("start", row.parent))
            for chunk in chunks(ends):
                # A leaf that waits for nothing itself adds no way that its group does not have.
                for row in db.execute(select(job.c.id, job.c.parent).where(job.c.parent.in_(chunk), WAITS_OR_GROUP)):
                    graph["end", row.parent].append(("end", row.id))
            frontier = {two for one in frontier for two in graph[one]} - graph.keys()
        return graph


def _find_cycle(
    graph: Mapping[tuple[str, int], Sequence[tuple[str, int]]], origin: tuple[str, int], done: set[tuple[str, int]]
) -> list[int] | None:
    """The jobs on a cycle that can be reached from `origin`, first and last the same; None if there is none."""
    path: list[tuple[str, int]] = []
    on_path: set[tuple[str, int]] = set()
    stack = [(origin, iter(graph[origin]))] if origin not in done else []
    while stack:
        node, following = stack[-1]
        if node not in on_path:
            path.append(node)
            on_path.add(node)
        step = next((two for two in following if two not in done), None)
        if step is None:
            stack.pop()
            on_path.discard(path.pop())
            done.add(node)
        elif step in on_path:
            jobs = [job_id for _, job_id in [*path[path.index(step) :], step]]
            return [one for index, one in enumerate(jobs) if index == 0 or one != jobs[index - 1]]
        else:
            stack.append((step, iter(graph[step])))
    return None


def cannot_be(job_id: int, target: int, asked: int | str | Dependency, ranges: set[int]) -> str | None:
    """Why a job cannot depend on a target in this way; None if it can."""
    if job_id == target:
        return "a job cannot depend on itself"
    if not (isinstance(asked, Dependency) and asked.frames) or {job_id, target} <= ranges:
        return None
    return f"job {min({job_id, target} - ranges)} is no frame range; `frames` is for two of them"
