"""A token that cancels what is linked to it."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable
from threading import Lock
from typing import Any

__all__ = ["CancellationToken"]

#: One for all tokens: it is held for a few instructions, and never while code of others runs.
_lock = Lock()


class CancellationToken:
    """Cancels pending calls. It can be cancelled in any thread, once; linking afterwards cancels at once."""

    __slots__ = ("_callbacks", "_cancelled")

    def __init__(self) -> None:
        self._cancelled = False
        self._callbacks: dict[object, Callable[[], None]] = {}

    def cancel(self) -> None:
        """Cancels what is linked to this token. Does nothing the second time."""
        with _lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            callback()

    def is_cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the token is cancelled; at once, if it was already."""
        self._add(object(), callback)

    def link_future(self, future: Future[Any]) -> Future[Any]:
        """Cancels the future when the token is cancelled; at once, if it was already. Returns the future.

        A long-lived token keeps nothing of a future that is done."""
        if self._add(future, lambda: _cancel(future)):
            future.add_done_callback(self._forget)
        return future

    def _add(self, key: object, callback: Callable[[], None]) -> bool:
        with _lock:
            if not self._cancelled:
                self._callbacks[key] = callback
                return True
        callback()
        return False

    def _forget(self, key: object) -> None:
        with _lock:
            self._callbacks.pop(key, None)


def _cancel(future: Future[Any]) -> None:
    """Cancels it in the thread of its loop."""
    loop = future.get_loop()
    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if here is loop:
        future.cancel()
    elif not loop.is_closed():
        loop.call_soon_threadsafe(future.cancel)
