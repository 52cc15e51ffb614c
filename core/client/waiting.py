"""Logs why a task that a program waits for cannot run until somebody intervenes."""

from __future__ import annotations

import logging

from core.client.server import Server
from core.config.sources import load
from core.errors import AgentSystemError, ServerRefused
from core.redis_backend.clock import monotonic_s

__all__ = ["WaitingReason"]

log = logging.getLogger(__name__)

#: Seconds between two looks, however many tasks are waited for.
POLL_S = 4.0


class WaitingReason:
    """Logs one line for each reason why tasks of one client wait, not for each task."""

    def __init__(self, server: Server, coordinator_id: str) -> None:
        self._server = server
        self._coordinator_id = coordinator_id
        self._looked_s = 0.0
        self._said = ""
        self._may_look = True

    async def tell(self, task_id: str | None) -> None:
        """Logs why an overdue task waits, if somebody has to intervene, and what to do."""
        now_s = monotonic_s()
        if task_id is None or not self._may_look or now_s - self._looked_s < POLL_S:
            return
        self._looked_s = now_s
        try:
            reason = await self._reason(task_id)
        except ServerRefused as error:
            self._may_look = "NOPERM" not in str(error)  # the Redis user of a client need not see the hierarchy
        except AgentSystemError:
            pass  # the client itself logs that Redis is away
        else:
            if reason and reason != self._said:
                log.warning("task %s waits: %s", task_id, reason, extra={"action": "task_waits"})
            self._said = reason

    async def _reason(self, task_id: str) -> str:
        from core.operations.explain import explained
        from core.operations.task_records import read_task

        async with self._server.reading() as reader:
            task, in_cell = await read_task(reader, self._coordinator_id, task_id)
            why = await explained(reader, self._coordinator_id, task, in_cell, load().agent)
            return why.sentence if why.stuck else ""
