"""The executor of a worker's process: coroutines on its event loop, functions in child processes, graphs in hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from core.tasks import Task, utc_now
from worker.authoring.context import ChildOutcome, Progress
from worker.authoring.registry import Handler, Handlers
from worker.children.forks import Forks
from worker.execution.attempt import Finished, Running
from worker.execution.attempts import Attempts
from worker.execution.host_executor import HostExecutor
from worker.execution.process_executor import ProcessExecutor
from worker.hosts.chunk_writer import ChunkWriter
from worker.hosts.memory import Memory

__all__ = ["Executor", "Finished", "Running"]


class Executor(Attempts):
    """As Attempts, with a process for each function that runs, and `hosts` processes that graphs share. `modules`: what
    those import. `child_memory_mb`: what each may allocate. `gateway_url`: what graphs find by
    `get_client()`; empty: none. After `close` no child process is left."""

    def __init__(
        self,
        handlers: Handlers,
        *,
        concurrency: int,
        child_memory_mb: int,
        agent_concurrency: int = 1,
        hosts: int = 1,
        on_finished: Callable[[Finished], None],
        on_progress: Callable[[Progress], None],
        modules: Sequence[str] = (),
        gateway_url: str = "",
        fetch_inputs: Callable[[Task], Awaitable[list[ChildOutcome]]] | None = None,
        now: Callable[[], datetime] = utc_now,
        on_event: Callable[[Task, dict[str, Any]], None] | None = None,
    ) -> None:
        forks = Forks(handlers, modules, child_memory_mb, agent_concurrency, gateway_url)
        super().__init__(
            handlers, ChildProcesses(forks, hosts, child_memory_mb), concurrency=concurrency,
            agent_concurrency=agent_concurrency, on_finished=on_finished, on_progress=on_progress,
            fetch_inputs=fetch_inputs, now=now, on_event=on_event,
        )  # fmt: skip


class ChildProcesses:
    """The Places that can be killed."""

    def __init__(self, forks: Forks, hosts: int, memory_mb: int) -> None:
        self._forks = forks
        self._in_processes = ProcessExecutor(forks, memory_mb)
        self._in_hosts = HostExecutor(forks, hosts, memory_mb)
        self.ready = False  #: whether a process has imported the user's modules, which may take a while

    async def start(self, handlers: Handlers, memory: Memory | None, chunks: ChunkWriter | None) -> None:
        """See Places."""
        self._in_hosts.start(memory, chunks)
        if any(handler.kind != "async" for handler in handlers):
            await self._forks.start()
        else:
            await self._forks.spare()
        self.ready = True

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """See Places. Raises ConfigError when the user's modules have to be imported again, and cannot be."""
        place = self._in_hosts if handler.kind == "graph" else self._in_processes
        return await place.run(running, handler, children)

    def drain(self, running: Running) -> None:
        """See Places."""
        self._in_hosts.drain(running)

    async def close(self) -> None:
        """See Places. Afterwards no child process is left."""
        self.ready = False
        await self._forks.close()
