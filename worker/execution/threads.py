"""The threads that coroutines hand blocking calls to. None can be ended: one that outlives its attempt is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from worker.authoring.context import Context, running_context

__all__ = ["AttemptThreads", "attempt_threads"]

P = ParamSpec("P")
T = TypeVar("T")

_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, AttemptThreads] = WeakKeyDictionary()


def attempt_threads(at_least: int) -> AttemptThreads:
    """Those of the running loop, whose default executor they become. ``at_least`` may be at work at a time."""
    loop = asyncio.get_running_loop()
    if (threads := _by_loop.get(loop)) is None:
        threads = _by_loop[loop] = AttemptThreads()
        loop.set_default_executor(threads)
    threads.allow(at_least)
    return threads


class AttemptThreads(ThreadPoolExecutor):
    """A pool that has room for one thread more for each call that goes on after its attempt has ended."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="attempt")
        self._calls: dict[Context, set[Future[Any]]] = {}  #: under way, by the attempt that made them
        self._lock = Lock()

    def allow(self, count: int) -> None:
        with self._lock:
            self._max_workers = max(self._max_workers, count)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        call = super().submit(fn, *args, **kwargs)
        if (context := running_context.get(None)) is not None:
            with self._lock:
                self._calls.setdefault(context, set()).add(call)
            call.add_done_callback(partial(self._returned, context))
        return call

    def ended(self, context: Context) -> int:
        """An attempt has ended. Returns how many of its calls go on; others need not wait for these."""
        if context not in self._calls:
            return 0
        with self._lock:
            left = self._calls.pop(context, set())
            self._max_workers += len(left)
        for call in left:
            call.add_done_callback(self._returned_at_last)
            self._adjust_thread_count()  # for a call that waits for a thread already
        return len(left)

    def _returned(self, context: Context, call: Future[Any]) -> None:
        with self._lock:
            calls = self._calls.get(context, set())
            calls.discard(call)
            if not calls:
                self._calls.pop(context, None)

    def _returned_at_last(self, _: Future[Any]) -> None:
        with self._lock:
            self._max_workers -= 1
