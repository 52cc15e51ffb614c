"""Runs the attempts a worker was given: coroutines on the loop, functions and graphs in child processes.

Each attempt is an asyncio task of its own: what a handler does to the task it runs in, at once or by a timer later on,
it does to its own attempt. A slot is no object that could be lost, but the room left by the attempts that run. No timer
is made per attempt: one sweep looks after all. An attempt that is cancelled or out of time is told so, has GRACE_S to
end, and is then killed; or left behind, if it is a coroutine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from datetime import datetime
from time import monotonic

import orjson
from msgspec import Raw
from msgspec.structs import replace

from core import failpoints
from core.errors import BadTask
from core.json_values import result_json
from core.tasks import NULL, Task, TaskError, utc_now
from worker.authoring.context import ChildOutcome, Context, Progress, Spawn, running_context
from worker.authoring.registry import Handler, Handlers
from worker.children.outcome import failure, out_of_memory, refuse_unrun, spawn_json, spawn_of
from worker.children.pool import ChildDied, ChildPool
from worker.execution.attempt import Finished, Running, Status, run_request
from worker.execution.logs import AttemptLogs
from worker.execution.task_queue import TaskQueue
from worker.execution.threads import AttemptThreads, attempt_threads

__all__ = ["Executor", "Finished", "Running"]

#: Between two looks at what runs: how late a timeout, a kill or a progress report can be.
SWEEP_S = 0.05

#: Between being told to stop and being killed.
GRACE_S = 1.0

#: Between being told to stop and being given up, for what cannot even be killed.
GIVE_UP_S = 3.0

#: A child that died with this share of its limit in memory is taken to have died of that.
NEAR_LIMIT = 0.9

#: Between two progress reports of one attempt that are passed on.
PROGRESS_S = 0.1

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
        self._on_progress = on_progress
        self._fetch_inputs = fetch_inputs
        self._child_memory_mb = child_memory_mb
        self._pool = ChildPool(handlers, modules, child_memory_mb)
        self._queue = TaskQueue()
        self._held: dict[str, Task] = {}  #: attempts that cannot begin yet: an old one still runs, or no child can
        self._functions_run = False  #: a child process has imported them
        self._running: dict[str, Running] = {}
        self._logs = AttemptLogs(self._running)
        self._threads: AttemptThreads | None = None  #: between start and close
        self._variables = copy_context()  #: what each attempt begins with
        self._left_behind: set[asyncio.Task[None]] = set()  #: attempts whose coroutine does not end
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def running(self) -> Mapping[str, Running]:
        """What runs now, by task id."""
        return self._running

    @property
    def queued(self) -> int:
        """How many attempts have not begun."""
        return len(self._queue) + len(self._held)

    def holder_of_the_loop(self) -> str:
        """Whose handler the loop is in, in words; empty: nobody's. For another thread to ask."""
        coroutines = [running for running in [*self._running.values()] if running.context]
        for running in coroutines:
            if asyncio.current_task(running.attempt.get_loop()) is running.attempt:
                return f"the handler of {running.task.task_type!r} (task {running.task.task_id})"
        names = ", ".join(sorted({repr(running.task.task_type) for running in coroutines}))
        return f"what one of the handlers of {names} has started" if names else ""

    async def start(self) -> None:
        """Returns when all tasks are taken; called again it changes nothing. Coroutines run from the first moment,
        functions and graphs as soon as a child process has imported them. Raises ConfigError when it cannot do so."""
        self._threads = attempt_threads(self._concurrency)
        self._logs.install()
        self._begin_next()
        if any(handler.kind != "async" for handler in self._handlers):
            await self._pool.start()
        else:
            await self._pool.spare()
        self._functions_run = True
        for task_id in [one for one in self._held if one not in self._running]:
            self._queue.add(self._held.pop(task_id))
        self._begin_next()

    async def close(self) -> None:
        """Ends everything that runs; nothing is reported any more. Afterwards no child process is left, and it may be
        started again."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._threads, self._functions_run = None, False
        self.withdraw()
        attempts = {running.attempt for running in self._running.values()}
        self._running.clear()  # what does not stand in there is not reported
        for attempt in attempts | self._left_behind:
            attempt.cancel()
        self._logs.remove()
        await self._pool.close()
        if attempts:
            _, stuck = await asyncio.wait(attempts, timeout=GRACE_S)
            self._left_behind |= stuck
            if stuck:
                log.warning("%d handlers do not end when cancelled", len(stuck), extra={"action": "handlers_stuck"})

    def submit(self, task: Task) -> None:
        """Queues an attempt. One that is here already is not queued again; a newer one of a task that runs
        cancels that, and begins when it has ended; so does the same one where the run that goes on is forgotten."""
        here = self._running.get(task.task_id)
        known = here.task if here is not None and not here.forgotten else self._queue.get(task.task_id)
        held = self._held.get(task.task_id)
        if task.attempt <= max(one.attempt if one else -1 for one in (known, held)):
            return
        if known is not None:
            self.cancel(task.task_id, known.attempt)
        if task.task_id in self._running or not (self._functions_run or self._is_coroutine(task)):
            self._held[task.task_id] = task
        else:
            self._queue.add(task)
            self._begin_next()

    def _is_coroutine(self, task: Task) -> bool:
        return any(one.task_type == task.task_type and one.kind == "async" for one in self._handlers)

    def cancel(self, task_id: str, attempt: int) -> None:
        """Ends an attempt, as cancelled; queued ones at once. One that is not here has ended already."""
        for waiting in (self._queue.get(task_id), self._held.get(task_id)):
            if waiting is not None and waiting.attempt == attempt:
                self._queue.remove(waiting)
                self._held.pop(task_id, None)
                self._on_finished(Finished(task_id, attempt, "cancelled", self._now(), 0.0))
        running = self._running.get(task_id)
        if running is not None and running.task.attempt == attempt and running.stopped_s is None:
            running.cancelled = True
            self._stop(running)

    def withdraw(self) -> list[Task]:
        """Takes back everything that has not begun, in the order it would have."""
        tasks = [*self._queue.drain(), *self._held.values()]
        self._held.clear()
        return tasks

    def forget_all(self) -> None:
        """Stops everything, and nobody hears how it ended: whoever asked for it knows nothing of it any more."""
        self.withdraw()
        for running in self._running.values():
            running.forgotten = True
            if running.stopped_s is None:
                self._stop(running)

    # One attempt

    def _begin_next(self) -> None:
        """Begins as many as there is room for."""
        while self._threads and len(self._running) < self._concurrency and (task := self._queue.next()) is not None:
            self._begin(task)

    def _begin(self, task: Task) -> None:
        running = self._running[task.task_id] = Running(task, self._now(), monotonic())
        # Not by the loop's task factory, which user code may have replaced.
        running.attempt = asyncio.Task(self._attempt(running), name=task.task_type, context=self._variables.copy())
        if self._sweeper is None:
            self._sweep_soon()

    async def _attempt(self, running: Running) -> None:
        """Never raises: SystemExit would end the loop, and whatever else runs on it."""
        try:
            failpoints.hit("spawn")
            finished = await self._handled(running)
            failpoints.hit("ran")
        except BaseException as error:
            finished = self._raised(running, error)
        self._left_behind.discard(running.attempt)
        if self._running.get(running.task.task_id) is running:  # else it was given up, and told of, before
            self._finish(running, finished)

    async def _handled(self, running: Running) -> Finished:
        task = running.task
        handler = self._handlers.get(task.task_type)
        if task.deadline is not None and task.deadline <= running.started_at:
            return _failed(running, _too_late(task))
        _set_due(running, handler)
        children = await self._inputs(running) if task.inputs or task.children else ()
        if handler.kind == "async":
            return await self._on_loop(running, handler, children)
        return await self._in_child(running, children)

    async def _inputs(self, running: Running) -> Sequence[ChildOutcome]:
        if self._fetch_inputs is None:
            raise BadTask("this task is a continuation, and can run only where its children's results can be read")
        return await self._fetch_inputs(running.task)

    async def _on_loop(self, running: Running, handler: Handler, children: Sequence[ChildOutcome]) -> Finished:
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
            return _delegated(running, spawn_json(value))
        return _ended(running, "completed", NULL if value is None else Raw(result_json(value)))

    async def _in_child(self, running: Running, children: Sequence[ChildOutcome]) -> Finished:
        child = await self._pool.acquire()
        running.child, running.hint = child, self._pool.hint
        try:
            answer = await child.run(running.task.task_id, run_request(running.task, children), running.report)
        finally:
            running.printed, running.child = child.printed, None
            self._pool.release(child)
        if "error" in answer:
            return _failed(running, TaskError(**answer["error"]))
        if "spawn" in answer:
            return _delegated(running, orjson.dumps(answer["spawn"]))
        return _ended(running, "completed", Raw(orjson.dumps(answer["result"])))

    def _raised(self, running: Running, error: BaseException) -> Finished:
        problem = failure(error, running.task.attempt)
        if type(error) is ChildDied:
            problem = replace(problem, type="process_died", traceback="")
            limit_mb = self._handlers.get(running.task.task_type).memory_mb or self._child_memory_mb
            if error.peak_mb >= limit_mb * NEAR_LIMIT:
                problem = out_of_memory(problem, limit_mb)
        return _failed(running, problem)

    def _finish(self, running: Running, finished: Finished) -> None:
        task_id = running.task.task_id
        del self._running[task_id]
        self._look_for_threads(running)
        running.hear_no_more()
        if running.stopped_s is not None:
            finished = _stopped(running)
        if (held := self._held.pop(task_id, None)) is not None:
            self._queue.add(held)
        self._begin_next()
        if not running.forgotten:
            self._report(finished)

    def _look_for_threads(self, running: Running) -> None:
        if self._threads and running.context and (left := self._threads.ended(running.context)):
            log.warning(
                "%s has ended, but %d of its threads go on until their calls return. Give what blocks a timeout, or"
                " make the handler a plain function, whose process can be ended",
                running.task.task_id,
                left,
                extra={"action": "threads_left_behind", "task_type": running.task.task_type},
            )

    def _report(self, finished: Finished) -> None:
        try:
            self._on_finished(finished)
        except Exception:
            log.exception("reporting an attempt failed", extra={"action": "report_failed"})

    # Time

    def _sweep_soon(self) -> None:
        # What ends an attempt is in its context, and begins others and this.
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep, context=self._variables)

    def _sweep(self) -> None:
        now = monotonic()
        for running in [*self._running.values()]:
            if running.unreported and not running.forgotten and now >= running.reported_s + PROGRESS_S:
                running.unreported, running.reported_s = False, now
                progress = running.progress
                assert progress is not None
                self._on_progress(progress)
            if running.attempt.done():  # cancelled before its first step, by user code that cancels all tasks it finds
                self._finish(running, self._raised(running, asyncio.CancelledError()))
            elif running.stopped_s is not None:
                self._insist(running, now - running.stopped_s)
            elif now >= running.due_s:
                self._stop(running)
        self._sweeper = None
        if self._running:
            self._sweep_soon()

    def _stop(self, running: Running) -> None:
        running.stopped_s = monotonic()
        if running.context is not None:
            running.context.cancel()
        if running.child is not None:
            running.child.cancel()
        else:
            running.attempt.cancel()

    def _insist(self, running: Running, since_s: float) -> None:
        if running.child is not None and not running.killed and since_s >= GRACE_S:
            running.killed = True
            running.child.kill()
        elif since_s >= (GRACE_S if running.child is None else GIVE_UP_S):
            log.warning("a handler does not end: %s", running.task.task_id, extra={"action": "attempt_left_behind"})
            self._left_behind.add(running.attempt)
            self._finish(running, _stopped(running))


def _set_due(running: Running, handler: Handler) -> None:
    task = running.task
    left_s = task.timeout_s or handler.timeout_s
    if task.deadline is not None:
        left_s = min(left_s, (task.deadline - running.started_at).total_seconds())
    running.due_s = running.started_monotonic + left_s


def _too_late(task: Task) -> TaskError:
    message = f"its deadline, {task.deadline}, had passed before it began"
    return TaskError(type="deadline", message=message, attempt=task.attempt, retryable=False)


def _stopped(running: Running) -> Finished:
    if running.cancelled:
        return _ended(running, "cancelled")
    limit_s = running.due_s - running.started_monotonic
    message = f"it ran longer than {limit_s:.3g} s"
    if running.task.deadline is not None:
        message += f", or past its deadline {running.task.deadline}"
    if running.hint:
        message += f"; {running.hint}"
    return _failed(running, TaskError(type="timeout", message=message, attempt=running.task.attempt))


def _failed(running: Running, error: TaskError) -> Finished:
    return _ended(running, "failed", error=replace(error, output=running.output))


def _delegated(running: Running, told: bytes) -> Finished:
    return _ended(running, "delegated", spawn=spawn_of(told))


def _ended(
    running: Running,
    status: Status,
    result_json: Raw = NULL,
    error: TaskError | None = None,
    spawn: Spawn | None = None,
) -> Finished:
    task = running.task
    run_ms = (monotonic() - running.started_monotonic) * 1000
    output = running.output if running.printed and error is None else ""
    return Finished(task.task_id, task.attempt, status, running.started_at, run_ms, result_json, error, spawn, output)
