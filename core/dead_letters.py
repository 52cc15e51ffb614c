"""What a dead letter is, what it was submitted as, and under which ids it is replayed. Rules, no I/O.

A dead letter is a submitted task that ended as failed or abandoned, so that somebody should look at it. A failed child
is left to its parent.
"""

from __future__ import annotations

import re

from msgspec import Raw

from core.a2a_messaging import A2AMessage
from core.errors import PeerError
from core.reports import task_id_in
from core.signing import Signed
from core.tasks import Task, TaskStatus

__all__ = ["REPLAY_OF", "is_dead", "origin_of", "submitted_in", "successors_of"]

#: The field of a task's metadata that names the submitted task of which it is a replay.
REPLAY_OF = "replay_of"
DEAD = frozenset({TaskStatus.FAILED, TaskStatus.ABANDONED})


def is_dead(task: Task) -> bool:
    return task.status in DEAD and task.parent_id is None


def origin_of(task: Task) -> str:
    """The id of the task that was submitted; `task` may be a replay of it. Metadata belong to the caller, so what they
    say about a replay counts only if the id says the same."""
    origin = task.metadata.get(REPLAY_OF)
    return origin if isinstance(origin, str) and _number(task.task_id, origin) else task.task_id


def successors_of(task: Task, start: int, count: int) -> list[str]:
    """The ids under which it may be replayed: ORIGIN.replayN, `count` of them, from `start` behind the next one."""
    first = 1 + start + _number(task.task_id, origin_of(task))
    return [f"{origin_of(task)}.replay{n}" for n in range(first, first + count)]


def _number(task_id: str, origin: str) -> int:
    """The number of a replay of `origin`, from 1; 0: it is no replay."""
    found = re.fullmatch(rf"{re.escape(origin)}\.replay(\d+)", task_id)
    return int(found[1]) if found else 0


def submitted_in(packed: bytes) -> dict[str, Raw]:
    """The tasks in a message as it was signed, by id, each as its client wrote it; empty if it is no message."""
    try:
        items = A2AMessage.decode(Signed.unpack(packed).body).tasks
    except PeerError:
        return {}  # the kept message was verified once, so somebody else has written to Redis
    return {task_id: item for item in items if (task_id := task_id_in(item))}
