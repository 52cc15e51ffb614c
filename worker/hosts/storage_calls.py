"""The calls of what graphs remember in, and spend from, carried over the socket of a host: a host has no connection to
Redis, and no key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from core import errors
from core.budget import Reservation, Settlement
from core.checkpoints.items import PutItem, StoredItem
from core.checkpoints.storage import Fence, Selection, StoredCheckpoint, ThreadWrite, Written
from core.errors import AgentSystemError, CheckpointTooLarge, ServerRefused, TransportDown
from core.model_limits import CallEnd, LimitedCall
from worker.children.frames import FRAME_LIMIT_BYTES
from worker.hosts.memory import Memory
from worker.hosts.messages import Answer, Ask

__all__ = ["Remote", "RemoteItems", "RemoteStorage", "answer_to"]

log = logging.getLogger(__name__)

#: By call: what is asked with, and what comes back.
ITEM_CALLS: dict[str, tuple[Any, Any]] = {
    "put": (tuple[list[PutItem]], None),
    "get": (tuple[list[str], bool], list[StoredItem | None]),
    "search": (tuple[str, str, int], tuple[list[StoredItem], str]),
    "namespaces": (tuple[()], list[str]),
}
ACCOUNT_CALLS: dict[str, tuple[Any, Any]] = {
    "reserve": (tuple[Reservation], bool),
    "settle": (tuple[Settlement], None),
}
LIMIT_CALLS: dict[str, tuple[Any, Any]] = {
    "take": (tuple[LimitedCall], str),
    "leave": (tuple[str], None),
    "settle_call": (tuple[CallEnd], None),
}
CALLS: dict[str, tuple[Any, Any]] = {
    **ITEM_CALLS,
    **ACCOUNT_CALLS,
    **LIMIT_CALLS,
    "write": (tuple[list[ThreadWrite]], list[Written]),
    "open": (tuple[str, Fence], StoredCheckpoint | None),
    "read": (tuple[str, Selection], list[StoredCheckpoint]),
    "delete": (tuple[str], None),
    "prune": (tuple[str, int], None),
    "delete_runs": (tuple[str, list[str], Fence | None], None),
    "threads": (tuple[str], tuple[str, list[str]]),
}
ASKED = {name: msgspec.msgpack.Decoder(asked) for name, (asked, _) in CALLS.items()}
ANSWERED = {name: msgspec.msgpack.Decoder(answered) for name, (_, answered) in CALLS.items()}
_encode = msgspec.msgpack.Encoder().encode

#: Seconds before a call is repeated because Redis could not be reached. That ends with the run, which has a timeout.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0

#: Bytes of a call or of its answer, with room for what a frame has besides.
MAX_BYTES = FRAME_LIMIT_BYTES - 1024


def _place_of(method: str, memory: Memory) -> Any:
    """What has this call, one of CALLS."""
    if method in ACCOUNT_CALLS:
        return memory.accounts
    if method in LIMIT_CALLS:
        return memory.limits
    return memory.items if method in ITEM_CALLS else memory.storage


async def answer_to(ask: Ask, memory: Memory) -> Answer:
    """The answer to a call of a host. It comes when there is one: an outage of Redis is waited out."""
    pause_s = FIRST_PAUSE_S
    place = _place_of(ask.method, memory)
    while True:
        try:
            arguments = ASKED[ask.method].decode(ask.arguments)
            value = _encode(await getattr(place, ask.method)(*arguments))
            return Answer(ask.call, _fitting(value, "What is read at once", "Read less at once."))
        except TransportDown:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
        except AgentSystemError as error:
            return Answer(ask.call, error=type(error).__name__, message=str(error))
        except Exception as error:  # otherwise a node would wait for ever
            log.exception("a call of a graph failed", extra={"action": "storage_call_failed", "method": ask.method})
            return Answer(ask.call, error=ServerRefused.__name__, message=f"{type(error).__name__}: {error}")


def _fitting(packed: bytes, what: str, cure: str) -> bytes:
    """`packed`. Raises CheckpointTooLarge: it would end the connection, and so every run of the host."""
    if len(packed) > MAX_BYTES:
        raise CheckpointTooLarge(f"{what} has {len(packed)} bytes, over {MAX_BYTES}. {cure}")
    return packed


class Remote:
    """Asks the worker. It may be used from any loop."""

    def __init__(self, ask: Callable[[str, bytes], Awaitable[Answer]], loop: asyncio.AbstractEventLoop) -> None:
        """`ask`: sends a call; only from `loop`."""
        self._asks = ask
        self._loop = loop

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What comes back, one of CALLS. Raises what the call has raised."""
        packed = _fitting(_encode(arguments), "What is stored at once", "Keep large data elsewhere.")
        asked = self._answer(method, packed)
        if asyncio.get_running_loop() is self._loop:
            answer = await asked
        else:  # a blocking node uses the saver or the store from its thread
            answer = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, self._loop))
        if answer.error:
            kind: Any = getattr(errors, answer.error, ServerRefused)
            raise kind(answer.message)
        return ANSWERED[method].decode(answer.value)

    async def _answer(self, method: str, arguments: bytes) -> Answer:
        return await self._asks(method, arguments)


class RemoteStorage(Remote):
    """A Storage (see core.checkpoints.storage)."""

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        written: list[Written] = await self.ask("write", batch)
        return written

    async def open(self, thread_id: str, fence: Fence) -> StoredCheckpoint | None:
        stored: StoredCheckpoint | None = await self.ask("open", thread_id, fence)
        return stored

    async def read(self, thread_id: str, selection: Selection) -> list[StoredCheckpoint]:
        stored: list[StoredCheckpoint] = await self.ask("read", thread_id, selection)
        return stored

    async def delete(self, thread_id: str) -> None:
        await self.ask("delete", thread_id)

    async def prune(self, thread_id: str, keep: int) -> None:
        await self.ask("prune", thread_id, keep)

    async def delete_runs(self, thread_id: str, run_ids: Sequence[str], fence: Fence | None = None) -> None:
        await self.ask("delete_runs", thread_id, run_ids, fence)

    async def threads(self, cursor: str = "") -> tuple[str, list[str]]:
        found: tuple[str, list[str]] = await self.ask("threads", cursor)
        return found


class RemoteItems(Remote):
    """Items (see core.checkpoints.items)."""

    async def put(self, batch: Sequence[PutItem]) -> None:
        await self.ask("put", batch)

    async def get(self, names: Sequence[str], refresh: bool) -> list[StoredItem | None]:
        found: list[StoredItem | None] = await self.ask("get", names, refresh)
        return found

    async def search(self, namespace: str, after: str, limit: int) -> tuple[list[StoredItem], str]:
        found: tuple[list[StoredItem], str] = await self.ask("search", namespace, after, limit)
        return found

    async def namespaces(self) -> list[str]:
        found: list[str] = await self.ask("namespaces")
        return found
