"""What it costs to be seen: traces and metrics beside neither, in alternating pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.bench.measure import Cost, measured
from tests.bench.our_system import OurSystem
from tests.bench.parts import WARM_UP_TASKS, running
from tests.redis_server import RedisServer

__all__ = ["sight"]

#: How much is traced, and the variables for it. The exporter writes to the logs.
TRACED: dict[str, Mapping[str, str]] = {
    "metrics alone": {},
    "metrics, and traces as they are": {"OTEL_TRACES_EXPORTER": "console"},
    "metrics, and each task traced": {"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": "always_on"},
}


def sight(tasks: int, repeats: int) -> list[dict[str, Any]]:
    """For each way to look, the ratios to none, one for each pair."""
    return [{"looking": name, **_beside_none(observed, tasks, repeats)} for name, observed in TRACED.items()]


def _beside_none(observed: Mapping[str, str], tasks: int, pairs: int) -> dict[str, list[float]]:
    """Both hierarchies are there all the time, so that one pair takes seconds, and other load meets both."""
    rates, cpu = [], []
    with running(OurSystem) as unseen, running(lambda server: OurSystem(server, observed=observed)) as seen:
        for system, _ in (unseen, seen):
            system.run(WARM_UP_TASKS)
        for number in range(pairs):
            costs = {way is seen: _cost(*way, tasks) for way in ((seen, unseen) if number % 2 else (unseen, seen))}
            rates.append(costs[True].tasks_per_s / costs[False].tasks_per_s)
            cpu.append(costs[True].cpu_us_per_task_total / costs[False].cpu_us_per_task_total)
    return {"rates": rates, "cpu": cpu}


def _cost(system: OurSystem, server: RedisServer, tasks: int) -> Cost:
    with measured(system, server, tasks) as cost:
        system.run(tasks)
    return cost
