"""Whose tasks somebody sees: those that the gateway may touch, and of them, those of the own tenant."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from core.access import may_touch
from core.agent_event import AgentEvent
from core.event_types import EventType
from core.gateway.access import Caller
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.gateway.thread_life import known_thread
from core.tasks import Task

__all__ = ["check_own_threads", "sees", "visible_events", "visible_task"]

#: Number of tasks of which a stream of events remembers whether its reader sees them.
REMEMBERED = 10_000


def sees(hierarchy: Hierarchy, caller: Caller, task: Task) -> bool:
    """Whether the caller may be told of a task."""
    return may_touch(hierarchy.asker, task) and caller.sees(task.tenant)


async def visible_events(
    hierarchy: Hierarchy, caller: Caller, told: AsyncGenerator[AgentEvent, None]
) -> AsyncGenerator[AgentEvent, None]:
    """The events that the caller may be told of: of a tenant, those of its tasks whose records are kept, or those of
    their root; and that some were missed."""
    seen: dict[str, bool] = {}

    async def is_visible(event: AgentEvent) -> bool:
        ids = list(dict.fromkeys(filter(None, (event.task_id, event.root_id))))
        if not ids:
            return event.type is EventType.EVENTS_MISSED
        # What is submitted may be another task of an id that has been forgotten.
        if event.type is EventType.TASK_SUBMITTED or ids[0] not in seen:
            found = await hierarchy.tasks(ids)
            task = found.get(ids[0]) or found.get(ids[-1])
            if len(seen) >= REMEMBERED:
                seen.clear()
            seen[ids[0]] = task is not None and sees(hierarchy, caller, task)
        return seen[ids[0]]

    async with aclosing(told) as events:
        async for event in events:
            if caller.tenant is None or await is_visible(event):
                yield event


async def visible_task(hierarchy: Hierarchy, caller: Caller, task_id: str) -> Task:
    """The task as it stands. Raises Problem: to this caller there is none."""
    task = await hierarchy.task(task_id)
    if task is None or not sees(hierarchy, caller, task):
        raise Problem(
            404,
            f"there is no task {task_id[:80]!r}: it was never submitted here, or ended longer ago than its retention",
        )
    return task


async def check_own_threads(hierarchy: Hierarchy, caller: Caller, tasks: Iterable[Task]) -> None:
    """Raises Problem if a task is to run in a thread that the caller does not see. A tenant has made each of its own,
    by POST /threads."""
    if caller.tenant is not None:
        for thread_id in {task.run.thread_id for task in tasks if task.run and task.run.thread_id}:
            await known_thread(hierarchy.seen_by(caller.tenant), thread_id)
