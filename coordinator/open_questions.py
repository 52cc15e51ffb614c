"""Which open tasks ask something, by whoever may see that, and when their questions expire. No I/O, no clock.

Nothing here looks at all open tasks, so a hundred thousand that wait for an answer cost the others nothing.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from datetime import datetime

from coordinator.state import CoordinatorState
from core.access import owner_of
from core.event_types import EventType
from core.roles import Address, Role
from core.step import Batch, Step, Table
from core.tasks import Task

__all__ = [
    "OPERATORS", "asking", "due_questions", "forget_questions", "list_questions", "recall_questions", "tasks_that_ask",
]  # fmt: skip

#: In `state.questions`: an operator sees all.
OPERATORS = ""
#: Moments of questions that are settled, which may be remembered in addition to twice the number of tasks that ask.
EXPIRIES_KEPT = 1_000


def list_questions(state: CoordinatorState, task: Task, batch: Batch, step: Step) -> None:
    """Lists a task that was just suspended, if it asks something, and tells observers of each question."""
    asked = [wait for wait in task.waits if wait.is_open_question]
    if not asked:
        return
    remember(state, task)
    step.put(Table.QUESTIONS, task.task_id, batch.now_ms)
    for wait in asked:
        step.tell(EventType.QUESTION_ASKED, task, wait.id, wait.node or None)
    if len(state.expiries) > 2 * len(state.questions[OPERATORS]) + EXPIRIES_KEPT:
        state.expiries = []
        for task_id in state.questions[OPERATORS]:
            watch_expiry(state, task_id)


def remember(state: CoordinatorState, task: Task) -> None:
    for viewer in _viewers(task):
        state.questions.setdefault(viewer, {})[task.task_id] = None
    watch_expiry(state, task.task_id)


def watch_expiry(state: CoordinatorState, task_id: str) -> None:
    """Notes when the next question of a task expires, and no later one: there are as many moments as tasks then, and
    the list of them is seldom made anew."""
    if moment := min(expiries_of(state, task_id), default=None):
        heapq.heappush(state.expiries, moment)


def expiries_of(state: CoordinatorState, task_id: str) -> Iterator[tuple[int, str]]:
    """When the open questions of a task expire; nothing if it is open no more."""
    task = state.local_tasks.get(task_id)
    for wait in task.waits if task else ():
        if wait.is_open_question and wait.expires_at:
            yield math.ceil(wait.expires_at.timestamp() * 1000), task_id


def forget_questions(state: CoordinatorState, task: Task, step: Step) -> None:
    """Takes a task off the list: it has ended, or all its questions are settled."""
    if task.task_id not in state.questions.get(OPERATORS, ()):
        return
    for viewer in _viewers(task):
        tasks = state.questions[viewer]
        tasks.pop(task.task_id, None)
        if not tasks:
            del state.questions[viewer]
    step.remove(Table.QUESTIONS, task.task_id)


def recall_questions(state: CoordinatorState) -> None:
    """Restores the list from the open tasks, in the order in which they have asked."""
    tasks = [task for task in state.local_tasks.values() if any(wait.is_open_question for wait in task.waits)]
    for task in sorted(tasks, key=asked_at):
        remember(state, task)


def due_questions(state: CoordinatorState, batch: Batch) -> Iterator[Task]:
    """The tasks with a question whose time is over."""
    looked_at: dict[str, None] = {}
    while state.expiries and state.expiries[0][0] <= batch.now_ms:
        _, task_id = heapq.heappop(state.expiries)
        looked_at[task_id] = None
        if any(expires_ms <= batch.now_ms for expires_ms, _ in expiries_of(state, task_id)):
            yield state.local_tasks[task_id]
    for task_id in looked_at:
        watch_expiry(state, task_id)


def asking(state: CoordinatorState) -> dict[str, int]:
    """The tasks with open questions, and when each was suspended, in ms since 1970."""
    return {
        task_id: int(asked_at(state.local_tasks[task_id])[0].timestamp() * 1000)
        for task_id in state.questions.get(OPERATORS, ())
    }


def tasks_that_ask(
    state: CoordinatorState, asker: Address, root: str | None, only: str | None = None
) -> Iterator[Task]:
    """The tasks whose questions `asker` may see, those that asked first at the beginning; with `root`, only those in
    the tree below that task, and that task; otherwise with `only` that one."""
    if root is None and only is not None:
        if only in state.questions.get(OPERATORS, ()):
            yield state.local_tasks[only]
        return
    if root is not None:
        yield from sorted(_in_tree(state, root), key=asked_at)
        return
    viewers = [OPERATORS] if asker.role is Role.OPERATOR else [owner_of(asker), *map(_shared, ("*", asker.name))]
    lists = [map(state.local_tasks.__getitem__, state.questions.get(viewer, ())) for viewer in viewers]
    told = set[str]()
    for task in heapq.merge(*lists, key=asked_at):
        if task.task_id not in told:  # it may be in several
            yield task
        told.add(task.task_id)


def asked_at(task: Task) -> tuple[datetime, str]:
    """When it was suspended last; the id keeps the order of those of one moment."""
    return task.waits[0].asked_at or task.created_at, task.task_id


def _in_tree(state: CoordinatorState, root: str) -> Iterator[Task]:
    below = [root]
    while below:
        task_id = below.pop()
        if task_id in state.questions.get(OPERATORS, ()):
            yield state.local_tasks[task_id]
        below += sorted(state.families.get(task_id, ()), reverse=True)


def _viewers(task: Task) -> Iterator[str]:
    yield OPERATORS
    if task.owner:
        yield task.owner
    yield from map(_shared, set(task.shared_with))


def _shared(name: str) -> str:
    return f"shared:{name}"
