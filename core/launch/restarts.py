"""Whether an agent whose process ended is started again, and when. A rule: the time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from core.errors import ConfigError, TransportDown, UserError

__all__ = ["LONGEST_PAUSE_S", "ORDERLY_CODES", "Restarts"]

#: An agent that dies more often than this in this time will go on dying.
MOST_DEATHS, PERIOD_S = 10, 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
#: Exit codes that another start cannot change: usage and configuration.
FINAL_CODES = frozenset({UserError.exit_code, ConfigError.exit_code})
#: Exit codes of an agent that ended in order: drained, or drained with tasks handed back.
ORDERLY_CODES = frozenset({0, 75})


@dataclass(slots=True)
class Restarts:
    """One agent's deaths. After each, `pause_s` says how long to wait before the next start."""

    deaths: deque[float] = field(default_factory=deque)  #: monotonic seconds, those of the last PERIOD_S
    outages: int = 0  #: starts in a row that found no Redis

    def pause_s(self, exit_code: int, now_s: float) -> float | None:
        """The pause before the agent is started again; None: it is not, `why_not` says why.

        `exit_code` is negative when a signal ended it. Starts that found no Redis are repeated for as long as it is
        away and are not counted: nothing is wrong with the agent.
        """
        if exit_code in FINAL_CODES or exit_code in ORDERLY_CODES:
            return None
        if exit_code == TransportDown.exit_code:
            self.outages += 1
            return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.outages, 10))
        self.outages = 0
        while self.deaths and self.deaths[0] <= now_s - PERIOD_S:
            self.deaths.popleft()
        self.deaths.append(now_s)
        if len(self.deaths) > MOST_DEATHS:
            return None
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (len(self.deaths) - 1))

    def why_not(self, exit_code: int) -> str:
        """Why it is not started again, with the cure."""
        if exit_code in ORDERLY_CODES:
            return "it was asked to stop, and is not started again; `agents down` and `agents up` bring it back"
        if exit_code in FINAL_CODES:
            return "its configuration is wrong, which another start cannot change; mend what its last line says"
        return f"it ended {len(self.deaths)} times within {PERIOD_S:g} s, and is given up; its log says why"
