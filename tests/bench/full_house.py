"""A great many agents and open tasks at once, in one coordinator: what looks take, what a takeover takes, and whether
all is right at the end."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median
from typing import Any

from core.config.settings import AgentConfig, RedisConfig
from core.operations.explain import explain
from core.operations.fleet_counts import read_fleet_counts
from core.operations.overview import read_overview
from core.operations.reader import reading
from core.operations.task_records import newest_tasks
from core.registry.agent_registry import AgentRegistry
from core.registry.discovery import AgentDiscoveryService, Wanted
from core.registry.source import registry_source
from core.tasks import Task
from core.waiting_reason import WaitingFor
from tests.bench.noop import TASK_TYPE
from tests.bench.our_system import BATCH, OurSystem
from tests.bench.parts import running
from tests.bench.processes import memory_mb
from tests.fleets import HUNDRED, LIFE_S, RARE, StoredFleet
from tests.redis_server import RedisServer

__all__ = ["full_house"]

AGENTS, TASKS = 10_000, 100_000
COORDINATOR, COORDINATOR_ID = "coordinator", "coordinator-1"
LOOKS, LISTED = 5, 20
#: How long nothing may end, while everything is in line. A machine that others use as well is slow.
PATIENCE_S = 120.0


def full_house(agents: int = AGENTS, tasks: int = TASKS) -> dict[str, float]:
    """Registers so many agents, in hundreds, and submits so many tasks, in thousands, that nobody can run; looks at
    them; has another coordinator take over; and starts two workers that run them all. Raises AssertionError: something
    is not as it must be. Times are in ms or s, as they are called; of each look, the median."""
    with running(partial(OurSystem, workers=False, settings={"AGENT_FAILURE_TIMEOUT_S": str(LIFE_S)})) as (
        system,
        server,
    ):
        found = {"coordinator_empty_mb": memory_mb(system.processes[COORDINATOR])}
        began_s = time.monotonic()
        StoredFleet(server, COORDINATOR_ID, system.secret).grow(agents)
        found["agents_registered_s"] = -began_s + (began_s := time.monotonic())
        batches = [system.call(system.submit(BATCH)) for _ in range(tasks // BATCH)]
        found["tasks_submitted_s"] = time.monotonic() - began_s
        found |= system.call(_looks(server, agents, tasks, batches[0][0], batches[-1]))
        found["coordinator_full_mb"] = memory_mb(system.processes[COORDINATOR])
        began_s = time.monotonic()
        system.replace_coordinator()
        last = system.call(system.submit(BATCH))
        found["taken_over_s"] = time.monotonic() - began_s
        found["coordinator_taken_over_mb"] = memory_mb(system.processes[COORDINATOR])
        began_s = time.monotonic()
        system.start_workers()
        for ids in (*batches, last):
            system.call(system.collect(ids, PATIENCE_S))
        found["all_run_s"] = time.monotonic() - began_s
        system.call(_nothing_is_left(server, tasks + BATCH))
    return found


async def _looks(server: RedisServer, agents: int, tasks: int, first: str, newest: list[str]) -> dict[str, float]:
    config = AgentConfig(failure_timeout_s=LIFE_S)
    async with reading(_config(server)) as reader, registry_source(_config(server)) as source:
        discovery = AgentDiscoveryService(COORDINATOR_ID, source)
        overview, each_ms = await _timed(lambda: read_overview(reader, COORDINATOR_ID, config))
        counts, counts_ms = await _timed(lambda: read_fleet_counts(reader, COORDINATOR_ID, config))
        why, explain_ms = await _timed(lambda: explain(reader, COORDINATOR_ID, first, config))
        page, discovery_ms = await _timed(lambda: discovery.find(Wanted(capabilities=(RARE,), min_health=0.9)))
        listed, list_ms = await _timed(lambda: _newest(reader))
        stats = await AgentRegistry(COORDINATOR_ID, source).stats()
    there = agents + 2  # with the two that run
    assert (overview.open_tasks, len(overview.agents), stats.registered) == (tasks, there, there)
    assert (counts.open_tasks, sum(tier.up for tier in counts.tiers.values())) == (tasks, there)
    assert (why.waits_for, why.numbers["workers"]) == (WaitingFor.NOBODY_HAS, agents - agents // HUNDRED)
    assert [info.agent_id for info in page.agents] == [f"stored-{number:03}-00" for number in range(len(page.agents))]
    assert len(page.agents) == min(agents // HUNDRED, 100)
    assert {task.task_id for task in listed} <= {*newest}
    return {
        "each_agent_ms": each_ms, "counts_ms": counts_ms, "explain_ms": explain_ms, "discovery_ms": discovery_ms,
        "list_ms": list_ms,
    }  # fmt: skip


async def _newest(reader: Any) -> list[Any]:
    tasks = newest_tasks(reader, COORDINATOR_ID)
    listed = [await anext(tasks) for _ in range(LISTED)]
    await tasks.aclose()
    return listed


async def _timed(look: Callable[[], Awaitable[Any]]) -> tuple[Any, float]:
    took_ms = []
    for _ in range(LOOKS):
        began_s = time.perf_counter()
        found = await look()
        took_ms.append((time.perf_counter() - began_s) * 1000)
    return found, median(took_ms)


async def _nothing_is_left(server: RedisServer, tasks: int) -> None:
    async with reading(_config(server)) as reader:
        overview = await read_overview(reader, COORDINATOR_ID, AgentConfig(failure_timeout_s=LIFE_S))
        assert (overview.open_tasks, overview.ended_tasks, overview.dead_letters) == (0, tasks, 0)
        assert overview.quarantined == {}
        task = (await _newest(reader))[0]
        assert isinstance(task, Task)
        assert task.task_type == TASK_TYPE


def _config(server: RedisServer) -> RedisConfig:
    return RedisConfig(url=server.url, password=server.password, mode="external")
