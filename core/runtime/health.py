"""Answers probes about an agent: whether it lives, whether it is ready for work, and what it has measured. A few lines
of HTTP/1.1.

    GET /livez     200 while the agent's loop turns, whatever Redis does; 503 when it is wedged: replace the process
    GET /readyz    200 ready, or waiting for a lease as a standby; 503 otherwise, such as while Redis is away
    GET /metrics   200 what it has counted and measured, as Prometheus reads it

The first two answer with {"status": "...", "reasons": ["..."]}. A process whose event loop is blocked answers nothing,
which is an answer as well. A caller gets nothing else out of the agent: requests are short, few at a time, and soon
over. A caller that holds a connection and asks nothing keeps nobody out: when there are too many, the oldest is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from core.errors import ConfigError
from core.runtime.condition import Condition
from core.runtime.exposition import CONTENT_TYPE

__all__ = ["health_server"]

#: Longest head of a request in bytes, and the seconds that it may take to arrive.
HEAD_BYTES, REQUEST_S = 4096, 2.0
#: Connections open at once. One more closes the oldest, since a probe asks immediately.
MAX_CONNECTIONS = 128
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@asynccontextmanager
async def health_server(
    look: Callable[[], Condition], measured: Callable[[], bytes], host: str, port: int
) -> AsyncIterator[int]:
    """Answers probes until the end of the block, with what `look` and `measured` return at the time. Yields the port,
    which is a free one if `port` is 0. Raises ConfigError when the port is not available."""
    talks: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}  # the oldest first

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me
        talks[me] = writer
        if len(talks) > MAX_CONNECTIONS:
            talks.pop(next(iter(talks))).transport.abort()
        try:
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(REQUEST_S):
                    writer.write(await _answer(reader, look, measured))
                    await writer.drain()
        finally:
            writer.close()
            talks.pop(me, None)

    try:
        server = await asyncio.start_server(talk, host, port, limit=HEAD_BYTES)
    except OSError as error:
        raise ConfigError(
            f"AGENT_HEALTH_PORT: {host}:{port} cannot be listened on: {error.strerror or error}."
            " Give each agent of a machine a port of its own (--health-port), or none."
        ) from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in talks.values():
            writer.transport.abort()
        await asyncio.gather(*talks, return_exceptions=True)


async def _answer(reader: asyncio.StreamReader, look: Callable[[], Condition], measured: Callable[[], bytes]) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return _response(400, {"status": "bad request", "reasons": [f"no request of at most {HEAD_BYTES} bytes"]})
    method, _, rest = head.partition(b" ")
    if method != b"GET":
        return _response(405, {"status": "bad request", "reasons": ["GET only"]})
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path == b"/metrics":
        return _content(200, CONTENT_TYPE, measured())
    if path not in (b"/livez", b"/readyz"):
        return _response(404, {"status": "not found", "reasons": ["there are /livez, /readyz and /metrics"]})
    now = look()
    good = now.alive if path == b"/livez" else now.ready
    return _response(200 if good else 503, {"status": now.status, "reasons": now.reasons})


def _response(code: int, body: dict[str, Any]) -> bytes:
    return _content(code, "application/json", orjson.dumps(body))


def _content(code: int, kind: str, content: bytes) -> bytes:
    allow = "Allow: GET\r\n" if code == 405 else ""
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
        f"Cache-Control: no-store\r\n{allow}Connection: close\r\n\r\n"
    )
    return head.encode() + content
