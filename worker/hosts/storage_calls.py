"""The calls of a Storage, carried over the socket of a host: a host has no connection to Redis, and no key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from core import errors
from core.checkpoints.storage import Fence, Selection, Storage, StoredCheckpoint, ThreadWrite, Written
from core.errors import AgentSystemError, ServerRefused, TransportDown
from worker.hosts.messages import Answer, Ask

__all__ = ["RemoteStorage", "answer_to"]

#: By call: what is asked with, and what comes back.
CALLS: dict[str, tuple[Any, Any]] = {
    "write": (tuple[list[ThreadWrite]], list[Written]),
    "open": (tuple[str, Fence], StoredCheckpoint | None),
    "read": (tuple[str, Selection], list[StoredCheckpoint]),
    "delete": (tuple[str], None),
    "prune": (tuple[str, int], None),
    "delete_runs": (tuple[str, list[str]], None),
    "threads": (tuple[str], tuple[str, list[str]]),
}
ASKED = {name: msgspec.msgpack.Decoder(asked) for name, (asked, _) in CALLS.items()}
ANSWERED = {name: msgspec.msgpack.Decoder(answered) for name, (_, answered) in CALLS.items()}
_encode = msgspec.msgpack.Encoder().encode

#: Seconds before a call is repeated because Redis could not be reached. That ends with the run, which has a timeout.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0


async def answer_to(ask: Ask, storage: Storage) -> Answer:
    """The answer to a call of a host. It comes when there is one: an outage of Redis is waited out."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            arguments = ASKED[ask.method].decode(ask.arguments)
            value = await getattr(storage, ask.method)(*arguments)
            return Answer(ask.call, _encode(value))
        except TransportDown:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
        except AgentSystemError as error:
            return Answer(ask.call, error=type(error).__name__, message=str(error))


class RemoteStorage:
    """A Storage (see core.checkpoints.storage) that asks the worker. It may be used from any loop."""

    def __init__(self, ask: Callable[[str, bytes], Awaitable[Answer]], loop: asyncio.AbstractEventLoop) -> None:
        """`ask`: sends a call; only from `loop`."""
        self._asks = ask
        self._loop = loop

    async def write(self, batch: Sequence[ThreadWrite]) -> list[Written]:
        written: list[Written] = await self._ask("write", batch)
        return written

    async def open(self, thread_id: str, fence: Fence) -> StoredCheckpoint | None:
        stored: StoredCheckpoint | None = await self._ask("open", thread_id, fence)
        return stored

    async def read(self, thread_id: str, selection: Selection) -> list[StoredCheckpoint]:
        stored: list[StoredCheckpoint] = await self._ask("read", thread_id, selection)
        return stored

    async def delete(self, thread_id: str) -> None:
        await self._ask("delete", thread_id)

    async def prune(self, thread_id: str, keep: int) -> None:
        await self._ask("prune", thread_id, keep)

    async def delete_runs(self, thread_id: str, run_ids: Sequence[str]) -> None:
        await self._ask("delete_runs", thread_id, run_ids)

    async def threads(self, cursor: str = "") -> tuple[str, list[str]]:
        found: tuple[str, list[str]] = await self._ask("threads", cursor)
        return found

    async def _ask(self, method: str, *arguments: Any) -> Any:
        asked = self._answer(method, _encode(arguments))
        if asyncio.get_running_loop() is self._loop:
            answer = await asked
        else:  # a blocking node uses the saver from its thread
            answer = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, self._loop))
        if answer.error:
            kind: Any = getattr(errors, answer.error, ServerRefused)
            raise kind(answer.message)
        return ANSWERED[method].decode(answer.value)

    async def _answer(self, method: str, arguments: bytes) -> Answer:
        return await self._asks(method, arguments)
