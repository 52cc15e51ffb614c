"""Hierarchies, and holders of leases, for the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from core.chaos.processes import Processes
from core.config.settings import RedisConfig
from core.events import AgentCoordinator
from core.redis_backend.clock import ServerClock
from core.redis_backend.commit import Committer
from core.redis_client import Wire
from tests.gateway_door import KEY, Door, open_door
from tests.integration.committers import KEYS, ME, Make
from tests.integration.hierarchy import House, house

if TYPE_CHECKING:
    from langgraph_sdk.client import LangGraphClient


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


@pytest.fixture
async def make(redis_config: RedisConfig) -> AsyncIterator[Make]:
    """Committers for one agent, each as another process would have it."""
    async with AsyncExitStack() as stack:

        def committer(*, lease_ms: int = 60_000, **fields: Any) -> Committer:
            made = Committer(Wire(redis_config), ME, KEYS, ServerClock(), lease_ms=lease_ms, **fields)
            made.lease.process = f"elsewhere/{len(made_so_far)}/0"  # all tests run in one process, which is alive
            made_so_far.append(made)
            stack.push_async_callback(made.close)
            return made

        made_so_far: list[Committer] = []
        yield committer


@pytest.fixture
async def stream(redis_config: RedisConfig) -> AsyncIterator[Callable[..., AgentCoordinator]]:
    """Coordinators of one agent stream, each as another process would have it."""
    async with AsyncExitStack() as stack:

        def coordinator(
            group: str | None = None, name: str | None = None, *, stream_name: str = "agent_events", **fields: Any
        ) -> AgentCoordinator:
            made = AgentCoordinator(redis_config, stream_name, group, name, **fields)
            stack.push_async_callback(made.close)
            return made

        yield coordinator


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, processes: Processes) -> Iterator[Door]:
    """A hierarchy with two gateways, for all tests of a module."""
    with open_door(tmp_path_factory.mktemp("gateway"), processes) as opened:
        yield opened


@pytest.fixture
async def sdk(door: Door) -> AsyncIterator[LangGraphClient]:
    """LangGraph's SDK at the first gateway."""
    from langgraph_sdk import get_client

    async with get_client(url=door.urls[0], api_key=None) as client:
        yield client


@pytest.fixture
async def other(door: Door) -> AsyncIterator[LangGraphClient]:
    """The same hierarchy, by the second gateway."""
    from langgraph_sdk import get_client

    async with get_client(url=door.urls[1], api_key=KEY) as client:
        yield client
