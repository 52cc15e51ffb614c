"""The routes of runs, with and without a thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from core.gateway.hierarchy import Hierarchy
from core.gateway.records import RunRecord
from core.gateway.run_events import run_events
from core.gateway.run_life import begin_run, give_up, known_run, run_outcome, run_told
from core.gateway.run_requests import Mode, RunBody
from core.gateway.sse import ServerEvent, event_stream
from core.gateway.thread_life import thread_for_run

__all__ = ["router"]

router = APIRouter(tags=["runs"])

LastEventId = Annotated[str, Header(alias="Last-Event-ID")]


def _path(run: RunRecord) -> str:
    return f"/threads/{run.thread_id}/runs/{run.run_id}"


async def _begun(request: Request, body: RunBody, thread_id: str | None) -> RunRecord:
    hierarchy: Hierarchy = request.app.state.hierarchy
    if thread_id is not None:
        await thread_for_run(hierarchy, thread_id, body)
    return await begin_run(hierarchy, body, thread_id)


@router.post("/runs")
@router.post("/threads/{thread_id}/runs")
async def create(request: Request, body: RunBody, response: Response, thread_id: str | None = None) -> dict[str, Any]:
    """Begins a run, and does not wait for it."""
    run = await _begun(request, body, thread_id)
    response.headers["Content-Location"] = _path(run)
    return run_told(run, await request.app.state.hierarchy.task(run.task_id))


@router.post("/runs/wait")
@router.post("/threads/{thread_id}/runs/wait")
async def wait(request: Request, body: RunBody, thread_id: str | None = None) -> Response:
    """Begins a run, and tells its values when it is over."""
    run = await _begun(request, body, thread_id)
    outcome = await run_outcome(request.app.state.hierarchy, run)
    return JSONResponse(outcome, headers={"Content-Location": _path(run), "Location": f"{_path(run)}/join"})


@router.post("/runs/stream")
@router.post("/threads/{thread_id}/runs/stream")
async def stream(request: Request, body: RunBody, thread_id: str | None = None) -> Response:
    """Begins a run, and tells what it does as server-sent events."""
    run = await _begun(request, body, thread_id)
    events = _told(request.app.state.hierarchy, run, "", [], cancel=body.on_disconnect == "cancel")
    return event_stream(events, {"Content-Location": _path(run), "Location": f"{_path(run)}/stream"})


async def _told(
    hierarchy: Hierarchy, run: RunRecord, last_id: str, modes: list[str], *, cancel: bool
) -> AsyncGenerator[ServerEvent, None]:
    is_over = False
    try:
        async for event in run_events(hierarchy, run, modes, last_id):
            is_over = event.event == "end"
            if is_over and run.is_temporary and (task := await hierarchy.task(run.task_id)) and not task.status.ended:
                await give_up(hierarchy, run)
            yield event
    finally:
        if cancel and not is_over:
            await hierarchy.client.cancel.aio(run.task_id)


@router.get("/threads/{thread_id}/runs/{run_id}/stream")
async def join_stream(
    request: Request,
    thread_id: str,
    run_id: str,
    stream_mode: Annotated[list[Mode | Literal[""]] | None, Query()] = None,
    cancel_on_disconnect: bool = False,
    last_event_id: LastEventId = "",
) -> Response:
    """Goes on telling what a run does, behind the event `Last-Event-ID`."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    run = await known_run(hierarchy, thread_id, run_id)
    events = _told(
        hierarchy, run, last_event_id, [mode for mode in stream_mode or () if mode], cancel=cancel_on_disconnect
    )
    return event_stream(events, {"Location": f"{_path(run)}/stream"})


@router.get("/threads/{thread_id}/runs/{run_id}/join")
async def join(request: Request, thread_id: str, run_id: str) -> Response:
    """The values of a run, when it is over."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    return JSONResponse(await run_outcome(hierarchy, await known_run(hierarchy, thread_id, run_id)))


@router.get("/threads/{thread_id}/runs/{run_id}")
async def get(request: Request, thread_id: str, run_id: str) -> dict[str, Any]:
    """One run, with its status."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    run = await known_run(hierarchy, thread_id, run_id)
    return run_told(run, await hierarchy.task(run.task_id))


@router.get("/threads/{thread_id}/runs")
async def list_runs(
    request: Request,
    thread_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0)] = 0,
    status: str | None = None,
) -> list[dict[str, Any]]:
    """The runs of a thread, the newest first."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    runs = await hierarchy.records.runs(thread_id)
    tasks = await hierarchy.tasks([run.task_id for run in runs])
    told = [run_told(run, tasks.get(run.task_id)) for run in runs]
    return [run for run in told if status in (None, run["status"])][offset : offset + limit]


@router.post("/threads/{thread_id}/runs/{run_id}/cancel", status_code=202)
async def cancel(
    request: Request, thread_id: str, run_id: str, wait: bool = False, action: Literal["interrupt"] = "interrupt"
) -> None:
    """Cancels a run; with `wait`, returns when it has ended."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    run = await known_run(hierarchy, thread_id, run_id)
    await hierarchy.client.cancel.aio(run.task_id)
    if wait:
        await hierarchy.client.result.aio(run.task_id)
