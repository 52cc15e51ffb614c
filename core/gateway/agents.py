"""The routes of agents: who registers, is found, takes tasks and answers."""

from __future__ import annotations

import math
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from msgspec import to_builtins

from core.gateway.access import caller_of
from core.gateway.agent_bodies import (
    AgentPage,
    AgentView,
    AttemptsBody,
    DiscoverBody,
    HeartbeatBody,
    HeartbeatView,
    ProgressBody,
    RegisterBody,
    ResultBody,
    StatsView,
    StatusBody,
    page_told,
    stats_told,
    told,
)
from core.gateway.fleet import Fleet
from core.local.tiers import Terms
from core.registry.agent_info import NAME_CHARACTERS
from core.registry.discovery import MAX_PAGE
from core.tasks import TaskError

__all__ = ["router"]

router = APIRouter(tags=["agents"])

#: The longest wait for a task that one request is kept open for, s.
MAX_WAIT_S = 60.0

AgentId = Annotated[str, Path(max_length=64)]
TaskId = Annotated[str, Path(max_length=200)]
Named = Annotated[str, Path(max_length=NAME_CHARACTERS)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
After = Annotated[str, Query(max_length=64, description="`next` of the page before")]


def _fleet(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.fleet
    return fleet


def _speaking(request: Request, agent_id: str) -> Fleet:
    """The fleet, for somebody who may act as this agent. Raises Problem."""
    caller_of(request).check_speaks_for(agent_id)
    return _fleet(request)


@router.post("/agents/register", operation_id="register_agent", status_code=201)
async def register(request: Request, body: RegisterBody) -> AgentView:
    """Registers an agent, for as long as it polls or sends heartbeats; again, it is a new start of the same agent.

    With `services` it gets tasks of these types, which it takes and answers at this gateway. An agent that was
    registered at a gateway which has died registers here."""
    fleet = _speaking(request, body.agent_id)
    terms = Terms(body.concurrency, body.timeout_s, body.max_attempts)
    return told(await fleet.register(body.declared(), terms, body.lease_s, body.distributor_id))


@router.post("/agents/discover", operation_id="discover_agents")
async def discover(request: Request, body: DiscoverBody) -> AgentPage:
    """The agents that fulfil all that is asked, by id, a page at a time."""
    return page_told(await _fleet(request).discovery.find(body.wanted(), limit=body.limit, after=body.after))


@router.get("/agents", operation_id="list_agents")
async def list_agents(request: Request, limit: Limit = 100, after: After = "") -> AgentPage:
    """All agents that are registered, by id, a page at a time."""
    return page_told(await _fleet(request).discovery.find(limit=limit, after=after))


@router.get("/agents/service/{service}", operation_id="agents_of_service")
async def of_service(request: Request, service: Named, limit: Limit = 100, after: After = "") -> AgentPage:
    """The agents that run tasks of this type."""
    return page_told(await _fleet(request).discovery.by_service(service, limit=limit, after=after))


@router.get("/agents/capability/{capability}", operation_id="agents_of_capability")
async def of_capability(request: Request, capability: Named, limit: Limit = 100, after: After = "") -> AgentPage:
    """The agents that can do this."""
    return page_told(await _fleet(request).discovery.by_capability(capability, limit=limit, after=after))


@router.get("/registry/stats", operation_id="registry_stats")
async def stats(request: Request) -> StatsView:
    """How many agents are registered, by what they are and can do."""
    return stats_told(await _fleet(request).registry.stats())


@router.get("/agents/{agent_id}", operation_id="get_agent")
async def get(request: Request, agent_id: AgentId) -> AgentView:
    """One agent, also if it has been gone for less than a day."""
    return told(await _fleet(request).known(agent_id))


@router.put("/agents/{agent_id}/status", operation_id="set_agent_status")
async def set_status(request: Request, agent_id: AgentId, body: StatusBody) -> AgentView:
    """Has an agent that has registered over HTTP take no new tasks (`inactive`), or take them again."""
    return told(await _speaking(request, agent_id).set_status(agent_id, paused=body.status == "inactive"))


@router.post("/agents/{agent_id}/heartbeat", operation_id="heartbeat")
async def heartbeat(request: Request, agent_id: AgentId, body: HeartbeatBody) -> HeartbeatView:
    """A sign of life, which extends the lease. It tells the agent which of its tasks nobody waits for any more."""
    fleet = _speaking(request, agent_id)
    agent = await fleet.heartbeat(agent_id, body.load(), body.error_rate, body.lease_s)
    held = agent.worker.holding if agent is not None else {}
    return HeartbeatView(agent_id=agent_id, drop=[task_id for task_id in body.holding if task_id not in held])


@router.delete("/agents/{agent_id}", operation_id="deregister_agent", status_code=204)
async def deregister(request: Request, agent_id: AgentId) -> None:
    """Has an agent leave. What it has not answered goes back, and costs its tasks no attempt."""
    await _speaking(request, agent_id).deregister(agent_id)


@router.get("/agents/{agent_id}/tasks", operation_id="take_tasks", response_model=AttemptsBody)
async def take(
    request: Request,
    agent_id: AgentId,
    wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="how long to wait for a task")] = 0.0,
    holding: Annotated[list[str] | None, Query(max_length=1_000, description="the tasks that it works on")] = None,
) -> Response:
    """Tasks for an agent, up to its concurrency; it waits until there is one. It is a sign of life.

    What an agent was given and does not name as `holding` is given to it again, with the same attempt: the response
    may have been lost."""
    agent = await _speaking(request, agent_id).working(agent_id)
    return Response(_encoded(await agent.take(set(holding or ()), wait_s)), media_type="application/json")


@router.post("/agents/{agent_id}/tasks/{task_id:path}/progress", operation_id="report_progress", status_code=204)
async def progress(request: Request, agent_id: AgentId, task_id: TaskId, body: ProgressBody) -> None:
    """Tells how far an attempt is. 409: it is not this agent's any more, and nobody waits for it."""
    agent = await _speaking(request, agent_id).working(agent_id)
    agent.touch()
    agent.worker.report(task_id, body.attempt, body.fraction, body.note)


@router.post("/agents/{agent_id}/tasks/{task_id:path}/result", operation_id="answer_task", status_code=204)
async def answer(request: Request, agent_id: AgentId, task_id: TaskId, body: ResultBody) -> None:
    """Ends an attempt. 204: it is recorded; told twice, it is recorded once. 409: it is not this agent's any more."""
    agent = await _speaking(request, agent_id).working(agent_id)
    agent.touch()
    if body.error is None:
        await agent.worker.complete(task_id, body.attempt, body.result)
    else:
        error = TaskError(
            type=body.error.type, message=body.error.message, attempt=body.attempt, retryable=body.error.retryable
        )
        await agent.worker.fail(task_id, body.attempt, error)


def _encoded(offers: list[Any]) -> bytes:
    return orjson.dumps({"tasks": [_attempt(offer) for offer in offers]})


def _attempt(offer: Any) -> dict[str, Any]:
    task = offer.task
    return {
        "task_id": task.task_id,
        "attempt": task.attempt,
        "task_type": task.task_type,
        "payload": orjson.Fragment(bytes(task.payload_json)),
        "time_left_s": offer.left_s if math.isfinite(offer.left_s) else None,
        "idempotency_key": task.idempotency_key,
        "metadata": task.metadata,
        "children": [
            {
                "task_id": child.task_id, "task_type": child.task_type, "status": child.status, "result": child.result,
                "error": to_builtins(child.error),
            }
            for child in offer.children
        ],
    }  # fmt: skip
