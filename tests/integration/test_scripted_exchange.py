"""Commands that run scripts, in one write with others, on a server that has forgotten its scripts."""

from __future__ import annotations

import hashlib

import pytest

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
