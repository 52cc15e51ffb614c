"""A connection to a store in memory, with the interface of `redis_client.Wire`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from core.errors import TransportDown
from core.memory_backend.store import BlockedRead, MemoryStore, Session
from core.ports import Command, Part

__all__ = ["MemoryConnection", "packed"]


def packed(part: Part) -> bytes:
    """A part of a command as bytes."""
    if isinstance(part, bytes):
        return bytes(part)  # an instance of a subclass becomes plain bytes, as on a real connection
    return part.encode() if isinstance(part, str) else repr(part).encode()


class MemoryConnection:
    """One connection, for one exchange at a time.

    Each exchange first yields to the event loop once. Then all its commands are executed without a pause, except for a
    blocking read. After TransportDown or a cancellation the connection is closed, and its watches are dropped, as a
    server does.
    """

    def __init__(self, store: MemoryStore, *, timeout_s: float = 5.0) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._session: Session | None = None
        self._busy = False
        self._waiting: asyncio.Future[Any] | None = None

    @property
    def connected(self) -> bool:
        return self._session is not None

    async def connect(self) -> None:
        """Opens the connection; does nothing if it is open."""
        await asyncio.sleep(0)
        if self._session is None:
            self._session = self._store.open_session()

    async def exchange(
        self, commands: Sequence[Command], *, timeout_s: float | None = None, max_bytes: int | None = None
    ) -> list[Any]:
        """Does as `core.ports.Connection.exchange`. Raises TransportDown when the connection is closed, also during the
        exchange, and when a read blocks for longer than `timeout_s`."""
        if self._busy:
            raise RuntimeError("a connection carries one exchange at a time")
        session = self._opened()
        self._busy = True
        try:
            await asyncio.sleep(0)
            replies = []
            for command in commands:
                if self._session is not session:
                    raise TransportDown("the connection was closed")
                name, *arguments = map(packed, command)
                reply = self._store.execute(session, name.decode(), arguments)
                if isinstance(reply, BlockedRead):
                    reply = await self._wait(reply, self._timeout_s if timeout_s is None else timeout_s)
                replies.append(reply)
            return replies
        except asyncio.CancelledError:
            await self.close()
            raise
        finally:
            self._busy = False

    async def close(self) -> None:
        """Closes the connection at once. A waiting exchange raises TransportDown."""
        session, self._session = self._session, None
        if session is not None:
            self._store.close_session(session)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(TransportDown("the connection was closed"))

    def _opened(self) -> Session:
        if self._session is None:
            raise TransportDown("the connection is closed")
        return self._session

    async def _wait(self, read: BlockedRead, timeout_s: float) -> Any:
        """The reply to a blocking read; None when its time is over."""
        waiting = self._waiting = asyncio.get_running_loop().create_future()

        def answer(reply: Any) -> None:
            if not waiting.done():
                waiting.set_result(reply)

        self._store.block(read, answer)
        block_s = read.block_ms / 1000 or float("inf")
        try:
            done, _ = await asyncio.wait({waiting}, timeout=min(block_s, timeout_s))
            if done:
                return waiting.result()
            if block_s <= timeout_s:
                return None
            await self.close()
            raise TransportDown(f"did not answer within {timeout_s:g} s")
        finally:
            self._store.unblock(read)
            self._waiting = None
            waiting.cancel()
