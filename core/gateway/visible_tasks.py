"""Whose tasks somebody sees: those that the gateway may touch, and of them, those of the own tenant."""

from __future__ import annotations

from core.access import may_touch
from core.gateway.access import Caller
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.tasks import Task

__all__ = ["sees", "visible_task"]


def sees(hierarchy: Hierarchy, caller: Caller, task: Task) -> bool:
    """Whether the caller may be told of a task."""
    return may_touch(hierarchy.asker, task) and caller.tenant in (None, task.tenant)


async def visible_task(hierarchy: Hierarchy, caller: Caller, task_id: str) -> Task:
    """The task as it stands. Raises Problem: to this caller there is none."""
    task = await hierarchy.task(task_id)
    if task is None or not sees(hierarchy, caller, task):
        raise Problem(
            404,
            f"there is no task {task_id[:80]!r}: it was never submitted here, or ended longer ago than its retention",
        )
    return task
