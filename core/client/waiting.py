"""Tells a program that waits for a task which will wait for as long as nobody does anything about it."""

from __future__ import annotations

import logging
import time

from core.config.settings import RedisConfig
from core.config.sources import load
from core.errors import AgentSystemError, ServerRefused

__all__ = ["WaitingReason"]

log = logging.getLogger(__name__)

#: Between two looks, however many tasks are waited for.
LOOK_AGAIN_S = 4.0


class WaitingReason:
    """Of one client's tasks: one line in the log for each reason, not for each task."""

    def __init__(self, redis: RedisConfig, coordinator_id: str) -> None:
        self._redis = redis
        self._coordinator_id = coordinator_id
        self._looked_s = 0.0
        self._said = ""
        self._may_look = True

    async def tell(self, task_id: str | None) -> None:
        """Logs why a task that was waited for in vain waits, if it needs somebody to do something, and says what."""
        now_s = time.monotonic()
        if task_id is None or not self._may_look or now_s - self._looked_s < LOOK_AGAIN_S:
            return
        self._looked_s = now_s
        try:
            reason = await self._reason(task_id)
        except ServerRefused as error:
            self._may_look = "NOPERM" not in str(error)  # a client's user need not see the hierarchy
        except AgentSystemError:
            pass  # the client itself tells that Redis is away
        else:
            if reason and reason != self._said:
                log.warning("task %s waits: %s", task_id, reason, extra={"action": "task_waits"})
            self._said = reason

    async def _reason(self, task_id: str) -> str:
        from core.operations.overview import read_overview
        from core.operations.reader import reading
        from core.operations.task_records import read_task
        from core.waiting_reason import stuck_reason

        async with reading(self._redis) as reader:
            overview = await read_overview(reader, self._coordinator_id, load().agent)
            return stuck_reason(*await read_task(reader, self._coordinator_id, task_id), overview)
