"""What a worker decides. No I/O, no clock, no randomness: the same state and batch give the same step.

It takes tasks from its distributor, has them run, and reports each outcome once. It stores nothing in Redis: until it
reports an outcome, its distributor can hand the task to another worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson
from msgspec import Raw

from core.errors import BadTask, MalformedMessage
from core.event_entry import EventRow, row_of
from core.event_types import EventType
from core.langgraph_state import AgentStatus, LocalAgentState
from core.reports import AttemptReport, ProgressReport, attempt_in, item_of
from core.roles import Action, Address, Role
from core.step import Batch, Drain, Effect, Event, Received, Sending, Step
from core.tasks import Task, TaskError, check_names

__all__ = [
    "CancelRun", "Outcome", "ProgressMade", "ReturnTask", "RunTask", "Said", "Withdraw", "Withdrawn",
    "WorkerEffect", "WorkerEvent", "WorkerState", "has_news", "receive", "report",
]  # fmt: skip


#: Bounds of what user code tells with one step, in events and in bytes.
MAX_SAID, MAX_SAID_BYTES = 1_000, 512 * 1024


@dataclass(slots=True)
class WorkerState(LocalAgentState):
    """The memory of a worker: `local_tasks` are the tasks that it has accepted and not reported yet."""

    distributor: Address = field(kw_only=True)
    report: Sending = field(init=False)  #: the Sending for its results
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
    """Effect: stop this attempt. Its outcome is then that it was cancelled."""

    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class ReturnTask(Effect):
    """Effect: take this attempt back, if it has not begun."""

    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Withdraw(Effect):
    """Effect: take back the attempts that have not begun, and have graphs stop between two nodes."""


@dataclass(frozen=True, slots=True)
class Withdrawn(Event):
    """Event: these attempts have not begun, and will not begin."""

    tasks: tuple[Task, ...]
    asked: bool = False  #: whether the distributor has asked for them


@dataclass(frozen=True, slots=True)
class Outcome(Event):
    """Event: an attempt has ended."""

    report: AttemptReport


@dataclass(frozen=True, slots=True)
class ProgressMade(Event):
    """Event: an attempt has reported its progress."""

    task_id: str
    attempt: int
    progress: dict[str, Any]


@dataclass(slots=True, eq=False)
class Said(Event):
    """Event: what user code has told observers since the last step, as far as it can be told with one."""

    rows: list[EventRow] = field(default_factory=list)
    size: int = 0  #: about how many bytes they take
    dropped: int = 0  #: how many more there were

    def add(self, row: EventRow, size: int) -> None:
        if len(self.rows) < MAX_SAID and self.size + size <= MAX_SAID_BYTES:
            self.rows.append(row)
            self.size += size
        else:
            self.dropped += 1


WorkerEffect: TypeAlias = RunTask | CancelRun | ReturnTask | Withdraw
#: Events about attempts. Of the events that every agent gets, a worker handles `Drain`.
WorkerEvent: TypeAlias = Outcome | ProgressMade | Withdrawn | Said


def receive(state: WorkerState, batch: Batch, step: Step) -> None:
    """Handles assignments and cancellations, in order, and begins to drain if there is a Drain event."""
    for received in batch.messages:
        ON_MESSAGE[received.message.action](state, received, step)
    if any(isinstance(event, Drain) for event in batch.events):
        drain(state, step)
    note_status(state, batch)


def report(state: WorkerState, batch: Batch, step: Step) -> None:
    """Tells the distributor about attempts: their progress, their outcomes, and which have not begun and go back."""
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
    """Takes tasks from the distributor. A message without tasks asks for an answer, which is also without tasks."""
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
    """Fails the attempt at a malformed task, if the item names one."""
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


def on_return_tasks(state: WorkerState, received: Received, step: Step) -> None:
    """Gives attempts back that have not begun, since another worker is idle. Of the others nothing is said."""
    for item in received.message.tasks:
        if (attempt := attempt_in(item)) is None:
            step.put_aside(received, item, MalformedMessage("this names no attempt"))
        elif (task := state.local_tasks.get(attempt.task_id)) and task.attempt == attempt.attempt:
            step.effects.append(ReturnTask(task.task_id, task.attempt))


def on_outcome(state: WorkerState, outcome: Outcome, step: Step) -> None:
    """Reports the outcome of the current attempt. The outcome of a superseded attempt is dropped."""
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
    if task := state.local_tasks.get(event.task_id):
        step.tell(EventType.TASK_PROGRESS, task, event.progress)
        shown = Raw(orjson.dumps(event.progress))
        said = ProgressReport(task_id=event.task_id, attempt=event.attempt, progress_json=shown)
        step.send(Sending(state.distributor, Action.TASK_PROGRESS), item_of(said))


def on_said(state: WorkerState, event: Said, step: Step) -> None:
    step.events += event.rows
    if event.dropped:
        step.events.append(row_of(EventType.EVENTS_MISSED, None, None, event.dropped))


def drain(state: WorkerState, step: Step) -> None:
    """Stops accepting tasks, and hands those back that have not begun."""
    state.draining = True
    step.tell_agent(EventType.AGENT_DRAINING, Address(Role.WORKER, state.agent_id))
    step.effects.append(Withdraw())


def on_withdrawn(state: WorkerState, event: Withdrawn, step: Step) -> None:
    for task in event.tasks:
        current = state.local_tasks.get(task.task_id)
        if current is None or current.attempt == task.attempt:  # otherwise a newer attempt has come meanwhile
            hand_back(state, task, step, asked=event.asked)


def hand_back(state: WorkerState, task: Task, step: Step, *, asked: bool = False) -> None:
    """Returns a task that was not finished here; the attempt does not count against it."""
    state.local_tasks.pop(task.task_id, None)
    said = AttemptReport(task_id=task.task_id, attempt=task.attempt, status="returned", asked=asked)
    step.send(state.report, item_of(said))


#: The handler of each action; `core.roles.ALLOWED` lets no other action through.
ON_MESSAGE: dict[str, Callable[[WorkerState, Received, Step], None]] = {
    Action.ASSIGN_TASK: on_assign_tasks,
    Action.CANCEL_TASK: on_cancel_tasks,
    Action.RETURN_TASK: on_return_tasks,
}

#: The handler of each type in WorkerEvent.
ON_EVENT: dict[type[Event], Callable[[WorkerState, Any, Step], None]] = {
    Outcome: on_outcome,
    ProgressMade: on_progress,
    Withdrawn: on_withdrawn,
    Said: on_said,
}
