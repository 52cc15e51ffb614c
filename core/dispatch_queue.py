"""Which task is next, and why the others wait.

The order is earliest due date with ageing: a task is due at the time it came plus the patience of its priority, and the
earliest due goes first. So urgent work overtakes normal work, and normal work that has waited a minute longer overtakes
urgent work: no task starves. Tasks of one type that need the same capabilities share a lane. A task that nobody can run
now therefore holds up only tasks like it, and a decision costs the same whether ten tasks wait or a million.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from core.tasks import Priority, Task, skills_needed

__all__ = ["PATIENCE_MS", "DispatchQueue"]

#: How much longer than an urgent task a task of this priority waits, ms.
PATIENCE_MS = {
    Priority.URGENT: 0,
    Priority.CRITICAL: 5_000,
    Priority.HIGH: 15_000,
    Priority.NORMAL: 60_000,
    Priority.LOW: 180_000,
}

Needs = tuple[str, ...]


@dataclass(slots=True)
class DispatchQueue:
    """The ids of the tasks that wait, each at most once."""

    lanes: dict[Needs, list[tuple[int, int, str]]] = field(default_factory=dict)  #: heaps of (due, arrival, id)
    later: list[tuple[int, int, Task]] = field(default_factory=list)  #: heap of (not before, arrival, task)
    waiting: dict[str, int] = field(default_factory=dict)  #: id -> arrival of its valid entry
    arrivals: int = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self.waiting

    def push(self, task: Task) -> None:
        """Adds `task`, or moves it. Before its `not_before` it is not offered (see `wake`)."""
        self.arrivals += 1
        self.waiting[task.task_id] = self.arrivals
        if task.not_before:
            heapq.heappush(self.later, (int(task.not_before.timestamp() * 1000), self.arrivals, task))
        else:
            self._line_up(task, self.arrivals)

    def remove(self, task_id: str) -> bool:
        """Removes a task, wherever it stands. False: it was not there."""
        return self.waiting.pop(task_id, None) is not None

    def wake(self, now_ms: int) -> None:
        """Moves the tasks whose pause is over into their lanes."""
        while self.later and self.later[0][0] <= now_ms:
            _, arrival, task = heapq.heappop(self.later)
            if self.waiting.get(task.task_id) == arrival:
                self._line_up(task, arrival)

    def next_wake_ms(self) -> int | None:
        """When the next pause is over; None: no task pauses."""
        return self.later[0][0] if self.later else None

    def pop(self, can_serve: Callable[[Needs], bool]) -> str | None:
        """The next id among the lanes that `can_serve` accepts; None: no task can be handed out."""
        best: list[tuple[int, int, str]] | None = None
        for needs, heap in list(self.lanes.items()):
            while heap and self.waiting.get(heap[0][2]) != heap[0][1]:
                heapq.heappop(heap)  # removed or moved since
            if not heap:
                del self.lanes[needs]
            elif (best is None or heap[0] < best[0]) and can_serve(needs):
                best = heap
        if best is None:
            return None
        task_id = heapq.heappop(best)[2]
        del self.waiting[task_id]
        return task_id

    def needs(self) -> set[Needs]:
        """What the waiting tasks need, one entry per lane."""
        return set(self.lanes)

    def in_lane(self, needs: Needs) -> list[str]:
        """The ids that wait for somebody with these skills, in no particular order."""
        return [task_id for _, arrival, task_id in self.lanes.get(needs, ()) if self.waiting.get(task_id) == arrival]

    def _line_up(self, task: Task, arrival: int) -> None:
        due = int(task.created_at.timestamp() * 1000) + PATIENCE_MS[task.priority]
        heapq.heappush(self.lanes.setdefault(skills_needed(task), []), (due, arrival, task.task_id))
