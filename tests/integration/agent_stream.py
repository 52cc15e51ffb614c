"""What tests of the agent stream publish, and how they read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis.asyncio

from core.agent_event import AgentEvent
from core.event_types import EventType
from core.events import AgentCoordinator
from core.events.stream_entry import ReceivedEvent

__all__ = ["STREAM", "Make", "blocked", "custom", "numbers", "pending", "publish", "read"]

Make = Callable[..., AgentCoordinator]
STREAM = "agent_events"


def custom(session_id: str | None = None, **data: Any) -> AgentEvent:
    return AgentEvent(EventType.CUSTOM, data=data, session_id=session_id)


async def publish(coordinator: AgentCoordinator, count: int) -> list[str]:
    return await coordinator.publish_many(custom(n=number) for number in range(count))


async def read(coordinator: AgentCoordinator, most: int = 10_000, **options: Any) -> list[ReceivedEvent]:
    """What is there now."""
    return [event async for event in coordinator.subscribe(timeout_ms=0, max_events=most, **options)]


def numbers(events: list[ReceivedEvent]) -> list[int]:
    return [event["n"] for event in events]


async def pending(client: redis.asyncio.Redis, group: str = "g") -> int:
    found = await client.xpending(STREAM, group)
    return int(found["pending"])


async def blocked(client: redis.asyncio.Redis) -> bool:
    return bool((await client.info("clients"))["blocked_clients"])
