"""Reads the records of tasks, without acting on them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from core.errors import BadTask, UserError
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.stored import shown
from core.tasks import Task

__all__ = ["Unreadable", "newest_tasks", "read_in_cell", "read_records", "read_task", "record_in"]

#: Number of records that are read at once.
PAGE = 200


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a malformed record, which somebody else has written."""

    task_id: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {"task_id": self.task_id, "unreadable": self.why}


def record_in(task_id: bytes, record: Any) -> Task | Unreadable:
    """The task in a stored record."""
    try:
        if isinstance(record, Exception):
            raise ValueError(record)
        task = Task.from_json(record)
    except (ValueError, BadTask) as error:
        return Unreadable(shown(task_id), f"{error}"[:200])
    return task


def _as_it_stands(distributor_id: str, task_id: bytes, record: Any) -> Task | Unreadable:
    return record_in(task_id, record)


async def read_records(
    source: Runs, key: str, ids: Sequence[bytes], opened: Callable[[bytes, Any], Task | Unreadable] = record_in
) -> list[Task | Unreadable]:
    """The tasks with these ids that are kept in the hash at `key`. `opened`: what a record under an id is taken for;
    as it stands, whoever has written it is believed."""
    [records] = await source.look(("HMGET", key, *ids))
    if isinstance(records, Exception):  # one of them is too large; find it
        records = await source.look(*(("HGET", key, task_id) for task_id in ids))
    return [opened(task_id, record) for task_id, record in zip(ids, records, strict=True) if record is not None]


async def read_task(source: Runs, coordinator_id: str, task_id: str) -> tuple[Task | None, Task | None]:
    """The coordinator's record of a task, and the record in the cell of the distributor that has it; None: missing.

    Raises UserError when the first is not ours. If the second is not ours, it counts as missing."""
    ids = [task_id.encode()]
    records = await read_records(source, CoordinatorKeys(coordinator_id).tasks, ids)
    task = records[0] if records else None
    if isinstance(task, Unreadable):
        raise UserError(f"the record of {task_id!r} cannot be read: {task.why}")
    return task, await read_in_cell(source, task) if task else None


async def read_in_cell(
    source: Runs, task: Task, opened: Callable[[str, bytes, Any], Task | Unreadable] = _as_it_stands
) -> Task | None:
    """The record in the cell of the distributor that has an open task; None: there is none that can be read. `opened`:
    what a record of a distributor is taken for, as in `read_records`."""
    distributor_id = task.assigned_to
    if distributor_id is None or task.status.ended:
        return None
    key, ids = CellKeys(distributor_id).actual, [task.task_id.encode()]
    found = await read_records(source, key, ids, partial(opened, distributor_id))
    return next((record for record in found if isinstance(record, Task)), None)


async def newest_tasks(source: Runs, coordinator_id: str) -> AsyncGenerator[Task | Unreadable, None]:
    """All stored tasks: the open ones, last submitted first, and then the ended ones, last ended first.

    They are read page by page, so a caller that stops early has not paid for all. A task that ends meanwhile may come
    twice.
    """
    keys = CoordinatorKeys(coordinator_id)
    for order in (keys.open, keys.ended):
        start = 0
        while True:
            [ids] = await source.look(("ZREVRANGE", order, start, start + PAGE - 1))
            if isinstance(ids, Exception):
                yield Unreadable(order, f"{ids}")
                break
            if not ids:
                break
            for record in await read_records(source, keys.tasks, ids):
                yield record
            start += PAGE
