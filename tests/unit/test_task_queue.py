"""The attempts a worker has not begun, in the order of their turns."""

from __future__ import annotations

from core.tasks import Priority, Task
from tests.builders import a_task
from worker.execution.task_queue import TaskQueue


def queue_of(*tasks: Task) -> TaskQueue:
    queue = TaskQueue()
    for task in tasks:
        queue.add(task)
    return queue


def named(task_id: str, priority: Priority = Priority.NORMAL) -> Task:
    return a_task(task_id=task_id, priority=priority)


def test_the_most_urgent_has_the_next_turn_and_then_the_oldest() -> None:
    queue = queue_of(named("a"), named("b"), named("c", Priority.HIGH))

    assert [task.task_id for task in queue.drain()] == ["c", "a", "b"]
    assert (len(queue), queue.next()) == (0, None)


def test_one_that_is_held_has_no_turn_until_it_is_released_and_then_the_last() -> None:
    queue = queue_of(named("a"), named("b"))
    queue.hold(named("held"))
    assert (len(queue), queue.held) == (3, ["held"])

    queue.release("held")
    queue.add(named("c"))

    assert [task.task_id for task in queue.drain()] == ["a", "b", "held", "c"]


def test_while_all_are_held_it_is_nobodys_turn() -> None:
    queue = TaskQueue()
    queue.hold(named("held"))

    assert (queue.next(), len(queue)) == (None, 1)


def test_the_held_ones_are_drained_last() -> None:
    queue = TaskQueue()
    queue.hold(named("held", Priority.URGENT))
    queue.add(named("a"))

    assert [task.task_id for task in queue.drain()] == ["a", "held"]
    assert (len(queue), queue.held) == (0, [])


def test_one_that_was_removed_has_no_turn_even_when_it_comes_back_to_be_held() -> None:
    task = named("a")
    queue = queue_of(task, named("b"))
    queue.remove(task)
    queue.hold(task)

    assert [task_in_turn.task_id if (task_in_turn := queue.next()) else None for _ in range(2)] == ["b", None]


def test_one_that_was_removed_while_it_was_held_cannot_be_released() -> None:
    queue, task = TaskQueue(), named("held")
    queue.hold(task)
    queue.remove(task)
    queue.release("held")

    assert (len(queue), queue.next()) == (0, None)
