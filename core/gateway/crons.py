"""The routes of crons, as clients of LangGraph's server know them: each is a schedule whose task is a run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field

from core.errors import UnknownSchedule
from core.gateway.assistants import assistant_named
from core.gateway.cron_runs import CRON
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.gateway.run_requests import Body, Config, Mode, RunBody, listed, run_of, task_of
from core.gateway.thread_life import delete_cron, thread_for_run
from core.gateway.visible_records import hierarchy_of
from core.schedules import Schedule, upcoming
from core.tasks import utc_now

__all__ = ["router"]

router = APIRouter(tags=["crons"])


def in_utc(value: Any) -> Any:
    """A moment without a zone is in UTC, as on LangGraph's server."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


EndTime = Annotated[datetime | None, BeforeValidator(in_utc)]


class CronBody(RunBody):
    """What is run, and when."""

    schedule: str = Field(max_length=200, examples=["30 9 * * 1-5"])
    timezone: str | None = None
    end_time: EndTime = None
    enabled: bool = True
    on_run_completed: Literal["delete", "keep"] = "delete"


class CronChanges(Body):
    """What is to be another from now on; what is left out stays as it is."""

    schedule: str | None = Field(default=None, max_length=200)
    timezone: str | None = None
    end_time: EndTime = None
    enabled: bool | None = None
    input: Any = None
    metadata: dict[str, Any] | None = None
    config: Config | None = None
    context: dict[str, Any] | None = None
    webhook: str | None = None
    interrupt_before: Annotated[list[str] | None, BeforeValidator(listed)] = None
    interrupt_after: Annotated[list[str] | None, BeforeValidator(listed)] = None
    on_run_completed: Literal["delete", "keep"] | None = None
    stream_mode: Annotated[list[Mode] | None, BeforeValidator(listed)] = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    durability: Literal["sync", "async", "exit"] | None = None


class CountBody(Body):
    assistant_id: str | None = None
    thread_id: str | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class SearchBody(CountBody):
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)
    sort_by: Literal[
        "cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time"
    ] = "created_at"  # fmt: skip
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[str] | None = None


@router.post("/runs/crons", operation_id="create_cron")
@router.post("/threads/{thread_id}/runs/crons", operation_id="create_cron_of_thread")
async def create(request: Request, body: CronBody, thread_id: str | None = None) -> dict[str, Any]:
    """Begins a run again and again: in that thread, or each in one of its own."""
    hierarchy = hierarchy_of(request)
    tenant = hierarchy.tenant
    if thread_id is not None:
        assistant = await assistant_named(hierarchy, body.assistant_id)
        tenant = (await thread_for_run(hierarchy, thread_id, body.if_not_exists, assistant)).tenant
    schedule = await _schedule_of(hierarchy, str(uuid4()), body, thread_id, tenant)
    return await _set(hierarchy, schedule)


async def _schedule_of(
    hierarchy: Hierarchy, cron_id: str, body: CronBody, thread_id: str | None, tenant: str | None
) -> Schedule:
    """Raises Problem, BadTask, BadSchedule, BadWebhook."""
    body.check()
    if body.command is not None:
        raise Problem(422, "command: a cron cannot have this; give an input")
    if body.webhook is not None:
        hierarchy.webhooks.check(body.webhook)
    assistant = await assistant_named(hierarchy, body.assistant_id)
    run = run_of(body, assistant, thread_id, tenant)
    said = body.model_dump(mode="json", exclude_unset=True, exclude={"timezone", "end_time", "enabled", "metadata"})
    cron = {
        "assistant_id": assistant.assistant_id,
        "thread_id": thread_id,
        "payload": said,
        "metadata": body.metadata,
        "on_run_completed": None if thread_id else body.on_run_completed,
    }
    return Schedule(
        name=cron_id,
        cron=body.schedule,
        timezone=body.timezone or "UTC",
        task=task_of(body, run, assistant).evolve(task_id=""),
        until=body.end_time,
        webhook=body.webhook,
        keeps_threads=thread_id is None and body.on_run_completed == "keep",
        paused=not body.enabled,
        metadata={CRON: cron},
    )


