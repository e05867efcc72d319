"""A farm in few words: what the store must do, computed from the bare facts each time, without counters, classes or queues.

It is slow and small on purpose. tests/test_store_reference.py drives it beside a real store and compares all they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

OVER = ("FINISHED", "ERROR")


@dataclass
class Node:
    id: int
    parent: int
    group: bool
    prio: int
    tags: frozenset[str]
    paused: bool
    retries: int = 0
    waits: list[int] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    max_running: int = 0
    # of a leaf: what became of it
    state: str = "IDLE"  # IDLE, WORKING, FINISHED, ERROR: whether it is WAITING or PENDING follows
    errors: int = 0
    not_before: float = 0.0
    attempt: int = 0  # the newest
    leased_at: float = 0.0
    avoid: int = 0
    held: dict[str, int] = field(default_factory=dict)  # tokens, as they were when it was leased


@dataclass(frozen=True)
class Machine:
    """A worker: its number, its tag lines, best first."""

    id: int
    lines: tuple[frozenset[str], ...]


class Reference:
    def __init__(self, limits: dict[str, int], machines: Sequence[Machine], retry_delay_s: float) -> None:
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
        return any(self.state(target) != "FINISHED" for one in self.up(leaf) for target in one.waits)

    # ------------------------------------------------------------ dispatch

    def lease(self, machine: Machine, count: int) -> list[int]:
        """The jobs that a worker gets, in order."""
        given: list[int] = []
        while len(given) < count:
            fitting = [(rank, leaf) for leaf in self.startable() if (rank := self.rank(leaf, machine)) is not None]
            if not fitting:
                break
            leaf = min(fitting, key=lambda pair: (pair[0], pair[1].id))[1]
            leaf.state, leaf.held, leaf.leased_at = "WORKING", self.tokens(leaf), self.now
            given.append(leaf.id)
        return given

    def startable(self) -> list[Node]:
        return [leaf for leaf in self.nodes.values() if self.may_start(leaf)]

    def may_start(self, leaf: Node) -> bool:
        if leaf.group or leaf.state != "IDLE" or leaf.not_before > self.now or self.is_held(leaf):
            return False
        return not any(one.paused for one in self.up(leaf)) and self.has_tokens(leaf)

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
        """What a leaf holds while it runs: tokens named by itself and above add up; each group with a maximum takes one."""
        held: dict[str, int] = {}
        for one in self.up(leaf):
            for name, count in one.limits.items():
                held[name] = held.get(name, 0) + count
            if one.group and one.max_running:
                held[f"group#{one.id}"] = 1
        return held

    def has_tokens(self, leaf: Node) -> bool:
        return all(self.used(name) + count <= self.maximum(name) for name, count in self.tokens(leaf).items())

    def used(self, name: str) -> int:
        return sum(leaf.held.get(name, 0) for leaf in self.nodes.values() if leaf.state == "WORKING")

    def maximum(self, name: str) -> int:
        group = self.nodes[int(name[6:])] if name.startswith("group#") else None
        return group.max_running if group else self.limits.get(name, 0)

    # ------------------------------------------------------------ ends

    def finish(self, leaf: Node) -> None:
        leaf.state, leaf.not_before = "FINISHED", 0.0

    def fail(self, leaf: Node, machine: int) -> None:
        leaf.errors += 1
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
                leaf.state, leaf.errors, leaf.not_before, leaf.avoid = "IDLE", 0, 0.0, 0

    def delete(self, ids: Sequence[int]) -> None:
        gone: set[int] = set()
        level = set(ids)
        while level:
            gone |= level
            level = {node.id for node in self.nodes.values() if node.parent in level} - gone
        for job_id in gone:
            del self.nodes[job_id]
        for node in self.nodes.values():
            node.waits = [target for target in node.waits if target not in gone]
