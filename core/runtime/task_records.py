"""Reads the records of tasks, for those who only look."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import orjson

from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.tasks import Task

__all__ = ["newest_tasks", "read_task"]

#: Records read at once.
PAGE = 200


async def read_task(source: Runs, coordinator_id: str, task_id: str) -> tuple[Task | None, Task | None]:
    """The coordinator's record of a task, and the record in the cell of the distributor that has it; None: no such."""
    [record] = await source.run(("HGET", CoordinatorKeys(coordinator_id).tasks, task_id))
    if record is None:
        return None, None
    task = Task.parse(orjson.loads(record))
    if task.assigned_to is None or task.status.ended:
        return task, None
    [record] = await source.run(("HGET", CellKeys(task.assigned_to).actual, task_id))
    return task, Task.parse(orjson.loads(record)) if record else None


async def newest_tasks(source: Runs, coordinator_id: str) -> AsyncGenerator[Task, None]:
    """All tasks that are kept: the open ones, the last submitted first, then the ended ones, the last ended first.

    Read page by page, so that whoever stops early has not paid for all. A task that ends meanwhile may come twice.
    """
    keys = CoordinatorKeys(coordinator_id)
    for order in (keys.open, keys.ended):
        start = 0
        while True:
            [ids] = await source.run(("ZREVRANGE", order, start, start + PAGE - 1))
            if not ids:
                break
            [records] = await source.run(("HMGET", keys.tasks, *ids))
            for record in records:
                if record is not None:
                    yield Task.parse(orjson.loads(record))
            start += PAGE
