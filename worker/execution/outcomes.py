"""The outcomes of attempts, one function for each way to end."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from core.json_values import result_json
from core.redis_backend.clock import monotonic_s
from core.tasks import NULL, Task, TaskError
from core.waits import Wait
from worker.authoring.context import Spawn
from worker.authoring.suspension import Suspension
from worker.children.forks import ChildDied
from worker.children.outcome import failure, out_of_memory, refuse_unrun, spawn_json, spawn_of
from worker.execution.attempt import Finished, Running, Status

__all__ = [
    "cause_of_death",
    "completed",
    "delegated",
    "ended_with",
    "failed",
    "raised",
    "returned",
    "stopped",
    "suspended",
    "suspended_by",
    "too_late",
]

#: A child that used this share of its memory limit when it died is taken to have run out of memory.
NEAR_LIMIT = 0.9


def ended_with(running: Running, value: Any) -> Finished:
    """The outcome of an attempt whose handler returned `value` in this process. Raises BadTask: it cannot be a
    result."""
    refuse_unrun(running.task.task_type, value)
    if isinstance(value, Spawn):
        return delegated(running, spawn_json(value))
    return completed(running, NULL if value is None else Raw(result_json(value)))


def completed(running: Running, result_json: Raw) -> Finished:
    """The outcome of an attempt whose handler returned a result, given as JSON."""
    return _ended(running, "completed", result_json)


def delegated(running: Running, spawn: bytes) -> Finished:
    """The outcome of an attempt that left its work to child tasks and a continuation, as `spawn`, in JSON, says."""
    return _ended(running, "delegated", spawn=spawn_of(spawn))


def failed(running: Running, error: TaskError) -> Finished:
    """The outcome of an attempt that failed with `error`, to which the end of its output is added."""
    return _ended(running, "failed", error=replace(error, output=running.output))


def raised(running: Running, error: BaseException) -> Finished:
    """The outcome of an attempt whose handler raised `error`, or that could not be run because of it."""
    return failed(running, failure(error, running.task.attempt))


def cause_of_death(running: Running, death: ChildDied, limit_mb: int) -> TaskError:
    """The error of an attempt whose process has died, and might allocate `limit_mb`."""
    died = replace(failure(death, running.task.attempt), type="process_died", traceback="")
    return out_of_memory(died, limit_mb) if death.peak_mb >= limit_mb * NEAR_LIMIT else died


class _Told(Struct, array_like=True):
    waits: tuple[Wait, ...]
    children: tuple[Raw, ...]


def suspended(running: Running, suspension: bytes) -> Finished:
    """The outcome of an attempt that waits for what `suspension`, in JSON, says. Raises BadTask when a task that it
    delegates is malformed."""
    told = msgspec.json.decode(suspension, type=_Told)
    return suspended_by(running, Suspension(told.waits, tuple(map(Task.from_json, told.children))))


def suspended_by(running: Running, suspension: Suspension) -> Finished:
    """The outcome of an attempt that waits for what `suspension` says."""
    return _ended(running, "suspended")._replace(suspension=suspension)


def returned(running: Running) -> Finished:
    """The outcome of an attempt that goes back to where it came from, which costs its task nothing."""
    return _ended(running, "returned")


def too_late(running: Running) -> Finished:
    """The outcome of an attempt that did not run, since the deadline of its task had passed."""
    task = running.task
    message = f"its deadline, {task.deadline}, had passed before it began"
    return failed(running, TaskError(type="deadline", message=message, attempt=task.attempt, retryable=False))


def stopped(running: Running) -> Finished:
    """The outcome of an attempt that was told to stop: it was cancelled or timed out, even if it returned a result
    after that."""
    if running.cancelled:
        return _ended(running, "cancelled")
    limit_s = running.due_s - running.started_monotonic
    message = f"it ran longer than {limit_s:.3g} s"
    if running.task.deadline is not None:
        message += f", or past its deadline {running.task.deadline}"
    if running.hint:
        message += f"; {running.hint}"
    return failed(running, TaskError(type="timeout", message=message, attempt=running.task.attempt))


def _ended(
    running: Running,
    status: Status,
    result_json: Raw = NULL,
    error: TaskError | None = None,
    spawn: Spawn | None = None,
) -> Finished:
    task = running.task
    run_ms = (monotonic_s() - running.started_monotonic) * 1000
    output = running.output if running.printed and error is None else ""
    return Finished(task.task_id, task.attempt, status, running.started_at, run_ms, result_json, error, spawn, output)
