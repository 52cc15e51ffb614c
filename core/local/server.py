"""The store of a hierarchy in one process, and the keys of those who use it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.operations.acl import chain_of_user
from core.operations.event_feed import SealsOf
from core.operations.reader import Reader
from core.ports import Connection
from core.roles import Address
from core.sealing import Seals
from core.signing import KeyRing

if TYPE_CHECKING:
    from core.checkpoints.storage import Storage
    from core.checkpoints.threads import Threads

__all__ = ["MemoryServer"]

Chain = tuple[Address, ...]


class MemoryServer:
    """A Server (see core.client.server) in this process. Nothing in it outlives the process."""

    endpoint = "the memory of this process"
    wait_replicas = 0

    def __init__(self, now_s: Callable[[], float]) -> None:
        """`now_s`: its clock, in seconds since 1970."""
        self._now_s = now_s
        self._store = MemoryStore(now_s)
        self._secret = secrets.token_bytes(32)
        self.checkpoints: Storage | None = None  #: where the graphs of the hierarchy remember

    def now_ms(self) -> float:
        """Its clock, in ms since 1970."""
        return self._now_s() * 1000

    async def reach(self, chain: Chain) -> None:
        """It is here."""

    def keys(self, chain: Chain) -> KeyRing:
        return KeyRing.from_secret(self._secret, chain)

    def keys_of_coordinator(self, coordinator: Address) -> KeyRing | None:
        return self.keys((coordinator,))

    def seals_of_agents(self, coordinator: Address) -> SealsOf | None:
        def seals_of(agent: str) -> Seals | None:
            chain = chain_of_user(agent, coordinator.agent_id)
            return self.keys(chain).seals if chain else None

        return seals_of

    def connection(self, *, let_in: bool = False) -> Connection:
        return MemoryConnection(self._store)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reader]:
        connection = self.connection()
        try:
            yield Reader(connection)
        finally:
            await connection.close()

    @asynccontextmanager
    async def threads(self) -> AsyncIterator[Threads]:
        from core.checkpoints.saver import CheckpointSaver
        from core.checkpoints.threads import Threads

        assert self.checkpoints is not None
        yield Threads(CheckpointSaver(self.checkpoints))
