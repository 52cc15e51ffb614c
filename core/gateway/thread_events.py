"""The stream of a thread: what all its runs tell, one after the other, also of those that come later."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from core.errors import TransportDown, UnknownTask
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem
from core.gateway.records import RunRecord
from core.gateway.run_events import BEGINNINGS, run_events, told_place
from core.gateway.run_life import UNDER_WAY, known_run, runs_told
from core.gateway.runs import LastEventId
from core.gateway.sse import ServerEvent, event_stream, same_again
from core.gateway.thread_life import known_thread
from core.gateway.visible_records import hierarchy_of

__all__ = ["coming_runs", "is_about_to_begin", "is_there", "router"]

router = APIRouter(prefix="/threads/{thread_id}", tags=["threads"])

Mode = Literal["run_modes", "lifecycle"]
DONE = "done"
#: How long after its record the task of a run may be submitted: both are the work of a moment.
SUBMITTED_WITHIN = timedelta(seconds=10)


@router.get("/stream")
async def join_stream(
    request: Request,
    thread_id: str,
    stream_mode: Annotated[list[Mode], Query()] = ["run_modes"],  # noqa: B006 - FastAPI copies it
    last_event_id: LastEventId = "",
) -> Response:
    """Tells what the runs of a thread do, behind the event `Last-Event-ID` (`-`: from the first that is kept), by
    default from now on. It does not end. `lifecycle`: only that they begin and end."""
    hierarchy = hierarchy_of(request)
    await known_thread(hierarchy, thread_id)
    run_id, _, chunk_id = last_event_id.partition("/")
    if last_event_id and last_event_id not in BEGINNINGS:
        if not chunk_id:
            raise Problem(422, f"Last-Event-ID: there is no event {last_event_id[:80]!r}; give the id of one")
        if chunk_id != DONE:
            told_place(chunk_id)
        await known_run(hierarchy, thread_id, run_id)
    events = _events(hierarchy, thread_id, last_event_id, "run_modes" in stream_mode)
    return event_stream(events, {"Location": same_again(request)})


async def _events(
    hierarchy: Hierarchy, thread_id: str, last_id: str, with_chunks: bool
) -> AsyncGenerator[ServerEvent, None]:
    told = await _told_already(hierarchy, thread_id, last_id)
    last_run_id, _, last_chunk = last_id.partition("/")
    async with aclosing(coming_runs(hierarchy, thread_id, told)) as runs:
        async for run in runs:
            async with aclosing(_of_run(hierarchy, run, last_chunk if run.run_id == last_run_id else "")) as events:
                async for event in events:
                    if with_chunks or event.event == "metadata":
                        yield event


async def coming_runs(hierarchy: Hierarchy, thread_id: str, told: set[str]) -> AsyncGenerator[RunRecord, None]:
    """The runs of a thread that are not `told` yet, the oldest first, also those that come later; each is told then. It
    ends with the thread, and waits while Redis is away."""
    while await is_there(hierarchy, thread_id):
        with suppress(TransportDown):
            # Their ids alone, as long as no other one is among them: this is asked for each stream that waits.
            if not told.issuperset(await hierarchy.records.run_ids(thread_id)):
                for run in reversed(await hierarchy.records.runs(thread_id)):
                    if run.run_id not in told:
                        told.add(run.run_id)
                        yield run
        await hierarchy.news.wait(thread_id)


async def is_there(hierarchy: Hierarchy, thread_id: str) -> bool:
    """Whether there is such a thread. It waits while Redis is away."""
    while True:
        try:
            return await hierarchy.records.thread(thread_id) is not None
        except TransportDown:
            await hierarchy.news.wait(thread_id)


async def _told_already(hierarchy: Hierarchy, thread_id: str, last_id: str) -> set[str]:
    """The runs of which the client wants to know nothing any more."""
    if last_id in BEGINNINGS:
        return set()
    oldest_first = [*reversed(await runs_told(hierarchy, thread_id))]
    if not last_id:
        return {run["run_id"] for run in oldest_first if run["status"] not in UNDER_WAY}
    run_id, _, chunk_id = last_id.partition("/")
    ids = [run["run_id"] for run in oldest_first]
    return {*ids[: ids.index(run_id) + (chunk_id == DONE)]}


async def is_about_to_begin(hierarchy: Hierarchy, run: RunRecord) -> bool:
    """Whether the task of a run that nobody knows may be submitted just now, for which it has waited a moment. False:
    its record has expired, or whoever was to submit it has died, or was refused."""
    if datetime.now(UTC) - run.created_at > SUBMITTED_WITHIN:
        return False
    if await hierarchy.records.run(run.thread_id, run.run_id) is None:
        return False
    await hierarchy.news.wait(run.thread_id)
    return True


async def _of_run(hierarchy: Hierarchy, run: RunRecord, after: str) -> AsyncGenerator[ServerEvent, None]:
    """What a run tells. Its end is told as `metadata`, with the status `run_done`."""
    has_begun, is_over = False, False
    while not is_over:
        try:
            async with aclosing(run_events(hierarchy, run, last_id=after)) as events:
                if has_begun:
                    await anext(events)  # that it begins was told before its task was known
                async for event in events:
                    has_begun = True
                    if event.event != "end":
                        yield ServerEvent(event.event, event.data, event.id and f"{run.run_id}/{event.id}")
            is_over = True
        except UnknownTask:
            is_over = bool(after) or not await is_about_to_begin(hierarchy, run)
    yield ServerEvent("metadata", {"run_id": run.run_id, "status": "run_done"}, f"{run.run_id}/{DONE}")
