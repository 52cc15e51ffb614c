"""The attempts a worker has not begun: the most urgent first, then the oldest."""

from __future__ import annotations

from collections import deque

from core.tasks import Priority, Task

__all__ = ["TaskQueue"]


class TaskQueue:
    """At most one attempt of each task. One that is held has no turn until it is released. Adding, taking and removing
    cost the same however many there are."""

    def __init__(self) -> None:
        self._by_id: dict[str, Task] = {}
        # Removed tasks stay in their line until it is their turn, and are passed over then.
        self._lines: dict[Priority, deque[Task]] = {priority: deque() for priority in Priority}
        self._held: dict[str, Task] = {}  #: those of `_by_id` that stand in no line yet

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, task: Task) -> None:
        self._by_id[task.task_id] = task
        self._lines[task.priority].append(task)

    def hold(self, task: Task) -> None:
        """Adds one that cannot begin yet."""
        self._by_id[task.task_id] = self._held[task.task_id] = task

    def release(self, task_id: str) -> None:
        """It can begin, and stands in line from now on. Does nothing when it is not held."""
        if (task := self._held.pop(task_id, None)) is not None:
            self._lines[task.priority].append(task)

    @property
    def held(self) -> list[str]:
        """The ids of those that are held, in the order in which they came."""
        return [*self._held]

    def get(self, task_id: str) -> Task | None:
        return self._by_id.get(task_id)

    def remove(self, task: Task) -> None:
        """Does nothing when it is not here."""
        if self._by_id.get(task.task_id) is task:
            del self._by_id[task.task_id]
            self._held.pop(task.task_id, None)

    def next(self) -> Task | None:
        """The one whose turn it is, taken out; None: there is none, or all are held."""
        if len(self._by_id) == len(self._held):
            return None
        for line in self._lines.values():
            while line:
                task = line.popleft()
                if self._by_id.get(task.task_id) is task and task.task_id not in self._held:
                    del self._by_id[task.task_id]
                    return task
        return None

    def drain(self) -> list[Task]:
        """All of them, taken out, in the order of their turns; last those that are held."""
        tasks = []
        while (task := self.next()) is not None:
            tasks.append(task)
        tasks += self._held.values()
        self._by_id.clear()
        self._held.clear()
        return tasks
