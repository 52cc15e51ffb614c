"""The shared state of a distributor, read back from its keys."""

from __future__ import annotations

from typing import Any, Protocol

from core.errors import BadTask
from core.langgraph_state import SharedAgentState
from core.ports import Command
from core.redis_backend.bounded_reads import lease_read
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.stored import pairs
from core.tasks import Task, TaskStatus

__all__ = ["read_shared_state"]

#: How often the halves are read again when they change meanwhile. After that, the last reading is good enough.
TRIES = 5
#: Number of the coordinator's records that are read at once.
PAGE = 500


class Runs(Protocol):
    """Anything that executes plain commands: a Committer, or a Wire behind one."""

    async def run(self, *commands: Command) -> list[Any]:
        """Raises ServerRefused when one of them was refused."""

    async def look(self, *commands: Command) -> list[Any]:
        """The replies, with an error in place of one that was refused or is too large."""


async def read_shared_state(source: Runs, distributor_id: str, coordinator_id: str) -> SharedAgentState | None:
    """Both halves as of one moment; None when nothing was ever written for this distributor. Tasks that the coordinator
    has handed over, and the distributor has not taken yet, are included as pending.

    The state is read without a transaction, since the connection may be watching a lease. The header is read before and
    after the halves, and everything is read again if a version has changed in between. Foreign values are named as
    unreadable. Raises TransportDown, ServerRefused.
    """
    cell = CellKeys(distributor_id)
    for _ in range(TRIES):
        header, wanted, actual, lease, after = await source.look(
            ("HGETALL", cell.header),
            ("HGETALL", cell.wanted),
            ("HGETALL", cell.actual),
            lease_read(cell.lease),
            ("HMGET", cell.header, "coordinator_version", "distributor_version"),
        )
        before = pairs(header) if isinstance(header, list) else {}
        if [before.get(b"coordinator_version"), before.get(b"distributor_version")] == after:
            break
    unread = [key for key, reply in zip(
        (cell.header, cell.wanted, cell.actual, cell.lease), (header, wanted, actual, lease), strict=True
    ) if isinstance(reply, Exception)]  # fmt: skip
    known = [{} if isinstance(reply, Exception) else pairs(reply) for reply in (header, wanted, actual)]
    if unread and not known[0]:
        known[0] = {b"status": b""}  # something was written, which cannot be read either
    held = None if isinstance(lease, Exception) else lease
    state = SharedAgentState.assemble(distributor_id, known[0], known[1], known[2], held)
    if state is None:
        return None
    untaken = await _untaken(source, state, coordinator_id)
    return state.model_copy(update={"tasks": (*state.tasks, *untaken), "unreadable": (*unread, *state.unreadable)})


async def _untaken(source: Runs, state: SharedAgentState, coordinator_id: str) -> list[Task]:
    """The tasks that the distributor should run and has not written anything about, from the coordinator's records.
    Tasks that have moved on according to these records, and unreadable records, are left out."""
    taken = {task.task_id for task in state.tasks}
    ids = [task_id for task_id, want in state.wanted.items() if want == "assigned" and task_id not in taken]
    tasks = []
    for start in range(0, len(ids), PAGE):
        [records] = await source.look(("HMGET", CoordinatorKeys(coordinator_id).tasks, *ids[start : start + PAGE]))
        tasks += [_parsed(record) for record in records if record] if isinstance(records, list) else []
    return [
        task.evolve(status=TaskStatus.PENDING, assigned_to=None)
        for task in tasks
        if task and (task.status, task.assigned_to) == (TaskStatus.IN_PROGRESS, state.distributor_id)
    ]


def _parsed(record: bytes) -> Task | None:
    """The task in a record that anybody may have written; None: the record holds none."""
    try:
        return Task.from_json(record)
    except BadTask:
        return None
