"""The server's clock, as this process sees it.

All agents of a hierarchy share one clock, that of the server, so neither a wrong wall clock nor a jump of it moves a
deadline or makes a message stale. Between two readings, this process's monotonic clock carries it on. This is the
clock of the running event loop, so that on a loop with virtual time everything lives in virtual time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from core.errors import ServerRefused

__all__ = ["ServerClock", "monotonic_s"]


#: A reply as exact as this, in seconds, is always taken, since the server's clock may have been set.
EXACT_S = 0.25
#: How fast a reading loses accuracy, in seconds per second.
DRIFT = 0.01


def monotonic_s() -> float:
    """The clock of the running event loop, in seconds; asyncio's own loops take it from time.monotonic."""
    return asyncio.get_running_loop().time()


class ServerClock:
    """The server's clock, synchronised by every reply to TIME. Before the first one, the wall clock stands in."""

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._error_s = 0.0  # how far off the offset was at most when it was taken
        self._taken_s = 0.0  # monotonic

    def sync(self, reply: Sequence[bytes] | Exception, asked_s: float) -> None:
        """Takes a reply to TIME that was requested at `asked_s` (monotonic). Half of the round trip is subtracted.

        A delayed reply is ignored if the current reading is more exact, since the clock, and deadlines with it, could
        be off by half of the delay. Raises ServerRefused when the server does not tell its time."""
        if isinstance(reply, Exception):
            raise ServerRefused(f"Redis refused TIME: {reply}")
        answered_s = monotonic_s()
        error_s = (answered_s - asked_s) / 2
        known_to_s = max(EXACT_S, self._error_s + DRIFT * (answered_s - self._taken_s))
        if self._offset_s is not None and error_s > known_to_s:
            return
        self._error_s, self._taken_s = error_s, answered_s
        server_s = int(reply[0]) + int(reply[1]) / 1e6
        self._offset_s = server_s - (asked_s + answered_s) / 2

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._now_s(), UTC)

    def now_ms(self) -> int:
        return int(self._now_s() * 1000)

    @property
    def machine_ahead_ms(self) -> int | None:
        """How far the clock of this machine is ahead of the server's; None: that has not told its time yet."""
        return None if self._offset_s is None else round((time.time() - self._now_s()) * 1000)

    def _now_s(self) -> float:
        return time.time() if self._offset_s is None else self._offset_s + monotonic_s()
