"""What a client says of a task, and what it is told of one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Discriminator, Field, Tag

from core.gateway.access import NAME, Caller
from core.gateway.problems import Problem
from core.gateway.run_requests import TENANT, Body
from core.record_fields import TIMEOUT_LIMIT_S
from core.tasks import TASK_ID, TASK_TYPE, Priority, Task, TaskStatus

__all__ = [
    "MAX_BATCH", "SubmitBody", "SubmittedBody", "TaskBody", "TaskListBody", "TaskView", "new_task", "told",
    "told_outcome",
]  # fmt: skip

#: Tasks in one request.
MAX_BATCH = 1000
Name = Annotated[str, Field(max_length=200)]


class TaskBody(Body):
    """A task to run."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"task_type": "word_count", "payload": {"text": "to be or not"}}]}
    )

    task_type: str = Field(pattern=f"^{TASK_TYPE.pattern}$", description="a handler's name, or a graph's")
    payload: Any = Field(default=None, description="any JSON, of at most 256 KiB")
    task_id: str | None = Field(
        default=None,
        pattern=f"^{TASK_ID.pattern}$",
        description="submitting an id twice is one task; null: a fresh one",
    )
    priority: Priority = Priority.NORMAL
    tenant: str | None = Field(default=None, pattern=f"^{NAME.pattern}$", description="whose it is")
    capabilities: list[Name] = Field(default_factory=list, max_length=32, description="what its worker has to have")
    metadata: dict[str, Any] = Field(default_factory=dict, description="carried along, never read")
    timeout_s: float | None = Field(default=None, gt=0, le=TIMEOUT_LIMIT_S, description="longest run of one attempt")
    max_attempts: int | None = Field(default=None, ge=1, le=100)
    backoff_s: float = Field(default=0.5, ge=0, le=TIMEOUT_LIMIT_S, description="pause before the second attempt")
    deadline: AwareDatetime | None = Field(default=None, description="no attempt begins after it")
    not_before: AwareDatetime | None = Field(default=None, description="no attempt begins before it")
    delay_s: float | None = Field(default=None, ge=0, le=TIMEOUT_LIMIT_S)
    idempotency_key: Name | None = Field(default=None, description="for what its handler does outside")
    affinity_key: Name | None = Field(default=None, description="tasks of one key go to one agent, as far as may be")
    regions: list[Name] = Field(default_factory=list, max_length=16, description="where to run it: nearest first")
    shared_with: list[Name] = Field(default_factory=list, max_length=32, description='clients that see it; "*": all')
    run: dict[str, Any] | None = Field(default=None, description="how its graph is run: thread_id, config, ...")
    webhook: str | None = Field(default=None, max_length=2000, description="a URL that is told of its end, by POST")
    budget: dict[str, float] | None = Field(default=None, description="what it may spend: calls, tokens, cost_usd")


class BatchBody(Body):
    """Tasks to run."""

    tasks: list[TaskBody] = Field(min_length=1, max_length=MAX_BATCH)


def _kind(body: Any) -> str | None:
    if isinstance(body, dict):
        return "batch" if "tasks" in body else "task"
    return None


SubmitBody = Annotated[
    Annotated[TaskBody, Tag("task")] | Annotated[BatchBody, Tag("batch")],
    Discriminator(
        _kind, custom_error_type="not_a_task", custom_error_message="this is neither a task nor {tasks: [...]}"
    ),
]


class RefusedTask(BaseModel):
    task_id: str
    reason: str


class SubmittedBody(BaseModel):
    """What was accepted: it is recorded, and will end. What was refused was not kept."""

    task_ids: list[str] = Field(description="of all that were accepted, in their order")
    refused: list[RefusedTask]
    warnings: list[str] = Field(default=[], description="what nobody can run now, and so waits; left out if empty")

    model_config = ConfigDict(json_schema_extra={"examples": [{"task_ids": ["task-5f0c"], "refused": []}]})


class ErrorView(BaseModel):
    type: str
    message: str
    attempt: int = 0
    worker: str = ""
    retryable: bool = True


class OutcomeView(BaseModel):
    """How a task stands, or has ended."""

    task_id: str
    status: TaskStatus
    result: Any = None
    error: ErrorView | None = None


class TaskView(OutcomeView):
    """A task as it stands."""

    task_type: str
    priority: Priority
    payload: Any
    tenant: str | None
    metadata: dict[str, Any]
    capabilities: list[str]
    created_at: datetime
    updated_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    retry_count: int
    max_attempts: int | None
    timeout_s: float | None
    deadline: datetime | None
    not_before: datetime | None
    parent_id: str | None
    root_id: str | None
    depth: int
    children: list[str]
    assigned_to: str | None
    cancel_requested: bool


class TaskListBody(BaseModel):
    tasks: list[TaskView]
    next_cursor: str | None = Field(description="the cursor of the next page; null: this is the last")


def new_task(body: TaskBody, caller: Caller, task_id: str | None) -> Task:
    """The task that a client asks for. `task_id`: if it does not say one. Raises BadTask; Problem: it is another
    tenant's."""
    if caller.tenant is not None and body.tenant not in (None, caller.tenant):
        raise Problem(403, f"tenant: this key or token submits for tenant {caller.tenant!r} alone; leave it out")
    fields = {name: getattr(body, name) for name in body.model_fields_set if name != "webhook"}
    fields["tenant"] = tenant = caller.tenant or body.tenant
    if body.run is not None and tenant is not None:
        fields["run"] = _run_of(tenant, body.run)
    if (named := body.task_id or task_id) is not None:
        fields["task_id"] = named
    return Task(**fields)


def _run_of(tenant: str, run: dict[str, Any]) -> dict[str, Any]:
    """The options of a run, from which its graph learns whose it is, whatever they say of that."""
    config = run.get("config") or {}
    configurable = (config.get("configurable") or {}) if isinstance(config, dict) else None
    if not isinstance(configurable, dict):
        return run  # it is refused with the reason
    return {**run, "config": {**config, "configurable": {**configurable, TENANT: tenant}}}


def told_outcome(task: Task) -> dict[str, Any]:
    """As OutcomeView."""
    error = task.error
    return {
        "task_id": task.task_id, "status": task.status.value, "result": task.result,
        "error": error and {name: getattr(error, name) for name in ErrorView.model_fields},
    }  # fmt: skip


def told(task: Task) -> dict[str, Any]:
    """As TaskView. Tracebacks and what a task has printed are for operators at the machine."""
    own = {name: getattr(task, name) for name in TaskView.model_fields if name not in OutcomeView.model_fields}
    return {**told_outcome(task), **own}
