"""Whether a new task may come in. No I/O, no clock.

Who is accepted is promised an end, and an end needs room: for copies in the inboxes below, for the result, for the
reply. So new tasks are refused while there still is room, at a number of open ones and at a share of the server's
memory. Children of a task that runs belong to work that was accepted, and are let in.
"""

from __future__ import annotations

from coordinator.state import CoordinatorState
from core.server_info import Memory
from core.tasks import Task

__all__ = ["note_memory", "refusal"]

#: What a task takes up in the server while it is under way, in copies of its record and in bytes beside them.
COPIES, BESIDE_BYTES = 4, 1024


def refusal(state: CoordinatorState, task: Task) -> str:
    """Why a new task is not admitted now, with the cure; empty: it is, and is counted."""
    if state.draining:
        return "the coordinator is draining; submit again when it is back"
    if len(state.local_tasks) >= state.max_open_tasks:
        return (
            f"{len(state.local_tasks)} tasks are open, the most this coordinator admits (MAX_OPEN_TASKS);"
            " submit again when some have ended"
        )
    if state.memory.limit:
        needed = COPIES * len(task.to_json()) + BESIDE_BYTES
        expected = Memory(state.memory.used + sum(state.admitted_bytes) + needed, state.memory.limit)
        if expected.share > state.memory_high_water:
            return (
                f"Redis uses {state.memory.share:.0%} of its maxmemory, and above {state.memory_high_water:.0%}"
                " (MEMORY_HIGH_WATER) there is only room to finish what was accepted; submit again when tasks have"
                " ended and are forgotten (TASK_RETENTION_S), or raise maxmemory"
            )
        state.admitted_bytes = (state.admitted_bytes[0], state.admitted_bytes[1] + needed)
    return ""


def note_memory(state: CoordinatorState, memory: Memory) -> None:
    """Takes what the server has said of its memory. What was admitted just before may not have been in it yet, so it
    counts until the next time."""
    state.memory = memory
    state.admitted_bytes = (state.admitted_bytes[1], 0)
