"""Chooses the child that gets the next task."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from operator import attrgetter

from core.agents import Subordinate

__all__ = ["LeastLoaded"]


class LeastLoaded:
    """Chooses the child with the smallest share of its window in use: join the shortest queue, by relative length.

    It is built for each step and counts the tasks that the step has handed out. With `at_once` a child has room only
    for tasks that it begins immediately.
    """

    def __init__(self, children: Iterable[Subordinate], *, at_once: bool = False) -> None:
        self._room = attrgetter("slots" if at_once else "free")
        self._heap = [(child.load, child.address.agent_id, child) for child in children if self._room(child) > 0]
        heapq.heapify(self._heap)

    def can_serve(self, needs: tuple[str, ...]) -> bool:
        """Whether a child with room has all these capabilities."""
        for _, _, child in self._heap:  # noqa: SIM110 - asked for each task, and `any` costs as much again
            if child.can(needs):
                return True
        return False

    def choose(self, needs: tuple[str, ...], avoid: str | None = None) -> Subordinate | None:
        """The child that gets one task; None: no child has room. Call `put_back` after handing it over. The child
        `avoid` is chosen only if no other child can run the task, so that a retry goes elsewhere if possible."""
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

    def put_back(self, child: Subordinate) -> None:
        """Makes a child available again after it got a task, if it still has room."""
        if self._room(child) > 0:
            heapq.heappush(self._heap, (child.load, child.address.agent_id, child))
