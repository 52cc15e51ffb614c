"""The events of a hierarchy, as a client reads them: over a connection of its own, which lives as long as somebody
iterates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from core.agent_event import AgentEvent
from core.config.settings import A2ASecrets, RedisConfig
from core.operations.event_feed import EventFeed, Position, Wanted
from core.redis_client import Wire
from core.wiring import seals_of_agents

__all__ = ["hierarchy_events"]


async def hierarchy_events(
    reached: Callable[[], Awaitable[RedisConfig]],
    a2a: A2ASecrets,
    coordinator_id: str,
    begin: Position | None,
    wanted: Wanted,
) -> AsyncGenerator[AgentEvent, None]:
    """As `EventFeed.events`, live. `reached` opens the client, and tells where its Redis is."""
    redis = await reached()
    feed = EventFeed(lambda: Wire(redis, let_in=True), coordinator_id, seals_of_agents(coordinator_id, a2a, redis))
    async with aclosing(feed.events(begin, wanted, live=True)) as events:
        async for event in events:
            yield event
