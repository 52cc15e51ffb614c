"""What a connection does beside giving replies: it waits, it watches, it breaks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from core.errors import TransportDown
from core.ports import Connection
from tests.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from core.ports import OpenConnection

    Connect = Callable[[], Awaitable[Connection]]

READ = ("XREAD", "COUNT", 1, "BLOCK", 10_000, "STREAMS", "s", "0")
ADD = ("XADD", "s", "*", "f", "v")


@pytest.fixture
def connect(open_connection: OpenConnection) -> Connect:
    async def connected() -> Connection:
        connection = open_connection()
        await connection.connect()
        return connection

    return connected


async def waiting(connection: Connection, other: Connection) -> asyncio.Task[list[Any]]:
    """A read on `connection` that is known to wait: it was sent before `other` has had two exchanges."""
    reading = asyncio.get_running_loop().create_task(connection.exchange([READ], timeout_s=20))
    for _ in range(2):
        await other.exchange([("PING",)])
    return reading


async def test_a_read_that_blocks_is_answered_as_soon_as_there_is_something(connect: Connect) -> None:
    reader, writer = await connect(), await connect()
    reading = await waiting(reader, writer)

    [entry] = await writer.exchange([ADD])

    assert await reading == [[[b"s", [[entry, [b"f", b"v"]]]]]]


async def test_a_read_that_blocks_sees_a_transaction_as_a_whole(connect: Connect) -> None:
    reader, writer = await connect(), await connect()
    reading = await waiting(reader, writer)

    *_, [_, entry, _] = await writer.exchange([("MULTI",), ("SET", "k", "v"), ADD, ("DEL", "k"), ("EXEC",)])

    assert await reading == [[[b"s", [[entry, [b"f", b"v"]]]]]]


async def test_a_read_waits_on_while_its_key_is_of_another_type(connect: Connect) -> None:
    reader, writer = await connect(), await connect()
    reading = await waiting(reader, writer)

    *_, entry = await writer.exchange([("SET", "s", "v"), ("DEL", "s"), ADD])

    assert await reading == [[[b"s", [[entry, [b"f", b"v"]]]]]]


async def test_a_read_that_finds_nothing_says_so_when_its_time_is_over(connect: Connect) -> None:
    connection = await connect()

    assert await connection.exchange([("XREAD", "BLOCK", 10, "STREAMS", "s", "0"), ("PING",)]) == [None, b"PONG"]


async def test_who_waits_longer_than_it_wanted_has_no_connection_any_more(connect: Connect) -> None:
    connection = await connect()

    with pytest.raises(TransportDown):
        await connection.exchange([READ], timeout_s=0.01)

    assert not connection.connected
    with pytest.raises(TransportDown):
        await connection.exchange([("PING",)])


async def test_closing_ends_a_read_that_blocks(connect: Connect) -> None:
    reader, other = await connect(), await connect()
    reading = await waiting(reader, other)

    await reader.close()

    with pytest.raises(TransportDown):
        await reading


async def test_an_exchange_that_is_cancelled_leaves_no_connection_behind(connect: Connect) -> None:
    reader, other = await connect(), await connect()
    reading = await waiting(reader, other)

    reading.cancel()
    await asyncio.wait({reading})

    assert not reader.connected
    await reader.connect()
    assert await reader.exchange([("PING",)]) == [b"PONG"]


async def test_a_connection_carries_one_exchange_at_a_time(connect: Connect) -> None:
    reader, other = await connect(), await connect()
    reading = await waiting(reader, other)

    with pytest.raises(RuntimeError):
        await reader.exchange([("PING",)])

    await reader.close()
    await asyncio.wait({reading})
    assert isinstance(reading.exception(), TransportDown)


async def test_a_transaction_is_aborted_by_what_another_connection_has_changed(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await one.exchange([("WATCH", "k")])

    await other.exchange([("SET", "k", "other")])

    assert (await one.exchange([("MULTI",), ("SET", "k", "one"), ("EXEC",)]))[-1] is None
    assert await one.exchange([("GET", "k")]) == [b"other"]


async def test_a_transaction_is_aborted_when_what_it_watches_has_ended(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await one.exchange([("SET", "k", "v", "PX", 30), ("WATCH", "k")])

    async def ended() -> bool:
        return await other.exchange([("GET", "k")]) == [None]

    await until_async(ended, "the key has ended")
    assert (await one.exchange([("MULTI",), ("SET", "l", "v"), ("EXEC",)]))[-1] is None


async def test_a_key_that_had_ended_before_it_was_watched_disturbs_nothing(connect: Connect) -> None:
    connection = await connect()
    await connection.exchange([("SET", "k", "v", "PX", 1)])

    async def ended() -> bool:
        return await connection.exchange([("PTTL", "k")]) == [-2]

    await until_async(ended, "the key has ended")
    assert (await connection.exchange([("WATCH", "k"), ("MULTI",), ("PING",), ("EXEC",)]))[-1] == [b"PONG"]


async def test_a_new_connection_watches_nothing_and_is_in_no_transaction(connect: Connect) -> None:
    one, other = await connect(), await connect()
    await one.exchange([("WATCH", "k"), ("MULTI",), ("SET", "k", "one")])

    await one.close()
    await one.connect()
    await other.exchange([("SET", "k", "other")])

    assert await one.exchange([("GET", "k"), ("MULTI",), ("GET", "k"), ("EXEC",)]) == [
        b"other", b"OK", b"QUEUED", [b"other"],
    ]  # fmt: skip


async def test_time_limits_count_down(connect: Connect) -> None:
    connection = await connect()

    _, left_ms, _, again_ms, _, seconds_ms = await connection.exchange(
        [
            ("SET", "k", "v", "PX", 50_000), ("PTTL", "k"), ("PEXPIRE", "k", 90_000), ("PTTL", "k"),
            ("EXPIRE", "k", 20), ("PTTL", "k"),
        ]
    )  # fmt: skip

    assert 40_000 < left_ms <= 50_000
    assert 80_000 < again_ms <= 90_000
    assert 10_000 < seconds_ms <= 20_000


async def test_time_is_seconds_and_microseconds_and_ids_of_entries_follow_it(connect: Connect) -> None:
    connection = await connect()

    before, entry, after = await connection.exchange([("TIME",), ADD, ("TIME",)])

    earliest_ms, latest_ms = (int(seconds) * 1000 + int(micros) // 1000 for seconds, micros in (before, after))
    assert earliest_ms - 1 <= int(entry.partition(b"-")[0]) <= latest_ms + 1


async def test_no_commands_have_no_replies(connect: Connect) -> None:
    connection = await connect()

    assert await connection.exchange([]) == []
