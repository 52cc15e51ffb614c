"""The routes of many runs at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Request, Response
from pydantic import Field

from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.gateway.records import RunRecord
from core.gateway.run_life import UNDER_WAY, begin_run, end_run, known_run, run_told
from core.gateway.run_requests import Body as Checked
from core.gateway.run_requests import RunBody
from core.gateway.runs import Cancel
from core.gateway.visible_records import hierarchy_of

__all__ = ["router"]

router = APIRouter(prefix="/runs", tags=["runs"])

#: Runs of one request.
MAX_BATCH = 1000


class RunOfBatch(RunBody):
    thread_id: str | None = None
    #: LangGraph's client for JavaScript sends it besides `assistant_id`, which counts
    same_assistant: str | None = Field(default=None, alias="assistantId")


class CancelBody(Checked):
    thread_id: str | None = None
    run_ids: list[str] = Field(default_factory=list, max_length=MAX_BATCH)
    status: Literal["pending", "running", "all"] | None = None


@router.post("/batch")
async def create(
    request: Request, body: Annotated[list[RunOfBatch], Body(max_length=MAX_BATCH)]
) -> list[dict[str, Any]]:
    """Begins runs, in their order, and does not wait for them. If one cannot be begun, those before it have."""
    hierarchy = hierarchy_of(request)
    for one in body:
        one.check()
    runs = []
    for place, one in enumerate(body):
        try:
            runs.append(await begin_run(hierarchy, one, one.thread_id))
        except Problem as problem:
            raise Problem(
                problem.status, f"run {place} of the batch: {problem.detail}; those before have begun"
            ) from None
    tasks = await hierarchy.tasks([run.task_id for run in runs])
    return [run_told(run, tasks.get(run.task_id)) for run in runs]


@router.post("/cancel", status_code=204)
async def cancel(request: Request, body: CancelBody, action: Cancel = "interrupt") -> Response:
    """Cancels the runs of a thread with these ids, or those with a status, of one thread or of all. `rollback`: what
    they have stored is removed as well."""
    hierarchy = hierarchy_of(request)
    if bool(body.run_ids) == (body.status is not None):
        raise Problem(422, "name the runs by run_ids and their thread_id, or give their status")
    if body.run_ids and body.thread_id is None:
        raise Problem(422, "run_ids: name their thread_id as well")
    if body.run_ids:
        runs = [await known_run(hierarchy, body.thread_id or "", run_id) for run_id in body.run_ids]
    else:
        runs = await _with_status(hierarchy, body)
    for run in runs:
        await end_run(hierarchy, run, undo=action == "rollback", wait=False)
    return Response(status_code=204)


async def _with_status(hierarchy: Hierarchy, body: CancelBody) -> list[RunRecord]:
    thread_ids = [body.thread_id] if body.thread_id else [one.thread_id async for one in hierarchy.records.threads()]
    wanted = UNDER_WAY if body.status == "all" else (body.status,)
    found = []
    for thread_id in thread_ids:
        runs = await hierarchy.records.runs(thread_id)
        tasks = await hierarchy.tasks([run.task_id for run in runs])
        found += [
            run
            for run in runs
            if (task := tasks.get(run.task_id)) is not None and run_told(run, task)["status"] in wanted
        ]
    return found
