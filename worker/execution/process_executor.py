"""Runs each function or graph in a child process, which can be killed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from msgspec import Raw
from msgspec.structs import replace

from core.tasks import TaskError
from worker.authoring.context import ChildOutcome
from worker.authoring.registry import Handler, Handlers
from worker.children.outcome import failure, out_of_memory
from worker.children.pool import ChildDied, ChildPool
from worker.execution.attempt import Finished, Running, run_request
from worker.execution.outcomes import completed, delegated, failed

__all__ = ["ProcessExecutor"]

#: A child that used this share of its memory limit when it died is taken to have run out of memory.
NEAR_LIMIT = 0.9


class ProcessExecutor:
    """Runs attempts whose handler is a function or a graph. It is ready when a process has imported the user's modules,
    which may take a while. Raises ConfigError in a process that only imports handlers."""

    def __init__(self, handlers: Handlers, modules: Sequence[str], memory_mb: int) -> None:
        self._handlers = handlers
        self._memory_mb = memory_mb
        self._pool = ChildPool(handlers, modules, memory_mb)
        self.ready = False

    async def start(self) -> None:
        """Returns when attempts can run. Raises ConfigError when the modules cannot be imported."""
        if any(handler.kind != "async" for handler in self._handlers):
            await self._pool.start()
        else:
            await self._pool.spare()
        self.ready = True

    async def close(self) -> None:
        """Kills all child processes, and returns when none is left."""
        self.ready = False
        await self._pool.close()

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """The outcome of an attempt. Raises BadTask when the request is too large; ConfigError, as `start` does, when
        the user's modules have to be imported again."""
        try:
            answer = await self._answer(running, children)
        except ChildDied as error:
            return failed(running, self._cause_of_death(running, handler, error))
        if "error" in answer:
            return failed(running, TaskError(**answer["error"]))
        if "spawn" in answer:
            return delegated(running, orjson.dumps(answer["spawn"]))
        return completed(running, Raw(orjson.dumps(answer["result"])))

    async def _answer(self, running: Running, children: Sequence[ChildOutcome]) -> dict[str, Any]:
        child = await self._pool.acquire()
        running.child, running.hint = child, self._pool.hint
        try:
            request = run_request(running.task, children, watched=running.on_event is not None)
            tell = running.tell if running.on_event else None
            return await child.run(running.task.task_id, request, running.report, tell)
        finally:
            running.printed, running.child = child.printed, None
            self._pool.release(child)

    def _cause_of_death(self, running: Running, handler: Handler, error: ChildDied) -> TaskError:
        died = replace(failure(error, running.task.attempt), type="process_died", traceback="")
        limit_mb = handler.memory_mb or self._memory_mb
        return out_of_memory(died, limit_mb) if error.peak_mb >= limit_mb * NEAR_LIMIT else died
