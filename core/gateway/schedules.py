"""The routes of schedules: tasks that are opened by the clock."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from core.errors import UnknownSchedule
from core.gateway.access import caller_of
from core.gateway.hierarchy import Hierarchy
from core.gateway.idempotency import IdempotencyKey, RepeatableRequest
from core.gateway.problems import Problem
from core.gateway.run_requests import Body
from core.gateway.task_bodies import TaskBody, new_task
from core.gateway.visible_tasks import check_own_threads
from core.schedules import Schedule, upcoming
from core.tasks import utc_now

__all__ = ["router"]

router = APIRouter(prefix="/schedules", tags=["schedules"])

#: Kept for a request that may be made again.
REMOVED = b"removed"
#: Number of firings that are told ahead.
AHEAD = 5

ScheduleName = Annotated[str, Path(max_length=64, description="the name of a schedule")]


class ScheduleBody(Body):
    """When a task is opened, and which."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"task": {"task_type": "word_count", "payload": {"text": "to be"}}, "cron": "30 9 * * 1-5"},
                {"task": {"task_type": "word_count", "payload": {"text": "or not"}}, "every_s": 60, "missed": "skip"},
            ]
        }
    )

    task: TaskBody = Field(description="what each firing opens; without an id, a deadline and not_before")
    cron: str | None = Field(default=None, max_length=200, description="minute, hour, day, month, day of the week")
    every_s: int | None = Field(default=None, ge=1, description="instead: seconds from one firing to the next")
    timezone: str = Field(default="UTC", max_length=100, description="of `cron`, by its IANA name")
    missed: Literal["skip", "once", "all"] = "once"
    until: AwareDatetime | None = Field(default=None, description="no firing is later")
    webhook: str | None = Field(
        default=None, max_length=2000, description="a URL that is told of the end of each of its tasks, by POST"
    )
    keeps_threads: bool = Field(
        default=False, description="whether the graph of each task has a thread of its own that stays"
    )
    paused: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict, description="carried along, never read")


class ScheduleView(BaseModel):
    """A schedule as it stands."""

    name: str
    task: dict[str, Any]
    cron: str | None
    every_s: int | None
    timezone: str
    missed: Literal["skip", "once", "all"]
    paused: bool
    until: datetime | None
    webhook: str | None
    keeps_threads: bool
    metadata: dict[str, Any]
    owner: str | None
    created_at: datetime | None
    updated_at: datetime | None
    fired_until: datetime | None = Field(description="it is decided what becomes of every firing up to then")
    owed: list[datetime] = Field(description="firings that wait until there is room")
    opened: int = Field(description="how many tasks it has opened")
    recent: list[str] = Field(description="the ids of the latest of them")
    next: list[datetime] = Field(description="its next firings; empty: it is paused, or there are none")


def told(schedule: Schedule) -> ScheduleView:
    return ScheduleView(**schedule.to_dict(), next=upcoming(schedule, utc_now(), AHEAD))


@router.get("", operation_id="list_schedules")
async def list_schedules(request: Request) -> list[ScheduleView]:
    """The schedules, by name."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    caller = caller_of(request)
    return [
        told(schedule) for schedule in await hierarchy.client.schedules.list.aio() if caller.sees(schedule.task.tenant)
    ]


@router.get("/{name}", operation_id="get_schedule")
async def get(request: Request, name: ScheduleName) -> ScheduleView:
    """One schedule, with its next firings."""
    return told(await _visible(request, name))


@router.put("/{name}", operation_id="set_schedule")
async def put(request: Request, name: ScheduleName, body: ScheduleBody) -> ScheduleView:
    """Sets a schedule, in the place of one of that name. The same once more changes nothing; only another timing begins
    anew."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    fields = {field: getattr(body, field) for field in body.model_fields_set if field != "task"}
    if body.task.webhook is not None:
        raise Problem(422, "task.webhook: give the webhook beside the task: it is that of the schedule")
    if body.webhook is not None:
        hierarchy.webhooks.check(body.webhook)
    task = new_task(body.task, caller_of(request), None)
    await check_own_threads(hierarchy, caller_of(request), [task])
    await hierarchy.client.schedules.set.aio(Schedule(name=name, task=task, **fields))
    return told(await _visible(request, name))


@router.delete("/{name}", operation_id="remove_schedule", status_code=204)
async def remove(request: Request, name: ScheduleName, idempotency_key: IdempotencyKey = None) -> Response:
    """Removes a schedule. The tasks that it has opened go on. With an `Idempotency-Key`, one that is made again since
    its answer was lost is answered as the first."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    repeatable = RepeatableRequest(request, idempotency_key)
    if await repeatable.earlier_answer() is None:
        try:
            await hierarchy.client.schedules.remove.aio(name, tenant=caller_of(request).tenant)
        except UnknownSchedule:
            if not repeatable.was_begun:
                raise
        await repeatable.keep(REMOVED)
    return Response(status_code=204)


@router.post("/{name}/pause", operation_id="pause_schedule")
async def pause(request: Request, name: ScheduleName) -> ScheduleView:
    """Opens nothing by a schedule until it is resumed."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    await hierarchy.client.schedules.pause.aio(name, tenant=caller_of(request).tenant)
    return told(await _visible(request, name))


@router.post("/{name}/resume", operation_id="resume_schedule")
async def resume(request: Request, name: ScheduleName) -> ScheduleView:
    """Goes on with a schedule, from now; what would have fired meanwhile is not made up for."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    await hierarchy.client.schedules.resume.aio(name, tenant=caller_of(request).tenant)
    return told(await _visible(request, name))


async def _visible(request: Request, name: str) -> Schedule:
    """The schedule as it is recorded. Raises UnknownSchedule: to this caller there is none."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    schedule = await hierarchy.client.schedules.get.aio(name)
    if not caller_of(request).sees(schedule.task.tenant):
        raise UnknownSchedule(f"there is no schedule {name[:80]!r}; GET /schedules lists them")
    return schedule
