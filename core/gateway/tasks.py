"""The routes of tasks: submitted, looked at, waited for, cancelled."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from core.errors import TaskRefused, TaskTimeout
from core.gateway.access import Caller, caller_of
from core.gateway.hierarchy import Hierarchy
from core.gateway.idempotency import IdempotencyKey, RepeatableRequest
from core.gateway.problems import Problem, problem_of
from core.gateway.task_bodies import (
    BatchBody,
    OutcomeView,
    SubmitBody,
    SubmittedBody,
    TaskListBody,
    TaskView,
    new_task,
    told,
    told_outcome,
)
from core.gateway.visible_tasks import check_own_threads, sees, visible_task
from core.gateway.webhooks import of_task
from core.operations.task_pages import page_of_tasks
from core.tasks import Task, TaskStatus
from core.waiting_reason import WaitingFor

__all__ = ["router"]

router = APIRouter(prefix="/tasks", tags=["tasks"])

#: The longest wait that one request is kept open for, s. Something between may take a longer one for dead.
MAX_WAIT_S = 300.0
JSON = "application/json"

TaskId = Annotated[str, Path(description="the id of a task; a `/` in it may stand as it is")]


class CountsBody(BaseModel):
    """How many tasks there are, of all tenants."""

    open: int
    ended: int = Field(description="whose records are still kept")
    dead_letters: int = Field(description="failed for good, and neither replayed nor purged; they count as ended, too")
    asking: int = Field(description="open ones that ask a person something")


class ReasonBody(BaseModel):
    """Why a task waits, or where it is."""

    task_id: str
    status: TaskStatus
    waits_for: WaitingFor = Field(description="what kind of reason it is")
    stuck: bool = Field(description="whether it waits until somebody does something")
    sentence: str
    cure: str = Field(description="what to do; empty: nothing, it goes on by itself")
    since: datetime | None
    until: datetime | None
    numbers: dict[str, int | float | str] = Field(description="counts of the sentence, by name")


@router.post("/submit", operation_id="submit_tasks", status_code=202, response_model=SubmittedBody)
async def submit(request: Request, body: SubmitBody, idempotency_key: IdempotencyKey = None) -> Response:
    """Submits a task, or up to 1,000 as `{"tasks": [...]}`. What is accepted is recorded, and not lost.

    Of several, some may be accepted and others refused. When all are refused, the response is the reason of the first.
    """
    repeatable = RepeatableRequest(request, idempotency_key)
    if (before := await repeatable.earlier_answer()) is not None:
        return Response(before, 202, {"Idempotent-Replayed": "true"}, JSON)
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller = caller_of(request)
    bodies = body.tasks if isinstance(body, BatchBody) else [body]
    tasks = [new_task(one, caller, repeatable.new_id("task", number)) for number, one in enumerate(bodies)]
    await _check_not_of_others(
        hierarchy, caller, [task.task_id for task, one in zip(tasks, bodies, strict=True) if one.task_id]
    )
    await check_own_threads(hierarchy, caller, tasks)
    called = [of_task(task, one.webhook) for task, one in zip(tasks, bodies, strict=True) if one.webhook]
    for delivery in called:
        hierarchy.webhooks.check(delivery.url)
    await hierarchy.deliveries.note(*called)
    refused, warnings = await asyncio.gather(_submitted(hierarchy, tasks), hierarchy.discovery.warnings(tasks))
    accepted = [task.task_id for task in tasks if task.task_id not in refused]
    told_also = {"warnings": warnings} if warnings else {}
    answer = orjson.dumps({"task_ids": accepted, "refused": _told_refused(refused), **told_also})
    await repeatable.keep(answer)
    return Response(answer, 202, media_type=JSON)


async def _submitted(hierarchy: Hierarchy, tasks: list[Task]) -> dict[str, str]:
    """Which tasks were refused, and why. Raises Problem: all were."""
    try:
        await hierarchy.client.submit_many.aio(tasks)
    except TaskRefused as error:
        refused = dict(error.refused)
        await hierarchy.deliveries.forget(*refused)
        if len(refused) >= len({task.task_id for task in tasks}):
            problem = problem_of(error)
            raise Problem(problem.status, problem.detail, refused=_told_refused(refused)) from None
        return refused
    return {}


async def _check_not_of_others(hierarchy: Hierarchy, caller: Caller, named: list[str]) -> None:
    """Raises Problem if an id that the caller has chosen is that of a task it does not see: of a tenant's tasks, nobody
    else learns anything."""
    found = await hierarchy.tasks(named)
    for task in found.values():
        if not sees(hierarchy, caller, task):
            raise Problem(409, f"task_id: {task.task_id[:80]!r} is taken; choose another one, or leave it out")


def _told_refused(refused: dict[str, str]) -> list[dict[str, str]]:
    return [{"task_id": task_id, "reason": reason} for task_id, reason in refused.items()]


@router.get("/status", operation_id="count_tasks")
async def status(request: Request) -> CountsBody:
    """How many tasks are open, have ended, have failed for good, ask something."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    found = await hierarchy.task_counts()
    return CountsBody(
        open=found.open_tasks, ended=found.ended_tasks, dead_letters=found.dead_letters, asking=found.asking
    )


