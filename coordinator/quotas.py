"""Operators set quotas while everything runs; they hold from the commit on that answers them. No I/O, no clock."""

from __future__ import annotations

from coordinator.state import CoordinatorState
from coordinator.task_life import answer
from coordinator.usage import set_quota
from core.errors import BadTask
from core.quotas import MAX_QUOTAS, QuotaChange, quota_change
from core.reports import Answer, Refusal, item_of
from core.step import Batch, Received, Step, Table

__all__ = ["on_set_quota"]


def on_set_quota(state: CoordinatorState, received: Received, batch: Batch, step: Step) -> None:
    """Sets quotas, or removes those of which the message says nothing more. The answer names the refused ones."""
    refused = []
    for item in received.message.tasks:
        try:
            change_quota(state, quota_change(item), received, batch, step)
        except BadTask as error:
            refused.append(Refusal("?", str(error)))
    answer(received, Answer(refused=tuple(refused)), step)


def change_quota(state: CoordinatorState, change: QuotaChange, received: Received, batch: Batch, step: Step) -> None:
    """Raises BadTask when there are too many quotas."""
    quota = change.quota
    if quota is None:
        step.remove(Table.QUOTAS, change.name)
    elif change.name not in state.quotas and len(state.quotas) >= MAX_QUOTAS:
        raise BadTask(f"{MAX_QUOTAS} quotas are the most there may be: remove one (`agents quotas list`)")
    else:
        step.put(Table.QUOTAS, change.name, item_of(quota))
    set_quota(state, change.name, quota, batch.now_ms)
    step.note("quota_set" if quota else "quota_removed", quota=change.name, by=str(received.sender))
