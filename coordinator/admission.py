"""Decides whether a new task is admitted. No I/O, no clock.

An accepted task must be able to end, and that takes memory in Redis: for copies in the inboxes below, for the result
and for the reply. So new tasks are refused before memory runs out, above a number of open tasks and above a share of
the server's memory. This is the back-pressure of the system. Children of a running task belong to work that was
accepted, and are always admitted.
"""

from __future__ import annotations

from coordinator.state import CoordinatorState
from core.server_info import Memory
from core.tasks import Task

__all__ = ["note_memory", "refusal"]

#: Memory that an open task takes up in the server: copies of its record, and bytes in addition to them.
COPIES, BESIDE_BYTES = 4, 1024


def refusal(state: CoordinatorState, task: Task) -> str:
    """Why a new task is not admitted now, and what to do; empty if it is admitted, and then its size is counted."""
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
    """Takes the server's memory figures. They may not yet include what was admitted just before, so that is counted in
    addition until the next call."""
    state.memory = memory
    state.admitted_bytes = (state.admitted_bytes[1], 0)
