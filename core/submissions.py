"""The tasks that messages of clients submit. Rules, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress

from msgspec import Raw

from core.errors import BadTask
from core.roles import Action, Address
from core.step import Batch, Received
from core.tasks import Task
from core.trace_context import TraceContext

__all__ = ["submitted", "submitted_tasks"]


def submitted(item: Raw, index: int, received: Received) -> Task:
    """The task in an item. A missing id is derived from the item's place, so that a repeated message gives the same
    id. A task that names no trace is part of its message's."""
    task, metadata = Task.from_json(item), received.message.metadata
    if metadata.traceparent and task.trace is None:
        task = task.evolve(trace=TraceContext.parsed(metadata.traceparent, metadata.tracestate))
    if task.task_id:
        return task
    place = f"{received.sender} {metadata.request_id} {index}"
    return task.evolve(task_id=f"task-{hashlib.sha256(place.encode()).hexdigest()[:20]}")


def submitted_tasks(batch: Batch) -> Iterator[tuple[Address, Task]]:
    """The tasks that the messages of a batch submit, each after its sender. Malformed ones are left out."""
    for received in batch.messages:
        if received.message.action == Action.SUBMIT_TASK:
            for index, item in enumerate(received.message.tasks):
                with suppress(BadTask):
                    yield received.sender, submitted(item, index, received)
