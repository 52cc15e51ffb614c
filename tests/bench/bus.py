"""What an event costs on its way through the bus, beside what asyncio alone takes to do as much."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from core.agent_event import AgentEvent
from core.event_types import EventType
from core.events.bus import EventBus

__all__ = ["bus_costs"]

SUBSCRIPTIONS = 10
EVENTS_OF_A_ROUND = 100
ROUNDS = 100

Events = list[AgentEvent]


def bus_costs(repeats: int) -> list[dict[str, Any]]:
    """CPU time for an event, in µs. All by turns, so that what else the machine does meets all."""
    return asyncio.run(_bus_costs(repeats))


async def _bus_costs(repeats: int) -> list[dict[str, Any]]:
    rounds = _Rounds()
    runs: dict[str, Callable[[Events], Awaitable[None]]] = {
        "one handler: asyncio.create_task, awaited": rounds.in_tasks,
        "one handler: await publish": rounds.published,
        "ten handlers: asyncio.gather": rounds.gathered,
        "ten handlers: await publish": rounds.published_to_ten,
        "ten queues: asyncio.Queue.put_nowait": rounds.put_nowait,
        "ten queues: publish_nowait": rounds.published_nowait,
        "ten queues: and their handlers": rounds.handled,
    }
    spent: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(ROUNDS * repeats):
        events = [AgentEvent(EventType.CUSTOM, "stream", data={"number": 1}) for _ in range(EVENTS_OF_A_ROUND)]
        for what, run in runs.items():
            spent[what].append(await _cpu_us(run, events))
    return [{"what": what, "us": statistics.median(us), "least_us": min(us)} for what, us in spent.items()]


class _Rounds:
    """What is measured: each sends all events its way."""

    def __init__(self) -> None:
        self.one, self.ten = _bus_with(1), _bus_with(SUBSCRIPTIONS)
        self.queues: list[asyncio.Queue[AgentEvent]] = [asyncio.Queue() for _ in range(SUBSCRIPTIONS)]

    async def in_tasks(self, events: Events) -> None:
        for event in events:
            await asyncio.create_task(_handler(event))

    async def published(self, events: Events) -> None:
        for event in events:
            await self.one.publish(event)

    async def gathered(self, events: Events) -> None:
        for event in events:
            await asyncio.gather(*(_handler(event) for _ in range(SUBSCRIPTIONS)))

    async def published_to_ten(self, events: Events) -> None:
        for event in events:
            await self.ten.publish(event)

    async def put_nowait(self, events: Events) -> None:
        for event in events:
            for queue in self.queues:
                queue.put_nowait(event)

    async def published_nowait(self, events: Events) -> None:
        for event in events:
            self.ten.publish_nowait(event)

    async def handled(self, events: Events) -> None:
        """Those of the round before: the handlers run in order, so all have been called before the last one is."""
        await self.ten.publish(events[-1])


async def _cpu_us(run: Callable[[Events], Awaitable[None]], events: Events) -> float:
    began = time.thread_time()
    await run(events)
    return (time.thread_time() - began) * 1e6 / len(events)


def _bus_with(subscriptions: int) -> EventBus:
    bus = EventBus()
    for _ in range(subscriptions):
        bus.subscribe([EventType.CUSTOM], _handler)
    return bus


async def _handler(event: AgentEvent) -> None:
    """What remains when a handler does nothing."""
