"""Chooses the child that gets the next task, by a strategy, among those that have room.

A child that would begin a task at once goes before one where it would have to wait, whatever the strategy; only
rendezvous hashing lets a task wait where others with its key are. Among those that would begin it, who can do the most
of what waits besides is spared, unless the strategy is about places: otherwise the others could idle while that waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from core.agents import Health, Subordinate
from core.candidates import Candidates, by_name
from core.room import Needs
from core.strategies import CHOOSES, DEFAULT, TAKING_TURNS, Asks, Strategy, Turns

__all__ = ["Balancer"]

#: Strategies by which it matters where a task is done.
OF_PLACES = frozenset({Strategy.GEOGRAPHIC, Strategy.RENDEZVOUS})
#: Turns of children that are gone, which may be remembered in addition to twice the number of children.
TURNS_KEPT = 100


@dataclass(slots=True)
class _Ready:
    """The children that can do a task and may have room for it: who has none is taken out when somebody looks. Tasks
    that the same workers of the same children can do share it, whatever they need."""

    first: Candidates  #: those that are preferred: they would begin it at once
    spared: Candidates  #: so would these, but can do more of what waits
    then: Candidates  #: the others: it would wait there
    until: int = 0  #: somebody has room before the choice of this number; 0: nobody has


class Balancer:
    """Chooses among these children, as long as they have room. It is built for each step, in which children only get
    tasks, so that their room only becomes less. A step then costs time for each child, and a task for two of them.

    With `at_once` a child has room only for tasks that it begins immediately.
    """

    def __init__(
        self, children: Iterable[Subordinate], strategy: Strategy = DEFAULT, turns: Turns | None = None, *,
        at_once: bool = False, waiting: Collection[Needs] = (),
    ) -> None:  # fmt: skip
        """`waiting`: the needs of the tasks that wait."""
        active = (child for child in children if child.health is Health.ACTIVE)
        self._children = sorted(active, key=by_name)
        self._choose = CHOOSES[strategy]
        self._choices = 1  # so far, and one
        self._at_once = at_once  # whether all begin a task at once
        self._first_at_once = at_once or strategy is not Strategy.RENDEZVOUS  # whether those who are preferred do
        self._turns = turns or Turns()
        self._takes_turns = strategy in TAKING_TURNS
        if len(self._turns.until) > TURNS_KEPT + 2 * len(self._children):
            self._turns.forget([child.name for child in self._children])
        self._waiting = () if strategy in OF_PLACES else waiting
        self._wanted: dict[int, int] = {}  #: by what children can do, how many of these needs they satisfy
        #: one of all children that can do the same
        self._alike = {(id(child.tasks.able), child.beat.agents): child for child in self._children}
        self._ready: dict[Needs, _Ready] = {}
        self._prepared: dict[tuple[object, ...], _Ready] = {}  #: the same, by which workers can do it

    def can_serve(self, needs: Needs) -> bool:
        """Whether a child with room has all these capabilities."""
        ready = self._ready.get(needs)
        if ready is None or 0 < ready.until <= self._choices:
            ready = self._looked_at(needs)
        return ready.until > 0

    def choose(self, asks: Asks, avoid: str | None = None) -> Subordinate | None:
        """The child that gets one task, and whose `take` is told so before the next choice; None: no child has room.
        The child `avoid` is chosen only if no other child can run the task, so that a retry goes elsewhere if
        possible."""
        needs = asks.needs
        ready = self._ready.get(needs) or self._looked_at(needs)
        self._choices += 1
        for among in (ready.first, ready.spared, ready.then):
            while among.names:
                child = among.children[0] if len(among.names) == 1 else self._choose(among, asks, self._turns)
                if avoid is not None and child.name == avoid:
                    if len(among) == 1:
                        break
                    child = self._choose(among.without(child), asks, self._turns)
                if self._takes(child, needs, first=among is not ready.then):
                    return self._noted(child)
                self._take_out(child, needs, among, ready)
        remaining = (*ready.first.children, *ready.spared.children, *ready.then.children)
        return next((self._noted(child) for child in remaining if self._takes(child, needs, first=False)), None)

    def exclude(self, child: Subordinate) -> None:
        """Chooses this child no more."""
        self._children = [other for other in self._children if other is not child]
        self._ready.clear()
        self._prepared.clear()

    def _noted(self, child: Subordinate) -> Subordinate:
        """The same child, which has had its turn."""
        if self._takes_turns:
            self._turns.note(child)
        return child

    def _looked_at(self, needs: Needs) -> _Ready:
        """Who is ready for such tasks: if anybody is, the last one has room until others have been chosen as often."""
        ready = self._ready.get(needs) or self._prepare(needs)
        for among in (ready.first, ready.spared, ready.then):
            while among.names:
                last, is_first = among.children[-1], among is not ready.then
                if self._takes(last, needs, first=is_first):
                    room = last.certain_room(needs, at_once=self._first_at_once if is_first else self._at_once)
                    ready.until = self._choices + max(1, room)
                    return ready
                self._take_out(last, needs, among, ready)
        ready.until = 0
        return ready

    def _prepare(self, needs: Needs) -> _Ready:
        """Who can do such tasks."""
        key = tuple((child.tasks.able[needs], child.hosts(needs)) for child in self._alike.values())
        ready = self._prepared.get(key)
        if ready is None:
            first, spared = self._parted([child for child in self._children if child.can(needs)])
            ready = self._prepared[key] = _Ready(Candidates(first), Candidates(spared), Candidates())
        self._ready[needs] = ready
        return ready

    def _parted(self, able: list[Subordinate]) -> tuple[list[Subordinate], list[Subordinate]]:
        """Those who can do least of what waits, and the others."""
        if not self._waiting or len({id(child.tasks.able) for child in able}) < 2:
            return able, []
        least = min(map(self._wants, able))
        return [one for one in able if self._wants(one) == least], [one for one in able if self._wants(one) > least]

    def _wants(self, child: Subordinate) -> int:
        """How many of the needs that wait a child satisfies."""
        skills = id(child.tasks.able)
        if (known := self._wanted.get(skills)) is None:
            known = self._wanted[skills] = sum(map(child.can, self._waiting))
        return known

    def _take_out(self, child: Subordinate, needs: Needs, among: Candidates, ready: _Ready) -> None:
        """Takes a child out where it has no room; one that is no longer among the first may still be among the
        others."""
        among.remove(child)
        if among is not ready.then and self._takes(child, needs, first=False):
            ready.then.add(child)

    def _takes(self, child: Subordinate, needs: Needs, *, first: bool) -> bool:
        """Whether a child may get such a task, `first` or when none of the first may."""
        at_once = self._first_at_once if first else self._at_once
        return child.has_slot(needs) if at_once else child.has_room(needs)
