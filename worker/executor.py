"""Runs the attempts a worker was given: coroutines on the loop, functions and graphs in child processes.

A few slots live as long as the executor; each takes the next task of the queue, awaits its handler and reports. No
asyncio task is made per attempt, and no timer: one sweep looks after those that have to wait for something. An
attempt that is cancelled or out of time is told so, has GRACE_S to end, and is then killed; or left behind, if it is a
coroutine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from datetime import datetime
from time import monotonic
from typing import Any

import orjson

from core import failpoints
from core.errors import BadTask
from core.tasks import Task, TaskError, Then, utc_now
from worker.attempt import Finished, Running, Status, run_request
from worker.child_pool import ChildDied, ChildPool
from worker.context import ChildOutcome, Context, Progress, Spawn, running_context
from worker.handler_registry import Handler, Handlers
from worker.isolation import isolated
from worker.outcome import failure, out_of_memory, result_json
from worker.task_queue import TaskQueue

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

#: Longest stretch of work without letting the loop do something else: heartbeats must go out.
SLICE_S = 0.002

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
        self._slots: set[asyncio.Task[None]] = set()
        self._left_behind: set[asyncio.Task[None]] = set()  #: slots whose coroutine does not end
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._slice_end = monotonic()

    @property
    def running(self) -> Mapping[str, Running]:
        """What runs now, by task id."""
        return self._running

    @property
    def queued(self) -> int:
        """How many attempts have not begun."""
        return len(self._queue) + len(self._held)

    async def start(self) -> None:
        """Returns when all tasks are taken; called again it changes nothing. Coroutines run from the first moment,
        functions and graphs as soon as a child process has imported them. Raises ConfigError when it cannot do so."""
        for _ in range(self._concurrency - len(self._slots)):
            self._open_slot()
        if any(handler.kind != "async" for handler in self._handlers):
            await self._pool.start()
        else:
            await self._pool.spare()
        self._functions_run = True
        for task_id in [one for one in self._held if one not in self._running]:
            self._queue.add(self._held.pop(task_id))
        self._wake()

    async def close(self) -> None:
        """Ends everything that runs; nothing is reported any more. Afterwards no child process is left, and it may be
        started again."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._functions_run = False
        self.withdraw()
        slots = self._slots | self._left_behind
        self._slots.clear()  # whoever does not find itself in there stops
        for slot in slots:
            slot.cancel()
        await self._pool.close()
        if slots:
            _, stuck = await asyncio.wait(slots, timeout=GRACE_S)
            if stuck:
                log.warning("%d handlers do not end when cancelled", len(stuck), extra={"action": "handlers_stuck"})
        self._running.clear()

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
            self._wake()

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

    # Slots

    def _open_slot(self) -> None:
        slot = asyncio.get_running_loop().create_task(self._serve(), name="worker slot")
        self._slots.add(slot)
        slot.add_done_callback(self._slot_ended)

    def _slot_ended(self, slot: asyncio.Task[None]) -> None:
        self._left_behind.discard(slot)
        if slot not in self._slots:
            return
        self._slots.remove(slot)
        if not slot.cancelled() and (error := slot.exception()) is not None:
            log.error("reporting an attempt failed", exc_info=error, extra={"action": "report_failed"})
            self._open_slot()

    async def _serve(self) -> None:
        slot = asyncio.current_task()
        assert slot is not None
        while True:
            task = self._queue.next()
            if task is None:
                await self._woken()
                continue
            running = self._running[task.task_id] = Running(task, slot, self._now(), monotonic())
            finished = await self._attempt(running)
            if slot not in self._slots:
                return
            while slot.cancelling():
                slot.uncancel()  # it was this attempt that was to stop, not the slot
            self._finish(running, finished)
            if monotonic() >= self._slice_end:
                await self._breathe()

    async def _woken(self) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        try:
            await woken
        finally:
            self._waking = False

    def _wake(self) -> None:
        """One slot at a time: as long as handlers do not wait, one is enough, and the rest would wake for nothing."""
        while self._idle and not self._waking:
            woken = self._idle.pop()
            if not woken.done():
                self._waking = True
                woken.set_result(None)

    async def _breathe(self) -> None:
        # The first slot of this turn of the loop has it renewed for the next, before any slot goes on: so they share
        # one slice for each turn, however many they are.
        if self._slice_end:
            self._slice_end = 0.0
            asyncio.get_running_loop().call_soon(self._new_slice)
        await asyncio.sleep(0)

    def _new_slice(self) -> None:
        self._slice_end = monotonic() + SLICE_S

    # One attempt

    async def _attempt(self, running: Running) -> Finished:
        try:
            failpoints.hit("spawn")
            finished = await self._handled(running)
            failpoints.hit("ran")
            return finished
        except asyncio.CancelledError as error:
            if running.stopped_s is None and running.slot.cancelling():
                raise  # not this attempt: the slot itself is to end
            return self._raised(running, error)
        except GeneratorExit:
            raise
        except BaseException as error:  # whatever user code raises, SystemExit and KeyboardInterrupt too
            return self._raised(running, error)

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
        self._waits(running)
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
        arguments = handler.arguments(task.payload, context)
        variables = copy_context()
        variables.run(running_context.set, context)
        value = await isolated(handler.function(*arguments), variables, self._waits, running)
        if isinstance(value, Spawn):
            return _ended(running, "delegated", spawn=value)
        if value is not None:
            value = orjson.loads(result_json(value))  # what others will see, and nobody's to change any more
        return _ended(running, "completed", result=value)

    async def _in_child(self, running: Running, children: Sequence[ChildOutcome]) -> Finished:
        self._waits(running)
        child = await self._pool.acquire()
        running.child = child
        try:
            answer = await child.run(running.task.task_id, run_request(running.task, children), running.report)
        finally:
            running.printed, running.child = child.printed, None
            self._pool.release(child)
        if "error" in answer:
            return _failed(running, TaskError(**answer["error"]))
        if "spawn" in answer:
            spawn = answer["spawn"]
            return _ended(
                running,
                "delegated",
                spawn=Spawn(tuple(map(Task.parse, spawn["children"])), Then(**spawn["then"])),
            )
        return _ended(running, "completed", result=answer["result"])

    def _raised(self, running: Running, error: BaseException) -> Finished:
        problem = failure(error, running.task.attempt)
        if isinstance(error, ChildDied):
            problem = problem.model_copy(update={"type": "process_died", "traceback": ""})
            limit_mb = self._handlers.get(running.task.task_type).memory_mb or self._child_memory_mb
            if error.peak_mb >= limit_mb * NEAR_LIMIT:
                problem = out_of_memory(problem, limit_mb)
        return _failed(running, problem)

    def _finish(self, running: Running, finished: Finished) -> None:
        task_id = running.task.task_id
        del self._running[task_id]
        if running.stopped_s is not None:
            finished = _stopped(running)
        if (held := self._held.pop(task_id, None)) is not None:
            self._queue.add(held)
            self._wake()
        if not running.forgotten:
            self._on_finished(finished)

    # Time

    def _waits(self, running: Running) -> None:
        """An attempt waits for something: another slot can go on, and somebody has to look after this one."""
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        if self._queue:
            self._wake()

    def _sweep(self) -> None:
        now = monotonic()
        for running in [*self._running.values()]:
            if running.unreported and not running.forgotten and now >= running.reported_s + PROGRESS_S:
                running.unreported, running.reported_s = False, now
                progress = running.progress
                assert progress is not None
                self._on_progress(progress)
            if running.stopped_s is not None:
                self._insist(running, now - running.stopped_s)
            elif now >= running.due_s:
                self._stop(running)
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep) if self._running and self._slots else None

    def _stop(self, running: Running) -> None:
        running.stopped_s = monotonic()
        if running.context is not None:
            running.context.cancel()
        if running.child is not None:
            running.child.cancel()
        else:
            running.slot.cancel()

    def _insist(self, running: Running, since_s: float) -> None:
        if running.child is not None and not running.killed and since_s >= GRACE_S:
            running.killed = True
            running.child.kill()
        elif since_s >= (GRACE_S if running.child is None else GIVE_UP_S):
            log.warning("a handler does not end: %s", running.task.task_id, extra={"action": "attempt_left_behind"})
            self._slots.discard(running.slot)
            self._left_behind.add(running.slot)
            self._open_slot()
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
    return _failed(running, TaskError(type="timeout", message=message, attempt=running.task.attempt))


def _failed(running: Running, error: TaskError) -> Finished:
    return _ended(running, "failed", error=error.model_copy(update={"output": running.output}))


def _ended(
    running: Running, status: Status, result: Any = None, error: TaskError | None = None, spawn: Spawn | None = None
) -> Finished:
    task = running.task
    run_ms = (monotonic() - running.started_monotonic) * 1000
    return Finished(task.task_id, task.attempt, status, running.started_at, run_ms, result, error, spawn)
