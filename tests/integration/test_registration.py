"""Every agent of a hierarchy registers, lives in the registry as long as it lives, and leaves with its end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from core.config.settings import RedisConfig
from core.config.variables import secret_text
from core.redis_backend.keys import RegistryKeys
from core.redis_backend.registry_scripts import EXPIRED, MORE_EXPIRED, UNLISTED
from core.registry.agent_info import AgentInfo, Declared, FleetStatus, Lifecycle, Vital
from core.registry.agent_registry import AgentRegistry, register_command, renew_command
from core.registry.discovery import AgentDiscoveryService, Wanted
from core.registry.source import RegistrySource, registry_source
from core.runtime.registration import MOST_CALLS
from core.tasks import Task
from tests.integration.hierarchy import FAST, House
from tests.waiting import until_async

KEYS = RegistryKeys("k")


class Registered:
    """What can be asked about the agents of coordinator `k`."""

    def __init__(self, source: Any) -> None:
        self.registry = AgentRegistry("k", source)
        self.discovery = AgentDiscoveryService("k", source)

    async def found(self, **wanted: Any) -> dict[str, AgentInfo]:
        page = await self.discovery.find(Wanted(**wanted))
        return {info.agent_id: info for info in page.agents}


@pytest.fixture
async def registered(redis_config: RedisConfig) -> AsyncIterator[Registered]:
    async with registry_source(redis_config) as source:
        yield Registered(source)


async def test_every_agent_is_registered_with_what_it_is_and_can_do(agents: House, registered: Registered) -> None:
    await agents.coordinator()
    await agents.distributor()
    tagged = FAST.model_copy(update={"tags": ("region=eu",), "health_port": 9})
    await agents.worker("w1", config=tagged, capabilities=["gpu"])
    await until_async(lambda: _is_active(registered, "k", "d", "w1"), "all are active", 10)
    found = await registered.found()
    assert {name: (info.agent_type, info.place) for name, info in found.items()} == {
        "k": ("coordinator", "coordinator:k"),
        "d": ("distributor", "coordinator:k/distributor:d"),
        "w1": ("worker", "coordinator:k/distributor:d/worker:w1"),
    }
    worker = found["w1"]
    assert worker.capabilities == ("gpu",)
    assert {"add", "wait"} <= set(worker.services)
    assert (worker.tags, worker.endpoints) == (("region=eu",), {"health": "http://127.0.0.1:9"})
    assert worker.metadata["parent"] == "d"
    assert worker.load_metrics.capacity == 4
    assert worker.load_metrics.memory_mb > 1
    await until_async(lambda: _has_service(registered, "d", "add"), "the distributor can do what its worker can", 10)
    assert {*await registered.found(capabilities=("gpu",), agent_type="worker")} == {"w1"}
    assert {*await registered.found(tags=("region=eu",))} == {"w1"}


async def test_a_worker_with_all_slots_taken_is_busy_and_drains_as_inactive(
    agents: House, registered: Registered
) -> None:
    await agents.coordinator()
    await agents.distributor()
    worker = await agents.worker("w1", config=FAST.model_copy(update={"concurrency": 1}))
    client = await agents.client()
    await client.submit_many.aio([Task(task_id=name, task_type="wait", payload=0) for name in ("t1", "t2")])
    await until_async(lambda: _has_status(registered, "w1", FleetStatus.BUSY), "it is busy", 10)
    await until_async(lambda: _queues(registered, "w1"), "its second task waits, and gets older", 10)
    for name in ("t1", "t2"):
        agents.door(name).set()
    await until_async(lambda: _has_status(registered, "w1", FleetStatus.ACTIVE), "it has room again", 10)
    assert await worker.drain(5)
    gone = await registered.registry.get("w1")
    assert gone is not None
    assert (gone.lifecycle, gone.status, gone.health_score) == (Lifecycle.GONE, FleetStatus.INACTIVE, 0.0)
    assert "w1" not in await registered.found()


async def test_a_registry_that_has_lost_its_data_is_filled_again(
    full: House, registered: Registered, client: redis.asyncio.Redis
) -> None:
    await until_async(lambda: _is_active(registered, "k", "d", "w1", "w2"), "all are active", 10)
    await client.delete(*[key async for key in client.scan_iter(match=KEYS.indexes.rsplit(":", 2)[0] + "*")])
    await client.script_flush()
    await until_async(lambda: _is_active(registered, "k", "d", "w1", "w2"), "all are active again", 10)
    stats = await registered.registry.stats()
    assert (stats.registered, stats.by_type) == (4, {"coordinator": 1, "distributor": 1, "worker": 2})
    assert stats.by_service["add"] == 3


async def test_an_id_that_is_taken_elsewhere_is_not_registered_twice_and_its_agent_works(
    full: House, registered: Registered, caplog: pytest.LogCaptureFixture
) -> None:
    await until_async(lambda: _is_active(registered, "w1"), "it is active", 10)
    await full.distributor("d2")
    await full.worker("w1", "d2")
    assert (await registered.found())["w1"].place == "coordinator:k/distributor:d/worker:w1"
    assert "its id is that of coordinator:k/distributor:d/worker:w1" in caplog.text


async def test_a_task_that_nobody_can_run_is_warned_of(agents: House, registered: Registered) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker("w1", capabilities=["gpu"])
    await agents.worker("w2", capabilities=["eu"])
    await until_async(lambda: _has_service(registered, "d", "add"), "the distributor knows what they can do", 10)
    await until_async(lambda: _is_active(registered, "w1", "w2"), "they are there", 10)
    able = [Task(task_type="add", payload=0), Task(task_type="add", payload=0, capabilities=["gpu"])]
    assert await registered.discovery.warnings(able) == []
    unable = [Task(task_type="add", payload=0, capabilities=["gpu", "eu"]), Task(task_type="fly", payload=0)]
    both, fly = await registered.discovery.warnings([*able, *unable])
    assert "'add' has the capabilities it asks for: gpu, eu" in both
    assert "runs task type 'fly'" in fly


async def _have_died(client: redis.asyncio.Redis, source: RegistrySource, names: list[str], **said: Any) -> None:
    """Registers agents whose lease is over by then, while everybody was away."""
    leases, suspects, _ = KEYS.of_scripts
    commands = (
        register_command(KEYS, Declared(agent_id=name, tags=("late",), **said), Vital(), "elsewhere", 1, 60_000)
        for name in names
    )
    await source.run(*commands)
    await client.zadd(leases, dict.fromkeys(names, 1))
    await client.zadd(suspects, dict.fromkeys(names, 1))


async def test_a_coordinator_clears_the_registry_of_many_that_have_died_at_once(
    agents: House, client: redis.asyncio.Redis, redis_config: RedisConfig
) -> None:
    dead = [f"dead-{number:04}" for number in range(2 * MOST_CALLS * EXPIRED + 1)]
    async with registry_source(redis_config) as source:
        await _have_died(client, source, dead)
        assert await client.zcard(KEYS.index("tag:late")) == len(dead)
        await agents.coordinator()

        async def only_it_is_left() -> bool:
            leases, suspects, indexes = KEYS.of_scripts
            listed = [await client.zrange(key, 0, -1) for key in (leases, suspects, KEYS.index("all"))]
            return listed == [[b"k"]] * 3 and b"tag:late" not in await client.smembers(indexes)

        await until_async(only_it_is_left, "the dead are in no index any more", 10)
        gone = await AgentRegistry("k", source).get(dead[-1])
        assert gone is not None
        assert gone.lifecycle is Lifecycle.GONE


async def test_one_call_removes_a_bounded_number_however_large_they_are(
    client: redis.asyncio.Redis, redis_config: RedisConfig
) -> None:
    leases, _, _ = KEYS.of_scripts
    renewal = renew_command(KEYS, "lives", Vital(), 0, 60_000)
    async with registry_source(redis_config) as source:
        await AgentRegistry("k", source).register(Declared(agent_id="lives"))
        await _have_died(client, source, [f"dead-{number:03}" for number in range(EXPIRED + 5)])
        assert await source.run(renewal) == [MORE_EXPIRED]
        assert await client.zcard(leases) == 1 + 5
        assert await source.run(renewal) == [1]
        assert await client.zcard(leases) == 1

        can_much = tuple(f"can-{number}" for number in range(UNLISTED))
        await _have_died(client, source, ["large-1", "large-2", "large-3"], capabilities=can_much)
        assert await source.run(renewal) == [MORE_EXPIRED]
        assert await client.zcard(leases) == 1 + 2, "one of them is enough for a call"


async def _is_active(registered: Registered, *agent_ids: str) -> bool:
    found = await registered.found(status=FleetStatus.ACTIVE)
    return {*agent_ids} <= {*found}


async def _has_status(registered: Registered, agent_id: str, status: FleetStatus) -> bool:
    return agent_id in await registered.found(status=status)


async def _has_service(registered: Registered, agent_id: str, service: str) -> bool:
    return agent_id in await registered.found(services=(service,))


async def _queues(registered: Registered, agent_id: str) -> bool:
    load = (await registered.found())[agent_id].load_metrics
    return load.in_flight == 2 and load.queue_age_ms > 0


async def test_a_renewal_reads_and_writes_its_record_once(
    client: redis.asyncio.Redis, redis_config: RedisConfig
) -> None:
    async def calls() -> int:
        stats = await client.info("commandstats")
        return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")

    vital = Vital(lifecycle=Lifecycle.ACTIVE, health_score=0.97)
    async with registry_source(redis_config) as source:
        await source.run(register_command(KEYS, Declared(agent_id="w"), vital, "", 1, 60_000))
        before = await calls()
        assert await source.run(renew_command(KEYS, "w", vital, 1, 60_000)) == [1]
        # Itself, the clock, who has expired, two looks at who it is, its record, and when it is suspect and gone.
        assert await calls() - before <= 8


async def test_operators_list_find_and_show_agents(agents: House, registered: Registered) -> None:
    await agents.coordinator()
    await agents.distributor()
    await agents.worker("w1", capabilities=["gpu"], config=FAST.model_copy(update={"tags": ("region=eu",)}))
    await until_async(lambda: _is_active(registered, "k", "d", "w1"), "all are active", 10)
    listed = await _agents(agents, "list")
    assert "3 registered (3 active), 0 of them silent" in listed.stdout
    found = await _agents(agents, "find", "--capability", "gpu", "--tag", "region=eu", "--type", "worker", "--json")
    assert [info["agent_id"] for info in json.loads(found.stdout)["agents"]] == ["w1"]
    assert (await _agents(agents, "find", "--service", "nothing")).returncode == 1
    shown = await _agents(agents, "show", "w1", "--json")
    assert json.loads(shown.stdout)["place"] == "coordinator:k/distributor:d/worker:w1"
    assert (await _agents(agents, "show", "nobody")).returncode == 1


async def _agents(agents: House, *arguments: str) -> subprocess.CompletedProcess[str]:
    redis = agents.redis
    environment = {
        **os.environ, "REDIS_URL": secret_text(redis.url) or "", "REDIS_PASSWORD": secret_text(redis.password) or "",
        "REDIS_MODE": "external", "COORDINATOR_ID": "k",
    }  # fmt: skip
    command = [sys.executable, "-m", "core.cli", "registry", *arguments]
    return await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
