"""RedisSaver on a real server: LangGraph's own conformance suite, and graphs that go on where they stopped."""

from __future__ import annotations

import asyncio
import operator
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict
from urllib.parse import quote

import pytest
import redis.asyncio
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES, Capability
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from core.checkpoints import RedisSaver, RedisStore
from core.errors import EventLoopError, ServerRefused
from core.operations.acl import rules_of
from core.roles import Address, Role
from tests.pages import sample_of

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from core.config.settings import RedisConfig
    from tests.redis_server import RedisServer

CONFIG: RunnableConfig = {"configurable": {"thread_id": "one"}}


class Words(TypedDict):
    words: Annotated[list[str], operator.add]


def say_one(state: Words) -> Words:
    return {"words": ["one"]}


def ask(state: Words) -> Words:
    return {"words": [interrupt("which?")]}


def asking_graph(saver: RedisSaver) -> Any:
    return StateGraph(Words).add_sequence([say_one, ask]).add_edge(START, "say_one").compile(checkpointer=saver)


async def test_it_passes_the_whole_conformance_suite_with_its_extensions(redis_config: RedisConfig) -> None:
    async def savers() -> AsyncIterator[RedisSaver]:
        async with RedisSaver(redis_config) as saver:
            yield saver

    report = await validate(checkpointer_test(name="RedisSaver")(savers))

    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == {
        each.value for each in ALL_CAPABILITIES
    }


@pytest.mark.parametrize("who", [Address(Role.WORKER, "w"), Address(Role.CLIENT, "c"), Address(Role.OPERATOR, "o")])
async def test_it_passes_as_the_redis_user_of_a_role(
    redis_config: RedisConfig, client: redis.asyncio.Redis, who: Address
) -> None:
    """But for what looks for threads, which needs SCAN."""
    between = (Address(Role.DISTRIBUTOR, "d"),) if who.role is Role.WORKER else ()
    rules = " ".join(rules_of((Address(Role.COORDINATOR, "k"), *between, who))).split()
    redis_as_admin: Any = client  # its `execute_command` has no types
    await redis_as_admin.execute_command("ACL", "SETUSER", "someone", "reset", "on", ">secret", *rules)
    as_user = redis_config.model_copy(update={"username": "someone", "password": "secret"})

    async def savers() -> AsyncIterator[RedisSaver]:
        async with RedisSaver(as_user) as saver:
            yield saver

    can = {each.value for each in Capability} - {"delete_for_runs"}
    report = await validate(checkpointer_test(name="RedisSaver")(savers), capabilities=can)
    async with RedisSaver(as_user, keep=1, ttl_s=60) as saver:
        await asking_graph(saver).ainvoke({"words": []}, CONFIG)
        with pytest.raises(ServerRefused, match="may not do this"):
            [each async for each in saver.athreads()]
    async with RedisStore(as_user, ttl={"default_ttl": 1}) as store:
        await store.aput(("n",), "k", {})
        await store.adelete(("n",), "j")
        assert [len(await found) for found in (store.asearch(("n",)), store.alist_namespaces())] == [1, 1]
    await redis_as_admin.execute_command("ACL", "DELUSER", "someone")

    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == can


async def test_a_graph_goes_on_where_it_was_interrupted_with_another_saver(redis_config: RedisConfig) -> None:
    async with RedisSaver(redis_config) as saver:
        stopped = await asking_graph(saver).ainvoke({"words": []}, CONFIG)
    assert [each.value for each in stopped["__interrupt__"]] == ["which?"]

    async with RedisSaver(redis_config) as another:
        ended = await asking_graph(another).ainvoke(Command(resume="two"), CONFIG)

    assert ended == {"words": ["one", "two"]}


def test_code_without_a_loop_has_the_same(redis_config: RedisConfig) -> None:
    with RedisSaver(redis_config) as saver:
        graph = asking_graph(saver)
        graph.invoke({"words": []}, CONFIG)

        assert graph.invoke(Command(resume="two"), CONFIG) == {"words": ["one", "two"]}
        assert [each.values["words"] for each in graph.get_state_history(CONFIG)] == [
            ["one", "two"], ["one"], [], [],
        ]  # fmt: skip


async def test_a_sync_call_in_a_loop_is_refused_and_names_the_cure(redis_config: RedisConfig) -> None:
    async with RedisSaver(redis_config) as saver:
        with pytest.raises(EventLoopError, match=r"aget_tuple"):
            saver.get_tuple(CONFIG)


@pytest.mark.parametrize("decoded", [False, True])
async def test_a_client_that_a_program_has_serves_as_well_and_stays_open(
    redis_server: RedisServer, redis_config: RedisConfig, decoded: bool
) -> None:
    async with redis.asyncio.Redis(
        unix_socket_path=str(redis_server.socket), password=redis_server.password, decode_responses=decoded
    ) as client:
        async with RedisSaver(client) as saver:
            await asking_graph(saver).ainvoke({"words": []}, CONFIG)
            state = await asking_graph(saver).aget_state(CONFIG)
            assert [thread async for thread in saver.athreads()] == ["one"]

        assert state.values == {"words": ["one"]}
        assert await client.ping()


def test_a_sync_client_serves_sync_and_async_code(redis_server: RedisServer, redis_config: RedisConfig) -> None:
    with redis_server.connect() as client, RedisSaver(client) as saver:
        asking_graph(saver).invoke({"words": []}, CONFIG)

        ended = asyncio.run(asking_graph(saver).ainvoke(Command(resume="two"), CONFIG))

    assert ended == {"words": ["one", "two"]}


def test_one_saver_serves_one_loop_after_another(redis_config: RedisConfig) -> None:
    saver = RedisSaver(redis_config)
    asyncio.run(asking_graph(saver).ainvoke({"words": []}, CONFIG))

    ended = asyncio.run(asking_graph(saver).ainvoke(Command(resume="two"), CONFIG))

    assert ended == {"words": ["one", "two"]}
    asyncio.run(saver.aclose())


async def test_an_async_client_of_a_loop_that_has_ended_is_refused_and_names_the_cure(
    redis_server: RedisServer, redis_config: RedisConfig
) -> None:
    client = redis.asyncio.Redis(unix_socket_path=str(redis_server.socket), password=redis_server.password)
    saver = RedisSaver(client)

    def in_a_loop_of_its_own() -> None:
        async def use() -> None:
            await saver.aget_tuple(CONFIG)
            await client.aclose()

        asyncio.run(use())

    await asyncio.to_thread(in_a_loop_of_its_own)

    with pytest.raises(EventLoopError, match="from_url"):
        await saver.aget_tuple(CONFIG)


def test_the_sample_of_the_page_on_agents_runs(redis_server: RedisServer, redis_config: RedisConfig) -> None:
    program = sample_of("docs/agents.md", "Checkpoints").replace("redis://localhost:6379/0", redis_url(redis_server))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("HELLO\n", "")


def redis_url(server: RedisServer) -> str:
    return f"unix://:{quote(server.password)}@{quote(str(server.socket))}"
