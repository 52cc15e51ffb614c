"""Whether a supervisor starts again what has died, and when: the restart intensity of OTP's supervisors, and a pause.

A policy allows `intensity` restarts within `period_s`. What dies once more within that time would go on dying, so it is
given up. (OTP design principles, "Supervisor Behaviour: Maximum Restart Intensity".)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["RestartPolicy", "Restarts"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The bounds of one kind of process."""

    intensity: int  #: restarts within the period
    period_s: float
    first_pause_s: float = 0.0  #: before a restart; doubled by each further death within the period
    max_pause_s: float = 0.0


class Restarts:
    """The deaths of one process, counted under its policy."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self._deaths_s: deque[float] = deque()  # those of the last period

    @property
    def deaths(self) -> int:
        """How often it has died within the period that ended with its last death."""
        return len(self._deaths_s)

    def after_death(self, now_s: float) -> float | None:
        """It has died, at `now_s` of a clock that never goes back. The pause before it is started again, in seconds;
        None: it is given up."""
        policy, deaths_s = self.policy, self._deaths_s
        while deaths_s and deaths_s[0] <= now_s - policy.period_s:
            deaths_s.popleft()
        deaths_s.append(now_s)
        if len(deaths_s) > policy.intensity:
            return None
        return min(policy.max_pause_s, policy.first_pause_s * 2.0 ** (len(deaths_s) - 1))
