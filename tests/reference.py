"""A farm in few words: what the store must do, computed from the bare facts each time, without counters, classes or queues.

It is slow and small on purpose. tests/test_store_reference.py drives it beside a real store and compares all they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

OVER = ("FINISHED", "ERROR")


@dataclass(frozen=True)
class Wait:
    """One dependency: on a job or group; with `frames`, of a range on the jobs of another one that hold n * step + shift."""

    on: int
    done: bool = False
    frames: bool = False
    step: int = 1
    shift: int = 0


@dataclass
class Node:
    id: int
    parent: int
    group: bool
    prio: int
    tags: frozenset[str]
    paused: bool
    retries: int = 0
    waits: list[Wait] = field(default_factory=list)
    any: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    max_running: int = 0
    chunk: int = 0  # of a frame range
    span: range | None = None  # of one of its jobs
    sink_after: int = 0
    sunk_from: int | None = None
    # of a leaf: what became of it
    state: str = "IDLE"  # IDLE, WORKING, FINISHED, ERROR: whether it is WAITING or PENDING follows
    errors: int = 0  # of a group: of all below it
    skipped: bool = False
    machine: int = 0
    not_before: float = 0.0
    attempt: int = 0  # the newest
    leased_at: float = 0.0
    avoid: int = 0


@dataclass(frozen=True)
class Machine:
    """A worker: its number, its tag lines, best first."""

    id: int
    lines: tuple[frozenset[str], ...]


class Reference:
    def __init__(self, limits: dict[str, tuple[int, bool]], machines: Sequence[Machine], retry_delay_s: float) -> None:
        self.nodes: dict[int, Node] = {}
        self.limits, self.machines, self.retry_delay_s = limits, machines, retry_delay_s
        self.now = 0.0

    # ------------------------------------------------------------ the tree

    def up(self, node: Node) -> Iterator[Node]:
        """The node and the groups above it."""
        while True:
            yield node
            if not node.parent:
                return
            node = self.nodes[node.parent]

    def children(self, job_id: int) -> list[Node]:
        return [node for node in self.nodes.values() if node.parent == job_id]

    def leaves(self, job_id: int) -> list[Node]:
        node = self.nodes[job_id]
        return [leaf for child in self.children(job_id) for leaf in self.leaves(child.id)] if node.group else [node]

    def leaves_of(self, ids: Iterable[int]) -> list[Node]:
        return list({leaf.id: leaf for job_id in ids for leaf in self.leaves(job_id)}.values())

    def outermost(self, ids: Sequence[int]) -> list[int]:
        """Without those that lie below others of the list: they come along with them."""
        return [one for one in ids if not any(above.id in ids for above in self.up(self.nodes[one]) if above.id != one)]

    # ------------------------------------------------------------ what follows

    def state(self, job_id: int) -> str:
        node = self.nodes[job_id]
        if not node.group:
            return node.state if node.state != "IDLE" else "PENDING" if self.is_held(node) else "WAITING"
        states = {self.state(leaf.id) for leaf in self.leaves(job_id)}
        if not states:
            return "WAITING"
        return next(state for state in ("ERROR", "WORKING", "WAITING", "PENDING", "FINISHED") if state in states)

    def is_held(self, leaf: Node) -> bool:
        return any(self.is_held_by(one, leaf) for one in self.up(leaf))

    def is_held_by(self, node: Node, leaf: Node) -> bool:
        """Whether the dependencies of a node hold the leaf, which is itself or below it."""
        whole = [self.is_over(wait.on, wait.done) for wait in node.waits if not wait.frames]
        if whole and not (any(whole) if node.any else all(whole)):
            return True
        rules = [wait for wait in node.waits if wait.frames and leaf.parent == node.id]
        return not all(self.is_over(other.id, wait.done) for wait in rules for other in self.frames_for(wait, leaf))

    def is_over(self, job_id: int, done: bool) -> bool:
        states = {leaf.state for leaf in self.leaves(job_id)}
        return bool(states) and states <= set(OVER if done else OVER[:1])

    def frames_for(self, wait: Wait, leaf: Node) -> list[Node]:
        wanted = {frame * wait.step + wait.shift for frame in leaf.span or ()}
        return [other for other in self.children(wait.on) if wanted & set(other.span or ())]

    # ------------------------------------------------------------ dispatch

    def lease(self, machine: Machine, count: int) -> list[int]:
        """The jobs that a worker gets, in order."""
        given: list[int] = []
        while len(given) < count:
            free = [leaf for leaf in self.nodes.values() if self.may_start(leaf) and self.has_tokens(leaf, machine.id)]
            fitting = [(rank, leaf) for leaf in free if (rank := self.rank(leaf, machine)) is not None]
            if not fitting:
                break
            leaf = min(fitting, key=lambda pair: (pair[0], pair[1].id))[1]
            leaf.state, leaf.machine, leaf.leased_at = "WORKING", machine.id, self.now
            given.append(leaf.id)
        return given

    def may_start(self, leaf: Node) -> bool:
        if leaf.group or leaf.state != "IDLE" or leaf.not_before > self.now or self.is_held(leaf):
            return False
        return not any(one.paused for one in self.up(leaf))

    def rank(self, leaf: Node, machine: Machine) -> tuple[int, tuple[int, ...]] | None:
        """(line, path) to sort by; None if the worker may not have it."""
        tags: frozenset[str] = frozenset().union(*(one.tags for one in self.up(leaf)))
        line = self.line(tags, machine)
        others = [other for other in self.machines if other.id != machine.id and self.line(tags, other) is not None]
        if line is None or (leaf.avoid == machine.id and others):
            return None
        path = [one.prio for one in self.up(leaf)][::-1]
        while path and path[-1] == 0:
            path.pop()
        return line, (*(-prio for prio in path), 1)

    @staticmethod
    def line(tags: frozenset[str], machine: Machine) -> int | None:
        if not tags:
            return len(machine.lines)
        return next((index for index, line in enumerate(machine.lines) if tags <= line), None)

    # ------------------------------------------------------------ limits

    def tokens(self, leaf: Node) -> dict[str, int]:
        """What a leaf holds while it runs: of those named by itself and above, the most; each group with a maximum takes one."""
        held: dict[str, int] = {}
        for one in self.up(leaf):
            for name, count in one.limits.items():
                held[name] = max(held.get(name, 0), count)
            if one.group and one.max_running:
                held[f"group#{one.id}"] = 1
        return held

    def has_tokens(self, leaf: Node, machine: int) -> bool:
        return all(self.used(name, machine) + count <= self.maximum(name)[0] for name, count in self.tokens(leaf).items())

    def used(self, name: str, machine: int) -> int:
        per_host = self.maximum(name)[1]
        working = [leaf for leaf in self.nodes.values() if leaf.state == "WORKING"]
        return sum(self.tokens(leaf).get(name, 0) for leaf in working if not per_host or leaf.machine == machine)

    def maximum(self, name: str) -> tuple[int, bool]:
        if name.startswith("group#"):
            return self.nodes[int(name[6:])].max_running, False
        return self.limits.get(name, (0, False))

    # ------------------------------------------------------------ ends

    def finish(self, leaf: Node) -> None:
        leaf.state, leaf.not_before = "FINISHED", 0.0

    def fail(self, leaf: Node, machine: int) -> None:
        leaf.errors += 1
        for group in list(self.up(leaf))[1:]:
            group.errors += 1
            if group.sink_after and group.errors >= group.sink_after and group.sunk_from is None:
                group.sunk_from, group.prio = group.prio, 0
        if leaf.errors <= leaf.retries:
            leaf.state, leaf.avoid = "IDLE", machine
            leaf.not_before = self.now + self.retry_delay_s * 2.0 ** (leaf.errors - 1)
        else:
            leaf.state, leaf.not_before = "ERROR", 0.0

    def put_back(self, leaf: Node) -> None:
        leaf.state = "IDLE"

    # ------------------------------------------------------------ by hand

    def pause(self, ids: Sequence[int]) -> None:
        for job_id in ids:
            self.nodes[job_id].paused = True
        for leaf in self.leaves_of(ids):
            if leaf.state == "WORKING":
                self.put_back(leaf)

    def start(self, ids: Sequence[int]) -> None:
        for job_id in ids:
            self.nodes[job_id].paused = False

    def reset(self, ids: Sequence[int], errors_only: bool) -> None:
        for leaf in self.leaves_of(ids):
            if leaf.state in (("ERROR",) if errors_only else (*OVER, "WORKING")):
                leaf.state, leaf.errors, leaf.not_before, leaf.avoid, leaf.skipped = "IDLE", 0, 0.0, 0, False
            elif not errors_only:
                leaf.errors, leaf.not_before, leaf.avoid = 0, 0.0, 0
        for group in [node for node in self.nodes.values() if node.group and any(one.id in ids for one in self.up(node))]:
            group.prio = group.prio if group.sunk_from is None else group.sunk_from
            group.sunk_from, group.errors = None, 0

    def skip(self, ids: Sequence[int]) -> None:
        for leaf in self.leaves_of(ids):
            if leaf.state != "FINISHED":
                self.finish(leaf)
                leaf.skipped = True

    def give_priority(self, node: Node, priority: int) -> None:
        node.prio = priority
        if node.sunk_from is not None:
            node.sunk_from, node.errors = None, 0

    def append(self, group: Node, first_id: int, pieces: Sequence[range]) -> None:
        for number, span in enumerate(pieces, first_id):
            self.nodes[number] = Node(number, group.id, False, 127, frozenset(), False, group.retries, span=span)

    def delete(self, ids: Sequence[int]) -> None:
        gone: set[int] = set()
        level = set(ids)
        while level:
            gone |= level
            level = {node.id for node in self.nodes.values() if node.parent in level} - gone
        for job_id in gone:
            del self.nodes[job_id]
        for node in self.nodes.values():
            node.waits = [wait for wait in node.waits if wait.on not in gone]
