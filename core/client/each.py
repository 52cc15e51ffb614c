"""What comes one after the other, for programs with and without an event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Generic, TypeVar

from core.runtime.portal import BoundOperation, Resident, refuse_in_a_loop

__all__ = ["Each"]

T = TypeVar("T")


class Each(Generic[T]):
    """Iterates over what a client is told, with `for` or with `async for`."""

    def __init__(self, source: AsyncGenerator[T, None], client: Resident) -> None:
        self._source = source
        self._next = BoundOperation(self._step, client)
        self._close = BoundOperation(self._leave, client)

    async def __aiter__(self) -> AsyncIterator[T]:
        try:
            while (item := await self._next.aio()) is not None:
                yield item
        finally:
            await self._close.aio()

    def __iter__(self) -> Iterator[T]:
        refuse_in_a_loop("use `async for`.")
        try:
            while (item := self._next()) is not None:
                yield item
        finally:
            self._close()

    async def _step(self, _: Resident) -> T | None:
        return await anext(self._source, None)

    async def _leave(self, _: Resident) -> None:
        await self._source.aclose()
