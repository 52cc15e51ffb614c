"""The shared state of a distributor, read back from its keys."""

from __future__ import annotations

from typing import Any, Protocol

from core.langgraph_state import SharedAgentState
from core.ports import Command
from core.redis_backend.bounded_reads import lease_read
from core.redis_backend.keys import CellKeys
from core.stored import pairs

__all__ = ["read_shared_state"]

#: How often the halves are read again when they move meanwhile; after that the last reading is good enough.
TRIES = 5


class Runs(Protocol):
    """Anything that executes plain commands: a Committer, or a Wire behind one."""

    async def run(self, *commands: Command) -> list[Any]:
        """Raises ServerRefused when one of them was refused."""

    async def look(self, *commands: Command) -> list[Any]:
        """An error stands in the place of a reply that was refused, or is too large."""


async def read_shared_state(source: Runs, distributor_id: str) -> SharedAgentState | None:
    """Both halves as of one moment; None where nothing was ever written for this distributor.

    Read without a transaction, since the connection may be watching a lease: the header is read before and after the
    halves, and all is read again if a version has moved in between. What somebody else has written there, and is no
    state, is named as unreadable. Raises TransportDown.
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
        known[0] = {b"status": b""}  # something was written, and cannot be read either
    held = None if isinstance(lease, Exception) else lease
    state = SharedAgentState.assemble(distributor_id, known[0], known[1], known[2], held)
    return state and state.model_copy(update={"unreadable": (*unread, *state.unreadable)})
