"""What it costs that a hierarchy tells: at each level beside off, in alternating pairs."""

from __future__ import annotations

from typing import Any

from core.event_types import EventLevel
from tests.bench.measure import Cost, measured
from tests.bench.our_system import OurSystem
from tests.bench.parts import WARM_UP_TASKS, running
from tests.bench.telling import EMITS, GRAPH
from tests.redis_server import RedisServer

__all__ = ["levels"]

#: By handler: how many times fewer tasks than no-op ones are measured.
HANDLERS = {EMITS: 2, GRAPH: 10}
LEVELS = (EventLevel.TASKS, EventLevel.ALL)


def levels(tasks: int, repeats: int) -> list[dict[str, Any]]:
    """For each handler that tells, and each level: the ratios to level off, one for each pair."""
    return [
        {"handler": handler, "level": level.value, **_beside_off(handler, level, tasks // share, repeats)}
        for handler, share in HANDLERS.items()
        for level in LEVELS
    ]


def _beside_off(handler: str, level: EventLevel, tasks: int, pairs: int) -> dict[str, list[float]]:
    rates, cpu = [], []
    for number in range(pairs):
        order = (level, EventLevel.OFF) if number % 2 else (EventLevel.OFF, level)
        cost = {one: _cost(handler, one, tasks) for one in order}
        rates.append(cost[level].tasks_per_s / cost[EventLevel.OFF].tasks_per_s)
        cpu.append(cost[level].cpu_us_per_task_total / cost[EventLevel.OFF].cpu_us_per_task_total)
    return {"rates": rates, "cpu": cpu}


def _cost(handler: str, level: EventLevel, tasks: int) -> Cost:
    def make(server: RedisServer) -> OurSystem:
        return OurSystem(server, handlers=("tests.bench.telling",), task_type=handler, level=level)

    with running(make) as (system, server):
        system.run(WARM_UP_TASKS)
        with measured(system, server, tasks) as cost:
            system.run(tasks)
        return cost
