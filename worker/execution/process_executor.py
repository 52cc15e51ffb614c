"""Runs each function in a child process, which can be killed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from msgspec import Raw

from core.tasks import TaskError
from worker.authoring.context import ChildOutcome
from worker.authoring.registry import Handler
from worker.children.forks import ChildDied, Forks, NoProcess
from worker.children.pool import ChildPool
from worker.execution.attempt import Finished, Running, run_request
from worker.execution.outcomes import cause_of_death, completed, delegated, failed

__all__ = ["ProcessExecutor"]


class ProcessExecutor:
    """Runs attempts whose handler is a function, one at a time in each process."""

    def __init__(self, forks: Forks, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._forks = forks
        self._pool = ChildPool(forks)

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """The outcome of an attempt. Raises BadTask when the request is too large; ConfigError when the user's modules
        have to be imported again, and cannot be; NoProcess."""
        try:
            answer = await self._answer(running, children)
        except NoProcess:
            raise
        except ChildDied as error:
            return failed(running, cause_of_death(running, error, handler.memory_mb or self._memory_mb))
        if "error" in answer:
            return failed(running, TaskError(**answer["error"]))
        if "spawn" in answer:
            return delegated(running, orjson.dumps(answer["spawn"]))
        return completed(running, Raw(orjson.dumps(answer["result"])))

    async def _answer(self, running: Running, children: Sequence[ChildOutcome]) -> dict[str, Any]:
        child = await self._pool.acquire()
        running.child, running.hint = child, self._forks.hint
        try:
            request = run_request(running.task, children, watched=running.on_event is not None)
            tell = running.tell if running.on_event else None
            return await child.run(running.task.task_id, request, running.report, tell)
        finally:
            running.printed, running.child = child.printed, None
            self._pool.release(child)
