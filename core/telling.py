"""What observers are told of the ends of tasks, and of agents that fall silent. No I/O, no clock."""

from __future__ import annotations

from core.agents import Health, Subordinate
from core.event_types import EventType
from core.step import Step
from core.tasks import Task, TaskStatus

__all__ = ["tell_end", "tell_health"]

S = TaskStatus
#: Looked up once: in Python 3.11 that costs as much as to tell.
COMPLETED, TOLD_COMPLETED = S.COMPLETED, EventType.TASK_COMPLETED


def tell_end(task: Task, step: Step) -> None:
    """Tells of the end of a task, of which the last attempt was told before."""
    error, worker = task.error.type if task.error else None, task.assigned_to
    attempt = task.attempt or None
    if task.status is COMPLETED:
        step.tell(TOLD_COMPLETED, task, attempt, worker)
    elif task.status is S.FAILED:
        step.tell(EventType.TASK_FAILED, task, error, attempt, worker)
    elif task.status is S.ABANDONED:
        step.tell(EventType.TASK_ABANDONED, task, error, attempt, worker)
    else:
        step.tell(EventType.TASK_CANCELLED, task)


def tell_health(child: Subordinate, health: Health, step: Step) -> None:
    """Tells that a child is silent, or is heard again. Call it before the child's health changes to `health`."""
    if health is Health.GONE:
        step.tell_agent(EventType.AGENT_LOST, child.address, len(child.in_flight))
    elif health is Health.SUSPECT:
        step.tell_agent(EventType.AGENT_SUSPECT, child.address)
    elif child.health is Health.SUSPECT:
        step.tell_agent(EventType.AGENT_RECOVERED, child.address)
