"""The queue of waiting tasks, which decides the next one.

The order is earliest due date with ageing: a task is due at its arrival plus the patience of its priority, and the task
that is due first goes first. So urgent work overtakes normal work, but normal work that has waited a minute longer
overtakes urgent work, and no task starves. Tasks with the same type, needs and placement share a lane. So a task that
cannot run now holds up only tasks like it, and a decision costs the same for ten waiting tasks as for a million.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from core.tasks import Priority, Task, skills_needed

__all__ = ["PATIENCE_MS", "DispatchQueue", "Placement"]

#: How much longer than an urgent task a task of this priority waits, ms.
PATIENCE_MS = {
    Priority.URGENT: 0,
    Priority.CRITICAL: 5_000,
    Priority.HIGH: 15_000,
    Priority.NORMAL: 60_000,
    Priority.LOW: 180_000,
}

Needs = tuple[str, ...]
#: The lanes of one placement: heaps of (due, arrival, id).
Lanes = dict[Needs, list[tuple[int, int, str]]]


class Placement(IntEnum):
    """Which of the children that can run a task may get it."""

    ANYWHERE = 0  #: any child with room for it, even behind other tasks
    AT_ONCE = 1  #: a child that begins it immediately
    ALONE = 2  #: a child that begins it immediately, and has no other task of this placement


@dataclass(slots=True)
class DispatchQueue:
    """The ids of the waiting tasks, each at most once."""

    lanes: tuple[Lanes, ...] = field(default_factory=lambda: tuple({} for _ in Placement))  #: by placement
    later: list[tuple[int, int, Placement, Task]] = field(default_factory=list)  #: heap, by (not before, arrival)
    waiting: dict[str, int] = field(default_factory=dict)  #: id -> arrival of its valid entry
    arrivals: int = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self.waiting

    def push(self, task: Task, placement: Placement = Placement.ANYWHERE) -> None:
        """Adds `task`, or moves it if it is here. It is not offered before its `not_before` (see `wake`)."""
        self.arrivals += 1
        self.waiting[task.task_id] = self.arrivals
        if task.not_before:
            begins_ms = int(task.not_before.timestamp() * 1000)
            heapq.heappush(self.later, (begins_ms, self.arrivals, placement, task))
        else:
            self._line_up(task, self.arrivals, placement)

    def remove(self, task_id: str) -> bool:
        """Removes a task. Returns whether it was there."""
        return self.waiting.pop(task_id, None) is not None

    def wake(self, now_ms: int) -> None:
        """Moves the tasks whose pause is over into their lanes."""
        while self.later and self.later[0][0] <= now_ms:
            _, arrival, placement, task = heapq.heappop(self.later)
            if self.waiting.get(task.task_id) == arrival:
                self._line_up(task, arrival, placement)

    def next_wake_ms(self) -> int | None:
        """When the next pause ends, in ms since 1970; None: no task pauses."""
        return self.later[0][0] if self.later else None

    def offers(self, placement: Placement = Placement.ANYWHERE) -> bool:
        """Whether there are lanes of this placement. Their tasks may have been removed since."""
        return bool(self.lanes[placement])

    def pop(self, can_serve: Callable[[Needs], bool], placement: Placement = Placement.ANYWHERE) -> str | None:
        """The next id among the lanes of this placement that `can_serve` accepts; None: no task can be handed out."""
        best: list[tuple[int, int, str]] | None = None
        lanes = self.lanes[placement]
        for needs, heap in list(lanes.items()):
            while heap and self.waiting.get(heap[0][2]) != heap[0][1]:
                heapq.heappop(heap)  # removed or moved since
            if not heap:
                del lanes[needs]
            elif (best is None or heap[0] < best[0]) and can_serve(needs):
                best = heap
        if best is None:
            return None
        task_id = heapq.heappop(best)[2]
        del self.waiting[task_id]
        return task_id

    def needs(self, *placements: Placement) -> set[Needs]:
        """The needs of the waiting tasks of these placements, or of all; one entry for each set of skills."""
        return {needs for placement in placements or Placement for needs in self.lanes[placement]}

    def in_lane(self, needs: Needs) -> list[str]:
        """The ids of the tasks that wait for a child with these skills, in no particular order."""
        heaps = (lanes.get(needs, ()) for lanes in self.lanes)
        return [task_id for heap in heaps for _, arrival, task_id in heap if self.waiting.get(task_id) == arrival]

    def _line_up(self, task: Task, arrival: int, placement: Placement) -> None:
        due = int(task.created_at.timestamp() * 1000) + PATIENCE_MS[task.priority]
        lanes = self.lanes[placement]
        heapq.heappush(lanes.setdefault(skills_needed(task), []), (due, arrival, task.task_id))
