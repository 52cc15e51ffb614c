"""Tasks as they end, for programs with and without an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from core.runtime.portal import BoundOperation, Resident, refuse_in_a_loop
from core.tasks import Task

__all__ = ["Completed"]


class Completed:
    """Iterates over tasks as they end, with `for` or with `async for`; see AgentClient.as_completed."""

    def __init__(self, source: AsyncIterator[Task], client: Resident) -> None:
        self._source = source
        self._next = BoundOperation(self._step, client)

    async def __aiter__(self) -> AsyncIterator[Task]:
        while (task := await self._next.aio()) is not None:
            yield task

    def __iter__(self) -> Iterator[Task]:
        refuse_in_a_loop("use `async for`.")
        while (task := self._next()) is not None:
            yield task

    async def _step(self, _: Resident) -> Task | None:
        return await anext(self._source, None)
