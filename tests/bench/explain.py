"""What it costs to decide which task is next, and to say why one waits, with more and more of them open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from itertools import islice
from statistics import quantiles
from typing import Any

from core.config.settings import RedisConfig
from core.dispatch_queue import DispatchQueue
from core.operations.explain import explain as explained
from core.operations.overview import read_overview
from core.operations.reader import Reader, reading
from core.operations.task_records import newest_tasks
from core.redis_backend.keys import CoordinatorKeys
from core.tasks import Task
from tests.bench.our_system import BATCH, OurSystem
from tests.bench.parts import running
from tests.builders import NOW
from tests.redis_server import RedisServer

__all__ = ["explain"]

OPEN, TENANTS, LOOKS = (1_000, 10_000, 100_000), (1, 100, 10_000), 300
#: A type that no worker knows, and how many tasks a list shows.
NOBODYS, LISTED = "nobody-has-this", 20
COORDINATOR_ID = "coordinator-1"
TURNS, A_STEP = 20_000, 200


def explain(repeats: int) -> dict[str, Any]:
    """By the number of open tasks: p50 and p99 of each look, ms. By tenants and waiting tasks: µs of one task that
    comes and of one that goes, the least of the repetitions."""
    looks: dict[int, dict[str, tuple[float, float]]] = {}
    with running(OurSystem) as (system, server):
        for before, count in zip((0, *OPEN), OPEN, strict=False):
            for start in range(before, count, BATCH):
                system.leave(min(BATCH, count - start), NOBODYS)
            looks[count] = asyncio.run(_looks(server))
    turns = {tenants: {count: _turn_us(tenants, count, repeats) for count in OPEN} for tenants in TENANTS}
    return {"looks": looks, "turns": turns}


async def _looks(server: RedisServer) -> dict[str, tuple[float, float]]:
    redis = RedisConfig(url=server.url, password=server.password, mode="external")
    async with reading(redis) as reader:
        [ids] = await reader.run(("ZRANGE", CoordinatorKeys(COORDINATOR_ID).open, 0, LOOKS - 1))
        names = [task_id.decode() for task_id in ids]
        return {
            "explain": await _timed(lambda number: explained(reader, COORDINATOR_ID, names[number])),
            "list": await _timed(lambda _: _list(reader)),
            "status": await _timed(lambda _: read_overview(reader, COORDINATOR_ID)),
        }


async def _list(reader: Reader) -> None:
    listed = 0
    async with aclosing(newest_tasks(reader, COORDINATOR_ID)) as tasks:
        async for _ in tasks:
            listed += 1
            if listed == LISTED:
                return


async def _timed(look: Callable[[int], Awaitable[object]]) -> tuple[float, float]:
    took_ms = []
    for number in range(LOOKS):
        began_s = time.perf_counter()
        await look(number)
        took_ms.append((time.perf_counter() - began_s) * 1000)
    cuts = quantiles(took_ms, n=100)
    return cuts[49], cuts[98]


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
