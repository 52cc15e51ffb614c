"""Where a task can stand, how urgent it can be, and the table of lawful transitions.

pending ──▶ in_progress ──▶ completed
   ▲  ▲         │ │ └─────▶ failed, cancelled, abandoned
   │  └─ retry ─┘ └─ spawn, suspend ─▶ waiting ─┐
   └───── children ended, questions answered ───┘
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ENDED", "LAWFUL", "Priority", "TaskStatus"]


class TaskStatus(StrEnum):
    """Where a task stands."""

    PENDING = "pending"  #: accepted, waiting for a worker (or for its next attempt)
    IN_PROGRESS = "in_progress"  #: handed to a distributor, where it may wait, and by that to a worker
    WAITING = "waiting"  #: it goes on when its children have ended and its questions are answered; it occupies nothing
    COMPLETED = "completed"  #: ended with a result
    FAILED = "failed"  #: ended by its handler's error, after its last attempt
    CANCELLED = "cancelled"  #: ended because somebody asked for it
    ABANDONED = (
        "abandoned"  #: given up by the system: its deadline passed, its budget is spent, its workers died too often
    )

    @property
    def ended(self) -> bool:
        return self in ENDED


class Priority(StrEnum):
    """Urgent tasks go first. Lower priorities age, so that no task starves (see dispatch_queue)."""

    URGENT = "urgent"
    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


S = TaskStatus
ENDED = frozenset({S.COMPLETED, S.FAILED, S.CANCELLED, S.ABANDONED})

LAWFUL: dict[TaskStatus, frozenset[TaskStatus]] = {
    S.PENDING: frozenset({S.IN_PROGRESS, S.FAILED, S.CANCELLED, S.ABANDONED}),
    S.IN_PROGRESS: frozenset({S.PENDING, S.WAITING} | ENDED),
    S.WAITING: frozenset({S.PENDING, S.FAILED, S.CANCELLED, S.ABANDONED}),
    **dict.fromkeys(ENDED, frozenset[TaskStatus]()),
}
