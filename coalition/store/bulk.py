"""One action on many jobs or machines, of jobs by id or by filter: all or none, or all that may be; or only what it would do.

The jobs that fit a filter are found in the transaction that acts on them. What is refused of each job is looked at first: jobs
that are not there, that others own (or something below them), or of a kind that an edit is not for. What is wrong with the call
as a whole, such as a cycle of dependencies that an edit would make, refuses all of it, partial or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

from sqlalchemy import Connection, bindparam, func, or_, select

from coalition.errors import BadInput, CoalitionError, Conflict, NotAllowed, NotFound
from coalition.filters import Term
from coalition.model import Changed, Counts, Happening, JobSpec, NotDone, Rehearsal
from coalition.schema import event, job, spec
from coalition.store import lists, sight
from coalition.store.archive import Archive
from coalition.store.base import HotIn, inside, rehearse, writes
from coalition.store.cloud import Cloud
from coalition.store.edit import RANGES, unfit
from coalition.store.jobs import Jobs
from coalition.store.tree import IDS

TOLD = 100  # refusals in a problem body, and events of a rehearsal
ACTS: Mapping[str, Callable[..., int]] = {
    name: inside(getattr(Jobs, name)) for name in ("edit", "pause", "start", "reset", "skip", "delete")
}
# Of machines there are few: what is refused of each is seen by trying.
ACTS_ON_EACH: Mapping[str, Callable[..., int]] = {
    name: inside(getattr(Cloud, name))
    for name in ("edit_workers", "drain_workers", "resume_workers", "delete_workers", "mark_instances")
}
REFUSALS: Mapping[int, type[CoalitionError]] = {403: NotAllowed, 404: NotFound, 409: Conflict, 422: BadInput}


def _kin(column: Any) -> HotIn:
    """Jobs with whose they are: groups, and what is not the owner's."""
    worth = or_(job.c.is_group, spec.c.user != bindparam("b_owner"))
    query = select(job.c.id, job.c.parent, job.c.is_group, spec.c.user).join(spec, spec.c.job_id == job.c.id)
    return HotIn(lambda ids: query.where(column.in_(ids), worth), "b_owner")


KIN, KIN_BELOW = _kin(job.c.id), _kin(job.c.parent)


@dataclass(frozen=True)
class Action:
    """What to do to which jobs. `values` are what it takes beside them; with an `owner`, only to that user's jobs."""

    name: str  # of ACTS, or of ACTS_ON_EACH
    ids: Sequence[int] = ()
    terms: tuple[Term, ...] = ()  # without ids: all that fit
    values: tuple[Any, ...] = ()
    owner: str | None = None
    partial: bool = False
    viewer: str | None = None  # to whom others' jobs are not there


