"""Reads the questions of suspended tasks, without acting on them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from core.operations.task_records import PAGE, Unreadable, read_records
from core.redis_backend.keys import CoordinatorKeys
from core.redis_backend.shared_state import Runs
from core.tasks import Task, TaskStatus
from core.waits import Question

__all__ = ["open_questions", "questions_of"]


def questions_of(task: Task) -> list[Question]:
    """The open questions of a task."""
    return [
        Question.of(wait, task.task_id, task.task_type, task.root_id)
        for wait in task.waits
        if wait.is_open_question and not task.status.ended
    ]


async def open_questions(
    source: Runs, coordinator_id: str, limit: int, root: str | None = None
) -> list[Question | Unreadable]:
    """The open questions, those first that have waited longest, at most `limit`; with `root`, only those of that task
    and of all below it."""
    found: list[Question | Unreadable] = []
    if root is not None:
        records = [record async for record in _tree(source, coordinator_id, root)]
        asked = [each for record in records if isinstance(record, Task) for each in questions_of(record)]
        asked.sort(key=lambda question: str(question.asked_at))
        found += asked
        found += [record for record in records if isinstance(record, Unreadable)]
        return found[:limit]
    async for task in _tasks_that_ask(source, coordinator_id):
        found += [task] if isinstance(task, Unreadable) else questions_of(task)
        if len(found) >= limit:
            break
    return found[:limit]


async def _tasks_that_ask(source: Runs, coordinator_id: str) -> AsyncIterator[Task | Unreadable]:
    keys = CoordinatorKeys(coordinator_id)
    start = 0
    while True:
        [ids] = await source.look(("ZRANGE", keys.questions, start, start + PAGE - 1))
        if isinstance(ids, Exception):
            yield Unreadable(keys.questions, f"{ids}")
            return
        if not ids:
            return
        for record in await read_records(source, keys.tasks, ids):
            yield record
        start += PAGE


async def _tree(source: Runs, coordinator_id: str, root: str) -> AsyncIterator[Task | Unreadable]:
    """The waiting tasks of a tree, level by level. A record is read once, whatever others say."""
    key, known = CoordinatorKeys(coordinator_id).tasks, {root}
    level = [root]
    while level:
        below: list[str] = []
        for start in range(0, len(level), PAGE):
            for record in await read_records(source, key, [name.encode() for name in level[start : start + PAGE]]):
                if isinstance(record, Unreadable):
                    yield record
                elif record.status is TaskStatus.WAITING:
                    yield record
                    below += [child for child in record.awaited if child not in known]
                    known.update(record.awaited)
        level = below
