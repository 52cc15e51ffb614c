"""A connection of an agent stream: shared by coroutines, opened again after it broke, refusals turned into errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from core.errors import EventLoopError, ServerRefused, TransportDown
from core.events.audience_scripts import SCRIPTS
from core.ports import Command, Connection
from core.redis_client import ResponseError
from core.server_info import explained, is_elsewhere, passes_soon, why_refused

__all__ = ["StreamConnection", "no_group", "no_key", "unrefused"]


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
            replies = await self._exchange(commands, timeout_s)
            if any(isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT") for reply in replies):
                loads = [("SCRIPT", "LOAD", script) for script in SCRIPTS]
                replies = (await self._exchange([*loads, *commands], timeout_s))[len(loads) :]
            return replies

    async def run(self, *commands: Command) -> list[Any]:
        """As `ask`. Raises ServerRefused for the first refusal."""
        return unrefused(commands, await self.ask(*commands))

    async def _exchange(self, commands: Sequence[Command], timeout_s: float | None) -> list[Any]:
        await self._connection.connect()
        replies = await self._connection.exchange(commands, timeout_s=timeout_s)
        refusals = [str(reply) for reply in replies if isinstance(reply, ResponseError)]
        passing = next((text for text in refusals if passes_soon(text) or is_elsewhere(text)), None)
        if passing:  # a new connection may lead to a new primary; this one never will
            await self._connection.close()
            raise TransportDown(f"Redis is not ready: {passing}")
        return replies

    async def close(self) -> None:
        """Closes it for good."""
        self._closed = True
        await self._connection.close()


def unrefused(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    """The replies. Raises ServerRefused for the first that is a refusal."""
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, ResponseError):
            text = str(reply)
            why = why_refused(text)
            raise ServerRefused(f"Redis refused: {explained(command, text) if why == text else why}")
    return replies


def no_group(reply: object) -> bool:
    """Whether a reply says that the stream or the group is not there."""
    return isinstance(reply, ResponseError) and (str(reply).startswith("NOGROUP") or no_key(reply))


def no_key(reply: object) -> bool:
    """Whether a reply says that there is no such key."""
    return isinstance(reply, ResponseError) and "no such key" in str(reply).lower()
