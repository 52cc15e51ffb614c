"""Shares of a common line: who has had how much, so that those who wait take turns by their weights.

Virtual time (start-time fair queueing) moves on by one unit, shared by all who wait, with each turn. Whoever takes a
turn has passed one unit, divided by the own weight; the one that has passed least is next. Whoever comes begins at the
virtual time, so nobody saves turns up while having nothing to do, and is owed one unit at most for turns that could
not be taken, since nobody had room for that kind of task.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DEFAULT_WEIGHT", "MAX_WEIGHT", "UNIT", "Root", "Tenant", "passed_after"]

#: One turn of weight 1, in virtual time. Integers, so that the same turns follow on every machine.
UNIT = 1 << 30
DEFAULT_WEIGHT, MAX_WEIGHT = 1, 1_000


def passed_after(passed: int, clock: int, stride: int) -> int:
    """What somebody has passed after a turn that costs `stride`, at that virtual time."""
    return max(passed, clock - UNIT) + stride


@dataclass(slots=True, eq=False)
class Root:
    """A submitted task with tasks below it that wait, as one that takes turns within its tenant."""

    passed: int
    waiting: int = 0  #: number of tasks below it that wait


@dataclass(slots=True, eq=False)
class Tenant:
    """One who shares the fleet with others."""

    name: str
    weight: int
    passed: int
    held: bool = False  #: whether it is at a limit of its own, so that it is passed over
    waiting: int = 0  #: number of its tasks that wait
    roots: dict[str, Root] = field(default_factory=dict)  #: those with tasks below them that wait
    below: int = 0  #: number of those tasks
    clock: int = 0  #: the virtual time of its roots
    tops_passed: int = 0  #: what the submitted tasks themselves have passed, each of which counts as a root

    def add_below(self, root_id: str) -> Root:
        """The root of a task below it, which waits from now on."""
        root = self.roots.get(root_id)
        if root is None:
            if not self.roots:
                self.tops_passed = self.clock
            root = self.roots[root_id] = Root(self.clock)
        root.waiting += 1
        self.below += 1
        return root

    def drop_below(self, root_id: str) -> None:
        """Notes that a task below this root waits no more. A root for which nothing waits begins anew."""
        root = self.roots[root_id]
        root.waiting -= 1
        self.below -= 1
        if not root.waiting:
            del self.roots[root_id]

    def take(self, root_id: str) -> None:
        """Notes a turn of a task below this root, or of a submitted task (""), while tasks below roots wait."""
        tops = self.waiting - self.below
        if root_id:
            root = self.roots[root_id]
            root.passed = passed_after(root.passed, self.clock, UNIT)
        else:
            self.tops_passed = passed_after(self.tops_passed, self.clock, UNIT // tops)
        self.clock += UNIT // (tops + len(self.roots))
