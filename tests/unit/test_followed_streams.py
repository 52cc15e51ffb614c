"""A client reads the streams of many runs over few connections, and each as if it were alone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from core.client.followed_streams import AHEAD, SHARE, Followed, FollowedStreams
from core.errors import ServerRefused
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.ports import Command


class Server:
    """A store, what has opened connections to it, and what these have asked for."""

    def __init__(self) -> None:
        self.store = MemoryStore(time.time)
        self.opened: list[Observed] = []
        self.streams = FollowedStreams(self.open)

    def open(self) -> Observed:
        self.opened.append(Observed(self.store))
        return self.opened[-1]

    async def tell(self, key: str, *numbers: int) -> list[str]:
        """Appends an entry with each number; their ids."""
        return [entry_id.decode() for entry_id in await self.run(*(("XADD", key, "*", "n", each) for each in numbers))]

    async def run(self, *commands: Command) -> list[Any]:
        connection = MemoryConnection(self.store)
        await connection.connect()
        replies = await connection.exchange(commands)
        await connection.close()
        return replies


class Observed(MemoryConnection):
    """A connection that counts what it is asked to read."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.counts: list[int] = []  #: of streams in each read
        self.waits = asyncio.Event()  #: whether a read has begun that may wait

    async def exchange(self, commands: Any, **limits: Any) -> list[Any]:
        for command in commands:
            self.counts.append((len(command) - command.index("STREAMS") - 1) // 2)
            if "BLOCK" in command:
                self.waits.set()
        try:
            return await super().exchange(commands, **limits)
        finally:
            self.waits.clear()


@pytest.fixture
async def server() -> Server:
    return Server()


async def numbers_of(followed: Followed, count: int) -> list[int]:
    """The next `count` numbers."""
    found: list[int] = []
    while len(found) < count:
        found += [int(fields[1]) for _, fields in await followed.entries()]
    return found


async def test_many_streams_are_read_over_one_connection(server: Server) -> None:
    followed = [server.streams.follow(f"s{number}", "0-0") for number in range(SHARE)]
    for number in range(SHARE):
        await server.tell(f"s{number}", number + 1, number + 2)
    for number, each in enumerate(followed):
        assert await numbers_of(each, 2) == [number + 1, number + 2]
    assert len(server.opened) == 1
    assert max(server.opened[0].counts) == SHARE
    more = server.streams.follow("more", "0-0")
    assert len(server.opened) == 2
    for each in (*followed, more):
        await server.streams.leave(each)
    assert not any(connection.connected for connection in server.opened)


async def test_a_read_that_waits_makes_room_for_a_newcomer(server: Server) -> None:
    silent = server.streams.follow("silent", "0-0")
    await asyncio.sleep(0)
    await server.opened[0].waits.wait()
    newcomer = server.streams.follow("new", "0-0")
    await server.tell("new", 1)
    async with asyncio.timeout(0.5):  # less than a read waits
        assert await numbers_of(newcomer, 1) == [1]
    await server.streams.leave(silent)
    await server.streams.leave(newcomer)


async def test_the_end_comes_after_everything_and_at_once(server: Server) -> None:
    followed = server.streams.follow("s", "0-0")
    await server.opened[0].waits.wait()
    await server.tell("s", *range(1, 2 * AHEAD))
    followed.end()
    async with asyncio.timeout(0.5):
        assert await numbers_of(followed, 2 * AHEAD - 1) == list(range(1, 2 * AHEAD))
        assert await followed.entries() == []
    assert await followed.entries() == []
    await server.streams.leave(followed)


async def test_a_slow_reader_holds_few_entries_and_delays_nobody(server: Server) -> None:
    slow, quick = (server.streams.follow(key, "0-0") for key in ("slow", "quick"))
    await server.tell("slow", *range(1, 10 * AHEAD))
    for number in range(1, 20):
        await server.tell("quick", number)
        assert await numbers_of(quick, 1) == [number]
    assert AHEAD <= len(await slow.entries()) < 2 * AHEAD
    assert await numbers_of(slow, AHEAD)
    await server.streams.leave(slow)
    await server.streams.leave(quick)


async def test_who_follows_the_same_stream_reads_it_from_an_own_place(server: Server) -> None:
    _, place, _ = await server.tell("s", 1, 2, 3)
    first, second = server.streams.follow("s", "0-0"), server.streams.follow("s", place)
    assert await numbers_of(first, 3) == [1, 2, 3]
    assert await numbers_of(second, 1) == [3]
    await server.streams.leave(first)
    await server.tell("s", 4)
    assert await numbers_of(second, 1) == [4]
    await server.streams.leave(second)


async def test_what_is_no_stream_is_refused_to_its_reader_alone(server: Server) -> None:
    await server.run(("SET", "planted", "x"))
    planted, good = server.streams.follow("planted", "0-0"), server.streams.follow("good", "0-0")
    await server.tell("good", 1)
    assert await numbers_of(good, 1) == [1]
    with pytest.raises(ServerRefused, match="WRONGTYPE"):
        await planted.entries()
    await server.tell("good", 2)
    assert await numbers_of(good, 1) == [2]
    await server.streams.leave(planted)
    await server.streams.leave(good)


async def test_an_outage_is_waited_out(server: Server) -> None:
    followed = server.streams.follow("s", "0-0")
    await server.opened[0].waits.wait()
    await server.opened[0].close()
    await server.tell("s", 1)
    assert await numbers_of(followed, 1) == [1]
    await server.streams.leave(followed)
