"""Wakes those who wait for the next run of a thread."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from weakref import WeakValueDictionary

__all__ = ["ThreadNews"]

#: Seconds after which somebody who waits looks for runs that another gateway has begun.
LOOK_S = 0.25


class ThreadNews:
    """The threads in which this gateway begins runs."""

    def __init__(self) -> None:
        self._waited_for: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def tell(self, thread_id: str) -> None:
        """A run has been begun."""
        if (event := self._waited_for.pop(thread_id, None)) is not None:
            event.set()

    async def wait(self, thread_id: str) -> None:
        """Returns once there may be another run."""
        event = self._waited_for.get(thread_id)
        if event is None:
            event = self._waited_for[thread_id] = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await event.wait()
