"""What graphs look like and take, as workers tell that have them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from core.agent_run import RunOptions
from core.errors import TaskFailed
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.tasks import Priority, Task

__all__ = ["described"]

#: How long a description is taken as it is, s: a worker with another version of the graph may come.
KNOWN_S = 60.0
#: How long a worker may take, s.
WITHIN_S = 20.0


async def described(hierarchy: Hierarchy, graph_id: str) -> dict[str, Any]:
    """What `worker.hosts.graph_description` gives of a graph. A worker is asked, by a task that runs nothing of it,
    unless this gateway has been told a moment ago. Raises Problem: none can tell."""
    known = hierarchy.descriptions.get(graph_id)
    if known is not None and time.monotonic() - known[0] < KNOWN_S:
        return known[1]
    deadline = datetime.now(UTC) + timedelta(seconds=WITHIN_S)
    run = RunOptions(describes=True)
    task = Task(task_type=graph_id, payload={}, run=run, deadline=deadline, priority=Priority.HIGH, max_attempts=1)
    await hierarchy.client.submit.aio(task)
    try:
        description: dict[str, Any] = await hierarchy.client.value.aio(task.task_id)
    except TaskFailed as error:
        if error.error_type == "deadline":
            raise Problem(503, f"no worker could tell what {graph_id!r} is within {WITHIN_S:.0f} s") from None
        raise Problem(422, f"graph {graph_id!r} cannot be made: {error}") from None
    hierarchy.descriptions[graph_id] = (time.monotonic(), description)
    return description
