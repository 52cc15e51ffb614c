"""Routes about the gateway itself: is it there, does it work, what is it."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from core.config.version import installed_version
from core.errors import AgentSystemError
from core.fleet_counts import FleetCounts
from core.gateway.access import NOBODY, caller_of
from core.gateway.problems import RETRY_S, problem_of
from core.roles import Role

__all__ = ["router"]

router = APIRouter(tags=["system"])


class HealthBody(BaseModel):
    status: Literal["healthy", "degraded"] = Field(
        description="degraded: nothing can be submitted now, or nobody can run it"
    )
    reason: str | None = Field(default=None, description="why it is degraded; for those who gave a key")
    agents: dict[str, dict[str, int]] | None = Field(
        default=None, description="how many agents of each tier are in which state; for those who gave a key"
    )


@router.get("/ok", operation_id="is_there")
async def ok() -> dict[str, bool]:
    """Whether a gateway is there. It says nothing of what is behind it."""
    return {"ok": True}


@router.get("/health", operation_id="get_health", response_model_exclude_none=True)
async def health(request: Request, response: Response) -> HealthBody:
    """Whether the hierarchy behind the gateway works. The status is 503 when nothing can be submitted to it. That is
    told as it was a moment ago."""
    may_know = caller_of(request) is not NOBODY
    try:
        counts = await request.app.state.fleet_look.now()
    except AgentSystemError as error:
        _degrade(response)
        return HealthBody(status="degraded", reason=problem_of(error).detail if may_know else None)
    down = [role for role, tier in counts.tiers.items() if not tier.up]
    if Role.COORDINATOR in down:
        _degrade(response)
    reason = f"no {down[0]} is up: run `agents up`" if down else None
    return HealthBody(
        status="degraded" if down else "healthy",
        reason=reason if may_know else None,
        agents=_told(counts) if may_know else None,
    )


def _degrade(response: Response) -> None:
    response.status_code = 503
    response.headers["Retry-After"] = f"{RETRY_S}"


def _told(counts: FleetCounts) -> dict[str, dict[str, int]]:
    """By tier, the healths that some of its agents have."""
    healths = {role: tier.by_health for role, tier in counts.tiers.items() if tier.agents}
    return {role.value: {health.value: number for health, number in told.items()} for role, told in healths.items()}


@router.get("/info", operation_id="get_info")
async def info() -> dict[str, Any]:
    """What this gateway can do, as clients of LangGraph's server ask for it."""
    return {"version": installed_version(), "flags": {"assistants": True, "crons": True, "langsmith": False}}
