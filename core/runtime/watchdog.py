"""Whether an agent makes progress, as it sees itself: what it waits for, and when that takes too long.

A process may be alive, renew its lease and send heartbeats while its loop has stopped reading its inbox. To others such
an agent looks healthy, so it has to notice by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from core.errors import ServerRefused, Wedged, WorldError
from core.redis_backend.clock import monotonic_s
from core.runtime.inbox import READ_WITHIN_S

__all__ = ["Watchdog"]

log = logging.getLogger(__name__)


class Watchdog:
    """Notes when the loop begins and ends a turn, when it begins and ends a read, and whether Redis is there. It logs
    one line for each change, not for each attempt."""

    def __init__(
        self,
        patience_s: float,
        waited_s: Callable[[], float],
        on_transport: Callable[[bool], None] = lambda up: None,
    ) -> None:
        """`waited_s` returns the total time that the loop has waited for Redis to answer. `on_transport` is called when
        Redis goes away (False), and when it is back."""
        self._patience_s = patience_s
        self._waited_s = waited_s
        self._on_transport = on_transport
        self._busy_s: float | None = None  # start of the turn under way, by `_awake_s`
        self._deaf_s: float | None = None  # start of the read under way
        self._reads = True
        self.lag_s = 0.0  #: how late the loop was when it was last looked at
        self.away = ""  #: why Redis cannot be reached; empty: it can
        self.refusal = ""  #: why Redis refuses writes; empty: it does not

    def turns(self, busy: bool) -> None:
        """Notes that a turn begins, or that the loop has nothing to do."""
        self._busy_s = self._awake_s() if busy else None

    def listens(self, reading: bool) -> None:
        """Notes that a read begins, or is over."""
        self._deaf_s = monotonic_s() if reading else None

    def transport(self, up: bool, why: str) -> None:
        """Notes whether Redis could be reached."""
        if up == (not self.away):
            return
        self.away = "" if up else why or "unknown"
        if up:
            log.info("Redis is back", extra={"action": "transport_up"})
            self._forgive()
        else:
            log.warning("Redis is away: %s", why, extra={"action": "transport_down"})
        self._on_transport(up)

    def note_failure(self, error: WorldError) -> None:
        """Notes that a command to Redis failed and is retried."""
        if isinstance(error, ServerRefused):
            self.refused(str(error))
        else:
            self.transport(False, str(error))

    def reads(self, yes: bool) -> None:
        """Notes whether Redis lets the inbox be read. An agent with nothing to write would not learn it otherwise."""
        was, self._reads = self._reads, yes
        if yes and not was:
            self.refused("")

    def written(self) -> None:
        """Notes that Redis has accepted a write."""
        if self._reads:
            self.refused("")

    def refused(self, why: str) -> None:
        """Notes that Redis refused a command; with an empty `why`, that it does so no more."""
        if bool(why) == bool(self.refusal):
            return
        self.refusal = why
        if why:
            log.warning(
                "Redis refuses writes, and they are repeated until it accepts them: %s",
                why,
                extra={"action": "writes_refused"},
            )
        else:
            log.info("Redis accepts writes again", extra={"action": "writes_accepted"})
            self._forgive()

    async def run(self, agent: str, every_s: float) -> None:
        """Watches whether the loop makes progress, until it is cancelled. Raises Wedged when it does not."""
        while True:
            due_s = monotonic_s() + every_s
            await asyncio.sleep(every_s)
            self.stood_still(monotonic_s() - due_s)
            if self.wedged:
                raise Wedged(f"{agent} is wedged: {self.problems[-1]}. Another process has to take over")

    def stood_still(self, for_s: float) -> None:
        """Leaves out time in which the whole process was stopped, or was not given the processor."""
        self.lag_s = max(0.0, for_s)
        if self._busy_s is not None:
            self._busy_s += for_s
        if self._deaf_s is not None:
            self._deaf_s += for_s

    @property
    def stalled_s(self) -> float:
        """How long there has been work without progress, in seconds. Waiting for Redis does not count."""
        if self.away or self.refusal:
            return 0.0
        busy_s = self._awake_s() - self._busy_s if self._busy_s is not None else 0.0
        deaf_s = monotonic_s() - self._deaf_s - READ_WITHIN_S if self._deaf_s is not None else 0.0
        return max(busy_s, deaf_s, 0.0)

    @property
    def wedged(self) -> bool:
        return self.stalled_s > self._patience_s

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it cannot work now; empty: it can."""
        stalled_s = self.stalled_s
        found = [self.away, self.refusal, f"nothing has moved for {stalled_s:.0f} s" if self.wedged else ""]
        return tuple(filter(None, found))

    def _awake_s(self) -> float:
        """A clock that stands still while the loop waits for Redis."""
        return monotonic_s() - self._waited_s()

    def _forgive(self) -> None:
        """Leaves out the time in which Redis was away, since nothing could be done."""
        if self._busy_s is not None:
            self._busy_s = self._awake_s()
        if self._deaf_s is not None:
            self._deaf_s = monotonic_s()
