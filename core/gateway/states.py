"""The routes of the states of threads."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, StrictBool, StrictInt

from core.gateway.hierarchy import Hierarchy
from core.gateway.json_answers import json_answer, selected
from core.gateway.problems import Problem
from core.gateway.records import ThreadRecord
from core.gateway.run_requests import Body, CheckpointBody
from core.gateway.state_views import no_state, state_told
from core.gateway.thread_life import known_thread
from core.gateway.visible_records import hierarchy_of

__all__ = ["Superstep", "build_up", "router"]

router = APIRouter(prefix="/threads/{thread_id}", tags=["threads"])

#: Seconds that an update waits for the run before it.
UPDATE_S = 30.0

Select = Annotated[list[str] | None, Query()]


class StateAt(Body):
    checkpoint: CheckpointBody
    subgraphs: StrictBool = False
    select: list[str] | None = None


class HistoryBody(Body):
    limit: StrictInt = Field(default=10, ge=1, le=1000)
    before: str | dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    checkpoint: CheckpointBody = CheckpointBody()
    select: list[str] | None = None


class UpdateBody(Body):
    values: Any = None
    as_node: str | None = None
    checkpoint: CheckpointBody = CheckpointBody()
    checkpoint_id: str | None = None


class NodeUpdate(Body):
    values: Any = None
    command: dict[str, Any] | None = None
    as_node: str | None = None


class Superstep(Body):
    """What nodes have written in one step, as it seems."""

    updates: list[NodeUpdate]


@router.get("/state")
@router.get("/state/{checkpoint_id}")
async def get(
    request: Request, thread_id: str, checkpoint_id: str | None = None, subgraphs: bool = False, select: Select = None
) -> Response:
    """The newest state of a thread, or that at a checkpoint."""
    return await _told(request, thread_id, CheckpointBody(checkpoint_id=checkpoint_id), subgraphs, select)


@router.post("/state/checkpoint")
async def get_at(request: Request, thread_id: str, body: StateAt) -> Response:
    """The state of a thread, or of a subgraph, at a checkpoint."""
    return await _told(request, thread_id, body.checkpoint, body.subgraphs, body.select)


async def _told(
    request: Request, thread_id: str, at: CheckpointBody, subgraphs: bool, select: list[str] | None
) -> Response:
    hierarchy = hierarchy_of(request)
    await known_thread(hierarchy, thread_id)
    found = await hierarchy.threads.snapshot(thread_id, at.checkpoint_id, at.checkpoint_ns)
    if found is None and (at.checkpoint_id or at.checkpoint_ns):
        where = at.checkpoint_id or at.checkpoint_ns
        raise Problem(404, f"thread {thread_id!r} has no checkpoint {where[:80]!r}; its history has those that it has")
    told = await state_told(hierarchy.threads, found, subgraphs=subgraphs) if found else no_state(thread_id)
    return json_answer(selected(told, select))


@router.post("/history")
async def history(request: Request, thread_id: str, body: HistoryBody) -> Response:
    """The states of a thread, the newest first."""
    return await _history(request, thread_id, body)


@router.get("/history")
async def history_by_query(
    request: Request, thread_id: str, limit: Annotated[int, Query(ge=1, le=1000)] = 10, before: str | None = None
) -> Response:
    """The states of a thread, the newest first."""
    return await _history(request, thread_id, HistoryBody(limit=limit, before=before))


async def _history(request: Request, thread_id: str, body: HistoryBody) -> Response:
    hierarchy = hierarchy_of(request)
    await known_thread(hierarchy, thread_id)
    before = body.before
    if isinstance(before, dict):
        before = before.get("configurable", before).get("checkpoint_id")
    found = await hierarchy.threads.snapshots(
        thread_id, body.limit, namespace=body.checkpoint.checkpoint_ns, checkpoint_id=body.checkpoint.checkpoint_id,
        before=before, metadata=body.metadata,
    )  # fmt: skip
    told = await asyncio.gather(*(state_told(hierarchy.threads, one) for one in found))
    return json_answer([selected(one, body.select) for one in told])


@router.post("/state")
async def update(request: Request, thread_id: str, body: UpdateBody) -> dict[str, Any]:
    """Updates the state of a thread, or of a subgraph in it, as if a node had written it. A run that waits for an
    answer is given up; the next run goes on from here."""
    hierarchy = hierarchy_of(request)
    thread = await known_thread(hierarchy, thread_id)
    namespace = body.checkpoint.checkpoint_ns
    checkpoint_id = await hierarchy.client.threads.update_state.aio(
        thread_id, body.values, body.as_node, body.checkpoint_id or body.checkpoint.checkpoint_id,
        graph=await _graph_of(hierarchy, thread), timeout_s=UPDATE_S, gives_up_questions=True, tenant=thread.tenant,
        checkpoint_ns=namespace,
    )  # fmt: skip
    await hierarchy.records.change_thread(thread_id)
    place = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"checkpoint": place, "configurable": place, "checkpoint_id": checkpoint_id}


async def build_up(hierarchy: Hierarchy, thread: ThreadRecord, supersteps: list[Superstep]) -> None:
    """Gives a new thread the states that these steps make. Raises Problem; the thread is not there then."""
    try:
        graph = await _graph_of(hierarchy, thread)
        steps = [[update.model_dump(exclude_none=True) for update in step.updates] for step in supersteps]
        await hierarchy.client.threads.bulk_update_state.aio(
            thread.thread_id, steps, graph=graph, timeout_s=UPDATE_S, tenant=thread.tenant
        )
    except Exception:
        await hierarchy.records.delete_thread(thread.thread_id)
        raise


async def _graph_of(hierarchy: Hierarchy, thread: ThreadRecord) -> str:
    """The graph whose reducers decide what an update means. Raises Problem: it is not known."""
    newest = await hierarchy.threads.history(thread.thread_id, 1)
    graph = (newest[0].graph if newest else "") or str(thread.metadata.get("graph_id", ""))
    if not graph:
        cure = "run one in it, or create it with graph_id"
        raise Problem(422, f"thread {thread.thread_id!r} has no graph that could take an update; {cure}")
    return graph
