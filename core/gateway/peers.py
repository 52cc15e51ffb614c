"""Which agents are connected to which: peers of each other, or one the superior of the other."""

from __future__ import annotations

from enum import StrEnum

from core.checkpoints.connection import GroupedConnection
from core.redis_backend.gateway_keys import GatewayKeys

__all__ = ["Peers", "Relation"]

#: How long a connection is kept that nobody uses.
KEPT_MS = 30 * 24 * 60 * 60 * 1000


class Relation(StrEnum):
    """What one agent is to another."""

    PEER = "peer"
    SUBORDINATE = "subordinate"
    SUPERIOR = "superior"

    @property
    def inverse(self) -> Relation:
        return {Relation.SUBORDINATE: Relation.SUPERIOR, Relation.SUPERIOR: Relation.SUBORDINATE}.get(self, self)


class Peers:
    """Reads and writes connections. Raises TransportDown and ServerRefused."""

    def __init__(self, connection: GroupedConnection, keys: GatewayKeys) -> None:
        self._run = connection.run
        self._keys = keys

    async def connect(self, agent_id: str, other_id: str, relation: Relation) -> None:
        """Notes what the other is to the agent, for both, in place of what it was."""
        mine, theirs = self._keys.peers(agent_id), self._keys.peers(other_id)
        await self._run(
            ("HSET", mine, other_id, relation.value),
            ("HSET", theirs, agent_id, relation.inverse.value),
            *(("PEXPIRE", key, KEPT_MS) for key in (mine, theirs)),
        )

    async def disconnect(self, agent_id: str, other_id: str) -> bool:
        """Ends a connection; returns whether there was one."""
        found, _ = await self._run(
            ("HDEL", self._keys.peers(agent_id), other_id), ("HDEL", self._keys.peers(other_id), agent_id)
        )
        return bool(found)

    async def of(self, agent_id: str) -> dict[str, Relation]:
        """What others are to an agent, by their ids."""
        [flat] = await self._run(("HGETALL", self._keys.peers(agent_id)))
        return {name.decode(): Relation(said.decode()) for name, said in zip(flat[::2], flat[1::2], strict=True)}

    async def relation(self, agent_id: str, other_id: str) -> Relation | None:
        """What the other is to the agent; None: they are not connected. A connection that is used is kept."""
        key = self._keys.peers(agent_id)
        said, *_ = await self._run(
            ("HGET", key, other_id), *(("PEXPIRE", each, KEPT_MS) for each in (key, self._keys.peers(other_id)))
        )
        return Relation(said.decode()) if said else None
