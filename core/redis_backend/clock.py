"""The server's clock, as this process sees it.

All agents of a hierarchy share one clock, that of the server, so neither a wrong wall clock nor a jump of it moves a
deadline or makes a message stale. Between two looks at it, this process's monotonic clock carries it on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

__all__ = ["ServerClock"]


class ServerClock:
    """Synchronised by every reply to TIME; before the first, the wall clock stands in."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def sync(self, reply: Sequence[bytes], asked_s: float) -> None:
        """Takes a reply to TIME that was asked for at `asked_s` (monotonic): half the round trip is taken off."""
        answered_s = time.monotonic()
        server_s = int(reply[0]) + int(reply[1]) / 1e6
        self._offset_s = server_s - (asked_s + answered_s) / 2

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._offset_s + time.monotonic(), UTC)

    def now_ms(self) -> int:
        return int((self._offset_s + time.monotonic()) * 1000)
