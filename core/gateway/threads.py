"""The routes of threads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request, Response
from msgspec.structs import replace
from pydantic import Field, StrictInt

from core.gateway.hierarchy import Hierarchy
from core.gateway.json_answers import json_answer, selected
from core.gateway.problems import Problem
from core.gateway.records import ThreadRecord
from core.gateway.run_requests import Body, Minutes
from core.gateway.states import Superstep, build_up
from core.gateway.thread_life import delete_thread, known_thread, new_thread, no_thread
from core.gateway.thread_views import extracted, fits, thread_told, threads_told, ttl_told
from core.gateway.visible_records import hierarchy_of

__all__ = ["router"]

router = APIRouter(prefix="/threads", tags=["threads"])

Status = Literal["idle", "busy", "interrupted", "error"]
#: Paths of one search that are extracted.
MAX_PATHS = 10


class Lifetime(Body):
    """How long a thread lives once nobody uses it any more, and what becomes of it then."""

    ttl: Minutes
    strategy: Literal["delete", "keep_latest"] = "delete"


class NewThread(Body):
    thread_id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    if_exists: Literal["raise", "do_nothing"] = "raise"
    supersteps: list[Superstep] = Field(default_factory=list)
    ttl: Lifetime | Minutes | None = None


class CountBody(Body):
    metadata: dict[str, Any] = Field(default_factory=dict)
    values: dict[str, Any] = Field(default_factory=dict)
    status: Status | None = None


class SearchBody(CountBody):
    ids: list[str] | None = None
    limit: StrictInt = Field(default=10, ge=1, le=1000)
    offset: StrictInt = Field(default=0, ge=0)
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] = "updated_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[str] | None = None
    extract: dict[str, str] = Field(default_factory=dict, max_length=MAX_PATHS)


class ChangedThread(Body):
    metadata: dict[str, Any] = Field(default_factory=dict)
    ttl: Lifetime | Minutes | None = None


class Pruned(Body):
    thread_ids: list[str]
    strategy: Literal["delete", "keep_latest"] = "delete"


def lifetime(body: NewThread | ChangedThread) -> dict[str, Any]:
    """What is asked for, as fields of the record; without a `ttl` nothing, and with null that it lives for good."""
    if "ttl" not in body.model_fields_set:
        return {}
    asked = body.ttl if isinstance(body.ttl, Lifetime) or body.ttl is None else Lifetime(ttl=body.ttl)
    return {"ttl_minutes": asked and asked.ttl, "ttl_strategy": asked.strategy if asked else "delete"}


@router.post("")
async def create(request: Request, body: NewThread) -> Response:
    """Creates a thread, with the states that `supersteps` make of it."""
    hierarchy = hierarchy_of(request)
    thread = replace(await new_thread(hierarchy, body.thread_id), metadata=body.metadata, **lifetime(body))
    if await hierarchy.records.add_thread(thread):
        if body.supersteps:
            await build_up(hierarchy, thread, body.supersteps)
    elif body.if_exists == "raise":
        raise Problem(409, f"there is a thread {thread.thread_id!r} already; give if_exists='do_nothing' to use it")
    else:
        thread = await known_thread(hierarchy, thread.thread_id)
    return json_answer(await thread_told(hierarchy, thread))


@router.get("/{thread_id}")
async def get(request: Request, thread_id: str, include: str = "") -> Response:
    """One thread, with its status and its values. `include=ttl`: also how long it lives."""
    hierarchy = hierarchy_of(request)
    if unknown := {*include.split(",")} - {"", "ttl"}:
        raise Problem(422, f"include: there is no {sorted(unknown)[0][:80]!r}; there is ttl")
    thread = await known_thread(hierarchy, thread_id)
    return json_answer({**await thread_told(hierarchy, thread), **({"ttl": ttl_told(thread)} if include else {})})


@router.patch("/{thread_id}")
async def update(
    request: Request, thread_id: str, body: ChangedThread, prefer: Annotated[str, Header()] = ""
) -> Response:
    """Adds to the metadata of a thread. `Prefer: return=minimal`: nothing is told."""
    hierarchy = hierarchy_of(request)
    changed = await hierarchy.records.change_thread(thread_id, metadata=body.metadata, **lifetime(body))
    if changed is None:
        raise no_thread(thread_id)
    if prefer == "return=minimal":
        return Response(status_code=204)
    return json_answer(await thread_told(hierarchy, changed))


@router.post("/{thread_id}/copy")
async def copy(request: Request, thread_id: str) -> Response:
    """Makes another thread that goes on where this one is."""
    hierarchy = hierarchy_of(request)
    thread = await known_thread(hierarchy, thread_id)
    new = replace(await new_thread(hierarchy), metadata=thread.metadata, tenant=thread.tenant)
    if await hierarchy.threads.history(thread_id, 1):
        await hierarchy.client.threads.copy.aio(thread_id, new.thread_id)
    await hierarchy.records.add_thread(new)
    return json_answer(await thread_told(hierarchy, new))


@router.delete("/{thread_id}", status_code=204)
async def delete(request: Request, thread_id: str) -> Response:
    """Deletes a thread and what its graphs remember. A run that waits for an answer is given up."""
    hierarchy = hierarchy_of(request)
    await delete_thread(hierarchy, await known_thread(hierarchy, thread_id))
    return Response(status_code=204)


@router.post("/prune")
async def prune(request: Request, body: Pruned) -> dict[str, int]:
    """Deletes threads, or all of their states but the newest. Those that are not there are left out."""
    hierarchy = hierarchy_of(request)
    count = 0
    for thread_id in body.thread_ids:
        if (thread := await hierarchy.records.thread(thread_id)) is None:
            continue
        if body.strategy == "delete":
            await delete_thread(hierarchy, thread)
        else:
            await hierarchy.threads.prune(thread_id)
        count += 1
    return {"pruned_count": count}


@router.post("/search")
async def search(request: Request, body: SearchBody) -> Response:
    """The threads that fit; with `status` or `values`, it reads the state of each that has such metadata."""
    hierarchy = hierarchy_of(request)
    found = await matching(hierarchy, body.metadata, body.ids)
    is_reversed = body.sort_order == "desc"
    if body.status is None and not body.values and body.sort_by != "status":
        name = body.sort_by.removeprefix("state_")
        found.sort(key=lambda thread: getattr(thread, name), reverse=is_reversed)
        told = await threads_told(hierarchy, found[body.offset :][: body.limit])
    else:
        every = await threads_told(hierarchy, found)
        fitting = [thread for thread in every if fits(thread, body.status, body.values)]
        fitting.sort(key=lambda thread: str(thread[body.sort_by.removeprefix("state_")]), reverse=is_reversed)
        told = fitting[body.offset :][: body.limit]
    extra = [{"extracted": extracted(thread, body.extract)} if body.extract else {} for thread in told]
    return json_answer([{**selected(thread, body.select), **more} for thread, more in zip(told, extra, strict=True)])


@router.post("/count")
async def count(request: Request, body: CountBody) -> int:
    """How many threads fit."""
    hierarchy = hierarchy_of(request)
    found = await matching(hierarchy, body.metadata)
    if body.status is None and not body.values:
        return len(found)
    return sum(fits(thread, body.status, body.values) for thread in await threads_told(hierarchy, found))


async def matching(hierarchy: Hierarchy, metadata: dict[str, Any], ids: list[str] | None = None) -> list[ThreadRecord]:
    """The threads of these ids (None: all) with such metadata."""
    return [
        thread
        async for thread in hierarchy.records.threads()
        if (ids is None or thread.thread_id in ids) and metadata.items() <= thread.metadata.items()
    ]
