"""Whose tasks somebody sees: those that the gateway may touch, and of them, those of the own tenant."""

from __future__ import annotations

from core.access import may_touch
from core.gateway.access import Caller
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.tasks import Task

__all__ = ["TENANT", "sees", "tenant_of", "visible_task"]

#: Where the metadata of a task say whose it is.
TENANT = "tenant"


def tenant_of(task: Task) -> str | None:
    """Whose task it is; None: nobody has said."""
    tenant = task.metadata.get(TENANT) if task.metadata_json else None
    return tenant if isinstance(tenant, str) else None


def sees(hierarchy: Hierarchy, caller: Caller, task: Task) -> bool:
    """Whether the caller may be told of a task."""
    return may_touch(hierarchy.asker, task) and caller.tenant in (None, tenant_of(task))


async def visible_task(hierarchy: Hierarchy, caller: Caller, task_id: str) -> Task:
    """The task as it stands. Raises Problem: to this caller there is none."""
    task = await hierarchy.task(task_id)
    if task is None or not sees(hierarchy, caller, task):
        raise Problem(
            404,
            f"there is no task {task_id[:80]!r}: it was never submitted here, or ended longer ago than its retention",
        )
    return task
