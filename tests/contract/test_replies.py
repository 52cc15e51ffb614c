"""The store in memory says what the servers say, to every command with every option that the system uses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.ports import Connection, Part
from core.redis_client import Wire
from tests.contract.replies import Nth, Speaker

if TYPE_CHECKING:
    from core.config.settings import RedisConfig

FAR_MS = 1_000_000

Script = Sequence[Sequence[Part | Nth]]

SCRIPTS: dict[str, Script] = {
    "parts of every type": [
        ("SET", "k", 17), ("GET", "k"), ("SET", "k", 1.5), ("GET", "k"), ("SET", "k", "ü"), ("GET", "k"),
        ("SET", "k", b"\x00\xff\r\n"), ("GET", "k"), ("SET", "k", ""), ("GET", "k"), ("SET", "k", 1e300), ("GET", "k"),
    ],
    "commands in any case": [("set", "k", "v"), ("Get", "k"), ("xadd", "s", "maxlen", "~", 5, "*", "f", "v")],
    "what is unknown or has the wrong number of arguments": [
        ("GET",), ("GET", "k", "l"), ("SET", "k"), ("HSET", "h", "f"), ("HSET", "h", "f", "v", "g"), ("HMGET", "h"),
        ("XADD", "s", "*"), ("XADD", "s", "*", "f"), ("XADD", "s", "*", "f", "v", "g"), ("ZADD", "z", 1), ("DEL",),
        ("ZADD", "z", 1, "a", 2), ("XREAD", "STREAMS"), ("XREAD", "COUNT", 1, "STREAMS", "s"),
        ("WATCH",), ("HINCRBY", "h", "f"), ("PING",), ("TIME", "x"), ("SADD", "s"), ("MULTI", "x"), ("UNWATCH", "x"),
    ],
    "GET and SET": [
        ("GET", "k"), ("SET", "k", "v"), ("GET", "k"), ("SET", "k", "w", "NX"), ("GET", "k"), ("SET", "k", "w", "XX"),
        ("GET", "k"), ("SET", "l", "w", "XX"), ("SET", "l", "w", "NX"), ("SET", "l", "x", "PX", FAR_MS, "NX"),
        ("SET", "l", "x", "XX", "PX", FAR_MS), ("SET", "k", "v", "NX", "XX"), ("SET", "k", "v", "PX"),
        ("SET", "k", "v", "PX", 0), ("SET", "k", "v", "PX", -5), ("SET", "k", "v", "PX", "soon"),
        ("SET", "k", "v", "SOON"), ("GET", "k"),
    ],
    "GETRANGE": [
        ("GETRANGE", "k", 0, 9), ("SET", "k", "0123456789"), ("GETRANGE", "k", 0, 3), ("GETRANGE", "k", 2, 99),
        ("GETRANGE", "k", 0, -1), ("GETRANGE", "k", -3, -2), ("GETRANGE", "k", -99, 2), ("GETRANGE", "k", -1, -3),
        ("GETRANGE", "k", 0, -99), ("GETRANGE", "k", 10, 20), ("GETRANGE", "k", "x", 1), ("GETRANGE", "k", 0),
        ("HSET", "h", "f", "v"), ("GETRANGE", "h", 0, 9),
    ],
    "SET replaces what is of another type": [("HSET", "k", "f", "v"), ("SET", "k", "v"), ("GET", "k")],
    "types": [
        ("SET", "k", "v"), ("HSET", "h", "f", "v"), ("SADD", "s", "a"), ("ZADD", "z", 1, "a"),
        ("XADD", "x", "*", "f", "v"),
        ("TYPE", "k"), ("TYPE", "h"), ("TYPE", "s"), ("TYPE", "z"), ("TYPE", "x"), ("TYPE", "none"), ("TYPE",),
    ],
    "the beginning of a string": [
        ("SET", "k", "value"), ("GETRANGE", "k", 0, 2), ("GETRANGE", "k", 0, 99), ("GETRANGE", "x", 0, 3),
        ("HSET", "h", "f", "v"), ("GETRANGE", "h", 0, 3), ("GETRANGE", "k", 0),
    ],
    "INCR": [
        ("INCR", "n"), ("INCR", "n"), ("SET", "n", "9223372036854775807"), ("INCR", "n"), ("SET", "n", "1.5"),
        ("INCR", "n"), ("SET", "n", " 1"), ("INCR", "n"), ("SET", "n", "007"), ("INCR", "n"), ("SET", "n", "-0"),
        ("INCR", "n"), ("SET", "n", "-1"), ("INCR", "n"), ("SET", "n", ""), ("INCR", "n"),
    ],
    "DEL": [
        ("DEL", "k"), ("SET", "k", "v"), ("HSET", "h", "f", "v"), ("DEL", "k", "h", "x", "k"), ("GET", "k"),
        ("XADD", "s", "*", "f", "v"), ("DEL", "s"), ("XLEN", "s"),
    ],
    "hashes": [
        ("HSET", "h", "a", 1), ("HSET", "h", "a", 2, "b", 3), ("HSET", "h", "c", 4, "c", 5), ("HGET", "h", "c"),
        ("HGET", "h", "x"), ("HGET", "x", "x"), ("HMGET", "h", "a", "x", "a"), ("HMGET", "x", "a", "b"),
        ("HSTRLEN", "h", "b"), ("HSTRLEN", "h", "x"), ("HSTRLEN", "x", "f"),
        ("HGETALL", "h"), ("HGETALL", "x"), ("HKEYS", "h"), ("HKEYS", "x"), ("HLEN", "h"), ("HLEN", "x"),
        ("HVALS", "h"), ("HVALS", "x"), ("HSCAN", "h", 0, "COUNT", 9), ("HSCAN", "x", 0, "COUNT", 9),
        ("HSCAN", "x", 0, "COUNT", 0), ("HSCAN", "x", 0, "SOME", 9),
        ("HSCAN", "h", "x", "COUNT", 9), ("HSCAN", "h", 0, "COUNT", 0), ("HSCAN", "h", 0, "SOME", 9),
        ("HDEL", "h", "a", "x", "a"), ("HDEL", "x", "a"), ("HGETALL", "h"), ("HDEL", "h", "b", "c"), ("DEL", "h"),
    ],
    "HINCRBY": [
        ("HINCRBY", "h", "n", 5), ("HINCRBY", "h", "n", -7), ("HGET", "h", "n"), ("HSET", "h", "n", "x"),
        ("HINCRBY", "h", "n", 1), ("HINCRBY", "h", "m", "x"), ("HINCRBY", "h", "m", 9223372036854775807),
        ("HINCRBY", "h", "m", 1), ("HGETALL", "h"), ("HINCRBY", "x", "n", "x"), ("DEL", "x"),
    ],
    "sets": [
        ("SADD", "s", "a", "b", "a"), ("SADD", "s", "a"), ("SMEMBERS", "s"), ("SMEMBERS", "x"), ("SREM", "s", "a", "c"),
        ("SREM", "x", "a"), ("SMEMBERS", "s"), ("SREM", "s", "b"), ("DEL", "s"),
    ],
    "sorted sets": [
        ("ZADD", "z", 3, "c", 1, "a", 2, "b", 2, "B"), ("ZADD", "z", 0, "c", 5, "e"), ("ZADD", "z", 1, "x", 2, "x"),
        ("ZRANGE", "z", 0, -1), ("ZRANGE", "z", 1, 2), ("ZRANGE", "z", -2, -1), ("ZRANGE", "z", 4, 2),
        ("ZRANGE", "z", 0, 99), ("ZRANGE", "z", -99, 0), ("ZRANGE", "z", 0, -99), ("ZRANGE", "z", 9, 12),
        ("ZRANGE", "z", 0, -7), ("ZREVRANGE", "z", 0, -1), ("ZREVRANGE", "z", 1, 2), ("ZREVRANGE", "z", -2, 99),
        ("ZREVRANGE", "z", 0, -7), ("ZREVRANGE", "x", 0, -1), ("ZREVRANGE", "z", 0, "a"),
        ("ZRANGE", "x", 0, -1), ("ZRANGE", "z", "a", 1), ("ZCARD", "z"), ("ZCARD", "x"),
        ("ZSCORE", "z", "a"), ("ZSCORE", "z", "q"), ("ZSCORE", "x", "a"),
        ("ZREM", "z", "a", "y", "a"),
        ("ZREM", "x", "a"), ("ZADD", "z", "x", "a"), ("ZADD", "z", "nan", "a"), ("ZADD", "z", "inf", "top"),
        ("ZRANGE", "z", 0, -1), ("ZREM", "z", "B", "b", "c", "e", "top", "x"), ("DEL", "z"),
    ],
    "ranges by score": [
        ("ZADD", "z", 1, "a", 2, "b", 3, "c", 4, "d"), ("ZRANGEBYSCORE", "z", "-inf", 3),
        ("ZRANGEBYSCORE", "z", "-inf", "+inf"), ("ZRANGEBYSCORE", "z", "-inf", "inf", "LIMIT", 1, 2),
        ("ZRANGEBYSCORE", "z", "-inf", 3, "LIMIT", 0, 500), ("ZRANGEBYSCORE", "z", "-inf", 3, "LIMIT", 0, -1),
        ("ZRANGEBYSCORE", "z", "-inf", 3, "LIMIT", 9, 1), ("ZRANGEBYSCORE", "z", "(1", "(4"),
        ("ZRANGEBYSCORE", "z", 4, 1), ("ZRANGEBYSCORE", "x", 0, 1), ("ZRANGEBYSCORE", "z", "a", 1),
        ("ZRANGEBYSCORE", "z", 0, 1, "LIMIT", 0), ("ZRANGEBYSCORE", "z", 2.5, 3.5, "limit", 0, 1),
        ("ZRANGEBYSCORE", "z", 0, 9, "LIMIT", -1, 1), ("ZRANGEBYSCORE", "z", 0, 9, "LIMIT", 0, 0),
    ],
    "streams": [
        ("XLEN", "s"), ("XADD", "s", "*", "f", "v"), ("XADD", "s", "*", "f", "v", "f", "w"), ("XADD", "s", "*", "g", 1),
        ("XLEN", "s"), ("XRANGE", "s", "-", "+"), ("XRANGE", "s", Nth(1), "+"), ("XRANGE", "s", "-", Nth(1)),
        ("XRANGE", "s", "-", "+", "COUNT", 2), ("XRANGE", "s", "-", "+", "COUNT", 0), ("XRANGE", "x", "-", "+"),
        ("XREVRANGE", "s", "+", "-"), ("XREVRANGE", "s", "+", "-", "COUNT", 2), ("XREVRANGE", "s", Nth(1), Nth(0)),
        ("XREVRANGE", "s", "+", "-", "COUNT", 0), ("XREVRANGE", "x", "+", "-", "COUNT", 0),
        ("XREVRANGE", "s", "a", "-"), ("XRANGE", "s", "-", "+", "COUNT", "x"), ("XRANGE", "s", "a", "+"),
        ("XRANGE", "s", 5, 4), ("XDEL", "s", Nth(1), Nth(1), "5-5"), ("XDEL", "x", "5-5"),
        ("XDEL", "s", "no"), ("XRANGE", "s", "-", "+"),
        ("XDEL", "s", Nth(0), Nth(2)), ("XLEN", "s"), ("XADD", "s", "*", "f", "v"), ("XADD", "s", "5", "f", "v"),
        ("DEL", "s"),
    ],
    "streams with an upper limit": [
        ("XADD", "s", "MAXLEN", "~", 1000, "*", "f", 1), ("XADD", "s", "MAXLEN", 2, "*", "f", 2),
        ("XADD", "s", "MAXLEN", "=", 2, "*", "f", 3), ("XADD", "s", "MAXLEN", 2, "*", "f", 4),
        ("XRANGE", "s", "-", "+"),
        ("XADD", "s", "MAXLEN", "x", "*", "f", 4), ("XADD", "s", "MAXLEN", -1, "*", "f", 4),
        ("XADD", "s", "MAXLEN", 0, "*", "f", 5), ("XLEN", "s"),
    ],
    "XTRIM": [
        ("XADD", "s", "*", "f", 1), ("XADD", "s", "*", "f", 2), ("XADD", "s", "*", "f", 3), ("XADD", "s", "*", "f", 4),
        ("XTRIM", "s", "MINID", Nth(1)), ("XRANGE", "s", "-", "+"), ("XTRIM", "s", "MINID", Nth(1)),
        ("XTRIM", "s", "MINID", "0"), ("XTRIM", "s", "MINID", "x"), ("XTRIM", "x", "MINID", "5"),
        ("XTRIM", "s", "MAXLEN", 1), ("XTRIM", "s", "MAXLEN", "~", 1), ("XRANGE", "s", "-", "+"),
        ("XTRIM", "x", "MAXLEN", 1), ("XTRIM", "s", "SOME", 1), ("XTRIM", "s", "MINID", "9999999999999"), ("XLEN", "s"),
    ],
    "XREAD": [
        ("XREAD", "STREAMS", "s", "0"), ("XREAD", "COUNT", 1, "BLOCK", 1, "STREAMS", "s", "0"),
        ("XADD", "s", "*", "f", 1), ("XADD", "s", "*", "f", 2),
        ("XREAD", "STREAMS", "s", "0"), ("XREAD", "COUNT", 1, "STREAMS", "s", "0-0"),
        ("XREAD", "COUNT", 9, "BLOCK", 2000, "STREAMS", "s", Nth(0)), ("XREAD", "STREAMS", "s", Nth(1)),
        ("XREAD", "COUNT", 0, "STREAMS", "s", "0"),
        ("XREAD", "COUNT", 1, "STREAMS", "s", "none", "s", "0", "0", Nth(0)),
        ("XREAD", "BLOCK", 2000, "STREAMS", "none", "s", "0", Nth(0)), ("XREAD", "STREAMS", "s", "none", "0"),
        ("XREAD", "STREAMS", "s", "no"), ("XREAD", "COUNT", "x", "STREAMS", "s", "0"),
        ("XREAD", "BLOCK", "x", "STREAMS", "s", "0"), ("XREAD", "BLOCK", -1, "STREAMS", "s", "0"), ("XREAD", "s", "0"),
        ("XREAD", "BLOCK", 1, "STREAMS", "s", "9999999999999"),
    ],
    "ids go on after the newest entry was deleted": [
        ("XADD", "s", "*", "f", 1), ("XADD", "s", "*", "f", 2), ("XDEL", "s", Nth(1)), ("XADD", "s", "*", "f", 3),
        ("XREAD", "STREAMS", "s", Nth(1)),
    ],
    "time limits": [
        ("PTTL", "k"), ("SET", "k", "v"), ("PTTL", "k"), ("EXPIRE", "k", 100), ("EXPIRE", "x", 100),
        ("PEXPIRE", "k", FAR_MS), ("PEXPIRE", "x", FAR_MS), ("SET", "k", "w"), ("PTTL", "k"), ("EXPIRE", "k", "x"),
        ("EXPIRE", "k", 0), ("GET", "k"), ("SET", "k", "w"), ("PEXPIRE", "k", -1), ("GET", "k"),
    ],
    "other types": [
        ("SET", "k", "v"), ("HSET", "k", "f", "v"), ("HGET", "k", "f"), ("HMGET", "k", "f"), ("HGETALL", "k"),
        ("HKEYS", "k"), ("HSCAN", "k", 0, "COUNT", 9), ("HLEN", "k"), ("ZSCORE", "k", "a"),
        ("HVALS", "k"), ("HDEL", "k", "f"), ("HINCRBY", "k", "f", 1), ("SADD", "k", "a"),
        ("SREM", "k", "a"), ("SMEMBERS", "k"), ("ZADD", "k", 1, "a"), ("ZREM", "k", "a"), ("ZCARD", "k"),
        ("ZRANGE", "k", 0, -1), ("ZRANGEBYSCORE", "k", 0, 1), ("XADD", "k", "*", "f", "v"), ("XLEN", "k"),
        ("XDEL", "k", "5-5"), ("XTRIM", "k", "MAXLEN", 1), ("XRANGE", "k", "-", "+"), ("XREAD", "STREAMS", "k", "0"),
        ("HSET", "h", "f", "v"), ("GET", "h"), ("INCR", "h"), ("XADD", "h", "*", "f", "v"), ("GET", "k"),
    ],
    "transactions": [
        ("EXEC",), ("MULTI",), ("SET", "k", "v"), ("HSET", "h", "f", "v"), ("GET", "k"),
        ("EXEC",), ("MULTI",), ("EXEC",), ("MULTI",), ("INCR", "h"), ("SET", "k", "w"), ("EXEC",), ("GET", "k"),
        ("MULTI",), ("SET", "k", "x"), ("GET",), ("SET", "k", "y"), ("EXEC",), ("GET", "k"), ("MULTI",), ("UNWATCH",),
        ("XREAD", "BLOCK", 5000, "STREAMS", "s", "0"), ("XADD", "s", "*", "f", "v"), ("PUBLISH", "c", "m"), ("EXEC",),
    ],
    "WATCH": [
        ("WATCH", "k", "l"), ("SET", "k", "v"), ("MULTI",), ("GET", "k"), ("EXEC",),
        ("MULTI",), ("GET", "k"), ("EXEC",),
        ("WATCH", "k"), ("DEL", "k"), ("MULTI",), ("GET", "k"), ("EXEC",),
        ("WATCH", "k"), ("DEL", "k"), ("MULTI",), ("GET", "k"), ("EXEC",),
        ("WATCH", "k"), ("SET", "k", "v"), ("UNWATCH",), ("MULTI",), ("GET", "k"), ("EXEC",),
        ("WATCH", "k"), ("EXPIRE", "k", 100), ("MULTI",), ("GET", "k"), ("EXEC",),
        ("WATCH", "h"), ("HSET", "h", "f", "v"), ("HDEL", "h", "f"), ("MULTI",), ("EXEC",),
        ("HSET", "h", "f", "v"), ("WATCH", "h"), ("HSET", "h", "f", "v"), ("MULTI",), ("EXEC",),
        ("WATCH", "h"), ("HDEL", "h", "x"), ("HGETALL", "h"), ("MULTI",), ("EXEC",),
        ("SADD", "m", "a"), ("WATCH", "m"), ("SADD", "m", "a"), ("SREM", "m", "x"), ("MULTI",), ("EXEC",),
        ("ZADD", "z", 1, "a"), ("WATCH", "z"), ("ZADD", "z", 1, "a"), ("ZREM", "z", "x"), ("MULTI",), ("EXEC",),
        ("WATCH", "s"), ("XADD", "s", "*", "f", "v"), ("MULTI",), ("EXEC",),
        ("WATCH", "s"), ("XDEL", "s", "5-5"), ("XTRIM", "s", "MAXLEN", 9), ("MULTI",), ("EXEC",),
        ("WATCH", "s"), ("XDEL", "s", Nth(0)), ("MULTI",), ("EXEC",),
        ("WATCH", "k"), ("MULTI",), ("GET",), ("EXEC",), ("SET", "k", "v"), ("MULTI",), ("EXEC",),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_store_in_memory_gives_the_replies_of_a_server_to(name: str, redis_config: RedisConfig) -> None:
    theirs = await _replies(Wire(redis_config), SCRIPTS[name])
    ours = await _replies(MemoryConnection(MemoryStore(time.time)), SCRIPTS[name])

    assert ours == theirs


async def _replies(connection: Connection, script: Script) -> list[str]:
    await connection.connect()
    speaker = Speaker(connection, [])
    replies = [f"{' '.join(map(str, command))}: {await speaker.say(command)!r}" for command in script]
    await connection.close()
    return replies
