"""Events of an agent's own process that no step has received yet."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from core.errors import LeaseLost
from core.roles import Address
from core.step import Answer, Call, Event, Request, turn_away

__all__ = ["LocalEvents"]


class LocalEvents:
    """Keeps the events of one life of an agent until its loop takes them. Call it only from the loop's own thread."""

    def __init__(self, me: Address) -> None:
        self._me = me
        self._events: list[Event] = []
        self._ended = False
        self.wake = asyncio.Event()  #: set when there is work for the loop

    def __len__(self) -> int:
        return len(self._events)

    def tell(self, event: Event) -> None:
        """Queues an event for the next step."""
        self._events.append(event)
        self.wake.set()

    async def call(self, request: Request[Answer]) -> Answer:
        """Makes a request to the graph. Returns the answer once the step that gave it is committed.

        Raises LeaseLost when this agent has ended, or ends before it answers; RuntimeError when that step failed."""
        if self._ended:
            raise LeaseLost(f"{self._me} is no longer at work")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.tell(Call(request, future))
        return await future

    def retract(self, kinds: Collection[type[Event]]) -> None:
        """Removes the events of these kinds that no step has received yet."""
        self._events = [event for event in self._events if type(event) not in kinds]

    def take(self) -> list[Event]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def end(self) -> None:
        """Refuses all calls, waiting and future ones, with LeaseLost."""
        self._ended = True
        turn_away(self._events, LeaseLost(f"{self._me} is no longer at work"))
