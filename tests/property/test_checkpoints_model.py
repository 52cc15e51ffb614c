"""RedisSaver beside LangGraph's InMemorySaver, over random operations: whatever is read is the same, also when old
checkpoints are dropped, and then nothing is left behind of those."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import msgspec
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

from core.checkpoints import Encryption, RedisSaver
from core.checkpoints.serializer import StrictSerializer
from core.config.settings import RedisConfig
from core.redis_backend.keys import ThreadKeys
from tests.redis_server import RedisServer

THREADS = ("t", "u")
NAMESPACES = ("", "sub", "sub:1|x")
CHANNELS = ("a", "b", "__error__", "__resume__")
INTS = st.sampled_from((-(2**63), 0, 1, 2**64 - 1))
VALUES = st.one_of(st.none(), INTS, st.sampled_from(("", "x", "\0é")), st.just(b"\0x"), st.lists(INTS, max_size=3))
PLACES = st.one_of(st.just(("t", "")), st.tuples(st.sampled_from(THREADS), st.sampled_from(NAMESPACES)))

PUT = st.tuples(
    st.just("put"),
    PLACES,
    st.sampled_from((1, 1, 1, 2, 3, 0)),  # how many checkpoints back the parent is; 0: there is none
    st.dictionaries(st.sampled_from(CHANNELS[:2]), VALUES, max_size=1),  # changed channels
    st.sets(st.sampled_from(CHANNELS[:2]), max_size=1),  # those that become empty
    st.integers(0, 1),  # step
)
WRITES = st.tuples(
    st.just("writes"),
    PLACES,
    st.integers(1, 3),  # how many checkpoints back
    st.lists(st.tuples(st.sampled_from(CHANNELS), VALUES), max_size=3, unique_by=lambda write: write[0]),
    st.sampled_from(("task1", "task2")),
    st.sampled_from(("", "~a", "~b")),
)
DELETE = st.tuples(st.just("delete"), PLACES)
GROWING = st.lists(st.one_of(PUT, PUT, WRITES), min_size=8, max_size=14)
OPERATIONS = st.tuples(GROWING, st.lists(DELETE, max_size=1), GROWING).map(
    lambda parts: [each for part in parts for each in part]
)


class Both:
    """The same done to both."""

    def __init__(self, ours: RedisSaver) -> None:
        self.ours = ours
        self.model = InMemorySaver(serde=StrictSerializer())
        self.ids: dict[tuple[str, str], list[str]] = {}
        self.versions: dict[tuple[str, str, str], dict[str, str]] = {}
        self.numbers = count(1)

    def config(self, place: tuple[str, str], back: int) -> RunnableConfig:
        thread_id, ns = place
        ids = self.ids.get(place, [])
        named = {"checkpoint_id": ids[-back]} if 0 < back <= len(ids) else {}
        return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns, **named}}

    async def put(
        self, place: tuple[str, str], back: int, changed: dict[str, Any], emptied: set[str], step: int
    ) -> None:
        config = self.config(place, back)
        parent = config["configurable"].get("checkpoint_id")
        checkpoint_id = f"{next(self.numbers):06}"
        before: Any = {}
        if parent and (found := self.model.get_tuple(config)):
            before = found.checkpoint
        new: dict[str, str | int | float] = {
            channel: f"{next(self.numbers):06}" for channel in [*changed, *(emptied - {*changed})]
        }
        values = {name: value for name, value in before.get("channel_values", {}).items() if name not in emptied}
        checkpoint: Any = {
            **empty_checkpoint(),
            "id": checkpoint_id,
            "channel_values": {**values, **changed},
            "channel_versions": {**before.get("channel_versions", {}), **new},
        }
        for saver in (self.ours, self.model):
            await saver.aput(config, checkpoint.copy(), {"source": "loop", "step": step}, new)
        self.ids.setdefault(place, []).append(checkpoint_id)

    async def writes(
        self, place: tuple[str, str], back: int, writes: list[tuple[str, Any]], task: str, path: str
    ) -> None:
        config = self.config(place, back)
        if "checkpoint_id" in config["configurable"]:
            for saver in (self.ours, self.model):
                await saver.aput_writes(config, writes, task, path)

    async def delete(self, place: tuple[str, str]) -> None:
        thread_id, _ = place
        for saver in (self.ours, self.model):
            await saver.adelete_thread(thread_id)
        for ns in NAMESPACES:
            self.ids.pop((thread_id, ns), None)


async def listed(saver: RedisSaver | InMemorySaver, *arguments: Any, **filters: Any) -> list[CheckpointTuple]:
    return [each async for each in saver.alist(*arguments, **filters)]


def by_place(found: list[CheckpointTuple]) -> dict[tuple[str, ...], CheckpointTuple]:
    return {tuple(each.config["configurable"].values()): each for each in found}


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(operations=OPERATIONS, encrypted=st.booleans())
def test_it_reads_what_the_saver_in_memory_reads(
    redis_server: RedisServer, redis_config: RedisConfig, operations: list[Any], encrypted: bool
) -> None:
    redis_server.clean()
    asyncio.run(_the_same(redis_config, operations, Encryption({"k": bytes(16)}, "k") if encrypted else None))


async def _the_same(config: RedisConfig, operations: list[Any], encryption: Encryption | None) -> None:
    async with RedisSaver(config, encryption=encryption) as ours:
        both = Both(ours)
        for name, *arguments in operations:
            await getattr(both, name)(*arguments)
        assert by_place(await listed(ours, None)) == by_place(await listed(both.model, None))
        for place in ((thread_id, ns) for thread_id in THREADS for ns in NAMESPACES):
            latest, older = both.config(place, 0), both.config(place, 2)
            for one in (latest, older):
                assert await ours.aget_tuple(one) == both.model.get_tuple(one)
            for filters in ({"limit": 2}, {"before": older}, {"filter": {"step": 1}, "limit": 1}):
                assert await listed(ours, latest, **filters) == await listed(both.model, latest, **filters)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(operations=GROWING, keep=st.integers(1, 3))
def test_what_is_kept_is_whole_and_nothing_else_is_left(
    redis_server: RedisServer, redis_config: RedisConfig, operations: list[Any], keep: int
) -> None:
    redis_server.clean()
    with redis_server.connect() as client:
        asyncio.run(_kept_whole(redis_config, operations, keep, client))


async def _kept_whole(config: RedisConfig, operations: list[Any], keep: int, client: redis.Redis) -> None:
    async with RedisSaver(config, keep=keep) as ours:
        both = Both(ours)
        for name, *arguments in operations:
            place, back, *others = arguments
            await getattr(both, name)(place, min(back, keep), *others)  # further back it may have been dropped
        ours_by_place, model = by_place(await listed(ours, None)), by_place(await listed(both.model, None))
        assert ours_by_place.items() <= model.items()
        for (thread_id, ns), ids in both.ids.items():
            assert {(thread_id, ns, each) for each in ids[-keep:]} <= ours_by_place.keys()
        for thread_id in THREADS:
            assert_nothing_is_left_over(client, thread_id)


def assert_nothing_is_left_over(client: redis.Redis, thread_id: str) -> None:
    _, values, index = ThreadKeys(thread_id).all
    stored: Any = client.hgetall(values)
    heads = {name[1:]: msgspec.msgpack.decode(head) for name, head in stored.items() if name[:1] == b"h"}
    used = {
        b"b" + name.partition(b"\0")[0] + f"\0{channel}\0{version}".encode()
        for name, head in heads.items()
        for channel, version in head[4].items()
    }
    indexed: Any = client.zrange(index, 0, -1)
    assert {name for name in stored if name[:1] == b"b"} <= used
    assert {name.rpartition(b"\0")[0].rpartition(b"\0")[0][1:] for name in stored if name[:1] == b"w"} <= heads.keys()
    assert {name for name in stored if name[:1] in b"cw"} == {name for name in indexed if name[:1] in b"cw"}
