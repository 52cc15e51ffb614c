"""The event loop of a host."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

__all__ = ["HostLoop", "loop_of_host"]

Ts = TypeVarTuple("Ts")


class HostLoop(asyncio.SelectorEventLoop):
    """It is not woken where it is awake.

    LangGraph hands over each chunk that a run tells as if another thread did, for which asyncio writes to a socket that
    wakes the loop, and reads it again: a fifth of what a host does beside two hundred models that speak."""

    def __init__(self) -> None:
        """Belongs to the thread that makes it."""
        super().__init__()
        self._own_thread = threading.get_ident()

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        # In the step of a task it does not wait for events, not even where a signal handler has interrupted the step.
        if threading.get_ident() == self._own_thread and asyncio.current_task(self) is not None:
            return self.call_soon(callback, *args, context=context)
        return super().call_soon_threadsafe(callback, *args, context=context)


def loop_of_host() -> asyncio.AbstractEventLoop:
    """A HostLoop, unless the user's modules have chosen another kind, such as uvloop's."""
    has_chosen = not isinstance(asyncio.get_event_loop_policy(), asyncio.DefaultEventLoopPolicy)
    return asyncio.new_event_loop() if has_chosen else HostLoop()
