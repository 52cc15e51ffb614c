"""The routes of events: what happens in the hierarchy, as server-sent events and over a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect

from core.agent_event import AgentEvent
from core.errors import AgentSystemError, BadEvent
from core.gateway.access import caller_of
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import Problem, response_of
from core.gateway.sse import ServerEvent, event_stream
from core.gateway.visible_tasks import visible_events
from core.operations.event_feed import Position, Wanted

__all__ = ["router"]

router = APIRouter(prefix="/events", tags=["events"])

#: Why a WebSocket is closed: the gateway cannot read the events any more.
TRY_AGAIN_LATER = 1013

After = Annotated[
    str | None,
    Query(
        max_length=60, description='behind the event of this id; "0": from the oldest that is kept; null: from now on'
    ),
]
Types = Annotated[list[str], Query(alias="type", max_length=100, description="only these types, see docs/events.md")]
Some = Annotated[str | None, Query(max_length=200)]


@router.get(
    "/stream", operation_id="stream_events", response_class=StreamingResponse,
    responses={
        200: {"description": "An event for each that happens, with its id.", "content": {"text/event-stream": {}}}
    },
)  # fmt: skip
async def stream(
    request: Request,
    after: After = None,
    types: Types = [],  # noqa: B006  # FastAPI copies it
    task: Some = None,
    root: Some = None,
    agent: Some = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=60)] = None,
) -> Response:
    """What happens, while it happens. With `Last-Event-ID`, which clients send by themselves, or `after`, it goes on
    behind that event, at whatever gateway: nothing is left out and nothing told twice. What is not kept any more is
    told as `events_missed`."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    told = hierarchy.events.events(_place(last_event_id or after), Wanted.of(types, task, root, agent))
    told = visible_events(hierarchy, caller_of(request), told)
    return event_stream(_as_sse(told), {})


async def _as_sse(told: AsyncGenerator[AgentEvent, None]) -> AsyncGenerator[ServerEvent, None]:
    async with aclosing(told) as events:
        async for event in events:
            yield ServerEvent(event.type.value, event.to_dict(), event.id)


@router.websocket("/ws")
async def socket(
    websocket: WebSocket,
    after: After = None,
    types: Types = [],  # noqa: B006
    task: Some = None,
    root: Some = None,
    agent: Some = None,
) -> None:
    """As `/events/stream`: each event is a text in JSON. What a client sends is passed over."""
    hierarchy: Hierarchy = websocket.app.state.hierarchy
    try:
        told = hierarchy.events.events(_place(after), Wanted.of(types, task, root, agent))
        told = visible_events(hierarchy, caller_of(websocket), told)
    except BadEvent as error:
        await websocket.send_denial_response(response_of(Problem(422, f"{error}")))
        return
    await websocket.accept()
    leaving = asyncio.create_task(_left(websocket))
    telling = asyncio.create_task(_tell(websocket, told))
    try:
        await asyncio.wait({leaving, telling}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for part in (leaving, telling):
            part.cancel()
        await asyncio.gather(leaving, telling, return_exceptions=True)


async def _tell(websocket: WebSocket, told: AsyncGenerator[AgentEvent, None]) -> None:
    with suppress(WebSocketDisconnect):
        try:
            async with aclosing(told) as events:
                async for event in events:
                    await websocket.send_text(orjson.dumps(event.to_dict()).decode())
        except AgentSystemError as error:
            await websocket.close(TRY_AGAIN_LATER, f"{error}"[:120])


async def _left(websocket: WebSocket) -> None:
    """Returns when the client is gone."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _place(after: str | None) -> str | None:
    """Raises BadEvent: there is no such id."""
    if after is not None:
        Position.after(after)
    return after
