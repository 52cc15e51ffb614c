"""The shared state of a distributor, read back from its keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from core.langgraph_state import SharedAgentState
from core.ports import Command
from core.redis_backend.keys import CellKeys

__all__ = ["read_shared_state"]

#: How often the halves are read again when they move meanwhile; after that the last reading is good enough.
TRIES = 5


class Runs(Protocol):
    """Anything that executes plain commands: a Committer, or a Wire behind one."""

    async def run(self, *commands: Command) -> list[Any]: ...


async def read_shared_state(source: Runs, distributor_id: str) -> SharedAgentState | None:
    """Both halves as of one moment; None where nothing was ever written for this distributor.

    Read without a transaction, since the connection may be watching a lease: the header is read before and after the
    halves, and all is read again if a version has moved in between. Raises TransportDown.
    """
    cell = CellKeys(distributor_id)
    for _ in range(TRIES):
        header, wanted, actual, lease, after = await source.run(
            ("HGETALL", cell.header),
            ("HGETALL", cell.wanted),
            ("HGETALL", cell.actual),
            ("GET", cell.lease),
            ("HMGET", cell.header, "coordinator_version", "distributor_version"),
        )
        before = _pairs(header)
        if [before.get(b"coordinator_version"), before.get(b"distributor_version")] == after:
            break
    return SharedAgentState.assemble(distributor_id, before, _pairs(wanted), _pairs(actual), lease)


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
