"""Chooses the child that gets the next task."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from core.agents import Subordinate

__all__ = ["LeastLoaded"]

Needs = tuple[str, ...]


class LeastLoaded:
    """Chooses the child with the smallest share of its window in use: join the shortest queue, by relative length. A
    worker has a window for runs of agents beside the one for other tasks.

    It is built for each step and counts the tasks that the step has handed out. With `at_once` a child has room only
    for tasks that it begins immediately.
    """

    def __init__(self, children: Iterable[Subordinate], *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._heap: list[tuple[float, str, bool, Subordinate]] = []  #: an entry for each window that has room
        for child in children:
            for agents in (False, True) if child.beat.agents else (False,):
                self._offer(child, agents)

    def can_serve(self, needs: Needs) -> bool:
        """Whether a child with room has all these capabilities."""
        for _, _, agents, child in self._heap:  # noqa: SIM110 - asked for each task, and `any` costs as much again
            if child.can(needs) and child.hosts(needs) is agents:
                return True
        return False

    def choose(self, needs: Needs, avoid: str | None = None) -> Subordinate | None:
        """The child that gets one task; None: no child has room. Call `put_back` after handing it over. The child
        `avoid` is chosen only if no other child can run the task, so that a retry goes elsewhere if possible."""
        put_back = []
        fallback = chosen = None
        while self._heap and chosen is None:
            entry = heapq.heappop(self._heap)
            _, name, agents, child = entry
            if not child.can(needs) or child.hosts(needs) is not agents:
                put_back.append(entry)
            elif name == avoid:
                fallback = entry
            else:
                chosen = entry
        if chosen is None:
            chosen, fallback = fallback, None
        for entry in (*put_back, *([fallback] if fallback else [])):
            heapq.heappush(self._heap, entry)
        return chosen[3] if chosen else None

    def put_back(self, child: Subordinate, needs: Needs = ()) -> None:
        """Makes a child available again after it got a task that needs these skills, if it still has room."""
        self._offer(child, child.hosts(needs))

    def _offer(self, child: Subordinate, agents: bool) -> None:
        if child.room(agents=agents, at_once=self._at_once) > 0:
            heapq.heappush(self._heap, (child.load(agents=agents), child.address.agent_id, agents, child))
