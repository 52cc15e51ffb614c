"""The events of a hierarchy, as a client reads them: over a connection of its own, which lives as long as somebody
iterates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from core.agent_event import AgentEvent
from core.client.server import Server
from core.operations.event_feed import EventFeed, Position, Wanted
from core.roles import Address

__all__ = ["hierarchy_events"]


async def hierarchy_events(
    reached: Callable[[], Awaitable[Server]],
    coordinator: Address,
    begin: Position | None,
    wanted: Wanted,
) -> AsyncGenerator[AgentEvent, None]:
    """As `EventFeed.events`, live. `reached` opens the client, and tells where its hierarchy is."""
    server = await reached()
    seals = server.seals_of_agents(coordinator)
    feed = EventFeed(lambda: server.connection(let_in=True), coordinator.agent_id, seals)
    async with aclosing(feed.events(begin, wanted, live=True)) as events:
        async for event in events:
            yield event
