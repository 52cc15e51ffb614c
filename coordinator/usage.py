"""Counts what is handed out by tenant and by type, and holds back what is at its quota. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.state import CoordinatorState
from core.quotas import OF_TENANT, OF_TYPE, Quota, Usage, names_of
from core.tasks import Task, TaskStatus

__all__ = ["count_end", "count_start", "next_release_ms", "recall_quotas", "release_due", "set_quota"]


def count_start(state: CoordinatorState, task: Task, now_ms: int) -> None:
    """Notes that a task is handed out."""
    for name in names_of(task) if state.quotas else ():
        if usage := state.quotas.get(name):
            usage.take(now_ms)
            judge(state, name, usage, now_ms)


def count_end(state: CoordinatorState, task: Task, now_ms: int) -> None:
    """Notes that a task is in nobody's hands any more, if it was."""
    for name in names_of(task) if state.quotas and task.status is TaskStatus.IN_PROGRESS else ():
        if usage := state.quotas.get(name):
            usage.in_flight -= 1
            judge(state, name, usage, now_ms)


def judge(state: CoordinatorState, name: str, usage: Usage, now_ms: int) -> None:
    """Holds back what is at its quota, and releases what is not any more."""
    usage.held = usage.is_full or usage.wait_ms(now_ms) > 0
    if name.startswith(OF_TENANT):
        tenant = name.removeprefix(OF_TENANT)
        (state.queue.hold_tenant if usage.held else state.queue.release_tenant)(tenant)
    else:
        skill = f"task:{name.removeprefix(OF_TYPE)}"
        (state.queue.held_types.add if usage.held else state.queue.held_types.discard)(skill)


def release_due(state: CoordinatorState, now_ms: int) -> None:
    """Releases what the rate lets begin again."""
    for name, usage in state.quotas.items():
        if usage.held and not usage.is_full:
            judge(state, name, usage, now_ms)


def next_release_ms(state: CoordinatorState, now_ms: int) -> int | None:
    """When a rate lets another task begin that it holds back now; None: none does."""
    held = (usage for usage in state.quotas.values() if usage.held and not usage.is_full)
    return min((now_ms + usage.wait_ms(now_ms) for usage in held), default=None)


def set_quota(state: CoordinatorState, name: str, quota: Quota | None, now_ms: int) -> None:
    """Begins to count for a quota, or ends it."""
    before = state.quotas.pop(name, None)
    if name.startswith(OF_TENANT):
        state.queue.weigh(name.removeprefix(OF_TENANT), quota.weight if quota else None)
    usage = Usage(quota or Quota())
    if quota is not None:
        state.quotas[name] = usage
        usage.start(now_ms)
        usage.in_flight = before.in_flight if before else in_flight(state.local_tasks.values(), name)
        if before is not None and before.bucket is not None and usage.bucket is not None:
            usage.bucket.level = min(before.bucket.level, usage.bucket.full)  # no new burst
            usage.filled_ms = before.filled_ms
    judge(state, name, usage, now_ms)


def in_flight(tasks: Iterable[Task], name: str) -> int:
    """How many tasks are in flight that count for a quota."""
    return sum(task.status is TaskStatus.IN_PROGRESS and name in names_of(task) for task in tasks)


def recall_quotas(state: CoordinatorState, quotas: Mapping[str, Quota], now_ms: int) -> None:
    """Counts anew for the stored quotas, after the open tasks are known. A rate begins without its burst."""
    for name, quota in quotas.items():
        usage = state.quotas[name] = Usage(quota)
        usage.start(now_ms, empty=True)
        if name.startswith(OF_TENANT) and quota.weight is not None:
            state.queue.weigh(name.removeprefix(OF_TENANT), quota.weight)
    for task in state.local_tasks.values() if quotas else ():
        if task.status is TaskStatus.IN_PROGRESS:
            for name in names_of(task):
                if usage_of_task := state.quotas.get(name):
                    usage_of_task.in_flight += 1
    for name, usage in state.quotas.items():
        judge(state, name, usage, now_ms)
