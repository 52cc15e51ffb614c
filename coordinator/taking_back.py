"""Tasks that are taken back from distributors where they wait, while others have idle workers. No I/O, no clock."""

from __future__ import annotations

import orjson

from coordinator.state import CoordinatorState
from core.roles import Action
from core.step import Batch, Sending, Step
from core.taking_back import take_back

__all__ = ["take_back_from_distributors"]


def take_back_from_distributors(state: CoordinatorState, batch: Batch, step: Step) -> None:
    """Asks distributors for tasks that have not begun there and that idle workers of others could begin."""

    def may_move(task_id: str) -> bool:
        task = state.local_tasks.get(task_id)
        return task is not None and not task.cancel_requested

    if state.draining:
        return
    timeout_ms = state.failure_timeout_ms
    children = state.distributors.values()
    for child, task_id in take_back(state.look, children, state.queue.needs(), may_move, batch.mono_ms, timeout_ms):
        step.send(Sending(child.address, Action.RETURN_TASK), orjson.dumps(task_id))
        step.note("task_asked_back", task_id=task_id, distributor=child.name)
