"""What keeps a task from workers after a failure, and for how long. No I/O, no clock.

Both end by themselves (see core.task_exclusion), and whoever asks about the task is told until when they hold.
"""

from __future__ import annotations

from core.step import Batch, Step
from core.task_exclusion import AVOIDED_MS, SUSPECTED_MS
from core.tasks import TaskStatus
from distributor.state import DistributorState

__all__ = ["avoid", "expire_exclusions", "forget_exclusions", "suspect"]


def avoid(state: DistributorState, task_id: str, worker: str, now_ms: int) -> None:
    """Prefers other workers for the next attempt at a task that has failed on this one."""
    state.last_worker[task_id] = worker
    state.avoided_ms.pop(task_id, None)
    state.avoided_ms[task_id] = now_ms


def suspect(state: DistributorState, task_id: str, now_ms: int) -> None:
    """Notes that a worker has died with a task."""
    state.poison_suspects.add(task_id)
    state.suspected_ms.pop(task_id, None)
    state.suspected_ms[task_id] = now_ms


def forget_exclusions(state: DistributorState, task_id: str) -> None:
    """Forgets what is known of a task that leaves."""
    state.poison_suspects.discard(task_id)
    state.last_worker.pop(task_id, None)
    state.avoided_ms.pop(task_id, None)
    state.suspected_ms.pop(task_id, None)


def expire_exclusions(state: DistributorState, batch: Batch, step: Step) -> None:
    """Ends exclusions that are over. A task that waits as a suspect waits like any other then."""
    while state.avoided_ms and (first := next(iter(state.avoided_ms.items())))[1] + AVOIDED_MS <= batch.now_ms:
        del state.avoided_ms[first[0]]
        state.last_worker.pop(first[0], None)
    while state.suspected_ms and (first := next(iter(state.suspected_ms.items())))[1] + SUSPECTED_MS <= batch.now_ms:
        task_id = first[0]
        del state.suspected_ms[task_id]
        state.poison_suspects.discard(task_id)
        task = state.local_tasks.get(task_id)
        if task is not None and task.status is TaskStatus.PENDING and task_id in state.queue:
            state.queue.push(task)  # which moves it
        step.note("suspicion_over", task_id=task_id)
