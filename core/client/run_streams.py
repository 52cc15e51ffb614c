"""How a client follows a run while it is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import orjson
from msgspec import Raw

from core.client.endings import Endings
from core.client.followed_streams import Entry, Followed, FollowedStreams
from core.client.look_up import LookUp
from core.client.server import Server
from core.client.strategies import Strategies
from core.errors import BadTask, TaskTimeout, WorldError
from core.redis_backend.keys import CoordinatorKeys
from core.reports import given_run_key
from core.roles import Action
from core.run_keys import RunKey
from core.run_stream import MAX_ENTRIES, EntryCheck, StreamChunk, chunks_of, place_of
from core.runtime.portal import operation
from core.signing import KeyRing
from core.tasks import Task

__all__ = ["RunStream", "RunStreams"]

#: Seconds between two attempts to reach Redis, and how long the coordinator has for an answer.
RETRY_S, ANSWER_S = 0.5, 5.0
#: Number of the keys of runs of others that are remembered.
MAX_TOLD_KEYS = 1_000

_OVER: Any = object()

log = logging.getLogger(__name__)


class RunStreams(Strategies):
    """A part of AgentClient: it follows runs."""

    _server: Server
    _keys: CoordinatorKeys
    _endings: Endings
    _followed: FollowedStreams
    _signing: KeyRing | None
    _told_keys: dict[str, str]  #: the wrapped keys of runs of others, by task
    _look: LookUp | None
    _ask: Any  #: these two: see AgentClient
    result: Any

    def _forget_streams(self) -> None:
        self._followed = FollowedStreams(partial(self._server.connection, let_in=True))

    def stream(self, task_id: str, modes: Collection[str] = (), after: str | None = None) -> RunStream:
        """What the run of a task tells, as StreamChunks: in an `async for`, or a `for` where no event loop runs.

        `modes`: those wanted, of those that the task's RunOptions name; empty: all. `after`: goes on behind the chunk
        with this id. It may begin before the run does. The last chunk has the mode `lifecycle` and says how the task
        ended; it comes once. A later attempt is announced by a `lifecycle` chunk as well. A reader that is slower than
        10,000 entries misses the oldest. What no worker of the run has signed is passed over. Raises as `result`,
        UnknownTask before the first chunk; BadTask: `after` is no id of a chunk."""
        return RunStream(self, task_id, frozenset(modes), after, partial(self.result.aio, task_id))

    @operation
    async def _next_chunk(self, chunks: AsyncIterator[StreamChunk]) -> Any:
        return await anext(chunks, _OVER)

    @operation
    async def _assured(self, task_id: str) -> None:
        await self._endings.assured(task_id)

    @operation
    async def _follow_stream(self, task_id: str, after: str) -> Followed:
        return self._followed.follow(self._keys.run_stream(task_id), after)

    @operation
    async def _stream_entries(self, followed: Followed) -> list[Entry]:
        return await followed.entries()

    @operation
    async def _leave_stream(self, followed: Followed) -> None:
        await self._followed.leave(followed)

    def _own_run_keys(self, task_id: str) -> list[RunKey]:
        """The keys of what a run tells, if this client is the owner of its task."""
        assert self._signing  # it is open
        return self._signing.run_keys(task_id)

    @operation
    async def _run_keys_of_another(self, task_id: str) -> list[RunKey]:
        """The keys of what a run tells, if somebody else is the owner of its task: by the record, or from the
        coordinator, for which it waits. None come if it does not tell them: the client itself is the owner, say."""
        assert self._signing  # it is open
        assert self._look
        while True:
            try:
                if keys := await self._look.run_keys(task_id):
                    return keys
                if task_id not in self._told_keys:
                    await self._ask(Action.WATCH_TASK, [orjson.dumps(task_id)], ANSWER_S)
                break
            except (TaskTimeout, WorldError):
                await asyncio.sleep(RETRY_S)
        return [RunKey(*key) for key in self._signing.unwrapped(self._told_keys.get(task_id, ""))]

    def _on_run_keys(self, items: Iterable[Raw]) -> None:
        """Takes the keys of runs of others that an answer brings. Raises MalformedMessage."""
        for given in map(given_run_key, items):
            self._told_keys[given.task_id] = given.run_key
            if len(self._told_keys) > MAX_TOLD_KEYS:
                del self._told_keys[next(iter(self._told_keys))]


class Over(Protocol):
    """Waits until a run is over for its reader, and gives its task then."""

    def __call__(self) -> Coroutine[Any, Any, Task]: ...


class RunStream:
    """The chunks of one run. A reader that stops early need not close it."""

    def __init__(self, client: RunStreams, task_id: str, modes: Collection[str], after: str | None, over: Over) -> None:
        try:
            place_of(after or "0-0/-1")
        except ValueError as error:
            raise BadTask(f"stream: {error}: give the id of one") from None
        self._client = client
        self._task_id = task_id
        self._modes = modes
        self._over = over
        self._last = after or "0-0/-1"
        self._attempt = 0  #: the latest of which it has read something
        self._check = EntryCheck(())
        self._knows_owner = False  #: whether it checks with the keys of the owner, so that nobody need be asked
        self._has_warned = False

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        return self._chunks()

    def __iter__(self) -> Iterator[StreamChunk]:
        chunks = self._chunks()
        while (chunk := self._client._next_chunk(chunks)) is not _OVER:
            yield chunk

    async def _chunks(self) -> AsyncIterator[StreamChunk]:
        ended = asyncio.get_running_loop().create_task(self._over())
        followed: Followed | None = None
        try:
            await self._seen(ended)
            self._check, self._knows_owner = EntryCheck(self._client._own_run_keys(self._task_id)), False
            # The entry of the last chunk is read again, since it may hold others behind it.
            followed = await self._client._follow_stream.aio(self._task_id, _before(self._last))
            ended.add_done_callback(followed.end)
            while found := await self._next(followed):
                for chunk in found:
                    if self._attempt and chunk.attempt > self._attempt:
                        before = f"{chunk.id.partition('/')[0]}/-1"  # who goes on behind this one is not told again
                        yield StreamChunk(before, chunk.attempt, "lifecycle", data={"attempt": chunk.attempt})
                    self._attempt, self._last = max(self._attempt, chunk.attempt), chunk.id
                    if not self._modes or chunk.mode in self._modes:
                        yield chunk
            task = ended.result()
            yield StreamChunk(self._last, task.attempt, "lifecycle", data={"status": task.status.value})
        finally:
            ended.cancel()
            if followed is not None:
                await self._client._leave_stream.aio(followed)

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

    async def _next(self, followed: Followed) -> list[StreamChunk]:
        """The next chunks; none: the run is over, and all were given. Who goes on appending keeps nobody from that."""
        last, _, place = self._last.partition("/")
        known = last.encode()
        chunks: list[StreamChunk] = []
        left = 2 * MAX_ENTRIES
        while not chunks and left > 0 and (entries := await self._client._stream_entries.aio(followed)):
            left -= len(entries) if followed.ends else 0
            for entry_id, fields in entries:
                told, goes_on = dict(zip(fields[::2], fields[1::2], strict=True)), entry_id == known
                if (self._is_signed(told) or await self._is_of_another(told)) and self._check.takes(told):
                    if goes_on:
                        self._attempt = int(told[b"attempt"])
                    chunks += chunks_of(entry_id, told, int(place) if goes_on else -1)
                else:
                    self._warn()
        return chunks

    def _is_signed(self, entry: dict[bytes, bytes]) -> bool:
        """Whether a worker of the run has signed an entry, by the keys of the owner as far as it is known."""
        signed = self._check.is_signed(entry)
        self._knows_owner = self._knows_owner or signed
        return signed

    async def _is_of_another(self, entry: dict[bytes, bytes]) -> bool:
        """Whether the run turns out to be somebody else's, with a worker that has signed an entry."""
        if self._knows_owner:
            return False
        self._knows_owner = True
        if keys := await self._client._run_keys_of_another.aio(self._task_id):
            self._check.use(keys)
        return self._check.is_signed(entry)

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "entries of the stream of %s are passed over: no worker has signed them, or they come again or late",
                self._task_id,
                extra={"action": "chunks_passed_over"},
            )


def _before(chunk_id: str) -> str:
    """The highest id of an entry below that of a chunk."""
    stamp, number, _ = place_of(chunk_id)
    if number or not stamp:
        return f"{stamp}-{max(0, number - 1)}"
    return f"{stamp - 1}-{2**64 - 1}"
