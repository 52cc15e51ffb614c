"""Every backend that the loop can run on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.ports import Connection
from core.redis_client import Wire

if TYPE_CHECKING:
    from core.config.settings import RedisConfig
    from core.ports import OpenConnection


@pytest.fixture(params=["memory", "server"])
async def open_connection(request: pytest.FixtureRequest, redis_config: RedisConfig) -> AsyncIterator[OpenConnection]:
    """Gives connections to one store that is empty: in memory, or of a server. They are closed at the end."""
    store, opened = MemoryStore(time.time), list[Connection]()

    def new_connection() -> Connection:
        opened.append(MemoryConnection(store) if request.param == "memory" else Wire(redis_config))
        return opened[-1]

    yield new_connection
    for connection in opened:
        await connection.close()
