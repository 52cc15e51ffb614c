"""Thread streams: `client.threads.stream` of LangGraph's SDK, over server-sent events and WebSockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any
from uuid import uuid4

import orjson
from fastapi import APIRouter, Request, Response, WebSocket
from pydantic import Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from core.client.run_streams import RunStream
from core.errors import AgentSystemError, UnknownTask
from core.gateway.access import caller_of
from core.gateway.gate import check_rate
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem, place_of_bug
from core.gateway.protocol_commands import Command, failed, obey, succeeded
from core.gateway.protocol_events import A_MS, CHANNELS, EPOCH_MS, Event, Numbers, RunTold, Wanted
from core.gateway.rbac import Action, check_may
from core.gateway.records import RunRecord
from core.gateway.run_events import run_over
from core.gateway.run_life import settle
from core.gateway.run_requests import Body
from core.gateway.sse import ServerEvent, event_stream
from core.gateway.thread_events import coming_runs, is_about_to_begin, is_there
from core.gateway.thread_life import known_thread
from core.gateway.visible_records import hierarchy_of
from core.json_values import as_json
from core.run_stream import place_of
from core.stored import moment
from core.tasks import Task

__all__ = ["is_past", "router"]

log = logging.getLogger(__name__)

router = APIRouter(prefix="/threads/{thread_id}", tags=["threads"])

#: Of runs that have ended within this time, a client that comes anew is told, too: it may have begun them.
REPLAYED = timedelta(seconds=30)
#: The codes with which a WebSocket is closed with its thread, by what may work later, and by a bug.
NORMAL, TRY_AGAIN_LATER, INTERNAL_ERROR = 1000, 1013, 1011
#: Subscriptions of one WebSocket. Each is read for itself, over a connection to Redis of its own.
MAX_SUBSCRIPTIONS = 32

Channel = Annotated[str, Field(pattern=rf"^({'|'.join(CHANNELS)}|custom:.+)$")]


class Subscription(Body):
    """What a client wants to hear: channels, and below which namespaces. `since`: only events behind that number."""

    channels: list[Channel] = Field(min_length=1)
    namespaces: list[list[str]] = Field(default_factory=list)
    depth: int | None = Field(default=None, ge=0)
    since: int | None = Field(default=None, lt=2**53)

    def wanted(self) -> Wanted:
        return Wanted(frozenset(self.channels), self.namespaces, self.depth)


@router.post("/commands")
async def command(request: Request, thread_id: str, body: Command) -> dict[str, Any]:
    """Begins a run (`run.start`), or answers questions (`input.respond`). What is refused is told in the answer."""
    return await obey(hierarchy_of(request), thread_id, body)


@router.post("/stream/events")
async def stream(request: Request, thread_id: str, body: Subscription) -> Response:
    """Tells what the runs of a thread do, also of those that come later: behind `since`, or else all of those that go
    on, that ask something, or that have ended within half a minute. It does not end."""
    hierarchy = hierarchy_of(request)
    await known_thread(hierarchy, thread_id)
    return event_stream(_as_sse(thread_events(hierarchy, thread_id, body)), {})


async def _as_sse(told: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[ServerEvent, None]:
    async with aclosing(told) as events:
        async for event in events:
            yield ServerEvent(event["method"], event, f"{event['seq']}")


async def thread_events(
    hierarchy: Hierarchy, thread_id: str, subscription: Subscription
) -> AsyncGenerator[dict[str, Any], None]:
    """The events to which somebody has subscribed, until the thread is deleted. Each has the same id and number
    whenever, and by whatever gateway, it is told."""
    since, wanted, numbers = subscription.since, subscription.wanted(), Numbers()
    if since is None:
        begins_at = datetime.now(UTC) - REPLAYED
    else:
        begins_at = datetime.fromtimestamp(max(0, since // A_MS + EPOCH_MS) / 1000, UTC) - REPLAYED
    told = await _past(hierarchy, thread_id, begins_at)
    async with aclosing(coming_runs(hierarchy, thread_id, told)) as runs:
        async for run in runs:
            async with aclosing(_of_run(hierarchy, run)) as events:
                async for event, at_ms in events:
                    number = numbers.next(at_ms)
                    if wanted.takes(event) and (since is None or number > since):
                        yield event.told(number, at_ms)


async def _past(hierarchy: Hierarchy, thread_id: str, before: datetime) -> set[str]:
    """The runs that were over before that time."""
    runs = await hierarchy.records.runs(thread_id)
    tasks = await hierarchy.tasks([run.task_id for run in runs])
    return {run.run_id for run in runs if is_past(run, tasks.get(run.task_id), before)}


def is_past(run: RunRecord, task: Task | None, before: datetime) -> bool:
    """Whether a run was over before that time. One whose question was answered was over when it had told that."""
    if run.until is not None:
        return max(run.created_at, moment(place_of(run.until)[0])) < before
    if task is not None and not task.status.ended:
        return False
    return (run.created_at if task is None else task.updated_at or run.created_at) < before


async def _of_run(hierarchy: Hierarchy, run: RunRecord) -> AsyncGenerator[tuple[Event, int], None]:
    """The events of a run, each with the time at which it was told, in ms."""
    told = RunTold(run)
    task, ended, is_over = None, None, False
    while not is_over:
        try:
            async for chunk in RunStream(
                hierarchy.client, run.task_id, (), run.after, partial(run_over, hierarchy, run)
            ):
                if chunk.mode == "lifecycle":
                    run = await hierarchy.records.run(run.thread_id, run.run_id) or run
                    continue
                if run.until is not None and place_of(chunk.id) > place_of(run.until):
                    break
                for event in told.chunk(chunk):
                    yield event, told.at_ms
            task = await hierarchy.over(run.task_id, run.attempts_before) if run.until is None else None
            is_over = True
        except UnknownTask:
            if told.at_ms or not await is_about_to_begin(hierarchy, run):
                is_over, ended = True, (await settle(hierarchy, run, None)).ended or "error"
    for event in told.end(task, ended):
        yield event, told.at_ms


@router.websocket("/stream/events")
async def socket(websocket: WebSocket, thread_id: str) -> None:
    """Takes commands, among them `subscription.subscribe` and `subscription.unsubscribe`, and tells events. Each frame
    is a text in JSON. The thread may begin with a command of this connection."""
    await websocket.accept()
    connection = _Connection(websocket, hierarchy_of(websocket), thread_id)
    try:
        await connection.serve()
    except WebSocketDisconnect:
        pass
    finally:
        await connection.leave()


class _Connection:
    """A WebSocket and what its client has subscribed to."""

    def __init__(self, websocket: WebSocket, hierarchy: Hierarchy, thread_id: str) -> None:
        self._websocket = websocket
        self._hierarchy = hierarchy
        self._thread_id = thread_id
        self._subscriptions: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Raises WebSocketDisconnect."""
        while (message := await self._websocket.receive())["type"] == "websocket.receive":
            await self._send(await self._answer(message.get("text") or message.get("bytes") or ""))

    async def leave(self) -> None:
        for task in self._subscriptions.values():
            task.cancel()
        await asyncio.gather(*self._subscriptions.values(), return_exceptions=True)

    async def _send(self, told: dict[str, Any]) -> None:
        """Raises WebSocketDisconnect."""
        try:
            await self._websocket.send_text(as_json(told).decode())
        except RuntimeError as error:  # it was closed, here or there, while something was to be sent
            raise WebSocketDisconnect from error

    async def _answer(self, text: str | bytes) -> dict[str, Any]:
        try:
            said = Command.model_validate(orjson.loads(text))
        except (orjson.JSONDecodeError, ValidationError):
            return failed(None, "invalid_argument", "a command is JSON with an id, which is a number, and a method")
        try:
            return await self._obeyed(said)
        except Problem as problem:
            code = "permission_denied" if problem.status in (401, 403) else "unknown_error"
            return failed(said.id, code, problem.detail)

    async def _obeyed(self, said: Command) -> dict[str, Any]:
        """Raises Problem."""
        await check_rate(self._websocket)
        if said.method == "subscription.subscribe":
            return self._subscribe(said)
        if said.method == "subscription.unsubscribe":
            return self._unsubscribe(said)
        check_may(caller_of(self._websocket), Action.CHANGE_THREADS)
        return await obey(self._hierarchy, self._thread_id, said)

    def _subscribe(self, said: Command) -> dict[str, Any]:
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            why = f"this connection has {MAX_SUBSCRIPTIONS} subscriptions already; end one, or open another connection"
            return failed(said.id, "invalid_argument", why)
        try:
            subscription = Subscription.model_validate(said.params)
        except ValidationError as error:
            first = error.errors()[0]
            return failed(said.id, "invalid_argument", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        name = str(uuid4())
        self._subscriptions[name] = asyncio.create_task(self._tell(subscription))
        return succeeded(said.id, {"subscription_id": name, "replayed_events": 0}, 0)

    def _unsubscribe(self, said: Command) -> dict[str, Any]:
        task = self._subscriptions.pop(f"{said.params.get('subscription_id')}", None)
        if task is None:
            return failed(said.id, "no_such_subscription", "there is no such subscription on this connection")
        task.cancel()
        return succeeded(said.id, {}, 0)

    async def _tell(self, subscription: Subscription) -> None:
        with suppress(WebSocketDisconnect):
            code, why = await self._told(subscription)
            with suppress(RuntimeError):  # it was closed meanwhile
                await self._websocket.close(code, why)

    async def _told(self, subscription: Subscription) -> tuple[int, str]:
        """Tells events as long as there are any. Returns with which code, and why, the connection ends then."""
        try:
            while not await is_there(self._hierarchy, self._thread_id):
                await self._hierarchy.news.wait(self._thread_id)
            async with aclosing(thread_events(self._hierarchy, self._thread_id, subscription)) as events:
                async for event in events:
                    await self._send(event)
        except AgentSystemError as error:
            return TRY_AGAIN_LATER, f"{error}"[:120]
        except WebSocketDisconnect:
            raise
        except Exception as error:
            log.error("a thread stream met a bug: %s", place_of_bug(error), extra={"action": "stream_failed"})
            return INTERNAL_ERROR, "this is a bug of the gateway; its log says where"
        return NORMAL, ""