@router.get("", operation_id="list_tasks", response_model=TaskListBody)
async def list_tasks(
    request: Request,
    status: TaskStatus | None = None,
    task_type: Annotated[str | None, Query(alias="type", max_length=100)] = None,
    tenant: Annotated[str | None, Query(max_length=64)] = None,
    parent: Annotated[str | None, Query(max_length=200, description="the id of the task that spawned them")] = None,
    cursor: Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Tasks, the open ones first and the newest of each first, page by page.

    A page may have fewer than `limit`, or none, and a next one all the same: it reads a bounded number of records."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller = caller_of(request)

    def is_wanted(task: Task) -> bool:
        return (
            status in (None, task.status)
            and task_type in (None, task.task_type)
            and parent in (None, task.parent_id)
            and tenant in (None, task.tenant)
            and sees(hierarchy, caller, task)
        )

    async with hierarchy.reading() as reader:
        page = await page_of_tasks(reader, hierarchy.coordinator_id, is_wanted, cursor, limit, hierarchy.sealed.task_in)
    return _json({"tasks": [told(task) for task in page.tasks], "next_cursor": page.next_cursor})


@router.get("/{task_id:path}/result", operation_id="get_task_result", response_model=OutcomeView)
async def result(request: Request, task_id: TaskId) -> Response:
    """How an ended task has ended: its result, or its error. 409: it has not ended."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    task = await visible_task(hierarchy, caller_of(request), task_id)
    if not task.status.ended:
        raise Problem(409, f"the task is {task.status}; GET /tasks/{{task_id}}/wait returns when it has ended")
    return _json(told_outcome(task))


@router.get(
    "/{task_id:path}/wait", operation_id="wait_for_task", response_model=OutcomeView,
    responses={202: {"model": OutcomeView, "description": "It has not ended within that time, and goes on."}},
)  # fmt: skip
async def wait(
    request: Request, task_id: TaskId, timeout_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 30.0
) -> Response:
    """How a task ends, once it has."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    task = await visible_task(hierarchy, caller_of(request), task_id)
    if not task.status.ended and timeout_s:
        try:
            task = await hierarchy.client.result.aio(task_id, timeout_s)
        except TaskTimeout:
            task = await hierarchy.task(task_id) or task
    return _json(told_outcome(task), 200 if task.status.ended else 202)


@router.get("/{task_id:path}/explain", operation_id="explain_task")
async def explain_task(request: Request, task_id: TaskId) -> ReasonBody:
    """Why a task waits, or where it is."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    task = await visible_task(hierarchy, caller_of(request), task_id)
    why = await hierarchy.explain(task)
    return ReasonBody(task_id=task_id, status=task.status, **why.to_dict())


@router.post("/{task_id:path}/cancel", operation_id="cancel_task", status_code=202, response_model=OutcomeView)
async def cancel(request: Request, task_id: TaskId) -> Response:
    """Cancels a task and all that it has spawned; one that has ended stays as it is. The answer is how it stands now:
    its worker has a moment to stop."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    task = await visible_task(hierarchy, caller_of(request), task_id)
    await hierarchy.client.cancel.aio(task_id)
    return _json(told_outcome(await hierarchy.task(task_id) or task), 202)


@router.get("/{task_id:path}", operation_id="get_task", response_model=TaskView)
async def get(request: Request, task_id: TaskId) -> Response:
    """A task as it stands."""
    if task_id.endswith("/cancel"):
        raise Problem(405, "a task is cancelled by POST", headers={"Allow": "POST"})
    hierarchy: Hierarchy = request.app.state.hierarchy
    return _json(told(await visible_task(hierarchy, caller_of(request), task_id)))


def _json(told: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(told), status, media_type=JSON)
