"""The attempts a worker has not begun: the most urgent first, then the oldest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from core.tasks import Priority, Task

__all__ = ["TaskQueue"]


class TaskQueue:
    """At most one attempt of each task. Adding, taking and removing cost the same however many there are."""

    def __init__(self) -> None:
        self._by_id: dict[str, Task] = {}
        # Removed tasks stay in their line until it is their turn, and are passed over then.
        self._lines: dict[Priority, deque[Task]] = {priority: deque() for priority in Priority}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, task: Task) -> None:
        self._by_id[task.task_id] = task
        self._lines[task.priority].append(task)

    def get(self, task_id: str) -> Task | None:
        return self._by_id.get(task_id)

    def remove(self, task: Task) -> None:
        """Does nothing when it is not here."""
        if self._by_id.get(task.task_id) is task:
            del self._by_id[task.task_id]

    def next(self) -> Task | None:
        """The one whose turn it is, taken out."""
        if not self._by_id:
            return None
        for line in self._lines.values():
            while line:
                task = line.popleft()
                if self._by_id.get(task.task_id) is task:
                    del self._by_id[task.task_id]
                    return task
        return None

    def drain(self) -> Iterator[Task]:
        """All of them, taken out, in the order of their turns."""
        while (task := self.next()) is not None:
            yield task
