"""LangGraph's queue of what a run tells, which wakes the run for what was gathered rather than for each token.

For each chunk that comes while a node runs, LangGraph lets its loop come round: a task that has waited ends, its waits
for the nodes are taken apart, and another one begins. With two hundred models that speak this is most of what a host
does. Here it happens once in a while; what is no token is told at once, and with it whatever was told before.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from langgraph._internal._queue import AsyncQueue  # type: ignore[attr-defined]
from langgraph.pregel import main

__all__ = ["GatheringQueue", "gather_what_is_told", "use_gathering_queues"]

#: Seconds for which tokens may wait where one run speaks; what each further one adds, and how long it is at most. The
#: more speak, the more there is to do for each moment in which they are told. One after a longer silence does not wait.
GATHER_S, GATHER_MORE_S, GATHER_MOST_S = 0.04, 0.001, 0.1
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


class Moments:
    """Those in which the runs on one event loop tell their tokens, all at once, so that these go on together."""

    def __init__(self) -> None:
        self.gather_s = GATHER_S  #: from one to the next
        self._waiting: list[asyncio.Future[None]] = []
        self._last_s = 0.0

    def next(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Is done in the next one."""
        if not self._waiting:
            now_s, next_s = loop.time(), self._last_s + self.gather_s
            loop.call_at(next_s if next_s > now_s else now_s + self.gather_s, self._come, loop)
        self._waiting.append(loop.create_future())
        return self._waiting[-1]

    def _come(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = [each for each in self._waiting if not each.done()]
        self._waiting = []
        self._last_s = loop.time()
        self.gather_s = min(GATHER_S + GATHER_MORE_S * (len(waiting) - 1), GATHER_MOST_S)
        for each in waiting:
            each.set_result(None)


_moments: WeakKeyDictionary[asyncio.AbstractEventLoop, Moments] = WeakKeyDictionary()


class GatheringQueue(AsyncQueue):  # type: ignore[misc]  # LangGraph does not say what it is
    """One run's, from where its graph's chunks are taken, each a namespace, a mode and data."""

    def __init__(self) -> None:
        super().__init__()
        self._gathers = _is_outermost.get()
        _is_outermost.set(False)
        self._moments = _moments.setdefault(asyncio.get_running_loop(), Moments())
        self._is_urgent = False  #: whether it has been given more than tokens
        self._has_tokens = False  #: whether it has been given tokens
        self._pause: asyncio.Future[None] | None = None  #: while tokens gather
        self._next_s = 0.0  #: before which tokens are gathered, by the clock of the loop

    def put_nowait(self, item: Any) -> None:
        super().put_nowait(item)
        if item[1] in TOKENS:
            self._has_tokens = True
        else:
            self._is_urgent = True
            if self._pause is not None and not self._pause.done():
                self._pause.set_result(None)

    async def wait(self) -> None:
        """Returns when what there is should be told."""
        loop = asyncio.get_running_loop()
        if self._gathers and loop.time() < self._next_s and not self._is_urgent:
            self._pause = self._moments.next(loop)
            try:
                await self._pause
            finally:
                self._pause = None
        await super().wait()
        if self._has_tokens:  # what comes after others alone is the first token of a node, perhaps
            self._next_s = loop.time() + self._moments.gather_s
        self._is_urgent = self._has_tokens = False
