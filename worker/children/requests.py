"""What a process that runs attempts is given of one, and what it tells of it, as the fields of JSON objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from core.agent_run import RunOptions
from core.tasks import TaskError, TaskStatus
from worker.authoring.context import ChildOutcome, Context, Progress

__all__ = ["context_of", "options_of", "progress_fields"]

NO_OPTIONS = RunOptions()


def context_of(
    request: Mapping[str, Any],
    report: Callable[[Progress], None],
    tell: Callable[[dict[str, Any]], None] | None,
    asks_cancelled: Callable[[], bool] | None = None,
) -> Context:
    """The context of the attempt that `request` asks for (see worker.execution.attempt.run_request)."""
    task = request["task"]
    return Context(
        task_id=task["task_id"],
        task_type=task["task_type"],
        attempt=task["attempt"],
        deadline=datetime.fromisoformat(task["deadline"]) if task["deadline"] else None,
        idempotency_key=task["idempotency_key"] or "",
        traceparent=task.get("traceparent"),
        children=[_child_outcome(child) for child in request["children"]],
        spawned=task["spawned"],
        on_progress=report,
        on_event=tell,
        asks_cancelled=asks_cancelled,
    )


def options_of(request: Mapping[str, Any]) -> RunOptions:
    """What the client says about the run."""
    fields = request["task"].get("run")
    return RunOptions.from_fields(fields) if fields else NO_OPTIONS


def progress_fields(progress: Progress) -> dict[str, Any]:
    """A progress report, ready for JSON; the worker knows the rest."""
    return {"fraction": progress.fraction, "note": progress.note, "data": progress.data}


def _child_outcome(fields: Mapping[str, Any]) -> ChildOutcome:
    error = fields["error"]
    return ChildOutcome(
        task_id=fields["task_id"],
        task_type=fields["task_type"],
        status=TaskStatus(fields["status"]),
        result=fields["result"],
        error=TaskError(**error) if error else None,
    )
