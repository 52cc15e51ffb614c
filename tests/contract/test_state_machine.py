"""Three connections to the store in memory and three to a server are told the same, whatever comes to mind, and say the
same; in the end both hold the same. Of time there are only limits that end at once, and limits that never end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from core.config.settings import RedisConfig
from core.memory_backend.connection import MemoryConnection
from core.memory_backend.store import CONTROL, KNOWN, MemoryStore
from core.ports import Connection, Part
from core.redis_client import ResponseError, Wire
from tests.contract.replies import STREAM_ID, Nth, Speaker

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

T = TypeVar("T")

SESSIONS = range(3)
FAR_MS = 1_000_000
#: All commands that are said.
HEADS: set[str] = set()

KEYS, NAMES = ["a", "b", "c", "s"], ["f", "g", "h"]
key = st.sampled_from(["a", "b", "c"])
any_key = st.sampled_from(KEYS)  # s is the stream; it is never deleted, so that its ids stay its own
name = st.sampled_from(NAMES)
session = st.sampled_from(SESSIONS)
value = st.sampled_from(["", "0", "1", "x", "-5", "9223372036854775807", "2.5", b"\xff\x00"])
number = st.integers(-3, 5)
score = st.sampled_from(["-inf", "+inf", "0", "1", "2", "2.5", "(1", "(2", "x"])
limit = st.sampled_from([FAR_MS, FAR_MS, 0, -1, "x"])
#: Larger ones than 2^53 are written differently by Redis and Valkey.
new_score = st.sampled_from(["", "0", "1", "x", "-5", "2.5", "inf", "9007199254740991"])
entry = st.one_of(st.builds(Nth, st.integers(0, 8)), st.sampled_from(["0", "0-0", "5-5", "9999999999999", "x"]))
count = st.sampled_from([0, 1, 2, 10, "x"])


def _said(head: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    HEADS.add(head.split()[0])
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
    _said("SET", key, value, st.just("PX"), limit),
    _said("SET", key, value, st.just("PX"), limit, st.sampled_from(["NX", "XX"])),
    _said("GETRANGE", any_key, number, number),
    _said("TYPE", any_key),
    _said("EXPIRE", key, limit),
    _said("PEXPIRE", key, limit),
    _said("PTTL", any_key),
    _said("PUBLISH", name, value),
    _said("INCR", any_key),
    _with_more(_said("DEL"), key),
    _with_more(_said("HSET", any_key), name, value),
    _said("HGET", any_key, name),
    _with_more(_said("HMGET", any_key), name),
    _said("HGETALL", any_key),
    _said("HKEYS", any_key),
    _said("HLEN", any_key),
    _said("HVALS", any_key),
    _said("HSTRLEN", any_key, name),
    _said("HSCAN", any_key, st.just(0), st.just("COUNT"), count),
    _with_more(_said("HDEL", any_key), name),
    _said("HINCRBY", any_key, name, st.one_of(number, value)),
)
COLLECTIONS = st.one_of(
    _with_more(_said("SADD", any_key), name),
    _with_more(_said("SREM", any_key), name),
    _said("SMEMBERS", any_key),
    _with_more(_said("ZADD", any_key), st.one_of(number, new_score), name),
    _with_more(_said("ZREM", any_key), name),
    _said("ZCARD", any_key),
    _said("ZSCORE", any_key, name),
    _said("ZRANGE", any_key, number, number),
    _said("ZREVRANGE", any_key, number, number),
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
    _said("XREVRANGE", any_key, st.just("+"), st.just("-"), st.just("COUNT"), count),
    _said("XREVRANGE", any_key, entry, entry),
    _said("XREAD COUNT", count, st.just("STREAMS"), any_key, entry),
)
#: Changes of a key while a read waits at it. An entry that is trimmed at once is none of them: Redis answers the read
#: with nothing, and Valkey lets it wait.
CHANGES: list[list[tuple[Part, ...]]] = [
    [("XADD", "w", "*", "f", "v")],
    [("MULTI",), ("XADD", "w", "*", "f", "1"), ("XADD", "w", "*", "f", "2"), ("EXEC",)],
    [("MULTI",), ("XADD", "w", "*", "f", "1"), ("DEL", "w"), ("EXEC",)],
    [("MULTI",), ("SET", "w", "v"), ("EXEC",)],
    [("SET", "w", "v")],
    [("HSET", "w", "f", "v"), ("HDEL", "w", "f")],
    [("DEL", "w")],
    [("PEXPIRE", "w", -1)],
]
#: Limits that end at once, and how long to wait for that.
SHORT = st.one_of(_said("PEXPIRE", key, st.just(1)), _said("SET", key, value, st.just("PX"), st.just(1)))
PAUSE_S = 0.003
#: How to read all of a key.
CONTENTS: dict[bytes, Callable[[str], tuple[Any, ...]]] = {
    b"string": lambda name: ("GET", name),
    b"hash": lambda name: ("HGETALL", name),
    b"set": lambda name: ("SMEMBERS", name),
    b"zset": lambda name: ("ZRANGE", name, 0, -1),
    b"stream": lambda name: ("XRANGE", name, "-", "+"),
}
TRANSACTIONS = st.one_of(_said("MULTI"), _said("EXEC"), _said("WATCH", any_key), _said("UNWATCH"))


class Conversation(RuleBasedStateMachine):
    """Whatever is said to one is said to the other."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.server.clean()
        config = RedisConfig(url=self.server.url, password=self.server.password, mode="external")
        self._now_s = time.time()
        store = MemoryStore(lambda: self._now_s)
        self._runner = asyncio.Runner()
        self._both: list[list[Connection]] = [
            [MemoryConnection(store) for _ in SESSIONS],
            [Wire(config) for _ in SESSIONS],
        ]
        self._ours, self._theirs = map(self._speakers, self._both)
        self._in_transaction = [False for _ in SESSIONS]

    def _speakers(self, connections: list[Connection]) -> list[Speaker]:
        ids: list[bytes] = []
        for connection in connections:
            self._wait(connection.connect())
        return [Speaker(connection, ids) for connection in connections]

    @rule(which=session, command=PLAIN)
    def say_plain(self, which: int, command: tuple[Any, ...]) -> None:
        self.say(which, command)

    @rule(which=session, command=COLLECTIONS)
    def say_of_collections(self, which: int, command: tuple[Any, ...]) -> None:
        self.say(which, command)

    @rule(which=session, command=STREAMS)
    def say_of_streams(self, which: int, command: tuple[Any, ...]) -> None:
        self.say(which, command)

    @rule(which=session, command=TRANSACTIONS)
    def say_of_transactions(self, which: int, command: tuple[Any, ...]) -> None:
        self.say(which, command)

    def say(self, which: int, command: tuple[Any, ...]) -> None:
        # Nested transactions are refused everywhere, but not everywhere with the same consequence.
        if self._in_transaction[which] and command[0] in ("MULTI", "WATCH"):
            return
        self._in_transaction[which] = command[0] == "MULTI" or (self._in_transaction[which] and command[0] != "EXEC")
        self._say(which, command)

    def _say(self, which: int, command: tuple[Any, ...]) -> Any:
        theirs, ours = self._wait(self._theirs[which].say(command)), self._wait(self._ours[which].say(command))
        assert ours == theirs, f"to {command} the store in memory says {ours!r}, the server {theirs!r}"
        return ours

    @rule(which=session, command=SHORT)
    def let_it_end(self, which: int, command: tuple[Any, ...]) -> None:
        """Gives a key a millisecond, and lets it pass."""
        if self._in_transaction[which]:  # it would begin with EXEC
            return
        self._say(which, command)
        self._now_s += PAUSE_S
        time.sleep(PAUSE_S)

    @rule(reads=session, changes=st.lists(st.sampled_from(CHANGES), max_size=3))
    def wait_for_an_entry(self, reads: int, changes: list[list[tuple[Part, ...]]]) -> None:
        """A read waits while others change the key in these ways."""
        writes = (reads + 1) % len(SESSIONS)
        if self._in_transaction[reads] or self._in_transaction[writes]:
            return
        ours, theirs = (
            self._wait(_told_while_it_waits(connections[reads], connections[writes], changes))
            for connections in self._both
        )
        assert ours == theirs, f"while {changes} the store in memory says {ours!r}, the server {theirs!r}"

    def teardown(self) -> None:
        try:
            for which in SESSIONS:
                if self._in_transaction[which]:
                    self._say(which, ("EXEC",))
            for name in KEYS:
                self._compare_what_is_held(name)
        finally:
            for connection in (*self._both[0], *self._both[1]):
                self._wait(connection.close())
            self._runner.close()

    def _compare_what_is_held(self, name: str) -> None:
        kind = self._say(0, ("TYPE", name))
        self._say(0, ("PTTL", name))
        if kind in CONTENTS:
            self._say(0, CONTENTS[kind](name))
        if kind == b"zset":
            for member in NAMES:
                self._say(0, ("ZSCORE", name, member))

    def _wait(self, something: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await something

        return self._runner.run(awaited())


async def _told_while_it_waits(
    reader: Connection, writer: Connection, changes: list[list[tuple[Part, ...]]]
) -> list[Any]:
    """The replies to the changes, and what the read was told: at the latest the entry that is added in the end."""
    await writer.exchange([("DEL", "w")])
    reading = asyncio.create_task(reader.exchange([("XREAD", "BLOCK", 10_000, "STREAMS", "w", "0")], timeout_s=20))
    for _ in range(2):
        await writer.exchange([("PING",)])
    told = [await writer.exchange(change) for change in changes]
    await writer.exchange([("DEL", "w"), ("XADD", "w", "*", "the", "end")])
    told.append(await reading)
    await writer.exchange([("DEL", "w")])
    return _without_ids(told)  # type: ignore[no-any-return]


def _without_ids(reply: Any) -> Any:
    if isinstance(reply, list):
        return [_without_ids(part) for part in reply]
    if isinstance(reply, ResponseError):
        return str(reply).partition(" ")[0]
    return b"an id" if isinstance(reply, bytes) and STREAM_ID.fullmatch(reply) else reply


def test_every_command_that_the_store_knows_is_said() -> None:
    """But TIME, to which two stores say different things."""
    assert {*KNOWN, *CONTROL} - HEADS == {"TIME"}


def test_whatever_is_said_the_store_in_memory_and_a_server_answer_alike(redis_server: RedisServer) -> None:
    class ConversationWithThis(Conversation):
        server = redis_server

    run_state_machine_as_test(
        ConversationWithThis,
        settings=settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True, database=None),
    )
