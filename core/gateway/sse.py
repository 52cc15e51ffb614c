"""Server-sent events: how they are written, and what keeps a silent stream open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from core.printable import printable

__all__ = ["ServerEvent", "event_stream", "same_again"]

#: Seconds of silence after which a comment is sent, so that nothing between takes the connection for dead.
HEARTBEAT_S = 5.0
#: What stands in a path, or in its query, as it is.
PATH = "/:@?&=+,;~%"
HEARTBEAT = b": heartbeat\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. A client that comes back with the `id` is told what follows it."""

    event: str
    data: Any = None
    id: str = ""

    def encoded(self) -> bytes:
        data = b"" if self.data is None else b"data: %b\r\n" % to_json(self.data, fallback=repr)
        last = f"id: {self.id}\r\n".encode() if self.id else b""
        # Nodes of graphs may be called anything, and no name begins another line.
        return b"event: %b\r\n%b%b\r\n" % (printable(self.event).encode(), data, last)


def event_stream(events: AsyncGenerator[ServerEvent, None], headers: Mapping[str, str]) -> StreamingResponse:
    """The response that tells these events, and closes their source when the client leaves."""
    within_ascii = {name: quote(value, safe=PATH) for name, value in headers.items()}
    kept_open = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **within_ascii}
    return StreamingResponse(_lines(events), headers=kept_open, media_type="text/event-stream")


def same_again(request: Request) -> str:
    """Where a client goes on with a stream that breaks: it asks there for nothing, so the query is part of it."""
    path: str = request.scope["raw_path"].decode()
    return f"{path}?{request.url.query}" if request.url.query else path


async def _lines(events: AsyncGenerator[ServerEvent, None]) -> AsyncIterator[bytes]:
    async with aclosing(events):
        coming: asyncio.Future[ServerEvent] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(events))
                done, _ = await asyncio.wait({coming}, timeout=HEARTBEAT_S)
                if not done:
                    yield HEARTBEAT
                    continue
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
                yield event.encoded()
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
