"""What events cost through an agent stream, beside redis-py's own commands for as many bytes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import redis

from core.agent_event import AgentEvent
from core.config.settings import RedisConfig
from core.event_types import EventType
from core.events import AgentCoordinator
from tests.bench.processes import cpu_s, memory_mb
from tests.redis_server import RedisServer, bundled_server

__all__ = ["events"]

STREAM, BATCH = "agent_events", 10_000
#: As our coordinator has them.
IN_ONE_WRITE, READ_AT_ONCE = 500, 256
MAX_LENGTH = 100_000
SESSIONS = 100
BARE_BATCH = BATCH // 10
BARE_BODY: Any = {"event": b"x" * 560, "sig": b"x" * 73}


def events(count: int) -> dict[str, Any]:
    """`count` events through a bounded agent stream, published and acknowledged by one process, and redis-py with a
    tenth of that by turns, so that what else the machine does meets both."""
    with RedisServer(bundled_server(), append_only=True) as server:
        config = RedisConfig(url=server.url, password=server.password, mode="external")
        return {"events": count, **asyncio.run(_by_turns(config, server, count))}


async def _by_turns(config: RedisConfig, server: RedisServer, count: int) -> dict[str, Any]:
    ours, bare = Counter[str](), Counter[str]()
    memory = []
    client = server.connect()
    at_server = psutil.Process(server.pid)
    async with AgentCoordinator(config, STREAM, "bench", max_length=MAX_LENGTH, secret="of the benchmark") as stream:
        for first in range(0, count, BATCH):
            batch = [_event(number) for number in range(first, min(count, first + BATCH))]
            await _turn(stream, batch, at_server, ours)
            _bare_turn(client, at_server, bare)
            memory.append((memory_mb(psutil.Process()), memory_mb(at_server)))
    client.close()
    early = memory[min(len(memory) - 1, 2 * MAX_LENGTH // BATCH)]  # the stream has had its length for a while
    return {
        "stream": _rates(ours),
        "bare": _rates(bare),
        "memory_mb": {"client": (early[0], memory[-1][0]), "server": (early[1], memory[-1][1])},
    }


def _rates(took: Counter[str]) -> dict[str, float]:
    """Events per second, and the CPU time of an event in both processes, in µs."""
    rates = {f"{what}_per_s": took["events"] / (took[what] / 1e6) for what in ("published", "handled")}
    return rates | {f"{what}_cpu_us": took[f"{what}_cpu"] / took["events"] for what in ("published", "handled")}


def _event(number: int) -> AgentEvent:
    data = {"tool_name": "search", "result": {"hits": number, "text": "to be or not to be"}, "execution_time_ms": 1.5}
    return AgentEvent(EventType.TOOL_RESULT, data=data, session_id=f"session-{number % SESSIONS}")


async def _turn(stream: AgentCoordinator, batch: list[AgentEvent], server: psutil.Process, took: Counter[str]) -> None:
    with _timed(took, "published", server):
        await stream.publish_many(batch)
    with _timed(took, "handled", server):
        async for _ in stream.subscribe(max_events=len(batch)):
            pass
    took["events"] += len(batch)


def _bare_turn(client: redis.Redis, server: psutil.Process, took: Counter[str]) -> None:
    """Pipelines of XADD, then XREADGROUP and one XACK for what it gave: nothing is checked or signed."""
    client.xgroup_create("bare", "g", mkstream=True)
    with _timed(took, "published", server):
        for _ in range(BARE_BATCH // IN_ONE_WRITE):
            pipeline = client.pipeline(transaction=False)
            for _ in range(IN_ONE_WRITE):
                pipeline.xadd("bare", BARE_BODY)
            pipeline.execute()
    with _timed(took, "handled", server):
        while read := _read_bare(client):
            client.xack("bare", "g", *read)
    took["events"] += BARE_BATCH
    client.delete("bare")


@contextmanager
def _timed(took: Counter[str], what: str, server: psutil.Process) -> Iterator[None]:
    """Adds the µs that it takes, and the CPU time of this process and the server."""
    began, spent_s = time.perf_counter(), time.process_time() + cpu_s(server)
    yield
    took[what] += int((time.perf_counter() - began) * 1e6)
    took[f"{what}_cpu"] += int((time.process_time() + cpu_s(server) - spent_s) * 1e6)


def _read_bare(client: redis.Redis) -> list[bytes]:
    reply: Any = client.xreadgroup("g", "c", {"bare": ">"}, count=READ_AT_ONCE)
    return [msg_id for msg_id, _ in reply[0][1]] if reply else []
