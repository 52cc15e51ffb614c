"""Runs a worker's attempts: coroutines on the event loop, functions and graphs in places beside it.

Each attempt is an asyncio task of its own. Whatever a handler does to the task in which it runs, now or by a timer,
affects only its own attempt. A slot is not an object, which could get lost: the number of free slots is `concurrency`
minus the number of attempts that run. Graphs that share a place have slots of their own, since a run that waits for a
model costs next to nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from datetime import datetime
from typing import Any, Protocol

from core import failpoints
from core.errors import BadTask
from core.redis_backend.clock import monotonic_s
from core.tasks import Task, utc_now
from worker.authoring.context import ChildOutcome, Progress
from worker.authoring.registry import Handler, Handlers
from worker.children.forks import NoProcess
from worker.execution.attempt import Finished, Running
from worker.execution.deadlines import GRACE_S, Deadlines, set_due
from worker.execution.limit_waits import LimitWaits
from worker.execution.loop_executor import LoopExecutor
from worker.execution.outcomes import raised, returned, stopped, too_late
from worker.execution.task_queue import TaskQueue
from worker.hosts.chunk_writer import ChunkWriter
from worker.hosts.memory import Memory

__all__ = ["Attempts", "Finished", "Places", "Running"]

log = logging.getLogger(__name__)


class Places(Protocol):
    """Where attempts run whose handler is no coroutine."""

    ready: bool  #: whether attempts can run there now

    async def start(self, handlers: Handlers, memory: Memory | None, chunks: ChunkWriter | None) -> None:
        """Returns when it is `ready`. Raises ConfigError when the user's modules cannot be imported there."""

    async def run(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
        """The outcome of an attempt. Raises BadTask when it cannot be run; NoProcess."""

    def drain(self, running: Running) -> None:
        """Has the graph of an attempt stop between two nodes, if it gets that far, and reported as returned."""

    async def close(self) -> None:
        """Ends whatever is left there. It can be started again."""


class Attempts:
    """Runs at most `concurrency` attempts at a time, and `agent_concurrency` graphs. The most urgent comes first; of
    equally urgent ones, the oldest.

    Call it from the thread of one event loop. It calls back there as well: `on_finished` once for each attempt that was
    neither withdrawn nor forgotten, `on_progress` at most ten times a second for each attempt. It stores nothing: after
    a crash, whoever submitted the tasks submits them again. Raises ConfigError in a process that only imports handlers.
    """

    def __init__(
        self,
        handlers: Handlers,
        places: Places,
        *,
        concurrency: int,
        agent_concurrency: int = 1,
        on_finished: Callable[[Finished], None],
        on_progress: Callable[[Progress], None],
        fetch_inputs: Callable[[Task], Awaitable[list[ChildOutcome]]] | None = None,
        now: Callable[[], datetime] = utc_now,
        on_event: Callable[[Task, dict[str, Any]], None] | None = None,
    ) -> None:
        """`fetch_inputs`: reads the outcomes that a continuation is given. `now`: the clock by which deadlines are
        meant; aware, UTC. `on_event`: called with the fields of each event that an attempt tells; None: nobody wants
        them."""
        self._on_event = on_event
        self._handlers = handlers
        self._now = now
        self._concurrency = concurrency
        self._agent_concurrency = agent_concurrency
        self._on_finished = on_finished
        self._fetch_inputs = fetch_inputs
        self._queue = TaskQueue(handlers.hosts)
        self._running: dict[str, Running] = {}
        self._hosted: set[str] = set()  #: those of `_running` that take slots of agents
        self._waits = LimitWaits(self._running, self._hosted, handlers)
        self._variables = copy_context()  #: the context variables of which each attempt gets a copy
        self._on_loop = LoopExecutor(self._running)
        self._places = places
        self._deadlines = Deadlines(self._running, self._variables, self._finish, on_progress)
        self._begins = False  #: whether attempts may begin: between start and close

    @property
    def running(self) -> Mapping[str, Running]:
        """The attempts that run now, by task id."""
        return self._running

    @property
    def queued(self) -> int:
        """The number of attempts that have not begun."""
        return len(self._queue)

    @property
    def oldest_queued(self) -> str | None:
        """The task of the attempt that has waited longest to begin; None: none waits."""
        return self._queue.oldest

    @property
    def agent_slots(self) -> int:
        """How many graphs may run at a time: `agent_concurrency`, and as many more as wait for a limit of models, so
        that those keep no others out."""
        return self._waits.slots(self._agent_concurrency)

    def waits_for(self, task_id: str, limit: str) -> Callable[[], None]:
        """Notes that a call of a run waits for a limit of models. Returns what ends that."""
        over = self._waits.begin(task_id, limit)
        self._begin_next()
        return over

    def holder_of_the_loop(self) -> str:
        """A phrase that names the handler which occupies the event loop now; empty if none does. Another thread may
        call this."""
        return self._on_loop.holder()

    async def start(self, memory: Memory | None = None, chunks: ChunkWriter | None = None) -> None:
        """Begins to run attempts. Returns when functions and graphs can run too; coroutines run before that. Calling it
        again changes nothing. Raises ConfigError when the user's modules cannot be imported.

        `memory`: where graphs remember; None: nowhere. `chunks`: writes what they stream; None: nothing
        does."""
        self._on_loop.start(self._concurrency)
        self._begins = True
        self._begin_next()
        await self._places.start(self._handlers, memory, chunks)
        for task_id in self._queue.held:
            if task_id not in self._running:
                self._queue.release(task_id)
        self._begin_next()

    async def close(self) -> None:
        """Ends all attempts without reporting them. Afterwards the places are closed too, and the executor can be
        started again."""
        self._begins = False
        self._deadlines.close()
        self.withdraw()
        attempts = {running.attempt for running in self._running.values()}
        self._hosted.clear()
        self._running.clear()  # only attempts in there are reported
        for attempt in attempts | self._deadlines.left_behind:
            attempt.cancel()
        self._on_loop.close()
        await self._places.close()
        if attempts:
            _, stuck = await asyncio.wait(attempts, timeout=GRACE_S)
            self._deadlines.left_behind |= stuck
            if stuck:
                log.warning("%d handlers do not end when cancelled", len(stuck), extra={"action": "handlers_stuck"})

    def submit(self, task: Task) -> None:
        """Queues an attempt. An attempt that is already here is not queued again, unless it runs and is forgotten. A
        newer attempt at the same task cancels the older one, and begins when that has ended."""
        running, waiting = self._running.get(task.task_id), self._queue.get(task.task_id)
        for known in (waiting, running.task if running and not running.forgotten else None):
            if known is not None:
                if task.attempt <= known.attempt:
                    return
                self.cancel(known.task_id, known.attempt)
        if running or not self._has_a_place_for(task):
            self._queue.hold(task)
        else:
            self._queue.add(task)
            self._begin_next()

    def _has_a_place_for(self, task: Task) -> bool:
        """Whether the task can begin; a coroutine needs no place."""
        return self._places.ready or any(
            handler.task_type == task.task_type and handler.kind == "async" for handler in self._handlers
        )

    def cancel(self, task_id: str, attempt: int) -> None:
        """Ends an attempt as cancelled, at once if it has not begun. An attempt that is not here has ended already."""
        waiting = self._queue.get(task_id)
        if waiting is not None and waiting.attempt == attempt:
            self._queue.remove(waiting)
            self._on_finished(Finished(task_id, attempt, "cancelled", self._now(), 0.0))
        running = self._running.get(task_id)
        if running is not None and running.task.attempt == attempt and running.stopped_s is None:
            running.cancelled = True
            running.stop()

    def retrieve(self, task_id: str, attempt: int) -> Task | None:
        """Removes an attempt that has not begun, and returns its task; None: it has begun, or is not here."""
        waiting = self._queue.get(task_id)
        if waiting is None or waiting.attempt != attempt:
            return None
        self._queue.remove(waiting)
        return waiting

    def withdraw(self) -> list[Task]:
        """Removes all attempts that have not begun. Returns their tasks, in the order in which they would have
        begun."""
        return self._queue.drain()

    def drain(self) -> list[Task]:
        """As `withdraw`; and has the graphs that run stop between two nodes, if they get that far, and reported as
        returned."""
        for running in self._running.values():
            self._places.drain(running)
        return self.withdraw()

    def forget_all(self) -> None:
        """Stops all attempts without reporting them: whoever submitted them knows nothing of them any more."""
        self.withdraw()
        for running in self._running.values():
            running.forgotten = True
            if running.stopped_s is None:
                running.stop()

    # One attempt

    def _begin_next(self) -> None:
        """Begins as many attempts as there are free slots."""
        running, hosted = self._running, self._hosted
        while self._begins and len(running) - len(hosted) < self._concurrency and (task := self._queue.next()):
            self._begin(task)
        while self._begins and len(hosted) < self.agent_slots and (task := self._queue.next(hosted=True)):
            hosted.add(task.task_id)
            self._begin(task)

    def _begin(self, task: Task) -> None:
        running = self._running[task.task_id] = Running(
            task, self._now(), monotonic_s(), self._on_event, self._deadlines.watch
        )  # fmt: skip
        # The loop's own way to make tasks is bypassed, since user code may have replaced its task factory.
        running.attempt = asyncio.Task(self._attempt(running), name=task.task_type, context=self._variables.copy())
        self._deadlines.watch()

    async def _attempt(self, running: Running) -> None:
        """Never raises: SystemExit would end the loop and everything else that runs on it."""
        try:
            failpoints.hit("spawn")
            finished = await self._handled(running)
            failpoints.hit("ran")
        except NoProcess as error:  # the task can do nothing about it
            log.warning("a task goes back: %s", error, extra={"action": "no_process"})
            finished = returned(running)
        except BaseException as error:
            finished = raised(running, error)
        self._deadlines.left_behind.discard(running.attempt)
        if self._running.get(running.task.task_id) is running:  # otherwise it was given up, and has been reported
            self._finish(running, finished)

    async def _handled(self, running: Running) -> Finished:
        task = running.task
        handler = self._handlers.get(task.task_type)
        if task.deadline is not None and task.deadline <= running.started_at:
            return too_late(running)
        set_due(running, handler)
        children = await self._inputs(running) if task.inputs else ()
        if handler.kind == "async":
            return await self._on_loop.run(running, handler, children)
        return await self._places.run(running, handler, children)

    async def _inputs(self, running: Running) -> Sequence[ChildOutcome]:
        if self._fetch_inputs is None:
            raise BadTask("this task is a continuation, and can run only where its children's results can be read")
        return await self._fetch_inputs(running.task)

    def _finish(self, running: Running, finished: Finished) -> None:
        task_id = running.task.task_id
        del self._running[task_id]
        self._hosted.discard(task_id)
        self._on_loop.ended(running)
        running.hear_no_more()
        if running.stopped_s is not None:
            finished = stopped(running)
        self._queue.release(task_id)
        self._begin_next()
        if not running.forgotten:
            self._report(finished)

    def _report(self, finished: Finished) -> None:
        try:
            self._on_finished(finished)
        except Exception:
            log.exception("reporting an attempt failed", extra={"action": "report_failed"})
