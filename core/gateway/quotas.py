"""The routes of quotas: what tenants and types of tasks may have of the fleet."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from core.gateway.access import caller_of
from core.gateway.hierarchy import Hierarchy, check_operator
from core.gateway.run_requests import Body

__all__ = ["router"]

router = APIRouter(prefix="/quotas", tags=["quotas"])

Name = Annotated[str, Path(max_length=220, description="`tenant:NAME` or `type:TASK_TYPE`")]
LARGEST = 2**31


class QuotaBody(Body):
    """What one may have; null: as much as there is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"per_minute": 600, "at_once": 20}]})

    weight: StrictInt | None = Field(default=None, ge=1, le=LARGEST, description="of a tenant, among others that wait")
    per_minute: StrictInt | None = Field(default=None, ge=1, le=LARGEST, description="tasks that begin in a minute")
    at_once: StrictInt | None = Field(default=None, ge=0, le=LARGEST, description="tasks in flight; 0: none begins")


class QuotaView(BaseModel):
    name: str
    weight: int | None
    per_minute: int | None
    at_once: int | None
    in_flight: int
    held: bool = Field(description="whether nothing more is handed out for it now")
    until: datetime | None = Field(description="when the rate lets the next one begin")


class QuotasBody(BaseModel):
    quotas: list[QuotaView]


@router.get("", operation_id="list_quotas")
async def list_quotas(request: Request) -> QuotasBody:
    """The quotas of tenants and types of tasks, and what is used of them; to a key or token of a tenant, its own."""
    caller = caller_of(request)
    hierarchy: Hierarchy = request.app.state.hierarchy
    found = await hierarchy.quotas()
    return QuotasBody(quotas=[QuotaView(**quota.to_dict()) for quota in found if caller.sees(_tenant_of(quota.name))])


def _tenant_of(name: str) -> str | None:
    """Whose quota it is; None: that of a type of tasks."""
    kind, _, tenant = name.partition(":")
    return tenant if kind == "tenant" else None


@router.put("/{name:path}", operation_id="set_quota", status_code=204)
async def put(request: Request, name: Name, body: QuotaBody) -> None:
    """Sets what a tenant or a type of tasks may have, in place of what was set before."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    check_operator(hierarchy)
    await hierarchy.client.set_quota.aio(name, body.weight, body.per_minute, body.at_once)


@router.delete("/{name:path}", operation_id="remove_quota", status_code=204)
async def remove(request: Request, name: Name) -> None:
    """Removes a quota; nothing happens if there is none."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    check_operator(hierarchy)
    await hierarchy.client.remove_quota.aio(name)
