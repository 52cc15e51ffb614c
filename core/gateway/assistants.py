"""Assistants: each graph of a worker is one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec
from fastapi import APIRouter, Request
from pydantic import Field

from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.gateway.records import AssistantRecord
from core.gateway.run_requests import Body

__all__ = ["assistant_named", "router"]

router = APIRouter(prefix="/assistants", tags=["assistants"])

#: From it and the name of a graph follows the id of its assistant, as on LangGraph's server.
NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")
#: Graphs are there when somebody looks; nobody has made them at a certain time.
NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class CountBody(Body):
    metadata: dict[str, Any] = Field(default_factory=dict)
    graph_id: str | None = None
    name: str | None = None


class SearchBody(CountBody):
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)
    sort_by: str | None = None
    sort_order: str | None = None
    select: list[str] | None = None


def of_graph(graph_id: str) -> AssistantRecord:
    """The assistant that each graph is by itself."""
    return AssistantRecord(
        assistant_id=str(uuid5(NAMESPACE, graph_id)),
        graph_id=graph_id,
        name=graph_id,
        metadata={"created_by": "system"},
        created_at=NO_TIME,
        updated_at=NO_TIME,
    )


async def assistant_named(hierarchy: Hierarchy, name: str) -> AssistantRecord:
    """The assistant with that id, or of the graph of that name. Raises Problem: there is none."""
    graphs = await hierarchy.graphs(expected=name)
    if name in graphs:
        return of_graph(name)
    found = next((one for one in map(of_graph, graphs) if one.assistant_id == name), None)
    if found is None:
        known = ", ".join(sorted(graphs)) or "none: start a worker with --import or --langgraph"
        raise Problem(404, f"there is no assistant {name[:80]!r}; there are {known}")
    return found


async def matching(hierarchy: Hierarchy, body: CountBody) -> list[AssistantRecord]:
    graphs = [of_graph(name) for name in sorted(await hierarchy.graphs())]
    return [
        one
        for one in graphs
        if body.graph_id in (None, one.graph_id)
        and (body.name or "").lower() in one.name.lower()
        and body.metadata.items() <= one.metadata.items()
    ]


def told(assistant: AssistantRecord) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(assistant)
    return {"version": 1, "config": {}, "context": {}, "metadata": {}, "description": None, **fields}


@router.post("/search")
async def search(request: Request, body: SearchBody) -> list[dict[str, Any]]:
    """The assistants, sorted by name."""
    found = await matching(request.app.state.hierarchy, body)
    return [told(one) for one in found[body.offset : body.offset + body.limit]]


@router.post("/count")
async def count(request: Request, body: CountBody) -> int:
    """How many assistants there are."""
    return len(await matching(request.app.state.hierarchy, body))


@router.get("/{assistant_id}")
async def get(request: Request, assistant_id: str) -> dict[str, Any]:
    """One assistant, by its id or the name of its graph."""
    return told(await assistant_named(request.app.state.hierarchy, assistant_id))
