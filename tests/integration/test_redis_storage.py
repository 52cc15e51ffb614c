"""What a thread in Redis is protected from: late writers, lost scripts, restarts, too much, and old age."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph
from msgspec.structs import replace

from core.checkpoints import RedisSaver
from core.checkpoints.redis_storage import DAY_MS, LET_GO_MS, RedisStorage
from core.checkpoints.saver import CheckpointSaver
from core.checkpoints.storage import CheckpointPut, Fence, Selection, ThreadWrite, Written
from core.config.settings import RedisConfig
from core.errors import CheckpointTooLarge, CheckpointUnreadable, FencedOut, TransportDown
from core.redis_client import Wire

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

CONFIG: RunnableConfig = {"configurable": {"thread_id": "t"}}
PLACE: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "1"}}


@pytest.fixture
async def storage(redis_config: RedisConfig) -> AsyncIterator[RedisStorage]:
    opened = RedisStorage(lambda: Wire(redis_config))
    yield opened
    await opened.close()


def put(checkpoint_id: str) -> CheckpointPut:
    return CheckpointPut("", checkpoint_id, "", "", "", False, (), (), b"body")


class Steps(TypedDict, total=False):
    steps: int


class Named(Steps):
    name: str


def graph_of(saver: CheckpointSaver, nodes: int = 3) -> Any:
    def step(state: Steps) -> Steps:
        return {"steps": state.get("steps", 0) + 1}

    builder = StateGraph(Steps).add_sequence([(f"step{number}", step) for number in range(nodes)])
    return builder.add_edge(START, "step0").compile(checkpointer=saver)


# ---- fence ----


@pytest.mark.parametrize(
    ("held", "writer", "refused"),
    [
        ((5, 2), (5, 1), True),
        ((5, 2), (4, 9), True),
        ((5, 2), (5, 2), False),
        ((5, 2), (6, 1), False),
        ((1_800_000_000_123, 1), (1_800_000_000_122, 9), True),
        ((10, 1), (9, 1), True),  # numbers, not texts
    ],
)
async def test_whoever_comes_before_the_one_who_has_the_thread_writes_nothing(
    storage: RedisStorage, held: tuple[int, int], writer: tuple[int, int], refused: bool
) -> None:
    assert await storage.open("t", Fence(*held)) is None

    [written] = await storage.write([ThreadWrite("t", Fence(*writer), (put("1"),))])

    assert written.error == ("FencedOut" if refused else "")
    assert len(await storage.read("t", Selection())) == (0 if refused else 1)


async def test_opening_a_thread_takes_it_and_gives_its_newest_checkpoint(storage: RedisStorage) -> None:
    await storage.write([ThreadWrite("t", Fence(1, 1), (put("1"), put("2")))])

    opened = await storage.open("t", Fence(1, 2))

    assert opened
    assert opened.checkpoint_id == "2"
    with pytest.raises(FencedOut, match="'t'"):
        await storage.open("t", Fence(1, 1))


async def test_a_late_deletion_of_runs_takes_nothing_from_the_attempt_that_follows(storage: RedisStorage) -> None:
    """As of a run that begins anew after its graph was changed, and whose worker repeats what an outage has cut off."""
    mine = replace(put("1"), run_id="mine")
    await storage.write([ThreadWrite("t", Fence(3, 1), (mine,))])
    await storage.delete_runs("t", ["mine"], Fence(3, 2))
    assert await storage.read("t", Selection()) == []
    await storage.write([ThreadWrite("t", Fence(3, 2), (mine,))])

    with pytest.raises(FencedOut, match="'t'"):
        await storage.delete_runs("t", ["mine"], Fence(3, 1))
    assert len(await storage.read("t", Selection())) == 1
    await storage.delete_runs("t", ["mine"])  # a program of the user's
    assert await storage.read("t", Selection()) == []


async def test_a_late_writer_is_refused_also_after_the_thread_was_deleted(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    await storage.open("t", Fence(7, 1))
    await storage.delete("t")

    [written] = await storage.write([ThreadWrite("t", Fence(6, 1), (put("1"),))])

    assert written.error == "FencedOut"
    with redis_server.connect() as client:
        assert client.keys("*") == [b"{thread:t}:fence"]
        assert 0 < client.pttl("{thread:t}:fence") <= DAY_MS


async def test_a_thread_that_was_let_go_stays_for_an_attempt_that_follows(
    redis_config: RedisConfig, redis_server: RedisServer
) -> None:
    storage = RedisStorage(lambda: Wire(redis_config), ttl_ms=DAY_MS)
    await storage.write([ThreadWrite("t", Fence(0, 1), (put("1"),))])
    with redis_server.connect() as client:
        await storage.let_go("t")
        left_ms = client.pttl("{thread:t}:values")
        opened = await storage.open("t", Fence(0, 2))
        kept_ms = client.pttl("{thread:t}:values")
    await storage.close()

    assert opened
    assert 0 < left_ms <= LET_GO_MS < kept_ms


async def test_a_run_that_has_lost_its_thread_ends_and_changes_nothing(storage: RedisStorage) -> None:
    """A worker that was stopped wakes up while another attempt of its run goes on: planted between two nodes."""
    late, successor = (CheckpointSaver(storage, fence=Fence(1, attempt)) for attempt in (1, 2))
    running = graph_of(late).astream({"steps": 0}, CONFIG, durability="sync")
    await anext(running)
    assert await successor.aopen("t")
    ended = await graph_of(successor).ainvoke(None, CONFIG, durability="sync")

    with pytest.raises(FencedOut):
        await anext(running)

    assert ended == {"steps": 3}
    assert (await graph_of(successor).aget_state(CONFIG)).values == {"steps": 3}


async def test_what_is_written_without_a_fence_is_compared_with_nothing(storage: RedisStorage) -> None:
    await storage.open("t", Fence(7, 1))
    assert await storage.write([ThreadWrite("t", None, (put("1"),))]) == [Written()]


# ---- batches ----


async def test_of_a_batch_one_is_refused_and_the_others_are_stored(storage: RedisStorage) -> None:
    await storage.open("late", Fence(2, 1))
    batch = [ThreadWrite(thread, Fence(1, 1), (put("1"),)) for thread in ("a", "late", "b")]

    carried = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=list[ThreadWrite])
    answers = await storage.write(carried)

    assert [answer.error for answer in answers] == ["", "FencedOut", ""]
    assert [len(await storage.read(thread, Selection())) for thread in ("a", "late", "b")] == [1, 0, 1]


async def test_a_superstep_is_one_command(redis_config: RedisConfig, redis_server: RedisServer) -> None:
    async with RedisSaver(redis_config) as saver:
        await graph_of(saver).ainvoke({"steps": 0}, {"configurable": {"thread_id": "warm"}})
        before = commands_of(redis_server)

        await graph_of(saver, nodes=5).ainvoke({"steps": 0}, CONFIG, durability="sync")

        supersteps, reads = 1 + 1 + 5, 1  # the input, the start, the nodes
        assert commands_of(redis_server) - before <= supersteps + reads


def commands_of(server: RedisServer) -> int:
    with server.connect() as client:
        stats: Any = client.info("commandstats")
        return int(stats["cmdstat_evalsha"]["calls"])


# ---- the server ----


async def test_scripts_that_the_server_has_forgotten_are_sent_again(
    storage: RedisStorage, redis_server: RedisServer
) -> None:
    await storage.write([ThreadWrite("t", None, (put("1"),))])
    redis_server.ask("SCRIPT", "FLUSH")

    assert await storage.write([ThreadWrite(thread, None, (put("2"),)) for thread in "tu"]) == [Written(), Written()]
    assert [each.checkpoint_id for each in await storage.read("t", Selection(limit=9))] == ["2", "1"]


async def test_a_graph_goes_on_after_its_server_was_killed_and_came_back() -> None:
    from tests.redis_server import RedisServer, bundled_server

    with RedisServer(bundled_server(), append_only=True, fsync="always") as server:
        config = RedisConfig(url=server.url, password=server.password, mode="external")
        async with RedisSaver(config) as saver:
            running = graph_of(saver).astream({"steps": 0}, CONFIG, durability="sync")
            await anext(running)
            server.kill()
            with pytest.raises(TransportDown):
                await anext(running)
            server.start()

            assert await graph_of(saver).ainvoke(None, CONFIG) == {"steps": 3}


# ---- what is stored, and for how long ----


async def test_a_superstep_that_is_too_large_is_refused_by_name_and_nothing_of_it_is_stored(
    redis_config: RedisConfig,
) -> None:
    async with RedisSaver(redis_config, max_write_bytes=5_000) as saver:
        builder = StateGraph(Named).add_node("big", lambda _: {"name": "x" * 10_000})
        graph = builder.add_edge(START, "big").compile(checkpointer=saver)
        with pytest.raises(CheckpointTooLarge, match=r"'t' would store 2\d+ bytes, over 5000"):
            await graph.ainvoke({"name": ""}, CONFIG, durability="sync")  # else the step before may go with it

        stored = await saver.aget_tuple(CONFIG)

    assert stored
    assert stored.pending_writes == []


async def test_every_write_lengthens_the_life_of_all_keys_of_its_thread(
    redis_config: RedisConfig, redis_server: RedisServer
) -> None:
    storage = RedisStorage(lambda: Wire(redis_config), ttl_ms=500_000)
    with redis_server.connect() as client:
        for checkpoint_id in ("1", "2"):
            await storage.write([ThreadWrite("t", Fence(1, 1), (put(checkpoint_id),))])
            lives: list[Any] = [client.pttl(key) for key in client.keys("*")]
            assert len(lives) == 3
            assert all(400_000 < left_ms <= 500_000 for left_ms in lives)
            for key in client.keys("*"):
                client.pexpire(key, 50_000)
    await storage.close()


async def test_a_value_that_has_not_changed_for_long_is_kept(redis_config: RedisConfig) -> None:
    async with RedisSaver(redis_config, keep=1) as saver:
        builder = StateGraph(Named).add_sequence([(f"step{number}", lambda _: {"steps": 1}) for number in range(3)])
        graph = builder.add_edge(START, "step0").compile(checkpointer=saver)
        await graph.ainvoke({"name": "n"}, CONFIG)

        assert (await graph.aget_state(CONFIG)).values == {"name": "n", "steps": 1}


async def test_only_the_newest_are_kept_and_where_the_history_forks(redis_config: RedisConfig) -> None:
    async with RedisSaver(redis_config, keep=2) as saver:
        graph = graph_of(saver, nodes=6)
        await graph.ainvoke({"steps": 0}, CONFIG)
        newest = [each async for each in graph.aget_state_history(CONFIG)]
        assert [each.values for each in newest] == [{"steps": 6}, {"steps": 5}]

        forked_at = newest[1].config
        for steps in (10, 20):
            await graph.aupdate_state(forked_at, {"steps": steps})
            await graph.ainvoke(None, CONFIG)

        kept = [each async for each in graph.aget_state_history(CONFIG)]
        assert [each.values["steps"] for each in kept] == [21, 20, 11, 6, 5]
        assert kept[-1].config == forked_at
        await saver.aprune(["t"])
        assert [each.values["steps"] async for each in graph.aget_state_history(CONFIG)] == [21]


def add_up(state: list[int], writes: list[list[int]]) -> list[int]:
    return [*state, *(number for write in writes for number in write)]


class Numbers(TypedDict):
    numbers: Annotated[list[int], DeltaChannel(add_up, list, snapshot_frequency=3)]


async def test_what_a_delta_channel_needs_is_kept(redis_config: RedisConfig) -> None:
    async with RedisSaver(redis_config, keep=1) as saver:
        builder = StateGraph(Numbers).add_sequence(
            [(f"n{number}", lambda _, number=number: {"numbers": [number]}) for number in range(8)]
        )
        graph = builder.add_edge(START, "n0").compile(checkpointer=saver)
        await graph.ainvoke({"numbers": []}, CONFIG)

        assert (await graph.aget_state(CONFIG)).values == {"numbers": [*range(8)]}
        assert len([each async for each in saver.alist(CONFIG)]) <= 4  # since the last snapshot


async def test_the_checkpoints_of_subgraphs_go_with_those_that_they_ran_on(
    redis_config: RedisConfig, redis_server: RedisServer
) -> None:
    async with RedisSaver(redis_config, keep=1) as saver:
        inner = StateGraph(Steps).add_node("inner", lambda state: {"steps": state["steps"] + 1})
        builder = StateGraph(Steps).add_node("sub", inner.add_edge(START, "inner").compile())
        graph = builder.add_edge(START, "sub").compile(checkpointer=saver)
        sizes = []
        for _ in range(3):
            await graph.ainvoke({"steps": 0}, CONFIG)
            with redis_server.connect() as client:
                sizes.append((client.hlen("{thread:t}:values"), client.zcard("{thread:t}:index")))

    assert sizes[0] == sizes[1] == sizes[2]


@dataclass
class Invoice:
    total: int


async def test_an_object_of_a_type_that_is_not_allowed_stays_stored_and_is_read_once_it_is(
    redis_config: RedisConfig,
) -> None:
    async with RedisSaver(redis_config) as strict:
        await strict.aput_writes(PLACE, [("invoice", Invoice(3))], "task")
        await strict.aput(CONFIG, await_checkpoint(), {"source": "input"}, {})
        with pytest.raises(CheckpointUnreadable, match=r"allowed_types=\[\(.*, 'Invoice'\)\]"):
            await strict.aget_tuple(CONFIG)

    async with RedisSaver(redis_config, allowed_types=[Invoice]) as saver:
        stored = await saver.aget_tuple(CONFIG)

    assert stored
    assert stored.pending_writes == [("task", "invoice", Invoice(3))]


def await_checkpoint() -> Any:
    from langgraph.checkpoint.base import empty_checkpoint

    return {**empty_checkpoint(), "id": "1"}
