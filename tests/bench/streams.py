"""Two hundred runs that each tell fifty chunks a second to a client that follows them, beside a steady load of no-op
tasks: what the tasks notice of it, and how old a chunk is when the client has it.

By turns: the tasks alone; beside the same runs while nobody wants to hear what they tell; and beside streams. How much
streams slow tasks down is the ratio of the last two, since the runs take the processors for what their nodes do whether
or not they are heard. The first chunk counts from when its node gives it until an AgentClient in another process hands
it out. What LangGraph takes for the same chunks in one process is measured as well.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, Literal

import orjson

from core import Task
from tests.bench import graphs
from tests.bench.followers import SPEAKING
from tests.bench.measure import measured
from tests.bench.noop import TASK_TYPE
from tests.bench.our_system import OurSystem
from tests.bench.parts import running
from tests.bench.workload import payload
from tests.redis_server import RedisServer
from tests.waiting import until

__all__ = ["streams"]

RUNS = 200
#: Tasks that are submitted together, and seconds between two such batches.
BATCH, INTERVAL_S = 20, 0.1
#: Seconds of a measurement; less than runs speak.
MEASURE_S = 8.0
WARM_UP_TASKS = 500
#: Runs at once in a worker.
AT_ONCE = 200
FOLLOWERS = "followers"


def streams(repeats: int) -> dict[str, list[dict[str, Any]]]:
    """By what was beside them: what the tasks took, for each repetition; and what was told of the streams."""
    found: dict[str, list[dict[str, Any]]] = {"alone": [], "deaf": [], "streams": [], "langgraph": []}
    found["langgraph"] = [{"cpu_us": _langgraph_us("custom") - _langgraph_us("values")} for _ in range(repeats)]
    with running(_system) as (system, server):
        system.run(WARM_UP_TASKS)
        _beside(system, server, "--deaf")  # warms the hosts up
        for _ in range(repeats):
            found["alone"].append(_load(system, server))
            found["deaf"].append(_beside(system, server, "--deaf"))
            found["streams"].append(_beside(system, server))
    return found


def _system(server: RedisServer) -> OurSystem:
    modules = (graphs.__name__, "tests.bench.noop")
    return OurSystem(server, handlers=modules, task_type=TASK_TYPE, agent_concurrency=AT_ONCE)


def _beside(system: OurSystem, server: RedisServer, *arguments: str) -> dict[str, Any]:
    """The load beside runs that speak, and what the client of those runs tells at their end. The CPU for each chunk is
    that of the whole time, since a busy machine is behind with them during the load."""
    with measured(system, server, RUNS * graphs.CHUNKS) as cost:
        system.start(FOLLOWERS, "-m", "tests.bench.followers", str(RUNS), *arguments)
        log = server.directory / f"{FOLLOWERS}.log"
        until(lambda: SPEAKING in log.read_text(), "all runs speak", timeout_s=60)
        found = _load(system, server)
        until(lambda: FOLLOWERS not in system.processes, "all runs have ended", timeout_s=60)
    told, *_, said = log.read_text().splitlines()
    if told != SPEAKING:  # where it fails, it says why
        raise AssertionError(f"the followers failed:\n{log.read_text()}")
    heard = orjson.loads(said)
    return found | {
        "missing": heard["missing"],
        "cpu_us_per_chunk": cost.cpu_us_per_task | {FOLLOWERS: heard["cpu_s"] * 1e6 / cost.tasks},
        "first": _of(heard["first_ms"]),
        "all": _of(heard["all_ms"]),
    }


def _load(system: OurSystem, server: RedisServer) -> dict[str, Any]:
    """What the tasks of a steady load take, and all processes meanwhile."""
    batches = round(MEASURE_S / INTERVAL_S)
    with measured(system, server, batches * BATCH) as cost:
        took_ms = system.call(_steady(system, batches))
    return {
        "tasks_per_s": cost.tasks_per_s,
        "cpu_percent": {role: us * cost.tasks_per_s / 1e4 for role, us in cost.cpu_us_per_task.items()},
        "commands_per_s": cost.commands_per_task * cost.tasks_per_s,
        **_of(took_ms),
    }


async def _steady(system: OurSystem, batches: int) -> list[float]:
    """Milliseconds from when a task is submitted until its result is here. The next batch comes when it is due, whether
    or not others have ended."""
    took_ms: list[float] = []

    async def one_batch() -> None:
        began_s = time.perf_counter()
        tasks = [Task(task_type=TASK_TYPE, payload=payload(number)) for number in range(BATCH)]
        ids = await system.client.submit_many.aio(tasks)
        async for task in system.client.as_completed(ids, timeout_s=60):
            if task.status != "completed":
                raise AssertionError(f"{task.task_id} {task.status}: {task.error}")
            took_ms.append((time.perf_counter() - began_s) * 1000)

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(batches):
            await asyncio.sleep(began_s + number * INTERVAL_S - loop.time())
            group.create_task(one_batch())
    return took_ms


def _langgraph_us(mode: Literal["custom", "values"]) -> float:
    """Microseconds of CPU for each chunk that such runs tell, of LangGraph alone in this process."""
    began_s = time.process_time()
    asyncio.run(_follow_alone(mode))
    return (time.process_time() - began_s) * 1e6 / (RUNS * graphs.CHUNKS)


async def _follow_alone(mode: Literal["custom", "values"]) -> None:
    compiled = graphs.graph(graphs.SPEAKS).compile()

    async def follow(number: int) -> None:
        async for _ in compiled.astream(payload(number), stream_mode=mode):
            pass

    await asyncio.gather(*(follow(number) for number in range(RUNS)))


def _of(took_ms: list[float]) -> dict[str, float]:
    if not took_ms:
        return {}
    cuts = statistics.quantiles(took_ms, n=100)
    return {"count": len(took_ms), "p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(took_ms)}
