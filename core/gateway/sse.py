"""Server-sent events: how they are written, and what keeps a silent stream open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import StreamingResponse

from core.errors import AgentSystemError, TransportDown
from core.gateway.problems import Problem
from core.json_values import as_json
from core.printable import printable

__all__ = ["ServerEvent", "StreamCut", "event_stream", "same_again"]

log = logging.getLogger(__name__)

#: Seconds of silence after which a comment is sent, so that nothing between takes the connection for dead.
HEARTBEAT_S = 5.0
#: What stands in a path, or in its query, as it is.
PATH = "/:@?&=+,;~%"
HEARTBEAT = b": heartbeat\r\n\r\n"


class StreamCut(Exception):
    """A stream that cannot go on here. It is cut without an end, so that its client comes back behind the last event
    that it has."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. A client that comes back with the `id` is told what follows it."""

    event: str
    data: Any = None
    id: str = ""

    def encoded(self) -> bytes:
        data = b"" if self.data is None else b"data: %b\r\n" % as_json(self.data)
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
                except TransportDown as error:
                    log.warning("a stream is cut: %s", error, extra={"action": "stream_cut"})
                    raise StreamCut from error
                except (AgentSystemError, Problem) as error:
                    said = error.detail if isinstance(error, Problem) else f"{error}"
                    log.warning("a stream ends: %s", said, extra={"action": "stream_ended"})
                    yield ServerEvent("error", {"error": type(error).__name__, "message": said}).encoded()
                    return
                coming = None
                yield event.encoded()
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
