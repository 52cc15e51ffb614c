"""Calls without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

from core.runtime.portal import portal_loop, refuse_in_a_loop

__all__ = ["Done", "wait_for"]

T = TypeVar("T")


def wait_for(call: Coroutine[Any, Any, T], cure: str) -> T:
    """The result of the call, on the background loop. Raises EventLoopError with the cure where an event loop runs."""
    try:
        refuse_in_a_loop(cure)
    except BaseException:
        call.close()
        raise
    return asyncio.run_coroutine_threadsafe(call, portal_loop()).result()


class Done:
    """What may be awaited, and need not be."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()
