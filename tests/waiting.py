"""Waiting for what must come true, as often as needed and no longer. Tests never just sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

__all__ = ["until", "until_async"]

T = TypeVar("T")

#: between two looks; short beside anything that is waited for, and cheap beside a look
POLL_S = 0.005


def until(condition: Callable[[], T], what: str, timeout_s: float = 20) -> T:
    """The first true value of `condition`. Fails the test, naming `what`, when there is none within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"within {timeout_s:g} s it did not come true that {what}; last seen: {value!r}")
        time.sleep(POLL_S)
    return value


@overload
async def until_async(condition: Callable[[], Awaitable[T]], what: str, timeout_s: float = 20) -> T: ...
@overload
async def until_async(condition: Callable[[], T], what: str, timeout_s: float = 20) -> T: ...
async def until_async(condition: Callable[[], T | Awaitable[T]], what: str, timeout_s: float = 20) -> T:
    """As `until`, for a running loop; `condition` may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        looked = condition()
        value = await looked if isinstance(looked, Awaitable) else looked
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"within {timeout_s:g} s it did not come true that {what}; last seen: {value!r}")
        await asyncio.sleep(POLL_S)
