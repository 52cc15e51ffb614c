"""What a run of a LangGraph graph costs in the hierarchy, beside LangGraph alone in one process, by turns."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.agent_run import RunOptions
from tests.bench import graphs
from tests.bench.measure import measured
from tests.bench.our_system import OurSystem
from tests.bench.parts import running
from tests.bench.processes import shared_memory_mb
from tests.bench.workload import check, payload
from tests.redis_server import RedisServer

__all__ = ["agents"]

RUNS, WARM_UP_RUNS = 1_000, 100
WAITING = (200, 2_000)
#: A worker's runs at once: enough for all that wait.
AT_ONCE = 1_000
STREAMS = 20
SAMPLE_S = 0.25


def agents(repeats: int) -> dict[str, Any]:
    """By part: the numbers of each system, one for each repetition."""
    found: dict[str, Any] = {"trivial": [], "waiting": [], "first_chunk": []}
    for _ in range(repeats):
        found["trivial"] += [_trivial_alone(at_once=1), _trivial_alone(at_once=RUNS), _trivial()]
        found["waiting"] += [each for count in WAITING for each in (_waiting_alone(count), _waiting(count))]
        found["first_chunk"] += [_first_chunk_alone(), _first_chunk()]
    return found


def _ours(task_type: str) -> Any:
    def make(server: RedisServer) -> OurSystem:
        return OurSystem(server, handlers=("tests.bench.graphs",), task_type=task_type, agent_concurrency=AT_ONCE)

    return running(make)


def _trivial() -> dict[str, Any]:
    with _ours(graphs.TRIVIAL) as (system, server):
        system.run(WARM_UP_RUNS)
        with measured(system, server, RUNS) as cost:
            system.run(RUNS)
    cpu_ms = cost.cpu_us_per_task_total / 1000
    return {
        "system": system.name, "runs_per_s": cost.tasks_per_s, "cpu_ms": cpu_ms, "commands": cost.commands_per_task,
        "cpu_ms_by_role": {role: us / 1000 for role, us in cost.cpu_us_per_task.items()},
    }  # fmt: skip


def _trivial_alone(at_once: int) -> dict[str, Any]:
    """One run after the other is the least that LangGraph takes: with all at once, as many as a worker may have, the
    garbage collector of Python looks through all of them again and again."""
    asyncio.run(_run_alone(graphs.TRIVIAL, WARM_UP_RUNS, at_once))
    cpu_s, began_s = time.process_time(), time.perf_counter()
    asyncio.run(_run_alone(graphs.TRIVIAL, RUNS, at_once))
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    name = "LangGraph" if at_once > 1 else "LangGraph, one run after the other"
    return {"system": name, "runs_per_s": RUNS / took_s, "cpu_ms": cpu_s * 1000 / RUNS, "commands": 0.0}


async def _run_alone(task_type: str, count: int, at_once: int) -> None:
    compiled, states = graphs.graph(task_type).compile(), []
    for first in range(0, count, at_once):
        numbers = range(first, min(first + at_once, count))
        states += await asyncio.gather(*(compiled.ainvoke(payload(number)) for number in numbers))
    check([state["number"] for state in states], count)


def _waiting(count: int) -> dict[str, Any]:
    with _ours(graphs.WAITS) as (system, _):
        system.run(WARM_UP_RUNS)
        with _most_memory_mb(system) as memory_mb:
            began_s = time.perf_counter()
            system.run(count)
            took_s = time.perf_counter() - began_s
    return {"system": system.name, "runs": count, "took_s": took_s, "memory_mb": max(memory_mb) - memory_mb[0]}


def _waiting_alone(count: int) -> dict[str, Any]:
    began_s = time.perf_counter()
    asyncio.run(_run_alone(graphs.WAITS, count, at_once=count))
    return {"system": "LangGraph", "runs": count, "took_s": time.perf_counter() - began_s, "memory_mb": None}


@contextmanager
def _most_memory_mb(system: OurSystem) -> Iterator[list[float]]:
    """What all processes have taken, first before the block, then again and again while it runs."""
    found = [_memory_mb(system)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            found.append(_memory_mb(system))

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield found
    finally:
        over.set()
        sampling.join()


def _memory_mb(system: OurSystem) -> float:
    return sum(map(shared_memory_mb, system.processes.values()))


def _first_chunk() -> dict[str, Any]:
    with _ours(graphs.TELLS) as (system, _):
        system.run(WARM_UP_RUNS)
        took_ms = system.first_chunks_ms(STREAMS, RunOptions(stream=["custom"]))
    return {"system": system.name, **_of(took_ms)}


def _first_chunk_alone() -> dict[str, Any]:
    return {"system": "LangGraph", **_of(asyncio.run(_first_chunks_alone()))}


async def _first_chunks_alone() -> list[float]:
    compiled, took_ms = graphs.graph(graphs.TELLS).compile(), []
    for number in range(STREAMS):
        async for chunk in compiled.astream(payload(number), stream_mode="custom"):
            took_ms.append((time.time() - chunk["at_s"]) * 1000)
    return took_ms


def _of(took_ms: list[float]) -> dict[str, float]:
    return {"streams": len(took_ms), "p50_ms": statistics.median(took_ms), "max_ms": max(took_ms)}
