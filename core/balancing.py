"""Who gets the next task."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from operator import attrgetter

from core.agents import Child

__all__ = ["LeastLoaded"]


class LeastLoaded:
    """Chooses among children by load: the one with the smallest share of its window in use.

    Built anew for each step, it counts what the step has handed out itself. With `at_once` a child has room only for
    what it begins at once.
    """

    def __init__(self, children: Iterable[Child], *, at_once: bool = False) -> None:
        self._room = attrgetter("slots" if at_once else "free")
        self._heap = [(child.load, child.address.agent_id, child) for child in children if self._room(child) > 0]
        heapq.heapify(self._heap)

    def can_serve(self, needs: tuple[str, ...]) -> bool:
        """Whether somebody with room has all the capabilities."""
        for _, _, child in self._heap:  # noqa: SIM110 - asked for each task, and `any` costs as much again
            if child.can(needs):
                return True
        return False

    def choose(self, needs: tuple[str, ...], avoid: str | None = None) -> Child | None:
        """The child to hand one task to; count it as handed over with `took`. `avoid` is taken only if nobody else
        can: a retry goes elsewhere when there is an elsewhere. None: nobody has room."""
        put_back = []
        fallback = chosen = None
        while self._heap and chosen is None:
            entry = heapq.heappop(self._heap)
            child = entry[2]
            if not child.can(needs):
                put_back.append(entry)
            elif child.address.agent_id == avoid:
                fallback = entry
            else:
                chosen = entry
        if chosen is None:
            chosen, fallback = fallback, None
        for entry in (*put_back, *([fallback] if fallback else [])):
            heapq.heappush(self._heap, entry)
        return chosen[2] if chosen else None

    def took(self, child: Child) -> None:
        """Call after the child was given the task: puts the child back in line if it still has room."""
        if self._room(child) > 0:
            heapq.heappush(self._heap, (child.load, child.address.agent_id, child))
