"""The tasks that the messages of clients ask to have admitted. Rules, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress

from msgspec import Raw

from core.errors import BadTask
from core.roles import Action, Address
from core.step import Batch, Received
from core.tasks import Task

__all__ = ["submitted", "submitted_tasks"]


def submitted(item: Raw, index: int, received: Received) -> Task:
    """The task in an item. One without an id has one that follows from where it stands: told again, it is the same."""
    task = Task.from_json(item)
    if task.task_id:
        return task
    place = f"{received.sender} {received.message.metadata.request_id} {index}"
    return task.evolve(task_id=f"task-{hashlib.sha256(place.encode()).hexdigest()[:20]}")


def submitted_tasks(batch: Batch) -> Iterator[tuple[Address, Task]]:
    """The tasks that the messages of a batch ask to have admitted, each with who asks. Malformed ones are left out."""
    for received in batch.messages:
        if received.message.action == Action.SUBMIT_TASK:
            for index, item in enumerate(received.message.tasks):
                with suppress(BadTask):
                    yield received.sender, submitted(item, index, received)
