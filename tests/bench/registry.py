"""How long it takes to find agents, to get one and to renew one, with ever more of them registered."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from core.config.settings import RedisConfig
from core.redis_backend.keys import RegistryKeys
from core.redis_backend.registry_scripts import MORE_EXPIRED
from core.registry.agent_info import Declared, FleetStatus, Load, Vital
from core.registry.agent_registry import AgentRegistry, register_command, renew_command
from core.registry.discovery import AgentDiscoveryService, Wanted
from core.registry.source import RegistrySource, registry_source
from tests.redis_server import RedisServer, bundled_server

__all__ = ["registry"]

COUNTS = (100, 1_000, 10_000)
LOOKS, BATCH = 500, 500
LEASE_MS = 3600 * 1000
#: How many agents have the rare capability, whatever their number.
RARE = 10


def registry() -> dict[str, Any]:
    """p50, p99 and CPU of client and server in ms of each question, by the number of registered agents; and what it
    takes to remove them when all have died at once."""
    with RedisServer(bundled_server()) as server:
        config = RedisConfig(url=server.url, password=server.password, mode="external")
        costs = asyncio.run(_all(config))
        return {"looks": LOOKS, "costs": costs, "cleared": asyncio.run(_cleared(server, config))}


async def _cleared(server: RedisServer, config: RedisConfig) -> dict[str, float]:
    """What it takes to remove all agents at once but one, as a coordinator does it."""
    keys = RegistryKeys("c")
    async with registry_source(config) as source:
        await AgentRegistry("c", source).register(Declared(agent_id="a-coordinator"), lease_ms=LEASE_MS)
        names = [f"worker-{number:05}" for number in range(COUNTS[-1])]
        with server.connect() as client:
            for key in keys.of_scripts[:2]:
                client.zadd(key, dict.fromkeys(names, 1))
        renewal = renew_command(keys, "a-coordinator", Vital(), 0, LEASE_MS)
        calls, reply, before_s = 0, MORE_EXPIRED, await _cpu_s(source)
        while reply == MORE_EXPIRED:
            [reply] = await source.run(renewal)
            calls += 1
        cpu_ms = (await _cpu_s(source) - before_s) * 1000
        left = (await AgentRegistry("c", source).stats()).by_type
    if left != {"general": 1}:
        raise AssertionError(f"others are left: {left}")
    return {"agents": len(names), "calls": calls, "cpu_ms_a_call": cpu_ms / calls}


async def _all(config: RedisConfig) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    async with registry_source(config) as source:
        known = 0
        for count in COUNTS:
            await _register(source, known, count)
            known = count
            for name, ask in _questions(source, count).items():
                found.setdefault(name, {})[str(count)] = await _cost(source, ask)
    return found


async def _register(source: RegistrySource, first: int, last: int) -> None:
    await AgentRegistry("c", source).stats()
    for start in range(first, last, BATCH):
        numbers = range(start, min(last, start + BATCH))
        await source.run(*(_registered(number) for number in numbers))


def _registered(number: int) -> Any:
    declared = Declared(
        agent_id=f"worker-{number:05}", agent_type="worker", services=("echo",),
        capabilities=("common", *(["rare"] if number < RARE else [])), tags=(f"region={number % 5}",),
        metadata={"host": "a", "pid": number}, version="1",
    )  # fmt: skip
    health = 1.0 if number < RARE else 0.5 + number % 45 / 100
    vital = Vital(load=Load(in_flight=number % 5, capacity=4), health_score=health)
    return register_command(RegistryKeys("c"), declared, vital, "coordinator:c", number + 1, LEASE_MS)


def _questions(source: RegistrySource, count: int) -> dict[str, Callable[[], Awaitable[Any]]]:
    registry, discovery = AgentRegistry("c", source), AgentDiscoveryService("c", source)
    middle = f"worker-{count // 2:05}"
    both = Wanted(capabilities=("common", "rare"), agent_type="worker", min_health=0.9)
    healthy = Wanted(services=("echo",), tags=("region=1",), min_health=0.9)
    return {
        "one, by its id": partial(registry.get, middle),
        f"the {RARE} with a rare capability, a common one, a type and a health": partial(discovery.find, both),
        "a page of 20 with a common capability": partial(
            discovery.by_capability, "common", limit=20, after=middle if count > 100 else ""
        ),
        f"the {RARE} with a health of at least 0.97": partial(discovery.find, Wanted(min_health=0.97), limit=20),
        "a page of 20 by health, which half of them have": partial(discovery.find, Wanted(min_health=0.7), limit=20),
        "a page of 20 by service, tag and health": partial(discovery.find, healthy, limit=20),
        "a page of 20 that are busy": partial(discovery.find, Wanted(status=FleetStatus.BUSY), limit=20),
        "a page of 100 of all": partial(discovery.find, limit=100),
        "statistics": registry.stats,
        "a heartbeat": partial(registry.heartbeat, middle, Load(in_flight=1, capacity=4), lease_ms=LEASE_MS),
    }


async def _cost(source: RegistrySource, ask: Callable[[], Awaitable[Any]]) -> dict[str, float]:
    took_ms = []
    before_s = await _cpu_s(source)
    for _ in range(LOOKS):
        began_s = time.perf_counter()
        await ask()
        took_ms.append((time.perf_counter() - began_s) * 1000)
    cpu_ms = (await _cpu_s(source) - before_s) / LOOKS * 1000
    cuts = statistics.quantiles(took_ms, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "cpu": cpu_ms}


async def _cpu_s(source: RegistrySource) -> float:
    """What this process and the server have used so far."""
    [told] = await source.run(("INFO", "cpu"))
    used = dict(line.split(":") for line in told.decode().split() if line.startswith("used_cpu_"))
    return time.process_time() + float(used["used_cpu_user"]) + float(used["used_cpu_sys"])
