"""The routes of runs, with and without a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect

from core.errors import UnknownTask, WorldError
from core.gateway.hierarchy import Hierarchy, asks
from core.gateway.json_answers import json_answer, selected
from core.gateway.problems import Problem
from core.gateway.records import RunRecord
from core.gateway.run_events import BEGINNINGS, run_events, told_place
from core.gateway.run_life import (
    UNDER_WAY,
    begin_run,
    end_run,
    give_up,
    known_run,
    outcome_of,
    over,
    run_outcome,
    run_told,
    runs_told,
    settle,
)
from core.gateway.run_requests import Mode, RunBody
from core.gateway.sse import ServerEvent, event_stream, same_again
from core.gateway.thread_life import known_thread
from core.gateway.visible_records import hierarchy_of
from core.tasks import Task

__all__ = ["router"]

router = APIRouter(tags=["runs"])

Cancel = Literal["interrupt", "rollback"]

LastEventId = Annotated[str, Header(alias="Last-Event-ID")]


def _path(run: RunRecord) -> str:
    return f"/threads/{quote(run.thread_id)}/runs/{run.run_id}"


@router.post("/runs")
@router.post("/threads/{thread_id}/runs")
async def create(request: Request, body: RunBody, response: Response, thread_id: str | None = None) -> dict[str, Any]:
    """Begins a run, and does not wait for it."""
    hierarchy = hierarchy_of(request)
    run = await begin_run(hierarchy, body, thread_id)
    response.headers["Content-Location"] = _path(run)
    return run_told(run, await hierarchy.task(run.task_id))


@router.post("/runs/wait")
@router.post("/threads/{thread_id}/runs/wait")
async def wait(request: Request, body: RunBody, thread_id: str | None = None) -> Response:
    """Begins a run, and tells its values when it is over."""
    hierarchy = hierarchy_of(request)
    run = await begin_run(hierarchy, body, thread_id)
    headers = {"Content-Location": _path(run), "Location": f"{_path(run)}/join"}
    if body.on_disconnect == "cancel":
        return json_answer(await _outcome_unless_gone(request, hierarchy, run), headers)
    task = await over(hierarchy, run)
    answer = json_answer(await outcome_of(hierarchy, run, task), headers)
    if run.is_temporary and task is not None:  # whoever asks for it next settles it, if this gateway dies before
        answer.background = BackgroundTask(_settle, hierarchy, run, task)
    elif task is not None:
        await settle(hierarchy, run, task)
    return answer


async def _settle(hierarchy: Hierarchy, run: RunRecord, task: Task) -> None:
    with suppress(WorldError):
        await settle(hierarchy, run, task)


async def _outcome_unless_gone(request: Request, hierarchy: Hierarchy, run: RunRecord) -> Any:
    """As `run_outcome`. Cancels the run if the client goes away before, and raises ClientDisconnect then."""
    ended = asyncio.create_task(run_outcome(hierarchy, run))
    gone = asyncio.ensure_future(request.receive())  # the body has been read: what comes now is that it is gone
    try:
        await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        await hierarchy.client.cancel.aio(run.task_id)
        raise ClientDisconnect
    finally:
        ended.cancel()
        gone.cancel()


@router.post("/runs/stream")
@router.post("/threads/{thread_id}/runs/stream")
async def stream(request: Request, body: RunBody, thread_id: str | None = None) -> Response:
    """Begins a run, and tells what it does as server-sent events."""
    hierarchy = hierarchy_of(request)
    run = await begin_run(hierarchy, body, thread_id)
    cancel = body.on_disconnect == "cancel"
    again = f"{_path(run)}/stream{'?cancel_on_disconnect=true' if cancel else ''}"
    return event_stream(
        _told(hierarchy, run, "", [], cancel=cancel), {"Content-Location": _path(run), "Location": again}
    )


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
    except UnknownTask:  # its record has expired, and what it has told with it
        if (ended := (await settle(hierarchy, run, None)).ended) is None:
            raise
        is_over = True
        if ended in ("error", "timeout"):
            yield ServerEvent("error", {"error": ended, "message": "the run has failed; its record has expired"})
        yield ServerEvent("end")
    finally:
        if cancel and not is_over and not hierarchy.closing.begun:  # the gateway leaves then, and not the client
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
    hierarchy = hierarchy_of(request)
    run = await known_run(hierarchy, thread_id, run_id)
    if last_event_id in BEGINNINGS:
        last_event_id = ""
    elif last_event_id:
        told_place(last_event_id)  # as long as it can be refused
    events = _told(
        hierarchy, run, last_event_id, [mode for mode in stream_mode or () if mode], cancel=cancel_on_disconnect
    )
    return event_stream(events, {"Location": same_again(request)})


@router.get("/threads/{thread_id}/runs/{run_id}/join")
async def join(request: Request, thread_id: str, run_id: str) -> Response:
    """The values of a run, when it is over."""
    hierarchy = hierarchy_of(request)
    return json_answer(await run_outcome(hierarchy, await known_run(hierarchy, thread_id, run_id)))


@router.get("/threads/{thread_id}/runs/{run_id}")
async def get(request: Request, thread_id: str, run_id: str) -> dict[str, Any]:
    """One run, with its status."""
    hierarchy = hierarchy_of(request)
    run = await known_run(hierarchy, thread_id, run_id)
    task = await hierarchy.task(run.task_id)
    return run_told(await settle(hierarchy, run, task), task)


@router.get("/threads/{thread_id}/runs")
async def list_runs(
    request: Request,
    thread_id: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
    offset: Annotated[int, Query(ge=0)] = 0,
    status: str | None = None,
    select: Annotated[list[str] | None, Query()] = None,
) -> list[dict[str, Any]]:
    """The runs of a thread, the newest first."""
    hierarchy = hierarchy_of(request)
    told = await runs_told(hierarchy, thread_id)
    if not told:
        await known_thread(hierarchy, thread_id)
    found = [run for run in told if status in (None, run["status"])][offset : offset + limit]
    return [selected(run, select) for run in found]


@router.delete("/threads/{thread_id}/runs/{run_id}", status_code=204)
async def delete(request: Request, thread_id: str, run_id: str) -> Response:
    """Forgets a run that is over. What it has stored in its thread stays."""
    hierarchy = hierarchy_of(request)
    run = await known_run(hierarchy, thread_id, run_id)
    task = await hierarchy.task(run.task_id)
    if run_told(run, task)["status"] in UNDER_WAY:
        raise Problem(409, f"run {run_id!r} goes on; cancel it, or wait for its end")
    if task is not None and run.until is None and asks(task):
        await hierarchy.client.cancel.aio(run.task_id)
    await hierarchy.records.delete_run(run)
    return Response(status_code=204)


@router.post("/threads/{thread_id}/runs/{run_id}/cancel", status_code=202)
async def cancel(
    request: Request, thread_id: str, run_id: str, wait: bool = False, action: Cancel = "interrupt"
) -> None:
    """Cancels a run; with `wait`, returns when it has ended. `rollback`: what it has stored is removed as well."""
    hierarchy = hierarchy_of(request)
    run = await known_run(hierarchy, thread_id, run_id)
    await end_run(hierarchy, run, undo=action == "rollback", wait=wait)
