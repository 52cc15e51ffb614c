"""The events of a hierarchy for many readers at once: they are read once, and each reader has its own place.

The latest ones are kept here. A reader that comes back for older ones, or has fallen behind, reads those by itself, and
then goes on with what is kept. So nobody misses anything, and a slow reader takes no room.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from core.agent_event import AgentEvent
from core.backoff import Backoff
from core.errors import TransportDown
from core.event_types import EventType
from core.operations.event_feed import EventFeed, Position, Wanted

__all__ = ["EventFan"]

#: Events that are kept for all readers.
KEPT = 1000
#: Stand for the number of an event in its entry: behind all of them, and behind the news that later ones were missed.
BEHIND_ALL = 2**31
BEHIND_GAP = BEHIND_ALL + 1

#: Where an event stands: ms and number of its entry, and its number in there.
Place = tuple[int, int, int]
BEGINNING: Place = (0, 0, BEHIND_ALL)


def _place(event_id: str) -> Place:
    if event_id == "0":
        return BEGINNING
    stamp, number, *index = map(int, event_id.split("-"))
    return stamp, number, index[0] if index else BEHIND_ALL


def _place_of(event: AgentEvent) -> Place:
    """What tells of a gap has the id of the entry before it, and comes behind that for whoever has read it whole."""
    stamp, number, index = _place(event.id)
    return stamp, number, BEHIND_GAP if event.type is EventType.EVENTS_MISSED else index


def _position(place: Place) -> Position:
    stamp, number, index = place
    if place == BEGINNING:
        return Position()
    return Position.after(f"{stamp}-{number}" if index >= BEHIND_ALL else f"{stamp}-{number}-{index}")


class EventFan:
    """Reads events while somebody wants them."""

    def __init__(self, new_feed: Callable[[], EventFeed], newest: Callable[[], Awaitable[str]]) -> None:
        """`newest` gives the id of the newest entry of the stream; "0": there is none."""
        self._new_feed = new_feed
        self._newest = newest
        self._kept: deque[tuple[Place, AgentEvent]] = deque()
        self._behind = BEGINNING  #: what was told behind it, is kept
        self._readers = 0
        self._opening = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def events(self, after: str | None, wanted: Wanted) -> AsyncGenerator[AgentEvent, None]:
        """As `EventFeed.events`, live. `after`: as Position.after takes it; None: what comes from now on. Raises
        ServerRefused: the gateway may not read them. While Redis is away, it waits."""
        self._readers += 1
        try:
            await self._begin()
            place = self._latest if after is None else _place(after)
            while True:
                news = self._news
                if place < self._behind:
                    behind = self._behind
                    async with aclosing(self._new_feed().events(_position(place), Wanted(), live=False)) as older:
                        async for event in older:
                            place = max(place, _place(event.id))
                            if _is_for(wanted, event):
                                yield event
                    place = max(place, behind)
                elif newer := self._kept_behind(place):
                    place = newer[-1][0]
                    for _, event in newer:
                        if _is_for(wanted, event):
                            yield event
                else:
                    if self._reading is not None and self._reading.done():
                        self._reading.result()  # raises why there is nothing more
                    await news.wait()
        finally:
            self._readers -= 1
            if not self._readers:
                await self.close()

    @property
    def _latest(self) -> Place:
        return self._kept[-1][0] if self._kept else self._behind

    def _kept_behind(self, place: Place) -> list[tuple[Place, AgentEvent]]:
        """What is kept behind a place, in order. It takes as long as there is of it."""
        found = []
        for entry in reversed(self._kept):
            if entry[0] <= place:
                break
            found.append(entry)
        return found[::-1]

    async def _begin(self) -> None:
        async with self._opening:
            if self._reading is None or self._reading.done():
                self._kept.clear()
                self._behind = _place(await self._reached())
                self._reading = asyncio.create_task(self._read(_position(self._behind)))

    async def _reached(self) -> str:
        """The newest entry, once Redis can tell."""
        backoff = Backoff()
        while True:
            try:
                return await self._newest()
            except TransportDown:
                await asyncio.sleep(backoff.next(random.random()))

    async def _read(self, begin: Position) -> None:
        try:
            async with aclosing(self._new_feed().events(begin, Wanted(), live=True)) as events:
                async for event in events:
                    self._kept.append((_place_of(event), event))
                    if len(self._kept) > KEPT:
                        self._behind, _ = self._kept.popleft()
                    self._tell()
        finally:
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def close(self) -> None:
        """Stops to read. The next reader begins anew."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def _is_for(wanted: Wanted, event: AgentEvent) -> bool:
    """Whatever is wanted, a reader is told of what it cannot be told any more."""
    return event.type is EventType.EVENTS_MISSED or wanted.admits(event)
