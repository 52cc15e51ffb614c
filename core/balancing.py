"""Chooses the child that gets the next task, by a strategy, among those that have room.

A child that would begin a task at once goes before one where it would have to wait, whatever the strategy; only
rendezvous hashing lets a task wait where others with its key are.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from core.agents import Subordinate
from core.room import Needs
from core.strategies import CHOOSES, DEFAULT, TAKING_TURNS, Asks, Strategy, Turns

__all__ = ["Balancer"]

#: Turns of children that are gone, which may be remembered in addition to twice the number of children.
TURNS_KEPT = 100

_name = attrgetter("name")


@dataclass(slots=True)
class _Ready:
    """The children that can do a task and had room for it when somebody looked last, each list by name."""

    first: list[Subordinate]  #: those that are preferred: they would begin it at once
    then: list[Subordinate]  #: the others: it would wait there


class Balancer:
    """Chooses among these children, as long as they have room. It is built for each step, in which children only get
    tasks, so that their room only becomes less. A step then costs time for each child, and a task for two of them.

    With `at_once` a child has room only for tasks that it begins immediately.
    """

    def __init__(
        self, children: Iterable[Subordinate], strategy: Strategy = DEFAULT, turns: Turns | None = None, *,
        at_once: bool = False,
    ) -> None:  # fmt: skip
        self._children = sorted(children, key=_name)
        self._choose = CHOOSES[strategy]
        self._anywhere = strategy is Strategy.RENDEZVOUS and not at_once
        self._turns = turns or Turns()
        self._takes_turns = strategy in TAKING_TURNS
        if len(self._turns.until) > TURNS_KEPT + 2 * len(self._children):
            self._turns.forget([child.name for child in self._children])
        self._at_once = at_once
        self._ready: dict[Needs, _Ready] = {}

    def can_serve(self, needs: Needs) -> bool:
        """Whether a child with room has all these capabilities."""
        ready = self._looked_at(needs)
        return bool(ready.first or ready.then)

    def choose(self, asks: Asks, avoid: str | None = None) -> Subordinate | None:
        """The child that gets one task, and whose `take` is told so before the next choice; None: no child has room.
        The child `avoid` is chosen only if no other child can run the task, so that a retry goes elsewhere if
        possible."""
        ready = self._looked_at(asks.needs)
        for among in (ready.first, ready.then):
            while others := among if avoid is None else [child for child in among if child.name != avoid]:
                child = self._choose(others, asks, self._turns)
                if self._takes(child, asks.needs, first=among is ready.first):
                    if self._takes_turns:
                        self._turns.note(child)
                    return child
                among.remove(child)
                if among is ready.first:
                    self._move_on(child, asks.needs, ready)
        return next(
            (child for child in (*ready.first, *ready.then) if self._takes(child, asks.needs, first=False)), None
        )

    def exclude(self, child: Subordinate) -> None:
        """Chooses this child no more."""
        self._children.remove(child)
        self._ready.clear()

    def _looked_at(self, needs: Needs) -> _Ready:
        """Who is ready for such tasks; the last one that it names is so now."""
        ready = self._ready.get(needs)
        if ready is None:
            ready = self._ready[needs] = _Ready([], [])
            for child in self._children:
                if not child.can(needs):
                    continue
                if self._takes(child, needs, first=True):
                    ready.first.append(child)
                elif self._takes(child, needs, first=False):
                    ready.then.append(child)
        while ready.first and not self._takes(ready.first[-1], needs, first=True):
            self._move_on(ready.first.pop(), needs, ready)
        while not ready.first and ready.then and not self._takes(ready.then[-1], needs, first=False):
            ready.then.pop()
        return ready

    def _move_on(self, child: Subordinate, needs: Needs, ready: _Ready) -> None:
        """Lets a child that is no longer among the first still be among the others, if it has room."""
        if self._takes(child, needs, first=False):
            insort(ready.then, child, key=_name)

    def _takes(self, child: Subordinate, needs: Needs, *, first: bool) -> bool:
        """Whether a child may get such a task, `first` or when none of the first may."""
        return child.has_slot(needs) if self._at_once or (first and not self._anywhere) else child.has_room(needs)
