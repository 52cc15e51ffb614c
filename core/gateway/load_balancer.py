"""The routes of the load balancer: by which strategies tasks are handed out, and how much room there is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from core.gateway.hierarchy import Hierarchy, check_operator
from core.gateway.run_requests import Body
from core.operations.scheduling import Scheduling, read_scheduling
from core.strategies import OF_NONE, Strategy

__all__ = ["router"]

router = APIRouter(prefix="/load-balancer", tags=["load balancer"])


class StrategyBody(Body):
    """Which strategy is to hold from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"strategy": "least_connections"}]})

    strategy: str = Field(
        max_length=60,
        description=f"one of {', '.join(Strategy)}; of a distributor also `{OF_NONE}`: as the coordinator",
    )
    distributor_id: str | None = Field(
        default=None, max_length=64, description="of this one; null: of the coordinator, and of all others"
    )


class StrategiesBody(BaseModel):
    strategy: str = Field(description="of the coordinator, and of all distributors that have none of their own")
    own: dict[str, str] = Field(description="of the distributors that have one of their own, by their ids")


class StatsBody(StrategiesBody):
    distributors: list[dict[str, Any]] = Field(
        description="of each its strategy, health, room, and its workers by what they can do, by its last heartbeat"
    )


async def _scheduling(request: Request) -> Scheduling:
    hierarchy: Hierarchy = request.app.state.hierarchy
    async with hierarchy.reading() as reader:
        return await read_scheduling(reader, hierarchy.coordinator_id)


@router.get("/strategy", operation_id="get_strategy")
async def get(request: Request) -> StrategiesBody:
    """By which strategies tasks are handed out."""
    found = await _scheduling(request)
    return StrategiesBody(strategy=found.strategy, own=dict(found.own))


@router.put("/strategy", operation_id="set_strategy")
async def put(request: Request, body: StrategyBody) -> StrategiesBody:
    """Has tasks handed out by another strategy from now on. Distributors follow within a heartbeat."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    check_operator(hierarchy)
    await hierarchy.client.set_strategy.aio(body.strategy, body.distributor_id)
    return await get(request)


@router.get("/stats", operation_id="get_load")
async def stats(request: Request) -> StatsBody:
    """How much room there is, by distributor and kind of worker."""
    return StatsBody(**(await _scheduling(request)).to_dict())
