"""The connection on which an agent watches its lease, and how long it waits for Redis to answer there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError

from core.backoff import Backoff
from core.errors import ServerRefused, TransportDown
from core.ports import Command, Connection
from core.redis_backend.clock import monotonic_s
from core.roles import Address
from core.server_info import is_elsewhere, passes_soon

__all__ = ["WatchedConnection"]


class WatchedConnection:
    """A connection that reconnects by itself, but never for a command that relies on a watch."""

    def __init__(
        self, connection: Connection, me: Address, backoff: Backoff, on_transport: Callable[[bool, str], None]
    ) -> None:
        """`on_transport` is told whether Redis could be reached, and why not."""
        self._connection = connection
        self._me = me
        self._backoff = backoff
        self._on_transport = on_transport
        self._armed = False
        self.closing = False  #: whether nobody is to wait for Redis any more
        self._asked_s: float | None = None  # monotonic, start of the wait for an answer
        self._waited_s = 0.0
        self.lock = asyncio.Lock()  #: held by the sender, from WATCH to EXEC

    @property
    def connected(self) -> bool:
        return self._connection.connected

    @property
    def armed(self) -> bool:
        """Whether the lease is being watched, and was this process's when the watch began."""
        return self._armed and self._connection.connected

    @armed.setter
    def armed(self, armed: bool) -> None:
        self._armed = armed

    @property
    def waited_s(self) -> float:
        """The total time spent waiting for Redis to answer, in seconds."""
        return self._waited_s + (0.0 if self._asked_s is None else monotonic_s() - self._asked_s)

    async def exchange(self, *commands: Command, max_bytes: int | None = None) -> list[Any]:
        """The replies to `commands`, in order, including refusals. Raises TransportDown; ReplyTooLarge, a kind of
        TransportDown, when more than `max_bytes` came."""
        self._asked_s = monotonic_s()
        try:
            if not self._connection.connected:
                self._armed = False
                await self._connection.connect()
            replies = await self._connection.exchange(commands, max_bytes=max_bytes)
            refusals = [str(reply) for reply in replies if isinstance(reply, ResponseError)]
            if any(map(is_elsewhere, refusals)):  # a new connection may lead to the new primary; this one never will
                await self._connection.close()
            if passing := next(filter(passes_soon, refusals), None):
                await self._connection.close()
                raise TransportDown(f"Redis is not ready: {passing}")
        finally:
            self._waited_s, self._asked_s = self.waited_s, None
        self._on_transport(True, "")
        return replies

    async def exchange_watched(self, *commands: Command, max_bytes: int | None = None) -> list[Any]:
        """`exchange` for commands that must not run unless the watch holds. A watch is lost with its connection, also
        if that broke only a moment ago, so these commands are never sent over a new one."""
        if not self._connection.connected:
            raise TransportDown(f"{self._me}: the connection broke, and nothing was sent")
        return await self.exchange(*commands, max_bytes=max_bytes)

    def recovered(self) -> None:
        """Resets the pauses after a success."""
        self._backoff.reset()

    async def outlast(self, error: TransportDown | ServerRefused) -> None:
        """Pauses after the connection broke, or a write was refused. Raises `error` after `stop_waiting`."""
        if self.closing:
            raise error
        if isinstance(error, TransportDown):
            self._on_transport(False, str(error))
        await asyncio.sleep(self._backoff.next(random.random()))

    def stop_waiting(self) -> None:
        """Makes those who wait for Redis to come back give up with the error they wait for."""
        self.closing = True

    async def close(self) -> None:
        await self._connection.close()
