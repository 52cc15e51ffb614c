"""The life of a task from the distributor's side: handed over, tried again, given back, ended. No I/O, no clock.

A result counts only for the attempt that is current: the attempt's number is its fence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic_core import to_jsonable_python

from core.agents import Child
from core.reports import AttemptReport
from core.roles import Action
from core.step import Batch, Sending, Step, Table, Unsealed
from core.tasks import Task, TaskError, TaskStatus, bounded, errors_with
from distributor.state import DistributorState

__all__ = [
    "attempts_allowed", "conclude", "fail", "give_back", "hand_over", "is_own", "line_up", "lose", "remember_attempts",
    "report", "requeue", "save",
]  # fmt: skip

S = TaskStatus
#: Attempts of a task whose handler nobody has told the limit of yet.
DEFAULT_MAX_ATTEMPTS = 3
#: Of so many types of task is remembered how often they may be tried.
MOST_TYPES = 16_384
#: How many ended tasks stay visible in the shared state.
ENDED_KEPT = 50
#: How much of an attempt's last progress is kept as its output, when its worker is gone and can tell no more.
PROGRESS_KEPT = 2048


def hand_over(state: DistributorState, task: Task, worker: Child, batch: Batch, step: Step) -> None:
    """A new attempt, with the next number, for this start of this worker."""
    handed = task.moved(
        S.IN_PROGRESS,
        batch.now,
        assigned_to=worker.address.agent_id,
        started_at=batch.now,
        attempt=task.attempt + 1,
        retry_count=task.retry_count + 1,
        not_before=None,
    )
    state.local_tasks[task.task_id] = handed
    worker.take(task.task_id)
    record = handed.to_json()
    step.put(Table.ACTUAL, task.task_id, record)
    step.send(Sending(worker.address, Action.ASSIGN_TASK, None, worker.incarnation), record)
    step.change(task.task_id, trail(S.IN_PROGRESS, handed.assigned_to, handed.attempt, handed.task_type))


def fail(state: DistributorState, task: Task, name: str, said: AttemptReport, batch: Batch, step: Step) -> None:
    """A failed attempt: again after a pause and elsewhere, or the end of the task."""
    error = bounded(said["error"].model_copy(update={"attempt": task.attempt, "worker": name}))
    if "max_attempts" in said:
        remember_attempts(state, {task.task_type: said["max_attempts"]})
    task = task.evolve(errors=errors_with(task.errors, error))
    if task.cancel_requested:
        conclude(state, task, {"status": S.CANCELLED.value, "worker": name}, batch, step)
    elif error.retryable and task.retry_count < attempts_allowed(state, task):
        state.last_worker[task.task_id] = name
        state.count("retried")
        requeue(state, task, batch, step, not_before=batch.now + task.retry_delay(), error=error)
    else:
        failed: dict[str, Any] = {**said, "error": error.model_dump(), "worker": name}
        if error.type == "deadline":  # it was never run: nobody's handler has failed
            failed["status"] = S.ABANDONED.value
        conclude(state, task, failed, batch, step)


def lose(state: DistributorState, task: Task, name: str, batch: Batch, step: Step, *, began: bool) -> None:
    """An attempt whose worker is gone: again elsewhere, or given up when that happened too often."""
    if not began:
        requeue(state, task, batch, step, retry_count=task.retry_count - 1)
        return
    message = f"worker {name} was gone before it reported"
    error = TaskError(
        type="worker_lost", message=message, attempt=task.attempt, worker=name, output=last_progress(task)
    )
    task = task.evolve(errors=errors_with(task.errors, error))
    # Just restarted, it may not have been told yet how often this may be tried; whoever runs it next tells that first.
    unknown = not task.max_attempts and task.task_type not in state.max_attempts
    if task.cancel_requested:
        conclude(state, task, {"status": S.CANCELLED.value, "worker": name}, batch, step)
    elif unknown or task.retry_count < attempts_allowed(state, task):
        state.last_worker[task.task_id] = name
        state.count("retried")
        requeue(state, task, batch, step, error=error)
    else:
        item = {"status": S.ABANDONED.value, "error": error.model_dump(), "worker": name}
        conclude(state, task, item, batch, step)


def remember_attempts(state: DistributorState, told: Mapping[str, int]) -> None:
    """Takes what a worker says of how often its handlers may be tried; of too many names the oldest are forgotten."""
    state.max_attempts.update(told)
    while len(state.max_attempts) > MOST_TYPES:
        del state.max_attempts[next(iter(state.max_attempts))]


def last_progress(task: Task) -> str:
    """How far the current attempt said it was; empty: it said nothing."""
    if task.updated_at is None or task.started_at is None or task.updated_at <= task.started_at:
        return ""
    return f"progress: {orjson.dumps(task.metadata.get('progress')).decode()}"[:PROGRESS_KEPT]


def attempts_allowed(state: DistributorState, task: Task) -> int:
    return task.max_attempts or state.max_attempts.get(task.task_type, DEFAULT_MAX_ATTEMPTS)


def requeue(state: DistributorState, task: Task, batch: Batch, step: Step, **changes: Any) -> None:
    """Back in line for another attempt, or back to the coordinator while draining."""
    if task.cancel_requested:
        conclude(state, task, {"status": S.CANCELLED.value}, batch, step)
        return
    again = task.moved(S.PENDING, batch.now, assigned_to=None, **changes)
    save(state, again, step, f"{again.status} {changes['error'].type}" if "error" in changes else again.status)
    if state.draining:
        give_back(state, again, batch, step)
    else:
        line_up(state, again)


def line_up(state: DistributorState, task: Task) -> None:
    """Lets a task wait for a worker. One that a worker has died with goes only where it begins at once: of what waited
    at a worker behind others nobody can say whether it had begun, so that it does not count. One that another death
    would end goes only to a worker that has no other such: whoever brings workers down takes no innocent along."""
    if task.task_id not in state.suspects:
        state.queue.push(task)
    elif task.retry_count + 1 < attempts_allowed(state, task):
        state.careful.push(task)
    else:
        state.apart.push(task)


def take_out(state: DistributorState, task_id: str) -> None:
    """Forgets a task that leaves the cell."""
    del state.local_tasks[task_id]
    state.queue.remove(task_id)
    if task_id in state.suspects:
        state.suspects.remove(task_id)
        state.careful.remove(task_id)
        state.apart.remove(task_id)
    state.last_worker.pop(task_id, None)


def is_own(task: Task) -> bool:
    """Whether a program handed it in here: what came through the coordinator has a root."""
    return task.root_id is None


def give_back(state: DistributorState, task: Task, batch: Batch, step: Step, *, stranded: bool = False) -> None:
    """Returns a task to the coordinator, which gives it to somebody else. `stranded`: nobody here can do this one, but
    others are welcome. What the coordinator does not know of ends here."""
    if is_own(task):
        problem = TaskError(type="drained", message="its distributor stops, and no other has it", retryable=False)
        conclude(state, task, {"status": S.ABANDONED.value, "error": problem.model_dump()}, batch, step)
        return
    take_out(state, task.task_id)
    step.remove(Table.ACTUAL, task.task_id)
    returned = {"status": "returned", "not_before": task.not_before, "stranded": stranded}
    report(state, {**returned, **attempts_of(task)}, step)


def attempts_of(task: Task) -> dict[str, Any]:
    """What the coordinator is told of a task's attempts, however they ended."""
    had: dict[str, Any] = {"task_id": task.task_id, "attempt": task.attempt, "retry_count": task.retry_count}
    if task.errors:
        had["errors"] = [error.model_dump(exclude_defaults=True) for error in task.errors]
    return had


