"""A redis-py client that a program has already, as a Connection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
from redis import exceptions

from core.errors import TransportDown
from core.ports import Command

__all__ = ["OwnClient"]

#: redis-py takes the code out of the text of an error, and says it with the class.
_CODES: dict[type[Exception], str] = {
    exceptions.NoPermissionError: "NOPERM",
    exceptions.NoScriptError: "NOSCRIPT",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
}


class OwnClient:
    """Exchanges commands over the client's pool. It stays the program's, to be configured and closed."""

    def __init__(self, client: redis.Redis | redis.asyncio.Redis) -> None:
        self._client = client
        #: A client without a loop can be used from any.
        self.belongs_to_a_loop = isinstance(client, redis.asyncio.Redis)

    @property
    def connected(self) -> bool:
        return True

    async def connect(self) -> None:
        """Nothing: the client connects by itself."""

    async def exchange(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, max_bytes: int | None = None
    ) -> list[Any]:
        """The replies, as bytes, whatever the client decodes elsewhere. `timeout_s` and `max_bytes` are the client's.

        Raises TransportDown."""
        pipeline: Any = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command, NEVER_DECODE=True)
        try:
            if isinstance(self._client, redis.asyncio.Redis):
                replies = await pipeline.execute(raise_on_error=False)
            else:
                replies = await asyncio.to_thread(pipeline.execute, raise_on_error=False)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            raise TransportDown(f"the Redis client failed: {error}") from error
        return [_with_code(reply) for reply in replies]

    async def close(self) -> None:
        """Nothing: whoever has opened the client closes it."""


def _with_code(reply: Any) -> Any:
    code = _CODES.get(type(reply))
    return exceptions.ResponseError(f"{code} {reply}") if code else reply
