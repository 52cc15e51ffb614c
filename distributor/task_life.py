"""The life of a task from the distributor's side: it is handed over, tried again, given back and ended. No I/O, no
clock.

A result counts only for the current attempt, whose number serves as a fence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from msgspec.structs import replace

from core.agents import Subordinate
from core.attempt_errors import bounded, errors_with
from core.dispatch_queue import Placement
from core.event_types import EventType
from core.reports import AttemptReport, TaskReport, item_of
from core.roles import Action
from core.spans import spans_of_attempt, spans_of_dispatch
from core.step import Batch, Keyed, Sending, Step, Table, Unsealed
from core.tasks import NULL, Task, TaskError, TaskStatus, skills_needed
from core.telling import tell_end
from distributor.exclusions import avoid, forget_exclusions
from distributor.state import DistributorState

__all__ = [
    "OUTCOMES", "attempts_allowed", "conclude", "fail", "give_back", "hand_over", "is_own", "lose", "placement",
    "remember_attempts", "report", "requeue", "save",
]  # fmt: skip

S = TaskStatus
#: Looked up once: in Python 3.11 a member of an enum costs as much as two calls.
STARTED = EventType.ATTEMPT_STARTED
IN_PROGRESS, WAITING, ACTUAL = S.IN_PROGRESS, S.WAITING, Table.ACTUAL
ASSIGN_TASK, TASK_RESULT = Action.ASSIGN_TASK, Action.TASK_RESULT
#: The status of a task after its last attempt, by that attempt's outcome; and what the coordinator is told of it.
OUTCOMES: dict[str, TaskStatus] = {
    "completed": S.COMPLETED, "failed": S.FAILED, "cancelled": S.CANCELLED, "delegated": S.WAITING,
    "suspended": S.WAITING,
}  # fmt: skip
#: The types of the errors of attempts in which no handler has failed: none was run, or a model was refused to it.
GIVEN_UP = frozenset({"deadline", "budget"})
#: Stands for the report of a worker if there is none.
NOTHING_SAID = AttemptReport(task_id="", attempt=0, status="cancelled")
#: The limit of attempts until a worker reports that of its handler.
DEFAULT_MAX_ATTEMPTS = 3
#: Number of task types whose limits of attempts are remembered.
MAX_TYPES = 16_384
#: Number of ended tasks that stay visible in the shared state.
ENDED_KEPT = 50
#: Length to which the last progress of an attempt is cut; it becomes its output if the worker is gone.
PROGRESS_KEPT = 2048


def hand_over(state: DistributorState, task: Task, worker: Subordinate, batch: Batch, step: Step) -> None:
    """Hands a task to a worker as a new attempt with the next number. Only this start of the worker may act on it."""
    handed = task.moved(
        IN_PROGRESS,
        batch.now,
        assigned_to=worker.address.agent_id,
        started_at=batch.now,
        attempt=task.attempt + 1,
        retry_count=task.retry_count + 1,
        not_before=None,
    )
    state.local_tasks[task.task_id] = handed
    worker.take(task.task_id, skills_needed(task))
    record = handed.to_json()
    step.put(ACTUAL, task.task_id, record)
    item = Keyed.of(handed.evolve(run_key=None).to_json(), handed) if handed.run_key else record
    step.send(Sending(worker.address, ASSIGN_TASK, None, worker.incarnation), item)
    step.change(task.task_id, trail(IN_PROGRESS, handed.assigned_to, handed.attempt, handed.task_type))
    step.tell(STARTED, handed, handed.assigned_to, handed.attempt)
    step.measure_distribution(task, batch.now)
    state.count("distributed")
    if handed.trace is not None:
        step.spans += spans_of_dispatch(handed, task.updated_at)


def fail(state: DistributorState, task: Task, name: str, said: AttemptReport, batch: Batch, step: Step) -> None:
    """Handles a failed attempt: the task is tried again after a pause, preferably elsewhere, or it ends."""
    assert said.error
    error = bounded(replace(said.error, attempt=task.attempt, worker=name))
    if said.max_attempts:
        remember_attempts(state, {task.task_type: said.max_attempts})
    step.tell(EventType.ATTEMPT_FAILED, task, name, task.attempt, error.type)
    task = task.evolve(errors=errors_with(task.errors, error))
    if task.cancel_requested:
        conclude(state, task, S.CANCELLED, batch, step, worker=name)
    elif error.retryable and task.retry_count < attempts_allowed(state, task):
        step.tell(EventType.TASK_RETRYING, task, task.attempt + 1)
        avoid(state, task.task_id, name, batch.now_ms)
        state.count("retried")
        requeue(state, task, batch, step, not_before=batch.now + task.retry_delay(), error=error)
    else:
        status = S.ABANDONED if error.type in GIVEN_UP else S.FAILED
        conclude(state, task, status, batch, step, said, worker=name, error=error)


def lose(state: DistributorState, task: Task, name: str, batch: Batch, step: Step, *, began: bool) -> None:
    """Handles an attempt whose worker is gone: the task is tried again elsewhere, or ends after too many attempts. If
    it had not begun, it does not count."""
    step.tell(EventType.ATTEMPT_LOST, task, name, task.attempt)
    state.count("lost")
    if not began:
        requeue(state, task, batch, step, retry_count=task.retry_count - 1)
        return
    step.spans += spans_of_attempt(task, "lost", task.started_at, batch.now, "worker_lost")
    message = f"worker {name} was gone before it reported"
    error = TaskError(
        type="worker_lost", message=message, attempt=task.attempt, worker=name, output=last_progress(task)
    )
    task = task.evolve(errors=errors_with(task.errors, error))
    # After a restart the limit of attempts is unknown until a worker with this handler reports; retry meanwhile.
    unknown = not task.max_attempts and task.task_type not in state.max_attempts
    if task.cancel_requested:
        conclude(state, task, S.CANCELLED, batch, step, worker=name)
    elif unknown or task.retry_count < attempts_allowed(state, task):
        step.tell(EventType.TASK_RETRYING, task, task.attempt + 1)
        avoid(state, task.task_id, name, batch.now_ms)
        state.count("retried")
        requeue(state, task, batch, step, error=error)
    else:
        conclude(state, task, S.ABANDONED, batch, step, worker=name, error=error)


def remember_attempts(state: DistributorState, told: Mapping[str, int]) -> None:
    """Remembers how often tasks of each type may be tried, as a worker reports it. The oldest types are forgotten when
    there are too many."""
    state.max_attempts.update(told)
    while len(state.max_attempts) > MAX_TYPES:
        del state.max_attempts[next(iter(state.max_attempts))]


def last_progress(task: Task) -> str:
    """The last progress report of the current attempt, as text; empty if there was none."""
    if task.updated_at is None or task.started_at is None or task.updated_at <= task.started_at:
        return ""
    progress_json = bytes(task.metadata_json.get("progress", NULL))
    return f"progress: {progress_json.decode()}"[:PROGRESS_KEPT]


def attempts_allowed(state: DistributorState, task: Task) -> int:
    return task.max_attempts or state.max_attempts.get(task.task_type, DEFAULT_MAX_ATTEMPTS)


def requeue(state: DistributorState, task: Task, batch: Batch, step: Step, **changes: Any) -> None:
    """Queues a task for another attempt, or gives it back to the coordinator while draining."""
    if task.cancel_requested:
        conclude(state, task, S.CANCELLED, batch, step)
        return
    again = task.moved(S.PENDING, batch.now, assigned_to=None, **changes)
    save(state, again, step, f"{again.status} {changes['error'].type}" if "error" in changes else again.status)
    if state.draining or again.task_id in state.asked_for:
        give_back(state, again, batch, step, asked=not state.draining)
    else:
        state.queue.push(again, placement(state, again))


def placement(state: DistributorState, task: Task) -> Placement:
    """Which workers a task may be handed to. A suspected poison task goes only where it begins at once: if it waited at
    a worker that dies, nobody could tell whether it had begun. On its last attempt it goes only to a worker without
    another such task, so that the one that kills the worker does not end the other."""
    if task.task_id not in state.poison_suspects:
        return Placement.ANYWHERE
    return Placement.AT_ONCE if task.retry_count + 1 < attempts_allowed(state, task) else Placement.ALONE


def take_out(state: DistributorState, task_id: str) -> None:
    """Removes a task from the state, since it leaves the cell."""
    del state.local_tasks[task_id]
    state.queue.remove(task_id)
    forget_exclusions(state, task_id)
    state.asked_for.discard(task_id)


def is_own(task: Task) -> bool:
    """Whether a program assigned the task here; a task from the coordinator has a root."""
    return task.root_id is None


def give_back(
    state: DistributorState, task: Task, batch: Batch, step: Step, *, stranded: bool = False, asked: bool = False
) -> None:
    """Returns a task to the coordinator, which hands it to another distributor. `stranded`: no worker here can do it;
    `asked`: the coordinator wants it. In both cases this distributor still takes other tasks. A task that a program
    assigned here ends instead."""
    if is_own(task):
        problem = TaskError(type="drained", message="its distributor stops, and no other has it", retryable=False)
        conclude(state, task, S.ABANDONED, batch, step, error=problem)
        return
    take_out(state, task.task_id)
    step.remove(Table.ACTUAL, task.task_id)
    returned = TaskReport(
        task_id=task.task_id, status="returned", attempt=task.attempt, retry_count=task.retry_count, errors=task.errors,
        not_before=task.not_before, stranded=stranded, asked=asked,
    )  # fmt: skip
    report(state, returned, step)


def conclude(
    state: DistributorState, task: Task, status: TaskStatus, batch: Batch, step: Step,
    said: AttemptReport | None = None, *, worker: str | None = None, error: TaskError | None = None,
) -> None:  # fmt: skip
    """Ends a task here, and reports its outcome to the coordinator, with what its worker has `said`. The status WAITING
    means that it has delegated or was suspended. The latest ended tasks stay visible in the cell."""
    task_id = task.task_id
    take_out(state, task_id)
    said = said or NOTHING_SAID
    told: Any = said.status if status is WAITING else str(status)
    ended = TaskReport(
        task_id=task_id, status=told, attempt=task.attempt, retry_count=task.retry_count, worker=worker,
        run_ms=said.run_ms, started_at=said.started_at or task.started_at, result_json=said.result_json,
        error=error or said.error, errors=task.errors, output=said.output, children=said.children, then=said.then,
        waits=said.waits, thread_over=said.thread_over,
    )  # fmt: skip
    report(state, ended, step)
    state.count(told)
    shown = {
        "task_id": task_id, "task_type": task.task_type, "status": status, "retry_count": task.retry_count,
        "created_at": task.created_at, "updated_at": batch.now, "assigned_to": task.assigned_to,
    }  # fmt: skip
    step.put(ACTUAL, task_id, Unsealed(orjson.dumps(shown)))
    step.change(task_id, trail(status, task.assigned_to, task.attempt, round(said.run_ms or 0)))
    if status is not WAITING and is_own(task):
        tell_end(task.evolve(status=status, error=error or said.error), step)
    state.ended.pop(task_id, None)  # it may have ended here before
    state.ended[task_id] = None
    while len(state.ended) > ENDED_KEPT:
        oldest = next(iter(state.ended))
        del state.ended[oldest]
        if oldest not in state.local_tasks:
            step.remove(ACTUAL, oldest)


def trail(status: TaskStatus, worker: str | None, attempt: int, fact: object) -> str:
    """A transition for the audit trail: the status, and if a worker had the task, that worker, the attempt and a
    fact."""
    return f"{status} {worker} {attempt} {fact}" if worker else status


def report(state: DistributorState, said: TaskReport, step: Step) -> None:
    step.send(Sending(state.coordinator, TASK_RESULT), item_of(said))


def save(state: DistributorState, task: Task, step: Step, what: str = "") -> None:
    """Stores a changed task. `what`: the transition for the audit trail; empty: its status, and who has it."""
    state.local_tasks[task.task_id] = task
    step.put(ACTUAL, task.task_id, task.to_json())
    step.change(task.task_id, what or trail(task.status, task.assigned_to, task.attempt, task.task_type))
