"""The streams of the runs that a client follows, many of them read over one connection.

A connection for each would be as many commands, and as many turns of the event loop, as there are runs that speak.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from core.errors import ServerRefused, TransportDown
from core.ports import Command, Connection
from core.redis_client import ResponseError

__all__ = ["Followed", "FollowedStreams"]

#: How long one read waits for news, ms.
BLOCK_MS = 1000
#: Seconds between two reads of streams that speak, so that one read finds what many have said.
GATHER_S = 0.01
#: Streams that share a connection. The server looks at each of them for each read.
SHARE = 128
#: Entries of one stream that wait for its reader; it is not read on meanwhile.
AHEAD = 64
#: Entries that one read asks for, of all streams together, and the least of each.
AT_ONCE, AT_LEAST = 512, 4
#: Seconds between two attempts to reach Redis.
RETRY_S = 0.5

#: An id, and fields and values by turns.
Entry: TypeAlias = tuple[bytes, list[bytes]]


class Followed:
    """A stream with one reader."""

    def __init__(self, key: str, after: str, disturb: Callable[[], None]) -> None:
        """`after`: the id of the entry behind which it is read. `disturb`: is called when a read under way does not
        know what it should."""
        self.key = key
        self.after: str | bytes = after
        self.ends = False  #: whether nothing more will be written
        self._disturb = disturb
        self._loop = asyncio.get_running_loop()
        self._entries: list[Entry] = []
        self._has_ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def wants_more(self) -> bool:
        """Whether it should be read on."""
        return len(self._entries) < AHEAD and not self._has_ended and self._error is None

    async def entries(self) -> list[Entry]:
        """The next ones, once there are any; none: `end` was called, and all that was written before has been given.
        Raises ServerRefused."""
        while not self._entries:
            if self._error is not None:
                raise self._error
            if self._has_ended:
                return []
            self._news.clear()
            await self._news.wait()
        entries, self._entries = self._entries, []
        if len(entries) >= AHEAD:
            self._disturb()
        return entries

    def end(self, _: object = None) -> None:
        """Notes that nothing will be written from now on. Any thread may call this, and a future, when it is done."""
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.ends = True
        self._disturb()

    def give(self, entries: list[Entry]) -> None:
        """Takes what a read has found behind `after`."""
        self._entries += entries
        self.after = entries[-1][0]
        self._news.set()

    def give_end(self) -> None:
        """Takes that a read which has begun after the end has found nothing."""
        self._has_ended = True
        self._news.set()

    def fail(self, error: Exception) -> None:
        """Takes why it cannot be read."""
        self._error = error
        self._news.set()


class FollowedStreams:
    """All those of a client, on one event loop."""

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._open = open_connection
        self._connections: list[SharedConnection] = []

    def follow(self, key: str, after: str) -> Followed:
        """The stream `key` behind the entry `after`. End this with `leave`."""
        sharing = next((each for each in self._connections if each.has_room_for(key)), None)
        if sharing is None:
            sharing = SharedConnection(self._open())
            self._connections.append(sharing)
        return sharing.follow(key, after)

    async def leave(self, followed: Followed) -> None:
        """Ends the reading of a stream."""
        for sharing in self._connections:
            if sharing.drop(followed):
                if sharing.is_unused:
                    self._connections.remove(sharing)
                    await sharing.close()
                return


class SharedConnection:
    """Reads some streams, each with another key, until it is closed. An outage of Redis is waited out."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._followed: dict[str, Followed] = {}
        self._news = asyncio.Event()  #: of what a read under way does not know
        self._patience: asyncio.Timeout | None = None  #: of a read that waits
        self._reading = asyncio.create_task(self._read_on())

    @property
    def is_unused(self) -> bool:
        return not self._followed

    def has_room_for(self, key: str) -> bool:
        return key not in self._followed and len(self._followed) < SHARE and not self._reading.done()

    def follow(self, key: str, after: str) -> Followed:
        followed = self._followed[key] = Followed(key, after, self._disturb)
        self._disturb()
        return followed

    def drop(self, followed: Followed) -> bool:
        """Forgets a stream. False: it was not one of these."""
        if self._followed.get(followed.key) is not followed:
            return False
        del self._followed[followed.key]
        return True

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _disturb(self) -> None:
        """Makes a read that waits begin anew. It loses nothing by that but its connection, which is opened again."""
        self._news.set()
        if self._patience is not None:
            self._patience.reschedule(0)
            self._patience = None

    async def _read_on(self) -> None:
        try:
            while True:
                await self._read_once()
        except Exception as error:  # whatever it is, whoever waits is told
            for followed in self._followed.values():
                followed.fail(error)
        finally:
            await self._connection.close()

    async def _read_once(self) -> None:
        wanted = [followed for followed in self._followed.values() if followed.wants_more]
        if not wanted:
            await self._news.wait()
        ending = [followed for followed in wanted if followed.ends]
        may_wait = not ending and not self._news.is_set()
        self._news.clear()
        if not wanted:
            return
        count = min(AHEAD, max(AT_LEAST, AT_ONCE // len(wanted)))
        try:
            found = await self._found(wanted, count, wait=may_wait)
        except TimeoutError:
            return
        except TransportDown:
            await asyncio.sleep(RETRY_S)
            return
        for followed in wanted:
            if entries := found.get(followed.key.encode()):
                followed.give(entries)
            elif followed in ending:
                followed.give_end()
        if found:
            is_behind = any(len(entries) == count for entries in found.values())
            await asyncio.sleep(0 if is_behind else GATHER_S)

    async def _found(self, wanted: Sequence[Followed], count: int, *, wait: bool) -> dict[bytes, list[Entry]]:
        """By key, what there is. Raises TransportDown; TimeoutError: it was disturbed."""
        if not wait:
            [reply] = await self._exchange(_read_of(wanted, count))
        else:
            try:
                async with asyncio.timeout(None) as self._patience:
                    [reply] = await self._exchange(_read_of(wanted, count, "BLOCK", BLOCK_MS))
            finally:
                self._patience = None
        if isinstance(reply, ResponseError):
            return await self._found_singly(wanted, count)
        return dict(reply or ())

    async def _found_singly(self, wanted: Sequence[Followed], count: int) -> dict[bytes, list[Entry]]:
        """The same, where the server refuses to read one of them. Who follows that one is told."""
        found: dict[bytes, list[Entry]] = {}
        replies = await self._exchange(*(_read_of([followed], count) for followed in wanted))
        for followed, reply in zip(wanted, replies, strict=True):
            if isinstance(reply, ResponseError):
                followed.fail(ServerRefused(f"Redis refused to read the stream of a run: {reply}"))
            else:
                found |= dict(reply or ())
        return found

    async def _exchange(self, *commands: Command) -> list[Any]:
        await self._connection.connect()
        return await self._connection.exchange(commands, timeout_s=BLOCK_MS / 1000 + 2)


def _read_of(wanted: Sequence[Followed], count: int, *block: str | int) -> Command:
    keys, after = [followed.key for followed in wanted], [followed.after for followed in wanted]
    return ("XREAD", "COUNT", count, *block, "STREAMS", *keys, *after)
