"""The fleet as a gateway knows it: looked at for all who ask, and not more often than a gateway can afford."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from core.errors import AgentSystemError, TransportDown
from core.fleet_counts import FleetCounts

__all__ = ["FleetLook", "known_for_s"]

#: Longest time that a look may take, s.
LOOK_S = 2.0
#: How long what a look has found counts as known, s: at least, and at most, and how many times as long as the processor
#: had to do with it. So looks take a twentieth of a gateway's time, however large the fleet is.
KNOWN_S, LONGEST_S, TIMES = 1.0, 10.0, 20


def known_for_s(used_s: float) -> float:
    """How long what was found counts as known, after a look that took so much of the processor."""
    return min(LONGEST_S, max(KNOWN_S, used_s * TIMES))


class FleetLook:
    """Looks at one fleet. However many ask at once, one looks."""

    def __init__(self, counts: Callable[[], Awaitable[FleetCounts]]) -> None:
        """`counts`: reads them. Raises TransportDown, ServerRefused."""
        self._counts = counts
        self._looking = asyncio.Lock()
        self._found: FleetCounts | AgentSystemError = TransportDown("nobody has looked yet")
        self._known_until_s = float("-inf")

    async def now(self) -> FleetCounts:
        """The counts, as found a moment ago, without the agents one by one. Raises TransportDown, ServerRefused: they
        could not be read then."""
        async with self._looking:
            if time.monotonic() >= self._known_until_s:
                began_s = time.thread_time()
                self._found = await self._look()
                used_s = 0.0 if isinstance(self._found, AgentSystemError) else time.thread_time() - began_s
                self._known_until_s = time.monotonic() + known_for_s(used_s)
            if isinstance(self._found, AgentSystemError):
                raise self._found.with_traceback(None)
            return self._found

    async def _look(self) -> FleetCounts | AgentSystemError:
        try:
            async with asyncio.timeout(LOOK_S):
                return replace(await self._counts(), agents=())
        except TimeoutError:
            return TransportDown(f"the fleet could not be read within {LOOK_S:g} s")
        except AgentSystemError as error:
            return error
