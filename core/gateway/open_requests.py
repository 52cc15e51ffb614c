"""The requests that a gateway is answering, and what ends them early: the token that opened a stream, or the gateway.

A gateway that ends cuts its streams at once, so that their clients go on elsewhere; other requests get a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from core.gateway.problems import Problem, response_of
from core.gateway.sse import ServerEvent

__all__ = ["Closing", "OpenRequest"]

#: Why an open stream ends.
EXPIRED = "the token has expired; get a new one, and go on behind the last event"
#: Why what is open ends when the gateway does.
CLOSING = "this gateway ends. What was asked for goes on: ask again, here or at another gateway"
#: How a WebSocket is closed in either case.
POLICY_VIOLATION, SERVICE_RESTART = 1008, 1012
#: How long requests that are no streams get to finish when the gateway ends, s.
FINISH_S = 1.5
#: How long the body of a request may take to come, s.
BODY_S = 60.0
#: How long a client may take to read why its stream ends, s.
LAST_S = 2.0
EVENT_STREAM = b"text/event-stream"


class Closing:
    """Whether the gateway ends."""

    def __init__(self) -> None:
        self.begun = False
        self.open: set[OpenRequest] = set()

    def begin(self) -> None:
        """Has all that is open end in time."""
        self.begun = True
        for request in [*self.open]:
            request.end_with_gateway()


class OpenRequest:
    """One request while it is answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, closing: Closing) -> None:
        self.has_begun = False  #: whether the client has been told something
        self._streams = False
        self._until_s: float | None = scope["caller"].until_s
        self._scope, self._receive, self._send = scope, receive, send
        self._closing = closing
        self._limit = asyncio.timeout(None)
        self._body_by_s: float | None = None  #: until then the body has to be whole, on the loop's clock; None: it is
        if scope["type"] == "http":
            self._body_by_s = asyncio.get_running_loop().time() + BODY_S

    async def answer(self, answering: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        """Returns when it is answered, or had to end before, which the client is told. Raises what `answering` does."""
        self._closing.open.add(self)
        try:
            async with self._limit:
                await answering(self._scope, self._receiving, self._noting)
        except TimeoutError:
            if not self._limit.expired():
                raise
            await self._end()
        finally:
            self._closing.open.remove(self)

    def end_with_gateway(self) -> None:
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + (0 if self._streams else FINISH_S))

    async def _receiving(self) -> Message:
        """The next part of the body. Raises HTTPException: the client takes too long."""
        if self._body_by_s is None:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._body_by_s):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408) from None
        if not message.get("more_body"):
            self._body_by_s = None
        return message

    async def _noting(self, message: Message) -> None:
        self.has_begun = True
        if not self._streams and _begins_a_stream(message):
            self._streams = True
            if self._closing.begun:
                self.end_with_gateway()
            elif self._until_s is not None:
                self._limit.reschedule(asyncio.get_running_loop().time() + self._until_s - time.time())
        await self._send(message)

    async def _end(self) -> None:
        """Says why it ends. A stream that ends with its gateway is cut without an end instead, since that is how its
        client knows that there is more."""
        if self._scope["type"] == "websocket":
            code, why = (SERVICE_RESTART, CLOSING) if self._closing.begun else (POLICY_VIOLATION, EXPIRED)
            await self._send_last({"type": "websocket.close", "code": code, "reason": why})
        elif not self._closing.begun:
            told = ServerEvent("error", {"error": "Unauthorized", "message": EXPIRED}).encoded()
            await self._send_last({"type": "http.response.body", "body": told, "more_body": False})
        elif not self.has_begun:
            await response_of(Problem(503, CLOSING, retry_s=1))(self._scope, self._receive, self._send)

    async def _send_last(self, last: Message) -> None:
        """A client that does not read is not waited for."""
        with suppress(OSError, ClientDisconnect, WebSocketDisconnect):  # the server may have closed it before
            async with asyncio.timeout(LAST_S):
                await self._send(last)


def _begins_a_stream(message: Message) -> bool:
    if message["type"] == "http.response.start":
        return any(value.startswith(EVENT_STREAM) for name, value in message["headers"] if name == b"content-type")
    return bool(message["type"] == "websocket.accept")
