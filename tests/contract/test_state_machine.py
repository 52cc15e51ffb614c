"""Two connections to the store in memory and two to a server are told the same, whatever comes to mind, and say the
same. Time is kept out of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from core.config.settings import RedisConfig
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import MemoryStore
from core.ports import Connection
from core.redis_client import Wire
from tests.contract.replies import Nth, Speaker

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

T = TypeVar("T")

key = st.sampled_from(["a", "b", "c"])
any_key = st.sampled_from(["a", "b", "c", "s"])  # s is the stream; it is never deleted, so that its ids stay its own
name = st.sampled_from(["f", "g", "h"])
value = st.sampled_from(["", "0", "1", "x", "-5", "9223372036854775807", "2.5", b"\xff\x00"])
number = st.integers(-3, 5)
score = st.sampled_from(["-inf", "+inf", "0", "1", "2", "2.5", "(1", "(2", "x"])
entry = st.one_of(st.builds(Nth, st.integers(0, 8)), st.sampled_from(["0", "0-0", "5-5", "9999999999999", "x"]))
count = st.sampled_from([0, 1, 2, 10, "x"])


def _said(head: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(st.just(word) for word in head.split()), *parts)


def _with_more(head: st.SearchStrategy[tuple[Any, ...]], *more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """`head`, and behind it one to three times what `more` gives."""
    return st.builds(lambda first, rest: (*first, *(part for parts in rest for part in parts)), head,
                     st.lists(st.tuples(*more), min_size=1, max_size=3))  # fmt: skip


PLAIN = st.one_of(
    _said("PING"),
    _said("GET", any_key),
    _said("SET", key, value),
    _said("SET", key, value, st.sampled_from(["NX", "XX", "PX"])),
    _said("INCR", any_key),
    _with_more(_said("DEL"), key),
    _with_more(_said("HSET", any_key), name, value),
    _said("HGET", any_key, name),
    _with_more(_said("HMGET", any_key), name),
    _said("HGETALL", any_key),
    _said("HKEYS", any_key),
    _said("HLEN", any_key),
    _said("HVALS", any_key),
    _with_more(_said("HDEL", any_key), name),
    _said("HINCRBY", any_key, name, st.one_of(number, value)),
)
COLLECTIONS = st.one_of(
    _with_more(_said("SADD", any_key), name),
    _with_more(_said("SREM", any_key), name),
    _said("SMEMBERS", any_key),
    _with_more(_said("ZADD", any_key), st.one_of(number, value), name),
    _with_more(_said("ZREM", any_key), name),
    _said("ZCARD", any_key),
    _said("ZRANGE", any_key, number, number),
    _said("ZRANGEBYSCORE", any_key, score, score),
    _said("ZRANGEBYSCORE", any_key, score, score, st.just("LIMIT"), number, number),
)
STREAMS = st.one_of(
    _with_more(_said("XADD s *"), name, value),
    _with_more(_said("XADD s MAXLEN", number, st.just("*")), name, value),
    _said("XLEN", any_key),
    _with_more(_said("XDEL", any_key), entry),
    _said("XTRIM", any_key, st.just("MAXLEN"), number),
    _said("XTRIM", any_key, st.just("MINID"), entry),
    _said("XRANGE", any_key, st.just("-"), st.just("+")),
    _said("XRANGE", any_key, entry, entry, st.just("COUNT"), count),
    _said("XREAD COUNT", count, st.just("STREAMS"), any_key, entry),
)
TRANSACTIONS = st.one_of(_said("MULTI"), _said("EXEC"), _said("WATCH", any_key), _said("UNWATCH"))


class Conversation(RuleBasedStateMachine):
    """Whatever is said to one is said to the other."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.server.clean()
        config = RedisConfig(url=self.server.url, password=self.server.password, mode="external")
        store = MemoryStore(time.time)
        self._runner = asyncio.Runner()
        self._connections: list[Connection] = []
        self._ours = self._speakers([MemoryConnection(store), MemoryConnection(store)])
        self._theirs = self._speakers([Wire(config), Wire(config)])
        self._in_transaction = [False, False]

    def _speakers(self, connections: list[Connection]) -> list[Speaker]:
        ids: list[bytes] = []
        for connection in connections:
            self._wait(connection.connect())
        self._connections += connections
        return [Speaker(connection, ids) for connection in connections]

    @rule(which=st.integers(0, 1), command=st.one_of(PLAIN, COLLECTIONS, STREAMS, TRANSACTIONS))
    def say(self, which: int, command: tuple[Any, ...]) -> None:
        # Nested transactions are refused everywhere, but not everywhere with the same consequence.
        if self._in_transaction[which] and command[0] in ("MULTI", "WATCH"):
            return
        self._in_transaction[which] = command[0] == "MULTI" or (self._in_transaction[which] and command[0] != "EXEC")
        theirs, ours = self._wait(self._theirs[which].say(command)), self._wait(self._ours[which].say(command))
        assert ours == theirs, f"to {command} the store in memory says {ours!r}, the server {theirs!r}"

    def teardown(self) -> None:
        for connection in self._connections:
            self._wait(connection.close())
        self._runner.close()

    def _wait(self, something: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await something

        return self._runner.run(awaited())


def test_whatever_is_said_the_store_in_memory_and_a_server_answer_alike(redis_server: RedisServer) -> None:
    class ConversationWithThis(Conversation):
        server = redis_server

    run_state_machine_as_test(
        ConversationWithThis,
        settings=settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True, database=None),
    )
