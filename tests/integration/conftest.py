"""Hierarchies for the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from core.config import RedisConfig
from tests.integration.hierarchy import House, house


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    """Nobody there yet."""
    async with house(redis_config) as opened:
        yield opened


@pytest.fixture
async def full(agents: House) -> House:
    """One coordinator, one distributor, two workers."""
    await agents.coordinator()
    await agents.distributor()
    await agents.worker("w1")
    await agents.worker("w2")
    return agents
