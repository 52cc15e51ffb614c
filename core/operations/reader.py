"""A connection for reading: plain commands, without a lease."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from core.config.settings import RedisConfig
from core.errors import ReplyTooLarge, ServerRefused
from core.ports import Connection, OpenConnection, Part
from core.redis_backend.shared_state import Runs
from core.redis_client import Wire
from core.server_info import Memory, fields_of, is_other_type, memory_of

__all__ = ["Reader", "memory_told", "opening", "reading"]

#: Replies that exceed this together, in bytes, are read one by one, and one that exceeds it alone is only reported. So
#: nobody who can write to Redis fills the memory of a reader.
MAX_BYTES = 256 * 1024 * 1024


class Reader:
    """Runs commands one batch at a time, and reconnects by itself after a lost connection."""

    def __init__(self, connection: Connection) -> None:
        self._wire = connection

    async def run(self, *commands: Sequence[Part]) -> list[Any]:
        """The replies, in order. Raises TransportDown; ServerRefused when one of the commands was refused."""
        if not self._wire.connected:
            await self._wire.connect()
        replies = await self._wire.exchange(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise ServerRefused(f"Redis refused a read: {reply}")
        return replies

    async def look(self, *commands: Sequence[Part]) -> list[Any]:
        """The replies, in order, with an error in place of one that is too large or whose key is of another type.
        Raises TransportDown; ServerRefused when one was refused for another reason: this user may not read it."""
        if not self._wire.connected:
            await self._wire.connect()
        try:
            replies = await self._wire.exchange(commands, max_bytes=MAX_BYTES)
        except ReplyTooLarge as error:
            if len(commands) == 1:
                return [error]
        else:
            for reply in replies:
                if isinstance(reply, Exception) and not is_other_type(str(reply)):
                    raise ServerRefused(f"Redis refused a read: {reply}")
            return replies
        middle = len(commands) // 2
        return [*await self.look(*commands[:middle]), *await self.look(*commands[middle:])]

    async def close(self) -> None:
        await self._wire.close()


def opening(redis: RedisConfig) -> OpenConnection:
    """A function that makes connections for reading, which are not open yet."""
    return lambda: Wire(redis)


@asynccontextmanager
async def reading(redis: RedisConfig) -> AsyncIterator[Reader]:
    """A Reader that is closed at the end of the block."""
    reader = Reader(Wire(redis))
    try:
        yield reader
    finally:
        await reader.close()


async def memory_told(source: Runs) -> Memory | None:
    """How full the server is; None if this user may not ask. Raises TransportDown."""
    with suppress(ServerRefused):
        [info] = await source.run(("INFO", "memory"))
        return memory_of(fields_of(info))
    return None
