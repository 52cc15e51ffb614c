"""The threads that run the blocking calls of coroutines. A thread cannot be ended, so one whose call outlives its
attempt is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
    """The threads of the running loop, of which at least `at_least` may be busy at a time. They become the loop's
    default executor."""
    loop = asyncio.get_running_loop()
    if (threads := _by_loop.get(loop)) is None:
        threads = _by_loop[loop] = AttemptThreads()
        loop.set_default_executor(threads)
    threads.allow(at_least)
    return threads


class AttemptThreads(ThreadPoolExecutor):
    """A thread pool that may grow by one thread for each call that goes on after its attempt has ended."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="attempt")
        self._calls: dict[Context, set[Future[Any]]] = {}  #: calls under way, by attempt
        self._lock = Lock()

    def allow(self, count: int) -> None:
        """Lets at least `count` threads be busy at a time."""
        with self._lock:
            self._max_workers = max(self._max_workers, count)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        call = super().submit(fn, *args, **kwargs)
        if (context := running_context.get(None)) is not None:
            with self._lock:
                self._calls.setdefault(context, set()).add(call)
            call.add_done_callback(partial(self._returned, context))
        return call

    @contextmanager
    def lent(self, allow: Callable[[int], object] = lambda count: None) -> Iterator[None]:
        """Lets one thread more be busy meanwhile. `allow` is called before it can start, with how many may be busy."""
        with self._lock:
            self._max_workers += 1
            count = self._max_workers
        try:
            allow(count)
            self._begin_waiting()
            yield
        finally:
            with self._lock:
                self._max_workers -= 1

    def busy(self, context: Context) -> set[Future[Any]]:
        """The calls of an attempt that are under way."""
        with self._lock:
            return set(self._calls.get(context, ()))

    def ended(self, context: Context) -> int:
        """Notes that an attempt has ended. Returns how many of its calls go on; the pool grows by as many threads."""
        if context not in self._calls:
            return 0
        with self._lock:
            left = self._calls.pop(context, set())
            self._max_workers += len(left)
        for call in left:
            call.add_done_callback(self._returned_at_last)
            self._begin_waiting()
        return len(left)

    def _begin_waiting(self) -> None:
        """Starts the thread that there may be now, if a call waits for it already."""
        with self._shutdown_lock:
            if not self._work_queue.empty():
                self._adjust_thread_count()

    def _returned(self, context: Context, call: Future[Any]) -> None:
        with self._lock:
            calls = self._calls.get(context, set())
            calls.discard(call)
            if not calls:
                self._calls.pop(context, None)

    def _returned_at_last(self, _: Future[Any]) -> None:
        with self._lock:
            self._max_workers -= 1
