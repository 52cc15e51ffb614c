"""What a worker decides. No I/O, no clock, no chance: the same state and batch give the same step.

It takes tasks from its distributor, has them run, and reports each outcome once. It keeps nothing in Redis: until an
outcome is reported, the task is the distributor's to give to somebody else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
from msgspec import Raw

from core.errors import BadTask, MalformedMessage
from core.langgraph_state import AgentStatus, LocalAgentState
from core.reports import AttemptReport, ProgressReport, attempt_in, item_of
from core.roles import Action, Address
from core.step import Batch, Drain, Effect, Event, Received, Sending, Step
from core.tasks import Task, TaskError, check_names

__all__ = [
    "CancelRun", "Outcome", "ProgressMade", "RunTask", "Withdraw", "Withdrawn", "WorkerEffect", "WorkerEvent",
    "WorkerState", "has_news", "receive", "report",
]  # fmt: skip


@dataclass(slots=True)
class WorkerState(LocalAgentState):
    """The memory of a worker: `local_tasks` are those it has taken and not reported yet."""

    distributor: Address = field(kw_only=True)
    report: Sending = field(init=False)  #: what its results are grouped by
    done: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.report = Sending(self.distributor, Action.TASK_RESULT)


@dataclass(frozen=True, slots=True)
class RunTask(Effect):
    """Effect: run this attempt as soon as there is a free slot."""

    task: Task


@dataclass(frozen=True, slots=True)
class CancelRun(Effect):
    """Effect: stop this attempt; its outcome says that it was cancelled."""

    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Withdraw(Effect):
    """Effect: take back what has not begun."""


@dataclass(frozen=True, slots=True)
class Withdrawn(Event):
    """Event: these have not begun and will not."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Outcome(Event):
    """Event: an attempt has ended."""

    report: AttemptReport


@dataclass(frozen=True, slots=True)
class ProgressMade(Event):
    """Event: how far an attempt is."""

    task_id: str
    attempt: int
    progress: dict[str, Any]


WorkerEffect: TypeAlias = RunTask | CancelRun | Withdraw
#: What becomes of attempts. Of the events that every agent is told of a worker takes `Drain`.
WorkerEvent: TypeAlias = Outcome | ProgressMade | Withdrawn


def receive(state: WorkerState, batch: Batch, step: Step) -> None:
    """Takes assignments and cancellations, in order, and begins to drain when it is told to."""
    for received in batch.messages:
        ON_MESSAGE[received.message.action](state, received, step)
    if any(isinstance(event, Drain) for event in batch.events):
        drain(state, step)
    note_status(state, batch)


def report(state: WorkerState, batch: Batch, step: Step) -> None:
    """Tells the distributor what has become of the attempts: how far they are, how they ended, which never began."""
    for event in batch.events:
        if on_event := ON_EVENT.get(type(event)):
            on_event(state, event, step)
    note_status(state, batch)


def has_news(batch: Batch) -> bool:
    """Whether there is something to report."""
    return any(type(event) in ON_EVENT for event in batch.events)


def note_status(state: WorkerState, batch: Batch) -> None:
    state.status = AgentStatus.BUSY if state.local_tasks else AgentStatus.IDLE
    state.updated_at = batch.now


def on_assign_tasks(state: WorkerState, received: Received, step: Step) -> None:
    """With no tasks in it, the distributor asks whether it is heard, and is answered likewise."""
    if not received.message.tasks:
        step.extras.setdefault(state.report, {})
    for item in received.message.tasks:
        try:
            task = Task.from_json(item)
            check_names(task)
        except BadTask as error:
            refuse_assignment(state, received, item, error, step)
        else:
            on_assign_task(state, task, step)


def refuse_assignment(state: WorkerState, received: Received, item: Raw, error: BadTask, step: Step) -> None:
    """A task that is none: its attempt fails, as far as it says which one that is."""
    step.put_aside(received, item, MalformedMessage("a malformed task"))
    if attempt := attempt_in(item):
        problem = TaskError(type="BadTask", message=f"refused by its worker: {error}", retryable=False)
        failed = AttemptReport(task_id=attempt.task_id, attempt=attempt.attempt, status="failed", error=problem)
        step.send(state.report, item_of(failed))


def on_assign_task(state: WorkerState, task: Task, step: Step) -> None:
    """A new attempt. Told twice, it runs once; while draining it goes straight back."""
    known = state.local_tasks.get(task.task_id)
    if known and known.attempt >= task.attempt:
        return
    if state.draining:
        hand_back(state, task, step)
        return
    if known:
        step.effects.append(CancelRun(known.task_id, known.attempt))
    state.local_tasks[task.task_id] = task
    step.effects.append(RunTask(task))


def on_cancel_tasks(state: WorkerState, received: Received, step: Step) -> None:
    for item in received.message.tasks:
        if (attempt := attempt_in(item)) is None:
            step.put_aside(received, item, MalformedMessage("this names no attempt"))
        elif (task := state.local_tasks.get(attempt.task_id)) and task.attempt == attempt.attempt:
            step.effects.append(CancelRun(task.task_id, task.attempt))


def on_outcome(state: WorkerState, outcome: Outcome, step: Step) -> None:
    """Reports how the current attempt ended; one that was superseded says nothing."""
    report = outcome.report
    task = state.local_tasks.get(report.task_id)
    if task is None or task.attempt != report.attempt:
        return
    del state.local_tasks[report.task_id]
    if report.status == "completed":
        state.done += 1
    elif report.status == "failed":
        state.failed += 1
    step.send(state.report, item_of(report))


def on_progress(state: WorkerState, event: ProgressMade, step: Step) -> None:
    if event.task_id in state.local_tasks:
        shown = Raw(orjson.dumps(event.progress))
        said = ProgressReport(task_id=event.task_id, attempt=event.attempt, progress_json=shown)
        step.send(Sending(state.distributor, Action.TASK_PROGRESS), item_of(said))


def drain(state: WorkerState, step: Step) -> None:
    """Takes nothing new; what has not begun goes back."""
    state.draining = True
    step.effects.append(Withdraw())


def on_withdrawn(state: WorkerState, event: Withdrawn, step: Step) -> None:
    for task in event.tasks:
        hand_back(state, task, step)


def hand_back(state: WorkerState, task: Task, step: Step) -> None:
    """Returns a task that was not finished here; the attempt does not count against it."""
    state.local_tasks.pop(task.task_id, None)
    step.send(state.report, item_of(AttemptReport(task_id=task.task_id, attempt=task.attempt, status="returned")))


#: What may come in a message: `core.roles.ALLOWED` lets nothing else through.
ON_MESSAGE: dict[str, Callable[[WorkerState, Received, Step], None]] = {
    Action.ASSIGN_TASK: on_assign_tasks,
    Action.CANCEL_TASK: on_cancel_tasks,
}

#: Each of WorkerEvent, by its type.
ON_EVENT: dict[type[Event], Callable[[WorkerState, Any, Step], None]] = {
    Outcome: on_outcome,
    ProgressMade: on_progress,
    Withdrawn: on_withdrawn,
}
