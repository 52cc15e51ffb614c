"""Attempts that are worked on outside: offered to whoever asks for them, and over when that one answers.

Nothing of an attempt runs here. So it cannot be killed either: one that is cancelled, or has run for too long, is over
at once, and an answer to it comes too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from msgspec import Raw

from core.redis_backend.clock import monotonic_s
from core.tasks import Task, TaskError
from worker.authoring.context import ChildOutcome, Progress
from worker.authoring.registry import Handler, Handlers
from worker.execution.attempt import Finished, Running
from worker.execution.deadlines import set_due
from worker.execution.outcomes import completed, failed, returned
from worker.hosts.chunk_writer import ChunkWriter
from worker.hosts.memory import Memory

__all__ = ["Offer", "Offers"]


class Offer:
    """One attempt, until somebody has answered it."""

    def __init__(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> None:
        self._running = running
        self._handler = handler
        self.children = children  #: the outcomes that a continuation is given
        self.is_taken = False  #: whether somebody works on it
        self.outcome: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()

    @property
    def task(self) -> Task:
        return self._running.task

    @property
    def left_s(self) -> float:
        """How much time is left for it, s."""
        return max(0.0, self._running.due_s - monotonic_s())

    @property
    def printed(self) -> bytes:
        """See Remote."""
        return self._running.printed

    def take(self) -> None:
        """Notes that somebody works on it. Its time begins with the first of them."""
        if not self.is_taken:
            self.is_taken = True
            self._running.begin_later(monotonic_s() - self._running.started_monotonic)
            set_due(self._running, self._handler)

    def report(self, progress: Progress) -> None:
        """Passes progress on."""
        self._running.report(progress)

    def complete(self, result: Raw) -> None:
        """Ends it with a result, which is JSON within the limits."""
        self._end(completed(self._running, result))

    def fail(self, error: TaskError) -> None:
        """Ends it with an error."""
        self._end(failed(self._running, error))

    def give_back(self) -> None:
        """Ends it as if it had never begun."""
        self._end(returned(self._running))

    def cancel(self) -> None:
        """See Remote: whoever waits for it is told why by `Running`."""
        self.give_back()

    def kill(self) -> None:
        """See Remote."""

    def _end(self, finished: Finished) -> None:
        if not self.outcome.done():
            self.outcome.set_result(finished)


class Offers:
    """The Places of attempts that are worked on outside."""

    ready = True

    def __init__(self) -> None:
        self._open: dict[str, Offer] = {}  # by task id, the oldest first
        self._more = asyncio.Condition()
        self._is_over = False  # whether nothing is offered any more

    async def start(self, handlers: Handlers, memory: Memory | None, chunks: ChunkWriter | None) -> None:
        """See Places."""

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """See Places."""
        offer = self._open[running.task.task_id] = Offer(running, handler, children)
        running.child = offer
        try:
            async with self._more:
                self._more.notify_all()
            return await offer.outcome
        finally:
            running.child = None
            if self._open.get(running.task.task_id) is offer:
                del self._open[running.task.task_id]

    def drain(self, running: Running) -> None:
        """See Places."""

    async def close(self) -> None:
        """See Places."""

    def get(self, task_id: str, attempt: int) -> Offer | None:
        """The offer of an attempt; None: that attempt is not here any more, or never was."""
        offer = self._open.get(task_id)
        return offer if offer is not None and offer.task.attempt == attempt else None

    async def end(self) -> None:
        """Has those that wait for more wait no longer."""
        self._is_over = True
        async with self._more:
            self._more.notify_all()

    @property
    def open(self) -> list[Offer]:
        """Those that nobody has answered, the oldest first."""
        return [offer for offer in self._open.values() if not offer.outcome.done()]

    async def take(self, held: Collection[str], wait_s: float) -> list[Offer]:
        """All that are open but those of the tasks that are `held`, once there is one; empty: there was none for so
        long. What was taken before and is not held is given again, since whoever took it may not have got it."""
        async with self._more:
            try:
                async with asyncio.timeout(wait_s):
                    while not (found := [offer for offer in self.open if offer.task.task_id not in held]):
                        if self._is_over:
                            return []
                        await self._more.wait()
            except TimeoutError:
                return []
        for offer in found:
            offer.take()
        return found
