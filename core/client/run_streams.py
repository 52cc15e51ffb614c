"""How a client follows a run while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
from functools import partial
from typing import Any, Protocol

from core.client.endings import Endings
from core.client.server import Server
from core.client.strategies import Strategies
from core.errors import BadTask, ServerRefused, TransportDown
from core.ports import Connection
from core.redis_backend.keys import CoordinatorKeys
from core.run_stream import StreamChunk, chunks_of
from core.runtime.portal import operation
from core.tasks import Task

__all__ = ["RunStream", "RunStreams"]

#: How long one read waits for news, ms.
BLOCK_MS = 200
#: Entries of one read.
AT_ONCE = 64
#: Seconds between two attempts to reach Redis.
RETRY_S = 0.5

_OVER: Any = object()


class RunStreams(Strategies):
    """A part of AgentClient: it follows runs."""

    _server: Server
    _keys: CoordinatorKeys
    _endings: Endings
    result: Any  #: see AgentClient

    def stream(self, task_id: str, modes: Collection[str] = (), after: str | None = None) -> RunStream:
        """What the run of a task tells, as StreamChunks: in an `async for`, or a `for` where no event loop runs.

        `modes`: those wanted, of those that the task's RunOptions name; empty: all. `after`: goes on behind the chunk
        with this id. It may begin before the run does. The last chunk has the mode `lifecycle` and says how the task
        ended; it comes once. A later attempt is announced by a `lifecycle` chunk as well. A reader that is slower than
        10,000 entries misses the oldest. Raises as `result`, UnknownTask before the first chunk; BadTask: `after` is no
        id of a chunk."""
        return RunStream(self, task_id, frozenset(modes), after, partial(self.result.aio, task_id))

    @operation
    async def _next_chunk(self, chunks: AsyncIterator[StreamChunk]) -> Any:
        return await anext(chunks, _OVER)

    @operation
    async def _assured(self, task_id: str) -> None:
        await self._endings.assured(task_id)


class Over(Protocol):
    """Waits until a run is over for its reader, and gives its task then."""

    def __call__(self) -> Coroutine[Any, Any, Task]: ...


class RunStream:
    """The chunks of one run. A reader that stops early need not close it."""

    def __init__(self, client: RunStreams, task_id: str, modes: Collection[str], after: str | None, over: Over) -> None:
        entry, _, place = (after or "0-0/-1").partition("/")
        stamp, _, number = entry.partition("-")
        if not (stamp.isdigit() and number.isdigit() and place.removeprefix("-").isdigit()):
            raise BadTask(f"stream: there is no chunk {after!r}: give the id of one")
        self._client = client
        self._task_id = task_id
        self._modes = modes
        self._over = over
        self._last = after or "0-0/-1"
        # The entry of that chunk is read again, since it may hold others behind it.
        self._entry = _before(int(stamp), int(number))

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        return self._chunks()

    def __iter__(self) -> Iterator[StreamChunk]:
        chunks = self._chunks()
        while (chunk := self._client._next_chunk(chunks)) is not _OVER:
            yield chunk

    async def _chunks(self) -> AsyncIterator[StreamChunk]:
        ended = asyncio.get_running_loop().create_task(self._over())
        wire = self._client._server.connection(let_in=True)
        attempt = 0
        try:
            await self._seen(ended)
            while True:
                is_over = ended.done()  # before the read: what was told before the end is read then
                found = await self._read(wire, block=not is_over)
                for chunk in found:
                    if attempt and chunk.attempt > attempt:
                        yield StreamChunk(self._last, chunk.attempt, "lifecycle", data={"attempt": chunk.attempt})
                    attempt, self._last = max(attempt, chunk.attempt), chunk.id
                    if not self._modes or chunk.mode in self._modes:
                        yield chunk
                if is_over and not found:
                    task = ended.result()
                    yield StreamChunk(self._last, task.attempt, "lifecycle", data={"status": task.status.value})
                    return
        finally:
            ended.cancel()
            await wire.close()

    async def _seen(self, ended: asyncio.Task[Task]) -> None:
        """Returns once the client is known to see the task. The key of its stream names no owner, so nothing is read
        before. Raises as `result`."""
        sure = asyncio.create_task(self._client._assured.aio(self._task_id))
        try:
            await asyncio.wait({ended, sure}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sure.cancel()
        if ended.done():
            ended.result()

    async def _read(self, wire: Connection, *, block: bool) -> list[StreamChunk]:
        """The next chunks; none if there are none for a while. An outage of Redis is waited out."""
        key, wait = self._client._keys.run_stream(self._task_id), ("BLOCK", BLOCK_MS) if block else ()
        try:
            await wire.connect()
            [reply] = await wire.exchange(
                [("XREAD", "COUNT", AT_ONCE, *wait, "STREAMS", key, self._entry)], timeout_s=3
            )
        except TransportDown:
            await asyncio.sleep(RETRY_S)
            return []
        if isinstance(reply, Exception):
            raise ServerRefused(f"Redis refused to read the stream of a run: {reply}")
        known, _, place = self._last.partition("/")
        chunks: list[StreamChunk] = []
        for entry_id, fields in reply[0][1] if reply else ():
            self._entry = entry_id.decode()
            told = dict(zip(fields[::2], fields[1::2], strict=True))
            chunks += chunks_of(entry_id, told, int(place) if self._entry == known else -1)
        return chunks


def _before(stamp: int, number: int) -> str:
    """The highest id of an entry below `stamp-number`."""
    if number or not stamp:
        return f"{stamp}-{max(0, number - 1)}"
    return f"{stamp - 1}-{2**64 - 1}"