def conclude(state: DistributorState, task: Task, item: dict[str, Any], batch: Batch, step: Step) -> None:
    """The task leaves the cell; its outcome goes to the coordinator. A few ended ones stay visible."""
    task_id = task.task_id
    take_out(state, task_id)
    item |= attempts_of(task)
    if task.started_at:
        item["started_at"] = item.get("started_at") or task.started_at
    report(state, item, step)
    status = S.WAITING if item["status"] == "delegated" else S(item["status"])
    state.count(item["status"])
    shown = {
        "task_id": task_id, "task_type": task.task_type, "status": status, "retry_count": task.retry_count,
        "created_at": task.created_at, "updated_at": batch.now, "assigned_to": task.assigned_to,
    }  # fmt: skip
    step.put(Table.ACTUAL, task_id, Unsealed(orjson.dumps(shown)))
    step.change(task_id, trail(status, task.assigned_to, task.attempt, round(item.get("run_ms", 0))))
    state.ended.pop(task_id, None)  # it may have ended here before
    state.ended[task_id] = None
    while len(state.ended) > ENDED_KEPT:
        oldest = next(iter(state.ended))
        del state.ended[oldest]
        if oldest not in state.local_tasks:
            step.remove(Table.ACTUAL, oldest)


def trail(status: TaskStatus, worker: str | None, attempt: int, fact: object) -> str:
    """A change as the audit trail tells it: its status, then who had the task and facts about that, if anybody did."""
    return f"{status} {worker} {attempt} {fact}" if worker else status


def report(state: DistributorState, item: dict[str, Any], step: Step) -> None:
    step.send(Sending(state.coordinator, Action.TASK_RESULT), orjson.dumps(item, default=to_jsonable_python))


def save(state: DistributorState, task: Task, step: Step, what: str = "") -> None:
    """Writes a changed task. `what` the trail tells of it; empty: who has it."""
    state.local_tasks[task.task_id] = task
    step.put(Table.ACTUAL, task.task_id, task.to_json())
    step.change(task.task_id, what or trail(task.status, task.assigned_to, task.attempt, task.task_type))
