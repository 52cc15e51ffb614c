"""Decides whether and when an agent is restarted after its process has ended. The time is an argument."""

from __future__ import annotations

from core.backoff import Backoff
from core.errors import ConfigError, TransportDown, UserError
from core.restart_policy import RestartPolicy, Restarts

__all__ = ["AGENT_RESTARTS", "ORDERLY_CODES", "AgentRestarts"]

AGENT_RESTARTS = RestartPolicy(intensity=10, period_s=60.0, first_pause_s=0.1, max_pause_s=10.0)
#: Exit codes after which a restart cannot help: wrong usage or configuration.
FINAL_CODES = frozenset({UserError.exit_code, ConfigError.exit_code})
#: Exit codes of an agent that has drained, with or without handing tasks back.
ORDERLY_CODES = frozenset({0, 75})


class AgentRestarts:
    """Counts the deaths of one agent. After each, `pause_s` says how long to wait before the restart."""

    def __init__(self) -> None:
        self._restarts = Restarts(AGENT_RESTARTS)
        self._outage = Backoff(AGENT_RESTARTS.first_pause_s, AGENT_RESTARTS.max_pause_s)

    def pause_s(self, exit_code: int, now_s: float) -> float | None:
        """The pause before the agent is restarted, in seconds; None: it is not restarted, and `why_not` says why.

        `exit_code` is negative if a signal ended the agent. An agent that found no Redis is restarted until Redis is
        back, and these deaths do not count, since nothing is wrong with the agent.
        """
        if exit_code in FINAL_CODES or exit_code in ORDERLY_CODES:
            return None
        if exit_code == TransportDown.exit_code:
            return self._outage.next(1.0)
        self._outage.reset()
        return self._restarts.after_death(now_s)

    def why_not(self, exit_code: int) -> str:
        """Why the agent is not restarted, and what to do."""
        if exit_code in ORDERLY_CODES:
            return "it was asked to stop, and is not started again; `agents down` and `agents up` bring it back"
        if exit_code in FINAL_CODES:
            return "its configuration is wrong, which another start cannot change; fix what its last line says"
        period_s = AGENT_RESTARTS.period_s
        return f"it ended {self._restarts.deaths} times within {period_s:g} s, and is given up; its log says why"
