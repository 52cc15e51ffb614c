"""Connections to a real server: replies in order, errors in their place, and no reply for the wrong command."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ResponseError

from core.config.settings import RedisConfig
from core.config.variables import secret_text
from core.errors import ConfigError, ReplyTooLarge, TransportDown
from core.redis_client import Wire, client
from tests.redis_server import RedisServer, bundled_server
from tests.waiting import until_async


async def open_wire(config: RedisConfig) -> Wire:
    wire = Wire(config)
    await wire.connect()
    return wire


async def test_replies_come_in_the_order_of_the_commands_and_a_refusal_stands_in_its_place(
    redis_config: RedisConfig,
) -> None:
    wire = await open_wire(redis_config)

    replies = await wire.exchange(
        [("SET", "k", 1), ("HGETALL", b"none"), ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"), ("GET", "k")]
    )

    assert [*replies[:2], replies[3]] == [b"OK", [], b"1"]
    assert isinstance(replies[2], ResponseError)
    assert str(replies[2]).startswith("NOGROUP")
    assert await wire.exchange([]) == []
    await wire.close()


async def test_many_megabytes_go_through_in_one_exchange(redis_config: RedisConfig) -> None:
    wire = await open_wire(redis_config)
    large = b"\r\n\x00" * 4_000_000

    assert await wire.exchange([("SET", "large", large), ("GET", "large")]) == [b"OK", large]
    await wire.close()


async def test_after_a_time_out_the_wire_is_closed_and_a_new_connection_sees_no_late_reply(
    redis_config: RedisConfig,
) -> None:
    wire = await open_wire(redis_config)

    with pytest.raises(TransportDown, match="did not answer"):
        await wire.exchange([("BLPOP", "none", 0)], timeout_s=0.05)

    assert not wire.connected
    with pytest.raises(TransportDown, match="closed"):
        await wire.exchange([("PING",)])
    await wire.connect()
    assert await wire.exchange([("ECHO", "mine")]) == [b"mine"]
    await wire.close()


async def test_each_exchange_has_its_own_time_whatever_those_before_it_were_given(redis_config: RedisConfig) -> None:
    wire = await open_wire(redis_config)

    await wire.exchange([("PING",)], timeout_s=0.05)
    assert await wire.exchange([("BLPOP", "none", 0.2)], timeout_s=30) == [None]
    with pytest.raises(TransportDown, match=r"did not answer within 0\.05 s"):
        await asyncio.wait_for(wire.exchange([("BLPOP", "none", 0)], timeout_s=0.05), 10)
    await wire.close()


async def test_after_a_cancellation_the_wire_is_closed(redis_config: RedisConfig, redis_server: RedisServer) -> None:
    wire = await open_wire(redis_config)
    waiting = asyncio.create_task(wire.exchange([("BLPOP", "none", 0)]))
    with redis_server.connect() as observer:
        await until_async(lambda: observer.info("clients")["blocked_clients"] == 1, "the server blocks")

    with pytest.raises(RuntimeError, match="one exchange at a time"):
        await wire.exchange([("PING",)])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not wire.connected
    await wire.close()


async def test_a_killed_server_is_transport_down_until_it_is_back() -> None:
    with RedisServer(bundled_server()) as server:
        config = RedisConfig(url=server.url, password=server.password)
        wire = await open_wire(config)

        server.kill()
        with pytest.raises(TransportDown):
            await wire.exchange([("PING",)])
        with pytest.raises(TransportDown, match="cannot be reached"):
            await wire.connect()

        server.start()
        await wire.connect()
        assert await wire.exchange([("PING",)]) == [b"PONG"]
        await wire.close()


@pytest.mark.parametrize(
    ("change", "cure"),
    [({"password": None}, "REDIS_PASSWORD"), ({"password": "wrong"}, "REDIS_PASSWORD"), ({"db": 1000}, "REDIS_DB")],
)
async def test_what_the_server_will_never_accept_is_a_config_error_with_the_cure(
    redis_server: RedisServer, change: dict[str, object], cure: str
) -> None:
    path = redis_server.url.partition("?")[0]
    config = RedisConfig(url=path, password=redis_server.password).model_copy(update=change)
    wire = Wire(config)

    with pytest.raises(ConfigError, match=cure) as caught:
        await wire.connect()

    assert not wire.connected
    assert redis_server.password not in str(caught.value)


async def test_what_is_no_redis_is_transport_down() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(TransportDown, match="does not speak"):
            await Wire(RedisConfig(host="127.0.0.1", port=port)).connect()


async def test_the_client_with_retries_speaks_bytes(redis_config: RedisConfig) -> None:
    async with client(redis_config) as redis:
        await redis.set("k", "v")
        assert await redis.get("k") == b"v"


async def test_a_reply_larger_than_there_is_room_for_ends_the_connection_and_is_not_kept(
    redis_config: RedisConfig,
) -> None:
    wire = await open_wire(redis_config)
    await wire.exchange([("SET", "large", b"x" * 1_000_000)])

    with pytest.raises(ReplyTooLarge):
        await wire.exchange([("GET", "large")], max_bytes=500_000)
    assert not wire.connected

    await wire.connect()
    [reply] = await wire.exchange([("GET", "large")], max_bytes=1_100_000)
    assert len(reply) == 1_000_000
    await wire.close()


async def test_who_was_let_in_before_takes_a_changed_password_for_something_that_passes(
    redis_config: RedisConfig,
) -> None:
    wire, other, late = await open_wire(redis_config), await open_wire(redis_config), Wire(redis_config)
    await other.exchange([("CONFIG", "SET", "requirepass", "changed")])
    try:
        await wire.close()
        for known in (wire, Wire(redis_config, let_in=True)):
            with pytest.raises(TransportDown, match="REDIS_PASSWORD"):
                await known.connect()
        with pytest.raises(ConfigError, match="REDIS_PASSWORD"):
            await late.connect()
    finally:
        await other.exchange([("CONFIG", "SET", "requirepass", secret_text(redis_config.password) or "")])

    await wire.connect()
    assert await wire.exchange([("PING",)]) == [b"PONG"]
    await wire.close()
    await other.close()
