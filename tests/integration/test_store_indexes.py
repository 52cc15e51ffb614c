"""Which index a gateway takes for that of the store, by what agents have registered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from core.config.settings import RedisConfig
from core.gateway.problems import Problem
from core.gateway.store_indexes import StoreIndexes
from core.ports import Command
from core.redis_backend.gateway_keys import GatewayKeys
from core.registry.agent_info import Declared, Lifecycle, Vital
from core.registry.agent_registry import AgentRegistry
from core.registry.discovery import AgentDiscoveryService
from core.registry.source import RegistrySource, registry_source
from core.store_index import StoreIndex

INDEX = StoreIndex(embed="openai:small", dims=8, graphs=("agent",))
OTHER = StoreIndex(embed="openai:large", dims=8, graphs=("other",))
KEY = GatewayKeys("k").store_index


class Fleet:
    """Agents that are registered, and gateways that have just been started."""

    def __init__(self, source: RegistrySource) -> None:
        self._source = source
        self._registry = AgentRegistry("k", source)
        self.asked = 0

    async def join(self, agent_id: str, *indexes: StoreIndex, draining: bool = False, **fields: Any) -> None:
        declared = {
            "agent_type": "worker", "graphs": tuple(name for index in indexes for name in index.graphs),
            "capabilities": tuple(index.capability for index in indexes),
            "metadata": {"store_indexes": msgspec.to_builtins(indexes)}, **fields,
        }  # fmt: skip
        vital = Vital(lifecycle=Lifecycle.DRAINING if draining else Lifecycle.ACTIVE)
        await self._registry.register(Declared(agent_id=agent_id, **declared), vital=vital)

    async def leave(self, agent_id: str) -> None:
        assert await self._registry.deregister(agent_id)

    async def run(self, *commands: Command) -> list[Any]:
        self.asked += 1
        return await self._source.run(*commands)

    def gateway(self) -> StoreIndexes:
        return StoreIndexes(AgentDiscoveryService("k", self), self, KEY)

    async def told(self) -> Any:
        """What a new gateway finds: an index, None, or the status with which it refuses."""
        try:
            return await self.gateway().current()
        except Problem as problem:
            return problem.status


@pytest.fixture
async def fleet(redis_config: RedisConfig) -> AsyncIterator[Fleet]:
    async with registry_source(redis_config) as source:
        yield Fleet(source)


async def test_all_workers_that_stay_have_to_have_the_same_index(fleet: Fleet) -> None:
    assert await fleet.told() is None
    await fleet.join("a", INDEX)
    await fleet.join("b", msgspec.structs.replace(INDEX, graphs=("b",)))
    assert (await fleet.told()).digest == INDEX.digest
    await fleet.join("c", INDEX, OTHER)
    assert await fleet.told() == 422
    for name in ("a", "b"):
        await fleet.join(name, INDEX, draining=True)
    await fleet.join("c", OTHER)
    assert await fleet.told() == OTHER
    await fleet.join("c", OTHER, draining=True)
    assert await fleet.told() == 503


async def test_an_index_whose_workers_are_away_is_remembered_until_its_graph_is_there_without_it(fleet: Fleet) -> None:
    await fleet.join("a", INDEX)
    await fleet.join("d", agent_type="distributor", graphs=("agent",), capabilities=(INDEX.capability,))
    assert await fleet.told() == INDEX
    await fleet.leave("a")
    assert await fleet.told() == 503
    await fleet.join("another", graphs=("not this one",))
    assert await fleet.told() == 503
    await fleet.join("a", INDEX)
    assert await fleet.told() == INDEX
    await fleet.leave("a")
    await fleet.join("a", graphs=("agent",))
    assert await fleet.told() is None
    await fleet.leave("a")
    assert await fleet.told() is None
    [life_ms] = await fleet.run(("PTTL", KEY))
    assert life_ms == -2


@pytest.mark.parametrize("told", [None, [], {}, "x", [{"embed": "y"}], [{**msgspec.to_builtins(OTHER)}], [[]]])
async def test_what_cannot_be_read_is_no_index(fleet: Fleet, told: Any) -> None:
    await fleet.run(("SET", KEY, b'{"embed": 1}'))
    await fleet.join("a", capabilities=(INDEX.capability, "store.index:"), metadata={"store_indexes": told})
    assert await fleet.told() is None


async def test_many_that_ask_at_once_look_once_and_a_moment_later_not_at_all(fleet: Fleet) -> None:
    gateway = fleet.gateway()
    assert set(await asyncio.gather(*(gateway.current() for _ in range(50)))) == {None}
    assert fleet.asked == 2
    assert await gateway.current() is None
    assert fleet.asked == 2
