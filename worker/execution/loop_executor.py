"""Runs coroutines on the worker's event loop. It keeps what they log, provides the threads that they use, and tells
which of them occupies the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from worker.authoring.context import ChildOutcome, enter
from worker.authoring.registry import Handler
from worker.execution.attempt import Finished, Running
from worker.execution.logs import AttemptLogs
from worker.execution.outcomes import ended_with
from worker.hosts.threads import AttemptThreads, attempt_threads

__all__ = ["LoopExecutor"]

log = logging.getLogger(__name__)


class LoopExecutor:
    """Runs attempts whose handler is a coroutine. `running`: the worker's attempts, by task id; the caller keeps it up
    to date."""

    def __init__(self, running: Mapping[str, Running]) -> None:
        self._running = running
        self._logs = AttemptLogs(running)
        self._threads: AttemptThreads | None = None  #: between start and close

    def start(self, concurrency: int) -> None:
        """Provides the threads and keeps what is logged from now on. Calling it again changes nothing."""
        self._threads = attempt_threads(concurrency)
        self._logs.install()

    def close(self) -> None:
        """Stops keeping what is logged."""
        self._threads = None
        self._logs.remove()

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """The outcome of an attempt. Raises whatever the handler raises, and BadTask if it returns something that
        cannot be a result."""
        context = running.begin(children)
        enter(context)
        try:
            value = await handler.function(*handler.arguments(running.task.payload, context))
        finally:
            await context.close()
        return ended_with(running, value)

    def ended(self, running: Running) -> None:
        """Notes that an attempt is over. Threads of it that are still busy are logged, and replaced by new ones."""
        if self._threads and running.context and (left := self._threads.ended(running.context)):
            log.warning(
                "%s has ended, but %d of its threads go on until their calls return. Give what blocks a timeout, or"
                " make the handler a plain function, whose process can be ended",
                running.task.task_id,
                left,
                extra={"action": "threads_left_behind", "task_type": running.task.task_type},
            )

    def holder(self) -> str:
        """A phrase that names the handler which occupies the loop now; empty if none does. Another thread may call
        this."""
        coroutines = [running for running in [*self._running.values()] if running.context]
        for running in coroutines:
            if asyncio.current_task(running.attempt.get_loop()) is running.attempt:
                return f"the handler of {running.task.task_type!r} (task {running.task.task_id})"
        names = ", ".join(sorted({repr(running.task.task_type) for running in coroutines}))
        return f"what one of the handlers of {names} has started" if names else ""