async def _set(hierarchy: Hierarchy, schedule: Schedule) -> dict[str, Any]:
    thread_id = schedule.metadata[CRON]["thread_id"]
    if thread_id is not None or schedule.keeps_threads:
        await hierarchy.crons.note(schedule.name, thread_id)
    await hierarchy.client.schedules.set.aio(schedule)
    return told(await hierarchy.client.schedules.get.aio(schedule.name))


def told(schedule: Schedule) -> dict[str, Any]:
    """A cron as clients see it."""
    coming = upcoming(schedule, utc_now(), 1)
    record = schedule.to_dict()
    return {
        **schedule.metadata[CRON],
        "cron_id": schedule.name,
        "schedule": schedule.cron,
        "timezone": schedule.timezone,
        "end_time": record["until"],
        "enabled": not schedule.paused,
        "created_at": record["created_at"],
        "updated_at": record["updated_at"],
        "next_run_date": coming[0].isoformat() if coming else None,
        "user_id": None,
    }


def _is_cron(hierarchy: Hierarchy, schedule: Schedule) -> bool:
    """Whether a schedule is a cron that may be seen."""
    return CRON in schedule.metadata and hierarchy.tenant in (None, schedule.task.tenant)


async def _known(hierarchy: Hierarchy, cron_id: str) -> Schedule:
    """Raises Problem: there is no such cron."""
    try:
        schedule = await hierarchy.client.schedules.get.aio(cron_id)
    except UnknownSchedule:
        schedule = None
    if schedule is None or not _is_cron(hierarchy, schedule):
        raise Problem(404, f"there is no cron {cron_id[:80]!r}")
    return schedule


@router.patch("/runs/crons/{cron_id}", operation_id="update_cron")
async def update(request: Request, cron_id: str, body: CronChanges) -> dict[str, Any]:
    """Changes a cron. With another schedule or time zone it begins anew."""
    hierarchy = hierarchy_of(request)
    known = await _known(hierarchy, cron_id)
    cron = known.metadata[CRON]
    before = {
        **cron["payload"],
        "timezone": known.timezone,
        "end_time": known.until,
        "enabled": not known.paused,
        "metadata": cron["metadata"],
    }
    changes = {
        name: value for name in body.model_fields_set
        if (value := getattr(body, name)) is not None or name == "end_time"
    }  # fmt: skip
    changed = CronBody.model_validate(before | changes)
    await hierarchy.crons.look_at(cron_id)  # what it has begun follows from its times, which may be others from now on
    return await _set(hierarchy, await _schedule_of(hierarchy, cron_id, changed, cron["thread_id"], known.task.tenant))


@router.delete("/runs/crons/{cron_id}", operation_id="delete_cron")
async def delete(request: Request, cron_id: str) -> dict[str, Any]:
    """Deletes a cron. The runs that it has begun go on."""
    hierarchy = hierarchy_of(request)
    known = await _known(hierarchy, cron_id)
    await delete_cron(hierarchy, cron_id, known.metadata[CRON]["thread_id"])
    return {}


@router.post("/runs/crons/search", operation_id="search_crons")
async def search(request: Request, body: SearchBody) -> list[dict[str, Any]]:
    """The crons, those first that were created last."""
    found = await _matching(hierarchy_of(request), body)
    found.sort(key=lambda cron: cron["cron_id"])
    found.sort(key=lambda cron: cron[body.sort_by] or "", reverse=body.sort_order == "desc")
    page = found[body.offset : body.offset + body.limit]
    return [{name: cron[name] for name in body.select or cron if name in cron} for cron in page]


@router.post("/runs/crons/count", operation_id="count_crons")
async def count(request: Request, body: CountBody) -> int:
    """How many crons there are."""
    return len(await _matching(hierarchy_of(request), body))


async def _matching(hierarchy: Hierarchy, body: CountBody) -> list[dict[str, Any]]:
    assistant_id = body.assistant_id
    if assistant_id is not None:
        assistant_id = (await assistant_named(hierarchy, assistant_id)).assistant_id
    crons = [
        told(schedule) for schedule in await hierarchy.client.schedules.list.aio() if _is_cron(hierarchy, schedule)
    ]
    return [
        cron
        for cron in crons
        if assistant_id in (None, cron["assistant_id"])
        and body.thread_id in (None, cron["thread_id"])
        and body.enabled in (None, cron["enabled"])
        and body.metadata.items() <= cron["metadata"].items()
    ]
