"""Runs coroutines on the worker's event loop: what they log, the threads they use, which of them holds the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from msgspec import Raw

from core.json_values import result_json
from core.tasks import NULL
from worker.authoring.context import ChildOutcome, Context, Spawn, running_context
from worker.authoring.registry import Handler
from worker.children.outcome import refuse_unrun, spawn_json
from worker.execution.attempt import Finished, Running
from worker.execution.logs import AttemptLogs
from worker.execution.outcomes import completed, delegated
from worker.execution.threads import AttemptThreads, attempt_threads

__all__ = ["LoopExecutor"]

log = logging.getLogger(__name__)


class LoopExecutor:
    """It is ready from the first moment. ``running``: the attempts of the worker, by task id, kept up to date."""

    def __init__(self, running: Mapping[str, Running]) -> None:
        self._running = running
        self._logs = AttemptLogs(running)
        self._threads: AttemptThreads | None = None  #: between start and close

    def start(self, concurrency: int) -> None:
        """Called again it changes nothing."""
        self._threads = attempt_threads(concurrency)
        self._logs.install()

    def close(self) -> None:
        self._threads = None
        self._logs.remove()

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """Raises what the handler raises; BadTask: what it returns is no result."""
        task = running.task
        context = running.context = Context(
            task.task_id,
            task.task_type,
            task.attempt,
            task.deadline,
            task.idempotency_key or "",
            children,
            len(task.children),
            running.report,
        )
        running_context.set(context)
        value = await handler.function(*handler.arguments(task.payload, context))
        refuse_unrun(task.task_type, value)
        if isinstance(value, Spawn):
            return delegated(running, spawn_json(value))
        return completed(running, NULL if value is None else Raw(result_json(value)))

    def ended(self, running: Running) -> None:
        """An attempt is over. Threads that it has left at work are told of, and replaced."""
        if self._threads and running.context and (left := self._threads.ended(running.context)):
            log.warning(
                "%s has ended, but %d of its threads go on until their calls return. Give what blocks a timeout, or"
                " make the handler a plain function, whose process can be ended",
                running.task.task_id,
                left,
                extra={"action": "threads_left_behind", "task_type": running.task.task_type},
            )

    def holder(self) -> str:
        """Whose handler the loop is in, in words; empty: nobody's. For another thread to ask."""
        coroutines = [running for running in [*self._running.values()] if running.context]
        for running in coroutines:
            if asyncio.current_task(running.attempt.get_loop()) is running.attempt:
                return f"the handler of {running.task.task_type!r} (task {running.task.task_id})"
        names = ", ".join(sorted({repr(running.task.task_type) for running in coroutines}))
        return f"what one of the handlers of {names} has started" if names else ""
