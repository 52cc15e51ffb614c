"""What HTTP costs: a gateway beside the client library, and beside the least that FastAPI can do, by turns."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psutil

from core import AgentClient, Task
from core.agent_run import RunOptions
from tests.bench.graphs import TRIVIAL
from tests.bench.noop import TASK_TYPE
from tests.bench.our_system import OurSystem
from tests.bench.parts import free_port, running
from tests.bench.workload import payload
from tests.redis_server import RedisServer
from tests.waiting import until_async

__all__ = ["gateway"]

BATCHES, BATCH = 10, 1_000
RUNS, WARM_UP_RUNS = 200, 20
CONNECTIONS, ASKING_S = 16, 3.0
STREAMS = 1_000


def gateway(repeats: int) -> dict[str, Any]:
    """By what is measured: the numbers of each repetition; the memory once."""

    def make(server: RedisServer) -> OurSystem:
        return OurSystem(server, handlers=("tests.bench.noop", "tests.bench.graphs"))

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for the streams; the gateway inherits it
    ours, bare = free_port(), free_port()
    with running(make) as (system, _):
        system.start("gateway", "-m", "core.gateway", "--id", "bench", "--port", f"{ours}")
        system.start("bare", "-m", "uvicorn", "tests.bench.bare_app:app", "--port", f"{bare}", "--no-access-log")
        return system.call(_measured(system, ours, bare, repeats))


async def _measured(system: OurSystem, ours: int, bare: int, repeats: int) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ours}", timeout=60) as http:
        await until_async(lambda: _answers(http), "the gateway answers", 60)
        found: dict[str, Any] = {"submitted": [], "runs": [], "requests": []}
        for _ in range(repeats):
            found["submitted"].append(await _submitted(system.client, http))
            found["runs"].append(await _runs(system.client, http))
            found["requests"].append({"gateway": await _asked(ours), "bare": await _asked(bare)})
        return found | {"streams_mb": await _streams_mb(http, ours, system.processes["gateway"])}


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/ok")).status_code == 200
    except httpx.TransportError:
        return False


async def _submitted(client: AgentClient, http: httpx.AsyncClient) -> dict[str, float]:
    """Tasks a second, in batches, by the library and over HTTP; all of them end before the next batch."""
    spent_s = {"library": 0.0, "http": 0.0}
    for _ in range(BATCHES):
        began_s = time.monotonic()
        ids = await client.submit_many.aio(
            [Task(task_type=TASK_TYPE, payload=payload(number)) for number in range(BATCH)]
        )
        spent_s["library"] += time.monotonic() - began_s
        await _ended(client, ids)
        began_s = time.monotonic()
        tasks = [{"task_type": TASK_TYPE, "payload": payload(number)} for number in range(BATCH)]
        answer = await http.post("/tasks/submit", json={"tasks": tasks})
        spent_s["http"] += time.monotonic() - began_s
        await _ended(client, answer.json()["task_ids"])
    return {name: BATCHES * BATCH / spent for name, spent in spent_s.items()}


async def _ended(client: AgentClient, ids: list[str]) -> None:
    assert len([task async for task in client.as_completed(ids, 60)]) == BATCH


async def _runs(client: AgentClient, http: httpx.AsyncClient) -> dict[str, float]:
    """How long a run of a trivial graph takes, from asking to its result; the median, ms."""

    async def by_library() -> None:
        task = Task(task_type=TRIVIAL, payload={"number": 1, "text": ""}, run=RunOptions(stream=["values"]))
        await client.result.aio(await client.submit.aio(task), 30)

    async def over_http() -> None:
        body = {"assistant_id": TRIVIAL, "input": {"number": 1, "text": ""}}
        (await http.post("/runs/wait", json=body)).raise_for_status()

    spent: dict[str, list[float]] = {"library": [], "http": []}
    for number in range(WARM_UP_RUNS + RUNS):
        for name, run in (("library", by_library), ("http", over_http)):
            ms = await _ms(run)
            if number >= WARM_UP_RUNS:
                spent[name].append(ms)
    return {name: statistics.median(each) for name, each in spent.items()}


async def _ms(run: Callable[[], Awaitable[None]]) -> float:
    began_s = time.monotonic()
    await run()
    return (time.monotonic() - began_s) * 1000


async def _asked(port: int) -> dict[str, float]:
    """Requests a second over some connections, and the 99th percentile of their times, ms."""
    spent_ms: list[float] = []
    until_s = time.monotonic() + ASKING_S

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            writer.write(b"GET /ok HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            spent_ms.append((time.monotonic() - began_s) * 1000)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return {"per_s": len(spent_ms) / ASKING_S, "p99_ms": statistics.quantiles(spent_ms, n=100)[98]}


async def _streams_mb(http: httpx.AsyncClient, port: int, process: psutil.Process) -> float:
    """What a thousand open streams of events add to the memory of a gateway, once each has told an event, MB."""
    before = process.memory_info().rss
    request = b"GET /events/stream?type=task_completed HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(STREAMS)]
    for _, writer in streams:
        writer.write(request)
    await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in streams))
    await asyncio.sleep(1)  # the headers are sent before each stream has its place
    await http.post("/tasks/submit", json={"task_type": TASK_TYPE, "payload": payload(1)})
    await asyncio.gather(*(reader.readuntil(b"task_completed") for reader, _ in streams))
    used = process.memory_info().rss - before
    for _, writer in streams:
        writer.close()
    return float(used / 1e6)
