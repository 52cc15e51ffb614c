"""What a suspended run waits for, as its interrupts say, and what it resumes with. For the code that runs attempts.

A run is suspended by LangGraph's `interrupt(value)`. A value is a question, unless it is marked: `delegate` and `ask`
put more into it than what a person is shown. Marked values are plain JSON, since they are stored with the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from msgspec import Raw
from msgspec.structs import asdict

from core.errors import BadTask
from core.json_values import result_json
from core.record_fields import NULL
from core.tasks import FreshId, Task, TaskError, TaskStatus, checked
from core.waits import Wait
from worker.authoring.context import ChildOutcome, Context

__all__ = [
    "Interrupted",
    "Suspension",
    "marked_question",
    "marked_tasks",
    "outcomes_in",
    "resume_of",
    "spawned_before",
    "suspension_of",
]

#: The one key of a marked value, and the keys in it.
MARK = "__agent_system__"
TASKS, ASKS, EXPIRES_S, DEFAULT = "tasks", "asks", "expires_s", "default"
REFUSED, OUTCOMES = "refused", "outcomes"


class Interrupted(NamedTuple):
    """One interrupt of a run."""

    id: str  #: LangGraph's, or `breakpoint:NODE`
    node: str
    value: Any  #: what `interrupt` was called with; None for a breakpoint


@dataclass(frozen=True, slots=True)
class Suspension:
    """What a suspended attempt waits for, and the tasks that it delegates."""

    waits: tuple[Wait, ...]
    children: tuple[Task, ...] = ()


def marked_tasks(tasks: Sequence[Task]) -> dict[str, Any]:
    """The value of the interrupt that delegates these. Raises BadTask when one is no task, or malformed."""
    return {MARK: {TASKS: [_unnamed(checked(task)) for task in tasks]}}


def _unnamed(task: Task) -> dict[str, Any]:
    """The fields of a task. An id that nobody chose is left out, since it would be another in each attempt."""
    fields: dict[str, Any] = orjson.loads(task.to_json())
    del fields["created_at"]
    if type(task.task_id) is FreshId:
        del fields["task_id"]
    return fields


def marked_question(asks: Any, expires_s: float | None, default: Any) -> dict[str, Any]:
    """The value of the interrupt that asks this, for a limited time."""
    return {MARK: {ASKS: asks, EXPIRES_S: expires_s, DEFAULT: default}}


def suspension_of(interrupts: Iterable[Interrupted], context: Context) -> Suspension:
    """What a run with these interrupts waits for. Delegated tasks without an id get `<this task>/<index>`.

    Raises BadTask when what is asked is no JSON, or larger than a payload may be."""
    waits: list[Wait] = []
    children: list[Task] = []
    for interrupt in interrupts:
        marked = interrupt.value.get(MARK) if isinstance(interrupt.value, dict) and len(interrupt.value) == 1 else None
        if not isinstance(marked, dict):
            marked = {ASKS: interrupt.value}
        if TASKS in marked:
            named = [
                context.named(index, Task(**fields))
                for index, fields in enumerate(marked[TASKS], context.spawned + len(children))
            ]
            children += named
            waits.append(Wait(id=interrupt.id, node=interrupt.node, children=tuple(task.task_id for task in named)))
        else:
            waits.append(_question(interrupt, marked))
    return Suspension(tuple(waits), tuple(children))


def _question(interrupt: Interrupted, marked: dict[str, Any]) -> Wait:
    try:
        return Wait(
            id=interrupt.id, node=interrupt.node, asks_json=_json_of(marked[ASKS]), expires_s=marked.get(EXPIRES_S),
            default_json=_json_of(marked.get(DEFAULT)),
        )  # fmt: skip
    except BadTask as error:
        raise BadTask(f"the question of node {interrupt.node!r} cannot be asked: {error}") from None


def _json_of(value: Any) -> Raw:
    return NULL if value is None else Raw(result_json(value))


def resume_of(task: Task, outcomes: Iterable[ChildOutcome]) -> dict[str, Any]:
    """What a run resumes with, by interrupt: the answers to its questions, and for `delegate` what it makes results
    of. Empty: the task was not suspended. `outcomes` are those of the children that it has waited for."""
    by_id = {outcome.task_id: outcome for outcome in outcomes}
    return {wait.id: _answer(wait, by_id) for wait in task.waits}


def spawned_before(task: Task, outcomes: Iterable[ChildOutcome]) -> list[ChildOutcome]:
    """The outcomes of the children of which this task is the continuation, without those that it was suspended for."""
    awaited = {child_id for wait in task.waits for child_id in wait.children}
    return [outcome for outcome in outcomes if outcome.task_id not in awaited]


def _answer(wait: Wait, outcomes: dict[str, ChildOutcome]) -> Any:
    if wait.refused is not None:
        return {REFUSED: wait.refused}
    if wait.children:
        return {OUTCOMES: [_told(outcomes[child_id]) for child_id in wait.children]}
    return wait.answer


def _told(outcome: ChildOutcome) -> dict[str, Any]:
    return {
        "task_id": outcome.task_id, "task_type": outcome.task_type, "status": outcome.status.value,
        "result": outcome.result, "error": asdict(outcome.error) if outcome.error else None,
    }  # fmt: skip


def outcomes_in(answer: Any, tasks: Sequence[Task]) -> list[ChildOutcome]:
    """The outcomes of delegated tasks, in the answer that `resume_of` made of them. Those of a delegation that was
    refused have all failed, and no id."""
    if REFUSED in answer:
        error = TaskError(type=REFUSED, message=answer[REFUSED], retryable=False)
        return [ChildOutcome("", task.task_type, TaskStatus.FAILED, None, error) for task in tasks]
    return [
        ChildOutcome(
            told["task_id"], told["task_type"], TaskStatus(told["status"]), told["result"],
            TaskError(**told["error"]) if told["error"] else None,
        )
        for told in answer[OUTCOMES]
    ]  # fmt: skip
