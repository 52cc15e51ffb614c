"""What tiers tell their parents about tasks: the shape of each item, its limits, and the check. Rules, no I/O.

An item is checked by itself where it enters a tier: one that breaks its shape is put aside and costs its own task an
attempt, or its end; the others of its message go on. Whoever holds one legitimate key can write anything into an item.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeGuard

import orjson
from pydantic import AwareDatetime, FailFast, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from core.errors import BadTask, MalformedMessage
from core.json_values import PAYLOAD_LIMIT_BYTES, payload_json
from core.tasks import Name, TaskError, TaskId, Then

__all__ = [
    "CHILDREN_LIMIT_BYTES", "OUTPUT_LIMIT", "PROGRESS_LIMIT_BYTES", "AttemptReport", "ProgressReport", "TaskReport",
    "attempt_report", "children_in", "is_task_id", "progress_report", "shown_id", "task_report",
]  # fmt: skip

#: The children of one spawn, and a digest for each: they travel in one message, and their parent's record names each.
CHILDREN_LIMIT_BYTES = 2 * 1024 * 1024
#: The largest progress that is shown, as JSON.
PROGRESS_LIMIT_BYTES = 4096
#: What is kept of what a task has printed and logged, in characters.
OUTPUT_LIMIT = 2048
#: A body that is no larger holds nothing over a limit that is worth a look.
SMALL_BYTES = 64 * 1024
#: The errors of all attempts, and the last one again: a tier keeps them within a quarter of that.
ERRORS_LIMIT_BYTES = 256 * 1024

Output = Annotated[str, Field(max_length=OUTPUT_LIMIT)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]


class AttemptReport(TypedDict):
    """What a worker says of an attempt."""

    task_id: str
    attempt: Count
    status: Literal["completed", "failed", "cancelled", "delegated", "returned"]
    run_ms: NotRequired[Annotated[float, Field(ge=0, le=1e12)]]
    started_at: NotRequired[AwareDatetime]
    result: NotRequired[Any]  #: of a completed one, JSON
    error: NotRequired[TaskError]  #: of a failed one
    output: NotRequired[Output]  #: of another one, where it printed or logged something: the end of that
    max_attempts: NotRequired[Annotated[int, Field(ge=1, le=100)]]  #: how often its handler may be tried
    children: NotRequired[list[Any]]  #: of one that delegated: tasks
    then: NotRequired[Then | None]


class TaskReport(TypedDict):
    """What a distributor says of a task that leaves it."""

    task_id: str
    status: Literal["completed", "failed", "cancelled", "abandoned", "delegated", "returned"]
    attempt: NotRequired[Count]
    retry_count: NotRequired[Annotated[int, Field(strict=True, ge=0, le=10_000)]]
    worker: NotRequired[Name | None]
    run_ms: NotRequired[Annotated[float, Field(ge=0, le=1e12)]]
    started_at: NotRequired[AwareDatetime | None]
    result: NotRequired[Any]
    error: NotRequired[TaskError | None]
    errors: NotRequired[Annotated[list[TaskError], FailFast()]]
    output: NotRequired[Output]
    not_before: NotRequired[AwareDatetime | None]  #: of a returned one: when the pause before its next attempt ends
    stranded: NotRequired[bool]  #: of a returned one: nobody there can do this one, others are welcome
    children: NotRequired[list[Any]]
    then: NotRequired[Then | None]


class ProgressReport(TypedDict):
    """How far an attempt is."""

    task_id: str
    attempt: Count
    progress: dict[str, Any]


_attempt = TypeAdapter(AttemptReport).validator.validate_python
_task = TypeAdapter(TaskReport).validator.validate_python
_progress = TypeAdapter(ProgressReport).validator.validate_python
_task_id = TypeAdapter(TaskId).validator


def attempt_report(item: object, body_bytes: int = 0) -> AttemptReport:
    """The report of a worker; `body_bytes` is the length of the message it came in (0: small). Raises
    MalformedMessage, naming the field and quoting nothing."""
    report: AttemptReport = _checked(_attempt, item)
    if report["status"] == "failed" and "error" not in report:
        raise MalformedMessage("error: missing from the report of a failed attempt")
    _check_contents(report.get("result"), report.get("children"), report["status"], body_bytes)
    return report


def task_report(item: object, body_bytes: int = 0) -> TaskReport:
    """The report of a distributor; as `attempt_report`."""
    report: TaskReport = _checked(_task, item)
    _check_contents(report.get("result"), report.get("children"), report["status"], body_bytes)
    if body_bytes > SMALL_BYTES and "errors" in report:
        errors = [*report["errors"], *([report["error"]] if report.get("error") else [])]
        if sum(len(error.model_dump_json()) for error in errors if error) > ERRORS_LIMIT_BYTES:
            raise MalformedMessage(f"errors: over {ERRORS_LIMIT_BYTES} bytes")
    return report


def progress_report(item: object) -> ProgressReport:
    """What a worker says of an attempt under way. Raises MalformedMessage."""
    report: ProgressReport = _checked(_progress, item)
    if len(orjson.dumps(report["progress"])) > 2 * PROGRESS_LIMIT_BYTES:
        raise MalformedMessage("progress: too large")
    return report


def children_in(item: object) -> list[Any]:
    """What a report, which nobody has checked yet, calls the children of its task."""
    children = item.get("children") if isinstance(item, dict) else None
    return children if isinstance(children, list) else []


def is_task_id(item: object) -> TypeGuard[str]:
    """Whether a task can have that id."""
    return bool(_task_id.isinstance_python(item))


def shown_id(item: object) -> str:
    """What an answer calls an item whose id it names, which anybody may have written."""
    return item if is_task_id(item) else "?"


def _checked(validate: Any, item: object) -> Any:
    try:
        return validate(item)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MalformedMessage(f"{'.'.join(map(str, first['loc']))[:80] or 'item'}: {first['msg'][:120]}") from None


def _check_contents(result: object, children: list[Any] | None, status: str, body_bytes: int) -> None:
    if status == "delegated" and children is None:
        raise MalformedMessage("children: missing from the report of an attempt that delegated")
    if body_bytes <= SMALL_BYTES:
        return
    if children and len(orjson.dumps(children)) > CHILDREN_LIMIT_BYTES:
        raise MalformedMessage(f"children: over {CHILDREN_LIMIT_BYTES} bytes")
    if body_bytes > PAYLOAD_LIMIT_BYTES:
        try:
            payload_json("result", result)
        except BadTask as error:
            raise MalformedMessage(str(error)) from None
