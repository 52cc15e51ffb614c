"""Whether an engine delivers, and who waits until something has happened in it."""

from __future__ import annotations

import asyncio
from asyncio import Future
from enum import Enum

__all__ = ["BackgroundErrors", "Phase", "Watchers"]


class Phase(Enum):
    """What an engine does with messages."""

    STANDING = "standing"  #: they wait until it is started, or `process_next` is called
    RUNNING = "running"  #: they are delivered
    STOPPING = "stopping"  #: they are refused, until the handlers that run have ended


class Watchers:
    """Who waits for the next time that something happens."""

    def __init__(self) -> None:
        self._futures: list[Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Returns when it has happened, or the time is up."""
        future: Future[None] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        try:
            await asyncio.wait([future], timeout=timeout_s)
        finally:
            if future in self._futures:
                self._futures.remove(future)

    def wake(self) -> None:
        """It has happened."""
        if not self._futures:
            return
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)


class BackgroundErrors:
    """What handlers have raised with nobody waiting for it."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(self, error: Exception) -> None:
        self._errors.append(error)

    def surface(self) -> None:
        """Raises all since the last time: one as it is, several in an ExceptionGroup."""
        errors, self._errors = self._errors, []
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup(f"{len(errors)} handlers have failed", errors)