class Bulk(Archive):
    """Actions on selections, as people call them."""

    @writes
    def act(self, db: Connection, action: Action, who: str = "") -> Changed:
        """Does it to all jobs, or raises and changes nothing. With `partial`: to all but those whose refusals are told.

        The error is that of the worst refusal (NotAllowed, NotFound, BadInput); `refused` in it has the first of them.
        """
        ids = list(dict.fromkeys(action.ids)) if action.ids else lists.every(db, action.terms, action.viewer)
        refused = self._refusals(db, ids, action)
        if refused and not action.partial:
            _refuse(refused)
        done = [one for one in ids if one not in refused]
        if done:
            ACTS[action.name](self, db, done, *action.values, who)
        told = tuple(NotDone(one, error.status, error.detail) for one, error in refused.items())
        return Changed(len(done), tuple(done), told)

    @writes
    def act_in_turn(self, db: Connection, actions: Sequence[Action], who: str = "") -> Changed:
        """Does one action after the other, all of them or none; the jobs that were changed."""
        act = inside(Bulk.act)
        ids = tuple(dict.fromkeys(one for action in actions for one in act(self, db, action, who).ids))
        return Changed(len(ids), ids, ())

    @writes
    def act_on_each(self, db: Connection, action: Action, who: str = "") -> Changed:
        """The same of workers or instances, which are changed one by one."""
        done: list[int] = []
        refused: dict[int, CoalitionError] = {}
        for one in dict.fromkeys(action.ids):
            try:
                with db.begin_nested():
                    if not ACTS_ON_EACH[action.name](self, db, [one], *action.values, who):
                        raise Conflict(f"{one} is not in a state that allows this")
            except CoalitionError as error:
                if error.status not in REFUSALS:
                    raise
                refused[one] = error
            else:
                done.append(one)
        if refused and not action.partial:
            _refuse(refused)
        return Changed(len(done), tuple(done), tuple(NotDone(one, e.status, e.detail) for one, e in refused.items()))

    def rehearse(self, action: Action, who: str = "") -> Changed:
        """What `act`, or `act_on_each`, would answer, and what would have happened; nothing is changed."""

        def play(store: Bulk, db: Connection) -> Changed:
            before, last = store._farm(db, action.viewer), _last_event(db)
            act = inside(Bulk.act) if action.name in ACTS else inside(Bulk.act_on_each)
            done = act(store, db, action, who)
            return Changed(
                done.changed, done.ids, done.refused, Rehearsal(before, store._farm(db, action.viewer), _events(db, last))
            )

        return rehearse(self, play)

    def rehearse_submit(self, specs: Sequence[JobSpec], who: str = "", viewer: str | None = None) -> tuple[int, Rehearsal]:
        """How many jobs a submission would make, and what would have happened; BadInput as the submission itself."""

        def play(store: Bulk, db: Connection) -> tuple[int, Rehearsal]:
            before, last = store._farm(db, viewer), _last_event(db)
            made = store._submit(db, specs, who)
            events = tuple(Happening(one.kind, None, one.text) for one in _events(db, last))  # its jobs' numbers are given back
            return made.count, Rehearsal(before, store._farm(db, viewer), events)

        return rehearse(self, play)

    def _farm(self, db: Connection, viewer: str | None) -> Counts:
        return Counts(**(lists.counts(db, None) if viewer is None else sight.counts(db, viewer, None)))

    # ------------------------------------------------------------ what is refused

    def _refusals(self, db: Connection, ids: Sequence[int], action: Action) -> dict[int, CoalitionError]:
        """The jobs that the action is not for, each with the error that it alone would have been."""
        refused: dict[int, CoalitionError] = {}
        kinds = dict(IDS.all(db, ids))
        if action.viewer is not None:
            mine = sight.own(db, list(kinds), action.viewer)
            kinds = {one: is_group for one, is_group in kinds.items() if one in mine}
        for one in ids:
            if one not in kinds:
                refused[one] = NotFound(f"there is no job {one}", fields={"ids": f"no job {one}"})
        if action.owner is not None:
            for one, whose in self._others(db, list(kinds), action.owner).items():
                whose = whose if action.viewer is None else "somebody else"
                words = f"job {one} is {whose}'s, or has some of theirs below it"
                refused[one] = NotAllowed(f"{action.owner} may change own jobs only; {words}")
        if action.name == "edit":
            given = {name: value for name, value in vars(action.values[0]).items() if value is not None}
            refused = {**self._unfit(db, kinds, given), **refused}
        return refused

    def _others(self, db: Connection, ids: Sequence[int], owner: str) -> dict[int, str]:
        """Those of the jobs that are somebody else's, or have something below them that is, with a name."""
        above: dict[int, int] = {}
        foreign: dict[int, str] = {}
        level = KIN.all(db, ids, owner)
        while level:
            foreign.update((one, user) for one, _, _, user in level if user != owner)
            groups = [one for one, _, is_group, _ in level if is_group and one not in above]
            above.update((one, parent) for one, parent, _, _ in level)
            level = KIN_BELOW.all(db, groups, owner)
        chosen, found = set(ids), dict[int, str]()
        for one, user in sorted(foreign.items()):
            while one:
                if one in chosen:
                    found.setdefault(one, user or "nobody")
                one = above.get(one, 0)
        return found

    def _unfit(self, db: Connection, kinds: Mapping[int, bool], given: Mapping[str, Any]) -> dict[int, CoalitionError]:
        """The jobs that an edit of these fields is not for."""
        ranges = {row[0] for row in RANGES.all(db, list(kinds))} if "command" in given else set[int]()
        inside_of = set(self._ancestors(db, given["parent"])) if given.get("parent") else set[int]()
        refused: dict[int, CoalitionError] = {}
        for one, is_group in kinds.items():
            problems = unfit(one, is_group, one in ranges, given)
            if one in inside_of:
                problems["changes.parent"] = f"{given['parent']} lies in job {one}, which would be moved into itself"
            if problems:
                refused[one] = BadInput(fields=problems)
        return refused


def _refuse(refused: Mapping[int, CoalitionError]) -> NoReturn:
    """Raises the worst of the refusals, with the others beside it."""
    worst = min(refused.values(), key=lambda error: error.status)
    more = f" (and {len(refused) - 1:,} more are refused; `partial` leaves them out)" if len(refused) > 1 else ""
    told = [{"id": one, "status": error.status, "detail": error.detail} for one, error in islice(refused.items(), TOLD)]
    raise REFUSALS[worst.status](worst.detail + more, fields=worst.fields, refused=told)


def _last_event(db: Connection) -> int:
    return int(db.execute(select(func.max(event.c.id))).scalar() or 0)


def _events(db: Connection, last: int) -> tuple[Happening, ...]:
    """The first of the events that this transaction has written."""
    query = select(event.c.kind, event.c.job_id, event.c.text).where(event.c.id > last).order_by(event.c.id).limit(TOLD)
    return tuple(Happening(*row) for row in db.execute(query))
