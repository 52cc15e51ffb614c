"""A stream that was opened with a token ends when the token does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from core.gateway.gate import Door, Gate
from core.gateway.open_requests import Closing
from core.gateway.sse import ServerEvent, event_stream
from tests.unit.test_gateway_access import SECRET, claims, hs256, signed
from tests.waiting import until

closed: list[str] = []


async def stream(request: Request) -> Response:
    async def events() -> AsyncGenerator[ServerEvent, None]:
        try:
            yield ServerEvent("first", {"number": 1}, "1")
            await asyncio.Event().wait()
        finally:
            closed.append("stream")

    return event_stream(events(), {})


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("first")
    await asyncio.Event().wait()


async def slow_answer(request: Request) -> Response:
    await asyncio.sleep(max(0.0, float(request.headers["until"]) - time.time()))
    return JSONResponse({"done": True})


@pytest.fixture
def client() -> TestClient:
    routes = [
        Route("/events/stream", stream), WebSocketRoute("/events/ws", socket), Route("/tasks/submit", slow_answer,
        methods=["POST"]),
    ]  # fmt: skip
    door = Door(tokens=hs256(("1", SECRET), jwt_leeway_s=0))
    return TestClient(Gate(Starlette(routes=routes), door, Closing()))


def about_to_expire() -> dict[str, str]:
    return {"Authorization": f"Bearer {signed(claims(exp=int(time.time()) + 3))}"}


def told_by(client: TestClient) -> str:
    """What the stream told; empty if its token did not last until it was opened, which takes a busy machine seconds."""
    told = client.get("/events/stream", headers=about_to_expire())
    return told.text if told.status_code == 200 else ""


def test_a_stream_ends_with_its_token_and_says_so(client: TestClient) -> None:
    closed.clear()
    told = until(lambda: told_by(client), "the token is still valid when it is looked at", 60)
    first, last = told.strip().split("\r\n\r\n")
    assert first.endswith("id: 1")
    assert last.startswith("event: error\r\n")
    assert "the token has expired" in last
    assert closed == ["stream"]
    assert client.get("/events/stream", headers={"Authorization": "Bearer x.y.z"}).status_code == 401


def test_a_websocket_ends_with_its_token_and_says_so(client: TestClient) -> None:
    with client.websocket_connect("/events/ws", headers=about_to_expire()) as told:
        assert told.receive_text() == "first"
        with pytest.raises(WebSocketDisconnect) as ended:
            told.receive_text()
    assert (ended.value.code, "has expired" in ended.value.reason) == (1008, True)


def test_what_was_asked_for_in_time_is_answered_all_the_same(client: TestClient) -> None:
    said = about_to_expire() | {"until": f"{time.time() + 3.1}"}
    assert client.post("/tasks/submit", headers=said).json() == {"done": True}


def test_a_moment_of_expiry_that_no_clock_has_is_no_bug() -> None:
    caller = hs256(("1", SECRET)).whose(signed(claims(exp=10**400)))
    assert caller.until_s is not None
