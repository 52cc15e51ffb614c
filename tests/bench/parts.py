"""The four questions: how many a second, how long does one take, what does nothing cost, what does a backlog cost."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from core.redis_backend.keys import CoordinatorKeys
from tests.bench.dramatiq_system import Dramatiq
from tests.bench.measure import Cost, commands_by_role, measured
from tests.bench.our_system import BATCH, OurSystem
from tests.bench.processes import memory_mb
from tests.bench.workload import System
from tests.redis_server import RedisServer, bundled_server

__all__ = ["backlog", "free_port", "idle", "latency", "throughput"]

S = TypeVar("S", bound=System)

WARM_UP_TASKS = 500
LATENCY_TASKS = 500
IDLE_S = 10
BACKLOG_WARM_UP_BATCHES = 3
BACKLOG_BATCHES = 10
BACKLOGS = (1_000, 10_000, 50_000)

SYSTEMS: tuple[Callable[[RedisServer], System], ...] = (Dramatiq, OurSystem)


@contextmanager
def running(make: Callable[[RedisServer], S], port: int = 0) -> Iterator[tuple[S, RedisServer]]:
    """A system on an empty server of its own, with the persistence that the product has by default.

    They meet on a Unix socket, which suits the peer best: over TCP it is a sixth slower.
    """
    with RedisServer(bundled_server(), append_only=True, port=port) as server, closing(make(server)) as system:
        yield system, server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def throughput(tasks: int, repeats: int) -> list[Cost]:
    """Each system by turns, so that what else the machine does meets both."""
    costs = []
    for _ in range(repeats):
        for make in SYSTEMS:
            with running(make) as (system, server):
                system.run(WARM_UP_TASKS)
                with measured(system, server, tasks) as cost:
                    system.run(tasks)
                costs.append(cost)
    return costs


def latency(repeats: int) -> list[dict[str, Any]]:
    """One task at a time: from before it is submitted until its result is verified."""
    found = []
    for _ in range(repeats):
        for make in SYSTEMS:
            with running(make) as (system, _):
                system.run(WARM_UP_TASKS)
                took_ms = sorted(_timed_ms(system) for _ in range(LATENCY_TASKS))
            cuts = statistics.quantiles(took_ms, n=100)
            found.append({"system": system.name, "tasks": LATENCY_TASKS, "p50_ms": cuts[49], "p99_ms": cuts[98]})
    return found


def _timed_ms(system: System) -> float:
    began = time.perf_counter()
    system.run(1)
    return (time.perf_counter() - began) * 1000


def idle() -> dict[str, Any]:
    """Ten seconds in which nobody wants anything, after the system has worked: commands and CPU by process, memory."""
    with running(OurSystem, free_port()) as (system, server):  # TCP, since only ports tell connections apart
        system.run(WARM_UP_TASKS)
        before = commands_by_role(system, server)
        with measured(system, server, 1) as cost:
            time.sleep(IDLE_S)
        after = commands_by_role(system, server)
        return {
            "seconds": IDLE_S,
            "commands_per_s": {role: (after[role] - before[role]) / IDLE_S for role in after},
            "cpu_percent": {role: used / 1e4 / IDLE_S for role, used in cost.cpu_us_per_task.items()},
            "memory_mb": {role: memory_mb(process) for role, process in system.processes.items()},
        }


def backlog(repeats: int) -> list[dict[str, Any]]:
    """What a task costs, from submission to result, with so many open when the measuring begins."""
    return [{"open": size, **asdict(_with_backlog(size))} for _ in range(repeats) for size in BACKLOGS]


def ended(server: RedisServer) -> int:
    """Tasks that the coordinator has recorded as ended so far."""
    with server.connect() as client:
        return int(client.zcard(CoordinatorKeys("coordinator-1").ended))


def _with_backlog(size: int) -> Cost:
    with running(lambda server: OurSystem(server, workers=False)) as (system, server):
        system.fill(size // BATCH + 1)
        system.start_workers()
        system.turn_over(BACKLOG_WARM_UP_BATCHES)
        before = ended(server)
        with measured(system, server, BACKLOG_BATCHES * BATCH) as cost:
            system.turn_over(BACKLOG_BATCHES)
            cost.tasks = ended(server) - before  # the hierarchy works ahead of the client that collects
        return cost
