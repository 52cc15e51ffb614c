"""A connection for the scripts of the registry, which several may use at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from core.config.settings import RedisConfig
from core.operations.reader import opening
from core.ports import Command, OpenConnection
from core.redis_backend.registry_scripts import SCRIPTS
from core.redis_backend.scripted_exchange import exchange, unrefused
from core.wiring import redis_or_configured

__all__ = ["RegistrySource", "registry_source"]


class RegistrySource:
    """Runs commands one batch after the other. It connects anew by itself after a lost connection."""

    def __init__(self, open_connection: OpenConnection) -> None:
        self._connection = open_connection()
        self._lock = asyncio.Lock()

    async def run(self, *commands: Command) -> list[Any]:
        """The replies, in order. Raises TransportDown, and ServerRefused for the first refusal."""
        async with self._lock:
            return unrefused(commands, await exchange(self._connection, commands, SCRIPTS))

    async def close(self) -> None:
        await self._connection.close()


@asynccontextmanager
async def registry_source(redis: RedisConfig | None = None) -> AsyncIterator[RegistrySource]:
    """A source at this Redis, closed at the end of the block; None: at the configured one. Raises ConfigError."""
    source = RegistrySource(opening(redis_or_configured(redis)))
    try:
        yield source
    finally:
        await source.close()
