"""Every backend that the loop can run on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.redis_client import Wire

if TYPE_CHECKING:
    from core.config import RedisConfig
    from core.ports import OpenConnection


@pytest.fixture(params=["memory", "server"])
def open_connection(request: pytest.FixtureRequest, redis_config: RedisConfig) -> OpenConnection:
    """Gives connections to one store that is empty: in memory, or of a server. Whoever opens one closes it."""
    if request.param == "memory":
        store = MemoryStore(time.time)
        return lambda: MemoryConnection(store)
    return lambda: Wire(redis_config)
