"""Carries events between the bus of a process and an agent stream, both ways, and none in a circle."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from contextlib import aclosing, suppress
from typing import Self

from core.agent_event import AgentEvent
from core.errors import BadEvent, WorldError
from core.event_types import EventType, event_type
from core.events.agent_stream import AgentCoordinator
from core.events.bus import EventBus

__all__ = ["StreamBridge"]

log = logging.getLogger(__name__)

#: How many events travel to the stream together.
BATCH = 500
#: How many of the events that were carried last are known by their ids.
REMEMBERED = 65_536
#: The pause after the stream could not be written, and how long closing waits for what is still to be sent.
PAUSE_S, LAST_S = 0.5, 5.0


class StreamBridge:
    """Whoever subscribes to `bus` hears what others publish to the stream, and they hear what is published on the bus:

        async with EventBus() as bus, AgentCoordinator(consumer_group="process-7") as coordinator:
            async with StreamBridge(bus, coordinator):
                ...

    An event that a bridge has carried, either way, it does not carry again, wherever that comes from. So nothing goes
    in a circle, and what the stream hands out twice comes to the bus once. To hear everything, each process needs a
    group of its own; a coordinator without a group hears what is published from now on.

    An event of the stream is acknowledged when the handlers on the bus have run. An event of the bus is sent in a
    moment, with others; nobody on the bus waits for it. While Redis is away, or the stream is full, the latest
    `max_queue` events wait. It belongs to the event loop of the bus."""

    def __init__(
        self,
        bus: EventBus,
        coordinator: AgentCoordinator,
        *,
        to_stream: Iterable[str] | None = None,
        to_bus: Iterable[str] | None = None,
        max_queue: int = 10_000,
    ) -> None:
        """`to_stream`, `to_bus`: the types that are carried there; None: all, and empty: nothing."""
        if max_queue < 1:
            raise ValueError("max_queue has to be 1 or more")
        self._bus = bus
        self._coordinator = coordinator
        self._to_stream, self._to_bus = _types(to_stream), _types(to_bus)
        self._max_queue = max_queue
        self._waiting: deque[AgentEvent] = deque()  # to be sent
        self._news, self._all_sent = asyncio.Event(), asyncio.Event()
        self._all_sent.set()
        self._heard, self._heard_one = 0, asyncio.Event()  # how many events the bus has handed over
        self._carried: dict[str, None] = {}  # ids of events, in the order in which they were carried
        self._tasks: list[asyncio.Task[None]] = []
        self._subscription = ""
        self.dropped = 0  #: events of the bus that had to make room for later ones

    async def __aenter__(self) -> Self:
        await self._coordinator.initialize()
        if self._to_bus != frozenset():
            after = None if self._coordinator.consumer_group else await self._coordinator.last_id()
            self._tasks.append(asyncio.create_task(self._receive(after), name="stream to bus"))
        if self._to_stream != frozenset():
            self._tasks.append(asyncio.create_task(self._send(), name="bus to stream"))
            self._subscription = self._bus.subscribe(self._to_stream, self._on_event, max_queue=self._max_queue)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Sends what was published so far, within five seconds, and ends. Raises what has ended one of the ways."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self._until_sent()
        self._bus.unsubscribe(self._subscription)
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    @property
    def queued(self) -> int:
        """How many events of the bus wait to be sent; not those that are on their way."""
        return len(self._waiting)

    # ---- from the bus to the stream ----

    async def _on_event(self, event: AgentEvent) -> None:
        self._heard += 1
        self._heard_one.set()
        if not self._is_new(event):
            return
        self._waiting.append(event)
        self._news.set()
        self._all_sent.clear()
        self._make_room()

    async def _send(self) -> None:
        while True:
            await self._news.wait()
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if not batch:
                self._news.clear()
                self._all_sent.set()
                continue
            try:
                await self._publish(batch)
            except WorldError as error:
                log.warning("events wait for the agent stream: %s", error, extra={"action": "bridge_waits"})
                self._waiting.extendleft(reversed(batch))
                self._make_room()
                await asyncio.sleep(PAUSE_S)

    async def _publish(self, batch: list[AgentEvent]) -> None:
        try:
            await self._coordinator.publish_many(batch)
        except BadEvent as error:
            if len(batch) > 1:
                for event in batch:
                    await self._publish([event])
            else:
                log.warning("an event is on the bus only: %s", error, extra={"action": "event_refused"})

    def _make_room(self) -> None:
        while len(self._waiting) > self._max_queue:
            self._waiting.popleft()
            self.dropped += 1

    async def _until_sent(self) -> None:
        """Waits until the bus has handed over what was published, and the stream has it."""
        while self._unheard() > 0:
            self._heard_one.clear()
            await self._heard_one.wait()
        await self._all_sent.wait()  # a batch that is on its way is in no queue

    def _unheard(self) -> int:
        """How many events the bus has yet to hand over. One whose handler has its turn may not have run."""
        stats = self._bus.get_stats()["by_subscription"].get(self._subscription)
        return stats["queued"] + stats["running"] + stats["handled"] - self._heard if stats else 0

    # ---- from the stream to the bus ----

    async def _receive(self, after: str | None) -> None:
        types = None if self._to_bus is None else sorted(self._to_bus)
        async with aclosing(self._coordinator.subscribe(types, after=after)) as events:
            async for received in events:
                if self._is_new(received.event):
                    await self._tell(received.event)

    async def _tell(self, event: AgentEvent) -> None:
        try:
            await self._bus.publish(event)
        except BadEvent as error:
            log.warning("an event is on the stream only: %s", error, extra={"action": "event_refused"})
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.warning("a handler of %s was cancelled", event.type, extra={"action": "handler_cancelled"})

    def _is_new(self, event: AgentEvent) -> bool:
        """Whether the event was not carried yet. From now on, it was."""
        if event.id in self._carried:
            return False
        self._carried[event.id] = None
        if len(self._carried) > REMEMBERED:
            del self._carried[next(iter(self._carried))]
        return True


def _types(names: Iterable[str] | None) -> frozenset[EventType] | None:
    return None if names is None else frozenset(map(event_type, names))
