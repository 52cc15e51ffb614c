"""An executor for coroutines alone, in the virtual time of the loop: as worker.execution to the worker's behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from msgspec import Raw

from core.json_values import result_json
from core.tasks import Task
from worker.authoring.context import ChildOutcome, Context, Spawn
from worker.authoring.registry import Handlers
from worker.authoring.suspension import Suspension, resume_of, spawned_before
from worker.children.outcome import failure
from worker.execution.attempt import Finished

__all__ = ["VirtualExecutor", "resuming"]

#: What the attempt that runs here resumes with, by interrupt; empty: it begins.
resuming: ContextVar[dict[str, Any]] = ContextVar("resuming")


@dataclass(slots=True)
class Running:
    task: Task
    attempt: asyncio.Task[Any]
    forgotten: bool = False


class VirtualExecutor:
    """At most `concurrency` attempts at a time, first come first served; reports each as the real one does."""

    def __init__(
        self,
        handlers: Handlers,
        concurrency: int,
        now_s: Callable[[], float],
        on_finished: Callable[[Finished], None],
        fetch_inputs: Callable[[Task], Awaitable[list[ChildOutcome]]],
    ) -> None:
        self._handlers = handlers
        self._concurrency = concurrency
        self._now_s = now_s
        self._on_finished = on_finished
        self._fetch_inputs = fetch_inputs
        self._waiting: list[Task] = []
        self.running: dict[str, Running] = {}

    @property
    def queued(self) -> int:
        return len(self._waiting)

    def submit(self, task: Task) -> None:
        self._waiting.append(task)
        self._go_on()

    def cancel(self, task_id: str, attempt: int) -> None:
        for task in list(self._waiting):
            if (task.task_id, task.attempt) == (task_id, attempt):
                self._waiting.remove(task)
                self._on_finished(
                    Finished(task_id, attempt, "cancelled", datetime.fromtimestamp(self._now_s(), UTC), 0.0)
                )
        running = self.running.get(task_id)
        if running is not None and running.task.attempt == attempt:
            running.attempt.cancel()

    def drain(self) -> list[Task]:
        withdrawn, self._waiting = self._waiting, []
        return withdrawn

    def forget_all(self) -> None:
        self._waiting.clear()
        for running in self.running.values():
            running.forgotten = True
            running.attempt.cancel()

    async def close(self) -> None:
        """Ends everything; nothing is reported any more."""
        self._on_finished = lambda finished: None
        self._waiting.clear()
        attempts = [running.attempt for running in self.running.values()]
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)

    def _go_on(self) -> None:
        for task in list(self._waiting):
            if len(self.running) < self._concurrency and task.task_id not in self.running:
                self._waiting.remove(task)
                attempt = asyncio.get_running_loop().create_task(self._call(task))
                self.running[task.task_id] = Running(task, attempt)
                attempt.add_done_callback(partial(self._ended, task, self._now_s()))

    def _ended(self, task: Task, began_s: float, attempt: asyncio.Task[Any]) -> None:
        if self.running.pop(task.task_id).forgotten:
            self._go_on()
            return
        began, run_ms = datetime.fromtimestamp(began_s, UTC), (self._now_s() - began_s) * 1000
        finished = partial(Finished, task.task_id, task.attempt, started_at=began, run_ms=run_ms)
        if attempt.cancelled():
            self._on_finished(finished(status="cancelled"))
        elif (error := attempt.exception()) is not None:
            self._on_finished(finished(status="failed", error=failure(error, task.attempt)))
        elif isinstance(attempt.result(), Spawn):
            self._on_finished(finished(status="delegated", spawn=attempt.result()))
        elif isinstance(attempt.result(), Suspension):
            self._on_finished(finished(status="suspended", suspension=attempt.result()))
        else:
            self._on_finished(finished(status="completed", result_json=Raw(result_json(attempt.result()))))
        self._go_on()

    async def _call(self, task: Task) -> Any:
        handler = self._handlers.get(task.task_type)
        children = await self._fetch_inputs(task) if task.inputs else []
        context = Context(
            task.task_id,
            task.task_type,
            max(1, task.attempt),
            children=spawned_before(task, children),
            spawned=len(task.children),
        )
        resuming.set(resume_of(task, children))
        return await handler.function(*handler.arguments(task.payload, context))
