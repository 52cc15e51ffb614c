"""Assistants: each graph of a worker is one, and clients make others of it, with a config and context of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid5

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt

from core.gateway.graph_descriptions import described
from core.gateway.hierarchy import Hierarchy
from core.gateway.json_answers import selected
from core.gateway.problems import Problem
from core.gateway.records import AssistantRecord
from core.gateway.run_requests import Body
from core.gateway.visible_records import hierarchy_of

__all__ = ["assistant_named", "router", "told"]

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
    limit: StrictInt = Field(default=10, ge=1, le=1000)
    offset: StrictInt = Field(default=0, ge=0)
    sort_by: Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"] = "name"
    sort_order: Literal["asc", "desc"] = "asc"
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
    found = found or await hierarchy.records.assistant(name)
    if found is None:
        known = ", ".join(sorted(graphs)) or "none: start a worker with --import or --langgraph"
        raise Problem(404, f"there is no assistant {name[:80]!r}; there are {known}")
    return found


async def matching(hierarchy: Hierarchy, body: CountBody) -> list[AssistantRecord]:
    graphs = [of_graph(name) for name in sorted(await hierarchy.graphs())]
    return [
        one
        for one in [*graphs, *await hierarchy.records.assistants()]
        if body.graph_id in (None, one.graph_id)
        and (body.name or "").lower() in one.name.lower()
        and body.metadata.items() <= one.metadata.items()
    ]


def told(assistant: AssistantRecord) -> dict[str, Any]:
    """An assistant as clients see it."""
    fields: dict[str, Any] = msgspec.to_builtins(assistant)
    fields.pop("tenant", None)
    return {"version": 1, "config": {}, "context": {}, "metadata": {}, "description": None, **fields}


@router.post("/search")
async def search(request: Request, body: SearchBody, response: Response) -> list[dict[str, Any]]:
    """The assistants that fit. If there are more, `X-Pagination-Next` is the next offset."""
    found = await matching(hierarchy_of(request), body)
    found.sort(key=lambda one: (getattr(one, body.sort_by), one.assistant_id), reverse=body.sort_order == "desc")
    end = body.offset + body.limit
    if end < len(found):
        response.headers["X-Pagination-Next"] = f"{end}"
    return [selected(told(one), body.select) for one in found[body.offset : end]]


@router.post("/count")
async def count(request: Request, body: CountBody) -> int:
    """How many assistants fit."""
    return len(await matching(hierarchy_of(request), body))


@router.get("/{assistant_id}")
async def get(request: Request, assistant_id: str) -> dict[str, Any]:
    """One assistant, by its id or the name of its graph."""
    return told(await assistant_named(hierarchy_of(request), assistant_id))


@router.get("/{assistant_id}/graph")
async def graph(request: Request, assistant_id: str, xray: bool | int = False) -> dict[str, Any]:
    """The graph as nodes and edges. `xray`: with its subgraphs, or so many levels of them."""
    hierarchy = hierarchy_of(request)
    assistant = await assistant_named(hierarchy, assistant_id)
    drawn = (await described(hierarchy, assistant.graph_id))["drawn"]
    level = len(drawn) - 1 if xray is True else int(xray)
    told: dict[str, Any] = drawn[max(0, min(level, len(drawn) - 1))]
    return told


@router.get("/{assistant_id}/schemas")
async def schemas(request: Request, assistant_id: str) -> dict[str, Any]:
    """JSON schemas of what the graph takes and gives."""
    hierarchy = hierarchy_of(request)
    assistant = await assistant_named(hierarchy, assistant_id)
    return {"graph_id": assistant.graph_id, **(await described(hierarchy, assistant.graph_id))["schemas"]}


@router.get("/{assistant_id}/subgraphs")
@router.get("/{assistant_id}/subgraphs/{namespace}")
async def subgraphs(
    request: Request, assistant_id: str, namespace: str | None = None, recurse: bool = False
) -> dict[str, Any]:
    """The schemas of the subgraphs, by the names of their nodes; with `recurse`, also of those in them. `namespace`:
    only that one."""
    hierarchy = hierarchy_of(request)
    assistant = await assistant_named(hierarchy, assistant_id)
    every = (await described(hierarchy, assistant.graph_id))["subgraphs"]
    return {
        name: {"graph_id": name.rpartition("|")[2], **schemas}
        for name, schemas in every.items()
        if namespace in (None, name) and (recurse or namespace is not None or "|" not in name)
    }
