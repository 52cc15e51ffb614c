"""What becomes of a task by the outcome that its distributor reports. No I/O, no clock."""

from __future__ import annotations

from coordinator.delegation import delegate, suspend
from coordinator.state import CoordinatorState, DropThread
from coordinator.task_life import attempts_had, end, requeue, stopped
from coordinator.threads import thread_of
from core.reports import OUTPUT_LIMIT, TaskReport
from core.step import Batch, Step, Table
from core.task_status import ENDED
from core.tasks import Task

__all__ = ["conclude"]

#: Looked up once: in Python 3.11 a member of an enum costs as much as two calls, and to make one of its name ten.
WANTED, ENDS = Table.WANTED, {str(status): status for status in ENDED}


def why_returned(said: TaskReport) -> str | None:
    """Why a distributor returns a task; None: it drains."""
    if said.asked:
        return "another distributor has idle workers"
    return "no worker there can do it" if said.stranded else None


def over(task: Task, said: TaskReport) -> list[DropThread]:
    """What lets go the thread that a run leaves. Before its result is recorded here, that may be lost on its way, and
    another attempt needs the thread. A thread that runs share is not let go, whoever says so."""
    is_over = said.thread_over and said.status == "completed" and thread_of(task) is None
    return [DropThread(task.task_id)] if is_over else []


def conclude(state: CoordinatorState, distributor_id: str, said: TaskReport, batch: Batch, step: Step) -> None:
    """Records the outcome that a distributor reports for a task. Only the first report of its current distributor
    counts; others are counted as late and dropped."""
    task = state.local_tasks.get(said.task_id)
    if task is None or task.assigned_to != distributor_id:
        state.count("late_results")
        return
    child = state.distributors.get(distributor_id)
    if child:
        child.drop(task.task_id)
    step.remove(WANTED, task.task_id, distributor_id)
    status = said.status
    attempts = attempts_had(task, said)
    if status == "returned":
        if child and not (said.stranded or said.asked):
            child.mark_draining()
        requeue(state, task, batch, step, why=why_returned(said), **attempts)
        return
    if said.output:
        # The output of attempts before a delegation comes first.
        attempts["output"] = (task.output + said.output)[-OUTPUT_LIMIT:]
    if status == "delegated":
        delegate(state, task.evolve(**attempts), said, batch, step)
        return
    if status == "suspended":
        suspend(state, task.evolve(**attempts), said, batch, step)
        return
    if said.started_at:
        attempts["started_at"] = said.started_at
    if status == "cancelled":
        stopped(state, task, batch, step, worker=said.worker, **attempts)
    else:
        attempts |= {"result_json": said.result_json, "error": said.error}
        end(state, task, ENDS[status], batch, step, worker=said.worker, **attempts)
        step.effects += over(task, said)
