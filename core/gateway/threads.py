"""The routes of threads."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request
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
