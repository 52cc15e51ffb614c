"""The executor that needs no child process: everything runs in the process of its worker, or of many workers.

What runs here cannot be killed, has no memory limit of its own, and what it prints is not kept. A plain function that
does not end when it is told to is left behind in its thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any

from core.config.settings import AgentConfig
from worker.authoring.context import ChildOutcome, Context, enter
from worker.authoring.registry import Handler, Handlers
from worker.execution.attempt import Finished, Running
from worker.execution.attempts import Attempts
from worker.execution.equipment import Callbacks
from worker.execution.loop_graphs import LoopGraphs
from worker.execution.outcomes import ended_with
from worker.hosts.chunk_writer import ChunkWriter
from worker.hosts.memory import Memory

__all__ = ["InProcess", "InProcessExecutor"]


class InProcessExecutor(Attempts):
    """As Attempts: coroutines and graphs on the loop, functions in its threads. On a loop with virtual time functions
    take none, and everything depends on the loop alone."""

    def __init__(
        self, handlers: Handlers, config: AgentConfig, callbacks: Callbacks, places: InProcess | None = None
    ) -> None:
        super().__init__(
            handlers, places or InProcess(), concurrency=config.concurrency, agent_concurrency=config.agent_concurrency,
            **callbacks._asdict(),
        )  # fmt: skip


class InProcess:
    """The Places of this process."""

    def __init__(self) -> None:
        self.ready = True
        self._graphs = LoopGraphs()

    async def start(self, handlers: Handlers, memory: Memory | None, chunks: ChunkWriter | None) -> None:
        """See Places."""
        self._graphs.start(memory, chunks)

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """See Places."""
        if handler.kind == "graph":
            return await self._graphs.run(running, handler, children)
        context = running.begin(children)
        variables = copy_context()
        variables.run(enter, context)
        call = asyncio.get_running_loop().run_in_executor(
            None, variables.run, _called, handler, running.task.payload, context
        )
        running.child = ThreadCall(running, call)
        try:
            return ended_with(running, await call)
        finally:
            running.child = None

    def drain(self, running: Running) -> None:
        """See Places."""
        self._graphs.drain(running)

    async def close(self) -> None:
        """See Places."""


class ThreadCall:
    """A function that runs in a thread. It is given the time to end by itself that a process has before it is
    killed."""

    def __init__(self, running: Running, call: asyncio.Future[Any]) -> None:
        self._running = running
        self._call = call

    @property
    def printed(self) -> bytes:
        """The end of what it has logged."""
        return self._running.printed

    def cancel(self) -> None:
        """Does nothing: its context tells it."""

    def kill(self) -> None:
        """Waits for it no longer."""
        self._call.cancel()


def _called(handler: Handler, payload: Any, context: Context) -> Any:
    return handler.function(*handler.arguments(payload, context))
