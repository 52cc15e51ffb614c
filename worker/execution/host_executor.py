"""Runs graphs in hosts. A run whose host dies because of another one goes on in the next host, as if nothing had
happened to it: that costs its task no attempt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import orjson
from msgspec import Raw, to_builtins

from core.redis_backend.clock import monotonic_s
from core.tasks import grants_of, tells
from worker.authoring.context import ChildOutcome
from worker.authoring.registry import Handler
from worker.children.forks import Forks
from worker.execution.attempt import Finished, Running, graph_request, run_request, thread_of
from worker.execution.deadlines import deadline_s, set_due
from worker.execution.outcomes import cause_of_death, completed, failed, returned, suspended
from worker.hosts.chunk_writer import ChunkWriter
from worker.hosts.memory import Memory
from worker.hosts.messages import Ended
from worker.hosts.pool import HostPool
from worker.hosts.process import Blame, HostDied, HostProcess, HostRun

__all__ = ["HostExecutor"]

#: How many runs that are suspected of having killed their host run by themselves at the same time, a process for each.
SUSPECTS_AT_ONCE = 8

#: After so many hosts that have ended below it, a run fails even if it is not to blame.
MOVES = 20

log = logging.getLogger(__name__)


class HostExecutor:
    """Runs attempts whose handler is a graph, in at most `hosts` processes, and in one for each that wants it."""

    def __init__(self, forks: Forks, hosts: int, memory_mb: int) -> None:
        self._pool = HostPool(forks, hosts)
        self._forks = forks
        self._memory_mb = memory_mb
        self._suspects = asyncio.Semaphore(SUSPECTS_AT_ONCE)
        self._chunks: ChunkWriter | None = None
        self._runs: dict[Running, HostRun] = {}

    def start(self, memory: Memory | None, chunks: ChunkWriter | None) -> None:
        """`memory`: where runs remember; None: nowhere, so that each attempt begins anew. `chunks`:
        writes what they stream; None: nothing does."""
        self._pool.memory, self._chunks = memory, chunks

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """The outcome of an attempt. Raises BadTask when the request is too large; ConfigError when the user's modules
        have to be imported again, and cannot be; NoProcess."""
        suspected, moves = False, 0
        while True:
            request = await self._request(running, children, moved=moves > 0 or suspected)
            try:
                if suspected:
                    waits_from_s, running.due_s = monotonic_s(), deadline_s(running)
                    async with self._suspects:
                        running.begin_later(monotonic_s() - waits_from_s)  # the wait was no fault of its own
                        set_due(running, handler)
                        ended = await self._ended(running, request, alone=True)
                else:
                    ended = await self._ended(running, request, alone=handler.isolated)
            except HostDied as death:
                if death.blame is Blame.GUILTY or running.stopped_s is not None or moves == MOVES:
                    return failed(running, cause_of_death(running, death, handler.memory_mb or self._memory_mb))
                moves += 1
                suspected = suspected or death.blame is Blame.SUSPECT
                log.warning(
                    "task %s goes on in another process, since its own has ended: %s",
                    running.task.task_id,
                    death,
                    extra={"action": "run_moved", "task_type": running.task.task_type, "alone": suspected},
                )
                continue
            if ended.short_of and not (suspected or handler.isolated):
                suspected = True  # in a process of its own it has enough, unless the fault is its own
                continue
            if self._chunks is not None and tells(running.task):
                await self._chunks.flush()  # before the outcome is told, which is the end of the stream
            return _finished(running, ended)

    async def _request(self, running: Running, children: Sequence[ChildOutcome], *, moved: bool) -> bytes:
        request = run_request(running.task, children, watched=running.on_event is not None)
        if (memory := self._pool.memory) is None:
            return orjson.dumps({**request, "thread": None, "grants": (), "limited": False})
        stored = graph_request(running.task, children, moved=moved)
        limited = await memory.limits.any_known()
        return orjson.dumps({**request, **stored, "grants": to_builtins(grants_of(running.task)), "limited": limited})

    def drain(self, running: Running) -> None:
        """Has an attempt stop between two nodes. Its outcome is that it was returned, unless it ends before that."""
        if run := self._runs.get(running):
            run.drain()

    async def _ended(self, running: Running, request: bytes, *, alone: bool) -> Ended:
        host = await self._pool.acquire(alone=alone)
        try:
            return await self._ran_in(host, running, request)
        finally:
            if running.child is not None:
                running.printed, running.child = running.child.printed, None
                del self._runs[running]
                if self._pool.memory is not None:
                    self._pool.memory.accounts.run_is_over(running.task.task_id, running.task.attempt)
            self._pool.release(host)

    async def _ran_in(self, host: HostProcess, running: Running, request: bytes) -> Ended:
        def begun(run: HostRun) -> None:
            self._runs[running] = running.child = run
            running.hint = self._forks.hint

        tell = running.tell if running.on_event else None
        stream = self._chunks.stream_of(running.task) if self._chunks and tells(running.task) else None
        ended = await host.run(running.task.task_id, request, running.report, tell, begun, stream, running.tell_span)
        if ended.stuck:
            log.warning(
                "%s has ended, but %s, so its process is ended, and what else ran there goes on in another",
                running.task.task_id,
                ended.stuck,
                extra={"action": "host_killed", "task_type": running.task.task_type},
            )
            assert running.child is not None
            running.child.kill()
        return ended


def _finished(running: Running, ended: Ended) -> Finished:
    if ended.drained:
        return returned(running)
    if ended.error is not None:
        return failed(running, ended.error)
    if ended.suspension:
        return suspended(running, ended.suspension)
    task, finished = running.task, completed(running, Raw(ended.result))
    over = ended.stored and not ended.in_thread and thread_of(task) == task.task_id
    return finished._replace(thread_over=over)
