"""The routes that make and change assistants: each change is a version, and any version can be the one that is used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from msgspec.structs import replace
from pydantic import Field

from core.gateway.assistants import assistant_named, told
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.gateway.records import AssistantRecord
from core.gateway.run_requests import Body, Config
from core.gateway.thread_life import delete_thread
from core.gateway.visible_records import hierarchy_of

__all__ = ["router"]

router = APIRouter(prefix="/assistants", tags=["assistants"])


class ChangedAssistant(Body):
    graph_id: str | None = None
    config: Config | None = None
    context: dict[str, Any] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None
    description: str | None = None


class NewAssistant(ChangedAssistant):
    assistant_id: str | None = Field(default=None, min_length=1, max_length=200)
    if_exists: Literal["raise", "do_nothing"] = "raise"


class VersionsBody(Body):
    metadata: dict[str, Any] = Field(default_factory=dict)
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)


class LatestBody(Body):
    version: int


@router.post("")
async def create(request: Request, body: NewAssistant) -> dict[str, Any]:
    """Makes an assistant of a graph."""
    hierarchy = hierarchy_of(request)
    graph_id = await _known_graph(hierarchy, body.graph_id or "")
    now = datetime.now(UTC)
    assistant = AssistantRecord(
        assistant_id=body.assistant_id or str(uuid4()),
        graph_id=graph_id,
        name=body.name or "Untitled",
        config=body.config or {},
        context=body.context or {},
        metadata=body.metadata,
        tenant=hierarchy.tenant,
        description=body.description,
        created_at=now,
        updated_at=now,
    )
    if assistant.assistant_id in await hierarchy.graphs():
        raise Problem(409, f"assistant_id {assistant.assistant_id!r} is the name of a graph; choose another")
    if await hierarchy.records.put_assistant(assistant, is_new=True):
        await hierarchy.records.add_version(assistant)
    elif body.if_exists == "raise":
        told_id = assistant.assistant_id
        raise Problem(409, f"there is an assistant {told_id!r} already; give if_exists='do_nothing' to use it")
    else:
        assistant = await _own(hierarchy, assistant.assistant_id)
    return told(assistant)


@router.patch("/{assistant_id}")
async def update(request: Request, assistant_id: str, body: ChangedAssistant) -> dict[str, Any]:
    """Makes a new version of an assistant, which is used from now on."""
    hierarchy = hierarchy_of(request)
    before = await _own(hierarchy, assistant_id)
    if body.graph_id is not None:
        await _known_graph(hierarchy, body.graph_id)
    changes: dict[str, Any] = {
        name: value
        for name in ("graph_id", "config", "context", "name", "description")
        if (value := getattr(body, name)) is not None
    }
    changed = replace(before, **changes, metadata={**before.metadata, **body.metadata}, updated_at=datetime.now(UTC))
    versions = await hierarchy.records.versions(assistant_id)
    changed = replace(changed, version=max([before.version, *(each.version for each in versions)]) + 1)
    while not await hierarchy.records.add_version(changed):  # another gateway has made this one
        changed = replace(changed, version=changed.version + 1)
    await hierarchy.records.put_assistant(changed)
    return told(changed)


@router.delete("/{assistant_id}", status_code=204)
async def delete(request: Request, assistant_id: str, delete_threads: bool = False) -> Response:
    """Deletes an assistant; with `delete_threads`, also the threads in which it has run last."""
    hierarchy = hierarchy_of(request)
    assistant = await _own(hierarchy, assistant_id)
    if delete_threads:
        async for thread in hierarchy.records.threads():
            if thread.metadata.get("assistant_id") == assistant.assistant_id:
                await delete_thread(hierarchy, thread)
    await hierarchy.records.delete_assistant(assistant_id)
    return Response(status_code=204)


@router.post("/{assistant_id}/versions")
async def versions(request: Request, assistant_id: str, body: VersionsBody) -> list[dict[str, Any]]:
    """The versions of an assistant, the newest first."""
    hierarchy = hierarchy_of(request)
    assistant = await assistant_named(hierarchy, assistant_id)
    found = await hierarchy.records.versions(assistant.assistant_id) or [assistant]
    fitting = [each for each in found if body.metadata.items() <= each.metadata.items()]
    return [told(each) for each in fitting[body.offset :][: body.limit]]


@router.post("/{assistant_id}/latest")
async def set_latest(request: Request, assistant_id: str, body: LatestBody) -> dict[str, Any]:
    """Makes a version the one that is used."""
    hierarchy = hierarchy_of(request)
    await _own(hierarchy, assistant_id)
    for version in await hierarchy.records.versions(assistant_id):
        if version.version == body.version:
            await hierarchy.records.put_assistant(version)
            return told(version)
    raise Problem(404, f"assistant {assistant_id!r} has no version {body.version}")


async def _own(hierarchy: Hierarchy, assistant_id: str) -> AssistantRecord:
    """An assistant that a client has made. Raises Problem: it is none."""
    if (found := await hierarchy.records.assistant(assistant_id)) is not None:
        return found
    graph = (await assistant_named(hierarchy, assistant_id)).graph_id
    raise Problem(422, f"assistant {assistant_id!r} is the graph {graph!r} itself; create one of your own of the graph")


async def _known_graph(hierarchy: Hierarchy, graph_id: str) -> str:
    """Raises Problem: no worker has it."""
    graphs = await hierarchy.graphs(expected=graph_id)
    if graph_id not in graphs:
        known = ", ".join(sorted(graphs)) or "none: start a worker with --import or --langgraph"
        raise Problem(404, f"graph_id: there is no graph {graph_id[:80]!r}; there are {known}")
    return graph_id
