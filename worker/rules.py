"""What a worker decides. No I/O, no clock, no chance: the same state and batch give the same step.

It takes tasks from its distributor, has them run, and reports each outcome once. It keeps nothing in Redis: until an
outcome is reported, the task is the distributor's to give to somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from core.langgraph_state import AgentStatus, LocalAgentState
from core.roles import Action, Address, Role
from core.step import Batch, Drain, Sending, Step
from core.tasks import Task

__all__ = ["CancelRun", "Outcome", "ProgressMade", "RunTask", "Withdraw", "Withdrawn", "WorkerState", "listen"]


@dataclass(slots=True)
class WorkerState(LocalAgentState):
    """The memory of a worker: `local_tasks` are those it has taken and not reported yet."""

    distributor: Address = Address(Role.DISTRIBUTOR, "distributor-1")
    draining: bool = False
    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class RunTask:
    """Effect: run this attempt as soon as there is a free slot."""

    task: Task


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Effect: stop this attempt; its outcome says that it was cancelled."""

    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Effect: take back what has not begun."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Event: these have not begun and will not."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Event: an attempt has ended. `item` is its report, JSON values only."""

    task_id: str
    attempt: int
    item: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProgressMade:
    """Event: how far an attempt is."""

    task_id: str
    attempt: int
    progress: dict[str, Any]


def listen(state: WorkerState, batch: Batch, step: Step) -> None:
    """Takes a batch into the state: messages in order, then what happened in this process."""
    for received in batch.messages:
        action = received.message.action
        if action == Action.ASSIGN_TASK:
            for item in received.message.tasks:
                on_assign_task(state, Task.parse(item), step)
        elif action == Action.CANCEL_TASK:
            for item in received.message.tasks:
                on_cancel_task(state, item["task_id"], item["attempt"], step)
    report = Sending(state.distributor, Action.TASK_RESULT)
    for event in batch.events:
        if isinstance(event, Outcome):
            on_outcome(state, event, report, step)
        elif isinstance(event, ProgressMade):
            on_progress(state, event, step)
        elif isinstance(event, Withdrawn):
            for task in event.tasks:
                hand_back(state, task, report, step)
        elif isinstance(event, Drain):
            state.draining = True
            step.effects.append(Withdraw())
    state.status = AgentStatus.BUSY if state.local_tasks else AgentStatus.IDLE
    state.updated_at = batch.now


def on_assign_task(state: WorkerState, task: Task, step: Step) -> None:
    """A new attempt. Told twice, it runs once; while draining it goes straight back."""
    known = state.local_tasks.get(task.task_id)
    if known and known.attempt >= task.attempt:
        return
    if state.draining:
        hand_back(state, task, Sending(state.distributor, Action.TASK_RESULT), step)
        return
    if known:
        step.effects.append(CancelRun(known.task_id, known.attempt))
    state.local_tasks[task.task_id] = task
    step.effects.append(RunTask(task))


def on_cancel_task(state: WorkerState, task_id: str, attempt: int, step: Step) -> None:
    task = state.local_tasks.get(task_id)
    if task and task.attempt == attempt:
        step.effects.append(CancelRun(task_id, attempt))


def on_outcome(state: WorkerState, outcome: Outcome, report: Sending, step: Step) -> None:
    """Reports how the current attempt ended; one that was superseded says nothing."""
    task = state.local_tasks.get(outcome.task_id)
    if task is None or task.attempt != outcome.attempt:
        return
    del state.local_tasks[outcome.task_id]
    if outcome.item["status"] == "failed":
        state.failed += 1
    else:
        state.done += 1
    step.send(report, orjson.dumps(outcome.item))


def on_progress(state: WorkerState, event: ProgressMade, step: Step) -> None:
    if event.task_id in state.local_tasks:
        item = {"task_id": event.task_id, "attempt": event.attempt, "progress": event.progress}
        step.send(Sending(state.distributor, Action.TASK_PROGRESS), orjson.dumps(item))


def hand_back(state: WorkerState, task: Task, report: Sending, step: Step) -> None:
    """Returns a task that was not finished here; the attempt does not count against it."""
    state.local_tasks.pop(task.task_id, None)
    step.send(report, orjson.dumps({"task_id": task.task_id, "attempt": task.attempt, "status": "returned"}))
