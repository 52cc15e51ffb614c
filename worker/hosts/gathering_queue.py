"""LangGraph's queue of what a run tells, which wakes the run for what was gathered rather than for each token.

For each chunk that comes while a node runs, LangGraph lets its loop come round: a task that has waited ends, its waits
for the nodes are taken apart, and another one begins. With two hundred models that speak this is most of what a host
does. Here it happens once in a while; what is no token is told at once, and with it whatever was told before.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from langgraph._internal._queue import AsyncQueue  # type: ignore[attr-defined]
from langgraph.pregel import main

__all__ = ["GatheringQueue", "gather_what_is_told", "use_gathering_queues"]

#: Seconds for which tokens may wait. One that comes after a longer silence does not.
GATHER_S = 0.04
#: The modes that tell much while a node runs.
TOKENS = frozenset({"messages", "custom"})

#: Whether the next graph that begins is the outermost one of a run; user code that reads graphs below is told at once.
_is_outermost: ContextVar[bool] = ContextVar("is_outermost", default=False)


def use_gathering_queues() -> None:
    """Lets the graphs of this process have such queues."""
    names: dict[str, Any] = vars(main)
    if names.get("AsyncQueue") is AsyncQueue:
        names["AsyncQueue"] = GatheringQueue


def gather_what_is_told() -> None:
    """Lets the graph that begins next in this context gather what it tells."""
    _is_outermost.set(True)


class GatheringQueue(AsyncQueue):  # type: ignore[misc]  # LangGraph does not say what it is
    """One run's, from where its graph's chunks are taken, each a namespace, a mode and data."""

    def __init__(self) -> None:
        super().__init__()
        self._gathers = _is_outermost.get()
        _is_outermost.set(False)
        self._is_urgent = False  #: whether it has been given more than tokens
        self._pause: asyncio.Future[None] | None = None  #: while tokens gather
        self._next_s = 0.0  #: when tokens are told next, by the clock of the loop

    def put_nowait(self, item: Any) -> None:
        super().put_nowait(item)
        if item[1] not in TOKENS:
            self._is_urgent = True
            _end(self._pause)

    async def wait(self) -> None:
        """Returns when what there is should be told."""
        loop = asyncio.get_running_loop()
        if self._gathers and loop.time() < self._next_s and not self._is_urgent:
            self._pause = loop.create_future()
            timer = loop.call_at(self._next_s, _end, self._pause)
            try:
                await self._pause
            finally:
                timer.cancel()
                self._pause = None
        await super().wait()
        self._is_urgent = False
        self._next_s = loop.time() + GATHER_S


def _end(pause: asyncio.Future[None] | None) -> None:
    if pause is not None and not pause.done():
        pause.set_result(None)
