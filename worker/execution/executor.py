"""Runs the attempts a worker was given: one queue for coroutines on the loop, and functions and graphs in processes.

Each attempt is an asyncio task of its own: what a handler does to the task it runs in, at once or by a timer later on,
it does to its own attempt. A slot is no object that could be lost, but the room left by the attempts that run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from datetime import datetime
from time import monotonic

from core import failpoints
from core.errors import BadTask
from core.tasks import Task, utc_now
from worker.authoring.context import ChildOutcome, Progress
from worker.authoring.registry import Handlers
from worker.execution.attempt import Finished, Running
from worker.execution.deadlines import GRACE_S, Deadlines, set_due
from worker.execution.loop_executor import LoopExecutor
from worker.execution.outcomes import raised, stopped, too_late
from worker.execution.process_executor import ProcessExecutor
from worker.execution.task_queue import TaskQueue

__all__ = ["Executor", "Finished", "Running"]

log = logging.getLogger(__name__)


class Executor:
    """At most ``concurrency`` attempts at a time; the next is the most urgent, then the oldest.

    Everything is called in one event loop's thread, and so are ``on_finished``, once for each attempt that was not
    withdrawn or forgotten, and ``on_progress``, at most ten times a second for each. Nothing is written anywhere: after
    a crash whoever gave the tasks gives them again. Raises ConfigError in a process that only imports handlers.
    """

    def __init__(
        self,
        handlers: Handlers,
        *,
        concurrency: int,
        child_memory_mb: int,
        on_finished: Callable[[Finished], None],
        on_progress: Callable[[Progress], None],
        modules: Sequence[str] = (),
        fetch_inputs: Callable[[Task], Awaitable[list[ChildOutcome]]] | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """``now``: the clock that deadlines are of."""
        self._handlers = handlers
        self._now = now
        self._concurrency = concurrency
        self._on_finished = on_finished
        self._fetch_inputs = fetch_inputs
        self._queue = TaskQueue()
        self._running: dict[str, Running] = {}
        self._variables = copy_context()  #: what each attempt begins with
        self._on_loop = LoopExecutor(self._running)
        self._in_processes = ProcessExecutor(handlers, modules, child_memory_mb)
        self._deadlines = Deadlines(self._running, self._variables, self._finish, on_progress)
        self._begins = False  #: between start and close

    @property
    def running(self) -> Mapping[str, Running]:
        """What runs now, by task id."""
        return self._running

    @property
    def queued(self) -> int:
        """How many attempts have not begun."""
        return len(self._queue)

    def holder_of_the_loop(self) -> str:
        """Whose handler the loop is in, in words; empty: nobody's. For another thread to ask."""
        return self._on_loop.holder()

    async def start(self) -> None:
        """Returns when all tasks are taken; called again it changes nothing. Coroutines run from the first moment,
        functions and graphs as soon as a child process has imported them. Raises ConfigError when it cannot do so."""
        self._on_loop.start(self._concurrency)
        self._begins = True
        self._begin_next()
        await self._in_processes.start()
        for task_id in self._queue.held:
            if task_id not in self._running:
                self._queue.release(task_id)
        self._begin_next()

    async def close(self) -> None:
        """Ends everything that runs; nothing is reported any more. Afterwards no child process is left, and it may be
        started again."""
        self._begins = False
        self._deadlines.close()
        self.withdraw()
        attempts = {running.attempt for running in self._running.values()}
        self._running.clear()  # what does not stand in there is not reported
        for attempt in attempts | self._deadlines.left_behind:
            attempt.cancel()
        self._on_loop.close()
        await self._in_processes.close()
        if attempts:
            _, stuck = await asyncio.wait(attempts, timeout=GRACE_S)
            self._deadlines.left_behind |= stuck
            if stuck:
                log.warning("%d handlers do not end when cancelled", len(stuck), extra={"action": "handlers_stuck"})

    def submit(self, task: Task) -> None:
        """Queues an attempt. One that is here already is not queued again; a newer one of a task cancels what was here,
        and begins when that has ended; so does the same one where the run that goes on is forgotten."""
        running, waiting = self._running.get(task.task_id), self._queue.get(task.task_id)
        for known in (waiting, running.task if running and not running.forgotten else None):
            if known is not None:
                if task.attempt <= known.attempt:
                    return
                self.cancel(known.task_id, known.attempt)
        if running or not self._has_processes_for(task):
            self._queue.hold(task)
        else:
            self._queue.add(task)
            self._begin_next()

    def _has_processes_for(self, task: Task) -> bool:
        """Whether those that it needs can be had by now; a coroutine needs none."""
        return self._in_processes.ready or any(
            handler.task_type == task.task_type and handler.kind == "async" for handler in self._handlers
        )

    def cancel(self, task_id: str, attempt: int) -> None:
        """Ends an attempt, as cancelled; queued ones at once. One that is not here has ended already."""
        waiting = self._queue.get(task_id)
        if waiting is not None and waiting.attempt == attempt:
            self._queue.remove(waiting)
            self._on_finished(Finished(task_id, attempt, "cancelled", self._now(), 0.0))
        running = self._running.get(task_id)
        if running is not None and running.task.attempt == attempt and running.stopped_s is None:
            running.cancelled = True
            running.stop()

    def withdraw(self) -> list[Task]:
        """Takes back everything that has not begun, in the order it would have."""
        return self._queue.drain()

    def forget_all(self) -> None:
        """Stops everything, and nobody hears how it ended: whoever asked for it knows nothing of it any more."""
        self.withdraw()
        for running in self._running.values():
            running.forgotten = True
            if running.stopped_s is None:
                running.stop()

    # One attempt

    def _begin_next(self) -> None:
        """Begins as many as there is room for."""
        while self._begins and len(self._running) < self._concurrency and (task := self._queue.next()) is not None:
            self._begin(task)

    def _begin(self, task: Task) -> None:
        running = self._running[task.task_id] = Running(task, self._now(), monotonic())
        # Not by the loop's task factory, which user code may have replaced.
        running.attempt = asyncio.Task(self._attempt(running), name=task.task_type, context=self._variables.copy())
        self._deadlines.watch()

    async def _attempt(self, running: Running) -> None:
        """Never raises: SystemExit would end the loop, and whatever else runs on it."""
        try:
            failpoints.hit("spawn")
            finished = await self._handled(running)
            failpoints.hit("ran")
        except BaseException as error:
            finished = raised(running, error)
        self._deadlines.left_behind.discard(running.attempt)
        if self._running.get(running.task.task_id) is running:  # else it was given up, and told of, before
            self._finish(running, finished)

    async def _handled(self, running: Running) -> Finished:
        task = running.task
        handler = self._handlers.get(task.task_type)
        if task.deadline is not None and task.deadline <= running.started_at:
            return too_late(running)
        set_due(running, handler)
        children = await self._inputs(running) if task.inputs or task.children else ()
        executor = self._on_loop if handler.kind == "async" else self._in_processes
        return await executor.run(running, handler, children)

    async def _inputs(self, running: Running) -> Sequence[ChildOutcome]:
        if self._fetch_inputs is None:
            raise BadTask("this task is a continuation, and can run only where its children's results can be read")
        return await self._fetch_inputs(running.task)

    def _finish(self, running: Running, finished: Finished) -> None:
        task_id = running.task.task_id
        del self._running[task_id]
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
