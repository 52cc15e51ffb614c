"""What events cost through an agent stream, beside redis-py's own commands for as many bytes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psutil
import redis

from core.agent_event import AgentEvent
from core.config.settings import RedisConfig
from core.event_types import EventType
from core.events import AgentCoordinator
from tests.bench.processes import memory_mb
from tests.redis_server import RedisServer, bundled_server

__all__ = ["events"]

STREAM, BATCH = "agent_events", 10_000
#: As our coordinator has them.
IN_ONE_WRITE, READ_AT_ONCE = 500, 256
MAX_LENGTH = 100_000
SESSIONS = 100


def events(count: int) -> dict[str, Any]:
    """`count` events through a bounded agent stream, published and acknowledged by one process."""
    with RedisServer(bundled_server(), append_only=True) as server:
        config = RedisConfig(url=server.url, password=server.password, mode="external")
        return {
            "events": count,
            "bare": _bare(server, min(count, MAX_LENGTH)),
            "stream": asyncio.run(_through_a_stream(config, server, count)),
        }


def _event(number: int) -> AgentEvent:
    data = {"tool_name": "search", "result": {"hits": number, "text": "to be or not to be"}, "execution_time_ms": 1.5}
    return AgentEvent(EventType.TOOL_RESULT, data=data, session_id=f"session-{number % SESSIONS}")


async def _through_a_stream(config: RedisConfig, server: RedisServer, count: int) -> dict[str, Any]:
    took_s = {"published": 0.0, "handled": 0.0}
    memory = []
    async with AgentCoordinator(config, STREAM, "bench", max_length=MAX_LENGTH, secret="of the benchmark") as stream:
        for first in range(0, count, BATCH):
            batch = [_event(number) for number in range(first, min(count, first + BATCH))]
            began = time.perf_counter()
            await stream.publish_many(batch)
            took_s["published"] += time.perf_counter() - began
            began = time.perf_counter()
            async for _ in stream.subscribe(max_events=len(batch)):
                pass
            took_s["handled"] += time.perf_counter() - began
            memory.append((memory_mb(psutil.Process()), memory_mb(psutil.Process(server.pid))))
        info = await stream.get_stream_info()
    early = memory[min(len(memory) - 1, 2 * MAX_LENGTH // BATCH)]  # the stream has had its length for a while
    return {
        **{f"{what}_per_s": count / seconds for what, seconds in took_s.items()},
        "length": info["length"],
        "memory_mb": {"client": (early[0], memory[-1][0]), "server": (early[1], memory[-1][1])},
    }


def _bare(server: RedisServer, count: int) -> dict[str, float]:
    """redis-py alone: pipelines of XADD, then XREADGROUP and one XACK for what it gave. Nothing is signed."""
    body = {"event": b"x" * 560, "sig": b"x" * 73}
    with server.connect() as client:
        client.xgroup_create("bare", "g", mkstream=True)
        began = time.perf_counter()
        for _ in range(0, count, IN_ONE_WRITE):
            pipeline = client.pipeline(transaction=False)
            for _ in range(IN_ONE_WRITE):
                pipeline.xadd("bare", body)
            pipeline.execute()
        published_s = time.perf_counter() - began
        began = time.perf_counter()
        while read := _read_bare(client):
            client.xack("bare", "g", *read)
        read_s = time.perf_counter() - began
        client.delete("bare")
    return {"published_per_s": count / published_s, "handled_per_s": count / read_s}


def _read_bare(client: redis.Redis) -> list[bytes]:
    reply: Any = client.xreadgroup("g", "c", {"bare": ">"}, count=READ_AT_ONCE)
    return [msg_id for msg_id, _ in reply[0][1]] if reply else []
