"""Tasks as they end, for programs with and without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from core.runtime.portal import portal_loop
from core.tasks import Task

__all__ = ["Completed"]


class Completed:
    """Ended tasks as they end, to be iterated with `for` or with `async for`; see AgentClient.as_completed."""

    def __init__(self, source: AsyncIterator[Task], home: Callable[[], asyncio.AbstractEventLoop | None]) -> None:
        self._source = source
        self._home = home

    def __aiter__(self) -> AsyncIterator[Task]:
        return self._source

    def __iter__(self) -> Iterator[Task]:
        home = self._home() or portal_loop()
        while True:
            step = asyncio.run_coroutine_threadsafe(_next(self._source), home)
            task = step.result()
            if task is None:
                return
            yield task


async def _next(source: AsyncIterator[Task]) -> Task | None:
    return await anext(source, None)
