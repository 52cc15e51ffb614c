"""Handlers that do what was recorded, so that a rehearsal meets the work of a real hierarchy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from core.errors import BadTask
from core.recording.attempts import RecordedAttempt, attempts_in
from core.rehearsal.world import World
from core.tasks import Task, TaskError
from worker.authoring.context import Context
from worker.authoring.registry import NO_DEFAULT, Handler, Handlers

__all__ = ["Recorded"]

#: What an attempt can come to without others.
ALONE = ("completed", "failed")
TIMEOUT_S = 3600.0


class Recorded:
    """What the workers of a folder of recordings have done: `@scenario(handlers=Recorded(DIR).handlers)`.

    A task is answered as one with the same type and payload was: its attempts take as long as those took, in virtual
    time, and fail or return what they did, one after the other; the last one again and again. Attempts that had
    children or asked something are not there, since they would need others."""

    def __init__(self, folder: str | Path, max_attempts: int = 10) -> None:
        """`max_attempts`: of a task that does not say, since that of its handler is not recorded. Raises BadRecording:
        there are no recordings of workers, or none that can be read."""
        self._max_attempts = max_attempts
        self._attempts: dict[tuple[str, bytes], dict[str, list[RecordedAttempt]]] = {}
        for attempt in attempts_in(Path(folder)):
            if attempt.report.status in ALONE:
                of_payload = self._attempts.setdefault(_what(attempt.task), {})
                of_payload.setdefault(attempt.task.task_id, []).append(attempt)

    @property
    def tasks(self) -> list[tuple[str, Any]]:
        """The type and the payload of each task, in the order of their ids: what a scenario may submit."""
        found = {task_id: attempts[0].task for tasks in self._attempts.values() for task_id, attempts in tasks.items()}
        return [(task.task_type, task.payload) for _, task in sorted(found.items())]

    def handlers(self, world: World) -> Handlers:
        """The handlers of one run."""
        handlers, answers = Handlers(), _Answers(self._attempts, world.began)
        for task_type in sorted({task_type for task_type, _ in self._attempts}):
            handlers.add(_handler(task_type, answers.handler(task_type), self._max_attempts))
        return handlers


class _Answers:
    """Whose turn it is in one run."""

    def __init__(
        self, attempts: dict[tuple[str, bytes], dict[str, list[RecordedAttempt]]], began: Counter[str]
    ) -> None:
        self._attempts, self._began = attempts, began
        self._chosen: dict[str, list[RecordedAttempt]] = {}  # by task id
        self._turns: Counter[tuple[str, bytes]] = Counter()

    def handler(self, task_type: str) -> Callable[..., Any]:
        async def answer(payload: Any, ctx: Context) -> Any:
            attempts = self._chosen.get(ctx.task_id) or self._choose(Task(task_type=task_type, payload=payload), ctx)
            number, self._began[ctx.task_id] = self._began[ctx.task_id], self._began[ctx.task_id] + 1
            task, report = attempts[min(number, len(attempts) - 1)]
            await asyncio.sleep((report.run_ms or 0.0) / 1000)
            if report.error is not None:
                raise _error(report.error)
            return task.evolve(result_json=report.result_json).result

        return answer

    def _choose(self, task: Task, ctx: Context) -> list[RecordedAttempt]:
        what = _what(task)
        if not (alike := list(self._attempts.get(what, {}).values())):
            raise BadTask(f"no recorded task of type {task.task_type!r} had this payload")
        self._chosen[ctx.task_id] = chosen = alike[self._turns[what] % len(alike)]
        self._turns[what] += 1
        return chosen


def _what(task: Task) -> tuple[str, bytes]:
    return task.task_type, orjson.dumps(task.payload, option=orjson.OPT_SORT_KEYS)


def _error(told: TaskError) -> Exception:
    """An exception that is told as the recorded one was."""
    kind = Exception if told.retryable else BadTask
    error: Exception = type(told.type, (kind,), {})(told.message)
    return error


def _handler(task_type: str, function: Callable[..., Any], max_attempts: int) -> Handler:
    return Handler(
        task_type=task_type, function=function, kind="async", timeout_s=TIMEOUT_S, max_attempts=max_attempts,
        memory_mb=None, wants_payload=True, wants_context=True, payload_default=NO_DEFAULT, payload_model=None,
        capabilities=(), module=__name__, qualname=task_type, source=f"{__file__}:{task_type}",
    )  # fmt: skip
