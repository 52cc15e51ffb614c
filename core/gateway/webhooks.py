"""The routes of webhooks, and what clients ask of them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from core.gateway.access import caller_of
from core.gateway.deliveries import Delivery
from core.stored import moment
from core.tasks import Task, utc_now

if TYPE_CHECKING:
    from core.gateway.hierarchy import Hierarchy
    from core.gateway.records import RunRecord

__all__ = ["of_run", "of_task", "router"]

router = APIRouter(prefix="/webhooks", tags=["webhooks"])


class FailedView(BaseModel):
    """A webhook that was given up."""

    delivery_id: str = Field(description="the id of the run, or else of the task")
    thread_id: str | None = Field(description="of a run; null: it is a task")
    url: str
    tries: int
    problem: str = Field(description="what the last try has met")
    failed_at: datetime


@router.get("/failed", operation_id="list_failed_webhooks")
async def failed(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[FailedView]:
    """The webhooks that were given up, the newest first; the latest thousand are kept."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller = caller_of(request)
    return [
        FailedView(
            delivery_id=delivery.delivery_id, thread_id=delivery.thread_id, url=delivery.url, tries=delivery.tries,
            problem=delivery.problem, failed_at=moment(int(entry_id.partition("-")[0])),
        )
        for entry_id, delivery in await hierarchy.deliveries.failed(limit)
        if caller.sees(delivery.tenant)
    ]  # fmt: skip


def of_task(task: Task, url: str) -> Delivery:
    """That somebody wants to be told of the end of a task."""
    task_id = str(task.task_id)  # it may be a FreshId
    return Delivery(delivery_id=task_id, url=url, tenant=task.tenant, created_at=utc_now())


def of_run(run: RunRecord, url: str) -> Delivery:
    """That somebody wants to be told of the end of a run."""
    return Delivery(delivery_id=run.run_id, url=url, thread_id=run.thread_id, tenant=run.tenant, created_at=utc_now())
