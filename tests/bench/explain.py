"""What it costs to decide which task is next, and to say why one waits, with more and more of them open."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from itertools import islice
from statistics import quantiles
from typing import Any

from core.config.settings import AgentConfig, RedisConfig
from core.dispatch_queue import DispatchQueue
from core.operations.explain import explain as explained
from core.operations.fleet_counts import read_fleet_counts
from core.operations.overview import read_agents, read_overview
from core.operations.reader import Reader, reading
from core.operations.task_records import newest_tasks
from core.redis_backend.keys import CoordinatorKeys
from core.registry.discovery import AgentDiscoveryService, Wanted
from core.registry.source import registry_source
from core.tasks import Task
from tests.bench.our_system import BATCH, OurSystem
from tests.bench.parts import running
from tests.builders import NOW
from tests.fleets import BUSY_TYPE, LIFE_S, RARE, StoredFleet
from tests.redis_server import RedisServer

__all__ = ["explain"]

OPEN, TENANTS, LOOKS = (1_000, 10_000, 100_000), (1, 100, 10_000), 300
AGENTS = (100, 1_000, 10_000)
#: A type that no worker knows, and how many tasks a list shows.
NOBODYS, LISTED = "nobody-has-this", 20
SHOWN = 100  #: agents, by `agents status`
COORDINATOR_ID = "coordinator-1"
TURNS, A_STEP = 20_000, 200

#: p50 and p99 of the time, and the least CPU of this process, ms.
Looks = dict[str, tuple[float, float, float]]


def explain(repeats: int) -> dict[str, Any]:
    """By the number of open tasks, and with the most of them by the number of agents: p50, p99 and CPU of each look,
    ms. By tenants and waiting tasks: µs of one task that comes and of one that goes, the least of the repetitions."""
    by_tasks: dict[int, Looks] = {}
    by_agents: dict[int, Looks] = {}
    with running(partial(OurSystem, settings={"AGENT_FAILURE_TIMEOUT_S": str(LIFE_S)})) as (system, server):
        busy_id = system.call(system.submit(1, BUSY_TYPE))[0]  # until they come, nobody has this either
        for before, count in zip((0, *OPEN), OPEN, strict=False):
            for start in range(before, count, BATCH):
                system.leave(min(BATCH, count - start), NOBODYS)
            by_tasks[count] = system.call(_looks(server, busy_id))
        fleet = StoredFleet(server, COORDINATOR_ID, system.secret)
        for count in AGENTS:
            fleet.grow(count)
            by_agents[count] = system.call(_looks(server, busy_id))
    turns = {tenants: {count: _turn_us(tenants, count, repeats) for count in OPEN} for tenants in TENANTS}
    return {"by_tasks": by_tasks, "by_agents": by_agents, "turns": turns}


async def _looks(server: RedisServer, busy_id: str) -> Looks:
    redis = RedisConfig(url=server.url, password=server.password, mode="external")
    config = AgentConfig(failure_timeout_s=LIFE_S)
    async with reading(redis) as reader, registry_source(redis) as source:
        [ids] = await reader.run(("ZRANGE", CoordinatorKeys(COORDINATOR_ID).open, 1, LOOKS))
        names, discovery = [task_id.decode() for task_id in ids], AgentDiscoveryService(COORDINATOR_ID, source)
        healthy = Wanted(capabilities=(RARE,), min_health=0.9)
        return {
            "explain, nobody has it": await _timed(
                lambda number: explained(reader, COORDINATOR_ID, names[number], config)
            ),
            "explain, all are full": await _timed(lambda _: explained(reader, COORDINATOR_ID, busy_id, config)),
            "list": await _timed(lambda _: _list(reader)),
            "discovery": await _timed(lambda _: discovery.find(healthy, limit=LISTED)),
            "each agent": await _timed(lambda _: read_overview(reader, COORDINATOR_ID, config), LOOKS // 10),
            "counts": await _timed(lambda _: read_fleet_counts(reader, COORDINATOR_ID, config), LOOKS // 10),
            "status": await _timed(lambda _: _status(reader, config), LOOKS // 10),
        }


async def _status(reader: Reader, config: AgentConfig) -> None:
    """What `agents status` reads."""
    counts = await read_fleet_counts(reader, COORDINATOR_ID, config)
    await read_agents(reader, [agent.chain for agent in counts.to_look_at(SHOWN)], config)


async def _list(reader: Reader) -> None:
    listed = 0
    async with aclosing(newest_tasks(reader, COORDINATOR_ID)) as tasks:
        async for _ in tasks:
            listed += 1
            if listed == LISTED:
                return


async def _timed(look: Callable[[int], Awaitable[object]], looks: int = LOOKS) -> tuple[float, float, float]:
    took_ms, cpu_ms = [], []
    for number in range(looks):
        began_s, used_s = time.perf_counter(), time.process_time()
        await look(number)
        cpu_ms.append((time.process_time() - used_s) * 1000)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    cuts = quantiles(took_ms, n=100)
    return cuts[49], cuts[98], min(cpu_ms)


def _turn_us(tenants: int, waiting: int, repeats: int) -> float:
    """CPU of a task that is pushed and one that is popped, while so many of so many tenants wait."""
    moments = [NOW + timedelta(milliseconds=step) for step in range((waiting + TURNS) // A_STEP + 1)]
    tasks = [
        Task(task_id=f"t{number}", task_type="noop", tenant=f"tenant-{number % tenants}", created_at=moments[step])
        for number in range(waiting + TURNS)
        for step in (number // A_STEP,)
    ]
    return min(_one_turn_us(tasks, waiting) for _ in range(repeats))


def _one_turn_us(tasks: list[Task], waiting: int) -> float:
    queue, coming = DispatchQueue(), iter(tasks)
    for task in islice(coming, waiting):
        queue.push(task)
    queue.wake(int(NOW.timestamp() * 1000))
    began_s = time.process_time()
    for _ in range(0, TURNS, A_STEP):
        for task in islice(coming, A_STEP):
            queue.push(task)
        for _ in range(A_STEP):
            queue.pop(lambda _: True)
    return (time.process_time() - began_s) / TURNS * 1e6
