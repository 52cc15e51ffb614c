"""Tasks that are taken back: from workers where they wait while others idle, and by the coordinator. No I/O, no
clock."""

from __future__ import annotations

from core.errors import MalformedMessage
from core.reports import AttemptName, item_of, task_named
from core.roles import Action
from core.step import Batch, Received, Sending, Step
from core.taking_back import take_back
from core.tasks import Task, TaskStatus
from distributor.state import DistributorState
from distributor.task_life import give_back, is_own

__all__ = ["on_return_tasks", "take_back_from_workers"]


def take_back_from_workers(state: DistributorState, batch: Batch, step: Step) -> None:
    """Asks workers for tasks that have not begun there and that idle workers could begin."""

    def may_move(task_id: str) -> bool:
        task = state.local_tasks.get(task_id)
        return task is not None and is_movable(state, task)

    timeout_ms = state.failure_timeout_ms
    workers = state.workers.values()
    for worker, task_id in take_back(state.look, workers, state.queue.needs(), may_move, batch.mono_ms, timeout_ms):
        ask_back(state, state.local_tasks[task_id], step)
        step.note("task_asked_back", task_id=task_id, worker=worker.name)


def is_movable(state: DistributorState, task: Task) -> bool:
    """Whether a task that a worker has may go to another. One that a program has given to a worker stays there, and so
    does a suspected poison task, which begins at once wherever it is."""
    return not (is_own(task) or task.cancel_requested or task.task_id in state.poison_suspects)


def ask_back(state: DistributorState, task: Task, step: Step) -> None:
    """Asks the worker of a task for it. Only the attempt that it has now is meant."""
    if (worker := state.workers.get(task.assigned_to or "")) is not None:
        item = item_of(AttemptName(task_id=task.task_id, attempt=task.attempt))
        step.send(Sending(worker.address, Action.RETURN_TASK, None, worker.incarnation), item)


def on_return_tasks(state: DistributorState, received: Received, batch: Batch, step: Step) -> None:
    """Gives tasks back to the coordinator that have not begun here, since another distributor has idle workers. Those
    that a worker has follow when that gives them back; of those that have begun nothing is said."""
    for item in received.message.tasks:
        if (task_id := task_named(item)) is None:
            step.put_aside(received, item, MalformedMessage("this is no task id"))
        elif (task := state.local_tasks.get(task_id)) is not None and is_movable(state, task):
            if task.status is TaskStatus.PENDING:
                give_back(state, task, batch, step, asked=True)
            else:
                state.asked_for.add(task_id)
                ask_back(state, task, step)
