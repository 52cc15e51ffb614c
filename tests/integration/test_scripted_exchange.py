"""Commands that run scripts, in one write with others, on a server that has forgotten its scripts."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from core.checkpoints.connection import GroupedConnection
from core.config.settings import RedisConfig
from core.errors import ServerRefused
from core.redis_backend.scripted_exchange import exchange, unrefused
from core.redis_client import Wire
from tests.redis_server import RedisServer

SCRIPT = "return redis.call('INCR', KEYS[1])"
RUN = ("EVALSHA", hashlib.sha1(SCRIPT.encode()).hexdigest(), 1, "by-script")


async def test_what_was_carried_out_beside_an_unknown_script_is_not_sent_again(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    wire = Wire(redis_config)
    for times in 1, 2:
        redis_server.ask("SCRIPT", "FLUSH")
        replies = await exchange(wire, [("INCR", "plain"), RUN, ("INCR", "plain")], [SCRIPT])
        assert unrefused([RUN] * 3, replies) == [2 * times - 1, times, 2 * times]
    await wire.close()


async def test_a_script_that_is_not_among_those_given_is_refused(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    redis_server.ask("SCRIPT", "FLUSH")
    wire = Wire(redis_config)
    with pytest.raises(ServerRefused, match="NOSCRIPT"):
        unrefused([RUN], await exchange(wire, [RUN], ["return 1"]))
    await wire.close()


async def test_askers_of_one_group_get_their_own_replies_also_when_a_script_was_unknown_and_one_has_gone(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    connection = GroupedConnection(lambda: Wire(redis_config), [SCRIPT])
    await connection.run(("PING",))
    redis_server.ask("SCRIPT", "FLUSH")
    first, gone, *others = (
        asyncio.create_task(connection.run(*commands))
        for commands in ([("ECHO", "a")], [("INCR", "plain")], [RUN, ("ECHO", "b")], [("ECHO", "c"), ("INCR", "plain")])
    )
    await asyncio.sleep(0)  # all have asked: the first alone, the others while it waits
    gone.cancel()

    assert await asyncio.gather(first, *others) == [[b"a"], [1, b"b"], [b"c", 2]]
    await connection.close.aio()
