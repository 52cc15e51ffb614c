"""Waiting until a hierarchy is ready, on a server that is not there yet."""

from __future__ import annotations

import asyncio
import os

import pytest

from core.config.settings import RedisConfig
from core.config.sources import load
from core.launch import readiness
from core.launch.hierarchy import AgentPlan
from core.launch.readiness import wait_until_ready
from core.roles import Address, Role
from tests.builders import SECRET
from tests.integration.hierarchy import house
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until_async


async def test_who_waits_for_agents_outlasts_an_outage_as_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "PATIENCE_S", 0.1)
    said: list[str] = []
    with RedisServer(bundled_server()) as server:
        settings = load({}, {**server.environment, "A2A_TOKEN_SECRET": SECRET.decode()}, "nowhere")
        plan = AgentPlan(Address(Role.COORDINATOR, "k"), ())
        server.kill()
        waiting = asyncio.create_task(wait_until_ready([plan], settings, os.getppid(), said.append))
        await until_async(lambda: said or waiting.done(), "it has waited for a while")
        server.start()
        async with house(RedisConfig(url=server.url, password=server.password, mode="external")) as agents:
            await agents.coordinator()
            overview = await asyncio.wait_for(waiting, 20)

    assert said == ["not ready yet: coordinator:k"]
    assert overview.agents[0].up
