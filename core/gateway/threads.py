"""The routes of threads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from msgspec.structs import replace
from pydantic import Field

from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.gateway.records import ThreadRecord
from core.gateway.run_life import run_told
from core.gateway.run_requests import Body
from core.gateway.thread_life import known_thread, new_thread

__all__ = ["router"]

router = APIRouter(prefix="/threads", tags=["threads"])

#: The status of a thread, by that of its last run.
STATUS = {"pending": "busy", "running": "busy", "interrupted": "interrupted", "error": "error", "timeout": "error"}


class NewThread(Body):
    thread_id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"


class CountBody(Body):
    metadata: dict[str, Any] = Field(default_factory=dict)
    status: Literal["idle", "busy", "interrupted", "error"] | None = None


class SearchBody(CountBody):
    ids: list[str] | None = None
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)
    sort_by: Literal["thread_id", "status", "created_at", "updated_at"] = "updated_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[str] | None = None


class ChangedThread(Body):
    metadata: dict[str, Any]


async def told(hierarchy: Hierarchy, thread: ThreadRecord) -> dict[str, Any]:
    """A thread as clients see it."""
    runs = (await hierarchy.records.runs(thread.thread_id))[:1]
    tasks = await hierarchy.tasks([run.task_id for run in runs])
    status = [run_told(run, tasks.get(run.task_id))["status"] for run in runs]
    return {
        "metadata": {}, **msgspec.to_builtins(thread), "values": None, "interrupts": {},
        "status": STATUS.get(status[0], "idle") if status else "idle",
    }  # fmt: skip


@router.post("")
async def create(request: Request, body: NewThread) -> dict[str, Any]:
    """Creates a thread."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    thread = replace(new_thread(body.thread_id), metadata=body.metadata)
    if not await hierarchy.records.put_thread(thread, is_new=True):
        if body.if_exists == "raise":
            raise Problem(409, f"there is a thread {thread.thread_id!r} already; give if_exists='do_nothing' to use it")
        thread = await known_thread(hierarchy, thread.thread_id)
    return await told(hierarchy, thread)


@router.get("/{thread_id}")
async def get(request: Request, thread_id: str) -> dict[str, Any]:
    """One thread, with its status."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    return await told(hierarchy, await known_thread(hierarchy, thread_id))


@router.patch("/{thread_id}")
async def update(request: Request, thread_id: str, body: ChangedThread) -> dict[str, Any]:
    """Adds to the metadata of a thread."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    thread = await known_thread(hierarchy, thread_id)
    changed = replace(thread, metadata={**thread.metadata, **body.metadata}, updated_at=datetime.now(UTC))
    await hierarchy.records.put_thread(changed)
    return await told(hierarchy, changed)


@router.post("/{thread_id}/copy")
async def copy(request: Request, thread_id: str) -> dict[str, Any]:
    """Makes another thread that goes on where this one is."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    thread = await known_thread(hierarchy, thread_id)
    new = replace(new_thread(), metadata=thread.metadata)
    if await hierarchy.threads.history(thread_id, 1):
        await hierarchy.client.threads.copy.aio(thread_id, new.thread_id)
    await hierarchy.records.put_thread(new)
    return await told(hierarchy, new)


@router.delete("/{thread_id}", status_code=204)
async def delete(request: Request, thread_id: str) -> Response:
    """Deletes a thread and what its graphs remember. A run that waits for an answer is given up."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    now = await told(hierarchy, await known_thread(hierarchy, thread_id))
    if now["status"] == "busy":
        raise Problem(409, f"thread {thread_id!r} has a run; cancel it, or wait for its end")
    if now["status"] == "interrupted":
        [run, *_] = await hierarchy.records.runs(thread_id)
        await hierarchy.client.cancel.aio(run.task_id)
        await hierarchy.over(run.task_id)
    await hierarchy.client.threads.delete.aio(thread_id)
    await hierarchy.records.delete_thread(thread_id)
    return Response(status_code=204)


@router.post("/search")
async def search(request: Request, body: SearchBody) -> list[dict[str, Any]]:
    """The threads that fit, those first that have changed last."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    found = await matching(hierarchy, body, body.ids)
    if body.status is None and body.sort_by != "status":
        found.sort(key=lambda thread: getattr(thread, body.sort_by), reverse=body.sort_order == "desc")
        return [await told(hierarchy, thread) for thread in found[body.offset :][: body.limit]]
    views = [await told(hierarchy, thread) for thread in found]
    seen = [view for view in views if body.status in (None, view["status"])]
    seen.sort(key=lambda view: str(view[body.sort_by]), reverse=body.sort_order == "desc")
    return seen[body.offset :][: body.limit]


@router.post("/count")
async def count(request: Request, body: CountBody) -> int:
    """How many threads fit."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    found = await matching(hierarchy, body)
    if body.status is None:
        return len(found)
    return sum([(await told(hierarchy, thread))["status"] == body.status for thread in found])


async def matching(hierarchy: Hierarchy, body: CountBody, ids: list[str] | None = None) -> list[ThreadRecord]:
    """The threads of these ids (None: all) with such metadata."""
    return [
        thread
        async for thread in hierarchy.records.threads()
        if (ids is None or thread.thread_id in ids) and body.metadata.items() <= thread.metadata.items()
    ]
