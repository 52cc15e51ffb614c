"""The attempts that a worker has not begun: the most urgent first, and among equally urgent ones the oldest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from core.tasks import Priority, Task

__all__ = ["TaskQueue"]


class TaskQueue:
    """A queue with at most one attempt at each task. A held attempt is not handed out until it is released. Adding,
    taking and removing take constant time."""

    def __init__(self, hosted: Callable[[str], bool] = lambda _: False) -> None:
        """`hosted`: whether tasks of a type run in hosts, which have slots, and lines, of their own."""
        self._hosted = hosted
        self._by_id: dict[str, Task] = {}
        # A removed task stays in its line until its turn comes, and is skipped then.
        self._lines: dict[bool, dict[Priority, deque[Task]]] = {
            kind: {priority: deque() for priority in Priority} for kind in (False, True)
        }
        self._held: dict[str, Task] = {}  #: the tasks of `_by_id` that are in no line yet

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, task: Task) -> None:
        """Puts a task at the end of the line of its priority."""
        self._by_id[task.task_id] = task
        self._stand_in_line(task)

    def hold(self, task: Task) -> None:
        """Adds a task that cannot begin yet."""
        self._by_id[task.task_id] = self._held[task.task_id] = task

    def release(self, task_id: str) -> None:
        """Puts a held task in its line, since it can begin now. Does nothing when the task is not held."""
        if (task := self._held.pop(task_id, None)) is not None:
            self._stand_in_line(task)

    @property
    def held(self) -> list[str]:
        """The ids of the held tasks, in the order in which they were added."""
        return [*self._held]

    @property
    def oldest(self) -> str | None:
        """The id of the task that has been here longest; None: the queue is empty."""
        return next(iter(self._by_id), None)

    def get(self, task_id: str) -> Task | None:
        return self._by_id.get(task_id)

    def remove(self, task: Task) -> None:
        """Removes a task. Does nothing when it is not in the queue."""
        if self._by_id.get(task.task_id) is task:
            del self._by_id[task.task_id]
            self._held.pop(task.task_id, None)

    def next(self, *, hosted: bool = False) -> Task | None:
        """Removes and returns the task whose turn it is, of those that are `hosted` or of the others; None if there is
        none, or all are held."""
        if len(self._by_id) == len(self._held):
            return None
        for line in self._lines[hosted].values():
            while line:
                task = line.popleft()
                if self._by_id.get(task.task_id) is task and task.task_id not in self._held:
                    del self._by_id[task.task_id]
                    return task
        return None

    def drain(self) -> list[Task]:
        """Removes and returns all tasks, in the order of their turns; the held ones come last."""
        tasks = []
        for hosted in (False, True):
            while (task := self.next(hosted=hosted)) is not None:
                tasks.append(task)
        tasks += self._held.values()
        self._by_id.clear()
        self._held.clear()
        return tasks

    def _stand_in_line(self, task: Task) -> None:
        self._lines[self._hosted(task.task_type)][task.priority].append(task)
