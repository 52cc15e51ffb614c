"""A connection of an agent stream: shared by coroutines, opened again after it broke, refusals turned into errors."""

from __future__ import annotations

import asyncio
from typing import Any

from core.errors import EventLoopError
from core.events.audience_scripts import SCRIPTS
from core.ports import Command, Connection
from core.redis_backend.scripted_exchange import exchange, unrefused
from core.redis_client import ResponseError

__all__ = ["StreamConnection", "no_group", "no_key"]


class StreamConnection:
    """Exchanges commands, one exchange at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._free = asyncio.Lock()
        self._closed = False

    async def ask(self, *commands: Command, timeout_s: float | None = None) -> list[Any]:
        """The replies, in order; a refusal stands in its place. Scripts that the server does not know are sent to it.

        Raises TransportDown: the commands may or may not have been carried out."""
        async with self._free:
            if self._closed:
                raise EventLoopError("this agent stream was closed meanwhile")
            return await exchange(self._connection, commands, SCRIPTS, timeout_s=timeout_s)

    async def run(self, *commands: Command) -> list[Any]:
        """As `ask`. Raises ServerRefused for the first refusal."""
        return unrefused(commands, await self.ask(*commands))

    async def close(self) -> None:
        """Closes it for good."""
        self._closed = True
        await self._connection.close()


def no_group(reply: object) -> bool:
    """Whether a reply says that the stream or the group is not there."""
    return isinstance(reply, ResponseError) and (str(reply).startswith("NOGROUP") or no_key(reply))


def no_key(reply: object) -> bool:
    """Whether a reply says that there is no such key."""
    return isinstance(reply, ResponseError) and "no such key" in str(reply).lower()
